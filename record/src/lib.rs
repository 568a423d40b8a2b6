//! The universal format of deltabus.

pub mod apply;
pub mod change;
pub mod diff;
pub mod digest;
pub mod key;
pub mod large;
pub mod merge;
pub mod row;
pub mod schema;
pub mod value;
