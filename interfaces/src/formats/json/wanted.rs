//! Which write is whose record's.

use std::collections::HashMap;

use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, KeySpec};
use deltabus_record::value::Value;

use crate::RecordWrite;

/// The writes that wait for their record.
pub(super) struct Wanted<'a> {
    counted: bool,
    writes: HashMap<Vec<u8>, Vec<&'a RecordWrite>>,
    order: Vec<Vec<u8>>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(collection: &Collection, writes: &'a [RecordWrite]) -> Wanted<'a> {
        let counted = collection.schema.key == KeySpec::WholeRow;
        let mut wanted = Wanted { counted, writes: HashMap::new(), order: Vec::new() };
        for write in writes {
            let (RecordWrite::Put { row, .. } | RecordWrite::Remove { row, .. }) = write;
            let mut key = Vec::new();
            collection.schema.key_content_into(row.as_bytes(), &mut key);
            wanted.order.push(key.clone());
            wanted.writes.entry(key).or_default().push(write);
        }
        wanted
    }

    /// The write for a record that is there. Of whole rows only removals have one: another equal row comes in beside it.
    pub(super) fn take(&mut self, collection: &Collection, values: &[Value]) -> Option<&'a RecordWrite> {
        let mut row = RowBuilder::default();
        for value in values {
            row.push(value);
        }
        let mut key = Vec::new();
        collection.schema.key_content_into(row.as_bytes(), &mut key);
        let writes = self.writes.get_mut(&key)?;
        let at = match self.counted {
            true => writes.iter().position(|write| matches!(write, RecordWrite::Remove { .. }))?,
            false => writes.len().checked_sub(1)?,
        };
        Some(writes.remove(at))
    }

    /// The rows that come in.
    pub(super) fn rest(mut self) -> Vec<&'a Row> {
        let mut rows = Vec::new();
        for key in std::mem::take(&mut self.order) {
            let Some(writes) = self.writes.get_mut(&key) else { continue };
            if !writes.is_empty()
                && let RecordWrite::Put { row, .. } = writes.remove(0)
            {
                rows.push(row);
            }
        }
        rows
    }
}
