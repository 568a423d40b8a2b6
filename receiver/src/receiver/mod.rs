//! The receiver of one source at one destination.

mod apply;
mod bring;
mod compare;
mod edits;
mod intake;
mod join;
mod look;
mod past;
mod planned;
mod recovery;
mod repair;
mod selection;
mod send;
mod traced;
mod writes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deltabus_bus::broker::Broker;
use deltabus_bus::{Contents, Event, Log, Position, Reader, causes};
use deltabus_interfaces::wake::Wake;
use deltabus_interfaces::{Content, Interface, Mark, Stamp, Unread};
use deltabus_record::diff::Difference;
use deltabus_record::digest::Digest;
use deltabus_record::mapping::Mapping;
use deltabus_record::schema::{Collection, CollectionName, ReceiverName, SourceName};
use deltabus_state::{Owner, Requests, StateDirectory, Store};
use metrics::{counter, gauge};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Selection};
use crate::contents::LargeValues;
use crate::dead::DeadLetters;
use crate::error::Error;
use crate::filter::Filter;
use crate::lag::Lag;
use crate::ledger::{self, Marked, Wanted};
use crate::metrics as figures;
use crate::pending::Pending;
use crate::rehearsal::Rehearsal;
use crate::verify::Cause;

/// Waiting sets are brought to the destination together, up to this many bytes or sets: larger groups delay and cost memory,
/// and win nothing.
const GROUP_BYTES: u64 = 8 * 1024 * 1024;
const GROUP_SETS: usize = 1_000;

/// Sets that wait between the log and a slow destination.
const QUEUE_SETS: usize = 64;

/// How often a running receiver looks for requests: a look is one attempt to open a folder.
const REQUESTS: Duration = Duration::from_millis(250);

/// While sets come one after the other, what is written down for other processes is written once in this time.
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// How often a snapshot is begun when newer ones take its place while it is loaded.
const JOIN_ATTEMPTS: u32 = 4;

/// Edits that are not answered for this long are looked for on the bus, which may have lost them.
const RESEND: Duration = Duration::from_secs(30);

/// The base may be behind what the destination holds, where a log that lost its end is being sent again. If the log doesn't
/// come that far in this time, it is another one than before, and the destination is made equal to what it says.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a destination is written when other programs keep writing it too.
const DESTINATION_ATTEMPTS: u32 = 8;

/// Pause after a failure that may pass; doubled up to the most.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

pub(crate) use compare::Comparison;
pub(crate) use past::Ever;
use traced::Step;

pub use repair::{Tried, Unsent, WISH_FAILED, Wish};

/// What one round did.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The revision that the destination is at.
    pub revision: u64,
    /// Sets applied.
    pub sets: u64,
    /// Record writes brought to the destination.
    pub changes: u64,
    /// The destination was joined by snapshot.
    pub joined: bool,
    /// Edits found at the destination and sent back.
    pub edits: u64,
    /// Records at the destination that differ and are not sent back.
    pub drift: u64,
    /// Changes kept among the dead letters.
    pub dead_letters: u64,
    /// Places at the destination that could not be read, while the rest could.
    pub unread: Vec<String>,
}

type Stale = HashMap<CollectionName, HashSet<Vec<u8>>>;

/// What a receiver is opened for.
pub(crate) enum Purpose {
    /// To keep its destination.
    Keep,
    /// To find out what that would change: nothing is sent, and the interface only takes note of what is written.
    Rehearse(Arc<Rehearsal>),
    /// To compare its destination with the source: nothing is sent or written.
    Compare,
    /// To write one state of the source, once, whatever stands there: the destination gets no mark, and loses what the source
    /// had at other times.
    Restore(Ever),
}

