//! Change sets for tests.

use deltabus_bus::{EncodedSet, encode_set};
use deltabus_record::change::{Change, ChangeSet, CollectionChanges, Revision, Transaction};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::CollectionName;
use deltabus_record::value::Value;

/// The revision of that number in the history named `history`; another history has other digests.
pub(crate) fn revision(history: u64, number: u64) -> Revision {
    if number == 0 {
        return Revision::default();
    }
    Revision { number, digest: Digest { records: number, sum: u128::from(history) << 64 | u128::from(number) } }
}

/// The set that leads to revision `number`, with about `bytes` of content that doesn't compress.
pub(crate) fn set_of(history: u64, number: u64, bytes: usize) -> ChangeSet {
    let key = Key::of(&[Value::Integer(number as i64)]);
    let row = Row::of(&[Value::Integer(number as i64), Value::Bytes(noise(number, bytes))]);
    let collection = CollectionName::new("people");
    let changes = CollectionChanges { collection, changes: vec![Change::Insert { key, row }] };
    ChangeSet {
        base: revision(history, number - 1),
        next: revision(history, number),
        time_millis: 1_700_000_000_000 + number,
        transactions: vec![Transaction { schemas: Vec::new(), collections: vec![changes] }],
        replies: Vec::new(),
    }
}

/// The same, as the writer takes it.
pub(crate) fn encoded(history: u64, number: u64, bytes: usize) -> (Revision, EncodedSet) {
    (revision(history, number), encode_set(&set_of(history, number, bytes)))
}

/// The sets that lead from revision `after` to revision `to`.
pub(crate) fn chain(history: u64, after: u64, to: u64) -> Vec<(Revision, EncodedSet)> {
    (after + 1..=to).map(|number| encoded(history, number, 20)).collect()
}

/// Bytes without any pattern, the same for the same seed (xorshift).
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
