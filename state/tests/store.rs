//! What the store promises: whole commits, one owner, nothing believed that is damaged.

use std::collections::BTreeMap;
use std::path::Path;

use deltabus_record::apply::Mismatch;
use deltabus_record::change::{Change, CollectionChanges, FieldChange, SchemaChange, Transaction};
use deltabus_record::digest::Digest;
use deltabus_record::key::{KEY_BYTES_MAX, Key};
use deltabus_record::row::Row;
use deltabus_record::schema::{
    Collection, CollectionName, FIELDS_MAX, Field, KeySpec, NAME_BYTES_MAX, ReceiverName, Schema, SourceName,
};
use deltabus_record::value::Value;
use deltabus_state::{
    ApplyError, Error, Owner, ScanIndex, ScanIndexWriter, StateDirectory, Store, Working, is_busy, read_status,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn owner() -> Owner {
    Owner::Transmitter { source: SourceName::new("people").unwrap() }
}

fn collection(name: &str) -> Collection {
    let fields = vec![Field::new("id", None, 0)];
    Collection { name: CollectionName::new(name), schema: Schema { fields, key: KeySpec::Fields(vec![0]) } }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, &owner()).unwrap()
}

fn records(store: &Store, name: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let name = CollectionName::new(name);
    let view = store.view();
    if view.collection(&name).is_none() {
        return BTreeMap::new();
    }
    let records = view.records(&name).unwrap();
    records.map(|record| record.map(|(key, row)| (key.to_vec(), row.to_vec())).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_store_holds_what_was_committed_and_nothing_else(
        batches in vec((vec((0..20u8, any::<Option<u8>>()), 0..12), any::<bool>(), any::<bool>()), 1..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        let mut model = BTreeMap::new();
        let name = CollectionName::new("a");
        for (writes, commits, reopens) in batches {
            let mut batch = store.batch();
            batch.set_collection(&collection("a")).unwrap();
            let mut next = model.clone();
            for (key, value) in writes {
                match value {
                    Some(value) => {
                        batch.put(&name, &[key], &[value]).unwrap();
                        next.insert(vec![key], vec![value]);
                    }
                    None => {
                        batch.remove(&name, &[key]).unwrap();
                        next.remove(&vec![key]);
                    }
                }
            }
            if commits {
                batch.commit().unwrap();
                model = next;
            } else {
                drop(batch);
            }
            if reopens {
                drop(store);
                store = open(folder.path());
            }
            prop_assert_eq!(records(&store, "a"), model.clone());
        }
    }
}

#[test]
fn a_view_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let name = CollectionName::new("a");
    let mut batch = store.batch();
    batch.set_collection(&collection("a")).unwrap();
    batch.put(&name, b"k", b"1").unwrap();
    batch.outbox_put(7, b"set");
    batch.meta_put("m", b"x").unwrap();
    batch.overlay_put(&name, b"k", b"o");
    batch.commit().unwrap();
    let view = store.view();
    let mut batch = store.batch();
    batch.put(&name, b"k", b"2").unwrap();
    batch.outbox_remove(7);
    batch.meta_remove("m").unwrap();
    batch.overlay_remove(&name, b"k");
    batch.commit().unwrap();
    let mut row = Vec::new();
    assert!(view.get(&name, b"k", &mut row).unwrap());
    assert_eq!(row, b"1");
    assert_eq!(view.outbox(0).map(Result::unwrap).collect::<Vec<_>>(), [(7, b"set".to_vec())]);
    assert_eq!(view.meta("m").unwrap().as_deref(), Some(&b"x"[..]));
    assert_eq!(view.overlay(&name, b"k").unwrap().as_deref(), Some(&b"o"[..]));
    let now = store.view();
    assert_eq!(now.outbox(0).count(), 0);
    assert_eq!(now.meta("m").unwrap(), None);
    assert_eq!(now.overlay(&name, b"k").unwrap(), None);
}

#[test]
fn a_load_is_unseen_until_its_batch_is_committed_and_then_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let name = CollectionName::new("a");
    let mut batch = store.batch();
    batch.set_collection(&collection("a")).unwrap();
    batch.put(&name, b"old", b"1").unwrap();
    batch.commit().unwrap();

    let mut load = store.load(&collection("a")).unwrap();
    for key in (0..3_000u32).rev() {
        load.put(&key.to_be_bytes(), b"row").unwrap();
    }
    let mut batch = store.batch();
    load.finish(&mut batch).unwrap();
    assert_eq!(records(&store, "a").len(), 1);
    batch.commit().unwrap();
    assert_eq!(records(&store, "a").len(), 3_000);
    assert!(!records(&store, "a").contains_key(&b"old"[..]));
    drop(store);
    assert_eq!(records(&open(folder.path()), "a").len(), 3_000);
}

#[test]
fn an_unfinished_load_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut load = store.load(&collection("a")).unwrap();
    for key in 0..2_000u32 {
        load.put(&key.to_be_bytes(), b"row").unwrap();
    }
    drop(load);
    drop(store);
    let store = open(folder.path());
    assert!(store.view().collections().is_empty());
    assert!(records(&store, "a").is_empty());
}

