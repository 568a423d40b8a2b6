//! What a tree's fields are, and what becomes of other values in them.

use deltabus_record::convert;
use deltabus_record::schema::{Field, Schema};
use deltabus_record::text;
use deltabus_record::value::{Instant, Kind, KindSet, Large, Value};

use super::Options;
use super::name;
use crate::Refusal;
use crate::folder::{EntryKind, EntryPath, Moment, Seen};

pub(super) const PATH: &str = "path";
pub(super) const TYPE: &str = "type";
pub(super) const CONTENT: &str = "content";
pub(super) const TARGET: &str = "target";
pub(super) const MODE: &str = "mode";
pub(super) const MTIME: &str = "mtime";

/// A link's target may be as long as a path.
const TARGET_BYTES_MAX: usize = 4095;

/// The fields with their kinds, in their order.
const FIELDS: [(&str, Kind); 6] = [
    (PATH, Kind::Text),
    (TYPE, Kind::Text),
    (CONTENT, Kind::Large),
    (TARGET, Kind::Text),
    (MODE, Kind::Integer),
    (MTIME, Kind::Instant),
];

/// The schema of a tree.
pub(super) fn schema(options: &Options) -> Schema {
    let here = |name: &str| (name != MODE || options.modes) && (name != MTIME || options.mtimes);
    let fields = FIELDS.iter().filter(|(name, _)| here(name)).enumerate();
    let fields = fields.map(|(at, (name, kind))| Field::new(*name, Some(*kind), at as u32)).collect();
    Schema { fields, key: deltabus_record::schema::KeySpec::Fields(vec![0]) }
}

/// The name of an entry's kind in the field `type`.
pub(super) fn type_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Folder => "folder",
        EntryKind::Link => "link",
        EntryKind::Special => "special",
    }
}

pub(super) fn field_for(field: &Field) -> Field {
    match FIELDS.iter().find(|(name, _)| *name == field.name) {
        Some((name, kind)) => Field::new(*name, Some(*kind), field.ordinal),
        None => field.clone(),
    }
}

/// The other fields refuse some values of their kind, so [`project`] has to see them.
pub(super) fn verbatim(field: &Field) -> KindSet {
    match field.name.as_str() {
        CONTENT => KindSet::of(&[Kind::Large, Kind::Bytes, Kind::Null]),
        _ => KindSet::default(),
    }
}

pub(super) fn project(value: Value, field: &Field, options: &Options) -> Result<Value, Refusal> {
    let refuse = |reason: &str| Err(Refusal { reason: reason.to_owned() });
    if (field.name == MODE && !options.modes) || (field.name == MTIME && !options.mtimes) {
        return Ok(Value::Absent);
    }
    let kind = FIELDS.iter().find(|(name, _)| *name == field.name).map(|(_, kind)| *kind);
    let value = match (kind, value) {
        // From a store that has nothing but text.
        (Some(kind @ (Kind::Integer | Kind::Instant)), Value::Text(text)) => {
            text::parse(&text, kind).unwrap_or(Value::Text(text))
        }
        (_, value) => value,
    };
    match (field.name.as_str(), value) {
        (CONTENT, Value::Absent) => Ok(Value::Null),
        (CONTENT, value @ (Value::Null | Value::Bytes(_) | Value::Large(_))) => Ok(value),
        (CONTENT, value) => match text_of(value) {
            Value::Text(text) => Ok(Value::Bytes(text.into_bytes())),
            _ => refuse("a file's content is bytes"),
        },
        (PATH, Value::Absent | Value::Null) => refuse("an entry of a tree has a path"),
        (PATH, value) => match text_of(value) {
            Value::Text(path) => match entry_path(&path) {
                Ok(_) => Ok(Value::Text(path)),
                Err(reason) => refuse(reason),
            },
            _ => refuse("a path is text"),
        },
        (TYPE, Value::Absent | Value::Null) => Ok(Value::text("file")),
        (TYPE, Value::Text(name)) if kind_named(&name).is_some() => Ok(Value::Text(name)),
        (TYPE, _) => refuse("the type is one of `file`, `folder` and `link`"),
        (TARGET | MODE | MTIME, Value::Absent | Value::Null) => Ok(Value::Null),
        (TARGET, Value::Text(target)) => match link_target(&target) {
            Ok(_) => Ok(Value::Text(target)),
            Err(reason) => refuse(reason),
        },
        (TARGET, _) => refuse("a link's target is text"),
        (MODE, Value::Integer(mode)) if (0..=0o7777).contains(&mode) => Ok(Value::Integer(mode)),
        (MODE, _) => refuse("a mode is an integer from 0 to 4095 (octal 7777)"),
        (MTIME, Value::Instant(instant)) => Ok(Value::Instant(Instant { offset_seconds: 0, ..instant })),
        (MTIME, _) => refuse("a modification time is an instant"),
        (name, _) => {
            let known: Vec<_> = FIELDS.iter().map(|(name, _)| format!("`{name}`")).collect();
            refuse(&format!("a tree has no field `{name}`, only {}; omit it", known.join(", ")))
        }
    }
}

