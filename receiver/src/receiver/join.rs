//! Joining by snapshot, and making the destination what it should be.

use std::time::Instant;

use deltabus_bus::{Position, SnapshotReader};
use deltabus_interfaces::found::{self, Found};
use deltabus_interfaces::{Action, CollectionWrite, Error as InterfaceError, Extent, RecordWrite, Scan, Stamp};
use deltabus_record::diff::{self, Identity, NoIndex};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::large::references;
use deltabus_state::View;
use metrics::{counter, gauge, histogram};
use tokio::task::block_in_place;

use crate::config::MAX_DELETE_DEFAULT;
use crate::error::Error;
use crate::expected::{Expected, ExpectedRecords};
use crate::ledger::{self, Wanted};
use crate::metrics as figures;
use crate::outlet::{Outlet, pair};

use super::look::translator;
use super::{DESTINATION_ATTEMPTS, Receiver, Round, write};

impl Receiver {
    /// Loads the newest snapshot as the base. The destination is made equal to it afterwards, by [`Receiver::tend`].
    pub(super) async fn join(&mut self, round: &mut Round) -> Result<Position, Error> {
        if ledger::position(&self.store.view())?.is_some() && self.ahead.is_none() {
            // What was edited on the old base counts.
            self.find_edits(round)?;
        }
        counter!(figures::JOINS, &self.labels()).increment(1);
        let mut reader = SnapshotReader::open(&self.log).await?;
        let manifest = reader.manifest().clone();
        let hashers: Vec<_> =
            manifest.collections.iter().map(|collection| RecordHasher::new(&collection.name)).collect();
        let mut loads = Vec::new();
        for collection in &manifest.collections {
            loads.push(self.store.load(collection)?);
        }
        let mut digest = Digest::default();
        while let Some(mut records) = reader.next().await? {
            block_in_place(|| -> Result<(), Error> {
                while let Some((collection, key, row)) = records.advance()? {
                    digest.add(hashers[collection].hash(key, row));
                    loads[collection].put(key, row)?;
                }
                Ok(())
            })?;
        }
        let revision = manifest.position.revision;
        if digest != revision.digest {
            return Err(Error::Digest { source_name: self.config.source.clone(), revision: revision.number });
        }
        let mut batch = self.store.batch();
        for collection in self.store.view().collections() {
            if !manifest.collections.iter().any(|kept| kept.name == collection.name) {
                batch.remove_collection(&collection.name)?;
            }
        }
        for load in loads {
            load.finish(&mut batch)?;
        }
        let mine = manifest.cursors.iter().find(|(receiver, _)| *receiver == self.config.name);
        if let Some((_, answered)) = mine {
            let (left, done) = self.pending.answered(*answered);
            for number in done {
                batch.outbox_remove(number);
            }
            self.pending = left;
            let number = ledger::reverse_number(&self.store.view())?.max(*answered);
            ledger::put_reverse_number(&mut batch, number)?;
        }
        ledger::put_position(&mut batch, &manifest.position)?;
        ledger::put_reconcile(&mut batch, Wanted::Yes)?;
        ledger::put_journal(&mut batch, None)?;
        ledger::put_index(&mut batch, None)?;
        block_in_place(|| batch.commit())?;
        self.index = None;
        self.ahead = None;
        round.joined = true;
        Ok(manifest.position)
    }

