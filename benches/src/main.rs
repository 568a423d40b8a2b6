//! Benchmarks: deltabus beside what people use today, in one run, as ratios.
//!
//! Each figure is of a whole process, started anew: wall time and peak memory. Alternatives run under the same roof: tools
//! as they are installed, libraries in a process of this program (`alternative …`).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod alternatives;
mod apply;
mod fan_out;
mod join;
mod latency;
mod measure;
mod pipeline;
mod postgres;
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
    /// From a change of the source file to its arrival in a destination.
    Latency {
        /// How many changes.
        #[arg(long, default_value_t = 200)]
        changes: u32,
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
        Bench::Diff { rows, columns } => tables::diff(rows, columns),
        Bench::Load { rows } => tables::load(rows),
        Bench::Publish { rows } => pipeline::publish(rows),
        Bench::SlowReceivers { changes } => latency::beside_slow_receivers(changes),
        Bench::Latency { changes } => latency::latency(changes),
        Bench::FanOut { receivers, sets } => fan_out::fan_out(&receivers, sets),
        Bench::Versions { files, key } => pipeline::versions(&files, &key),
        Bench::PostgresLoad { rows } => postgres::load(rows),
        Bench::PostgresUpdates { rows, seconds, rate } => postgres::updates(rows, seconds, rate),
        Bench::Apply { rows } => apply::apply(rows),
        Bench::Join { rows, runs, to } => join::join(rows, runs, &to),
        Bench::Trees { files, large } => trees::trees(files, large),
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
