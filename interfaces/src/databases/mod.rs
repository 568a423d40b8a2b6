//! Databases: many collections in one store, written in transactions.

pub(crate) mod postgres;
pub(crate) mod sqlite;
