//! Scanning a tree: one look at each entry; contents are read only of files that don't look as they did.
//!
//! A tree has no transactions, so what is consistent is each entry by itself: a file that is written while it is read is
//! read again, and left for the next look if that doesn't end.

use std::io::{self, Read};
use std::sync::Mutex;

use deltabus_record::row::RowBuilder;
use deltabus_record::schema::Collection;
use deltabus_record::value::{Instant, Large, Value};
use rustix::fs::{fstat, readlinkat};

use super::known::Known;
use super::walk::{Entry, Hide, Listing, is_gone, now, unread};
use super::{Options, name, types};
use crate::file::BLOCK_BYTES;
use crate::folder::{Beneath, EntryKind, EntryPath, Folder, Moment, Seen};
use crate::{Decoded, Extent, Fingerprint, Position, Result, Scan, Stamp, Unread};

/// So many times a file is read anew that was written meanwhile.
const ATTEMPTS: usize = 3;

pub(super) struct TreeScan<'a> {
    folder: &'a Folder,
    known: &'a Mutex<Known>,
    options: &'a Options,
    collections: [Collection; 1],
    stamp: Stamp,
    listing: Listing,
    beneath: Beneath,
    /// How many entries were given.
    given: usize,
    bytes_total: u64,
    bytes_read: u64,
    block: Vec<u8>,
}

impl<'a> TreeScan<'a> {
    pub(super) fn new(
        folder: &'a Folder,
        known: &'a Mutex<Known>,
        options: &'a Options,
        collection: Collection,
        listing: Listing,
    ) -> Result<TreeScan<'a>> {
        let beneath = folder.open()?;
        Ok(TreeScan {
            folder,
            known,
            options,
            collections: [collection],
            stamp: listing.state.stamp(),
            bytes_total: listing.entries.iter().map(length).sum(),
            listing,
            beneath,
            given: 0,
            bytes_read: 0,
            block: Vec::new(),
        })
    }

    /// The current entry as it is now, with the hash of a file or the target of a link.
    fn examine(&mut self, path: &EntryPath, seen: Seen) -> io::Result<(Seen, Inside)> {
        match seen.kind {
            EntryKind::File => self.hash(path, seen).map(|(seen, hash)| (seen, Inside::Content(hash))),
            EntryKind::Link => {
                let folder = self.beneath.folder(path.parent().as_ref())?;
                let target = readlinkat(folder, path.name(), Vec::new())?;
                Ok((seen, Inside::Target(target.into_bytes())))
            }
            EntryKind::Folder | EntryKind::Special => Ok((seen, Inside::Nothing)),
        }
    }

    fn hash(&mut self, path: &EntryPath, seen: Seen) -> io::Result<(Seen, [u8; 32])> {
        if let Some(hash) = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).hash(path, &seen) {
            return Ok((seen, hash));
        }
        self.block.resize(BLOCK_BYTES, 0);
        for _ in 0..ATTEMPTS {
            let file = self.beneath.read(path)?;
            let opened = now();
            let before = Seen::of(&fstat(&file)?);
            let (hash, length) = hash(&file, &mut self.block)?;
            let after = Seen::of(&fstat(&file)?);
            if before == after && length == after.size {
                let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                known.content(path, &after, hash, opened);
                return Ok((after, hash));
            }
        }
        Err(io::Error::other("it is being written; left for the next look"))
    }
}

/// What an entry holds beside what a look at it shows.
enum Inside {
    Content([u8; 32]),
    Target(Vec<u8>),
    Nothing,
}

/// BLAKE3 and length of all that `file` gives.
pub(super) fn hash(mut file: impl Read, block: &mut [u8]) -> io::Result<([u8; 32], u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut length = 0;
    loop {
        match file.read(block) {
            Ok(0) => return Ok((hasher.finalize().into(), length)),
            Ok(read) => {
                hasher.update(&block[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn length(entry: &Entry) -> u64 {
    if entry.seen.kind == EntryKind::File { entry.seen.size } else { 0 }
}

fn instant(moment: Moment) -> Value {
    Value::Instant(Instant { seconds: moment.seconds, nanos: moment.nanos, offset_seconds: 0 })
}

impl Scan for TreeScan<'_> {
    fn collections(&self) -> &[Collection] {
        &self.collections
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn layout(&self, _index: usize) -> u64 {
        self.options.layout()
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.bytes_total)
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn start(&mut self, _index: usize, _extent: Extent) -> Result<()> {
        self.given = 0;
        self.bytes_read = 0;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        if let Some(last) = self.given.checked_sub(1).and_then(|last| self.listing.entries.get(last)) {
            self.bytes_read += length(last);
        }
        let Some(entry) = self.listing.entries.get(self.given) else { return Ok(None) };
        self.given += 1;
        Ok(Some(entry.fingerprint(self.listing.began)))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        let Entry { path, seen } = self.listing.entries[self.given - 1].clone();
        let (seen, inside) = match self.examine(&path, seen) {
            Ok(examined) => examined,
            Err(error) => {
                let problem = match is_gone(&error) {
                    true => "gone since the look began".to_owned(),
                    false => format!("can't be read: {error}"),
                };
                self.listing.unread.push(unread(self.folder, &path, problem, Hide::Itself));
                return Ok(Decoded::Unread);
            }
        };
        row.push_text(&name::to_text(path.as_bytes()));
        row.push_text(types::type_name(seen.kind));
        let (content, target) = match inside {
            Inside::Content(hash) => {
                (Value::Large(Box::new(Large { hash, length: seen.size, text: false })), Value::Null)
            }
            Inside::Target(target) => (Value::Null, Value::text(name::to_text(&target))),
            Inside::Nothing => (Value::Null, Value::Null),
        };
        row.push(&content);
        row.push(&target);
        if self.options.modes {
            row.push(&if seen.kind == EntryKind::Link { Value::Null } else { Value::Integer(seen.mode.into()) });
        }
        if self.options.mtimes {
            row.push(&if seen.kind == EntryKind::File { instant(seen.mtime) } else { Value::Null });
        }
        Ok(Decoded::Record)
    }

    fn unread(&self) -> &[Unread] {
        &self.listing.unread
    }

    fn position(&self) -> Position {
        let entry = self.given.checked_sub(1).and_then(|last| self.listing.entries.get(last));
        let place = match entry {
            Some(entry) => format!("{}/{}", self.folder.place(), entry.path),
            None => self.folder.place(),
        };
        Position { place, ..Position::default() }
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
