//! Digests over ranges of keys: what is equal is proven in one pass on either side, what isn't is narrowed down.

use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::schema::CollectionName;

/// A range has about so many records. Fewer would cost memory (a key and two digests each: 100 bytes for this many records),
/// more would have to be read in detail for each that differs.
pub(crate) const RANGE_RECORDS: u64 = 1024;

/// One collection's ranges with the digests of what is expected in each and of what is found.
pub(crate) struct Ranges {
    hasher: RecordHasher,
    /// Where each range but the first begins, in order.
    starts: Vec<Box<[u8]>>,
    expected: Vec<Digest>,
    found: Vec<Digest>,
}

/// Which of the two sides a record is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Expected,
    Found,
}

/// The ranges of a collection whose digests differ.
pub(crate) struct Differing<'a> {
    starts: &'a [Box<[u8]>],
    differs: Vec<bool>,
}

impl Ranges {
    /// Ranges of `collection` that begin at `starts`, in any order.
    pub(crate) fn new(collection: &CollectionName, mut starts: Vec<Box<[u8]>>) -> Ranges {
        starts.sort();
        starts.dedup();
        let empty = vec![Digest::default(); starts.len() + 1];
        Ranges { hasher: RecordHasher::new(collection), starts, expected: empty.clone(), found: empty }
    }

    /// Takes in a record, in the form that both sides have in common.
    pub(crate) fn add(&mut self, side: Side, key: &[u8], row: &[u8]) {
        let digests = match side {
            Side::Expected => &mut self.expected,
            Side::Found => &mut self.found,
        };
        digests[place(&self.starts, key)].add(self.hasher.hash(key, row));
    }

    /// How many ranges there are.
    pub(crate) fn count(&self) -> u64 {
        self.expected.len() as u64
    }

    /// How many records were taken in on one side.
    pub(crate) fn records(&self, side: Side) -> u64 {
        let digests = if side == Side::Expected { &self.expected } else { &self.found };
        digests.iter().map(|digest| digest.records).sum()
    }

    /// The ranges that differ.
    pub(crate) fn differing(&self) -> Differing<'_> {
        let differs = self.expected.iter().zip(&self.found).map(|(expected, found)| expected != found).collect();
        Differing { starts: &self.starts, differs }
    }
}

impl Differing<'_> {
    /// How many they are.
    pub(crate) fn count(&self) -> u64 {
        self.differs.iter().filter(|differs| **differs).count() as u64
    }

    /// Whether the record of `key` is in one of them.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.differs[place(self.starts, key)]
    }
}

fn place(starts: &[Box<[u8]>], key: &[u8]) -> usize {
    starts.partition_point(|start| **start <= *key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(starts: &[&str]) -> Ranges {
        Ranges::new(&CollectionName::new("people"), starts.iter().map(|start| start.as_bytes().into()).collect())
    }

    #[test]
    fn the_order_of_records_and_of_starts_is_all_the_same() {
        let mut ranges = ranges(&["m", "f", "f"]);
        assert_eq!(ranges.count(), 3);
        for key in ["a", "f", "g", "m", "z"] {
            ranges.add(Side::Expected, key.as_bytes(), b"row");
        }
        for key in ["z", "g", "a", "m", "f"] {
            ranges.add(Side::Found, key.as_bytes(), b"row");
        }
        assert_eq!(ranges.differing().count(), 0);
        assert_eq!((ranges.records(Side::Expected), ranges.records(Side::Found)), (5, 5));
    }

    #[test]
    fn only_the_range_of_what_differs_differs() {
        let mut ranges = ranges(&["f", "m"]);
        for (side, row) in [(Side::Expected, b"one"), (Side::Found, b"two")] {
            ranges.add(side, b"a", b"same");
            ranges.add(side, b"f", row);
            ranges.add(side, b"m", b"same");
        }
        let differing = ranges.differing();
        assert_eq!(differing.count(), 1);
        assert!(differing.contains(b"f") && differing.contains(b"lzz"));
        assert!(!differing.contains(b"ezz") && !differing.contains(b"m"));
    }

    #[test]
    fn what_is_there_twice_is_not_what_is_there_once_nor_three_times() {
        let mut ranges = ranges(&[]);
        ranges.add(Side::Expected, b"a", b"row");
        ranges.add(Side::Found, b"a", b"row");
        ranges.add(Side::Found, b"a", b"row");
        assert_eq!(ranges.differing().count(), 1);
        ranges.add(Side::Found, b"a", b"row");
        assert_eq!(ranges.differing().count(), 1);
    }

    #[test]
    fn values_that_change_places_between_records_are_noticed() {
        let mut ranges = ranges(&[]);
        for (side, rows) in [(Side::Expected, [b"1", b"2"]), (Side::Found, [b"2", b"1"])] {
            ranges.add(side, b"a", rows[0]);
            ranges.add(side, b"b", rows[1]);
        }
        assert_eq!(ranges.differing().count(), 1);
    }
}
