//! A folder with one file for each record, as CalDAV and CardDAV servers, vdirsyncer and many clients keep it.
//!
//! Files change together in one crash-safe step ([`crate::folder`]), which also keeps the marks. Only files of the format's
//! extensions directly in the folder count; hidden ones are somebody else's. A link or a folder of such a name is an error:
//! to pass it over would look as if its records were gone.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3Default;

use crate::folder::{Attributes, Beneath, EntryKind, EntryPath, Folder, Sealed, Seen};
use crate::{Content, Error, Mark, Notify, Result, Staged, Stamp, Watching};

/// How long a file's name may be, extension and a number included, so that it stays within the system's 255 bytes.
const NAME_BYTES_MAX: usize = 200;

/// The files of a folder.
#[derive(Debug)]
pub(crate) struct FileSet {
    folder: Folder,
    extensions: &'static [&'static str],
    /// A hidden file that belongs to it all the same.
    own: Option<&'static str>,
}

/// A file as it was read.
#[derive(Debug)]
pub(crate) struct SetFile {
    /// Its name.
    pub(crate) name: String,
    /// Its content.
    pub(crate) bytes: Vec<u8>,
}

/// What is to become of a file.
#[derive(Debug)]
pub(crate) struct FileChange {
    /// Its name.
    pub(crate) name: String,
    /// Its next content; `None`: it goes.
    pub(crate) bytes: Option<Vec<u8>>,
}

type Listing = BTreeMap<String, Seen>;

impl FileSet {
    /// The files in the folder `path` whose names end in one of `extensions` (in lower case), and the hidden file `own`.
    pub(crate) fn new(path: &Path, extensions: &'static [&'static str], own: Option<&'static str>) -> FileSet {
        // Without the slash at its end, which would hide the folder's own name.
        FileSet { folder: Folder::new(path.components().collect::<PathBuf>()), extensions, own }
    }

    /// Whether `path` means a folder: one is there, or the path ends in a slash.
    pub(crate) fn is_meant(path: &Path) -> bool {
        path.as_os_str().as_bytes().ends_with(b"/") || path.is_dir()
    }

    /// The folder's path.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file's path, for messages.
    pub(crate) fn place(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The stamp of all files; [`Stamp::MISSING`] where there is no folder.
    pub(crate) fn stamp(&self) -> Result<Stamp> {
        self.folder.recover()?;
        match self.folder.open() {
            Ok(mut beneath) => Ok(stamp(&self.list(&mut beneath)?)),
            Err(Error::Missing { .. }) => Ok(Stamp::MISSING),
            Err(error) => Err(error),
        }
    }

    /// Signals whenever something in the folder is touched.
    pub(crate) fn watch(&self, notify: Notify) -> Result<Watching> {
        Watching::folder(self.folder.path(), notify)
    }

    /// Reads all files, in the order of their names; the own one comes first.
    pub(crate) fn read(&self) -> Result<(Vec<SetFile>, Stamp)> {
        self.folder.recover()?;
        let mut beneath = self.folder.open()?;
        let listing = self.list(&mut beneath)?;
        let mut files = Vec::with_capacity(listing.len());
        for name in listing.keys() {
            let path = entry(name).ok_or_else(|| self.changed())?;
            let mut bytes = Vec::new();
            let read = beneath.read(&path).and_then(|mut file| file.read_to_end(&mut bytes));
            read.map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => self.changed(),
                _ => self.folder.error("read", Some(&path), error),
            })?;
            files.push(SetFile { name: name.clone(), bytes });
        }
        if self.list(&mut beneath)? != listing {
            return Err(self.changed());
        }
        files.sort_by_key(|file| self.own != Some(file.name.as_str()));
        Ok((files, stamp(&listing)))
    }

    /// Stages changes of files, seen from the state `expected`.
    pub(crate) fn stage(
        &self,
        changes: Vec<FileChange>,
        expected: &Stamp,
        mark: Option<&Mark>,
    ) -> Result<Box<dyn Staged + '_>> {
        if self.stamp()? != *expected {
            return Err(self.changed());
        }
        let mut staging = self.folder.stage()?;
        let listing = if staging.is_new() { Listing::new() } else { self.list(staging.beneath())? };
        if !expected.is_missing() && stamp(&listing) != *expected {
            return Err(self.changed());
        }
        for change in changes {
            let path = entry(&change.name).ok_or_else(|| self.changed())?;
            let before = listing.get(&change.name);
            match (change.bytes, before) {
                (Some(bytes), before) => {
                    let mut file = staging.new_file()?;
                    file.write_all(&bytes).map_err(|error| self.folder.error("write", Some(&path), error))?;
                    let mode = before.map(|before| before.mode);
                    staging.put(&path, file, before, Attributes { mode, mtime: None })?;
                }
                (None, Some(before)) => staging.remove(&path, before),
                (None, None) => {}
            }
        }
        if let Some(mark) = mark {
            staging.mark(mark)?;
        }
        Ok(Box::new(StagedSet { set: self, listing, sealed: staging.seal()? }))
    }

    /// The mark that the last commit of `owner` left.
    pub(crate) fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>> {
        self.folder.recover()?;
        self.folder.mark(owner)
    }

    /// What stands in the folder, in lower case: a file system may not tell cases apart.
    pub(crate) fn names_in_lower_case(&self) -> Result<HashSet<String>> {
        let failed = |error| self.folder.error("list", None, error);
        let entries = match std::fs::read_dir(self.folder.path()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(HashSet::new()),
            Err(error) => return Err(failed(error)),
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().to_lowercase());
        entries.map(|entry| name(entry).map_err(failed)).collect()
    }

    /// A free name for the file of the record `key`: its own characters as far as they are harmless in file names.
    pub(crate) fn name_for(&self, key: &str, is_taken: impl Fn(&str) -> bool) -> String {
        let extension = self.extensions.first().copied().unwrap_or_default();
        let mut stem = String::with_capacity(key.len());
        for byte in key.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'@' => stem.push(char::from(byte)),
                b'.' if !stem.is_empty() => stem.push('.'),
                _ => stem.push_str(&format!("%{byte:02X}")),
            }
        }
        if stem.len() > NAME_BYTES_MAX || stem.is_empty() {
            let hash = xxhash_rust::xxh3::xxh3_128(key.as_bytes());
            stem.truncate(NAME_BYTES_MAX / 2);
            stem = format!("{stem}~{hash:032x}");
        }
        let plain = format!("{stem}.{extension}");
        if !is_taken(&plain) {
            return plain;
        }
        let numbered = (2u64..).map(|count| format!("{stem}~{count}.{extension}"));
        numbered.into_iter().find(|name| !is_taken(name)).unwrap_or(plain)
    }

    fn changed(&self) -> Error {
        Error::Changed { place: self.folder.place() }
    }

    fn list(&self, beneath: &mut Beneath) -> Result<Listing> {
        let failed = |error| self.folder.error("list", None, error);
        let entries = rustix::fs::Dir::read_from(beneath.root()).map_err(|error| failed(error.into()))?;
        let mut listing = Listing::new();
        for found in entries {
            let found = found.map_err(|error| failed(error.into()))?;
            // Names that are no UTF-8 are none of ours.
            let Ok(name) = found.file_name().to_str() else { continue };
            if !self.is_ours(name) {
                continue;
            }
            let seen = crate::folder::seen_at(beneath.root(), OsStr::new(name)).map_err(failed)?;
            match seen {
                Some(seen) if seen.kind == EntryKind::File => {
                    listing.insert(name.to_owned(), seen);
                }
                Some(_) => {
                    return Err(Error::Unsupported {
                        place: self.place(name),
                        problem: "a file of records must be a regular file; links and folders are not followed".into(),
                    });
                }
                // It went in the meantime.
                None => {}
            }
        }
        Ok(listing)
    }

    fn is_ours(&self, name: &str) -> bool {
        if name.starts_with('.') {
            return self.own == Some(name);
        }
        let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        extension.is_some_and(|extension| self.extensions.contains(&extension.as_str()))
    }
}

