//! The transmitter of one source.

mod decide;
mod merge;
mod publish;
mod stand_by;
mod traced;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Follow, Stream};
use deltabus_bus::{ANSWER_BUSY, ANSWER_FAILED, BEAT, Clock, Contents, Log, Question, Writer, causes, encode_set};
use deltabus_interfaces::wake::Wake;
use deltabus_interfaces::{Interface, Stamp, Unread, in_place};
use deltabus_record::change::{ChangeSet, Revision, Transaction};
use deltabus_record::digest::Digest;
use deltabus_record::schema::{CollectionName, SourceName};
use deltabus_state::{Batch, Owner, StateDirectory, Store, View, Working};
use metrics::{counter, gauge, histogram};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::contents::{OnTheBus, Supply, Uploads};
use crate::guard::Held;
use crate::ledger::{self, Waiting};
use crate::metrics as figures;
use crate::observe::{self, FirstLoad, Indexes, Observation, Previous, Stale};
use crate::tenure::{Keep, Tenure};
use crate::{Error, takeover};

/// Sets stay in the outbox this long after their acknowledgement: longer than a broker's default interval for syncing, so
/// that what a power cut takes from it can be sent again.
const OUTBOX_KEPT: Duration = Duration::from_secs(300);

/// A log shorter than this is not worth a new snapshot, however small the last one was.
const SNAPSHOT_MIN_BYTES: u64 = 1024 * 1024;

/// How often writing the source is tried when other programs keep writing it too.
const SOURCE_ATTEMPTS: u32 = 8;

/// So many places that can't be read are named in the log, each time the source is looked at.
const UNREAD_NAMED: usize = 20;

/// A round comes after this long though nothing seems to have happened: what tells of edits may be lost on its way, and the
/// log loses its beginning by itself.
const ROUND_MAX: Duration = Duration::from_secs(30);

/// Pause after a round that failed for a passing reason; doubled up to the most.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

pub use decide::Decided;
use stand_by::Turn;
use traced::{Found, Origin};

/// What one round did.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The last revision staged.
    pub revision: u64,
    /// Sets published.
    pub sets: u64,
    /// Record changes staged.
    pub changes: u64,
    /// Records read from the source.
    pub records: u64,
    /// Bytes stored in the log.
    pub bytes: u64,
    /// Reverse sets taken.
    pub reverse_sets: u64,
    /// Conflicts among them.
    pub conflicts: u64,
    /// Edits that the source could not take.
    pub refused: u64,
    /// More reverse sets wait than a round takes of one receiver.
    pub more: bool,
    /// The delete that is held back.
    pub held: Option<Held>,
    /// A snapshot was written.
    pub snapshot: bool,
    /// Places at the source that could not be read, while the rest could; what was known of them stands.
    pub unread: Vec<String>,
}

/// How a transmitter is, for others to read.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The last revision staged.
    pub revision: u64,
    /// Records at that revision.
    pub records: u64,
    /// Sets not yet acknowledged by the log.
    pub outbox: u64,
    /// The delete that is held back.
    pub held: Option<Held>,
    /// Why the last round failed.
    pub error: Option<String>,
    /// Who is active while this one stands by.
    pub stands_by_for: Option<String>,
    /// Who stands by while this one is active.
    pub standbys: Vec<String>,
}

type Asked = (Question, Box<dyn deltabus_bus::broker::Question>);

/// The transmitter of one source.
pub struct Transmitter {
    config: Config,
    interface: Arc<dyn Interface>,
    log: Log,
    store: Store,
    id: String,
    writer: Option<Writer>,
    /// Since it became active.
    tenure: Option<Tenure>,
    /// The source's stamp when it was last equal to the records.
    stamp: Option<Stamp>,
    /// What the valid scan indexes are named by.
    index: Option<Digest>,
    stale: Stale,
    /// Records by collection, in the state of this digest.
    counts: Option<(Digest, HashMap<CollectionName, u64>)>,
    contents: OnTheBus,
    questions: Option<mpsc::Receiver<Asked>>,
    snapshot_wanted: bool,
    /// When the snapshot was last seen to lead to the log.
    snapshot_seen: Option<tokio::time::Instant>,
}

