//! Reverse sets on their way to the transmitter.

use deltabus_record::change::ReverseSet;
use deltabus_record::schema::ReceiverName;
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;
use crate::broker::{AppendError, Expect, Stream, Subject};
use crate::log::Log;
use crate::reader::READ_BYTES;
use crate::wire;

/// A place among the reverse sets of all receivers: all up to it were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReversePlace {
    /// The stream sequence; 0: none was taken.
    pub sequence: u64,
    /// The hash (xxh3, 64 bits) of what lies there, as far as known.
    pub check: Option<u64>,
}

/// A reverse set as it lies on the bus.
#[derive(Debug)]
pub struct Reversed {
    /// Where it lies.
    pub place: ReversePlace,
    /// How many bytes it takes there.
    pub bytes: u64,
    /// The set, or why it can't be understood.
    pub set: Result<ReverseSet, Error>,
}

/// The last reverse set that the bus has of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LastReverse {
    /// Its place among all receivers' reverse sets; 0 if there is none.
    pub sequence: u64,
    /// Its number; 0 if there is none, or it can't be understood.
    pub number: u64,
}

impl Log {
    /// Sends a reverse set if `last` still is the receiver's last; `None` if it isn't: somebody else sends under this name.
    ///
    /// Fails with [`AppendError::Unknown`] where nobody answered; [`Log::stored_reverse`] tells what came of it.
    pub async fn send_reverse(&self, set: &ReverseSet, last: LastReverse) -> Result<Option<LastReverse>, Error> {
        let subject = Subject::reverse(&set.id.receiver);
        let payload = wire::encode_reverse(set);
        match self.broker.append(&self.source, &subject, payload, Expect::SubjectLast(last.sequence)).await {
            Ok(sequence) => Ok(Some(LastReverse { sequence, number: set.id.number })),
            Err(AppendError::Conflict) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The last reverse set that the bus has of a receiver.
    pub async fn last_reverse(&self, receiver: &ReceiverName) -> Result<LastReverse, Error> {
        let last = self.broker.last(&self.source, &Subject::reverse(receiver)).await?;
        Ok(last.map_or(LastReverse::default(), |stored| {
            let number = wire::decode_reverse(receiver, &stored.payload).map_or(0, |set| set.id.number);
            LastReverse { sequence: stored.sequence, number }
        }))
    }

    /// Which of these sets, all of one receiver, the bus has, each exactly as it is.
    pub async fn stored_reverse(&self, sets: &[&ReverseSet]) -> Result<Vec<bool>, Error> {
        let Some(receiver) = sets.first().map(|set| &set.id.receiver) else { return Ok(Vec::new()) };
        let subject = Subject::reverse(receiver);
        let wanted: Vec<_> = sets.iter().map(|set| wire::encode_reverse(set)).collect();
        let mut there = vec![false; sets.len()];
        let mut after = 0;
        loop {
            let batch = self.broker.read_subject(&self.source, &subject, after + 1, READ_BYTES).await?;
            let Some(last) = batch.last() else { return Ok(there) };
            after = last.sequence;
            for stored in &batch {
                for (there, payload) in there.iter_mut().zip(&wanted) {
                    *there |= stored.payload == *payload;
                }
            }
        }
    }

    /// Reverse sets after `after`, in order; empty at the end. If what was taken there is no longer what lies there, the bus
    /// lost it and went on: then all that there are come once more.
    pub async fn reverse_sets(&self, after: ReversePlace) -> Result<Vec<Reversed>, Error> {
        let read = |from| self.broker.read(&self.source, Stream::Reverse, from, READ_BYTES);
        let mut batch = read(after.sequence.max(1)).await?;
        match batch.first() {
            Some(first) if first.sequence == after.sequence => {
                if after.check.is_some_and(|check| check != xxh3_64(&first.payload)) {
                    batch = read(1).await?;
                } else if batch.len() == 1 && first.payload.len() >= READ_BYTES / 2 {
                    batch = read(after.sequence + 1).await?;
                } else {
                    batch.remove(0);
                }
            }
            // What was taken there has expired, or nothing was taken yet.
            Some(_) => {}
            None if after.sequence > 0 => {
                let extent = self.broker.extent(&self.source, Stream::Reverse).await?;
                if extent.is_some_and(|extent| extent.last < after.sequence) {
                    batch = read(1).await?;
                }
            }
            None => {}
        }
        let decode = |stored: crate::broker::Stored| {
            let receiver = stored.tail.strip_prefix("reverse.").unwrap_or_default();
            let set = ReceiverName::new(receiver)
                .map_err(|error| wire::wire("a reverse set", error))
                .and_then(|receiver| wire::decode_reverse(&receiver, &stored.payload));
            let check = Some(xxh3_64(&stored.payload));
            let place = ReversePlace { sequence: stored.sequence, check };
            Reversed { place, bytes: stored.payload.len() as u64, set }
        };
        Ok(batch.into_iter().map(decode).collect())
    }
}
