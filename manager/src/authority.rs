//! Decisions: who becomes a participant, with which rights and credentials, and what takes them away. Each is recorded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use deltabus_bus::broker::Broker;
use deltabus_bus::jetstream::JetStream;
use deltabus_bus::{Clock, SystemClock};
use deltabus_proto::manager::v1;
use deltabus_record::schema::{ReceiverName, SourceName};
use nkeys::{KeyPair, KeyPairType};
use prost::Message;

use crate::claims::{self, Seconds};
use crate::metrics::DECISIONS;
use crate::registry::{Decision, Heard, Invitation, Participant, Registry, Signatures};
use crate::rights::{NAMES_MAX, RECEIVERS_MAX, Rights};
use crate::{Error, Keys};

/// Tokens are good for at most this long.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A report that says nothing new is written down this often, so that it is known who is there.
const REPORT_PAUSE: Duration = Duration::from_secs(10);

/// The longest text of a report that is kept, in characters.
const REPORT_TEXT_MAX: usize = 500;

/// How long a broker may take to take new claims.
const CLAIMS_ANSWER: Duration = Duration::from_secs(5);

/// Revocations are kept for this much longer than the credentials live that they revoke.
const REVOCATION_MARGIN: Seconds = 24 * 3600;

/// Decides, in the name of the keys that it holds.
pub(crate) struct Authority {
    pub(crate) keys: Arc<Keys>,
    pub(crate) registry: Registry,
    /// As a manager, in the account of the sources.
    pub(crate) bus: Arc<JetStream>,
    /// As a user of the servers' own account.
    pub(crate) system: Arc<JetStream>,
    /// This manager's name.
    pub(crate) name: String,
    /// How long credentials are good.
    pub(crate) lifetime: Duration,
    /// The last reports that were written down.
    pub(crate) reported: Mutex<HashMap<String, (Instant, Vec<u8>)>>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) participant: Participant,
    pub(crate) key: String,
}

impl Authority {
    /// Makes tokens, and whoever they name a participant with these rights.
    pub(crate) async fn invite(
        &self,
        by: &Asking,
        name: &str,
        rights: &v1::Rights,
        life: Duration,
    ) -> Result<Vec<u8>, Error> {
        let decided = self.invite_decided(name, rights, life).await;
        self.note(&by.participant.name, "invite", name, decided.as_ref().map(|_| rights_text(rights))).await?;
        decided
    }

    async fn invite_decided(&self, name: &str, rights: &v1::Rights, life: Duration) -> Result<Vec<u8>, Error> {
        if life.is_zero() || life > TOKEN_LIFE_MAX {
            let most = TOKEN_LIFE_MAX.as_secs() / 86_400;
            return Err(Error::Refused(format!("a token is good for a second to {most} days")));
        }
        let more = self.checked(name, rights).await?;
        let (before, after) = self
            .registry
            .change_participant(name, |participant| {
                participant.revoked = false;
                participant.rights = participant.rights.and(&more);
                within(&participant.rights)
            })
            .await?;
        self.follow(&before, &after).await?;
        let secret =
            deltabus_certificates::random_bytes::<32>().map_err(|error| Error::Key(error.to_string()))?.to_vec();
        let expires_millis = now_millis() + u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let invitation = Invitation { name: name.to_owned(), expires_millis, used_by: None };
        self.registry.put_invitation(&hash_of(&secret), &invitation).await?;
        Ok(secret)
    }

    /// Makes the holder of a token a participant by its key.
    pub(crate) async fn enroll(&self, from: &str, secret: &[u8], key: &str) -> Result<Participant, Error> {
        let decided = self.enroll_decided(secret, key).await;
        let about = decided.as_ref().map_or("", |participant| &participant.name);
        self.note(from, "enroll", about, decided.as_ref().map(|_| format!("key {key}"))).await?;
        decided
    }

    async fn enroll_decided(&self, secret: &[u8], key: &str) -> Result<Participant, Error> {
        check_user_key(key)?;
        let invitation = self.registry.use_invitation(&hash_of(secret), key, now_millis()).await?;
        let (before, after) = self
            .registry
            .change_participant(&invitation.name, |participant| {
                if participant.revoked {
                    return Err(Error::Refused(format!("`{}` was revoked since the token was made", participant.name)));
                }
                if participant.key.as_deref() != Some(key) {
                    participant.key = Some(key.to_owned());
                    participant.enrolled_millis = now_millis();
                }
                Ok(())
            })
            .await?;
        self.registry.put_holder(key, &after.name).await?;
        self.follow(&before, &after).await?;
        if let Some(former) = before.key.filter(|former| former != key) {
            // Whoever had the name before is somebody else now.
            self.revoke_key(&former, now_seconds()).await?;
        }
        Ok(after)
    }

