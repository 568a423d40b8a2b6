//! What changed between the records that were known and those that are found.
//!
//! [`with_index`] walks the records found beside the index of the scan before: as long as fingerprints are equal, nothing
//! is decoded or hashed. At a mismatch a small window on both sides looks for the nearest common fingerprint; what is
//! skipped waits, is matched by fingerprint (records that moved), then by key, and only then decoded records are compared
//! with the known ones. [`without_index`] decodes every record and looks it up. [`compare`] takes two stores and no state.
//!
//! Memory: nothing for records in their old place; for each displaced record its key, and its row if it is a found one, and
//! about 60 bytes; without an index 20 to 40 bytes for each record.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::change::{Change, FieldChange};
use crate::key::{Key, encode_occurrence};
use crate::row::{FieldRef, Row, RowReader};
use crate::value::Value;

/// How far the window looks for a common record. Longer blocks that were inserted, deleted or moved are found too, at the
/// cost of holding them.
const WINDOW: usize = 64;

/// Records as they are found now, in the order of the store.
pub trait Found {
    /// What reading fails with.
    type Error;

    /// Goes on to the next record and gives its fingerprint; `None` after the last.
    fn next(&mut self) -> Result<Option<u64>, Self::Error>;

    /// Appends key and row of the current record, in the known side's slots and types. Where the whole row is the key,
    /// the key comes without its occurrence. `false`: the record can't be read and is left out; whoever compares has to
    /// spare the known one.
    fn decode(&mut self, key: &mut Vec<u8>, row: &mut Vec<u8>) -> Result<bool, Self::Error>;

    /// Where the current record stands, for messages.
    fn place(&self) -> String;
}

/// The scan before: fingerprints and keys in the order of that scan. Keys of whole rows are without occurrence.
pub trait Index {
    /// What reading fails with.
    type Error;

    /// Goes on to the next entry and gives its fingerprint; `None` after the last.
    fn next(&mut self) -> Result<Option<u64>, Self::Error>;

    /// The current entry's key.
    fn key(&self) -> &[u8];
}

/// Takes the index of this scan as it is made.
pub trait IndexSink {
    /// What writing fails with.
    type Error;

    /// Adds an entry.
    fn push(&mut self, fingerprint: u64, key: &[u8]) -> Result<(), Self::Error>;
}

/// The records that were known.
pub trait Known {
    /// What reading fails with.
    type Error;

    /// Appends the row of a record; `false` if there is none.
    fn get(&self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Self::Error>;

    /// Calls `take` with the key of each record; occurrences included.
    fn keys(&self, take: &mut dyn FnMut(&[u8]) -> Result<(), Self::Error>) -> Result<(), Self::Error>;
}

/// One record that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its key.
    pub key: Key,
    /// As it was known; `None`: it is new.
    pub before: Option<Row>,
    /// As it is found; `None`: it is gone.
    pub after: Option<Row>,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The records that differ, by key.
    pub differences: Vec<Difference>,
    /// How many records were found.
    pub records: u64,
    /// How many of them had to be decoded.
    pub decoded: u64,
}

/// Why a comparison failed.
#[derive(Debug, thiserror::Error)]
pub enum DiffError<E> {
    /// Reading or writing failed.
    #[error(transparent)]
    Store(E),
    /// Two records have one key.
    #[error("{place}: another record has the same key ({key}){}", other.as_ref().map(|other| format!(": {other}")).unwrap_or_default())]
    DuplicateKey {
        /// The key, readable.
        key: String,
        /// Where the record stands that was met last.
        place: String,
        /// Where the other stands, as far as known.
        other: Option<String>,
    },
}

/// A store's error as the comparison's.
fn store<E: From<F>, F>(error: F) -> DiffError<E> {
    DiffError::Store(error.into())
}

/// Whether equal rows are counted instead of being one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The key alone.
    Key,
    /// The whole row, equal ones counted.
    WholeRow,
}

impl Difference {
    /// As a change; `None` if nothing differs.
    pub fn into_change(self) -> Option<Change> {
        change(self.key, self.before.as_ref(), self.after.as_ref())
    }
}

