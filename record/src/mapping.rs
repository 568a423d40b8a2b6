//! What a destination gets of a source's collection: fields renamed or left out, rows converted quickly.

use std::collections::HashSet;

use crate::convert;
use crate::row::{FieldRef, RowBuilder, RowReader};
use crate::schema::{Field, KeySpec, Schema};
use crate::value::{Kind, KindSet, Value};

/// A mapping that doesn't fit the source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A field that the source doesn't have.
    #[error("the source has no field `{name}`; {}", nearest(name, fields))]
    NoField {
        /// The name used.
        name: String,
        /// The fields there are.
        fields: Vec<String>,
    },
    /// A key field that is left out.
    #[error("the field `{name}` belongs to the key and can't be left out")]
    KeyOmitted {
        /// The field.
        name: String,
    },
    /// Fields are left out where the whole row is the key.
    #[error("without a key every field is needed to tell records apart: none can be left out")]
    WholeRow,
    /// One source field that is to stand in two fields: edits of both could not be told apart.
    #[error("the field `{name}` can't stand in two fields of the destination")]
    TakenTwice {
        /// The field.
        name: String,
    },
    /// Two fields of one name at the destination.
    #[error("two fields would be named `{name}` at the destination")]
    Twice {
        /// The name.
        name: String,
    },
}

fn nearest(name: &str, fields: &[String]) -> String {
    let near = fields.iter().min_by_key(|field| distance(name, field));
    match near.filter(|field| distance(name, field) <= 1 + name.len() / 3) {
        Some(field) => format!("did you mean `{field}`?"),
        None => format!("its fields are {}", fields.join(", ")),
    }
}

/// How many letters have to be changed, added or taken out to make `b` of `a` (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == *y { diagonal } else { 1 + diagonal.min(above).min(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Which fields go where; everything that isn't named keeps its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// `(destination name, source name)`.
    renamed: Vec<(String, String)>,
    /// Source names.
    omitted: Vec<String>,
}

impl Mapping {
    /// Every field under its own name.
    pub fn identity() -> Mapping {
        Mapping::default()
    }

    /// `fields` are `(destination name, source name)`, `omit` source names.
    pub fn new(fields: &[(String, String)], omit: &[String]) -> Mapping {
        Mapping { renamed: fields.to_vec(), omitted: omit.to_vec() }
    }

