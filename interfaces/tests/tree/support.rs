//! A tree under test, and what records say about it.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use deltabus_interfaces::{
    Action, CollectionWrite, Contents, Decoded, Error, Extent, Fingerprint, Interface, Location, Mark, RecordWrite,
    Records, Stamp, Unread, open,
};
use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::Collection;
use deltabus_record::value::{Instant, Large, Value};

/// What a record says of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    File { content: Vec<u8>, mode: u32, mtime: i64 },
    Folder { mode: u32 },
    Link { target: String },
}

/// Entries by path.
pub(crate) type Model = BTreeMap<String, Entry>;

pub(crate) const MTIME: i64 = 1_000_000_000;

pub(crate) fn file(content: impl AsRef<[u8]>) -> Entry {
    Entry::File { content: content.as_ref().to_vec(), mode: 0o644, mtime: MTIME }
}

pub(crate) fn folder() -> Entry {
    Entry::Folder { mode: 0o755 }
}

pub(crate) fn link(target: &str) -> Entry {
    Entry::Link { target: target.to_owned() }
}

pub(crate) fn model<const N: usize>(entries: [(&str, Entry); N]) -> Model {
    entries.into_iter().map(|(path, entry)| (path.to_owned(), entry)).collect()
}

pub(crate) fn large(content: &[u8]) -> Large {
    Large { hash: *blake3::hash(content).as_bytes(), length: content.len() as u64, text: false }
}

/// Contents by hash, with a list of what was asked for.
#[derive(Default)]
pub(crate) struct Chest {
    contents: Mutex<BTreeMap<[u8; 32], Vec<u8>>>,
    asked: Mutex<Vec<(Large, Option<PathBuf>)>>,
}

impl Chest {
    pub(crate) fn keep(&self, content: &[u8]) -> Large {
        let large = large(content);
        self.contents.lock().unwrap().insert(large.hash, content.to_vec());
        large
    }

    /// Gives other bytes than `large` says.
    pub(crate) fn spoil(&self, large: &Large, content: &[u8]) {
        self.contents.lock().unwrap().insert(large.hash, content.to_vec());
    }

    /// What was read from here since the last call.
    pub(crate) fn asked(&self) -> Vec<(Large, Option<PathBuf>)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Contents for Chest {
    fn read<'a>(&'a self, large: &Large, similar: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>, Error> {
        self.asked.lock().unwrap().push((large.clone(), similar.map(Path::to_owned)));
        match self.contents.lock().unwrap().get(&large.hash) {
            Some(content) => Ok(Box::new(Cursor::new(content.clone()))),
            None => Err(Error::Content { hash: "?".into(), source: std::io::ErrorKind::NotFound.into() }),
        }
    }
}

/// A tree in a folder that goes with it.
pub(crate) struct Tree {
    pub(crate) interface: Box<dyn Interface>,
    pub(crate) root: PathBuf,
    pub(crate) collection: Collection,
    pub(crate) chest: Chest,
    _parent: tempfile::TempDir,
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) model: Model,
    pub(crate) contents: BTreeMap<String, Large>,
    pub(crate) fingerprints: Vec<(String, Fingerprint)>,
    pub(crate) unread: Vec<Unread>,
    pub(crate) stamp: Stamp,
}

impl Tree {
    /// A tree that is not there yet, with options.
    pub(crate) fn new(options: &str) -> Tree {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("photos");
        Tree {
            interface: opened(&root, options),
            root,
            collection: collection(options),
            chest: Chest::default(),
            _parent: parent,
        }
    }

    /// The same tree, seen by a process that knows nothing of it.
    pub(crate) fn reopen(&mut self, options: &str) {
        self.interface = opened(&self.root, options);
    }

    /// A tree with these entries, made through the interface.
    pub(crate) fn with(model: &Model) -> Tree {
        let tree = Tree::new("");
        tree.load(model).unwrap();
        tree
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.interface.stamp().unwrap()
    }

