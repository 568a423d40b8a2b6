//! A catalogue that changes from version to version as real tables do: rows edited, added, taken out and moved, awkward
//! quoting, a column added and later filled.

/// How many versions there are.
pub const VERSIONS: u32 = 5;

/// Rows of the first version.
const ROWS: u64 = 3_000;

/// Version `version`, 1 to [`VERSIONS`], as CSV with the key `id`.
pub fn csv(version: u32) -> String {
    let wide = version >= 4;
    let mut text = String::from("id,name,kind,note,price");
    text.push_str(if wide { ",colour\n" } else { "\n" });
    let mut rows: Vec<String> = (1..=ROWS + u64::from(version) * 25)
        .filter(|id| !gone(*id, version))
        .map(|id| row(id, version, wide))
        .collect();
    if version >= 3 {
        // A block that wandered.
        let block: Vec<_> = rows.drain(100..140).collect();
        rows.splice(900..900, block);
    }
    text.push_str(&rows.concat());
    text
}

fn gone(id: u64, version: u32) -> bool {
    (2..=version).any(|v| mix(id, v).is_multiple_of(199))
}

fn row(id: u64, version: u32, wide: bool) -> String {
    // The last version that touched this row.
    let edited = (2..=version).rev().find(|v| mix(id, v + 100).is_multiple_of(97)).unwrap_or(1);
    let number = mix(id, edited + 200);
    let note = match number % 7 {
        0 => String::new(),
        1 => "\"quoted, with a comma\"".to_owned(),
        2 => "\"a \"\"word\"\" in quotes\"".to_owned(),
        3 => "\"two\nlines\"".to_owned(),
        4 => "Größe ½ – ok".to_owned(),
        _ => format!("plain {}", number % 1000),
    };
    let kind = ["tool", "part", "book", "toy"][(number % 4) as usize];
    let mut row = format!("{id},Item {id},{kind},{note},{}.{:02}", number % 500, number % 100);
    if wide {
        row.push_str(if id.is_multiple_of(3) { ",red" } else { "," });
    }
    row.push('\n');
    row
}

/// Numbers that look random and are always the same (splitmix64).
fn mix(id: u64, version: u32) -> u64 {
    let mut z = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(version) << 32);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
