//! The lease: which transmitter of a source is active, for those who stand by to take its place.
//!
//! One record in the snapshot stream, which keeps the last message of each subject, written with compare-and-set. The active one
//! renews it; whoever stands by looks at it, and takes it over once it has stood unchanged for longer than it says. No
//! clocks are compared: the time is taken by the clock of whoever looks, from the look that first showed the record.
//!
//! It says who is alive, and fences nobody: two who both take themselves for active are told apart by the log's claims. What
//! it adds is that a holder knows by its own clock, without asking anybody, until when nobody can have taken its place
//! ([`Lease::good_until`]).

use std::time::Duration;

use bytes::Bytes;
use deltabus_proto::v1;
use prost::Message;
use tokio::time::Instant;

use crate::Error;
use crate::broker::{AppendError, BrokerError, Expect, Stored, Subject};
use crate::log::Log;
use crate::wire;

/// A record stands for a living holder this long: several renewals, so that a slow answer or a short stall of the bus makes
/// nobody take over.
pub const GOOD_FOR: Duration = Duration::from_secs(5);

/// How often a holder renews it.
pub const RENEW: Duration = Duration::from_secs(1);

/// No record counts for longer, whatever it says.
const GOOD_FOR_MAX: Duration = Duration::from_secs(60);

/// A holder's name has at most so many bytes.
pub const HOLDER_BYTES_MAX: usize = 256;

/// How often a record is written again when its acknowledgement is lost.
const ATTEMPTS: u32 = 3;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds the lease, or held it last.
    pub holder: String,
    /// The term it writes the log in; 0 as long as it has claimed none.
    pub term: u64,
    /// It holds it no longer.
    pub released: bool,
    nonce: u64,
    renewal: u64,
    good_for: Duration,
}

/// The record as it was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What it says; `None` if there is none, or none that can be understood.
    pub record: Option<Record>,
    /// The sequence of its message; 0: there is none.
    sequence: u64,
    payload: Bytes,
}

impl Found {
    /// Who holds the lease, as far as the record says.
    pub fn holder(&self) -> Option<&str> {
        self.record.as_ref().filter(|record| !record.released).map(|record| record.holder.as_str())
    }
}

/// Reads the record. A source that the broker doesn't have yet has none.
pub async fn find(log: &Log) -> Result<Found, Error> {
    match log.broker.last(&log.source, &subject()).await {
        Ok(Some(stored)) => Ok(found(stored)),
        Ok(None) | Err(BrokerError::NoSource { .. }) => Ok(Found::default()),
        Err(error) => Err(error.into()),
    }
}

fn found(stored: Stored) -> Found {
    let record = match decode(&stored.payload) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::debug!(error = crate::causes(&error), "the record of who is active is passed over");
            None
        }
    };
    Found { record, sequence: stored.sequence, payload: stored.payload }
}

/// The lease in the hands of its holder. Dropped without [`Lease::release`], it runs out.
pub struct Lease {
    log: Log,
    record: Record,
    sequence: u64,
    good_until: Instant,
}

/// Whether a lease is still its holder's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is.
    Still,
    /// Somebody else has taken it.
    Lost {
        /// Who.
        by: String,
    },
}

impl Lease {
    /// Takes the lease in the place of what was found; `None` if somebody was quicker.
    pub async fn take(log: &Log, holder: &str, found: &Found) -> Result<Option<Lease>, Error> {
        let holder = holder.chars().take(HOLDER_BYTES_MAX / char::MAX.len_utf8()).collect();
        let record =
            Record { holder, term: 0, released: false, nonce: log.clock().fresh(), renewal: 0, good_for: GOOD_FOR };
        let start = Instant::now();
        let stored = put(log, &record, found.sequence).await?;
        Ok(stored.map(|sequence| Lease { log: log.clone(), record, sequence, good_until: start + GOOD_FOR }))
    }

    /// Until when nobody can have taken it, by this process's clock: counted from before the last renewal was sent, and
    /// whoever stands by counts from after it arrived.
    pub fn good_until(&self) -> Instant {
        self.good_until
    }

