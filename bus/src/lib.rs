//! The log of each source on a bus, and everything that travels over it.
//!
//! A [`Broker`](broker::Broker) stores messages in order; [`jetstream::JetStream`] and [`memory::MemoryBroker`] are two. A
//! [`Log`] is one source's part of it:
//!
//! - [`Writer`] claims a term and publishes change sets, one message in flight, fenced by the log's order.
//! - [`Reader`] gives out what is accepted by the same rule, live and from the store.
//! - [`Lease`](lease::Lease) says which transmitter is active, for those that stand by.
//! - [`SnapshotWriter`] and [`SnapshotReader`] carry all records at one revision.
//! - [`Log::send_reverse`] and [`Log::reverse_sets`] carry edits back, [`Contents`] what large values hold.
//!
//! [`local::LocalBus`] is a private nats-server for whoever has none. Only this crate turns change sets into bytes, see
//! [`encode_set`]; their form is documented in `proto/proto/deltabus/v1`.
//!
//! # From a writer to a reader
//! ```
//! use std::sync::Arc;
//!
//! use deltabus_bus::memory::MemoryBroker;
//! use deltabus_bus::{Event, Log, Position, Reader, Writer, encode_set};
//! use deltabus_record::change::{ChangeSet, Revision};
//! use deltabus_record::schema::SourceName;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let log = Log::new(Arc::new(MemoryBroker::new()), SourceName::new("people")?);
//! log.prepare().await?;
//!
//! let (mut writer, _accepted) = Writer::claim(&log, "transmitter-1", Position::default()).await?;
//! let next = Revision { number: 1, ..Revision::default() };
//! let base = Revision::default();
//! let set = ChangeSet { base, next, time_millis: 0, transactions: Vec::new(), replies: Vec::new() };
//! writer.publish(&[(next, encode_set(&set))]).await?;
//!
//! // A claim by another fences the first.
//! let (_second, _) = Writer::claim(&log, "transmitter-2", writer.position()).await?;
//! assert!(writer.publish(&[(next, encode_set(&set))]).await.is_err());
//!
//! let mut reader = Reader::at(&log, Position::default());
//! let Event::Set(delivered) = reader.next().await? else { panic!("a set is there") };
//! assert_eq!(delivered.set, set);
//! assert!(matches!(reader.next().await?, Event::CaughtUp(_)));
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # What it does not do
//! It knows nothing of sources and destinations, applies nothing and computes no digest: it compares revisions. It makes no
//! consumers and needs no right to delete. Nothing here retries for ever: an error says whether trying again may help
//! ([`Error::is_transient`]), and the caller decides. Chunks of large values that no record refers to any more stay.

pub mod access;
pub mod broker;
mod clock;
pub mod contents;
pub mod direct;
mod encode;
mod error;
pub mod jetstream;
pub mod lease;
pub mod local;
mod log;
pub mod memory;
pub mod metrics;
pub mod monitor;
mod question;
mod reader;
mod reverse;
mod schemas;
mod shared;
pub mod signature;
mod snapshot;
pub mod standing;
mod terms;
mod timeline;
pub mod trace;
mod version;
mod wire;

pub use clock::{Clock, SystemClock};
pub use contents::{Contents, large_of};
pub use error::{Error, causes, misses_content};
pub use log::{Accepted, BUNDLE_BYTES, BUNDLE_SETS, Log, Position, Writer};
pub use question::{ANSWER_BUSY, ANSWER_FAILED, ANSWER_OPEN, Decision, Question};
pub use reader::{BEAT, Delivered, Entry, Event, Reader, Reason, history, history_between, history_tail};
pub use reverse::{LastReverse, ReversePlace, Reversed};
pub use schemas::Schemas;
pub use snapshot::{Manifest, Record, Records, SnapshotReader, SnapshotWriter, pointer};
pub use timeline::{Step, Timeline, confirmed};
pub use trace::TraceId;
pub use wire::{EncodedSet, decode_reverse, decode_set, encode_reverse, encode_set};
