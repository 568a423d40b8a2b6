//! The bus against its promises, on the memory bus and on a real nats-server.

mod brokers;
mod conformance;

mod sets;
