//! Finding out how everything stands, again and again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use deltabus_bus::standing::{Heard, spread};
use deltabus_bus::{Clock, Log, SystemClock, lease};
use deltabus_manager::v1;
use deltabus_manager::v1::standing::Role;
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::{StateDirectory, is_busy, read_status};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::course::{Course, SPAN_SECONDS};
use crate::arguments::Global;
use crate::commands::cases::CaseCounter;
use crate::commands::who::GONE_MILLIS;
use crate::error::Error;
use crate::presence::{Company, is_gone};
use crate::session::{self, Bus};

/// How long receivers are listened to after a call: a round trip through a broker far away.
const LISTEN: Duration = Duration::from_millis(300);

/// Who only looks waits no longer for answers; where there are more receivers, what the transmitter remembers has to do.
const SPREAD_MAX: Duration = Duration::from_millis(500);

/// How often is looked up whom the transmitter remembers.
const RECALL: Duration = Duration::from_secs(20);

/// Looks at a state directory and the bus; keeps what a next look needs.
pub(crate) struct Looker<'a> {
    global: &'a Global,
    state: &'a StateDirectory,
    /// The bus, and what it was found by.
    bus: Option<(Option<String>, Bus)>,
    cases: CaseCounter,
    courses: BTreeMap<SourceName, Course>,
    companies: BTreeMap<SourceName, (Company, Option<Instant>)>,
    /// When receivers were called last.
    called_millis: u64,
    /// What the manager was told, where there is one.
    told: Vec<v1::Participant>,
}

/// A receiver, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub(crate) name: ReceiverName,
    /// Its state lies in this state directory.
    pub(crate) here: bool,
    /// It isn't there now.
    pub(crate) gone: bool,
    /// The revision that its destination is at.
    pub(crate) revision: u64,
    /// When it was heard, or wrote down how it stands.
    pub(crate) seen_millis: Option<u64>,
    /// All of it, for JSON.
    pub(crate) entry: Value,
}

