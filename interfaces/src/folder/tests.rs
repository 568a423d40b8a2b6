//! Laws of changing a folder: old or new and never half, wherever a commit is cut off; nothing outside; nobody's edit lost.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::commit::Outcome;
use super::*;

type Entries = BTreeMap<String, (u32, String)>;

fn path(path: &str) -> EntryPath {
    EntryPath::new(path.as_bytes()).unwrap()
}

/// Everything in the folder but `.deltabus`: mode, and content, target or nothing.
fn entries(root: &Path) -> Entries {
    fn walk(root: &Path, at: &Path, entries: &mut Entries) {
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap().path();
            let name = entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let metadata = fs::symlink_metadata(&entry).unwrap();
            if name == WORK {
                continue;
            }
            let mode = metadata.mode() & 0o7777;
            if metadata.is_symlink() {
                let target = fs::read_link(&entry).unwrap();
                entries.insert(name, (0, format!("-> {}", target.display())));
            } else if metadata.is_dir() {
                entries.insert(name, (mode, "folder".into()));
                walk(root, &entry, entries);
            } else {
                let content = String::from_utf8_lossy(&fs::read(&entry).unwrap()).into_owned();
                entries.insert(name, (mode, format!("{content} at {}", metadata.mtime())));
            }
        }
    }
    let mut entries = Entries::new();
    walk(root, root, &mut entries);
    entries
}

fn seen(staging: &mut Staging, at: &str) -> Seen {
    staging.beneath().seen(&path(at)).unwrap().unwrap()
}

fn put(staging: &mut Staging, at: &str, content: &str, before: Option<Seen>) -> Result<()> {
    let mut file = staging.new_file()?;
    file.write_all(content.as_bytes()).unwrap();
    let attributes = Attributes { mode: Some(0o640), mtime: Some(Moment { seconds: 1_000_000, nanos: 0 }) };
    staging.put(&path(at), file, before.as_ref(), attributes).map(drop)
}

fn write(at: &Path, content: &str) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, content).unwrap();
    fs::File::options().write(true).open(at).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
}

/// A folder with something of everything.
fn before(root: &Path) {
    for (at, content) in [("a", "1"), ("b", "2"), ("c/d", "3"), ("c/e/f", "4"), ("g/h", "5"), ("i", "6"), ("j", "7")] {
        write(&root.join(at), content);
    }
    write(&root.join("whole/of/it"), "8");
    symlink("a", root.join("k")).unwrap();
    fs::set_permissions(root.join("g"), Permissions::from_mode(0o500)).unwrap();
}

/// A change with something of everything.
fn change(folder: &Folder) -> Result<Outcome> {
    let mut staging = folder.stage()?;
    let s = &mut staging;
    let at = |s: &mut Staging, name: &str| seen(s, name);
    // Replaced, new, removed with its folders.
    let a = at(s, "a");
    put(s, "a", "new a", Some(a))?;
    s.make_folder(&path("new"));
    s.make_folder(&path("new/deep"));
    put(s, "new/deep/file", "new file", None)?;
    s.set(&path("new/deep"), None, Attributes { mode: Some(0o500), mtime: None });
    for name in ["c/d", "c/e/f", "c", "c/e"] {
        let seen = at(s, name);
        s.remove(&path(name), &seen);
    }
    // A file in a folder that must not be written, and one that takes a removed folder's place.
    let h = at(s, "g/h");
    put(s, "g/h", "new h", Some(h))?;
    put(s, "c", "file for folder", None)?;
    // Two change places.
    let (i, j) = (at(s, "i"), at(s, "j"));
    let (i, j) = (s.take(&path("i"), &i)?, s.take(&path("j"), &j)?);
    s.put_taken(&path("j"), i, None, Attributes { mode: Some(0o600), mtime: None });
    s.put_taken(&path("i"), j, None, Attributes::default());
    // A whole folder moves.
    let whole = at(s, "whole");
    let whole = s.take(&path("whole"), &whole)?;
    s.put_taken(&path("new/whole"), whole, None, Attributes::default());
    let k = at(s, "k");
    s.put_link(&path("k"), b"../../etc/passwd", Some(&k))?;
    let b = at(s, "b");
    s.set(&path("b"), Some(&b), Attributes { mode: Some(0o444), mtime: Some(Moment { seconds: 5, nanos: 7 }) });
    s.mark(&Mark { owner: "one".into(), value: b"reached".to_vec() })?;
    staging.seal()?.commit()
}

