//! A scan as the differ wants it.

use deltabus_record::diff;
use deltabus_record::row::RowBuilder;

use crate::{Error, Fingerprint, Scan};

/// Brings a row as the store has it into the known side's slots and types: `(found row, key, row)`.
pub type Translate<'a> = dyn FnMut(&[u8], &mut Vec<u8>, &mut Vec<u8>) -> Result<(), Error> + Send + 'a;

/// One collection of a [`Scan`], translated record by record.
pub struct Found<'a> {
    scan: &'a mut dyn Scan,
    builder: RowBuilder,
    translate: Box<Translate<'a>>,
}

impl<'a> Found<'a> {
    /// Reads the collection that `scan` was started on; `translate` is called for each record that is decoded.
    pub fn new(scan: &'a mut dyn Scan, translate: Box<Translate<'a>>) -> Found<'a> {
        Found { scan, builder: RowBuilder::default(), translate }
    }
}

impl diff::Found for Found<'_> {
    type Error = Error;

    fn next(&mut self) -> Result<Option<u64>, Error> {
        Ok(self.scan.next()?.map(|Fingerprint(fingerprint)| fingerprint))
    }

    fn decode(&mut self, key: &mut Vec<u8>, row: &mut Vec<u8>) -> Result<(), Error> {
        self.builder.clear();
        self.scan.decode(&mut self.builder)?;
        (self.translate)(self.builder.as_bytes(), key, row)
    }

    fn place(&self) -> String {
        self.scan.position().to_string()
    }
}
