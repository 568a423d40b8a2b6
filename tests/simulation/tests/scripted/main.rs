//! What the simulation found, each as a short script of its own; RELIABILITY.md lists them.

mod lost;
mod moved;
mod people;
mod received;
mod renamed;
mod waiting;