/// The change that leads from `before` to `after`; `None` if nothing differs.
pub fn change(key: Key, before: Option<&Row>, after: Option<&Row>) -> Option<Change> {
    match (before, after) {
        (None, None) => None,
        (None, Some(row)) => Some(Change::Insert { key, row: row.clone() }),
        (Some(row), None) => Some(Change::Delete { key, row: row.clone() }),
        (Some(before), Some(after)) => {
            let fields = fields(before, after);
            (!fields.is_empty()).then_some(Change::Update { key, fields })
        }
    }
}

/// The fields in which two rows differ.
pub fn fields(before: &Row, after: &Row) -> Vec<FieldChange> {
    let mut old = RowReader::new(before.as_bytes());
    let mut new = RowReader::new(after.as_bytes());
    let mut fields = Vec::new();
    for slot in 0.. {
        let (before, after) = match (old.next(), new.next()) {
            (None, None) => break,
            (before, after) => (before.unwrap_or(FieldRef::ABSENT), after.unwrap_or(FieldRef::ABSENT)),
        };
        if before != after {
            fields.push(FieldChange { slot, before: before.value(), after: after.value() });
        }
    }
    fields
}

/// A found record that waits for its match.
struct Waiting {
    fingerprint: u64,
    key: Box<[u8]>,
    row: Box<[u8]>,
    place: Place,
}

/// Where a record stands: its number, and its description where there is time for one.
#[derive(Clone, Debug)]
struct Place {
    record: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}", self.record)
    }
}

/// Compares what is found with what is known, by the index of the scan before.
pub fn with_index<E, F, I, K, S>(
    found: &mut dyn Found<Error = F>,
    index: &mut dyn Index<Error = I>,
    known: &dyn Known<Error = K>,
    sink: &mut dyn IndexSink<Error = S>,
    identity: Identity,
) -> Result<Outcome, DiffError<E>>
where
    E: From<F> + From<I> + From<K> + From<S>,
{
    let mut walk = Walk::default();
    let mut outcome = Outcome::default();
    // Fingerprints in hand on either side; found ones decoded where the window needed them.
    let mut old: VecDeque<(u64, Box<[u8]>)> = VecDeque::new();
    let mut new: VecDeque<Waiting> = VecDeque::new();
    let mut old_end = false;
    let mut new_end = false;
    let mut key = Vec::new();
    let mut row = Vec::new();
    loop {
        if old.is_empty() && new.is_empty() && !old_end && !new_end {
            // The fast path: side by side, nothing in hand.
            loop {
                match (index.next().map_err(store)?, found.next().map_err(store)?) {
                    (Some(before), Some(now)) if before == now => {
                        outcome.records += 1;
                        sink.push(now, index.key()).map_err(store)?;
                        continue;
                    }
                    (before, now) => {
                        match before {
                            Some(fingerprint) => old.push_back((fingerprint, index.key().into())),
                            None => old_end = true,
                        }
                        match now {
                            Some(fingerprint) => {
                                outcome.records += 1;
                                new.extend(take(found, fingerprint, &mut outcome, &mut key, &mut row).map_err(store)?);
                            }
                            None => new_end = true,
                        }
                    }
                }
                break;
            }
        }
        if let (Some(before), Some(now)) = (old.front(), new.front())
            && before.0 == now.fingerprint
        {
            sink.push(now.fingerprint, &before.1).map_err(store)?;
            old.pop_front();
            new.pop_front();
            continue;
        }
        if old_end && old.is_empty() && new_end && new.is_empty() {
            break;
        }
        // A mismatch: look for the nearest common fingerprint, the window growing by one on each side.
        let (mut skip_old, mut skip_new) = (old.len(), new.len());
        'window: for reach in 0..WINDOW {
            while old.len() <= reach && !old_end {
                match index.next().map_err(store)? {
                    Some(fingerprint) => old.push_back((fingerprint, index.key().into())),
                    None => old_end = true,
                }
            }
            while new.len() <= reach && !new_end {
                match found.next().map_err(store)? {
                    Some(fingerprint) => {
                        outcome.records += 1;
                        new.extend(take(found, fingerprint, &mut outcome, &mut key, &mut row).map_err(store)?);
                    }
                    None => new_end = true,
                }
            }
            // The new arrivals at distance `reach` against all nearer ones of the other side, equal distances first.
            for near in (0..=reach).rev() {
                if let (Some(before), Some(now)) = (old.get(reach), new.get(near))
                    && before.0 == now.fingerprint
                {
                    (skip_old, skip_new) = (reach, near);
                    break 'window;
                }
                if let (Some(before), Some(now)) = (old.get(near), new.get(reach))
                    && before.0 == now.fingerprint
                {
                    (skip_old, skip_new) = (near, reach);
                    break 'window;
                }
            }
            (skip_old, skip_new) = (old.len(), new.len());
            if old_end && new_end && reach >= old.len() && reach >= new.len() {
                break;
            }
        }
        for (fingerprint, key) in old.drain(..skip_old) {
            walk.missing(fingerprint, key);
        }
        for waiting in new.drain(..skip_new) {
            sink.push(waiting.fingerprint, &waiting.key).map_err(store)?;
            walk.surplus(waiting);
        }
    }
    outcome.differences = walk.settle(known, identity)?;
    Ok(outcome)
}

