//! A process: a transmitter or a receiver, started again whenever it ends.

use std::any::Any;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deltabus_bus::Log;
use deltabus_interfaces::Location;
use deltabus_receiver::Receiver;
use deltabus_record::schema::ReceiverName;
use deltabus_state::StateDirectory;
use deltabus_state::probe::{Probe, Step};
use deltabus_transmitter::{Held, Transmitter};
use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::dice::Dice;
use crate::fault::Fault;
use crate::interface::{ShelfInterface, Side};
use crate::life::{Death, Life};
use crate::line::Line;
use crate::run::Run;
use crate::shelf::Shelf;
use crate::world::{SkewedClock, lock};

/// A process and all that is its own.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) shelf: Arc<Mutex<Shelf>>,
    folder: PathBuf,
    skew_millis: Arc<Mutex<i64>>,
    cut_until: Arc<Mutex<u64>>,
    /// It may have joined since a round last succeeded, perhaps in another life.
    joins: Arc<AtomicBool>,
    inner: Mutex<Inner>,
    changed: Notify,
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Transmitter,
    /// The number of the receiver.
    Receiver(usize),
}

struct Inner {
    dice: Dice,
    lives: u32,
    life: Option<Arc<Life>>,
    wanted: bool,
    over: bool,
    /// To be done to the state folder before the next life.
    chores: Vec<Chore>,
    /// When the copy of the state was made, in milliseconds, and whether that knew its store.
    copied: Option<(u64, bool)>,
    /// A round has succeeded on its state: that knows the store.
    knows_store: bool,
    /// Its state was an old one once.
    was_restored: bool,
    plight: Plight,
}

/// What can be done to the state of a process that isn't running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// It is lost.
    Lose,
    /// A copy of it is made.
    Copy,
    /// The copy takes its place.
    Restore,
}

/// How a process is, as an operator sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plight {
    /// A delete waits for somebody to confirm it.
    pub(crate) held: Option<Held>,
    /// The last error, if the last round failed.
    pub(crate) error: Option<String>,
    /// The destination has to be put away by hand.
    pub(crate) wants_hands: bool,
}

/// How a life ended.
enum End {
    /// It was asked to.
    Stopped,
    /// It died.
    Died,
    /// It gave up.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

impl Process {
    pub(crate) fn new(name: &'static str, role: Role, shelf: Arc<Mutex<Shelf>>, root: &Path, dice: Dice) -> Process {
        let inner = Inner {
            dice,
            lives: 0,
            life: None,
            wanted: false,
            over: false,
            chores: Vec::new(),
            copied: None,
            knows_store: false,
            was_restored: false,
            plight: Plight::default(),
        };
        Process {
            name,
            role,
            shelf,
            folder: root.join(name),
            skew_millis: Arc::default(),
            cut_until: Arc::default(),
            joins: Arc::default(),
            inner: Mutex::new(inner),
            changed: Notify::new(),
        }
    }

    /// From now on it runs, and is started again when it ends.
    pub(crate) fn start(&self) {
        lock(&self.inner).wanted = true;
        self.changed.notify_one();
    }

    /// It ends, cleanly, and isn't started again.
    pub(crate) fn stop(&self) {
        let mut inner = lock(&self.inner);
        inner.wanted = false;
        if let Some(life) = &inner.life {
            life.stop.cancel();
        }
    }

    /// The same for good.
    pub(crate) fn finish(&self) {
        lock(&self.inner).over = true;
        self.stop();
        self.changed.notify_one();
    }

    /// It dies where it stands.
    pub(crate) fn kill(&self) {
        if let Some(life) = &lock(&self.inner).life {
            life.end();
        }
    }

    /// Whether it is running.
    pub(crate) fn runs(&self) -> bool {
        lock(&self.inner).life.is_some()
    }

    /// Does something to its state, once it is dead.
    pub(crate) fn charge(&self, chore: Chore) {
        lock(&self.inner).chores.push(chore);
        self.kill();
    }

    /// Whether there is a copy of its state.
    pub(crate) fn has_copy(&self) -> bool {
        lock(&self.inner).copied.is_some()
    }

    /// Cuts it off from the bus until then.
    pub(crate) fn cut_off(&self, until_millis: u64) {
        *lock(&self.cut_until) = until_millis;
    }

    /// Its clock is wrong by so much.
    pub(crate) fn skew(&self, millis: i64) {
        *lock(&self.skew_millis) = millis;
    }

