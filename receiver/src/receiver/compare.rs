//! The base beside what stands at the destination, by digests of ranges first.

use std::collections::BTreeMap;

use deltabus_interfaces::found::{self, Translate};
use deltabus_interfaces::{Decoded, Error as InterfaceError, Extent, Fingerprint, Scan, Stamp, Unread};
use deltabus_record::diff::{self, Difference, Identity, Known, NoIndex};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_state::View;

use crate::dead::Refused;
use crate::error::Error;
use crate::expected::{Expected, ExpectedRecords};
use crate::outlet::{Outlet, pair};
use crate::pending::Pending;
use crate::ranges::{Differing, RANGE_RECORDS, Ranges, Side};

use super::look::translator;
use super::{Purpose, Receiver};

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
    /// Collections, and fields of others, that the source had at other times than the one that is looked at.
    pub(crate) other: Vec<(CollectionName, Option<String>)>,
    /// Records that differ, by collection of the source and in its terms: as they should be, and as they are.
    pub(crate) differences: Vec<(Collection, Vec<Difference>)>,
    /// Why some of them could not be brought there.
    pub(crate) refused: BTreeMap<(CollectionName, Key), String>,
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
    /// Compares the whole destination with the base, without edits; where changes were refused, with what is held instead of
    /// them, and then lists those as well. Memory: a key and two digests for [`RANGE_RECORDS`] records,
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
        let mut instead = Pending::default().holding(self.dead.held());
        let mut refused: BTreeMap<_, _> =
            self.dead.iter().map(|letter| (letter.place(), letter.reason.clone())).collect();
        for Pair { outlet, at, ranges } in &mut pairs {
            let expected = Expected { view: &view, outlet, pending: &instead };
            for Refused { collection, key, reason, .. } in add_expected(expected, ranges)? {
                refused.insert((collection, key), reason);
            }
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
            other: self.of_other_times(&found, &view).into_iter().map(|collection| (collection.name, None)).collect(),
            differences: Vec::new(),
            unread,
            refused,
        };
        for outlet in pairs.iter().map(|pair| &pair.outlet) {
            let fields = outlet.dropped.iter().map(|field| (outlet.destination.name.clone(), Some(field.clone())));
            comparison.other.extend(fields.filter(|_| matches!(self.purpose, Purpose::Restore(_))));
        }
        let mut held = instead.held().clone();
        for place in comparison.refused.keys() {
            // What can't even be converted is not there.
            held.entry(place.clone()).or_default();
        }
        instead = instead.holding(held);
        self.read_in_detail(&view, &pairs, &instead, &mut comparison)?;
        for pair in pairs.iter().filter(|pair| pair.at.is_some()) {
            list_refused(&view, &pair.outlet, &instead, &mut comparison)?;
        }
        Ok(comparison)
    }

    /// Reads the ranges that differ, record by record.
    fn read_in_detail(
        &self,
        view: &View,
        pairs: &[Pair],
        refused: &Pending,
        comparison: &mut Comparison,
    ) -> Result<(), Error> {
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
            let expected = Expected { view, outlet, pending: refused };
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
            match destination_key(outlet, &source_row, &mut row, &mut key) {
                Ok(()) => starts.push(key.as_slice().into()),
                // Any other record would do as well.
                Err(Error::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
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

/// Takes in what is expected; gives what can't be converted.
fn add_expected(expected: Expected<'_>, ranges: &mut Ranges) -> Result<Vec<Refused>, Error> {
    let schema = &expected.outlet.destination.schema;
    let mut records = ExpectedRecords::new(expected, true)?;
    let mut key = Vec::new();
    while records.next()? {
        key.clear();
        schema.key_content_into(records.row(), &mut key);
        ranges.add(Side::Expected, &key, records.row());
    }
    Ok(records.take_refused())
}

/// Lists the records of a collection that were refused, as they should be and as they are.
fn list_refused(view: &View, outlet: &Outlet, refused: &Pending, comparison: &mut Comparison) -> Result<(), Error> {
    let of_collection = |((collection, key), held): (&(CollectionName, Key), &Option<Row>)| {
        (collection == outlet.name()).then(|| (key.clone(), held.clone()))
    };
    let mut listed: BTreeMap<Key, Option<Row>> = refused.held().iter().filter_map(of_collection).collect();
    if listed.is_empty() {
        return Ok(());
    }
    let known = comparison.differences.iter().position(|(collection, _)| collection.name == *outlet.name());
    let mut differences = known.map(|at| comparison.differences.remove(at).1).unwrap_or_default();
    // What stands there instead of what is held.
    differences.retain(|difference| match listed.get_mut(&difference.key) {
        Some(held) => {
            *held = difference.after.clone();
            false
        }
        None => true,
    });
    let mut row = Vec::new();
    for (key, after) in listed {
        row.clear();
        let there = view.get(outlet.name(), key.as_bytes(), &mut row)?;
        let before = outlet.wanted(there.then(|| Row::from_trusted(row.as_slice())))?;
        if before != after {
            differences.push(Difference { key, before, after });
        }
    }
    differences.sort_by(|a, b| a.key.cmp(&b.key));
    if !differences.is_empty() {
        comparison.differences.push((outlet.source.clone(), differences));
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
        let outlet = self.expected.outlet;
        let mut records = ExpectedRecords::new(self.expected, true)?;
        let (mut row, mut key) = (RowBuilder::default(), Vec::new());
        while let Some((source_key, source)) = records.next_source()? {
            destination_key(outlet, source.as_bytes(), &mut row, &mut key)?;
            if self.ranges.contains(&key) {
                take(source_key.as_bytes())?;
            }
        }
        Ok(())
    }
}
