//! How the receivers of a source stand, where no manager is told: they are called, and answer.
//!
//! Nothing is sent unless somebody calls. A call and its answers are plain messages that nobody stores; an answer comes at a
//! random time within what the call grants, so that however many receivers there are, a caller who grants
//! [`spread`] is answered at most [`ANSWERS_PER_SECOND`] times a second. What was heard is kept in a [`Roll`], of which the
//! transmitter leaves a copy on the bus, one message that takes the place of the one before: so it is known who was there and when,
//! also while nobody answers.
//!
//! All of it is hearsay: nothing that must be right depends on it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use deltabus_proto::v1;
use deltabus_record::schema::ReceiverName;
use prost::Message;

use crate::Error;
use crate::broker::{BrokerError, Expect, Follow, Hint, Live, Subject, Word};
use crate::log::Log;
use crate::wire;

/// So many receivers of one source are remembered: twice what its fan-out is made for, and the roll fits into one message.
pub const RECEIVERS_MAX: usize = 4_096;

/// So many answers a second a call should bring about: far below what a broker or a listener notices.
pub const ANSWERS_PER_SECOND: u64 = 200;

/// Answers may be spread over this long at most, whatever a call says.
pub const SPREAD_MAX: Duration = Duration::from_secs(60);

/// Who wasn't heard for so long is forgotten.
pub const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is wrong is told in at most so many bytes; longer texts are cut.
pub const PROBLEM_BYTES_MAX: usize = 160;

/// A whole roll: as many as there can be, each as large as it can be, and some room.
const ROLL_BYTES_MAX: usize = RECEIVERS_MAX * 512;

/// How a receiver stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub receiver: ReceiverName,
    /// The revision that its destination is at.
    pub revision: u64,
    /// Records at that revision.
    pub records: u64,
    /// Reverse sets that wait for their answer.
    pub pending: u64,
    /// Changes that the destination refused and nobody has decided about.
    pub dead_letters: u64,
    /// Records that differ and are not sent back.
    pub drift: u64,
    /// What is wrong; empty: nothing.
    pub problem: String,
    /// It ends with this word.
    pub leaves: bool,
}

/// What was heard of a receiver last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What it said.
    pub standing: Standing,
    /// When, in milliseconds since 1970 by the clock of whoever heard it.
    pub seen_millis: u64,
}

/// Everybody who was heard, by name; at most [`RECEIVERS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll {
    heard: BTreeMap<ReceiverName, Heard>,
}

/// A roll as it lies on the bus.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The roll.
    pub roll: Roll,
    /// The sequence of its message; 0: there is none.
    sequence: u64,
}

/// Over how long answers should be spread where about so many are to be expected.
pub fn spread(receivers: usize) -> Duration {
    Duration::from_millis(receivers as u64 * 1000 / ANSWERS_PER_SECOND).min(SPREAD_MAX)
}

impl Roll {
    /// Takes in what was heard. Where there are too many, those go that were not heard for longest.
    pub fn note(&mut self, heard: Heard) {
        let known = self.heard.get(&heard.standing.receiver);
        if known.is_some_and(|known| known.seen_millis > heard.seen_millis) {
            return;
        }
        self.heard.insert(heard.standing.receiver.clone(), heard);
        if self.heard.len() > RECEIVERS_MAX {
            let longest = self.heard.values().min_by_key(|heard| heard.seen_millis);
            if let Some(name) = longest.map(|heard| heard.standing.receiver.clone()) {
                self.heard.remove(&name);
            }
        }
    }

    /// Takes in all of another one.
    pub fn merge(&mut self, other: &Roll) {
        other.heard.values().cloned().for_each(|heard| self.note(heard));
    }

    /// Forgets who was not heard for [`REMEMBERED`].
    pub fn forget(&mut self, now_millis: u64) {
        let kept = now_millis.saturating_sub(REMEMBERED.as_millis() as u64);
        self.heard.retain(|_, heard| heard.seen_millis >= kept);
    }