fn text_of(value: Value) -> Value {
    convert::project(value, KindSet::of(&[Kind::Null, Kind::Text]))
}

fn kind_named(name: &str) -> Option<EntryKind> {
    [EntryKind::File, EntryKind::Folder, EntryKind::Link].into_iter().find(|kind| type_name(*kind) == name)
}

/// The path that a record's key stands for; the error says why there can be none.
pub(super) fn entry_path(text: &str) -> Result<EntryPath, &'static str> {
    let bytes = name::to_bytes(text).ok_or("the path has `\\x` escapes that stand for what needs none")?;
    EntryPath::new(&bytes)
}

fn link_target(text: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = name::to_bytes(text).ok_or("the target has `\\x` escapes that stand for what needs none")?;
    match &*bytes {
        b"" => Err("a link's target is not empty"),
        bytes if bytes.contains(&0) => Err("the target has a NUL character"),
        bytes if bytes.len() > TARGET_BYTES_MAX => Err("the target is longer than a file system takes (4095 bytes)"),
        bytes => Ok(bytes.to_vec()),
    }
}

/// Where a collection has a tree's fields, by slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    path: usize,
    kind: Option<usize>,
    content: Option<usize>,
    target: Option<usize>,
    mode: Option<usize>,
    mtime: Option<usize>,
}

/// What an entry is to be.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) path: EntryPath,
    pub(super) what: What,
    /// Permission bits; `None`: whatever they are.
    pub(super) mode: Option<u32>,
    /// When the content was written; `None`: whenever.
    pub(super) mtime: Option<Moment>,
}

/// What sort of entry, with what in it.
#[derive(Clone, Debug)]
pub(super) enum What {
    File(FileContent),
    Folder,
    Link(Vec<u8>),
}

/// A file's content.
#[derive(Clone, Debug)]
pub(super) enum FileContent {
    Bytes(Vec<u8>),
    Reference(Large),
    /// The collection has no contents: a new file is empty, one that is there stays.
    Unknown,
}

impl What {
    pub(super) fn kind(&self) -> EntryKind {
        match self {
            What::File(_) => EntryKind::File,
            What::Folder => EntryKind::Folder,
            What::Link(_) => EntryKind::Link,
        }
    }
}

impl Slots {
    /// The fields in `schema`; the error names one that a tree doesn't have, or the key that it lacks.
    pub(super) fn of(schema: &Schema, options: &Options) -> Result<Slots, String> {
        if let Some((_, field)) =
            schema.ordered().into_iter().find(|(_, field)| FIELDS.iter().all(|f| f.0 != field.name))
        {
            return Err(format!("a tree has no field `{}`; omit it", field.name));
        }
        match schema.slot(PATH) {
            Some(path) if schema.key_names() == [PATH] => Ok(Slots {
                path,
                kind: schema.slot(TYPE),
                content: schema.slot(CONTENT),
                target: schema.slot(TARGET),
                mode: schema.slot(MODE).filter(|_| options.modes),
                mtime: schema.slot(MTIME).filter(|_| options.mtimes),
            }),
            _ => Err("the records of a tree have the key `path`; map the source's key to it".into()),
        }
    }

    /// The path of a row of projected values.
    pub(super) fn path(&self, values: &[Value]) -> Result<EntryPath, String> {
        match values.get(self.path) {
            Some(Value::Text(path)) => entry_path(path).map_err(str::to_owned),
            _ => Err("an entry of a tree has a path".into()),
        }
    }

    /// Takes the path out of a row's values, which then say only what is there.
    pub(super) fn forget_path(&self, values: &mut [Value]) {
        if let Some(path) = values.get_mut(self.path) {
            *path = Value::Null;
        }
    }