    pub(crate) fn row(&self, path: &str, entry: &Entry) -> Row {
        let null = Value::Null;
        let mode = |mode: &u32| Value::Integer((*mode).into());
        let (kind, content, target, mode, mtime) = match entry {
            Entry::File { content, mode: bits, mtime } => {
                let instant = Value::Instant(Instant { seconds: *mtime, nanos: 5, offset_seconds: 0 });
                ("file", Value::Large(Box::new(self.chest.keep(content))), null, mode(bits), instant)
            }
            Entry::Folder { mode: bits } => ("folder", null.clone(), null.clone(), mode(bits), null),
            Entry::Link { target } => ("link", null.clone(), Value::text(target.as_str()), null.clone(), null),
        };
        let values = [("path", Value::text(path)), ("type", Value::text(kind)), ("content", content)];
        let values = values.into_iter().chain([("target", target), ("mode", mode), ("mtime", mtime)]);
        let here: Vec<_> =
            values.filter(|(name, _)| self.collection.schema.slot(name).is_some()).map(|(_, value)| value).collect();
        Row::of(&here)
    }

    pub(crate) fn put(&self, path: &str, before: Option<&Entry>, entry: &Entry) -> RecordWrite {
        let row = self.row(path, entry);
        let before = before.map(|before| self.row(path, before));
        let slots = 0..self.collection.schema.fields.len();
        let changed = slots.filter(|slot| before.as_ref().is_none_or(|before| before.value(*slot) != row.value(*slot)));
        RecordWrite::Put { key: key(path), changed: changed.map(|slot| slot as u32).collect(), row }
    }

    pub(crate) fn remove(&self, path: &str, entry: &Entry) -> RecordWrite {
        RecordWrite::Remove { key: key(path), row: self.row(path, entry) }
    }

    /// The writes that lead from one model to another.
    pub(crate) fn writes(&self, before: &Model, after: &Model) -> Vec<RecordWrite> {
        let gone = before.iter().filter(|(path, _)| !after.contains_key(*path));
        let removals = gone.map(|(path, entry)| self.remove(path, entry));
        let puts = after.iter().filter(|(path, entry)| before.get(*path) != Some(entry));
        removals.chain(puts.map(|(path, entry)| self.put(path, before.get(path), entry))).collect()
    }

    pub(crate) fn write(&self, writes: &[RecordWrite]) -> Result<Stamp, Error> {
        self.write_at(writes, &self.stamp())
    }

    pub(crate) fn write_at(&self, writes: &[RecordWrite], expected: &Stamp) -> Result<Stamp, Error> {
        self.commit(Action::Write(writes), expected)
    }

    pub(crate) fn load(&self, model: &Model) -> Result<Stamp, Error> {
        let rows: Vec<_> = model.iter().map(|(path, entry)| (key(path), self.row(path, entry))).collect();
        self.commit(Action::Load(&mut Rows { rows: rows.iter(), current: None }), &self.stamp())
    }

