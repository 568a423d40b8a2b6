//! Bringing change sets to the destination and the base.

use std::collections::BTreeSet;
use std::time::Instant;

use deltabus_bus::{Delivered, causes, encode_reverse, encode_set};
use deltabus_interfaces::{Error as InterfaceError, in_place};

use deltabus_record::change::Revision;
use deltabus_record::diff;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_state::Working;
use metrics::{counter, gauge, histogram};

use crate::dead::DeadLetters;
use crate::error::Error;
use crate::ledger::{self, Made, Marked, Wanted};
use crate::metrics as figures;
use crate::outlet::Outlet;
use crate::pending::{Answered, Records};

use super::bring::{Bringing, Brought, Turn};
use super::traced::Outcome;
use super::{DESTINATION_ATTEMPTS, Receiver, Round};

/// Sets that make collections are written down before the destination gets them, up to so many bytes.
const MADE_BYTES_MAX: usize = 8 * 1024 * 1024;

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
                self.settle_numbers(self.answered_by(&group).last().copied().unwrap_or_default()).await?;
                match in_place(|| self.apply_now(&group, destination, round)) {
                    Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < DESTINATION_ATTEMPTS => {
                        attempt += 1;
                        self.stamp = None;
                    }
                    Err(Error::Apply(error)) => {
                        tracing::warn!(error = causes(&error), "sets don't fit; joining again by snapshot");
                        break false;
                    }
                    Err(error @ Error::Digest { .. }) => {
                        counter!(figures::DIGEST_MISMATCHES, &self.labels()).increment(1);
                        tracing::warn!(error = causes(&error), "sets don't fit; joining again by snapshot");
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
        let reached = ledger::position(&self.store.view())?.unwrap_or_default().revision;
        if self.ahead.is_some_and(|ahead| reached.number >= ahead) {
            self.ahead = None;
            self.stamp = None;
            if self.is_otherwise(reached)? {
                tracing::warn!(place = self.place(), "it is at a revision of a lost log; it is made equal");
                let mut batch = self.store.batch();
                ledger::put_reconcile(&mut batch, Wanted::Yes)?;
                batch.commit()?;
            }
            self.tend(round).await?;
        } else {
            self.send().await?;
        }
        Ok(true)
    }

    /// Writes down sets that make collections, as far as they are of a bearable size.
    fn write_down(&self, sets: &[Delivered], revision: u64) -> Result<(), Error> {
        let sets: Vec<_> = sets.iter().map(|set| encode_set(&set.set).0.to_vec()).collect();
        let bytes: usize = sets.iter().map(Vec::len).sum();
        let made = (bytes <= MADE_BYTES_MAX).then_some(Made { revision, sets });
        let mut batch = self.store.batch();
        ledger::put_made(&mut batch, made)?;
        Ok(batch.commit()?)
    }

    /// Whether the destination's mark names another state than the base, which has reached the same number.
    fn is_otherwise(&self, reached: Revision) -> Result<bool, Error> {
        if !self.interface.transactional() {
            return Ok(false);
        }
        let mark = in_place(|| self.interface.mark(&self.owner()))?.and_then(|mark| Marked::from_bytes(&mark));
        Ok(mark.is_some_and(|mark| mark.revision.number == reached.number && mark.revision != reached))
    }

    /// The numbers of this receiver's reverse sets that these sets answer.
    pub(super) fn answered_by(&self, sets: &[Delivered]) -> BTreeSet<u64> {
        let replies = sets.iter().flat_map(|set| &set.set.replies);
        let mine = replies.filter(|reply| reply.reverse.receiver == self.config.name);
        mine.map(|reply| reply.reverse.number).collect()
    }

    fn apply_now(&mut self, sets: &[Delivered], destination: Destination, round: &mut Round) -> Result<(), Error> {
        let start = Instant::now();
        self.take_steps();
        let view = self.store.view();
        let position = ledger::position(&view)?.unwrap_or_default();
        let mut working = Working::new(&view, position.revision.digest);
        let answered = self.answered_by(sets);
        let mut next = position;
        let mut bytes = 0;
        for Delivered { set, position, bytes: size, .. } in sets {
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
        // No further set may have a number that was answered: somebody else had it.
        let mut number = ledger::reverse_number(&view)?.max(answered.last().copied().unwrap_or_default());
        let last = answered.last().copied().unwrap_or_default();
        let is_answered = |number| answered.contains(&number);
        let Answered { pending, done, again } = self.pending.answered(last, is_answered, number + 1);
        number += again.len() as u64;
        let touched: Records =
            working.touched().map(|(collection, key, _)| (collection.clone(), key.clone())).collect();
        let mut batch = self.store.batch();
        if ledger::reconcile(&view)? {
            self.put_on_top_aside(&view.aside(), is_answered, &mut batch)?;
        }
        let mut brought = Brought { stamp: self.stamp.clone(), dead: self.dead.clone(), ..Brought::default() };
        let schemas_changed = working.collections() != view.collections();
        let is_new = |collection: &Collection| view.collection(&collection.name).is_none();
        let makes = schemas_changed && working.collections().iter().any(is_new);
        let found = self.found.clone().unwrap_or_default();
        let mut outlets = Vec::new();
        if destination == Destination::Lacks {
            outlets = self.outlets(working.collections(), &found)?;
        }
        let adopts = |outlet: &Outlet| schemas_changed && outlet.adopts(view.collection(outlet.name()));
        // Which row is which can't be told by a field that the base didn't have: they are compared as a whole. Not where
        // edits are sent back, since what stands in it is one, nor where a collection goes, which comparing doesn't see.
        let goes = view.collections().iter().any(|known| working.collection(&known.name).is_none());
        let unknown = outlets.iter().any(|outlet| outlet.counted() && adopts(outlet)) && !self.config.reverse && !goes;
        let adopts = outlets.iter().any(adopts);
        let equal_later = unknown || ledger::reconcile(&view)?;
        if destination == Destination::Lacks && !equal_later {
            // What was refused before is tried again as a whole.
            let pending = pending.lifting(&touched);
            let mut turns = Vec::new();
            if self.pending.is_empty() && pending.is_empty() && !schemas_changed {
                // As it is where nobody edits: what the source changed is all there is, and known already.
                for (name, key, now) in working.touched() {
                    let Some(at) = outlets.iter().position(|outlet| outlet.name() == name) else { continue };
                    let wanted = |row: &Option<Row>| outlets[at].wanted(row.clone());
                    let (before, after) = (wanted(&now.before)?, wanted(&now.after)?);
                    if before != after {
                        turns.push(Turn { at, key: key.clone(), before, after });
                    }
                }
            } else {
                let mut records = touched.clone();
                if !done.is_empty() {
                    records.extend(self.pending.records(working.collections()));
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
                // A field or collection that comes, back perhaps, shows what edits brought to it when it was there before.
                let gains = |outlet: &&Outlet| schemas_changed && outlet.gains(view.collection(outlet.name()));
                let gaining: Vec<_> = outlets.iter().filter(gains).collect();
                let gains = |name: &CollectionName| gaining.iter().any(|outlet| outlet.name() == name);
                if !gaining.is_empty() {
                    records.extend(pending.places(working.collections()).into_iter().filter(|(name, _)| gains(name)));
                }
                for (collection, key) in records {
                    let Some(at) = outlets.iter().position(|outlet| *outlet.name() == collection) else { continue };
                    let outlet = &outlets[at];
                    let source = &outlet.source;
                    let mut before =
                        self.pending.on_top(source, &key, |key| outlet.wanted(known(&collection, key)?))?;
                    if gains(&collection) {
                        let then = view.collection(&collection).map(|then| &then.schema);
                        before = before.zip(then).map(|(row, then)| then.only_had(&row));
                    }
                    let after = pending.on_top(source, &key, |key| outlet.wanted(working.get(&collection, key)?))?;
                    if before != after {
                        turns.push(Turn { at, key, before, after });
                    }
                }
            }
            let gone: Vec<Collection> = view
                .collections()
                .iter()
                .filter(|known| !self.interface.single_collection() && working.collection(&known.name).is_none())
                .filter(|known| found.iter().any(|found| found.name == known.name))
                .cloned()
                .collect();
            if makes {
                self.write_down(sets, next.revision.number)?;
            }
            let bringing = Bringing { outlets: &outlets, tried: &touched, gone: &gone, schemas_changed, next, sets };
            brought = self.bring(&bringing, turns, round)?;
        } else if equal_later {
            // It gets all of it later, and then refuses what it refuses.
            brought.dead = self.dead.touched(&touched);
        } else {
            // What it refused then was written down before.
            brought.dead = match DeadLetters::intended(&view)? {
                Some((revision, dead)) if revision == next.revision.number => dead,
                _ => self.dead.after(&touched, Vec::new(), self.refusal(&next))?,
            };
        }
        let Brought { mut stamp, dead, written } = brought;
        dead.write(&self.dead, &mut batch)?;
        DeadLetters::settle(&mut batch)?;
        if dead != self.dead {
            self.list_letters(&dead, working.collections())?;
        }
        working.write(&mut batch)?;
        for number in done {
            batch.outbox_remove(number);
        }
        for set in &again {
            batch.outbox_put(set.id.number, &encode_reverse(set));
        }
        if number > ledger::reverse_number(&view)? {
            ledger::put_reverse_number(&mut batch, number)?;
        }
        ledger::put_position(&mut batch, &next)?;
        ledger::put_journal(&mut batch, None)?;
        if makes || destination == Destination::HasIt {
            ledger::put_made(&mut batch, None)?;
        }
        if unknown {
            ledger::put_reconcile(&mut batch, Wanted::Yes)?;
        }
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
        self.pending = pending.holding(dead.held());
        self.dead = dead;
        if schemas_changed && destination == Destination::Lacks {
            self.found = Some(self.collections()?);
        }
        round.sets += sets.len() as u64;
        counter!(figures::SETS_APPLIED, &self.labels()).increment(sets.len() as u64);
        counter!(figures::BYTES_RECEIVED, &self.labels()).increment(bytes);
        gauge!(figures::REVISION, &self.labels()).set(next.revision.number as f64);
        histogram!(figures::APPLY_SECONDS, &self.labels()).record(start.elapsed());
        self.trace_applied(sets, start, if equal_later { Outcome::EqualLater } else { Outcome::Equal });
        if !ledger::reconcile(&self.store.view())? {
            self.lag.reached(next);
            let now = self.now_millis();
            let latency = histogram!(figures::LATENCY_SECONDS, &self.labels());
            for Delivered { set, .. } in sets {
                latency.record(now.saturating_sub(set.time_millis) as f64 / 1000.0);
            }
        }
        Ok(())
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
