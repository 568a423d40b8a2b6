//! Certificates for TLS, and the TLS settings of whoever shows or verifies them.
//!
//! - [`Authority`] makes a private certificate authority, and certificates of servers and clients from it.
//! - [`IdentityFiles`] and [`write_private`] keep them in files.
//! - [`client_config`] and [`server_config`] are the TLS settings (rustls, ring) of the two sides of a connection. Both look at
//!   their files at each handshake, so that a renewed certificate needs no restart.
//! - [`Token`] is a line of text that lets a device in which knows nothing yet, and [`Trust::Pinned`] the way to know the right
//!   server by it.
//! - [`explain`] says what a failed handshake means.
//!
//! # A server and a client who trusts its authority
//! ```
//! use deltabus_certificates::{
//!     Authority, Clients, Existing, IdentityFiles, LEAF_LIFETIME, Trust, client_config, server_config, write_private,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let authority = Authority::new("bus authority")?;
//! write_private(&folder.join("ca.pem"), &authority.certificate_pem(), Existing::Keep)?;
//! let files = IdentityFiles { certificate: folder.join("server.pem"), key: folder.join("server.key") };
//! files.write(&authority.server(&["bus-1.example.org", "192.0.2.1"], LEAF_LIFETIME)?, Existing::Keep)?;
//!
//! let server = server_config(&files, &Clients::Anonymous)?;
//! let client = client_config(&Trust::File(folder.join("ca.pem")), None)?;
//! # let _ = (server, client);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//! It opens no connection, knows no NATS, and revokes nothing: what must end soon gets a short life. Authorities of another
//! making verify, but only those made here issue.

mod authority;
mod client;
mod error;
mod files;
mod fingerprint;
mod pem;
mod server;
mod token;

pub use authority::{
    AUTHORITY_LIFETIME, Authority, ClientKey, Identity, LEAF_LIFETIME, hosts, is_due, is_host, subject, validity,
};
pub use client::{Pin, Trust, client_config};
pub use error::{Error, explain};
pub use files::{Existing, IdentityFiles, write_private};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use server::{Clients, server_config};
pub use token::{Token, TokenError, TokenKind, random_bytes, random_text};
