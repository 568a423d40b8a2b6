//! How one collection of the source stands at the destination.

use std::sync::Arc;

use deltabus_interfaces::Interface;
use deltabus_interfaces::contents::{field_for, same_content};
use deltabus_record::key::Key;
use deltabus_record::large::{ByReference, internalize, references, refers_to_large};
use deltabus_record::mapping::{Lens, Mapping};
use deltabus_record::row::{Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName, KeySpec};
use deltabus_record::value::{Kind, Large, Value};

use crate::Error;
use crate::contents::LargeValues;
use crate::filter::Filter;

/// One collection on its way between the source's terms and the destination's.
pub(crate) struct Outlet {
    /// As the source has it.
    pub(crate) source: Collection,
    /// As the destination has it, or will have it.
    pub(crate) destination: Collection,
    /// Destination fields that go because the source dropped them.
    pub(crate) dropped: Vec<String>,
    lens: Lens,
    /// For each of `destination`'s slots, the slot in rows as they are found there; `None`: all are in place.
    found: Option<Vec<Option<usize>>>,
    /// For each of `destination`'s slots, whether it was found there.
    there: Vec<bool>,
    filter: Option<Arc<Filter>>,
    interface: Arc<dyn Interface>,
    large: Arc<LargeValues>,
    /// Fields that the source has by reference only.
    by_reference: ByReference,
    /// By slot of the source: whether the destination takes it by reference.
    kept: Vec<bool>,
}

/// Pairs the source's collections with those found at a destination: by name, or the only one with the only one where the
/// store holds just one whatever its name. Gives for each of the source's the place of its partner; `None` if a store of one
/// collection is to take several.
pub fn pair(interface: &dyn Interface, source: &[Collection], found: &[Collection]) -> Option<Vec<Option<usize>>> {
    if interface.single_collection() {
        return match source {
            [] => Some(Vec::new()),
            [_] => Some(vec![(!found.is_empty()).then_some(0)]),
            _ => None,
        };
    }
    let place = |source: &Collection| found.iter().position(|found| found.name == source.name);
    Some(source.iter().map(place).collect())
}

impl Outlet {
    /// Connects `source` with what was `found` at the destination, if anything.
    pub(crate) fn new(
        interface: &Arc<dyn Interface>,
        source: &Collection,
        found: Option<&Collection>,
        mapping: &Mapping,
        filter: Option<&Arc<Filter>>,
        large: &Arc<LargeValues>,
    ) -> Result<Outlet, Error> {
        if let Some(filter) = filter {
            filter.check(&source.schema)?;
        }
        let mut wanted = mapping.destination_schema(&source.schema)?;
        for field in &mut wanted.fields {
            let ordinal = field.ordinal;
            *field = field_for(&**interface, field);
            field.ordinal = ordinal;
        }
        // What stands there keeps its fields and types; what is missing is made.
        let mut schema = wanted.clone();
        if let Some(found) = found {
            for field in &mut schema.fields {
                if let Some(slot) = found.schema.slot(&field.name) {
                    let ordinal = field.ordinal;
                    *field = found.schema.fields[slot].clone();
                    field.ordinal = ordinal;
                }
            }
        }
        let name = found.map_or_else(|| source.name.clone(), |found| found.name.clone());
        let lens = Lens::new(mapping, &source.schema, &schema, |field| interface.verbatim(field))?;
        let keeps = |slot: usize| {
            let there = lens.destination_slot(slot).and_then(|there| schema.fields.get(there));
            there.is_none_or(|field| interface.verbatim(field).contains(Kind::Large))
        };
        let kept = (0..source.schema.fields.len()).map(keeps).collect();
        let living = |name: &str| schema.slot(name).is_some();
        let dropped = source.schema.fields.iter().filter(|field| field.dropped);
        let dropped = dropped.map(|field| mapping.destination_name(&field.name)).filter(|name| !living(name));
        let dropped =
            dropped.filter(|name| found.is_some_and(|found| found.schema.slot(name).is_some())).collect::<Vec<_>>();
        let slots = found.map(|found| (schema.slots_in(&found.schema), found.schema.fields.len()));
        let in_place = |slots: &[Option<usize>], count: usize| {
            slots.len() == count && slots.iter().enumerate().all(|(slot, from)| *from == Some(slot))
        };
        let there = match &slots {
            Some((slots, _)) => slots.iter().map(Option::is_some).collect(),
            None => vec![false; schema.fields.len()],
        };
        let found_slots = slots.filter(|(slots, count)| !in_place(slots, *count)).map(|(slots, _)| slots);
        Ok(Outlet {
            found: found_slots,
            there,
            source: source.clone(),
            destination: Collection { name, schema },
            dropped,
            lens,
            filter: filter.cloned(),
            interface: Arc::clone(interface),
            large: Arc::clone(large),
            by_reference: ByReference::of(&source.schema),
            kept,
        })
    }

