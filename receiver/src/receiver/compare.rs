//! The base beside what stands at the destination, by digests of ranges first.

use deltabus_interfaces::found::{self, Translate};
use deltabus_interfaces::{Decoded, Error as InterfaceError, Extent, Fingerprint, Scan, Stamp, Unread};
use deltabus_record::diff::{self, Difference, Identity, Known, NoIndex};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::row::RowBuilder;
use deltabus_record::schema::Collection;
use deltabus_state::View;

use crate::error::Error;
use crate::expected::Expected;
use crate::outlet::{Outlet, pair};
use crate::pending::Pending;
use crate::ranges::{Differing, RANGE_RECORDS, Ranges, Side};

use super::Receiver;
use super::look::translator;

/// How a destination compares with the base.
pub(crate) struct Comparison {
    /// What was read.
    pub(crate) stamp: Stamp,
    /// The digest of all records of the base, made anew from them.
    pub(crate) base: Digest,
    /// Records that are wanted there.
    pub(crate) records: u64,
    /// Ranges that were compared.
    pub(crate) ranges: u64,
    /// Ranges among them that had to be read in detail.
    pub(crate) ranges_read: u64,
    /// Collections that aren't there at all, and how many records are wanted in each.
    pub(crate) missing: Vec<(Collection, u64)>,
    /// Records that differ, by collection of the source and in its terms: as they should be, and as they are.
    pub(crate) differences: Vec<(Collection, Vec<Difference>)>,
    /// What could not be read.
    pub(crate) unread: Vec<Unread>,
}

/// A collection of the source and its place at the destination.
struct Pair {
    outlet: Outlet,
    at: Option<usize>,
    ranges: Ranges,
}

