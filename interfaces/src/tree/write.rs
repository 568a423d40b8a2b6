//! Writing a tree: what the records want, put together as one change of the folder.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use deltabus_record::row::Row;
use deltabus_record::value::Value;

use super::clash::{Blindness, clash};
use super::ignoring::{IGNORE_FILE, Rules};
use super::moves::Relocated;
use super::types::{Changed, FileContent, Slots, Wanted, What};
use super::walk::{now, walk};
use super::{Tree, name, walk};
use crate::file::BLOCK_BYTES;
use crate::folder::{Attributes, EntryKind, EntryPath, Sealed, Seen, Staging};
use crate::{Action, CollectionWrite, Content, Contents, Error, Mark, RecordWrite, Result, Staged, Stamp};

/// Builds the state that `writes` lead to; see [`crate::Interface::stage`].
pub(super) fn stage<'a>(
    tree: &'a Tree,
    writes: &mut [CollectionWrite<'_>],
    expected: &Stamp,
    mark: Option<&Mark>,
    contents: &dyn Contents,
) -> Result<Box<dyn Staged + 'a>> {
    let mut staging = tree.folder().stage()?;
    let changed = || Error::Changed { place: tree.folder().place() };
    if staging.is_new() != expected.is_missing() {
        return Err(changed());
    }
    if staging.is_new() {
        *tree.known() = Default::default();
    } else if !tree.known().is_at(expected) {
        let listing = walk(tree.folder(), &tree.rules)?;
        if listing.state.stamp() != *expected {
            return Err(changed());
        }
        tree.known().update(&listing);
    }
    if let Some(mark) = mark {
        staging.mark(mark)?;
    }
    let mut writer = Writer::new(tree, staging, contents);
    for write in writes {
        writer.collection(write)?;
    }
    writer.finish()
}

/// Puts a change together, record by record. [`super::fill`] finds the contents, [`super::moves`] folders that move.
pub(super) struct Writer<'a, 'c> {
    pub(super) tree: &'a Tree,
    pub(super) staging: Staging,
    pub(super) contents: &'c dyn Contents,
    /// What is to go, unless it is moved.
    pub(super) removed: HashMap<EntryPath, Removed>,
    /// Files that are to go, by the hash that they have as far as known.
    pub(super) removed_files: HashMap<[u8; 32], Vec<EntryPath>>,
    pub(super) written: HashMap<EntryPath, Written>,
    /// What moves with its folder.
    pub(super) relocated: Vec<Relocated>,
    /// Folders that give their place to something else, so must have nothing in them that is not to go.
    cleared: Vec<EntryPath>,
    /// The rules that hold in each folder asked for; `None` where there are none at all.
    rules: Option<HashMap<Option<EntryPath>, Rules>>,
    pub(super) block: Vec<u8>,
}

/// What is to go from a path.
pub(super) struct Removed {
    /// What stands there; `None`: nothing, or nothing of ours.
    pub(super) seen: Option<Seen>,
    pub(super) moved: bool,
}

/// What will stand at a path.
pub(super) struct Written {
    pub(super) kind: EntryKind,
    /// Its content, where it is known.
    pub(super) hash: Option<[u8; 32]>,
    /// What a new file looks like.
    pub(super) made: Option<Seen>,
}

impl<'a, 'c> Writer<'a, 'c> {
    fn new(tree: &'a Tree, staging: Staging, contents: &'c dyn Contents) -> Writer<'a, 'c> {
        let patterns =
            !tree.rules.is_empty() || tree.known().paths().any(|path| path.name().as_bytes() == IGNORE_FILE.as_bytes());
        Writer {
            tree,
            staging,
            contents,
            removed: HashMap::new(),
            removed_files: HashMap::new(),
            written: HashMap::new(),
            relocated: Vec::new(),
            cleared: Vec::new(),
            rules: patterns.then(HashMap::new),
            block: vec![0; BLOCK_BYTES],
        }
    }

