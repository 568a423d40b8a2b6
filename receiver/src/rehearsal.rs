//! A destination on which nothing is written, only taken note of: what receiving or restoring would change there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use deltabus_interfaces::contents::same_content;
use deltabus_interfaces::{
    Action, CollectionWrite, Content, Contents, Decoded, Error as InterfaceError, Extent, Interface, Mark, Notify,
    RecordWrite, Records, Refusal, Scan, Staged, Stamp, Watching,
};
use deltabus_record::diff::Difference;
use deltabus_record::key::Key;
use deltabus_record::row::{FieldRef, Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{KindSet, Value};
use deltabus_state::{Batch, Store, View};

use crate::Error;

/// The stamp of a destination that has been "written".
const REHEARSED: &[u8] = b"rehearsed";

/// Stands for a destination: reading is the destination's own, writes are kept in a store beside it.
pub(crate) struct Rehearsal {
    inner: Arc<dyn Interface>,
    /// The writes, by the names and keys that they have at the destination.
    store: Store,
    noted: Mutex<Noted>,
}

/// What was "written" so far.
#[derive(Clone, Default)]
struct Noted {
    happened: bool,
    collections: Vec<NotedCollection>,
}

/// One collection that was "written".
#[derive(Clone)]
struct NotedCollection {
    collection: Collection,
    dropped: BTreeSet<String>,
    /// The collection itself goes.
    gone: bool,
    /// It went meanwhile, so that nothing that stands there stays.
    emptied: bool,
}

/// One thing that would change at the destination.
#[derive(Debug)]
pub enum Planned<'a> {
    /// A collection is made.
    Made {
        /// As it will be there.
        collection: &'a Collection,
    },
    /// A collection gets or loses fields.
    Altered {
        /// Its name there.
        collection: &'a CollectionName,
        /// Fields that come.
        added: Vec<&'a str>,
        /// Fields that go.
        dropped: Vec<&'a str>,
    },
    /// A collection goes, with all its records.
    Gone {
        /// Its name there.
        collection: &'a CollectionName,
    },
    /// A record comes, changes or goes.
    Record {
        /// Its collection's name there.
        collection: &'a CollectionName,
        /// By which the rows are to be read.
        schema: &'a Schema,
        /// As it stands there, and as it would.
        difference: &'a Difference,
    },
}

/// In words, for people.
impl fmt::Display for Planned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Planned::Made { collection } => write!(f, "collection {} is made", collection.name),
            Planned::Altered { collection, added, dropped } => {
                let mut parts = Vec::new();
                for (what, names) in [("gets", added), ("loses", dropped)] {
                    if !names.is_empty() {
                        parts.push(format!("{what} {}", names.join(", ")));
                    }
                }
                write!(f, "collection {collection} {}", parts.join(" and "))
            }
            Planned::Gone { collection } => write!(f, "collection {collection} goes"),
            Planned::Record { collection, .. } => write!(f, "a record of {collection} changes"),
        }
    }
}

impl Rehearsal {
    /// Rehearses on `inner`; `store` is empty and nobody else's.
    pub(crate) fn new(inner: Arc<dyn Interface>, store: Store) -> Rehearsal {
        Rehearsal { inner, store, noted: Mutex::default() }
    }

    /// All that was "written" is as if it had never been.
    pub(crate) fn forget(&self) -> Result<(), Error> {
        let mut batch = self.store.batch();
        for collection in self.store.view().collections() {
            batch.remove_collection(&collection.name)?;
        }
        batch.commit()?;
        *self.noted() = Noted::default();
        Ok(())
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().expect("nobody panics with this lock")
    }

