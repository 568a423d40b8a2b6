//! `deltabus copy`: make one location equal to another, once.

use std::io::{BufWriter, Write};

use deltabus_interfaces::contents::{field_for, same_content};
use deltabus_interfaces::found::{Found, Translate};
use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Error as InterfaceError, Extent, Interface, RecordWrite, Records, Scan, Stamp,
};
use deltabus_record::diff::{self, Fingerprints, Identity};
use deltabus_record::key::Key;
use deltabus_record::mapping::{Lens, Mapping};
use deltabus_record::row::{FieldRef, Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, KeySpec};
use deltabus_record::value::Value;

use crate::arguments::{Copy, Global};
use crate::commands::compare;
use crate::error::{Error, Exit};
use crate::output::{Paint, counted, print_difference, spinner};

/// Runs the command.
pub(crate) fn copy(global: &Global, options: Copy) -> Result<Exit, Error> {
    let (from, to) = (compare::open(&options.a)?, compare::open(&options.b)?);
    let bar = spinner(global, "comparing");
    let plans = plan(&*from, &*to)?;
    let written: u64 = plans.iter().map(|plan| plan.writes.as_ref().map_or(0, |writes| writes.len() as u64)).sum();
    let loads = plans.iter().filter(|plan| plan.writes.is_none()).count();
    if options.dry_run {
        bar.finish_and_clear();
        return dry_run(&plans, &options, &*from);
    }
    if written == 0 && loads == 0 {
        bar.finish_and_clear();
        say(global, &format!("{} is equal to {} already", options.b, options.a));
        return Ok(Exit::Done);
    }
    bar.set_message("writing");
    let stamp = to.stamp()?;
    let loaded = write(&*from, &*to, &plans, &stamp)?;
    bar.finish_and_clear();
    say(global, &format!("{}: {} written", options.b, counted(written + loaded, "record")));
    Ok(Exit::Done)
}

fn say(global: &Global, text: &str) {
    if !global.quiet {
        println!("{text}");
    }
}

/// What is to be done to one collection of the destination.
struct Plan {
    /// Its place among the source's collections.
    at: usize,
    source: Collection,
    destination: Collection,
    lens: Lens,
    /// The writes; `None`: all records come in.
    writes: Option<Vec<RecordWrite>>,
}

