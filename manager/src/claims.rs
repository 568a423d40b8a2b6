//! NATS's decentralized claims (JWTs signed by nkeys), as nats-server reads them; version 2, see NATS ADR-14.
//!
//! An operator signs accounts, an account's signing key signs users. The key that signs participants is *scoped*: the account
//! itself says what anybody signed by it may do, so that not even the manager can give more.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::Error;
use crate::rights::Rights;

/// Seconds since 1970, as claims count.
pub(crate) type Seconds = u64;

/// What an operator says of itself.
pub(crate) struct Operator<'a> {
    pub(crate) name: &'a str,
    /// The public key that signs accounts from day to day.
    pub(crate) signing_key: &'a str,
    /// The account of the servers themselves.
    pub(crate) system_account: &'a str,
}

impl Operator<'_> {
    pub(crate) fn signed(&self, identity: &KeyPair, now: Seconds) -> Result<String, Error> {
        let nats = json!({
            "signing_keys": [self.signing_key], "system_account": self.system_account, "type": "operator", "version": 2,
        });
        encode(self.name, &identity.public_key(), None, nats, identity, now)
    }
}

/// What the operator says of the account in which all sources lie.
pub(crate) struct Account<'a> {
    pub(crate) name: &'a str,
    /// The account's public key.
    pub(crate) key: &'a str,
    /// The public key that signs participants.
    pub(crate) participants: &'a str,
    /// The public key that signs managers.
    pub(crate) managers: &'a str,
    /// Users whose credentials made up to then count no more.
    pub(crate) revocations: &'a BTreeMap<String, Seconds>,
}

impl Account<'_> {
    pub(crate) fn signed(&self, operator: &KeyPair, now: Seconds) -> Result<String, Error> {
        let scope = json!({
            "kind": "user_scope", "key": self.participants, "role": "participant", "description": "transmitters and receivers",
            "template": Rights::template(),
        });
        let nats = json!({
            "limits": unlimited(Storage::All), "default_permissions": { "pub": {}, "sub": {} },
            "signing_keys": [self.managers, scope], "revocations": self.revocations, "type": "account", "version": 2,
        });
        encode(self.name, self.key, None, nats, operator, now)
    }
}

/// The account of the servers themselves: to change accounts, and to see who is connected.
pub(crate) fn system_account(key: &str, signing_key: &str, operator: &KeyPair, now: Seconds) -> Result<String, Error> {
    let nats = json!({
        "limits": unlimited(Storage::None), "default_permissions": { "pub": {}, "sub": {} }, "signing_keys": [signing_key],
        "exports": [
            { "name": "account-monitoring-streams", "subject": "$SYS.ACCOUNT.*.>", "type": "stream", "account_token_position": 3 },
            { "name": "account-monitoring-services", "subject": "$SYS.REQ.ACCOUNT.*.*", "type": "service",
              "response_type": "Stream", "account_token_position": 4 },
        ],
        "type": "account", "version": 2,
    });
    encode("SYS", key, None, nats, operator, now)
}

/// A participant: what it may do follows from the scope of the key that signs it, its name and its tags.
pub(crate) struct Participant<'a> {
    pub(crate) name: &'a str,
    /// Its public key.
    pub(crate) key: &'a str,
    pub(crate) rights: &'a Rights,
    /// The account's public key.
    pub(crate) account: &'a str,
}

impl Participant<'_> {
    pub(crate) fn signed(&self, signing: &KeyPair, now: Seconds, until: Seconds) -> Result<String, Error> {
        let nats = json!({
            "pub": {}, "sub": {}, "tags": self.rights.tags(), "issuer_account": self.account, "type": "user", "version": 2,
        });
        encode(self.name, self.key, Some(until), nats, signing, now)
    }
}

/// A user that may do everything within its account: a manager.
pub(crate) fn everything(
    name: &str,
    key: &str,
    account: &str,
    signing: &KeyPair,
    now: Seconds,
    until: Option<Seconds>,
) -> Result<String, Error> {
    let nats = json!({
        "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "issuer_account": account, "type": "user", "version": 2,
    });
    encode(name, key, until, nats, signing, now)
}

/// Whether an account may store messages.
#[derive(PartialEq, Eq)]
enum Storage {
    All,
    /// The servers' own account must not.
    None,
}

fn unlimited(storage: Storage) -> Value {
    let mut limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    if storage == Storage::All {
        for kind in ["mem_storage", "disk_storage", "streams", "consumer"] {
            limits[kind] = json!(-1);
        }
    }
    limits
}

fn encode(
    name: &str,
    subject: &str,
    until: Option<Seconds>,
    nats: Value,
    by: &KeyPair,
    now: Seconds,
) -> Result<String, Error> {
    let mut claims = json!({ "iat": now, "iss": by.public_key(), "name": name, "sub": subject, "nats": nats });
    if let Some(until) = until {
        claims["exp"] = until.into();
    }
    let id = blake3::hash(claims.to_string().as_bytes());
    claims["jti"] = BASE32_NOPAD.encode(id.as_bytes()).into();
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = format!("{header}.{}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let signature = by.sign(body.as_bytes()).map_err(|error| Error::Key(error.to_string()))?;
    Ok(format!("{body}.{}", BASE64URL_NOPAD.encode(&signature)))
}
