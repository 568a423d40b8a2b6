//! Benchmarks: deltabus beside what people use today, in one run, as ratios.
//!
//! Each figure is of a whole process, started anew: wall time and peak memory. Alternatives run under the same roof: tools
//! as they are installed, libraries in a process of this program (`alternative …`).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod alternatives;
mod latency;
mod measure;
mod pipeline;
mod rows;
mod tables;

#[derive(Parser)]
#[command(about = "deltabus beside the alternatives, in one run")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Differences of two CSV files beside the csv-diff crate and qsv; a re-scan beside the bare parse.
    Diff {
        /// How many rows.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
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
    /// Bytes on the bus for successive versions of a file beside `diff | zstd`.
    Versions {
        /// The versions, in order.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The key column.
        #[arg(long, default_value = "id")]
        key: String,
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
        Bench::Diff { rows } => tables::diff(rows),
        Bench::Load { rows } => tables::load(rows),
        Bench::Publish { rows } => pipeline::publish(rows),
        Bench::Latency { changes } => latency::latency(changes),
        Bench::Versions { files, key } => pipeline::versions(&files, &key),
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
