//! The keys from which all authority comes, as files that only their owner may read.
//!
//! `offline/` has the identities of the operator and the accounts: nothing needs them from day to day, and whoever has them can
//! replace everything else. The others are the manager's: one signs accounts (to revoke), one participants, one managers.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use deltabus_certificates::{Existing, write_private};
use nkeys::KeyPair;

use crate::Error;
use crate::claims::{self, Account, Operator, Seconds};

/// Where the identities lie, below the folder of keys.
const OFFLINE: &str = "offline";

/// The manager's keys.
pub struct Keys {
    /// Signs accounts.
    pub(crate) operator: KeyPair,
    /// Signs participants, within the scope that the account gives them.
    pub(crate) participants: KeyPair,
    /// Signs managers.
    pub(crate) managers: KeyPair,
    /// Signs users of the servers' own account.
    pub(crate) system: KeyPair,
    /// The account's public key.
    pub(crate) account: String,
    /// The system account's public key.
    pub(crate) system_account: String,
}

/// What a broker has to be told.
pub(crate) struct Trusted {
    pub(crate) operator: String,
    pub(crate) account: String,
    pub(crate) account_key: String,
    pub(crate) system: String,
    pub(crate) system_key: String,
}

impl Keys {
    /// Makes all keys in a new folder, and what the broker has to be told of them.
    pub(crate) fn make(folder: &Path, name: &str, now: Seconds) -> Result<(Keys, Trusted), Error> {
        let offline = folder.join(OFFLINE);
        for folder in [folder, &offline] {
            let made = fs::DirBuilder::new().mode(0o700).create(folder);
            made.map_err(|source| Error::Io { doing: "make the folder", path: folder.to_owned(), source })?;
        }
        let operator_identity = KeyPair::new_operator();
        let account_identity = KeyPair::new_account();
        let system_identity = KeyPair::new_account();
        let keys = Keys {
            operator: KeyPair::new_operator(),
            participants: KeyPair::new_account(),
            managers: KeyPair::new_account(),
            system: KeyPair::new_account(),
            account: account_identity.public_key(),
            system_account: system_identity.public_key(),
        };
        keep(&offline.join("operator.nk"), &operator_identity)?;
        keep(&offline.join("account.nk"), &account_identity)?;
        keep(&offline.join("system.nk"), &system_identity)?;
        keep(&folder.join("operator.nk"), &keys.operator)?;
        keep(&folder.join("participants.nk"), &keys.participants)?;
        keep(&folder.join("managers.nk"), &keys.managers)?;
        keep(&folder.join("system.nk"), &keys.system)?;
        let accounts = format!("{}\n{}\n", keys.account, keys.system_account);
        write_private(&folder.join("accounts"), &accounts, Existing::Keep).map_err(Error::certificate)?;
        let signing_key = keys.operator.public_key();
        let operator = Operator { name, signing_key: &signing_key, system_account: &keys.system_account };
        let system_signing = keys.system.public_key();
        let trusted = Trusted {
            operator: operator.signed(&operator_identity, now)?,
            account: keys.account(&Default::default(), now)?,
            account_key: keys.account.clone(),
            system: claims::system_account(&keys.system_account, &system_signing, &keys.operator, now)?,
            system_key: keys.system_account.clone(),
        };
        Ok((keys, trusted))
    }

    /// Reads the manager's keys. Files that others may read are refused.
    pub fn load(folder: &Path) -> Result<Keys, Error> {
        let accounts = read_private(&folder.join("accounts"))?;
        let mut lines = accounts.lines();
        let mut account = || {
            let line = lines.next().filter(|line| KeyPair::from_public_key(line).is_ok());
            line.map(str::to_owned).ok_or_else(|| Error::Key(format!("{}/accounts names none", folder.display())))
        };
        let (account, system_account) = (account()?, account()?);
        let pair = |name: &str| -> Result<KeyPair, Error> {
            let path = folder.join(name);
            let seed = read_private(&path)?;
            KeyPair::from_seed(seed.trim()).map_err(|_| Error::Key(format!("{} holds no key", path.display())))
        };
        Ok(Keys {
            operator: pair("operator.nk")?,
            participants: pair("participants.nk")?,
            managers: pair("managers.nk")?,
            system: pair("system.nk")?,
            account,
            system_account,
        })
    }

    /// What the account's claims are with these revocations.
    pub(crate) fn account(
        &self,
        revocations: &std::collections::BTreeMap<String, Seconds>,
        now: Seconds,
    ) -> Result<String, Error> {
        let account = Account {
            name: "deltabus",
            key: &self.account,
            participants: &self.participants.public_key(),
            managers: &self.managers.public_key(),
            revocations,
        };
        account.signed(&self.operator, now)
    }
}

/// Writes a key's seed.
pub(crate) fn keep(path: &Path, key: &KeyPair) -> Result<(), Error> {
    let seed = key.seed().map_err(|error| Error::Key(error.to_string()))?;
    write_private(path, &format!("{seed}\n"), Existing::Keep).map_err(Error::certificate)
}

/// Reads a file that nobody but its owner may read.
pub(crate) fn read_private(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Io { doing: "read", path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Error::Readable { path: PathBuf::from(path) });
    }
    fs::read_to_string(path).map_err(failed)
}
