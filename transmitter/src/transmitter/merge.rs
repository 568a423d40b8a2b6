//! Reverse sets: taken once, merged with the source, written there, staged with their answers.

use std::collections::BTreeMap;
use std::time::Instant;

use deltabus_bus::{ReversePlace, causes, metrics as refused, misses_content};
use deltabus_interfaces::{Error as InterfaceError, RecordWrite, Stamp, in_place};
use deltabus_record::change::{Change, Reply, ReverseCursor, ReverseSet, Revision, Transaction};
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, ReceiverName};
use deltabus_record::value::Value;
use deltabus_state::{Batch, View, Working};
use metrics::counter;

use crate::ledger::{self};
use crate::metrics as figures;
use crate::reverse::{Edit, Prepared};
use crate::tenure::Tenure;
use crate::{Error, reverse};

use super::traced::{Found, Origin, conflicts_in, refused_in};
use super::{Round, SOURCE_ATTEMPTS, Transmitter};

/// What one receiver may have taken in one round; a first set is taken whatever its size. Receivers send sets of at most 2,000
/// edits and half a mebibyte.
const SHARE_SETS: usize = 100;
const SHARE_EDITS: usize = 10_000;
const SHARE_BYTES: u64 = 4 * 1024 * 1024;

/// What all receivers together may have taken in one round, and how much of anything is read in it: names cost nothing where
/// nobody grants them.
const ROUND_SETS: usize = 1_000;
const ROUND_BYTES: u64 = 256 * 1024 * 1024;

/// So many receivers of one source are remembered; sets of further ones are passed over.
const RECEIVERS_MAX: usize = 4_096;

/// Sets of others are looked for so far behind the first one that is left for the next round.
const AHEAD_BYTES: u64 = 64 * 1024 * 1024;

/// Who had how much of a round.
#[derive(Default)]
struct Shares {
    of: BTreeMap<ReceiverName, Share>,
    sets: usize,
    /// What was taken up to the first set that is left for the next round.
    left: Option<ReversePlace>,
    /// How much was read behind that.
    ahead_bytes: u64,
}

#[derive(Default)]
struct Share {
    sets: usize,
    edits: usize,
    bytes: u64,
    used_up: bool,
}

impl Shares {
    /// Whether the receiver's share has room for the set; once it hadn't, nothing more of that receiver is taken, so that its order is kept.
    fn take(&mut self, set: &ReverseSet, bytes: u64) -> bool {
        let share = self.of.entry(set.id.receiver.clone()).or_default();
        let edits = set.edits.len();
        let fits = share.sets < SHARE_SETS && share.edits + edits <= SHARE_EDITS && share.bytes + bytes <= SHARE_BYTES;
        share.used_up |= share.sets > 0 && !fits || self.sets >= ROUND_SETS;
        if share.used_up {
            return false;
        }
        self.sets += 1;
        share.sets += 1;
        share.edits += edits;
        share.bytes += bytes;
        true
    }
}

impl Transmitter {
    /// Takes the reverse sets that wait: each once, in order, merged with the source as it stands; of each receiver its share.
    /// What is left waits for the next round, which looks at the source first, so that nobody's flood keeps others' edits or the
    /// source's own changes from being published.
    pub(super) async fn take_reverse_sets(&mut self, round: &mut Round) -> Result<(), Error> {
        round.more = false;
        if ledger::revision(&self.store.view())?.number == 0 || round.held.is_some() {
            return Ok(());
        }
        let mut shares = Shares::default();
        let mut at = ledger::reverse(&self.store.view())?;
        let mut bytes = 0;
        let mut ended = false;
        while shares.ahead_bytes < AHEAD_BYTES && shares.sets < ROUND_SETS && bytes < ROUND_BYTES {
            let batch = self.log.reverse_sets(at).await?;
            let Some(last) = batch.last().map(|reversed| reversed.place) else {
                ended = true;
                break;
            };
            let cursors: BTreeMap<_, _> = ledger::cursors(&self.store.view())?.into_iter().collect();
            let mut sets = Vec::new();
            let known = cursors.len();
            for reversed in batch {
                bytes += reversed.bytes;
                match reversed.set {
                    Ok(set) if cursors.get(&set.id.receiver).is_some_and(|cursor| set.id.number <= cursor.last()) => {}
                    Ok(set) if known >= RECEIVERS_MAX && !cursors.contains_key(&set.id.receiver) => {
                        counter!(refused::REFUSED, "source" => self.label(), "what" => refused::REVERSE).increment(1);
                        let receiver = set.id.receiver;
                        tracing::error!(
                            source = %self.config.source, %receiver, receivers_max = RECEIVERS_MAX,
                            "a reverse set is passed over: too many receivers are known"
                        );
                    }
                    Ok(set) if shares.take(&set, reversed.bytes) => {
                        if reverse::dated(&set, self.now_millis()) != set.time_millis {
                            self.refuse(figures::REASON_DATE, &set.id.receiver);
                        }
                        sets.push(set);
                    }
                    Ok(_) => drop(shares.left.get_or_insert(at)),
                    Err(error) if shares.left.is_none() => {
                        counter!(refused::REFUSED, "source" => self.label(), "what" => refused::REVERSE).increment(1);
                        tracing::error!(
                            source = %self.config.source, sequence = reversed.place.sequence, error = causes(&error),
                            "a reverse set is passed over"
                        );
                    }
                    // Met again when it is its turn.
                    Err(_) => {}
                }
                if shares.left.is_some() {
                    shares.ahead_bytes += reversed.bytes;
                }
                at = reversed.place;
            }
            let done = shares.left.unwrap_or(last);
            let mut attempt = 0;
            loop {
                // Whoever was replaced while it was frozen or cut off writes nothing to the source.
                if let Some(writer) = &self.writer {
                    writer.confirm().await?;
                }
                match self.merge_and_stage(&sets, done, round) {
                    Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < SOURCE_ATTEMPTS => {
                        attempt += 1;
                        // Somebody wrote the source meanwhile: that comes first.
                        self.observe_and_stage(round)?;
                        if round.held.is_some() {
                            return Ok(());
                        }
                    }
                    result => break result?,
                }
            }
        }
        round.more = shares.left.is_some() || !ended;
        Ok(())
    }