    /// Stages and commits one action, and checks what commits promise.
    pub(crate) fn commit<'a>(&'a self, action: Action<'a>, expected: &Stamp) -> Result<Stamp, Error> {
        let mark = Mark { owner: "source/receiver".into(), value: format!("{expected:?}").into_bytes() };
        let mut writes = [CollectionWrite { collection: &self.collection, dropped: &[], action }];
        let stamp = self.interface.stage(&mut writes, expected, Some(&mark), &self.chest)?.commit()?;
        assert_eq!(stamp, self.stamp(), "the stamp after a commit is the commit's");
        assert_eq!(self.interface.mark(&mark.owner)?, Some(mark.value));
        Ok(stamp)
    }

    /// Reads everything through the interface, contents too.
    pub(crate) fn scan(&self) -> Result<Found, Error> {
        let mut scan = self.interface.scan(None)?;
        let mut found = Found {
            model: Model::new(),
            contents: BTreeMap::new(),
            fingerprints: Vec::new(),
            unread: Vec::new(),
            stamp: scan.stamp().clone(),
        };
        assert_eq!(scan.collections().len(), 1);
        let schema = scan.collections()[0].schema.clone();
        scan.start(0, Extent::Whole)?;
        let mut row = RowBuilder::default();
        while let Some(fingerprint) = scan.next()? {
            row.clear();
            if scan.decode(&mut row)? == Decoded::Unread {
                continue;
            }
            let row = Row::from_bytes(row.as_bytes()).expect("a scan gives canonical rows");
            let value = |name: &str| schema.slot(name).map_or(Value::Absent, |slot| row.value(slot));
            let Value::Text(path) = value("path") else { panic!("a path is text") };
            let mode = match value("mode") {
                Value::Integer(mode) => mode as u32,
                _ => 0,
            };
            let entry = match (value("type"), value("content"), value("target"), value("mtime")) {
                (Value::Text(kind), Value::Large(large), Value::Null, mtime) if kind == "file" => {
                    found.contents.insert(path.clone(), (*large).clone());
                    let mtime = match mtime {
                        Value::Instant(instant) => instant.seconds,
                        _ => 0,
                    };
                    Entry::File { content: Vec::new(), mode, mtime }
                }
                (Value::Text(kind), Value::Null, Value::Null, _) if kind == "folder" => Entry::Folder { mode },
                (Value::Text(kind), Value::Null, Value::Text(target), _) if kind == "link" => Entry::Link { target },
                other => panic!("{path}: {other:?}"),
            };
            found.fingerprints.push((path.clone(), fingerprint));
            assert!(found.model.insert(path, entry).is_none());
        }
        scan.finish()?;
        found.unread = scan.unread().to_vec();
        for (path, reference) in &found.contents {
            let mut bytes = Vec::new();
            self.interface.contents().read(reference, None)?.read_to_end(&mut bytes).unwrap();
            assert_eq!(large(&bytes), *reference);
            if let Some(Entry::File { content, .. }) = found.model.get_mut(path) {
                *content = bytes;
            }
        }
        Ok(found)
    }

    /// Reads everything without the interface.
    pub(crate) fn on_disk(&self) -> Model {
        let mut model = Model::new();
        walk(&self.root, &self.root, &mut model);
        model
    }
}

fn walk(root: &Path, at: &Path, model: &mut Model) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if name == ".deltabus" {
            continue;
        }
        let mode = metadata.permissions().mode() & 0o7777;
        let entry = if metadata.is_symlink() {
            link(fs::read_link(&path).unwrap().to_str().unwrap())
        } else if metadata.is_dir() {
            walk(root, &path, model);
            Entry::Folder { mode }
        } else if metadata.is_file() {
            Entry::File { content: fs::read(&path).unwrap(), mode, mtime: metadata.mtime() }
        } else {
            continue;
        };
        model.insert(name, entry);
    }
}

pub(crate) fn key(path: &str) -> Key {
    Key::of(&[Value::text(path)])
}

pub(crate) fn opened(root: &Path, options: &str) -> Box<dyn Interface> {
    open(&Location::parse(&format!("tree:{}{options}", root.display())).unwrap()).unwrap()
}

/// The collection that a tree with these options has.
pub(crate) fn collection(options: &str) -> Collection {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("photos");
    fs::create_dir(&root).unwrap();
    let interface = opened(&root, options);
    let scan = interface.scan(None).unwrap();
    let collection = scan.collections()[0].clone();
    assert_eq!(collection.name.as_str(), "photos");
    assert!(!root.join(".deltabus").exists(), "reading made a folder");
    collection
}

struct Rows<'a> {
    rows: std::slice::Iter<'a, (Key, Row)>,
    current: Option<&'a (Key, Row)>,
}

impl Records for Rows<'_> {
    fn advance(&mut self) -> Result<bool, Box<dyn StdError + Send + Sync>> {
        self.current = self.rows.next();
        Ok(self.current.is_some())
    }

    fn key(&self) -> &[u8] {
        self.current.unwrap().0.as_bytes()
    }

    fn row(&self) -> &[u8] {
        self.current.unwrap().1.as_bytes()
    }
}

/// Runs a test as a user whom permissions bind: root is bound by none, so it starts the test again as nobody.
pub(crate) fn bound_by_permissions(test: &str, body: impl FnOnce()) {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return body();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).uid(NOBODY).gid(NOBODY).current_dir("/tmp");
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "as nobody: {said}{output:?}");
}
