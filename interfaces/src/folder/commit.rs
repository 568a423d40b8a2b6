//! Doing the steps, once or again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, chmod, fchmod, fsync, mkdirat, openat, renameat, renameat_with, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::beneath::{Beneath, EntryKind, Seen, is_missing, seen_at};
use super::journal::{Attributes, Step, decode};
use super::staging::{Bench, marks_name, mode_of, sync_file_system, timestamps, work_name};
use super::{EntryPath, Folder, JOURNAL_FILE, STAGE_FOLDER, WORK};
use crate::{Error, Result};

/// So many folders are synced one by one; for more the whole file system is synced once.
const SYNCED_SINGLY_MAX: usize = 8;

/// A change that is on the disk beside the folder; dropping it leaves everything as it was.
pub(crate) struct Sealed {
    pub(super) bench: Bench,
    pub(super) steps: Vec<Step>,
}

/// What a commit did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What stands at each entry that was changed, in the order of the changes; the last about an entry counts.
    pub(crate) done: Vec<(EntryPath, Option<Seen>)>,
    /// What was left as it is.
    pub(crate) left: Vec<Left>,
}

/// A step that was not done, since somebody changed what it was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Where.
    pub(crate) path: EntryPath,
    /// Why, for people.
    pub(crate) problem: String,
}

impl Sealed {
    /// Fails with [`Error::Changed`] if somebody changed an entry that is to be changed, so that nothing is done at all. What is
    /// changed after this is left as it is by the commit.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Bench { folder, beneath, made, .. } = &mut self.bench;
        beneath.forget();
        // Where something was taken or removed, or a folder made, nothing stands until then.
        let mut moved: HashSet<&EntryPath> = HashSet::new();
        for step in &self.steps {
            let (path, before) = match step {
                Step::Take { path, before, .. } | Step::Remove { path, before } => {
                    moved.insert(path);
                    (path, Some(before))
                }
                Step::RemoveFolder { path } => {
                    moved.insert(path);
                    continue;
                }
                Step::Put { path, before, .. } if !moved.contains(path) => (path, before.as_ref()),
                Step::Set { path, before: Some(before), .. } => (path, Some(before)),
                _ => continue,
            };
            let now = beneath.seen(path).map_err(|error| folder.error("examine", Some(path), error))?;
            let as_before = match (before, &now) {
                (None, None) => true,
                (Some(before), Some(now)) => before.is_still(now),
                _ => false,
            };
            if !as_before && made.is_none() {
                return Err(Error::Changed { place: format!("{}/{path}", folder.place()) });
            }
        }
        Ok(())
    }

    /// Makes it the folder's state. [`Error::Changed`] and nothing done where a new folder's place was taken meanwhile.
    ///
    /// An error after the atomic point leaves the journal: whoever looks at the folder next finishes it.
    pub(crate) fn commit(mut self) -> Result<Outcome> {
        let folder = self.bench.folder.clone();
        let failed = |doing| {
            let folder = folder.clone();
            move |error: io::Error| folder.error(doing, None, error)
        };
        if let Some(made) = &self.bench.made {
            // Nobody sees it yet, so it needs no journal.
            let path = made.path().to_owned();
            let outcome = run(&folder, &mut self.bench.beneath, self.bench.work.as_fd(), &self.steps);
            let outcome = outcome.map_err(failed("write"))?;
            let _ = fs::remove_dir_all(path.join(WORK).join(STAGE_FOLDER));
            sync_file_system(self.bench.beneath.root()).map_err(failed("sync"))?;
            folder.fault().map_err(failed("rename"))?;
            match rename_to_free(rustix::fs::CWD, &path, rustix::fs::CWD, &folder.path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(Error::Changed { place: folder.place() });
                }
                Err(error) => return Err(failed("make")(error)),
            }
            if let Some(made) = self.bench.made.take() {
                let _ = made.keep();
            }
            let parent = folder.path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync"))?;
            return Ok(outcome);
        }
        let work = folder.path.join(WORK);
        folder.fault().map_err(failed("commit"))?;
        fs::rename(work.join(STAGE_FOLDER).join(JOURNAL_FILE), work.join(JOURNAL_FILE)).map_err(failed("commit"))?;
        // From here on it is done, whatever happens.
        folder.fault().map_err(failed("commit"))?;
        File::open(&work).and_then(|work| work.sync_all()).map_err(failed("sync"))?;
        let outcome = run(&folder, &mut self.bench.beneath, self.bench.work.as_fd(), &self.steps);
        let outcome = outcome.map_err(failed("finish the commit to"))?;
        settle(&folder, &mut self.bench.beneath, &self.steps)?;
        Ok(outcome)
    }
}

