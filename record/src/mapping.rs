//! What a destination gets of a source's collection: fields renamed or left out, rows converted quickly.

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

    /// Checks it against a source's schema.
    pub fn check(&self, source: &Schema) -> Result<(), MappingError> {
        let named = self.renamed.iter().map(|(_, name)| name).chain(&self.omitted);
        for name in named {
            if source.slot(name).is_none() {
                let fields = source.ordered().into_iter().map(|(_, field)| field.name.clone()).collect();
                return Err(MappingError::NoField { name: name.clone(), fields });
            }
        }
        match &source.key {
            KeySpec::WholeRow if !self.omitted.is_empty() => return Err(MappingError::WholeRow),
            _ => {}
        }
        if let Some(name) = source.key_names().into_iter().find(|name| self.omitted.iter().any(|omit| omit == name)) {
            return Err(MappingError::KeyOmitted { name: name.to_owned() });
        }
        let names: Vec<String> = source
            .ordered()
            .into_iter()
            .filter(|(_, field)| !self.omitted.contains(&field.name))
            .map(|(_, field)| self.destination_name(&field.name))
            .collect();
        let twice = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name));
        twice.map_or(Ok(()), |(_, name)| Err(MappingError::Twice { name: name.clone() }))
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

/// A mapping between one source schema and one destination schema, ready to convert rows.
#[derive(Clone, Debug)]
pub struct Lens {
    /// For each destination slot: the source slot, and the kinds that need no conversion.
    forward: Vec<Option<(usize, KindSet)>>,
    /// For each source slot: the destination slot, and the source field's kind.
    backward: Vec<(Option<usize>, Option<Kind>)>,
    /// Every destination slot is the source slot of the same number.
    in_place: bool,
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
        let mut backward = Vec::with_capacity(source.fields.len());
        for (slot, field) in source.fields.iter().enumerate() {
            let omitted = field.dropped || mapping.omitted.contains(&field.name);
            let there = if omitted { None } else { destination.slot(&mapping.destination_name(&field.name)) };
            if let Some(there) = there {
                forward[there] = Some((slot, verbatim(&destination.fields[there])));
            }
            backward.push((there, field.kind));
        }
        let in_place = forward.len() == backward.len()
            && forward.iter().enumerate().all(|(there, from)| from.is_some_and(|(slot, _)| slot == there));
        Ok(Lens { forward, backward, in_place })
    }

    /// The destination slot of a source slot.
    pub fn destination_slot(&self, source_slot: usize) -> Option<usize> {
        self.backward.get(source_slot).and_then(|(there, _)| *there)
    }

    /// Appends to `out` the destination's row for a source row. `project` converts what the destination doesn't keep
    /// verbatim; it gets the value and the destination slot.
    pub fn forward<E>(
        &self,
        source: &[u8],
        out: &mut RowBuilder,
        project: &mut dyn FnMut(Value, usize) -> Result<Value, E>,
    ) -> Result<(), E> {
        let mut put = |slot: usize, field: FieldRef<'_>, verbatim: KindSet| -> Result<(), E> {
            if verbatim.contains(field.kind()) {
                out.push_encoded(field);
            } else {
                out.push(&project(field.value(), slot)?);
            }
            Ok(())
        };
        if self.in_place {
            let mut fields = RowReader::new(source);
            for (slot, from) in self.forward.iter().enumerate() {
                let verbatim = from.map_or(KindSet::ALL, |(_, verbatim)| verbatim);
                put(slot, fields.next().unwrap_or(FieldRef::ABSENT), verbatim)?;
            }
            return Ok(());
        }
        let fields: Vec<FieldRef<'_>> = RowReader::new(source).collect();
        for (slot, from) in self.forward.iter().enumerate() {
            match from {
                Some((from, verbatim)) => put(slot, fields.get(*from).copied().unwrap_or(FieldRef::ABSENT), *verbatim)?,
                // A field of the destination's own.
                None => put(slot, FieldRef::ABSENT, KindSet::ALL)?,
            }
        }
        Ok(())
    }

    /// Appends to `out` the source's row for a destination row, each value brought back to the source's kind. Fields that the
    /// destination doesn't have are those of `base`, or absent.
    pub fn backward(&self, destination: &[u8], base: Option<&[u8]>, out: &mut RowBuilder) {
        let found: Vec<FieldRef<'_>> = RowReader::new(destination).collect();
        let base: Vec<FieldRef<'_>> = base.map(|base| RowReader::new(base).collect()).unwrap_or_default();
        for (slot, (there, kind)) in self.backward.iter().enumerate() {
            let before = base.get(slot).copied().unwrap_or(FieldRef::ABSENT);
            match there {
                None => out.push_encoded(before),
                Some(there) => {
                    let field = found.get(*there).copied().unwrap_or(FieldRef::ABSENT);
                    if kind.is_some_and(|kind| kind == field.kind()) {
                        out.push_encoded(field);
                    } else {
                        out.push(&convert::lift(field.value(), *kind, &before.value()));
                    }
                }
            }
        }
    }
}
