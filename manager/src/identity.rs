//! Who a device is to a manager: a key that never leaves it, in a file that only its owner may read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltabus_certificates::{
    ClientKey, Existing, Fingerprint, IdentityFiles, Pin, Trust, client_config, write_private,
};
use nkeys::KeyPair;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::rights::Rights;
use crate::{Error, Token};

/// Who somebody is to a manager.
#[derive(Clone)]
pub struct Identity {
    record: Record,
    key: Arc<KeyPair>,
    /// A certificate and its key, where the manager gave one.
    certificate: Option<IdentityFiles>,
}

/// The file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    /// Where the manager is; any of them will do.
    manager: Vec<String>,
    /// The private key.
    seed: String,
    /// The authority by which the manager and the bus are known, SHA-256 in hex; none: one of the system's.
    authority: Option<String>,
    /// What it may do, as last heard.
    #[serde(default)]
    rights: Rights,
    /// A hash of the token that it came from, to know it again.
    token: Option<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Record { name, manager, .. } = &self.record;
        f.debug_struct("Identity").field("name", name).field("manager", manager).finish_non_exhaustive()
    }
}

impl Identity {
    /// Somebody with a key.
    pub(crate) fn new(
        name: &str,
        manager: &[String],
        key: KeyPair,
        authority: Option<Fingerprint>,
        rights: Rights,
    ) -> Result<Identity, Error> {
        let seed = key.seed().map_err(|error| Error::Key(error.to_string()))?;
        let record = Record {
            name: name.to_owned(),
            manager: manager.to_vec(),
            seed,
            authority: authority.map(|authority| authority.to_string()),
            rights,
            token: None,
        };
        Ok(Identity { record, key: Arc::new(key), certificate: None })
    }

    /// Under the name that its manager gave it.
    pub(crate) fn named(mut self, name: &str, rights: Rights) -> Identity {
        (self.record.name, self.record.rights) = (name.to_owned(), rights);
        self
    }

    /// Remembers which token it came from.
    pub(crate) fn by_token(mut self, token: &Token) -> Identity {
        self.record.token = Some(token_hash(token));
        self
    }

    /// The same, with its manager elsewhere.
    pub fn at(mut self, manager: Vec<String>) -> Identity {
        self.record.manager = manager;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Where its manager is.
    pub fn manager(&self) -> &[String] {
        &self.record.manager
    }

    /// What it may do, as last heard.
    pub fn rights(&self) -> &Rights {
        &self.record.rights
    }

    /// The public key.
    pub fn public_key(&self) -> String {
        self.key.public_key()
    }

    pub(crate) fn key(&self) -> &Arc<KeyPair> {
        &self.key
    }

    /// The authority by which it knows manager and bus; `None`: one of the system's.
    pub fn authority(&self) -> Result<Option<Fingerprint>, Error> {
        let parsed = self.record.authority.as_ref().map(|text| text.parse());
        parsed.transpose().map_err(|error| Error::Config(format!("{}: {error}", self.name())))
    }

    /// The TLS settings by which it knows manager and bus, and is known to them.
    pub fn tls(&self) -> Result<ClientConfig, Error> {
        let trust = match self.authority()? {
            None => Trust::System,
            Some(fingerprint) => Trust::Pinned(Arc::new(Pin::new(fingerprint))),
        };
        client_config(&trust, self.certificate.as_ref()).map_err(Error::certificate)
    }
}

/// The identities in a state directory.
#[derive(Clone, Debug)]
pub struct Identities {
    folder: PathBuf,
}

impl Identities {
    /// Those in `folder`, which need not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Identities {
        Identities { folder: folder.into() }
    }

    /// Keeps one. Another of the same name gives way only if `existing` says so.
    pub fn keep(&self, identity: &Identity, existing: Existing) -> Result<PathBuf, Error> {
        fs::create_dir_all(&self.folder).map_err(|source| self.failed("make the folder", source))?;
        let path = self.folder.join(format!("{}.json", identity.name()));
        let text = serde_json::to_string_pretty(&identity.record).map_err(|error| Error::Key(error.to_string()))?;
        write_private(&path, &format!("{text}\n"), existing).map_err(Error::certificate)?;
        Ok(path)
    }

    /// Keeps the certificate that a manager gave to one.
    pub(crate) fn keep_certificate(&self, identity: &mut Identity, key: ClientKey, chain: String) -> Result<(), Error> {
        fs::create_dir_all(&self.folder).map_err(|source| self.failed("make the folder", source))?;
        let files = self.certificate_files(identity.name());
        let certified = key.certified(chain).map_err(Error::certificate)?;
        files.write(&certified, Existing::Replace).map_err(Error::certificate)?;
        identity.certificate = Some(files);
        Ok(())
    }

    /// All of them, by name.
    pub fn all(&self) -> Result<Vec<Identity>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.failed("read", source)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| self.failed("read", source))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                all.push(self.read(&path)?);
            }
        }
        all.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(all)
    }

    /// The one that came from a token.
    pub fn of_token(&self, token: &Token) -> Result<Option<Identity>, Error> {
        let hash = token_hash(token);
        Ok(self.all()?.into_iter().find(|identity| identity.record.token.as_ref() == Some(&hash)))
    }

    /// Writes down what one may do now, if that has changed.
    pub(crate) fn note_rights(&self, name: &str, rights: &Rights) -> Result<(), Error> {
        let path = self.folder.join(format!("{name}.json"));
        let mut identity = self.read(&path)?;
        if identity.record.rights != *rights {
            identity.record.rights = rights.clone();
            self.keep(&identity, Existing::Replace)?;
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Identity, Error> {
        let text = crate::keys::read_private(path)?;
        let wrong = |problem: String| Error::Config(format!("{}: {problem}", path.display()));
        let record: Record = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let key = KeyPair::from_seed(&record.seed).map_err(|_| wrong("its seed is none".into()))?;
        let files = self.certificate_files(&record.name);
        let certificate = files.certificate.is_file().then_some(files);
        Ok(Identity { record, key: Arc::new(key), certificate })
    }

    fn certificate_files(&self, name: &str) -> IdentityFiles {
        let file = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        IdentityFiles { certificate: file("pem"), key: file("key") }
    }

    fn failed(&self, doing: &'static str, source: std::io::Error) -> Error {
        Error::Io { doing, path: self.folder.clone(), source }
    }
}

fn token_hash(token: &Token) -> String {
    blake3::derive_key("deltabus 2026-11 token of an identity", &token.secret)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