/// Keeps one destination equal to a source.
pub struct Receiver {
    purpose: Purpose,
    config: Config,
    interface: Arc<dyn Interface>,
    log: Log,
    store: Store,
    requests: Requests,
    mapping: Mapping,
    filter: Option<Arc<Filter>>,
    /// The selection that is wanted, where the destination still holds another.
    reselect: Option<Selection>,
    large: Arc<LargeValues>,
    pending: Pending,
    dead: DeadLetters,
    /// Which numbers of reverse sets the source has answered is known.
    numbers_known: bool,
    /// Sets that are not known to have arrived may be on the bus all the same.
    unsure: bool,
    /// The destination's stamp when it was last known to hold what is expected.
    stamp: Option<Stamp>,
    /// Its collections at that stamp.
    found: Option<Vec<Collection>>,
    /// What was written there last as one file, and the stamp that it then had.
    written: Mutex<Option<(Stamp, Content)>>,
    index: Option<Digest>,
    stale: Stale,
    /// The destination is at this revision already, though the base isn't: a crash came between.
    ahead: Option<u64>,
    recovered: bool,
    /// The destination, or a part of it, is gone and has to be made anew.
    remake: bool,
    drift: u64,
    lag: Lag,
    /// What writing the destination consisted of, since it was last asked.
    steps: Mutex<Vec<Step>>,
}

/// What a look at the destination found.
struct Look {
    /// When it began.
    since: std::time::Instant,
    stamp: Stamp,
    found: Vec<Collection>,
    /// By collection of the source: records that aren't as expected, and how many were expected to be there.
    differences: Vec<(CollectionName, Vec<Difference>, u64)>,
    /// By collection of the source: the names of its fields by slot.
    fields: BTreeMap<CollectionName, Vec<String>>,
    /// Collections that should be there and aren't.
    missing: bool,
    index: Digest,
    /// What the indexes don't say right, because it was read without them.
    stale: Stale,
    /// What could not be read, while the rest could.
    unread: Vec<Unread>,
}

impl Receiver {
    /// Opens the destination and the receiver's state. Nothing is read or applied yet.
    pub fn open(config: Config, broker: Arc<dyn Broker>, state: &StateDirectory) -> Result<Receiver, Error> {
        let interface: Arc<dyn Interface> = deltabus_interfaces::open(&config.location)?.into();
        let log = Log::new(broker, config.source.clone());
        Receiver::with_interface(config, interface, log, state)
    }

    /// The same with an interface that is open already, on the source's log.
    pub fn with_interface(
        config: Config,
        interface: Arc<dyn Interface>,
        log: Log,
        state: &StateDirectory,
    ) -> Result<Receiver, Error> {
        Receiver::assemble(config, interface, log, state, Purpose::Keep)
    }

    pub(crate) fn assemble(
        config: Config,
        interface: Arc<dyn Interface>,
        log: Log,
        state: &StateDirectory,
        purpose: Purpose,
    ) -> Result<Receiver, Error> {
        // Found to be wrong before anything is opened.
        config.selection.iter().filter_map(|selection| selection.filter.as_deref()).try_for_each(|predicate| {
            Filter::compile(predicate)?;
            Ok::<_, Error>(())
        })?;
        let owner = Owner::Receiver { source: config.source.clone(), receiver: config.name.clone() };
        let store = state.store(&owner)?;
        let contents = Contents::new(log.clone(), tokio::runtime::Handle::current());
        let sends = config.reverse && matches!(purpose, Purpose::Keep);
        let large = Arc::new(LargeValues::new(contents, interface.clone(), sends));
        let labels = [("source", config.source.to_string()), ("receiver", config.name.to_string())];
        let lag = Lag::new(&log, labels, ledger::position(&store.view())?.unwrap_or_default());
        let mut receiver = Receiver {
            purpose,
            mapping: Mapping::identity(),
            config,
            interface,
            log,
            requests: Requests::of(&store),
            store,
            filter: None,
            reselect: None,
            large,
            pending: Pending::default(),
            dead: DeadLetters::default(),
            numbers_known: false,
            unsure: true,
            stamp: None,
            found: None,
            written: Mutex::default(),
            index: None,
            stale: Stale::new(),
            ahead: None,
            recovered: false,
            remake: false,
            drift: 0,
            lag,
            steps: Mutex::default(),
        };
        receiver.settle_location()?;
        receiver.reload()?;
        if let Purpose::Keep = receiver.purpose {
            figures::begin(&receiver.labels());
        }
        Ok(receiver)
    }

    /// The source's name.
    pub fn source(&self) -> &SourceName {
        &self.config.source
    }

    /// The receiver's name.
    pub fn name(&self) -> &ReceiverName {
        &self.config.name
    }

    /// How far its destination is behind, for whoever measures that.
    pub fn lag(&self) -> Lag {
        self.lag.clone()
    }