    /// Everybody, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Heard> {
        self.heard.values()
    }

    /// What was heard of one.
    pub fn of(&self, receiver: &ReceiverName) -> Option<&Heard> {
        self.heard.get(receiver)
    }
}

/// Asks all receivers of the source how they stand; the answers come by [`Answers`].
pub async fn call(log: &Log, spread: Duration) -> Result<(), Error> {
    let spread_millis = spread.min(SPREAD_MAX).as_millis() as u32;
    let message = v1::Call { version: wire::VERSION, spread_millis };
    Ok(log.broker.say(&log.source, Word::Call, message.encode_to_vec().into()).await?)
}

/// Answers a call, or says the same unasked.
pub async fn answer(log: &Log, standing: &Standing) -> Result<(), Error> {
    let message = standing_out(standing).encode_to_vec();
    Ok(log.broker.say(&log.source, Word::Standing, message.into()).await?)
}

/// Calls as they come.
pub struct Calls {
    live: Box<dyn Live>,
}

impl Calls {
    /// Listens from now on.
    pub async fn listen(log: &Log) -> Result<Calls, Error> {
        Ok(Calls { live: log.broker.follow(&log.source, Follow::Words(Word::Call)).await? })
    }

    /// The time that the next one grants; `None` when the broker has ended the subscription. Cancel safe. What can't be
    /// understood is passed over.
    pub async fn next(&mut self) -> Option<Duration> {
        loop {
            let Hint::Beat(payload) = self.live.next().await? else { continue };
            if let Ok(call) = v1::Call::decode(payload)
                && wire::check_version("a call", call.version).is_ok()
            {
                return Some(Duration::from_millis(call.spread_millis.into()).min(SPREAD_MAX));
            }
        }
    }
}

/// Answers as they come, to whosever calls.
pub struct Answers {
    live: Box<dyn Live>,
}

impl Answers {
    /// Listens from now on.
    pub async fn listen(log: &Log) -> Result<Answers, Error> {
        Ok(Answers { live: log.broker.follow(&log.source, Follow::Words(Word::Standing)).await? })
    }

    /// The next one; `None` when the broker has ended the subscription. Cancel safe. What can't be understood is passed over.
    pub async fn next(&mut self) -> Option<Standing> {
        loop {
            let Hint::Beat(payload) = self.live.next().await? else { continue };
            if let Ok(standing) =
                v1::Standing::decode(payload).map_err(|error| wire::wire(STANDING, error)).and_then(standing_in)
            {
                return Some(standing);
            }
        }
    }
}

/// The roll that the transmitter left on the bus; an empty one where there is none that can be understood.
pub async fn kept(log: &Log) -> Result<Kept, Error> {
    match log.broker.last(&log.source, &subject()).await {
        Ok(Some(stored)) => {
            let roll = decode(&stored.payload).unwrap_or_else(|error| {
                tracing::debug!(error = crate::causes(&error), "the roll of receivers is passed over");
                Roll::default()
            });
            Ok(Kept { roll, sequence: stored.sequence })
        }
        Ok(None) | Err(BrokerError::NoSource { .. }) => Ok(Kept::default()),
        Err(error) => Err(error.into()),
    }
}

/// Leaves a roll on the bus in the place of the one that was found there. Where somebody else was quicker, or nobody knows what became
/// of it, the next time will do: an error.
pub async fn keep(log: &Log, roll: &Roll, found: &Kept) -> Result<(), Error> {
    let mut payload = encode(roll);
    if payload.len() > log.broker.payload_max() {
        // So many that each has something to complain about: that they are there is what matters.
        let mut short = roll.clone();
        short.heard.values_mut().for_each(|heard| heard.standing.problem.clear());
        payload = encode(&short);
    }
    log.broker.append(&log.source, &subject(), payload, Expect::SubjectLast(found.sequence)).await?;
    Ok(())
}

fn subject() -> Subject {
    Subject::snapshot("receivers")
}

