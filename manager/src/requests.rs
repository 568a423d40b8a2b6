//! What administrators ask of receivers. They have no network face: the participant at which one runs keeps a call open with any
//! manager (`Attend`), and managers hand questions on to each other over the bus.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, RequestErrorKind, Subject};
use bytes::Bytes;
use deltabus_proto::manager::v1;
use futures::{Stream, StreamExt};
use prost::Message;

use crate::{Error, Keys};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(25);

/// Questions whose answers are waited for, in one manager; the oldest gives way.
const WAITING_MAX: usize = 1_024;

/// What an answer is at most, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 128 * 1024;

/// Where questions to a participant go, on the managers' own subjects.
const SUBJECT: &str = "deltabus-manager.ask";

/// Under what questions are marked: whoever may have a broker put a message there can't make one up.
const CONTEXT: &str = "deltabus 2026-11 question of a manager";

/// A mark's length.
const MARK_BYTES: usize = 32;

/// Hands questions on, and answers back.
pub(crate) struct Requests {
    client: Client,
    secret: [u8; 32],
    waiting: Mutex<Waiting>,
}

/// Questions that were handed to participants.
#[derive(Default)]
struct Waiting {
    last: u64,
    /// By number: to whom, and where the answer goes.
    by_id: HashMap<u64, (String, Subject)>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The answer, JSON.
    Answer(String),
    /// It can't be done.
    Problem(String),
    /// The participant isn't there.
    Nobody,
    /// It is there, and didn't answer in time.
    Silence,
}

impl Requests {
    pub(crate) fn new(client: Client, keys: &Keys) -> Result<Requests, Error> {
        let seed = keys.managers.seed().map_err(|error| Error::Key(error.to_string()))?;
        Ok(Requests { client, secret: blake3::derive_key(CONTEXT, seed.as_bytes()), waiting: Mutex::default() })
    }

    /// Asks something of a receiver at a participant.
    pub(crate) async fn ask(&self, participant: &str, request: v1::Request) -> Result<Heard, Error> {
        let content = request.encode_to_vec();
        let payload = sealed(&self.secret, participant, &content);
        let asked = async_nats::Request::new().payload(payload.into()).timeout(Some(ANSWER));
        let answer = match self.client.send_request(subject(participant), asked).await {
            Ok(answer) => answer,
            Err(error) => {
                return match error.kind() {
                    RequestErrorKind::NoResponders => Ok(Heard::Nobody),
                    RequestErrorKind::TimedOut => Ok(Heard::Silence),
                    _ => Err(Error::Records { doing: "reached", problem: deltabus_bus::causes(&error) }),
                };
            }
        };
        let answer = v1::AnswerRequest::decode(answer.payload);
        let Ok(answer) = answer else { return Ok(Heard::Problem("its answer can't be understood".into())) };
        Ok(if answer.problem.is_empty() { Heard::Answer(answer.answer) } else { Heard::Problem(answer.problem) })
    }

    /// What is asked of a participant, from now on. Of several processes that attend for it, one gets each question.
    pub(crate) async fn of(
        self: &Arc<Self>,
        participant: &str,
    ) -> Result<impl Stream<Item = v1::Request> + Send + use<>, Error> {
        let failed =
            |error: &dyn std::error::Error| Error::Records { doing: "watched", problem: deltabus_bus::causes(error) };
        let name = participant.to_owned();
        let subscribed = self.client.queue_subscribe(subject(participant), name.clone()).await;
        let messages = subscribed.map_err(|error| failed(&error))?;
        self.client.flush().await.map_err(|error| failed(&error))?;
        let requests = self.clone();
        Ok(messages.filter_map(move |message| {
            let request = message.reply.and_then(|reply| requests.take(&name, &message.payload, reply));
            futures::future::ready(request)
        }))
    }

    /// A question of a manager; it waits for its answer from now on.
    fn take(&self, participant: &str, payload: &[u8], reply: Subject) -> Option<v1::Request> {
        let Some(content) = opened(&self.secret, participant, payload) else {
            tracing::warn!(participant, "a question that no manager asked is not handed on");
            return None;
        };
        let mut request = v1::Request::decode(content).ok()?;
        let mut waiting = self.waiting();
        waiting.last += 1;
        request.id = waiting.last;
        if waiting.by_id.len() >= WAITING_MAX
            && let Some(oldest) = waiting.by_id.keys().min().copied()
        {
            waiting.by_id.remove(&oldest);
        }
        waiting.by_id.insert(request.id, (participant.to_owned(), reply));
        Some(request)
    }

    /// Sends an answer to whoever asked; one that nobody waits for is passed over.
    pub(crate) async fn answer(&self, participant: &str, answer: v1::AnswerRequest) -> Result<(), Error> {
        let asked_by = {
            let mut waiting = self.waiting();
            match waiting.by_id.get(&answer.id) {
                Some((whom, _)) if whom == participant => waiting.by_id.remove(&answer.id),
                _ => None,
            }
        };
        let Some((_, reply)) = asked_by else { return Ok(()) };
        let payload = if answer.answer.len() > ANSWER_BYTES_MAX || answer.problem.len() > ANSWER_BYTES_MAX {
            v1::AnswerRequest { problem: "its answer is too long".into(), ..v1::AnswerRequest::default() }
        } else {
            answer
        };
        let sent = self.client.publish(reply, Bytes::from(payload.encode_to_vec())).await;
        sent.map_err(|error| Error::Records { doing: "reached", problem: deltabus_bus::causes(&error) })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question with its mark before it.
fn sealed(secret: &[u8; 32], participant: &str, content: &[u8]) -> Vec<u8> {
    let mut payload = mark(secret, participant, content).as_bytes().to_vec();
    payload.extend(content);
    payload
}

/// What has a manager's mark for that participant.
fn opened<'a>(secret: &[u8; 32], participant: &str, payload: &'a [u8]) -> Option<&'a [u8]> {
    let (shown, content) = payload.split_at_checked(MARK_BYTES)?;
    // Hashes are compared in the same time whatever they are.
    let shown = blake3::Hash::from(<[u8; MARK_BYTES]>::try_from(shown).ok()?);
    (shown == mark(secret, participant, content)).then_some(content)
}

fn mark(secret: &[u8; 32], participant: &str, content: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(&(participant.len() as u64).to_be_bytes());
    hasher.update(participant.as_bytes());
    hasher.update(content);
    hasher.finalize()
}

fn subject(participant: &str) -> String {
    format!("{SUBJECT}.{participant}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_manager_asked_of_just_that_participant_is_handed_on() {
        let (secret, other) = ([1; 32], [2; 32]);
        let payload = sealed(&secret, "crm", b"question");
        assert_eq!(opened(&secret, "crm", &payload), Some(&b"question"[..]));
        assert_eq!(opened(&secret, "site", &payload), None, "of another participant");
        assert_eq!(opened(&other, "crm", &payload), None, "of another bus's managers");
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            assert_eq!(opened(&secret, "crm", &changed), None, "byte {at}");
            assert_eq!(opened(&secret, "crm", &payload[..at]), None, "cut at {at}");
        }
    }
}
