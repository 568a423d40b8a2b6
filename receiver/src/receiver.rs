//! The receiver of one source at one destination.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deltabus_bus::broker::Broker;
use deltabus_bus::{Delivered, Event, Log, Position, Reader, SnapshotReader, decode_reverse, encode_reverse};
use deltabus_interfaces::found::Found;
use deltabus_interfaces::wake::Wake;
use deltabus_interfaces::{
    Action, CollectionWrite, Error as InterfaceError, Interface, Mark, RecordWrite, Scan, Stamp,
};
use deltabus_record::change::{CollectionChanges, ReverseId, ReverseSet, Transaction};
use deltabus_record::diff::{self, Difference, Identity, Index, NoIndex};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::Key;
use deltabus_record::mapping::Mapping;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, CollectionName, ReceiverName, SourceName};
use deltabus_record::value::{Large, Value};
use deltabus_state::{IndexDamaged, Owner, ScanIndex, ScanIndexWriter, StateDirectory, Store, View, Working};
use metrics::{counter, gauge, histogram};
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, MAX_DELETE_DEFAULT, OnError};
use crate::error::Error;
use crate::expected::{Expected, ExpectedRecords};
use crate::filter::Filter;
use crate::ledger::{self, Journal, Wanted};
use crate::metrics as figures;
use crate::outlet::{LargeValues, Outlet, pair};
use crate::pending::Pending;

/// Waiting sets are brought to the destination together, up to this many bytes or sets: larger groups delay and cost memory,
/// and win nothing.
const GROUP_BYTES: u64 = 8 * 1024 * 1024;
const GROUP_SETS: usize = 1_000;

/// Sets that wait between the log and a slow destination.
const QUEUE_SETS: usize = 64;

/// Edits in one reverse set; more go out in several.
const REVERSE_EDITS: usize = 2_000;

/// How often a destination is written when other programs keep writing it too.
const DESTINATION_ATTEMPTS: u32 = 8;

/// Pause after a failure that may pass; doubled up to the most.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

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
}

type Stale = HashMap<CollectionName, HashSet<Vec<u8>>>;

/// Keeps one destination equal to a source.
pub struct Receiver {
    config: Config,
    interface: Arc<dyn Interface>,
    log: Log,
    store: Store,
    mapping: Mapping,
    filter: Option<Arc<Filter>>,
    large: Arc<dyn LargeValues>,
    pending: Pending,
    /// The destination's stamp when it was last known to hold what is expected.
    stamp: Option<Stamp>,
    /// Its collections at that stamp.
    found: Option<Vec<Collection>>,
    index: Option<Digest>,
    stale: Stale,
    /// The destination is at this revision already, though the base isn't: a crash came between.
    ahead: Option<u64>,
    recovered: bool,
    drift: u64,
}

/// What a look at the destination found.
struct Look {
    stamp: Stamp,
    found: Vec<Collection>,
    /// By collection of the source: records that aren't as expected, and how many were expected to be there.
    differences: Vec<(CollectionName, Vec<Difference>, u64)>,
    /// Collections that should be there and aren't.
    missing: bool,
    index: Digest,
}

impl Receiver {
    /// Opens the destination and the receiver's state. Nothing is read or applied yet.
    pub fn open(config: Config, broker: Arc<dyn Broker>, state: &StateDirectory) -> Result<Receiver, Error> {
        let interface: Arc<dyn Interface> = deltabus_interfaces::open(&config.location)?.into();
        Receiver::with_interface(config, interface, broker, state)
    }

    /// The same with an interface that is open already.
    pub fn with_interface(
        config: Config,
        interface: Arc<dyn Interface>,
        broker: Arc<dyn Broker>,
        state: &StateDirectory,
    ) -> Result<Receiver, Error> {
        let filter = config.filter.as_deref().map(Filter::compile).transpose()?.map(Arc::new);
        let owner = Owner::Receiver { source: config.source.clone(), receiver: config.name.clone() };
        let store = Store::open(&state.receiver_folder(&config.source, &config.name), &owner)?;
        let log = Log::new(broker, config.source.clone());
        let large = Arc::new(OnTheBus { log: log.clone(), runtime: tokio::runtime::Handle::current() });
        let mut receiver = Receiver {
            mapping: Mapping::new(&config.fields, &config.omit),
            config,
            interface,
            log,
            store,
            filter,
            large,
            pending: Pending::default(),
            stamp: None,
            found: None,
            index: None,
            stale: Stale::new(),
            ahead: None,
            recovered: false,
            drift: 0,
        };
        receiver.settle_location()?;
        receiver.reload()?;
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

    /// One round: finds edits at the destination, sends them, and applies what the log has, to its end as it stands.
    ///
    /// Needs a runtime of several threads: reading and writing the destination blocks one of them.
    pub async fn receive_once(&mut self) -> Result<Round, Error> {
        let mut round = Round::default();
        let result = self.catch_up(&mut round).await;
        self.report(result.as_ref().err())?;
        result.map(|()| round)
    }

    async fn catch_up(&mut self, round: &mut Round) -> Result<(), Error> {
        self.recover()?;
        let mut position = match ledger::position(&self.store.view())? {
            Some(position) => position,
            None => self.join(round).await?,
        };
        self.tend(round).await?;
        loop {
            let mut reader = Reader::at(&self.log, position);
            let mut group = Vec::new();
            let mut bytes = 0;
            let rejoin = loop {
                match reader.next_stored().await? {
                    Event::Set(set) => {
                        bytes += set.bytes;
                        group.push(*set);
                        if bytes >= GROUP_BYTES || group.len() >= GROUP_SETS {
                            if !self.apply(std::mem::take(&mut group), round).await? {
                                break true;
                            }
                            bytes = 0;
                        }
                    }
                    Event::CaughtUp(end) => {
                        if !self.apply(std::mem::take(&mut group), round).await? {
                            break true;
                        }
                        self.caught_up(&end)?;
                        break false;
                    }
                    Event::Rejoin(reason) => {
                        self.apply(std::mem::take(&mut group), round).await?;
                        tracing::warn!(%reason, "the log doesn't lead on; joining again by snapshot");
                        break true;
                    }
                }
            };
            if !rejoin {
                break;
            }
            position = self.join(round).await?;
            self.tend(round).await?;
        }
        round.revision = ledger::position(&self.store.view())?.map_or(0, |position| position.revision.number);
        Ok(())
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
            self.report(Some(&error))?;
            let passing = error.is_passing();
            let result = Err(error);
            after(&self.config.source, &self.config.name, &result);
            if !passing {
                return result.map(|_: Round| ());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            }
            // Whatever was in hand is read again.
            self.reload()?;
        }
    }

