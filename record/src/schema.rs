//! Names, fields, schemas and collections.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::key::Key;
use crate::row::{FieldRef, Row, RowReader};
use crate::value::{Kind, Value};

/// A name that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a source or receiver name.
    #[error("`{name}` is no name for a {what}: use 1 to 64 of a-z, 0-9, `_` and `-`, beginning with a letter or digit")]
    Token {
        /// What was to be named.
        what: &'static str,
        /// The name given.
        name: String,
    },
}

macro_rules! token_name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the name: 1 to 64 of `a-z0-9_-`, beginning with a letter or digit, so that it can be a subject
            /// token, a file name and a label as it is.
            pub fn new(name: &str) -> Result<$type, NameError> {
                let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
                if first && rest && name.len() <= 64 {
                    Ok($type(name.into()))
                } else {
                    Err(NameError::Token { what: $what, name: name.to_owned() })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<$type, NameError> {
                $type::new(name)
            }
        }
    };
}

token_name!(
    /// Names a source on the bus.
    SourceName,
    "source"
);
token_name!(
    /// Names a receiver of a source; unique among the source's receivers.
    ReceiverName,
    "receiver"
);

/// Names a collection within its source: any text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionName(Arc<str>);

impl CollectionName {
    /// The collection of this name.
    pub fn new(name: impl Into<Arc<str>>) -> CollectionName {
        CollectionName(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The most fields a collection may have; more in a message from outside is refused, so that it can't fill the memory.
pub const FIELDS_MAX: usize = 65_536;

/// The longest name of a field or a collection. No database takes a longer one, a field's name is held many times over, and
/// a collection's is part of keys in the state store.
pub const NAME_BYTES_MAX: usize = 4_096;

/// One field of a schema. Its place in [`Schema::fields`] is its slot and never changes while the schema evolves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The field's name, distinct among the fields that are not dropped.
    pub name: String,
    /// The kind of all its values beside absent and null; `None` where values of several kinds occur.
    pub kind: Option<Kind>,
    /// The type as the source declares it (`VARCHAR(20)`), a hint for destinations of the same sort.
    pub declared: Option<String>,
    /// Where the field stands among the others for people, counted from 0.
    pub ordinal: u32,
    /// The source no longer has this field; its slot stays, so that older rows keep their meaning.
    pub dropped: bool,
}

impl Field {
    /// A field of `name` and `kind` at `ordinal`.
    pub fn new(name: impl Into<String>, kind: Option<Kind>, ordinal: u32) -> Field {
        Field { name: name.into(), kind, declared: None, ordinal, dropped: false }
    }
}

/// What makes two records the same record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// These slots' values, in this order.
    Fields(Vec<u32>),
    /// The whole row; equal rows are counted.
    WholeRow,
}

/// The fields and the key of a collection's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The fields by slot.
    pub fields: Vec<Field>,
    /// The key.
    pub key: KeySpec,
}

/// A named set of records with one schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Its name in the source.
    pub name: CollectionName,
    /// Its fields and key.
    pub schema: Schema,
}

/// A schema that can't go on from the one before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Two fields of one name.
    #[error("two fields are named `{0}`")]
    DuplicateField(String),
    /// A key field that doesn't exist.
    #[error("there is no field `{0}` to be the key; the fields are {1}")]
    NoKeyField(String, String),
    /// More fields than any collection may have.
    #[error("{0} fields are more than the limit of {FIELDS_MAX}")]
    TooManyFields(usize),
    /// A name that is too long.
    #[error("a name of {0} bytes is longer than the limit of {NAME_BYTES_MAX}")]
    LongName(usize),
    /// A key of slots that it can't be of.
    #[error("the key names the field {0}, which is not there, or twice")]
    NoKeySlot(u32),
}

impl Schema {
    /// Checks what comes from outside: living fields have distinct names, none too long, and not too many; the key's fields
    /// live, and are distinct.
    pub fn check(&self) -> Result<(), SchemaError> {
        if self.fields.len() > FIELDS_MAX {
            return Err(SchemaError::TooManyFields(self.fields.len()));
        }
        let mut names = HashSet::with_capacity(self.fields.len());
        for field in &self.fields {
            if field.name.len() > NAME_BYTES_MAX {
                return Err(SchemaError::LongName(field.name.len()));
            }
            if !field.dropped && !names.insert(field.name.as_str()) {
                return Err(SchemaError::DuplicateField(field.name.clone()));
            }
        }
        let KeySpec::Fields(slots) = &self.key else { return Ok(()) };
        let mut distinct = HashSet::new();
        // The key is found again by name, among the living.
        let lives = |slot: u32| self.has(slot as usize);
        match slots.iter().find(|slot| !lives(**slot) || !distinct.insert(**slot)) {
            Some(slot) => Err(SchemaError::NoKeySlot(*slot)),
            None => Ok(()),
        }
    }

