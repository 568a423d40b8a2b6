//! What is written is there; what could not be is an error that changes nothing.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use deltabus_interfaces::{Action, CollectionWrite, Contents, Error, RecordWrite, Stamp};
use deltabus_record::row::Row;
use deltabus_record::schema::Field;
use deltabus_record::value::{Kind, Large, Value};
use proptest::prelude::*;

use crate::support::*;

#[test]
fn a_tree_is_loaded_and_read_back() {
    let model = model([
        ("empty", file("")),
        ("empty folder", folder()),
        ("a/b/c", file("deep")),
        ("a", Entry::Folder { mode: 0o750 }),
        ("a/b", Entry::Folder { mode: 0o1777 }),
        ("link", link("a/b/c")),
        ("a/dangling", link("/nowhere/at all")),
        ("read-only", Entry::File { content: b"x".to_vec(), mode: 0o400, mtime: -5 }),
        ("program", Entry::File { content: b"x".to_vec(), mode: 0o4755, mtime: 5_000_000_000 }),
        ("é\n\u{1f600} \\", file("name")),
        ("large", file(vec![7; 3_000_000])),
    ]);
    let tree = Tree::new("");
    assert_eq!(tree.stamp(), Stamp::MISSING);
    assert!(matches!(tree.scan(), Err(Error::Missing { .. })));
    let stamp = tree.load(&model).unwrap();
    assert_eq!(tree.on_disk(), model);
    let found = tree.scan().unwrap();
    assert_eq!(found.model, model);
    assert_eq!((found.stamp, found.unread), (stamp, Vec::new()));
}

/// Paths that meet each other in every way.
fn paths() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "é"]), 1..4).prop_map(|names| names.join("/"))
}

fn entries() -> impl Strategy<Value = Entry> {
    let content = prop_oneof![Just(Vec::new()), prop::collection::vec(0..3u8, 0..3), Just(vec![5; 70_000])];
    let mode = || prop::sample::select(vec![0o644, 0o600, 0o755, 0o444]);
    prop_oneof![
        4 => (content, mode(), 0..3i64).prop_map(|(content, mode, mtime)| Entry::File { content, mode, mtime }),
        3 => prop::sample::select(vec![0o755, 0o700, 0o555]).prop_map(|mode| Entry::Folder { mode }),
        2 => prop::sample::select(vec!["a", "../..", "/etc", "b/a"]).prop_map(link),
    ]
}

/// A tree: every entry is in a folder that is in it.
fn trees() -> impl Strategy<Value = Model> {
    prop::collection::btree_map(paths(), entries(), 0..14).prop_map(|mut model| {
        let paths: Vec<_> = model.keys().cloned().collect();
        for path in paths {
            for (at, _) in path.match_indices('/') {
                let parent = model.entry(path[..at].to_owned()).or_insert_with(folder);
                if !matches!(parent, Entry::Folder { .. }) {
                    *parent = folder();
                }
            }
        }
        model
    })
}

