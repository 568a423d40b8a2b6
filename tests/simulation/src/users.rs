//! Users: they write source and destinations whenever they like, and what they write is traced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use deltabus_record::schema::{CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};

use crate::dice::Dice;
use crate::interface::difference;
use crate::plan::{Planted, Shape, ShelfKind};
use crate::shelf::{Shelf, Table, Tables, Writer, plain_text};
use crate::world::{World, lock};

/// Keys that are taken again and again, so that source and destinations insert and delete the same ones.
pub(crate) const COMMON_KEYS: u64 = 8;

/// So many tables a store has at most.
const TABLES_MAX: usize = 4;

/// Text that leaves its record and travels in chunks.
const LARGE_BYTES: usize = 70_000;

/// All users.
pub(crate) struct Users {
    world: Arc<World>,
    inner: Mutex<Inner>,
}

struct Inner {
    dice: Dice,
    stores: Vec<Store>,
    edits: BTreeMap<String, Edit>,
    deletions: Vec<Deletion>,
    /// Records that users put into destinations since their receivers looked: receiver, table, key. That they go again nobody
    /// sees.
    unseen: BTreeSet<(usize, String, String)>,
    /// Receivers that have lost their state and not caught up again: what is written meanwhile can't be told from what was there.
    blind: BTreeSet<usize>,
    /// Receivers whose state is an old one, since when, and the revision that the others had reached then. If one joins before
    /// it has come that far, it never knew what came since: nobody can tell that it was deleted.
    dated: BTreeMap<usize, (u64, u64)>,
    writes: u64,
}

/// A store that users write.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) shelf: Arc<Mutex<Shelf>>,
    /// The receiver, at a destination.
    pub(crate) receiver: Option<usize>,
    /// Whether what is written here goes to the source.
    pub(crate) counts: bool,
}

/// A value that a user wrote at a destination; no other is equal to it.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) receiver: usize,
    pub(crate) millis: u64,
    /// A user took it back or wrote something over it, at the same destination.
    pub(crate) superseded: bool,
    /// Whether the receiver can still know of it: it stands there, or its state has it.
    pub(crate) held: bool,
    /// Whether the bus has it.
    pub(crate) sent: bool,
}

/// A record that a user deleted at a destination.
#[derive(Clone, Debug)]
pub(crate) struct Deletion {
    pub(crate) receiver: usize,
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) millis: u64,
    pub(crate) superseded: bool,
    pub(crate) held: bool,
    pub(crate) sent: bool,
}

/// What a user may do.
#[derive(Clone, Copy, Debug)]
enum Act {
    Set,
    Insert,
    Delete,
    Rekey,
    Several,
    Move,
    Empty,
    Remove,
    AddField,
    DropField,
    RenameField,
    AddTable,
    DropTable,
}

/// Acts by how often they come.
const EVERYWHERE: &[(Act, u64)] =
    &[(Act::Set, 40), (Act::Insert, 20), (Act::Delete, 10), (Act::Rekey, 4), (Act::Several, 12), (Act::Move, 3)];
const WHOLE: &[(Act, u64)] = &[(Act::Empty, 1), (Act::Remove, 1)];
const SCHEMAS: &[(Act, u64)] =
    &[(Act::AddField, 4), (Act::DropField, 3), (Act::RenameField, 2), (Act::AddTable, 2), (Act::DropTable, 1)];

impl Users {
    pub(crate) fn new(world: Arc<World>, stores: Vec<Store>) -> Arc<Users> {
        let dice = world.dice("users");
        let inner = Inner {
            dice,
            stores,
            edits: BTreeMap::new(),
            deletions: Vec::new(),
            unseen: BTreeSet::new(),
            blind: BTreeSet::new(),
            dated: BTreeMap::new(),
            writes: 0,
        };
        Arc::new(Users { world, inner: Mutex::new(inner) })
    }