    /// Calls `take` with everything that would change, beside what stands at the destination now.
    pub(crate) fn each<E: From<Error>>(&self, take: &mut dyn FnMut(Planned<'_>) -> Result<(), E>) -> Result<(), E> {
        let noted = self.noted().clone();
        if noted.collections.is_empty() {
            return Ok(());
        }
        let view = self.store.view();
        let mut scan = match self.inner.scan(None) {
            Ok(scan) => Some(scan),
            Err(InterfaceError::Missing { .. }) => None,
            Err(error) => return Err(Error::from(error).into()),
        };
        let there = scan.as_ref().map(|scan| scan.collections().to_vec()).unwrap_or_default();
        let place = |noted: &NotedCollection| match self.inner.single_collection() {
            true => (!there.is_empty()).then_some(0),
            false => there.iter().position(|there| there.name == noted.collection.name),
        };
        let mut collections: Vec<(Option<usize>, &NotedCollection)> =
            noted.collections.iter().map(|noted| (place(noted), noted)).collect();
        // A scan goes through its collections in order.
        collections.sort_by_key(|(place, _)| *place);
        for (place, noted) in collections {
            let found = place.and_then(|at| there.get(at));
            if noted.gone && found.is_none() {
                continue;
            }
            if let Some(planned) = noted.planned(found) {
                take(planned)?;
            }
            let mut at_destination = match (&mut scan, place, found) {
                (Some(scan), Some(at), Some(found)) => Some(AtDestination { scan: &mut **scan, at, found }),
                _ => None,
            };
            let records = NotedRecords { view: &view, noted };
            let result = match noted.collection.schema.key {
                KeySpec::WholeRow if !noted.gone => records.rows(take),
                _ => records.keyed(at_destination.as_mut(), take),
            };
            result?;
        }
        match &mut scan {
            Some(scan) => scan.finish().map_err(|error| Error::from(error).into()),
            None => Ok(()),
        }
    }
}

impl NotedCollection {
    /// What becomes of the collection itself where `found` stands.
    fn planned<'a>(&'a self, found: Option<&Collection>) -> Option<Planned<'a>> {
        let name = &self.collection.name;
        let Some(found) = found else { return Some(Planned::Made { collection: &self.collection }) };
        if self.gone {
            return Some(Planned::Gone { collection: name });
        }
        let names = self.collection.schema.ordered().into_iter().map(|(_, field)| field.name.as_str());
        let added: Vec<&str> = names.filter(|name| found.schema.slot(name).is_none()).collect();
        let dropped = self.dropped.iter().map(String::as_str);
        let dropped: Vec<&str> = dropped.filter(|name| found.schema.slot(name).is_some()).collect();
        let altered = !added.is_empty() || !dropped.is_empty();
        altered.then_some(Planned::Altered { collection: name, added, dropped })
    }
}

/// A collection as it stands at the destination.
struct AtDestination<'a> {
    scan: &'a mut dyn Scan,
    at: usize,
    found: &'a Collection,
}

/// The records of one collection that were "written".
struct NotedRecords<'a> {
    view: &'a View,
    noted: &'a NotedCollection,
}