/// The same tree with something renamed.
fn renamed(tree: &Model, which: usize, to: &str) -> Model {
    let Some(from) = tree.keys().nth(which % tree.len().max(1)).cloned() else { return tree.clone() };
    let below = format!("{from}/");
    if tree.contains_key(to) || to.starts_with(&below) {
        return tree.clone();
    }
    let moved = |path: &String| match path.strip_prefix(&below) {
        Some(rest) => format!("{to}/{rest}"),
        None if *path == from => to.to_owned(),
        None => path.clone(),
    };
    tree.iter().map(|(path, entry)| (moved(path), entry.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn renames_lead_where_they_say(
        tree in trees(),
        renames in prop::collection::vec((any::<usize>(), prop::sample::select(vec!["x", "y", "z"]), any::<bool>()), 1..6),
    ) {
        let mut before = tree;
        let mut tree = Tree::with(&before);
        for (which, to, forgets) in renames {
            if forgets {
                tree.reopen("");
            }
            let after = renamed(&before, which, to);
            let writes = tree.writes(&before, &after);
            tree.chest.asked();
            tree.write(&writes).unwrap();
            prop_assert_eq!(tree.chest.asked(), Vec::new());
            prop_assert_eq!(&tree.on_disk(), &after);
            prop_assert_eq!(&tree.scan().unwrap().model, &after);
            before = after;
        }
    }

    #[test]
    fn writes_lead_from_any_tree_to_any_other(steps in prop::collection::vec((trees(), any::<bool>()), 2..5)) {
        let mut tree = Tree::with(&steps[0].0);
        let mut before = steps[0].0.clone();
        for (after, forgets) in &steps[1..] {
            if *forgets {
                tree.reopen("");
            }
            let writes = tree.writes(&before, after);
            tree.write(&writes).unwrap();
            prop_assert_eq!(&tree.on_disk(), after);
            prop_assert_eq!(&tree.scan().unwrap().model, after);
            before = after.clone();
        }
    }
}

#[test]
fn a_file_that_moves_is_the_same_file_and_nothing_is_fetched() {
    for forgets in [false, true] {
        let before = model([("a", file("moving")), ("b/c", file(vec![1; 100_000])), ("b", folder()), ("d", file("x"))]);
        let mut tree = Tree::with(&before);
        let inode = |path: &str| fs::metadata(tree.path(path)).unwrap().ino();
        let inodes = [inode("a"), inode("b/c")];
        if forgets {
            tree.reopen("");
        }
        let private = Entry::File { content: b"moving".to_vec(), mode: 0o600, mtime: 7 };
        let after = model([
            ("deep/in/here", private),
            ("deep", folder()),
            ("deep/in", folder()),
            ("a", file(vec![1; 100_000])),
            ("d", file("x")),
        ]);
        let writes = tree.writes(&before, &after);
        tree.chest.asked();
        // `a` gets the content of `b/c`, and its own goes elsewhere: that one alone can't be moved, and isn't known by hash
        // to a process that has just begun.
        tree.write(&writes).unwrap();
        assert_eq!(tree.on_disk(), after);
        let inode = |path: &str| fs::metadata(tree.path(path)).unwrap().ino();
        assert_eq!(inode("a"), inodes[1]);
        assert_eq!(tree.chest.asked().len(), usize::from(forgets));
    }
}

#[test]
fn renaming_a_folder_moves_no_content() {
    let files = (0..1000).map(|at| (format!("old/{}/{at}", at % 7), file(format!("{}", at % 990))));
    let mut before: Model = files.collect();
    before.insert("old".into(), folder());
    before.extend((0..7).map(|at| (format!("old/{at}"), folder())));
    let mut tree = Tree::with(&before);
    tree.reopen("");
    let after: Model = before.iter().map(|(path, entry)| (path.replace("old", "new/name"), entry.clone())).collect();
    let after: Model = after.into_iter().chain([("new".to_owned(), folder())]).collect();
    let inodes = |name: &str| -> Vec<u64> {
        let mut inodes: Vec<_> = before.keys().map(|path| path.replace("old", name)).collect();
        inodes.retain(|path| tree.path(path).is_file());
        let mut inodes: Vec<_> = inodes.iter().map(|path| fs::metadata(tree.path(path)).unwrap().ino()).collect();
        inodes.sort_unstable();
        inodes
    };
    let (writes, old) = (tree.writes(&before, &after), inodes("old"));
    tree.chest.asked();
    tree.write(&writes).unwrap();
    assert_eq!(tree.chest.asked(), []);
    assert_eq!(inodes("new/name"), old);
    assert_eq!(tree.on_disk(), after);
    assert_eq!(tree.scan().unwrap().model, after);
    // The folder itself was moved, unlike one that differs in anything.
    let folder_inode = |path: &str| fs::metadata(tree.path(path)).unwrap().ino();
    let (whole, part) = (folder_inode("new/name/3"), folder_inode("new/name/4"));
    let mut next: Model = after.clone();
    next.retain(|path, _| !path.starts_with("new/name/3") && !path.starts_with("new/name/4"));
    for (path, entry) in &after {
        if let Some(rest) = path.strip_prefix("new/name/3") {
            next.insert(format!("three{rest}"), entry.clone());
        } else if let Some(rest) = path.strip_prefix("new/name/4").filter(|rest| *rest != "/4") {
            next.insert(format!("four{rest}"), entry.clone());
        }
    }
    fs::write(tree.path("new/name/3/theirs"), "theirs").unwrap();
    let with_theirs = tree.scan().unwrap().stamp;
    let writes = tree.writes(&after, &next);
    let mut write = [CollectionWrite { collection: &tree.collection, dropped: &[], action: Action::Write(&writes) }];
    tree.interface.stage(&mut write, &with_theirs, None, &tree.chest).unwrap().commit().unwrap();
    assert_ne!((folder_inode("three"), folder_inode("four")), (whole, part));
    assert_eq!(fs::read(tree.path("new/name/3/theirs")).unwrap(), b"theirs");
    fs::remove_dir_all(tree.path("new/name/3")).unwrap();
    assert_eq!(tree.on_disk(), next);
    let three = folder_inode("three");
    let last: Model = next.iter().map(|(path, entry)| (path.replace("three", "four/3"), entry.clone())).collect();
    tree.write(&tree.writes(&next, &last)).unwrap();
    assert_eq!(tree.on_disk(), last);
    assert_eq!(folder_inode("four/3"), three);
    assert_eq!(tree.chest.asked(), []);
}

#[test]
fn a_copy_is_made_here_and_a_changed_file_is_offered_for_its_chunks() {
    let before = model([("a", file(vec![9; 300_000])), ("b", file("b"))]);
    let tree = Tree::with(&before);
    tree.chest.asked();
    let with_copy = model([("a", file(vec![9; 300_000])), ("b", file("b")), ("copy", file(vec![9; 300_000]))]);
    tree.write(&tree.writes(&before, &with_copy)).unwrap();
    assert_eq!(tree.chest.asked(), []);
    let mut changed = with_copy.clone();
    changed.insert("a".into(), file(vec![8; 300_000]));
    tree.write(&tree.writes(&with_copy, &changed)).unwrap();
    assert_eq!(tree.chest.asked(), [(large(&[8; 300_000]), Some(tree.path("a")))]);
    assert_eq!(tree.on_disk(), changed);
}

#[test]
fn only_the_fields_that_changed_are_written() {
    let before = model([("a", file("a")), ("b", folder())]);
    let tree = Tree::with(&before);
    let inode = fs::metadata(tree.path("a")).unwrap().ino();
    tree.chest.asked();
    let after = model([
        ("a", Entry::File { content: b"a".to_vec(), mode: 0o600, mtime: 5 }),
        ("b", Entry::Folder { mode: 0o700 }),
    ]);
    tree.write(&tree.writes(&before, &after)).unwrap();
    assert_eq!(tree.on_disk(), after);
    assert_eq!((fs::metadata(tree.path("a")).unwrap().ino(), tree.chest.asked().len()), (inode, 0));
    // What somebody made of the mode here stands when only the content changes.
    fs::set_permissions(tree.path("a"), Permissions::from_mode(0o640)).unwrap();
    let next = model([("a", Entry::File { content: b"new".to_vec(), mode: 0o600, mtime: 5 })]);
    tree.write(&[tree.put("a", Some(&after["a"]), &next["a"])]).unwrap();
    assert_eq!(tree.on_disk()["a"], Entry::File { content: b"new".to_vec(), mode: 0o640, mtime: 5 });
}

#[test]
fn hostile_records_are_errors_and_change_nothing() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "old").unwrap();
    let there = model([("a", file("a")), ("b", folder()), ("link", link(outside.path().to_str().unwrap()))]);
    let tree = Tree::with(&there);
    let marks = fs::read(tree.path(".deltabus/marks")).unwrap();
    let absolute = outside.path().join("victim").to_str().unwrap().to_owned();
    let long = "a".repeat(300);
    let paths = [
        "",
        "/",
        "..",
        "../victim",
        "b/../../x",
        "b/./x",
        "./x",
        "b//x",
        "b/",
        "x\0y",
        ".deltabus/marks",
        ".Deltabus/lock",
        ".deltabus",
        "a/x",
        "a/x/y",
        "link/victim",
        "link/new",
        "link/new/deep",
        &absolute,
        &long,
        "\\x2e\\x2e/x",
        "\\x2fetc",
        "b/\\x00",
    ];
    for path in paths {
        for entry in [file("evil"), folder(), link("/etc")] {
            let write = tree.put(path, None, &entry);
            let error = tree.write(std::slice::from_ref(&write)).unwrap_err();
            assert!(matches!(error, Error::Write { .. }), "{path}: {error:?}");
            // Also beside good ones.
            assert!(tree.write(&[tree.put("good", None, &file("good")), write]).is_err(), "{path}");
        }
        let removed = tree.write(&[tree.remove(path, &file("evil"))]);
        assert!(matches!(removed, Err(Error::Write { .. }) | Ok(_)), "{path}: {removed:?}");
    }
    // A link that the same set makes, and what is "below" it.
    let through = [tree.put("new", None, &link("..")), tree.put("new/x", None, &file("evil"))];
    assert!(matches!(tree.write(&through), Err(Error::Write { .. })));
    let replaced = [tree.put("b", Some(&there["b"]), &link("..")), tree.put("b/x", None, &file("evil"))];
    assert!(matches!(tree.write(&replaced), Err(Error::Write { .. })));
    assert_eq!(tree.on_disk(), there);
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"old");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(fs::read(tree.path(".deltabus/marks")).unwrap().len() >= marks.len());
}

