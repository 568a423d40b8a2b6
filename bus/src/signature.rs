//! Signatures, where a manager says whose count.
//!
//! The broker lets only a source's transmitter publish its changes. But it also sends answers on a client's behalf, to whatever
//! subject the client names for them, and there its rules don't reach: who may read one stored message can have a copy put
//! where it may not publish. So each message is signed for the source and subject that it is meant for, and readers take
//! nothing that somebody else signed. That holds against whoever runs the broker as well.
//!
//! A message that isn't to be believed stays in its place, for sequences have no holes, but with [`UNTRUSTED`] for content.

use std::sync::Arc;

use async_nats::{HeaderMap, Message};
use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64;
use deltabus_record::schema::SourceName;
use nkeys::KeyPair;

use crate::metrics as figures;

/// Where a message has its signature: the public key, a space, and Ed25519 over the hash in base64.
const HEADER: &str = "Deltabus-Signature";

/// What is signed is a hash under this name, so that a signature means nothing elsewhere.
const CONTEXT: &str = "deltabus 2026-11 message signature";

/// In the place of what nobody who may has signed; no message decodes from it.
pub const UNTRUSTED: &[u8] = &[0xff];

/// How a client signs, and whom it believes.
#[derive(Clone)]
pub struct Signing {
    /// Signs what it publishes.
    pub key: Arc<KeyPair>,
    /// Whose signatures count.
    pub trust: Arc<dyn Trust>,
}

/// Knows whose signatures count.
#[async_trait]
pub trait Trust: Send + Sync {
    /// Whether `key` may have signed a message below `deltabus.<source>.<tail>` that was stored at `millis` (milliseconds since
    /// 1970). An error, one line: nobody can say at the moment.
    async fn accepts(&self, source: &SourceName, tail: &str, key: &str, millis: u64) -> Result<bool, String>;
}

/// What names its own content needs no signature: the hash is checked when it is fetched.
fn is_content(tail: &str) -> bool {
    tail.starts_with("snapshot.chunk.") || tail.starts_with("snapshot.value.")
}

fn hash(source: &SourceName, tail: &str, payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for part in [source.as_str().as_bytes(), tail.as_bytes(), payload] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

impl Signing {
    /// Puts the signature of a message into its headers.
    pub(crate) fn sign(&self, source: &SourceName, tail: &str, payload: &[u8], headers: &mut HeaderMap) {
        if is_content(tail) {
            return;
        }
        // Only a public key can't sign, and nobody has one of those here.
        if let Ok(signature) = self.key.sign(&hash(source, tail, payload)) {
            headers.insert(HEADER, format!("{} {}", self.key.public_key(), BASE64.encode(&signature)));
        }
    }

    /// The payload if somebody signed it who may, else [`UNTRUSTED`]. `millis`: when it was stored.
    pub(crate) async fn checked(
        &self,
        source: &SourceName,
        tail: &str,
        message: &Message,
        millis: u64,
    ) -> Result<Bytes, String> {
        // A copy: the client's payloads are slices of a large read buffer that they would keep alive.
        let payload = Bytes::copy_from_slice(&message.payload);
        if is_content(tail) {
            return Ok(payload);
        }
        if let Some(key) = self.signer(source, tail, message)
            && self.trust.accepts(source, tail, &key, millis).await?
        {
            return Ok(payload);
        }
        metrics::counter!(figures::UNTRUSTED, "source" => source.to_string()).increment(1);
        tracing::warn!(%source, subject = tail, "a message that nobody signed who may publish there is not believed");
        Ok(Bytes::from_static(UNTRUSTED))
    }

    /// Whose signature it has, if that is one.
    fn signer(&self, source: &SourceName, tail: &str, message: &Message) -> Option<String> {
        let header = last_value(message.headers.as_ref()?, HEADER)?;
        let (key, signature) = header.split_once(' ')?;
        let signature = BASE64.decode(signature.as_bytes()).ok()?;
        let pair = KeyPair::from_public_key(key).ok()?;
        pair.verify(&hash(source, tail, &message.payload), &signature).ok()?;
        Some(key.to_owned())
    }
}

/// The value that was added last: what a server adds comes behind what a message brought with it.
pub(crate) fn last_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_all(name).last().map(|value| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Only(String);

    #[async_trait]
    impl Trust for Only {
        async fn accepts(&self, _: &SourceName, _: &str, key: &str, _: u64) -> Result<bool, String> {
            Ok(key == self.0)
        }
    }

    fn message(payload: &[u8], headers: HeaderMap) -> Message {
        Message {
            subject: "s".into(),
            reply: None,
            payload: Bytes::copy_from_slice(payload),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[tokio::test]
    async fn only_what_somebody_signed_who_may_for_just_that_place_is_believed() {
        let key = Arc::new(KeyPair::new_user());
        let trusted = Signing { key: key.clone(), trust: Arc::new(Only(key.public_key())) };
        let (people, prices) = (SourceName::new("people").expect("a name"), SourceName::new("prices").expect("a name"));
        let mut headers = HeaderMap::new();
        trusted.sign(&people, "changes", b"set", &mut headers);
        let check = async |source: &SourceName, tail: &str, payload: &[u8], headers: HeaderMap| {
            trusted.checked(source, tail, &message(payload, headers), 0).await.expect("it is known")
        };
        assert_eq!(check(&people, "changes", b"set", headers.clone()).await, "set");
        assert_eq!(check(&people, "changes", b"sez", headers.clone()).await, UNTRUSTED);
        assert_eq!(check(&people, "snapshot.pointer", b"set", headers.clone()).await, UNTRUSTED);
        assert_eq!(check(&prices, "changes", b"set", headers.clone()).await, UNTRUSTED);
        assert_eq!(check(&people, "changes", b"set", HeaderMap::new()).await, UNTRUSTED);

        let stranger = Arc::new(KeyPair::new_user());
        let theirs = Signing { key: stranger, trust: trusted.trust.clone() };
        let mut headers = HeaderMap::new();
        theirs.sign(&people, "changes", b"set", &mut headers);
        assert_eq!(check(&people, "changes", b"set", headers).await, UNTRUSTED);
    }
}