#[test]
fn a_copy_made_after_a_commit_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let name = CollectionName::new("a");
    for round in 0..20u8 {
        let mut batch = store.batch();
        batch.set_collection(&collection("a")).unwrap();
        for key in 0..50u8 {
            batch.put(&name, &[key], &[round]).unwrap();
        }
        batch.commit().unwrap();
        // As after a power cut: whatever is on the disk now.
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let copied = records(&open(copy.path()), "a");
        assert_eq!(copied.len(), 50);
        assert!(copied.values().all(|row| row == &[round]), "round {round}");
    }
}

fn overwrite(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { overwrite(&path) } else { std::fs::write(path, b"junk junk junk junk").unwrap() }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_folder_has_one_process_and_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert!(is_busy(folder.path()));
    match Store::open(folder.path(), &owner()) {
        Err(Error::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{:?}", other.err()),
    }
    drop(store);
    assert!(!is_busy(folder.path()));
    let source = SourceName::new("people").unwrap();
    let other = Owner::Receiver { source, receiver: ReceiverName::new("oslo").unwrap() };
    assert!(matches!(Store::open(folder.path(), &other), Err(Error::Foreign { .. })));
}

#[test]
fn strange_and_damaged_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("holiday.jpg"), b"not ours").unwrap();
    assert!(matches!(Store::open(folder.path(), &owner()), Err(Error::Foreign { .. })));

    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    std::fs::write(folder.path().join("owner"), b"deltabus state 99\n").unwrap();
    assert!(matches!(Store::open(folder.path(), &owner()), Err(Error::Foreign { .. })));

    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    overwrite(&folder.path().join("records"));
    assert!(matches!(Store::open(folder.path(), &owner()), Err(Error::Damaged { .. })));
}

#[test]
fn status_can_be_read_while_the_store_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(read_status(folder.path()), None);
    store.write_status(b"{}").unwrap();
    assert_eq!(read_status(folder.path()).as_deref(), Some(&b"{}"[..]));
}

#[test]
fn the_state_directory_knows_its_folders() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(folder.path().join("state")).unwrap();
    let (source, receiver) = (SourceName::new("people").unwrap(), ReceiverName::new("oslo").unwrap());
    assert!(state.sources().unwrap().is_empty() && state.receivers().unwrap().is_empty());
    drop(Store::open(&state.source_folder(&source), &owner()).unwrap());
    let receiving = Owner::Receiver { source: source.clone(), receiver: receiver.clone() };
    drop(Store::open(&state.receiver_folder(&source, &receiver), &receiving).unwrap());
    assert_eq!(state.sources().unwrap(), std::slice::from_ref(&source));
    assert_eq!(state.receivers().unwrap(), [(source, receiver)]);
}

const NAME: Digest = Digest { records: 3, sum: 99 };

fn entries(dir: &Path) -> Option<Result<Vec<(u64, Vec<u8>)>, deltabus_state::IndexDamaged>> {
    let mut index = ScanIndex::open(dir, &CollectionName::new("a"), 7, NAME)?;
    let mut entries = Vec::new();
    loop {
        match index.advance() {
            Ok(Some(fingerprint)) => entries.push((fingerprint, index.key().to_vec())),
            Ok(None) => return Some(Ok(entries)),
            Err(error) => return Some(Err(error)),
        }
    }
}

fn write_index(dir: &Path, count: u64) {
    let mut writer = ScanIndexWriter::create(dir, &CollectionName::new("a"), 7).unwrap();
    for i in 0..count {
        writer.push(i * 3, format!("key {i}").as_bytes()).unwrap();
    }
    writer.finish(NAME).unwrap();
}

#[test]
fn an_index_comes_back_under_its_name_only() {
    let folder = tempfile::tempdir().unwrap();
    write_index(folder.path(), 20_000);
    let found = entries(folder.path()).unwrap().unwrap();
    assert_eq!(found.len(), 20_000);
    assert_eq!(found[9], (27, b"key 9".to_vec()));
    let name = CollectionName::new("a");
    assert!(ScanIndex::open(folder.path(), &name, 8, NAME).is_none());
    assert!(ScanIndex::open(folder.path(), &name, 7, Digest::default()).is_none());
    assert!(ScanIndex::open(folder.path(), &CollectionName::new("b"), 7, NAME).is_none());
}

#[test]
fn an_index_can_take_another_name() {
    let folder = tempfile::tempdir().unwrap();
    write_index(folder.path(), 500);
    let before = entries(folder.path()).unwrap().unwrap();
    let (name, other) = (CollectionName::new("a"), Digest { records: 4, sum: 100 });
    // Of another name or layout there is none to rename.
    ScanIndex::rename(folder.path(), &name, 7, other, NAME).unwrap();
    ScanIndex::rename(folder.path(), &name, 8, NAME, other).unwrap();
    assert!(ScanIndex::open(folder.path(), &name, 7, other).is_none());
    ScanIndex::rename(folder.path(), &name, 7, NAME, other).unwrap();
    assert!(entries(folder.path()).is_none());
    ScanIndex::rename(folder.path(), &name, 7, other, NAME).unwrap();
    assert_eq!(entries(folder.path()).unwrap().unwrap(), before);
}

