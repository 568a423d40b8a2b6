//! Joining by snapshot, and making the destination what it should be.

use std::collections::{BTreeSet, HashMap};
use std::thread;
use std::time::Instant;

use deltabus_bus::broker::Stream;
use deltabus_bus::{Manifest, Position, Reason, SnapshotReader, decode_set, encode_reverse};
use deltabus_interfaces::found::{self, Found};
use deltabus_interfaces::{
    Action, CollectionWrite, Error as InterfaceError, Extent, RecordWrite, Scan, Stamp, in_place,
};
use deltabus_record::diff::{self, Difference, Identity, NoIndex};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::Key;
use deltabus_record::large::references;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, KeySpec};
use deltabus_state::{Batch, View, Working};
use metrics::{counter, gauge, histogram};

use crate::beside::Beside;
use crate::config::MAX_DELETE_DEFAULT;
use crate::dead::{DeadLetter, DeadLetters};
use crate::error::Error;
use crate::expected::{Expected, ExpectedRecords};
use crate::ledger::{self, Wanted};
use crate::metrics as figures;
use crate::outlet::{Outlet, pair};
use crate::pending::{Answered, Pending, Records};

use super::bring::{Bringing, Prepared, Turn, collection_writes};
use super::intake::Intake;
use super::look::translator;
use super::{DESTINATION_ATTEMPTS, JOIN_ATTEMPTS, Purpose, Receiver, Round};

