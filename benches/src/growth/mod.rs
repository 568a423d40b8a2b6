//! How the cost of what deltabus does grows with rows, changes, fields, receivers and sources: figures, straight lines through
//! them, and plots.

use std::fs;
use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::measure::Result;
use line::Line;

mod crowd;
mod line;
mod plot;
mod table;
mod world;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Axis {
    /// The rows of a source.
    Rows,
    /// The rows that one set changes.
    Changes,
    /// The fields of a record.
    Fields,
    /// Who receives a source.
    Receivers,
    /// The sources of one process.
    Sources,
}

/// How an axis is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// What the sizes are multiplied by; 1: as in the documentation.
    pub(crate) scale: f64,
    /// How often each point is measured; the least counts, of memory the most.
    pub(crate) runs: usize,
}

impl Effort {
    /// So many rows, or what else a size is, at this scale; at least one.
    fn scaled(self, full: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(1)
    }
}

impl Axis {
    /// As its files are called.
    fn name(self) -> &'static str {
        match self {
            Axis::Rows => "rows",
            Axis::Changes => "changes",
            Axis::Fields => "fields",
            Axis::Receivers => "receivers",
            Axis::Sources => "sources",
        }
    }

    /// What is counted along it.
    fn of(self) -> &'static str {
        match self {
            Axis::Changes => "changed rows",
            axis => axis.name(),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Axis::Rows => "Rows of a source: first load into SQLite, then one set of 1,000 changed rows",
            Axis::Changes => "Rows that one set changes, of 400,000, into SQLite",
            Axis::Fields => "Fields of 100,000 records: first load into SQLite, then one set of 1,000 changed rows",
            Axis::Receivers => "Receivers of one source, each with a CSV file: first load, then 10 sets, one a second",
            Axis::Sources => {
                "Sources of 5,000 rows in one process, into CSV files: first load, then 100 changes of each"
            }
        }
    }

    /// What a line's slope is told for, and how many that is.
    fn unit(self) -> (&'static str, f64) {
        match self {
            Axis::Rows => ("100,000 rows", 1e5),
            Axis::Changes => ("10,000 changed rows", 1e4),
            Axis::Fields => ("field", 1.0),
            Axis::Receivers => ("receiver", 1.0),
            Axis::Sources => ("source", 1.0),
        }
    }

    fn measure(self, effort: Effort) -> Result<Vec<Point>> {
        match self {
            Axis::Rows => table::rows(effort),
            Axis::Changes => table::changes(effort),
            Axis::Fields => table::fields(effort),
            Axis::Receivers => crowd::receivers(effort),
            Axis::Sources => crowd::sources(effort),
        }
    }
}

/// What a stage took one side at one size; a line of the files beside the plots.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Point {
    stage: String,
    who: String,
    at: u64,
    #[serde(rename = "wall_seconds")]
    seconds: Option<f64>,
    cpu_seconds: Option<f64>,
    /// Of several processes: of all together.
    peak_mib: Option<f64>,
    /// Messages with their headers, into the broker and out of it, as the broker counts them.
    wire_bytes: Option<f64>,
    broker_cpu_seconds: Option<f64>,
}

/// The quantities that are plotted.
const QUANTITIES: [Quantity; 5] = [
    Quantity { name: "processor time", unit: Unit::Seconds, of: |point| point.cpu_seconds },
    Quantity { name: "wall time", unit: Unit::Seconds, of: |point| point.seconds },
    Quantity { name: "peak memory", unit: Unit::Mebibytes, of: |point| point.peak_mib },
    Quantity { name: "bytes on the wire", unit: Unit::Bytes, of: |point| point.wire_bytes },
    Quantity { name: "broker's processor time", unit: Unit::Seconds, of: |point| point.broker_cpu_seconds },
];

struct Quantity {
    name: &'static str,
    unit: Unit,
    of: fn(&Point) -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Mebibytes,
    Bytes,
}

