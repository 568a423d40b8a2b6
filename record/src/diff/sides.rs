//! Two stores side by side, without a state.

use std::collections::{BTreeMap, HashMap, VecDeque};

use xxhash_rust::xxh3::xxh3_64;

use super::{DiffError, Difference, Found, Identity, Outcome, Place, Waiting, counted, duplicate, store};
use crate::key::Key;
use crate::row::Row;

/// How far the window looks for a common record on either side. Longer blocks that were inserted, deleted or moved are found
/// too, at the cost of holding them.
const WINDOW: usize = 64;

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
