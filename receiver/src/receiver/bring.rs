//! Bringing records to the destination, and setting aside those that it refuses.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Instant;

use deltabus_bus::{Delivered, Position, causes};
use deltabus_interfaces::{Action, CollectionWrite, Content, Error as InterfaceError, RecordWrite, Staged, Stamp};
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_record::value::Large;
use deltabus_state::Batch;
use metrics::counter;

use crate::config::OnError;
use crate::dead::{DeadLetters, Refusal, Refused};
use crate::error::Error;
use crate::ledger::{self, Journal, Replacing};
use crate::metrics as figures;
use crate::outlet::Outlet;
use crate::pending::Records;

use super::traced::{Phase, trace_of};
use super::writes::{settled, write};
use super::{Receiver, Round};

/// Where single writes are looked for that the destination refuses, it is begun with so many together: a transaction of them
/// is a bearable size.
const SORTED_TOGETHER: usize = 2_000;

/// So many refused changes are named in the log, each time the destination is written.
const REFUSED_NAMED: usize = 20;

/// A record that is to become another at the destination, both in the source's terms.
#[derive(Clone)]
pub(super) struct Turn {
    /// Its collection's place among the outlets.
    pub(super) at: usize,
    /// Its key at the source.
    pub(super) key: Key,
    /// As the destination holds it.
    pub(super) before: Option<Row>,
    /// As it is to hold it.
    pub(super) after: Option<Row>,
}

/// What else there is to writing.
pub(super) struct Bringing<'a> {
    pub(super) outlets: &'a [Outlet],
    /// Records that count as tried: those that were set aside are so no longer, unless they are refused again.
    pub(super) tried: &'a Records,
    /// Collections that go.
    pub(super) gone: &'a [Collection],
    /// Whether collections are made or altered.
    pub(super) schemas_changed: bool,
    /// What the destination is at afterwards.
    pub(super) next: Position,
    /// The sets that ask for it, if it is any in particular.
    pub(super) sets: &'a [Delivered],
}

/// What came of it.
#[derive(Default)]
pub(super) struct Brought {
    /// The destination's stamp.
    pub(super) stamp: Option<Stamp>,
    /// The dead letters as they are then.
    pub(super) dead: DeadLetters,
    /// Records that were to be written.
    pub(super) written: Vec<(CollectionName, Key)>,
}

/// A write that was refused, with its collection's place among the outlets.
pub(super) type RefusedWrite = (usize, RecordWrite, InterfaceError);

impl Receiver {
    /// Writes all turns in one step; where the destination refuses some, those are set aside, if so configured.
    pub(super) fn bring(&self, to: &Bringing<'_>, turns: Vec<Turn>, round: &mut Round) -> Result<Brought, Error> {
        let Bringing { outlets, .. } = *to;
        let mut prepared = Prepared::of(outlets.len());
        for turn in turns {
            self.prepare(outlets, turn, &mut prepared)?;
        }
        prepared.settle(outlets);
        if !prepared.upcoming.is_empty() {
            self.large.announce(std::mem::take(&mut prepared.upcoming));
        }
        let mut counts: Vec<u64> = prepared.writes.iter().map(|writes| writes.len() as u64).collect();
        let dead = self.refuse(to, &prepared.refused)?;
        let all = collection_writes(outlets, &prepared.writes, to.schemas_changed);
        let mut stamp = self.stamp.clone();
        let (stamp, dead) = match self.write_destination(all, to.gone, &to.next, &stamp, &dead) {
            Ok(now) => (now.or(stamp), dead),
            // Where it is no single record's, saying that the destination is at the next revision fails as well, and nothing is
            // set aside.
            Err(Error::Interface(error)) if self.sets_aside() && error.is_of_records() => {
                tracing::warn!(
                    error = causes(&error),
                    "the destination refuses a change; which one it is is being found out"
                );
                let writes = std::mem::take(&mut prepared.writes);
                let sorted = self.sort_out(outlets, writes, &mut stamp)?;
                for (at, ..) in &sorted {
                    counts[*at] -= 1;
                }
                prepared.take_refused(outlets, &sorted);
                let dead = self.refuse(to, &prepared.refused)?;
                // What is left is to say that the destination is at that revision.
                let nothing: Vec<Vec<RecordWrite>> = outlets.iter().map(|_| Vec::new()).collect();
                let all = collection_writes(outlets, &nothing, to.schemas_changed);
                (self.write_destination(all, to.gone, &to.next, &stamp, &dead)?.or(stamp), dead)
            }
            Err(error) => return Err(error),
        };
        round.changes += counts.iter().sum::<u64>();
        self.count_refused(&prepared.refused, &to.next, to.sets, round);
        for (outlet, count) in outlets.iter().zip(counts).filter(|(_, count)| *count > 0) {
            let mut labels = self.labels().to_vec();
            labels.push(("collection", outlet.name().to_string()));
            counter!(figures::CHANGES_APPLIED, &labels).increment(count);
        }
        Ok(Brought { stamp, dead, written: prepared.written })
    }