#[test]
fn a_record_that_is_no_entry_is_an_error_and_changes_nothing() {
    let tree = Tree::with(&model([("a", file("a"))]));
    let there = tree.on_disk();
    let slot = |name: &str| tree.collection.schema.slot(name).unwrap();
    let spoilt: [(Entry, &str, Value); 12] = [
        (file(""), "content", Value::Null),
        (file(""), "mode", Value::Null),
        (file(""), "mode", Value::Integer(0o10000)),
        (file(""), "mtime", Value::Null),
        (file(""), "target", Value::text("x")),
        (file(""), "type", Value::text("device")),
        (folder(), "content", Value::Bytes(Vec::new())),
        (folder(), "mtime", Value::Integer(1)),
        (link("x"), "target", Value::text("")),
        (link("x"), "target", Value::text("a\0b")),
        (link("x"), "target", Value::Null),
        (link("x"), "mode", Value::Integer(0o777)),
    ];
    for (entry, field, value) in spoilt {
        let mut values = tree.row("new", &entry).values();
        values.resize(tree.collection.schema.fields.len(), Value::Null);
        values[slot(field)] = value;
        let write = RecordWrite::Put { key: key("new"), row: Row::of(&values), changed: (0..6).collect() };
        assert!(matches!(tree.write(&[write]), Err(Error::Write { .. })), "{entry:?}, {field}");
    }
    // A content that is not what its reference says.
    for content in ["evil", "longer", ""] {
        let write = tree.put("a", None, &file("good"));
        tree.chest.spoil(&large(b"good"), content.as_bytes());
        assert!(matches!(tree.write(&[write]), Err(Error::Content { .. })));
    }
    // A field that a tree can't have.
    let mut wide = tree.collection.clone();
    wide.schema.fields.push(Field::new("owner", Some(Kind::Text), 9));
    let mut writes = [CollectionWrite { collection: &wide, dropped: &[], action: Action::Write(&[]) }];
    let staged = tree.interface.stage(&mut writes, &tree.stamp(), None, &tree.chest);
    assert!(matches!(staged.err(), Some(Error::Unsupported { .. })));
    assert_eq!(tree.on_disk(), there);
}

