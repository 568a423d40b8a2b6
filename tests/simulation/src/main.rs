//! Runs simulations from the command line.

use std::collections::BTreeSet;
use std::ops::Range;
use std::process::ExitCode;

use clap::Parser;
use deltabus_simulation::fault::Fault;
use deltabus_simulation::{Plan, Trace, campaign, run, shrink};

/// Runs the whole system from a seed, with all that can go wrong, and says whether anything was lost or done twice.
#[derive(Parser)]
#[command(name = "deltabus-simulate")]
struct Arguments {
    /// Run these seeds, the last one not among them.
    #[arg(long, value_name = "FIRST..END", value_parser = range, default_value = "0..1000")]
    seeds: Range<u64>,
    /// Run this one seed.
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Print what happens in it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Look for the smallest plan that still fails, and print its trace.
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Let only these faults happen, of those that the seed has; `none` for none.
    #[arg(long, value_name = "FAULT", value_delimiter = ',', value_parser = fault_or_none)]
    only: Option<Vec<Option<Fault>>>,
    /// Don't let these faults happen.
    #[arg(long, value_name = "FAULT", value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
    /// So many writes by users, instead of what the seed says.
    #[arg(long, value_name = "NUMBER")]
    edits: Option<u64>,
    /// So many of the seed's receivers.
    #[arg(long, value_name = "NUMBER")]
    receivers: Option<usize>,
    /// Two transmitters, one of which stands by.
    #[arg(long)]
    standby: bool,
    /// Seeds at a time; all processors unless told otherwise.
    #[arg(long, value_name = "NUMBER")]
    jobs: Option<usize>,
    /// Stop after so many seeds have failed.
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    failures: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let problems = match arguments.seed {
        Some(seed) => one(&arguments, seed),
        None => many(&arguments),
    };
    if problems { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs one seed; whether something is wrong.
fn one(arguments: &Arguments, seed: u64) -> bool {
    let mut plan = plan(arguments, seed);
    if arguments.shrink {
        plan = shrink(&plan, |plan| eprintln!("still fails: {}", plan.arguments()));
        println!("deltabus-simulate {} --trace", plan.arguments());
    }
    let traced = arguments.trace || arguments.shrink;
    let report = run(&plan, if traced { Trace::Print } else { Trace::No });
    for problem in &report.problems {
        println!("seed {seed}: {problem}");
    }
    if report.problems.is_empty() {
        println!("seed {seed}: all is well after {} s", report.seconds);
    }
    !report.problems.is_empty()
}

/// Runs many seeds; whether something is wrong in any of them.
fn many(arguments: &Arguments) -> bool {
    let jobs = arguments.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let count = arguments.seeds.end.saturating_sub(arguments.seeds.start);
    let step = (count / 20).max(1);
    let done = |seeds: u64| {
        if seeds.is_multiple_of(step) {
            eprintln!("{seeds} of {count}");
        }
    };
    let plans = |seed| plan(arguments, seed);
    let summary = campaign(arguments.seeds.clone(), jobs.unwrap_or(1), arguments.failures, plans, done);
    for (seed, problems) in &summary.failures {
        println!("seed {seed}: {}", problems.join("\n  "));
        println!("  deltabus-simulate {} --trace", plan(arguments, *seed).arguments());
    }
    summary.lines().iter().for_each(|line| println!("{line}"));
    !summary.failures.is_empty()
}

fn plan(arguments: &Arguments, seed: u64) -> Plan {
    let mut plan = Plan::of(seed);
    if let Some(only) = &arguments.only {
        let only: BTreeSet<Fault> = only.iter().copied().flatten().collect();
        plan.faults.retain(|fault| only.contains(fault));
    }
    plan.faults.retain(|fault| !arguments.without.contains(fault));
    if let Some(edits) = arguments.edits {
        plan.edits = edits;
    }
    plan.standby = arguments.standby;
    if let Some(receivers) = arguments.receivers {
        plan.receivers.truncate(receivers.max(1));
    }
    plan
}

fn fault(name: &str) -> Result<Fault, String> {
    let names = || Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
    Fault::named(name).ok_or_else(|| format!("there is no fault `{name}`; there are {}", names()))
}

fn fault_or_none(name: &str) -> Result<Option<Fault>, String> {
    if name == "none" { Ok(None) } else { fault(name).map(Some) }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("write FIRST..END")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(first)?..number(end)?)
}
