//! What is written is there; what could not be is an error that changes nothing.

use deltabus_interfaces::{Error, Stamp};
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

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