    /// Makes the destination equal to base and pending edits, writing only what differs.
    pub(super) fn reconcile(&mut self, round: &mut Round) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            match block_in_place(|| self.reconcile_now(round)) {
                Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < DESTINATION_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn reconcile_now(&mut self, round: &mut Round) -> Result<(), Error> {
        let start = Instant::now();
        let view = self.store.view();
        let Some(position) = ledger::position(&view)? else { return Ok(()) };
        let (stamp, found) = match self.interface.scan(None) {
            Ok(scan) => (scan.stamp().clone(), scan.collections().to_vec()),
            Err(InterfaceError::Missing { .. }) => (Stamp::MISSING, Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let outlets = self.outlets(view.collections(), &found)?;
        let pairs = pair(&*self.interface, view.collections(), &found).unwrap_or_default();
        let first = ledger::stamp(&view)?.is_none();
        let mut loads: Vec<Option<ExpectedRecords<'_>>> = Vec::new();
        let mut writes: Vec<Vec<RecordWrite>> = Vec::new();
        let mut scan = if found.is_empty() { None } else { Some(self.interface.scan(None)?) };
        let order: Vec<usize> = {
            // A scan goes through the collections in its own order.
            let mut order: Vec<usize> = (0..outlets.len()).collect();
            order.sort_by_key(|at| pairs.get(*at).copied().flatten());
            order
        };
        let mut plans: Vec<(usize, Option<Vec<RecordWrite>>)> = Vec::new();
        for at in order {
            let expected = Expected { view: &view, outlet: &outlets[at], pending: &self.pending };
            let place = pairs.get(at).copied().flatten();
            let write = match (&mut scan, place) {
                (Some(scan), Some(place)) if !self.is_empty(place)? => {
                    Some(self.differing(&mut **scan, place, expected, first)?)
                }
                _ => None,
            };
            plans.push((at, write));
        }
        if let Some(scan) = &mut scan {
            scan.finish()?;
        }
        drop(scan);
        let mut changes = 0;
        for (at, write) in plans.iter_mut() {
            let expected = Expected { view: &view, outlet: &outlets[*at], pending: &self.pending };
            match write.take() {
                Some(write) => {
                    changes += write.len() as u64;
                    loads.push(None);
                    writes.push(write);
                }
                None => {
                    loads.push(Some(ExpectedRecords::new(expected)?));
                    writes.push(Vec::new());
                }
            }
        }
        let mut all = Vec::new();
        for (((at, _), load), write) in plans.iter().zip(&mut loads).zip(&writes) {
            let outlet = &outlets[*at];
            let action = match load {
                Some(records) => Action::Load(records),
                None => Action::Write(write),
            };
            all.push(CollectionWrite { collection: &outlet.destination, dropped: &outlet.dropped, action });
        }
        self.announce(&all, &plans, &outlets, &view)?;
        let mark = self.mark(&position);
        let unchanged = loads_are_empty(&all) && changes == 0 && !self.interface.transactional() && !stamp.is_missing();
        let stamp = if unchanged {
            stamp
        } else {
            self.interface.stage(&mut all, &stamp, mark.as_ref(), &*self.large)?.commit()?
        };
        drop(all);
        let mut batch = self.store.batch();
        ledger::put_reconcile(&mut batch, Wanted::No)?;
        ledger::put_index(&mut batch, None)?;
        ledger::put_stamp(&mut batch, Some(&stamp))?;
        batch.commit()?;
        round.changes += changes;
        for load in loads.iter().flatten() {
            round.changes += load.count();
        }
        self.index = None;
        self.stale.clear();
        self.found = Some(self.collections()?);
        self.stamp = Some(stamp);
        histogram!(figures::APPLY_SECONDS, &self.labels()).record(start.elapsed());
        gauge!(figures::REVISION, &self.labels()).set(position.revision.number as f64);
        Ok(())
    }

    /// Says which contents the writes will need, in the order of their records.
    fn announce(
        &self,
        writes: &[CollectionWrite<'_>],
        plans: &[(usize, Option<Vec<RecordWrite>>)],
        outlets: &[Outlet],
        view: &View,
    ) -> Result<(), Error> {
        let mut upcoming = Vec::new();
        for (write, (at, _)) in writes.iter().zip(plans) {
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

    /// The writes that make a collection what is expected.
    fn differing(
        &self,
        scan: &mut dyn Scan,
        at: usize,
        expected: Expected<'_>,
        first: bool,
    ) -> Result<Vec<RecordWrite>, Error> {
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
        let mut writes = Vec::new();
        for difference in &outcome.differences {
            // What is expected is where it is to go; what was found is where it is.
            writes.extend(write(outlet, difference.after.as_ref(), difference.before.as_ref())?);
        }
        Ok(writes)
    }
}

fn loads_are_empty(writes: &[CollectionWrite<'_>]) -> bool {
    writes.iter().all(|write| matches!(&write.action, Action::Write(writes) if writes.is_empty()))
}