    /// What a source has before anybody looks at it.
    pub(crate) fn first_tables(world: &World, kind: ShelfKind) -> Tables {
        let mut dice = world.dice("first tables");
        let count = if kind.single { 1 } else { dice.between(1, 3) };
        let mut tables = Tables::new();
        for at in 0..count {
            tables.push(new_table(&mut dice, world, at));
            let table = tables.len() - 1;
            for _ in 0..dice.below(8) {
                let mut values = Values { world, kind, fresh: Vec::new() };
                insert(&mut tables[table], &mut dice, &mut values);
            }
        }
        tables
    }

    /// Somebody writes something somewhere.
    pub(crate) fn write_somewhere(&self) {
        let store = {
            let mut inner = lock(&self.inner);
            let counting: Vec<Store> = inner.stores.iter().filter(|store| store.counts).cloned().collect();
            let at_source = inner.dice.percent(55);
            match inner.dice.one_of(&counting[1..]).cloned() {
                Some(store) if !at_source => store,
                _ => counting[0].clone(),
            }
        };
        self.write(&store);
    }

    /// Somebody writes this store at this very moment.
    pub(crate) fn write_now(&self, shelf: &Arc<Mutex<Shelf>>) {
        let store = lock(&self.inner).stores.iter().find(|store| Arc::ptr_eq(&store.shelf, shelf)).cloned();
        if let Some(store) = store {
            self.write(&store);
        }
    }

    fn write(&self, store: &Store) {
        let now = self.world.millis();
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let mut shelf = lock(&store.shelf);
        let before = shelf.tables().cloned();
        if !store.counts {
            // Touched, and as it was.
            shelf.replace(before, Writer::User, now);
            return;
        }
        let mut values = Values { world: &self.world, kind: shelf.kind, fresh: Vec::new() };
        let source = store.receiver.is_none();
        let mut after = before.clone();
        let act = match before.is_some() {
            true => act(&mut inner.dice, source, &self.world.plan.shape, shelf.kind),
            // The source comes back; a destination is for its receiver to make.
            false if source => {
                after = Some(Users::again(&mut inner.dice, &mut values));
                Act::Insert
            }
            false => return,
        };
        if before.is_some() {
            after = perform(act, before.clone().unwrap_or_default(), &mut inner.dice, &mut values);
        }
        if after == before {
            return;
        }
        inner.writes += 1;
        let told = match &after {
            Some(after) => difference(before.as_ref(), after),
            None => "removes the store".into(),
        };
        self.world.note("user", || format!("writes {}: {told}", shelf.name));
        let fresh = values.fresh;
        if let Some(receiver) = store.receiver {
            let there = texts(after.as_deref());
            for value in texts(before.as_deref()).difference(&there) {
                if let Some(edit) = inner.edits.get_mut(value).filter(|edit| edit.receiver == receiver) {
                    edit.superseded = true;
                }
            }
            // What stands in a table that the source dropped while the receiver's state was lost is nobody's but its user's.
            let source_has = |table: &Table| {
                lock(&inner.stores[0].shelf)
                    .tables()
                    .is_none_or(|tables| tables.iter().any(|has| has.name == table.name))
            };
            let is_own = |table: &&Table| shelf.orphans.contains(&table.name) && !source_has(table);
            let own: Vec<Table> = after.iter().flatten().filter(is_own).cloned().collect();
            let own = texts(Some(&own));
            for value in fresh.into_iter().filter(|value| there.contains(value) && !own.contains(value)) {
                let held = !inner.blind.contains(&receiver);
                let edit = Edit { receiver, millis: now, superseded: false, held, sent: false };
                inner.edits.insert(value, edit);
            }
            let (had, has) = (keys(before.as_deref()), keys(after.as_deref()));
            for deletion in inner.deletions.iter_mut().filter(|deletion| deletion.receiver == receiver) {
                if has.contains(&(deletion.table.clone(), deletion.key.clone())) {
                    deletion.superseded = true;
                }
            }
            if after.is_none() {
                // Made anew, it says nothing of what was deleted in it before, unless that went out already.
                let unsent = |gone: &&mut Deletion| gone.receiver == receiver && !gone.sent;
                inner.deletions.iter_mut().filter(unsent).for_each(|gone| gone.superseded = true);
            }
            // A store that is removed is made anew: nothing was deleted in it. What the source doesn't have needs no delete.
            let at_source = keys(lock(&inner.stores[0].shelf).tables().map(Vec::as_slice));
            let unseen = &mut inner.unseen;
            let seen = |gone: &&(String, String)| !unseen.contains(&(receiver, gone.0.clone(), gone.1.clone()));
            let gone = had.difference(&has).filter(|gone| after.is_some() && at_source.contains(*gone));
            let gone: Vec<_> = gone.filter(seen).cloned().collect();
            unseen.extend(has.difference(&had).map(|(table, key)| (receiver, table.clone(), key.clone())));
            let held = !inner.blind.contains(&receiver);
            inner.deletions.extend(gone.into_iter().map(|(table, key)| Deletion {
                receiver,
                table,
                key,
                millis: now,
                superseded: false,
                held,
                sent: false,
            }));
        }
        let lost = self.world.plan.planted == Some(Planted::LostEdit) && !source && inner.dice.percent(30);
        shelf.replace(after, Writer::User, now);
        if lost {
            shelf.replace(before, Writer::User, now);
        }
    }