    fn collection(&mut self, write: &mut CollectionWrite<'_>) -> Result<()> {
        let place = self.tree.folder().place();
        let slots = Slots::of(&write.collection.schema, &self.tree.options)
            .map_err(|problem| Error::Unsupported { place, problem })?;
        match &mut write.action {
            Action::Load(records) => {
                while records.advance().map_err(Error::Records)? {
                    let row = Row::from_trusted(records.row());
                    self.put(&slots, row.values(), Changed::ALL)?;
                }
            }
            Action::Write(writes) => {
                for write in *writes {
                    if let RecordWrite::Remove { row, .. } = write {
                        self.remove(&slots, &row.values())?;
                    }
                }
                let moved = self.move_folders(&slots, writes)?;
                for write in *writes {
                    if let RecordWrite::Put { row, changed, .. } = write {
                        let values = row.values();
                        if moved.is_empty() || !slots.path(&values).is_ok_and(|path| moved.contains(&path)) {
                            self.put(&slots, values, slots.changed(changed))?;
                        }
                    }
                }
            }
            Action::Remove => {
                let paths: Vec<_> = self.tree.known().paths().cloned().collect();
                for path in paths {
                    let seen = self.look(&path)?;
                    self.removed.insert(path, Removed { seen, moved: false });
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, slots: &Slots, values: &[Value]) -> Result<()> {
        let path = slots.path(values).map_err(|problem| self.refused(&shown(values), problem))?;
        let seen = match self.look(&path)? {
            Some(seen) if self.is_left_out(&path, &seen)? => {
                tracing::warn!(entry = %path, "an entry is not removed: it is not part of the data here");
                None
            }
            seen => seen,
        };
        if let (Some(large), Some(seen)) = (slots.hash(values), &seen)
            && seen.kind == EntryKind::File
        {
            self.removed_files.entry(large.hash).or_default().push(path.clone());
        }
        self.removed.insert(path, Removed { seen, moved: false });
        Ok(())
    }

    fn put(&mut self, slots: &Slots, values: Vec<Value>, changed: Changed) -> Result<()> {
        let key = shown(&values);
        let wanted = slots.wanted(values).map_err(|problem| self.refused(&key, problem))?;
        let before = self.look(&wanted.path)?;
        let kind = wanted.what.kind();
        if self.ignored(&wanted.path, kind == EntryKind::Folder)? {
            let problem = "the patterns of the tree ignore this path; have the source or `where` leave it out";
            return Err(self.refused(&key, problem));
        }
        if before.is_some_and(|before| before.kind == EntryKind::Special) {
            return Err(self.refused(&key, "a device, socket or pipe has this place; move it away"));
        }
        if let Some(before) = &before
            && before.kind != kind
            && !changed.kind
        {
            // Somebody put something else there, and the source changed another field: the edit stands.
            tracing::warn!(entry = %wanted.path, "an entry is left as it is: it is of another type here");
            return Ok(());
        }
        let written = self.entry(wanted, before, changed)?;
        let (path, written) = written;
        self.written.insert(path, written);
        Ok(())
    }

    fn entry(&mut self, wanted: Wanted, before: Option<Seen>, changed: Changed) -> Result<(EntryPath, Written)> {
        let Wanted { path, what, mode, mtime } = wanted;
        let kind = what.kind();
        let same = before.filter(|before| before.kind == kind);
        // A folder makes way for something else, and something else for a folder; the rest is replaced in one step.
        let replaced = match before {
            Some(before) if before.kind == EntryKind::Folder && kind != EntryKind::Folder => {
                self.cleared.push(path.clone());
                self.staging.remove(&path, &before);
                None
            }
            Some(before) if before.kind != EntryKind::Folder && kind == EntryKind::Folder => {
                self.staging.remove(&path, &before);
                None
            }
            before => before,
        };
        // What is not to be written stays as it is there.
        let mode = mode.filter(|_| changed.mode || same.is_none());
        let has_time = mtime.is_some();
        let mtime = mtime.filter(|_| changed.mtime || same.is_none());
        let attributes = Attributes { mode, mtime };
        match what {
            What::Folder => {
                if same.is_none() {
                    self.staging.make_folder(&path);
                }
                self.staging.set(&path, same.as_ref(), attributes);
                Ok((path, Written { kind, hash: None, made: None }))
            }
            What::Link(target) => {
                if same.is_none() || changed.target {
                    self.staging.put_link(&path, &target, replaced.as_ref())?;
                }
                Ok((path, Written { kind, hash: None, made: None }))
            }
            What::File(content) => match same {
                Some(same) if !changed.content || matches!(content, FileContent::Unknown) => {
                    let hash = self.tree.known().hash(&path, &same);
                    self.staging.set(&path, Some(&same), attributes);
                    Ok((path, Written { kind, hash, made: None }))
                }
                _ => {
                    let attributes = Attributes {
                        mode: mode.or(same.map(|same| same.mode)),
                        // A source without times has the time of writing; one with them has not changed it.
                        mtime: mtime.or(same.filter(|_| has_time).map(|same| same.mtime)),
                    };
                    let (hash, made) = self.file(&path, content, replaced.as_ref(), attributes)?;
                    Ok((path, Written { kind, hash: Some(hash), made }))
                }
            },
        }
    }

    /// What is to go from `path` and has not moved.
    pub(super) fn removed_as(&self, path: &EntryPath) -> Option<Seen> {
        self.removed.get(path).and_then(|removed| removed.seen)
    }

    /// What is at `path` goes by moving.
    pub(super) fn mark_moved(&mut self, path: &EntryPath) {
        if let Some(removed) = self.removed.get_mut(path) {
            removed.moved = true;
        }
    }

    /// The folders that are to go and are in none that is to go.
    pub(super) fn removed_tops(&self) -> Vec<EntryPath> {
        let folder = |path: &EntryPath| {
            let seen = self.removed.get(path).and_then(|removed| removed.seen);
            seen.is_some_and(|seen| seen.kind == EntryKind::Folder)
        };
        let top = |path: &&EntryPath| folder(path) && !path.parent().is_some_and(|parent| folder(&parent));
        self.removed.keys().filter(top).cloned().collect()
    }

    /// Whether anything may be ignored.
    pub(super) fn has_patterns(&self) -> bool {
        self.rules.is_some()
    }

    /// What stands at `path`; [`Error::Changed`] if that is not what the expected state had there.
    pub(super) fn look(&mut self, path: &EntryPath) -> Result<Option<Seen>> {
        let seen = self.staging.beneath().seen(path);
        let seen = seen.map_err(|error| self.tree.folder().error("examine", Some(path), error))?;
        let expected = self.tree.known().seen(path).copied();
        let as_expected = match (&expected, &seen) {
            (None, None) => true,
            (Some(expected), Some(seen)) if seen.kind == EntryKind::Folder => {
                (expected.kind, expected.mode) == (seen.kind, seen.mode)
            }
            (Some(expected), Some(seen)) => expected == seen,
            (None, Some(seen)) => self.is_left_out(path, seen)?,
            (Some(_), None) => false,
        };
        match as_expected {
            true => Ok(seen),
            false => Err(Error::Changed { place: format!("{}/{path}", self.tree.folder().place()) }),
        }
    }

    /// Whether something that stands there is not part of the data.
    fn is_left_out(&mut self, path: &EntryPath, seen: &Seen) -> Result<bool> {
        Ok(seen.kind == EntryKind::Special || self.ignored(path, seen.kind == EntryKind::Folder)?)
    }

    fn ignored(&mut self, path: &EntryPath, is_folder: bool) -> Result<bool> {
        if self.rules.is_none() {
            return Ok(false);
        }
        if let Some(parent) = path.parent()
            && self.ignored(&parent, true)?
        {
            return Ok(true);
        }
        Ok(self.rules_in(path.parent())?.ignore(path.as_bytes(), is_folder))
    }

    fn rules_in(&mut self, folder: Option<EntryPath>) -> Result<Rules> {
        if let Some(rules) = self.rules.as_ref().and_then(|rules| rules.get(&folder)) {
            return Ok(rules.clone());
        }
        let outer = match &folder {
            Some(folder) => self.rules_in(folder.parent())?,
            None => self.tree.rules.clone(),
        };
        let inside = outer.inside(folder.as_ref(), self.staging.beneath(), self.tree.folder())?;
        let rules = inside.unwrap_or(outer);
        self.rules.get_or_insert_default().insert(folder, rules.clone());
        Ok(rules)
    }

    pub(super) fn refused(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Write { place: self.tree.folder().place(), key: key.to_owned(), problem: problem.into() }
    }

    fn finish(mut self) -> Result<Box<dyn Staged + 'a>> {
        self.make_parents()?;
        self.check_cleared()?;
        self.check_clashes()?;
        for (path, removed) in &self.removed {
            if let Some(seen) = removed.seen.filter(|_| !removed.moved) {
                self.staging.remove(path, &seen);
            }
        }
        let sealed = self.staging.seal()?;
        Ok(Box::new(StagedTree { tree: self.tree, sealed, written: self.written, relocated: self.relocated }))
    }

    /// Makes the folders that records are in without having a record; fails where one can't be.
    fn make_parents(&mut self) -> Result<()> {
        let mut checked: HashSet<EntryPath> = HashSet::new();
        let paths: Vec<_> = self.written.keys().cloned().collect();
        for path in &paths {
            let mut above = path.parent();
            while let Some(parent) = above.take().filter(|parent| !checked.contains(parent)) {
                let failed = |error| self.tree.folder().error("examine", Some(&parent), error);
                let goes = self.removed.contains_key(&parent);
                match (self.written.get(&parent).map(|written| written.kind), self.staging.beneath().seen(&parent)) {
                    (Some(EntryKind::Folder), _) => {}
                    (Some(_), _) => return Err(self.refused(&path.to_string(), format!("`{parent}` is no folder"))),
                    (None, seen) => match seen.map_err(failed)? {
                        Some(seen) if seen.kind == EntryKind::Folder && !goes => {}
                        Some(seen) if seen.kind != EntryKind::Folder && !goes => {
                            let what = if seen.kind == EntryKind::Link { "a link" } else { "no folder" };
                            let problem = format!("`{parent}` is {what} here; nothing is written through it");
                            return Err(self.refused(&path.to_string(), problem));
                        }
                        _ => {
                            self.staging.make_folder(&parent);
                            above = parent.parent();
                        }
                    },
                }
                checked.insert(parent);
            }
        }
        Ok(())
    }

    /// A folder gives its place away only if nothing is lost by that.
    fn check_cleared(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.cleared) {
            let names = walk::names(self.staging.beneath(), Some(&path));
            for name in names.map_err(|error| self.tree.folder().error("read", Some(&path), error))? {
                let inside = EntryPath::new(&[path.as_bytes(), b"/", &name].concat());
                if inside.as_ref().is_ok_and(|inside| self.removed.contains_key(inside)) {
                    continue;
                }
                let name = String::from_utf8_lossy(&name);
                let problem = format!("the folder there holds `{name}`, which is not part of the data; move it away");
                return Err(self.refused(&path.to_string(), problem));
            }
        }
        Ok(())
    }

    fn check_clashes(&mut self) -> Result<()> {
        let blindness = match self.tree.blindness.get() {
            Some(blindness) => *blindness,
            None => {
                let blindness = Blindness {
                    case: self.staging.takes_for_one("probe a", "PROBE A")?,
                    normalization: self.staging.takes_for_one("probe \u{e9}", "probe e\u{301}")?,
                };
                *self.tree.blindness.get_or_init(|| blindness)
            }
        };
        if blindness == Blindness::default() {
            return Ok(());
        }
        let known = self.tree.known();
        let stay = known.paths().filter(|path| !self.removed.contains_key(path));
        let texts: Vec<_> = stay.chain(self.written.keys()).map(|path| name::to_text(path.as_bytes())).collect();
        match clash(texts.iter().map(AsRef::as_ref), blindness) {
            None => Ok(()),
            Some((a, b)) => Err(Error::Unsupported {
                place: self.tree.folder().place(),
                problem: format!("`{a}` and `{b}` are one name to this file system; rename one at the source"),
            }),
        }
    }
}

/// A row's path for messages, as far as it has one.
fn shown(values: &[Value]) -> String {
    match values.iter().find_map(|value| if let Value::Text(text) = value { Some(text) } else { None }) {
        Some(text) => text.escape_debug().to_string(),
        None => "(none)".into(),
    }
}

/// A change that is ready beside the tree.
struct StagedTree<'a> {
    tree: &'a Tree,
    sealed: Sealed,
    written: HashMap<EntryPath, Written>,
    relocated: Vec<Relocated>,
}

