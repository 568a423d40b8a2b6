//! The managers' records: who is a participant with which rights, tokens, whose signatures count, and who was heard of.
//!
//! They lie in two key-value buckets and a stream on the bus itself, so that several managers work on the same records and any
//! may fail. Every change is a compare-and-set on what was read.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{DiscardPolicy, StorageType};
use async_nats::jetstream::{self, consumer};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::claims::Seconds;
use crate::rights::Rights;

/// Who may do what. Kept for good.
const RECORDS: &str = "deltabus-manager";

/// Who was heard of, and how they stand.
const STANDINGS: &str = "deltabus-standings";

/// Participants that were not heard of for so long are forgotten there; their rights stay.
const STANDINGS_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Decisions.
const AUDIT: &str = "DELTABUS_AUDIT";
const AUDIT_SUBJECT: &str = "deltabus-audit";

/// Decisions older than this go.
const AUDIT_AGE: Duration = Duration::from_secs(400 * 24 * 3600);

/// And the oldest, where there are more.
const AUDIT_BYTES: i64 = 1024 * 1024 * 1024;

/// How often a change is tried again that met another one.
const ATTEMPTS: u32 = 50;

/// Watchers and readers of the audit, on all managers.
const CONSUMERS_MAX: i32 = 1_000;

/// The largest record.
const RECORD_BYTES_MAX: i32 = 512 * 1024;

/// A participant, as recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Participant {
    pub(crate) name: String,
    pub(crate) rights: Rights,
    /// Its public key, once it has enrolled.
    pub(crate) key: Option<String>,
    pub(crate) enrolled_millis: u64,
    /// Counts the changes of rights and key.
    pub(crate) version: u64,
    /// Credentials of this second and before count no more.
    pub(crate) not_before: Seconds,
    pub(crate) revoked: bool,
}

/// An enrolment token, under a hash of its secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Invitation {
    pub(crate) name: String,
    pub(crate) expires_millis: u64,
    /// The key that used it.
    pub(crate) used_by: Option<String>,
}

/// Whose signatures count for a source, and until when (milliseconds since 1970; 0: still).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Signatures {
    pub(crate) publishers: BTreeMap<String, u64>,
    /// By receiver.
    pub(crate) receivers: BTreeMap<String, BTreeMap<String, u64>>,
}

/// How somebody stands, as last heard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Heard {
    pub(crate) millis: u64,
    /// The standings: `v1::ReportRequest`, encoded, in base64.
    pub(crate) report: String,
}

/// A decision, as recorded.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Decision {
    pub(crate) millis: u64,
    pub(crate) who: String,
    pub(crate) action: String,
    pub(crate) about: String,
    pub(crate) allowed: bool,
    pub(crate) detail: String,
    pub(crate) manager: String,
}

/// Something in the records that changed.
pub(crate) enum Changed {
    /// Rights or key of a participant, or how it stands.
    Participant(String),
    /// The credentials that count no more.
    Revocations,
    /// Anything else.
    Other,
}

/// The records.
#[derive(Clone)]
pub(crate) struct Registry {
    context: jetstream::Context,
    records: kv::Store,
    standings: kv::Store,
}

impl Registry {
    /// Opens the records, and makes them where there are none. `replicas`: on how many servers they lie.
    pub(crate) async fn open(client: &async_nats::Client, replicas: usize) -> Result<Registry, Error> {
        let context = jetstream::new(client.clone());
        let bucket = |name: &str, age| kv::Config {
            bucket: name.into(),
            history: 1,
            max_age: age,
            max_value_size: RECORD_BYTES_MAX,
            storage: StorageType::File,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        let records = open_bucket(&context, bucket(RECORDS, Duration::ZERO)).await?;
        let standings = open_bucket(&context, bucket(STANDINGS, STANDINGS_AGE)).await?;
        let audit = jetstream::stream::Config {
            name: AUDIT.into(),
            description: Some("deltabus: decisions of the managers".into()),
            subjects: vec![AUDIT_SUBJECT.into()],
            max_age: AUDIT_AGE,
            max_bytes: AUDIT_BYTES,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            num_replicas: replicas,
            deny_delete: true,
            deny_purge: true,
            max_consumers: CONSUMERS_MAX,
            ..jetstream::stream::Config::default()
        };
        context.get_or_create_stream(audit).await.map_err(|error| failed("made", &error))?;
        Ok(Registry { context, records, standings })
    }

    /// The record under a key.
    async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let value = self.records.get(key).await.map_err(|error| failed("read", &error))?;
        value.map(|value| parsed(&value)).transpose()
    }

