//! Bringing change sets to the destination and the base.

use std::collections::BTreeSet;
use std::time::Instant;

use deltabus_bus::{Delivered, Position};
use deltabus_interfaces::{Action, CollectionWrite, Error as InterfaceError, RecordWrite, Stamp, in_place};

use deltabus_record::diff;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_record::value::Value;
use deltabus_state::Working;
use metrics::{counter, gauge, histogram};

use crate::config::OnError;
use crate::error::Error;
use crate::ledger::{self, Journal};
use crate::metrics as figures;
use crate::outlet::Outlet;

use super::{DESTINATION_ATTEMPTS, Receiver, Round, settled, write};

impl Receiver {
    /// Brings a group of sets to the destination and the base; `false` if they don't fit and a snapshot is needed.
    pub(super) async fn apply(&mut self, sets: Vec<Delivered>, round: &mut Round) -> Result<bool, Error> {
        let reached = ledger::position(&self.store.view())?.unwrap_or_default();
        let sets: Vec<_> = sets.into_iter().filter(|set| set.set.next.number > reached.revision.number).collect();
        if sets.is_empty() {
            return Ok(true);
        }
        // What the destination has already, and what it hasn't, go separately. One that is to be made equal anyway gets all
        // of it then.
        let equal_later = ledger::reconcile(&self.store.view())?;
        let has_it = |set: &Delivered| self.ahead.is_some_and(|ahead| set.set.next.number <= ahead);
        let (had, new): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| equal_later || has_it(set));
        let had = runs(had).into_iter().map(|run| (run, Destination::HasIt));
        let new = runs(new).into_iter().map(|run| (run, Destination::Lacks));
        for (group, destination) in had.chain(new) {
            let mut attempt = 0;
            let fits = loop {
                if destination == Destination::Lacks {
                    if self.ahead.take().is_some() {
                        let mut batch = self.store.batch();
                        ledger::put_stamp(&mut batch, None)?;
                        batch.commit()?;
                        self.stamp = None;
                    }
                    // Edits made here count as made before these sets.
                    self.tend(round).await?;
                }
                self.settle_numbers(self.answered_by(&group)).await?;
                match in_place(|| self.apply_now(&group, destination, round)) {
                    Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < DESTINATION_ATTEMPTS => {
                        attempt += 1;
                        self.stamp = None;
                    }
                    Err(Error::Apply(error)) => {
                        tracing::warn!(%error, "joining again by snapshot");
                        break false;
                    }
                    Err(error @ Error::Digest { .. }) => {
                        tracing::warn!(%error, "joining again by snapshot");
                        break false;
                    }
                    result => {
                        result?;
                        break true;
                    }
                }
            };
            if !fits {
                return Ok(false);
            }
        }
        if self.ahead.is_some_and(|ahead| {
            ledger::position(&self.store.view()).ok().flatten().is_some_and(|at| at.revision.number >= ahead)
        }) {
            self.ahead = None;
            self.stamp = None;
            self.tend(round).await?;
        } else {
            self.send().await?;
        }
        Ok(true)
    }

    /// The last of this receiver's reverse sets that these sets answer; 0 if they answer none.
    fn answered_by(&self, sets: &[Delivered]) -> u64 {
        let replies = sets.iter().flat_map(|set| &set.set.replies);
        let mine = replies.filter(|reply| reply.reverse.receiver == self.config.name);
        mine.map(|reply| reply.reverse.number).max().unwrap_or_default()
    }

    fn apply_now(&mut self, sets: &[Delivered], destination: Destination, round: &mut Round) -> Result<(), Error> {
        let start = Instant::now();
        let view = self.store.view();
        let position = ledger::position(&view)?.unwrap_or_default();
        let mut working = Working::new(&view, position.revision.digest);
        let answered = self.answered_by(sets);
        let mut next = position;
        let mut bytes = 0;
        for Delivered { set, position, bytes: size } in sets {
            for transaction in &set.transactions {
                working.apply(transaction)?;
            }
            if working.digest() != set.next.digest {
                let source_name = self.config.source.clone();
                return Err(Error::Digest { source_name, revision: set.next.number });
            }
            next = *position;
            bytes += size;
        }
        let (pending, done) = self.pending.answered(answered);
        let mut batch = self.store.batch();
        let mut stamp = self.stamp.clone();
        let mut schemas_changed = false;
        let mut adopts = false;
        let mut written: Vec<(CollectionName, Key)> = Vec::new();
        if destination == Destination::Lacks {
            let found = self.found.clone().unwrap_or_default();
            schemas_changed = working.collections() != view.collections();
            let outlets = self.outlets(working.collections(), &found)?;
            adopts = schemas_changed && outlets.iter().any(|outlet| outlet.adopts(view.collection(outlet.name())));
            let mut records: BTreeSet<(CollectionName, Key)> =
                working.touched().map(|(collection, key, _)| (collection.clone(), key.clone())).collect();
            if !done.is_empty() {
                records.extend(self.pending.records());
            }
            let known = |collection: &CollectionName, key: &Key| -> Result<Option<Row>, Error> {
                let mut row = Vec::new();
                Ok(view.get(collection, key.as_bytes(), &mut row)?.then(|| Row::from_trusted(row)))
            };
            let mut equals = BTreeSet::new();
            for (name, key) in &records {
                let Some(outlet) = outlets.iter().find(|outlet| outlet.name() == name && outlet.counted()) else {
                    continue;
                };
                // Edits may have taken or put others of the equal rows than those that the sets speak of.
                let content = outlet.source.schema.key_content(key);
                let source = &outlet.source;
                let before = self.pending.count_on_top(source, content, |key| outlet.wanted(known(name, key)?))?;
                let after = pending.count_on_top(source, content, |key| outlet.wanted(working.get(name, key)?))?;
                let between = before.min(after)..before.max(after);
                equals.extend(between.map(|occurrence| (name.clone(), diff::counted(content, occurrence))));
            }
            records.extend(equals);
            let mut upcoming = Vec::new();
            let mut writes: Vec<Vec<RecordWrite>> = outlets.iter().map(|_| Vec::new()).collect();
            for (collection, key) in &records {
                let Some(at) = outlets.iter().position(|outlet| outlet.name() == collection) else { continue };
                let outlet = &outlets[at];
                let source = &outlet.source;
                let before = self.pending.on_top(source, key, |key| outlet.wanted(known(collection, key)?))?;
                let after = pending.on_top(source, key, |key| outlet.wanted(working.get(collection, key)?))?;
                if before == after {
                    continue;
                }
                if let Some(after) = &after {
                    let had = before.as_ref().map(|before| before.as_bytes()).unwrap_or_default();
                    let had: Vec<_> = outlets[at].references(had).collect();
                    upcoming.extend(outlets[at].references(after.as_bytes()).filter(|large| !had.contains(large)));
                }
                match write(&outlets[at], before.as_ref(), after.as_ref()) {
                    Ok(write) => {
                        writes[at].extend(write);
                        written.push((collection.clone(), key.clone()));
                    }
                    Err(error) if self.config.on_error == OnError::DeadLetter && is_refusal(&error) => {
                        round.dead_letters += 1;
                        self.dead_letter(&mut batch, next.revision.number, collection, key, &error)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            for (outlet, writes) in outlets.iter().zip(&mut writes) {
                *writes = settled(outlet, std::mem::take(writes));
            }
            if !upcoming.is_empty() {
                self.large.announce(upcoming);
            }
            if self.config.on_error == OnError::DeadLetter {
                self.sort_out(&outlets, &mut writes, next.revision.number, &mut batch, round)?;
            }
            round.changes += writes.iter().map(|writes| writes.len() as u64).sum::<u64>();
            for (outlet, writes) in outlets.iter().zip(&writes).filter(|(_, writes)| !writes.is_empty()) {
                let mut labels = self.labels().to_vec();
                labels.push(("collection", outlet.name().to_string()));
                counter!(figures::CHANGES_APPLIED, &labels).increment(writes.len() as u64);
            }
            let all = collection_writes(&outlets, &writes, schemas_changed);
            let gone: Vec<Collection> = view
                .collections()
                .iter()
                .filter(|known| !self.interface.single_collection() && working.collection(&known.name).is_none())
                .filter(|known| found.iter().any(|found| found.name == known.name))
                .cloned()
                .collect();
            stamp = self.write_destination(all, &gone, &next)?.or(stamp);
        }
        working.write(&mut batch)?;
        for number in done {
            batch.outbox_remove(number);
        }
        if answered > ledger::reverse_number(&view)? {
            // No further set may have a number that was answered: somebody else had it.
            ledger::put_reverse_number(&mut batch, answered)?;
        }
        ledger::put_position(&mut batch, &next)?;
        ledger::put_journal(&mut batch, None)?;
        if adopts {
            // What stands in a field that was the destination's own has to be looked at; the index knows nothing of it.
            stamp = None;
            self.index = None;
        }
        if stamp != self.stamp {
            ledger::put_stamp(&mut batch, stamp.as_ref())?;
            ledger::put_index(&mut batch, None)?;
        }
        batch.commit()?;
        for (collection, key) in written {
            let content = match working.collection(&collection) {
                Some(collection) => collection.schema.key_content(&key).to_vec(),
                None => key.as_bytes().to_vec(),
            };
            self.stale.entry(collection).or_default().insert(content);
        }
        self.stamp = stamp;
        self.pending = pending;
        if schemas_changed && destination == Destination::Lacks {
            self.found = Some(self.collections()?);
        }
        round.sets += sets.len() as u64;
        counter!(figures::SETS_APPLIED, &self.labels()).increment(sets.len() as u64);
        counter!(figures::BYTES_RECEIVED, &self.labels()).increment(bytes);
        gauge!(figures::REVISION, &self.labels()).set(next.revision.number as f64);
        histogram!(figures::APPLY_SECONDS, &self.labels()).record(start.elapsed());
        if let Some(last) = sets.last() {
            let lag = self.now_millis().saturating_sub(last.set.time_millis) as f64 / 1000.0;
            gauge!(figures::LAG_SECONDS, &self.labels()).set(lag);
        }
        Ok(())
    }

    /// Writes the destination, if there is anything to write; gives its new stamp.
    fn write_destination<'a>(
        &self,
        mut all: Vec<CollectionWrite<'a>>,
        gone: &'a [Collection],
        next: &Position,
    ) -> Result<Option<Stamp>, Error> {
        for collection in gone {
            all.push(CollectionWrite { collection, dropped: &[], action: Action::Remove });
        }
        if all.is_empty() && !self.interface.transactional() {
            return Ok(None);
        }
        let expected = self.stamp.clone().unwrap_or(Stamp::MISSING);
        let mark = self.mark(next, None);
        let staged = self.interface.stage(&mut all, &expected, mark.as_ref(), &*self.large)?;
        if let Some(content) = staged.content() {
            // Before the commit: after a crash this tells whether it happened.
            let mut batch = self.store.batch();
            ledger::put_journal(&mut batch, Some(&Journal { revision: next.revision.number, content }))?;
            batch.commit()?;
        }
        Ok(Some(staged.commit()?))
    }

    /// Takes out writes that the destination refuses, each tried on its own, if they don't go together.
    fn sort_out(
        &self,
        outlets: &[Outlet],
        writes: &mut [Vec<RecordWrite>],
        revision: u64,
        batch: &mut deltabus_state::Batch,
        round: &mut Round,
    ) -> Result<(), Error> {
        let expected = self.stamp.clone().unwrap_or(Stamp::MISSING);
        let tried = |writes: &[Vec<RecordWrite>]| {
            let mut all = collection_writes(outlets, writes, false);
            self.interface.stage(&mut all, &expected, None, &*self.large).map(drop)
        };
        match tried(writes) {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => {}
        }
        for (at, outlet) in outlets.iter().enumerate() {
            let mut kept = Vec::new();
            for write in std::mem::take(&mut writes[at]) {
                let mut alone: Vec<Vec<RecordWrite>> = outlets.iter().map(|_| Vec::new()).collect();
                alone[at] = vec![write.clone()];
                match tried(&alone) {
                    Ok(()) => kept.push(write),
                    Err(error) if error.is_transient() => return Err(error.into()),
                    Err(error) => {
                        round.dead_letters += 1;
                        let (RecordWrite::Put { key, .. } | RecordWrite::Remove { key, .. }) = &write;
                        self.dead_letter(batch, revision, outlet.name(), key, &error.into())?;
                    }
                }
            }
            writes[at] = kept;
        }
        Ok(())
    }

    /// Keeps a change that can't be applied.
    fn dead_letter(
        &self,
        batch: &mut deltabus_state::Batch,
        revision: u64,
        collection: &CollectionName,
        key: &Key,
        error: &Error,
    ) -> Result<(), Error> {
        counter!(figures::DEAD_LETTERS, &self.labels()).increment(1);
        let key_text = deltabus_record::key::display(key.as_bytes());
        tracing::error!(revision, %collection, key = key_text, %error, "a change is kept among the dead letters");
        let name = format!("dead/{revision:020}/{collection}/{key_text}");
        let values = [
            Value::Integer(revision as i64),
            Value::text(collection.as_str()),
            Value::Bytes(key.as_bytes().to_vec()),
            Value::text(error.to_string()),
        ];
        Ok(batch.meta_put_values(&name, &values)?)
    }
}

/// Sets that can be brought to the destination together: a collection that goes and comes again is another one, with other
/// fields in the same slots.
fn runs(sets: Vec<Delivered>) -> Vec<Vec<Delivered>> {
    let mut runs: Vec<Vec<Delivered>> = Vec::new();
    let mut gone: BTreeSet<CollectionName> = BTreeSet::new();
    for set in sets {
        let schemas = || set.set.transactions.iter().flat_map(|transaction| &transaction.schemas);
        let made = schemas().filter(|schema| schema.before.is_none()).filter_map(|schema| schema.after.as_ref());
        let again = made.map(|made| &made.name).any(|made| gone.contains(made));
        let lost = schemas().filter(|schema| schema.after.is_none()).filter_map(|schema| schema.before.as_ref());
        let lost: Vec<_> = lost.map(|lost| lost.name.clone()).collect();
        if runs.is_empty() || again {
            runs.push(Vec::new());
            gone.clear();
        }
        gone.extend(lost);
        if let Some(run) = runs.last_mut() {
            run.push(set);
        }
    }
    runs
}

/// Whether the destination already holds what a group brings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    HasIt,
    Lacks,
}

/// The writes of all collections that have any; all collections where schemas changed.
fn collection_writes<'a>(
    outlets: &'a [Outlet],
    writes: &'a [Vec<RecordWrite>],
    schemas_changed: bool,
) -> Vec<CollectionWrite<'a>> {
    let all = outlets.iter().zip(writes).filter(|(_, writes)| schemas_changed || !writes.is_empty());
    all.map(|(outlet, writes)| CollectionWrite {
        collection: &outlet.destination,
        dropped: &outlet.dropped,
        action: Action::Write(writes),
    })
    .collect()
}

fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused { .. })
}
