//! The universal format of deltabus.

pub mod change;
pub mod digest;
pub mod key;
pub mod row;
pub mod schema;
pub mod value;