#[test]
fn an_edit_that_is_in_the_way_is_kept_and_one_that_is_not_is_found_later() {
    let there = model([("a", file("a")), ("b", file("b")), ("c/d", file("d")), ("c", folder())]);
    let tree = Tree::with(&there);
    let expected = tree.scan().unwrap().stamp;
    fs::write(tree.path("b"), "theirs").unwrap();
    fs::write(tree.path("c/new"), "theirs").unwrap();
    for write in [
        tree.put("b", Some(&there["b"]), &file("ours")),
        tree.remove("b", &there["b"]),
        tree.put("c/new", None, &file("ours")),
    ] {
        assert!(matches!(tree.write_at(&[write], &expected), Err(Error::Changed { .. })));
    }
    let mut writes = [tree.put("a", Some(&there["a"]), &file("ours")), tree.remove("c/d", &there["c/d"])];
    let mut write = [CollectionWrite { collection: &tree.collection, dropped: &[], action: Action::Write(&writes) }];
    let staged = tree.interface.stage(&mut write, &expected, None, &tree.chest).unwrap();
    // Theirs is not in the way, yet the stamp doesn't take it for known.
    let stamp = staged.commit().unwrap();
    assert_ne!(stamp, tree.stamp());
    assert_eq!(fs::read(tree.path("a")).unwrap(), b"ours");
    assert_eq!(fs::read(tree.path("b")).unwrap(), b"theirs");
    assert!(!tree.path("c/d").exists());
    // Between staging and commit.
    writes[0] = tree.put("a", None, &file("ours again"));
    let mut write =
        [CollectionWrite { collection: &tree.collection, dropped: &[], action: Action::Write(&writes[..1]) }];
    let staged = tree.interface.stage(&mut write, &stamp, None, &tree.chest).unwrap();
    fs::write(tree.path("a"), "theirs").unwrap();
    assert!(matches!(staged.commit(), Err(Error::Changed { .. })));
    assert_eq!(fs::read(tree.path("a")).unwrap(), b"theirs");
}

