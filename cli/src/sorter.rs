//! Sorting what may be more than memory should hold: sorted runs in files without a name, merged at the end.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};

use deltabus_interfaces::Error;
use deltabus_record::diff::{MemorySorter, Sorter};

/// So much is sorted in memory; more goes to a file each time that it is full.
const RUN_BYTES: usize = 16 * 1024 * 1024;

/// What is written and read at once.
const FILE_BUFFER_BYTES: usize = 128 * 1024;

/// Sorts in memory what fits there, and the rest in files of the system's temporary folder that go with the process.
pub(crate) struct FileSorter {
    memory: MemorySorter<Error>,
    run_bytes: usize,
    runs: Vec<File>,
    /// The next entry of each run, once entries are being taken.
    merge: Option<BinaryHeap<Reverse<Head>>>,
}

/// A run, and its first entry that was not yet given.
struct Head {
    key: Vec<u8>,
    value: Vec<u8>,
    /// Runs were written in this order; of one key, so were their entries.
    run: usize,
    rest: BufReader<File>,
}

impl FileSorter {
    /// With nothing in it.
    pub(crate) fn new() -> FileSorter {
        FileSorter::with_runs(RUN_BYTES)
    }

    fn with_runs(run_bytes: usize) -> FileSorter {
        FileSorter { memory: MemorySorter::new(), run_bytes, runs: Vec::new(), merge: None }
    }

    fn write_run(&mut self) -> Result<(), Error> {
        let mut write = || {
            let mut file = BufWriter::with_capacity(FILE_BUFFER_BYTES, tempfile::tempfile()?);
            while let Some((key, value)) = self.memory.next_ref() {
                file.write_all(&(key.len() as u32).to_le_bytes())?;
                file.write_all(&(value.len() as u32).to_le_bytes())?;
                file.write_all(key)?;
                file.write_all(value)?;
            }
            let mut file = file.into_inner()?;
            file.rewind()?;
            Ok(file)
        };
        let file = write().map_err(failed)?;
        self.runs.push(file);
        self.memory.clear();
        Ok(())
    }

    fn begin_merge(&mut self) -> Result<BinaryHeap<Reverse<Head>>, Error> {
        self.write_run()?;
        let mut heads = BinaryHeap::new();
        for (run, file) in self.runs.drain(..).enumerate() {
            let rest = BufReader::with_capacity(FILE_BUFFER_BYTES, file);
            let mut head = Head { key: Vec::new(), value: Vec::new(), run, rest };
            if head.advance()? {
                heads.push(Reverse(head));
            }
        }
        Ok(heads)
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::Io { doing: "sort in", path: std::env::temp_dir(), source }
}

impl Head {
    fn advance(&mut self) -> Result<bool, Error> {
        let mut lengths = [0; 8];
        match self.rest.read_exact(&mut lengths) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            result => result.map_err(failed)?,
        }
        let lengths = lengths.as_chunks::<4>().0;
        for (part, length) in [&mut self.key, &mut self.value].into_iter().zip(lengths) {
            part.resize(u32::from_le_bytes(*length) as usize, 0);
            self.rest.read_exact(part).map_err(failed)?;
        }
        Ok(true)
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> Ordering {
        self.key.cmp(&other.key).then(self.run.cmp(&other.run))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl Sorter for FileSorter {
    type Error = Error;

    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.memory.push(key, value)?;
        if self.memory.bytes() >= self.run_bytes { self.write_run() } else { Ok(()) }
    }

    fn next(&mut self, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<bool, Error> {
        if self.merge.is_none() {
            if self.runs.is_empty() {
                return self.memory.next(key, value);
            }
            self.merge = Some(self.begin_merge()?);
        }
        let Some(heads) = &mut self.merge else { return Ok(false) };
        let Some(mut first) = heads.peek_mut() else { return Ok(false) };
        std::mem::swap(key, &mut first.0.key);
        std::mem::swap(value, &mut first.0.value);
        if !first.0.advance()? {
            std::collections::binary_heap::PeekMut::pop(first);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_in_files_are_merged_as_if_all_had_been_sorted_in_memory() {
        let mut files = FileSorter::with_runs(10_000);
        let mut memory = MemorySorter::<Error>::new();
        for i in 0..5_000_u64 {
            // Keys of several lengths, each a few times.
            let key = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000).to_string();
            let value = vec![b'v'; (i % 40) as usize];
            for sorter in [&mut files as &mut dyn Sorter<Error = Error>, &mut memory] {
                sorter.push(key.as_bytes(), &[&i.to_le_bytes(), value.as_slice()].concat()).unwrap();
            }
        }
        assert!(files.runs.len() > 3);
        let taken = |sorter: &mut dyn Sorter<Error = Error>| {
            let (mut key, mut value, mut all) = (Vec::new(), Vec::new(), Vec::new());
            while sorter.next(&mut key, &mut value).unwrap() {
                all.push((key.clone(), value.clone()));
            }
            assert!(!sorter.next(&mut key, &mut value).unwrap());
            all
        };
        let sorted = taken(&mut files);
        assert_eq!(sorted.len(), 5_000);
        assert!(sorted == taken(&mut memory));
    }
}