/// Decodes the current record, if it can be read.
fn take<E>(
    found: &mut dyn Found<Error = E>,
    fingerprint: u64,
    outcome: &mut Outcome,
    key: &mut Vec<u8>,
    row: &mut Vec<u8>,
) -> Result<Option<Waiting>, E> {
    key.clear();
    row.clear();
    if !found.decode(key, row)? {
        return Ok(None);
    }
    outcome.decoded += 1;
    let place = Place { record: outcome.records };
    Ok(Some(Waiting { fingerprint, key: key.as_slice().into(), row: row.as_slice().into(), place }))
}

/// Records that are not where they were.
#[derive(Default)]
struct Walk {
    /// Known ones, by fingerprint.
    missing: HashMap<u64, Vec<Box<[u8]>>>,
    /// Found ones, by fingerprint.
    surplus: HashMap<u64, Vec<Waiting>>,
}

impl Walk {
    fn missing(&mut self, fingerprint: u64, key: Box<[u8]>) {
        if let Some(waiting) = self.surplus.get_mut(&fingerprint) {
            waiting.pop();
            if waiting.is_empty() {
                self.surplus.remove(&fingerprint);
            }
            return;
        }
        self.missing.entry(fingerprint).or_default().push(key);
    }

    fn surplus(&mut self, waiting: Waiting) {
        if let Some(keys) = self.missing.get_mut(&waiting.fingerprint) {
            keys.pop();
            if keys.is_empty() {
                self.missing.remove(&waiting.fingerprint);
            }
            return;
        }
        self.surplus.entry(waiting.fingerprint).or_default().push(waiting);
    }

    /// Matches what is left by key.
    fn settle<E: From<K>, K>(
        self,
        known: &dyn Known<Error = K>,
        identity: Identity,
    ) -> Result<Vec<Difference>, DiffError<E>> {
        let missing = self.missing.into_values().flatten();
        let surplus = self.surplus.into_values().flatten();
        match identity {
            Identity::Key => settle_keys(missing, surplus, known),
            Identity::WholeRow => settle_rows(missing, surplus, known),
        }
    }
}

fn settle_keys<E: From<K>, K>(
    missing: impl Iterator<Item = Box<[u8]>>,
    surplus: impl Iterator<Item = Waiting>,
    known: &dyn Known<Error = K>,
) -> Result<Vec<Difference>, DiffError<E>> {
    let mut gone: BTreeMap<Box<[u8]>, ()> = missing.map(|key| (key, ())).collect();
    let mut found: BTreeMap<Box<[u8]>, Waiting> = BTreeMap::new();
    for waiting in surplus {
        if let Some(other) = found.insert(waiting.key.clone(), waiting) {
            let waiting = &found[&other.key];
            let (first, second) =
                if other.place.record < waiting.place.record { (&other, waiting) } else { (waiting, &other) };
            return Err(duplicate(&second.key, &second.place, Some(&first.place)));
        }
    }
    let mut differences = Vec::new();
    let mut row = Vec::new();
    for (key, waiting) in found {
        row.clear();
        let before = known.get(&key, &mut row).map_err(store)?.then(|| Row::from_trusted(row.as_slice()));
        if before.is_some() && gone.remove(&key).is_none() {
            // The known record was found unchanged somewhere else.
            return Err(duplicate(&key, &waiting.place, None));
        }
        if before.as_ref().is_none_or(|before| before.as_bytes() != &*waiting.row) {
            let after = Some(Row::from_trusted(waiting.row));
            differences.push(Difference { key: Key::from_trusted(key), before, after });
        }
    }
    for key in gone.into_keys() {
        row.clear();
        if known.get(&key, &mut row).map_err(store)? {
            let before = Some(Row::from_trusted(row.as_slice()));
            differences.push(Difference { key: Key::from_trusted(key), before, after: None });
        }
    }
    differences.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(differences)
}