    /// The collection's name in the source.
    pub(crate) fn name(&self) -> &CollectionName {
        &self.source.name
    }

    /// Whether a field that the source did not have `before` stands at the destination already.
    pub(crate) fn adopts(&self, before: Option<&Collection>) -> bool {
        let new = |slot: &usize| {
            let name = &self.source.schema.fields[*slot].name;
            before.is_none_or(|before| before.schema.slot(name).is_none())
        };
        let ordered = self.source.schema.ordered();
        let mut new = ordered.iter().map(|(slot, _)| *slot).filter(new);
        new.any(|slot| self.lens.destination_slot(slot).is_some_and(|there| self.stands(there)))
    }

    /// Whether the source has a field now that it did not have `before`, or not any more.
    pub(crate) fn gains(&self, before: Option<&Collection>) -> bool {
        let had = |slot: usize| before.is_some_and(|before| before.schema.has(slot));
        let now = &self.source.schema;
        (0..now.fields.len()).any(|slot| now.has(slot) && !had(slot))
    }

    /// Whether the destination has the field already.
    fn stands(&self, slot: usize) -> bool {
        self.there.get(slot).copied().unwrap_or_default()
    }

    /// Whether equal rows are counted.
    pub(crate) fn counted(&self) -> bool {
        self.source.schema.key == KeySpec::WholeRow
    }

    /// A row as it is found at the destination, brought into [`Outlet::destination`]'s slots; what the source knows nothing of
    /// is left out.
    pub(crate) fn placed<'b>(&self, row: &'b [u8], out: &'b mut RowBuilder) -> &'b [u8] {
        let Some(slots) = &self.found else { return row };
        let fields: Vec<_> = RowReader::new(row).collect();
        out.clear();
        for slot in slots {
            let field = slot.and_then(|slot| fields.get(slot).copied());
            out.push_encoded(field.unwrap_or(deltabus_record::row::FieldRef::ABSENT));
        }
        out.as_bytes()
    }

    /// Whether the destination wants a source row.
    pub(crate) fn wants(&self, row: &[u8]) -> Result<bool, Error> {
        match &self.filter {
            Some(filter) => Ok(filter.wants(&self.source.schema, row)?),
            None => Ok(true),
        }
    }

    /// The source's record, if the destination wants it.
    pub(crate) fn wanted(&self, row: Option<Row>) -> Result<Option<Row>, Error> {
        match row {
            Some(row) if self.wants(row.as_bytes())? => Ok(Some(row)),
            _ => Ok(None),
        }
    }

    /// How the destination holds a source row; whether it wants the record is another question.
    pub(crate) fn forward(&self, row: &[u8], out: &mut RowBuilder) -> Result<(), Error> {
        out.clear();
        if refers_to_large(row) {
            let mut whole = RowBuilder::default();
            internalize(row, &mut whole, &|slot| self.keeps(slot), &mut |large| self.large.fetch(large))?;
            self.convert(whole.as_bytes(), out)?;
        } else {
            self.convert(row, out)?;
        }
        Ok(())
    }

    /// The same for a row that only has to be recognized: contents that the bus no longer has stay references.
    pub(crate) fn forward_as_known(&self, row: &[u8], out: &mut RowBuilder) -> Result<(), Error> {
        match self.forward(row, out) {
            Err(error) if error.is_missing_content() => {
                out.clear();
                self.convert(row, out)
            }
            result => result,
        }
    }

    /// Whether a reference in the source's `slot` goes to the destination as it is, or not at all.
    fn keeps(&self, slot: usize) -> bool {
        self.kept.get(slot).copied().unwrap_or_default()
    }

    /// Whether the source has fields that hold nothing but references, which the destination takes as they are.
    pub(crate) fn takes_references(&self) -> bool {
        self.source.schema.fields.iter().zip(&self.kept).any(|(field, kept)| *kept && field.kind == Some(Kind::Large))
    }

    /// The references of a source row that the destination will read.
    pub(crate) fn references<'b>(&'b self, row: &'b [u8]) -> impl Iterator<Item = Large> + 'b {
        RowReader::new(row).enumerate().filter_map(|(slot, field)| match field.kind() {
            Kind::Large if self.lens.destination_slot(slot).is_some() => match field.value() {
                Value::Large(large) => Some(*large),
                _ => None,
            },
            _ => None,
        })
    }

    fn convert(&self, row: &[u8], out: &mut RowBuilder) -> Result<(), Error> {
        let fields = &self.destination.schema.fields;
        self.lens.forward(row, out, &mut |value, slot| {
            if matches!(value, Value::Large(_)) {
                return Ok(value);
            }
            self.interface.project(value, &fields[slot]).map_err(|refusal| Error::Refused {
                collection: self.destination.name.clone(),
                field: fields[slot].name.clone(),
                refusal,
            })
        })
    }

