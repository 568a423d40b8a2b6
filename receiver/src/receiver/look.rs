//! Looking at the destination: what stands there beside what is expected.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use deltabus_interfaces::found::{self, Found};
use deltabus_interfaces::{Error as InterfaceError, Extent, Scan};
use deltabus_record::diff::{self, Identity, Index, Known};
use deltabus_record::digest::Digest;
use deltabus_record::row::RowBuilder;
use deltabus_record::schema::Collection;
use deltabus_state::{IndexDamaged, ScanIndex, ScanIndexWriter, View};
use metrics::histogram;

use crate::error::Error;
use crate::expected::Expected;
use crate::metrics as figures;
use crate::outlet::{Outlet, pair};

use super::{Look, Purpose, Receiver, Stale};

impl Receiver {
    /// The outlets of all collections, with what was found at the destination.
    pub(super) fn outlets(&self, source: &[Collection], found: &[Collection]) -> Result<Vec<Outlet>, Error> {
        self.mapping.check_names(source.iter().map(|collection| &collection.schema))?;
        let pairs = pair(&*self.interface, source, found).ok_or_else(|| Error::OneCollection {
            place: self.place(),
            source_name: self.config.source.clone(),
            collections: source.iter().map(|collection| collection.name.to_string()).collect(),
        })?;
        let outlet = |(source, found_at): (&Collection, Option<usize>)| {
            let found = found_at.and_then(|at| found.get(at));
            let (interface, large) = (&self.interface, &self.large);
            let mut outlet = Outlet::new(interface, source, found, &self.mapping, self.filter.as_ref(), large)?;
            if let (Purpose::Restore(ever), Some(found)) = (&self.purpose, found) {
                let other = ever.other_fields(source).map(|name| self.mapping.destination_name(name));
                let other: Vec<_> = other.filter(|name| found.schema.slot(name).is_some()).collect();
                outlet.dropped.extend(other);
                outlet.dropped.sort();
                outlet.dropped.dedup();
            }
            Ok(outlet)
        };
        source.iter().zip(pairs).map(outlet).collect()
    }