    /// Adds what `turn` asks of the destination; what can't even be converted is refused.
    pub(super) fn prepare(&self, outlets: &[Outlet], turn: Turn, prepared: &mut Prepared) -> Result<(), Error> {
        let outlet = &outlets[turn.at];
        if let Some(after) = &turn.after {
            let had = turn.before.as_ref().map(|before| before.as_bytes()).unwrap_or_default();
            let had: Vec<_> = outlet.references(had).collect();
            let coming = outlet.references(after.as_bytes()).filter(|large| !had.contains(large));
            prepared.upcoming.extend(coming);
        }
        let write = match write(outlet, turn.before.as_ref(), turn.after.as_ref()) {
            Err(error @ Error::Refused { .. }) if self.sets_aside() => {
                prepared.refused.push(turn.refused(outlet, &error));
                return Ok(());
            }
            write => write?,
        };
        prepared.written.push((outlet.name().clone(), turn.key.clone()));
        if let Some(write) = write {
            let (at, key) = (turn.at, key_of(&write).clone());
            prepared.writes[at].push(write);
            if self.sets_aside() {
                prepared.turns.entry((at, key)).or_default().push(turn);
            }
        }
        Ok(())
    }

    /// Whether what can't be applied goes to the dead letters.
    pub(super) fn sets_aside(&self) -> bool {
        self.config.on_error == OnError::DeadLetter
    }

    /// When something is refused that `next` brings.
    pub(super) fn refusal(&self, next: &Position) -> Refusal {
        Refusal { revision: next.revision.number, time_millis: self.now_millis() }
    }

    /// The dead letters after this was refused, and all else that was tried taken.
    pub(super) fn refuse(&self, to: &Bringing<'_>, refused: &[Refused]) -> Result<DeadLetters, Error> {
        if refused.is_empty() && self.dead.is_empty() {
            return Ok(self.dead.clone());
        }
        // A collection that is gone has nothing to be set aside.
        let gone = |collection: &CollectionName| !to.outlets.iter().any(|outlet| outlet.name() == collection);
        let mut tried = to.tried.clone();
        let without = self.dead.iter().filter(|letter| gone(&letter.collection));
        tried.extend(without.map(|letter| (letter.collection.clone(), letter.key.clone())));
        self.dead.after(&tried, refused.to_vec(), self.refusal(&to.next))
    }

    pub(super) fn count_refused(&self, refused: &[Refused], next: &Position, sets: &[Delivered], round: &mut Round) {
        round.dead_letters += refused.len() as u64;
        counter!(figures::DEAD_LETTERS, &self.labels()).increment(refused.len() as u64);
        let (source, receiver, revision) = (&self.config.source, &self.config.name, next.revision.number);
        for refused in refused.iter().take(REFUSED_NAMED) {
            let Refused { collection, key, reason: error, .. } = refused;
            let trace = trace_of(source, sets, collection, key).map(tracing::field::display);
            let key = deltabus_record::key::display(key.as_bytes());
            tracing::error!(
                %source, trace, %receiver, revision, %collection, key, error,
                "a change is kept among the dead letters"
            );
        }
        if refused.len() > REFUSED_NAMED {
            let more = refused.len() - REFUSED_NAMED;
            tracing::error!(%source, %receiver, revision, more, "further changes are kept among the dead letters");
        }
    }

