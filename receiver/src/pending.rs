//! Edits on their way back: found at the destination, not yet answered by the source.

use std::collections::BTreeSet;

use deltabus_record::apply;
use deltabus_record::change::{Change, ReverseSet};
use deltabus_record::diff::count_equal;
use deltabus_record::key::{Key, split_occurrence};
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, KeySpec};

/// The reverse sets that wait for their answer, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    sets: Vec<ReverseSet>,
    /// The bus has all up to this number.
    sent: u64,
}

impl Pending {
    /// With these sets, oldest first, of which the bus has those up to the number `sent`.
    pub(crate) fn new(sets: Vec<ReverseSet>, sent: u64) -> Pending {
        Pending { sets, sent }
    }

    /// The number of the last set that is known to have arrived.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// All sets up to `number` have arrived.
    pub(crate) fn set_sent(&mut self, number: u64) {
        self.sent = number;
    }

    /// The sets that are not known to have arrived, oldest first.
    pub(crate) fn unsent(&self) -> impl Iterator<Item = &ReverseSet> {
        self.sets.iter().filter(|set| set.id.number > self.sent)
    }

    /// The same with the unsent sets numbered on from `last`.
    pub(crate) fn renumbered(&self, last: u64) -> Pending {
        let mut renumbered = self.clone();
        let unsent = renumbered.sets.iter_mut().filter(|set| set.id.number > self.sent);
        for (set, number) in unsent.zip(last + 1..) {
            set.id.number = number;
        }
        renumbered
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// The sets, oldest first.
    pub(crate) fn sets(&self) -> &[ReverseSet] {
        &self.sets
    }

    /// Adds a set, newer than all others.
    pub(crate) fn push(&mut self, set: ReverseSet) {
        self.sets.push(set);
    }

    /// What is left when all sets sent up to `number` have been answered, and the numbers of those.
    pub(crate) fn answered(&self, number: u64) -> (Pending, Vec<u64>) {
        let is_done = |set: &ReverseSet| set.id.number <= number.min(self.sent);
        let (done, left) = self.sets.iter().cloned().partition::<Vec<_>, _>(is_done);
        (Pending { sets: left, sent: self.sent }, done.iter().map(|set| set.id.number).collect())
    }

    /// Only what has been answered when all sets sent up to `number` have been.
    pub(crate) fn done(&self, number: u64) -> Pending {
        let is_done = |set: &&ReverseSet| set.id.number <= number.min(self.sent);
        Pending { sets: self.sets.iter().filter(is_done).cloned().collect(), sent: self.sent }
    }

    /// Every record with an edit.
    pub(crate) fn records(&self) -> BTreeSet<(CollectionName, Key)> {
        let edits = self.sets.iter().flat_map(|set| &set.edits.collections);
        edits
            .flat_map(|edits| edits.changes.iter().map(|edit| (edits.collection.clone(), edit.key().clone())))
            .collect()
    }

    /// The number of the last set with an edit of a record.
    pub(crate) fn last_of(&self, collection: &Collection, key: &Key) -> Option<u64> {
        let edits = |set: &&ReverseSet| {
            let mut edits = set.edits.collections.iter().filter(|edits| edits.collection == collection.name);
            edits.any(|edits| edits.changes.iter().any(|edit| same_record(collection, edit.key(), key)))
        };
        self.sets.iter().rfind(edits).map(|set| set.id.number)
    }

    /// A record with the edits on top: what the destination holds. `base` gives records of the base by key.
    pub(crate) fn on_top<E>(
        &self,
        collection: &Collection,
        key: &Key,
        base: impl Fn(&Key) -> Result<Option<Row>, E>,
    ) -> Result<Option<Row>, E> {
        let mut edits = self.edits(&collection.name).filter(|edit| same_record(collection, edit.key(), key)).peekable();
        let row = base(key)?;
        if edits.peek().is_none() {
            return Ok(row);
        }
        if collection.schema.key == KeySpec::WholeRow {
            let (content, occurrence) = split_occurrence(key.as_bytes());
            let there = occurrence < self.count_on_top(collection, content, &base)?;
            let inserted = |edit: &Change| match edit {
                Change::Insert { row, .. } => Some(row.clone()),
                _ => None,
            };
            return Ok(if there { row.or_else(|| edits.find_map(inserted)) } else { None });
        }
        Ok(edits.fold(row, |row, edit| {
            // A record that the source has deleted is for the source to bring back.
            if row.is_some() || matches!(edit, Change::Insert { .. }) {
                apply::force(edit, row.as_ref(), None)
            } else {
                row
            }
        }))
    }

    /// How many rows of this content there are with the edits on top. An edit says how many there were: one more is not
    /// added where the base has as many already, nor taken where it has as few.
    pub(crate) fn count_on_top<E>(
        &self,
        collection: &Collection,
        content: &[u8],
        base: impl Fn(&Key) -> Result<Option<Row>, E>,
    ) -> Result<u32, E> {
        let mut count = count_equal(content, |key| Ok(base(key)?.is_some()))?;
        for edit in self.edits(&collection.name) {
            let (edited, occurrence) = split_occurrence(edit.key().as_bytes());
            if edited != content {
                continue;
            }
            match edit {
                Change::Insert { .. } if occurrence >= count => count += 1,
                Change::Delete { .. } if occurrence < count => count -= 1,
                _ => {}
            }
        }
        Ok(count)
    }

    fn edits<'a>(&'a self, collection: &'a CollectionName) -> impl Iterator<Item = &'a Change> {
        let edits = self.sets.iter().flat_map(|set| &set.edits.collections);
        edits.filter(move |edits| edits.collection == *collection).flat_map(|edits| &edits.changes)
    }
}

/// Whether an edit of `edited` bears on the record of `key`: equal rows without a key are one matter.
fn same_record(collection: &Collection, edited: &Key, key: &Key) -> bool {
    collection.schema.key_content(edited) == collection.schema.key_content(key)
}
