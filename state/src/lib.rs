//! What a transmitter or receiver remembers: an embedded store, and a scan index beside it.
//!
//! A [`Store`] has records by collection and key, an outbox of numbered entries, bytes on top of records (overlay) and named
//! entries (meta). Reading is by [`View`], a consistent view of one commit; writing is by [`Batch`], which becomes true
//! in one durable step or not at all; [`Load`] brings in a whole collection unseen until a batch takes it over.
//!
//! This crate knows nothing of what the entries mean: change sets are bytes here.

mod batch;
mod copy;
mod directory;
mod error;
mod load;
pub mod probe;
mod requests;
mod scan_index;
mod scratch;
mod store;
mod view;
mod working;

pub use batch::Batch;
pub use directory::StateDirectory;
pub use error::Error;
pub use load::Load;
pub use requests::{Heard, Request, Requests, ask};
pub use scan_index::{IndexDamaged, ScanIndex, ScanIndexWriter};
pub use scratch::Scratch;
pub use store::{Owner, Store, is_busy, read_letters, read_status};
pub use view::{KnownRecords, Stored, View};
pub use working::{ApplyError, Touched, Working};