    /// The slot of the living field `name`.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| !field.dropped && field.name == name)
    }

    /// The living fields with their slots, in the order for people.
    pub fn ordered(&self) -> Vec<(usize, &Field)> {
        let mut fields: Vec<_> = self.fields.iter().enumerate().filter(|(_, field)| !field.dropped).collect();
        fields.sort_by_key(|(slot, field)| (field.ordinal, *slot));
        fields
    }

    /// Sets the key to these fields, by name.
    pub fn with_key(mut self, names: &[&str]) -> Result<Schema, SchemaError> {
        let mut slots = Vec::with_capacity(names.len());
        for name in names {
            let Some(slot) = self.slot(name) else {
                let all: Vec<_> = self.ordered().into_iter().map(|(_, field)| format!("`{}`", field.name)).collect();
                return Err(SchemaError::NoKeyField((*name).to_owned(), all.join(", ")));
            };
            slots.push(slot as u32);
        }
        self.key = KeySpec::Fields(slots);
        Ok(self)
    }

    /// The names of the key's fields; empty where the whole row is the key.
    pub fn key_names(&self) -> Vec<&str> {
        match &self.key {
            KeySpec::Fields(slots) => slots.iter().map(|&slot| self.fields[slot as usize].name.as_str()).collect(),
            KeySpec::WholeRow => Vec::new(),
        }
    }

    /// The key of a row of this schema. Where the whole row is the key, `occurrence` counts its equals from 0.
    pub fn key_of(&self, row: &[u8], occurrence: u32) -> Key {
        let mut out = Vec::with_capacity(16);
        self.key_into(row, occurrence, &mut out);
        Key::from_trusted(out)
    }

    /// Appends the key of a row to `out`; see [`Schema::key_of`].
    pub fn key_into(&self, row: &[u8], occurrence: u32, out: &mut Vec<u8>) {
        match &self.key {
            KeySpec::Fields(slots) => match slots.as_slice() {
                [slot] => {
                    let field = RowReader::new(row).nth(*slot as usize).unwrap_or(FieldRef::ABSENT);
                    crate::key::encode_field(out, field);
                }
                slots => {
                    let mut fields = RowReader::new(row);
                    let mut next = 0;
                    for &slot in slots {
                        let slot = slot as usize;
                        if slot < next {
                            // Key fields out of the row's order.
                            fields = RowReader::new(row);
                            next = 0;
                        }
                        let field = fields.nth(slot - next).unwrap_or(FieldRef::ABSENT);
                        next = slot + 1;
                        crate::key::encode_field(out, field);
                    }
                }
            },
            KeySpec::WholeRow => {
                self.key_content_into(row, out);
                crate::key::encode_occurrence(out, occurrence);
            }
        }
    }

    /// A record's key without its occurrence: for keys of fields the key itself.
    pub fn key_content<'a>(&self, key: &'a Key) -> &'a [u8] {
        match &self.key {
            KeySpec::Fields(_) => key.as_bytes(),
            KeySpec::WholeRow => crate::key::split_occurrence(key.as_bytes()).0,
        }
    }

    /// Appends the key of a row without its occurrence: for keys of fields the key itself.
    pub fn key_content_into(&self, row: &[u8], out: &mut Vec<u8>) {
        match &self.key {
            KeySpec::Fields(_) => self.key_into(row, 0, out),
            KeySpec::WholeRow => {
                let start = out.len();
                let mut end = start;
                for field in RowReader::new(row) {
                    crate::key::encode_field(out, field);
                    if field.kind() != Kind::Absent {
                        end = out.len();
                    }
                }
                // A row is the same row with and without absent values at its end.
                out.truncate(end);
                crate::key::shorten(out, start);
            }
        }
    }

    /// The schema that `found`, just read from the source, makes of this one: known names keep their slots, new ones are
    /// appended, missing ones dropped. Equal to `self` when nothing changed.
    pub fn evolve(&self, found: &Schema) -> Schema {
        let mut fields = self.fields.clone();
        for field in &mut fields {
            if !field.dropped && found.slot(&field.name).is_none() {
                field.dropped = true;
            }
        }
        for (_, new) in found.ordered() {
            match fields.iter_mut().find(|field| !field.dropped && field.name == new.name) {
                Some(field) => *field = new.clone(),
                None => match fields.iter_mut().find(|field| field.name == new.name) {
                    Some(field) => *field = new.clone(),
                    None => fields.push(new.clone()),
                },
            }
        }
        let schema = Schema { fields, key: KeySpec::WholeRow };
        match &found.key {
            KeySpec::WholeRow => schema,
            KeySpec::Fields(_) => schema.with_key(&found.key_names()).expect("a found schema names its own fields"),
        }
    }

    /// Whether there is a field in this slot that is not dropped.
    pub fn has(&self, slot: usize) -> bool {
        self.fields.get(slot).is_some_and(|field| !field.dropped)
    }

    /// What a row has in fields that are there.
    pub fn only_had(&self, row: &Row) -> Row {
        let values = row.values().into_iter().enumerate();
        let values = values.map(|(slot, value)| if self.has(slot) { value } else { Value::Absent });
        Row::of(&values.collect::<Vec<_>>())
    }

    /// The names in all slots, those of dropped fields among them.
    pub fn names(&self) -> Vec<String> {
        self.fields.iter().map(|field| field.name.clone()).collect()
    }

    /// Where fields are here that had these `names`, by slot; `None`: where they were. As long as one log leads on, a slot has
    /// one name.
    pub fn moved(&self, names: &[String]) -> Option<Moved> {
        if self.fields.iter().zip(names).all(|(field, name)| field.name == *name) {
            return None;
        }
        let before = |field: &Field| names.iter().position(|name| *name == field.name);
        let now = |name: &String| self.fields.iter().position(|field| field.name == *name);
        Some(Moved { from: self.fields.iter().map(before).collect(), to: names.iter().map(now).collect() })
    }

    /// For each slot of `self`, the slot of the field of the same name in `other`.
    pub fn slots_in(&self, other: &Schema) -> Vec<Option<usize>> {
        let slot = |field: &Field| {
            if field.dropped { None } else { other.slot(&field.name) }
        };
        self.fields.iter().map(slot).collect()
    }
}

