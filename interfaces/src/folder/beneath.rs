//! Reaching entries without ever following a link out of the folder.
//!
//! Every step from folder to folder is one `openat` that refuses links, so that neither a set that makes a link and writes
//! "through" it nor a user who swaps a link in leads anywhere else.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};

use super::EntryPath;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Special,
}

/// What an entry looked like: equal as long as nobody touched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    /// What it is.
    pub(crate) kind: EntryKind,
    /// Its permission bits, `0o7777`.
    pub(crate) mode: u32,
    /// Length in bytes.
    pub(crate) size: u64,
    /// When its content was written.
    pub(crate) mtime: Moment,
    /// When anything about it was changed.
    pub(crate) ctime: Moment,
    /// Its number in the file system.
    pub(crate) inode: u64,
    /// Its owner and group.
    pub(crate) owner: (u32, u32),
}

/// A point in a file system's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub(crate) seconds: i64,
    /// Nanoseconds within the second.
    pub(crate) nanos: u32,
}

impl Seen {
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between systems")]
    pub(crate) fn of(stat: &Stat) -> Seen {
        let kind = match FileType::from_raw_mode(stat.st_mode as _) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Folder,
            FileType::Symlink => EntryKind::Link,
            _ => EntryKind::Special,
        };
        Seen {
            kind,
            mode: stat.st_mode as u32 & 0o7777,
            size: stat.st_size as u64,
            mtime: Moment { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            ctime: Moment { seconds: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
            inode: stat.st_ino as u64,
            owner: (stat.st_uid as u32, stat.st_gid as u32),
        }
    }

    /// Whether this is still the same entry: for folders, whose times and size change with every entry, the same folder.
    pub(crate) fn is_still(&self, now: &Seen) -> bool {
        match self.kind {
            EntryKind::Folder => now.kind == EntryKind::Folder && self.inode == now.inode,
            _ => self == now,
        }
    }

    /// Whether the content is still the same, while mode and owner may have changed.
    pub(crate) fn has_same_content(&self, now: &Seen) -> bool {
        (self.kind, self.inode) == (now.kind, now.inode)
            && (self.kind == EntryKind::Folder || (self.size, self.mtime) == (now.size, now.mtime))
    }
}

/// A folder as a starting point; see the module's documentation.
pub(crate) struct Beneath {
    root: OwnedFd,
    /// The file system's number; other file systems that are mounted inside are none of ours.
    device: u64,
    /// The folder reached last, for entries that are neighbours.
    last: Option<(EntryPath, OwnedFd)>,
}

impl Beneath {
    /// Opens the folder at `path`, which may itself be a link: that is the user's.
    pub(crate) fn open(path: &Path) -> io::Result<Beneath> {
        let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Beneath::at(root)
    }

    pub(crate) fn at(root: OwnedFd) -> io::Result<Beneath> {
        let device = device(&fstat(&root)?);
        Ok(Beneath { root, device, last: None })
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The folder `path`. [`io::ErrorKind::NotADirectory`] if it, or one on the way, is a file or link.
    pub(crate) fn folder(&mut self, path: Option<&EntryPath>) -> io::Result<BorrowedFd<'_>> {
        let Some(path) = path else { return Ok(self.root.as_fd()) };
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let below = |last: &EntryPath| {
                path.as_bytes().strip_prefix(last.as_bytes()).and_then(|rest| rest.strip_prefix(b"/")).map(<[u8]>::len)
            };
            let (mut here, rest) = match self.last.take() {
                Some((last, fd)) if below(&last).is_some() => (Some(fd), below(&last).unwrap_or_default()),
                _ => (None, path.as_bytes().len()),
            };
            for name in path.as_bytes()[path.as_bytes().len() - rest..].split(|byte| *byte == b'/') {
                let from = here.as_ref().map_or(self.root.as_fd(), |fd| fd.as_fd());
                let fd = openat(from, OsStr::from_bytes(name), FOLDER, Mode::empty())?;
                here = Some(fd);
            }
            let Some(fd) = here else { return Ok(self.root.as_fd()) };
            self.last = Some((path.clone(), fd));
        }
        let (_, fd) = self.last.as_ref().expect("it was just put there");
        Ok(fd.as_fd())
    }

    /// The same, if it is on the folder's own file system.
    pub(crate) fn own_folder(&mut self, path: Option<&EntryPath>) -> io::Result<BorrowedFd<'_>> {
        let device_here = device(&fstat(self.folder(path)?)?);
        if device_here != self.device {
            return Err(io::Error::new(io::ErrorKind::CrossesDevices, "another file system is mounted there"));
        }
        self.folder(path)
    }

    /// What stands at `path`; `None` where nothing does, also where a folder on the way is none.
    pub(crate) fn seen(&mut self, path: &EntryPath) -> io::Result<Option<Seen>> {
        let folder = match self.folder(path.parent().as_ref()) {
            Err(error) if is_missing(&error) => return Ok(None),
            folder => folder?,
        };
        seen_at(folder, path.name())
    }

    /// Opens the regular file at `path` for reading.
    pub(crate) fn read(&mut self, path: &EntryPath) -> io::Result<File> {
        let folder = self.folder(path.parent().as_ref())?;
        // Without NONBLOCK a pipe that took the file's place would wait for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(folder, path.name(), flags, Mode::empty())?);
        match Seen::of(&fstat(&file)?).kind {
            EntryKind::File => Ok(file),
            _ => Err(io::Error::other("not a regular file")),
        }
    }

    /// Forgets the folder reached last: it was moved or replaced.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }
}

/// Where only the way leads through a folder, no right to read it is needed.
#[cfg(target_os = "linux")]
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[allow(clippy::unnecessary_cast, reason = "the field's type differs between systems")]
fn device(stat: &Stat) -> u64 {
    stat.st_dev as u64
}

/// What stands in `folder` under `name`; links are not followed.
pub(crate) fn seen_at(folder: impl AsFd, name: &OsStr) -> io::Result<Option<Seen>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Seen::of(&stat))),
        Err(error) => match io::Error::from(error) {
            error if is_missing(&error) => Ok(None),
            error => Err(error),
        },
    }
}

/// Whether there is nothing, or no folder on the way to it.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}
