//! From what a record was to what it is to be, as writes to the destination.

use std::collections::HashMap;

use deltabus_interfaces::RecordWrite;
use deltabus_record::diff;
use deltabus_record::key::Key;
use deltabus_record::row::Row;

use crate::error::Error;
use crate::outlet::Outlet;

/// The writes without such as meet at one record of the destination: what goes under one key of the source's may come under
/// another that is the same there.
pub(super) fn settled(outlet: &Outlet, writes: Vec<RecordWrite>) -> Vec<RecordWrite> {
    let mut going: HashMap<Key, Vec<Row>> = HashMap::new();
    for write in &writes {
        if let RecordWrite::Remove { key, row } = write {
            going.entry(key.clone()).or_default().push(row.clone());
        }
    }
    if going.is_empty() {
        return writes;
    }
    let mut met: HashMap<Key, usize> = HashMap::new();
    let mut settled = Vec::with_capacity(writes.len());
    for write in writes {
        match write {
            RecordWrite::Put { key, row, changed } => match going.get_mut(&key).and_then(Vec::pop) {
                Some(before) => {
                    *met.entry(key.clone()).or_default() += 1;
                    let changed = diff::changed_slots(&before, &row);
                    if !changed.is_empty() && !outlet.counted() {
                        settled.push(RecordWrite::Put { key, row, changed });
                    }
                }
                None => settled.push(RecordWrite::Put { key, row, changed }),
            },
            remove => settled.push(remove),
        }
    }
    // As many removals go as there were records that came.
    settled.retain(|write| match write {
        RecordWrite::Remove { key, .. } => match met.get_mut(key) {
            Some(left @ 1..) => {
                *left -= 1;
                false
            }
            _ => true,
        },
        RecordWrite::Put { .. } => true,
    });
    settled
}

/// The write that makes a destination record of `before` one of `after`, both in the source's terms.
pub(super) fn write(outlet: &Outlet, before: Option<&Row>, after: Option<&Row>) -> Result<Option<RecordWrite>, Error> {
    let before = outlet.row_as_known(before)?;
    let after = outlet.row(after)?;
    Ok(match (before, after) {
        (None, None) => None,
        (Some(row), None) => Some(RecordWrite::Remove { key: outlet.destination_key(&row, 0), row }),
        (None, Some(row)) => {
            let changed = (0..outlet.destination.schema.fields.len() as u32).collect();
            Some(RecordWrite::Put { key: outlet.destination_key(&row, 0), row, changed })
        }
        (Some(before), Some(row)) => {
            let changed = diff::changed_slots(&before, &row);
            if changed.is_empty() {
                return Ok(None);
            }
            Some(RecordWrite::Put { key: outlet.destination_key(&row, 0), row, changed })
        }
    })
}
