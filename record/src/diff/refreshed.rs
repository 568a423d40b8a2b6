//! An index of which some records were written since.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_64;

use super::aligned::occurrences;
use super::{Identity, Index, Known};

/// The index of a scan, after somebody wrote records that it knows nothing of.
///
/// Its entries of those records are left out, for what they say is of an earlier form. In their stead come, at the end, as
/// many entries as such records are known, with fingerprints that nothing has: they are looked for by key. A record that
/// was put there since the scan is missed if it is gone again, and isn't taken for the second of its key if it is there.
pub struct Refreshed<'a, I> {
    index: I,
    stale: Option<&'a HashSet<Vec<u8>>>,
    /// Records that were written, last first.
    written: Vec<Vec<u8>>,
    current: Option<Vec<u8>>,
}

impl<'a, I: Index> Refreshed<'a, I> {
    /// `stale` are the keys of what was written since, of whole rows without their occurrence; `known` is the state that the
    /// scan will be compared with.
    pub fn new<K>(
        index: I,
        stale: Option<&'a HashSet<Vec<u8>>>,
        known: &dyn Known<Error = K>,
        identity: Identity,
    ) -> Result<Refreshed<'a, I>, K> {
        let mut written = Vec::new();
        for key in stale.into_iter().flatten() {
            let count = match identity {
                Identity::Key => u32::from(known.get(key, &mut Vec::new())?),
                Identity::WholeRow => occurrences(key, known)?,
            };
            written.extend((0..count).map(|_| key.clone()));
        }
        written.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Refreshed { index, stale, written, current: None })
    }
}

impl<I: Index> Index for Refreshed<'_, I> {
    type Error = I::Error;

    fn next(&mut self) -> Result<Option<u64>, I::Error> {
        if self.current.is_none() {
            while let Some(fingerprint) = self.index.next()? {
                if !self.stale.is_some_and(|stale| stale.contains(self.index.key())) {
                    return Ok(Some(fingerprint));
                }
            }
        }
        self.current = self.written.pop();
        // A hash of the key, where fingerprints are hashes of stored forms.
        Ok(self.current.as_ref().map(|key| !xxh3_64(key)))
    }

    fn key(&self) -> &[u8] {
        self.current.as_deref().unwrap_or_else(|| self.index.key())
    }
}
