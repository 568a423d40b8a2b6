//! What a destination is to hold: the base with the pending edits on top, as far as it is wanted there.

use deltabus_interfaces::Records;
use deltabus_record::diff::{Known, count_equal, counted};
use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_state::{Stored, View};

use crate::Error;
use crate::outlet::Outlet;
use crate::pending::Pending;

/// The expected records of one collection, in the source's terms.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) view: &'a View,
    pub(crate) outlet: &'a Outlet,
    pub(crate) pending: &'a Pending,
}

impl Expected<'_> {
    /// A record, if it is wanted at the destination.
    pub(crate) fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut row = Vec::new();
        Ok(self.get(key, &mut row)?.then_some(row))
    }

    /// A record as the destination holds it: the base as far as it is wanted, with what was edited there on top. A record whose
    /// edit makes it unwanted stays until the source has answered.
    pub(crate) fn on_top(&self, key: &Key) -> Result<Option<Row>, Error> {
        self.pending.on_top(&self.outlet.source, key, |key| self.base(key))
    }

    fn base(&self, key: &Key) -> Result<Option<Row>, Error> {
        let mut row = Vec::new();
        let there = self.view.get(self.outlet.name(), key.as_bytes(), &mut row)?;
        self.outlet.wanted(there.then(|| Row::from_trusted(row)))
    }

    /// Keys of records that only pending edits make.
    fn inserted(&self) -> Result<Vec<Key>, Error> {
        let mut keys = Vec::new();
        for (collection, key) in self.pending.records() {
            if collection != *self.outlet.name() {
                continue;
            }
            if !self.outlet.counted() {
                if self.base(&key)?.is_none() {
                    keys.push(key);
                }
                continue;
            }
            let content = self.outlet.source.schema.key_content(&key);
            let base = count_equal(content, |key| Ok::<_, Error>(self.base(key)?.is_some()))?;
            let count = self.pending.count_on_top(&self.outlet.source, content, |key| self.base(key))?;
            keys.extend((base..count).map(|occurrence| counted(content, occurrence)));
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }
}

impl Known for Expected<'_> {
    type Error = Error;

    fn get(&self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Error> {
        let start = row.len();
        let there = self.view.get(self.outlet.name(), key, row)?;
        if self.pending.is_empty() {
            if there && !self.outlet.wants(&row[start..])? {
                row.truncate(start);
                return Ok(false);
            }
            return Ok(there);
        }
        row.truncate(start);
        match self.on_top(&Key::from_trusted(key))? {
            Some(expected) => {
                row.extend_from_slice(expected.as_bytes());
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn keys(&self, take: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        if self.view.collection(self.outlet.name()).is_none() {
            return Ok(());
        }
        for record in self.view.records(self.outlet.name())? {
            let (key, row) = record?;
            if self.pending.is_empty() {
                if self.outlet.wants(&row)? {
                    take(&key)?;
                }
            } else if self.on_top(&Key::from_trusted(&*key))?.is_some() {
                take(&key)?;
            }
        }
        for key in self.inserted()? {
            if self.on_top(&key)?.is_some() {
                take(key.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// The expected records as the destination takes them, one after another.
pub(crate) struct ExpectedRecords<'a> {
    expected: Expected<'a>,
    base: Box<dyn Iterator<Item = Result<Stored, deltabus_state::Error>> + Send + 'a>,
    inserted: std::vec::IntoIter<Key>,
    row: RowBuilder,
    key: Vec<u8>,
    count: u64,
}

impl<'a> ExpectedRecords<'a> {
    pub(crate) fn new(expected: Expected<'a>) -> Result<ExpectedRecords<'a>, Error> {
        Ok(ExpectedRecords {
            base: Box::new(expected.view.records(expected.outlet.name())?),
            inserted: expected.inserted()?.into_iter(),
            expected,
            row: RowBuilder::default(),
            key: Vec::new(),
            count: 0,
        })
    }

    /// How many have been given out.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn next(&mut self) -> Result<bool, Error> {
        loop {
            let Expected { outlet, pending, .. } = self.expected;
            match self.base.next() {
                Some(record) => {
                    let (key, row) = record?;
                    if pending.is_empty() {
                        if !outlet.wants(&row)? {
                            continue;
                        }
                        outlet.forward(&row, &mut self.row)?;
                    } else {
                        let Some(held) = self.expected.on_top(&Key::from_trusted(&*key))? else { continue };
                        outlet.forward(held.as_bytes(), &mut self.row)?;
                    }
                }
                None => {
                    let Some(key) = self.inserted.next() else { return Ok(false) };
                    let Some(held) = self.expected.on_top(&key)? else { continue };
                    outlet.forward(held.as_bytes(), &mut self.row)?;
                }
            }
            self.count += 1;
            self.key.clear();
            outlet.destination.schema.key_into(self.row.as_bytes(), 0, &mut self.key);
            return Ok(true);
        }
    }
}

impl Records for ExpectedRecords<'_> {
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        self.next().map_err(Into::into)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn row(&self) -> &[u8] {
        self.row.as_bytes()
    }
}
