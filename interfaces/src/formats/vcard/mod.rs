//! vCard 2.1, 3.0 (RFC 2426) and 4.0 (RFC 6350): a file of cards, or a folder of files of mostly one card each.
//!
//! | option | |
//! |---|---|
//! | `version` | the version of new cards whose record names none: `2.1`, `3.0` or `4.0` (the default). Cards that are there keep theirs |
//! | `encoding` | of a file without a byte order mark: `utf-8` (the default), `utf-16le`, `utf-16be`, `latin1`, `windows-1252` |
//!
//! The key is `uid`, the card's `UID`. A card without one has a key made of its `FN` and `N`, and of how many cards of the
//! same names stand before it: editing anything else leaves the key, and reading writes nothing. Whenever deltabus itself
//! writes a file and a card's key would change by that, the card gets the key as its `UID`; so does every new card.
//!
//! A path that ends with a slash, or is a folder, means a folder: its files `*.vcf` and `*.vcard`, none below it and none
//! hidden. They change in one step (`crate::folder`), each only where its cards do. A card without a `UID` is known by its
//! file's name there. New cards get a file named after their `UID`.
//!
//! Every file has the same fields (`fields`): what each property becomes is said in `docs/values.md`. Properties
//! without a field are in `other` as they stand. Values that no property can hold, and fields that vCard doesn't know, are
//! written as `X-DELTABUS-FIELD` (`extension`) and come back as they were. There is no null: null is absent.
//!
//! Writing keeps what it needn't change byte for byte. A changed entry of a field rewrites its line only, and keeps what
//! stands before the colon if only the value has changed; new lines come behind their like, else before `END`. `REV` is
//! left as it is: it says what the source says.
//!
//! A card that is cut off, a `BEGIN` or `END` without its other, base64 or quoted-printable that is none, and bytes that
//! are not of the character set are errors with line and column.

mod card;
mod changes;
mod extension;
mod extras;
mod fields;
mod folder;
mod lines;
mod other;
mod property;
mod read;
mod shape;
mod shelf;
mod transport;
mod write;

use std::path::Path;

use deltabus_record::schema::Field;
use deltabus_record::text;
use deltabus_record::value::{Kind, KindSet, Value};

use crate::file::FileStore;
use crate::formats::content_line::{Charsets, FileEncoding, FileForm, is_name};
use crate::formats::file_set::FileSet;
use crate::{
    CollectionWrite, Content, Contents, Interface, Location, Mark, Notify, Refusal, Result, Scan, Staged, Stamp,
    Watching,
};
use card::is_own;
use other::Other;
use property::Version;
use shelf::Place;

/// A file of cards, or a folder of such files.
pub(crate) struct Vcard {
    place: Place,
    /// The version of new cards.
    version: Version,
    encoding: Option<FileEncoding>,
}

/// A file's content, in UTF-8 but for values of other character sets.
struct Text {
    form: FileForm,
    content: Vec<u8>,
}

impl Text {
    /// Where character sets are said.
    fn charsets(&self) -> Charsets {
        match self.form.encoding {
            FileEncoding::Utf8 => Charsets::OfValues,
            _ => Charsets::OfFile,
        }
    }
}

impl Vcard {
    /// The file at `location`; the options are checked, nothing is read.
    pub(crate) fn open(location: &Location) -> Result<Vcard> {
        let mut options = location.options.clone();
        let version = match options.take("version").as_deref() {
            None | Some("4.0") => Version::V40,
            Some("3.0") => Version::V30,
            Some("2.1") => Version::V21,
            Some(other) => {
                return Err(location.error(format!("`version` is `2.1`, `3.0` or `4.0`, not `{other}`")));
            }
        };
        let encoding = match options.take("encoding") {
            None => None,
            Some(name) => Some(FileEncoding::from_name(&name).ok_or_else(|| {
                let known: Vec<_> = FileEncoding::NAMES.iter().map(|(name, _)| *name).collect();
                location.error(format!("there is no encoding `{name}` here; there are {}", known.join(", ")))
            })?),
        };
        options.finish(location, &["version", "encoding"])?;
        let place = match FileSet::is_meant(&location.path) {
            true => Place::Folder(FileSet::new(&location.path, shelf::EXTENSIONS, None)),
            false => Place::File(FileStore::new(&location.path)),
        };
        Ok(Vcard { place, version, encoding })
    }

    fn path(&self) -> &Path {
        match &self.place {
            Place::File(file) => file.path(),
            Place::Folder(set) => set.path(),
        }
    }

    /// The path for messages.
    fn place(&self) -> String {
        self.path().display().to_string()
    }

    /// The encoding, where it lacks some of Unicode's characters.
    fn narrow_encoding(&self) -> Option<FileEncoding> {
        self.encoding.filter(|encoding| !encoding.is_unicode())
    }

