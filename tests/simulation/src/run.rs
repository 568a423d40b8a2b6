//! One run: a source, its transmitters and receivers, its users, and everything that goes wrong.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deltabus_bus::broker::{Broker, Stream};
use deltabus_bus::memory::{Availability, MemoryBroker};
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_transmitter::Question;
use tokio::time::{Instant, sleep, timeout};

use crate::check;
use crate::chronicle::Chronicle;
use crate::dice::Dice;
use crate::fault::{Fault, Occurs, Tally};
use crate::plan::Plan;
use crate::process::{Chore, Process, Role};
use crate::shelf::Shelf;
use crate::users::{Store, Users};
use crate::world::{World, lock};

/// Everything has to be equal this long after things stopped going wrong; longer than the longest pauses between tries.
const QUIET_MAX: Duration = Duration::from_secs(600);

/// It has to stay so this long.
const QUIET_KEPT: Duration = Duration::from_secs(40);

/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is not as it must be; empty: all is well.
    pub problems: Vec<String>,
    /// What went wrong, by kind.
    pub faults: Tally,
    /// How many times users wrote something.
    pub writes: u64,
    /// Edits and deletes at destinations that were traced.
    pub edits: u64,
    /// Of those, how many only a receiver knew whose state was lost.
    pub excused: u64,
    /// Change sets that readers accepted.
    pub sets: u64,
    /// Edits that the source answered.
    pub verdicts: u64,
    /// Of those, how many met a changed source.
    pub conflicts: u64,
    /// Of those, how many the source could not take.
    pub refused: u64,
    /// How long it took, in simulated seconds.
    pub seconds: u64,
    /// What happened, line by line; empty unless it was asked for.
    pub trace: Vec<String>,
}

/// Whether a run writes down what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// It does, in its report.
    Keep,
    /// It prints it line by line.
    Print,
    /// It doesn't, and is quicker.
    No,
}

/// The parts of a run.
pub(crate) struct Run {
    pub(crate) world: Arc<World>,
    pub(crate) bus: MemoryBroker,
    pub(crate) chronicle: Arc<Chronicle>,
    pub(crate) users: Arc<Users>,
    pub(crate) source: SourceName,
    /// The transmitter, the second one, the receivers.
    pub(crate) processes: Vec<Arc<Process>>,
}

/// Runs a plan from its beginning to its end. The same plan gives the same report.
pub fn run(plan: &Plan, trace: Trace) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(run_here(plan.clone(), trace))
}

async fn run_here(plan: Plan, trace: Trace) -> Report {
    let folder = tempfile::Builder::new().prefix("deltabus-simulation-").tempdir_in(quick_folder());
    let folder = match folder {
        Ok(folder) => folder,
        Err(error) => {
            let problems = vec![format!("the simulation itself: no temporary folder: {error}")];
            return Report { problems, ..Report::default() };
        }
    };
    let world = World::new(plan, trace);
    let plan = &world.plan;
    let run = Arc::new(Run::new(&world, folder.path()));
    run.tell();
    let mut tasks = Vec::new();
    for process in &run.processes {
        tasks.push(tokio::spawn(Arc::clone(process).supervise(Arc::clone(&run))));
    }
    run.processes[0].start();
    if plan.standby {
        run.processes[1].start();
    }
    for (process, receiver) in run.processes[2..].iter().zip(&plan.receivers) {
        let (process, starts) = (Arc::clone(process), Duration::from_secs(receiver.starts));
        tasks.push(tokio::spawn(async move {
            sleep(starts).await;
            process.start();
        }));
    }
    let fate = tokio::spawn(Arc::clone(&run).fate());
    let operator = tokio::spawn(Arc::clone(&run).operate());
    run.let_users_write().await;
    let _ = fate.await;
    run.calm_down();
    run.become_quiet().await;
    operator.abort();
    for process in &run.processes {
        process.finish();
    }
    for task in tasks {
        if timeout(Duration::from_secs(60), task).await.is_err() {
            world.problem("a process does not end when it is asked to");
        }
    }
    check::states(&run).await;
    check::edits(&run)
}

/// A folder in memory where there is one: nothing here has to outlive a power cut.
fn quick_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

