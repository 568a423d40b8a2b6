//! Edits made at the destination: found, kept as pending, sent.

use std::collections::{BTreeMap, HashSet};

use deltabus_bus::{Position, encode_reverse};
use deltabus_interfaces::{Error as InterfaceError, Stamp, Unread, in_place};

use deltabus_record::change::{Change, CollectionChanges, ReverseId, ReverseSet, Transaction};
use deltabus_record::diff::Difference;
use deltabus_record::key::Key;
use deltabus_record::row::{self, Row};
use deltabus_record::schema::Collection;
use deltabus_state::{Batch, View};
use metrics::{counter, gauge};

use crate::config::MAX_DELETE_DEFAULT;
use crate::dead::DeadLetters;
use crate::error::Error;
use crate::ledger;
use crate::metrics as figures;
use crate::pending::{Held, Records};

use super::{Look, Receiver, Round};

/// Edits in one reverse set; more go out in several.
const REVERSE_EDITS: usize = 2_000;

/// Bytes of edits in one reverse set, compressed or not, and as a part of what the broker takes in one message: noise
/// grows a little when it is compressed. One edit of more has a set to itself.
const REVERSE_BYTES: usize = 512 * 1024;
const REVERSE_PAYLOAD_PART: usize = 2;

/// What goes around a field or a change on the wire.
const FIELD_BYTES: usize = 16;

/// So many places that can't be read are named in the log, each time the destination is looked at.
const UNREAD_NAMED: usize = 20;

impl Receiver {
    /// Finds edits made at the destination since it was last looked at.
    pub(super) fn find_edits(&mut self, round: &mut Round) -> Result<(), Error> {
        let now = in_place(|| self.interface.stamp())?;
        // What differed and stood counts as edits once these are sent.
        let untouched = self.stamp.as_ref() == Some(&now) && !(self.config.reverse && self.drift > 0);
        if untouched {
            round.drift = self.drift;
        }
        if untouched && self.found.is_some() {
            return Ok(());
        }
        let view = self.store.view();
        let Some(position) = ledger::position(&view)? else { return Ok(()) };
        if untouched {
            // Unchanged since another run of this receiver looked; only what stands there has to be known.
            self.found = Some(in_place(|| self.collections())?);
            return Ok(());
        }
        let look = in_place(|| match self.look(&view) {
            Err(Error::Index(damaged)) => {
                tracing::warn!(
                    error = deltabus_bus::causes(&damaged),
                    "a scan index is damaged; every record is compared"
                );
                self.index = None;
                self.look(&view)
            }
            result => result,
        })?;
        if self.config.reverse {
            // An edit that refers to a content goes out only when the bus has that.
            in_place(|| self.large.flush())?;
        }
        let mut batch = self.store.batch();
        let Some(mut look) = look else {
            tracing::warn!(place = self.place(), "the destination is gone; it is made anew");
            self.remake = true;
            return Ok(());
        };
        if look.missing {
            tracing::warn!(place = self.place(), "a part of the destination is gone; it is made anew");
            if self.config.reverse {
                // What was edited in the others counts.
                let sets = self.keep_edits(&look, position, &mut batch, round)?;
                in_place(|| batch.commit())?;
                sets.into_iter().for_each(|set| self.pending.push(set));
            }
            self.remake = true;
            return Ok(());
        }
        let dead = self.heal(&view, &mut look)?;
        self.count_unread(&look.unread, round);
        let differing: u64 = look.differences.iter().map(|(_, differences, _)| differences.len() as u64).sum();
        let mut sets = Vec::new();
        if self.config.reverse {
            sets = self.keep_edits(&look, position, &mut batch, round)?;
        } else {
            if differing != self.drift && differing > 0 {
                tracing::info!(records = differing, place = self.place(), "records differ from the source and stand");
            }
            round.drift = differing;
        }
        self.drift = round.drift;
        ledger::put_drift(&mut batch, self.drift)?;
        gauge!(figures::DRIFT, &self.labels()).set(self.drift as f64);
        // Drift must be found again by every scan: then there is no index to pass it over.
        let index = (self.config.reverse || differing == 0).then_some(look.index);
        // What is stale is known in memory only: another run does without the index.
        let lasting = look.stale.values().all(HashSet::is_empty);
        ledger::put_index(&mut batch, index.filter(|_| lasting))?;
        ledger::put_stamp(&mut batch, Some(&look.stamp))?;
        if let Some(dead) = &dead {
            dead.write(&self.dead, &mut batch)?;
            self.list_letters(dead, view.collections())?;
        }
        in_place(|| batch.commit())?;
        if let Some(dead) = dead {
            self.pending = self.pending.holding(dead.held());
            self.dead = dead;
        }
        for set in sets {
            self.pending.push(set);
        }
        self.index = index;
        self.stale = look.stale;
        self.stamp = Some(look.stamp);
        self.found = Some(look.found);
        Ok(())
    }

