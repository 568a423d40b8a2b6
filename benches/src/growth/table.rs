//! One source and one destination: rows, changes and fields.

use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::world::{Gathered, World};
use super::{Effort, Point};
use crate::measure::Result;
use crate::rows::{Table, mix};

/// The rows that the small set changes.
const CHANGED: u64 = 1_000;

const TRANSMIT: &str = "transmit bench csv:bench.csv?key=id --once -q";
const RECEIVE: &str = "receive bench sqlite:copy.db --name copy --once -q";

/// From 50,000 rows to 1,600,000.
pub(super) fn rows(effort: Effort) -> Result<Vec<Point>> {
    let tables = [1, 2, 4, 8, 12, 16, 24, 32].map(|times| {
        let rows = effort.scaled(times * 50_000);
        (rows, Table::new(rows, 8))
    });
    both(&tables, effort)
}

/// From 3 fields to 96.
pub(super) fn fields(effort: Effort) -> Result<Vec<Point>> {
    let rows = effort.scaled(100_000);
    both(&[3, 8, 16, 32, 48, 64, 96].map(|columns| (columns as u64, Table::new(rows, columns))), effort)
}

/// From 0.1 % of all rows to half of them.
pub(super) fn changes(effort: Effort) -> Result<Vec<Point>> {
    let rows = effort.scaled(400_000);
    let mut points = Gathered::default();
    let mut source = Source::new(Table::new(rows, 8))?;
    source.world.deltabus.run(TRANSMIT)?;
    source.world.deltabus.run(RECEIVE)?;
    for in_a_thousand in [1, 10, 50, 100, 175, 250, 375, 500] {
        let changed = (rows * in_a_thousand / 1000).max(1);
        source.change(changed)?;
        // Who starts reads what the log ended with once more, so the first set, which follows a smaller one, doesn't count; and the
        // last leaves the first version in place.
        for run in 0..(effort.runs + 1).next_multiple_of(2) {
            source.switch()?;
            let transmitted = source.world.step("one set", "transmitter", changed, TRANSMIT)?;
            let received = source.world.step("one set", "receiver", changed, RECEIVE)?;
            if run > 0 {
                points.add(transmitted);
                points.add(received);
            }
        }
    }
    Ok(points.0)
}

/// First loads of these tables, each with where it stands on the axis, and small sets after them.
fn both(tables: &[(u64, Table)], effort: Effort) -> Result<Vec<Point>> {
    let mut points = Gathered::default();
    for &(at, table) in tables {
        for _ in 0..effort.runs {
            let mut source = Source::new(table)?;
            points.add(source.world.step("first load", "transmitter", at, TRANSMIT)?);
            points.add(source.world.step("first load", "receiver", at, RECEIVE)?);
            source.change(CHANGED.min(table.rows))?;
            // There and back.
            for _ in 0..2 {
                source.switch()?;
                points.add(source.world.step("1,000 changes", "transmitter", at, TRANSMIT)?);
                points.add(source.world.step("1,000 changes", "receiver", at, RECEIVE)?);
            }
        }
    }
    Ok(points.0)
}

/// A source with two versions.
struct Source {
    world: World,
    rows: u64,
    versions: [PathBuf; 2],
    shown: usize,
}

impl Source {
    fn new(table: Table) -> Result<Source> {
        let world = World::new()?;
        let versions = ["before.csv", "after.csv"].map(|name| world.deltabus.path(name));
        table.write(&versions[0])?;
        fs::copy(&versions[0], world.deltabus.path("bench.csv"))?;
        Ok(Source { world, rows: table.rows, versions, shown: 0 })
    }

    /// Makes the second version one in which so many rows are changed; the first is the source's.
    fn change(&mut self, count: u64) -> Result<()> {
        assert_eq!(self.shown, 0, "the second version is in use");
        change(&self.versions[0], &self.versions[1], self.rows, count)
    }

    /// Gives the source its other version.
    fn switch(&mut self) -> Result<()> {
        self.shown = 1 - self.shown;
        fs::copy(&self.versions[self.shown], self.world.deltabus.path("bench.csv"))?;
        Ok(())
    }
}

/// Writes the table anew with one field changed in `count` of its rows, which lie anywhere in it.
fn change(before: &Path, after: &Path, rows: u64, count: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(after)?);
    // The table in `count` stretches, in each of which one row is changed.
    let first = |stretch: u64| (stretch * rows).div_ceil(count);
    // The header stands before the first row.
    for (line, text) in BufReader::with_capacity(1 << 20, fs::File::open(before)?).lines().enumerate() {
        let mut text = text?;
        if let Some(row) = (line as u64).checked_sub(1) {
            let stretch = row * count / rows;
            let (begin, end) = (first(stretch), first(stretch + 1));
            if row == begin + mix(stretch) % (end - begin) {
                text = text.replacen("first seen", "seen again", 1);
            }
        }
        writeln!(file, "{text}")?;
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rows_change_as_were_asked_for() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let [before, after] = ["before", "after"].map(|name| folder.path().join(name));
        for (rows, count, columns) in [(1000, 1000, 3), (1000, 500, 8), (1000, 375, 8), (1000, 1, 20), (7, 3, 8)] {
            Table::new(rows, columns).write(&before).expect("it can be written");
            change(&before, &after, rows, count).expect("it can be written");
            let [before, after] = [&before, &after].map(|path| fs::read_to_string(path).expect("it can be read"));
            let changed = before.lines().zip(after.lines()).filter(|(before, after)| before != after).count();
            assert_eq!((changed as u64, before.lines().count()), (count, after.lines().count()), "{rows} {count}");
        }
    }
}