    /// What is read back after `value` was written to `field`.
    fn settled(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        let refused = |reason: &str| Err(Refusal { reason: reason.into() });
        let value = match value {
            Value::Absent | Value::Null if field.name == fields::VERSION => Value::text(self.version.name()),
            Value::Absent | Value::Null if field.name == fields::UID => return refused("a card needs a `uid`"),
            Value::Absent | Value::Null => return Ok(Value::Absent),
            Value::Large(_) => return refused("a large value must be there as a whole to be kept"),
            value => value,
        };
        match field.name.as_str() {
            fields::UID => match text::to_text(&value) {
                Some(uid) if uid.is_empty() => refused("a card's `uid` can't be empty"),
                Some(uid) if uid.contains('\r') => refused("a card's `uid` can't hold a carriage return"),
                Some(uid) => Ok(Value::Text(uid)),
                None => refused("a card's `uid` must be text"),
            },
            fields::VERSION => match text::to_text(&value) {
                Some(version) if is_name(&version) => Ok(Value::Text(version)),
                _ => refused("a card's `version` is one such as `4.0`"),
            },
            fields::OTHER => Ok(settled_others(&value).unwrap_or(value)),
            name if name.contains('\r') => refused("a field's name can't hold a carriage return here"),
            name => Ok(match fields::by_field(name) {
                Some(field) => match shape::properties_of(field, &value) {
                    Some(properties) => shape::value_of(field, &properties),
                    None => value,
                },
                None => value,
            }),
        }
    }
}

/// The properties that a value of `other` stands for, where it stands for some.
fn others_of(value: &Value) -> Option<Vec<Other>> {
    let parsed = match value {
        Value::Text(text) => text::parse(text, Kind::List)?,
        value => value.clone(),
    };
    let Value::List(values) = parsed else { return None };
    let others: Option<Vec<_>> = values.iter().map(Other::of).collect();
    others.filter(|others| !others.is_empty())
}

fn settled_others(value: &Value) -> Option<Value> {
    Some(Value::List(others_of(value)?.iter().map(Other::value).collect()))
}

impl Interface for Vcard {
    fn stamp(&self) -> Result<Stamp> {
        match &self.place {
            Place::File(file) => file.stamp(),
            Place::Folder(set) => set.stamp(),
        }
    }

    fn watch(&self, notify: Notify) -> Result<Option<Watching>> {
        match &self.place {
            Place::File(file) => Ok(Some(Watching::files(&file.watch(), notify)?)),
            Place::Folder(set) => set.watch(notify).map(Some),
        }
    }

    fn own_fields(&self) -> &'static [&'static str] {
        &["version", "uid"]
    }

    fn commits(&self) -> bool {
        false
    }

    fn scan(&self, _since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>> {
        Ok(Box::new(read::VcardScan::open(self)?))
    }

    fn verbatim(&self, field: &Field) -> KindSet {
        match field.name.as_str() {
            fields::UID | fields::VERSION => KindSet::default(),
            _ => KindSet::of(&[Kind::Absent]),
        }
    }

    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        let value = self.settled(value, field)?;
        if let Some(encoding) = self.narrow_encoding()
            && let Some(char) = text::to_text(&value).and_then(|text| encoding.lacks(&text))
        {
            let reason = format!("{} has no character {char:?} (U+{:04X})", encoding.name(), u32::from(char));
            return Err(Refusal { reason });
        }
        Ok(value)
    }

    fn field_for(&self, field: &Field) -> Field {
        let kind = match (field.name.as_str(), fields::by_field(&field.name)) {
            (_, Some(known)) => known.kind(),
            (fields::UID | fields::VERSION, _) => Some(Kind::Text),
            (fields::OTHER, _) => Some(Kind::List),
            _ => field.kind.filter(|kind| !matches!(kind, Kind::Absent | Kind::Null | Kind::Large)),
        };
        debug_assert!(kind.is_none() || is_own(&field.name) || kind == field.kind);
        Field { kind, declared: None, ..field.clone() }
    }

    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        expected: &Stamp,
        mark: Option<&Mark>,
        _contents: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>> {
        write::stage(self, writes, expected, mark)
    }

    fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>> {
        match &self.place {
            Place::File(_) => Ok(None),
            Place::Folder(set) => set.mark(owner),
        }
    }

    fn transactional(&self) -> bool {
        matches!(self.place, Place::Folder(_))
    }

    fn single_collection(&self) -> bool {
        true
    }

    fn content(&self) -> Result<Option<Content>> {
        match &self.place {
            Place::File(file) => file.content(),
            Place::Folder(_) => Ok(None),
        }
    }
}
