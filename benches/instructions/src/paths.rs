//! The hot paths, each as a function of how many records go through it.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;

use deltabus_bus::{decode_set, encode_set};
use deltabus_interfaces::contents::NoContents;
use deltabus_interfaces::{Action, CollectionWrite, Extent, Interface, Location, RecordWrite, Records, Stamp};
use deltabus_record::change::{
    Change, ChangeSet, CollectionChanges, ConflictPolicy, FieldChange, Revision, Transaction,
};
use deltabus_record::diff::{self, Fingerprints, Found, Identity, Index, IndexSink, Known};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::merge::{Clock, merge};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::CollectionName;
use deltabus_record::value::{Date, Decimal, Value};

use crate::Result;

/// A path, and with how many records it is counted.
pub(crate) struct HotPath {
    pub(crate) name: &'static str,
    pub(crate) records: u64,
    pub(crate) run: fn(u64) -> Result<()>,
}

/// All of them, the longest first.
pub(crate) const ALL: &[HotPath] = &[
    HotPath { name: "csv write", records: 5_000, run: csv_write },
    HotPath { name: "csv change", records: 5_000, run: csv_change },
    HotPath { name: "csv scan", records: 40_000, run: csv_scan },
    HotPath { name: "csv decode", records: 20_000, run: csv_decode },
    HotPath { name: "diff unchanged", records: 50_000, run: |records| with_index(records, 0) },
    HotPath { name: "diff 1 %", records: 50_000, run: |records| with_index(records, 1) },
    HotPath { name: "compare 50 %", records: 20_000, run: compare },
    HotPath { name: "row encode", records: 20_000, run: row_encode },
    HotPath { name: "row decode", records: 20_000, run: row_decode },
    HotPath { name: "wire encode", records: 10_000, run: wire_encode },
    HotPath { name: "wire decode", records: 10_000, run: wire_decode },
    HotPath { name: "merge", records: 20_000, run: merge_edits },
];

fn values(id: u64) -> Vec<Value> {
    vec![
        Value::Integer(id as i64),
        Value::text(format!("Person {}", mix(id) % 100_000)),
        Value::text("São Paulo"),
        Value::Null,
        Value::Decimal(Box::new(Decimal { unscaled: (mix(id) as i32).into(), scale: 2 })),
        Value::Date(Date((mix(id) % 20_000) as i32)),
        Value::Bool(id.is_multiple_of(2)),
        Value::Float(id as f64 / 8.0),
    ]
}