    /// Changes a record: `change` gets what is there and gives what is to be; `None` leaves it. Tried again where somebody else
    /// changes it at the same moment.
    async fn change<T, R>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<T>) -> Result<(Option<T>, R), Error>,
    ) -> Result<R, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        for _ in 0..ATTEMPTS {
            let entry = self.records.entry(key).await.map_err(|error| failed("read", &error))?;
            let entry = entry.filter(|entry| entry.operation == kv::Operation::Put);
            let before = entry.as_ref().map(|entry| parsed(&entry.value)).transpose()?;
            let (after, result) = change(before)?;
            let Some(after) = after else { return Ok(result) };
            let value = Bytes::from(serde_json::to_vec(&after).map_err(|error| failed("written", &error))?);
            match self.records.update(key, value, entry.map_or(0, |entry| entry.revision)).await {
                Ok(_) => return Ok(result),
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(failed("written", &error)),
            }
        }
        Err(Error::Records { doing: "written", problem: "somebody else changes them all the time".into() })
    }

    /// A participant by name.
    pub(crate) async fn participant(&self, name: &str) -> Result<Option<Participant>, Error> {
        self.get(&format!("participant.{name}")).await
    }

    /// A participant by the key that it has now.
    pub(crate) async fn holder(&self, key: &str) -> Result<Option<Participant>, Error> {
        let Some(name) = self.get::<String>(&format!("key.{key}")).await? else { return Ok(None) };
        let participant = self.participant(&name).await?;
        Ok(participant.filter(|participant| participant.key.as_deref() == Some(key) && !participant.revoked))
    }

    /// Changes a participant, or makes one; gives what it was and what it is.
    pub(crate) async fn change_participant(
        &self,
        name: &str,
        mut change: impl FnMut(&mut Participant) -> Result<(), Error>,
    ) -> Result<(Participant, Participant), Error> {
        self.change(&format!("participant.{name}"), |before: Option<Participant>| {
            let before = before.unwrap_or_else(|| Participant { name: name.to_owned(), ..Participant::default() });
            let mut after = before.clone();
            change(&mut after)?;
            if after == before {
                return Ok((None, (before, after)));
            }
            after.version += 1;
            Ok((Some(after.clone()), (before, after)))
        })
        .await
    }

    /// Says whose a key is.
    pub(crate) async fn put_holder(&self, key: &str, name: &str) -> Result<(), Error> {
        self.change(&format!("key.{key}"), |_: Option<String>| Ok((Some(name.to_owned()), ()))).await
    }

    /// All participants, by name.
    pub(crate) async fn participants(&self) -> Result<Vec<Participant>, Error> {
        let mut names = Vec::new();
        let mut keys = self.records.keys().await.map_err(|error| failed("read", &error))?;
        while let Some(key) = keys.next().await {
            let key = key.map_err(|error| failed("read", &error))?;
            names.extend(key.strip_prefix("participant.").map(str::to_owned));
        }
        names.sort();
        let mut participants = Vec::new();
        for name in names {
            participants.extend(self.participant(&name).await?);
        }
        Ok(participants)
    }

    /// Remembers a token by its hash.
    pub(crate) async fn put_invitation(&self, hash: &str, invitation: &Invitation) -> Result<(), Error> {
        self.change(&format!("invitation.{hash}"), |_: Option<Invitation>| Ok((Some(invitation.clone()), ()))).await
    }

    /// Uses a token up for a key; the same key may do so again.
    pub(crate) async fn use_invitation(&self, hash: &str, key: &str, now_millis: u64) -> Result<Invitation, Error> {
        self.change(&format!("invitation.{hash}"), |found: Option<Invitation>| {
            let Some(mut invitation) = found else { return Err(Error::Refused("this token is none".into())) };
            match &invitation.used_by {
                Some(by) if by == key => Ok((None, invitation)),
                Some(_) => Err(Error::Refused(format!(
                    "the token for `{}` was used already; `deltabus enroll` makes another one",
                    invitation.name
                ))),
                None if invitation.expires_millis <= now_millis => Err(Error::Refused(format!(
                    "the token for `{}` has expired; `deltabus enroll` makes another one",
                    invitation.name
                ))),
                None => {
                    invitation.used_by = Some(key.to_owned());
                    Ok((Some(invitation.clone()), invitation))
                }
            }
        })
        .await
    }

    /// Whose signatures count for a source.
    pub(crate) async fn signatures(&self, source: &str) -> Result<Signatures, Error> {
        Ok(self.get(&format!("signatures.{source}")).await?.unwrap_or_default())
    }

    /// Changes that.
    pub(crate) async fn change_signatures(
        &self,
        source: &str,
        mut change: impl FnMut(&mut Signatures),
    ) -> Result<(), Error> {
        self.change(&format!("signatures.{source}"), |before: Option<Signatures>| {
            let before = before.unwrap_or_default();
            let mut after = before.clone();
            change(&mut after);
            Ok(((after != before).then_some(after), ()))
        })
        .await
    }

    /// Keys whose credentials up to a time count no more.
    pub(crate) async fn revocations(&self) -> Result<BTreeMap<String, Seconds>, Error> {
        Ok(self.get("revocations").await?.unwrap_or_default())
    }

    /// Adds one, and forgets those up to `forgotten`, whose credentials have all expired.
    pub(crate) async fn revoke(
        &self,
        key: &str,
        until: Seconds,
        forgotten: Seconds,
    ) -> Result<BTreeMap<String, Seconds>, Error> {
        self.change("revocations", |before: Option<BTreeMap<String, Seconds>>| {
            let mut all = before.unwrap_or_default();
            all.retain(|_, since| *since > forgotten);
            let since = all.entry(key.to_owned()).or_default();
            *since = until.max(*since);
            Ok((Some(all.clone()), all))
        })
        .await
    }

    /// What was last heard of somebody.
    pub(crate) async fn heard(&self, name: &str) -> Result<Heard, Error> {
        let value = self.standings.get(name).await.map_err(|error| failed("read", &error))?;
        Ok(value.map(|value| parsed(&value)).transpose()?.unwrap_or_default())
    }

    /// Remembers it.
    pub(crate) async fn put_heard(&self, name: &str, heard: &Heard) -> Result<(), Error> {
        let value = Bytes::from(serde_json::to_vec(heard).map_err(|error| failed("written", &error))?);
        self.standings.put(name, value).await.map_err(|error| failed("written", &error))?;
        Ok(())
    }

    /// Changes as they come, from now on.
    pub(crate) async fn watch(&self) -> Result<impl Stream<Item = Result<Changed, Error>> + Send + use<>, Error> {
        let records = self.records.watch_all().await.map_err(|error| failed("watched", &error))?;
        let standings = self.standings.watch_all().await.map_err(|error| failed("watched", &error))?;
        let records = records.map(|entry| {
            let entry = entry.map_err(|error| failed("watched", &error))?;
            Ok(match entry.key.strip_prefix("participant.") {
                Some(name) => Changed::Participant(name.to_owned()),
                None if entry.key == "revocations" => Changed::Revocations,
                None => Changed::Other,
            })
        });
        let standings = standings.map(|entry| {
            let entry = entry.map_err(|error| failed("watched", &error))?;
            Ok(Changed::Participant(entry.key))
        });
        Ok(futures::stream::select(records, standings))
    }

    /// Records a decision.
    pub(crate) async fn note(&self, decision: &Decision) -> Result<(), Error> {
        let value = Bytes::from(serde_json::to_vec(decision).map_err(|error| failed("written", &error))?);
        let stored = async { self.context.publish(AUDIT_SUBJECT, value).await?.await };
        stored.await.map_err(|error| failed("written", &error))?;
        Ok(())
    }

    /// Decisions from a time on, and then, if `follow`, those to come.
    pub(crate) async fn decisions(
        &self,
        since_millis: u64,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<Decision, Error>> + Send + use<>, Error> {
        let mut stream = self.context.get_stream(AUDIT).await.map_err(|error| failed("read", &error))?;
        let there = stream.info().await.map_err(|error| failed("read", &error))?.state.messages;
        let messages = stream
            .create_consumer(consumer::pull::OrderedConfig {
                deliver_policy: consumer::DeliverPolicy::All,
                ..consumer::pull::OrderedConfig::default()
            })
            .await
            .map_err(|error| failed("read", &error))?
            .messages()
            .await
            .map_err(|error| failed("read", &error))?;
        let wanted = if follow { usize::MAX } else { usize::try_from(there).unwrap_or(usize::MAX) };
        let decisions = messages.take(wanted).map(|message| {
            let message = message.map_err(|error| failed("read", &error))?;
            parsed::<Decision>(&message.payload)
        });
        Ok(decisions.filter(move |decision| {
            let wanted = decision.as_ref().map_or(true, |decision| decision.millis >= since_millis);
            futures::future::ready(wanted)
        }))
    }
}

async fn open_bucket(context: &jetstream::Context, config: kv::Config) -> Result<kv::Store, Error> {
    match context.get_key_value(&config.bucket).await {
        Ok(store) => Ok(store),
        Err(_) => context.create_key_value(config).await.map_err(|error| failed("made", &error)),
    }
}

fn parsed<T: DeserializeOwned>(value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| failed("understood", &error))
}

fn failed(doing: &'static str, error: &dyn std::error::Error) -> Error {
    Error::Records { doing, problem: deltabus_bus::causes(error) }
}