#[test]
fn a_damaged_index_is_never_believed() {
    let folder = tempfile::tempdir().unwrap();
    write_index(folder.path(), 5_000);
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    let right = entries(folder.path()).unwrap().unwrap();
    for at in (0..whole.len()).step_by(997) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&path, &damaged).unwrap();
        assert!(!matches!(entries(folder.path()), Some(Ok(found)) if found != right), "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(!matches!(entries(folder.path()), Some(Ok(_))), "cut at {at}");
    }
}

/// The embedded store panics at a key that is empty or longer than 65,535 bytes, even if it is only asked after. A record
/// without a key of its own is its key, and may well be longer.
#[test]
fn a_key_that_cannot_be_kept_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let name = CollectionName::new("n".repeat(NAME_BYTES_MAX));
    let mut batch = store.batch();
    batch.set_collection(&collection(name.as_str())).unwrap();
    let longest = vec![7; KEY_BYTES_MAX];
    batch.put(&name, &longest, b"row").unwrap();
    batch.overlay_put(&name, &longest, b"over");
    for key in [vec![7; KEY_BYTES_MAX + 1], vec![7; 100_000], Vec::new()] {
        let refused = batch.put(&name, &key, b"row").unwrap_err();
        assert!(matches!(refused, Error::Key { bytes, .. } if bytes == key.len()), "{refused}");
        batch.remove(&name, &key).unwrap();
        batch.overlay_put(&name, &key, b"over");
        batch.overlay_remove(&name, &key);
        let mut load = store.load(&collection("b")).unwrap();
        assert!(matches!(load.put(&key, b"row"), Err(Error::Key { .. })));
    }
    batch.commit().unwrap();
    let view = store.view();
    let mut row = Vec::new();
    assert!(view.get(&name, &longest, &mut row).unwrap());
    assert_eq!(view.overlay(&name, &longest).unwrap().as_deref(), Some(&b"over"[..]));
    for key in [vec![7; KEY_BYTES_MAX + 1], vec![7; 100_000], Vec::new()] {
        assert!(!view.get(&name, &key, &mut row).unwrap());
        assert_eq!(view.overlay(&name, &key).unwrap(), None);
    }
}

/// What is stored is read at the next start: a collection that would be refused then is refused at once.
#[test]
fn a_collection_that_could_not_be_read_back_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut many = collection("many");
    many.schema.fields = (0..=FIELDS_MAX as u32).map(|at| Field::new(at.to_string(), None, at)).collect();
    let long = collection(&"n".repeat(NAME_BYTES_MAX + 1));
    let mut twice = collection("twice");
    twice.schema.fields.push(Field::new("id", None, 1));
    let mut keyless = collection("keyless");
    keyless.schema.fields[0].dropped = true;
    for broken in [many, long, twice, keyless] {
        let refused = store.batch().set_collection(&broken).unwrap_err();
        assert!(matches!(refused, Error::Schema { .. }), "{refused}");
        assert!(matches!(store.load(&broken).err(), Some(Error::Schema { .. })));
    }
}

/// A few bytes that name the field 65,535 would become a row of as many.
#[test]
fn a_change_of_fields_that_its_collection_lacks_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut batch = store.batch();
    batch.set_collection(&collection("a")).unwrap();
    batch.commit().unwrap();
    let key = Key::of(&[Value::Integer(1)]);
    let row = |values: &[Value]| Row::of(values);
    let far = FieldChange { slot: 65_535, before: Value::Absent, after: Value::Null };
    let near = FieldChange { slot: 1, before: Value::Absent, after: Value::Null };
    let changed = |change: &Change, wider: bool| {
        let mut after = collection("a");
        if wider {
            after.schema.fields.push(Field::new("more", None, 1));
        }
        let schemas = vec![SchemaChange { before: Some(collection("a")), after: Some(after) }];
        let insert = Change::Insert { key: key.clone(), row: row(&[Value::Integer(1)]) };
        let changes = match change {
            Change::Update { .. } => vec![insert, change.clone()],
            _ => vec![change.clone()],
        };
        let collections = vec![CollectionChanges { collection: CollectionName::new("a"), changes }];
        let view = store.view();
        let mut working = Working::new(&view, Digest::default());
        let transaction = Transaction { schemas, collections };
        let applied = working.apply(&transaction);
        if applied.is_ok() {
            // Undone, the field goes before its values do.
            working.apply(&transaction.invert()).unwrap();
            assert_eq!(working.digest(), Digest::default());
        }
        applied
    };
    let wide = Change::Insert { key: key.clone(), row: row(&[Value::Integer(1), Value::Null]) };
    let update = Change::Update { key: key.clone(), fields: vec![near] };
    for change in [wide, update] {
        let refused = changed(&change, false);
        assert!(
            matches!(refused, Err(ApplyError::Mismatch { source: Mismatch::NoField { slot: 1, .. }, .. })),
            "{refused:?}"
        );
        changed(&change, true).unwrap();
    }
    let update = Change::Update { key: key.clone(), fields: vec![far] };
    assert!(changed(&update, true).is_err());
}