#[test]
fn what_is_ignored_stays_and_nothing_is_written_there() {
    let there = model([("a/b", file("b")), ("a", folder()), ("c", file("c"))]);
    let mut tree = Tree::with(&there);
    tree.reopen("?ignore=*.tmp");
    fs::write(tree.path("a/x.tmp"), "ours").unwrap();
    assert!(matches!(tree.write(&[tree.put("new.tmp", None, &file("x"))]), Err(Error::Write { .. })));
    // The folder that holds it can't become a file, and stays when it is to go.
    let writes = [tree.remove("a/b", &there["a/b"]), tree.put("a", Some(&there["a"]), &file("for a folder"))];
    assert!(matches!(tree.write(&writes), Err(Error::Write { .. })));
    let stamp = tree.stamp();
    let writes = [tree.remove("a/b", &there["a/b"]), tree.remove("a", &there["a"]), tree.remove("a/x.tmp", &file(""))];
    let mut write = [CollectionWrite { collection: &tree.collection, dropped: &[], action: Action::Write(&writes) }];
    let after = tree.interface.stage(&mut write, &stamp, None, &tree.chest).unwrap().commit().unwrap();
    assert_ne!(after, tree.stamp(), "the next look finds the folder");
    assert_eq!(fs::read(tree.path("a/x.tmp")).unwrap(), b"ours");
    assert_eq!(tree.scan().unwrap().model.keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn folders_without_the_right_to_write_are_written_and_stay_so() {
    bound_by_permissions("writing::folders_without_the_right_to_write_are_written_and_stay_so", || {
        let closed = || Entry::Folder { mode: 0o555 };
        let read_only = |content: &str| Entry::File { content: content.into(), mode: 0o444, mtime: 1 };
        let before = model([("a", closed()), ("a/b", read_only("b")), ("a/c", closed()), ("a/c/d", read_only("d"))]);
        let after = model([("a", closed()), ("a/b", read_only("new")), ("a/e", closed()), ("a/e/f", read_only("f"))]);
        let tree = Tree::with(&before);
        assert_eq!(tree.on_disk(), before);
        tree.write(&tree.writes(&before, &after)).unwrap();
        assert_eq!(tree.on_disk(), after);
        tree.commit(Action::Remove, &tree.stamp()).unwrap();
        assert_eq!(tree.on_disk(), Model::new());
    });
}

#[test]
fn sparse_files_keep_their_holes_and_copies_do_too() {
    let mut content = vec![0; 20 << 20];
    content[7 << 20..(7 << 20) + 5].fill(1);
    let before = model([("sparse", file(&content)), ("all hole", file(vec![0; 1 << 20]))]);
    let tree = Tree::with(&before);
    let after = model([("sparse", file(&content)), ("copy", file(&content)), ("all hole", file(vec![0; 1 << 20]))]);
    tree.write(&tree.writes(&before, &after)).unwrap();
    assert_eq!(tree.on_disk(), after);
    for name in ["sparse", "copy", "all hole"] {
        let blocks = fs::metadata(tree.path(name)).unwrap().blocks();
        assert!(blocks * 512 < 128 * 1024, "{name}: {blocks} blocks of 512 bytes");
    }
}

#[test]
fn a_process_killed_in_the_middle_of_a_large_file_leaves_the_old_one() {
    const ROOT: &str = "DELTABUS_TEST_TREE";
    const TEST: &str = "writing::a_process_killed_in_the_middle_of_a_large_file_leaves_the_old_one";
    /// Gives half of what it was asked for, says so, and then nothing for ever.
    struct Half;
    impl Contents for Half {
        fn read<'a>(&'a self, _: &Large, _: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>, Error> {
            Ok(Box::new(std::io::repeat(7).take(8 << 20).chain(Stuck)))
        }
    }
    struct Stuck;
    impl Read for Stuck {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            println!("half way");
            loop {
                std::thread::park();
            }
        }
    }
    if let Some(root) = std::env::var_os(ROOT) {
        let interface = opened(Path::new(&root), "");
        let tree = Tree::new("");
        let write = [tree.put("large", None, &file(vec![7; 16 << 20]))];
        let mut write = [CollectionWrite { collection: &tree.collection, dropped: &[], action: Action::Write(&write) }];
        let _ = interface.stage(&mut write, &interface.stamp().unwrap(), None, &Half);
        unreachable!("the content never ends");
    }
    let there = model([("large", file("old")), ("other", file("other"))]);
    let mut tree = Tree::with(&there);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(ROOT, &tree.root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("half way")));
    let other = tree.write(&[tree.put("other", None, &file("new"))]);
    assert!(matches!(other, Err(Error::Locked { .. })), "while another process writes: {other:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    tree.reopen("");
    assert_eq!(tree.on_disk(), there);
    assert_eq!(tree.scan().unwrap().model, there);
    let next = model([("large", file("new")), ("other", file("other"))]);
    tree.write(&tree.writes(&there, &next)).unwrap();
    assert_eq!(tree.on_disk(), next);
    let left: Vec<_> = fs::read_dir(tree.path(".deltabus")).unwrap().map(|left| left.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "lock" || name == "marks"), "{left:?}");
}