fn settle_rows<E: From<K>, K>(
    missing: impl Iterator<Item = Box<[u8]>>,
    surplus: impl Iterator<Item = Waiting>,
    known: &dyn Known<Error = K>,
) -> Result<Vec<Difference>, DiffError<E>> {
    let mut balance: BTreeMap<Box<[u8]>, (i64, Option<Box<[u8]>>)> = BTreeMap::new();
    for key in missing {
        balance.entry(key).or_default().0 -= 1;
    }
    for waiting in surplus {
        let entry = balance.entry(waiting.key).or_default();
        entry.0 += 1;
        entry.1 = Some(waiting.row);
    }
    let mut differences = Vec::new();
    for (content, (count, row)) in balance.into_iter().filter(|(_, (count, _))| *count != 0) {
        let there = occurrences(&content, known).map_err(store)?;
        for occurrence in 0..count.max(0) as u32 {
            let key = counted(&content, there + occurrence);
            let after = row.clone().map(Row::from_trusted);
            differences.push(Difference { key, before: None, after });
        }
        for occurrence in 0..((-count).max(0) as u32).min(there) {
            let key = counted(&content, there - 1 - occurrence);
            let mut row = Vec::new();
            known.get(key.as_bytes(), &mut row).map_err(store)?;
            differences.push(Difference { key, before: Some(Row::from_trusted(row)), after: None });
        }
    }
    differences.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(differences)
}

/// How many equal rows are known; their occurrences are numbered without a hole.
fn occurrences<E>(content: &[u8], known: &dyn Known<Error = E>) -> Result<u32, E> {
    let mut row = Vec::new();
    let mut holds = |occurrence: u32| -> Result<bool, E> {
        row.clear();
        known.get(counted(content, occurrence).as_bytes(), &mut row)
    };
    let mut above = 1;
    if !holds(0)? {
        return Ok(0);
    }
    while above < u32::MAX / 2 && holds(above)? {
        above *= 2;
    }
    let mut below = above / 2;
    while below + 1 < above {
        let middle = below + (above - below) / 2;
        if holds(middle)? { below = middle } else { above = middle }
    }
    Ok(below + 1)
}

/// The key of a whole row.
pub fn counted(content: &[u8], occurrence: u32) -> Key {
    let mut key = content.to_vec();
    encode_occurrence(&mut key, occurrence);
    Key::from_trusted(key)
}

fn duplicate<E>(key: &[u8], place: &Place, other: Option<&Place>) -> DiffError<E> {
    DiffError::DuplicateKey {
        key: crate::key::display(key),
        place: place.to_string(),
        other: other.map(ToString::to_string),
    }
}

/// Compares what is found with what is known, record by record.
pub fn without_index<E, F, K, S>(
    found: &mut dyn Found<Error = F>,
    known: &dyn Known<Error = K>,
    sink: &mut dyn IndexSink<Error = S>,
    identity: Identity,
) -> Result<Outcome, DiffError<E>>
where
    E: From<F> + From<K> + From<S>,
{
    let mut outcome = Outcome::default();
    let mut seen = Seen::default();
    let mut counts: HashMap<u128, u32> = HashMap::new();
    let (mut key, mut row, mut before) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(fingerprint) = found.next().map_err(store)? {
        outcome.records += 1;
        key.clear();
        row.clear();
        before.clear();
        if !found.decode(&mut key, &mut row).map_err(store)? {
            continue;
        }
        outcome.decoded += 1;
        sink.push(fingerprint, &key).map_err(store)?;
        if identity == Identity::WholeRow {
            count(&mut key, &mut counts);
        }
        seen.take(&key, outcome.records, found)?;
        let there = known.get(&key, &mut before).map_err(store)?;
        if !there || before != row {
            outcome.differences.push(Difference {
                key: Key::from_trusted(key.as_slice()),
                before: there.then(|| Row::from_trusted(before.as_slice())),
                after: Some(Row::from_trusted(row.as_slice())),
            });
        }
    }
    let mut gone = Vec::new();
    known
        .keys(&mut |key| {
            if !seen.contains(key) {
                gone.push(Key::from_trusted(key));
            }
            Ok(())
        })
        .map_err(store)?;
    for key in gone {
        before.clear();
        known.get(key.as_bytes(), &mut before).map_err(store)?;
        outcome.differences.push(Difference { key, before: Some(Row::from_trusted(before.as_slice())), after: None });
    }
    outcome.differences.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(outcome)
}

