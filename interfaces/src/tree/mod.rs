//! Directory trees: `tree:photos/`.
//!
//! | option | |
//! |---|---|
//! | `ignore=*.tmp,/cache/` | patterns of what is not part of the data, as in `.gitignore`; files named `.deltabusignore` hold more, one a line, for their folder and all below |
//! | `modes=no` | permissions are neither read nor set, for file systems that have none |
//! | `mtimes=no` | modification times are neither read nor set |
//!
//! A tree is one collection, named by the folder's stem, with the key `path`. [`types`] has the fields:
//!
//! | field | |
//! |---|---|
//! | `path` | names separated by `/`, relative to the folder; bytes that are no UTF-8 as `\xHH` ([`name`]) |
//! | `type` | `file`, `folder` or `link` |
//! | `content` | a file's bytes, always by reference, also the few or none of a small or empty file |
//! | `target` | where a link leads to; links are never followed |
//! | `mode` | the permission bits of a file or folder |
//! | `mtime` | when a file was written, UTC. Folders have none: it would change with every entry |
//!
//! Owners, extended attributes and which names are hard links of one file are not replicated. Devices, sockets and pipes are
//! reported and left out. The folder `.deltabus` at the top is a destination's own and never part of the data; a tree that is
//! only read has none.
//!
//! Reading looks at each entry once (size, times, inode, mode) and reads only files that look different. Writing is one
//! crash-safe step for the whole tree ([`crate::folder`]): new contents are built in `.deltabus`, files that only moved are
//! renamed, equal ones copied. What is ignored is neither read nor removed; a folder that holds such stays.

mod clash;
mod contents;
mod ignoring;
mod known;
mod moves;
mod name;
mod read;
mod types;
mod walk;
mod watch;
mod write;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deltabus_record::schema::{Collection, Field};
use deltabus_record::value::{KindSet, Value};
use xxhash_rust::xxh3::xxh3_64;

use self::contents::TreeContents;
use self::ignoring::Rules;
use self::known::Known;
use crate::folder::Folder;
use crate::{
    CollectionWrite, Content, Contents, Error, Interface, Location, Mark, Notify, Refusal, Result, Scan, Staged, Stamp,
    Watching, stem,
};

/// How often the whole tree is walked beside notifications, which a file system may lose: a walk is a look at every entry.
const POLL: Duration = Duration::from_secs(30);

const OPTIONS: &[&str] = &["ignore", "modes", "mtimes"];

/// A directory tree as source and destination; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Tree {
    options: Options,
    /// What the option `ignore` says.
    rules: Rules,
    found: TreeContents,
    collection: Collection,
    blindness: std::sync::OnceLock<clash::Blindness>,
}

/// What is replicated beside the contents.
#[derive(Clone, Copy, Debug)]
struct Options {
    modes: bool,
    mtimes: bool,
}

impl Options {
    fn layout(&self) -> u64 {
        xxh3_64(format!("tree 1, modes {}, mtimes {}", self.modes, self.mtimes).as_bytes())
    }
}

impl Tree {
    /// The tree at `location`; nothing is read yet.
    pub(crate) fn open(location: &Location) -> Result<Tree> {
        let mut options = location.options.clone();
        let ignore = options.take("ignore").unwrap_or_default();
        let patterns: Vec<&str> = ignore.split(',').filter(|pattern| !pattern.is_empty()).collect();
        let rules =
            Rules::of_option(&patterns).map_err(|problem| location.error(format!("option `ignore`: {problem}")))?;
        let mut flag = |name: &str| match options.take(name).as_deref() {
            None | Some("yes") => Ok(true),
            Some("no") => Ok(false),
            Some(other) => Err(location.error(format!("option `{name}` is `yes` or `no`, not `{other}`"))),
        };
        let flags = Options { modes: flag("modes")?, mtimes: flag("mtimes")? };
        options.finish(location, OPTIONS)?;
        let path = std::path::absolute(&location.path).unwrap_or_else(|_| location.path.clone());
        Ok(Tree {
            options: flags,
            rules,
            found: TreeContents { folder: Folder::new(&location.path), known: Mutex::default() },
            collection: Collection { name: stem(&path), schema: types::schema(&flags) },
            blindness: std::sync::OnceLock::new(),
        })
    }

    fn folder(&self) -> &Folder {
        &self.found.folder
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.found.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interface for Tree {
    fn stamp(&self) -> Result<Stamp> {
        self.folder().recover()?;
        match walk::walk(self.folder(), &self.rules) {
            Ok(listing) => Ok(listing.state.stamp()),
            Err(Error::Missing { .. }) => Ok(Stamp::MISSING),
            Err(error) => Err(error),
        }
    }

    fn watch(&self, notify: Notify) -> Result<Option<Watching>> {
        watch::watch(self.folder().path(), notify).map(Some)
    }

    fn commits(&self) -> bool {
        false
    }

    fn poll(&self) -> Duration {
        POLL
    }

    fn scan(&self, _since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>> {
        self.folder().recover()?;
        let listing = walk::walk(self.folder(), &self.rules)?;
        self.known().update(&listing);
        let collection = self.collection.clone();
        Ok(Box::new(read::TreeScan::new(self.folder(), &self.found.known, &self.options, collection, listing)?))
    }

    fn contents(&self) -> &dyn Contents {
        &self.found
    }

    fn verbatim(&self, field: &Field) -> KindSet {
        types::verbatim(field)
    }

    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        types::project(value, field, &self.options)
    }

    fn takes(&self, collection: &Collection) -> Result<(), Refusal> {
        types::Slots::of(&collection.schema, &self.options).map(drop).map_err(|reason| Refusal { reason })
    }

    fn field_for(&self, field: &Field) -> Field {
        types::field_for(field)
    }

    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        expected: &Stamp,
        mark: Option<&Mark>,
        contents: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>> {
        write::stage(self, writes, expected, mark, contents)
    }

    fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>> {
        self.folder().recover()?;
        self.folder().mark(owner)
    }

    fn transactional(&self) -> bool {
        true
    }

    fn single_collection(&self) -> bool {
        true
    }

    fn content(&self) -> Result<Option<Content>> {
        Ok(None)
    }
}
