//! The scan index: the fingerprints and keys of a scan in its order, so that the next scan can tell what is unchanged.
//!
//! A cache in a file of its own: missing, damaged or of another layout, it is simply not there. The file is a header, then
//! blocks of entries, each with its length, count and checksum (xxh3, 64 bits); the header is written last.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use deltabus_record::diff;
use deltabus_record::digest::Digest;
use deltabus_record::schema::CollectionName;
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;

const MAGIC: [u8; 8] = *b"dbindex1";
const HEADER_BYTES: usize = 8 + 8 + 8 + 16 + 8 + 8;
const BLOCK_HEADER_BYTES: usize = 4 + 8;

/// Entries are checked and written in blocks of about this size.
const BLOCK_BYTES: usize = 64 * 1024;

/// Writes the index of a scan.
pub struct ScanIndexWriter {
    file: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    layout: u64,
    block: Vec<u8>,
    entries: u64,
    finished: bool,
}

/// Reads the index of an earlier scan, entry by entry.
pub struct ScanIndex {
    file: File,
    block: Vec<u8>,
    at: usize,
    key: std::ops::Range<usize>,
    entries_left: u64,
}

fn path_of(dir: &Path, collection: &CollectionName) -> PathBuf {
    // Names are any text; their hash is a file name.
    dir.join(format!("{:016x}.index", xxh3_64(collection.as_str().as_bytes())))
}

impl ScanIndexWriter {
    /// Begins the index of `collection` in the folder `dir`, which is made where missing.
    pub fn create(dir: &Path, collection: &CollectionName, layout: u64) -> Result<ScanIndexWriter, Error> {
        crate::directory::create_private(dir)?;
        let path = path_of(dir, collection);
        let temporary = path.with_extension("new");
        let file = File::create(&temporary)
            .and_then(|mut file| file.write_all(&[0; HEADER_BYTES]).map(|()| file))
            .map_err(|source| Error::Io { doing: "write", path: temporary.clone(), source })?;
        let file = BufWriter::with_capacity(4 * BLOCK_BYTES, file);
        let block = Vec::with_capacity(BLOCK_BYTES + 1024);
        Ok(ScanIndexWriter { file, temporary, path, layout, block, entries: 0, finished: false })
    }

    /// Adds an entry.
    pub fn push(&mut self, fingerprint: u64, key: &[u8]) -> Result<(), Error> {
        self.block.extend_from_slice(&fingerprint.to_le_bytes());
        self.block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.entries += 1;
        if self.block.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Completes the index under the name `digest`; it takes the place of the one before.
    pub fn finish(mut self, digest: Digest) -> Result<(), Error> {
        self.flush()?;
        let header = header(self.layout, digest, self.entries);
        let written = self
            .file
            .flush()
            .and_then(|()| self.file.get_mut().rewind())
            .and_then(|()| self.file.get_mut().write_all(&header))
            .and_then(|()| fs::rename(&self.temporary, &self.path));
        written.map_err(|source| self.failed(source))?;
        self.finished = true;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.block.is_empty() {
            return Ok(());
        }
        let length = (self.block.len() as u32).to_le_bytes();
        let check = xxh3_64(&self.block).to_le_bytes();
        let file = &mut self.file;
        let written = file.write_all(&length).and_then(|()| file.write_all(&check));
        let written = written.and_then(|()| file.write_all(&self.block));
        self.block.clear();
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Io { doing: "write", path: self.temporary.clone(), source }
    }
}

fn header(layout: u64, digest: Digest, entries: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&layout.to_le_bytes());
    header.extend_from_slice(&digest.records.to_le_bytes());
    header.extend_from_slice(&digest.sum.to_le_bytes());
    header.extend_from_slice(&entries.to_le_bytes());
    header.extend_from_slice(&xxh3_64(&header).to_le_bytes());
    header
}

impl Drop for ScanIndexWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