    /// A source that was removed and comes back with something in it.
    fn again(dice: &mut Dice, values: &mut Values<'_>) -> Tables {
        let mut table = new_table(dice, values.world, 0);
        for _ in 0..dice.below(5) {
            insert(&mut table, dice, values);
        }
        vec![table]
    }

    /// How many times users have written.
    pub(crate) fn writes(&self) -> u64 {
        lock(&self.inner).writes
    }

    /// All traced edits.
    pub(crate) fn edits(&self) -> BTreeMap<String, Edit> {
        lock(&self.inner).edits.clone()
    }

    /// All traced deletions.
    pub(crate) fn deletions(&self) -> Vec<Deletion> {
        lock(&self.inner).deletions.clone()
    }

    /// The bus has these texts, and these deletes, of a receiver.
    pub(crate) fn sent(&self, receiver: usize, values: &BTreeSet<String>, deletes: &[(String, String)]) {
        let mut inner = lock(&self.inner);
        for value in values {
            if let Some(edit) = inner.edits.get_mut(value) {
                edit.sent = true;
            }
        }
        for deletion in inner.deletions.iter_mut().filter(|deletion| deletion.receiver == receiver) {
            if deletes.contains(&(deletion.table.clone(), deletion.key.clone())) {
                deletion.sent = true;
            }
        }
    }

    /// A receiver's state is lost: what only it knew is beyond saving.
    ///
    /// `since`: the state is that of then, in milliseconds; 0: there is none. `reached`: the revision that readers have reached.
    pub(crate) fn forgotten_by(&self, receiver: usize, since: u64, reached: u64) {
        let now = self.world.millis();
        let mut inner = lock(&self.inner);
        match since {
            0 => drop(inner.blind.insert(receiver)),
            _ => drop(inner.dated.insert(receiver, (now, reached))),
        }
        let edits = inner.edits.values_mut().filter(|edit| edit.receiver == receiver && edit.millis >= since);
        edits.for_each(|edit| edit.held = false);
        let deletions = inner.deletions.iter_mut().filter(|gone| gone.receiver == receiver && gone.millis >= since);
        deletions.for_each(|gone| gone.held = false);
    }