impl Run {
    fn new(world: &Arc<World>, root: &std::path::Path) -> Run {
        let plan = &world.plan;
        let source = SourceName::new("people").expect("it is a name");
        let tables = Users::first_tables(world, plan.source);
        let at_source = Arc::new(Mutex::new(Shelf::new("source", plan.source, Some(tables), root.join("stores"))));
        let mut stores = vec![Store { shelf: Arc::clone(&at_source), receiver: None, counts: true }];
        let process = |name, role, shelf: &Arc<Mutex<Shelf>>| {
            let dice = world.dice(&format!("process {name}"));
            Arc::new(Process::new(name, role, Arc::clone(shelf), root, dice))
        };
        let mut processes =
            vec![process("tx", Role::Transmitter, &at_source), process("tx2", Role::Transmitter, &at_source)];
        for (at, receiver) in plan.receivers.iter().enumerate() {
            let shelf = Arc::new(Mutex::new(Shelf::new(receiver.name, receiver.kind, None, root.join("stores"))));
            stores.push(Store { shelf: Arc::clone(&shelf), receiver: Some(at), counts: receiver.reverse });
            processes.push(process(receiver.name, Role::Receiver(at), &shelf));
        }
        let users = Users::new(Arc::clone(world), stores);
        let bus = MemoryBroker::new();
        let names = plan.receivers.iter().map(|receiver| ReceiverName::new(receiver.name).expect("it is a name"));
        let chronicle =
            Chronicle::new(Arc::clone(world), bus.clone(), source.clone(), Arc::clone(&users), names.collect());
        Run { world: Arc::clone(world), bus, chronicle, users, source, processes }
    }

    fn tell(&self) {
        let plan = &self.world.plan;
        self.world.note("plan", || {
            let faults: Vec<_> = plan.faults.iter().map(|fault| fault.name()).collect();
            format!(
                "seed {}: {} edits in {} s, {:?}; faults: {}",
                plan.seed,
                plan.edits,
                plan.seconds,
                plan.policy,
                faults.join(" ")
            )
        });
        for process in &self.processes {
            self.world.note("plan", || {
                let shelf = lock(&process.shelf);
                format!("{}: {:?} at {} {:?}", process.name, process.role, shelf.name, shelf.kind)
            });
        }
        let shelf = lock(&self.processes[0].shelf);
        self.world.note("user", || {
            let none = Vec::new();
            format!("source begins with {}", crate::interface::difference(Some(&none), shelf.tables().unwrap_or(&none)))
        });
        for table in shelf.tables().into_iter().flatten() {
            for row in &table.rows {
                self.world.note("user", || format!("{} [{}]", table.name, crate::shelf::show_row(row)));
            }
        }
    }

    /// Users write until their time is over.
    async fn let_users_write(&self) {
        let plan = &self.world.plan;
        let mut dice = self.world.dice("when users write");
        let end = Instant::now() + Duration::from_secs(plan.seconds);
        for _ in 0..plan.edits {
            // Now and then a few at once, and mostly far from each other.
            let mean = plan.seconds * 1000 / plan.edits;
            let pause = if dice.percent(25) { dice.below(100) } else { dice.below(mean * 5 / 2 + 1) };
            if Instant::now() + Duration::from_millis(pause) >= end {
                break;
            }
            sleep(Duration::from_millis(pause)).await;
            self.users.write_somewhere();
        }
        tokio::time::sleep_until(end).await;
    }

    /// Lets happen what happens by itself.
    async fn fate(self: Arc<Run>) {
        let plan = &self.world.plan;
        let mut dice = self.world.dice("fate");
        for _ in 0..plan.seconds {
            sleep(Duration::from_millis(1000)).await;
            for fault in plan.faults.iter().copied() {
                let Occurs::Seconds(often) = fault.occurs() else { continue };
                if self.world.below(fault, often) == 0 {
                    self.befall(fault, &mut dice).await;
                }
            }
        }
    }