/// Old or new, with the mark that belongs to it.
fn check(folder: &Folder, old: &Entries, new: &Entries) -> bool {
    let mark = folder.mark("one").unwrap();
    let now = entries(folder.path());
    if now == *old {
        assert_eq!(mark, None);
        return false;
    }
    assert_eq!(now, *new);
    assert_eq!(mark.as_deref(), Some(&b"reached"[..]));
    assert!(!folder.journal_path().exists());
    true
}

/// Runs a test as a user whom permissions bind: root is bound by none, so it starts the test again as nobody.
fn bound_by_permissions(test: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        return body();
    }
    const NOBODY: u32 = 65_534;
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", &format!("folder::tests::{test}"), "--nocapture"])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/tmp");
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "as nobody: {said}{output:?}");
}

fn unlock(root: &Path) {
    for name in ["g", "new/deep"] {
        let _ = fs::set_permissions(root.join(name), Permissions::from_mode(0o700));
    }
}

#[test]
fn a_commit_that_is_cut_off_is_old_or_new_and_never_half() {
    bound_by_permissions("a_commit_that_is_cut_off_is_old_or_new_and_never_half", || {
        let (mut cut, mut olds, mut news) = (0, 0, 0);
        let whole = tempfile::tempdir().unwrap();
        before(whole.path());
        let old = entries(whole.path());
        let outcome = change(&Folder::new(whole.path())).unwrap();
        assert_eq!(outcome.left, []);
        let new = entries(whole.path());
        assert_eq!(new["c"].1, "file for folder at 1000000");
        assert_eq!((new["i"].1.as_str(), new["j"].1.as_str()), ("7 at 0", "6 at 0"));
        assert_eq!((new["g"].0, new["new/deep"].0, new["j"].0, new["b"].0), (0o500, 0o500, 0o600, 0o444));
        assert_eq!(new["new/whole/of/it"].1, "8 at 0");
        unlock(whole.path());
        loop {
            let root = tempfile::tempdir().unwrap();
            before(root.path());
            let folder = Folder::new(root.path());
            folder.faults.cut_off_after(cut);
            let done = change(&folder);
            assert_eq!(done.is_err(), folder.faults.is_cut_off());
            // Cut off again while it is being finished, at every place.
            let mut again = 0;
            let became_new = loop {
                let next = Folder::new(root.path());
                next.faults.cut_off_after(again);
                match next.recover() {
                    Ok(left) => {
                        assert_eq!(left, []);
                        break check(&next, &old, &new);
                    }
                    Err(_) => assert!(next.faults.is_cut_off()),
                }
                again += 1;
            };
            *(if became_new { &mut news } else { &mut olds }) += 1;
            // What was left of an old one is in nobody's way.
            if !became_new {
                assert_eq!(change(&Folder::new(root.path())).unwrap().left, []);
                assert_eq!(entries(root.path()), new);
            }
            unlock(root.path());
            if done.is_ok() {
                break;
            }
            cut += 1;
        }
        assert!(olds >= 2 && news > 20, "{olds} old, {news} new");
    });
}

#[test]
fn nothing_happens_without_a_commit() {
    let root = tempfile::tempdir().unwrap();
    before(root.path());
    let old = entries(root.path());
    let folder = Folder::new(root.path());
    let mut staging = folder.stage().unwrap();
    put(&mut staging, "new", "new", None).unwrap();
    assert!(matches!(folder.stage(), Err(Error::Locked { .. })), "two at a time");
    drop(staging.seal().unwrap());
    assert_eq!(entries(root.path()), old);
    assert!(!root.path().join(WORK).join(STAGE_FOLDER).exists());
    unlock(root.path());
}

