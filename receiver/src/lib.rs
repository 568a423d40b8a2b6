//! The differencing receiver: keeps a destination equal to a source, and sends its edits back.
//!
//! [`Receiver::receive_once`] is the whole of it: find edits made at the destination, send them, apply what the log has.
//! [`Receiver::run`] does so whenever the log or the destination changes. What the bus last told is kept as the base; the
//! destination holds the base with the pending edits on top. Data and revision reach the destination together: in one
//! transaction where it has them, by a journalled rename where it is a file.
//!
//! This crate knows no source and no transmitter but by name.

mod beside;
mod config;
mod contents;
mod dead;
mod error;
mod expected;
mod filter;
mod lag;
mod ledger;
pub mod metrics;
mod outlet;
mod pending;
mod plan;
mod ranges;
mod receiver;
mod rehearsal;
mod restore;
mod verify;

pub use config::{Config, MAX_DELETE_DEFAULT, OnError, Selection};
pub use dead::DEAD_LETTERS_MAX;
pub use error::Error;
pub use filter::{Filter, FilterError, PREDICATE_BYTES_MAX, PREDICATE_DEPTH_MAX};
pub use lag::Lag;
pub use outlet::pair;
pub use plan::{Plan, plan};
pub use receiver::{Receiver, Round, Tried, Unsent, WISH_FAILED, Wish};
pub use rehearsal::Planned;
pub use restore::{plan_restore, restore};
pub use verify::{Basis, Cause, Unequal, Verified, Why, verify, verify_at};
