//! The whole system from one seed.
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
mod users;
mod world;

pub use plan::{Plan, Planted, RECEIVERS_MAX, ReceiverPlan, Shape, ShelfKind};
pub use run::{Report, Trace, run};