    /// Writes the destination in one step, if there is anything to write; gives its new stamp. `dead` comes true with that.
    pub(super) fn write_destination<'a>(
        &self,
        mut all: Vec<CollectionWrite<'a>>,
        gone: &'a [Collection],
        next: &Position,
        expected: &Option<Stamp>,
        dead: &DeadLetters,
    ) -> Result<Option<Stamp>, Error> {
        for collection in gone {
            all.push(CollectionWrite { collection, dropped: &[], action: Action::Remove });
        }
        if all.is_empty() && !self.interface.transactional() {
            return Ok(None);
        }
        let expected = expected.clone().unwrap_or(Stamp::MISSING);
        let mark = self.mark(next, None, dead);
        let start = Instant::now();
        let staged = self.interface.stage(&mut all, &expected, mark.as_ref(), &*self.large)?;
        self.step(Phase::Stage, start);
        let start = Instant::now();
        let stamp = if staged.content().is_none() && dead.is_empty() {
            staged.commit()?
        } else {
            let mut batch = self.store.batch();
            dead.intend(next.revision.number, &mut batch)?;
            self.commit_journalled(staged, &expected, next.revision.number, batch)?
        };
        self.step(Phase::Commit, start);
        Ok(Some(stamp))
    }

    /// Commits what is staged at the destination, after the intent is written down together with `batch`: after a crash that
    /// tells whether it happened.
    pub(super) fn commit_journalled(
        &self,
        mut staged: Box<dyn Staged + '_>,
        expected: &Stamp,
        revision: u64,
        mut batch: Batch,
    ) -> Result<Stamp, Error> {
        let temporary = staged.temporary();
        let replacing = match &temporary {
            Some(temporary) => {
                Some(Replacing { temporary: temporary.path().to_owned(), before: self.content_before(expected)? })
            }
            None => None,
        };
        let content = staged.content();
        let journal = content.map(|content| Journal { revision, content, replacing });
        ledger::put_journal(&mut batch, journal.as_ref())?;
        if let Err(error) = batch.commit() {
            // The intent may be there all the same: then the temporary file says that nothing came of it.
            std::mem::forget(temporary);
            return Err(error.into());
        }
        let committed = staged.commit();
        // An error may come after the rename too; then the journal is right, and tells.
        if committed.is_err() && temporary.as_ref().is_some_and(|temporary| temporary.path().exists()) {
            // Before the temporary file goes, or its absence would say that it took the destination's place.
            let mut batch = self.store.batch();
            ledger::put_journal(&mut batch, None)?;
            if let Err(error) = batch.commit() {
                std::mem::forget(temporary);
                return Err(error.into());
            }
        }
        let stamp = committed?;
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = content.map(|content| (stamp.clone(), content));
        Ok(stamp)
    }

    /// What the destination contains at `expected`: what was written there last needn't be read.
    fn content_before(&self, expected: &Stamp) -> Result<Option<Content>, Error> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match &*written {
            Some((stamp, content)) if stamp == expected => Ok(Some(*content)),
            _ => Ok(self.interface.content()?),
        }
    }

    /// Writes as much as the destination takes, in several steps, and gives back what it refuses each by itself. Nothing says
    /// that it is at another revision, so that after a crash all of it is written again, which changes nothing.
    pub(super) fn sort_out(
        &self,
        outlets: &[Outlet],
        writes: Vec<Vec<RecordWrite>>,
        stamp: &mut Option<Stamp>,
    ) -> Result<Vec<RefusedWrite>, Error> {
        let flat =
            writes.into_iter().enumerate().flat_map(|(at, writes)| writes.into_iter().map(move |write| (at, write)));
        let mut waiting: Vec<(usize, RecordWrite)> = flat.collect();
        loop {
            let before = waiting.len();
            let refused = self.sort_once(outlets, waiting, stamp)?;
            if refused.is_empty() || refused.len() == before {
                return Ok(refused);
            }
            // Some may have waited for others that are there now: a row for the one that it refers to.
            waiting = refused.into_iter().map(|(at, write, _)| (at, write)).collect();
        }
    }

    fn sort_once(
        &self,
        outlets: &[Outlet],
        waiting: Vec<(usize, RecordWrite)>,
        stamp: &mut Option<Stamp>,
    ) -> Result<Vec<RefusedWrite>, Error> {
        let mut parts: Vec<Vec<(usize, RecordWrite)>> =
            waiting.chunks(SORTED_TOGETHER).rev().map(<[_]>::to_vec).collect();
        let mut refused = Vec::new();
        while let Some(mut part) = parts.pop() {
            let mut writes: Vec<Vec<RecordWrite>> = outlets.iter().map(|_| Vec::new()).collect();
            for (at, write) in &part {
                writes[*at].push(write.clone());
            }
            let mut all = collection_writes(outlets, &writes, false);
            let expected = stamp.clone().unwrap_or(Stamp::MISSING);
            let written =
                self.interface.stage(&mut all, &expected, None, &*self.large).and_then(|staged| staged.commit());
            drop(all);
            match written {
                Ok(now) => *stamp = Some(now),
                Err(error) if !error.is_of_records() => return Err(error.into()),
                Err(error) => match part.len() {
                    0 | 1 => refused.extend(part.pop().map(|(at, write)| (at, write, error))),
                    several => {
                        // The first half comes first: what was there before goes before what refers to it.
                        let second = part.split_off(several / 2);
                        parts.push(second);
                        parts.push(part);
                    }
                },
            }
        }
        Ok(refused)
    }
}

