//! What is found beside the index of the scan before.

use std::collections::{BTreeMap, VecDeque};

use super::strays::Strays;
use super::{
    DiffError, Difference, Found, Identity, Index, IndexSink, Known, Outcome, Waiting, counted, duplicate, store,
};
use crate::key::Key;
use crate::row::Row;

/// How many entries of the index are looked at ahead, soon, to find a record that isn't where it was. What went or moved in
/// blocks of up to this many costs nothing else.
pub const LOOK_AHEAD_MAX: usize = 64 * 1024;

/// The look-ahead as long as records are found in it: most changes are small.
const LOOK_AHEAD_MIN: usize = 32;

/// How much further the look-ahead goes each time that a record is not in it, up to [`LOOK_AHEAD_MAX`].
const LOOK_AHEAD_GROWTH: usize = 16;

/// How many entries further it goes beyond that, each time. So a block of any length that went costs a small part of it in
/// records that are decoded, and a block that came a few times as many entries that are held.
const LOOK_AHEAD_FURTHER: usize = 32;

/// Where one record in so many or more is to be looked up, going through all of them is quicker.
const DENSE: u64 = 4;

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
    let mut outcome = Outcome::default();
    let mut ahead = Ahead::new(index);
    let mut displaced = Displaced::default();
    let (mut key, mut row) = (Vec::new(), Vec::new());
    // Whether the record before stood where it was, or has changed in its place.
    let mut in_step = true;
    while let Some(fingerprint) = found.next().map_err(store)? {
        outcome.records += 1;
        // The fast path: where it was.
        if let Some(key) = ahead.take_next(fingerprint).map_err(store)? {
            sink.push(fingerprint, key).map_err(store)?;
            in_step = true;
            continue;
        }
        // Passed over earlier: it moved.
        if let Some(key) = displaced.take_missing(fingerprint) {
            sink.push(fingerprint, key).map_err(store)?;
            in_step = false;
            continue;
        }
        key.clear();
        row.clear();
        let mut readable = None;
        if in_step && identity == Identity::Key {
            let decoded = found.decode(&mut key, &mut row).map_err(store)?;
            outcome.decoded += u64::from(decoded);
            if decoded && ahead.next_is(&key) {
                // It changed in its place, and nothing has to be looked for.
                if let Some((fingerprint, key)) = ahead.pop() {
                    displaced.miss(fingerprint, key);
                }
                sink.push(fingerprint, &key).map_err(store)?;
                displaced.surplus(Waiting::of(fingerprint, &key, &row, outcome.records));
                continue;
            }
            readable = Some(decoded);
        }
        in_step = false;
        if let Some(distance) = ahead.find(fingerprint).map_err(store)? {
            for _ in 0..distance {
                if let Some((fingerprint, key)) = ahead.pop() {
                    displaced.miss(fingerprint, key);
                }
            }
            if let Some((_, key)) = ahead.pop() {
                sink.push(fingerprint, key).map_err(store)?;
            }
            continue;
        }
        let readable = match readable {
            Some(readable) => readable,
            None => {
                let decoded = found.decode(&mut key, &mut row).map_err(store)?;
                outcome.decoded += u64::from(decoded);
                decoded
            }
        };
        if readable {
            sink.push(fingerprint, &key).map_err(store)?;
            displaced.surplus(Waiting::of(fingerprint, &key, &row, outcome.records));
        }
    }
    while let Some((fingerprint, key)) = ahead.pop_or_read().map_err(store)? {
        displaced.miss(fingerprint, key);
    }
    outcome.differences = displaced.settle(known, identity, outcome.records)?;
    Ok(outcome)
}

/// The index from where the scan is, as far as it was looked ahead.
struct Ahead<'a, E> {
    index: &'a mut dyn Index<Error = E>,
    /// Entries read and not yet passed, the next first: fingerprint, and length of the key.
    entries: VecDeque<(u64, u32)>,
    /// Their keys one after another.
    keys: VecDeque<u8>,
    /// How many entries were passed in all.
    passed: u64,
    ended: bool,
    /// How far it is looked ahead at the next mismatch.
    reach: usize,
    /// Where the entries held stand, for a long look-ahead.
    places: Places,
    /// The key that was given out last, where its entry had been held.
    given: Vec<u8>,
}

