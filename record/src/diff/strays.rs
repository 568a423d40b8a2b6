//! Records without a match, by fingerprint; hardly any two have the same one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasherDefault;

use super::AsItIs;

type ByFingerprint<V> = HashMap<u64, V, BuildHasherDefault<AsItIs>>;

/// Values by fingerprint, several where several records have the same one. About twice the size of a value and its
/// fingerprint each, nothing on the heap besides.
pub(super) struct Strays<V> {
    first: ByFingerprint<V>,
    more: ByFingerprint<Vec<V>>,
}

impl<V> Default for Strays<V> {
    fn default() -> Strays<V> {
        Strays { first: HashMap::default(), more: HashMap::default() }
    }
}

impl<V> Strays<V> {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub(super) fn insert(&mut self, fingerprint: u64, value: V) {
        match self.first.entry(fingerprint) {
            Entry::Vacant(entry) => {
                entry.insert(value);
            }
            Entry::Occupied(_) => self.more.entry(fingerprint).or_default().push(value),
        }
    }

    /// Takes out one value of this fingerprint, the last that came.
    pub(super) fn take(&mut self, fingerprint: u64) -> Option<V> {
        if self.first.is_empty() {
            return None;
        }
        if !self.more.is_empty()
            && let Some(more) = self.more.get_mut(&fingerprint)
        {
            let last = more.pop();
            if more.is_empty() {
                self.more.remove(&fingerprint);
            }
            return last;
        }
        self.first.remove(&fingerprint)
    }

    /// Takes out everything.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u64, V)> + use<'_, V> {
        let more =
            self.more.drain().flat_map(|(fingerprint, more)| more.into_iter().map(move |value| (fingerprint, value)));
        self.first.drain().chain(more)
    }
}
