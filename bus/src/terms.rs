//! Terms that the log itself may forget: a claim goes by age as all messages do, but readers that met it still ignore what is of
//! a lower term.
//!
//! Whoever claims a log without knowing all of its claims (its founder too: it may have been lost) writes its term down first, in a
//! record of the snapshot stream, which keeps the last message of each subject. The next one who doesn't know them all begins
//! above that record.

use bytes::Bytes;
use deltabus_proto::v1;
use prost::Message;

use crate::Error;
use crate::broker::{AppendError, Expect, Subject};
use crate::log::Log;
use crate::wire::{self, TERM_MAX};

/// Whoever knows all claims takes the next term and writes nothing down; this many of those can have gone by age.
const UNKNOWN_CLAIMS: u64 = 1 << 20;

/// How often the record is written again when somebody else wrote it, or its acknowledgement is lost.
const ATTEMPTS: u32 = 3;

/// A term above `seen` and all others that readers can have met, kept before it is used.
pub(crate) async fn above_all(log: &Log, seen: u64) -> Result<u64, Error> {
    let snapshot = match crate::pointer(log).await {
        // One that can't be understood leads no reader anywhere.
        Err(Error::Wire { .. } | Error::Newer { .. }) => None,
        pointer => pointer?,
    };
    let seen = seen.max(snapshot.map_or(0, |manifest| manifest.position.term));
    let mut attempt = 0;
    loop {
        let (kept, before) = find(log).await?;
        let seen = seen.max(kept);
        // The time is later than whatever went with a bus that lost the record too.
        let term = seen.saturating_add(UNKNOWN_CLAIMS).max(log.clock().now_millis()).min(TERM_MAX).max(seen + 1);
        match log.broker.append(&log.source, &subject(), encode(term), Expect::SubjectLast(before)).await {
            Ok(_) => return Ok(term),
            Err(AppendError::Conflict | AppendError::Unknown) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The term that was written down last; 0: none.
pub(crate) async fn kept(log: &Log) -> Result<u64, Error> {
    Ok(find(log).await?.0)
}

fn subject() -> Subject {
    Subject::snapshot("term")
}

/// The term that was kept last, and the sequence of its message; 0: there is none.
async fn find(log: &Log) -> Result<(u64, u64), Error> {
    let Some(stored) = log.broker.last(&log.source, &subject()).await? else { return Ok((0, 0)) };
    let term = decode(&stored.payload).unwrap_or_else(|error| {
        tracing::warn!(source = %log.source, %error, "the term that was kept is passed over");
        0
    });
    Ok((term, stored.sequence))
}

fn encode(term: u64) -> Bytes {
    v1::Term { version: wire::VERSION, term }.encode_to_vec().into()
}

fn decode(payload: &Bytes) -> Result<u64, Error> {
    let what = "a term";
    let message = v1::Term::decode(payload.clone()).map_err(|error| wire::wire(what, error))?;
    wire::check_version(what, message.version)?;
    match message.term {
        // There has to be one above it.
        ..TERM_MAX => Ok(message.term),
        term => Err(wire::wire(what, format!("{term} is no term"))),
    }
}