impl<'a> Looker<'a> {
    /// Nothing is looked at yet.
    pub(crate) fn new(global: &'a Global, state: &'a StateDirectory) -> Looker<'a> {
        let (courses, companies) = (BTreeMap::new(), BTreeMap::new());
        Looker {
            global,
            state,
            bus: None,
            cases: CaseCounter::default(),
            courses,
            companies,
            called_millis: u64::MAX,
            told: Vec::new(),
        }
    }

    /// The same on a bus that is connected already.
    pub(crate) fn on(global: &'a Global, state: &'a StateDirectory, bus: Bus) -> Looker<'a> {
        Looker { bus: Some((None, bus)), ..Looker::new(global, state) }
    }

    /// Everything known, of `only` this source where one is named.
    pub(crate) async fn look(&mut self, only: Option<&SourceName>) -> Result<Value, Error> {
        let mut names = self.names_here()?;
        let bus = self.connect(&names).await?;
        if let Some((_, bus)) = &self.bus {
            names.extend(bus.sources().await?);
        }
        names.sort();
        names.dedup();
        if let Some(only) = only {
            names.retain(|name| name == only);
        }
        self.listen(&names).await?;
        let mut sources = Vec::new();
        let mut receivers = Vec::new();
        for name in names {
            let source = self.source(&name).await?;
            let kept = self.receivers(&name).await?;
            let nothing = source["here"] == false && source["published"].is_null();
            if nothing && only.is_none() && kept.iter().all(|receiver| receiver.gone && receiver.revision == 0) {
                // A name that was mistyped once: neither was there ever such a source, nor does anybody wait for it.
                continue;
            }
            let revision = source["revision"].as_u64().unwrap_or(0).max(source["published"].as_u64().unwrap_or(0));
            let now = SystemClock.now_millis();
            for receiver in kept {
                let mut entry = receiver.entry;
                let lag = revision.saturating_sub(receiver.revision);
                entry["lag"] = lag.into();
                let since = self.courses.get(&name).filter(|_| lag > 0);
                let since = since.and_then(|course| course.since(receiver.revision));
                entry["lag_seconds"] = match lag {
                    0 => 0.into(),
                    _ => since.map(|since| now.saturating_sub(since) / 1000).into(),
                };
                receivers.push(entry);
            }
            sources.push(source);
        }
        Ok(json!({ "bus": bus, "sources": sources, "receivers": receivers }))
    }

    /// The sources that this state directory has to do with.
    fn names_here(&self) -> Result<Vec<SourceName>, Error> {
        let mut names: Vec<_> = self.state.sources()?;
        names.extend(self.state.receivers()?.into_iter().map(|(source, _)| source));
        Ok(names)
    }

    /// Connects where that is not so yet; says what bus it is. Looking starts nothing.
    async fn connect(&mut self, names: &[SourceName]) -> Result<Value, Error> {
        let running = session::local_bus(self.state).status();
        let found_by = match (&self.global.bus, &running) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(running)) => Some(running.url.clone()),
            (None, None) => None,
        };
        if self.global.manager.is_none() && found_by.is_none() {
            self.bus = None;
        } else if self.bus.as_ref().is_none_or(|(before, _)| *before != found_by) {
            self.bus = Some((found_by, session::any_bus(self.global, self.state, names).await?));
            self.courses.clear();
            self.companies.clear();
        }
        let url = self.bus.as_ref().and_then(|(_, bus)| bus.url());
        Ok(match (&self.global.bus, &running) {
            _ if self.global.manager.is_some() => {
                json!({ "url": self.global.manager, "local": false, "running": true })
            }
            (Some(_), _) => json!({ "url": url, "local": false, "running": true }),
            (None, Some(running)) => {
                json!({ "url": running.url, "local": true, "running": true, "pid": running.pid })
            }
            (None, None) => json!({ "url": null, "local": true, "running": false }),
        })
    }

    /// Calls the receivers of these sources and listens a while; where there is a manager, it is asked what it was told.
    pub(crate) async fn listen(&mut self, names: &[SourceName]) -> Result<(), Error> {
        let Some((_, bus)) = &self.bus else { return Ok(()) };
        if let Bus::Managed(member) = bus {
            self.told = member.company().await?;
            return Ok(());
        }
        let mut called = None;
        self.called_millis = SystemClock.now_millis();
        for name in names {
            let Some(log) = bus.hears(name).await? else { continue };
            let log = Log::new(log, name.clone());
            let (company, recalled) =
                self.companies.entry(name.clone()).or_insert_with(|| (Company::listen(&log), None));
            if recalled.is_none_or(|when| when.elapsed() >= RECALL) {
                company.recall().await?;
                *recalled = Some(Instant::now());
            }
            let spread = spread(company.there().len());
            if spread <= SPREAD_MAX {
                company.listens().await;
                company.call(spread).await?;
                called = Some(called.unwrap_or(Duration::ZERO).max(spread));
            }
        }
        if let Some(spread) = called {
            sleep(spread + LISTEN).await;
        }
        Ok(())
    }

    /// What is known of a source.
    async fn source(&mut self, name: &SourceName) -> Result<Value, Error> {
        let folder = self.state.source_folder(name);
        let mut source = status_in(&folder).unwrap_or_else(|| json!({ "source": name.as_str() }));
        source["here"] = folder.is_dir().into();
        source["running"] = is_busy(&folder).into();
        let Some((_, bus)) = &self.bus else { return Ok(source) };
        let Some(broker) = bus.known(name).await? else { return Ok(source) };
        let log = Log::new(broker, name.clone());
        // There only where somebody stands by, or did.
        let lease = lease::find(&log).await?;
        source["active"] = lease.holder().into();
        if let Some(course) = go_on(&mut self.courses, &log).await {
            source["published"] = course.end().into();
            let changes = course.throughput(SystemClock.now_millis());
            source["throughput"] = json!({ "span_seconds": SPAN_SECONDS, "changes": changes });
        }
        if let Ok(cases) = self.cases.count(&log).await {
            source["conflicts"] = cases.conflicts.into();
            source["conflicts_open"] = cases.open.into();
            source["dead_letters"] = cases.refused.into();
            source["counts_complete"] = cases.complete.into();
        }
        Ok(source)
    }

    /// The receivers of a source, by name: those of this state directory, and those that the bus or the manager knows of.
    pub(crate) async fn receivers(&self, source: &SourceName) -> Result<Vec<Receiver>, Error> {
        let mut found = BTreeMap::new();
        for (_, name) in self.state.receivers()?.into_iter().filter(|(of, _)| of == source) {
            let folder = self.state.receiver_folder(source, &name);
            found.insert(name.clone(), local(source, name, &folder));
        }
        for receiver in self.elsewhere(source).await? {
            match found.get_mut(&receiver.name) {
                None => drop(found.insert(receiver.name.clone(), receiver)),
                // One that answers though it doesn't run here has moved to another machine, and left its state behind.
                Some(known) if known.gone && !receiver.gone && receiver.seen_millis >= Some(self.called_millis) => {
                    *known = receiver;
                }
                // It wrote down what happened last, and was heard after that.
                Some(known) if known.gone && known.seen_millis < receiver.seen_millis => {
                    known.seen_millis = receiver.seen_millis;
                    known.entry["seen_millis"] = receiver.seen_millis.into();
                }
                Some(_) => {}
            }
        }
        Ok(found.into_values().collect())
    }

    /// Those that the bus or the manager knows of.
    async fn elsewhere(&self, source: &SourceName) -> Result<Vec<Receiver>, Error> {
        let now = SystemClock.now_millis();
        if let Some((company, _)) = self.companies.get(source) {
            return Ok(company.roll().iter().map(|heard| heard_of(source, heard, now)).collect());
        }
        match &self.bus {
            Some((_, Bus::Managed(_))) => {
                let standings = self.told.iter().flat_map(|participant| {
                    let standings = participant.standings.iter().filter_map(|lagging| lagging.standing.as_ref());
                    standings.map(|standing| (participant.seen_millis, standing))
                });
                let standings = standings
                    .filter(|(_, standing)| standing.role() == Role::Receiver && standing.source == source.as_str());
                Ok(standings.filter_map(|(seen, standing)| reported(standing, seen, now)).collect())
            }
            Some((_, bus)) => {
                // Whoever may not listen may still read what the transmitter remembers.
                let Some(broker) = bus.known(source).await? else { return Ok(Vec::new()) };
                let kept = deltabus_bus::standing::kept(&Log::new(broker, source.clone())).await?;
                Ok(kept.roll.iter().map(|heard| heard_of(source, heard, now)).collect())
            }
            None => Ok(Vec::new()),
        }
    }

    /// Whether a manager is asked.
    pub(crate) fn is_managed(&self) -> bool {
        matches!(self.bus, Some((_, Bus::Managed(_))))
    }

    /// Writes down on the bus who was heard.
    pub(crate) async fn keep(&self, source: &SourceName) {
        if let Some((company, _)) = self.companies.get(source)
            && company.roll().iter().next().is_some()
            && let Err(error) = company.keep().await
        {
            tracing::debug!(error = deltabus_bus::causes(&error), "whom we heard can't be written down now");
        }
    }
}