impl Staged for StagedTree<'_> {
    fn content(&self) -> Option<Content> {
        None
    }

    fn commit(mut self: Box<Self>) -> Result<Stamp> {
        self.sealed.check()?;
        let outcome = self.sealed.commit()?;
        let now = now();
        let mut known = self.tree.known();
        for (path, seen) in outcome.done {
            let written = self.written.get(&path);
            let made = written.and_then(|written| written.made);
            if let (Some(made), Some(seen)) = (&made, &seen)
                && !made.has_same_content(seen)
            {
                // Somebody has written it already.
                known.forget(&path);
                continue;
            }
            known.put(&path, seen, written.and_then(|written| written.hash), now);
        }
        // A folder that could not be moved is among what is left, and the sum without these is no tree's.
        let all_moved = outcome.left.is_empty();
        for Relocated { from, to, seen } in &self.relocated {
            known.forget(from);
            if all_moved {
                known.put(to, Some(*seen), self.written.get(to).and_then(|written| written.hash), now);
            }
        }
        for left in &outcome.left {
            tracing::warn!(place = %self.tree.folder().place(), entry = %left.path, error = %left.problem, "an entry is left as it is");
            // So that the next look at the tree finds it different.
            known.forget(&left.path);
        }
        Ok(known.stamp())
    }
}

