//! Finding all entries of a tree: one look at each, and no content read.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use deltabus_record::key::Key;
use deltabus_record::value::Value;
use rustix::fs::{Dir, Mode, OFlags, openat};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::ignoring::{IGNORE_FILE, Rules};
use super::name;
use crate::folder::{Beneath, EntryKind, EntryPath, Folder, Moment, Seen, is_missing, is_own, seen_at};
use crate::{Fingerprint, Hides, Position, Result, Stamp, Unread};

/// Two writes this close together may get one time, on a file system with times finer than a second: the kernel's clock
/// ticks every 10 ms at the slowest, taken twice.
const TICK_NANOS: i128 = 20_000_000;

/// The same where times are whole seconds, or the even ones of FAT.
const COARSE_TICK_NANOS: i128 = 2_000_000_000;

/// One entry as it was found.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: EntryPath,
    pub(super) seen: Seen,
}

/// A tree as it was found, each folder before what it holds.
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    pub(super) unread: Vec<Unread>,
    pub(super) state: State,
    /// When the walk began.
    pub(super) began: Moment,
}

/// Names a state of a whole tree: a count and a sum, so that it can be kept up to date entry by entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    entries: u64,
    sum: u128,
}

impl State {
    pub(super) fn add(&mut self, path: &EntryPath, seen: &Seen) {
        self.entries = self.entries.wrapping_add(1);
        self.sum = self.sum.wrapping_add(xxh3_128(&described(path, seen)));
    }

    pub(super) fn take(&mut self, path: &EntryPath, seen: &Seen) {
        self.entries = self.entries.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(xxh3_128(&described(path, seen)));
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp([&self.entries.to_le_bytes()[..], &self.sum.to_le_bytes()].concat())
    }
}

/// What tells whether an entry is as it was. A folder's own times and size change with every entry and say nothing.
fn described(path: &EntryPath, seen: &Seen) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.as_bytes().len() + 64);
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.push(match seen.kind {
        EntryKind::File => 0,
        EntryKind::Folder => 1,
        EntryKind::Link => 2,
        EntryKind::Special => 3,
    });
    out.extend_from_slice(&seen.mode.to_le_bytes());
    if seen.kind != EntryKind::Folder {
        out.extend_from_slice(&seen.size.to_le_bytes());
        for time in [seen.mtime, seen.ctime] {
            out.extend_from_slice(&time.seconds.to_le_bytes());
            out.extend_from_slice(&time.nanos.to_le_bytes());
        }
        out.extend_from_slice(&seen.inode.to_le_bytes());
    }
    out
}

impl Entry {
    /// The fingerprint in a listing that began at `began`. That of an entry which could still be written without looking
    /// any different is one that never comes again.
    pub(super) fn fingerprint(&self, began: Moment) -> Fingerprint {
        let mut described = described(&self.path, &self.seen);
        if is_fresh(&self.seen, began) {
            described.extend_from_slice(&began.seconds.to_le_bytes());
            described.extend_from_slice(&began.nanos.to_le_bytes());
        }
        Fingerprint(xxh3_64(&described))
    }
}

/// Whether an entry that was seen at `now` was written so lately that another write could leave it looking the same. One
/// whose time was set to an older one can't: a write would change that.
pub(super) fn is_fresh(seen: &Seen, now: Moment) -> bool {
    let nanos = |moment: Moment| i128::from(moment.seconds) * 1_000_000_000 + i128::from(moment.nanos);
    let tick = if seen.ctime.nanos == 0 { COARSE_TICK_NANOS } else { TICK_NANOS };
    let fresh = |moment: Moment| nanos(moment) >= nanos(now) - tick;
    seen.kind != EntryKind::Folder && fresh(seen.mtime) && fresh(seen.ctime)
}

/// The system's time.
pub(super) fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