impl<'a, E> Ahead<'a, E> {
    fn new(index: &'a mut dyn Index<Error = E>) -> Ahead<'a, E> {
        Ahead {
            index,
            entries: VecDeque::new(),
            keys: VecDeque::new(),
            passed: 0,
            ended: false,
            reach: LOOK_AHEAD_MIN,
            places: Places::default(),
            given: Vec::new(),
        }
    }

    /// Takes the next entry if it has this fingerprint; gives its key.
    fn take_next(&mut self, fingerprint: u64) -> Result<Option<&[u8]>, E> {
        if self.entries.is_empty() && !self.ended {
            match self.index.next()? {
                Some(next) if next == fingerprint => {
                    self.passed += 1;
                    self.reach = LOOK_AHEAD_MIN;
                    return Ok(Some(self.index.key()));
                }
                Some(next) => self.hold(next),
                None => self.ended = true,
            }
        }
        if self.entries.front().is_some_and(|(next, _)| *next == fingerprint) {
            self.reach = LOOK_AHEAD_MIN;
            return Ok(self.pop().map(|(_, key)| key));
        }
        Ok(None)
    }

    /// How many entries lie before the nearest one of this fingerprint; `None` if it is nowhere in sight. Looks further
    /// ahead each time that it is not, until records are where they were again.
    fn find(&mut self, fingerprint: u64) -> Result<Option<usize>, E> {
        while self.entries.len() < self.reach && !self.ended {
            match self.index.next()? {
                Some(next) => self.hold(next),
                None => self.ended = true,
            }
        }
        let distance = match self.entries.len() <= LOOK_AHEAD_MIN {
            true => self.entries.iter().position(|(next, _)| *next == fingerprint),
            false => self.places.find(fingerprint, self.passed, &self.entries),
        };
        if distance.is_none() {
            self.reach = match self.reach < LOOK_AHEAD_MAX {
                true => (self.reach * LOOK_AHEAD_GROWTH).min(LOOK_AHEAD_MAX),
                false => self.reach + LOOK_AHEAD_FURTHER,
            };
        }
        Ok(distance)
    }

    /// Whether the next entry is held and has this key. After [`Ahead::take_next`] it is held, unless the index has ended.
    fn next_is(&self, key: &[u8]) -> bool {
        let Some((_, length)) = self.entries.front() else { return false };
        let length = *length as usize;
        let (first, second) = self.keys.as_slices();
        let in_first = length.min(first.len());
        key.len() == length && key[..in_first] == first[..in_first] && key[in_first..] == second[..length - in_first]
    }

    /// Takes in the index's current entry.
    fn hold(&mut self, fingerprint: u64) {
        let key = self.index.key();
        self.entries.push_back((fingerprint, key.len() as u32));
        self.keys.extend(key);
    }

    /// Passes the next entry, if it is held.
    fn pop(&mut self) -> Option<(u64, &[u8])> {
        let (fingerprint, length) = self.entries.pop_front()?;
        self.passed += 1;
        self.given.clear();
        self.given.extend(self.keys.drain(..length as usize));
        if self.entries.is_empty() {
            self.places = Places::default();
        }
        Some((fingerprint, &self.given))
    }

    /// Passes the next entry.
    fn pop_or_read(&mut self) -> Result<Option<(u64, &[u8])>, E> {
        if !self.entries.is_empty() {
            return Ok(self.pop());
        }
        if self.ended {
            return Ok(None);
        }
        let next = self.index.next()?;
        self.ended = next.is_none();
        Ok(next.map(|fingerprint| (fingerprint, self.index.key())))
    }
}

/// Finds entries by fingerprint: a table with open addressing whose slots hold where an entry stands, counted from the first
/// one that was ever put there; its fingerprint is looked up among the entries. So it takes 5 to 11 bytes an entry.
#[derive(Default)]
struct Places {
    /// Number of the entry, counted from `base`, plus one; 0 where there is none. What was passed stays until the next growth.
    slots: Vec<u32>,
    /// How many entries had been passed when the table was made.
    base: u64,
    /// Entries in the table, passed ones included.
    placed: u32,
}

impl Places {
    /// How many of `entries`, before which `passed` others were passed, lie before the nearest one of this fingerprint.
    fn find(&mut self, fingerprint: u64, passed: u64, entries: &VecDeque<(u64, u32)>) -> Option<usize> {
        let end = passed + entries.len() as u64;
        if (end - self.base) * 4 > self.slots.len() as u64 * 3 {
            let slots = (entries.len() * 2).next_power_of_two();
            *self = Places { slots: vec![0; slots], base: passed, placed: 0 };
        }
        while self.base + u64::from(self.placed) < end {
            let place = self.base + u64::from(self.placed);
            self.placed += 1;
            let Some(at) = place.checked_sub(passed) else { continue };
            let mut slot = self.first_slot(entries[at as usize].0);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (self.slots.len() - 1);
            }
            self.slots[slot] = self.placed;
        }
        // Of equal ones the first was put in first, so it is met first.
        let mut slot = self.first_slot(fingerprint);
        while self.slots[slot] != 0 {
            let place = self.base + u64::from(self.slots[slot] - 1);
            if let Some(at) = place.checked_sub(passed)
                && entries[at as usize].0 == fingerprint
            {
                return Some(at as usize);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        None
    }

    fn first_slot(&self, fingerprint: u64) -> usize {
        // Fingerprints are hashes already.
        fingerprint as usize & (self.slots.len() - 1)
    }
}

/// Records that are not where they were.
#[derive(Default)]
struct Displaced {
    /// Known ones: where the key lies in `keys`.
    missing: Strays<usize>,
    /// Keys, each with its length before it.
    keys: Vec<u8>,
    /// Found ones.
    surplus: Strays<Waiting>,
}

impl Displaced {
    /// Takes in a known record that is not where it was.
    fn miss(&mut self, fingerprint: u64, key: &[u8]) {
        if self.surplus.take(fingerprint).is_some() {
            return;
        }
        if self.missing.is_empty() {
            self.keys.clear();
        }
        self.missing.insert(fingerprint, self.keys.len());
        self.keys.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.keys.extend_from_slice(key);
    }

