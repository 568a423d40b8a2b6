//! What a destination is to hold: the base with the pending edits on top, as far as it is wanted there.

use deltabus_interfaces::Records as RecordStream;
use deltabus_record::diff::{Known, count_equal, counted};
use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_state::{Stored, View};

use crate::Error;
use crate::dead::Refused;
use crate::outlet::Outlet;
use crate::pending::{Pending, Records};

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

    /// Keys of records that the base lacks and the destination may hold: edits made them, or their going was refused.
    fn inserted(&self) -> Result<Vec<Key>, Error> {
        let held: Records = self.pending.held().keys().cloned().collect();
        let mut keys = Vec::new();
        for (collection, key) in self.pending.records([&self.outlet.source]).union(&held) {
            if collection != self.outlet.name() {
                continue;
            }
            keys.push(key.clone());
            if self.outlet.counted() {
                let content = self.outlet.source.schema.key_content(key);
                let base = count_equal(content, |key| Ok::<_, Error>(self.base(key)?.is_some()))?;
                let count = self.pending.count_on_top(&self.outlet.source, content, |key| self.base(key))?;
                keys.extend((base..count).map(|occurrence| counted(content, occurrence)));
            }
        }
        keys.sort();
        keys.dedup();
        let mut row = Vec::new();
        let mut only = Vec::with_capacity(keys.len());
        for key in keys {
            if !self.view.get(self.outlet.name(), key.as_bytes(), &mut row)? {
                only.push(key);
            }
        }
        Ok(only)
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
    /// What can't be converted is left out and noted here, instead of ending it all.
    refused: Option<Vec<Refused>>,
}

impl<'a> ExpectedRecords<'a> {
    /// `sets_aside`: what can't be converted is left out.
    pub(crate) fn new(expected: Expected<'a>, sets_aside: bool) -> Result<ExpectedRecords<'a>, Error> {
        Ok(ExpectedRecords {
            base: Box::new(expected.view.records(expected.outlet.name())?),
            inserted: expected.inserted()?.into_iter(),
            expected,
            row: RowBuilder::default(),
            key: Vec::new(),
            count: 0,
            refused: sets_aside.then(Vec::new),
        })
    }

    /// How many have been given out.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// What was left out.
    pub(crate) fn take_refused(&mut self) -> Vec<Refused> {
        self.refused.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The current record's row at the destination.
    pub(crate) fn row(&self) -> &[u8] {
        self.row.as_bytes()
    }

    /// The next record in the source's terms.
    pub(crate) fn next_source(&mut self) -> Result<Option<(Key, Row)>, Error> {
        let Expected { outlet, pending, .. } = self.expected;
        for record in self.base.by_ref() {
            let (key, row) = record?;
            let key = Key::from_trusted(&*key);
            let held = match pending.is_empty() {
                true => outlet.wanted(Some(Row::from_trusted(&*row)))?,
                false => self.expected.on_top(&key)?,
            };
            if let Some(held) = held {
                return Ok(Some((key, held)));
            }
        }
        for key in self.inserted.by_ref() {
            if let Some(held) = self.expected.on_top(&key)? {
                return Ok(Some((key, held)));
            }
        }
        Ok(None)
    }

    /// The current record's key at the destination.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Goes on to the next record as the destination holds it; `false` after the last.
    pub(crate) fn next(&mut self) -> Result<bool, Error> {
        let Expected { outlet, pending, .. } = self.expected;
        if pending.is_empty() {
            // As most are, so that nothing is copied on the way.
            while let Some(record) = self.base.next() {
                let (key, row) = record?;
                if outlet.wants(&row)? && self.convert(&key, &row)? {
                    return Ok(true);
                }
            }
        }
        while let Some((key, row)) = self.next_source()? {
            if self.convert(key.as_bytes(), row.as_bytes())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a record of the source the current one; `false` where it is left out.
    fn convert(&mut self, key: &[u8], row: &[u8]) -> Result<bool, Error> {
        let outlet = self.expected.outlet;
        match (outlet.forward(row, &mut self.row), &mut self.refused) {
            (Err(error @ Error::Refused { .. }), Some(refused)) => {
                let (collection, reason) = (outlet.name().clone(), error.to_string());
                let (key, wanted) = (Key::from_trusted(key), Some(Row::from_trusted(row)));
                refused.push(Refused { collection, key, held: None, wanted, reason, left_out: true });
                Ok(false)
            }
            (result, _) => {
                result?;
                self.count += 1;
                self.key.clear();
                outlet.destination.schema.key_into(self.row.as_bytes(), 0, &mut self.key);
                Ok(true)
            }
        }
    }
}

impl RecordStream for ExpectedRecords<'_> {
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        self.next().map_err(Into::into)
    }

    fn key(&self) -> &[u8] {
        ExpectedRecords::key(self)
    }

    fn row(&self) -> &[u8] {
        ExpectedRecords::row(self)
    }
}