    /// Gives a participant more rights.
    pub(crate) async fn grant(&self, by: &Asking, name: &str, rights: &v1::Rights) -> Result<Rights, Error> {
        let decided = self.grant_decided(name, rights).await;
        self.note(&by.participant.name, "grant", name, decided.as_ref().map(|_| rights_text(rights))).await?;
        decided
    }

    async fn grant_decided(&self, name: &str, rights: &v1::Rights) -> Result<Rights, Error> {
        let more = self.checked(name, rights).await?;
        if self.registry.participant(name).await?.is_none() {
            return Err(Error::Refused(format!("there is no `{name}`; `deltabus enroll {name} …` makes one")));
        }
        let (before, after) = self
            .registry
            .change_participant(name, |participant| {
                if participant.revoked {
                    return Err(Error::Refused(format!(
                        "`{name}` was revoked; `deltabus enroll {name} …` lets it in again"
                    )));
                }
                participant.rights = participant.rights.and(&more);
                within(&participant.rights)
            })
            .await?;
        self.follow(&before, &after).await?;
        Ok(after.rights)
    }

    /// Takes rights away; none named: all of them, and the key.
    pub(crate) async fn revoke(&self, by: &Asking, name: &str, rights: &v1::Rights) -> Result<Rights, Error> {
        let decided = self.revoke_decided(name, rights).await;
        self.note(&by.participant.name, "revoke", name, decided.as_ref().map(|_| rights_text(rights))).await?;
        decided
    }

    async fn revoke_decided(&self, name: &str, rights: &v1::Rights) -> Result<Rights, Error> {
        let less = Rights::from_wire(rights).map_err(|error| Error::Refused(error.to_string()))?;
        let all = less == Rights::default();
        let participants = self.registry.participants().await?;
        let Some(participant) = participants.iter().find(|participant| participant.name == name) else {
            return Err(Error::Refused(format!("there is no `{name}`")));
        };
        let administrators = participants.iter().filter(|other| other.rights.administrate && !other.revoked).count();
        if participant.rights.administrate && (all || less.administrate) && administrators == 1 {
            return Err(Error::Refused(format!("`{name}` is the only administrator; make another one first")));
        }
        let now = now_seconds();
        let (before, after) = self
            .registry
            .change_participant(name, |participant| {
                participant.rights = if all { Rights::default() } else { participant.rights.without(&less) };
                participant.revoked |= all;
                participant.not_before = participant.not_before.max(now);
                Ok(())
            })
            .await?;
        self.follow(&before, &after).await?;
        if let Some(key) = &before.key {
            self.revoke_key(key, after.not_before).await?;
        }
        Ok(after.rights)
    }

    /// Credentials for the bus: a JWT and how long it is good.
    pub(crate) async fn credentials(&self, by: &Asking) -> Result<(String, Duration), Error> {
        let participant = &by.participant;
        // Not of the second in which others were revoked: it counts as before.
        let now = now_seconds().max(participant.not_before + 1);
        let until = now + self.lifetime.as_secs();
        let claims = claims::Participant {
            name: &participant.name,
            key: &by.key,
            rights: &participant.rights,
            account: &self.keys.account,
        };
        let decided = claims.signed(&self.keys.participants, now, until);
        let detail = decided.as_ref().map(|_| format!("for {} s", self.lifetime.as_secs()));
        self.note(&participant.name, "credentials", &participant.name, detail).await?;
        Ok((decided?, self.lifetime))
    }

    /// Whose signatures count for a source; refused to whoever has nothing to do with it.
    pub(crate) async fn locate(&self, by: &Asking, source: &SourceName) -> Result<Signatures, Error> {
        let rights = &by.participant.rights;
        if !rights.concerns(source.as_str()) && !rights.administrate {
            let refused = Error::Refused(format!("`{}` may do nothing with `{source}`", by.participant.name));
            let decided: Result<String, &Error> = Err(&refused);
            self.note(&by.participant.name, "locate", source.as_str(), decided).await?;
            return Err(refused);
        }
        let mut signatures = self.registry.signatures(source.as_str()).await?;
        if !rights.publish.contains(source.as_str()) {
            signatures.receivers.clear();
        }
        Ok(signatures)
    }