#[test]
fn ten_thousand_files_come_change_and_go() {
    let before: Model = (0..10_000).map(|at| (format!("{}/{at}", at / 100), file(format!("{at}")))).collect();
    let before: Model = before.into_iter().chain((0..100).map(|at| (at.to_string(), folder()))).collect();
    let tree = Tree::with(&before);
    assert_eq!(tree.on_disk(), before);
    let after: Model = before
        .iter()
        .filter(|(path, _)| !path.starts_with('7'))
        .map(|(path, entry)| {
            (path.clone(), if path.ends_with('3') && path.contains('/') { file("3") } else { entry.clone() })
        })
        .collect();
    tree.write(&tree.writes(&before, &after)).unwrap();
    assert_eq!(tree.on_disk(), after);
    assert_eq!(tree.scan().unwrap().model, after);
}

#[test]
fn contents_come_inline_too_and_missing_folders_are_made() {
    let tree = Tree::with(&model([("a", file("a"))]));
    let inline = |path: &str, content: &str| {
        let mut values = tree.row(path, &file("")).values();
        values[tree.collection.schema.slot("content").unwrap()] = Value::Bytes(content.into());
        RecordWrite::Put { key: key(path), row: Row::of(&values), changed: (0..6).collect() }
    };
    tree.write(&[inline("a", "new"), inline("b/c/d", "deep"), inline("e", "")]).unwrap();
    let found = tree.scan().unwrap().model;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b", "b/c", "b/c/d", "e"]);
    assert_eq!((&found["a"], &found["b/c/d"], &found["e"]), (&file("new"), &file("deep"), &file("")));
    assert_eq!(tree.chest.asked(), [(large(b"a"), None)]);
}

#[test]
fn a_source_without_modes_and_times_leaves_them_as_they_are() {
    let there = model([("a", Entry::File { content: b"a".to_vec(), mode: 0o600, mtime: 5 }), ("b", file("b"))]);
    let tree = Tree::with(&there);
    let mut narrow = tree.collection.clone();
    narrow.schema.fields.truncate(3);
    let row = |path: &str, content: &str| {
        let content = Value::Bytes(content.into());
        let row = Row::of(&[Value::text(path), Value::text("file"), content]);
        RecordWrite::Put { key: key(path), row, changed: vec![2] }
    };
    let writes = [row("a", "new"), row("c", "c")];
    let mut write = [CollectionWrite { collection: &narrow, dropped: &[], action: Action::Write(&writes) }];
    tree.interface.stage(&mut write, &tree.stamp(), None, &tree.chest).unwrap().commit().unwrap();
    let now = tree.on_disk();
    assert!(matches!(&now["a"], Entry::File { content, mode: 0o600, mtime } if content == b"new" && *mtime > MTIME));
    assert!(matches!(&now["c"], Entry::File { content, .. } if content == b"c"));
    assert_eq!(now["b"], there["b"]);
}
