//! Reading: the records one by one, decoded only where asked.

use std::collections::HashMap;

use deltabus_record::row::RowBuilder;
use deltabus_record::schema::{Collection, CollectionName, FIELDS_MAX, Field, KeySpec, Schema};
use deltabus_record::value::Kind;
use xxhash_rust::xxh3::xxh3_64;

use super::agenda::Agenda;
use super::fields::{FIELDS, Scope, UID};
use super::property::read_field_line;
use crate::formats::content_line::Line;
use crate::{Decoded, Error, Extent, Fingerprint, Position, Result, Scan, Stamp};

/// The version of what fields mean; another one makes all records unknown.
const LAYOUT_VERSION: u64 = 1;

/// One view of a calendar.
pub(super) struct CalendarScan {
    agenda: Agenda,
    stamp: Stamp,
    collections: Vec<Collection>,
    layout: u64,
    /// The current record's place plus one.
    at: usize,
    read: u64,
}

impl CalendarScan {
    pub(super) fn new(name: CollectionName, agenda: Agenda, stamp: Stamp) -> Result<CalendarScan> {
        let schema = schema(&agenda);
        if schema.fields.len() > FIELDS_MAX {
            let problem = format!("more than {FIELDS_MAX} fields");
            return Err(Error::Unsupported { place: agenda.documents[0].place.clone(), problem });
        }
        let names: Vec<_> = schema.fields.iter().map(|field| field.name.as_str()).collect();
        let layout = xxh3_64(names.join("\0").as_bytes()) ^ LAYOUT_VERSION;
        Ok(CalendarScan { agenda, stamp, collections: vec![Collection { name, schema }], layout, at: 0, read: 0 })
    }
}

/// The fields that every calendar has, then those of other sources in the order in which they are met.
fn schema(agenda: &Agenda) -> Schema {
    let mut fields: Vec<Field> = FIELDS.clone();
    // No kind yet, one, or several.
    let mut found: Vec<(String, Option<Option<Kind>>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let units = agenda.documents.iter().flat_map(|document| &document.units).filter(|unit| !unit.overrides);
    let own = agenda.header.iter().filter_map(|line| read_field_line(&Line::parse(line.as_bytes()).ok()?));
    let own: Vec<_> = own.filter(|(name, _)| Scope::Record.spec(name).is_none()).collect();
    let own = own.iter().map(|(name, value)| (name, value.kind()));
    for (name, kind) in own.chain(units.flat_map(|unit| &unit.fields).map(|(name, kind)| (name, *kind))) {
        let at = *places.entry(name.clone()).or_insert_with(|| {
            found.push((name.clone(), None));
            found.len() - 1
        });
        if !matches!(kind, Kind::Null | Kind::Absent) {
            let known = &mut found[at].1;
            *known = match known {
                None => Some(Some(kind)),
                Some(Some(known)) if *known == kind => Some(Some(kind)),
                Some(_) => Some(None),
            };
        }
    }
    for (name, kind) in found {
        let ordinal = fields.len() as u32;
        fields.push(Field::new(name, kind.flatten(), ordinal));
    }
    let slot = fields.iter().position(|field| field.name == UID).unwrap_or_default() as u32;
    Schema { fields, key: KeySpec::Fields(vec![slot]) }
}

impl Scan for CalendarScan {
    fn collections(&self) -> &[Collection] {
        &self.collections
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn layout(&self, _index: usize) -> u64 {
        self.layout
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.agenda.documents.iter().map(|document| document.bytes.len() as u64).sum())
    }

    fn bytes_read(&self) -> u64 {
        self.read
    }

    fn start(&mut self, _index: usize, _extent: Extent) -> Result<()> {
        self.at = 0;
        self.read = 0;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        let Some(record) = self.agenda.records.get(self.at) else { return Ok(None) };
        self.at += 1;
        self.read += self.agenda.length(record);
        Ok(Some(self.agenda.fingerprint(record)))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        let Some(record) = self.at.checked_sub(1).and_then(|at| self.agenda.records.get(at)) else {
            return Ok(Decoded::Record);
        };
        let members = self.agenda.decode(record)?;
        for field in &self.collections[0].schema.fields {
            match field.name == UID {
                true => row.push_text(&record.key),
                false => row.push(members.get(&field.name)),
            }
        }
        Ok(Decoded::Record)
    }

    fn position(&self) -> Position {
        let record = self.at.checked_sub(1).and_then(|at| self.agenda.records.get(at));
        record.map_or_else(Position::default, |record| self.agenda.position_of(record))
    }

    fn finish(&mut self) -> Result<(), Error> {
        // Everything was read at the beginning, and checked then.
        Ok(())
    }
}
