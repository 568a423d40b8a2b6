//! Decoders that have no other way in from outside, for whoever feeds them with anything (feature `fuzz`).

pub use crate::databases::postgres::fuzz as postgres;