/// Compares what may have been written since the scan before: `found` gives only that, `kept` other records stand. `count`
/// is how many records are known. `None` if some are gone, or one can't be read: then everything has to be looked at.
pub fn since<E, F, K>(
    found: &mut dyn Found<Error = F>,
    known: &dyn Known<Error = K>,
    kept: u64,
    count: u64,
) -> Result<Option<Outcome>, DiffError<E>>
where
    E: From<F> + From<K>,
{
    let mut outcome = Outcome { records: kept, ..Outcome::default() };
    let mut seen = Seen::default();
    let mut still_there = kept;
    let (mut key, mut row, mut before) = (Vec::new(), Vec::new(), Vec::new());
    while found.next().map_err(store)?.is_some() {
        outcome.records += 1;
        key.clear();
        row.clear();
        before.clear();
        if !found.decode(&mut key, &mut row).map_err(store)? {
            return Ok(None);
        }
        outcome.decoded += 1;
        seen.take(&key, outcome.records, found)?;
        let there = known.get(&key, &mut before).map_err(store)?;
        still_there += u64::from(there);
        if !there || before != row {
            outcome.differences.push(Difference {
                key: Key::from_trusted(key.as_slice()),
                before: there.then(|| Row::from_trusted(before.as_slice())),
                after: Some(Row::from_trusted(row.as_slice())),
            });
        }
    }
    outcome.differences.sort_by(|a, b| a.key.cmp(&b.key));
    Ok((still_there == count).then_some(outcome))
}

/// Takes in records when nothing is known yet: each goes to `load` as key and row; nothing is held but 20 to 40 bytes a
/// record.
pub fn first<E, F, S, L>(
    found: &mut dyn Found<Error = F>,
    sink: &mut dyn IndexSink<Error = S>,
    identity: Identity,
    load: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), L>,
) -> Result<Outcome, DiffError<E>>
where
    E: From<F> + From<S> + From<L>,
{
    let mut outcome = Outcome::default();
    let mut seen = Seen::default();
    let mut counts: HashMap<u128, u32> = HashMap::new();
    let (mut key, mut row) = (Vec::new(), Vec::new());
    while let Some(fingerprint) = found.next().map_err(store)? {
        outcome.records += 1;
        key.clear();
        row.clear();
        if !found.decode(&mut key, &mut row).map_err(store)? {
            continue;
        }
        outcome.decoded += 1;
        sink.push(fingerprint, &key).map_err(store)?;
        if identity == Identity::WholeRow {
            count(&mut key, &mut counts);
        }
        seen.take(&key, outcome.records, found)?;
        load(&key, &row).map_err(store)?;
    }
    Ok(outcome)
}

/// Completes the key of a whole row by counting its equals.
fn count(key: &mut Vec<u8>, counts: &mut HashMap<u128, u32>) {
    let next = counts.entry(xxh3_128(key)).or_default();
    encode_occurrence(key, *next);
    *next += 1;
}

/// The keys met, as hashes: finds duplicates and what is gone.
#[derive(Default)]
struct Seen {
    /// Which record had the key.
    records: HashMap<KeyHash, u32, BuildHasherDefault<AsItIs>>,
}

/// 96 bits of a key's hash: among a thousand million keys the odds that two share them are one in 10^11, and with the
/// record's number they fill 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyHash([u32; 3]);

impl KeyHash {
    fn of(key: &[u8]) -> KeyHash {
        let hash = xxh3_128(key);
        KeyHash([hash as u32, (hash >> 32) as u32, (hash >> 64) as u32])
    }
}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.0[0]) | u64::from(self.0[1]) << 32);
    }
}

