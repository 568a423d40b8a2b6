//! Files written plainly with the csv and serde_json crates: beside the old one, synced, and renamed into its place.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::measure::Result;

/// One made-up row.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    id: String,
    name: String,
    email: String,
    city: String,
    country: String,
    amount: String,
    updated: String,
    note: String,
}

type Out = BufWriter<File>;

const BUFFER_BYTES: usize = 1 << 20;

fn replace(target: &Path, write: impl FnOnce(&mut Out) -> Result<()>) -> Result<()> {
    let new = target.with_extension("new");
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, File::create(&new)?);
    write(&mut out)?;
    out.into_inner()?.sync_all()?;
    fs::rename(new, target)?;
    // The folder has the name.
    Ok(File::open(target.parent().unwrap_or(Path::new(".")))?.sync_all()?)
}

fn csv_rows(path: &Path) -> Result<csv::Reader<File>> {
    Ok(csv::ReaderBuilder::new().buffer_capacity(BUFFER_BYTES).from_reader(File::open(path)?))
}

fn changes(delta: &Path) -> Result<HashMap<String, Row>> {
    csv_rows(delta)?.deserialize().map(|row| row.map(|row: Row| (row.id.clone(), row)).map_err(Into::into)).collect()
}

fn put_json<'a>(out: &mut Out, rows: impl Iterator<Item = Result<std::borrow::Cow<'a, Row>>>) -> Result<()> {
    out.write_all(b"[")?;
    for (at, row) in rows.enumerate() {
        out.write_all(if at == 0 { b"\n  " } else { b",\n  " })?;
        serde_json::to_writer(&mut *out, &*row?)?;
    }
    Ok(out.write_all(b"\n]\n")?)
}

pub(crate) fn write_csv(source: &Path, target: &Path) -> Result<()> {
    let mut rows = csv_rows(source)?;
    replace(target, |out| {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_byte_record(rows.byte_headers()?)?;
        let mut record = csv::ByteRecord::new();
        while rows.read_byte_record(&mut record)? {
            writer.write_byte_record(&record)?;
        }
        Ok(writer.flush()?)
    })
}

pub(crate) fn write_json(source: &Path, target: &Path) -> Result<()> {
    let mut rows = csv_rows(source)?;
    let rows = rows.deserialize::<Row>().map(|row| Ok(std::borrow::Cow::Owned(row?)));
    replace(target, |out| put_json(out, rows))
}

pub(crate) fn write_ndjson(source: &Path, target: &Path) -> Result<()> {
    let mut rows = csv_rows(source)?;
    replace(target, |out| {
        for row in rows.deserialize::<Row>() {
            serde_json::to_writer(&mut *out, &row?)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

pub(crate) fn rewrite_csv(target: &Path, delta: &Path) -> Result<()> {
    let mut changes: HashMap<Vec<u8>, csv::ByteRecord> = HashMap::new();
    for row in csv_rows(delta)?.byte_records() {
        // The set's number stands first.
        let row: csv::ByteRecord = row?.iter().skip(1).collect();
        changes.insert(row[0].to_vec(), row);
    }
    let mut rows = csv_rows(target)?;
    replace(target, |out| {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_byte_record(rows.byte_headers()?)?;
        let mut record = csv::ByteRecord::new();
        while rows.read_byte_record(&mut record)? {
            writer.write_byte_record(changes.get(&record[0]).unwrap_or(&record))?;
        }
        Ok(writer.flush()?)
    })
}

pub(crate) fn rewrite_json(target: &Path, delta: &Path) -> Result<()> {
    let changes = changes(delta)?;
    let rows: Vec<Row> = serde_json::from_slice(&fs::read(target)?)?;
    let rows = rows.iter().map(|row| Ok(std::borrow::Cow::Borrowed(changes.get(&row.id).unwrap_or(row))));
    replace(target, |out| put_json(out, rows))
}

pub(crate) fn rewrite_ndjson(target: &Path, delta: &Path) -> Result<()> {
    let changes = changes(delta)?;
    let mut lines = BufReader::with_capacity(BUFFER_BYTES, File::open(target)?);
    replace(target, |out| {
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            let row: Row = serde_json::from_str(&line)?;
            match changes.get(&row.id) {
                Some(row) => {
                    serde_json::to_writer(&mut *out, row)?;
                    out.write_all(b"\n")?;
                }
                None => out.write_all(line.as_bytes())?,
            }
            line.clear();
        }
        Ok(())
    })
}
