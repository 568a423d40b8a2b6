//! `manager.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deltabus_certificates::{Clients, IdentityFiles};
use deltabus_record::schema::SourceName;
use serde::Deserialize;

use crate::Error;

/// Credentials live for an hour unless told otherwise: a manager may be away for half of that without anybody noticing.
const CREDENTIALS_SECONDS: u64 = 3600;

/// Shorter ones would be renewed more often than is good for anybody.
const CREDENTIALS_SECONDS_MIN: u64 = 10;

/// And longer ones would outlive a forgotten revocation.
const CREDENTIALS_SECONDS_MAX: u64 = 24 * 3600;

/// What a manager is told.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The manager's name, for the audit.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The folder of its keys.
    pub keys: PathBuf,
    /// Where participants are told that the bus is.
    pub locations: Locations,
    /// Where this manager reaches it: addresses, separated by commas.
    pub connect: String,
    /// The configuration of the nats-server that the manager runs, where it does.
    pub broker: Option<PathBuf>,
    /// On how many servers of a cluster the records lie.
    pub replicas: usize,
    /// How long credentials are good.
    pub credentials: Duration,
    /// The public key of the first administrator.
    pub administrator: String,
    /// Its TLS.
    pub tls: Tls,
}

/// The certificates of a manager.
#[derive(Clone, Debug)]
pub struct Tls {
    /// What it shows to participants.
    pub server: IdentityFiles,
    /// The authority that made it, and the bus's.
    pub ca: PathBuf,
    /// What it asks of participants.
    pub clients: ClientsWanted,
    /// What it shows to the bus and, where it issues certificates, the authority's key.
    pub issuing: Option<Issuing>,
}

/// What is needed where everybody has a certificate.
#[derive(Clone, Debug)]
pub struct Issuing {
    /// The manager's own, as a client of the bus.
    pub client: IdentityFiles,
    /// The authority's key, to make the participants'.
    pub ca_key: PathBuf,
}

/// Whether participants need certificates beside their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientsWanted {
    /// They don't.
    #[default]
    Anonymous,
    /// Everybody gets one when enrolling, and nobody is let in without, neither here nor on the bus.
    Required,
}

/// Which bus has which source.
#[derive(Clone, Debug, Default)]
pub struct Locations {
    all: Vec<String>,
    of: BTreeMap<String, Vec<String>>,
}

impl Locations {
    /// The addresses of a source's bus.
    pub fn of(&self, source: &SourceName) -> &[String] {
        self.of.get(source.as_str()).unwrap_or(&self.all)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    listen: SocketAddr,
    keys: PathBuf,
    bus: Vec<String>,
    connect: Option<String>,
    broker: Option<PathBuf>,
    #[serde(default = "one")]
    replicas: usize,
    #[serde(default = "hour")]
    credentials_seconds: u64,
    administrator: String,
    tls: FileTls,
    #[serde(default)]
    locations: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTls {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    #[serde(default)]
    clients: ClientsWanted,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    ca_key: Option<PathBuf>,
}

fn one() -> usize {
    1
}

fn hour() -> u64 {
    CREDENTIALS_SECONDS
}

impl Configuration {
    /// Reads `manager.toml`; paths in it are beside it.
    pub fn read(path: &Path) -> Result<Configuration, Error> {
        let failed = |source| Error::Io { doing: "read", path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let wrong = |problem: String| Error::Config(format!("{}: {problem}", path.display()));
        let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        if !(CREDENTIALS_SECONDS_MIN..=CREDENTIALS_SECONDS_MAX).contains(&file.credentials_seconds) {
            return Err(wrong(format!(
                "credentials_seconds is {CREDENTIALS_SECONDS_MIN} to {CREDENTIALS_SECONDS_MAX}"
            )));
        }
        if file.bus.is_empty() {
            return Err(wrong("bus names no address".into()));
        }
        for source in file.locations.keys() {
            SourceName::new(source).map_err(|error| wrong(error.to_string()))?;
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let beside = |path: PathBuf| folder.join(path);
        let tls = file.tls;
        let issuing = match (tls.client_certificate, tls.client_key, tls.ca_key) {
            (Some(certificate), Some(key), Some(ca_key)) => Some(Issuing {
                client: IdentityFiles { certificate: beside(certificate), key: beside(key) },
                ca_key: beside(ca_key),
            }),
            _ if tls.clients == ClientsWanted::Required => {
                return Err(wrong(
                    "clients = \"required\" needs client_certificate, client_key and ca_key beside it".into(),
                ));
            }
            _ => None,
        };
        Ok(Configuration {
            name: file.name,
            listen: file.listen,
            keys: beside(file.keys),
            connect: file.connect.unwrap_or_else(|| file.bus.join(",")),
            locations: Locations { all: file.bus, of: file.locations },
            broker: file.broker.map(beside),
            replicas: file.replicas,
            credentials: Duration::from_secs(file.credentials_seconds),
            administrator: file.administrator,
            tls: Tls {
                server: IdentityFiles { certificate: beside(tls.certificate), key: beside(tls.key) },
                ca: beside(tls.ca),
                clients: tls.clients,
                issuing,
            },
        })
    }

    /// What its server asks of clients at the handshake. Whoever enrols has no certificate yet, so that calls are looked at
    /// one by one.
    pub(crate) fn clients(&self) -> Clients {
        match self.tls.clients {
            ClientsWanted::Anonymous => Clients::Anonymous,
            ClientsWanted::Required => Clients::Allow(self.tls.ca.clone()),
        }
    }
}