fn plan(from: &dyn Interface, to: &dyn Interface) -> Result<Vec<Plan>, Error> {
    let mut left = from.scan(None)?;
    let in_a = left.collections().to_vec();
    let mut right = match to.scan(None) {
        Ok(scan) => Some(scan),
        Err(InterfaceError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let in_b = right.as_ref().map(|scan| scan.collections().to_vec()).unwrap_or_default();
    if to.single_collection() && in_a.len() > 1 {
        let names = in_a.iter().map(|collection| collection.name.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::Config(format!(
            "the destination holds one collection, the source has {names}; name one with `tables=`"
        )));
    }
    let pairs = compare::pairs(from, to, &in_a, &in_b);
    let mut plans = Vec::new();
    for (at, source) in in_a.iter().enumerate() {
        let found = pairs.iter().find(|(a, _)| *a == at).map(|(_, b)| *b);
        let mapping = Mapping::identity();
        let mut schema = mapping.destination_schema(&source.schema)?;
        for field in &mut schema.fields {
            let there = found.and_then(|b| in_b[b].schema.slot(&field.name).map(|slot| &in_b[b].schema.fields[slot]));
            let ordinal = field.ordinal;
            *field = there.cloned().unwrap_or_else(|| field_for(to, field));
            field.ordinal = ordinal;
        }
        if let (KeySpec::WholeRow, Some(b)) = (&schema.key, found)
            && let Ok(keyed) = schema.clone().with_key(&in_b[b].schema.key_names())
            && !in_b[b].schema.key_names().is_empty()
        {
            schema = keyed;
        }
        let name = found.map_or_else(|| source.name.clone(), |b| in_b[b].name.clone());
        let destination = Collection { name, schema };
        let lens = Lens::new(&mapping, &source.schema, &destination.schema, |field| to.verbatim(field))?;
        left.start(at, Extent::Whole)?;
        let empty = match found {
            Some(b) => is_empty(to, b)?,
            None => true,
        };
        let writes = match (&mut right, found) {
            (Some(right), Some(b)) if !empty => {
                right.start(b, Extent::Whole)?;
                Some(differing(&mut *left, &mut **right, (from, to), &destination, &lens, &in_b[b])?)
            }
            _ => None,
        };
        plans.push(Plan { at, source: source.clone(), destination, lens, writes });
    }
    Ok(plans)
}

fn is_empty(store: &dyn Interface, collection: usize) -> Result<bool, Error> {
    let mut scan = store.scan(None)?;
    for at in 0..collection {
        scan.start(at, Extent::Whole)?;
        while scan.next()?.is_some() {}
    }
    scan.start(collection, Extent::Whole)?;
    Ok(scan.next()?.is_none())
}

/// The writes that make what is there equal to the source, in the destination's terms.
fn differing(
    left: &mut dyn Scan,
    right: &mut dyn Scan,
    (from, to): (&dyn Interface, &dyn Interface),
    destination: &Collection,
    lens: &Lens,
    found: &Collection,
) -> Result<Vec<RecordWrite>, Error> {
    let counted = destination.schema.key == KeySpec::WholeRow;
    let identity = if counted { Identity::WholeRow } else { Identity::Key };
    let mut a = Found::new(left, forward(from, to, destination, lens));
    let mut b = Found::new(right, as_found(destination, found));
    let outcome = diff::compare(&mut a, &mut b, Fingerprints::Foreign, identity).map_err(compare::duplicate)?;
    let mut writes = Vec::new();
    for difference in outcome.differences {
        let key = difference.key;
        match (difference.before, difference.after) {
            (Some(row), Some(there)) => {
                // A content in memory and a reference to it.
                let same = |slot: &u32| same_content(field(&there, *slot), field(&row, *slot));
                let mut changed = diff::changed_slots(&there, &row);
                changed.retain(|slot| !same(slot));
                if changed.is_empty() {
                    continue;
                }
                writes.push(RecordWrite::Put { key, row, changed });
            }
            (Some(row), None) => {
                let changed = (0..destination.schema.fields.len() as u32).collect();
                writes.push(RecordWrite::Put { key, row, changed });
            }
            (None, Some(row)) => writes.push(RecordWrite::Remove { key, row }),
            (None, None) => {}
        }
    }
    Ok(writes)
}

fn field(row: &Row, slot: u32) -> FieldRef<'_> {
    RowReader::new(row.as_bytes()).nth(slot as usize).unwrap_or(FieldRef::ABSENT)
}

/// Source rows as the destination will have them.
fn forward<'a>(
    from: &'a dyn Interface,
    to: &'a dyn Interface,
    destination: &'a Collection,
    lens: &'a Lens,
) -> Box<Translate<'a>> {
    let mut out = RowBuilder::default();
    Box::new(move |row, key, into| {
        convert((from, to), destination, lens, row, &mut out)?;
        destination.schema.key_content_into(out.as_bytes(), key);
        into.extend_from_slice(out.as_bytes());
        Ok(())
    })
}

fn convert(
    (from, to): (&dyn Interface, &dyn Interface),
    destination: &Collection,
    lens: &Lens,
    row: &[u8],
    out: &mut RowBuilder,
) -> Result<(), InterfaceError> {
    out.clear();
    lens.forward(row, out, &mut |value, slot| {
        let field = &destination.schema.fields[slot];
        let value = match value {
            Value::Large(large) => from.contents().value(&large)?,
            value => value,
        };
        if to.verbatim(field).contains(value.kind()) {
            return Ok(value);
        }
        to.project(value, field).map_err(|refusal| InterfaceError::Refused {
            place: destination.name.to_string(),
            field: field.name.clone(),
            refusal,
        })
    })
}

/// Destination rows as they are, without the fields that the source knows nothing of.
fn as_found<'a>(destination: &'a Collection, found: &'a Collection) -> Box<Translate<'a>> {
    let slots: Vec<Option<usize>> = destination.schema.slots_in(&found.schema);
    let mut out = RowBuilder::default();
    Box::new(move |row, key, into| {
        let fields: Vec<FieldRef<'_>> = RowReader::new(row).collect();
        out.clear();
        for slot in &slots {
            out.push_encoded(slot.and_then(|slot| fields.get(slot).copied()).unwrap_or(FieldRef::ABSENT));
        }
        destination.schema.key_content_into(out.as_bytes(), key);
        into.extend_from_slice(out.as_bytes());
        Ok(())
    })
}