/// Takes a hash for its own hash.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }
}

impl Seen {
    /// Takes in the key of the current record of `found`, the `record`th; a key met before is an error.
    fn take<E, F>(&mut self, key: &[u8], record: u64, found: &dyn Found<Error = F>) -> Result<(), DiffError<E>> {
        match self.records.entry(KeyHash::of(key)) {
            Entry::Vacant(entry) => {
                // For messages only: beyond four thousand million records it says no more.
                entry.insert(u32::try_from(record).unwrap_or(u32::MAX));
                Ok(())
            }
            Entry::Occupied(entry) => {
                let other = Place { record: u64::from(*entry.get()) }.to_string();
                Err(DiffError::DuplicateKey { key: crate::key::display(key), place: found.place(), other: Some(other) })
            }
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.records.contains_key(&KeyHash::of(key))
    }
}

/// Whether the fingerprints of two stores mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fingerprints {
    /// Equal fingerprints are equal records.
    Comparable,
    /// Records have to be decoded to be compared.
    Foreign,
}

/// Compares two stores: what leads from `a` to `b`. Of records that are equal on both sides only the fingerprints are looked
/// at, so that a key which both have twice, unchanged, goes unnoticed, and a second record of a key, where the first is equal
/// on both sides, looks like one that came in or went.
pub fn compare<E>(
    a: &mut (dyn Found<Error = E> + '_),
    b: &mut (dyn Found<Error = E> + '_),
    fingerprints: Fingerprints,
    identity: Identity,
) -> Result<Outcome, DiffError<E>> {
    let mut outcome = Outcome::default();
    let mut left = Side { found: a, records: 0, decoded: 0, window: VecDeque::new(), end: false, fingerprints };
    let mut right = Side { found: b, records: 0, decoded: 0, window: VecDeque::new(), end: false, fingerprints };
    let mut only_left: HashMap<u64, Vec<Waiting>> = HashMap::new();
    let mut only_right: HashMap<u64, Vec<Waiting>> = HashMap::new();
    loop {
        if fingerprints == Fingerprints::Comparable && left.is_level() && right.is_level() {
            loop {
                let (before, now) = (left.step().map_err(store)?, right.step().map_err(store)?);
                if before.is_some() && before == now {
                    continue;
                }
                left.hold(before).map_err(store)?;
                right.hold(now).map_err(store)?;
                break;
            }
        } else {
            left.fill(0).map_err(store)?;
            right.fill(0).map_err(store)?;
        }
        match (left.window.front(), right.window.front()) {
            (None, None) => break,
            (Some(before), Some(now)) if before.fingerprint == now.fingerprint => {
                left.window.pop_front();
                right.window.pop_front();
                continue;
            }
            _ => {}
        }
        let mut skip = None;
        for reach in 0..WINDOW {
            left.fill(reach).map_err(store)?;
            right.fill(reach).map_err(store)?;
            let mut near = (0..=reach).rev();
            skip = near.find_map(|near| {
                let equal = |i: usize, j: usize| match (left.window.get(i), right.window.get(j)) {
                    (Some(before), Some(now)) => before.fingerprint == now.fingerprint,
                    _ => false,
                };
                if equal(reach, near) { Some((reach, near)) } else { equal(near, reach).then_some((near, reach)) }
            });
            if skip.is_some() || (left.end && right.end && reach >= left.window.len().max(right.window.len())) {
                break;
            }
        }
        let (skip_left, skip_right) = skip.unwrap_or((left.window.len(), right.window.len()));
        for waiting in left.window.drain(..skip_left) {
            hold_or_match(waiting, &mut only_left, &mut only_right);
        }
        for waiting in right.window.drain(..skip_right) {
            hold_or_match(waiting, &mut only_right, &mut only_left);
        }
    }
    outcome.records = right.records;
    outcome.decoded = left.decoded + right.decoded;
    outcome.differences = pair(only_left, only_right, identity)?;
    Ok(outcome)
}

fn hold_or_match(waiting: Waiting, own: &mut HashMap<u64, Vec<Waiting>>, other: &mut HashMap<u64, Vec<Waiting>>) {
    match other.get_mut(&waiting.fingerprint) {
        Some(matches) => {
            matches.pop();
            if matches.is_empty() {
                other.remove(&waiting.fingerprint);
            }
        }
        None => own.entry(waiting.fingerprint).or_default().push(waiting),
    }
}

/// One of two stores.
struct Side<'a, E> {
    found: &'a mut dyn Found<Error = E>,
    records: u64,
    decoded: u64,
    window: VecDeque<Waiting>,
    end: bool,
    fingerprints: Fingerprints,
}

impl<E> Side<'_, E> {
    fn is_level(&self) -> bool {
        self.window.is_empty() && !self.end
    }

    fn step(&mut self) -> Result<Option<u64>, E> {
        let fingerprint = self.found.next()?;
        self.records += u64::from(fingerprint.is_some());
        Ok(fingerprint)
    }

    /// Takes the current record into the window.
    fn hold(&mut self, fingerprint: Option<u64>) -> Result<(), E> {
        let Some(fingerprint) = fingerprint else {
            self.end = true;
            return Ok(());
        };
        let (mut key, mut row) = (Vec::new(), Vec::new());
        if !self.found.decode(&mut key, &mut row)? {
            return Ok(());
        }
        self.decoded += 1;
        let fingerprint = match self.fingerprints {
            Fingerprints::Comparable => fingerprint,
            Fingerprints::Foreign => xxh3_64(&key) ^ xxh3_64(&row).rotate_left(1),
        };
        let place = Place { record: self.records };
        self.window.push_back(Waiting { fingerprint, key: key.into(), row: row.into(), place });
        Ok(())
    }

    fn fill(&mut self, reach: usize) -> Result<(), E> {
        while self.window.len() <= reach && !self.end {
            let fingerprint = self.step()?;
            self.hold(fingerprint)?;
        }
        Ok(())
    }
}

