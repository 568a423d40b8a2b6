//! Collecting what is to happen to a folder.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deltabus_record::row::Row;
use deltabus_record::value::Value;
use rustix::fs::{
    Access, AtFlags, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, accessat, fchmod,
    fchown, fstat, fsync, futimens, mkdirat, openat, symlinkat, unlinkat,
};
use tempfile::TempDir;

use super::beneath::{Beneath, EntryKind, Moment, Seen, is_missing, seen_at};
use super::commit::Sealed;
use super::journal::{Attributes, Step, encode};
use super::{EntryPath, Folder, JOURNAL_FILE, LOCK_FILE, MARKS_FILE, NewFile, STAGE_FOLDER, WORK};
use crate::{Error, Mark, Result};

/// So many new files are synced one by one; for more the whole file system is synced once, which costs less than many.
const SYNCED_SINGLY_MAX: usize = 8;

/// So many entries share a folder inside the work folder: file systems put what is made in one folder close together, and get
/// slow where there is too much of it.
const WORK_FOLDER_ENTRIES: u64 = 1024;

/// A new folder that nobody holds is left alone for this long: its maker may be about to lock it.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// How many bytes of a folder's name go into that of the new folder beside it, so that a long name stays within 255.
const NAME_BYTES_MAX: usize = 200;

/// A change to a folder that is being put together; dropping it leaves everything as it was.
pub(crate) struct Staging {
    pub(super) bench: Bench,
    takes: Vec<Step>,
    removals: Vec<Step>,
    folder_removals: Vec<EntryPath>,
    new_folders: Vec<EntryPath>,
    puts: Vec<Step>,
    sets: Vec<(EntryPath, Option<Seen>, Attributes)>,
    mark: Option<Step>,
    new_files: usize,
}

/// An entry that a commit moves: out of its place first, to be put elsewhere.
#[derive(Debug)]
pub(crate) struct Taken {
    work: u64,
    from: EntryPath,
}

/// Where a change is built: locked, and cleared away at the end unless a committed journal needs it.
pub(super) struct Bench {
    pub(super) folder: Folder,
    pub(super) beneath: Beneath,
    /// The folder of numbered entries.
    pub(super) work: OwnedFd,
    /// A new folder, built beside its place.
    pub(super) made: Option<TempDir>,
    next: u64,
    _lock: File,
}

impl Staging {
    pub(super) fn begin(folder: &Folder) -> Result<Staging> {
        let bench = Bench::set_up(folder)?;
        Ok(Staging {
            bench,
            takes: Vec::new(),
            removals: Vec::new(),
            folder_removals: Vec::new(),
            new_folders: Vec::new(),
            puts: Vec::new(),
            sets: Vec::new(),
            mark: None,
            new_files: 0,
        })
    }

    /// For looking at entries while nobody else commits.
    pub(crate) fn beneath(&mut self) -> &mut Beneath {
        &mut self.bench.beneath
    }

    /// Whether the folder does not exist and is made by the commit.
    pub(crate) fn is_new(&self) -> bool {
        self.bench.made.is_some()
    }

    /// Begins a new file; [`Staging::put`] says where it goes.
    pub(crate) fn new_file(&mut self) -> Result<NewFile> {
        let work = self.bench.number()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The system takes from this what it takes from any new file; the work folder is private.
        let file = openat(&self.bench.work, work_name(work), flags, Mode::from_raw_mode(0o666));
        let file = file.map_err(|error| self.bench.folder.error("make a file in", None, error.into()))?;
        Ok(NewFile::new(File::from(file), work))
    }

    /// The new file takes the place `path`, where `before` stands (see [`Folder::open`] and [`Beneath::seen`]), or nothing once
    /// what is removed and taken here is gone.
    ///
    /// Gives what the file looks like; a file system that can't hold the time asked for shows it here. The owner stays.
    pub(crate) fn put(
        &mut self,
        path: &EntryPath,
        mut file: NewFile,
        before: Option<&Seen>,
        attributes: Attributes,
    ) -> Result<Seen> {
        let synced_singly = self.new_files < SYNCED_SINGLY_MAX;
        self.new_files += 1;
        let finished = file.end().and_then(|()| {
            let file = &file.file;
            let made = Seen::of(&fstat(file)?);
            if let Some(before) = before.filter(|before| before.owner != made.owner) {
                fchown(file, Some(Uid::from_raw(before.owner.0)), Some(Gid::from_raw(before.owner.1)))?;
            }
            // After the owner, since a change of owner takes the set-user-id bits away.
            if let Some(mode) = attributes.mode {
                fchmod(file, mode_of(mode))?;
            }
            if let Some(mtime) = attributes.mtime {
                futimens(file, &timestamps(mtime))?;
            }
            if synced_singly || !HAS_SYNCFS {
                fsync(file)?;
            }
            Ok(Seen::of(&fstat(file)?))
        });
        let seen = finished.map_err(|error| self.bench.folder.error("write", Some(path), error))?;
        self.puts.push(Step::Put {
            path: path.clone(),
            before: before.copied(),
            work: file.work,
            from: None,
            attributes: Attributes::default(),
        });
        Ok(seen)
    }

