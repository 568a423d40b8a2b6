//! Which write is whose record's, for formats that are read and written record by record.

use std::collections::HashMap;

use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, KeySpec};

use crate::RecordWrite;

/// The writes that wait for their record.
pub(crate) struct Wanted<'a> {
    counted: bool,
    writes: HashMap<Vec<u8>, Vec<&'a RecordWrite>>,
    order: Vec<Vec<u8>>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(collection: &Collection, writes: &'a [RecordWrite]) -> Wanted<'a> {
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

    /// The write for the record of `key`. Of whole rows only removals have one: another equal row comes in beside it.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<&'a RecordWrite> {
        let writes = self.writes.get_mut(key)?;
        let at = match self.counted {
            true => writes.iter().position(|write| matches!(write, RecordWrite::Remove { .. }))?,
            false => writes.len().checked_sub(1)?,
        };
        Some(writes.remove(at))
    }

    /// The rows that come in.
    pub(crate) fn rest(mut self) -> Vec<&'a Row> {
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