impl Transmitter {
    /// Opens the source and its state. Nothing is read or published yet.
    pub fn open(config: Config, broker: Arc<dyn Broker>, state: &StateDirectory) -> Result<Transmitter, Error> {
        let interface: Arc<dyn Interface> = deltabus_interfaces::open(&config.location)?.into();
        let log = Log::new(broker, config.source.clone());
        Transmitter::with_interface(config, interface, log, state)
    }

    /// The same with an interface that is open already, on the source's log.
    pub fn with_interface(
        config: Config,
        interface: Arc<dyn Interface>,
        log: Log,
        state: &StateDirectory,
    ) -> Result<Transmitter, Error> {
        let owner = Owner::Transmitter { source: config.source.clone() };
        let store = state.store(&owner)?;
        let view = store.view();
        let id = match ledger::transmitter(&view)? {
            Some(id) => id,
            None => {
                let id = new_id(log.clock());
                let mut batch = store.batch();
                ledger::put_transmitter(&mut batch, &id)?;
                batch.commit()?;
                id
            }
        };
        figures::begin(config.source.as_str());
        Ok(Transmitter {
            stamp: ledger::stamp(&view)?,
            index: ledger::index(&view)?,
            config,
            interface,
            store,
            id,
            writer: None,
            tenure: None,
            stale: Stale::new(),
            counts: None,
            contents: OnTheBus(Contents::new(log.clone(), tokio::runtime::Handle::current())),
            log,
            questions: None,
            snapshot_wanted: false,
            snapshot_seen: None,
        })
    }

    /// The source's name.
    pub fn source(&self) -> &SourceName {
        &self.config.source
    }

    /// One round: looks at the source, stages the difference, takes waiting reverse sets, publishes, and returns when the log
    /// has everything.
    ///
    /// Reading the source blocks a thread of the runtime.
    pub async fn transmit_once(&mut self) -> Result<Round, Error> {
        let mut round = Round::default();
        self.round(&mut round).await?;
        if round.more {
            // What waits by now, share by share; what comes meanwhile is for another time.
            let extent = self.log.broker().extent(&self.config.source, Stream::Reverse).await;
            let end = extent.map_err(deltabus_bus::Error::from)?.map_or(0, |extent| extent.last);
            while round.more && ledger::reverse(&self.store.view())?.sequence < end {
                self.round(&mut round).await?;
            }
        }
        Ok(round)
    }

    /// The same, but of waiting reverse sets each receiver's share.
    async fn round(&mut self, round: &mut Round) -> Result<(), Error> {
        let result = self.transmit(round).await;
        if result.as_ref().is_err_and(Error::is_lost) {
            // Claiming it again makes its streams, where they are gone, and finds out what is missing.
            self.writer = None;
        }
        result
    }

    async fn transmit(&mut self, round: &mut Round) -> Result<(), Error> {
        self.become_writer().await?;
        self.publish(round).await?;
        self.observe_and_stage(round)?;
        // What the source itself changed is on its way before edits are merged with it.
        self.publish(round).await?;
        self.take_reverse_sets(round).await?;
        self.publish(round).await?;
        self.snapshot_if_due(round).await?;
        self.report(round, None)?;
        gauge!(figures::ROUND_TIME, "source" => self.label()).set(self.now_millis() as f64 / 1000.0);
        Ok(())
    }

    /// Writes a snapshot now, after publishing what waits; gives the revision it is of.
    pub async fn snapshot(&mut self) -> Result<u64, Error> {
        self.become_writer().await?;
        let mut round = Round::default();
        self.publish(&mut round).await?;
        self.snapshot_wanted = true;
        self.snapshot_if_due(&mut round).await?;
        Ok(ledger::revision(&self.store.view())?.number)
    }

