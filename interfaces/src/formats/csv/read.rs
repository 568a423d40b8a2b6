//! Reading: one scan of a file.

use deltabus_record::row::RowBuilder;
use deltabus_record::schema::Collection;
use xxhash_rust::xxh3::xxh3_64;

use super::settings::Markers;
use super::table::Table;
use crate::{Decoded, Extent, Fingerprint, Position, Result, Scan, Stamp};

/// A scan of a file.
pub(super) struct CsvScan {
    pub(super) table: Table,
    pub(super) collection: Collection,
    pub(super) layout: u64,
    pub(super) markers: Markers,
}

impl Scan for CsvScan {
    fn collections(&self) -> &[Collection] {
        std::slice::from_ref(&self.collection)
    }

    fn stamp(&self) -> &Stamp {
        self.table.reading.stamp()
    }

    fn layout(&self, _index: usize) -> u64 {
        self.layout
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.table.reading.length())
    }

    fn bytes_read(&self) -> u64 {
        // A file in another encoding has more bytes as UTF-8 than it has itself.
        self.table.rows.taken().min(self.table.reading.length())
    }

    fn start(&mut self, _index: usize, _extent: Extent) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn next(&mut self) -> Result<Option<Fingerprint>> {
        if !self.table.advance_record()? {
            return Ok(None);
        }
        Ok(Some(Fingerprint(xxh3_64(self.table.rows.row()))))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        self.table.decode(&self.markers, row)?;
        Ok(Decoded::Record)
    }

    fn position(&self) -> Position {
        self.table.rows.position()
    }

    fn finish(&mut self) -> Result<()> {
        self.table.reading.check()
    }
}
