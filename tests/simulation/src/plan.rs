//! What a seed decides before anything happens.

use std::collections::BTreeSet;

use deltabus_record::change::ConflictPolicy;

use crate::dice::Dice;
use crate::fault::Fault;

/// The most receivers that a plan has.
pub const RECEIVERS_MAX: usize = 3;

/// A run, but for what happens by chance in it. Everything else follows from the seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What may go wrong.
    pub faults: BTreeSet<Fault>,
    /// How many times users write something.
    pub edits: u64,
    /// How long things go wrong and users write, in seconds.
    pub seconds: u64,
    /// The source's store.
    pub source: ShelfKind,
    /// Who decides conflicts.
    pub policy: ConflictPolicy,
    /// The destinations.
    pub receivers: Vec<ReceiverPlan>,
    /// Whether fields, tables and keys change too, beside values.
    pub shape: Shape,
    /// Whether there are two transmitters from the beginning, one of which stands by.
    pub standby: bool,
    /// A defect to be found, for tests.
    pub planted: Option<Planted>,
}

/// One receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceiverPlan {
    /// Its name.
    pub name: &'static str,
    /// Its destination.
    pub kind: ShelfKind,
    /// Whether edits made there go back.
    pub reverse: bool,
    /// When it is first started, in seconds.
    pub starts: u64,
}

/// How a store works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShelfKind {
    /// Data and mark are written in one transaction, as databases do.
    pub transactional: bool,
    /// It holds one table whatever its name, as files do.
    pub single: bool,
    /// It notifies of changes.
    pub notifies: bool,
    /// It has absent values, as JSON has.
    pub absent: bool,
}

/// What users change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Values and records.
    Records,
    /// Also fields and tables.
    Schemas,
}

/// A defect that a simulation has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A destination says that it has written and has not, once in a while.
    SkippedWrite,
    /// A source takes what is to be written and writes half of it.
    HalfWrite,
    /// A destination without keys writes each new row twice.
    DoubleWrite,
    /// Edits made at a destination are put back before anybody has seen them.
    LostEdit,
}

const NAMES: [&str; RECEIVERS_MAX] = ["oslo", "bergen", "turku"];

/// What takes the log's memory.
const LOG_LOSSES: [Fault; 2] = [Fault::LoseLog, Fault::LoseEnd];

/// What takes the transmitter's memory, or lets another go on without it.
const TRANSMITTER_LOSSES: [Fault; 3] = [Fault::LoseTransmitter, Fault::OldTransmitter, Fault::SecondTransmitter];

impl Plan {
    /// What the seed says.
    pub fn of(seed: u64) -> Plan {
        let mut dice = Dice::for_purpose(seed, "plan");
        // Some seeds have a few kinds of faults only, so that each is seen without the noise of the others.
        let part = [0, 10, 25, 50, 80, 100][dice.below(6) as usize];
        let mut faults: BTreeSet<Fault> = Fault::ALL.iter().copied().filter(|_| dice.percent(part)).collect();
        // Who loses the log and what the transmitter knew of it can't have kept the numbers: rarely both.
        if !dice.once_in(10) {
            let losses: &[Fault] = if dice.percent(50) { &LOG_LOSSES } else { &TRANSMITTER_LOSSES };
            faults.retain(|fault| !losses.contains(fault));
        }
        let single = dice.percent(35);
        let source = ShelfKind::draw(&mut dice, single);
        let count = 1 + dice.below(RECEIVERS_MAX as u64) as usize;
        let receivers = NAMES[..count].iter().map(|name| ReceiverPlan {
            name,
            kind: {
                let single = single && dice.percent(70);
                ShelfKind::draw(&mut dice, single)
            },
            reverse: dice.percent(65),
            starts: if dice.percent(70) { 0 } else { dice.below(60) },
        });
        let receivers: Vec<_> = receivers.collect();
        let policies =
            [ConflictPolicy::Source, ConflictPolicy::Source, ConflictPolicy::Receiver, ConflictPolicy::Latest];
        Plan {
            seed,
            faults,
            edits: dice.between(5, 60),
            seconds: dice.between(20, 180),
            source,
            policy: policies[dice.below(policies.len() as u64) as usize],
            receivers,
            shape: if dice.percent(50) { Shape::Schemas } else { Shape::Records },
            standby: false,
            planted: None,
        }
    }

    /// The arguments of `deltabus-simulate` that give this plan.
    pub fn arguments(&self) -> String {
        let whole = Plan::of(self.seed);
        let mut arguments = format!("--seed {}", self.seed);
        if self.faults != whole.faults {
            let names: Vec<_> = self.faults.iter().map(|fault| fault.name()).collect();
            arguments += &format!(" --only {}", if names.is_empty() { "none".into() } else { names.join(",") });
        }
        if self.edits != whole.edits {
            arguments += &format!(" --edits {}", self.edits);
        }
        if self.receivers.len() != whole.receivers.len() {
            arguments += &format!(" --receivers {}", self.receivers.len());
        }
        if self.standby {
            arguments += " --standby";
        }
        arguments
    }

    /// Whether a number may come to name another state: the log and what the transmitter knew of it are both lost. What
    /// only expires was stored before, and is counted.
    pub fn forgets_numbers(&self) -> bool {
        let has = |losses: &[Fault]| losses.iter().any(|fault| self.faults.contains(fault));
        has(&LOG_LOSSES) && (self.standby || has(&TRANSMITTER_LOSSES))
    }
}

impl ShelfKind {
    fn draw(dice: &mut Dice, single: bool) -> ShelfKind {
        let transactional = !single && dice.percent(60);
        ShelfKind { transactional, single, notifies: dice.percent(60), absent: !transactional && dice.percent(50) }
    }
}
