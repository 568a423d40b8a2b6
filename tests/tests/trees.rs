//! Directory trees over the bus: renames, small edits in large files, edits back, and kills in the middle.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use deltabus_tests::World;

/// Small files, and the bytes of the large one.
const FILES: u32 = 400;
const LARGE: usize = 24 * 1024 * 1024;

/// What a set may weigh on the bus that moves no content.
const NO_CONTENT: u64 = 64 * 1024;

/// Bytes that don't pack.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut noise: Vec<u8> = std::iter::repeat_with(|| next().to_le_bytes()).take(bytes / 8 + 1).flatten().collect();
    noise.truncate(bytes);
    noise
}

fn fill(root: &Path) {
    for at in 0..FILES {
        let folder = root.join(format!("folder{}", at / 100));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("file {at}")), noise(u64::from(at), 100 + at as usize * 10)).unwrap();
    }
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("nothing"), "").unwrap();
    fs::write(root.join("large"), noise(7, LARGE)).unwrap();
    std::os::unix::fs::symlink("folder0/file 1", root.join("link")).unwrap();
}

/// Everything below a folder: what it is and holds.
fn content(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.ends_with(".deltabus") {
                continue;
            }
            let kind = entry.file_type().unwrap();
            let inside = if kind.is_dir() {
                folders.push(path.clone());
                "folder".to_owned()
            } else if kind.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else {
                let bytes = fs::read(&path).unwrap();
                let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
                });
                format!("file of {} bytes, {hash:x}", bytes.len())
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), inside);
        }
    }
    found
}

fn equal(world: &World, copies: &[&str]) {
    let source = content(&world.path("source"));
    for copy in copies {
        let there = content(&world.path(copy));
        let differing = source.iter().find(|(path, inside)| there.get(*path) != Some(inside));
        assert_eq!(differing, None, "{copy}");
        assert_eq!(source.len(), there.len(), "{copy}");
    }
}

fn round(world: &World, copies: &[&str]) {
    world.run("transmit files tree:source --once").exits(0);
    for copy in copies {
        world.run(&format!("receive files tree:{copy} --name {copy} --reverse --once")).exits(0);
    }
}

/// Bytes of the newest set in the log.
fn last_set(world: &World) -> u64 {
    let log = world.run("log files --json").exits(0).stdout();
    let sets = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let newest = sets.max_by_key(|set| set["revision"].as_u64()).unwrap();
    newest["bytes"].as_u64().unwrap()
}

#[test]
fn renames_and_small_edits_move_little_and_edits_come_back() {
    let world = World::new();
    fs::create_dir(world.path("source")).unwrap();
    fill(&world.path("source"));
    round(&world, &["one", "two"]);
    equal(&world, &["one", "two"]);

    let inode = |copy: &str, name: &str| {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(world.path(copy).join(name)).unwrap())
    };
    let before = inode("one", "folder1/file 150");
    fs::rename(world.path("source").join("folder1"), world.path("source").join("moved")).unwrap();
    round(&world, &["one", "two"]);
    equal(&world, &["one", "two"]);
    assert!(last_set(&world) < NO_CONTENT, "{} bytes", last_set(&world));
    assert_eq!(inode("one", "moved/file 150"), before, "the files themselves moved");

    let large = world.path("source").join("large");
    let mut bytes = fs::read(&large).unwrap();
    bytes.splice(LARGE / 2..LARGE / 2, noise(8, 100));
    fs::write(&large, bytes).unwrap();
    fs::copy(world.path("source").join("moved/file 150"), world.path("source").join("copied")).unwrap();
    round(&world, &["one", "two"]);
    equal(&world, &["one", "two"]);

    fs::write(world.path("one").join("folder0/file 3"), "edited there").unwrap();
    fs::write(world.path("two").join("new one"), noise(9, 100_000)).unwrap();
    fs::remove_file(world.path("two").join("folder0/file 4")).unwrap();
    for _ in 0..2 {
        for copy in ["one", "two"] {
            world.run(&format!("receive files tree:{copy} --name {copy} --reverse --once")).exits(0);
        }
        world.run("transmit files tree:source --once").exits(0);
    }
    round(&world, &["one", "two"]);
    equal(&world, &["one", "two"]);
    assert_eq!(fs::read(world.path("source").join("folder0/file 3")).unwrap(), b"edited there");
    assert!(world.path("source").join("new one").is_file() && !world.path("source").join("folder0/file 4").exists());
    assert_eq!(world.run("conflicts files").exits(0).code(), Some(0));
}

#[test]
fn a_receiver_that_is_killed_leaves_no_half_file() {
    let world = World::new();
    fs::create_dir(world.path("source")).unwrap();
    fill(&world.path("source"));
    round(&world, &["copy"]);
    let old = content(&world.path("copy"));
    fs::write(world.path("source").join("large"), noise(70, LARGE)).unwrap();
    fs::write(world.path("source").join("folder0/file 1"), "new").unwrap();
    world.run("transmit files tree:source --once").exits(0);
    let new = content(&world.path("source"));
    // Killed later each time, until it is through before that.
    for patience_ms in [1, 20, 40, 60, 90, 130, 180, 250, 350, 500] {
        let running = world.start("receive files tree:copy --name copy --reverse --once");
        std::thread::park_timeout(std::time::Duration::from_millis(patience_ms));
        running.kill();
        for (path, inside) in content(&world.path("copy")) {
            let whole = [&old, &new].iter().any(|state| state.get(&path) == Some(&inside));
            assert!(whole, "{} is {inside} after {patience_ms} ms", path.display());
        }
    }
    round(&world, &["copy"]);
    equal(&world, &["copy"]);
    assert_eq!(content(&world.path("source")), new, "nothing of that came back as an edit");
}