    /// One round: finds edits at the destination, sends them, and applies what the log has, to its end as it stands.
    ///
    /// Reading and writing the destination blocks a thread of the runtime.
    pub async fn receive_once(&mut self) -> Result<Round, Error> {
        let mut round = Round::default();
        let result = self.catch_up(&mut round).await;
        self.report(result.as_ref().err())?;
        result.map(|()| round)
    }

    async fn catch_up(&mut self, round: &mut Round) -> Result<(), Error> {
        self.recover()?;
        let (mut position, mut joined) = match ledger::position(&self.store.view())? {
            // One that is to be made equal waits until the base has caught up.
            Some(position) => {
                match ledger::reconcile(&self.store.view())? {
                    true => (position, false),
                    false => match self.tend(round).await {
                        // It is to be made anew, of what the source may not have any more: the newest snapshot does without.
                        Err(error) if error.is_missing_content() => {
                            tracing::warn!(
                                error = causes(&error),
                                "what it is made of is gone; joining again by snapshot"
                            );
                            (self.join(round).await?, true)
                        }
                        result => result.map(|()| (position, false))?,
                    },
                }
            }
            None => (self.join(round).await?, true),
        };
        while let Some(reason) = self.follow(position, round).await? {
            if joined {
                let (source_name, revision) = (self.config.source.clone(), position.revision.number);
                return Err(Error::Behind { source_name, revision, reason });
            }
            tracing::warn!(reason, "the log doesn't lead on; joining again by snapshot");
            position = self.join(round).await?;
            joined = true;
        }
        round.revision = ledger::position(&self.store.view())?.map_or(0, |position| position.revision.number);
        Ok(())
    }

    /// Applies what the log has from `position` on. Gives the reason if it doesn't lead on to its end.
    async fn follow(&mut self, position: Position, round: &mut Round) -> Result<Option<String>, Error> {
        let unfit = || Some("its sets don't fit the records held".to_owned());
        let mut reader = Reader::at(&self.log, position);
        let mut group = Vec::new();
        let mut bytes = 0;
        loop {
            match reader.next_stored().await? {
                Event::Set(set) => {
                    bytes += set.bytes;
                    group.push(*set);
                    if bytes >= GROUP_BYTES || group.len() >= GROUP_SETS {
                        if !self.apply(std::mem::take(&mut group), round).await? {
                            return Ok(unfit());
                        }
                        bytes = 0;
                    }
                }
                Event::CaughtUp(end) => {
                    if !self.apply(group, round).await? {
                        return Ok(unfit());
                    }
                    self.caught_up(&end)?;
                    if ledger::reconcile(&self.store.view())? {
                        self.tend(round).await?;
                    }
                    return Ok(None);
                }
                Event::Rejoin(reason) => {
                    self.apply(group, round).await?;
                    return Ok(Some(reason.to_string()));
                }
            }
        }
    }

    /// Goes on until `stop`, whenever the log or the destination changes. `after` is called with what was done, or why it
    /// failed.
    pub async fn run(
        mut self,
        stop: CancellationToken,
        mut after: impl FnMut(&SourceName, &ReceiverName, &Result<Round, Error>),
    ) -> Result<(), Error> {
        let mut pause = RETRY_MIN;
        loop {
            let session = self.session(&stop, &mut after).await;
            let error = match session {
                Ok(SessionEnd::Stopped) => return Ok(()),
                Ok(SessionEnd::Again) => {
                    pause = RETRY_MIN;
                    continue;
                }
                Err(error) => error,
            };
            counter!(figures::ERRORS, &self.labels()).increment(1);
            self.lag.lost();
            self.report(Some(&error))?;
            let passing = error.is_passing();
            let result = Err(error);
            after(&self.config.source, &self.config.name, &result);
            if !passing {
                return result.map(|_: Round| ());
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            }
            // Whatever was in hand is read again.
            self.reload()?;
            // Also one whose destination can't be written at the moment hears what it is asked.
            if self.serve().await.is_err() {
                self.reload()?;
            }
        }
    }

