//! What a scan finds, and what it leaves alone.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, UNIX_EPOCH};

use deltabus_interfaces::{Error, Fingerprint, Hides, Location, open};

use crate::support::*;

/// A tree made without the interface, of files with old times.
fn tree(files: &[(&str, &str)]) -> Tree {
    let tree = Tree::new("");
    fs::create_dir(&tree.root).unwrap();
    for (path, content) in files {
        write(&tree, path, content);
    }
    tree
}

fn write(tree: &Tree, path: &str, content: &str) {
    let path = tree.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    let old = UNIX_EPOCH + Duration::from_secs(MTIME as u64);
    File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
}

fn paths(tree: &Tree) -> Vec<String> {
    tree.scan().unwrap().model.into_keys().collect()
}

#[test]
fn what_is_on_the_disk_is_found_and_nothing_is_left_behind() {
    let tree = tree(&[("a", "1"), ("b/c", "2"), ("b/.hidden", ""), (".deltabus/marks", "no data")]);
    symlink("b", tree.path("to a folder")).unwrap();
    fs::create_dir(tree.path("b/.deltabus")).unwrap();
    fs::remove_dir_all(tree.path(".deltabus")).unwrap();
    let found = tree.scan().unwrap();
    assert_eq!(found.model, tree.on_disk());
    assert!(found.model.contains_key("b/.deltabus") && !found.model.contains_key("to a folder/c"));
    assert!(!tree.path(".deltabus").exists());
    // A folder comes before what it holds.
    let order: Vec<_> = found.fingerprints.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(order, ["a", "b", "b/.deltabus", "b/.hidden", "b/c", "to a folder"]);
}

#[test]
fn a_fingerprint_moves_with_what_the_record_says_and_only_then() {
    let tree = tree(&[("a", "1"), ("b/c", "2")]);
    let fingerprints = || -> Vec<(String, Fingerprint)> { tree.scan().unwrap().fingerprints };
    let mut last = fingerprints();
    assert_eq!(last, fingerprints());
    let changes: [(&str, fn(&Tree)); 4] = [
        ("a", |tree| fs::set_permissions(tree.path("a"), Permissions::from_mode(0o600)).unwrap()),
        ("a", |tree| write(tree, "a", "3")),
        ("b", |tree| fs::set_permissions(tree.path("b"), Permissions::from_mode(0o700)).unwrap()),
        ("b/c", |tree| {
            write(tree, "new", "2");
            fs::rename(tree.path("new"), tree.path("b/c")).unwrap();
        }),
    ];
    for (path, change) in changes {
        let stamp = tree.stamp();
        change(&tree);
        assert_ne!(stamp, tree.stamp());
        let now = fingerprints();
        let moved: Vec<_> = now.iter().zip(&last).filter(|(now, last)| now != last).map(|(now, _)| &now.0).collect();
        assert_eq!(moved, [path]);
        assert_eq!(now, fingerprints());
        last = now;
    }
}

#[test]
fn a_file_written_twice_at_once_is_read_twice() {
    let tree = tree(&[]);
    for round in 0..50 {
        fs::write(tree.path("a"), format!("{:03}", 2 * round)).unwrap();
        let first = tree.scan().unwrap();
        fs::write(tree.path("a"), format!("{:03}", 2 * round + 1)).unwrap();
        let second = tree.scan().unwrap();
        assert_ne!(first.fingerprints, second.fingerprints);
        assert_eq!(second.contents["a"], large(format!("{:03}", 2 * round + 1).as_bytes()));
    }
}

#[test]
fn what_is_no_file_folder_or_link_is_named_and_the_rest_goes_on() {
    let tree = tree(&[("a", "1"), ("z", "2")]);
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(tree.path("pipe")).status().unwrap();
    assert!(pipe.success());
    let found = tree.scan().unwrap();
    assert_eq!(found.model.keys().collect::<Vec<_>>(), ["a", "z"]);
    let unread: Vec<_> = found.unread.iter().map(|unread| unread.hides.clone()).collect();
    assert_eq!(unread, [Hides::Record(key("pipe")), Hides::Record(key("socket"))]);
}