impl NotedRecords<'_> {
    /// Whole rows come and go by number, wherever they stand.
    fn rows<E: From<Error>>(&self, take: &mut dyn FnMut(Planned<'_>) -> Result<(), E>) -> Result<(), E> {
        let Collection { name, schema } = &self.noted.collection;
        if self.view.collection(name).is_none() {
            return Ok(());
        }
        for record in self.view.records(name).map_err(Error::from)? {
            let (key, entry) = record.map_err(Error::from)?;
            let Some(Entry::Rows { more, row }) = Entry::from_bytes(&entry) else { continue };
            for _ in 0..more.unsigned_abs() {
                let (before, after) = if more > 0 { (None, Some(row.clone())) } else { (Some(row.clone()), None) };
                let difference = Difference { key: Key::from_trusted(&*key), before, after };
                take(Planned::Record { collection: name, schema, difference: &difference })?;
            }
        }
        Ok(())
    }

    /// First what changes and goes, by key, then what comes.
    fn keyed<E: From<Error>>(
        &self,
        there: Option<&mut AtDestination<'_>>,
        take: &mut dyn FnMut(Planned<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Collection { name, schema } = &self.noted.collection;
        let mut met = HashSet::new();
        if let Some(there) = there {
            let mut differences = self.beside(there, &mut met)?;
            differences.sort_by(|a, b| a.key.cmp(&b.key));
            let schema = if self.noted.gone { &there.found.schema } else { schema };
            for difference in &differences {
                take(Planned::Record { collection: name, schema, difference })?;
            }
        }
        if self.noted.gone || self.view.collection(name).is_none() {
            return Ok(());
        }
        for record in self.view.records(name).map_err(Error::from)? {
            let (key, entry) = record.map_err(Error::from)?;
            if let Some(Entry::Put { row, .. }) = Entry::from_bytes(&entry)
                && !met.contains(&*key)
            {
                let difference = Difference { key: Key::from_trusted(&*key), before: None, after: Some(row) };
                take(Planned::Record { collection: name, schema, difference: &difference })?;
            }
        }
        Ok(())
    }

    /// What becomes of the records that stand there; `met` takes the keys of those that were "written".
    fn beside(&self, there: &mut AtDestination<'_>, met: &mut HashSet<Vec<u8>>) -> Result<Vec<Difference>, Error> {
        let Collection { name, schema } = &self.noted.collection;
        let slots = schema.slots_in(&there.found.schema);
        let mut differences = Vec::new();
        let (mut found, mut key, mut entry) = (RowBuilder::default(), Vec::new(), Vec::new());
        let mut occurrence = 0;
        there.scan.start(there.at, Extent::Whole)?;
        while there.scan.next()?.is_some() {
            found.clear();
            if there.scan.decode(&mut found)? == Decoded::Unread {
                continue;
            }
            if self.noted.gone {
                let key = there.found.schema.key_of(found.as_bytes(), occurrence);
                occurrence += u32::from(there.found.schema.key == KeySpec::WholeRow);
                differences.push(Difference { key, before: Some(found.row()), after: None });
                continue;
            }
            let before = found.row().in_slots(&slots);
            key.clear();
            schema.key_into(before.as_bytes(), 0, &mut key);
            entry.clear();
            self.view.get(name, &key, &mut entry)?;
            let after = match Entry::from_bytes(&entry) {
                Some(Entry::Put { row, .. }) if self.noted.emptied => Some(row),
                Some(Entry::Put { row, changed }) => Some(written(&before, &row, &changed)),
                Some(Entry::Remove) => None,
                None if self.noted.emptied => None,
                Some(Entry::Rows { .. }) | None => continue,
            };
            met.insert(key.clone());
            if after.as_ref() != Some(&before) {
                differences.push(Difference { key: Key::from_trusted(key.as_slice()), before: Some(before), after });
            }
        }
        Ok(differences)
    }
}

/// What stands there, with the changed slots of `row` written over it.
fn written(before: &Row, row: &Row, changed: &[u32]) -> Row {
    let old: Vec<FieldRef<'_>> = RowReader::new(before.as_bytes()).collect();
    let new: Vec<FieldRef<'_>> = RowReader::new(row.as_bytes()).collect();
    let mut after = RowBuilder::default();
    for slot in 0..old.len().max(new.len()) {
        let old = old.get(slot).copied().unwrap_or(FieldRef::ABSENT);
        let new = new.get(slot).copied().unwrap_or(FieldRef::ABSENT);
        let writes = changed.contains(&(slot as u32)) && !same_content(old, new);
        after.push_encoded(if writes { new } else { old });
    }
    after.row()
}

/// What was "written" of one record.
enum Entry {
    /// The record is there afterwards; where it is there already only these slots are written.
    Put { row: Row, changed: Vec<u32> },
    /// It isn't there afterwards.
    Remove,
    /// So many more such rows, or fewer.
    Rows { more: i64, row: Row },
}

impl Entry {
    fn of(write: &RecordWrite, counted: bool) -> Entry {
        match write {
            RecordWrite::Put { row, .. } if counted => Entry::Rows { more: 1, row: row.clone() },
            RecordWrite::Remove { row, .. } if counted => Entry::Rows { more: -1, row: row.clone() },
            RecordWrite::Put { row, changed, .. } => Entry::Put { row: row.clone(), changed: changed.clone() },
            RecordWrite::Remove { .. } => Entry::Remove,
        }
    }

    /// What comes of two writes, one after the other.
    fn then(self, next: Entry) -> Entry {
        match (self, next) {
            (Entry::Put { changed: mut all, .. }, Entry::Put { row, changed }) => {
                all.extend(changed);
                all.sort_unstable();
                all.dedup();
                Entry::Put { row, changed: all }
            }
            (Entry::Remove, Entry::Put { row, .. }) => Entry::whole(row),
            (Entry::Rows { more: before, .. }, Entry::Rows { more, row }) => Entry::Rows { more: before + more, row },
            (_, next) => next,
        }
    }

    fn whole(row: Row) -> Entry {
        let changed = (0..RowReader::new(row.as_bytes()).count() as u32).collect();
        Entry::Put { row, changed }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let row = match self {
            Entry::Put { row, changed } => {
                let changed = changed.iter().map(|slot| Value::Integer((*slot).into())).collect();
                Row::of(&[Value::Bytes(row.as_bytes().to_vec()), Value::List(changed)])
            }
            Entry::Remove => Row::of(&[Value::Null]),
            Entry::Rows { more, row } => Row::of(&[Value::Integer(*more), Value::Bytes(row.as_bytes().to_vec())]),
        };
        row.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Entry> {
        let slot = |value: &Value| match value {
            Value::Integer(slot) => u32::try_from(*slot).ok(),
            _ => None,
        };
        match Row::from_bytes(bytes).ok()?.values().as_slice() {
            [Value::Bytes(row), Value::List(changed)] => Some(Entry::Put {
                row: Row::from_bytes(row).ok()?,
                changed: changed.iter().map(slot).collect::<Option<_>>()?,
            }),
            [Value::Null] => Some(Entry::Remove),
            [Value::Integer(more), Value::Bytes(row)] => {
                Some(Entry::Rows { more: *more, row: Row::from_bytes(row).ok()? })
            }
            _ => None,
        }
    }

    /// The same with its values in other slots.
    fn moved(self, slots: &[Option<usize>]) -> Entry {
        match self {
            Entry::Put { row, changed } => {
                let is_changed = |from: &Option<usize>| from.is_some_and(|from| changed.contains(&(from as u32)));
                let moved = slots.iter().enumerate().filter(|(_, from)| is_changed(from)).map(|(slot, _)| slot as u32);
                Entry::Put { row: row.in_slots(slots), changed: moved.collect() }
            }
            Entry::Remove => Entry::Remove,
            Entry::Rows { more, row } => Entry::Rows { more, row: row.in_slots(slots) },
        }
    }
}

/// Writes that wait for their "commit".
struct Rehearsed<'a> {
    rehearsal: &'a Rehearsal,
    batch: Batch,
    noted: Noted,
}

impl Rehearsed<'_> {
    fn take(&mut self, view: &View, write: &mut CollectionWrite<'_>) -> Result<(), Error> {
        let name = &write.collection.name;
        let at = match self.noted.collections.iter().position(|known| known.collection.name == *name) {
            Some(at) => at,
            None => {
                let (collection, dropped) = (write.collection.clone(), BTreeSet::new());
                self.noted.collections.push(NotedCollection { collection, dropped, gone: false, emptied: false });
                self.noted.collections.len() - 1
            }
        };
        let noted = &mut self.noted.collections[at];
        noted.emptied |= noted.gone;
        noted.gone = matches!(write.action, Action::Remove);
        noted.dropped.extend(write.dropped.iter().cloned());
        let before = std::mem::replace(&mut noted.collection, write.collection.clone());
        match &mut write.action {
            Action::Remove => Ok(self.batch.remove_collection(name)?),
            Action::Load(records) => self.load(write.collection, &mut **records),
            Action::Write(writes) => {
                self.batch.set_collection(write.collection)?;
                let mut moved = None;
                if before.schema != write.collection.schema && view.collection(name).is_some() {
                    let slots = write.collection.schema.slots_in(&before.schema);
                    self.move_slots(view, name, &slots)?;
                    moved = Some(slots);
                }
                self.write(view, write.collection, writes, moved.as_deref())
            }
        }
    }

    fn load(&mut self, collection: &Collection, records: &mut dyn Records) -> Result<(), Error> {
        let counted = collection.schema.key == KeySpec::WholeRow;
        let mut load = self.rehearsal.store.load(collection)?;
        let mut rows = BTreeMap::<Vec<u8>, (i64, Row)>::new();
        while records.advance().map_err(InterfaceError::Records)? {
            let row = Row::from_trusted(records.row());
            if counted {
                rows.entry(records.key().to_vec()).or_insert((0, row)).0 += 1;
            } else {
                load.put(records.key(), &Entry::whole(row).to_bytes())?;
            }
        }
        for (key, (more, row)) in rows {
            load.put(&key, &Entry::Rows { more, row }.to_bytes())?;
        }
        Ok(load.finish(&mut self.batch)?)
    }

    /// Notes writes on top of those before, which are `moved` from slots that the collection had then.
    fn write(
        &mut self,
        view: &View,
        collection: &Collection,
        writes: &[RecordWrite],
        moved: Option<&[Option<usize>]>,
    ) -> Result<(), Error> {
        let counted = collection.schema.key == KeySpec::WholeRow;
        let before = |key: &Key| -> Result<Option<Entry>, Error> {
            let mut entry = Vec::new();
            view.get(&collection.name, key.as_bytes(), &mut entry)?;
            let entry = Entry::from_bytes(&entry);
            Ok(match moved {
                Some(slots) => entry.map(|entry| entry.moved(slots)),
                None => entry,
            })
        };
        // Equal rows share a key, so that what was noted a moment ago counts too.
        let mut now = BTreeMap::<&Key, Entry>::new();
        for write in writes {
            let (RecordWrite::Put { key, .. } | RecordWrite::Remove { key, .. }) = write;
            let before = match now.remove(key) {
                Some(entry) => Some(entry),
                None => before(key)?,
            };
            let next = Entry::of(write, counted);
            now.insert(key, if let Some(before) = before { before.then(next) } else { next });
        }
        for (key, entry) in now {
            self.batch.put(&collection.name, key.as_bytes(), &entry.to_bytes())?;
        }
        Ok(())
    }

    /// Brings what was noted into other slots.
    fn move_slots(&mut self, view: &View, name: &CollectionName, slots: &[Option<usize>]) -> Result<(), Error> {
        for record in view.records(name)? {
            let (key, entry) = record?;
            if let Some(entry) = Entry::from_bytes(&entry) {
                self.batch.put(name, &key, &entry.moved(slots).to_bytes())?;
            }
        }
        Ok(())
    }
}

