//! Where the destination holds something else than the base: edits on their way back, and records whose change it refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use deltabus_record::apply;
use deltabus_record::change::{Change, ReverseSet};
use deltabus_record::diff::count_equal;
use deltabus_record::key::{Key, split_occurrence};
use deltabus_record::large::references;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, KeySpec};
use deltabus_record::value::{Large, Value};

/// Records by collection and key.
pub(crate) type Records = BTreeSet<(CollectionName, Key)>;

/// Records that are set aside, each as the destination holds it, in the source's terms; `None`: it holds none.
pub(crate) type Held = BTreeMap<(CollectionName, Key), Option<Row>>;

/// The reverse sets that wait for their answer, oldest first, and the records that are set aside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    sets: Vec<ReverseSet>,
    held: Arc<Held>,
    /// The bus has all up to this number.
    sent: u64,
    placed: Placed,
}

/// The edits of one collection, its fields where they are in it, by the record that they bear on: equal rows without a key
/// are one matter.
#[derive(Debug)]
struct Edits {
    collection: Collection,
    /// With the number of their set, oldest first.
    by_record: HashMap<Box<[u8]>, Vec<(u64, Change)>>,
}

impl Edits {
    fn of(collection: &Collection, sets: &[ReverseSet]) -> Edits {
        let mut by_record: HashMap<_, Vec<_>> = HashMap::new();
        for set in sets {
            let moved = set.moved(collection);
            let edits = set.edits.collections.iter().filter(|edits| edits.collection == collection.name);
            for edit in edits.flat_map(|edits| &edits.changes) {
                let edit = match &moved {
                    Some(moved) => edit.placed(moved, &collection.schema),
                    None => edit.clone(),
                };
                let content = collection.schema.key_content(edit.key()).into();
                by_record.entry(content).or_default().push((set.id.number, edit));
            }
        }
        Edits { collection: collection.clone(), by_record }
    }

    /// Those that bear on a record, by what its key has in it.
    fn bearing_on(&self, content: &[u8]) -> &[(u64, Change)] {
        self.by_record.get(content).map_or(&[], Vec::as_slice)
    }
}

/// What was made of the sets for each collection that was asked for, until other sets wait.
#[derive(Debug, Default)]
struct Placed(Mutex<Vec<Arc<Edits>>>);

impl Clone for Placed {
    fn clone(&self) -> Placed {
        Placed(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

impl Pending {
    /// With these sets, oldest first, of which the bus has those up to the number `sent`, and these records set aside.
    pub(crate) fn new(sets: Vec<ReverseSet>, sent: u64, held: Held) -> Pending {
        Pending { sets, sent, held: Arc::new(held), placed: Placed::default() }
    }

    /// The records that are set aside.
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// The same edits with others set aside.
    pub(crate) fn holding(&self, held: Held) -> Pending {
        Pending { held: Arc::new(held), ..self.clone() }
    }

    /// The same with these records no longer set aside.
    pub(crate) fn lifting(&self, records: &Records) -> Pending {
        let mut lifted = self.clone();
        if self.held.keys().any(|key| records.contains(key)) {
            Arc::make_mut(&mut lifted.held).retain(|key, _| !records.contains(key));
        }
        lifted
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
        let mut renumbered = Pending { placed: Placed::default(), ..self.clone() };
        let unsent = renumbered.sets.iter_mut().filter(|set| set.id.number > self.sent);
        for (set, number) in unsent.zip(last + 1..) {
            set.id.number = number;
        }
        renumbered
    }

    /// Whether nothing waits, and nothing is set aside.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.held.is_empty()
    }

    /// The sets, oldest first.
    pub(crate) fn sets(&self) -> &[ReverseSet] {
        &self.sets
    }

    /// Adds a set, newer than all others.
    pub(crate) fn push(&mut self, set: ReverseSet) {
        self.sets.push(set);
        self.placed = Placed::default();
    }

    /// What is left when the sets sent up to the number `last` have been answered or passed over; `is_answered` tells which.
    /// One that was passed over, for the bus had lost it, goes again, numbered on from `next`.
    pub(crate) fn answered(&self, last: u64, is_answered: impl Fn(u64) -> bool, next: u64) -> Answered {
        let last = last.min(self.sent);
        let (gone, mut left) = self.sets.iter().cloned().partition::<Vec<_>, _>(|set| set.id.number <= last);
        let done: Vec<u64> = gone.iter().map(|set| set.id.number).collect();
        let mut again = Vec::new();
        for set in gone.iter().filter(|set| !is_answered(set.id.number)) {
            let later = || self.sets.iter().filter(|other| other.id.number > set.id.number);
            let mut set = without_overwritten(set, later());
            if !set.edits.is_empty() {
                set.id.number = next + again.len() as u64;
                again.push(set);
            }
        }
        // Behind those that were never sent, whose numbers are below.
        left.extend(again.iter().cloned());
        let (sent, held) = (self.sent, Arc::clone(&self.held));
        let pending = Pending { sets: left, sent, held, placed: Placed::default() };
        Answered { pending, done, again }
    }

    /// Only those sent of which `is_answered`.
    pub(crate) fn done(&self, is_answered: impl Fn(u64) -> bool) -> Pending {
        let is_done = |set: &&ReverseSet| set.id.number <= self.sent && is_answered(set.id.number);
        let sets = self.sets.iter().filter(is_done).cloned().collect();
        Pending { sets, sent: self.sent, ..Pending::default() }
    }

    /// Every record of these collections with an edit.
    pub(crate) fn records<'a>(&self, collections: impl IntoIterator<Item = &'a Collection>) -> Records {
        let mut records = Records::new();
        for collection in collections {
            let edits = self.edits(collection);
            let keys = edits.by_record.values().flatten().map(|(_, edit)| edit.key());
            records.extend(keys.map(|key| (collection.name.clone(), key.clone())));
        }
        records
    }

    /// Every record that the destination may hold otherwise than the base: with an edit, or set aside.
    pub(crate) fn places<'a>(&self, collections: impl IntoIterator<Item = &'a Collection>) -> Records {
        let mut places = self.records(collections);
        places.extend(self.held.keys().cloned());
        places
    }

