//! Bringing contents to their places: from a file that goes, from one that stays, or from elsewhere.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

use deltabus_record::value::Large;
use rustix::fs::fstat;

use super::read;
use super::types::FileContent;
use super::write::Writer;
use crate::contents::hex;
use crate::folder::{Attributes, EntryKind, EntryPath, NewFile, Seen};
use crate::{Error, Result};

impl Writer<'_, '_> {
    /// Brings a file's content to its place: from a file that goes, from one that stays, or from elsewhere.
    pub(super) fn file(
        &mut self,
        path: &EntryPath,
        content: FileContent,
        before: Option<&Seen>,
        attributes: Attributes,
    ) -> Result<([u8; 32], Option<Seen>)> {
        let large = match content {
            FileContent::Reference(large) => large,
            FileContent::Bytes(bytes) => return self.inline(path, &bytes, before, attributes),
            FileContent::Unknown => return self.inline(path, b"", before, attributes),
        };
        if let Some((from, seen)) = self.moved(&large)? {
            let taken = self.staging.take(&from, &seen)?;
            let attributes = Attributes {
                mode: attributes.mode.filter(|mode| *mode != seen.mode),
                mtime: attributes.mtime.filter(|mtime| *mtime != seen.mtime),
            };
            self.staging.put_taken(path, taken, before, attributes);
            return Ok((large.hash, None));
        }
        let mut file = self.staging.new_file()?;
        if !self.copied(&large, &mut file)? {
            self.fetch(path, &large, before, &mut file)?;
        }
        let made = self.place(path, file, before, attributes)?;
        Ok((large.hash, Some(made)))
    }

    fn inline(
        &mut self,
        path: &EntryPath,
        bytes: &[u8],
        before: Option<&Seen>,
        attributes: Attributes,
    ) -> Result<([u8; 32], Option<Seen>)> {
        let mut file = self.staging.new_file()?;
        file.write_all(bytes).map_err(|error| self.tree.folder().error("write", Some(path), error))?;
        let made = self.place(path, file, before, attributes)?;
        Ok((*blake3::hash(bytes).as_bytes(), Some(made)))
    }

    fn place(
        &mut self,
        path: &EntryPath,
        file: NewFile,
        before: Option<&Seen>,
        attributes: Attributes,
    ) -> Result<Seen> {
        let made = self.staging.put(path, file, before, attributes)?;
        if attributes.mode.is_some_and(|mode| mode != made.mode) {
            let problem = format!("the file system made the mode {:o}; say `modes=no` to do without modes", made.mode);
            return Err(self.refused(&path.to_string(), problem));
        }
        if attributes.mtime.is_some_and(|mtime| mtime != made.mtime) {
            let problem = "the file system can't hold the modification time; say `mtimes=no` to do without";
            return Err(self.refused(&path.to_string(), problem));
        }
        Ok(made)
    }

    /// A file that goes and has this content.
    fn moved(&mut self, large: &Large) -> Result<Option<(EntryPath, Seen)>> {
        while let Some(path) = self.removed_files.get_mut(&large.hash).and_then(Vec::pop) {
            let Some(removed) = self.removed.get(&path) else { continue };
            let Some(seen) = removed.seen.filter(|_| !removed.moved) else { continue };
            if self.has_content(&path, &seen, large) {
                if let Some(removed) = self.removed.get_mut(&path) {
                    removed.moved = true;
                }
                return Ok(Some((path, seen)));
            }
        }
        Ok(None)
    }

    /// Whether the file has this content, as known or else by reading it; not if it can't be read.
    pub(super) fn has_content(&mut self, path: &EntryPath, seen: &Seen, large: &Large) -> bool {
        let known = self.tree.known().hash(path, seen);
        let hash = known.or_else(|| {
            let file = self.staging.beneath().read(path).ok()?;
            read::hash(file, &mut self.block).ok().map(|(hash, _)| hash)
        });
        seen.size == large.length && hash == Some(large.hash)
    }

    /// Fills `file` from one that is here and has the content; `false` if there is none.
    fn copied(&mut self, large: &Large, file: &mut NewFile) -> Result<bool> {
        let place = self.tree.known().place(&large.hash).map(|(path, seen)| (path.clone(), *seen));
        let Some((path, seen)) = place else { return Ok(false) };
        let Ok(from) = self.staging.beneath().read(&path) else { return Ok(false) };
        let as_seen = fstat(&from).is_ok_and(|stat| Seen::of(&stat) == seen);
        if !as_seen || seen.size != large.length {
            return Ok(false);
        }
        #[cfg(target_os = "linux")]
        if self.tree.known().hash(&path, &seen) == Some(large.hash)
            && rustix::fs::ioctl_ficlone(file.file(), &from).is_ok()
            && fstat(&from).is_ok_and(|stat| Seen::of(&stat) == seen)
        {
            return Ok(true);
        }
        match fill(from, large, file, &mut self.block) {
            Ok(()) => Ok(true),
            Err(error) => {
                // It was written meanwhile.
                tracing::debug!(entry = %path, %error, "a copy is fetched after all");
                file.restart().map_err(|error| self.tree.folder().error("write", Some(&path), error))?;
                Ok(false)
            }
        }
    }

    fn fetch(&mut self, path: &EntryPath, large: &Large, before: Option<&Seen>, file: &mut NewFile) -> Result<()> {
        let similar = before.filter(|before| before.kind == EntryKind::File);
        let similar = similar.map(|_| self.tree.folder().path().join(OsStr::from_bytes(path.as_bytes())));
        let from = self.contents.read(large, similar.as_deref())?;
        fill(from, large, file, &mut self.block).map_err(|source| Error::Content { hash: hex(&large.hash), source })
    }
}

/// Fills `file` with all that `from` gives; fails if that is not the content of `large`.
fn fill(mut from: impl Read, large: &Large, file: &mut NewFile, block: &mut [u8]) -> io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    loop {
        let read = match from.read(block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&block[..read]);
        file.write_all(&block[..read])?;
        if file.length() > large.length {
            break;
        }
    }
    if file.length() != large.length || *hasher.finalize().as_bytes() != large.hash {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the content is not the one that the reference names"));
    }
    Ok(())
}
