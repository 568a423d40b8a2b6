//! Folders that move with all they hold: one rename instead of one for each entry.

use std::collections::{BTreeMap, HashMap, HashSet};

use deltabus_record::value::{Large, Value};

use super::types::Slots;
use super::walk;
use super::write::{Writer, Written};
use crate::RecordWrite;
use crate::Result;
use crate::folder::{Attributes, EntryKind, EntryPath, Seen};

/// So many places are tried for one folder; with more equal files there is nothing to be gained by looking on.
const CANDIDATES_MAX: usize = 8;

/// An entry that moved inside its folder.
pub(super) struct Relocated {
    pub(super) from: EntryPath,
    pub(super) to: EntryPath,
    pub(super) seen: Seen,
}

/// One record of a set: where, and all its other values.
struct Side {
    values: Vec<Value>,
    large: Option<Large>,
}

impl Writer<'_, '_> {
    /// Moves the folders that are removed in one place and put in another with just what they hold; gives the paths that need
    /// no more writing.
    pub(super) fn move_folders(&mut self, slots: &Slots, writes: &[RecordWrite]) -> Result<HashSet<EntryPath>> {
        let mut done = HashSet::new();
        let tops: Vec<EntryPath> = self.removed_tops();
        if tops.is_empty() || self.has_patterns() {
            return Ok(done);
        }
        let (mut removals, mut puts) = (BTreeMap::new(), BTreeMap::new());
        for write in writes {
            let (row, side) = match write {
                RecordWrite::Remove { row, .. } => (row, &mut removals),
                RecordWrite::Put { row, .. } => (row, &mut puts),
            };
            let mut values = row.values();
            // What is wrong with it is told where it is written.
            let Ok(path) = slots.path(&values) else { continue };
            let large = slots.hash(&values);
            slots.forget_path(&mut values);
            side.insert(path, Side { values, large });
        }
        let mut places: HashMap<[u8; 32], Vec<&EntryPath>> = HashMap::new();
        for (path, put) in &puts {
            if let Some(large) = &put.large {
                places.entry(large.hash).or_default().push(path);
            }
        }
        for from in tops {
            let inside: Vec<&EntryPath> = below(&removals, &from).collect();
            let sample = inside.iter().find_map(|path| Some((*path, removals[*path].large.as_ref()?)));
            let Some((sample, large)) = sample else { continue };
            let rest = &sample.as_bytes()[from.as_bytes().len()..];
            let candidates = places.get(&large.hash).into_iter().flatten().take(CANDIDATES_MAX);
            let candidates = candidates.filter_map(|place| place.as_bytes().strip_suffix(rest));
            let candidates: Vec<_> = candidates.filter_map(|to| EntryPath::new(to).ok()).collect();
            for to in candidates {
                if !done.contains(&to) && self.is_move(slots, &from, &to, &inside, &removals, &puts)? {
                    self.relocate(&from, &to, &inside, &removals, &mut done)?;
                    break;
                }
            }
        }
        Ok(done)
    }

    /// Whether all that `from` holds here, and nothing else, is what `to` is to hold.
    fn is_move(
        &mut self,
        slots: &Slots,
        from: &EntryPath,
        to: &EntryPath,
        inside: &[&EntryPath],
        removals: &BTreeMap<EntryPath, Side>,
        puts: &BTreeMap<EntryPath, Side>,
    ) -> Result<bool> {
        if to == from || below(puts, to).count() != inside.len() || self.look(to)?.is_some() {
            return Ok(false);
        }
        let all = inside.iter().copied().chain([from]);
        for path in all {
            let (Some(removal), Some(put)) = (removals.get(path), puts.get(&moved(path, from, to))) else {
                return Ok(false);
            };
            if removal.values != put.values {
                return Ok(false);
            }
            let Some(seen) = self.removed_as(path) else { return Ok(false) };
            let as_known = match (seen.kind, &removal.large) {
                (EntryKind::File, Some(large)) => self.has_content(path, &seen, large),
                (EntryKind::Folder, None) => {
                    // A folder that may not be written can't be moved either, unless by root.
                    let closed = path == from && seen.mode & 0o200 == 0;
                    let names = walk::names(self.staging.beneath(), Some(path));
                    let known = |name: &Vec<u8>| {
                        let inside = EntryPath::new(&[path.as_bytes(), b"/", name].concat());
                        inside.is_ok_and(|inside| removals.contains_key(&inside))
                    };
                    !closed && names.is_ok_and(|names| names.iter().all(known))
                }
                (EntryKind::Link, None) => true,
                _ => false,
            };
            if !as_known || !slots.describe(&seen, &removal.values) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn relocate(
        &mut self,
        from: &EntryPath,
        to: &EntryPath,
        inside: &[&EntryPath],
        removals: &BTreeMap<EntryPath, Side>,
        done: &mut HashSet<EntryPath>,
    ) -> Result<()> {
        for path in inside.iter().copied().chain([from]) {
            let Some(seen) = self.removed_as(path) else { continue };
            let to = moved(path, from, to);
            self.mark_moved(path);
            let hash = removals[path].large.as_ref().map(|large| large.hash);
            self.written.insert(to.clone(), Written { kind: seen.kind, hash, made: None });
            done.insert(to.clone());
            if path != from {
                self.relocated.push(Relocated { from: path.clone(), to, seen });
            }
        }
        if let Some(seen) = self.removed_as(from) {
            let taken = self.staging.take(from, &seen)?;
            self.staging.put_taken(to, taken, None, Attributes::default());
        }
        tracing::debug!(entry = %from, to = %to, entries = inside.len(), "a folder moves as a whole");
        Ok(())
    }
}

/// The entries below a folder.
fn below<'a, V>(entries: &'a BTreeMap<EntryPath, V>, folder: &EntryPath) -> impl Iterator<Item = &'a EntryPath> {
    let start = [folder.as_bytes(), b"/"].concat();
    // The names are legal already; one of them follows right after the folder's own and its slash.
    let first = EntryPath::new(&[&start[..], &[1]].concat()).unwrap_or_else(|_| folder.clone());
    let after_start = entries.range(first..).map(|(path, _)| path);
    after_start.take_while(move |path| path.as_bytes().starts_with(&start))
}

/// Where `path`, which is `from` or in it, is when that has become `to`.
fn moved(path: &EntryPath, from: &EntryPath, to: &EntryPath) -> EntryPath {
    let rest = &path.as_bytes()[from.as_bytes().len()..];
    // Too long a path is none that a record has.
    EntryPath::new(&[to.as_bytes(), rest].concat()).unwrap_or_else(|_| to.clone())
}