    /// Reads the destination and finds what isn't as expected; `None` if there is nothing at all.
    pub(super) fn look(&self, view: &View) -> Result<Option<Look>, Error> {
        let mut scan = match self.interface.scan(self.stamp.as_ref()) {
            Ok(scan) => scan,
            Err(InterfaceError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let start = Instant::now();
        let found = scan.collections().to_vec();
        let outlets = self.outlets(view.collections(), &found)?;
        let pairs = pair(&*self.interface, view.collections(), &found).unwrap_or_default();
        let next = self.fresh_digest();
        let mut look = Look {
            stamp: scan.stamp().clone(),
            missing: pairs.contains(&None),
            found,
            differences: Vec::new(),
            index: next,
            stale: Stale::new(),
            unread: Vec::new(),
        };
        // What was read at that stamp says nothing of other fields.
        let same_fields = self.found.as_ref() == Some(&look.found);
        for i in 0..look.found.len() {
            let Some(outlet) = pairs.iter().position(|at| *at == Some(i)).map(|at| &outlets[at]) else { continue };
            let expected = Expected { view, outlet, pending: &self.pending };
            let partly = if same_fields { self.compare_since(&mut *scan, i, expected, next)? } else { None };
            let outcome = match partly {
                Some(outcome) => {
                    let changed = outcome.differences.iter().map(|difference| difference.key.as_bytes().to_vec());
                    let before = self.stale.get(outlet.name()).into_iter().flatten().cloned();
                    look.stale.insert(outlet.name().clone(), changed.chain(before).collect());
                    outcome
                }
                None => self.compare(&mut *scan, i, expected, next)?,
            };
            let (there, mut differences) = (outcome.records, outcome.differences);
            found::spare(&mut differences, scan.unread());
            look.differences.push((outlet.name().clone(), differences, there));
        }
        scan.finish()?;
        look.unread = scan.unread().to_vec();
        histogram!(figures::SCAN_SECONDS, &self.labels()).record(start.elapsed());
        Ok(Some(look))
    }

    /// Compares what may have been written since the destination was as expected, where the store offers that and it is
    /// enough.
    fn compare_since(
        &self,
        scan: &mut dyn Scan,
        at: usize,
        expected: Expected<'_>,
        next: Digest,
    ) -> Result<Option<diff::Outcome>, Error> {
        let extent @ Extent::Since { kept } = scan.extent(at) else { return Ok(None) };
        if expected.outlet.counted() {
            return Ok(None);
        }
        scan.start(at, extent)?;
        let layout = scan.layout(at);
        let mut count = 0;
        expected.keys(&mut |_| {
            count += 1;
            Ok(())
        })?;
        let mut records = Found::new(scan, translator(expected));
        let outcome: Result<Option<diff::Outcome>, diff::DiffError<Error>> =
            diff::since(&mut records, &expected, kept, count);
        let outcome = outcome?;
        if let (Some(_), Some(valid)) = (&outcome, self.index) {
            ScanIndex::rename(&self.index_folder(), expected.outlet.name(), layout, valid, next)?;
        }
        Ok(outcome)
    }

    fn compare(
        &self,
        scan: &mut dyn Scan,
        at: usize,
        expected: Expected<'_>,
        next: Digest,
    ) -> Result<diff::Outcome, Error> {
        scan.start(at, Extent::Whole)?;
        let layout = scan.layout(at);
        let folder = self.index_folder();
        let name = expected.outlet.name();
        let identity = if expected.outlet.counted() { Identity::WholeRow } else { Identity::Key };
        let index = self.index.and_then(|valid| ScanIndex::open(&folder, name, layout, valid));
        let mut records = Found::new(scan, translator(expected));
        let mut writer = ScanIndexWriter::create(&folder, name, layout)?;
        let outcome: Result<diff::Outcome, diff::DiffError<Error>> = match index {
            Some(index) => {
                let mut index = Masked { index, stale: self.stale.get(name) };
                diff::with_index(&mut records, &mut index, &expected, &mut writer, identity)
            }
            None => diff::without_index(&mut records, &expected, &mut writer, identity),
        };
        let outcome = outcome?;
        writer.finish(next)?;
        Ok(outcome)
    }

    pub(super) fn index_folder(&self) -> PathBuf {
        self.store.dir().join("index")
    }
}

/// Brings destination rows into the source's terms.
pub(super) fn translator<'a>(expected: Expected<'a>) -> Box<deltabus_interfaces::found::Translate<'a>> {
    let mut placed = RowBuilder::default();
    Box::new(move |row, key, out| {
        let row = expected.outlet.placed(row, &mut placed);
        let start = key.len();
        expected.outlet.source_key(row, key);
        let base = match expected.outlet.counted() {
            // The key is the row itself: an equal one is the base.
            true => expected.row(diff::counted(&key[start..], 0).as_bytes()),
            false => expected.row(&key[start..]),
        };
        let lifted = base.and_then(|base| expected.outlet.lift(row, base.as_deref(), out));
        lifted.map_err(|error| InterfaceError::Records(Box::new(error)))
    })
}

/// An index in which the entries of some records count as unknown.
struct Masked<'a> {
    index: ScanIndex,
    stale: Option<&'a HashSet<Vec<u8>>>,
}

impl Index for Masked<'_> {
    type Error = IndexDamaged;

    fn next(&mut self) -> Result<Option<u64>, IndexDamaged> {
        let fingerprint = self.index.advance()?;
        let stale = self.stale.is_some_and(|stale| stale.contains(self.index.key()));
        // Another fingerprint than any stored form of this record had.
        Ok(fingerprint.map(|fingerprint| if stale { !fingerprint } else { fingerprint }))
    }

    fn key(&self) -> &[u8] {
        self.index.key()
    }
}