#[test]
fn what_may_not_be_read_is_named_and_the_rest_goes_on() {
    bound_by_permissions("reading::what_may_not_be_read_is_named_and_the_rest_goes_on", || {
        let tree = tree(&[("a", "1"), ("closed/b", "2"), ("secret", "3"), ("z", "4")]);
        fs::set_permissions(tree.path("secret"), Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.path("closed"), Permissions::from_mode(0o000)).unwrap();
        let found = tree.scan().unwrap();
        assert_eq!(found.model.keys().collect::<Vec<_>>(), ["a", "closed", "z"]);
        let unread: Vec<_> = found.unread.iter().map(|unread| unread.hides.clone()).collect();
        assert_eq!(unread, [Hides::Below("closed/".into()), Hides::Record(key("secret"))]);
        fs::set_permissions(tree.path("closed"), Permissions::from_mode(0o700)).unwrap();
    });
}

#[test]
fn names_that_are_no_text_are_escaped_and_come_back() {
    let tree = tree(&[]);
    let name = OsStr::from_bytes(b"caf\xe9");
    fs::create_dir(tree.root.join(name)).unwrap();
    fs::write(tree.root.join(name).join(OsStr::from_bytes(b"\\x41")), "1").unwrap();
    symlink(name, tree.path("link")).unwrap();
    let found = tree.scan().unwrap();
    assert_eq!(found.model.keys().collect::<Vec<_>>(), ["caf\\xe9", "caf\\xe9/\\x5cx41", "link"]);
    assert_eq!(found.model["link"], link("caf\\xe9"));
    let copy = Tree::with(&found.model);
    assert!(copy.root.join(name).join(OsStr::from_bytes(b"\\x41")).is_file());
    assert_eq!(fs::read_link(copy.path("link")).unwrap().as_os_str(), name);
    assert_eq!(copy.scan().unwrap().model, found.model);
}

#[test]
fn ignored_entries_are_not_part_of_the_data() {
    let mut tree = tree(&[
        ("a.tmp", ""),
        ("b/c.tmp", ""),
        ("b/keep.tmp", ""),
        ("b/.deltabusignore", "# ours\n!keep.tmp\n/only here\nnested/\n"),
        ("b/only here", ""),
        ("b/d/only here", ""),
        ("b/d/nested/x", ""),
        ("cache/x", ""),
        ("d/cache/x", ""),
    ]);
    tree.reopen("?ignore=*.tmp,/cache/");
    let there = ["b", "b/.deltabusignore", "b/d", "b/d/only here", "b/keep.tmp", "d", "d/cache", "d/cache/x"];
    assert_eq!(paths(&tree), there);
    let stamp = tree.stamp();
    fs::write(tree.path("cache/y"), "").unwrap();
    assert_eq!(stamp, tree.stamp());
    write(&tree, ".deltabusignore", "[");
    let error = tree.scan().unwrap_err();
    assert!(matches!(&error, Error::Data { position, .. } if position.line == Some(1)), "{error}");
    let location = Location::parse("tree:x?ignore=a,[").unwrap();
    assert!(matches!(open(&location), Err(Error::Location { .. })));
}

#[test]
fn options_leave_fields_out() {
    let mut tree = tree(&[("a", "1")]);
    tree.reopen("?modes=no&mtimes=no");
    let scan = tree.interface.scan(None).unwrap();
    let names: Vec<_> = scan.collections()[0].schema.fields.iter().map(|field| field.name.clone()).collect();
    assert_eq!(names, ["path", "type", "content", "target"]);
    drop(scan);
    assert_eq!(tree.scan().unwrap().model["a"], Entry::File { content: b"1".to_vec(), mode: 0, mtime: 0 });
    for options in ["?modes=perhaps", "?links=follow"] {
        assert!(matches!(open(&Location::parse(&format!("tree:x{options}")).unwrap()), Err(Error::Location { .. })));
    }
}

#[test]
fn a_content_that_has_changed_since_is_not_given() {
    let tree = tree(&[("a", "1"), ("b", "2")]);
    let found = tree.scan().unwrap();
    write(&tree, "a", "3");
    fs::remove_file(tree.path("b")).unwrap();
    for path in ["a", "b"] {
        assert!(tree.interface.contents().read(&found.contents[path], None).is_err());
    }
    assert!(tree.interface.contents().read(&large(b"unheard of"), None).is_err());
}

#[test]
fn only_a_folder_is_a_tree() {
    let tree = Tree::new("");
    fs::write(&tree.root, "1").unwrap();
    assert!(matches!(tree.scan(), Err(Error::Unsupported { .. })));
    assert!(tree.interface.stamp().is_err());
    assert_eq!(fs::read(&tree.root).unwrap(), b"1");
}