/// Numbers that look random and are always the same (splitmix64).
fn mix(id: u64) -> u64 {
    let mut z = id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn row_encode(records: u64) -> Result<()> {
    let values = values(7);
    let mut row = RowBuilder::default();
    for _ in 0..records {
        row.clear();
        values.iter().for_each(|value| row.push(black_box(value)));
        black_box(row.as_bytes());
    }
    Ok(())
}

fn row_decode(records: u64) -> Result<()> {
    let bytes = Row::of(&values(7)).as_bytes().to_vec();
    for _ in 0..records {
        // As it comes from outside: checked, then decoded.
        black_box(Row::from_bytes(black_box(&bytes))?.values());
    }
    Ok(())
}

fn update(id: u64) -> Change {
    let field = |slot, before: &str, after: &str| FieldChange {
        slot,
        before: Value::text(before),
        after: Value::text(format!("{after} {id}")),
    };
    Change::Update {
        key: Key::of(&[Value::Integer(id as i64)]),
        fields: vec![field(1, "before", "after"), field(2, "", "x")],
    }
}

fn change_set(records: u64) -> ChangeSet {
    let changes =
        CollectionChanges { collection: CollectionName::new("people"), changes: (0..records).map(update).collect() };
    ChangeSet {
        base: Revision::default(),
        next: Revision { number: 1, digest: Digest::default() },
        time_millis: 1,
        transactions: vec![Transaction { schemas: Vec::new(), collections: vec![changes] }],
        replies: Vec::new(),
    }
}

/// Sets of a hundred updates.
fn wire_encode(records: u64) -> Result<()> {
    let set = change_set(100);
    for _ in 0..records / 100 {
        black_box(encode_set(black_box(&set)));
    }
    Ok(())
}

fn wire_decode(records: u64) -> Result<()> {
    let encoded = encode_set(&change_set(100));
    for _ in 0..records / 100 {
        black_box(decode_set(black_box(&encoded.0))?);
    }
    Ok(())
}

fn merge_edits(records: u64) -> Result<()> {
    let (mut base, edit) = (values(7), update(7));
    (base[1], base[2]) = (Value::text("before"), Value::text("another"));
    let (base, source) = (Row::of(&base), Row::of(&base));
    for _ in 0..records {
        let merged = merge(black_box(&edit), Some(&source), Some(&base), ConflictPolicy::Source, Clock::EditLater, &[]);
        black_box(merged);
    }
    Ok(())
}

/// Records that are made as they are asked for; of a hundred, `changed` are others than they were.
struct Made {
    records: u64,
    at: u64,
    changed: u64,
}

impl Made {
    fn id(&self) -> u64 {
        self.at - 1
    }

    fn changes(&self) -> bool {
        mix(self.id()) % 100 < self.changed
    }

    fn next_fingerprint(&mut self) -> Option<u64> {
        self.at += 1;
        (self.at <= self.records).then(|| mix(self.id()) ^ u64::from(self.changes()))
    }
}

fn small_row(id: u64, changed: bool, row: &mut Vec<u8>) {
    row.extend_from_slice(&[2 + u8::from(changed), 14]);
    row.extend_from_slice(&u128::from(id).to_be_bytes());
}

impl Found for Made {
    type Error = Infallible;

    fn next(&mut self) -> std::result::Result<Option<u64>, Infallible> {
        Ok(self.next_fingerprint())
    }

    fn decode(&mut self, key: &mut Vec<u8>, row: &mut Vec<u8>) -> std::result::Result<bool, Infallible> {
        key.extend_from_slice(&self.id().to_be_bytes());
        small_row(self.id(), self.changes(), row);
        Ok(true)
    }

    fn place(&self) -> String {
        self.at.to_string()
    }
}

/// The scan before.
struct Before {
    made: Made,
    key: [u8; 8],
}

impl Index for Before {
    type Error = Infallible;

    fn next(&mut self) -> std::result::Result<Option<u64>, Infallible> {
        let next = self.made.next_fingerprint();
        self.key = self.made.id().to_be_bytes();
        Ok(next)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }
}

/// Knows every record as it was.
struct All;

impl Known for All {
    type Error = Infallible;

    fn get(&self, key: &[u8], row: &mut Vec<u8>) -> std::result::Result<bool, Infallible> {
        let Ok(id) = key.try_into() else { return Ok(false) };
        small_row(u64::from_be_bytes(id), false, row);
        Ok(true)
    }

    fn keys(
        &self,
        _take: &mut dyn FnMut(&[u8]) -> std::result::Result<(), Infallible>,
    ) -> std::result::Result<(), Infallible> {
        Ok(())
    }
}

#[derive(Default)]
struct Sum(u64);

impl IndexSink for Sum {
    type Error = Infallible;

    fn push(&mut self, fingerprint: u64, key: &[u8]) -> std::result::Result<(), Infallible> {
        self.0 = self.0.wrapping_add(fingerprint).wrapping_add(key.len() as u64);
        Ok(())
    }
}

fn with_index(records: u64, changed: u64) -> Result<()> {
    let mut found = Made { records, at: 0, changed };
    let mut index = Before { made: Made { records, at: 0, changed: 0 }, key: [0; 8] };
    let mut sink = Sum::default();
    let outcome = diff::with_index::<Infallible, _, _, _, _>(&mut found, &mut index, &All, &mut sink, Identity::Key)?;
    black_box((outcome, sink.0));
    Ok(())
}

fn compare(records: u64) -> Result<()> {
    let (mut a, mut b) = (Made { records, at: 0, changed: 0 }, Made { records, at: 0, changed: 50 });
    black_box(diff::compare(&mut a, &mut b, Fingerprints::Comparable, Identity::Key)?);
    Ok(())
}

fn write_csv(path: &Path, records: u64) -> Result<()> {
    let mut text = String::from("id,name,email,city,country,amount,note\n");
    for id in 0..records {
        let random = mix(id);
        let cents = random % 100_000;
        writeln!(
            text,
            "{id},Person {cents},person{cents}@example.org,Oslo,NO,{cents},\"first seen, no. {}\"",
            random % 977
        )?;
    }
    Ok(std::fs::write(path, text)?)
}

fn open(path: &Path) -> Result<Box<dyn Interface>> {
    Ok(deltabus_interfaces::open(&Location::parse(&format!("csv:{}?key=id", path.display()))?)?)
}

/// Reads one file again and again, so that making it is no part of what is counted.
fn scan(records: u64, decode: bool) -> Result<()> {
    const FILE_RECORDS: u64 = 10_000;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("people.csv");
    write_csv(&path, FILE_RECORDS)?;
    let interface = open(&path)?;
    for _ in 0..records / FILE_RECORDS {
        let mut scan = interface.scan(None)?;
        let mut row = RowBuilder::default();
        scan.start(0, Extent::Whole)?;
        while let Some(fingerprint) = scan.next()? {
            black_box(fingerprint);
            if decode {
                row.clear();
                let decoded = scan.decode(&mut row)?;
                let _ = black_box((decoded, row.as_bytes()));
            }
        }
        scan.finish()?;
    }
    Ok(())
}

fn csv_scan(records: u64) -> Result<()> {
    scan(records, false)
}

fn csv_decode(records: u64) -> Result<()> {
    scan(records, true)
}

/// Gives made-up records to load.
struct Loading {
    left: u64,
    key: Vec<u8>,
    row: Row,
}

impl Records for Loading {
    fn advance(&mut self) -> std::result::Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        self.left = self.left.saturating_sub(1);
        Ok(self.left > 0)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn row(&self) -> &[u8] {
        self.row.as_bytes()
    }
}

fn csv_write(records: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let template = folder.path().join("template.csv");
    write_csv(&template, 1)?;
    let collection = open(&template)?.scan(None)?.collections()[0].clone();
    let interface = open(&folder.path().join("people.csv"))?;
    let texts = ["17", "Person 17", "person17@example.org", "Oslo", "NO", "17.20", "first seen, no. 17"];
    let row = Row::of(&texts.map(Value::text));
    let mut key = Vec::new();
    collection.schema.key_content_into(row.as_bytes(), &mut key);
    let mut loading = Loading { left: records + 1, key, row };
    let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Load(&mut loading) }];
    interface.stage(&mut writes, &Stamp::MISSING, None, &NoContents)?.commit()?;
    Ok(())
}

/// One record in a hundred changes.
fn csv_change(records: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("people.csv");
    write_csv(&path, records)?;
    let interface = open(&path)?;
    let mut scan = interface.scan(None)?;
    let (collection, stamp) = (scan.collections()[0].clone(), scan.stamp().clone());
    scan.start(0, Extent::Whole)?;
    let (mut row, mut changes) = (RowBuilder::default(), Vec::new());
    let mut at = 0_u64;
    while scan.next()?.is_some() {
        at += 1;
        if at.is_multiple_of(100) {
            row.clear();
            let _ = scan.decode(&mut row)?;
            let mut values = row.row().values();
            values[3] = Value::text("Kyiv");
            let row = Row::of(&values);
            let key = collection.schema.key_of(row.as_bytes(), 0);
            changes.push(RecordWrite::Put { key, row, changed: vec![3] });
        }
    }
    drop(scan);
    let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&changes) }];
    interface.stage(&mut writes, &stamp, None, &NoContents)?.commit()?;
    Ok(())
}
