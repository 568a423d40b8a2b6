//! The libraries that deltabus is measured beside, as a careful user would call them.

use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;

use csv_diff::csv::Csv;
use csv_diff::csv_diff::CsvByteDiffLocal;

use crate::measure::Result;

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
        _ => Err(format!("there is no alternative `{name}` for {} files", files.len()).into()),
    }
}