    /// Finds edits made on the base that was put `aside` when a newer one was joined: the destination is about to be made
    /// equal to that, unless somebody has written it since the stamp that this gives. `None`: there is nothing to be found.
    pub(super) fn find_edits_aside(
        &mut self,
        aside: &View,
        position: Position,
        round: &mut Round,
    ) -> Result<Option<Stamp>, Error> {
        if aside.collections().is_empty() || !self.config.reverse {
            return Ok(None);
        }
        if self.stamp.is_some() && self.stamp == Some(self.interface.stamp()?) {
            return Ok(self.stamp.clone());
        }
        self.index = None;
        // What was set aside is expected there as the old base has its fields.
        let held = self.dead.placed(aside.collections(), self.store.view().collections()).held();
        let pending = self.pending.holding(held);
        let pending = std::mem::replace(&mut self.pending, pending);
        let look = self.look(aside);
        self.pending = pending;
        // What is gone is made anew, and nothing was edited in it; what was edited in the rest counts.
        let Some(look) = look? else { return Ok(None) };
        self.large.flush()?;
        let mut batch = self.store.batch();
        let sets = self.keep_edits(&look, position, &mut batch, round)?;
        ledger::put_stamp(&mut batch, Some(&look.stamp))?;
        batch.commit()?;
        for set in sets {
            self.pending.push(set);
        }
        self.stamp = Some(look.stamp.clone());
        Ok(Some(look.stamp))
    }

    /// Puts the edits into the outbox.
    fn keep_edits(
        &self,
        look: &Look,
        position: Position,
        batch: &mut Batch,
        round: &mut Round,
    ) -> Result<Vec<ReverseSet>, Error> {
        for (_, differences, there) in &look.differences {
            let deletes = differences.iter().filter(|difference| difference.after.is_none()).count() as u64;
            let inserts = differences.iter().filter(|difference| difference.before.is_none()).count() as u64;
            let records = there + deletes - inserts.min(there + deletes);
            if deletes as f64 > records as f64 * MAX_DELETE_DEFAULT && deletes > 1 {
                let (place, source_name) = (self.place(), self.config.source.clone());
                return Err(Error::MassDelete { place, source_name, deletes, records });
            }
        }
        let sets = self.reverse_sets(look, position)?;
        self.trace_scan(&sets, look.since);
        for set in &sets {
            batch.outbox_put(set.id.number, &encode_reverse(set));
            ledger::put_reverse_number(batch, set.id.number)?;
            round.edits += set.edits.len() as u64;
            counter!(figures::EDITS_SENT, &self.labels()).increment(set.edits.len() as u64);
        }
        Ok(sets)
    }

