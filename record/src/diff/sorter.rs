//! Sorting by key what may be more than memory should hold.

/// Takes entries in any order and gives them back by key.
///
/// First all are pushed, then all are taken; entries of one key come in the order in which they were pushed.
pub trait Sorter {
    /// What writing and reading fail with.
    type Error;

    /// Adds an entry.
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), Self::Error>;

    /// Puts the next entry in the place of what `key` and `value` hold; `false` after the last.
    fn next(&mut self, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<bool, Self::Error>;
}

/// Sorts in memory: the entries' bytes and 16 more for each.
#[derive(Default)]
pub struct MemorySorter<E> {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// How many entries were given, once they are being taken.
    given: Option<usize>,
    fails: std::marker::PhantomData<fn() -> E>,
}

/// Where an entry lies: key, then value.
#[derive(Clone, Copy)]
struct Entry {
    start: usize,
    key_length: u32,
    value_length: u32,
}

impl<E> MemorySorter<E> {
    /// With nothing in it.
    pub fn new() -> MemorySorter<E> {
        MemorySorter { bytes: Vec::new(), entries: Vec::new(), given: None, fails: std::marker::PhantomData }
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of::<Entry>() * self.entries.len()
    }

    /// The next entry, borrowed; `None` after the last.
    pub fn next_ref(&mut self) -> Option<(&[u8], &[u8])> {
        if self.given.is_none() {
            let bytes = &self.bytes;
            // Stable: entries of one key stay in their order.
            self.entries.sort_by(|a, b| a.key(bytes).cmp(b.key(bytes)));
        }
        let given = self.given.get_or_insert(0);
        let entry = self.entries.get(*given)?;
        *given += 1;
        Some((entry.key(&self.bytes), entry.value(&self.bytes)))
    }

    /// Empties it, so that it can be filled again.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.given = None;
    }
}

impl Entry {
    fn key(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start..self.start + self.key_length as usize]
    }

    fn value(self, bytes: &[u8]) -> &[u8] {
        let start = self.start + self.key_length as usize;
        &bytes[start..start + self.value_length as usize]
    }
}

impl<E> Sorter for MemorySorter<E> {
    type Error = E;

    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), E> {
        debug_assert!(self.given.is_none(), "all is pushed before anything is taken");
        let [key_length, value_length] =
            [key, value].map(|part| u32::try_from(part.len()).expect("no record is as long as that"));
        self.entries.push(Entry { start: self.bytes.len(), key_length, value_length });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    fn next(&mut self, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<bool, E> {
        let Some((next_key, next_value)) = self.next_ref() else { return Ok(false) };
        key.clear();
        key.extend_from_slice(next_key);
        value.clear();
        value.extend_from_slice(next_value);
        Ok(true)
    }
}
