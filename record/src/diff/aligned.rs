//! What is found beside the index of the scan before.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use super::{
    AsItIs, DiffError, Difference, Found, Identity, Index, IndexSink, Known, Outcome, Place, Waiting, counted,
    duplicate, store,
};
use crate::key::Key;
use crate::row::Row;

/// How many entries of the index are held at most to find a record that isn't where it was. What went or moved in blocks of
/// up to this many costs nothing else; what lies behind longer ones is decoded.
pub const LOOK_AHEAD_MAX: usize = 64 * 1024;

/// The look-ahead as long as records are found in it: most changes are small.
const LOOK_AHEAD_MIN: usize = 32;

/// How much further the look-ahead goes each time that a record is not in it.
const LOOK_AHEAD_GROWTH: usize = 16;

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
    while let Some(fingerprint) = found.next().map_err(store)? {
        outcome.records += 1;
        // The fast path: where it was.
        if let Some(key) = ahead.take_next(fingerprint).map_err(store)? {
            sink.push(fingerprint, key).map_err(store)?;
            continue;
        }
        // Passed over earlier: it moved.
        if let Some(key) = displaced.take_missing(fingerprint) {
            sink.push(fingerprint, &key).map_err(store)?;
            continue;
        }
        if let Some(distance) = ahead.find(fingerprint).map_err(store)? {
            for _ in 0..distance {
                if let Some((fingerprint, key)) = ahead.pop() {
                    displaced.miss(fingerprint, key);
                }
            }
            if let Some((_, key)) = ahead.pop() {
                sink.push(fingerprint, &key).map_err(store)?;
            }
            continue;
        }
        key.clear();
        row.clear();
        if !found.decode(&mut key, &mut row).map_err(store)? {
            continue;
        }
        outcome.decoded += 1;
        sink.push(fingerprint, &key).map_err(store)?;
        let place = Place { record: outcome.records };
        displaced.surplus(Waiting { fingerprint, key: key.as_slice().into(), row: row.as_slice().into(), place });
    }
    while let Some((fingerprint, key)) = ahead.pop_or_read().map_err(store)? {
        displaced.miss(fingerprint, key);
    }
    outcome.differences = displaced.settle(known, identity)?;
    Ok(outcome)
}

/// The index from where the scan is, as far as it was looked ahead.
struct Ahead<'a, E> {
    index: &'a mut dyn Index<Error = E>,
    /// Entries read and not yet passed; the first is the next.
    entries: VecDeque<(u64, Box<[u8]>)>,
    /// How many entries were passed in all.
    passed: u64,
    ended: bool,
    /// How far it is looked ahead at the next mismatch.
    reach: usize,
    /// Where the fingerprints held stand, counted as [`Ahead::passed`], for a long look-ahead; may name what was passed.
    places: HashMap<u64, VecDeque<u64>, BuildHasherDefault<AsItIs>>,
    /// How many of the entries are in `places`.
    placed: usize,
    /// The key that was given out last, where its entry had been held.
    given: Box<[u8]>,
}

impl<'a, E> Ahead<'a, E> {
    fn new(index: &'a mut dyn Index<Error = E>) -> Ahead<'a, E> {
        Ahead {
            index,
            entries: VecDeque::new(),
            passed: 0,
            ended: false,
            reach: LOOK_AHEAD_MIN,
            places: HashMap::default(),
            placed: 0,
            given: Box::default(),
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
                Some(next) => self.entries.push_back((next, self.index.key().into())),
                None => self.ended = true,
            }
        }
        if self.entries.front().is_some_and(|(next, _)| *next == fingerprint) {
            self.reach = LOOK_AHEAD_MIN;
            self.given = self.pop().map(|(_, key)| key).unwrap_or_default();
            return Ok(Some(&self.given));
        }
        Ok(None)
    }

    /// How many entries lie before the nearest one of this fingerprint; `None` if it is nowhere in sight. Looks further
    /// ahead each time that it is not.
    fn find(&mut self, fingerprint: u64) -> Result<Option<usize>, E> {
        while self.entries.len() < self.reach && !self.ended {
            match self.index.next()? {
                Some(next) => self.entries.push_back((next, self.index.key().into())),
                None => self.ended = true,
            }
        }
        let distance = match self.entries.len() <= LOOK_AHEAD_MIN {
            true => self.entries.iter().position(|(next, _)| *next == fingerprint),
            false => self.find_placed(fingerprint),
        };
        match distance {
            Some(_) => self.reach = LOOK_AHEAD_MIN,
            None => self.reach = (self.reach * LOOK_AHEAD_GROWTH).min(LOOK_AHEAD_MAX),
        }
        Ok(distance)
    }

    fn find_placed(&mut self, fingerprint: u64) -> Option<usize> {
        if self.places.len() > 2 * LOOK_AHEAD_MAX {
            // Mostly of what was passed.
            self.places.clear();
            self.placed = 0;
        }
        for at in self.placed..self.entries.len() {
            self.places.entry(self.entries[at].0).or_default().push_back(self.passed + at as u64);
        }
        self.placed = self.entries.len();
        let places = self.places.get_mut(&fingerprint)?;
        while places.front().is_some_and(|place| *place < self.passed) {
            places.pop_front();
        }
        places.front().map(|place| (*place - self.passed) as usize)
    }

    /// Passes the next entry, if it is held.
    fn pop(&mut self) -> Option<(u64, Box<[u8]>)> {
        let entry = self.entries.pop_front()?;
        self.passed += 1;
        self.placed = self.placed.saturating_sub(1);
        if self.entries.is_empty() {
            self.places.clear();
            self.placed = 0;
        }
        Some(entry)
    }

    /// Passes the next entry.
    fn pop_or_read(&mut self) -> Result<Option<(u64, Box<[u8]>)>, E> {
        if let Some(entry) = self.pop() {
            return Ok(Some(entry));
        }
        if self.ended {
            return Ok(None);
        }
        let next = self.index.next()?;
        self.ended = next.is_none();
        Ok(next.map(|fingerprint| (fingerprint, self.index.key().into())))
    }
}

/// Records that are not where they were.
#[derive(Default)]
struct Displaced {
    /// Known ones, by fingerprint.
    missing: HashMap<u64, Vec<Box<[u8]>>>,
    /// Found ones, by fingerprint.
    surplus: HashMap<u64, Vec<Waiting>>,
}

impl Displaced {
    /// Takes in a known record that is not where it was.
    fn miss(&mut self, fingerprint: u64, key: Box<[u8]>) {
        if let Some(waiting) = self.surplus.get_mut(&fingerprint) {
            waiting.pop();
            if waiting.is_empty() {
                self.surplus.remove(&fingerprint);
            }
            return;
        }
        self.missing.entry(fingerprint).or_default().push(key);
    }

    /// Takes back a known record that was missed; gives its key.
    fn take_missing(&mut self, fingerprint: u64) -> Option<Box<[u8]>> {
        let keys = self.missing.get_mut(&fingerprint)?;
        let key = keys.pop();
        if keys.is_empty() {
            self.missing.remove(&fingerprint);
        }
        key
    }

    /// Takes in a found record that was nowhere in sight.
    fn surplus(&mut self, waiting: Waiting) {
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
