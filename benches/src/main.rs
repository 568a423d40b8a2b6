//! Benchmarks: deltabus beside what people use today, in one run, as ratios.
//!
//! Most figures are of a whole process, started anew: wall time and peak memory. Alternatives run under the same roof: tools
//! as they are installed, libraries in a process of this program (`alternative …`). What the bus alone does is measured through
//! the `bus` crate (`publish-step`, `bus-fan-out`, `joining`).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod alternatives;
mod apply;
mod fan_out;
mod feed;
mod growth;
mod join;
mod joining;
mod latency;
mod measure;
mod pipeline;
mod postgres;
mod publishing;
mod readers;
mod rewrite;
mod rows;
mod syncthing;
mod tables;
mod trees;
mod upserts;

#[derive(Parser)]
#[command(about = "deltabus beside the alternatives, in one run")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Differences of two CSV files beside the csv-diff crate, qsv, DuckDB and git; a re-scan beside the bare parse.
    Diff {
        /// How many rows.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        /// How many columns: 3, 8, or more.
        #[arg(long, default_value_t = 8)]
        columns: usize,
        /// How often each is run.
        #[arg(long, default_value_t = measure::RUNS)]
        runs: usize,
    },
    /// First load into SQLite beside `sqlite3 .import`.
    Load {
        /// How many rows.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
    },
    /// Publishing beside raw JetStream publishing of the same bytes.
    Publish {
        /// How many rows change.
        #[arg(long, default_value_t = 200_000)]
        rows: u64,
    },
    /// The publish step alone, without looking at a source and staging, beside raw JetStream publishing of the same bytes.
    PublishStep,
    /// From a change of the source file to its arrival in destinations.
    Latency {
        /// How many changes.
        #[arg(long, default_value_t = 1_000)]
        changes: u32,
        /// Beside another source that is transmitted on the same bus, as quick as it goes.
        #[arg(long)]
        load: bool,
    },
    /// The same alone, and beside a receiver that takes ten seconds a set and one that is frozen
    SlowReceivers {
        /// How many changes each time.
        #[arg(long, default_value_t = 100)]
        changes: u32,
    },
    /// Sets to many receivers beside plain NATS subscriptions to the same bytes.
    FanOut {
        /// How many receivers, one run for each number.
        #[arg(long, value_delimiter = ',', default_value = "1,8,64,512")]
        receivers: Vec<usize>,
        /// How many sets.
        #[arg(long, default_value_t = 100)]
        sets: u32,
        /// How many receivers in a process.
        #[arg(long, default_value_t = 64)]
        together: usize,
    },
    /// The same with readers that take sets from the bus and keep nothing: what the bus alone costs.
    BusFanOut {
        /// How many readers, one run for each number.
        #[arg(long, value_delimiter = ',', default_value = "1,8,64,512,2000")]
        readers: Vec<usize>,
        /// How many sets.
        #[arg(long, default_value_t = 200)]
        sets: u32,
        /// How many readers in a process.
        #[arg(long, default_value_t = 64)]
        together: usize,
        /// Each with a connection of its own, as if on as many machines.
        #[arg(long)]
        apart: bool,
        /// How large the text is that each set changes, in bytes.
        #[arg(long, default_value_t = 200)]
        bytes: usize,
        /// Sets a second where the machine is not to be full.
        #[arg(long, default_value_t = 25)]
        rate: u32,
    },
    /// Readers under full load while a receiver joins a large snapshot.
    Joining {
        /// How many rows the source has.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        /// How many readers.
        #[arg(long, default_value_t = 64)]
        readers: usize,
        /// Sets a second; 0: the next one once the former has arrived everywhere.
        #[arg(long, default_value_t = 0)]
        rate: u32,
    },
    /// Bytes on the bus for successive versions of a file beside `diff | zstd`.
    Versions {
        /// The versions, in order.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The key column.
        #[arg(long, default_value = "id")]
        key: String,
    },
    /// First load from PostgreSQL to PostgreSQL beside `COPY | COPY` and logical replication's initial sync.
    PostgresLoad {
        /// How many rows.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
    },
    /// Updates as pgbench makes them, at 1 and at 4 subscribers, beside logical replication: rows a second and lag.
    PostgresUpdates {
        /// How many rows the table has.
        #[arg(long, default_value_t = 100_000)]
        rows: u64,
        /// How long it is written, in seconds.
        #[arg(long, default_value_t = 15)]
        seconds: u32,
        /// Transactions a second; 0: as many as go.
        #[arg(long, default_value_t = 0)]
        rate: u32,
    },
    /// Sets at the destination, beside its bulk loader, a plain rewrite of the file, and upserts written by hand.
    Apply {
        /// How many rows the largest set brings.
        #[arg(long, default_value_t = 200_000)]
        rows: u64,
    },
    /// Joining by snapshot and tail beside the store's bulk load of the same rows.
    Join {
        /// How many rows.
        #[arg(long, default_value_t = 5_000_000)]
        rows: u64,
        /// How often each is run.
        #[arg(long, default_value_t = 1)]
        runs: usize,
        /// Which destinations.
        #[arg(long, value_delimiter = ',', default_value = "sqlite,postgres")]
        to: Vec<join::To>,
    },
    /// Directory trees beside rsync, unison and Syncthing.
    Trees {
        /// How many small files.
        #[arg(long, default_value_t = 20_000)]
        files: u32,
        /// How large the large one is, in MiB.
        #[arg(long, default_value_t = 256)]
        large: u32,
    },
    /// How the cost grows with rows, changes, fields, receivers and sources: plots, their figures, and straight lines through them.
    Growth {
        /// Where the plots and figures go.
        #[arg(long, default_value = "docs/growth")]
        folder: PathBuf,
        /// What grows.
        #[arg(long, value_delimiter = ',', default_value = "rows,changes,fields,receivers,sources")]
        axes: Vec<growth::Axis>,
        /// What all sizes are multiplied by; 0.05 is quick.
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// How often each point is measured.
        #[arg(long, default_value_t = 2)]
        runs: usize,
        /// Measure nothing: draw the figures that are in the folder.
        #[arg(long, conflicts_with_all = ["scale", "runs"])]
        draw: bool,
    },
    /// Is a process of readers; used by the other benchmarks.
    #[command(hide = true)]
    Readers {
        /// The state directory of the local bus.
        folder: PathBuf,
        /// How many.
        count: usize,
        /// What they subscribe to; empty: the log of `bench`.
        subject: String,
        /// Each by a connection of its own.
        #[arg(long)]
        apart: bool,
    },
    /// Runs an alternative in this process; used by the other benchmarks.
    #[command(hide = true)]
    Alternative {
        /// Which.
        name: String,
        /// Its files.
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().bench {
        Bench::Diff { rows, columns, runs } => tables::diff(rows, columns, runs),
        Bench::Load { rows } => tables::load(rows),
        Bench::Publish { rows } => pipeline::publish(rows),
        Bench::SlowReceivers { changes } => latency::beside_slow_receivers(changes),
        Bench::Latency { changes, load } => {
            latency::latency(changes, if load { latency::Beside::Load } else { latency::Beside::Nothing })
        }
        Bench::FanOut { receivers, sets, together } => fan_out::fan_out(&receivers, sets, together),
        Bench::BusFanOut { readers, sets, together, apart, bytes, rate } => {
            let crowds: Vec<_> = readers.iter().map(|&count| readers::Crowd { count, together, apart }).collect();
            fan_out::bus_fan_out(&crowds, sets, bytes, rate)
        }
        Bench::Joining { rows, readers, rate } => joining::joining(rows, readers, rate),
        Bench::PublishStep => publishing::publish_step(),
        Bench::Readers { folder, count, subject, apart } => readers::run(&folder, count, &subject, apart),
        Bench::Versions { files, key } => pipeline::versions(&files, &key),
        Bench::PostgresLoad { rows } => postgres::load(rows),
        Bench::PostgresUpdates { rows, seconds, rate } => postgres::updates(rows, seconds, rate),
        Bench::Apply { rows } => apply::apply(rows),
        Bench::Join { rows, runs, to } => join::join(rows, runs, &to),
        Bench::Trees { files, large } => trees::trees(files, large),
        Bench::Growth { folder, axes, scale, runs, draw } => {
            let measured = growth::Figures::Measured(growth::Effort { scale, runs });
            growth::growth(&folder, &axes, if draw { growth::Figures::Kept } else { measured })
        }
        Bench::Alternative { name, files } => alternatives::run(&name, &files),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