impl Receiver {
    /// Loads the newest snapshot as the base. The destination is left alone until the base has caught up with the log, so that
    /// it never goes back to an older state; then [`Receiver::tend`] makes it equal.
    pub(crate) async fn join(&mut self, round: &mut Round) -> Result<Position, Error> {
        if let Purpose::Rehearse(rehearsal) = &self.purpose {
            // The destination will be compared as a whole.
            rehearsal.forget()?;
        }
        counter!(figures::JOINS, &self.labels()).increment(1);
        let mut attempt = 0;
        loop {
            match self.load_snapshot(round).await {
                Err(Error::Bus(deltabus_bus::Error::SnapshotGone { .. })) if attempt < JOIN_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn load_snapshot(&mut self, round: &mut Round) -> Result<Position, Error> {
        let mut reader = SnapshotReader::open(&self.log).await?;
        let manifest = reader.manifest().clone();
        self.check_leads_on(&manifest).await?;
        let hashers: Vec<_> =
            manifest.collections.iter().map(|collection| RecordHasher::new(&collection.name)).collect();
        let mine = manifest.cursors.iter().find(|(receiver, _)| *receiver == self.config.name);
        let taken = mine.map(|(_, cursor)| cursor.clone()).unwrap_or_default();
        if taken.last() > 0 {
            self.settle_numbers(taken.last()).await?;
        }
        let mut loads = Vec::new();
        for collection in &manifest.collections {
            loads.push(self.store.load(collection)?);
        }
        let Intake { loads, digest, .. } = Intake::new(hashers, loads).take_all(&mut reader).await?;
        let revision = manifest.position.revision;
        if digest != revision.digest {
            return Err(Error::Digest { source_name: self.config.source.clone(), revision: revision.number });
        }
        let mut batch = self.store.batch();
        let view = self.store.view();
        if ledger::position(&view)?.is_some() && !ledger::reconcile(&view)? {
            // It is what the old base says, or a set further, which the source knows already: what was edited on that counts,
            // until it is made equal to the new one.
            let mut working = Working::new(&view, Digest::default());
            let answered = self.make(&mut working)?;
            let is_on_top = |number| taken.has_taken(number) && !answered.contains(&number);
            put_on_top(&mut working, &self.pending.done(is_on_top))?;
            working.write(&mut batch)?;
            batch.put_aside();
        } else {
            self.put_on_top_aside(&view.aside(), |number| taken.has_taken(number), &mut batch)?;
        }
        for collection in view.collections() {
            batch.remove_collection(&collection.name)?;
        }
        for load in loads {
            load.finish(&mut batch)?;
        }
        // The log may have been founded anew, with the fields in other slots.
        let dead = self.dead.placed(&manifest.collections, view.collections());
        dead.write(&self.dead, &mut batch)?;
        let mut number = ledger::reverse_number(&view)?.max(taken.last());
        if ledger::position(&view)?.is_none() {
            // Before this state there may have been others, whose numbers nobody knows any more but an old state of the transmitter,
            // which may come back and answer them: the time is above them all.
            number = number.max(self.now_millis());
        }
        let is_answered = |number| taken.has_taken(number);
        let Answered { pending, done, again } = self.pending.answered(taken.last(), is_answered, number + 1);
        for number in done {
            batch.outbox_remove(number);
        }
        for set in &again {
            batch.outbox_put(set.id.number, &encode_reverse(set));
        }
        ledger::put_reverse_number(&mut batch, number + again.len() as u64)?;
        ledger::put_position(&mut batch, &manifest.position)?;
        ledger::put_reconcile(&mut batch, Wanted::Yes)?;
        ledger::put_journal(&mut batch, None)?;
        ledger::put_made(&mut batch, None)?;
        ledger::put_index(&mut batch, None)?;
        in_place(|| batch.commit())?;
        self.pending = pending.holding(dead.held());
        self.dead = dead;
        self.index = None;
        self.ahead = None;
        round.joined = true;
        Ok(manifest.position)
    }

    /// Takes edits that are answered into the base that is aside, for the destination, which is as that says, has them.
    pub(super) fn put_on_top_aside(
        &self,
        aside: &View,
        is_answered: impl Fn(u64) -> bool,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        if aside.collections().is_empty() {
            return Ok(());
        }
        let mut working = Working::new(aside, Digest::default());
        put_on_top(&mut working, &self.pending.done(is_answered))?;
        for (name, key, touched) in working.touched().filter(|(_, _, touched)| touched.before != touched.after) {
            batch.set_aside(name, key.as_bytes(), touched.after.as_ref().map(Row::as_bytes))?;
        }
        Ok(())
    }

    /// Where the destination has got sets that made collections, and the base hasn't: takes them into `working`. Gives the
    /// numbers of this receiver's reverse sets that they answer.
    fn make(&self, working: &mut Working<'_>) -> Result<BTreeSet<u64>, Error> {
        let made = ledger::made(&self.store.view())?.filter(|made| self.ahead == Some(made.revision));
        let mut answered = BTreeSet::new();
        for set in made.into_iter().flat_map(|made| made.sets) {
            let set = decode_set(&set)?;
            for transaction in &set.transactions {
                working.apply(transaction)?;
            }
            let mine = set.replies.into_iter().filter(|reply| reply.reverse.receiver == self.config.name);
            answered.extend(mine.map(|reply| reply.reverse.number));
        }
        Ok(answered)
    }

    /// Fails where the log has lost what comes after the snapshot: it would lead back to an old state, and no further.
    async fn check_leads_on(&self, manifest: &Manifest) -> Result<(), Error> {
        let extent = self.log.broker().extent(self.log.source(), Stream::Changes).await;
        let first = extent.map_err(deltabus_bus::Error::from)?.map_or(0, |extent| extent.first);
        let wanted = manifest.position.sequence + 1;
        if wanted >= first {
            return Ok(());
        }
        let (source_name, revision) = (self.config.source.clone(), manifest.position.revision.number);
        let reason = Reason::Trimmed { wanted, first }.to_string();
        Err(Error::Behind { source_name, revision, reason })
    }

    /// Makes the destination equal to base and pending edits, writing only what differs.
    pub(crate) fn reconcile(&mut self, round: &mut Round) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            match in_place(|| self.reconcile_now(round)) {
                Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < DESTINATION_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn reconcile_now(&mut self, round: &mut Round) -> Result<(), Error> {
        let start = Instant::now();
        let view = self.store.view();
        let Some(position) = ledger::position(&view)? else { return Ok(()) };
        let _seen = self.large.remembering();
        let looked = self.find_edits_aside(&view.aside(), position, round)?;
        let (stamp, found) = match self.interface.scan(None) {
            Ok(scan) => (scan.stamp().clone(), scan.collections().to_vec()),
            Err(InterfaceError::Missing { .. }) => (Stamp::MISSING, Vec::new()),
            Err(error) => return Err(error.into()),
        };
        // What somebody wrote since counts, and is not to be written over. (Stamps of a server differ also where others wrote
        // elsewhere on it, so that they are not compared.)
        let stamp = looked.unwrap_or(stamp);
        let mut outlets = self.outlets(view.collections(), &found)?;
        let pairs = pair(&*self.interface, view.collections(), &found).unwrap_or_default();
        for (outlet, at) in outlets.iter_mut().zip(&pairs) {
            self.drop_fields_aside(outlet, at.and_then(|at| found.get(at)), &view.aside());
        }
        // Whoever restores has said so; whoever receives for the first time may have named the wrong place.
        let first = ledger::stamp(&view)?.is_none() && !matches!(self.purpose, Purpose::Restore(_));
        // All that was refused is tried again, but for what was dropped.
        let pending = self.pending.holding(self.dead.dropped());
        let tried: Records = self.dead.iter().filter(|letter| !letter.dropped).map(DeadLetter::place).collect();
        let mut scan = if found.is_empty() { None } else { Some(self.interface.scan(None)?) };
        // A scan goes through the collections in its own order.
        let mut order: Vec<usize> = (0..outlets.len()).collect();
        order.sort_by_key(|at| pairs.get(*at).copied().flatten());
        let mut prepared = Prepared::of(outlets.len());
        let mut empty = Vec::new();
        for at in &order {
            let expected = Expected { view: &view, outlet: &outlets[*at], pending: &pending };
            match (&mut scan, pairs.get(*at).copied().flatten()) {
                (Some(scan), Some(place)) if !self.is_empty(place)? => {
                    for difference in self.differing(&mut **scan, place, expected, first)? {
                        // What is expected is where it is to go; what was found is where it is.
                        let Difference { key, before: after, after: before } = difference;
                        self.prepare(&outlets, Turn { at: *at, key, before, after }, &mut prepared)?;
                    }
                }
                _ => empty.push(*at),
            }
        }
        if let Some(scan) = &mut scan {
            scan.finish()?;
        }
        drop(scan);
        prepared.settle(&outlets);
        let gone = self.of_other_times(&found, &view);
        let bringing = Bringing {
            outlets: &outlets,
            tried: &tried,
            gone: &gone,
            schemas_changed: true,
            next: position,
            sets: &[],
        };
        let records = |at: usize| {
            let expected = Expected { view: &view, outlet: &outlets[at], pending: &pending };
            ExpectedRecords::new(expected, self.sets_aside())
        };
        let mut loads = Vec::new();
        for at in &empty {
            loads.push((*at, records(*at)?));
        }
        let mut changes = prepared.count();
        let altered = !gone.is_empty() || outlets.iter().any(|outlet| !outlet.dropped.is_empty());
        let attempt = self.interface.transactional().then(|| self.log.clock().fresh());
        let mark = self.mark(&position, attempt, &self.refuse(&bringing, &prepared.refused)?);
        let done = match loads.is_empty() && !altered && changes == 0 && mark.is_none() && !stamp.is_missing() {
            true => Ok(stamp.clone()),
            false => {
                // A scope of its own: it ends when all records have been made.
                let staged = thread::scope(|scope| {
                    let loads = loads.iter_mut().map(|(at, records)| (*at, Beside::new(scope, records)));
                    let mut loads: Vec<_> = loads.collect();
                    let mut streams = loads.iter_mut().map(|(at, records)| (*at, records)).collect::<HashMap<_, _>>();
                    let mut all = Vec::new();
                    for at in &order {
                        let outlet = &outlets[*at];
                        let action = match streams.remove(at) {
                            Some(records) => Action::Load(records),
                            None => Action::Write(&prepared.writes[*at]),
                        };
                        all.push(CollectionWrite { collection: &outlet.destination, dropped: &outlet.dropped, action });
                    }
                    self.announce(&all, &order, &outlets, &view)?;
                    for collection in &gone {
                        all.push(CollectionWrite { collection, dropped: &[], action: Action::Remove });
                    }
                    Ok::<_, Error>(self.interface.stage(&mut all, &stamp, mark.as_ref(), &*self.large))
                })?;
                match staged {
                    Ok(staged) => {
                        changes += loads.iter().map(|(_, records)| records.count()).sum::<u64>();
                        let left_out = loads.iter_mut().flat_map(|(_, records)| records.take_refused());
                        prepared.refused.extend(left_out);
                        let mut batch = self.store.batch();
                        ledger::put_attempt(&mut batch, attempt)?;
                        self.refuse(&bringing, &prepared.refused)?.intend(position.revision.number, &mut batch)?;
                        self.commit_journalled(staged, &stamp, position.revision.number, batch)
                    }
                    Err(error) => Err(error.into()),
                }
            }
        };
        let stamp = match done {
            Ok(stamp) => stamp,
            Err(Error::Interface(error)) if self.sets_aside() && error.is_of_records() => {
                tracing::warn!(
                    error = deltabus_bus::causes(&error),
                    "the destination refuses a change; which one it is is being found out"
                );
                drop(loads);
                prepared.refused.retain(|refused| !refused.left_out);
                for at in &empty {
                    let mut records = records(*at)?;
                    while let Some((key, row)) = records.next_source()? {
                        self.prepare(&outlets, Turn { at: *at, key, before: None, after: Some(row) }, &mut prepared)?;
                    }
                }
                changes = prepared.count();
                let mut now = Some(stamp);
                let writes = std::mem::take(&mut prepared.writes);
                let sorted = self.sort_out(&outlets, writes, &mut now)?;
                changes -= sorted.len() as u64;
                prepared.take_refused(&outlets, &sorted);
                let nothing: Vec<Vec<RecordWrite>> = outlets.iter().map(|_| Vec::new()).collect();
                let all = collection_writes(&outlets, &nothing, true);
                let dead = self.refuse(&bringing, &prepared.refused)?;
                let last = self.write_destination(all, &gone, &position, &now, &dead)?;
                last.or(now).unwrap_or(Stamp::MISSING)
            }
            Err(error) => return Err(error),
        };
        let dead = self.refuse(&bringing, &prepared.refused)?;
        let mut batch = self.store.batch();
        dead.write(&self.dead, &mut batch)?;
        DeadLetters::settle(&mut batch)?;
        ledger::put_journal(&mut batch, None)?;
        ledger::put_reconcile(&mut batch, Wanted::No)?;
        ledger::put_attempt(&mut batch, None)?;
        batch.drop_aside();
        ledger::put_index(&mut batch, None)?;
        ledger::put_stamp(&mut batch, Some(&stamp))?;
        ledger::put_drift(&mut batch, 0)?;
        self.list_letters(&dead, view.collections())?;
        batch.commit()?;
        self.drift = 0;
        gauge!(figures::DRIFT, &self.labels()).set(0.0);
        round.changes += changes;
        self.count_refused(&prepared.refused, &position, &[], round);
        self.pending = self.pending.holding(dead.held());
        self.dead = dead;
        self.index = None;
        self.remake = false;
        self.stale.clear();
        self.found = Some(self.collections()?);
        self.stamp = Some(stamp);
        histogram!(figures::APPLY_SECONDS, &self.labels()).record(start.elapsed());
        gauge!(figures::REVISION, &self.labels()).set(position.revision.number as f64);
        self.lag.reached(position);
        Ok(())
    }

    /// Fields that the source had when the base was put `aside` and has no more go, where they stand at the destination.
    fn drop_fields_aside(&self, outlet: &mut Outlet, found: Option<&Collection>, aside: &View) {
        let (Some(found), Some(was)) = (found, aside.collection(outlet.name())) else { return };
        let living = was.schema.fields.iter().filter(|field| !field.dropped);
        let gone = living.filter(|field| outlet.source.schema.slot(&field.name).is_none());
        let names = gone.map(|field| self.mapping.destination_name(&field.name));
        let names = names.filter(|name| outlet.destination.schema.slot(name).is_none());
        let names: Vec<String> = names.filter(|name| found.schema.slot(name).is_some()).collect();
        outlet.dropped.extend(names);
        outlet.dropped.sort();
        outlet.dropped.dedup();
    }

    /// Collections at the destination that the source had at other times than the one that is restored.
    pub(super) fn of_other_times(&self, found: &[Collection], then: &View) -> Vec<Collection> {
        if self.interface.single_collection() {
            return Vec::new();
        }
        let aside = then.aside();
        let was_joined = |name: &CollectionName| aside.collection(name).is_some() && then.collection(name).is_none();
        let is_other = |found: &&Collection| match &self.purpose {
            Purpose::Restore(ever) => ever.other(&found.name, then),
            _ => was_joined(&found.name),
        };
        found.iter().filter(is_other).cloned().collect()
    }

    /// Says which contents the writes will need, in the order of their records.
    fn announce(
        &self,
        writes: &[CollectionWrite<'_>],
        order: &[usize],
        outlets: &[Outlet],
        view: &View,
    ) -> Result<(), Error> {
        let mut upcoming = Vec::new();
        for (write, at) in writes.iter().zip(order) {
            let outlet = &outlets[*at];
            match &write.action {
                Action::Load(_) if outlet.takes_references() => {
                    for record in view.records(outlet.name())? {
                        upcoming.extend(outlet.references(&record?.1));
                    }
                }
                Action::Write(writes) => {
                    for write in *writes {
                        if let RecordWrite::Put { row, .. } = write {
                            upcoming.extend(references(row.as_bytes()));
                        }
                    }
                }
                Action::Load(_) | Action::Remove => {}
            }
        }
        if !upcoming.is_empty() {
            self.large.announce(upcoming);
        }
        Ok(())
    }

    fn is_empty(&self, collection: usize) -> Result<bool, Error> {
        let mut scan = self.interface.scan(None)?;
        for before in 0..=collection {
            scan.start(before, Extent::Whole)?;
            if before == collection {
                return Ok(scan.next()?.is_none());
            }
            while scan.next()?.is_some() {}
        }
        Ok(true)
    }

    /// Looks at every record that stands at the destination, beside what is expected there.
    pub(super) fn look_at_all(&self, view: &View) -> Result<(), Error> {
        let mut scan = match self.interface.scan(None) {
            Err(InterfaceError::Missing { .. }) => return Ok(()),
            scan => scan?,
        };
        let found = scan.collections().to_vec();
        let outlets = self.outlets(view.collections(), &found)?;
        let pairs = pair(&*self.interface, view.collections(), &found).unwrap_or_default();
        for at in 0..found.len() {
            if let Some(outlet) = pairs.iter().position(|pair| *pair == Some(at)).map(|place| &outlets[place]) {
                self.differing(&mut *scan, at, Expected { view, outlet, pending: &self.pending }, false)?;
            }
        }
        Ok(scan.finish()?)
    }

    /// Where a collection differs from what is expected.
    fn differing(
        &self,
        scan: &mut dyn Scan,
        at: usize,
        expected: Expected<'_>,
        first: bool,
    ) -> Result<Vec<Difference>, Error> {
        scan.start(at, Extent::Whole)?;
        let outlet = expected.outlet;
        let identity = if outlet.counted() { Identity::WholeRow } else { Identity::Key };
        let mut records = Found::new(scan, translator(expected));
        let outcome: Result<diff::Outcome, diff::DiffError<Error>> =
            diff::without_index(&mut records, &expected, &mut NoIndex::<Error>::default(), identity);
        let mut outcome = outcome?;
        drop(records);
        found::spare(&mut outcome.differences, scan.unread());
        let deletes = outcome.differences.iter().filter(|difference| difference.before.is_none()).count() as u64;
        if first && deletes as f64 > outcome.records as f64 * MAX_DELETE_DEFAULT {
            return Err(Error::WouldWipe {
                place: self.place(),
                source_name: self.config.source.clone(),
                deletes,
                records: outcome.records,
            });
        }
        Ok(outcome.differences)
    }
}

/// Puts the edits of `done` on top.
fn put_on_top(working: &mut Working<'_>, done: &Pending) -> Result<(), Error> {
    let collections = working.collections().to_vec();
    for (name, key) in done.records(&collections) {
        let Some(collection) = collections.iter().find(|collection| collection.name == name) else { continue };
        let base = |key: &Key| working.get(&name, key);
        let keys = match collection.schema.key {
            KeySpec::Fields(_) => vec![key],
            KeySpec::WholeRow => {
                let content = collection.schema.key_content(&key);
                let before = diff::count_equal(content, |key| Ok::<_, deltabus_state::Error>(base(key)?.is_some()))?;
                let after = done.count_on_top(collection, content, base)?;
                let between = before.min(after)..before.max(after);
                between.map(|occurrence| diff::counted(content, occurrence)).collect()
            }
        };
        for key in keys {
            let row = done.on_top(collection, &key, |key| working.get(&name, key))?;
            working.set(&name, &key, row)?;
        }
    }
    Ok(())
}
