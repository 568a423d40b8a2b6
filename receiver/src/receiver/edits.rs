//! Edits made at the destination: found, kept as pending, sent.

use std::collections::HashSet;

use deltabus_bus::{Position, encode_reverse};
use deltabus_interfaces::{Error as InterfaceError, Unread, in_place};

use deltabus_record::change::{CollectionChanges, ReverseId, ReverseSet, Transaction};
use deltabus_record::diff::Difference;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::Collection;
use deltabus_state::View;
use metrics::{counter, gauge};

use crate::config::MAX_DELETE_DEFAULT;
use crate::dead::DeadLetters;
use crate::error::Error;
use crate::ledger::{self, Wanted};
use crate::metrics as figures;
use crate::pending::{Aside, Records};

use super::{Look, Purpose, REVERSE_EDITS, Receiver, Round};

/// So many places that can't be read are named in the log, each time the destination is looked at.
const UNREAD_NAMED: usize = 20;

impl Receiver {
    /// Finds edits made at the destination since it was last looked at.
    pub(super) fn find_edits(&mut self, round: &mut Round) -> Result<(), Error> {
        let now = in_place(|| self.interface.stamp())?;
        if self.stamp.as_ref() == Some(&now) && self.found.is_some() {
            return Ok(());
        }
        let view = self.store.view();
        let Some(position) = ledger::position(&view)? else { return Ok(()) };
        if self.stamp.as_ref() == Some(&now) {
            // Unchanged since another run of this receiver looked; only what stands there has to be known.
            self.found = Some(in_place(|| self.collections())?);
            return Ok(());
        }
        let look = in_place(|| match self.look(&view) {
            Err(Error::Index(damaged)) => {
                tracing::warn!(%damaged, "every record is compared instead");
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
        let Some(look) = look.filter(|look| !look.missing) else {
            tracing::warn!(place = self.place(), "the destination, or a part of it, is gone; it is made anew");
            ledger::put_reconcile(&mut batch, Wanted::Yes)?;
            return Ok(batch.commit()?);
        };
        let mut look = look;
        let dead = self.heal(&view, &mut look)?;
        self.count_unread(&look.unread, round);
        let differing: u64 = look.differences.iter().map(|(_, differences, _)| differences.len() as u64).sum();
        if self.config.reverse {
            for (_, differences, there) in &look.differences {
                let deletes = differences.iter().filter(|difference| difference.after.is_none()).count() as u64;
                let inserts = differences.iter().filter(|difference| difference.before.is_none()).count() as u64;
                let records = there + deletes - inserts.min(there + deletes);
                if deletes as f64 > records as f64 * MAX_DELETE_DEFAULT && deletes > 1 {
                    let (place, source_name) = (self.place(), self.config.source.clone());
                    return Err(Error::MassDelete { place, source_name, deletes, records });
                }
            }
            let sets = self.reverse_sets(&look, position)?;
            for set in &sets {
                batch.outbox_put(set.id.number, &encode_reverse(set));
                ledger::put_reverse_number(&mut batch, set.id.number)?;
                round.edits += set.edits.len() as u64;
            }
            counter!(figures::EDITS_SENT, &self.labels()).increment(differing);
            for set in sets {
                self.pending.push(set);
            }
        } else {
            if differing != self.drift && differing > 0 {
                tracing::info!(records = differing, place = self.place(), "records differ from the source and stand");
            }
            round.drift = differing;
            self.drift = differing;
            gauge!(figures::DRIFT, &self.labels()).set(differing as f64);
        }
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
            self.pending = self.pending.with_aside(dead.aside());
            self.dead = dead;
        }
        self.index = index;
        self.stale = look.stale;
        self.stamp = Some(look.stamp);
        self.found = Some(look.found);
        Ok(())
    }

    /// Where somebody brought there by hand what had been refused: that is no edit, and no dead letter any more.
    fn heal(&self, view: &View, look: &mut Look) -> Result<Option<DeadLetters>, Error> {
        let mut healed = Records::new();
        for (collection, differences, _) in &mut look.differences {
            if self.dead.iter().all(|letter| letter.collection != *collection) {
                continue;
            }
            let Some(known) = view.collection(collection) else { continue };
            let unset = self.pending.with_aside(Aside::new());
            let base = |key: &Key| -> Result<Option<Row>, Error> {
                let mut row = Vec::new();
                Ok(view.get(collection, key.as_bytes(), &mut row)?.then(|| Row::from_trusted(row)))
            };
            let mut kept = Vec::new();
            for difference in std::mem::take(differences) {
                let aside = self.dead.of(collection, &difference.key).is_some();
                if aside && unset.on_top(known, &difference.key, base)? == difference.after {
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
            tracing::warn!(place = %part.position, problem = part.problem, "left as it is: it can't be read");
        }
        if unread.len() > UNREAD_NAMED {
            tracing::warn!(more = unread.len() - UNREAD_NAMED, "further ones can't be read");
        }
        round.unread = unread.iter().map(|part| format!("{}: {}", part.position, part.problem)).collect();
        gauge!(figures::UNREAD, &self.labels()).set(unread.len() as f64);
    }

    /// The edits as reverse sets of a bearable size.
    fn reverse_sets(&self, look: &Look, position: Position) -> Result<Vec<ReverseSet>, Error> {
        let mut number = ledger::reverse_number(&self.store.view())?;
        let time_millis = self.now_millis();
        let mut sets: Vec<ReverseSet> = Vec::new();
        for (collection, differences, _) in &look.differences {
            let changes: Vec<_> = differences.iter().cloned().filter_map(Difference::into_change).collect();
            for changes in changes.chunks(REVERSE_EDITS) {
                let edits = CollectionChanges { collection: collection.clone(), changes: changes.to_vec() };
                match sets.last_mut().filter(|set| set.edits.len() + changes.len() <= REVERSE_EDITS) {
                    Some(set) => set.edits.collections.push(edits),
                    None => {
                        number += 1;
                        sets.push(ReverseSet {
                            id: ReverseId { receiver: self.config.name.clone(), number },
                            base: position.revision,
                            time_millis,
                            edits: Transaction { schemas: Vec::new(), collections: vec![edits] },
                        });
                    }
                }
            }
        }
        Ok(sets)
    }

    /// Sends reverse sets that the bus doesn't have yet.
    pub(super) async fn send(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() || matches!(self.purpose, Purpose::Rehearse(_)) {
            return Ok(());
        }
        let there = self.log.last_reverse(&self.config.name).await?;
        for set in self.pending.sets().iter().filter(|set| set.id.number > there) {
            self.log.send_reverse(set).await?;
        }
        Ok(())
    }
}
