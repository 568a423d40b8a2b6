//! Databases: many collections in one store, written in transactions.

pub(crate) mod sqlite;