    /// Checks that every field named is one of the source's, in at least one of its collections; a field that the source
    /// has dropped counts.
    pub fn check_names<'a>(&self, sources: impl Iterator<Item = &'a Schema> + Clone) -> Result<(), MappingError> {
        let mut fields = sources.flat_map(|schema| &schema.fields);
        if fields.clone().next().is_none() {
            // Nothing is known of the source yet.
            return Ok(());
        }
        for name in self.renamed.iter().map(|(_, name)| name).chain(&self.omitted) {
            if !fields.clone().any(|field| field.name == *name) {
                let fields = fields.by_ref().filter(|field| !field.dropped).map(|field| field.name.clone());
                return Err(MappingError::NoField { name: name.clone(), fields: fields.collect() });
            }
        }
        Ok(())
    }

    /// Checks it against one of a source's schemas. Fields named that this schema lacks may belong to another collection;
    /// see [`Mapping::check_names`].
    pub fn check(&self, source: &Schema) -> Result<(), MappingError> {
        let omitted = |name: &str| self.omitted.iter().any(|omitted| omitted == name);
        if source.key == KeySpec::WholeRow && source.ordered().iter().any(|(_, field)| omitted(&field.name)) {
            return Err(MappingError::WholeRow);
        }
        if let Some(name) = source.key_names().into_iter().find(|name| omitted(name)) {
            return Err(MappingError::KeyOmitted { name: name.to_owned() });
        }
        let mut names = HashSet::new();
        for (_, field) in source.ordered() {
            let name = self.destination_name(&field.name);
            if !omitted(&field.name) && !names.insert(name.clone()) {
                return Err(MappingError::Twice { name });
            }
        }
        let mut renamed = self.renamed.iter().map(|(_, from)| from).enumerate();
        match renamed.find(|(i, from)| self.renamed[..*i].iter().any(|(_, other)| other == *from)) {
            Some((_, name)) => Err(MappingError::TakenTwice { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// What a source's field is called at the destination.
    pub fn destination_name(&self, source: &str) -> String {
        let renamed = self.renamed.iter().find(|(_, from)| from == source);
        renamed.map_or(source, |(to, _)| to).to_owned()
    }

    /// The schema that a destination gets: the living fields in their order, slot by slot.
    pub fn destination_schema(&self, source: &Schema) -> Result<Schema, MappingError> {
        self.check(source)?;
        let kept = source.ordered().into_iter().filter(|(_, field)| !self.omitted.contains(&field.name));
        let fields: Vec<Field> = kept
            .enumerate()
            .map(|(ordinal, (_, field))| Field {
                name: self.destination_name(&field.name),
                ordinal: ordinal as u32,
                ..field.clone()
            })
            .collect();
        let slot = |name: &str| {
            let name = self.destination_name(name);
            fields.iter().position(|field| field.name == name).unwrap_or_default() as u32
        };
        let key = match &source.key {
            KeySpec::WholeRow => KeySpec::WholeRow,
            KeySpec::Fields(_) => KeySpec::Fields(source.key_names().into_iter().map(slot).collect()),
        };
        Ok(Schema { fields, key })
    }
}

/// Up to this many fields, a row's fields are laid out on the stack to be picked in another order.
const FIELDS_ON_STACK: usize = 64;

/// A mapping between one source schema and one destination schema, ready to convert rows.
#[derive(Clone, Debug)]
pub struct Lens {
    /// For each destination slot: where it comes from; `None` for the destination's own fields.
    forward: Vec<Option<Origin>>,
    /// For each source slot: where it goes; `None` for fields that the destination doesn't get.
    backward: Vec<Option<usize>>,
    /// For each source slot: the field's kind.
    kinds: Vec<Option<Kind>>,
    order: Order,
}

/// Where a destination's field comes from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    slot: usize,
    /// The kinds that need no conversion.
    verbatim: KindSet,
}

/// How the slots of source and destination lie beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The same slots, and every kind is kept: the row is the row.
    Same,
    /// Source slots come one after another, some left out.
    Ascending,
    /// Any other.
    Mixed,
}

impl Lens {
    /// Connects the fields by name. `verbatim` tells which kinds a destination field keeps as they are.
    pub fn new(
        mapping: &Mapping,
        source: &Schema,
        destination: &Schema,
        verbatim: impl Fn(&Field) -> KindSet,
    ) -> Result<Lens, MappingError> {
        mapping.check(source)?;
        let mut forward = vec![None; destination.fields.len()];
        let mut backward = vec![None; source.fields.len()];
        for (slot, field) in source.ordered() {
            if mapping.omitted.contains(&field.name) {
                continue;
            }
            if let Some(there) = destination.slot(&mapping.destination_name(&field.name)) {
                forward[there] = Some(Origin { slot, verbatim: verbatim(&destination.fields[there]) });
                backward[slot] = Some(there);
            }
        }
        let order = Order::of(&forward, backward.len());
        Ok(Lens { forward, backward, kinds: source.fields.iter().map(|field| field.kind).collect(), order })
    }

    /// The destination slot of a source slot.
    pub fn destination_slot(&self, source_slot: usize) -> Option<usize> {
        self.backward.get(source_slot).copied().flatten()
    }

    /// The source slot of a destination slot.
    pub fn source_slot(&self, destination_slot: usize) -> Option<usize> {
        self.forward.get(destination_slot).copied().flatten().map(|origin| origin.slot)
    }

    /// Whether the destination's row is the source's, byte for byte.
    pub fn is_identity(&self) -> bool {
        self.order == Order::Same
    }

    /// Appends to `out` the destination's row for a source row. `project` converts what the destination doesn't keep
    /// verbatim; it gets the value and the destination slot. The destination's own fields are absent.
    pub fn forward<E>(
        &self,
        source: &[u8],
        out: &mut RowBuilder,
        project: &mut dyn FnMut(Value, usize) -> Result<Value, E>,
    ) -> Result<(), E> {
        match self.order {
            Order::Same => out.push_row(source),
            Order::Ascending => {
                let mut fields = RowReader::new(source);
                let mut next = 0;
                for (there, origin) in self.forward.iter().enumerate() {
                    let Some(origin) = origin else {
                        out.push_encoded(FieldRef::ABSENT);
                        continue;
                    };
                    let field = fields.nth(origin.slot - next).unwrap_or(FieldRef::ABSENT);
                    next = origin.slot + 1;
                    origin.put(there, field, out, project)?;
                }
            }
            Order::Mixed => {
                let layout = Layout::of(source);
                for (there, origin) in self.forward.iter().enumerate() {
                    match origin {
                        Some(origin) => origin.put(there, layout.field(origin.slot), out, project)?,
                        None => out.push_encoded(FieldRef::ABSENT),
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends to `out` the source's row for a destination row, each value brought back to the source's kind
    /// ([`convert::lift_from`]). Fields that the destination doesn't have are those of `base`, the source's row before, or
    /// absent. The destination's own fields are left out.
    pub fn backward(&self, destination: &[u8], base: Option<&[u8]>, out: &mut RowBuilder) {
        let found = Layout::of(destination);
        let mut base = RowReader::new(base.unwrap_or_default());
        for (there, kind) in self.backward.iter().zip(&self.kinds) {
            let before = base.next().unwrap_or(FieldRef::ABSENT);
            let Some(there) = *there else {
                out.push_encoded(before);
                continue;
            };
            let field = found.field(there);
            let native = self.forward[there].map_or_else(KindSet::default, |origin| origin.verbatim);
            // What lifting leaves as it is needs no decoding.
            let scalar = !matches!(field.kind(), Kind::List | Kind::Map);
            let stays = scalar && *kind == Some(field.kind()) && native.contains(before.kind());
            if field == before || stays {
                out.push_encoded(field);
                continue;
            }
            out.push(&convert::lift_from(field.value(), *kind, &before.value(), native));
        }
        // Of fields that the source had or will have.
        base.for_each(|field| out.push_encoded(field));
    }
}

impl Origin {
    fn put<E>(
        &self,
        there: usize,
        field: FieldRef<'_>,
        out: &mut RowBuilder,
        project: &mut dyn FnMut(Value, usize) -> Result<Value, E>,
    ) -> Result<(), E> {
        let is_plain = || field.text().is_some_and(|text| !text.contains('\0'));
        if self.verbatim.contains(field.kind()) || self.verbatim.contains_plain_text() && is_plain() {
            out.push_encoded(field);
        } else {
            out.push(&project(field.value(), there)?);
        }
        Ok(())
    }
}

impl Order {
    fn of(forward: &[Option<Origin>], source_fields: usize) -> Order {
        let in_place = |(there, origin): (usize, &Option<Origin>)| {
            origin.is_some_and(|origin| origin.slot == there && origin.verbatim == KindSet::ALL)
        };
        if forward.len() == source_fields && forward.iter().enumerate().all(in_place) {
            Order::Same
        } else if forward.iter().flatten().is_sorted_by(|a, b| a.slot < b.slot) {
            Order::Ascending
        } else {
            Order::Mixed
        }
    }
}

/// The fields of a row, to be picked in any order.
struct Layout<'a> {
    first: [FieldRef<'a>; FIELDS_ON_STACK],
    more: Vec<FieldRef<'a>>,
}

impl<'a> Layout<'a> {
    fn of(row: &'a [u8]) -> Layout<'a> {
        let mut reader = RowReader::new(row);
        let mut first = [FieldRef::ABSENT; FIELDS_ON_STACK];
        for (place, field) in first.iter_mut().zip(reader.by_ref()) {
            *place = field;
        }
        Layout { first, more: reader.collect() }
    }

    fn field(&self, slot: usize) -> FieldRef<'a> {
        let field = match slot.checked_sub(FIELDS_ON_STACK) {
            None => self.first.get(slot),
            Some(beyond) => self.more.get(beyond),
        };
        field.copied().unwrap_or(FieldRef::ABSENT)
    }
}