    /// Takes back a known record that was missed; gives its key.
    fn take_missing(&mut self, fingerprint: u64) -> Option<&[u8]> {
        let at = self.missing.take(fingerprint)?;
        Some(key_at(&self.keys, at))
    }

    /// Takes in a found record that was nowhere in sight.
    fn surplus(&mut self, waiting: Waiting) {
        self.surplus.insert(waiting.fingerprint, waiting);
    }

    /// Matches what is left by key.
    fn settle<E: From<K>, K>(
        self,
        known: &dyn Known<Error = K>,
        identity: Identity,
        records: u64,
    ) -> Result<Vec<Difference>, DiffError<E>> {
        let Displaced { mut missing, keys, mut surplus } = self;
        let missing = missing.drain().map(|(_, at)| key_at(&keys, at));
        let surplus = surplus.drain().map(|(_, waiting)| waiting);
        match identity {
            Identity::Key => settle_keys(missing, surplus, known, records),
            Identity::WholeRow => settle_rows(missing, surplus, known),
        }
    }
}

fn key_at(keys: &[u8], at: usize) -> &[u8] {
    let (length, rest) = keys[at..].split_first_chunk().expect("keys are our own");
    &rest[..u32::from_le_bytes(*length) as usize]
}

fn settle_keys<'a, E: From<K>, K>(
    missing: impl Iterator<Item = &'a [u8]>,
    surplus: impl Iterator<Item = Waiting>,
    known: &dyn Known<Error = K>,
    records: u64,
) -> Result<Vec<Difference>, DiffError<E>> {
    let mut gone: Vec<&[u8]> = missing.collect();
    gone.sort_unstable();
    // The index may name a record twice that was written since.
    gone.dedup();
    let mut found: Vec<Waiting> = surplus.collect();
    found.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(a.place.record.cmp(&b.place.record)));
    if let Some([first, second]) = found.array_windows().find(|[first, second]| first.key == second.key) {
        return Err(duplicate(&second.key, &second.place, Some(&first.place)));
    }
    let keys = merged(&gone, &found);
    let mut before: Vec<Option<Row>> = Vec::with_capacity(keys.len());
    if keys.len() as u64 * DENSE >= records {
        let mut take = |_, row: Option<&[u8]>| {
            before.push(row.map(Row::from_trusted));
            Ok(())
        };
        known.get_many(&keys, &mut take).map_err(store)?;
    } else {
        let mut row = Vec::new();
        for key in &keys {
            row.clear();
            before.push(known.get(key, &mut row).map_err(store)?.then(|| Row::from_trusted(row.as_slice())));
        }
    }
    drop(keys);
    let mut differences = Vec::with_capacity(before.len());
    let mut before = before.into_iter();
    let mut gone = gone.into_iter().peekable();
    let delete = |key: &[u8], before: Option<Row>, differences: &mut Vec<Difference>| {
        if before.is_some() {
            differences.push(Difference { key: Key::from_trusted(key), before, after: None });
        }
    };
    for waiting in found {
        while let Some(key) = gone.next_if(|key| **key < *waiting.key) {
            delete(key, before.next().flatten(), &mut differences);
        }
        let before = before.next().flatten();
        let missed = gone.next_if(|key| **key == *waiting.key).is_some();
        if before.is_some() && !missed {
            // The known record was found unchanged somewhere else.
            return Err(duplicate(&waiting.key, &waiting.place, None));
        }
        if before.as_ref().is_none_or(|before| before.as_bytes() != &*waiting.row) {
            let after = Some(Row::from_trusted(waiting.row));
            differences.push(Difference { key: Key::from_trusted(waiting.key), before, after });
        }
    }
    for key in gone {
        delete(key, before.next().flatten(), &mut differences);
    }
    Ok(differences)
}