#[test]
fn a_folder_that_is_not_there_is_made_whole_or_not_at_all() {
    let make = |folder: &Folder| {
        let mut staging = folder.stage()?;
        assert!(staging.is_new());
        staging.make_folder(&path("a"));
        put(&mut staging, "a/b", "content", None)?;
        staging.mark(&Mark { owner: "one".into(), value: b"reached".to_vec() })?;
        staging.seal()?.commit()
    };
    for cut in 0.. {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("root");
        let folder = Folder::new(&root);
        assert!(matches!(folder.open(), Err(Error::Missing { .. })));
        folder.faults.cut_off_after(cut);
        match make(&folder) {
            Err(_) => {
                assert!(folder.faults.is_cut_off() && !root.exists());
                assert_eq!(make(&Folder::new(&root)).unwrap().left, []);
            }
            Ok(_) => assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1),
        }
        let next = Folder::new(&root);
        next.recover().unwrap();
        assert_eq!(next.mark("one").unwrap().as_deref(), Some(&b"reached"[..]));
        assert_eq!(entries(&root).len(), 2);
        if !folder.faults.is_cut_off() {
            assert!(cut > 4);
            break;
        }
    }
    // Its place is taken meanwhile.
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::new(parent.path().join("root"));
    let staged = folder.stage().unwrap().seal().unwrap();
    fs::create_dir(folder.path()).unwrap();
    assert!(matches!(staged.commit(), Err(Error::Changed { .. })));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
}

#[test]
fn what_somebody_changed_meanwhile_stays_and_is_named() {
    let root = tempfile::tempdir().unwrap();
    for name in ["replaced", "removed", "moved", "set", "other"] {
        write(&root.path().join(name), "old");
    }
    let folder = Folder::new(root.path());
    let mut staging = folder.stage().unwrap();
    let before = ["replaced", "removed", "moved", "set", "other"].map(|name| seen(&mut staging, name));
    put(&mut staging, "replaced", "ours", Some(before[0])).unwrap();
    staging.remove(&path("removed"), &before[1]);
    let moved = staging.take(&path("moved"), &before[2]).unwrap();
    staging.put_taken(&path("elsewhere"), moved, None, Attributes::default());
    staging.set(&path("set"), Some(&before[3]), Attributes { mode: Some(0o600), mtime: None });
    put(&mut staging, "new", "ours", None).unwrap();
    let other = staging.take(&path("other"), &before[4]).unwrap();
    staging.put_taken(&path("taken"), other, None, Attributes::default());
    let staged = staging.seal().unwrap();
    for name in ["replaced", "removed", "moved", "set", "new", "taken"] {
        fs::write(root.path().join(name), "theirs").unwrap();
    }
    let outcome = staged.commit().unwrap();
    let mut left: Vec<_> = outcome.left.iter().map(|left| left.path.to_string()).collect();
    left.sort();
    assert_eq!(left, ["elsewhere", "new", "removed", "replaced", "set", "taken"]);
    for (name, (_, what)) in entries(root.path()) {
        assert_eq!(what.contains("theirs"), name != "other", "{name}: {what}");
    }
}