    /// Goes on until `stop`: a round whenever the source may have changed, a receiver has sent edits, or somebody asks for one.
    /// `after` is called after each round with what it did, or why it failed.
    ///
    /// One that may stand by does so while another is active, before its first round and whenever it was replaced.
    pub async fn run(
        mut self,
        stop: CancellationToken,
        mut after: impl FnMut(&SourceName, &Result<Round, Error>),
    ) -> Result<(), Error> {
        loop {
            if self.config.standby
                && let Turn::Stopped = self.stand_by(&stop).await?
            {
                return Ok(());
            }
            let result = self.transmit_until(&stop, &mut after).await;
            self.leave().await;
            match result {
                Err(error) if self.config.standby && error.is_replaced() => {
                    tracing::warn!(source = %self.config.source, error = causes(&error), "no longer active");
                }
                result => return result,
            }
        }
    }

    /// Round after round, until `stop` or an error that doesn't pass.
    async fn transmit_until(
        &mut self,
        stop: &CancellationToken,
        after: &mut impl FnMut(&SourceName, &Result<Round, Error>),
    ) -> Result<(), Error> {
        let mut wake = Wake::new(&*self.interface, self.config.poll);
        let mut reversed = None;
        let mut beat = tokio::time::interval(BEAT);
        let mut pause = RETRY_MIN;
        wake.settle(&*self.interface).await;
        loop {
            let looked_at = in_place(|| self.interface.stamp()).ok();
            let mut round = Round::default();
            let result = self.round(&mut round).await.map(|()| round);
            after(&self.config.source, &result);
            let retry = match &result {
                Ok(_) => {
                    pause = RETRY_MIN;
                    None
                }
                Err(error) => {
                    counter!(figures::ERRORS, "source" => self.label()).increment(1);
                    self.report(&Round::default(), Some(error))?;
                    if !error.is_passing() {
                        return result.map(drop);
                    }
                    let wait = pause;
                    pause = (pause * 2).min(RETRY_MAX);
                    Some(tokio::time::Instant::now() + wait)
                }
            };
            if reversed.is_none() {
                reversed = self.log.broker().follow(&self.config.source, Follow::Reverse).await.ok();
            }
            let due = tokio::time::Instant::now() + ROUND_MAX;
            // A source that can't be read is looked at again when it changes, not before.
            let last = if result.is_ok() { self.stamp.clone() } else { looked_at };
            let more = result.as_ref().is_ok_and(|round| round.more);
            let passes = result.as_ref().is_err_and(Error::passes_by_itself);
            loop {
                tokio::select! {
                    // What comes seldom first; a round looks after all the rest anyway.
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    // The next round says by whom.
                    () = replaced(self.tenure.as_ref()) => break,
                    asked = next_question(&mut self.questions) => {
                        self.answer(asked).await?;
                        break;
                    }
                    _ = beat.tick() => {
                        if let Some(writer) = &self.writer
                            && let Err(error) = writer.beat().await
                        {
                            tracing::debug!(error = causes(&error), "no heartbeat could be sent");
                        }
                    }
                    hint = next_hint(&mut reversed) => {
                        if !hint {
                            reversed = None;
                        }
                        break;
                    }
                    () = std::future::ready(()), if more => break,
                    () = wake.changed(&*self.interface, last.as_ref()) => break,
                    () = sleep_until(retry), if passes && retry.is_some() => break,
                    () = tokio::time::sleep_until(due) => break,
                }
            }
        }
    }

    fn label(&self) -> String {
        self.config.source.to_string()
    }

    /// Who this is, for people.
    fn name(&self) -> String {
        format!("{}, process {}", self.id, std::process::id())
    }

