//! The universal format of deltabus.

pub mod apply;
#[cfg(feature = "arbitrary")]
pub mod arbitrary;
mod base64;
mod calendar;
pub mod change;
pub mod convert;
pub mod diff;
pub mod digest;
pub mod json;
pub mod key;
pub mod large;
pub mod mapping;
pub mod merge;
pub mod row;
pub mod schema;
pub mod text;
pub mod value;
