//! The libraries that deltabus is measured beside, as a careful user would call them.

use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;

use csv_diff::csv::Csv;
use csv_diff::csv_diff::CsvByteDiffLocal;

use crate::measure::Result;
use crate::{rewrite, upserts};

/// Runs one by name.
pub(crate) fn run(name: &str, files: &[PathBuf]) -> Result<()> {
    match (name, files) {
        ("csv-diff", [a, b]) => {
            let (a, b) = (std::fs::read(a)?, std::fs::read(b)?);
            let diff = CsvByteDiffLocal::new()?;
            let left = Csv::with_reader_seek(Cursor::new(a.as_slice()));
            let right = Csv::with_reader_seek(Cursor::new(b.as_slice()));
            let records = diff.diff(left, right)?;
            println!("{}", records.as_slice().len());
            Ok(())
        }
        ("csv-parse", files) => {
            let mut record = csv::ByteRecord::new();
            let mut rows = 0u64;
            for file in files {
                let mut reader = csv::ReaderBuilder::new().buffer_capacity(1 << 20).from_reader(File::open(file)?);
                while reader.read_byte_record(&mut record)? {
                    rows += 1;
                }
            }
            println!("{rows}");
            Ok(())
        }
        // Until it is ended.
        ("compute", []) => loop {
            std::hint::black_box(crate::rows::mix(std::hint::black_box(1)));
        },
        ("write-csv", [source, target]) => rewrite::write_csv(source, target),
        ("write-json", [source, target]) => rewrite::write_json(source, target),
        ("write-ndjson", [source, target]) => rewrite::write_ndjson(source, target),
        ("rewrite-csv", [target, delta]) => rewrite::rewrite_csv(target, delta),
        ("rewrite-json", [target, delta]) => rewrite::rewrite_json(target, delta),
        ("rewrite-ndjson", [target, delta]) => rewrite::rewrite_ndjson(target, delta),
        ("upsert-sqlite", [database, delta]) => upserts::sqlite(database, delta),
        ("upsert-postgres", [socket, database, delta]) => upserts::postgres(socket, database, delta),
        _ => Err(format!("there is no alternative `{name}` for {} files", files.len()).into()),
    }
}