/// The source's course, brought up to now; `None` where there is none.
async fn go_on<'c>(courses: &'c mut BTreeMap<SourceName, Course>, log: &Log) -> Option<&'c Course> {
    let name = log.source();
    let leads_on = match courses.get_mut(name) {
        Some(course) => course.go_on().await.ok()?,
        None => false,
    };
    if !leads_on {
        courses.remove(name);
        courses.insert(name.clone(), Course::begin(log).await.ok()??);
    }
    courses.get(name)
}

fn status_in(folder: &Path) -> Option<Value> {
    serde_json::from_slice(&read_status(folder)?).ok()
}

/// A receiver of this state directory.
fn local(source: &SourceName, name: ReceiverName, folder: &Path) -> Receiver {
    let mut entry =
        status_in(folder).unwrap_or_else(|| json!({ "source": source.as_str(), "receiver": name.as_str() }));
    let running = is_busy(folder);
    let seen_millis = entry["time_millis"].as_u64();
    let revision = entry["revision"].as_u64().unwrap_or(0);
    // The file is written when something happens; one that runs is there now.
    entry["seen_millis"] = if running { SystemClock.now_millis().into() } else { seen_millis.into() };
    entry["running"] = running.into();
    entry["here"] = true.into();
    entry["gone"] = (!running).into();
    Receiver { name, here: true, gone: !running, revision, seen_millis, entry }
}

/// A receiver that was heard on the bus.
fn heard_of(source: &SourceName, heard: &Heard, now_millis: u64) -> Receiver {
    let standing = &heard.standing;
    let problem = (!standing.problem.is_empty()).then_some(&standing.problem);
    let gone = is_gone(heard, now_millis);
    let entry = json!({
        "source": source.as_str(), "receiver": standing.receiver.as_str(), "revision": standing.revision,
        "records": standing.records, "pending": standing.pending, "drift": standing.drift,
        "dead_letters": standing.dead_letters, "error": problem, "time_millis": heard.seen_millis,
        "seen_millis": heard.seen_millis, "running": !gone, "here": false, "gone": gone,
    });
    let (name, revision) = (standing.receiver.clone(), standing.revision);
    Receiver { name, here: false, gone, revision, seen_millis: Some(heard.seen_millis), entry }
}

/// A receiver of which a manager was told.
fn reported(standing: &v1::Standing, seen_millis: u64, now_millis: u64) -> Option<Receiver> {
    let name = ReceiverName::new(&standing.receiver).ok()?;
    let problem = (!standing.problem.is_empty()).then_some(&standing.problem);
    let gone = now_millis.saturating_sub(seen_millis) > GONE_MILLIS;
    let entry = json!({
        "source": standing.source, "receiver": standing.receiver, "revision": standing.revision,
        "records": standing.records, "pending": standing.waiting, "drift": standing.drift,
        "dead_letters": standing.dead_letters, "error": problem, "time_millis": seen_millis,
        "seen_millis": seen_millis, "running": !gone, "here": false, "gone": gone,
    });
    Some(Receiver { name, here: false, gone, revision: standing.revision, seen_millis: Some(seen_millis), entry })
}
