//! What the store promises: whole commits, one owner, nothing believed that is damaged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use deltabus_record::apply::Mismatch;
use deltabus_record::change::{Change, CollectionChanges, FieldChange, SchemaChange, Transaction};
use deltabus_record::diff::{Difference, Known};
use deltabus_record::digest::Digest;
use deltabus_record::key::{Key, RECORD_KEY_BYTES_MAX};
use deltabus_record::row::Row;
use deltabus_record::schema::{
    Collection, CollectionName, FIELDS_MAX, Field, KeySpec, NAME_BYTES_MAX, ReceiverName, Schema, SourceName,
};
use deltabus_record::value::Value;
use deltabus_state::probe::{Probe, Step};
use deltabus_state::{
    ApplyError, Error, Heard, Owner, Requests, ScanIndex, ScanIndexWriter, StateDirectory, Store, Working, ask,
    is_busy, read_status,
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

/// Records by number, each with a value or not there.
fn some_records() -> impl Strategy<Value = BTreeMap<u8, u8>> {
    prop::collection::btree_map(0..40_u8, 0..3_u8, 0..30)
}

fn row(value: u8) -> Row {
    Row::of(&[Value::Integer(value.into())])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn what_a_comparison_found_is_taken_in_as_its_changes_are_applied(before in some_records(), after in some_records()) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let name = CollectionName::new("a");
        let mut batch = store.batch();
        batch.set_collection(&collection("a")).unwrap();
        for (key, value) in &before {
            batch.put(&name, &[*key], row(*value).as_bytes()).unwrap();
        }
        batch.commit().unwrap();
        let view = store.view();

        let keys: Vec<u8> = (0..40).filter(|key| before.get(key) != after.get(key)).collect();
        let asked: Vec<&[u8]> = keys.iter().map(std::slice::from_ref).collect();
        let mut rows = Vec::new();
        let mut take = |at: usize, row: Option<&[u8]>| {
            assert_eq!(at, rows.len(), "one after another");
            rows.push(row.map(Row::from_trusted));
            Ok(())
        };
        view.known(&name).get_many(&asked, &mut take).unwrap();
        let differences: Vec<Difference> = keys
            .iter()
            .zip(rows)
            .map(|(key, before)| {
                let after = after.get(key).map(|value| row(*value));
                Difference { key: Key::from_trusted([*key].as_slice()), before, after }
            })
            .collect();
        let changes: Vec<Change> = differences.iter().map(|difference| difference.to_change().unwrap()).collect();

        let mut applied = Working::new(&view, view.digest().unwrap());
        let changes = CollectionChanges { collection: name.clone(), changes };
        applied.apply(&Transaction { schemas: Vec::new(), collections: vec![changes] }).unwrap();
        let mut taken = Working::new(&view, view.digest().unwrap());
        taken.take_in(&[], vec![(name.clone(), differences)]);
        prop_assert_eq!(taken.digest(), applied.digest());
        prop_assert!(taken.touched().eq(applied.touched()));

        let mut batch = store.batch();
        taken.write(&mut batch).unwrap();
        batch.commit().unwrap();
        let now: BTreeMap<Vec<u8>, Vec<u8>> =
            after.iter().map(|(key, value)| (vec![*key], row(*value).as_bytes().to_vec())).collect();
        prop_assert_eq!(records(&store, "a"), now);
        prop_assert_eq!(store.view().digest().unwrap(), taken.digest());
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
fn a_load_of_any_order_and_size_keeps_the_last_of_each_key() {
    const COUNT: u32 = 9_000;
    // Rows of a KiB: several pieces, handed on while others are still being put.
    let row = |key: u32, round: u32| {
        let mut row = vec![b'.'; 1_000];
        row[..8].copy_from_slice(&[key.to_be_bytes(), round.to_be_bytes()].concat());
        row
    };
    let ascending: Vec<u32> = (0..COUNT).collect();
    let descending: Vec<u32> = (0..COUNT).rev().collect();
    let mixed: Vec<u32> = (0..COUNT).map(|at| at * 7 % COUNT).collect();
    let again = [ascending.clone(), ascending.clone(), descending.clone()].concat();
    let upwards_then_mixed = [ascending.clone(), mixed.clone()].concat();
    for keys in [ascending, descending, mixed, again, upwards_then_mixed] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let mut model = BTreeMap::new();
        let mut load = store.load(&collection("a")).unwrap();
        for (round, key) in keys.into_iter().enumerate() {
            let row = row(key, round as u32);
            load.put(&key.to_be_bytes(), &row).unwrap();
            model.insert(key.to_be_bytes().to_vec(), row);
        }
        let mut batch = store.batch();
        load.finish(&mut batch).unwrap();
        batch.commit().unwrap();
        assert!(records(&store, "a") == model);
        drop(store);
        assert!(records(&open(folder.path()), "a") == model);
    }
}

#[test]
fn a_large_unfinished_load_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut load = store.load(&collection("a")).unwrap();
    for key in 0..6_000u32 {
        load.put(&key.to_be_bytes(), &[b'.'; 1_000]).unwrap();
    }
    drop(load);
    drop(store);
    let store = open(folder.path());
    assert!(store.view().collections().is_empty());
    assert!(records(&store, "a").is_empty());
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

/// Fails one kind of step.
struct Failing(Step);

impl Probe for Failing {
    fn at(&self, step: Step) -> std::io::Result<()> {
        if step == self.0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[test]
fn what_a_probe_fails_before_the_commit_is_not_there_and_after_it_is() {
    let source = SourceName::new("people").unwrap();
    let owner = Owner::Transmitter { source };
    for (step, there) in [(Step::BeforeCommit, false), (Step::AfterCommit, true)] {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap().probed(Arc::new(Failing(step)));
        let store = state.store(&owner).unwrap();
        let mut batch = store.batch();
        batch.set_collection(&collection("a")).unwrap();
        batch.put(&CollectionName::new("a"), b"k", b"1").unwrap();
        assert!(matches!(batch.commit(), Err(Error::Store { doing: "commit", .. })));
        assert_eq!(records(&store, "a").len(), usize::from(there));
        drop(store);
        let state = StateDirectory::open(folder.path()).unwrap();
        assert_eq!(records(&state.store(&owner).unwrap(), "a").len(), usize::from(there));
    }
}

/// Every file below a folder with its content.
fn files(dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

/// A state directory with a receiver that has loaded and committed records.
fn with_receiver(folder: &Path) -> (StateDirectory, SourceName, ReceiverName) {
    let (source, receiver) = (SourceName::new("people").unwrap(), ReceiverName::new("oslo").unwrap());
    let state = StateDirectory::open(folder).unwrap();
    let store = state.store(&Owner::Receiver { source: source.clone(), receiver: receiver.clone() }).unwrap();
    let mut batch = store.batch();
    let mut load = store.load(&collection("a")).unwrap();
    load.put(b"loaded", b"row").unwrap();
    load.finish(&mut batch).unwrap();
    batch.commit().unwrap();
    let mut batch = store.batch();
    batch.put(&CollectionName::new("a"), b"put", b"row").unwrap();
    batch.commit().unwrap();
    (state, source, receiver)
}

#[test]
fn a_copy_is_a_store_of_its_own_and_the_original_stays_as_it_is_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (state, source, receiver) = with_receiver(folder.path());
    let original = state.receiver_folder(&source, &receiver);
    let before = files(&original);
    let scratch = state.scratch().unwrap();
    assert!(state.copy_receiver(&source, &receiver, scratch.directory()).unwrap());
    let owner = Owner::Receiver { source: source.clone(), receiver: receiver.clone() };
    let copy = scratch.directory().store(&owner).unwrap();
    assert_eq!(records(&copy, "a").into_keys().collect::<Vec<_>>(), [b"loaded".to_vec(), b"put".to_vec()]);
    let mut batch = copy.batch();
    batch.remove_collection(&CollectionName::new("a")).unwrap();
    batch.commit().unwrap();
    drop(copy);
    let path = scratch.directory().path().to_owned();
    drop(scratch);
    assert!(!path.exists());
    assert_eq!(files(&original), before);
    let reopened = state.store(&owner).unwrap();
    assert_eq!(records(&reopened, "a").len(), 2);
}

#[test]
fn a_running_receiver_is_not_copied_and_one_that_never_was_has_nothing_to_copy() {
    let folder = tempfile::tempdir().unwrap();
    let (state, source, receiver) = with_receiver(folder.path());
    let scratch = state.scratch().unwrap();
    let nobody = ReceiverName::new("nobody").unwrap();
    assert!(!state.copy_receiver(&source, &nobody, scratch.directory()).unwrap());
    assert!(!state.receiver_folder(&source, &nobody).exists());
    let _running = state.store(&Owner::Receiver { source: source.clone(), receiver: receiver.clone() }).unwrap();
    let copied = state.copy_receiver(&source, &receiver, scratch.directory());
    assert!(matches!(copied, Err(Error::Busy { .. })));
}

#[test]
fn what_a_killed_process_left_goes_and_what_a_living_one_uses_stays() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(folder.path()).unwrap();
    let used = state.scratch().unwrap();
    let left = folder.path().join("scratch/left");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("lock"), "12345\n").unwrap();
    let another = state.scratch().unwrap();
    assert!(!left.exists());
    assert!(used.directory().path().exists() && another.directory().path().exists());
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn who_holds_a_folder_is_asked_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let requests = Requests::of(&store);
    assert!(requests.take().is_none());
    let dir = folder.path().to_owned();
    let asking = std::thread::spawn(move || ask(&dir, "how\nmany?", PATIENCE).unwrap());
    let request = loop {
        match requests.take() {
            Some(request) => break request,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(request.question, "how\nmany?");
    request.answer("seven").unwrap();
    assert_eq!(asking.join().unwrap(), Heard::Answer("seven".into()));
    assert_eq!(std::fs::read_dir(folder.path().join("requests")).unwrap().count(), 0);
}

#[test]
fn nobody_is_not_waited_for_and_does_nothing_later() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    assert_eq!(ask(folder.path(), "anybody?", PATIENCE).unwrap(), Heard::Nobody);
    assert!(Requests::of(&open(folder.path())).take().is_none());
}

#[test]
fn who_does_not_listen_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(ask(folder.path(), "hello?", std::time::Duration::ZERO).unwrap(), Heard::Deaf);
    assert!(Requests::of(&store).take().is_none());
}

#[test]
fn who_ends_before_the_answer_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let dir = folder.path().to_owned();
    let asking = std::thread::spawn(move || ask(&dir, "hello?", PATIENCE).unwrap());
    let requests = Requests::of(&store);
    while requests.take().is_none() {
        std::thread::yield_now();
    }
    drop(store);
    assert_eq!(asking.join().unwrap(), Heard::Ended);
}

