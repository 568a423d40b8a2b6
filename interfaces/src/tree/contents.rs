//! The contents that a scan found, by their hash.

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use deltabus_record::value::Large;
use rustix::fs::fstat;

use super::known::Known;
use crate::contents::{Contents, hex};
use crate::folder::{Folder, Seen};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct TreeContents {
    pub(super) folder: Folder,
    pub(super) known: Mutex<Known>,
}

impl Contents for TreeContents {
    fn read<'a>(&'a self, large: &Large, _similar: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>> {
        let failed = |source| Error::Content { hash: hex(&large.hash), source };
        let place = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.place(&large.hash).map(|(path, seen)| (path.clone(), *seen))
        };
        let Some((path, seen)) = place else { return Err(failed(io::ErrorKind::NotFound.into())) };
        let file = self.folder.open()?.read(&path).map_err(failed)?;
        if Seen::of(&fstat(&file).map_err(|error| failed(error.into()))?) != seen || seen.size != large.length {
            return Err(Error::Changed { place: format!("{}/{path}", self.folder.place()) });
        }
        Ok(Box::new(Verified::new(file, large)))
    }
}

/// Reads a content, and fails at its end if it is another than it was to be.
pub(super) struct Verified<R> {
    reader: R,
    hasher: blake3::Hasher,
    read: u64,
    hash: [u8; 32],
    length: u64,
}

impl<R: Read> Verified<R> {
    pub(super) fn new(reader: R, large: &Large) -> Verified<R> {
        Verified { reader, hasher: blake3::Hasher::new(), read: 0, hash: large.hash, length: large.length }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        let over = self.read > self.length;
        if over || (read == 0 && (self.read < self.length || *self.hasher.finalize().as_bytes() != self.hash)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the content is not the one that the reference names",
            ));
        }
        Ok(read)
    }
}