impl Unit {
    /// The unit that values of this size are read in, and how many of it one is.
    fn for_size(self, largest: f64) -> (&'static str, f64) {
        match self {
            Unit::Seconds if largest >= 1.0 => ("s", 1.0),
            Unit::Seconds if largest >= 1e-3 => ("ms", 1e3),
            Unit::Seconds => ("µs", 1e6),
            Unit::Mebibytes if largest >= 1.0 => ("MiB", 1.0),
            Unit::Mebibytes => ("KiB", 1024.0),
            Unit::Bytes if largest >= 1e6 => ("MB", 1e-6),
            Unit::Bytes if largest >= 1e3 => ("kB", 1e-3),
            Unit::Bytes => ("B", 1.0),
        }
    }

    fn show(self, value: f64) -> String {
        let (unit, many) = self.for_size(value.abs());
        let value = value * many;
        let digits = match value.abs() {
            100.0.. => 0,
            10.0.. => 1,
            _ => 2,
        };
        format!("{value:.digits$} {unit}")
    }
}

/// Measures along each of `axes`, or takes the figures of an earlier run, draws, and prints the lines.
pub(crate) fn growth(folder: &Path, axes: &[Axis], figures: Figures) -> Result<()> {
    fs::create_dir_all(folder)?;
    for &axis in axes {
        let table = folder.join(axis.name()).with_extension("csv");
        let points = match figures {
            Figures::Measured(effort) => {
                let points = axis.measure(effort)?;
                write(&table, &points)?;
                points
            }
            Figures::Kept => csv::Reader::from_path(&table)?.deserialize().collect::<csv::Result<_>>()?,
        };
        plot::draw(&folder.join(axis.name()).with_extension("svg"), axis, &points)?;
        print(axis, &points);
    }
    Ok(())
}

/// Where the figures come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Figures {
    /// From this run.
    Measured(Effort),
    /// From the files of an earlier one.
    Kept,
}

fn write(table: &Path, points: &[Point]) -> Result<()> {
    let mut file = csv::Writer::from_path(table)?;
    for point in points {
        file.serialize(point)?;
    }
    Ok(file.flush()?)
}

/// What is there more than once, in the order in which it comes first.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

fn stages(points: &[Point]) -> Vec<&str> {
    distinct(points.iter().map(|point| point.stage.as_str()))
}

fn sides(points: &[Point]) -> Vec<&str> {
    distinct(points.iter().map(|point| point.who.as_str()))
}

/// The values of one quantity by size.
fn values(points: &[Point], stage: &str, who: &str, quantity: &Quantity) -> Vec<(f64, f64)> {
    let of_both = points.iter().filter(|point| point.stage == stage && point.who == who);
    of_both.filter_map(|point| Some((point.at as f64, (quantity.of)(point)?))).collect()
}

/// The lines of least squares, as a table in Markdown: slope, R², and how far the farthest point is from the line, as a part of
/// the largest value.
fn print(axis: Axis, points: &[Point]) {
    let (unit, many) = axis.unit();
    let sides = sides(points);
    println!("\n{}\n\n| for each {unit} | {} |\n|---|{}", axis.title(), sides.join(" | "), "---|".repeat(sides.len()));
    for stage in stages(points) {
        for quantity in &QUANTITIES {
            let cells = sides.iter().map(|who| {
                let values = values(points, stage, who, quantity);
                let most = values.iter().map(|(_, y)| *y).fold(0.0, f64::max);
                Line::through(&values).map_or(String::new(), |line| {
                    let (slope, farthest) = (quantity.unit.show(line.slope * many), line.farthest / most * 100.0);
                    format!("{slope} ({:.3}, {farthest:.0} %)", line.r_squared)
                })
            });
            println!("| {stage}: {} | {} |", quantity.name, cells.collect::<Vec<_>>().join(" | "));
        }
    }
}
