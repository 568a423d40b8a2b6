//! Edits on their way back: found at the destination, not yet answered by the source.

use std::collections::BTreeSet;

use deltabus_record::apply;
use deltabus_record::change::{Change, ReverseSet};
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::CollectionName;

/// The reverse sets that wait for their answer, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    sets: Vec<ReverseSet>,
}

impl Pending {
    /// With these sets, oldest first.
    pub(crate) fn new(sets: Vec<ReverseSet>) -> Pending {
        Pending { sets }
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

    /// What is left when all sets up to `number` have been answered, and the numbers of those.
    pub(crate) fn answered(&self, number: u64) -> (Pending, Vec<u64>) {
        let (done, left) = self.sets.iter().cloned().partition::<Vec<_>, _>(|set| set.id.number <= number);
        (Pending { sets: left }, done.iter().map(|set| set.id.number).collect())
    }

    /// Every record with an edit.
    pub(crate) fn records(&self) -> BTreeSet<(CollectionName, Key)> {
        let edits = self.sets.iter().flat_map(|set| &set.edits.collections);
        edits
            .flat_map(|edits| edits.changes.iter().map(|edit| (edits.collection.clone(), edit.key().clone())))
            .collect()
    }

    /// The number of the last set with an edit of a record.
    pub(crate) fn last_of(&self, collection: &CollectionName, key: &Key) -> Option<u64> {
        let edits = |set: &&ReverseSet| {
            let mut edits = set.edits.collections.iter().filter(|edits| edits.collection == *collection);
            edits.any(|edits| edits.changes.iter().any(|edit| edit.key() == key))
        };
        self.sets.iter().rfind(edits).map(|set| set.id.number)
    }

    /// A record of the base with the edits on top: what the destination holds.
    pub(crate) fn on_top(&self, collection: &CollectionName, key: &Key, base: Option<Row>) -> Option<Row> {
        let mut row = base;
        let edits =
            self.sets.iter().flat_map(|set| &set.edits.collections).filter(|edits| edits.collection == *collection);
        for edit in edits.flat_map(|edits| &edits.changes).filter(|edit| edit.key() == key) {
            // A record that the source has deleted is for the source to bring back.
            if row.is_some() || matches!(edit, Change::Insert { .. }) {
                row = apply::force(edit, row.as_ref(), None);
            }
        }
        row
    }
}