    /// Whether an entry has the mode and the modification time that the values say, as far as the collection has these.
    pub(super) fn describe(&self, seen: &Seen, values: &[Value]) -> bool {
        let says = |slot: Option<usize>, value: Value| slot.is_none_or(|slot| values.get(slot) == Some(&value));
        let mtime = Instant { seconds: seen.mtime.seconds, nanos: seen.mtime.nanos, offset_seconds: 0 };
        (seen.kind == EntryKind::Link || says(self.mode, Value::Integer(seen.mode.into())))
            && (seen.kind != EntryKind::File || says(self.mtime, Value::Instant(mtime)))
    }

    /// The hash of a row's content, where that is a reference.
    pub(super) fn hash(&self, values: &[Value]) -> Option<Large> {
        match values.get(self.content?) {
            Some(Value::Large(large)) => Some((**large).clone()),
            Some(Value::Bytes(bytes)) => {
                Some(Large { hash: *blake3::hash(bytes).as_bytes(), length: bytes.len() as u64, text: false })
            }
            _ => None,
        }
    }

    /// What the row wants; the error says why there is no such entry.
    pub(super) fn wanted(&self, mut values: Vec<Value>) -> Result<Wanted, String> {
        let path = self.path(&values)?;
        let mut take = |slot: Option<usize>| {
            slot.map(|slot| values.get_mut(slot).map_or(Value::Null, |value| std::mem::replace(value, Value::Null)))
        };
        let kind = match take(self.kind) {
            None => EntryKind::File,
            Some(Value::Text(name)) => kind_named(&name).ok_or("there is no such type of entry")?,
            Some(_) => return Err("the type is one of `file`, `folder` and `link`".into()),
        };
        let mode = match take(self.mode) {
            None | Some(Value::Null | Value::Absent) => None,
            Some(Value::Integer(mode)) if (0..=0o7777).contains(&mode) => Some(mode as u32),
            Some(_) => return Err("a mode is an integer from 0 to 4095 (octal 7777)".into()),
        };
        let mtime = match take(self.mtime) {
            None | Some(Value::Null | Value::Absent) => None,
            Some(Value::Instant(instant)) => Some(Moment { seconds: instant.seconds, nanos: instant.nanos }),
            Some(_) => return Err("a modification time is an instant".into()),
        };
        let content = take(self.content);
        let target = take(self.target);
        let nothing = |value: &Option<Value>| matches!(value, None | Some(Value::Null | Value::Absent));
        let only = |holds: bool, problem: &str| if holds { Ok(()) } else { Err(problem.to_owned()) };
        only(kind == EntryKind::File || nothing(&content), "only a file has a content")?;
        only(kind == EntryKind::Link || nothing(&target), "only a link has a target")?;
        only(kind != EntryKind::Link || mode.is_none(), "a link has no mode")?;
        only(kind == EntryKind::File || mtime.is_none(), "only a file has a modification time")?;
        only(kind == EntryKind::Link || self.mode.is_none() || mode.is_some(), "a file or folder has a mode")?;
        only(kind != EntryKind::File || self.mtime.is_none() || mtime.is_some(), "a file has a modification time")?;
        let what = match (kind, content, target) {
            (EntryKind::Folder, ..) => What::Folder,
            (EntryKind::Link, _, Some(Value::Text(target))) => What::Link(link_target(&target)?),
            (EntryKind::Link, ..) => return Err("a link has a target".into()),
            (_, None, _) => What::File(FileContent::Unknown),
            (_, Some(Value::Large(large)), _) => What::File(FileContent::Reference(*large)),
            (_, Some(Value::Bytes(bytes)), _) => What::File(FileContent::Bytes(bytes)),
            (..) => return Err("a file has a content; that of an empty file is of no bytes".into()),
        };
        Ok(Wanted { path, what, mode, mtime })
    }

    /// Which of a tree's fields are in `changed`.
    pub(super) fn changed(&self, changed: &[u32]) -> Changed {
        let is = |slot: Option<usize>| slot.is_some_and(|slot| changed.contains(&(slot as u32)));
        Changed {
            kind: is(self.kind),
            content: is(self.content),
            target: is(self.target),
            mode: is(self.mode),
            mtime: is(self.mtime),
        }
    }
}

/// Which fields of an entry that is there are to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub(super) kind: bool,
    pub(super) content: bool,
    pub(super) target: bool,
    pub(super) mode: bool,
    pub(super) mtime: bool,
}

impl Changed {
    pub(super) const ALL: Changed = Changed { kind: true, content: true, target: true, mode: true, mtime: true };
}