    /// Says that the holder lives, and the term that it writes in. After an error it may be called again.
    pub async fn renew(&mut self, term: u64) -> Result<Kept, Error> {
        let start = Instant::now();
        let record = Record { term, renewal: self.record.renewal + 1, ..self.record.clone() };
        if let Some(sequence) = put(&self.log, &record, self.sequence).await? {
            (self.record, self.sequence, self.good_until) = (record, sequence, start + GOOD_FOR);
            return Ok(Kept::Still);
        }
        let there = find(&self.log).await?;
        match there.record {
            // An earlier renewal that was taken for lost, or a bus that lost the record.
            Some(record) if record.nonce == self.record.nonce => {
                self.record.renewal = record.renewal;
                self.sequence = there.sequence;
                Ok(Kept::Still)
            }
            None => {
                self.sequence = there.sequence;
                Ok(Kept::Still)
            }
            Some(record) => Ok(Kept::Lost { by: record.holder }),
        }
    }

    /// Gives it back: whoever stands by needs not wait.
    pub async fn release(self) -> Result<(), Error> {
        let record = Record { released: true, renewal: self.record.renewal + 1, ..self.record };
        put(&self.log, &record, self.sequence).await.map(drop)
    }
}

/// Looks at the record again and again, and knows how long it has stood unchanged.
pub struct Watch {
    log: Log,
    found: Found,
    /// When it was first found like this, in a row of looks that all succeeded.
    since: Option<Instant>,
}

impl Watch {
    /// Nothing is asked yet.
    pub fn new(log: &Log) -> Watch {
        Watch { log: log.clone(), found: Found::default(), since: None }
    }

    /// Looks once. A look that fails begins the count anew: where the bus can't be reached, its holder can't renew it.
    pub async fn look(&mut self) -> Result<&Found, Error> {
        match find(&self.log).await {
            Ok(found) => {
                let same = found.sequence == self.found.sequence && found.payload == self.found.payload;
                if self.since.is_none() || !same {
                    self.since = Some(Instant::now());
                }
                self.found = found;
                Ok(&self.found)
            }
            Err(error) => {
                self.since = None;
                Err(error)
            }
        }
    }

    /// What the last look found.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Who holds the lease as far as can be seen: not one who has let it run out.
    pub fn holder(&self) -> Option<&str> {
        self.found.holder().filter(|_| !self.has_run_out())
    }

    /// How long the record has stood unchanged.
    pub fn unchanged(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the record has stood for longer than it is good for.
    pub fn has_run_out(&self) -> bool {
        self.found.record.as_ref().is_some_and(|record| self.unchanged() > record.good_for)
    }
}

fn subject() -> Subject {
    Subject::snapshot("lease")
}

/// Writes the record after message `before`; `None` if that is no longer the last. What became of it is never guessed at.
async fn put(log: &Log, record: &Record, before: u64) -> Result<Option<u64>, Error> {
    let payload = encode(record);
    let mut attempt = 0;
    loop {
        let expect = Expect::SubjectLast(before);
        let failed = match log.broker.append(&log.source, &subject(), payload.clone(), expect).await {
            Ok(sequence) => return Ok(Some(sequence)),
            Err(error @ (AppendError::Conflict | AppendError::Unknown)) => error,
            Err(error) => return Err(error.into()),
        };
        let there = find(log).await?;
        match there.sequence {
            sequence if there.payload == payload && sequence > 0 => return Ok(Some(sequence)),
            sequence if sequence != before => return Ok(None),
            _ if attempt < ATTEMPTS => attempt += 1,
            _ => return Err(failed.into()),
        }
    }
}

fn encode(record: &Record) -> Bytes {
    let message = v1::Lease {
        version: wire::VERSION,
        holder: record.holder.clone(),
        nonce: record.nonce,
        term: record.term,
        renewal: record.renewal,
        good_for_millis: record.good_for.as_millis() as u64,
        released: record.released,
    };
    message.encode_to_vec().into()
}

fn decode(payload: &Bytes) -> Result<Record, Error> {
    let what = "a lease";
    let message = v1::Lease::decode(payload.clone()).map_err(|error| wire::wire(what, error))?;
    wire::check_version(what, message.version)?;
    if message.holder.len() > HOLDER_BYTES_MAX {
        return Err(wire::wire(what, format!("its holder's name has more than {HOLDER_BYTES_MAX} bytes")));
    }
    Ok(Record {
        holder: message.holder,
        term: message.term,
        released: message.released,
        nonce: message.nonce,
        renewal: message.renewal,
        good_for: Duration::from_millis(message.good_for_millis).min(GOOD_FOR_MAX),
    })
}