    /// The large values that a set brings.
    pub(crate) fn brought(set: &ReverseSet) -> Vec<Large> {
        let mut brought = Vec::new();
        for edit in set.edits.collections.iter().flat_map(|edits| &edits.changes) {
            match edit {
                Change::Insert { row, .. } => brought.extend(references(row.as_bytes())),
                Change::Update { fields, .. } => brought.extend(fields.iter().filter_map(|field| match &field.after {
                    Value::Large(large) => Some((**large).clone()),
                    _ => None,
                })),
                Change::Delete { .. } => {}
            }
        }
        brought
    }

    /// The number of the last set with an edit of a record.
    pub(crate) fn last_of(&self, collection: &Collection, key: &Key) -> Option<u64> {
        let edits = self.edits(collection);
        edits.bearing_on(collection.schema.key_content(key)).last().map(|(number, _)| *number)
    }

    /// A record with the edits on top: what the destination holds. `base` gives records of the base by key.
    pub(crate) fn on_top<E>(
        &self,
        collection: &Collection,
        key: &Key,
        base: impl Fn(&Key) -> Result<Option<Row>, E>,
    ) -> Result<Option<Row>, E> {
        let base = |key: &Key| self.unedited(&collection.name, key, &base);
        let row = base(key)?;
        if self.sets.is_empty() {
            return Ok(row);
        }
        let edits = self.edits(collection);
        let mut edits = edits.bearing_on(collection.schema.key_content(key)).iter().map(|(_, edit)| edit).peekable();
        if edits.peek().is_none() {
            return Ok(row);
        }
        if collection.schema.key == KeySpec::WholeRow {
            let (content, occurrence) = split_occurrence(key.as_bytes());
            let there = occurrence < self.count(collection, content, &base)?;
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
        self.count(collection, content, &|key: &Key| self.unedited(&collection.name, key, &base))
    }

    fn count<E>(
        &self,
        collection: &Collection,
        content: &[u8],
        base: &impl Fn(&Key) -> Result<Option<Row>, E>,
    ) -> Result<u32, E> {
        let mut count = count_equal(content, |key| Ok(base(key)?.is_some()))?;
        for (_, edit) in self.edits(collection).bearing_on(content) {
            let (_, occurrence) = split_occurrence(edit.key().as_bytes());
            match edit {
                Change::Insert { .. } if occurrence >= count => count += 1,
                Change::Delete { .. } if occurrence < count => count -= 1,
                _ => {}
            }
        }
        Ok(count)
    }

    /// A record without edits: as the base has it, or as it is held where it is set aside.
    fn unedited<E>(
        &self,
        collection: &CollectionName,
        key: &Key,
        base: impl Fn(&Key) -> Result<Option<Row>, E>,
    ) -> Result<Option<Row>, E> {
        if self.held.is_empty() {
            return base(key);
        }
        match self.held.get(&(collection.clone(), key.clone())) {
            Some(held) => Ok(held.clone()),
            None => base(key),
        }
    }

    fn edits(&self, collection: &Collection) -> Arc<Edits> {
        let mut placed = self.placed.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(edits) = placed.iter().find(|edits| edits.collection == *collection) {
            return Arc::clone(edits);
        }
        let edits = Arc::new(Edits::of(collection, &self.sets));
        placed.push(Arc::clone(&edits));
        edits
    }
}

/// What becomes of reverse sets when some are answered.
pub(crate) struct Answered {
    /// What still waits.
    pub(crate) pending: Pending,
    /// The numbers of those that no longer do.
    pub(crate) done: Vec<u64>,
    /// Those among the waiting that have another number than before.
    pub(crate) again: Vec<ReverseSet>,
}

/// What tells a field from others, whichever slots they are in: its name, where the set says it.
fn field_name(names: Option<&Vec<String>>, slot: u32) -> (Option<String>, u32) {
    match names.and_then(|names| names.get(slot as usize)) {
        Some(name) => (Some(name.clone()), 0),
        None => (None, slot),
    }
}

/// A set without the field edits that a `later` one made anew.
fn without_overwritten<'a>(set: &ReverseSet, later: impl Iterator<Item = &'a ReverseSet>) -> ReverseSet {
    let mut overwritten = BTreeSet::new();
    for set in later {
        for edits in &set.edits.collections {
            let names = set.fields.get(&edits.collection);
            for edit in &edits.changes {
                if let Change::Update { key, fields } = edit {
                    let fields = fields.iter().map(|field| field_name(names, field.slot));
                    overwritten.extend(fields.map(|field| (edits.collection.clone(), key.clone(), field)));
                }
            }
        }
    }
    let mut set = set.clone();
    for edits in &mut set.edits.collections {
        let name = edits.collection.clone();
        let names = set.fields.get(&name);
        edits.changes.retain_mut(|edit| match edit {
            Change::Update { key, fields } => {
                let place = |slot: u32| (name.clone(), key.clone(), field_name(names, slot));
                fields.retain(|field| !overwritten.contains(&place(field.slot)));
                !fields.is_empty()
            }
            Change::Insert { .. } | Change::Delete { .. } => true,
        });
    }
    set.edits.collections.retain(|edits| !edits.changes.is_empty());
    set
}
