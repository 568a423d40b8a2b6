//! A scan as the differ wants it.

use deltabus_record::diff;
use deltabus_record::key::{KEY_BYTES_MAX, values};
use deltabus_record::row::RowBuilder;
use deltabus_record::value::Value;

use crate::{Decoded, Error, Fingerprint, Hides, Scan, Unread};

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

    fn decode(&mut self, key: &mut Vec<u8>, row: &mut Vec<u8>) -> Result<bool, Error> {
        self.builder.clear();
        match self.scan.decode(&mut self.builder)? {
            Decoded::Record => {
                let start = key.len();
                (self.translate)(self.builder.as_bytes(), key, row)?;
                check_key(key.len() - start, self.scan).map(|()| true)
            }
            Decoded::Unread => Ok(false),
        }
    }

    fn place(&self) -> String {
        self.scan.position().to_string()
    }
}

/// Fails if the key of the current record of `scan`, of so many bytes, is longer than any may be.
pub fn check_key(bytes: usize, scan: &dyn Scan) -> Result<(), Error> {
    if bytes <= KEY_BYTES_MAX {
        return Ok(());
    }
    let problem = format!("a key of {bytes} bytes is more than the limit of {KEY_BYTES_MAX}");
    Err(Error::Data { position: scan.position(), problem })
}

/// Takes back what seems to be gone only because it could not be read. `after` is the side that was scanned.
pub fn spare(differences: &mut Vec<diff::Difference>, unread: &[Unread]) {
    if !unread.is_empty() {
        differences.retain(|difference| {
            difference.after.is_some() || !unread.iter().any(|part| part.hides.contains(difference.key.as_bytes()))
        });
    }
}

impl Hides {
    /// Whether the record of `key` is hidden.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Hides::Record(hidden) => hidden.as_bytes() == key,
            Hides::Below(start) => match values(key).as_deref() {
                Some([Value::Text(text), ..]) => text.starts_with(start),
                _ => false,
            },
        }
    }
}