/// The keys of both, sorted as both are, each once.
fn merged<'a>(gone: &[&'a [u8]], found: &'a [Waiting]) -> Vec<&'a [u8]> {
    let mut keys = Vec::with_capacity(gone.len().max(found.len()));
    let (mut gone, mut found) = (gone.iter().copied().peekable(), found.iter().map(|waiting| &*waiting.key).peekable());
    loop {
        let next = match (gone.peek(), found.peek()) {
            (Some(a), Some(b)) => *a.min(b),
            (Some(only), None) | (None, Some(only)) => *only,
            (None, None) => return keys,
        };
        keys.push(next);
        gone.next_if_eq(&next);
        found.next_if_eq(&next);
    }
}

fn settle_rows<'a, E: From<K>, K>(
    missing: impl Iterator<Item = &'a [u8]>,
    surplus: impl Iterator<Item = Waiting>,
    known: &dyn Known<Error = K>,
) -> Result<Vec<Difference>, DiffError<E>> {
    let mut balance: BTreeMap<Box<[u8]>, (i64, Option<Box<[u8]>>)> = BTreeMap::new();
    for key in missing {
        balance.entry(key.into()).or_default().0 -= 1;
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

/// How many equal rows are known.
pub(super) fn occurrences<E>(content: &[u8], known: &dyn Known<Error = E>) -> Result<u32, E> {
    let mut row = Vec::new();
    count_equal(content, |key| {
        row.clear();
        known.get(key.as_bytes(), &mut row)
    })
}

/// How many equal rows there are: their occurrences are numbered without a hole. `holds` says whether there is a record of
/// that key.
pub fn count_equal<E>(content: &[u8], mut holds: impl FnMut(&Key) -> Result<bool, E>) -> Result<u32, E> {
    let mut holds = |occurrence: u32| holds(&counted(content, occurrence));
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