    async fn session(
        &mut self,
        stop: &CancellationToken,
        after: &mut impl FnMut(&SourceName, &ReceiverName, &Result<Round, Error>),
    ) -> Result<SessionEnd, Error> {
        let mut wake = Wake::new(&self.interface.watch(), self.config.poll);
        let round = self.receive_once().await?;
        after(&self.config.source, &self.config.name, &Ok(round));
        let Some(position) = ledger::position(&self.store.view())? else { return Ok(SessionEnd::Again) };
        let (sender, mut events) = mpsc::channel(QUEUE_SETS);
        let mut reader = Reader::at(&self.log, position);
        // Reading isn't cancel safe, so it has a task of its own; it ends when nobody takes its events any more.
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    () = sender.closed() => return,
                    event = reader.next() => event,
                };
                let last = !matches!(event, Ok(Event::Set(_) | Event::CaughtUp(_)));
                if sender.send(event).await.is_err() || last {
                    return;
                }
            }
        });
        loop {
            let mut round = Round::default();
            tokio::select! {
                () = stop.cancelled() => return Ok(SessionEnd::Stopped),
                () = wake.changed(&*self.interface, self.stamp.as_ref()) => self.tend(&mut round).await?,
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
                            Event::Rejoin(reason) => {
                                self.apply(group, &mut round).await?;
                                tracing::warn!(%reason, "the log doesn't lead on; joining again by snapshot");
                                self.join(&mut round).await?;
                                self.tend(&mut round).await?;
                                after(&self.config.source, &self.config.name, &Ok(round));
                                return Ok(SessionEnd::Again);
                            }
                        }
                        if bytes < GROUP_BYTES && group.len() < GROUP_SETS {
                            next = events.try_recv().ok();
                        }
                    }
                    gauge!(figures::LAG_SETS, &self.labels()).set(events.len() as f64);
                    if !self.apply(group, &mut round).await? {
                        self.join(&mut round).await?;
                        return Ok(SessionEnd::Again);
                    }
                    if let Some(end) = end {
                        self.caught_up(&end)?;
                    }
                }
            }
            round.revision = ledger::position(&self.store.view())?.map_or(0, |position| position.revision.number);
            if round.sets + round.edits + round.changes + round.drift > 0 {
                self.report(None)?;
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

    /// A receiver that is pointed at another place begins there anew: nothing that stands there is an edit.
    fn settle_location(&self) -> Result<(), Error> {
        let given = &self.config.location;
        let path = std::path::absolute(&given.path).unwrap_or_else(|_| given.path.clone());
        let here = format!("{}:{}", given.interface, path.display());
        let view = self.store.view();
        let before = ledger::location(&view)?;
        if before.as_deref() == Some(here.as_str()) {
            return Ok(());
        }
        let mut batch = self.store.batch();
        if before.is_some() {
            tracing::warn!(before, now = here, "the destination is another one than before");
            for entry in view.outbox(0) {
                batch.outbox_remove(entry?.0);
            }
            ledger::put_reconcile(&mut batch, Wanted::Yes)?;
            ledger::put_journal(&mut batch, None)?;
            ledger::put_index(&mut batch, None)?;
            ledger::put_stamp(&mut batch, None)?;
        }
        ledger::put_location(&mut batch, &here)?;
        Ok(batch.commit()?)
    }

    /// Takes from the store what is kept in memory.
    fn reload(&mut self) -> Result<(), Error> {
        let view = self.store.view();
        let mut sets = Vec::new();
        for entry in view.outbox(0) {
            sets.push(decode_reverse(&self.config.name, &entry?.1)?);
        }
        self.pending = Pending::new(sets);
        self.stamp = ledger::stamp(&view)?;
        self.index = ledger::index(&view)?;
        self.found = None;
        self.stale.clear();
        self.ahead = None;
        self.recovered = false;
        Ok(())
    }

    /// After a crash: finds out whether the destination already has what was about to be written.
    fn recover(&mut self) -> Result<(), Error> {
        if self.recovered {
            return Ok(());
        }
        let view = self.store.view();
        if let Some(position) = ledger::position(&view)? {
            let mut batch = self.store.batch();
            if self.interface.transactional() {
                let mark = self.interface.mark(&self.owner())?.and_then(|mark| ledger::mark_revision(&mark));
                match mark {
                    Some(mark) if mark == position.revision => {}
                    Some(mark) if mark.number > position.revision.number => self.ahead = Some(mark.number),
                    // Another destination than the one that was written last.
                    _ => ledger::put_reconcile(&mut batch, Wanted::Yes)?,
                }
            } else if let Some(journal) = ledger::journal(&view)? {
                if self.interface.content()? == Some(journal.content) {
                    self.ahead = Some(journal.revision);
                }
                ledger::put_journal(&mut batch, None)?;
            }
            if self.ahead.is_none() {
                batch.commit()?;
            }
        }
        self.recovered = true;
        Ok(())
    }

    /// Looks after the destination: makes it what it should be where it isn't, finds edits, sends them.
    async fn tend(&mut self, round: &mut Round) -> Result<(), Error> {
        if self.ahead.is_some() {
            // First the base has to catch up with what the destination has.
            return Ok(());
        }
        if ledger::reconcile(&self.store.view())? {
            self.reconcile(round)?;
        }
        self.find_edits(round)?;
        if ledger::reconcile(&self.store.view())? {
            self.reconcile(round)?;
        }
        self.send().await
    }

    /// The outlets of all collections, with what was found at the destination.
    fn outlets(&self, source: &[Collection], found: &[Collection]) -> Result<Vec<Outlet>, Error> {
        self.mapping.check_names(source.iter().map(|collection| &collection.schema))?;
        let pairs = pair(&*self.interface, source, found).ok_or_else(|| Error::OneCollection {
            place: self.place(),
            source_name: self.config.source.clone(),
            collections: source.iter().map(|collection| collection.name.to_string()).collect(),
        })?;
        let outlet = |(source, found_at): (&Collection, Option<usize>)| {
            let found = found_at.and_then(|at| found.get(at));
            Outlet::new(&self.interface, source, found, &self.mapping, self.filter.as_ref(), &self.large)
        };
        source.iter().zip(pairs).map(outlet).collect()
    }

    /// Reads the destination and finds what isn't as expected; `None` if there is nothing at all.
    fn look(&self, view: &View) -> Result<Option<Look>, Error> {
        let mut scan = match self.interface.scan() {
            Ok(scan) => scan,
            Err(InterfaceError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let start = Instant::now();
        let found = scan.collections().to_vec();
        let outlets = self.outlets(view.collections(), &found)?;
        let pairs = pair(&*self.interface, view.collections(), &found).unwrap_or_default();
        let next = fresh_digest();
        let mut look = Look {
            stamp: scan.stamp().clone(),
            missing: pairs.contains(&None),
            found,
            differences: Vec::new(),
            index: next,
        };
        for i in 0..look.found.len() {
            let Some(outlet) = pairs.iter().position(|at| *at == Some(i)).map(|at| &outlets[at]) else { continue };
            let expected = Expected { view, outlet, pending: &self.pending };
            let outcome = self.compare(&mut *scan, i, expected, next)?;
            let there = outcome.records;
            look.differences.push((outlet.name().clone(), outcome.differences, there));
        }
        scan.finish()?;
        histogram!(figures::SCAN_SECONDS, &self.labels()).record(start.elapsed());
        Ok(Some(look))
    }

    fn compare(
        &self,
        scan: &mut dyn Scan,
        at: usize,
        expected: Expected<'_>,
        next: Digest,
    ) -> Result<diff::Outcome, Error> {
        scan.start(at)?;
        let layout = scan.layout(at);
        let folder = self.index_folder();
        let name = expected.outlet.name();
        let identity = if expected.outlet.counted() { Identity::WholeRow } else { Identity::Key };
        let index = self.index.and_then(|valid| ScanIndex::open(&folder, name, layout, valid));
        let mut records = Found::new(scan, translator(expected));
        let mut writer = ScanIndexWriter::create(&folder, name, layout)?;
        let outcome: Result<diff::Outcome, diff::DiffError<Error>> = match index {
            Some(index) => {
                let mut index = Masked { index, stale: self.stale.get(name) };
                diff::with_index(&mut records, &mut index, &expected, &mut writer, identity)
            }
            None => diff::without_index(&mut records, &expected, &mut writer, identity),
        };
        let outcome = outcome?;
        writer.finish(next)?;
        Ok(outcome)
    }

    fn index_folder(&self) -> PathBuf {
        self.store.dir().join("index")
    }

    /// Finds edits made at the destination since it was last looked at.
    fn find_edits(&mut self, round: &mut Round) -> Result<(), Error> {
        let now = self.interface.stamp()?;
        if self.stamp.as_ref() == Some(&now) && self.found.is_some() {
            return Ok(());
        }
        let view = self.store.view();
        let Some(position) = ledger::position(&view)? else { return Ok(()) };
        if self.stamp.as_ref() == Some(&now) {
            // Unchanged since another run of this receiver looked; only what stands there has to be known.
            self.found = Some(self.interface.scan()?.collections().to_vec());
            return Ok(());
        }
        let look = block_in_place(|| match self.look(&view) {
            Err(Error::Index(damaged)) => {
                tracing::warn!(%damaged, "every record is compared instead");
                self.index = None;
                self.look(&view)
            }
            result => result,
        })?;
        let mut batch = self.store.batch();
        let Some(look) = look.filter(|look| !look.missing) else {
            tracing::warn!(place = self.place(), "the destination, or a part of it, is gone; it is made anew");
            ledger::put_reconcile(&mut batch, Wanted::Yes)?;
            return Ok(batch.commit()?);
        };
        let differing: u64 = look.differences.iter().map(|(_, differences, _)| differences.len() as u64).sum();
        if self.config.reverse {
            for (_, differences, there) in &look.differences {
                let deletes = differences.iter().filter(|difference| difference.after.is_none()).count() as u64;
                let inserts = differences.iter().filter(|difference| difference.before.is_none()).count() as u64;
                let records = there + deletes - inserts.min(there + deletes);
                if deletes as f64 > records as f64 * MAX_DELETE_DEFAULT && deletes > 1 {
                    let (place, source_name) = (self.place(), self.config.source.clone());
                    return Err(Error::MassDelete { place, source_name, deletes, records });
                }
            }
            let sets = self.reverse_sets(&look, position)?;
            for set in &sets {
                batch.outbox_put(set.id.number, &encode_reverse(set));
                ledger::put_reverse_number(&mut batch, set.id.number)?;
                round.edits += set.edits.len() as u64;
            }
            counter!(figures::EDITS_SENT, &self.labels()).increment(differing);
            for set in sets {
                self.pending.push(set);
            }
        } else {
            if differing != self.drift && differing > 0 {
                tracing::info!(records = differing, place = self.place(), "records differ from the source and stand");
            }
            round.drift = differing;
            self.drift = differing;
            gauge!(figures::DRIFT, &self.labels()).set(differing as f64);
        }
        // Drift must be found again by every scan: then there is no index to pass it over.
        let index = (self.config.reverse || differing == 0).then_some(look.index);
        ledger::put_index(&mut batch, index)?;
        ledger::put_stamp(&mut batch, Some(&look.stamp))?;
        block_in_place(|| batch.commit())?;
        self.index = index;
        self.stale.clear();
        self.stamp = Some(look.stamp);
        self.found = Some(look.found);
        Ok(())
    }

    /// The edits as reverse sets of a bearable size.
    fn reverse_sets(&self, look: &Look, position: Position) -> Result<Vec<ReverseSet>, Error> {
        let mut number = ledger::reverse_number(&self.store.view())?;
        let time_millis = now_millis();
        let mut sets: Vec<ReverseSet> = Vec::new();
        for (collection, differences, _) in &look.differences {
            let changes: Vec<_> = differences.iter().cloned().filter_map(Difference::into_change).collect();
            for changes in changes.chunks(REVERSE_EDITS) {
                let edits = CollectionChanges { collection: collection.clone(), changes: changes.to_vec() };
                match sets.last_mut().filter(|set| set.edits.len() + changes.len() <= REVERSE_EDITS) {
                    Some(set) => set.edits.collections.push(edits),
                    None => {
                        number += 1;
                        sets.push(ReverseSet {
                            id: ReverseId { receiver: self.config.name.clone(), number },
                            base: position.revision,
                            time_millis,
                            edits: Transaction { schemas: Vec::new(), collections: vec![edits] },
                        });
                    }
                }
            }
        }
        Ok(sets)
    }

    /// Sends reverse sets that the bus doesn't have yet.
    async fn send(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let there = self.log.last_reverse(&self.config.name).await?;
        for set in self.pending.sets().iter().filter(|set| set.id.number > there) {
            self.log.send_reverse(set).await?;
        }
        Ok(())
    }

    /// Loads the newest snapshot as the base. The destination is made equal to it afterwards, by [`Receiver::tend`].
    async fn join(&mut self, round: &mut Round) -> Result<Position, Error> {
        if ledger::position(&self.store.view())?.is_some() && self.ahead.is_none() {
            // What was edited on the old base counts.
            self.find_edits(round)?;
        }
        counter!(figures::JOINS, &self.labels()).increment(1);
        let mut reader = SnapshotReader::open(&self.log).await?;
        let manifest = reader.manifest().clone();
        let hashers: Vec<_> =
            manifest.collections.iter().map(|collection| RecordHasher::new(&collection.name)).collect();
        let mut loads = Vec::new();
        for collection in &manifest.collections {
            loads.push(self.store.load(collection)?);
        }
        let mut digest = Digest::default();
        while let Some(mut records) = reader.next().await? {
            block_in_place(|| -> Result<(), Error> {
                while let Some((collection, key, row)) = records.advance()? {
                    deltabus_record::row::check(row).map_err(|error| deltabus_bus::Error::Wire {
                        what: "a snapshot",
                        problem: error.to_string(),
                    })?;
                    digest.add(hashers[collection].hash(key, row));
                    loads[collection].put(key, row)?;
                }
                Ok(())
            })?;
        }
        let revision = manifest.position.revision;
        if digest != revision.digest {
            return Err(Error::Digest { source_name: self.config.source.clone(), revision: revision.number });
        }
        let mut batch = self.store.batch();
        for collection in self.store.view().collections() {
            if !manifest.collections.iter().any(|kept| kept.name == collection.name) {
                batch.remove_collection(&collection.name)?;
            }
        }
        for load in loads {
            load.finish(&mut batch)?;
        }
        let mine = manifest.cursors.iter().find(|(receiver, _)| *receiver == self.config.name);
        if let Some((_, answered)) = mine {
            let (left, done) = self.pending.answered(*answered);
            for number in done {
                batch.outbox_remove(number);
            }
            self.pending = left;
            let number = ledger::reverse_number(&self.store.view())?.max(*answered);
            ledger::put_reverse_number(&mut batch, number)?;
        }
        ledger::put_position(&mut batch, &manifest.position)?;
        ledger::put_reconcile(&mut batch, Wanted::Yes)?;
        ledger::put_journal(&mut batch, None)?;
        ledger::put_index(&mut batch, None)?;
        block_in_place(|| batch.commit())?;
        self.index = None;
        self.ahead = None;
        round.joined = true;
        Ok(manifest.position)
    }

    /// Makes the destination equal to base and pending edits, writing only what differs.
    fn reconcile(&mut self, round: &mut Round) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            match block_in_place(|| self.reconcile_now(round)) {
                Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < DESTINATION_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn reconcile_now(&mut self, round: &mut Round) -> Result<(), Error> {
        let start = Instant::now();
        let view = self.store.view();
        let Some(position) = ledger::position(&view)? else { return Ok(()) };
        let (stamp, found) = match self.interface.scan() {
            Ok(scan) => (scan.stamp().clone(), scan.collections().to_vec()),
            Err(InterfaceError::Missing { .. }) => (Stamp::MISSING, Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let outlets = self.outlets(view.collections(), &found)?;
        let pairs = pair(&*self.interface, view.collections(), &found).unwrap_or_default();
        let first = ledger::stamp(&view)?.is_none();
        let mut loads: Vec<Option<ExpectedRecords<'_>>> = Vec::new();
        let mut writes: Vec<Vec<RecordWrite>> = Vec::new();
        let mut scan = if found.is_empty() { None } else { Some(self.interface.scan()?) };
        let order: Vec<usize> = {
            // A scan goes through the collections in its own order.
            let mut order: Vec<usize> = (0..outlets.len()).collect();
            order.sort_by_key(|at| pairs.get(*at).copied().flatten());
            order
        };
        let mut plans: Vec<(usize, Option<Vec<RecordWrite>>)> = Vec::new();
        for at in order {
            let expected = Expected { view: &view, outlet: &outlets[at], pending: &self.pending };
            let place = pairs.get(at).copied().flatten();
            let write = match (&mut scan, place) {
                (Some(scan), Some(place)) if !self.is_empty(place)? => {
                    Some(self.differing(&mut **scan, place, expected, first)?)
                }
                _ => None,
            };
            plans.push((at, write));
        }
        if let Some(scan) = &mut scan {
            scan.finish()?;
        }
        drop(scan);
        let mut changes = 0;
        for (at, write) in plans.iter_mut() {
            let expected = Expected { view: &view, outlet: &outlets[*at], pending: &self.pending };
            match write.take() {
                Some(write) => {
                    changes += write.len() as u64;
                    loads.push(None);
                    writes.push(write);
                }
                None => {
                    loads.push(Some(ExpectedRecords::new(expected)?));
                    writes.push(Vec::new());
                }
            }
        }
        let mut all = Vec::new();
        for (((at, _), load), write) in plans.iter().zip(&mut loads).zip(&writes) {
            let outlet = &outlets[*at];
            let action = match load {
                Some(records) => Action::Load(records),
                None => Action::Write(write),
            };
            all.push(CollectionWrite { collection: &outlet.destination, dropped: &outlet.dropped, action });
        }
        let mark = self.mark(&position);
        let unchanged = loads_are_empty(&all) && changes == 0 && !self.interface.transactional() && !stamp.is_missing();
        let stamp = if unchanged { stamp } else { self.interface.stage(&mut all, &stamp, mark.as_ref())?.commit()? };
        drop(all);
        let mut batch = self.store.batch();
        ledger::put_reconcile(&mut batch, Wanted::No)?;
        ledger::put_index(&mut batch, None)?;
        ledger::put_stamp(&mut batch, Some(&stamp))?;
        batch.commit()?;
        round.changes += changes;
        for load in loads.iter().flatten() {
            round.changes += load.count();
        }
        self.index = None;
        self.stale.clear();
        self.found = Some(self.interface.scan()?.collections().to_vec());
        self.stamp = Some(stamp);
        histogram!(figures::APPLY_SECONDS, &self.labels()).record(start.elapsed());
        gauge!(figures::REVISION, &self.labels()).set(position.revision.number as f64);
        Ok(())
    }

    fn is_empty(&self, collection: usize) -> Result<bool, Error> {
        let mut scan = self.interface.scan()?;
        for before in 0..=collection {
            scan.start(before)?;
            if before == collection {
                return Ok(scan.next()?.is_none());
            }
            while scan.next()?.is_some() {}
        }
        Ok(true)
    }

    /// The writes that make a collection what is expected.
    fn differing(
        &self,
        scan: &mut dyn Scan,
        at: usize,
        expected: Expected<'_>,
        first: bool,
    ) -> Result<Vec<RecordWrite>, Error> {
        scan.start(at)?;
        let outlet = expected.outlet;
        let identity = if outlet.counted() { Identity::WholeRow } else { Identity::Key };
        let mut records = Found::new(scan, translator(expected));
        let outcome: Result<diff::Outcome, diff::DiffError<Error>> =
            diff::without_index(&mut records, &expected, &mut NoIndex::<Error>::default(), identity);
        let outcome = outcome?;
        let deletes = outcome.differences.iter().filter(|difference| difference.before.is_none()).count() as u64;
        if first && deletes as f64 > outcome.records as f64 * MAX_DELETE_DEFAULT {
            return Err(Error::WouldWipe {
                place: self.place(),
                source_name: self.config.source.clone(),
                deletes,
                records: outcome.records,
            });
        }
        let mut writes = Vec::new();
        for difference in &outcome.differences {
            // What is expected is where it is to go; what was found is where it is.
            writes.extend(write(outlet, difference.after.as_ref(), difference.before.as_ref())?);
        }
        Ok(writes)
    }

    fn mark(&self, position: &Position) -> Option<Mark> {
        let mark = || Mark { owner: self.owner(), value: ledger::mark_value(&position.revision) };
        self.interface.transactional().then(mark)
    }

    /// Brings a group of sets to the destination and the base; `false` if they don't fit and a snapshot is needed.
    async fn apply(&mut self, sets: Vec<Delivered>, round: &mut Round) -> Result<bool, Error> {
        let reached = ledger::position(&self.store.view())?.unwrap_or_default();
        let sets: Vec<_> = sets.into_iter().filter(|set| set.set.next.number > reached.revision.number).collect();
        if sets.is_empty() {
            return Ok(true);
        }
        // What the destination has already, and what it hasn't, go separately.
        let (had, new): (Vec<_>, Vec<_>) =
            sets.into_iter().partition(|set| self.ahead.is_some_and(|ahead| set.set.next.number <= ahead));
        for (group, destination) in [(had, Destination::HasIt), (new, Destination::Lacks)] {
            if group.is_empty() {
                continue;
            }
            let mut attempt = 0;
            let fits = loop {
                if destination == Destination::Lacks {
                    if self.ahead.take().is_some() {
                        let mut batch = self.store.batch();
                        ledger::put_stamp(&mut batch, None)?;
                        batch.commit()?;
                        self.stamp = None;
                    }
                    // Edits made here count as made before these sets.
                    self.tend(round).await?;
                }
                match block_in_place(|| self.apply_now(&group, destination, round)) {
                    Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < DESTINATION_ATTEMPTS => {
                        attempt += 1;
                        self.stamp = None;
                    }
                    Err(Error::Apply(error)) => {
                        tracing::warn!(%error, "joining again by snapshot");
                        break false;
                    }
                    Err(error @ Error::Digest { .. }) => {
                        tracing::warn!(%error, "joining again by snapshot");
                        break false;
                    }
                    result => {
                        result?;
                        break true;
                    }
                }
            };
            if !fits {
                return Ok(false);
            }
        }
        if self.ahead.is_some_and(|ahead| {
            ledger::position(&self.store.view()).ok().flatten().is_some_and(|at| at.revision.number >= ahead)
        }) {
            self.ahead = None;
            self.stamp = None;
            self.tend(round).await?;
        } else {
            self.send().await?;
        }
        Ok(true)
    }

    fn apply_now(&mut self, sets: &[Delivered], destination: Destination, round: &mut Round) -> Result<(), Error> {
        let start = Instant::now();
        let view = self.store.view();
        let position = ledger::position(&view)?.unwrap_or_default();
        let mut working = Working::new(&view, position.revision.digest);
        let mut answered = 0;
        let mut next = position;
        let mut bytes = 0;
        for Delivered { set, position, bytes: size } in sets {
            for transaction in &set.transactions {
                working.apply(transaction)?;
            }
            if working.digest() != set.next.digest {
                let source_name = self.config.source.clone();
                return Err(Error::Digest { source_name, revision: set.next.number });
            }
            let replies = set.replies.iter().filter(|reply| reply.reverse.receiver == self.config.name);
            answered = replies.map(|reply| reply.reverse.number).fold(answered, u64::max);
            next = *position;
            bytes += size;
        }
        let (pending, done) = self.pending.answered(answered);
        let mut batch = self.store.batch();
        let mut stamp = self.stamp.clone();
        let mut schemas_changed = false;
        let mut written: Vec<(CollectionName, Key, Option<Row>)> = Vec::new();
        if destination == Destination::Lacks {
            let found = self.found.clone().unwrap_or_default();
            schemas_changed = working.collections() != view.collections();
            let outlets = self.outlets(working.collections(), &found)?;
            let mut records: BTreeSet<(CollectionName, Key)> =
                working.touched().map(|(collection, key, _)| (collection.clone(), key.clone())).collect();
            if !done.is_empty() {
                records.extend(self.pending.records());
            }
            let mut writes: Vec<Vec<RecordWrite>> = outlets.iter().map(|_| Vec::new()).collect();
            for (collection, key) in &records {
                let Some(at) = outlets.iter().position(|outlet| outlet.name() == collection) else { continue };
                let mut base = Vec::new();
                let base = view.get(collection, key.as_bytes(), &mut base)?.then(|| Row::from_trusted(base));
                let before = self.pending.on_top(collection, key, base);
                let after = pending.on_top(collection, key, working.get(collection, key)?);
                if before == after {
                    continue;
                }
                match write(&outlets[at], before.as_ref(), after.as_ref()) {
                    Ok(write) => {
                        writes[at].extend(write);
                        written.push((collection.clone(), key.clone(), after.or(before)));
                    }
                    Err(error) if self.config.on_error == OnError::DeadLetter && is_refusal(&error) => {
                        round.dead_letters += 1;
                        self.dead_letter(&mut batch, next.revision.number, collection, key, &error)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            if self.config.on_error == OnError::DeadLetter {
                self.sort_out(&outlets, &mut writes, next.revision.number, &mut batch, round)?;
            }
            round.changes += writes.iter().map(|writes| writes.len() as u64).sum::<u64>();
            for (outlet, writes) in outlets.iter().zip(&writes).filter(|(_, writes)| !writes.is_empty()) {
                let mut labels = self.labels().to_vec();
                labels.push(("collection", outlet.name().to_string()));
                counter!(figures::CHANGES_APPLIED, &labels).increment(writes.len() as u64);
            }
            let all = collection_writes(&outlets, &writes, schemas_changed);
            let gone: Vec<Collection> = view
                .collections()
                .iter()
                .filter(|known| !self.interface.single_collection() && working.collection(&known.name).is_none())
                .filter(|known| found.iter().any(|found| found.name == known.name))
                .cloned()
                .collect();
            stamp = self.write_destination(all, &gone, &next)?.or(stamp);
        }
        working.write(&mut batch)?;
        for number in done {
            batch.outbox_remove(number);
        }
        ledger::put_position(&mut batch, &next)?;
        ledger::put_journal(&mut batch, None)?;
        if stamp != self.stamp {
            ledger::put_stamp(&mut batch, stamp.as_ref())?;
            ledger::put_index(&mut batch, None)?;
        }
        batch.commit()?;
        for (collection, key, row) in written {
            let content = match (working.collection(&collection), &row) {
                (Some(collection), Some(row)) => {
                    let mut content = Vec::new();
                    collection.schema.key_content_into(row.as_bytes(), &mut content);
                    content
                }
                _ => key.as_bytes().to_vec(),
            };
            self.stale.entry(collection).or_default().insert(content);
        }
        self.stamp = stamp;
        self.pending = pending;
        if schemas_changed && destination == Destination::Lacks {
            self.found = match self.interface.scan() {
                Ok(scan) => Some(scan.collections().to_vec()),
                Err(InterfaceError::Missing { .. }) => Some(Vec::new()),
                Err(error) => return Err(error.into()),
            };
        }
        round.sets += sets.len() as u64;
        counter!(figures::SETS_APPLIED, &self.labels()).increment(sets.len() as u64);
        counter!(figures::BYTES_RECEIVED, &self.labels()).increment(bytes);
        gauge!(figures::REVISION, &self.labels()).set(next.revision.number as f64);
        histogram!(figures::APPLY_SECONDS, &self.labels()).record(start.elapsed());
        if let Some(last) = sets.last() {
            let lag = now_millis().saturating_sub(last.set.time_millis) as f64 / 1000.0;
            gauge!(figures::LAG_SECONDS, &self.labels()).set(lag);
        }
        Ok(())
    }

    /// Writes the destination, if there is anything to write; gives its new stamp.
    fn write_destination<'a>(
        &self,
        mut all: Vec<CollectionWrite<'a>>,
        gone: &'a [Collection],
        next: &Position,
    ) -> Result<Option<Stamp>, Error> {
        for collection in gone {
            all.push(CollectionWrite { collection, dropped: &[], action: Action::Remove });
        }
        if all.is_empty() && !self.interface.transactional() {
            return Ok(None);
        }
        let expected = self.stamp.clone().unwrap_or(Stamp::MISSING);
        let mark = self.mark(next);
        let staged = self.interface.stage(&mut all, &expected, mark.as_ref())?;
        if let Some(content) = staged.content() {
            // Before the commit: after a crash this tells whether it happened.
            let mut batch = self.store.batch();
            ledger::put_journal(&mut batch, Some(&Journal { revision: next.revision.number, content }))?;
            batch.commit()?;
        }
        Ok(Some(staged.commit()?))
    }

    /// Takes out writes that the destination refuses, each tried on its own, if they don't go together.
    fn sort_out(
        &self,
        outlets: &[Outlet],
        writes: &mut [Vec<RecordWrite>],
        revision: u64,
        batch: &mut deltabus_state::Batch,
        round: &mut Round,
    ) -> Result<(), Error> {
        let expected = self.stamp.clone().unwrap_or(Stamp::MISSING);
        let tried = |writes: &[Vec<RecordWrite>]| {
            let mut all = collection_writes(outlets, writes, false);
            self.interface.stage(&mut all, &expected, None).map(drop)
        };
        match tried(writes) {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => {}
        }
        for (at, outlet) in outlets.iter().enumerate() {
            let mut kept = Vec::new();
            for write in std::mem::take(&mut writes[at]) {
                let mut alone: Vec<Vec<RecordWrite>> = outlets.iter().map(|_| Vec::new()).collect();
                alone[at] = vec![write.clone()];
                match tried(&alone) {
                    Ok(()) => kept.push(write),
                    Err(error) if error.is_transient() => return Err(error.into()),
                    Err(error) => {
                        round.dead_letters += 1;
                        let (RecordWrite::Put { key, .. } | RecordWrite::Remove { key, .. }) = &write;
                        self.dead_letter(batch, revision, outlet.name(), key, &error.into())?;
                    }
                }
            }
            writes[at] = kept;
        }
        Ok(())
    }

    /// Keeps a change that can't be applied.
    fn dead_letter(
        &self,
        batch: &mut deltabus_state::Batch,
        revision: u64,
        collection: &CollectionName,
        key: &Key,
        error: &Error,
    ) -> Result<(), Error> {
        counter!(figures::DEAD_LETTERS, &self.labels()).increment(1);
        let key_text = deltabus_record::key::display(key.as_bytes());
        tracing::error!(revision, %collection, key = key_text, %error, "a change is kept among the dead letters");
        let name = format!("dead/{revision:020}/{collection}/{key_text}");
        let values = [
            Value::Integer(revision as i64),
            Value::text(collection.as_str()),
            Value::Bytes(key.as_bytes().to_vec()),
            Value::text(error.to_string()),
        ];
        Ok(batch.meta_put_values(&name, &values)?)
    }

    fn caught_up(&mut self, end: &Position) -> Result<(), Error> {
        gauge!(figures::LAG_SETS, &self.labels()).set(0.0);
        let reached = ledger::position(&self.store.view())?;
        // Claims move the log on without a set: remember, so that their expiry is no hole.
        if reached.is_some_and(|reached| reached.revision == end.revision && reached != *end) {
            let mut batch = self.store.batch();
            ledger::put_position(&mut batch, end)?;
            batch.commit()?;
        }
        Ok(())
    }

    /// Writes down how it is, for other processes.
    fn report(&self, error: Option<&Error>) -> Result<(), Error> {
        let view = self.store.view();
        let position = ledger::position(&view)?.unwrap_or_default();
        let dead = view.meta_prefix("dead/")?.len();
        let quoted = |text: &str| deltabus_record::json::quoted(text);
        let error = error.map_or("null".into(), |error| quoted(&error.to_string()));
        let status = format!(
            "{{\"source\":{},\"receiver\":{},\"location\":{},\"reverse\":{},\"revision\":{},\"records\":{},\"pending\":{},\"drift\":{},\"dead_letters\":{dead},\"error\":{error},\"pid\":{},\"time_millis\":{}}}\n",
            quoted(self.config.source.as_str()),
            quoted(self.config.name.as_str()),
            quoted(&self.config.location.given),
            self.config.reverse,
            position.revision.number,
            position.revision.digest.records,
            self.pending.sets().len(),
            self.drift,
            std::process::id(),
            now_millis(),
        );
        Ok(self.store.write_status(status.as_bytes())?)
    }
}

/// How a session ended.
enum SessionEnd {
    Stopped,
    Again,
}

/// Whether the destination already holds what a group brings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    HasIt,
    Lacks,
}

/// The write that makes a destination record of `before` one of `after`, both in the source's terms.
fn write(outlet: &Outlet, before: Option<&Row>, after: Option<&Row>) -> Result<Option<RecordWrite>, Error> {
    let before = outlet.row(before)?;
    let after = outlet.row(after)?;
    Ok(match (before, after) {
        (None, None) => None,
        (Some(row), None) => Some(RecordWrite::Remove { key: outlet.destination_key(&row, 0), row }),
        (None, Some(row)) => {
            let changed = (0..outlet.destination.schema.fields.len() as u32).collect();
            Some(RecordWrite::Put { key: outlet.destination_key(&row, 0), row, changed })
        }
        (Some(before), Some(row)) => {
            let changed: Vec<u32> = diff::fields(&before, &row).into_iter().map(|field| field.slot).collect();
            if changed.is_empty() {
                return Ok(None);
            }
            Some(RecordWrite::Put { key: outlet.destination_key(&row, 0), row, changed })
        }
    })
}

/// The writes of all collections that have any; all collections where schemas changed.
fn collection_writes<'a>(
    outlets: &'a [Outlet],
    writes: &'a [Vec<RecordWrite>],
    schemas_changed: bool,
) -> Vec<CollectionWrite<'a>> {
    let all = outlets.iter().zip(writes).filter(|(_, writes)| schemas_changed || !writes.is_empty());
    all.map(|(outlet, writes)| CollectionWrite {
        collection: &outlet.destination,
        dropped: &outlet.dropped,
        action: Action::Write(writes),
    })
    .collect()
}

fn loads_are_empty(writes: &[CollectionWrite<'_>]) -> bool {
    writes.iter().all(|write| matches!(&write.action, Action::Write(writes) if writes.is_empty()))
}

fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused { .. })
}

/// Brings destination rows into the source's terms.
fn translator<'a>(expected: Expected<'a>) -> Box<deltabus_interfaces::found::Translate<'a>> {
    let mut placed = RowBuilder::default();
    Box::new(move |row, key, out| {
        let row = expected.outlet.placed(row, &mut placed);
        let start = key.len();
        expected.outlet.source_key(row, key);
        let base = match expected.outlet.counted() {
            // The key is the row itself: an equal one is the base.
            true => expected.row(diff::counted(&key[start..], 0).as_bytes()),
            false => expected.row(&key[start..]),
        };
        let lifted = base.and_then(|base| expected.outlet.lift(row, base.as_deref(), out));
        lifted.map_err(|error| InterfaceError::Records(Box::new(error)))
    })
}

/// An index in which the entries of some records count as unknown.
struct Masked<'a> {
    index: ScanIndex,
    stale: Option<&'a HashSet<Vec<u8>>>,
}

impl Index for Masked<'_> {
    type Error = IndexDamaged;

    fn next(&mut self) -> Result<Option<u64>, IndexDamaged> {
        let fingerprint = self.index.advance()?;
        let stale = self.stale.is_some_and(|stale| stale.contains(self.index.key()));
        // Another fingerprint than any stored form of this record had.
        Ok(fingerprint.map(|fingerprint| if stale { !fingerprint } else { fingerprint }))
    }

    fn key(&self) -> &[u8] {
        self.index.key()
    }
}

/// Large values on the bus, from threads that may block.
struct OnTheBus {
    log: Log,
    runtime: tokio::runtime::Handle,
}

impl LargeValues for OnTheBus {
    fn fetch(&self, large: &Large) -> Result<Value, Error> {
        Ok(self.runtime.block_on(self.log.get_large(large))?)
    }

    fn keep(&self, bytes: &[u8], text: bool) -> Result<Large, Error> {
        Ok(self.runtime.block_on(self.log.put_large(bytes, text))?)
    }
}

fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// A name for scan indexes that no other has.
fn fresh_digest() -> Digest {
    let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now_millis());
    Digest { records: now_millis(), sum: u128::from(random()) << 64 | u128::from(random()) }
}