/// Walks the whole tree. [`crate::Error::Missing`] where there is none.
pub(super) fn walk(folder: &Folder, rules: &Rules) -> Result<Listing> {
    let began = now();
    let mut beneath = folder.open()?;
    let mut listing = Listing { entries: Vec::new(), unread: Vec::new(), state: State::default(), began };
    let mut open = vec![listing.folder(folder, None, rules.clone(), &mut beneath)?];
    while let Some((found, rules)) = open.last_mut() {
        let Some(entry) = found.next() else {
            open.pop();
            continue;
        };
        let inner = (entry.seen.kind == EntryKind::Folder).then(|| (entry.path.clone(), rules.clone()));
        listing.state.add(&entry.path, &entry.seen);
        listing.entries.push(entry);
        if let Some((path, rules)) = inner {
            open.push(listing.folder(folder, Some(&path), rules, &mut beneath)?);
        }
    }
    Ok(listing)
}

impl Listing {
    /// The entries of one folder by name, with the rules that hold there. What can't be read is noted.
    fn folder(
        &mut self,
        folder: &Folder,
        path: Option<&EntryPath>,
        rules: Rules,
        beneath: &mut Beneath,
    ) -> Result<(std::vec::IntoIter<Entry>, Rules)> {
        let names = match names(beneath, path) {
            Ok(names) => names,
            // Gone since it was seen: the next look finds it gone.
            Err(error) => {
                let Some(path) = path else { return Err(folder.error("read", None, error)) };
                self.note(folder, path, format!("can't be read: {error}"), Hide::Below);
                return Ok((Vec::new().into_iter(), rules));
            }
        };
        let has_patterns = names.binary_search_by(|name| name.as_slice().cmp(IGNORE_FILE.as_bytes())).is_ok();
        let rules = match has_patterns {
            true => rules.inside(path, beneath, folder)?.unwrap_or(rules),
            false => rules,
        };
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let full = match path {
                Some(path) => [path.as_bytes(), b"/", &name].concat(),
                None => name.clone(),
            };
            let Ok(entry) = EntryPath::new(&full) else {
                let place = folder.path().join(OsStr::from_bytes(&full)).display().to_string();
                let position = Position { place, ..Position::default() };
                let hides = Hides::Below(name::to_text(&full).into_owned());
                self.unread.push(Unread { position, problem: "the path is too long".into(), hides });
                continue;
            };
            let seen = beneath.folder(path).and_then(|folder| seen_at(folder, OsStr::from_bytes(&name)));
            match seen {
                Ok(Some(seen)) if rules.ignore(&full, seen.kind == EntryKind::Folder) => {}
                Ok(Some(seen)) if seen.kind == EntryKind::Special => {
                    self.note(folder, &entry, "a device, socket or pipe, which is not replicated".into(), Hide::Itself);
                }
                Ok(Some(seen)) => entries.push(Entry { path: entry, seen }),
                Ok(None) => {}
                Err(error) => {
                    self.note(folder, &entry, format!("can't be examined: {error}"), Hide::Itself);
                    self.note(folder, &entry, format!("can't be examined: {error}"), Hide::Below);
                }
            }
        }
        Ok((entries.into_iter(), rules))
    }

    fn note(&mut self, folder: &Folder, path: &EntryPath, problem: String, hide: Hide) {
        self.unread.push(unread(folder, path, problem, hide));
    }
}

/// Which records an unread entry hides.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hide {
    /// Its own.
    Itself,
    /// All below it.
    Below,
}

pub(super) fn unread(folder: &Folder, path: &EntryPath, problem: String, hide: Hide) -> Unread {
    let text = name::to_text(path.as_bytes()).into_owned();
    let place = folder.path().join(OsStr::from_bytes(path.as_bytes())).display().to_string();
    Unread {
        position: Position { place, ..Position::default() },
        problem,
        hides: match hide {
            Hide::Itself => Hides::Record(Key::of(&[Value::Text(text)])),
            Hide::Below => Hides::Below(text + "/"),
        },
    }
}

/// The names in a folder, sorted; those of the tree's own work folder left out.
pub(super) fn names(beneath: &mut Beneath, path: Option<&EntryPath>) -> io::Result<Vec<Vec<u8>>> {
    let here = beneath.folder(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = Dir::new(openat(here, ".", flags, Mode::empty())?)?;
    let mut names = Vec::new();
    for entry in folder {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let own = path.is_none() && is_own(name);
        if !own && !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether an error only says that an entry is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    is_missing(error)
}