    fn refuse(&self, reason: &'static str, receiver: &ReceiverName) {
        counter!(figures::DOUBTFUL, "source" => self.label(), "reason" => reason).increment(1);
        tracing::warn!(source = %self.config.source, %receiver, reason, "edits are taken with a reservation");
    }

    fn merge_and_stage(
        &mut self,
        sets: &[deltabus_record::change::ReverseSet],
        last: ReversePlace,
        round: &mut Round,
    ) -> Result<(), Error> {
        let view = self.store.view();
        let base = ledger::revision(&view)?;
        let mut batch = self.store.batch();
        ledger::put_reverse(&mut batch, last)?;
        let mut cursors: BTreeMap<_, ReverseCursor> = ledger::cursors(&view)?.into_iter().collect();
        let fresh: Vec<_> =
            sets.iter().filter(|set| cursors.entry(set.id.receiver.clone()).or_default().take(set.id.number)).collect();
        if fresh.is_empty() {
            return Ok(in_place(|| batch.commit())?);
        }
        let since = Instant::now();
        let merged = in_place(|| self.merge(&view, base, &fresh))?;
        for (receiver, cursor) in &cursors {
            ledger::put_cursor(&mut batch, receiver, cursor)?;
        }
        for (set, reply) in fresh.iter().zip(&merged.replies) {
            let labels = [("source", self.label()), ("receiver", set.id.receiver.to_string())];
            let (conflicts, refused) = (conflicts_in(reply), refused_in(reply));
            counter!(figures::REVERSE_SETS, &labels).increment(1);
            counter!(figures::CONFLICTS, &labels).increment(conflicts);
            counter!(figures::DEAD_LETTERS, &labels).increment(refused);
            round.reverse_sets += 1;
            round.conflicts += conflicts;
            round.refused += refused;
        }
        self.stage_merged(&view, base, merged, batch, Found::Edits { since }, round).map(drop)
    }

    /// Stages what was merged and written to the source, with what `batch` has already.
    pub(super) fn stage_merged(
        &mut self,
        view: &View,
        base: Revision,
        merged: Merged,
        mut batch: Batch,
        found: Found,
        round: &mut Round,
    ) -> Result<Revision, Error> {
        ledger::put_index(&mut batch, None)?;
        ledger::put_stamp(&mut batch, merged.stamp.as_ref())?;
        round.changes += merged.transaction.len() as u64;
        let mut working = Working::new(view, base.digest);
        working.apply(&merged.transaction)?;
        let origin = Origin { replies: merged.replies, found };
        let staged = self.stage(view, base, &working, merged.transaction.clone(), origin, batch)?;
        round.revision = staged.number;
        self.stamp = merged.stamp;
        for changes in &merged.transaction.collections {
            let stale = self.stale.entry(changes.collection.clone()).or_default();
            stale.extend(changes.changes.iter().map(|change| content_key(view, &changes.collection, change)));
        }
        Ok(staged)
    }

    /// Merges reverse sets and writes the outcome to the source.
    fn merge(
        &self,
        view: &View,
        base: Revision,
        sets: &[&deltabus_record::change::ReverseSet],
    ) -> Result<Merged, Error> {
        let last_changed = |collection: &CollectionName, key: &Key| remembered(view, collection, key);
        let source = self.as_merged();
        let mut working = Working::new(view, base.digest);
        let mut replies = Vec::new();
        for set in sets {
            let (policy, dated) = (self.config.conflicts, reverse::dated(set, self.now_millis()));
            replies.push(reverse::merge_set(set, dated, &mut working, &source, policy, &last_changed)?);
        }
        match self.write_merged(&working, replies) {
            // One edit spoils it for all: each on its own, so that only that one is refused.
            Err(Error::Interface(error)) if refusable(&error) => self.merge_one_by_one(view, base, sets, &error),
            merged => merged,
        }
    }

