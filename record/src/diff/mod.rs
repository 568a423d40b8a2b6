//! What changed between the records that were known and those that are found.
//!
//! [`with_index`] walks the records found beside the index of the scan before: as long as fingerprints are equal, nothing
//! is decoded or hashed. At a mismatch it looks ahead in the index; what it skips there waits, is matched by fingerprint
//! (records that moved), then by key, and only records that are nowhere in sight are decoded and compared with the known
//! ones. [`without_index`] decodes every record and looks it up. [`compare`] and [`Comparison`] take two stores and no state.
//!
//! Memory: nothing for records in their old place; for each displaced record its key and 20 to 40 bytes, and its row if it is
//! a found one that was nowhere in sight; what lies ahead in the index, up to [`LOOK_AHEAD_MAX`] keys and more behind long
//! blocks; without an index 20 to 40 bytes for each record. [`Comparison`] holds [`HELD_BYTES_MAX`] a side and 20 to 40 bytes
//! for each record that isn't where it was.

mod aligned;
mod refreshed;
mod sides;
mod sorter;
mod strays;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::change::{Change, FieldChange};
use crate::key::{Key, encode_occurrence};
use crate::row::{FieldRef, Row, RowReader};
use crate::value::Value;

pub use aligned::{LOOK_AHEAD_MAX, count_equal, with_index};
pub use refreshed::Refreshed;
pub use sides::{Comparison, Fingerprints, HELD_BYTES_MAX, Side, Tally, compare, settle};
pub use sorter::{MemorySorter, Sorter};

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

    /// Calls `take` with the place of each of `keys`, which are sorted and each there once, and its row if there is one. For
    /// when most records are asked for: they may all be read.
    fn get_many(
        &self,
        keys: &[&[u8]],
        take: &mut dyn FnMut(usize, Option<&[u8]>) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error> {
        let mut row = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            row.clear();
            let there = self.get(key, &mut row)?;
            take(at, there.then_some(&row))?;
        }
        Ok(())
    }

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
    pub fn to_change(&self) -> Option<Change> {
        change(self.key.clone(), self.before.as_ref(), self.after.as_ref())
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

/// The slots in which two rows differ.
pub fn changed_slots(before: &Row, after: &Row) -> Vec<u32> {
    fields(before, after).into_iter().map(|field| field.slot).collect()
}

/// A found record that waits for its match.
struct Waiting {
    fingerprint: u64,
    key: Box<[u8]>,
    row: Box<[u8]>,
    place: Place,
}

impl Waiting {
    fn of(fingerprint: u64, key: &[u8], row: &[u8], record: u64) -> Waiting {
        Waiting { fingerprint, key: key.into(), row: row.into(), place: Place { record } }
    }
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