const STANDING: &str = "a receiver's standing";
const ROLL: &str = "the roll of receivers";

fn encode(roll: &Roll) -> Bytes {
    let heard = roll
        .iter()
        .map(|heard| v1::Heard { standing: Some(standing_out(&heard.standing)), seen_millis: heard.seen_millis });
    v1::Roll { version: wire::VERSION, heard: heard.collect() }.encode_to_vec().into()
}

fn decode(payload: &Bytes) -> Result<Roll, Error> {
    if payload.len() > ROLL_BYTES_MAX {
        return Err(wire::wire(ROLL, format!("{} bytes are more than the limit of {ROLL_BYTES_MAX}", payload.len())));
    }
    let message = v1::Roll::decode(payload.clone()).map_err(|error| wire::wire(ROLL, error))?;
    wire::check_version(ROLL, message.version)?;
    let mut roll = Roll::default();
    for heard in message.heard {
        let standing = standing_in(heard.standing.unwrap_or_default())?;
        roll.note(Heard { standing, seen_millis: heard.seen_millis });
    }
    Ok(roll)
}

fn standing_out(standing: &Standing) -> v1::Standing {
    v1::Standing {
        version: wire::VERSION,
        receiver: standing.receiver.to_string(),
        revision: standing.revision,
        records: standing.records,
        pending: standing.pending,
        dead_letters: standing.dead_letters,
        drift: standing.drift,
        problem: cut(&standing.problem),
        leaves: standing.leaves,
    }
}

fn standing_in(message: v1::Standing) -> Result<Standing, Error> {
    wire::check_version(STANDING, message.version)?;
    Ok(Standing {
        receiver: ReceiverName::new(&message.receiver).map_err(|error| wire::wire(STANDING, error))?,
        revision: message.revision,
        records: message.records,
        pending: message.pending,
        dead_letters: message.dead_letters,
        drift: message.drift,
        problem: cut(&message.problem),
        leaves: message.leaves,
    })
}