    /// [`Outlet::forward_as_known`] as an owned row.
    pub(crate) fn row_as_known(&self, source: Option<&Row>) -> Result<Option<Row>, Error> {
        let Some(source) = source else { return Ok(None) };
        let mut out = RowBuilder::default();
        self.forward_as_known(source.as_bytes(), &mut out)?;
        Ok(Some(out.row()))
    }

    /// [`Outlet::forward`] as an owned row.
    pub(crate) fn row(&self, source: Option<&Row>) -> Result<Option<Row>, Error> {
        let Some(source) = source else { return Ok(None) };
        let mut out = RowBuilder::default();
        self.forward(source.as_bytes(), &mut out)?;
        Ok(Some(out.row()))
    }

    /// The key of a destination row; `occurrence` counts equal rows.
    pub(crate) fn destination_key(&self, row: &Row, occurrence: u32) -> Key {
        self.destination.schema.key_of(row.as_bytes(), occurrence)
    }

    /// The source's key (without occurrence) of a destination row, in [`Outlet::destination`]'s slots.
    pub(crate) fn source_key(&self, row: &[u8], key: &mut Vec<u8>) {
        let mut lifted = RowBuilder::default();
        self.lens.backward(row, None, &mut lifted);
        self.source.schema.key_content_into(lifted.as_bytes(), key);
    }

    /// Whether a source row stands at the destination as it is.
    pub(crate) fn is_identity(&self) -> bool {
        self.lens.is_identity()
    }

    /// The source's row that a destination row stands for. Fields that stand as `base` was projected are `base`'s; so are
    /// those that the destination doesn't have.
    pub(crate) fn lift(&self, row: &[u8], base: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(base) = base else {
            let mut lifted = RowBuilder::default();
            self.lens.backward(row, None, &mut lifted);
            return self.settle(lifted.as_bytes(), None, out);
        };
        if refers_to_large(base) {
            let found: Vec<_> = RowReader::new(row).collect();
            for (slot, field) in RowReader::new(base).enumerate() {
                let there = self.lens.destination_slot(slot).and_then(|there| found.get(there));
                if let (Value::Large(large), Some(there)) = (field.value(), there) {
                    self.large.keep_lost(&large, *there)?;
                }
            }
        }
        let mut expected = RowBuilder::default();
        if let Err(error) = self.forward_as_known(base, &mut expected) {
            // What the destination can't hold it doesn't hold: nothing stands there as projected.
            if !matches!(error, Error::Refused { .. }) {
                return Err(error);
            }
            let mut lifted = RowBuilder::default();
            self.lens.backward(row, Some(base), &mut lifted);
            return self.settle(lifted.as_bytes(), Some(base), out);
        }
        if expected.as_bytes() == row {
            out.extend_from_slice(base);
            return Ok(());
        }
        let mut lifted = RowBuilder::default();
        self.lens.backward(row, Some(base), &mut lifted);
        // Field by field: what stands as projected is no edit, whatever lifting would make of it.
        let found: Vec<_> = RowReader::new(row).collect();
        let expected: Vec<_> = RowReader::new(expected.as_bytes()).collect();
        let before = base;
        let base: Vec<_> = RowReader::new(base).collect();
        let mut settled = RowBuilder::default();
        let lifted: Vec<_> = RowReader::new(lifted.as_bytes()).collect();
        let absent = deltabus_record::row::FieldRef::ABSENT;
        for slot in 0..lifted.len().max(base.len()) {
            let untouched = self.lens.destination_slot(slot).is_some_and(|there| {
                let (found, expected) = (found.get(there), expected.get(there));
                same_content(found.copied().unwrap_or(absent), expected.copied().unwrap_or(absent))
            });
            let from = if untouched { &base } else { &lifted };
            settled.push_encoded(from.get(slot).copied().unwrap_or(absent));
        }
        self.settle(settled.as_bytes(), Some(before), out)
    }

    /// Large values leave the row; all that it refers to and `base` doesn't is sent.
    fn settle(&self, row: &[u8], base: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), Error> {
        if refers_to_large(row) {
            let known = |large: &Large| base.is_some_and(|base| references(base).any(|known| known == *large));
            for large in references(row).filter(|large| !known(large)) {
                self.large.keep_found(&large)?;
            }
        }
        if !self.by_reference.leaves(row) {
            out.extend_from_slice(row);
            return Ok(());
        }
        let mut small = RowBuilder::default();
        self.by_reference.externalize(row, &mut small, &mut |bytes, text| self.large.keep(bytes, text))?;
        out.extend_from_slice(small.as_bytes());
        Ok(())
    }
}