    /// A symbolic link to `target` takes the place `path`, as [`Staging::put`].
    pub(crate) fn put_link(&mut self, path: &EntryPath, target: &[u8], before: Option<&Seen>) -> Result<()> {
        let work = self.bench.number()?;
        let made = symlinkat(OsStr::from_bytes(target), &self.bench.work, work_name(work));
        made.map_err(|error| self.bench.folder.error("make the link", Some(path), error.into()))?;
        self.new_files += 1;
        self.puts.push(Step::Put {
            path: path.clone(),
            before: before.copied(),
            work,
            from: None,
            attributes: Attributes::default(),
        });
        Ok(())
    }

    /// Takes an entry away, folders with all they hold, to be put elsewhere by [`Staging::put_taken`].
    pub(crate) fn take(&mut self, path: &EntryPath, before: &Seen) -> Result<Taken> {
        let work = self.bench.number()?;
        self.takes.push(Step::Take { path: path.clone(), before: *before, work });
        Ok(Taken { work, from: path.clone() })
    }

    /// What was taken elsewhere takes the place `path`, as [`Staging::put`].
    pub(crate) fn put_taken(&mut self, path: &EntryPath, taken: Taken, before: Option<&Seen>, attributes: Attributes) {
        self.puts.push(Step::Put {
            path: path.clone(),
            before: before.copied(),
            work: taken.work,
            from: Some(taken.from),
            attributes,
        });
    }

    /// Removes what stands at `path`; a folder only once it is empty.
    pub(crate) fn remove(&mut self, path: &EntryPath, before: &Seen) {
        match before.kind {
            EntryKind::Folder => self.folder_removals.push(path.clone()),
            _ => self.removals.push(Step::Remove { path: path.clone(), before: *before }),
        }
    }

    /// Makes a folder where there is none. The folders on the way to it are no business of this.
    pub(crate) fn make_folder(&mut self, path: &EntryPath) {
        self.new_folders.push(path.clone());
    }

    /// Sets attributes of an entry that stands there already (`before`), or that this commit makes (`None`).
    pub(crate) fn set(&mut self, path: &EntryPath, before: Option<&Seen>, attributes: Attributes) {
        if !attributes.is_empty() {
            self.sets.push((path.clone(), before.copied(), attributes));
        }
    }

    /// Leaves a mark with the rest; that of another owner stays.
    pub(crate) fn mark(&mut self, mark: &Mark) -> Result<()> {
        let mut marks = match self.is_new() {
            true => Vec::new(),
            false => self.bench.folder.marks()?,
        };
        marks.retain(|other| other.owner != mark.owner);
        marks.push(mark.clone());
        let value = |mark: Mark| Value::List(vec![Value::Text(mark.owner), Value::Bytes(mark.value)]);
        let bytes = Row::of(&marks.into_iter().map(value).collect::<Vec<_>>());
        let file = self.new_file()?;
        let written = (&file.file).write_all(bytes.as_bytes()).and_then(|()| file.file.sync_all());
        written.map_err(|error| self.bench.folder.error("write the marks of", None, error))?;
        self.mark = Some(Step::Mark { work: file.work });
        Ok(())
    }

    /// Whether the file system takes the names `a` and `b` for one.
    pub(crate) fn takes_for_one(&mut self, a: &str, b: &str) -> Result<bool> {
        let failed = |error: rustix::io::Errno| self.bench.folder.error("try names in", None, error.into());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(openat(&self.bench.work, a, flags, Mode::from_raw_mode(0o600)).map_err(failed)?);
        let found = seen_at(&self.bench.work, b.as_ref());
        unlinkat(&self.bench.work, a, AtFlags::empty()).map_err(failed)?;
        found.map(|found| found.is_some()).map_err(|error| self.bench.folder.error("try names in", None, error))
    }