#[test]
fn no_link_leads_outside() {
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("victim"), "old");
    let untouched = entries(outside.path());
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("a/victim"), "old");
    let folder = Folder::new(root.path());
    // A link that somebody swaps in after staging.
    let mut staging = folder.stage().unwrap();
    let victim = seen(&mut staging, "a/victim");
    put(&mut staging, "a/new", "ours", None).unwrap();
    put(&mut staging, "a/victim", "ours", Some(victim)).unwrap();
    staging.make_folder(&path("a/folder"));
    staging.set(&path("a/victim"), None, Attributes { mode: Some(0o777), mtime: None });
    let staged = staging.seal().unwrap();
    fs::rename(root.path().join("a"), root.path().join("b")).unwrap();
    symlink(outside.path(), root.path().join("a")).unwrap();
    assert_eq!(staged.commit().unwrap().left.len(), 4);
    assert_eq!(entries(outside.path()), untouched);
    // A link that the same change makes, or that stands there, written "through".
    let mut staging = folder.stage().unwrap();
    staging.put_link(&path("link"), outside.path().to_str().unwrap().as_bytes(), None).unwrap();
    for parent in ["link", "a"] {
        put(&mut staging, &format!("{parent}/new"), "ours", None).unwrap();
        staging.make_folder(&path(&format!("{parent}/folder")));
        staging.set(&path(parent), None, Attributes { mode: Some(0o700), mtime: None });
        assert_eq!(staging.beneath().seen(&path(&format!("{parent}/victim"))).unwrap(), None);
        assert!(staging.beneath().read(&path(&format!("{parent}/victim"))).is_err());
        assert!(staging.beneath().read(&path(parent)).is_err());
    }
    assert_eq!(staging.seal().unwrap().commit().unwrap().left.len(), 6);
    assert_eq!(entries(outside.path()), untouched);
}

#[test]
fn a_folder_that_is_not_ours_to_change_is_an_error_before_anything_is_done() {
    bound_by_permissions("a_folder_that_is_not_ours_to_change_is_an_error_before_anything_is_done", || {
        let root = tempfile::tempdir().unwrap();
        // Everybody's link to a folder of root's is no way in; a folder of root's itself can only be looked at.
        let folder = Folder::new("/proc");
        assert!(folder.stage().is_err());
        let folder = Folder::new(root.path());
        fs::set_permissions(root.path(), Permissions::from_mode(0o500)).unwrap();
        assert!(folder.stage().is_err());
        fs::set_permissions(root.path(), Permissions::from_mode(0o700)).unwrap();
    });
}

#[test]
fn zeros_become_holes() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path());
    let mut staging = folder.stage().unwrap();
    let mut content = vec![0; 8 << 20];
    content[5_000_000..5_000_010].fill(7);
    for (name, bytes) in [("middle", &content[..]), ("end", &content[4_999_000..]), ("all", &content[..3 << 20])] {
        let mut file = staging.new_file().unwrap();
        for piece in bytes.chunks(70_001) {
            file.write_all(piece).unwrap();
        }
        assert_eq!(file.length(), bytes.len() as u64);
        staging.put(&path(name), file, None, Attributes::default()).unwrap();
    }
    staging.seal().unwrap().commit().unwrap();
    for (name, bytes) in [("middle", &content[..]), ("end", &content[4_999_000..]), ("all", &content[..3 << 20])] {
        assert!(fs::read(root.path().join(name)).unwrap() == bytes, "{name}");
        let blocks = fs::metadata(root.path().join(name)).unwrap().blocks();
        assert!(blocks * 512 <= 64 * 1024, "{name}: {blocks} blocks of 512 bytes");
    }
}

#[test]
fn a_damaged_journal_or_mark_is_an_error_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("a"), "old");
    let folder = Folder::new(root.path());
    let mut staging = folder.stage().unwrap();
    staging.mark(&Mark { owner: "one".into(), value: Vec::new() }).unwrap();
    staging.seal().unwrap().commit().unwrap();
    let old = entries(root.path());
    fs::write(folder.journal_path(), "deltabus journal 1\nand nothing").unwrap();
    assert!(matches!(folder.recover(), Err(Error::Unsupported { .. })));
    assert!(matches!(folder.stage(), Err(Error::Unsupported { .. })));
    assert_eq!(entries(root.path()), old);
    fs::remove_file(folder.journal_path()).unwrap();
    fs::write(root.path().join(WORK).join(MARKS_FILE), "x").unwrap();
    assert!(matches!(folder.mark("one"), Err(Error::Unsupported { .. })));
}
