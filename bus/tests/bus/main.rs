//! The bus against its promises, on the memory bus and on a real nats-server.

mod acceptance;
mod brokers;
mod conformance;
mod crash;
mod hostile;
mod lease;
mod local;
mod log;
mod loss;
mod reverse;
mod sets;
mod snapshot;
mod values;
mod wire;
