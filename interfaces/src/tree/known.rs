//! What the last look found, so that unchanged files are not read again and contents are found by their hash.
//!
//! About 300 bytes an entry, in memory.

use std::collections::HashMap;
use std::sync::Arc;

use super::walk::{Entry, Listing, State, is_fresh};
use crate::Stamp;
use crate::folder::{EntryKind, EntryPath, Moment, Seen};

/// Entries by path, and files by the hash of their content.
#[derive(Debug, Default)]
pub(super) struct Known {
    state: State,
    entries: HashMap<Arc<EntryPath>, Item>,
    places: HashMap<[u8; 32], Arc<EntryPath>>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    seen: Seen,
    content: Option<Content>,
}

#[derive(Clone, Copy, Debug)]
struct Content {
    hash: [u8; 32],
    /// The file could have been written once more without looking different.
    fresh: bool,
}

impl Known {
    /// Takes over what a walk found; contents of files that look as they looked stay known.
    pub(super) fn update(&mut self, listing: &Listing) {
        let mut before = std::mem::take(&mut self.entries);
        let mut places = std::mem::take(&mut self.places);
        self.state = listing.state;
        self.entries.reserve(listing.entries.len());
        for Entry { path, seen } in &listing.entries {
            let (path, content) = match before.remove_entry(path) {
                Some((path, item)) => (path, item.content.filter(|_| item.seen == *seen)),
                None => (Arc::new(path.clone()), None),
            };
            if let Some(content) = content {
                places.insert(content.hash, Arc::clone(&path));
            }
            self.entries.insert(path, Item { seen: *seen, content });
        }
        let entries = &self.entries;
        places.retain(|hash, path| {
            entries.get(path).and_then(|item| item.content).is_some_and(|content| content.hash == *hash)
        });
        self.places = places;
    }

    /// Whether these are the entries at `stamp`.
    pub(super) fn is_at(&self, stamp: &Stamp) -> bool {
        self.state.stamp() == *stamp
    }

    /// The stamp of these entries.
    pub(super) fn stamp(&self) -> Stamp {
        self.state.stamp()
    }

    /// What stood at `path`.
    pub(super) fn seen(&self, path: &EntryPath) -> Option<&Seen> {
        self.entries.get(path).map(|item| &item.seen)
    }

    /// All paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = &EntryPath> {
        self.entries.keys().map(|path| &**path)
    }

    /// The hash of the file at `path`, if it looks as it did when it was read, and had to look different if it was written.
    pub(super) fn hash(&self, path: &EntryPath, seen: &Seen) -> Option<[u8; 32]> {
        let item = self.entries.get(path).filter(|item| item.seen == *seen)?;
        item.content.filter(|content| !content.fresh).map(|content| content.hash)
    }

    /// A file whose content has this hash.
    pub(super) fn place(&self, hash: &[u8; 32]) -> Option<(&EntryPath, &Seen)> {
        let path = self.places.get(hash)?;
        self.entries.get(path).map(|item| (&**path, &item.seen))
    }

    /// Notes the content of the file at `path`, which looked so at `now`.
    pub(super) fn content(&mut self, path: &EntryPath, seen: &Seen, hash: [u8; 32], now: Moment) {
        let content = Content { hash, fresh: is_fresh(seen, now) };
        if let Some((path, _)) = self.entries.get_key_value(path) {
            let path = Arc::clone(path);
            self.places.insert(hash, Arc::clone(&path));
            if let Some(item) = self.entries.get_mut(&path) {
                if item.seen != *seen {
                    // Written since the walk: this is no longer the state that the walk found.
                    self.state.take(&path, &item.seen);
                    self.state.add(&path, seen);
                }
                *item = Item { seen: *seen, content: Some(content) };
            }
        }
    }

    /// Notes what stands at `path` after a commit, with the hash of its content where it is known.
    pub(super) fn put(&mut self, path: &EntryPath, seen: Option<Seen>, hash: Option<[u8; 32]>, now: Moment) {
        self.forget(path);
        let Some(seen) = seen else { return };
        self.state.add(path, &seen);
        let path = Arc::new(path.clone());
        let hash = hash.filter(|_| seen.kind == EntryKind::File);
        if let Some(hash) = hash {
            self.places.insert(hash, Arc::clone(&path));
        }
        let content = hash.map(|hash| Content { hash, fresh: is_fresh(&seen, now) });
        self.entries.insert(path, Item { seen, content });
    }

    /// Forgets an entry: no walk will find the state that is left then, unless it is gone.
    pub(super) fn forget(&mut self, path: &EntryPath) {
        if let Some(item) = self.entries.remove(path) {
            self.state.take(path, &item.seen);
        }
    }
}