    /// Takes note of how somebody stands; what it has no right to speak of is left out.
    pub(crate) async fn report(&self, by: &Asking, mut report: v1::ReportRequest) -> Result<(), Error> {
        let rights = &by.participant.rights;
        report.standings.retain(|standing| match standing.role() {
            v1::standing::Role::Transmitter => rights.publish.contains(&standing.source),
            v1::standing::Role::Receiver => {
                rights.read.contains(&standing.source) && ReceiverName::new(&standing.receiver).is_ok()
            }
            v1::standing::Role::Unspecified => false,
        });
        report.standings.truncate(NAMES_MAX);
        for standing in &mut report.standings {
            for text in [&mut standing.held, &mut standing.problem] {
                if text.chars().count() > REPORT_TEXT_MAX {
                    *text = text.chars().take(REPORT_TEXT_MAX).chain(['…']).collect();
                }
            }
        }
        let encoded = report.encode_to_vec();
        let name = &by.participant.name;
        {
            let mut reported = self.reported.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let known = reported.get(name);
            if known.is_some_and(|(when, known)| when.elapsed() < REPORT_PAUSE && *known == encoded) {
                return Ok(());
            }
            reported.insert(name.clone(), (Instant::now(), encoded.clone()));
        }
        let heard = Heard { millis: now_millis(), report: BASE64.encode(&encoded) };
        self.registry.put_heard(name, &heard).await
    }

    /// Everybody, or those named, with rights and standings.
    pub(crate) async fn who(&self, names: Option<&BTreeSet<String>>) -> Result<Vec<v1::Participant>, Error> {
        let mut all = Vec::new();
        for participant in self.registry.participants().await? {
            let heard = self.registry.heard(&participant.name).await?;
            let report = BASE64.decode(heard.report.as_bytes()).unwrap_or_default();
            let report = v1::ReportRequest::decode(report.as_slice()).unwrap_or_default();
            all.push((participant, heard.millis, report.standings));
        }
        let mut furthest: BTreeMap<String, u64> = BTreeMap::new();
        for standing in all.iter().flat_map(|(_, _, standings)| standings) {
            let reached = furthest.entry(standing.source.clone()).or_default();
            *reached = standing.revision.max(*reached);
        }
        let wanted = |participant: &Participant| names.is_none_or(|names| names.contains(&participant.name));
        let all = all.into_iter().filter(|(participant, ..)| wanted(participant));
        let lagging = |standing: v1::Standing| {
            let reached = furthest.get(&standing.source).copied().unwrap_or_default();
            v1::Lagging { behind: reached.saturating_sub(standing.revision), standing: Some(standing) }
        };
        Ok(all
            .map(|(participant, seen_millis, standings)| v1::Participant {
                rights: Some(participant.rights.to_wire()),
                key: participant.key.filter(|_| !participant.revoked).unwrap_or_default(),
                revoked: participant.revoked,
                enrolled_millis: participant.enrolled_millis,
                seen_millis,
                standings: standings.into_iter().map(lagging).collect(),
                name: participant.name,
            })
            .collect())
    }

    /// Makes the streams of all sources that somebody may publish, where they are missing.
    pub(crate) async fn prepare_all(&self) -> Result<(), Error> {
        let participants = self.registry.participants().await?;
        let sources: BTreeSet<SourceName> = participants
            .iter()
            .filter(|participant| !participant.revoked)
            .flat_map(|participant| participant.rights.sources_published().collect::<Vec<_>>())
            .collect();
        self.prepare(sources).await
    }

    async fn prepare(&self, sources: impl IntoIterator<Item = SourceName>) -> Result<(), Error> {
        for source in sources {
            self.bus.prepare(&source).await.map_err(deltabus_bus::Error::from)?;
        }
        Ok(())
    }

    /// Tells the brokers which credentials count no more.
    pub(crate) async fn push_claims(&self) -> Result<(), Error> {
        let revocations = self.registry.revocations().await?;
        self.push(&revocations).await
    }

    async fn push(&self, revocations: &BTreeMap<String, Seconds>) -> Result<(), Error> {
        let failed = |problem: String| Error::Records { doing: "enforced", problem };
        let account = self.keys.account(revocations, now_seconds())?;
        let client = self.system.client();
        let asked = client.request("$SYS.REQ.CLAIMS.UPDATE", account.into());
        let answer = tokio::time::timeout(CLAIMS_ANSWER, asked).await;
        let answer = answer.map_err(|_| failed("the broker doesn't answer".into()))?;
        let answer = answer.map_err(|error| failed(deltabus_bus::causes(&error)))?;
        let answer: serde_json::Value =
            serde_json::from_slice(&answer.payload).map_err(|error| failed(error.to_string()))?;
        match answer["data"]["code"].as_u64() {
            Some(200) => Ok(()),
            _ => Err(failed(format!("the broker says {answer}"))),
        }
    }

    async fn revoke_key(&self, key: &str, until: Seconds) -> Result<(), Error> {
        let forgotten = now_seconds().saturating_sub(self.lifetime.as_secs() + REVOCATION_MARGIN);
        let revocations = self.registry.revoke(key, until, forgotten).await?;
        self.push(&revocations).await
    }