impl Staged for Rehearsed<'_> {
    fn content(&self) -> Option<Content> {
        None
    }

    fn commit(self: Box<Self>) -> Result<Stamp, InterfaceError> {
        let Rehearsed { rehearsal, batch, noted } = *self;
        batch.commit().map_err(|error| InterfaceError::Records(Box::new(error)))?;
        *rehearsal.noted() = Noted { happened: true, ..noted };
        Ok(Stamp(REHEARSED.to_vec()))
    }
}

impl Interface for Rehearsal {
    fn stamp(&self) -> Result<Stamp, InterfaceError> {
        if self.noted().happened { Ok(Stamp(REHEARSED.to_vec())) } else { self.inner.stamp() }
    }

    fn watch(&self, _: Notify) -> Result<Option<Watching>, InterfaceError> {
        Ok(None)
    }

    fn commits(&self) -> bool {
        self.inner.commits()
    }

    fn scan(&self, since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>, InterfaceError> {
        self.inner.scan(since.filter(|since| since.0 != REHEARSED))
    }

    fn contents(&self) -> &dyn Contents {
        self.inner.contents()
    }

    fn verbatim(&self, field: &Field) -> KindSet {
        self.inner.verbatim(field)
    }

    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        self.inner.project(value, field)
    }

    fn takes(&self, collection: &Collection) -> Result<(), Refusal> {
        self.inner.takes(collection)
    }