/// At most [`PROBLEM_BYTES_MAX`] bytes of a text.
fn cut(text: &str) -> String {
    if text.len() <= PROBLEM_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(PROBLEM_BYTES_MAX - '…'.len_utf8());
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use deltabus_record::schema::SourceName;

    use super::*;
    use crate::broker::Broker;
    use crate::memory::MemoryBroker;

    fn heard(name: &str, revision: u64, seen_millis: u64) -> Heard {
        let receiver = ReceiverName::new(name).expect("it is a name");
        let (records, pending, dead_letters, drift) = (3, 1, 2, 4);
        let standing = Standing {
            receiver,
            revision,
            records,
            pending,
            dead_letters,
            drift,
            problem: "full".into(),
            leaves: false,
        };
        Heard { standing, seen_millis }
    }

    fn names(roll: &Roll) -> Vec<String> {
        roll.iter().map(|heard| format!("{} {}", heard.standing.receiver, heard.standing.revision)).collect()
    }

    async fn log() -> Log {
        let broker = Arc::new(MemoryBroker::new());
        let source = SourceName::new("people").expect("it is a name");
        broker.prepare(&source).await.expect("it is there");
        Log::new(broker, source)
    }

    #[test]
    fn what_is_heard_last_counts_and_who_is_silent_is_forgotten() {
        let mut roll = Roll::default();
        for (name, revision, seen) in [("a", 1, 10), ("b", 1, 11), ("a", 2, 12), ("b", 7, 5)] {
            roll.note(heard(name, revision, seen));
        }
        assert_eq!(names(&roll), ["a 2", "b 1"]);
        roll.forget(11 + REMEMBERED.as_millis() as u64);
        assert_eq!(names(&roll), ["a 2", "b 1"]);
        roll.forget(12 + REMEMBERED.as_millis() as u64);
        assert_eq!(names(&roll), ["a 2"]);
    }

    #[tokio::test]
    async fn of_too_many_those_go_that_were_silent_for_longest_and_a_full_roll_is_one_message() {
        let mut roll = Roll::default();
        for number in 0..RECEIVERS_MAX + 3 {
            let mut one = heard(&format!("{number:064}"), u64::MAX, 1_800_000_000_000 + number as u64);
            one.standing.problem = "x".repeat(PROBLEM_BYTES_MAX * 2);
            roll.note(one);
        }
        assert_eq!(roll.iter().count(), RECEIVERS_MAX);
        assert!(roll.iter().next().is_some_and(|first| first.standing.receiver.as_str().ends_with("0003")));
        let bytes = encode(&roll);
        assert!(bytes.len() <= ROLL_BYTES_MAX, "{}", bytes.len());
        let read = decode(&bytes).expect("it can be read");
        assert_eq!(read.iter().count(), RECEIVERS_MAX);
        let log = log().await;
        assert!(bytes.len() > log.broker().payload_max());
        keep(&log, &roll, &Kept::default()).await.expect("it fits");
        assert_eq!(kept(&log).await.expect("it is asked").roll.iter().count(), RECEIVERS_MAX);
    }

    #[test]
    fn answers_come_at_a_bounded_rate_however_many_there_are() {
        for receivers in [0, 1, 150, 2_000, RECEIVERS_MAX, 1_000_000] {
            let spread = spread(receivers);
            assert!(spread <= SPREAD_MAX);
            if receivers <= RECEIVERS_MAX {
                assert!(receivers as f64 <= spread.as_secs_f64() * ANSWERS_PER_SECOND as f64 + 1.0, "{receivers}");
            }
        }
    }

    #[tokio::test]
    async fn whoever_is_called_answers_and_all_who_listen_hear_it() {
        let log = log().await;
        let mut calls = Calls::listen(&log).await.expect("it listens");
        let mut answers =
            [Answers::listen(&log).await.expect("it listens"), Answers::listen(&log).await.expect("it listens")];
        // What nobody understands stops nobody.
        for word in [Word::Call, Word::Standing] {
            log.broker().say(log.source(), word, Bytes::from_static(b"\xff\xff")).await.expect("it is said");
            log.broker().say(log.source(), word, Bytes::new()).await.expect("it is said");
        }
        call(&log, Duration::from_secs(7)).await.expect("it is said");
        assert_eq!(calls.next().await, Some(Duration::from_secs(7)));
        call(&log, Duration::MAX).await.expect("it is said");
        assert_eq!(calls.next().await, Some(SPREAD_MAX));
        let said = heard("oslo", 3, 0).standing;
        answer(&log, &said).await.expect("it is said");
        for answers in &mut answers {
            assert_eq!(answers.next().await, Some(said.clone()));
        }
    }

    #[tokio::test]
    async fn a_roll_is_kept_in_the_place_of_the_one_before_and_never_over_another() {
        let log = log().await;
        let nobody = kept(&log).await.expect("it is asked");
        assert_eq!(names(&nobody.roll), [""; 0]);
        let mut roll = nobody.roll.clone();
        roll.note(heard("oslo", 3, 10));
        keep(&log, &roll, &nobody).await.expect("it is kept");
        assert!(keep(&log, &roll, &nobody).await.is_err(), "somebody was quicker");
        let mut found = kept(&log).await.expect("it is asked");
        assert_eq!(found.roll, roll);
        found.roll.note(heard("rome", 1, 11));
        keep(&log, &found.roll, &found).await.expect("it is kept");
        assert_eq!(names(&kept(&log).await.expect("it is asked").roll), ["oslo 3", "rome 1"]);
        // What lies there and can't be read is as good as nothing, and is replaced.
        log.broker().append(log.source(), &subject(), Bytes::from_static(b"\xff"), Expect::Any).await.expect("stored");
        let garbage = kept(&log).await.expect("it is asked");
        assert_eq!(names(&garbage.roll), [""; 0]);
        keep(&log, &roll, &garbage).await.expect("it is kept");
        assert_eq!(kept(&log).await.expect("it is asked").roll, roll);
    }
}