    /// A receiver has joined, or has caught up with a revision.
    pub(crate) fn caught_up(&self, receiver: usize, joined: bool, revision: u64) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.blind.remove(&receiver);
        inner.unseen.retain(|(at, ..)| *at != receiver);
        let Some((since, reached)) = inner.dated.get(&receiver).copied() else { return };
        if joined {
            let unknowable = |gone: &&mut Deletion| gone.receiver == receiver && gone.millis >= since;
            inner.deletions.iter_mut().filter(unknowable).for_each(|gone| gone.held = false);
        }
        if joined || revision >= reached {
            inner.dated.remove(&receiver);
        }
    }

    /// Somebody puts a destination away, so that it is made anew.
    pub(crate) fn put_away(&self, shelf: &Arc<Mutex<Shelf>>) {
        let mut inner = lock(&self.inner);
        let Some(receiver) =
            inner.stores.iter().find(|store| Arc::ptr_eq(&store.shelf, shelf)).and_then(|s| s.receiver)
        else {
            return;
        };
        let mut shelf = lock(shelf);
        let there = shelf.texts();
        for (_, edit) in
            inner.edits.iter_mut().filter(|(value, edit)| edit.receiver == receiver && there.contains(*value))
        {
            edit.superseded = true;
        }
        inner.deletions.iter_mut().filter(|gone| gone.receiver == receiver).for_each(|gone| gone.superseded = true);
        shelf.replace(None, Writer::User, self.world.millis());
    }

    /// The bus has lost what was sent.
    pub(crate) fn forgotten_by_bus(&self) {
        let mut inner = lock(&self.inner);
        inner.edits.values_mut().for_each(|edit| edit.sent = false);
        inner.deletions.iter_mut().for_each(|gone| gone.sent = false);
    }
}

/// Makes values.
struct Values<'a> {
    world: &'a World,
    kind: ShelfKind,
    /// The texts made that no other is equal to.
    fresh: Vec<String>,
}

impl Values<'_> {
    fn text(&mut self, letter: char) -> String {
        let text = format!("{letter}{}", self.world.fresh());
        self.fresh.push(text.clone());
        text
    }

    /// A value for a field of this kind.
    fn of(&mut self, kind: Option<Kind>, dice: &mut Dice) -> Value {
        match dice.below(20) {
            0 => Value::Null,
            1 if self.kind.absent => Value::Absent,
            2 if kind != Some(Kind::Integer) => Value::text(""),
            3 | 4 if kind != Some(Kind::Integer) => Value::text(format!("common {}", dice.below(3))),
            5 if kind != Some(Kind::Integer) && dice.once_in(6) => {
                let begin = self.text('l');
                Value::text(format!("{begin} {}", "long ".repeat(LARGE_BYTES / 5)))
            }
            _ if kind == Some(Kind::Integer) => Value::Integer(self.world.fresh() as i64),
            _ => Value::Text(self.text('v')),
        }
    }
}

fn texts(tables: Option<&[Table]>) -> BTreeSet<String> {
    tables.into_iter().flatten().flat_map(|table| table.rows.iter().flatten().filter_map(plain_text)).collect()
}

/// The keys of all records that have one.
fn keys(tables: Option<&[Table]>) -> BTreeSet<(String, String)> {
    let keyed = tables.into_iter().flatten().filter(|table| table.schema.key != KeySpec::WholeRow);
    keyed.flat_map(|table| table.rows.iter().map(|row| (table.name.to_string(), table.key(row)))).collect()
}

fn act(dice: &mut Dice, source: bool, shape: &Shape, kind: ShelfKind) -> Act {
    let mut acts: Vec<(Act, u64)> = EVERYWHERE.to_vec();
    acts.extend(WHOLE);
    if source && *shape == Shape::Schemas {
        let fits = |act: &(Act, u64)| !(kind.single && matches!(act.0, Act::AddTable | Act::DropTable));
        acts.extend(SCHEMAS.iter().copied().filter(fits));
    }
    let mut at = dice.below(acts.iter().map(|(_, often)| often).sum());
    for (act, often) in &acts {
        match at.checked_sub(*often) {
            Some(rest) => at = rest,
            None => return *act,
        }
    }
    Act::Set
}