    fn own_fields(&self) -> &'static [&'static str] {
        self.inner.own_fields()
    }

    fn field_for(&self, field: &Field) -> Field {
        self.inner.field_for(field)
    }

    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        _: &Stamp,
        _: Option<&Mark>,
        _: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>, InterfaceError> {
        let view = self.store.view();
        let mut staged = Rehearsed { rehearsal: self, batch: self.store.batch(), noted: self.noted().clone() };
        for write in writes {
            staged.take(&view, write).map_err(|error| match error {
                Error::Interface(error) => error,
                error => InterfaceError::Records(Box::new(error)),
            })?;
        }
        Ok(Box::new(staged))
    }

    fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>, InterfaceError> {
        self.inner.mark(owner)
    }

    fn transactional(&self) -> bool {
        self.inner.transactional()
    }

    fn single_collection(&self) -> bool {
        self.inner.single_collection()
    }

    fn content(&self) -> Result<Option<Content>, InterfaceError> {
        self.inner.content()
    }
}

#[cfg(test)]
mod tests {
    use deltabus_interfaces::{Location, NoContents};
    use deltabus_state::Owner;

    use super::*;

    fn collection(names: &[&str], key: bool) -> Collection {
        let fields = names.iter().enumerate().map(|(at, name)| Field::new(*name, None, at as u32)).collect();
        let key = if key { KeySpec::Fields(vec![0]) } else { KeySpec::WholeRow };
        Collection { name: CollectionName::new("people"), schema: Schema { fields, key } }
    }

    fn row(values: &[&str]) -> Row {
        Row::of(&values.iter().map(|value| Value::text(*value)).collect::<Vec<_>>())
    }

    fn put(collection: &Collection, values: &[&str], changed: &[u32]) -> RecordWrite {
        let row = row(values);
        RecordWrite::Put { key: collection.schema.key_of(row.as_bytes(), 0), row, changed: changed.to_vec() }
    }