#[cfg(test)]
mod tests {
    use deltabus_record::key::Key;
    use deltabus_record::schema::Collection;

    use super::*;
    use crate::{Interface, Location, NoContents};

    #[test]
    fn names_that_are_one_here_are_an_error_that_names_both() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("README"), "1").unwrap();
        let tree = Tree::open(&Location::parse(&format!("tree:{}", folder.path().display())).unwrap()).unwrap();
        tree.blindness.set(Blindness { case: true, normalization: true }).unwrap();
        let collection = Collection { name: tree.collection.name.clone(), schema: tree.collection.schema.clone() };
        let values = |path: &str| {
            let instant = deltabus_record::value::Instant { seconds: 1, nanos: 0, offset_seconds: 0 };
            let content = Value::Bytes(b"new".to_vec());
            let (path, mode) = (Value::text(path), Value::Integer(0o644));
            [path, Value::text("file"), content, Value::Null, mode, Value::Instant(instant)]
        };
        let put = |path: &str| RecordWrite::Put {
            key: Key::of(&[Value::text(path)]),
            row: Row::of(&values(path)),
            changed: (0..6).collect(),
        };
        let remove =
            |path: &str| RecordWrite::Remove { key: Key::of(&[Value::text(path)]), row: Row::of(&values(path)) };
        let write = |writes: &[RecordWrite]| {
            let expected = tree.stamp().unwrap();
            let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(writes) }];
            tree.stage(&mut writes, &expected, None, &NoContents)?.commit()
        };
        for clashing in [&[put("readme")][..], &[put("a\u{e9}"), put("ae\u{301}")], &[put("B/x"), put("b/y")]] {
            let error = write(clashing).unwrap_err().to_string();
            assert!(error.contains("one name"), "{error}");
            assert_eq!(std::fs::read(folder.path().join("README")).unwrap(), b"1");
            assert_eq!(tree.known().paths().count(), 1);
        }
        write(&[remove("README"), put("readme")]).unwrap();
        assert_eq!(std::fs::read(folder.path().join("readme")).unwrap(), b"new");
    }
}
