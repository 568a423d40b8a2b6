//! Applying a change to a record.

use crate::change::{Change, FieldChange};
use crate::row::{FieldRef, Row, RowBuilder, RowReader};
use crate::value::Value;

/// A record that isn't what a change starts from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// An insert of a record that is there.
    #[error("the record with key {key} is there already")]
    Present {
        /// The key, readable.
        key: String,
    },
    /// An update or delete of a record that isn't there.
    #[error("there is no record with key {key}")]
    Missing {
        /// The key, readable.
        key: String,
    },
    /// Another value than the change starts from.
    #[error("the record with key {key} has another value in slot {slot}")]
    Value {
        /// The key, readable.
        key: String,
        /// The field's slot; of a delete, the first that differs.
        slot: u32,
    },
    /// A value for a field that the collection doesn't have.
    #[error("the record with key {key} would have a value in slot {slot}, where the collection has no field")]
    NoField {
        /// The key, readable.
        key: String,
        /// The slot.
        slot: usize,
    },
}

/// Checks that a change from outside names no slot beyond the `fields` that its collection has: whoever applies it makes
/// room for all slots below.
pub fn check_slots(change: &Change, fields: usize) -> Result<(), Mismatch> {
    let beyond = match change {
        Change::Insert { row, .. } | Change::Delete { row, .. } => row.beyond(fields),
        Change::Update { fields: changed, .. } => {
            changed.iter().map(|field| field.slot as usize).find(|slot| *slot >= fields)
        }
    };
    match beyond {
        Some(slot) => Err(Mismatch::NoField { key: crate::key::display(change.key().as_bytes()), slot }),
        None => Ok(()),
    }
}

/// The record after `change`; its before-values must be those of `row`.
pub fn apply(change: &Change, row: Option<&Row>) -> Result<Option<Row>, Mismatch> {
    let key = || crate::key::display(change.key().as_bytes());
    match (change, row) {
        (Change::Insert { row, .. }, None) => Ok(Some(row.clone())),
        (Change::Insert { .. }, Some(_)) => Err(Mismatch::Present { key: key() }),
        (Change::Update { .. } | Change::Delete { .. }, None) => Err(Mismatch::Missing { key: key() }),
        (Change::Delete { row: before, .. }, Some(row)) => match crate::diff::fields(before, row).first() {
            None => Ok(None),
            Some(field) => Err(Mismatch::Value { key: key(), slot: field.slot }),
        },
        (Change::Update { fields, .. }, Some(row)) => {
            let updated =
                if fields.is_sorted_by(|a, b| a.slot < b.slot) { splice(fields, row) } else { update(fields, row) };
            updated.map(Some).map_err(|slot| Mismatch::Value { key: key(), slot })
        }
    }
}

/// The row with these fields changed, which are in the order of their slots, each named once; the slot that has another value
/// than expected, or is none.
fn splice(fields: &[FieldChange], row: &Row) -> Result<Row, u32> {
    let mut out = RowBuilder::default();
    let mut there = RowReader::new(row.as_bytes());
    let mut at = 0;
    for field in fields {
        if field.slot as usize >= crate::schema::FIELDS_MAX {
            return Err(field.slot);
        }
        while at < field.slot {
            out.push_encoded(there.next().unwrap_or(FieldRef::ABSENT));
            at += 1;
        }
        if !there.next().unwrap_or(FieldRef::ABSENT).is(&field.before) {
            return Err(field.slot);
        }
        out.push(&field.after);
        at += 1;
    }
    out.push_row(there.rest());
    Ok(out.row())
}

/// The same for fields in any order.
fn update(fields: &[FieldChange], row: &Row) -> Result<Row, u32> {
    let mut values = row.values();
    for field in fields {
        let slot = field.slot as usize;
        if slot >= crate::schema::FIELDS_MAX {
            return Err(field.slot);
        }
        if values.len() <= slot {
            values.resize(slot + 1, Value::Absent);
        }
        if values[slot] != field.before {
            return Err(field.slot);
        }
        values[slot] = field.after.clone();
    }
    Ok(Row::of(&values))
}

/// The record after `change`, whatever it was before. An update of a record that isn't there makes one of the fields it
/// names, on top of `base` where that is known.
pub fn force(change: &Change, row: Option<&Row>, base: Option<&Row>) -> Option<Row> {
    match change {
        Change::Insert { row, .. } => Some(row.clone()),
        Change::Delete { .. } => None,
        Change::Update { fields, .. } => {
            let mut values = row.or(base).map(Row::values).unwrap_or_default();
            for field in fields.iter().filter(|field| (field.slot as usize) < crate::schema::FIELDS_MAX) {
                let slot = field.slot as usize;
                if values.len() <= slot {
                    values.resize(slot + 1, Value::Absent);
                }
                values[slot] = field.after.clone();
            }
            Some(Row::of(&values))
        }
    }
}