impl Receiver {
    /// Compares the whole destination with the base, without edits. Memory: a key and two digests for [`RANGE_RECORDS`] records,
    /// and what differs.
    ///
    /// Fails with the interface's `Changed` if the destination is written meanwhile.
    pub(crate) fn compare_by_ranges(&self) -> Result<Comparison, Error> {
        let view = self.store.view();
        let mut scan = match self.interface.scan(None) {
            Ok(scan) => Some(scan),
            Err(InterfaceError::Missing { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let found = scan.as_ref().map(|scan| scan.collections().to_vec()).unwrap_or_default();
        let stamp = scan.as_ref().map_or(Stamp::MISSING, |scan| scan.stamp().clone());
        let places = pair(&*self.interface, view.collections(), &found).unwrap_or_default();
        let mut base = Digest::default();
        let mut pairs = Vec::new();
        for (outlet, at) in self.outlets(view.collections(), &found)?.into_iter().zip(places) {
            let ranges = sample(&view, &outlet, &mut base)?;
            pairs.push(Pair { outlet, at, ranges });
        }
        // A scan goes through its collections in order.
        pairs.sort_by_key(|pair| pair.at);
        for Pair { outlet, at, ranges } in &mut pairs {
            add_expected(&view, outlet, ranges)?;
            if let (Some(scan), Some(at)) = (&mut scan, *at) {
                add_found(&mut **scan, at, outlet, ranges)?;
            }
        }
        let mut unread = Vec::new();
        if let Some(scan) = &mut scan {
            scan.finish()?;
            unread = scan.unread().to_vec();
        }
        drop(scan);
        let mut comparison = Comparison {
            stamp,
            base,
            records: pairs.iter().map(|pair| pair.ranges.records(Side::Expected)).sum(),
            ranges: pairs.iter().map(|pair| pair.ranges.count()).sum(),
            ranges_read: 0,
            missing: Vec::new(),
            differences: Vec::new(),
            unread,
        };
        self.read_in_detail(&view, &pairs, &mut comparison)?;
        Ok(comparison)
    }

    /// Reads the ranges that differ, record by record.
    fn read_in_detail(&self, view: &View, pairs: &[Pair], comparison: &mut Comparison) -> Result<(), Error> {
        for pair in pairs.iter().filter(|pair| pair.at.is_none()) {
            let records = pair.ranges.records(Side::Expected);
            comparison.missing.push((pair.outlet.source.clone(), records));
        }
        let differing = |pair: &&Pair| pair.at.is_some() && pair.ranges.differing().count() > 0;
        if pairs.iter().find(differing).is_none() {
            return Ok(());
        }
        let mut scan = self.interface.scan(None)?;
        if *scan.stamp() != comparison.stamp {
            return Err(InterfaceError::Changed { place: self.place() }.into());
        }
        for pair in pairs.iter().filter(differing) {
            let (outlet, ranges) = (&pair.outlet, pair.ranges.differing());
            comparison.ranges_read += ranges.count();
            scan.start(pair.at.unwrap_or_default(), Extent::Whole)?;
            let nothing = Pending::default();
            let expected = Expected { view, outlet, pending: &nothing };
            let identity = if outlet.counted() { Identity::WholeRow } else { Identity::Key };
            let mut records = FoundIn {
                scan: &mut *scan,
                outlet,
                ranges: &ranges,
                translate: translator(expected),
                row: RowBuilder::default(),
                placed: RowBuilder::default(),
                key: Vec::new(),
                there: Decoded::Unread,
            };
            let known = KnownIn { expected, ranges: &ranges };
            let outcome: Result<diff::Outcome, diff::DiffError<Error>> =
                diff::without_index(&mut records, &known, &mut NoIndex::<Error>::default(), identity);
            let mut differences = outcome?.differences;
            drop(records);
            found::spare(&mut differences, scan.unread());
            if !differences.is_empty() {
                comparison.differences.push((outlet.source.clone(), differences));
            }
        }
        Ok(scan.finish()?)
    }
}

/// Goes through the base once: takes its records into `digest`, and finds where ranges of the destination's keys begin.
fn sample(view: &View, outlet: &Outlet, digest: &mut Digest) -> Result<Ranges, Error> {
    let hasher = RecordHasher::new(outlet.name());
    let mut starts = Vec::new();
    let (mut row, mut key) = (RowBuilder::default(), Vec::new());
    let mut count = 0u64;
    for record in view.records(outlet.name())? {
        let (source_key, source_row) = record?;
        digest.add(hasher.hash(&source_key, &source_row));
        count += 1;
        if count.is_multiple_of(RANGE_RECORDS) {
            destination_key(outlet, &source_row, &mut row, &mut key)?;
            starts.push(key.as_slice().into());
        }
    }
    Ok(Ranges::new(&outlet.destination.name, starts))
}

/// The key that the destination has for a source row, without occurrence; `out` is the row there.
fn destination_key(outlet: &Outlet, source: &[u8], out: &mut RowBuilder, key: &mut Vec<u8>) -> Result<(), Error> {
    outlet.forward(source, out)?;
    key.clear();
    outlet.destination.schema.key_content_into(out.as_bytes(), key);
    Ok(())
}

fn add_expected(view: &View, outlet: &Outlet, ranges: &mut Ranges) -> Result<(), Error> {
    let (mut row, mut key) = (RowBuilder::default(), Vec::new());
    for record in view.records(outlet.name())? {
        let (_, source) = record?;
        if outlet.wants(&source)? {
            destination_key(outlet, &source, &mut row, &mut key)?;
            ranges.add(Side::Expected, &key, row.as_bytes());
        }
    }
    Ok(())
}

fn add_found(scan: &mut dyn Scan, at: usize, outlet: &Outlet, ranges: &mut Ranges) -> Result<(), Error> {
    let (mut row, mut placed, mut key) = (RowBuilder::default(), RowBuilder::default(), Vec::new());
    scan.start(at, Extent::Whole)?;
    while scan.next()?.is_some() {
        row.clear();
        if scan.decode(&mut row)? == Decoded::Unread {
            continue;
        }
        let row = outlet.placed(row.as_bytes(), &mut placed);
        key.clear();
        outlet.destination.schema.key_content_into(row, &mut key);
        ranges.add(Side::Found, &key, row);
    }
    Ok(())
}

/// The records of a scan that are in some ranges.
struct FoundIn<'a> {
    scan: &'a mut dyn Scan,
    outlet: &'a Outlet,
    ranges: &'a Differing<'a>,
    translate: Box<Translate<'a>>,
    row: RowBuilder,
    placed: RowBuilder,
    key: Vec<u8>,
    there: Decoded,
}

impl diff::Found for FoundIn<'_> {
    type Error = InterfaceError;

    fn next(&mut self) -> Result<Option<u64>, InterfaceError> {
        loop {
            let Some(Fingerprint(fingerprint)) = self.scan.next()? else { return Ok(None) };
            self.row.clear();
            self.there = self.scan.decode(&mut self.row)?;
            if self.there == Decoded::Record {
                let row = self.outlet.placed(self.row.as_bytes(), &mut self.placed);
                self.key.clear();
                self.outlet.destination.schema.key_content_into(row, &mut self.key);
                if !self.ranges.contains(&self.key) {
                    continue;
                }
            }
            return Ok(Some(fingerprint));
        }
    }

    fn decode(&mut self, key: &mut Vec<u8>, row: &mut Vec<u8>) -> Result<bool, InterfaceError> {
        match self.there {
            Decoded::Record => {
                let start = key.len();
                (self.translate)(self.row.as_bytes(), key, row)?;
                found::check_key(key.len() - start, self.scan).map(|()| true)
            }
            Decoded::Unread => Ok(false),
        }
    }

    fn place(&self) -> String {
        self.scan.position().to_string()
    }
}

/// The expected records that are in some ranges.
struct KnownIn<'a> {
    expected: Expected<'a>,
    ranges: &'a Differing<'a>,
}

impl Known for KnownIn<'_> {
    type Error = Error;

    fn get(&self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Error> {
        self.expected.get(key, row)
    }

    fn keys(&self, take: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let Expected { view, outlet, .. } = self.expected;
        let (mut row, mut key) = (RowBuilder::default(), Vec::new());
        for record in view.records(outlet.name())? {
            let (source_key, source) = record?;
            if outlet.wants(&source)? {
                destination_key(outlet, &source, &mut row, &mut key)?;
                if self.ranges.contains(&key) {
                    take(&source_key)?;
                }
            }
        }
        Ok(())
    }
}