/// A table that nobody has had: keyed by one field or two, or by nothing but its rows. One of the same name has the same
/// key, for a source can't change that, and its fields perhaps in another order.
fn new_table(dice: &mut Dice, world: &World, at: u64) -> Table {
    let names = ["people", "orders", "entries", "things"];
    let name = names[(at as usize) % names.len()];
    let key: &[&str] = match (at, world.dice(name).below(4)) {
        (0, _) | (_, 0) => &["id"],
        (_, 1) => &["land", "id"],
        _ => &[],
    };
    let mut fields: Vec<Field> = Vec::new();
    for name in key {
        fields.push(Field::new(*name, Some(Kind::Text), 0));
    }
    fields.push(Field::new("name", Some(Kind::Text), 0));
    fields.push(Field::new("note", None, 0));
    if !key.is_empty() {
        fields.push(Field::new("amount", Some(Kind::Integer), 0));
    }
    if dice.percent(30) {
        fields.reverse();
    }
    for (ordinal, field) in fields.iter_mut().enumerate() {
        field.ordinal = ordinal as u32;
    }
    let schema = Schema { fields, key: KeySpec::WholeRow };
    let schema = if key.is_empty() { schema } else { schema.with_key(key).expect("the key's fields are there") };
    Table { name: CollectionName::new(name), schema, rows: Vec::new() }
}

/// The slots that belong to the key.
fn key_slots(table: &Table) -> Vec<usize> {
    match &table.schema.key {
        KeySpec::Fields(slots) => slots.iter().map(|slot| *slot as usize).collect(),
        KeySpec::WholeRow => Vec::new(),
    }
}

/// What a store is after somebody did something to it; `None`: it is gone.
fn perform(act: Act, mut tables: Tables, dice: &mut Dice, values: &mut Values<'_>) -> Option<Tables> {
    let at = dice.below(tables.len() as u64) as usize;
    let Some(table) = tables.get_mut(at) else {
        // A store without a table gets one.
        if !values.kind.single {
            tables.push(new_table(dice, values.world, 0));
        }
        return Some(tables);
    };
    match act {
        Act::Set => set(table, dice, values),
        Act::Insert => insert(table, dice, values),
        Act::Delete => {
            if !table.rows.is_empty() {
                table.rows.remove(dice.below(table.rows.len() as u64) as usize);
            }
        }
        Act::Rekey => {
            let key = new_key(table, dice, values);
            let row = dice.below(table.rows.len() as u64) as usize;
            if let Some(row) = table.rows.get_mut(row) {
                for (slot, value) in key {
                    row[slot] = value;
                }
            }
        }
        Act::Several => {
            for _ in 0..dice.between(2, 6) {
                let acts = [Act::Set, Act::Insert, Act::Delete, Act::Rekey];
                let act = acts[dice.below(acts.len() as u64) as usize];
                tables = perform(act, tables, dice, values)?;
            }
        }
        Act::Move => {
            let count = table.rows.len() as u64;
            if count > 1 {
                let row = table.rows.remove(dice.below(count) as usize);
                table.rows.insert(dice.below(count) as usize, row);
            }
        }
        Act::Empty => table.rows.clear(),
        Act::Remove => return None,
        Act::AddField => {
            // Sometimes one that was there before.
            let name = if dice.percent(50) { format!("field {}", dice.below(3)) } else { values.text('f') };
            if table.schema.slot(&name).is_none() {
                let kind = [Some(Kind::Text), Some(Kind::Integer), None][dice.below(3) as usize];
                let at = table.schema.fields.len() as u32;
                table.schema.fields.push(Field::new(name, kind, at));
                let filled = dice.percent(60);
                for row in &mut table.rows {
                    row.push(if filled { values.of(kind, dice) } else { Value::Null });
                }
            }
        }
        Act::DropField => {
            if let Some(slot) = free_slot(table, dice)
                && table.schema.fields.len() > 2
            {
                drop_field(table, slot);
            }
        }
        Act::RenameField => {
            if let Some(slot) = free_slot(table, dice) {
                let name = if dice.percent(50) { format!("field {}", dice.below(3)) } else { values.text('f') };
                if table.schema.slot(&name).is_none() {
                    table.schema.fields[slot].name = name;
                }
            }
        }
        Act::AddTable => {
            let new = (0..TABLES_MAX as u64).map(|at| new_table(dice, values.world, at));
            let new: Vec<Table> = new.filter(|new| !tables.iter().any(|table| table.name == new.name)).collect();
            if let Some(new) = dice.one_of(&new) {
                let mut new = new.clone();
                for _ in 0..dice.below(4) {
                    insert(&mut new, dice, values);
                }
                tables.push(new);
            }
        }
        Act::DropTable => {
            if tables.len() > 1 {
                tables.remove(at);
            }
        }
    }
    Some(tables)
}

