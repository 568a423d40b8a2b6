//! The source as it was: from the snapshot forward by the log's sets, or back by their inverses.

use std::collections::{BTreeMap, BTreeSet};

use deltabus_bus::{Entry, Event, Position, Reader, Timeline, decode_set, encode_set, history};
use deltabus_interfaces::in_place;
use deltabus_record::change::{Revision, Transaction};
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_state::{Store, View, Working};

use crate::error::Error;
use crate::ledger;

use super::{GROUP_BYTES, GROUP_SETS, Receiver, Round};

/// What the source ever had, as far as the log tells. What of it is not in a state doesn't belong to that state.
#[derive(Debug, Default)]
pub(crate) struct Ever {
    /// By collection: its fields.
    fields: BTreeMap<CollectionName, BTreeSet<String>>,
}

impl Ever {
    /// Over all of a timeline.
    pub(crate) fn of(timeline: &Timeline) -> Ever {
        let mut ever = Ever::default();
        let schemas = timeline.steps().iter().flat_map(|step| &step.schemas);
        for collection in schemas.flat_map(|schema| schema.before.iter().chain(&schema.after)) {
            let names = collection.schema.ordered().into_iter().map(|(_, field)| field.name.clone());
            ever.fields.entry(collection.name.clone()).or_default().extend(names);
        }
        ever
    }

    /// Fields of a collection that it doesn't have as it stands in `then`.
    pub(super) fn other_fields<'a>(&'a self, then: &'a Collection) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.get(&then.name).into_iter().flatten().map(String::as_str);
        fields.filter(|name| then.schema.slot(name).is_none())
    }

    /// Whether the source had a collection that is not in `then`.
    pub(super) fn other(&self, name: &CollectionName, then: &View) -> bool {
        self.fields.contains_key(name) && then.collection(name).is_none()
    }
}

impl Receiver {
    /// Makes the base the source's state of `target`, a revision of `timeline`. `spool` is an empty store for sets.
    pub(crate) async fn base_at(
        &mut self,
        timeline: &Timeline,
        target: Revision,
        spool: &Store,
        round: &mut Round,
    ) -> Result<(), Error> {
        let reached = self.join(round).await?.revision;
        if target.number < reached.number {
            self.spool(timeline, target, reached, spool).await?;
            in_place(|| self.back_to(target, spool))
        } else {
            self.forward_to(Some(target.number)).await?;
            match self.position()?.is_some_and(|position| position.revision == target) {
                true => Ok(()),
                false => Err(self.unreachable(target.number)),
            }
        }
    }

    /// Applies the log's sets to the base, and to nothing else, until it is at revision `target`, or at the log's end.
    pub(crate) async fn forward_to(&mut self, target: Option<u64>) -> Result<(), Error> {
        let position = self.position()?.unwrap_or_default();
        if target.is_some_and(|target| target <= position.revision.number) {
            return Ok(());
        }
        let mut reader = Reader::at(&self.log, position);
        let mut steps = Vec::new();
        let (mut bytes, mut at) = (0, position);
        loop {
            let event = reader.next_stored().await?;
            let done = match event {
                Event::Set(delivered) => {
                    at = delivered.position;
                    bytes += delivered.bytes;
                    let next = delivered.set.next;
                    steps.push(Step { transactions: delivered.set.transactions, next });
                    target == Some(next.number)
                }
                Event::CaughtUp(_) if target.is_none() => true,
                Event::CaughtUp(_) | Event::Rejoin(_) => {
                    return Err(self.unreachable(target.unwrap_or(at.revision.number + 1)));
                }
            };
            if done || bytes >= GROUP_BYTES || steps.len() >= GROUP_SETS {
                in_place(|| self.walk(&steps, &at))?;
                steps.clear();
                bytes = 0;
            }
            if done {
                return Ok(());
            }
        }
    }

    /// Where the base is.
    pub(crate) fn position(&self) -> Result<Option<Position>, Error> {
        ledger::position(&self.store.view())
    }

    pub(super) fn unreachable(&self, revision: u64) -> Error {
        Error::Unreachable { source_name: self.config.source.clone(), revision }
    }

    /// Keeps the sets between two revisions, so that they can be gone through backwards.
    async fn spool(&self, timeline: &Timeline, after: Revision, to: Revision, spool: &Store) -> Result<(), Error> {
        let wanted = |revision: &Revision| {
            let between = revision.number > after.number && revision.number <= to.number;
            between && timeline.find(revision.number).is_some_and(|step| step.revision == *revision)
        };
        let mut batch = spool.batch();
        let mut bytes = 0;
        let mut failed = None;
        history(&self.log, &mut |entry| {
            let Entry::Set(delivered) = entry else { return };
            if failed.is_some() || !wanted(&delivered.set.next) {
                return;
            }
            let set = encode_set(&delivered.set).0;
            bytes += set.len() as u64;
            batch.outbox_put(delivered.set.next.number, &set);
            if bytes >= GROUP_BYTES {
                bytes = 0;
                failed = std::mem::replace(&mut batch, spool.batch()).commit().err();
            }
        })
        .await?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(batch.commit()?),
        }
    }

    /// Undoes sets, the newest first, until the base is at `target`.
    fn back_to(&mut self, target: Revision, spool: &Store) -> Result<(), Error> {
        let lost = || self.unreachable(target.number);
        let position = self.position()?.unwrap_or_default();
        let kept = spool.view();
        let mut at = position.revision;
        let mut steps = Vec::new();
        let mut bytes = 0;
        while at != target {
            let entry = kept.outbox(at.number).next().transpose()?;
            let Some((_, encoded)) = entry.filter(|(number, _)| *number == at.number) else { return Err(lost()) };
            let set = decode_set(&encoded)?;
            if set.next != at || set.base.number < target.number {
                return Err(lost());
            }
            bytes += encoded.len() as u64;
            at = set.base;
            steps.push(Step {
                transactions: set.transactions.into_iter().rev().map(Transaction::invert).collect(),
                next: at,
            });
            if at == target || bytes >= GROUP_BYTES || steps.len() >= GROUP_SETS {
                self.walk(&steps, &Position { revision: at, ..position })?;
                steps.clear();
                bytes = 0;
            }
        }
        Ok(())
    }

    /// Applies steps to the base, each proven by the digest that it leads to, and remembers where that is.
    fn walk(&self, steps: &[Step], position: &Position) -> Result<(), Error> {
        let view = self.store.view();
        let digest = ledger::position(&view)?.unwrap_or_default().revision.digest;
        let mut working = Working::new(&view, digest);
        for step in steps {
            for transaction in &step.transactions {
                working.apply(transaction)?;
            }
            if working.digest() != step.next.digest {
                return Err(Error::Digest { source_name: self.config.source.clone(), revision: step.next.number });
            }
        }
        let mut batch = self.store.batch();
        working.write(&mut batch)?;
        ledger::put_position(&mut batch, position)?;
        Ok(batch.commit()?)
    }
}

/// What leads from one revision to another.
struct Step {
    transactions: Vec<Transaction>,
    next: Revision,
}