impl Folder {
    /// Finishes the committed journal; `_lock` is held.
    pub(super) fn finish(&self, _lock: &File) -> Result<Outcome> {
        let failed = |doing| move |error: io::Error| self.error(doing, None, error);
        let path = self.journal_path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // Its maker has finished it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::default()),
            Err(source) => return Err(Error::Io { doing: "read", path, source }),
        };
        let Some(steps) = decode(&bytes) else {
            return Err(Error::Unsupported {
                place: path.display().to_string(),
                problem: "a commit was cut off and its journal is damaged or of another version; \
                          remove it to compare all anew"
                    .into(),
            });
        };
        let mut beneath = self.open()?;
        let stage = path.with_file_name(STAGE_FOLDER);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::create_dir(&stage) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make the work folder of")(error)),
        }
        let work = rustix::fs::open(&stage, flags, Mode::empty());
        let work = work.map_err(|error| failed("open the work folder of")(error.into()))?;
        let outcome = run(self, &mut beneath, work.as_fd(), &steps).map_err(failed("finish the commit to"))?;
        settle(self, &mut beneath, &steps)?;
        let _ = fs::remove_dir_all(stage);
        Ok(outcome)
    }
}

/// Makes what was done durable, and only then forgets the journal.
fn settle(folder: &Folder, beneath: &mut Beneath, steps: &[Step]) -> Result<()> {
    let failed = |error: io::Error| folder.error("sync", None, error);
    let mut parents: Vec<Option<EntryPath>> = Vec::new();
    for step in steps {
        let parent = match step {
            Step::Mark { .. } => continue,
            step => step.path().and_then(EntryPath::parent),
        };
        if !parents.contains(&parent) {
            parents.push(parent);
        }
        if parents.len() > SYNCED_SINGLY_MAX {
            break;
        }
    }
    if parents.len() > SYNCED_SINGLY_MAX {
        sync_file_system(beneath.root()).map_err(failed)?;
    } else {
        for parent in parents {
            let synced = beneath.folder(parent.as_ref()).and_then(|parent| {
                let parent = openat(parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                Ok(fsync(parent)?)
            });
            match synced {
                // Removed, or shut to us by the very mode that was set: all of it is in the file system's own order.
                Err(error) if is_missing(&error) || error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.map_err(failed)?,
            }
        }
        File::open(folder.path.join(WORK)).and_then(|work| work.sync_all()).map_err(failed)?;
    }
    folder.fault().map_err(failed)?;
    match fs::remove_file(folder.journal_path()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(folder.error("remove the journal of", None, error)),
    }
}

fn run(folder: &Folder, beneath: &mut Beneath, work: BorrowedFd<'_>, steps: &[Step]) -> io::Result<Outcome> {
    // The folder reached while staging may have been moved since.
    beneath.forget();
    let mut outcome = Outcome::default();
    for step in steps {
        folder.fault()?;
        let problem = match step.run(beneath, work) {
            Ok(Done::Yes(seen)) => {
                outcome.done.extend(step.path().map(|path| (path.clone(), seen)));
                continue;
            }
            Ok(Done::Already) => continue,
            Ok(Done::Left(problem)) => problem.to_owned(),
            Err(error) if concerns_one_entry(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        if let Some(path) = step.path() {
            outcome.left.push(Left { path: path.clone(), problem });
        }
    }
    Ok(outcome)
}

/// What became of a step.
enum Done {
    /// It is done, and this stands there.
    Yes(Option<Seen>),
    /// It was done before the commit was cut off, or nothing was to be done.
    Already,
    /// Somebody changed what it was about.
    Left(&'static str),
}

const CHANGED: &str = "changed by another program while it was being written";

impl Step {
    fn path(&self) -> Option<&EntryPath> {
        match self {
            Step::Open { path }
            | Step::Take { path, .. }
            | Step::Remove { path, .. }
            | Step::RemoveFolder { path }
            | Step::MakeFolder { path }
            | Step::Put { path, .. }
            | Step::Set { path, .. } => Some(path),
            Step::Mark { .. } => None,
        }
    }

    fn run(&self, beneath: &mut Beneath, work: BorrowedFd<'_>) -> io::Result<Done> {
        match self {
            Step::Open { path } => {
                let Some(seen) = beneath.seen(path)?.filter(|seen| seen.kind == EntryKind::Folder) else {
                    return Ok(Done::Already);
                };
                let folder = beneath.folder(path.parent().as_ref())?;
                set_mode(folder, path, seen.mode | 0o700)?;
                Ok(Done::Already)
            }
            Step::Take { path, before, work: number } => {
                match beneath.seen(path)? {
                    Some(now) if before.is_still(&now) => {}
                    // Done before, or somebody else's doing: then nothing is there to be put.
                    _ => return Ok(Done::Already),
                }
                let folder = beneath.own_folder(path.parent().as_ref())?;
                rename_to_free(folder, path.name(), work, work_name(*number).as_str())?;
                beneath.forget();
                Ok(Done::Yes(None))
            }
            Step::Remove { path, before } => match beneath.seen(path)? {
                None => Ok(Done::Yes(None)),
                Some(now) if before.is_still(&now) => {
                    let folder = beneath.own_folder(path.parent().as_ref())?;
                    unlinkat(folder, path.name(), AtFlags::empty())?;
                    Ok(Done::Yes(None))
                }
                Some(_) => Ok(Done::Left(CHANGED)),
            },
            Step::RemoveFolder { path } => match beneath.seen(path)? {
                None => Ok(Done::Yes(None)),
                Some(now) if now.kind == EntryKind::Folder => {
                    let folder = beneath.own_folder(path.parent().as_ref())?;
                    match unlinkat(folder, path.name(), AtFlags::REMOVEDIR) {
                        Ok(()) => {
                            beneath.forget();
                            Ok(Done::Yes(None))
                        }
                        Err(Errno::NOTEMPTY | Errno::EXIST) => {
                            Ok(Done::Left("the folder holds what is not part of the data, so it stays"))
                        }
                        Err(error) => Err(error.into()),
                    }
                }
                // Replaced by the same commit before it was cut off, or by somebody else.
                Some(_) => Ok(Done::Already),
            },
            Step::MakeFolder { path } => match beneath.seen(path)? {
                Some(now) if now.kind == EntryKind::Folder => Ok(Done::Yes(Some(now))),
                Some(_) => Ok(Done::Left(CHANGED)),
                None => {
                    let folder = beneath.own_folder(path.parent().as_ref())?;
                    mkdirat(folder, path.name(), Mode::from_raw_mode(0o777))?;
                    Ok(Done::Yes(seen_at(folder, path.name())?))
                }
            },
            Step::Put { path, before, work: number, from, attributes } => {
                put(beneath, work, path, before.as_ref(), *number, from.as_ref(), *attributes)
            }
            Step::Set { path, before, attributes } => {
                let Some(now) = beneath.seen(path)? else { return Ok(Done::Left(CHANGED)) };
                let same_mode = attributes.mode.is_none_or(|mode| mode == now.mode);
                let same_mtime = attributes.mtime.is_none_or(|mtime| mtime == now.mtime);
                if same_mode && same_mtime {
                    return Ok(Done::Yes(Some(now)));
                }
                if now.kind == EntryKind::Link || before.is_some_and(|before| !before.has_same_content(&now)) {
                    return Ok(Done::Left(CHANGED));
                }
                let folder = beneath.own_folder(path.parent().as_ref())?;
                set(folder, path, *attributes)?;
                Ok(Done::Yes(seen_at(folder, path.name())?))
            }
            Step::Mark { work: number } => {
                let own = openat(
                    beneath.root(),
                    WORK,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                match renameat(work, work_name(*number), own, marks_name()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(Done::Already),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

fn put(
    beneath: &mut Beneath,
    work: BorrowedFd<'_>,
    path: &EntryPath,
    before: Option<&Seen>,
    number: u64,
    from: Option<&EntryPath>,
    attributes: Attributes,
) -> io::Result<Done> {
    let name = work_name(number);
    let now = beneath.seen(path)?;
    let as_before = match (before, &now) {
        (None, None) => true,
        (Some(before), Some(now)) => before.is_still(now),
        _ => false,
    };
    let Some(new) = seen_at(work, name.as_ref())? else {
        // Put before the commit was cut off, or somebody changed what was to be taken.
        return Ok(match from {
            Some(_) if now.is_none_or(|now| before.is_some_and(|before| before.is_still(&now))) => Done::Left(CHANGED),
            _ => Done::Already,
        });
    };
    let problem = if as_before {
        let placed = beneath.own_folder(path.parent().as_ref()).and_then(|folder| {
            if !attributes.is_empty() && new.kind != EntryKind::Link {
                set_at(work, name.as_ref(), attributes)?;
            }
            match before {
                None => rename_to_free(work, name.as_str(), folder, path.name())?,
                Some(_) => renameat(work, name.as_str(), folder, path.name())?,
            }
            seen_at(folder, path.name())
        });
        match placed {
            Ok(seen) => {
                if new.kind == EntryKind::Folder {
                    beneath.forget();
                }
                return Ok(Done::Yes(seen));
            }
            Err(error) if concerns_one_entry(&error) => error.to_string(),
            Err(error) => return Err(error),
        }
    } else {
        CHANGED.to_owned()
    };
    // What was taken goes back to where it was, if that is still free.
    if let Some(from) = from {
        let back = beneath
            .folder(from.parent().as_ref())
            .and_then(|folder| rename_to_free(work, name.as_str(), folder, from.name()));
        if let Err(error) = back {
            tracing::warn!(entry = %path, %error, "what was moved could not be put back");
        }
        beneath.forget();
    }
    match as_before {
        true => Err(io::Error::new(io::ErrorKind::PermissionDenied, problem)),
        false => Ok(Done::Left(CHANGED)),
    }
}

/// Renames to a name that is free; [`io::ErrorKind::AlreadyExists`] if it isn't.
fn rename_to_free(
    from: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    to: impl AsFd,
    free: impl rustix::path::Arg + Copy,
) -> io::Result<()> {
    match renameat_with(&from, name, &to, free, RenameFlags::NOREPLACE) {
        // A file system without such renames: look, then rename.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            match rustix::fs::statat(&to, free, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST.into()),
                Err(Errno::NOENT) => Ok(renameat(&from, name, &to, free)?),
                Err(error) => Err(error.into()),
            }
        }
        result => Ok(result?),
    }
}

fn set(folder: BorrowedFd<'_>, path: &EntryPath, attributes: Attributes) -> io::Result<()> {
    set_at(folder, path.name(), attributes)
}

fn set_at(folder: BorrowedFd<'_>, name: &std::ffi::OsStr, attributes: Attributes) -> io::Result<()> {
    // The mode first: a step that is done again tells by the time whether somebody wrote in between.
    if let Some(mode) = attributes.mode {
        set_mode_at(folder, name, mode)?;
    }
    if let Some(mtime) = attributes.mtime {
        utimensat(folder, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn set_mode(folder: BorrowedFd<'_>, path: &EntryPath, mode: u32) -> io::Result<()> {
    set_mode_at(folder, path.name(), mode)
}

/// Sets the mode of the very file or folder that has the name, never of what a link leads to.
fn set_mode_at(folder: BorrowedFd<'_>, name: &std::ffi::OsStr, mode: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Ok(entry) => Ok(fchmod(entry, mode_of(mode))?),
        Err(Errno::ACCESS) => set_mode_unread(folder, name, mode),
        Err(error) => Err(error.into()),
    }
}

/// The same for what may not be opened for reading.
#[cfg(target_os = "linux")]
fn set_mode_unread(folder: BorrowedFd<'_>, name: &std::ffi::OsStr, mode: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let entry = openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if Seen::of(&rustix::fs::fstat(&entry)?).kind == EntryKind::Link {
        return Err(Errno::LOOP.into());
    }
    Ok(chmod(format!("/proc/self/fd/{}", entry.as_raw_fd()), mode_of(mode))?)
}

#[cfg(not(target_os = "linux"))]
fn set_mode_unread(folder: BorrowedFd<'_>, name: &std::ffi::OsStr, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(folder, name, mode_of(mode), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether an error is about one entry, so that the others can go on; others (a full or broken disk) stop the commit until
/// they are mended.
fn concerns_one_entry(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    let by_kind = matches!(
        error.kind(),
        PermissionDenied
            | NotFound
            | NotADirectory
            | IsADirectory
            | DirectoryNotEmpty
            | AlreadyExists
            | CrossesDevices
            | InvalidFilename
            | InvalidInput
            | ResourceBusy
            | ExecutableFileBusy
    );
    by_kind || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}
