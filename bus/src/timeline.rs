//! Which revisions can still be had: those that lead without a break to the log's end.

use deltabus_record::change::{Revision, SchemaChange};

use crate::Error;
use crate::broker::Stream;
use crate::log::{Log, Position};
use crate::reader::{Entry, history, history_between};
use crate::snapshot::pointer;

/// A revision is looked for this many messages back first, then ever farther: after a set come at most some claims.
const LOOK_BACK: u64 = 16;

/// The revisions of a source that snapshot and log lead to, oldest first, each by a set from the one before.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    steps: Vec<Step>,
}

/// One revision.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which.
    pub revision: Revision,
    /// Since when it was the source's, in milliseconds since 1970-01-01T00:00:00Z; `None`: the log no longer says.
    pub time_millis: Option<u64>,
    /// What the set that led to it changed of the collections.
    pub schemas: Vec<SchemaChange>,
}

impl Timeline {
    /// Reads the whole log. Empty for a source that was never published.
    pub async fn read(log: &Log) -> Result<Timeline, Error> {
        let mut timeline = Timeline::default();
        history(log, &mut |entry| timeline.note(&entry)).await?;
        if timeline.steps.is_empty()
            && let Some(manifest) = pointer(log).await?
        {
            // All sets have expired, and nothing has changed since.
            let (revision, time_millis) = (manifest.position.revision, Some(manifest.time_millis));
            timeline.steps.push(Step { revision, time_millis, schemas: Vec::new() });
        }
        Ok(timeline)
    }

    /// Takes in the next entry of the log. One that doesn't lead on ends everything before it.
    pub fn note(&mut self, entry: &Entry) {
        match entry {
            Entry::Foundation { revision, time_millis } => match self.steps.last_mut() {
                Some(last) if last.revision == *revision => {
                    last.time_millis.get_or_insert(*time_millis);
                }
                _ => {
                    let (revision, time_millis) = (*revision, Some(*time_millis));
                    self.steps = vec![Step { revision, time_millis, schemas: Vec::new() }];
                }
            },
            Entry::Set(delivered) => {
                let set = &delivered.set;
                if self.steps.last().is_none_or(|last| last.revision != set.base) {
                    self.steps = vec![Step { revision: set.base, time_millis: None, schemas: Vec::new() }];
                }
                let schemas = set.transactions.iter().flat_map(|transaction| &transaction.schemas).cloned().collect();
                self.steps.push(Step { revision: set.next, time_millis: Some(set.time_millis), schemas });
            }
        }
    }

    /// All of them, oldest first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The revision of this number.
    pub fn find(&self, number: u64) -> Option<&Step> {
        let first = self.steps.first()?.revision.number;
        self.steps.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// The revision that the source was at then; `None` if that is not known any more, or it was not there yet.
    pub fn as_of(&self, time_millis: u64) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.time_millis.is_some_and(|since| since <= time_millis))
    }
}

/// What the log itself says of the revision that a reader at `position` has reached: the set or foundation that led to it, or
/// the snapshot of it. `None`: it is no longer retained.
pub async fn confirmed(log: &Log, position: Position) -> Result<Option<Revision>, Error> {
    let number = position.revision.number;
    let manifest = pointer(log).await?.map(|manifest| manifest.position.revision);
    if let Some(revision) = manifest.filter(|revision| revision.number == number) {
        return Ok(Some(revision));
    }
    let extent = log.broker.extent(&log.source, Stream::Changes).await?.unwrap_or_default();
    // One further: a position amid sets that were stored together is before their message.
    let last = position.sequence + 1;
    let mut back = LOOK_BACK;
    loop {
        let first = last.saturating_sub(back).max(extent.first);
        let mut found = None;
        let mut take = |entry| {
            let (base, next) = match &entry {
                Entry::Set(delivered) => (Some(delivered.set.base), delivered.set.next),
                Entry::Foundation { revision, .. } => (None, *revision),
            };
            found = [base, Some(next)].into_iter().flatten().find(|revision| revision.number == number).or(found);
        };
        history_between(log, first, last, &mut take).await?;
        if found.is_some() || first <= extent.first {
            return Ok(found);
        }
        back = back.saturating_mul(LOOK_BACK);
    }
}