fn entry(name: &str) -> Option<EntryPath> {
    EntryPath::new(name.as_bytes()).ok()
}

fn stamp(listing: &Listing) -> Stamp {
    let mut hasher = Xxh3Default::new();
    for (name, seen) in listing {
        hasher.update(name.as_bytes());
        hasher.update(&[0]);
        for number in [
            u64::from(seen.mode),
            seen.size,
            seen.mtime.seconds as u64,
            u64::from(seen.mtime.nanos),
            seen.ctime.seconds as u64,
            u64::from(seen.ctime.nanos),
            seen.inode,
        ] {
            hasher.update(&number.to_le_bytes());
        }
    }
    let mut bytes = hasher.digest128().to_le_bytes().to_vec();
    bytes.extend_from_slice(&(listing.len() as u64).to_le_bytes());
    Stamp(bytes)
}

/// Changes that are on the disk beside the files.
struct StagedSet<'a> {
    set: &'a FileSet,
    listing: Listing,
    sealed: Sealed,
}

impl Staged for StagedSet<'_> {
    fn content(&self) -> Option<Content> {
        None
    }

    fn commit(mut self: Box<Self>) -> Result<Stamp> {
        self.sealed.check()?;
        let outcome = self.sealed.commit()?;
        let mut listing = self.listing;
        for (path, seen) in outcome.done {
            let name = path.to_string();
            match seen {
                Some(seen) => listing.insert(name, seen),
                None => listing.remove(&name),
            };
        }
        for left in &outcome.left {
            let place = self.set.folder.place();
            tracing::warn!(%place, entry = %left.path, error = %left.problem, "an entry is left as it is");
            // So that the next look finds it different.
            listing.remove(&left.path.to_string());
        }
        Ok(stamp(&listing))
    }
}
