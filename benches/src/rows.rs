//! Made-up tables: the same rows every time.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

/// The columns.
pub(crate) const HEADER: &str = "id,name,email,city,country,amount,updated,note";

/// How a file differs from the one of the same rows as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// In the order of the keys.
    Sorted,
    /// In an order that has nothing to do with the keys.
    Shuffled,
    /// A tenth of the rows stands at the end instead of the beginning.
    Moved,
    /// A tenth of the rows, in the middle, is missing.
    Cut,
}

/// A made-up table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) rows: u64,
    /// 3 or more; 8 are those of [`HEADER`].
    pub(crate) columns: usize,
    /// So many rows of a thousand have another amount and note.
    pub(crate) changed: u64,
    pub(crate) arrangement: Arrangement,
}

impl Table {
    /// As [`write`] makes it.
    pub(crate) fn new(rows: u64, columns: usize) -> Table {
        Table { rows, columns, changed: 0, arrangement: Arrangement::Sorted }
    }

    /// Writes it as CSV.
    pub(crate) fn write(self, path: &Path) -> io::Result<()> {
        let Table { rows, columns, changed, arrangement } = self;
        let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
        match columns {
            ..8 => writeln!(file, "id,amount,note")?,
            8 => writeln!(file, "{HEADER}")?,
            _ => {
                let more: Vec<String> = (9..=columns).map(|column| format!("c{column}")).collect();
                writeln!(file, "{HEADER},{}", more.join(","))?;
            }
        }
        let mut line = String::new();
        let mut put = |id: u64| {
            line.clear();
            let changed = mix(id) % 1000 < changed;
            match columns {
                ..8 => narrow_row(&mut line, id, changed),
                8 => row(&mut line, id, changed),
                _ => {
                    row(&mut line, id, changed);
                    line.pop();
                    for column in 9..=columns as u64 {
                        let _ = write!(line, ",{}", mix(id ^ column << 40) % 1_000_000);
                    }
                    line.push('\n');
                }
            }
            file.write_all(line.as_bytes())
        };
        let tenth = rows / 10;
        match arrangement {
            Arrangement::Sorted => (1..=rows).try_for_each(&mut put)?,
            Arrangement::Shuffled => {
                // A stride that has no divisor in common with the number of rows comes by each once.
                let stride =
                    (0..).map(|more| 2_654_435_761 % rows.max(2) + more).find(|stride| gcd(*stride, rows) == 1);
                let stride = stride.unwrap_or(1);
                (0..rows).try_for_each(|at| put(at * stride % rows + 1))?;
            }
            Arrangement::Moved => (tenth + 1..=rows).chain(1..=tenth).try_for_each(&mut put)?,
            Arrangement::Cut => (1..=4 * tenth).chain(5 * tenth + 1..=rows).try_for_each(&mut put)?,
        }
        file.flush()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn narrow_row(line: &mut String, id: u64, changed: bool) {
    let random = mix(id);
    let amount = if changed { random >> 33 } else { random >> 34 };
    let note = if changed { "seen again" } else { "first seen" };
    let _ = writeln!(line, "{id},{}.{:02},{note}", amount % 10_000, random % 100);
}

/// Writes `rows` rows of about 100 bytes; of a thousand rows, `changed` have another amount and note.
pub(crate) fn write(path: &Path, rows: u64, changed: u64) -> io::Result<()> {
    Table { changed, ..Table::new(rows, 8) }.write(path)
}

/// Appends one row.
pub(crate) fn row(line: &mut String, id: u64, changed: bool) {
    let random = mix(id);
    let city = ["Oslo", "Rome", "Kyiv", "São Paulo", "Nairobi", "Osaka", "Quito", "Perth"][(random >> 8) as usize % 8];
    let country = ["NO", "IT", "UA", "BR", "KE", "JP", "EC", "AU"][(random >> 8) as usize % 8];
    let amount = if changed { random >> 33 } else { random >> 34 };
    let note = if changed { "seen again" } else { "first seen" };
    let _ = writeln!(
        line,
        "{id},Person {},person{}@example.org,{city},{country},{}.{:02},2026-{:02}-{:02}T{:02}:{:02}:00Z,\"{note}, no. {}\"",
        random % 100_000,
        random % 1_000_003,
        amount % 10_000,
        random % 100,
        random % 12 + 1,
        random % 28 + 1,
        random % 24,
        random % 60,
        random % 977,
    );
}

/// Numbers that look random and are always the same (splitmix64).
pub(crate) fn mix(id: u64) -> u64 {
    let mut z = id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
