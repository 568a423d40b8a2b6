//! A file that is being built.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::file::BLOCK_BYTES;

/// Runs of zeros that begin and end at multiples of this become holes: no file system in use has smaller blocks.
const HOLE_BYTES: usize = 4096;

/// A new content, written from its beginning to its end. Blocks of zeros become holes, which read as zeros and take no room.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(super) file: File,
    pub(super) work: u64,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file, a multiple of [`HOLE_BYTES`].
    start: u64,
    /// Whether the file's last bytes are a hole, so that its length must be set.
    hole: bool,
}

impl NewFile {
    pub(super) fn new(file: File, work: u64) -> NewFile {
        NewFile { file, work, buffer: Vec::new(), start: 0, hole: false }
    }

    /// How many bytes were written.
    pub(crate) fn length(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// The file, for who fills it otherwise than by writing here (a copy made by the system).
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Begins anew.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.start = 0;
        self.hole = false;
        self.file.set_len(0)
    }

    /// All that was written is in the file.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.write_out(self.buffer.len())?;
        if self.hole {
            self.file.set_len(self.start)?;
        }
        Ok(())
    }

    /// Writes the first `length` bytes of the buffer out, those that are zeros as holes.
    fn write_out(&mut self, length: usize) -> io::Result<()> {
        static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];
        let mut data = 0;
        let mut at = 0;
        while at < length {
            let end = (at + HOLE_BYTES).min(length);
            self.hole = self.buffer[at..end] == ZEROS[..end - at] && end - at == HOLE_BYTES;
            if self.hole {
                self.file.write_all_at(&self.buffer[data..at], self.start + data as u64)?;
                data = end;
            }
            at = end;
        }
        self.file.write_all_at(&self.buffer[data..length], self.start + data as u64)?;
        self.buffer.drain(..length);
        self.start += length as u64;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BLOCK_BYTES {
            self.write_out(self.buffer.len() / HOLE_BYTES * HOLE_BYTES)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