    /// Brings everything to the disk, so that the commit is one rename.
    pub(crate) fn seal(mut self) -> Result<Sealed> {
        let steps = self.steps()?;
        let bench = &self.bench;
        let failed = |error: io::Error| bench.folder.error("write the journal of", None, error);
        bench.folder.fault().map_err(failed)?;
        if bench.made.is_none() {
            let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let journal = openat(&bench.work, JOURNAL_FILE, flags, Mode::from_raw_mode(0o600));
            let mut journal = File::from(journal.map_err(|error| failed(error.into()))?);
            journal.write_all(&encode(&steps)).and_then(|()| journal.sync_all()).map_err(failed)?;
        }
        // The contents must be there for good before a journal speaks of them.
        let synced = match self.new_files > SYNCED_SINGLY_MAX {
            true => sync_file_system(&bench.work),
            false => bench.sync_names(),
        };
        synced.map_err(|error| bench.folder.error("sync", None, error))?;
        Ok(Sealed { bench: self.bench, steps })
    }

    /// All steps, in an order in which each finds what it needs.
    fn steps(&mut self) -> Result<Vec<Step>> {
        let by_depth = |path: &EntryPath| (path.depth(), path.clone());
        self.folder_removals.sort_by_cached_key(|path| std::cmp::Reverse(by_depth(path)));
        self.new_folders.sort_by_cached_key(by_depth);
        let opened = self.closed_folders()?;
        let mut steps = Vec::with_capacity(self.takes.len() + self.removals.len() + self.puts.len() + opened.len());
        steps.extend(opened.iter().map(|(path, _)| Step::Open { path: path.clone() }));
        steps.append(&mut self.takes);
        steps.append(&mut self.removals);
        let removed: BTreeSet<_> = self.folder_removals.iter().cloned().collect();
        steps.extend(self.folder_removals.drain(..).map(|path| Step::RemoveFolder { path }));
        steps.extend(self.new_folders.drain(..).map(|path| Step::MakeFolder { path }));
        steps.append(&mut self.puts);
        // A folder's new mode may shut out what is to be set inside it.
        let set: BTreeSet<_> = self.sets.iter().filter(|set| set.2.mode.is_some()).map(|set| set.0.clone()).collect();
        for (path, seen) in opened {
            if !set.contains(&path) && !removed.contains(&path) {
                self.sets.push((path, None, Attributes { mode: Some(seen.mode), mtime: None }));
            }
        }
        self.sets.sort_by_cached_key(|(path, ..)| std::cmp::Reverse(path.depth()));
        let set = |(path, before, attributes)| Step::Set { path, before, attributes };
        steps.extend(self.sets.drain(..).map(set));
        steps.extend(self.mark.take());
        Ok(steps)
    }

    /// The folders that are to be changed and whose owner, who we are, may not change them; those of others are errors.
    fn closed_folders(&mut self) -> Result<Vec<(EntryPath, Seen)>> {
        let mut parents = BTreeSet::new();
        let steps = self.takes.iter().chain(&self.removals).chain(&self.puts).filter_map(|step| match step {
            Step::Take { path, .. } | Step::Remove { path, .. } | Step::Put { path, .. } => Some(path),
            _ => None,
        });
        for path in steps.chain(&self.folder_removals).chain(&self.new_folders) {
            match path.parent_bytes() {
                Some(parent) if parents.last().is_some_and(|last: &EntryPath| last.as_bytes() == parent) => {}
                _ => drop(path.parent().map(|parent| parents.insert(parent))),
            }
        }
        let bench = &mut self.bench;
        let mut closed = Vec::new();
        for path in parents {
            let failed = |error: io::Error| bench.folder.error("change the folder", Some(&path), error);
            let opened = match bench.beneath.own_folder(Some(&path)) {
                Ok(folder) => accessat(folder, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS),
                // Made by this very commit, or gone: the step will tell.
                Err(error) if is_missing(&error) => continue,
                Err(error) => return Err(failed(error)),
            };
            if let Err(error) = opened {
                match bench.beneath.seen(&path).map_err(failed)? {
                    Some(seen) if seen.owner.0 == rustix::process::geteuid().as_raw() => closed.push((path, seen)),
                    _ => return Err(failed(error.into())),
                }
            }
        }
        Ok(closed)
    }
}