impl Turn {
    fn refused(&self, outlet: &Outlet, error: &dyn std::error::Error) -> Refused {
        Refused {
            collection: outlet.name().clone(),
            key: self.key.clone(),
            held: self.before.clone(),
            wanted: self.after.clone(),
            reason: causes(error),
            left_out: false,
        }
    }
}

/// What is to be written, and what is known to be refused.
#[derive(Default)]
pub(super) struct Prepared {
    /// By the place of the collection.
    pub(super) writes: Vec<Vec<RecordWrite>>,
    pub(super) refused: Vec<Refused>,
    /// Records that are to be written.
    written: Vec<(CollectionName, Key)>,
    /// Contents that will be read, in the order of their records.
    upcoming: Vec<Large>,
    /// What each write is for, by the place of the collection and the destination's key; only where some may be refused.
    turns: HashMap<(usize, Key), Vec<Turn>>,
}

impl Prepared {
    /// For so many collections.
    pub(super) fn of(collections: usize) -> Prepared {
        Prepared { writes: vec![Vec::new(); collections], ..Prepared::default() }
    }

    /// Takes out writes that meet at one record of the destination.
    pub(super) fn settle(&mut self, outlets: &[Outlet]) {
        for (outlet, writes) in outlets.iter().zip(&mut self.writes) {
            *writes = settled(outlet, std::mem::take(writes));
        }
    }

    /// How many writes there are.
    pub(super) fn count(&self) -> u64 {
        self.writes.iter().map(|writes| writes.len() as u64).sum()
    }

    /// Takes in what the destination refused.
    pub(super) fn take_refused(&mut self, outlets: &[Outlet], refused: &[RefusedWrite]) {
        for (at, write, error) in refused {
            let turns = self.turns.get(&(*at, key_of(write).clone())).map(Vec::as_slice).unwrap_or_default();
            self.refused.extend(turns.iter().map(|turn| turn.refused(&outlets[*at], error)));
        }
    }
}

fn key_of(write: &RecordWrite) -> &Key {
    let (RecordWrite::Put { key, .. } | RecordWrite::Remove { key, .. }) = write;
    key
}

/// The writes of all collections that have any; all collections where schemas changed.
pub(super) fn collection_writes<'a>(
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