impl ScanIndex {
    /// Opens the index of `collection` if there is one of this layout and name.
    pub fn open(dir: &Path, collection: &CollectionName, layout: u64, digest: Digest) -> Option<ScanIndex> {
        let mut file = File::open(path_of(dir, collection)).ok()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).ok()?;
        let (body, check) = header.split_at(HEADER_BYTES - 8);
        let mut wanted = MAGIC.to_vec();
        wanted.extend_from_slice(&layout.to_le_bytes());
        wanted.extend_from_slice(&digest.records.to_le_bytes());
        wanted.extend_from_slice(&digest.sum.to_le_bytes());
        let count = body.strip_prefix(wanted.as_slice())?;
        let entries_left = u64::from_le_bytes(count.try_into().ok()?);
        (check == xxh3_64(body).to_le_bytes()).then_some(ScanIndex {
            file,
            block: Vec::new(),
            at: 0,
            key: 0..0,
            entries_left,
        })
    }

    /// Gives the index of `collection` that is named `from` the name `to`, if it is there and of this layout.
    pub fn rename(dir: &Path, collection: &CollectionName, layout: u64, from: Digest, to: Digest) -> Result<(), Error> {
        let Some(index) = ScanIndex::open(dir, collection, layout, from) else { return Ok(()) };
        let path = path_of(dir, collection);
        let file = File::options().write(true).open(&path);
        let header = header(layout, to, index.entries_left);
        // A header that is half written has no checksum: then the index is simply not there.
        let written = file.and_then(|mut file| file.write_all(&header));
        written.map_err(|source| Error::Io { doing: "write", path, source })
    }

    /// Goes on to the next entry and gives its fingerprint; `None` after the last. [`IndexDamaged`] if entries are missing
    /// or altered: then nothing that this index said counts.
    #[inline]
    pub fn advance(&mut self) -> Result<Option<u64>, IndexDamaged> {
        if self.entries_left == 0 {
            return Ok(None);
        }
        if self.at == self.block.len() {
            self.refill()?;
        }
        let entry = &self.block[self.at..];
        let (Some(fingerprint), Some(length)) = (entry.first_chunk::<8>(), entry.get(8..12)) else {
            return Err(IndexDamaged);
        };
        let length = length.try_into().map(u32::from_le_bytes).unwrap_or_default() as usize;
        let start = self.at + 12;
        if length > self.block.len() - start {
            return Err(IndexDamaged);
        }
        let fingerprint = u64::from_le_bytes(*fingerprint);
        self.key = start..start + length;
        self.at = start + length;
        self.entries_left -= 1;
        Ok(Some(fingerprint))
    }

    /// The key of the current entry.
    #[inline]
    pub fn key(&self) -> &[u8] {
        &self.block[self.key.clone()]
    }

    fn refill(&mut self) -> Result<(), IndexDamaged> {
        let mut header = [0; BLOCK_HEADER_BYTES];
        self.file.read_exact(&mut header).map_err(|_| IndexDamaged)?;
        let (length, check) = header.split_at(4);
        let length = length.try_into().map(u32::from_le_bytes).unwrap_or_default();
        self.block.clear();
        self.at = 0;
        self.key = 0..0;
        let read = (&mut self.file).take(length.into()).read_to_end(&mut self.block).map_err(|_| IndexDamaged)?;
        let whole = read == length as usize && read > 0 && check == xxh3_64(&self.block).to_le_bytes();
        if whole { Ok(()) } else { Err(IndexDamaged) }
    }
}

/// A scan index that can't be used after all; scan without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scan index is damaged")]
pub struct IndexDamaged;

impl diff::Index for ScanIndex {
    type Error = IndexDamaged;

    #[inline]
    fn next(&mut self) -> Result<Option<u64>, IndexDamaged> {
        self.advance()
    }

    #[inline]
    fn key(&self) -> &[u8] {
        ScanIndex::key(self)
    }
}

impl diff::IndexSink for ScanIndexWriter {
    type Error = Error;

    #[inline]
    fn push(&mut self, fingerprint: u64, key: &[u8]) -> Result<(), Error> {
        ScanIndexWriter::push(self, fingerprint, key)
    }
}
