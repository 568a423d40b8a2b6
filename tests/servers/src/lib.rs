//! Real servers for tests of whatever crate: private, without a port, and gone with the test process.

pub mod postgres;
