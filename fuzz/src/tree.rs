//! A directory tree that somebody else made: its `.deltabus`, and names that lead out of it.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use deltabus_interfaces::{Action, CollectionWrite, Decoded, Extent, Location, NoContents, RecordWrite, Stamp, open};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::CollectionName;
use deltabus_record::schema::{Collection, Field, KeySpec, Schema};
use deltabus_record::value::{Instant, Kind, Value};

use crate::input::Input;

/// Entries that one input may write.
const ENTRIES_MAX: usize = 8;

/// What stands beside the tree, and has to be there afterwards as it was.
const OUTSIDE: &str = "outside";

thread_local! {
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// A tree with a few entries, made anew in a folder of its own.
fn fresh() -> (PathBuf, PathBuf) {
    let folder = FOLDER.with(|folder| folder.get_or_init(crate::stores::scratch).path().to_owned());
    let (tree, outside) = (folder.join("tree"), folder.join(OUTSIDE));
    let _ = restore_rights(&tree);
    let _ = std::fs::remove_dir_all(&tree);
    let there = "a folder for temporary files";
    std::fs::create_dir_all(tree.join("sub")).expect(there);
    std::fs::create_dir_all(&outside).expect(there);
    std::fs::write(outside.join("file"), OUTSIDE).expect(there);
    std::fs::write(tree.join("file"), b"content").expect(there);
    std::fs::write(tree.join("sub/other"), b"other").expect(there);
    std::os::unix::fs::symlink("../outside", tree.join("out")).expect(there);
    (tree, outside)
}

/// So that a tree whose folders lost their rights can be removed.
fn restore_rights(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::symlink_metadata(path)?.is_dir() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(path)? {
            restore_rights(&entry?.path())?;
        }
    }
    Ok(())
}

fn check_outside(outside: &Path) {
    let names: Vec<_> = std::fs::read_dir(outside).expect("it stands").flatten().map(|it| it.file_name()).collect();
    assert_eq!(names, ["file"], "nothing comes or goes outside");
    assert_eq!(std::fs::read(outside.join("file")).expect("it stands"), OUTSIDE.as_bytes());
}

/// A journal that a commit is said to have left, as it stands or with its hash put right, and a file of marks.
pub(crate) fn journal(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.byte();
    let marks = input.piece();
    let (tree, outside) = fresh();
    let work = tree.join(".deltabus");
    let there = "a folder for temporary files";
    std::fs::create_dir_all(work.join("0")).expect(there);
    std::fs::write(work.join("0/0"), b"new").expect(there);
    std::fs::write(work.join("marks"), marks).expect(there);
    let journal = match kind & 1 {
        0 => input.rest().to_vec(),
        _ => {
            let mut journal = b"deltabus journal 1\n".to_vec();
            for step in input.pieces(ENTRIES_MAX) {
                journal.extend_from_slice(&(step.len() as u32).to_le_bytes());
                journal.extend_from_slice(step);
            }
            let hash = blake3::hash(&journal);
            journal.extend_from_slice(hash.as_bytes());
            journal
        }
    };
    std::fs::write(work.join("journal"), journal).expect(there);
    let location = Location::parse(&format!("tree:{}", tree.display())).expect("a location");
    let interface = open(&location).expect("no options");
    let _ = interface.mark("source/receiver");
    read(interface.as_ref());
    check_outside(&outside);
}

fn read(interface: &dyn deltabus_interfaces::Interface) -> Vec<Row> {
    let mut rows = Vec::new();
    let Ok(mut scan) = interface.scan(None) else { return rows };
    if scan.start(0, Extent::Whole).is_err() {
        return rows;
    }
    let mut row = RowBuilder::default();
    while let Ok(Some(_)) = scan.next() {
        row.clear();
        if let Ok(Decoded::Record) = scan.decode(&mut row) {
            rows.push(Row::from_bytes(row.as_bytes()).expect("a scan gives canonical rows"));
        }
    }
    let _ = scan.finish();
    rows
}