/// Where the fields of a collection went that had other slots before: by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    from: Vec<Option<usize>>,
    to: Vec<Option<usize>>,
}

impl Moved {
    /// For each slot now, the one before.
    pub fn from(&self) -> &[Option<usize>] {
        &self.from
    }

    /// For a slot before, the one now.
    pub fn to(&self, slot: usize) -> Option<usize> {
        self.to.get(slot).copied().flatten()
    }
}

/// Bytes that aren't a collection's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an encoded collection")]
pub struct NotACollection;

impl Collection {
    /// Checks what comes from outside: see [`Schema::check`].
    pub fn check(&self) -> Result<(), SchemaError> {
        match self.name.as_str().len() {
            length if length > NAME_BYTES_MAX => Err(SchemaError::LongName(length)),
            _ => self.schema.check(),
        }
    }

    /// The collection as bytes, for the state store: a row of name, key slots (null: the whole row) and fields.
    pub fn to_bytes(&self) -> Vec<u8> {
        let integer = |number: u32| Value::Integer(number.into());
        let field = |field: &Field| {
            Value::List(vec![
                Value::text(field.name.as_str()),
                field.kind.map_or(Value::Null, |kind| Value::text(kind.name())),
                field.declared.as_deref().map_or(Value::Null, Value::text),
                integer(field.ordinal),
                Value::Bool(field.dropped),
            ])
        };
        let key = match &self.schema.key {
            KeySpec::Fields(slots) => Value::List(slots.iter().map(|slot| integer(*slot)).collect()),
            KeySpec::WholeRow => Value::Null,
        };
        let fields = Value::List(self.schema.fields.iter().map(field).collect());
        Row::of(&[Value::text(self.name.as_str()), key, fields]).as_bytes().to_vec()
    }

    /// The collection that [`Collection::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Collection, NotACollection> {
        let row = Row::from_bytes(bytes).map_err(|_| NotACollection)?;
        let values: [Value; 3] = row.values().try_into().map_err(|_| NotACollection)?;
        let [Value::Text(name), key, Value::List(fields)] = values else { return Err(NotACollection) };
        let number = |value: &Value| match value {
            Value::Integer(number) => u32::try_from(*number).map_err(|_| NotACollection),
            _ => Err(NotACollection),
        };
        let text = |value: &Value| match value {
            Value::Text(text) => Ok(Some(text.clone())),
            Value::Null => Ok(None),
            _ => Err(NotACollection),
        };
        let field = |field: Value| match field {
            Value::List(parts) => match parts.as_slice() {
                // What a later version may append is not for this one.
                [name, kind, declared, ordinal, Value::Bool(dropped), ..] => Ok(Field {
                    name: text(name)?.ok_or(NotACollection)?,
                    kind: match text(kind)? {
                        Some(kind) => Some(Kind::from_name(&kind).ok_or(NotACollection)?),
                        None => None,
                    },
                    declared: text(declared)?,
                    ordinal: number(ordinal)?,
                    dropped: *dropped,
                }),
                _ => Err(NotACollection),
            },
            _ => Err(NotACollection),
        };
        let fields = fields.into_iter().map(field).collect::<Result<Vec<_>, _>>()?;
        let key = match key {
            Value::Null => KeySpec::WholeRow,
            Value::List(slots) => KeySpec::Fields(slots.iter().map(number).collect::<Result<Vec<_>, _>>()?),
            _ => return Err(NotACollection),
        };
        let collection = Collection { name: CollectionName::new(name), schema: Schema { fields, key } };
        collection.check().map_err(|_| NotACollection)?;
        Ok(collection)
    }
}
