//! Two stores side by side, without a state.

use xxhash_rust::xxh3::xxh3_64;

use super::sorter::{MemorySorter, Sorter};
use super::strays::Strays;
use super::{DiffError, Difference, Found, Identity, Outcome, Place, counted, duplicate, store};
use crate::key::Key;
use crate::row::Row;

/// So many bytes of records without a match are held decoded on each side; of those beyond, only the fingerprint, and they
/// are read a second time if no match turns up.
pub const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a held record takes beside its bytes, roughly.
const HELD_BYTES_EACH: usize = 64;

/// How many records without a match end a trail, unless as many with one came before them.
const MISSES_MAX: u32 = 64;

/// Whether the fingerprints of two stores mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fingerprints {
    /// Equal fingerprints are equal records.
    Comparable,
    /// Records have to be decoded to be compared.
    Foreign,
}

/// One of two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What differences lead from.
    A,
    /// What they lead to.
    B,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// Compares two stores in memory: what leads from `a` to `b`. See [`Comparison`].
pub fn compare<E>(
    a: &mut (dyn Found<Error = E> + '_),
    b: &mut (dyn Found<Error = E> + '_),
    fingerprints: Fingerprints,
    identity: Identity,
) -> Result<Outcome, DiffError<E>> {
    let mut sorter = MemorySorter::new();
    let mut comparison = Comparison::new(fingerprints, identity, &mut sorter).holding(usize::MAX);
    comparison.walk(a, b)?;
    let tally = comparison.tally();
    let mut differences = Vec::new();
    settle(&mut sorter, identity, &mut |difference| {
        differences.push(difference);
        Ok::<_, E>(())
    })?;
    Ok(Outcome { differences, records: tally.records, decoded: tally.decoded })
}

/// Gives the differences that went to `sorter` in comparisons of this identity to `take`, by key.
pub fn settle<E, S, T>(
    sorter: &mut dyn Sorter<Error = S>,
    identity: Identity,
    take: &mut dyn FnMut(Difference) -> Result<(), T>,
) -> Result<(), DiffError<E>>
where
    E: From<S> + From<T>,
{
    let mut group = Group::default();
    let (mut key, mut entry) = (Vec::new(), Vec::new());
    while sorter.next(&mut key, &mut entry).map_err(store)? {
        if key != group.key {
            group.settle(identity, take)?;
            std::mem::swap(&mut group.key, &mut key);
        }
        group.take_in(&entry);
    }
    group.settle(identity, take)
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many records the second store has.
    pub records: u64,
    /// How many records of both had to be decoded.
    pub decoded: u64,
}

/// What leads from one store to another, found in bounded memory: the records that differ go to a [`Sorter`].
///
/// As long as both give equal fingerprints, nothing is decoded or held. A record that has another key or fingerprint than
/// the one beside it is held, and matched by fingerprint when its like turns up on the other side; from there that side
/// alone is read, until both stand at the same place again: so blocks that came, went or moved cost what is in them, and
/// not what comes behind them.
///
/// Of records that are equal on both sides only the fingerprints are looked at, so that a key which both have twice,
/// unchanged, goes unnoticed, and a second record of a key, where the first is equal on both sides, looks like one that
/// came in or went.
///
/// ```text
/// comparison.walk(a, b)?;
/// for side in [Side::A, Side::B] {
///     if comparison.wants(side) { comparison.again(side, the store from its start)?; }
/// }
/// settle(sorter, …)?;
/// ```
pub struct Comparison<'a, E> {
    fingerprints: Fingerprints,
    identity: Identity,
    sorter: &'a mut dyn Sorter<Error = E>,
    held_bytes_max: usize,
    a: Held,
    b: Held,
    tally: Tally,
    /// For entries of the sorter.
    entry: Vec<u8>,
}

/// Records of one side without a match.
#[derive(Default)]
struct Held {
    places: Strays<u64>,
    /// Key and row, of some or all; records of one fingerprint are equal, so that one is as good as the other.
    contents: Strays<Content>,
    bytes: usize,
}

struct Content {
    key: Box<[u8]>,
    row: Box<[u8]>,
}

impl Content {
    fn bytes(&self) -> usize {
        self.key.len() + self.row.len() + HELD_BYTES_EACH
    }
}

impl Held {
    /// Takes out a record of this fingerprint; gives its number.
    fn take(&mut self, fingerprint: u64) -> Option<u64> {
        let place = self.places.take(fingerprint)?;
        if let Some(content) = self.contents.take(fingerprint) {
            self.bytes -= content.bytes();
        }
        Some(place)
    }
}

impl<'a, E> Comparison<'a, E> {
    /// Records that differ go through `sorter`.
    pub fn new(
        fingerprints: Fingerprints,
        identity: Identity,
        sorter: &'a mut dyn Sorter<Error = E>,
    ) -> Comparison<'a, E> {
        let (a, b) = (Held::default(), Held::default());
        let held_bytes_max = HELD_BYTES_MAX;
        Comparison { fingerprints, identity, sorter, held_bytes_max, a, b, tally: Tally::default(), entry: Vec::new() }
    }

    /// The same, with so many bytes held on each side instead of [`HELD_BYTES_MAX`].
    pub fn holding(self, held_bytes_max: usize) -> Comparison<'a, E> {
        Comparison { held_bytes_max, ..self }
    }

    /// Reads both stores to their ends.
    pub fn walk(
        &mut self,
        a: &mut (dyn Found<Error = E> + '_),
        b: &mut (dyn Found<Error = E> + '_),
    ) -> Result<(), DiffError<E>> {
        let (mut left, mut right) = (Walk::new(a, self.fingerprints), Walk::new(b, self.fingerprints));
        // Whether the records before those at hand were the same or of one key.
        let mut in_step = true;
        loop {
            let (before, now) = (left.step()?, right.step()?);
            if before == now {
                if before.is_none() {
                    break;
                }
                in_step = true;
                continue;
            }
            if in_step && before.is_some() && now.is_some() && self.pair(&mut left, &mut right)? {
                continue;
            }
            in_step = false;
            let in_b = self.meet(Side::A, &mut left, before)?;
            let in_a = self.meet(Side::B, &mut right, now)?;
            if let Some(place) = in_b {
                in_step = self.follow(Side::A, &mut left, right.records, place)?;
            } else if let Some(place) = in_a {
                in_step = self.follow(Side::B, &mut right, left.records, place)?;
            }
        }
        self.tally = Tally { records: right.records, decoded: left.decoded + right.decoded };
        for side in [Side::A, Side::B] {
            self.release(side).map_err(store)?;
        }
        Ok(())
    }

    /// Whether that store has to be read again, for records of which only the fingerprint was held.
    pub fn wants(&self, side: Side) -> bool {
        !self.held(side).places.is_empty()
    }

    /// Reads a store a second time, in whatever order, as far as needed; `false` if it no longer has all that it had.
    pub fn again(&mut self, side: Side, found: &mut (dyn Found<Error = E> + '_)) -> Result<bool, DiffError<E>> {
        let mut walk = Walk::new(found, self.fingerprints);
        while self.wants(side)
            && let Some(fingerprint) = walk.step()?
        {
            while let Some(place) = self.held_mut(side).places.take(fingerprint) {
                if walk.decode()? {
                    self.push(&walk.key, (side, place, &walk.row), None).map_err(store)?;
                }
            }
        }
        self.tally.decoded += walk.decoded;
        Ok(!self.wants(side))
    }

    /// Reads a store that has no counterpart: every record of it is a difference.
    pub fn alone(&mut self, side: Side, found: &mut (dyn Found<Error = E> + '_)) -> Result<(), DiffError<E>> {
        let mut walk = Walk::new(found, self.fingerprints);
        while walk.step()?.is_some() {
            if walk.decode()? {
                self.push(&walk.key, (side, walk.records, &walk.row), None).map_err(store)?;
            }
        }
        self.tally.decoded += walk.decoded;
        Ok(())
    }

    /// How much was read so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes two records that stand side by side for one that changed, if they have one key.
    fn pair(&mut self, left: &mut Walk<'_, E>, right: &mut Walk<'_, E>) -> Result<bool, DiffError<E>> {
        if self.identity == Identity::WholeRow || !left.decode()? || !right.decode()? || left.key != right.key {
            return Ok(false);
        }
        if left.row != right.row {
            let after = (Side::B, right.records, right.row.as_slice());
            self.push(&left.key, (Side::A, left.records, &left.row), Some(after)).map_err(store)?;
        }
        Ok(true)
    }

    /// Finds the like of a record among those held of the other side, and gives its number there; else holds it.
    fn meet(
        &mut self,
        side: Side,
        walk: &mut Walk<'_, E>,
        fingerprint: Option<u64>,
    ) -> Result<Option<u64>, DiffError<E>> {
        let Some(fingerprint) = fingerprint else { return Ok(None) };
        let place = self.held_mut(side.other()).take(fingerprint);
        if place.is_none() {
            self.hold(side, walk, fingerprint)?;
        }
        Ok(place)
    }

    /// Reads on on one side, whose last record is the other's at `place`, until it is where the other is, at `records`;
    /// `false` if the trail is lost before, or at last.
    fn follow(&mut self, side: Side, walk: &mut Walk<'_, E>, records: u64, place: u64) -> Result<bool, DiffError<E>> {
        let mut behind = records - place;
        let mut misses_left = MISSES_MAX;
        let mut found = true;
        while behind > 0 {
            let Some(fingerprint) = walk.step()? else { return Ok(false) };
            if let Some(place) = self.held_mut(side.other()).take(fingerprint) {
                behind = records - place;
                misses_left += 1;
                found = true;
                continue;
            }
            found = false;
            self.hold(side, walk, fingerprint)?;
            behind -= 1;
            misses_left -= 1;
            if misses_left == 0 {
                return Ok(false);
            }
        }
        Ok(found)
    }

    fn hold(&mut self, side: Side, walk: &mut Walk<'_, E>, fingerprint: u64) -> Result<(), DiffError<E>> {
        let held_bytes_max = self.held_bytes_max;
        let held = self.held_mut(side);
        if held.bytes < held_bytes_max {
            if !walk.decode()? {
                return Ok(());
            }
            let content = Content { key: walk.key.as_slice().into(), row: walk.row.as_slice().into() };
            held.bytes += content.bytes();
            held.contents.insert(fingerprint, content);
        }
        held.places.insert(fingerprint, walk.records);
        Ok(())
    }

    /// Hands over to the sorter what is held decoded.
    fn release(&mut self, side: Side) -> Result<(), E> {
        let mut contents = std::mem::take(&mut self.held_mut(side).contents);
        for (fingerprint, Content { key, row }) in contents.drain() {
            while let Some(place) = self.held_mut(side).places.take(fingerprint) {
                self.push(&key, (side, place, &row), None)?;
            }
        }
        self.held_mut(side).bytes = 0;
        Ok(())
    }

    fn push(&mut self, key: &[u8], first: (Side, u64, &[u8]), second: Option<(Side, u64, &[u8])>) -> Result<(), E> {
        self.entry.clear();
        for (side, place, row) in std::iter::once(first).chain(second) {
            self.entry.push(side as u8);
            self.entry.extend_from_slice(&place.to_le_bytes());
            self.entry.extend_from_slice(&(row.len() as u32).to_le_bytes());
            self.entry.extend_from_slice(row);
        }
        self.sorter.push(key, &self.entry)
    }

    fn held(&self, side: Side) -> &Held {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    fn held_mut(&mut self, side: Side) -> &mut Held {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }
}

/// The records of one key, or equal whole rows.
#[derive(Default)]
struct Group {
    key: Vec<u8>,
    before: Vec<(Place, Row)>,
    after: Vec<(Place, Row)>,
}

impl Group {
    /// Takes in an entry as [`Comparison::push`] makes it.
    fn take_in(&mut self, mut entry: &[u8]) {
        while let Some((side, rest)) = entry.split_first() {
            let (place, rest) = rest.split_first_chunk().expect("entries are our own");
            let (length, rest) = rest.split_first_chunk().expect("entries are our own");
            let (row, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
            let records = if *side == Side::A as u8 { &mut self.before } else { &mut self.after };
            records.push((Place { record: u64::from_le_bytes(*place) }, Row::from_trusted(row)));
            entry = rest;
        }
    }

    /// Gives what differs, and is empty then.
    fn settle<E: From<T>, T>(
        &mut self,
        identity: Identity,
        take: &mut dyn FnMut(Difference) -> Result<(), T>,
    ) -> Result<(), DiffError<E>> {
        match identity {
            Identity::Key => {
                for side in [&mut self.before, &mut self.after] {
                    side.sort_by_key(|(place, _)| place.record);
                    if let [(first, _), (second, _), ..] = side.as_slice() {
                        return Err(duplicate(&self.key, second, Some(first)));
                    }
                }
                let before = self.before.pop().map(|(_, row)| row);
                let after = self.after.pop().map(|(_, row)| row);
                if before != after {
                    take(Difference { key: Key::from_trusted(self.key.as_slice()), before, after }).map_err(store)?;
                }
            }
            Identity::WholeRow => {
                let common = self.before.len().min(self.after.len());
                let rest = self.before.drain(common..).map(|(_, row)| (Some(row), None));
                let rest = rest.chain(self.after.drain(common..).map(|(_, row)| (None, Some(row))));
                for (occurrence, (before, after)) in rest.enumerate() {
                    take(Difference { key: counted(&self.key, occurrence as u32), before, after }).map_err(store)?;
                }
                self.before.clear();
                self.after.clear();
            }
        }
        Ok(())
    }
}

/// One store, record by record.
struct Walk<'a, E> {
    found: &'a mut dyn Found<Error = E>,
    fingerprints: Fingerprints,
    records: u64,
    decoded: u64,
    ended: bool,
    /// Whether the current record was decoded, and could be.
    current: Option<bool>,
    key: Vec<u8>,
    row: Vec<u8>,
}

impl<'a, E> Walk<'a, E> {
    fn new(found: &'a mut (dyn Found<Error = E> + 'a), fingerprints: Fingerprints) -> Walk<'a, E> {
        let (key, row) = (Vec::new(), Vec::new());
        Walk { found, fingerprints, records: 0, decoded: 0, ended: false, current: None, key, row }
    }

    /// Goes on to the next record and gives its fingerprint; `None` at the end, also when asked again.
    #[inline]
    fn step(&mut self) -> Result<Option<u64>, DiffError<E>> {
        while !self.ended {
            self.current = None;
            let Some(fingerprint) = self.found.next().map_err(store)? else {
                self.ended = true;
                break;
            };
            self.records += 1;
            if self.fingerprints == Fingerprints::Comparable {
                return Ok(Some(fingerprint));
            }
            if self.decode()? {
                return Ok(Some(xxh3_64(&self.key) ^ xxh3_64(&self.row).rotate_left(1)));
            }
        }
        Ok(None)
    }

    /// Decodes the current record into `key` and `row`; `false` if it can't be read.
    fn decode(&mut self) -> Result<bool, DiffError<E>> {
        if let Some(readable) = self.current {
            return Ok(readable);
        }
        self.key.clear();
        self.row.clear();
        let readable = self.found.decode(&mut self.key, &mut self.row).map_err(store)?;
        self.decoded += u64::from(readable);
        self.current = Some(readable);
        Ok(readable)
    }
}