fn pair<E>(
    left: HashMap<u64, Vec<Waiting>>,
    right: HashMap<u64, Vec<Waiting>>,
    identity: Identity,
) -> Result<Vec<Difference>, DiffError<E>> {
    let mut pairs: BTreeMap<Box<[u8]>, (Vec<Waiting>, Vec<Waiting>)> = BTreeMap::new();
    for waiting in left.into_values().flatten() {
        pairs.entry(waiting.key.clone()).or_default().0.push(waiting);
    }
    for waiting in right.into_values().flatten() {
        pairs.entry(waiting.key.clone()).or_default().1.push(waiting);
    }
    let mut differences = Vec::new();
    for (key, (mut before, mut after)) in pairs {
        match identity {
            Identity::Key => {
                for side in [&mut before, &mut after] {
                    side.sort_by_key(|waiting| waiting.place.record);
                    if let [first, second, ..] = side.as_slice() {
                        return Err(duplicate(&key, &second.place, Some(&first.place)));
                    }
                }
                let before = before.pop().map(|waiting| Row::from_trusted(waiting.row));
                let after = after.pop().map(|waiting| Row::from_trusted(waiting.row));
                if before != after {
                    differences.push(Difference { key: Key::from_trusted(key), before, after });
                }
            }
            Identity::WholeRow => {
                let common = before.len().min(after.len());
                let rest = before.drain(common..).map(|waiting| (Some(waiting.row), None));
                let rest = rest.chain(after.drain(common..).map(|waiting| (None, Some(waiting.row))));
                for (occurrence, (before, after)) in rest.enumerate() {
                    differences.push(Difference {
                        key: counted(&key, occurrence as u32),
                        before: before.map(Row::from_trusted),
                        after: after.map(Row::from_trusted),
                    });
                }
            }
        }
    }
    Ok(differences)
}

/// An index that takes nothing.
pub struct NoIndex<E>(std::marker::PhantomData<fn() -> E>);

impl<E> Default for NoIndex<E> {
    fn default() -> NoIndex<E> {
        NoIndex(std::marker::PhantomData)
    }
}

impl<E> IndexSink for NoIndex<E> {
    type Error = E;

    fn push(&mut self, _: u64, _: &[u8]) -> Result<(), E> {
        Ok(())
    }
}

/// The value in `slot` of an optional row.
pub fn value_in(row: Option<&Row>, slot: usize) -> Value {
    row.map_or(Value::Absent, |row| row.value(slot))
}
