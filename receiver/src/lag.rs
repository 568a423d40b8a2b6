//! How far a destination is behind its source's log, also while nothing gets on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deltabus_bus::{Error, Event, Log, Position, Reader};
use metrics::gauge;

use crate::metrics as figures;

/// A receiver's lag, to be measured by whoever wants to know it, apart from the receiver's own work: that may hang in a
/// destination for hours, or not get as far as reading.
#[derive(Clone)]
pub struct Lag {
    log: Log,
    labels: [(&'static str, String); 2],
    standing: Arc<Mutex<Standing>>,
}

#[derive(Clone, Copy, Default)]
struct Standing {
    /// What the destination is at.
    reached: Position,
    /// The last revision that is known to be in the log.
    known: u64,
    /// Whether what comes live is followed, so that `known` is the log's end.
    follows: bool,
    /// What is lacked first, as far as it was looked at.
    oldest: Option<Oldest>,
}

#[derive(Clone, Copy)]
struct Oldest {
    /// The number of the revision reached then.
    after: u64,
    time_millis: u64,
}

impl Lag {
    pub(crate) fn new(log: &Log, labels: [(&'static str, String); 2], reached: Position) -> Lag {
        let known = reached.revision.number;
        let standing = Standing { reached, known, ..Standing::default() };
        Lag { log: log.clone(), labels, standing: Arc::new(Mutex::new(standing)) }
    }

    /// The destination is there now.
    pub(crate) fn reached(&self, position: Position) {
        self.standing().reached = position;
    }

    /// The log has this revision.
    pub(crate) fn known(&self, number: u64) {
        let mut standing = self.standing();
        standing.known = standing.known.max(number);
    }

    /// The log's end was reached, and what comes is followed from here on.
    pub(crate) fn follows(&self, end: Position) {
        let mut standing = self.standing();
        standing.follows = true;
        standing.known = standing.known.max(end.revision.number);
    }

    /// Nothing is followed any more.
    pub(crate) fn lost(&self) {
        self.standing().follows = false;
    }

    /// Measures it and sets the figures. The bus is asked only while something is lacked, or may be.
    pub async fn measure(&self) -> Result<(), Error> {
        let mut standing = *self.standing();
        let known_before = standing.known;
        let reached = standing.reached.revision.number;
        if !standing.follows || standing.known > reached {
            // One whose position is the log's end knows it; the log may have been founded anew with a smaller number.
            if let Some(end) = self.log.end().await? {
                standing.known = end;
            }
        }
        let lacked = standing.known.saturating_sub(reached);
        if lacked > 0 && standing.oldest.is_none_or(|oldest| oldest.after != reached) {
            let now = self.log.clock().now_millis();
            let first = Reader::at(&self.log, standing.reached).next_stored().await?;
            let time_millis = match first {
                Event::Set(set) => set.set.time_millis,
                // Where the log doesn't lead on, it is as old as it was seen to be.
                Event::CaughtUp(_) | Event::Rejoin(_) => now,
            };
            standing.oldest = Some(Oldest { after: reached, time_millis });
        }
        let now = self.log.clock().now_millis();
        let oldest = standing.oldest.filter(|_| lacked > 0);
        let age_millis = oldest.map_or(0, |oldest| now.saturating_sub(oldest.time_millis));
        gauge!(figures::LAG_SETS, &self.labels).set(lacked as f64);
        gauge!(figures::LAG_SECONDS, &self.labels).set(age_millis as f64 / 1000.0);
        let mut kept = self.standing();
        kept.oldest = standing.oldest;
        if kept.known == known_before {
            kept.known = standing.known;
        }
        Ok(())
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
