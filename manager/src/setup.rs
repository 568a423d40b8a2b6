//! A first set-up: keys, certificates, and the configurations of broker and manager, in a new folder.

use std::path::{Path, PathBuf};

use deltabus_certificates::{Authority, ClientKey, Existing, IdentityFiles, LEAF_LIFETIME, write_private};
use nkeys::KeyPair;

use crate::Error;
use crate::authority::now_seconds;
use crate::configuration::ClientsWanted;
use crate::identity::{Identities, Identity};
use crate::keys::{Keys, Trusted};
use crate::rights::Rights;

/// The broker's configuration, with places in angle brackets.
const BROKER: &str = include_str!("../../broker-config/managed.conf");

/// The manager's configuration, with places in angle brackets.
const MANAGER: &str = include_str!("../../broker-config/manager.toml");

/// What is to be set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The new folder.
    pub folder: PathBuf,
    /// Names and addresses by which others reach this machine; the first is the one that they are told.
    pub hosts: Vec<String>,
    /// The broker's port.
    pub bus_port: u16,
    /// The manager's port.
    pub manager_port: u16,
    /// Whether participants need certificates beside their keys.
    pub clients: ClientsWanted,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The manager's configuration, for `deltabus manage --config`.
    pub configuration: PathBuf,
    /// Where participants reach the manager.
    pub manager: String,
    /// Where they reach the bus.
    pub bus: String,
    /// The first administrator, who may now use `deltabus enroll`, `grant`, `revoke` and `who`.
    pub administrator: Identity,
}

impl Setup {
    /// Makes everything. The folder must not be there yet, or be empty: nothing is ever overwritten.
    ///
    /// `identities`: where the administrator's certificate goes, if there is to be one.
    pub fn make(&self, identities: &Identities) -> Result<Made, Error> {
        let first = self.hosts.first().ok_or_else(|| Error::Config("name the host by which others reach it".into()))?;
        let folder = std::path::absolute(&self.folder).map_err(|source| self.failed("find", &self.folder, source))?;
        if std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::Config(format!("{} isn't empty; a set-up overwrites nothing", folder.display())));
        }
        std::fs::create_dir_all(&folder).map_err(|source| self.failed("make the folder", &folder, source))?;
        let (_, trusted) = Keys::make(&folder.join("keys"), first, now_seconds())?;

        let certificates = folder.join("certificates");
        std::fs::create_dir(&certificates).map_err(|source| self.failed("make the folder", &certificates, source))?;
        let authority = Authority::new(&format!("deltabus at {first}")).map_err(Error::certificate)?;
        write_private(&certificates.join("ca.pem"), &authority.certificate_pem(), Existing::Keep)
            .map_err(Error::certificate)?;
        write_private(&certificates.join("ca.key"), &authority.key_pem(), Existing::Keep)
            .map_err(Error::certificate)?;
        let mut hosts = self.hosts.clone();
        // The manager reaches its broker from the same machine.
        hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        hosts.dedup();
        let files = |name: &str| IdentityFiles {
            certificate: certificates.join(format!("{name}.pem")),
            key: certificates.join(format!("{name}.key")),
        };
        let server = authority.server(&hosts, LEAF_LIFETIME).map_err(Error::certificate)?;
        files("server").write(&server, Existing::Keep).map_err(Error::certificate)?;
        let client = authority.client("manager", LEAF_LIFETIME).map_err(Error::certificate)?;
        files("manager").write(&client, Existing::Keep).map_err(Error::certificate)?;

        let broker = folder.join("nats-server.conf");
        let text = self.broker(&folder, &trusted);
        write_private(&broker, &text, Existing::Keep).map_err(Error::certificate)?;
        let key = KeyPair::new_user();
        let configuration = folder.join("manager.toml");
        let text = self.manager(first, &key.public_key());
        write_private(&configuration, &text, Existing::Keep).map_err(Error::certificate)?;

        let manager = format!("https://{}:{}", bracketed(first), self.manager_port);
        let rights = Rights { administrate: true, ..Rights::default() };
        let fingerprint = Some(authority.fingerprint());
        let mut administrator =
            Identity::new("administrator", std::slice::from_ref(&manager), key, fingerprint, rights)?;
        if self.clients == ClientsWanted::Required {
            let key = ClientKey::new().map_err(Error::certificate)?;
            let chain = authority.client_for(administrator.name(), &key.public_key(), LEAF_LIFETIME);
            identities.keep_certificate(&mut administrator, key, chain.map_err(Error::certificate)?)?;
        }
        Ok(Made { configuration, manager, bus: format!("tls://{}:{}", bracketed(first), self.bus_port), administrator })
    }

    fn broker(&self, folder: &Path, trusted: &Trusted) -> String {
        let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
        BROKER
            .replace("<port>", &self.bus_port.to_string())
            .replace("<pid>", &quoted(folder.join("nats-server.pid")))
            .replace("<store>", &quoted(folder.join("jetstream")))
            .replace("<accounts>", &quoted(folder.join("accounts")))
            .replace("<certificate>", &quoted(folder.join("certificates/server.pem")))
            .replace("<certificate-key>", &quoted(folder.join("certificates/server.key")))
            .replace("<ca>", &quoted(folder.join("certificates/ca.pem")))
            .replace("<verify>", if self.clients == ClientsWanted::Required { "true" } else { "false" })
            .replace("<operator>", &trusted.operator)
            .replace("<system-key>", &trusted.system_key)
            .replace("<system>", &trusted.system)
            .replace("<account-key>", &trusted.account_key)
            .replace("<account>", &trusted.account)
    }

    fn manager(&self, host: &str, administrator: &str) -> String {
        let clients = if self.clients == ClientsWanted::Required { "required" } else { "anonymous" };
        MANAGER
            .replace("<host>", &bracketed(host))
            .replace("<bus-port>", &self.bus_port.to_string())
            .replace("<manager-port>", &self.manager_port.to_string())
            .replace("<administrator>", administrator)
            .replace("<clients>", clients)
    }

    fn failed(&self, doing: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::Io { doing, path: path.to_owned(), source }
    }
}

/// As it stands in an address.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