#[test]
fn keys_that_are_too_long_are_refused_and_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let name = CollectionName::new("a");
    let mut batch = store.batch();
    batch.set_collection(&collection("a")).unwrap();
    batch.commit().unwrap();
    let long = vec![7; 70_000];
    let mut batch = store.batch();
    assert!(matches!(batch.put(&name, &long, b""), Err(Error::Key { bytes: 70_000, .. })));
    batch.remove(&name, &long).unwrap();
    assert!(matches!(batch.set_collection(&collection(&"a".repeat(70_000))), Err(Error::Schema { .. })));
    assert!(matches!(batch.meta_put(&"a".repeat(70_000), b""), Err(Error::KeyTooLong { .. })));
    assert!(matches!(store.load(&collection("a")).unwrap().put(&long, b""), Err(Error::Key { .. })));
    assert!(!store.view().get(&name, &long, &mut Vec::new()).unwrap());
    assert_eq!(store.view().meta(&"a".repeat(70_000)).unwrap(), None);
    // What is put on top is found by a hash.
    batch.overlay_put(&name, &long, b"o");
    batch.commit().unwrap();
    assert_eq!(store.view().overlay(&name, &long).unwrap().as_deref(), Some(&b"o"[..]));
    assert_eq!(store.view().overlay(&name, &[8; 70_000]).unwrap(), None);
}

