//! Reverse sets on their way to the transmitter.

use deltabus_record::change::ReverseSet;
use deltabus_record::schema::ReceiverName;

use crate::Error;
use crate::broker::{AppendError, Expect, Stream, Subject};
use crate::log::Log;
use crate::reader::READ_BYTES;
use crate::wire;

/// A reverse set as it lies on the bus.
#[derive(Debug)]
pub struct Reversed {
    /// Its place among all receivers' reverse sets.
    pub sequence: u64,
    /// The set, or why it can't be understood.
    pub set: Result<ReverseSet, Error>,
}

impl Log {
    /// Sends a reverse set. It may arrive twice: the transmitter takes each number once.
    pub async fn send_reverse(&self, set: &ReverseSet) -> Result<(), Error> {
        let subject = Subject::reverse(&set.id.receiver);
        let payload = wire::encode_reverse(set);
        match self.broker.append(&self.source, &subject, payload, Expect::Any).await {
            Ok(_) => Ok(()),
            Err(AppendError::TooLarge { bytes }) => Err(AppendError::TooLarge { bytes }.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The number of the last reverse set that the bus has of a receiver; 0 if none.
    pub async fn last_reverse(&self, receiver: &ReceiverName) -> Result<u64, Error> {
        let last = self.broker.last(&self.source, &Subject::reverse(receiver)).await?;
        Ok(match last {
            Some(stored) => wire::decode_reverse(receiver, &stored.payload).map_or(0, |set| set.id.number),
            None => 0,
        })
    }

    /// Reverse sets after place `after`, in order; empty at the end.
    pub async fn reverse_sets(&self, after: u64) -> Result<Vec<Reversed>, Error> {
        let batch = self.broker.read(&self.source, Stream::Reverse, after + 1, READ_BYTES).await?;
        let decode = |stored: crate::broker::Stored| {
            let receiver = stored.tail.strip_prefix("reverse.").unwrap_or_default();
            let set = ReceiverName::new(receiver)
                .map_err(|error| wire::wire("a reverse set", error))
                .and_then(|receiver| wire::decode_reverse(&receiver, &stored.payload));
            Reversed { sequence: stored.sequence, set }
        };
        Ok(batch.into_iter().map(decode).collect())
    }
}
