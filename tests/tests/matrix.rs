//! Every source interface to every destination interface and back.
//!
//! For each pair the real program carries a native sample of the source to a new destination, from there, as a source of its
//! own, to a new store of the first kind, and an edit made at the destination back to the source. What becomes of the values
//! is written down in `docs/matrix.md`, which this test makes (`DELTABUS_UPDATE=1`) and checks.

mod stores;

use std::collections::BTreeMap;
use std::fmt::Write;

use deltabus_interfaces::contents::field_for;
use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Extent, Interface, Location, NoContents, RecordWrite, open,
};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::Collection;
use deltabus_record::value::{Kind, Value};
use deltabus_tests::World;
use stores::{STORES, Sample};

/// What becomes of the values of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Kept,
    Encoded,
    Refused,
}

/// What was seen of a pair.
struct Outcome {
    /// By kind of the source's values: the worst that became of one.
    fates: BTreeMap<&'static str, Fate>,
    /// Why the destination doesn't take the source at all.
    refused: Option<String>,
    /// How the sample comes back to a store of the first kind when nobody knows any more where it was from.
    alone: Option<&'static str>,
}

#[test]
fn every_source_goes_to_every_destination_and_back() {
    // Each source has a world, that is a broker, of its own; they run side by side.
    let rows = std::thread::scope(|scope| {
        let rows: Vec<_> = STORES.iter().map(|source| scope.spawn(|| row(source))).collect();
        rows.into_iter().map(|row| row.join().expect("what went wrong is said above")).collect::<Vec<_>>()
    });
    let table = rows.concat();
    let document = format!("{HEAD}{table}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/matrix.md");
    if std::env::var_os("DELTABUS_UPDATE").is_some() {
        std::fs::write(path, &document).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(document, written, "docs/matrix.md is not what the program does; DELTABUS_UPDATE=1 writes it anew");
}

const HEAD: &str = "# Every source to every destination

Made and checked by the test `matrix`, which carries a sample of each store to each other, from there to a new store of the
first kind, and an edit back. By kind of value: *kept* as it is, *encoded* (in a documented form that comes back as it was,
see [values.md](values.md)), or *refused* (the record is an error, or goes to the dead letters). Whatever is not refused comes
back equal. The last column says how the sample arrives in a new store of the first kind when the destination is published as
a source of its own, of which nobody knows where it was from: *equal*, *as it is written there* (a CSV file's numbers are
text unless `types=` says more), or *refused* (a card is no file).

| source | destination | values | and on from there |
|---|---|---|---|
";

impl Outcome {
    fn text(&self) -> String {
        if let Some(reason) = &self.refused {
            return format!("refused: {reason}");
        }
        let of = |fate: Fate| {
            let kinds: Vec<_> = self.fates.iter().filter(|(_, other)| **other == fate).map(|(kind, _)| *kind).collect();
            (!kinds.is_empty()).then(|| format!("{} {}", format!("{fate:?}").to_lowercase(), kinds.join(", ")))
        };
        [Fate::Kept, Fate::Encoded, Fate::Refused].into_iter().filter_map(of).collect::<Vec<_>>().join("; ")
    }
}

/// The lines of one source.
fn row(source: &Sample) -> String {
    let world = World::new();
    let mut lines = String::new();
    for destination in STORES {
        let outcome = carry(&world, source, destination);
        let (values, alone) = (outcome.text(), outcome.alone.unwrap_or("-"));
        let _ = writeln!(lines, "| {} | {} | {values} | {alone} |", source.name, destination.name);
    }
    lines
}

fn carry(world: &World, source: &Sample, destination: &Sample) -> Outcome {
    let pair = format!("{} to {}", source.name, destination.name);
    let name = |role: &str| format!("{role}-{}", destination.name);
    let from = (source.fill)(world, &name("source"));
    let to = (destination.place)(world, &name("there"), source.key);
    let back = (source.place)(world, &name("back"), source.key);
    let (s, t) = (name("s"), name("t"));
    world.run(&format!("transmit {s} {from} --once")).exits(0);
    let mut outcome = fates(&from, &to);
    let received = world.run(&format!("receive {s} {to} --name there --reverse --once"));
    if outcome.refused.is_some() || outcome.fates.values().any(|fate| *fate == Fate::Refused) {
        assert_eq!(received.code(), Some(2), "{pair}: {}", received.text());
        assert!(received.stderr().lines().count() >= 1, "{pair}: {}", received.text());
        return outcome;
    }
    received.exits(0);
    equal(world, &pair, &from, &to);
    // The destination as a source of its own, to a new store of the first kind.
    world.run(&format!("transmit {t} {to} --once")).exits(0);
    outcome.alone = Some(match store(&back).takes(&first_collection(&to)) {
        Err(_) => {
            world.run(&format!("receive {t} {back} --name back --once")).exits(2);
            "refused"
        }
        Ok(()) => {
            world.run(&format!("receive {t} {back} --name back --once")).exits(0);
            equal(world, &pair, &to, &back);
            let through = world.run(&format!("diff {from} {back}"));
            match through.code() {
                Some(0) => "equal",
                Some(1) => "as it is written there",
                _ => panic!("{pair}: {}", through.text()),
            }
        }
    });
    // An edit at the destination comes back to the source.
    let Some(edited) = source.edited else { return outcome };
    edit(&to, source.key, edited);
    world.run(&format!("receive {s} {to} --name there --reverse --once")).exits(0);
    world.run(&format!("transmit {s} {from} --once")).exits(0);
    world.run(&format!("receive {s} {to} --name there --reverse --once")).exits(0);
    equal(world, &pair, &from, &to);
    let text = value_in(&from, source.key, edited);
    assert_eq!(text, Value::text(EDIT), "{pair}: the edit of `{}` reached the source", edited.1);
    outcome
}

const EDIT: &str = "edited, there";

fn equal(world: &World, pair: &str, a: &str, b: &str) {
    let diff = world.run(&format!("diff {a} {b}"));
    assert_eq!(diff.code(), Some(0), "{pair}: {}", diff.text());
}

fn store(location: &str) -> Box<dyn Interface> {
    open(&Location::parse(location).unwrap()).unwrap()
}

fn first_collection(location: &str) -> Collection {
    store(location).scan(None).unwrap().collections()[0].clone()
}

/// Calls `see` for each record of the first collection: its place in it and its values.
fn each_record(interface: &dyn Interface, mut see: impl FnMut(Row)) {
    let mut scan = interface.scan(None).unwrap();
    scan.start(0, Extent::Whole).unwrap();
    let mut row = RowBuilder::default();
    while scan.next().unwrap().is_some() {
        row.clear();
        assert_eq!(scan.decode(&mut row).unwrap(), Decoded::Record);
        see(row.row());
    }
    scan.finish().unwrap();
}

/// What the destination would make of the source's values.
fn fates(from: &str, to: &str) -> Outcome {
    let (from, to) = (store(from), store(to));
    let collection = from.scan(None).unwrap().collections()[0].clone();
    let mut outcome = Outcome { fates: BTreeMap::new(), refused: None, alone: None };
    if let Err(refusal) = to.takes(&collection) {
        outcome.refused = Some(refusal.reason);
        return outcome;
    }
    each_record(&*from, |row| {
        for (slot, field) in collection.schema.ordered() {
            let field = field_for(&*to, field);
            let (mut value, mut kind) = (row.value(slot), row.value(slot).kind());
            if let Value::Large(large) = &value
                && !to.verbatim(&field).contains(Kind::Large)
            {
                value = from.contents().value(large).unwrap();
                kind = value.kind();
            }
            let fate = if to.verbatim(&field).contains(kind) {
                Fate::Kept
            } else {
                match to.project(value.clone(), &field) {
                    Ok(projected) if projected == value => Fate::Kept,
                    Ok(_) => Fate::Encoded,
                    Err(_) => Fate::Refused,
                }
            };
            let worst = outcome.fates.entry(kind.name()).or_insert(fate);
            *worst = fate.max(*worst);
        }
    });
    outcome
}

/// Changes a text field of one record.
fn edit(location: &str, key: &str, (id, field): (&str, &str)) {
    let interface = store(location);
    let collection = first_collection(location);
    let schema = &collection.schema;
    let (key_slot, slot) = (schema.slot(key).unwrap(), schema.slot(field).unwrap());
    let mut writes = Vec::new();
    each_record(&*interface, |row| {
        if row.value(key_slot) == Value::text(id) {
            let mut values = row.values();
            values.resize(schema.fields.len(), Value::Absent);
            values[slot] = Value::text(EDIT);
            let row = Row::of(&values);
            let key = schema.key_of(row.as_bytes(), 0);
            writes.push(RecordWrite::Put { key, row, changed: vec![slot as u32] });
        }
    });
    assert_eq!(writes.len(), 1, "{location} has the record {id}");
    let stamp = interface.stamp().unwrap();
    let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&writes) }];
    interface.stage(&mut writes, &stamp, None, &NoContents).unwrap().commit().unwrap();
}

fn value_in(location: &str, key: &str, (id, field): (&str, &str)) -> Value {
    let interface = store(location);
    let schema = first_collection(location).schema;
    let (key, slot) = (schema.slot(key).unwrap(), schema.slot(field).unwrap());
    let mut found = Value::Absent;
    each_record(&*interface, |row| {
        if row.value(key) == Value::text(id) {
            found = row.value(slot);
        }
    });
    found
}
