//! Many seeds, on all processors.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault::{Fault, Tally};
use crate::plan::Plan;
use crate::run::{Report, Trace, run};
use crate::world::lock;

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many seeds were run.
    pub seeds: u64,
    /// Figures of all of them together.
    pub total: Report,
    /// The seeds that failed, with what was wrong.
    pub failures: Vec<(u64, Vec<String>)>,
}

/// Runs all `seeds` with the plans that `plan` makes, in `jobs` threads, until `failures_max` have failed. Each run has a
/// thread to itself: how many there are changes nothing in it.
pub fn campaign(
    seeds: Range<u64>,
    jobs: usize,
    failures_max: usize,
    plan: impl Fn(u64) -> Plan + Sync,
    done: impl Fn(u64) + Sync,
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || lock(&summary).failures.len() >= failures_max {
                        return;
                    }
                    let report = run(&plan(seed), Trace::No);
                    let count = lock(&summary).take(seed, report);
                    done(count);
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_default();
    summary.failures.sort();
    summary
}

impl Summary {
    fn take(&mut self, seed: u64, report: Report) -> u64 {
        self.seeds += 1;
        let total = &mut self.total;
        total.faults.add(&report.faults);
        total.writes += report.writes;
        total.edits += report.edits;
        total.excused += report.excused;
        total.sets += report.sets;
        total.verdicts += report.verdicts;
        total.conflicts += report.conflicts;
        total.refused += report.refused;
        total.seconds += report.seconds;
        if !report.problems.is_empty() {
            self.failures.push((seed, report.problems));
        }
        self.seeds
    }

    /// The figures, a line each.
    pub fn lines(&self) -> Vec<String> {
        let total = &self.total;
        let found = |what: &str| {
            self.failures.iter().flat_map(|(_, problems)| problems).filter(|p| p.starts_with(what)).count()
        };
        let mut lines = vec![
            format!("seeds: {}, simulated time: {} h", self.seeds, total.seconds / 3600),
            format!("writes by users: {}, change sets: {}", total.writes, total.sets),
            format!(
                "edits and deletes at destinations: {}; answered {}, of these conflicts {}, dead letters {}",
                total.edits, total.verdicts, total.conflicts, total.refused
            ),
            format!(
                "lost: {}, twice: {}, gone with a receiver's state before they were sent: {}",
                found("lost:"),
                found("twice:"),
                total.excused
            ),
            format!("faults: {}", total.faults.total()),
        ];
        lines.extend(faults(&total.faults));
        lines.push(format!("failing seeds: {}", self.failures.len()));
        lines
    }
}

/// Each kind of fault and how often it happened.
fn faults(tally: &Tally) -> Vec<String> {
    let kinds: Vec<_> = Fault::ALL.iter().map(|fault| format!("{} {}", fault.name(), tally.of(*fault))).collect();
    kinds.chunks(5).map(|kinds| format!("  {}", kinds.join(", "))).collect()
}