#[test]
fn what_is_loaded_after_a_load_that_was_broken_off_is_there_ever_after() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..6u8 {
        let store = open(folder.path());
        let mut broken_off = store.load(&collection("a")).unwrap();
        broken_off.put(b"k", b"0").unwrap();
        drop(broken_off);
        drop(store);
        let store = open(folder.path());
        let mut load = store.load(&collection("a")).unwrap();
        load.put(b"k", &[round]).unwrap();
        let mut batch = store.batch();
        load.finish(&mut batch).unwrap();
        batch.commit().unwrap();
        drop(store);
        assert_eq!(records(&open(folder.path()), "a")[&b"k"[..]], [round]);
    }
}

#[test]
fn what_is_put_aside_stays_until_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let name = CollectionName::new("a");
    let aside = |store: &Store| {
        let view = store.view().aside();
        let mut row = Vec::new();
        view.get(&name, b"k", &mut row).unwrap().then_some(row)
    };
    let mut store = open(folder.path());
    let mut batch = store.batch();
    batch.set_collection(&collection("a")).unwrap();
    batch.put(&name, b"k", b"old").unwrap();
    batch.commit().unwrap();
    assert_eq!(aside(&store), None);
    let mut load = store.load(&collection("a")).unwrap();
    load.put(b"k", b"new").unwrap();
    let mut batch = store.batch();
    batch.put_aside();
    load.finish(&mut batch).unwrap();
    batch.commit().unwrap();
    for _ in 0..2 {
        assert_eq!(aside(&store), Some(b"old".to_vec()));
        assert_eq!(records(&store, "a")[&b"k"[..]], b"new");
        drop(store);
        store = open(folder.path());
    }
    let mut batch = store.batch();
    batch.drop_aside();
    batch.commit().unwrap();
    drop(store);
    store = open(folder.path());
    assert_eq!(aside(&store), None);
    assert!(store.view().aside().collections().is_empty());
    assert_eq!(records(&store, "a")[&b"k"[..]], b"new");
}