    /// Brings what hangs on a participant's rights and key in line: streams, and whose signatures count.
    async fn follow(&self, before: &Participant, after: &Participant) -> Result<(), Error> {
        self.prepare(after.rights.sources_published()).await?;
        let now = now_millis();
        let sources: BTreeSet<&String> = [before, after]
            .into_iter()
            .flat_map(|participant| participant.rights.publish.iter().chain(&participant.rights.reverse))
            .collect();
        for source in sources {
            let publishes = |of: &Participant| of.rights.publish.contains(source);
            let sends = |of: &Participant| {
                if of.rights.reverse.contains(source) { of.rights.receivers.clone() } else { BTreeSet::new() }
            };
            self.registry
                .change_signatures(source, |signatures| {
                    if let Some(key) = before.key.as_ref().filter(|_| publishes(before)) {
                        end(&mut signatures.publishers, key, now);
                    }
                    for receiver in sends(before) {
                        if let Some(key) = &before.key {
                            end(signatures.receivers.entry(receiver).or_default(), key, now);
                        }
                    }
                    let Some(key) = &after.key else { return };
                    if publishes(after) {
                        signatures.publishers.insert(key.clone(), 0);
                    }
                    for receiver in sends(after) {
                        signatures.receivers.entry(receiver).or_default().insert(key.clone(), 0);
                    }
                })
                .await?;
        }
        Ok(())
    }

    /// Rights that somebody named so may be given.
    async fn checked(&self, name: &str, rights: &v1::Rights) -> Result<Rights, Error> {
        let refused = |error: deltabus_record::schema::NameError| Error::Refused(error.to_string());
        // A participant's name is the name of its receiver.
        ReceiverName::new(name).map_err(refused)?;
        let mut rights = Rights::from_wire(rights).map_err(refused)?;
        // Who sends edits must see what they are made on, and does so under its own name unless told otherwise.
        let reverse = rights.reverse.clone();
        rights.read.extend(reverse);
        if !rights.reverse.is_empty() && rights.receivers.is_empty() {
            rights.receivers.insert(name.to_owned());
        }
        within(&rights)?;
        for other in self.registry.participants().await? {
            let shared = other.rights.receivers.intersection(&rights.receivers).next();
            if let Some(receiver) = shared.filter(|_| other.name != name && !other.revoked) {
                return Err(Error::Refused(format!("the receiver's name `{receiver}` is `{}`'s", other.name)));
            }
        }
        Ok(rights)
    }

    /// Records what was decided; what can't be recorded doesn't happen.
    pub(crate) async fn note(
        &self,
        who: &str,
        action: &str,
        about: &str,
        decided: Result<String, &Error>,
    ) -> Result<(), Error> {
        let allowed = decided.is_ok();
        let detail = decided.unwrap_or_else(ToString::to_string);
        let said = if allowed { "yes" } else { "no" };
        metrics::counter!(DECISIONS, "action" => action.to_owned(), "allowed" => said).increment(1);
        tracing::info!(participant = who, action, about, allowed, detail, "decided");
        let decision = Decision {
            millis: now_millis(),
            who: who.to_owned(),
            action: action.to_owned(),
            about: about.to_owned(),
            allowed,
            detail,
            manager: self.name.clone(),
        };
        self.registry.note(&decision).await
    }
}

/// From now on a key's signatures count only for what was stored before.
fn end(keys: &mut BTreeMap<String, u64>, key: &str, now_millis: u64) {
    if let Some(until) = keys.get_mut(key).filter(|until| **until == 0) {
        *until = now_millis;
    }
}

fn within(rights: &Rights) -> Result<(), Error> {
    if rights.is_too_much() {
        return Err(Error::Refused(format!(
            "one participant has at most {NAMES_MAX} sources of a kind and {RECEIVERS_MAX} receivers"
        )));
    }
    Ok(())
}

fn check_user_key(key: &str) -> Result<(), Error> {
    let pair = KeyPair::from_public_key(key).ok();
    match pair.map(|pair| pair.key_pair_type()) {
        Some(KeyPairType::User) => Ok(()),
        _ => Err(Error::Refused("this is no user's public key".into())),
    }
}

fn hash_of(secret: &[u8]) -> String {
    blake3::hash(secret).to_hex().to_string()
}

fn rights_text(rights: &v1::Rights) -> String {
    let mut parts = Vec::new();
    for (right, names) in [
        ("publish", &rights.publish),
        ("read", &rights.read),
        ("reverse", &rights.reverse),
        ("receivers", &rights.receivers),
    ] {
        if !names.is_empty() {
            parts.push(format!("{right} {}", names.join(",")));
        }
    }
    if rights.administrate {
        parts.push("administrate".into());
    }
    if parts.is_empty() { "everything".into() } else { parts.join("; ") }
}

pub(crate) fn now_millis() -> u64 {
    SystemClock.now_millis()
}

pub(crate) fn now_seconds() -> Seconds {
    now_millis() / 1000
}
