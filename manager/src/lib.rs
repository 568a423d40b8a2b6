//! The management server: who may do what, where a source's log lies, who is there and how far.
//!
//! A *manager* ([`start`]) holds the keys that sign credentials for the bus. Somebody who is to transmit or receive gets an
//! enrolment [`Token`] from an administrator, [`enroll`]s once, and from then on shows by a key of its own who it is
//! ([`Client`]); its credentials ([`Membership`]) live for a while and carry just its [`Rights`], which the broker itself
//! enforces. Managers keep their records on the bus, so that several may run.
//!
//! - `claims`, `keys`: what a broker trusts, and what signs it. [`rights::table`]: who may publish and listen where.
//! - `authority`: each decision, recorded in the audit. `registry`: the records.
//! - `service`, `sessions`, `server`, `broker`: the process. [`Setup`]: a first set-up.
//! - `web`: the page that administrators look at. `requests`: what they ask of receivers. `trust`: whose messages it believes.
//! - [`Client`], [`Identities`], [`Membership`]: the other end.
//!
//! # What it does not do
//! It is not in the way of the data: transmitters and receivers go on without it until their credentials end.

mod authority;
mod broker;
mod claims;
mod client;
mod configuration;
mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod identity;
mod keys;
pub mod metrics;
mod registry;
mod requests;
pub mod rights;
mod server;
mod service;
mod sessions;
mod setup;
mod trust;
mod web;

pub use authority::TOKEN_LIFE_MAX;
pub use client::{Client, Membership, PORT, channel, enroll};
pub use configuration::{ClientsWanted, Configuration, Issuing, Locations, Tls};
pub use deltabus_certificates::{Token, TokenKind};
pub use deltabus_proto::manager::v1;
pub use error::Error;
pub use identity::{Identities, Identity};
pub use keys::Keys;
pub use rights::Rights;
pub use server::{Running, start};
pub use setup::{Made, Setup};
