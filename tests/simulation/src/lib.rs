//! The whole system from one seed.
mod campaign;
mod check;
mod chronicle;
pub mod dice;
pub mod fault;
mod interface;
mod life;
mod line;
mod plan;
mod process;
mod run;
mod shelf;
mod shrink;
mod users;
mod world;

pub use campaign::{Summary, campaign};
pub use plan::{Plan, Planted, RECEIVERS_MAX, ReceiverPlan, Shape, ShelfKind};
pub use run::{Report, Trace, run};
pub use shrink::shrink;