    /// Claims the log once; answers questions from then on.
    async fn become_writer(&mut self) -> Result<(), Error> {
        if let Some(tenure) = &self.tenure {
            tenure.check_replaced()?;
        }
        if self.writer.is_some() {
            if self.questions.as_ref().is_none_or(mpsc::Receiver::is_closed) {
                self.questions = Some(self.serve().await?);
            }
            return Ok(());
        }
        // What was claimed before may be another's by now; this one isn't to answer itself.
        self.questions = None;
        let source = &self.config.source;
        // Whoever has the lease has asked, or is who would answer.
        if !self.tenure.as_ref().is_some_and(Tenure::holds)
            && let Some(answer) =
                self.log.broker().ask(source, Question::Who.to_bytes()).await.map_err(deltabus_bus::Error::from)?
        {
            let by = String::from_utf8_lossy(&answer).into_owned();
            // A question that was in hand when answering ended may still be answered: by this one itself.
            if by != self.name() {
                return Err(Error::Active { source_name: source.clone(), by });
            }
        }
        self.log.prepare().await?;
        if self.tenure.is_none() {
            self.tenure = Some(Tenure::begin(&self.log, &self.name(), Keep::WhenWatched, None));
        }
        self.questions = Some(self.serve().await?);
        let writer = takeover::take_over(&self.log, &self.store, &self.id, self.config.conflicts).await?;
        if let Some(tenure) = &self.tenure {
            tenure.claimed(writer.term()).await?;
        }
        // What the bus had before it may have no more.
        self.contents = OnTheBus(Contents::new(self.log.clone(), tokio::runtime::Handle::current()));
        let view = self.store.view();
        self.stamp = ledger::stamp(&view)?;
        self.index = ledger::index(&view)?;
        tracing::info!(source = %self.config.source, term = writer.term(), "the log is claimed");
        gauge!(figures::ACTIVE, "source" => self.label()).set(1.0);
        self.writer = Some(writer);
        Ok(())
    }

