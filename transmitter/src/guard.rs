//! Mass deletes are held: an emptied or unmounted source must not empty every destination.

use std::fmt;

use deltabus_record::digest::Digest;
use deltabus_record::row::Row;
use deltabus_record::schema::CollectionName;
use deltabus_record::value::Value;

/// A set that is held because it deletes too much of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The collection that would lose most.
    pub collection: CollectionName,
    /// How many of its records would go.
    pub deletes: u64,
    /// How many it has.
    pub records: u64,
    /// The digest of the state that the set would lead to: what a confirmation is for.
    pub next: Digest,
}

impl Held {
    /// Holds if a collection would lose more than `max_delete` (0 to 1) of its records: `(collection, deletes, records)`.
    pub fn check(losses: &[(CollectionName, u64, u64)], max_delete: f64, next: Digest) -> Option<Held> {
        let over = losses.iter().filter(|(_, deletes, records)| *deletes as f64 > *records as f64 * max_delete);
        let (collection, deletes, records) = over.max_by_key(|(_, deletes, _)| *deletes)?.clone();
        Some(Held { collection, deletes, records, next })
    }

    /// For the state store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let row = Row::of(&[
            Value::text(self.collection.as_str()),
            Value::Integer(self.deletes as i64),
            Value::Integer(self.records as i64),
            Value::Integer(self.next.records as i64),
            Value::Bytes(self.next.sum.to_be_bytes().to_vec()),
        ]);
        row.as_bytes().to_vec()
    }

    /// From [`Held::to_bytes`]; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Held> {
        match Row::from_bytes(bytes).ok()?.values().as_slice() {
            [
                Value::Text(name),
                Value::Integer(deletes),
                Value::Integer(records),
                Value::Integer(count),
                Value::Bytes(sum),
            ] => Some(Held {
                collection: CollectionName::new(name.as_str()),
                deletes: *deletes as u64,
                records: *records as u64,
                next: Digest { records: *count as u64, sum: u128::from_be_bytes(sum.as_slice().try_into().ok()?) },
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} records of `{}` would be deleted", self.deletes, self.records, self.collection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losing(deletes: u64, records: u64, max_delete: f64) -> bool {
        Held::check(&[(CollectionName::new("people"), deletes, records)], max_delete, Digest::default()).is_some()
    }

    #[test]
    fn more_than_the_allowed_part_is_held() {
        assert!(losing(51, 100, 0.5));
        assert!(!losing(50, 100, 0.5));
        assert!(losing(1, 1, 0.5));
        assert!(!losing(100, 100, 1.0));
        assert!(losing(1, 100, 0.0));
        assert!(!losing(0, 0, 0.5));
    }

    #[test]
    fn a_held_set_survives_the_store() {
        let next = Digest { records: 3, sum: u128::MAX - 7 };
        let held = Held { collection: CollectionName::new("a/b"), deletes: 9, records: 12, next };
        assert_eq!(Held::from_bytes(&held.to_bytes()), Some(held));
        assert_eq!(Held::from_bytes(b"junk"), None);
    }
}