    async fn session(
        &mut self,
        stop: &CancellationToken,
        after: &mut impl FnMut(&SourceName, &ReceiverName, &Result<Round, Error>),
    ) -> Result<SessionEnd, Error> {
        let mut wake = Wake::new(&*self.interface, self.config.poll);
        let round = self.receive_once().await?;
        after(&self.config.source, &self.config.name, &Ok(round));
        let Some(position) = ledger::position(&self.store.view())? else { return Ok(SessionEnd::Again) };
        let (sender, mut events) = mpsc::channel(QUEUE_SETS);
        let mut reader = Reader::at(&self.log, position);
        let lag = self.lag.clone();
        // Reading isn't cancel safe, so it has a task of its own; it ends when nobody takes its events any more.
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    event = reader.next() => event,
                };
                if let Ok(Event::Set(set)) = &event {
                    lag.known(set.set.next.number);
                }
                let last = !matches!(event, Ok(Event::Set(_) | Event::CaughtUp(_)));
                if sender.send(event).await.is_err() || last {
                    return;
                }
            }
        });
        let mut look = tokio::time::interval(REQUESTS);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resend = Instant::now() + RESEND;
        let patience = Instant::now() + PATIENCE;
        let mut reported = Instant::now();
        let mut unreported = false;
        loop {
            let mut round = Round::default();
            tokio::select! {
                // Events first: before anything is applied the destination is looked at anyway.
                biased;
                () = stop.cancelled() => {
                    if unreported {
                        self.report(None)?;
                    }
                    return Ok(SessionEnd::Stopped);
                }
                event = events.recv() => {
                    let Some(event) = event else { return Ok(SessionEnd::Again) };
                    let mut next = Some(event);
                    let mut group = Vec::new();
                    let mut bytes = 0;
                    let mut end = None;
                    while let Some(event) = next.take() {
                        match event? {
                            Event::Set(set) => {
                                bytes += set.bytes;
                                group.push(*set);
                            }
                            Event::CaughtUp(position) => end = Some(position),
                            // Met again by the next session, which joins.
                            Event::Rejoin(_) => {
                                self.apply(group, &mut round).await?;
                                after(&self.config.source, &self.config.name, &Ok(round));
                                return Ok(SessionEnd::Again);
                            }
                        }
                        if bytes < GROUP_BYTES && group.len() < GROUP_SETS {
                            next = events.try_recv().ok();
                        }
                    }
                    if !self.apply(group, &mut round).await? {
                        return Ok(SessionEnd::Again);
                    }
                    if let Some(end) = end {
                        self.caught_up(&end)?;
                        if ledger::reconcile(&self.store.view())? {
                            self.tend(&mut round).await?;
                        }
                    }
                }
                () = wake.changed(&*self.interface, self.stamp.as_ref()) => self.tend(&mut round).await?,
                _ = look.tick() => match self.serve().await? {
                    Some(served) if served.joined => {
                        after(&self.config.source, &self.config.name, &Ok(served));
                        return Ok(SessionEnd::Again);
                    }
                    Some(served) => round = served,
                    None => continue,
                },
                () = tokio::time::sleep_until(patience), if self.ahead.is_some() => {
                    if let Some(ahead) = self.ahead.take() {
                        tracing::warn!(revision = ahead, place = self.place(), "the log doesn't lead to what stands there");
                        let mut batch = self.store.batch();
                        ledger::put_reconcile(&mut batch, Wanted::Yes)?;
                        batch.commit()?;
                    }
                    self.tend(&mut round).await?;
                }
                () = tokio::time::sleep_until(reported + REPORT_PAUSE), if unreported => {
                    self.report(None)?;
                    (reported, unreported) = (Instant::now(), false);
                    continue;
                }
                () = tokio::time::sleep_until(resend), if !self.pending.sets().is_empty() => {
                    resend = Instant::now() + RESEND;
                    self.send().await?;
                }
            }
            round.revision = ledger::position(&self.store.view())?.map_or(0, |position| position.revision.number);
            if round.sets + round.edits + round.changes + round.drift > 0 {
                // Also when events keep coming, which are taken first.
                unreported = reported.elapsed() < REPORT_PAUSE;
                if !unreported {
                    self.report(None)?;
                    reported = Instant::now();
                }
                after(&self.config.source, &self.config.name, &Ok(round));
            }
        }
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        [("source", self.config.source.to_string()), ("receiver", self.config.name.to_string())]
    }

    fn place(&self) -> String {
        self.config.location.path.display().to_string()
    }

    fn owner(&self) -> String {
        format!("{}/{}", self.config.source, self.config.name)
    }

    /// Why a record that differs from the base does so.
    pub(crate) fn cause(&self, collection: &Collection, difference: &Difference) -> Cause {
        let key = &difference.key;
        if let Some(letter) = self.dead.of(&collection.name, key) {
            let id = format!("{}/{}", self.config.name, letter.number);
            return Cause::Refused { id: (!letter.dropped).then_some(id), reason: letter.reason.clone() };
        }
        let held = self.pending.on_top(collection, key, |_| Ok::<_, Error>(difference.before.clone()));
        if let Some(number) = self.pending.last_of(collection, key)
            && held.is_ok_and(|held| held == difference.after)
        {
            return Cause::Pending(number);
        }
        if self.config.reverse { Cause::Edit } else { Cause::Drift }
    }

    /// Looks after the destination: makes it what it should be where it isn't, finds edits, sends them.
    async fn tend(&mut self, round: &mut Round) -> Result<(), Error> {
        if self.ahead.is_some() {
            // First the base has to catch up with what the destination has.
            return Ok(());
        }
        self.reselect(round)?;
        if ledger::reconcile(&self.store.view())? {
            self.reconcile(round)?;
        }
        self.find_edits(round)?;
        if self.remake {
            self.reconcile(round)?;
        }
        self.send().await
    }

    /// `attempt`: names what makes the destination equal, so that it is known again after a crash.
    fn mark(&self, position: &Position, attempt: Option<u64>, dead: &DeadLetters) -> Option<Mark> {
        let marked = Marked { revision: position.revision, attempt, held: dead.iter().count() as u64 };
        let keeps = self.interface.transactional() && !matches!(self.purpose, Purpose::Restore(_));
        keeps.then(|| Mark { owner: self.owner(), value: marked.to_bytes() })
    }

    fn caught_up(&mut self, end: &Position) -> Result<(), Error> {
        self.lag.follows(*end);
        let reached = ledger::position(&self.store.view())?;
        // Claims move the log on without a set: remember, so that their expiry is no hole.
        if reached.is_some_and(|reached| reached.revision == end.revision && reached != *end) {
            let mut batch = self.store.batch();
            ledger::put_position(&mut batch, end)?;
            batch.commit()?;
        }
        Ok(())
    }

    /// Writes down the dead letters as they are about to be, for other processes: a crash in between makes the list tell of one
    /// too many, until the next round makes it true.
    fn list_letters(&self, dead: &DeadLetters, collections: &[Collection]) -> Result<(), Error> {
        Ok(self.store.write_letters(dead.to_json(&self.config.name, collections).as_bytes())?)
    }

    /// Writes down how it is, for other processes.
    fn report(&self, error: Option<&Error>) -> Result<(), Error> {
        let view = self.store.view();
        let position = ledger::position(&view)?.unwrap_or_default();
        // The base is there before a destination that has yet to be made equal to it.
        let revision = if ledger::reconcile(&view)? { 0 } else { position.revision.number };
        let dead = self.dead.waiting();
        gauge!(figures::DEAD_LETTERS_WAITING, &self.labels()).set(dead as f64);
        gauge!(figures::PENDING_SETS, &self.labels()).set(self.pending.sets().len() as f64);
        let quoted = |text: &str| deltabus_record::json::quoted(text);
        let error = error.map_or("null".into(), |error| quoted(&error.to_string()));
        let status = format!(
            "{{\"source\":{},\"receiver\":{},\"location\":{},\"at\":{},\"reverse\":{},\"revision\":{},\"records\":{},\"pending\":{},\"drift\":{},\"dead_letters\":{dead},\"error\":{error},\"pid\":{},\"time_millis\":{}}}\n",
            quoted(self.config.source.as_str()),
            quoted(self.config.name.as_str()),
            quoted(&self.config.location.given),
            quoted(&self.config.location.anywhere()),
            self.config.reverse,
            revision,
            position.revision.digest.records,
            self.pending.sets().len(),
            self.drift,
            std::process::id(),
            self.now_millis(),
        );
        Ok(self.store.write_status(status.as_bytes())?)
    }

    fn now_millis(&self) -> u64 {
        self.log.clock().now_millis()
    }

    /// A name for scan indexes that no other has.
    fn fresh_digest(&self) -> Digest {
        let clock = self.log.clock();
        Digest { records: clock.now_millis(), sum: u128::from(clock.fresh()) << 64 | u128::from(clock.fresh()) }
    }
}

/// How a session ended.
enum SessionEnd {
    Stopped,
    Again,
}
