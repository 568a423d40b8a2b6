//! The log of each source on a bus, and everything that travels over it.
//!
//! A [`Broker`](broker::Broker) stores messages in order; [`jetstream::JetStream`] and [`memory::MemoryBroker`] are two. A
//! [`Log`] is one source's part of it:
//!
//! - [`Writer`] claims a term and publishes change sets, one message in flight, fenced by the log's order.
//! - [`Reader`] gives out what is accepted by the same rule, live and from the store.
//! - [`SnapshotWriter`] and [`SnapshotReader`] carry all records at one revision.
//! - [`Log::send_reverse`] and [`Log::reverse_sets`] carry edits back, [`Log::put_large`] and [`Log::get_large`] large values.
//!
//! Only this crate turns change sets into bytes, see [`encode_set`].

pub mod broker;
mod chunks;
mod error;
pub mod jetstream;
pub mod local;
mod log;
pub mod memory;
mod reader;
mod reverse;
mod snapshot;
mod version;
mod wire;

pub use chunks::large_of;
pub use error::Error;
pub use log::{Accepted, BUNDLE_BYTES, Log, Position, Writer};
pub use reader::{BEAT, Delivered, Entry, Event, Reader, Reason, history};
pub use reverse::Reversed;
pub use snapshot::{Manifest, Record, Records, SnapshotReader, SnapshotWriter, pointer};
pub use wire::{EncodedSet, decode_reverse, decode_set, encode_reverse, encode_set};