/// Writes everything; gives how many records were loaded.
fn write(from: &dyn Interface, to: &dyn Interface, plans: &[Plan], stamp: &Stamp) -> Result<u64, Error> {
    let mut loads: Vec<Option<Loading<'_>>> = Vec::new();
    for plan in plans {
        loads.push(match plan.writes {
            Some(_) => None,
            None => {
                let mut scan = from.scan(None)?;
                for at in 0..plan.at {
                    scan.start(at, Extent::Whole)?;
                    while scan.next()?.is_some() {}
                }
                scan.start(plan.at, Extent::Whole)?;
                Some(Loading {
                    scan,
                    stores: (from, to),
                    plan,
                    found: RowBuilder::default(),
                    row: RowBuilder::default(),
                    key: Vec::new(),
                    count: 0,
                })
            }
        });
    }
    let mut all: Vec<CollectionWrite<'_>> = plans
        .iter()
        .zip(&mut loads)
        .filter_map(|(plan, load)| {
            let action = match (load, &plan.writes) {
                (Some(records), _) => Action::Load(records),
                (None, Some(writes)) if !writes.is_empty() => Action::Write(writes),
                _ => return None,
            };
            Some(CollectionWrite { collection: &plan.destination, dropped: &[], action })
        })
        .collect();
    to.stage(&mut all, stamp, None, from.contents())?.commit()?;
    drop(all);
    Ok(loads.iter().flatten().map(|load| load.count).sum())
}

/// A source's records on their way into an empty collection.
struct Loading<'a> {
    scan: Box<dyn Scan + 'a>,
    stores: (&'a dyn Interface, &'a dyn Interface),
    plan: &'a Plan,
    found: RowBuilder,
    row: RowBuilder,
    key: Vec<u8>,
    count: u64,
}

impl Records for Loading<'_> {
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        loop {
            if self.scan.next()?.is_none() {
                self.scan.finish()?;
                return Ok(false);
            }
            self.found.clear();
            if self.scan.decode(&mut self.found)? == Decoded::Record {
                break;
            }
        }
        convert(self.stores, &self.plan.destination, &self.plan.lens, self.found.as_bytes(), &mut self.row)?;
        self.key.clear();
        self.plan.destination.schema.key_into(self.row.as_bytes(), 0, &mut self.key);
        self.count += 1;
        Ok(true)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn row(&self) -> &[u8] {
        self.row.as_bytes()
    }
}

fn dry_run(plans: &[Plan], options: &Copy, from: &dyn Interface) -> Result<Exit, Error> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let paint = Paint::for_stdout();
    let mut count = 0u64;
    for plan in plans {
        match &plan.writes {
            None => {
                let mut scan = from.scan(None)?;
                for at in 0..=plan.at {
                    scan.start(at, Extent::Whole)?;
                    let mut records = 0u64;
                    while scan.next()?.is_some() {
                        records += 1;
                    }
                    if at == plan.at {
                        count += records;
                        writeln!(
                            out,
                            "{} {}  all of {}",
                            paint.green("+"),
                            plan.source.name,
                            counted(records, "record")
                        )?;
                    }
                }
            }
            Some(writes) => {
                count += writes.len() as u64;
                for write in writes {
                    let difference = match write {
                        RecordWrite::Put { key, row, .. } => put(key, row),
                        RecordWrite::Remove { key, row } => {
                            diff::Difference { key: key.clone(), before: Some(row.clone()), after: None }
                        }
                    };
                    print_difference(&mut out, paint, &plan.destination.name, &plan.destination.schema, &difference)?;
                }
            }
        }
    }
    writeln!(out, "{} would be written to {}", counted(count, "record"), options.b)?;
    out.flush()?;
    Ok(Exit::Done)
}

fn put(key: &Key, row: &deltabus_record::row::Row) -> diff::Difference {
    diff::Difference { key: key.clone(), before: None, after: Some(row.clone()) }
}