    /// Where somebody brought there by hand what had been refused: that is no edit, and no dead letter any more.
    fn heal(&self, view: &View, look: &mut Look) -> Result<Option<DeadLetters>, Error> {
        let mut healed = Records::new();
        for (collection, differences, _) in &mut look.differences {
            if self.dead.iter().all(|letter| letter.collection != *collection) {
                continue;
            }
            let Some(known) = view.collection(collection) else { continue };
            let unset = self.pending.holding(Held::new());
            let base = |key: &Key| -> Result<Option<Row>, Error> {
                let mut row = Vec::new();
                Ok(view.get(collection, key.as_bytes(), &mut row)?.then(|| Row::from_trusted(row)))
            };
            let mut kept = Vec::new();
            for difference in std::mem::take(differences) {
                let refused = self.dead.of(collection, &difference.key).is_some();
                if refused && unset.on_top(known, &difference.key, base)? == difference.after {
                    healed.insert((collection.clone(), difference.key));
                } else {
                    kept.push(difference);
                }
            }
            *differences = kept;
        }
        if healed.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.dead.without(&healed)))
    }

    /// The destination's collections as they are now.
    pub(super) fn collections(&self) -> Result<Vec<Collection>, Error> {
        match self.interface.scan(None) {
            Ok(scan) => Ok(scan.collections().to_vec()),
            Err(InterfaceError::Missing { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says what could not be read; the first few by name.
    fn count_unread(&self, unread: &[Unread], round: &mut Round) {
        for part in unread.iter().take(UNREAD_NAMED) {
            tracing::warn!(place = %part.position, error = part.problem, "a place can't be read; it is left as it is");
        }
        if unread.len() > UNREAD_NAMED {
            tracing::warn!(more = unread.len() - UNREAD_NAMED, "further places can't be read");
        }
        round.unread = unread.iter().map(|part| format!("{}: {}", part.position, part.problem)).collect();
        gauge!(figures::UNREAD, &self.labels()).set(unread.len() as f64);
    }

    /// The edits as reverse sets of a bearable size.
    fn reverse_sets(&self, look: &Look, position: Position) -> Result<Vec<ReverseSet>, Error> {
        let mut number = ledger::reverse_number(&self.store.view())?;
        let time_millis = self.now_millis();
        let bytes_max = REVERSE_BYTES.min(self.log.broker().payload_max() / REVERSE_PAYLOAD_PART);
        let mut sets: Vec<ReverseSet> = Vec::new();
        let mut bytes = 0;
        for (collection, differences, _) in &look.differences {
            for change in differences.iter().filter_map(Difference::to_change) {
                let more = encoded_bytes(&change);
                let full = sets.last().is_none_or(|set| set.edits.len() >= REVERSE_EDITS || bytes + more > bytes_max);
                if full {
                    number += 1;
                    bytes = 0;
                    sets.push(ReverseSet {
                        id: ReverseId { receiver: self.config.name.clone(), number },
                        base: position.revision,
                        time_millis,
                        edits: Transaction::default(),
                        fields: BTreeMap::new(),
                    });
                }
                bytes += more;
                let Some(set) = sets.last_mut() else { continue };
                if let Some(names) = look.fields.get(collection)
                    && !set.fields.contains_key(collection)
                {
                    bytes += names.iter().map(|name| name.len() + FIELD_BYTES).sum::<usize>();
                    set.fields.insert(collection.clone(), names.clone());
                }
                match set.edits.collections.last_mut().filter(|edits| edits.collection == *collection) {
                    Some(edits) => edits.changes.push(change),
                    None => {
                        let edits = CollectionChanges { collection: collection.clone(), changes: vec![change] };
                        set.edits.collections.push(edits);
                    }
                }
            }
        }
        Ok(sets)
    }
}

/// About how many bytes a change takes on the bus, before it is compressed.
fn encoded_bytes(change: &Change) -> usize {
    let values = match change {
        Change::Insert { row, .. } | Change::Delete { row, .. } => row.as_bytes().len(),
        Change::Update { fields, .. } => {
            let mut encoded = Vec::new();
            for field in fields {
                row::encode(&mut encoded, &field.before);
                row::encode(&mut encoded, &field.after);
            }
            encoded.len() + fields.len() * FIELD_BYTES
        }
    };
    change.key().as_bytes().len() + values + FIELD_BYTES
}
