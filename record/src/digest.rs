//! The digest of a state: a commutative hash over all its records.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use crate::schema::CollectionName;

/// Count and sum of the hashes of all records of a state.
///
/// Adding a record adds its 128-bit hash modulo 2^128, removing it subtracts it; so the digest is kept up to date change
/// by change and doesn't depend on any order. A sum, not an exclusive or: equal pairs would cancel out there. It proves
/// equality against accident, not against somebody who forges records on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Digest {
    /// How many records there are.
    pub records: u64,
    /// The sum of their hashes.
    pub sum: u128,
}

/// Records up to this many bytes are put together on the stack and hashed in one go, which for most records takes a
/// fraction of the time that a streaming hash needs to get going.
const ONE_SHOT_MAX: usize = 512;

/// Hashes the records of one collection.
#[derive(Clone)]
pub struct RecordHasher {
    seed: u64,
}

impl RecordHasher {
    /// For records of `collection`.
    pub fn new(collection: &CollectionName) -> RecordHasher {
        RecordHasher { seed: xxhash_rust::xxh3::xxh3_64(collection.as_str().as_bytes()) }
    }

    /// The hash of one record: xxh3, 128 bits, seeded with the collection's name, over the key's length (8 bytes
    /// little-endian), the key and the row.
    pub fn hash(&self, key: &[u8], row: &[u8]) -> u128 {
        let length = (key.len() as u64).to_le_bytes();
        let total = length.len() + key.len() + row.len();
        if total > ONE_SHOT_MAX {
            return self.hash_stream(&[&length, key, row]);
        }
        let mut buffer = [0; ONE_SHOT_MAX];
        let (of_length, rest) = buffer.split_at_mut(length.len());
        let (of_key, rest) = rest.split_at_mut(key.len());
        of_length.copy_from_slice(&length);
        of_key.copy_from_slice(key);
        rest[..row.len()].copy_from_slice(row);
        xxh3_128_with_seed(&buffer[..total], self.seed)
    }

    fn hash_stream(&self, parts: &[&[u8]]) -> u128 {
        let mut hasher = Xxh3::with_seed(self.seed);
        for part in parts {
            hasher.update(part);
        }
        hasher.digest128()
    }
}

impl Digest {
    /// Takes a record in.
    pub fn add(&mut self, hash: u128) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash);
    }

    /// Takes a record out.
    pub fn remove(&mut self, hash: u128) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}/{}", self.sum, self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_go_and_streaming_hash_alike() {
        let hasher = RecordHasher::new(&CollectionName::new("people"));
        let bytes: Vec<u8> = (0..=255).cycle().take(2 * ONE_SHOT_MAX).collect();
        // On both sides of every limit of xxh3's own, and of the buffer.
        for total in (0..300).chain(ONE_SHOT_MAX - 20..ONE_SHOT_MAX + 20) {
            for key_length in [0, 1, 9, total / 2, total] {
                let (key, row) = bytes[..total].split_at(key_length.min(total));
                let length = (key.len() as u64).to_le_bytes();
                assert_eq!(hasher.hash(key, row), hasher.hash_stream(&[&length, key, row]), "{total}, {key_length}");
            }
        }
    }

    #[test]
    fn the_hash_is_the_same_in_every_version() {
        let hasher = RecordHasher::new(&CollectionName::new("people"));
        assert_eq!(format!("{:032x}", hasher.hash(b"key", b"row")), "23c5e6172e9226de365c5f7bad1cd1d4");
    }
}
