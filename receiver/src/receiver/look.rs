//! Looking at the destination: what stands there beside what is expected.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use deltabus_interfaces::found::{self, Found};
use deltabus_interfaces::{Error as InterfaceError, Extent, Scan};
use deltabus_record::diff::{self, Difference, Identity, Known, Refreshed};
use deltabus_record::digest::Digest;
use deltabus_record::key::{Key, split_occurrence};
use deltabus_record::row::RowBuilder;
use deltabus_record::schema::Collection;
use deltabus_state::{ScanIndex, ScanIndexWriter, View};
use metrics::histogram;
use xxhash_rust::xxh3::xxh3_128;

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
            since: start,
            stamp: scan.stamp().clone(),
            missing: pairs.contains(&None),
            found,
            differences: Vec::new(),
            fields: view.collections().iter().map(|known| (known.name.clone(), known.schema.names())).collect(),
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
            if outlet.counted() {
                sort_as_counted(&mut differences);
            }
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
                let mut index = Refreshed::new(index, self.stale.get(name), &expected, identity)?;
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

/// Of equal rows the last one goes first and the first one comes first: an edit that takes one away, or adds one, says how
/// many there were before it.
fn sort_as_counted(differences: &mut [Difference]) {
    differences.sort_by_key(|difference| {
        let occurrence = i64::from(split_occurrence(difference.key.as_bytes()).1);
        if difference.after.is_none() { -occurrence } else { occurrence }
    });
}

/// Brings destination rows into the source's terms.
pub(super) fn translator<'a>(expected: Expected<'a>) -> Box<deltabus_interfaces::found::Translate<'a>> {
    let mut placed = RowBuilder::default();
    let mut forms = None;
    let mut translate = move |row: &[u8], key: &mut Vec<u8>, out: &mut Vec<u8>| -> Result<(), Error> {
        let row = expected.outlet.placed(row, &mut placed);
        if expected.outlet.counted() {
            let forms = match &mut forms {
                Some(forms) => forms,
                None => forms.insert(Forms::of(expected)?),
            };
            if let Some(form) = forms.next(row) {
                key.extend_from_slice(&form.content);
                out.extend_from_slice(&form.row);
                return Ok(());
            }
        }
        let start = key.len();
        expected.outlet.source_key(row, key);
        let base = match expected.outlet.counted() {
            // The key is the row itself: an equal one is the base.
            true => expected.row(diff::counted(&key[start..], 0).as_bytes())?,
            false => expected.row(&key[start..])?,
        };
        expected.outlet.lift(row, base.as_deref(), out)
    };
    Box::new(move |row, key, out| translate(row, key, out).map_err(|error| InterfaceError::Records(Box::new(error))))
}

/// Rows without a key that can't be told from what the destination makes of them: where it has no absent values, null may
/// stand for either. Their records are those that are expected, one after another.
#[derive(Default)]
struct Forms {
    /// By the hash (xxh3, 128 bits) of the destination's row: the source's rows that it stands for, and how many of them were
    /// met.
    by_row: HashMap<u128, (Vec<Form>, usize)>,
}

/// A source row, with its key as far as equals share it.
#[derive(Clone)]
struct Form {
    content: Vec<u8>,
    row: Vec<u8>,
}

impl Forms {
    fn of(expected: Expected<'_>) -> Result<Forms, Error> {
        let mut forms = Forms::default();
        let outlet = expected.outlet;
        if outlet.is_identity() {
            return Ok(forms);
        }
        let mut there = RowBuilder::default();
        let mut lifted = Vec::new();
        // First those that lifting alone would not find, then the others that look like one of them.
        for found_by_lifting in [false, true] {
            expected.keys(&mut |key| {
                let key = Key::from_trusted(key);
                let Some(row) = expected.row(key.as_bytes())? else { return Ok(()) };
                match outlet.forward_as_known(&row, &mut there) {
                    Err(Error::Refused { .. }) => return Ok(()),
                    result => result?,
                }
                lifted.clear();
                outlet.source_key(there.as_bytes(), &mut lifted);
                let content = outlet.source.schema.key_content(&key);
                if (lifted == content) != found_by_lifting {
                    return Ok(());
                }
                let hash = xxh3_128(there.as_bytes());
                let form = || Form { content: content.to_vec(), row: row.clone() };
                match found_by_lifting {
                    false => forms.by_row.entry(hash).or_default().0.push(form()),
                    true => {
                        if let Some((same, _)) = forms.by_row.get_mut(&hash) {
                            same.push(form());
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(forms)
    }

    /// The source row that the next destination row of this content stands for; `None`: lifting tells.
    fn next(&mut self, row: &[u8]) -> Option<&Form> {
        if self.by_row.is_empty() {
            return None;
        }
        let (forms, met) = self.by_row.get_mut(&xxh3_128(row))?;
        *met += 1;
        forms.get((*met - 1) % forms.len())
    }
}