/// Entries that a source is said to have: each a byte for its type, one for its mode, and its path, and what is in it.
pub(crate) fn entries(bytes: &[u8]) {
    let (tree, outside) = fresh();
    let location = Location::parse(&format!("tree:{}", tree.display())).expect("a location");
    let interface = open(&location).expect("no options");
    let fields = [
        ("path", Kind::Text),
        ("type", Kind::Text),
        ("content", Kind::Large),
        ("target", Kind::Text),
        ("mode", Kind::Integer),
        ("mtime", Kind::Instant),
    ];
    let fields = fields.iter().enumerate().map(|(at, (name, kind))| Field::new(*name, Some(*kind), at as u32));
    let schema = Schema { fields: fields.collect(), key: KeySpec::Fields(vec![0]) };
    let collection = Collection { name: CollectionName::new("tree"), schema };
    let mut writes: Vec<RecordWrite> = Vec::new();
    let mut input = Input::new(bytes);
    while !input.is_empty() && writes.len() < ENTRIES_MAX {
        let kind = input.byte();
        let name = ["file", "folder", "link", "special"][usize::from(kind & 3)];
        let mode = if kind & 4 == 0 { Value::Null } else { Value::Integer(i64::from(input.byte()) << 4) };
        let mtime = match kind & 8 {
            0 => Value::Null,
            _ => Value::Instant(Instant {
                seconds: i64::from(input.byte()) << (input.byte() % 60),
                nanos: 999_999_999,
                offset_seconds: 0,
            }),
        };
        let path = Value::Text(String::from_utf8_lossy(input.piece()).into_owned());
        let inside = input.piece();
        let target = match name {
            "link" => Value::Text(String::from_utf8_lossy(inside).into_owned()),
            _ => Value::Null,
        };
        let content = if name == "file" { Value::Bytes(inside.to_vec()) } else { Value::Null };
        let mut values = Vec::new();
        for (value, field) in
            [path, Value::text(name), content, target, mode, mtime].into_iter().zip(&collection.schema.fields)
        {
            let projected = match interface.verbatim(field).contains(value.kind()) {
                true => Ok(value),
                false => interface.project(value, field),
            };
            match projected {
                Ok(value) => values.push(value),
                Err(refusal) => assert!(!refusal.reason.is_empty()),
            }
        }
        if values.len() < collection.schema.fields.len() {
            continue;
        }
        let row = Row::of(&values);
        let key = collection.schema.key_of(row.as_bytes(), 0);
        if writes.iter().any(|write| matches!(write, RecordWrite::Put { key: other, .. } | RecordWrite::Remove { key: other, .. } if *other == key)) {
            continue;
        }
        let changed = (0..values.len() as u32).collect();
        writes.push(match kind & 16 {
            0 => RecordWrite::Put { key, row, changed },
            _ => RecordWrite::Remove { key, row },
        });
    }
    let stamp = interface.stamp().unwrap_or(Stamp::MISSING);
    let before = read(interface.as_ref());
    assert_eq!(before.len(), 4);
    let mut write = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&writes) }];
    if let Ok(staged) = interface.stage(&mut write, &stamp, None, &NoContents) {
        if staged.commit().is_ok() {
            let after = read(interface.as_ref());
            let alone = !writes.iter().any(|write| matches!(write, RecordWrite::Remove { .. }));
            for write in writes.iter().filter(|_| alone) {
                let RecordWrite::Put { row, .. } = write else { continue };
                let there = after.iter().any(|other| other.value(0) == row.value(0) && other.value(1) == row.value(1));
                assert!(there, "what is written is there: {row:?}\n{after:?}");
            }
        }
    } else {
        assert_eq!(read(interface.as_ref()), before, "what can't be staged does nothing");
    }
    check_outside(&outside);
}