    /// Writes what was merged into `working` to the source.
    pub(super) fn write_merged(&self, working: &Working<'_>, replies: Vec<Reply>) -> Result<Merged, Error> {
        // A set that refers to a content is staged only when the bus has that.
        self.contents.flush()?;
        let writes = reverse::source_writes(working);
        if writes.is_empty() {
            return Ok(Merged { transaction: Transaction::default(), replies, stamp: self.stamp.clone() });
        }
        let Some(expected) = &self.stamp else {
            return Err(InterfaceError::Changed { place: self.config.location.to_string() }.into());
        };
        let stamp = self.write_source(&writes, expected)?;
        Ok(Merged { transaction: reverse::transaction_of(working), replies, stamp: Some(stamp) })
    }

    fn write_source(&self, writes: &[(Collection, Vec<RecordWrite>)], expected: &Stamp) -> Result<Stamp, Error> {
        let may = || self.tenure.as_ref().map_or(Ok(()), Tenure::check);
        reverse::write_source(&*self.interface, writes, expected, &self.contents, &may)
    }

    pub(super) fn as_merged(&self) -> reverse::Source<'_> {
        reverse::Source { interface: &*self.interface, contents: &self.contents }
    }

    fn merge_one_by_one(
        &self,
        view: &View,
        base: Revision,
        sets: &[&deltabus_record::change::ReverseSet],
        error: &InterfaceError,
    ) -> Result<Merged, Error> {
        tracing::warn!(error = causes(error), "the source refused edits; each is tried on its own");
        let last_changed = |collection: &CollectionName, key: &Key| remembered(view, collection, key);
        let source = self.as_merged();
        let mut working = Working::new(view, base.digest);
        let mut replies = Vec::new();
        let mut stamp = self.stamp.clone();
        for set in sets {
            let time_millis = reverse::dated(set, self.now_millis());
            let mut reply = Reply {
                reverse: set.id.clone(),
                time_millis: set.time_millis,
                verdicts: Vec::new(),
                resolves: Vec::new(),
            };
            for edits in &set.edits.collections {
                for edit in &edits.changes {
                    let edit = match reverse::prepare(set, &edits.collection, edit, &working, &source)? {
                        Prepared::Edit(edit) => edit,
                        Prepared::Decided(verdict) => {
                            reply.verdicts.push(verdict);
                            continue;
                        }
                    };
                    let mut trial = Working::new(view, base.digest);
                    trial.set(&edits.collection, edit.key(), working.get(&edits.collection, edit.key())?)?;
                    let one = Edit { collection: &edits.collection, edit, time_millis };
                    let verdicts = reverse::merge_edit(&one, &mut trial, self.config.conflicts, &last_changed)?;
                    let edit = one.edit;
                    let before = working.get(&edits.collection, edit.key())?;
                    let writes = reverse::source_writes_from(&trial, &working)?;
                    let written = match (&stamp, writes.is_empty()) {
                        (_, true) => Ok(None),
                        (Some(expected), false) => self.write_source(&writes, expected).map(Some),
                        (None, false) => {
                            Err(InterfaceError::Changed { place: self.config.location.to_string() }.into())
                        }
                    };
                    match written {
                        Ok(now) => {
                            let after = trial.get(&edits.collection, edit.key())?;
                            if before != after {
                                working.set(&edits.collection, edit.key(), after)?;
                            }
                            stamp = now.or(stamp);
                            reply.verdicts.extend(verdicts);
                        }
                        Err(Error::Interface(error)) if refusable(&error) => {
                            let reason = causes(&error);
                            reply.verdicts.push(reverse::refused(&edits.collection, edit, reason));
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            replies.push(reply);
        }
        Ok(Merged { transaction: reverse::transaction_of(&working), replies, stamp })
    }
}

/// What a merge came to.
pub(super) struct Merged {
    pub(super) transaction: Transaction,
    pub(super) replies: Vec<Reply>,
    /// The source's stamp after it was written.
    pub(super) stamp: Option<Stamp>,
}

/// Whether an error speaks of one record, so that the others may do, and stays.
pub(super) fn refusable(error: &InterfaceError) -> bool {
    let of_records = error.is_of_records() || matches!(error, InterfaceError::Unsupported { .. });
    // Of a record that comes back with an edit the source had the content, and nobody sends that again.
    of_records && !error.is_transient() || misses_content(error)
}

pub(super) fn remembered(view: &View, collection: &CollectionName, key: &Key) -> (u64, Option<Row>) {
    let stored = view.overlay(collection, key.as_bytes()).ok().flatten();
    let values = stored.and_then(|bytes| Row::from_bytes(&bytes).ok()).map(|row| row.values()).unwrap_or_default();
    match values.as_slice() {
        [Value::Integer(time)] => (*time as u64, None),
        [Value::Integer(time), Value::Bytes(row)] => (*time as u64, Row::from_bytes(row).ok()),
        _ => (0, None),
    }
}

/// A record's key as it stands in the scan index.
fn content_key(view: &View, collection: &CollectionName, change: &Change) -> Vec<u8> {
    match view.collection(collection) {
        Some(Collection { schema, .. }) => schema.key_content(change.key()).to_vec(),
        None => change.key().as_bytes().to_vec(),
    }
}
