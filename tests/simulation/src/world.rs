//! What all parts of a run share: its time, its dice, its trace, and its faults.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deltabus_bus::Clock;
use tokio::time::Instant;

use crate::dice::Dice;
use crate::fault::{Fault, Occurs, Tally};
use crate::plan::Plan;
use crate::run::Trace;
use crate::users::COMMON_KEYS;

/// When every run begins: 2023-11-14T22:13:20Z, in milliseconds.
const BEGINNING_MILLIS: u64 = 1_700_000_000_000;

/// Locks; whoever dies in the middle of something is what a run is about.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One run's surroundings.
pub(crate) struct World {
    pub(crate) plan: Plan,
    traced: Trace,
    began: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    dice: Vec<Dice>,
    delays: Dice,
    values: u64,
    clocks: Dice,
    tally: Tally,
    storm: bool,
    trace: Vec<String>,
    problems: Vec<String>,
}

impl World {
    /// The surroundings of a run; its time begins now.
    pub(crate) fn new(plan: Plan, traced: Trace) -> Arc<World> {
        let inner = Inner {
            dice: Fault::ALL.iter().map(|fault| Dice::for_purpose(plan.seed, fault.name())).collect(),
            delays: Dice::for_purpose(plan.seed, "delays"),
            // Below are the keys that come again and again.
            values: COMMON_KEYS,
            clocks: Dice::for_purpose(plan.seed, "clocks"),
            tally: Tally::default(),
            storm: true,
            trace: Vec::new(),
            problems: Vec::new(),
        };
        Arc::new(World { plan, traced, began: Instant::now(), inner: Mutex::new(inner) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// How long the run has been going on, in milliseconds.
    pub(crate) fn millis(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Dice for a purpose of their own.
    pub(crate) fn dice(&self, purpose: &str) -> Dice {
        Dice::for_purpose(self.plan.seed, purpose)
    }

    /// Writes a line of the trace.
    pub(crate) fn note<T: Display>(&self, who: &str, what: impl FnOnce() -> T) {
        if self.traced == Trace::No {
            return;
        }
        let millis = self.millis();
        let line = format!("{:>4}.{:03}  {who:<10} {}", millis / 1000, millis % 1000, what());
        match self.traced {
            Trace::Print => println!("{line}"),
            _ => self.inner().trace.push(line),
        }
    }

    /// Whether a fault befalls this call of `who`.
    pub(crate) fn strikes(&self, fault: Fault, who: &str) -> bool {
        let struck = {
            let mut inner = self.inner();
            let Occurs::Call(often) = fault.occurs() else { return false };
            let struck = inner.storm && self.plan.faults.contains(&fault) && inner.dice[fault as usize].once_in(often);
            if struck {
                inner.tally.count(fault);
            }
            struck
        };
        if struck {
            self.note(who, || format!("!! {}", fault.name()));
        }
        struck
    }

    /// Counts and tells a fault that comes by itself.
    pub(crate) fn befalls(&self, fault: Fault, who: &str) {
        self.inner().tally.count(fault);
        self.note(who, || format!("!! {}", fault.name()));
    }

    /// From `0` to `end - 1`, of a fault's own dice.
    pub(crate) fn below(&self, fault: Fault, end: u64) -> u64 {
        self.inner().dice[fault as usize].below(end)
    }

    /// How long a call takes: some milliseconds.
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.inner().delays.between(1, 12))
    }

    /// A number that no other is equal to.
    pub(crate) fn fresh(&self) -> u64 {
        let mut inner = self.inner();
        inner.values += 1;
        inner.values
    }

    /// Whether things go wrong now.
    pub(crate) fn storms(&self) -> bool {
        self.inner().storm
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm(&self) {
        self.inner().storm = false;
        self.note("world", || "the storm is over");
    }

    /// Something is as it must not be.
    pub(crate) fn problem(&self, problem: impl Into<String>) {
        let problem = problem.into();
        self.note("world", || format!("PROBLEM: {problem}"));
        let mut inner = self.inner();
        if !inner.problems.contains(&problem) {
            inner.problems.push(problem);
        }
    }

    /// What was wrong so far.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.inner().problems.clone()
    }

    /// What went wrong so far.
    pub(crate) fn tally(&self) -> Tally {
        self.inner().tally.clone()
    }

    /// The trace so far.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.inner().trace.clone()
    }
}

/// A process's clock: the run's time, as wrong as it may be.
pub(crate) struct SkewedClock {
    pub(crate) world: Arc<World>,
    pub(crate) skew_millis: Arc<Mutex<i64>>,
}

impl Clock for SkewedClock {
    fn now_millis(&self) -> u64 {
        (BEGINNING_MILLIS + self.world.millis()).saturating_add_signed(*lock(&self.skew_millis))
    }

    fn fresh(&self) -> u64 {
        self.world.inner().clocks.bits()
    }
}