    /// Answers who this is at once, also in the middle of a round, and passes other questions on.
    async fn serve(&self) -> Result<mpsc::Receiver<Asked>, Error> {
        let mut questions =
            self.log.broker().questions(&self.config.source).await.map_err(deltabus_bus::Error::from)?;
        let (sender, receiver) = mpsc::channel(1);
        let who = Bytes::from(self.name());
        let shared = self.tenure.as_ref().map(|tenure| Arc::clone(tenure.shared()));
        tokio::spawn(async move {
            loop {
                let question = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    question = questions.next() => question,
                };
                let Some(question) = question else { return };
                match Question::from_bytes(question.payload()) {
                    Some(Question::Who) => question.answer(who.clone()).await,
                    Some(Question::StandBy(name)) => {
                        if let Some(shared) = &shared {
                            shared.announced(name);
                        }
                        question.answer(who.clone()).await;
                    }
                    Some(other) => match sender.try_send((other, question)) {
                        Ok(()) => {}
                        // Who this is must be answered all the time: nothing is waited for here.
                        Err(TrySendError::Full((_, question))) => {
                            question.answer(Bytes::from_static(ANSWER_BUSY.as_bytes())).await
                        }
                        Err(TrySendError::Closed(_)) => return,
                    },
                    None => question.answer(Bytes::from_static(b"this transmitter doesn't know that question")).await,
                }
            }
        });
        Ok(receiver)
    }

    async fn answer(&mut self, (question, asked): Asked) -> Result<(), Error> {
        let answer = match question {
            Question::Who | Question::StandBy(_) => return Ok(()),
            Question::Snapshot => {
                self.snapshot_wanted = true;
                "a snapshot is being written".to_owned()
            }
            Question::Confirm => match confirm_held(&self.store, &self.config.source) {
                Ok(held) => format!("confirmed: {held}"),
                Err(error @ Error::NothingHeld(_)) => format!("{ANSWER_FAILED}{error}"),
                Err(error) => return Err(error),
            },
            Question::Decide(id, decision) => match self.decide(id, decision).await {
                Ok(decided) => decided.to_string(),
                Err(error) => format!("{ANSWER_FAILED}{}", causes(&error)),
            },
        };
        // The source has to be looked at again, though it hasn't changed.
        self.stamp = None;
        asked.answer(answer.into()).await;
        Ok(())
    }

    /// Looks at the source, and stages what changed.
    fn observe_and_stage(&mut self, round: &mut Round) -> Result<(), Error> {
        let start = Instant::now();
        let stamp = in_place(|| self.interface.stamp())?;
        let view = self.store.view();
        let base = ledger::revision(&view)?;
        round.revision = base.number;
        round.held = ledger::held(&view)?;
        let known = !ledger::resupply(&view)? && round.held.is_none();
        if self.stamp.as_ref() == Some(&stamp) && base.number > 0 && known {
            return Ok(());
        }
        if base.number == 0 {
            return self.first_load(&view, round);
        }
        let observation = self.observe(&view, base)?;
        self.count_unread(&observation.unread, round);
        histogram!(figures::SCAN_SECONDS, "source" => self.label()).record(start.elapsed());
        self.count_scanned(&observation.scanned, round);

        let mut working = Working::new(&view, base.digest);
        working.take_in(&observation.transaction.schemas, observation.differences);
        let next = working.digest();
        let held = Held::check(&observation.losses, self.config.max_delete, next);
        if let Some(held) = held
            && ledger::confirmed(&view)?.as_ref() != Some(&held)
        {
            gauge!(figures::HELD, "source" => self.label()).set(1.0);
            let mut batch = self.store.batch();
            ledger::put_held(&mut batch, None)?;
            ledger::put_held(&mut batch, Some(&held))?;
            batch.commit()?;
            round.held = Some(held);
            self.stamp = None;
            return Ok(());
        }
        gauge!(figures::HELD, "source" => self.label()).set(0.0);
        round.held = None;
        let mut batch = self.store.batch();
        ledger::put_held(&mut batch, None)?;
        ledger::resupplied(&mut batch)?;
        // What is stale is known in memory only: another run does without the index.
        let lasting = observation.stale.values().all(HashSet::is_empty);
        ledger::put_index(&mut batch, lasting.then_some(observation.index))?;
        ledger::put_stamp(&mut batch, Some(&observation.stamp))?;
        if !observation.transaction.is_empty() {
            round.changes += observation.transaction.len() as u64;
            round.revision = {
                let origin = Origin { replies: Vec::new(), found: Found::Scan { since: start } };
                self.stage(&view, base, &working, observation.transaction, origin, batch)?.number
            };
        } else {
            batch.commit()?;
        }
        self.stamp = Some(observation.stamp);
        self.index = Some(observation.index);
        self.stale = observation.stale;
        self.counts = Some((next, observation.scanned.into_iter().collect()));
        Ok(())
    }

    /// Reads the source and finds the difference to the previous state.
    fn observe(&self, view: &View, base: Revision) -> Result<Observation, Error> {
        let folder = self.store.dir().join("index");
        let supply = if ledger::resupply(view)? { Supply::All } else { Supply::New };
        let uploads = Uploads::new(&self.contents, &*self.interface, supply);
        let valid = self.index.filter(|_| supply == Supply::New);
        let indexes = Indexes { folder: &folder, valid, stale: &self.stale, next: self.fresh_digest() };
        let unknown = HashMap::new();
        let counts = self.counts.as_ref().filter(|(digest, _)| *digest == base.digest).map(|(_, counts)| counts);
        let stamp = self.stamp.as_ref().filter(|_| supply == Supply::New);
        let previous = Previous { view, stamp, counts: counts.unwrap_or(&unknown) };
        in_place(|| match observe::observe(&*self.interface, &previous, &indexes, &uploads) {
            Err(Error::Index(damaged)) => {
                tracing::warn!(
                    error = deltabus_bus::causes(&damaged),
                    "a scan index is damaged; every record is compared"
                );
                let indexes = Indexes { valid: None, ..indexes };
                observe::observe(&*self.interface, &previous, &indexes, &uploads)
            }
            result => result,
        })
    }

    /// Says what could not be read; the first few by name.
    fn count_unread(&self, unread: &[Unread], round: &mut Round) {
        for part in unread.iter().take(UNREAD_NAMED) {
            tracing::warn!(place = %part.position, error = part.problem, "a place can't be read; it stands as it was");
        }
        if unread.len() > UNREAD_NAMED {
            tracing::warn!(more = unread.len() - UNREAD_NAMED, "further places can't be read");
        }
        round.unread = unread.iter().map(|part| format!("{}: {}", part.position, part.problem)).collect();
        gauge!(figures::UNREAD, "source" => self.label()).set(unread.len() as f64);
    }

    fn count_scanned(&self, scanned: &[(CollectionName, u64)], round: &mut Round) {
        for (collection, records) in scanned {
            round.records += records;
            counter!(figures::RECORDS_SCANNED, "source" => self.label(), "collection" => collection.to_string())
                .increment(*records);
            // So that its first change is seen as growth.
            counter!(figures::CHANGES_PUBLISHED, "source" => self.label(), "collection" => collection.to_string())
                .increment(0);
        }
    }

    /// Takes the whole source in as the first revision, with which the log is founded.
    fn first_load(&mut self, view: &View, round: &mut Round) -> Result<(), Error> {
        let start = Instant::now();
        let folder = self.store.dir().join("index");
        let index = self.fresh_digest();
        let uploads = Uploads::new(&self.contents, &*self.interface, Supply::All);
        let store = &self.store;
        let mut batch = store.batch();
        let indexes = Indexes { folder: &folder, valid: None, stale: &Stale::new(), next: index };
        let loaded = in_place(|| observe::first_load(&*self.interface, view, store, &indexes, &uploads, &mut batch))?;
        let FirstLoad { stamp, digest, scanned, unread } = loaded;
        self.count_unread(&unread, round);
        histogram!(figures::SCAN_SECONDS, "source" => self.label()).record(start.elapsed());
        self.count_scanned(&scanned, round);
        let revision = Revision { number: ledger::floor(view)? + 1, digest };
        ledger::put_revision(&mut batch, &revision)?;
        ledger::want_foundation(&mut batch)?;
        ledger::put_index(&mut batch, Some(index))?;
        ledger::put_stamp(&mut batch, Some(&stamp))?;
        ledger::put_clock(&mut batch, self.now_millis())?;
        in_place(|| batch.commit())?;
        gauge!(figures::REVISION, "source" => self.label()).set(revision.number as f64);
        round.revision = revision.number;
        round.changes += digest.records;
        self.stamp = Some(stamp);
        self.index = Some(index);
        self.stale.clear();
        Ok(())
    }

    /// From here on the set exists: new previous state and outbox entry in one transaction, with what `batch` has already.
    fn stage(
        &self,
        view: &View,
        base: Revision,
        working: &Working<'_>,
        transaction: Transaction,
        origin: Origin,
        mut batch: Batch,
    ) -> Result<Revision, Error> {
        let start = Instant::now();
        let time_millis = self.now_millis().max(ledger::clock(view)?.saturating_add(1));
        let next = Revision { number: base.number + 1, digest: working.digest() };
        for changes in &transaction.collections {
            let label = changes.collection.to_string();
            counter!(figures::CHANGES_PUBLISHED, "source" => self.label(), "collection" => label)
                .increment(changes.changes.len() as u64);
            for change in &changes.changes {
                ledger::remember(&mut batch, &changes.collection, change, time_millis, self.config.conflicts);
            }
        }
        let transactions = if transaction.is_empty() { Vec::new() } else { vec![transaction] };
        let Origin { replies, found } = origin;
        let set = ChangeSet { base, next, time_millis, transactions, replies };
        self.trace_found(&set, found);
        working.write(&mut batch)?;
        let waiting = Waiting { revision: next, time_millis, set: encode_set(&set).packed() };
        batch.outbox_put(next.number, &waiting.to_bytes());
        ledger::put_revision(&mut batch, &next)?;
        ledger::put_clock(&mut batch, time_millis)?;
        in_place(|| batch.commit())?;
        gauge!(figures::REVISION, "source" => self.label()).set(next.number as f64);
        histogram!(figures::STAGE_SECONDS, "source" => self.label()).record(start.elapsed());
        self.trace_staged(&set, start);
        Ok(next)
    }

    /// Writes down how it is, for other processes.
    fn report(&self, round: &Round, error: Option<&Error>) -> Result<(), Error> {
        let view = self.store.view();
        let revision = ledger::revision(&view)?;
        let waiting = ledger::outbox(&view, ledger::position(&view)?.revision.number)?;
        gauge!(figures::REVISION, "source" => self.label()).set(revision.number as f64);
        let status = Status {
            revision: revision.number,
            records: revision.digest.records,
            outbox: waiting.len() as u64,
            held: round.held.clone().or(ledger::held(&view)?),
            error: error.map(ToString::to_string),
            stands_by_for: None,
            standbys: self.tenure.as_ref().map(Tenure::standbys).unwrap_or_default(),
        };
        gauge!(figures::HELD, "source" => self.label()).set(f64::from(u8::from(status.held.is_some())));
        Ok(self.store.write_status(status.to_json(&self.config, self.now_millis()).as_bytes())?)
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

impl Status {
    fn to_json(&self, config: &Config, time_millis: u64) -> String {
        let quoted = |text: &str| deltabus_record::json::quoted(text);
        let optional = |text: Option<String>| text.map_or("null".into(), |text| quoted(&text));
        let standbys: Vec<_> = self.standbys.iter().map(|name| quoted(name)).collect();
        format!(
            "{{\"source\":{},\"location\":{},\"revision\":{},\"records\":{},\"outbox\":{},\"held\":{},\"error\":{},\"stands_by_for\":{},\"standbys\":[{}],\"pid\":{},\"time_millis\":{time_millis}}}\n",
            quoted(config.source.as_str()),
            quoted(&config.location.given),
            self.revision,
            self.records,
            self.outbox,
            optional(self.held.as_ref().map(ToString::to_string)),
            optional(self.error.clone()),
            optional(self.stands_by_for.clone()),
            standbys.join(","),
            std::process::id(),
        )
    }
}

/// Lets the held delete of a source go whose transmitter isn't running: the next round publishes it.
pub fn confirm(state: &StateDirectory, source: &SourceName) -> Result<Held, Error> {
    let owner = Owner::Transmitter { source: source.clone() };
    let store = state.store(&owner)?;
    confirm_held(&store, source)
}

fn confirm_held(store: &Store, source: &SourceName) -> Result<Held, Error> {
    let held = ledger::held(&store.view())?.ok_or_else(|| Error::NothingHeld(source.clone()))?;
    let mut batch = store.batch();
    ledger::put_confirmed(&mut batch, &held)?;
    batch.commit()?;
    Ok(held)
}

async fn next_hint(live: &mut Option<Box<dyn deltabus_bus::broker::Live>>) -> bool {
    match live {
        Some(live) => live.next().await.is_some(),
        None => std::future::pending().await,
    }
}

async fn next_question(questions: &mut Option<mpsc::Receiver<Asked>>) -> Asked {
    if let Some(questions) = questions
        && let Some(asked) = questions.recv().await
    {
        return asked;
    }
    std::future::pending().await
}

async fn replaced(tenure: Option<&Tenure>) {
    match tenure {
        Some(tenure) => tenure.replaced().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn new_id(clock: &dyn Clock) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "transmitter" } else { host };
    format!("{host}-{:08x}", clock.fresh() as u32)
}