    fn remove(collection: &Collection, values: &[&str]) -> RecordWrite {
        let row = row(values);
        RecordWrite::Remove { key: collection.schema.key_of(row.as_bytes(), 0), row }
    }

    /// What would become of `file`, a line for each thing, after these steps.
    fn rehearse(file: &str, key: &str, steps: &[(&Collection, Vec<RecordWrite>)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people.csv");
        std::fs::write(&path, file).unwrap();
        let location = Location::parse(&format!("csv:{}{key}", path.display())).unwrap();
        let interface: Arc<dyn Interface> = deltabus_interfaces::open(&location).unwrap().into();
        let owner = Owner::Transmitter { source: "people".parse().unwrap() };
        let rehearsal = Rehearsal::new(interface, Store::open(&folder.path().join("store"), &owner).unwrap());
        for (collection, writes) in steps {
            let write = CollectionWrite { collection, dropped: &[], action: Action::Write(writes) };
            let stamp = rehearsal.stamp().unwrap();
            // What is staged and given up doesn't count.
            let gone = CollectionWrite { collection, dropped: &[], action: Action::Remove };
            drop(rehearsal.stage(&mut [gone], &stamp, None, &NoContents).unwrap());
            rehearsal.stage(&mut [write], &stamp, None, &NoContents).unwrap().commit().unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), file);
        let mut lines = Vec::new();
        let mut take = |planned: Planned<'_>| {
            let text = |row: &Option<Row>| match row {
                Some(row) => row.values().iter().map(deltabus_record::text::display).collect::<Vec<_>>().join(","),
                None => "nothing".into(),
            };
            lines.push(match planned {
                Planned::Record { difference, .. } => {
                    format!("{} -> {}", text(&difference.before), text(&difference.after)).replace('"', "")
                }
                other => format!("{other:?}"),
            });
            Ok::<_, Error>(())
        };
        rehearsal.each(&mut take).unwrap();
        lines
    }

    #[test]
    fn writes_are_added_up_and_shown_beside_what_stands_there() {
        let people = collection(&["id", "name", "phone"], true);
        let first = vec![put(&people, &["1", "Anna", "111"], &[1]), put(&people, &["4", "Dan", "444"], &[0, 1, 2])];
        let second = vec![put(&people, &["1", "Anna", "112"], &[2]), remove(&people, &["2", "Bob", "222"])];
        let lines = rehearse(
            "id,name,phone\n1,Ann,999\n2,Bob,222\n3,Cleo,333\n",
            "?key=id",
            &[(&people, first), (&people, second)],
        );
        assert_eq!(lines, ["1,Ann,999 -> 1,Anna,112", "2,Bob,222 -> nothing", "nothing -> 4,Dan,444"]);
    }

    #[test]
    fn fields_that_somebody_else_edited_stand() {
        let people = collection(&["id", "name", "phone"], true);
        let writes = vec![put(&people, &["1", "Anna", "111"], &[1]), put(&people, &["2", "Bob", "222"], &[2])];
        let lines = rehearse("id,name,phone\n1,Ann,999\n2,Bob,222\n", "?key=id", &[(&people, writes)]);
        assert_eq!(lines, ["1,Ann,999 -> 1,Anna,999"]);
    }

    #[test]
    fn slots_may_move_between_two_writes() {
        let before = collection(&["id", "name", "phone"], true);
        let after = collection(&["id", "phone", "name"], true);
        let first = vec![put(&before, &["1", "Anna", "111"], &[1]), put(&before, &["2", "Bobby", "222"], &[1])];
        let second = vec![put(&after, &["2", "223", "Bobby"], &[1])];
        let lines = rehearse("id,name,phone\n1,Ann,111\n2,Bob,222\n", "?key=id", &[(&before, first), (&after, second)]);
        assert_eq!(lines, ["1,111,Ann -> 1,111,Anna", "2,222,Bob -> 2,223,Bobby"]);
    }

    #[test]
    fn equal_rows_are_counted() {
        let people = collection(&["name"], false);
        let first = vec![put(&people, &["Ann"], &[0]), put(&people, &["Ann"], &[0]), remove(&people, &["Bob"])];
        let second = vec![remove(&people, &["Ann"])];
        let lines = rehearse("name\nBob\n", "", &[(&people, first), (&people, second)]);
        assert_eq!(lines, ["nothing -> Ann", "Bob -> nothing"]);
    }
}
