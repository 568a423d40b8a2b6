//! Many seeds, exact replay, and planted defects: the simulation finds what it is for.

use std::ops::Range;

use deltabus_simulation::{Plan, Planted, Trace, campaign, run};

/// The seeds of the test command, unless `DELTABUS_SEEDS=A..B` says otherwise.
const SEEDS: Range<u64> = 0..2000;

/// How many seeds may fail before the rest isn't run.
const FAILURES_MAX: usize = 10;

/// Seeds beyond those that found something which is mended since; RELIABILITY.md tells what.
const MENDED: &[u64] = &[
    2257, 2478, 2725, 2877, 3099, 3351, 3355, 3568, 3931, 4167, 4439, 4783, 4955, 5012, 5528, 5908, 5981, 7757, 8022,
    8248, 8384, 8779, 8891, 9154, 9748, 10193,
];

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("DELTABUS_SEEDS") else { return SEEDS };
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("DELTABUS_SEEDS={text} is no range A..B"));
    let (first, end) = text.split_once("..").unwrap_or_else(|| panic!("DELTABUS_SEEDS={text} is no range A..B"));
    number(first)..number(end)
}

#[test]
fn nothing_is_lost_nothing_is_done_twice_and_all_become_equal() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = campaign(seeds(), jobs, FAILURES_MAX, Plan::of, |_| {});
    summary.lines().iter().for_each(|line| println!("{line}"));
    let shown: Vec<_> = summary
        .failures
        .iter()
        .map(|(seed, problems)| {
            format!("deltabus-simulate {} --trace\n  {}", Plan::of(*seed).arguments(), problems.join("\n  "))
        })
        .collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
    assert!(summary.total.edits > 0 && summary.total.faults.total() > 0, "the simulation did nothing");
}

#[test]
fn what_failed_once_passes() {
    for seed in MENDED {
        assert_eq!(run(&Plan::of(*seed), Trace::No).problems, [""; 0], "seed {seed}");
    }
}

#[test]
fn a_seed_replays_to_the_letter() {
    for seed in [3, 17, 255] {
        let (first, second) = (run(&Plan::of(seed), Trace::Keep), run(&Plan::of(seed), Trace::Keep));
        assert!(first.trace.len() > 50, "seed {seed} does something");
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}

/// How many seeds a planted defect may take to be found.
const PLANTED_SEEDS: u64 = 60;

#[test]
fn planted_defects_are_found() {
    for planted in [Planted::SkippedWrite, Planted::HalfWrite, Planted::DoubleWrite, Planted::LostEdit] {
        let defective = |seed| Plan { planted: Some(planted), ..Plan::of(seed) };
        let found = (0..PLANTED_SEEDS).find(|seed| !run(&defective(*seed), Trace::No).problems.is_empty());
        assert!(found.is_some(), "{planted:?} was not noticed by {PLANTED_SEEDS} seeds");
    }
}