    /// How it is.
    pub(crate) fn plight(&self) -> Plight {
        lock(&self.inner).plight.clone()
    }

    /// Its state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Runs it, life after life.
    pub(crate) async fn supervise(self: Arc<Process>, run: Arc<Run>) {
        loop {
            while !lock(&self.inner).wanted {
                if lock(&self.inner).over {
                    return;
                }
                self.changed.notified().await;
            }
            self.do_chores(&run);
            let life = {
                let mut inner = lock(&self.inner);
                inner.lives += 1;
                let life = Life::new(Arc::clone(&run.world), format!("{}/{}", self.name, inner.lives));
                inner.life = Some(Arc::clone(&life));
                life
            };
            life.note(|| "starts");
            let end = self.live(&run, &life).await;
            // Whatever it had on its way ends with it.
            life.end();
            let mut pause = 200;
            match &end {
                End::Stopped => life.note(|| "ends"),
                End::Died => life.note(|| "is dead"),
                End::Failed(error) => {
                    life.note(|| format!("gives up: {error}"));
                    pause = 2_000;
                }
                End::Panicked(message) => run.world.problem(format!("{} panicked: {message}", self.name)),
            }
            let pause = {
                let mut inner = lock(&self.inner);
                inner.life = None;
                pause + inner.dice.below(if run.world.storms() { 12_000 } else { 1_000 })
            };
            if let End::Panicked(_) = end {
                return;
            }
            if lock(&self.inner).over {
                return;
            }
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn live(self: &Arc<Process>, run: &Arc<Run>, life: &Arc<Life>) -> End {
        let body = AssertUnwindSafe(self.body(run, life)).catch_unwind();
        tokio::select! {
            biased;
            () = life.over() => End::Died,
            end = body => match end {
                Ok(Ok(())) => End::Stopped,
                Ok(Err(error)) => End::Failed(error),
                Err(payload) if payload.is::<Death>() => End::Died,
                Err(payload) => End::Panicked(message(&*payload)),
            },
        }
    }

    async fn body(self: &Arc<Process>, run: &Arc<Run>, life: &Arc<Life>) -> Result<(), String> {
        let told = |error: &(dyn std::error::Error + 'static)| self.tell(error);
        let line = Line {
            bus: run.bus.clone(),
            life: Arc::clone(life),
            chronicle: Arc::clone(&run.chronicle),
            joins: Arc::clone(&self.joins),
            cut_until: Arc::clone(&self.cut_until),
        };
        let clock = SkewedClock { world: Arc::clone(&run.world), skew_millis: Arc::clone(&self.skew_millis) };
        let log = Log::with_clock(Arc::new(line), run.source.clone(), Arc::new(clock));
        let side = if self.role == Role::Transmitter { Side::Source } else { Side::Destination };
        let interface = Arc::new(ShelfInterface {
            shelf: Arc::clone(&self.shelf),
            life: Arc::clone(life),
            users: Arc::clone(&run.users),
            side,
        });
        let state = StateDirectory::open(self.state()).map_err(|error| told(&error))?;
        let state = state.probed(Arc::new(StoreProbe(Arc::clone(life))));
        let location =
            Location::parse(&format!("csv:/{}.csv", lock(&self.shelf).name)).map_err(|error| told(&error))?;
        let stop = life.stop.clone();
        match self.role {
            Role::Transmitter => {
                let mut config = deltabus_transmitter::Config::new(run.source.clone(), location);
                config.conflicts = run.world.plan.policy;
                config.standby = run.world.plan.standby;
                let transmitter =
                    Transmitter::with_interface(config, interface, log, &state).map_err(|error| told(&error))?;
                let after = |_: &_, result: &Result<deltabus_transmitter::Round, deltabus_transmitter::Error>| {
                    let mut plight = Plight::default();
                    match result {
                        Ok(round) => {
                            if round.sets + round.changes + round.reverse_sets > 0 || round.held.is_some() {
                                life.note(|| {
                                    format!(
                                        "round: revision {}, {} changes, {} sets, {} reverse sets{}",
                                        round.revision,
                                        round.changes,
                                        round.sets,
                                        round.reverse_sets,
                                        round.held.as_ref().map(|held| format!(", held: {held}")).unwrap_or_default()
                                    )
                                });
                            }
                            plight.held = round.held.clone();
                        }
                        Err(error) => {
                            let error = self.tell(error);
                            life.note(|| format!("round failed: {error}"));
                            plight.error = Some(error);
                        }
                    }
                    lock(&self.inner).plight = plight;
                };
                transmitter.run(stop, after).await.map_err(|error| told(&error))
            }
            Role::Receiver(at) => {
                let plan = &run.world.plan.receivers[at];
                let name = ReceiverName::new(plan.name).map_err(|error| told(&error))?;
                let mut config = deltabus_receiver::Config::new(run.source.clone(), location, name);
                config.reverse = plan.reverse;
                let receiver =
                    Receiver::with_interface(config, interface, log, &state).map_err(|error| told(&error))?;
                let after = |_: &_, _: &_, result: &Result<deltabus_receiver::Round, deltabus_receiver::Error>| {
                    let mut plight = Plight::default();
                    if let Ok(round) = result {
                        let joined = self.joins.swap(false, Ordering::Relaxed) || round.joined;
                        run.users.caught_up(at, joined, round.revision);
                        lock(&self.inner).knows_store = true;
                    }
                    // What an old state doesn't know differs and stands, where no edits are sent back: somebody has to see to it.
                    let stands = result.as_ref().is_ok_and(|round| round.drift > 0) && !plan.reverse;
                    plight.wants_hands = stands && lock(&self.inner).was_restored;
                    match result {
                        Ok(round) => life.note(|| {
                            format!(
                                "round: revision {}, {} sets, {} changes, {} edits{}{}",
                                round.revision,
                                round.sets,
                                round.changes,
                                round.edits,
                                if round.joined { ", joined" } else { "" },
                                if round.drift > 0 { format!(", {} drift", round.drift) } else { String::new() },
                            )
                        }),
                        Err(error) => {
                            use deltabus_receiver::Error::{MassDelete, WouldWipe};
                            plight.wants_hands = matches!(error, WouldWipe { .. } | MassDelete { .. });
                            let error = self.tell(error);
                            life.note(|| format!("round failed: {error}"));
                            plight.error = Some(error);
                        }
                    }
                    lock(&self.inner).plight = plight;
                };
                receiver.run(stop, after).await.map_err(|error| told(&error))
            }
        }
    }

    /// An error with its causes, without what differs from run to run.
    pub(crate) fn tell(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        let folder = self.folder.display().to_string();
        text.replace(&folder, "STATE").replace(&format!("process {}", std::process::id()), "process P")
    }

    fn do_chores(&self, run: &Run) {
        let (state, copy) = (self.state(), self.folder.join("copy"));
        let chores = std::mem::take(&mut lock(&self.inner).chores);
        for chore in chores {
            run.world.note(self.name, || format!("state: {chore:?}"));
            let forgets = |since: u64| match self.role {
                Role::Receiver(at) => {
                    lock(&self.shelf).orphan();
                    run.users.forgotten_by(at, since, run.chronicle.reached().number);
                }
                Role::Transmitter => {}
            };
            let done = match chore {
                Chore::Lose => {
                    lock(&self.inner).knows_store = false;
                    forgets(0);
                    remove(&state)
                }
                Chore::Copy => {
                    let mut inner = lock(&self.inner);
                    inner.copied = Some((run.world.millis(), inner.knows_store));
                    drop(inner);
                    remove(&copy).and_then(|()| copy_folder(&state, &copy))
                }
                Chore::Restore => {
                    lock(&self.inner).was_restored = true;
                    let (since, knows_store) = lock(&self.inner).copied.take().unwrap_or_default();
                    lock(&self.inner).knows_store = knows_store;
                    // One from before it ever saw its store knows as much of that as none.
                    forgets(if knows_store { since } else { 0 });
                    remove(&state).and_then(|()| copy_folder(&copy, &state))
                }
            };
            if let Err(error) = done {
                run.world.problem(format!("the simulation itself: {chore:?} of {}: {error}", self.name));
            }
        }
    }
}

/// What becomes of the commits of a life's state store.
struct StoreProbe(Arc<Life>);

impl Probe for StoreProbe {
    fn at(&self, step: Step) -> io::Result<()> {
        match step {
            Step::BeforeCommit => {
                self.0.may_die(Fault::CrashBeforeCommit);
                if self.0.strikes(Fault::CommitFails) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            Step::AfterCommit => self.0.may_die(Fault::CrashAfterCommit),
        }
        Ok(())
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "something".into())
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    let entries = match std::fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}
