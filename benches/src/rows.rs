//! Made-up tables: the same rows every time.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

/// The columns.
pub(crate) const HEADER: &str = "id,name,email,city,country,amount,updated,note";

/// Writes `rows` rows of about 100 bytes; of a thousand rows, `changed` have another amount and note.
pub(crate) fn write(path: &Path, rows: u64, changed: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    writeln!(file, "{HEADER}")?;
    let mut line = String::new();
    for id in 1..=rows {
        line.clear();
        row(&mut line, id, mix(id) % 1000 < changed);
        file.write_all(line.as_bytes())?;
    }
    file.flush()
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