#[test]
fn a_copy_of_a_store_in_use_has_all_of_it_and_a_life_of_its_own() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (name, long) = (CollectionName::new("a"), vec![7; RECORD_KEY_BYTES_MAX]);
    let store = open(folder.path());
    let mut batch = store.batch();
    batch.set_collection(&collection("a")).unwrap();
    batch.put(&name, b"k", b"aside").unwrap();
    batch.commit().unwrap();
    let mut batch = store.batch();
    batch.put_aside();
    batch.set_collection(&collection("a")).unwrap();
    batch.set_collection(&collection("empty")).unwrap();
    batch.put(&name, b"k", b"row").unwrap();
    batch.put(&name, &long, b"long").unwrap();
    batch.overlay_put(&name, b"k", b"over");
    batch.overlay_put(&name, &long, b"over a long one");
    batch.outbox_put(3, b"three");
    batch.meta_put("position", b"here").unwrap();
    batch.commit().unwrap();
    store.copy_to(other.path(), &owner()).unwrap();
    let copy = open(other.path());
    let all = |store: &Store| {
        let (view, mut aside) = (store.view(), Vec::new());
        let found = view.aside().get(&name, b"k", &mut aside).unwrap();
        let overlays = [view.overlay(&name, b"k").unwrap(), view.overlay(&name, &long).unwrap()];
        let outbox: Vec<_> = view.outbox(0).map(Result::unwrap).collect();
        let collections = view.collections().to_vec();
        (collections, found, aside, overlays, outbox, view.meta_prefix("p").unwrap(), records(store, "a"))
    };
    assert_eq!(all(&copy), all(&store));
    assert!(all(&copy).1 && all(&copy).3.iter().all(Option::is_some));
    let before = all(&store);
    let mut batch = copy.batch();
    batch.put(&name, b"k", b"another").unwrap();
    batch.outbox_remove(3);
    batch.commit().unwrap();
    assert_eq!(all(&store), before);
    assert_ne!(all(&copy), before);
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
    let longest = vec![7; RECORD_KEY_BYTES_MAX];
    batch.put(&name, &longest, b"row").unwrap();
    batch.overlay_put(&name, &longest, b"over");
    for key in [vec![7; RECORD_KEY_BYTES_MAX + 1], vec![7; 100_000], Vec::new()] {
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
    for key in [vec![7; RECORD_KEY_BYTES_MAX + 1], vec![7; 100_000], Vec::new()] {
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
