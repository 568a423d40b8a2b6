//! The differencing transmitter: watches a source, publishes what changed, and takes edits back.
//!
//! [`Transmitter::transmit_once`] is the whole of it: look at the source, stage the difference, take waiting reverse sets,
//! publish. [`Transmitter::run`] does so whenever the source may have changed or a receiver has sent edits. A set exists
//! from the moment it is staged (state store: new previous state and outbox entry in one transaction); everything after that can
//! be repeated.
//!
//! This crate knows no destination and no receiver but by name.

mod config;
mod contents;
mod error;
mod guard;
mod ledger;
pub mod metrics;
mod observe;
mod reverse;
mod takeover;
mod tenure;
mod transmitter;

pub use config::{Config, MAX_DELETE_DEFAULT};
pub use deltabus_bus::{ANSWER_BUSY, ANSWER_FAILED, Decision, Question};
pub use error::Error;
pub use guard::Held;
pub use transmitter::{Decided, Round, Status, Transmitter, confirm};