/// A slot that isn't of the key.
fn free_slot(table: &Table, dice: &mut Dice) -> Option<usize> {
    let key = key_slots(table);
    let free: Vec<usize> = (0..table.schema.fields.len()).filter(|slot| !key.contains(slot)).collect();
    dice.one_of(&free).copied()
}

fn drop_field(table: &mut Table, slot: usize) {
    let names: Vec<String> = table.schema.key_names().into_iter().map(str::to_owned).collect();
    table.schema.fields.remove(slot);
    for (ordinal, field) in table.schema.fields.iter_mut().enumerate() {
        field.ordinal = ordinal as u32;
    }
    if let KeySpec::Fields(slots) = &mut table.schema.key {
        for at in slots.iter_mut().filter(|at| **at as usize > slot) {
            *at -= 1;
        }
    }
    debug_assert_eq!(table.schema.key_names(), names);
    for row in &mut table.rows {
        row.remove(slot);
    }
}

fn set(table: &mut Table, dice: &mut Dice, values: &mut Values<'_>) {
    let (Some(slot), row) = (free_slot(table, dice), dice.below(table.rows.len() as u64) as usize) else { return };
    let kind = table.schema.fields[slot].kind;
    if let Some(row) = table.rows.get_mut(row) {
        row[slot] = values.of(kind, dice);
    }
}

fn insert(table: &mut Table, dice: &mut Dice, values: &mut Values<'_>) {
    if table.schema.key == KeySpec::WholeRow && !table.rows.is_empty() && dice.percent(40) {
        // Once more the same.
        let row = table.rows[dice.below(table.rows.len() as u64) as usize].clone();
        table.rows.push(row);
        return;
    }
    let mut row: Vec<Value> = table.schema.fields.iter().map(|field| values.of(field.kind, dice)).collect();
    for (slot, value) in new_key(table, dice, values) {
        row[slot] = value;
    }
    let at = dice.below(table.rows.len() as u64 + 1) as usize;
    table.rows.insert(at, row);
}

/// A key that the table doesn't have; nothing where it has none.
fn new_key(table: &Table, dice: &mut Dice, values: &mut Values<'_>) -> Vec<(usize, Value)> {
    let slots = key_slots(table);
    let Some((last, others)) = slots.split_last() else { return Vec::new() };
    let common = dice.percent(60);
    let mut key: Vec<(usize, Value)> = Vec::new();
    for slot in others {
        key.push((*slot, Value::text(["no", "se"][dice.below(2) as usize])));
    }
    key.push((*last, Value::text(if common { format!("k{}", dice.below(COMMON_KEYS)) } else { values.text('k') })));
    let taken = table.rows.iter().any(|row| key.iter().all(|(slot, value)| row[*slot] == *value));
    if taken {
        key.pop();
        key.push((*last, Value::Text(values.text('k'))));
    }
    key
}