    async fn befall(self: &Arc<Run>, fault: Fault, dice: &mut Dice) {
        let world = &self.world;
        let receivers = &self.processes[2..];
        let any = Arc::clone(&self.processes[dice.below(self.processes.len() as u64) as usize]);
        let receiver = Arc::clone(&receivers[dice.below(receivers.len() as u64) as usize]);
        let transmitter = Arc::clone(&self.processes[0]);
        match fault {
            Fault::Crash if any.runs() => {
                world.befalls(fault, any.name);
                any.kill();
            }
            Fault::CutOff => {
                world.befalls(fault, any.name);
                any.cut_off(world.millis() + dice.between(1_000, 40_000));
            }
            Fault::BusDown => {
                world.befalls(fault, "bus");
                self.bus.set_available(Availability::Down);
                let (run, seconds) = (Arc::clone(self), dice.between(1, 30));
                tokio::spawn(async move {
                    sleep(Duration::from_secs(seconds)).await;
                    run.bus.set_available(Availability::Up);
                });
            }
            Fault::TrimLog => self.trim(Stream::Changes, fault, dice).await,
            Fault::TrimReverse => self.trim(Stream::Reverse, fault, dice).await,
            Fault::Snapshot => {
                world.befalls(fault, "user");
                self.ask(Question::Snapshot).await;
            }
            Fault::LoseEnd => {
                for stream in [Stream::Changes, Stream::Reverse] {
                    if let Ok(Some(extent)) = self.bus.extent(&self.source, stream).await
                        && extent.last > extent.first
                    {
                        let last = extent.last - dice.between(0, 3).min(extent.last - extent.first);
                        self.bus.cut(&self.source, stream, last);
                        world.note("bus", || format!("{stream:?} ends with #{last} instead of #{}", extent.last));
                        if stream == Stream::Reverse && last < extent.last {
                            self.users.forgotten_by_bus();
                        }
                    }
                }
                world.befalls(fault, "bus");
            }
            Fault::LoseLog => {
                world.befalls(fault, "bus");
                self.bus.lose(&self.source);
                self.users.forgotten_by_bus();
            }
            Fault::LoseTransmitter => {
                world.befalls(fault, transmitter.name);
                transmitter.charge(Chore::Lose);
            }
            Fault::LoseReceiver => {
                world.befalls(fault, receiver.name);
                receiver.charge(Chore::Lose);
            }
            Fault::OldTransmitter => self.age(&transmitter, fault),
            Fault::OldReceiver => self.age(&receiver, fault),
            Fault::SecondTransmitter => {
                let second = &self.processes[1];
                world.befalls(fault, second.name);
                match second.runs() {
                    true if dice.percent(50) => second.stop(),
                    true => {
                        second.stop();
                        second.kill();
                    }
                    false => second.start(),
                }
            }
            Fault::SkewClock => {
                world.befalls(fault, any.name);
                let skew = [0, 50, 5_000, 3_600_000][dice.below(4) as usize];
                any.skew(if dice.percent(50) { skew } else { -skew });
            }
            _ => {}
        }
    }

    fn age(&self, process: &Process, fault: Fault) {
        match process.has_copy() {
            true => {
                self.world.befalls(fault, process.name);
                process.charge(Chore::Restore);
            }
            false => process.charge(Chore::Copy),
        }
    }

    async fn trim(&self, stream: Stream, fault: Fault, dice: &mut Dice) {
        let Ok(Some(extent)) = self.bus.extent(&self.source, stream).await else { return };
        if extent.last == 0 {
            return;
        }
        let first = dice.between(extent.first.min(extent.last), extent.last + 1);
        self.world.befalls(fault, "bus");
        self.world.note("bus", || format!("{stream:?} begins with #{first}; it ends with #{}", extent.last));
        self.bus.trim(&self.source, stream, first);
        if stream == Stream::Reverse {
            self.users.forgotten_by_bus();
        }
    }

    async fn ask(&self, question: Question) {
        let answer = timeout(Duration::from_secs(2), self.bus.ask(&self.source, question.to_bytes())).await;
        self.world.note("user", || match answer {
            Ok(Ok(Some(answer))) => format!("asks {question:?}: {}", String::from_utf8_lossy(&answer)),
            _ => format!("asks {question:?}: no answer"),
        });
    }

    /// Somebody looks after what needs hands.
    async fn operate(self: Arc<Run>) {
        let mut dice = self.world.dice("operator");
        loop {
            sleep(Duration::from_secs(dice.between(3, 10))).await;
            if self.processes[..2].iter().any(|process| process.plight().held.is_some()) && dice.percent(60) {
                self.ask(Question::Confirm).await;
            }
            for process in &self.processes[2..] {
                if process.runs() && process.plight().wants_hands && dice.percent(60) {
                    self.world.note("user", || format!("puts the store of {} away", process.name));
                    self.users.put_away(&process.shelf);
                }
            }
        }
    }

    /// Nothing goes wrong any more, and nobody writes.
    fn calm_down(&self) {
        self.world.calm();
        self.bus.set_available(Availability::Up);
        self.processes[1].stop();
        for process in &self.processes {
            process.cut_off(0);
        }
        let source = &self.processes[0].shelf;
        if lock(source).tables().is_none() {
            self.users.write_now(source);
        }
    }

    async fn become_quiet(&self) {
        let end = Instant::now() + QUIET_MAX;
        let mut equal_since = None;
        let mut differs = String::new();
        while Instant::now() < end {
            sleep(LOOK).await;
            match check::difference(self) {
                None => {
                    let since = *equal_since.get_or_insert(Instant::now());
                    if since.elapsed() >= QUIET_KEPT {
                        self.world.note("world", || "all are equal");
                        return;
                    }
                }
                Some(difference) => {
                    equal_since = None;
                    differs = difference;
                }
            }
        }
        self.world.problem(format!("not equal after {} s of quiet: {differs}", QUIET_MAX.as_secs()));
        for process in &self.processes {
            if let Some(error) = process.plight().error {
                self.world.problem(format!("{} is in trouble: {error}", process.name));
            }
        }
    }
}