impl Bench {
    fn set_up(folder: &Folder) -> Result<Bench> {
        let failed = |doing, error| folder.error(doing, None, error);
        let made = match fs::metadata(&folder.path) {
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(folder_beside(folder)?),
            Err(error) => return Err(failed("examine", error)),
        };
        let root = match &made {
            Some(made) => folder.at(made.path()),
            None => folder.clone(),
        };
        let beneath = root.open()?;
        let lock = root.lock()?;
        if root.has_journal()? {
            root.finish(&lock)?;
        }
        let stage = root.path.join(WORK).join(STAGE_FOLDER);
        match fs::remove_dir_all(&stage) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("clear the work folder of", error)),
        }
        fs::create_dir(&stage).map_err(|error| failed("make the work folder of", error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let work = rustix::fs::open(&stage, flags, Mode::empty());
        let work = work.map_err(|error| failed("open the work folder of", error.into()))?;
        Ok(Bench { folder: folder.clone(), beneath, work, made, next: 0, _lock: lock })
    }

    /// Makes the names in the work folder durable.
    fn sync_names(&self) -> io::Result<()> {
        for folder in 0..self.next.div_ceil(WORK_FOLDER_ENTRIES) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fsync(openat(&self.work, folder.to_string(), flags, Mode::empty())?)?;
        }
        Ok(fsync(&self.work)?)
    }

    /// The number of the next entry.
    fn number(&mut self) -> Result<u64> {
        if self.next.is_multiple_of(WORK_FOLDER_ENTRIES) {
            let made = mkdirat(&self.work, (self.next / WORK_FOLDER_ENTRIES).to_string(), Mode::from_raw_mode(0o700));
            made.map_err(|error| self.folder.error("make a work folder in", None, error.into()))?;
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.folder.is_cut_off() {
            // A test of what a crash leaves.
            if let Some(made) = self.made.take() {
                let _ = made.keep();
            }
            return;
        }
        let committed = self.folder.has_journal().unwrap_or(true);
        if self.made.is_none() && !committed {
            let _ = fs::remove_dir_all(self.folder.path.join(WORK).join(STAGE_FOLDER));
        }
    }
}

/// A new folder beside the place of `folder`, gone when it is dropped.
fn folder_beside(folder: &Folder) -> Result<TempDir> {
    if fs::symlink_metadata(&folder.path).is_ok() {
        let problem = "this is a link to a folder that doesn't exist; make the folder".into();
        return Err(Error::Unsupported { place: folder.place(), problem });
    }
    let parent = match folder.path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = folder.path.file_name().unwrap_or_default().as_bytes();
    let mut prefix = OsString::from(".");
    prefix.push(OsStr::from_bytes(&name[..name.len().min(NAME_BYTES_MAX)]));
    prefix.push(".deltabus-");
    sweep(&parent, prefix.as_bytes());
    // The system takes from this what it takes from any new folder.
    let made = tempfile::Builder::new().prefix(&prefix).permissions(Permissions::from_mode(0o777)).tempdir_in(&parent);
    made.map_err(|source| Error::Io { doing: "make a folder in", path: parent, source })
}

/// Removes new folders that crashed runs left. What can't be removed stays: it is in nobody's way.
fn sweep(parent: &Path, prefix: &[u8]) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(prefix)) {
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
        if !metadata.is_dir() || age.is_none_or(|age| age < STALE_AFTER) {
            continue;
        }
        let unused = match File::open(entry.path().join(WORK).join(LOCK_FILE)) {
            Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if unused {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Where in the work folder the entry of this number is.
pub(super) fn work_name(work: u64) -> String {
    format!("{}/{}", work / WORK_FOLDER_ENTRIES, work % WORK_FOLDER_ENTRIES)
}

#[allow(clippy::unnecessary_cast, reason = "the type differs between systems")]
pub(super) fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode as _)
}

pub(super) fn timestamps(mtime: Moment) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

const HAS_SYNCFS: bool = cfg!(target_os = "linux");

/// Brings all that was written to the file system of `folder` to the disk.
#[cfg(target_os = "linux")]
pub(super) fn sync_file_system(folder: impl std::os::fd::AsFd) -> io::Result<()> {
    rustix::fs::syncfs(folder).map_err(io::Error::from)
}

/// Files are synced one by one here; what is left is the folder itself.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_file_system(folder: impl std::os::fd::AsFd) -> io::Result<()> {
    fsync(folder).map_err(io::Error::from)
}

/// Where the marks come from and go to.
pub(super) fn marks_name() -> &'static str {
    MARKS_FILE
}
