//! What is shown, kept up to date by one task for all who look, and told to their browsers as it changes (server-sent events).

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::Event;
use data_encoding::BASE64;
use deltabus_proto::manager::v1;
use deltabus_record::schema::SourceName;
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::Page;
use super::book::{Book, Follower};
use super::failure::Failure;
use super::guard::Visitor;
use super::logins::Session;
use super::overview::{Person, overview, sources};
use crate::Error;
use crate::authority::now_millis;
use crate::registry::Changed;

/// Browsers that are kept up to date at a time.
const LISTENERS_MAX: usize = 256;

/// How often logs are looked at while somebody looks at the page …
const LOOK: Duration = Duration::from_secs(1);

/// … and while nobody does, so that there is something to show at once.
const LOOK_IDLE: Duration = Duration::from_secs(10);

/// Changes that come within this time are shown together.
const PAUSE: Duration = Duration::from_millis(200);

/// A browser hears something this often, so that it notices a lost connection; and as often it is looked whether it still may.
const BEAT: Duration = Duration::from_secs(2);

/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known at the moment.
pub(super) struct Live {
    /// The overview, JSON; empty until there is one.
    shown: watch::Sender<Arc<str>>,
    people: Mutex<Arc<Vec<Person>>>,
    books: Mutex<BTreeMap<SourceName, Arc<Mutex<Book>>>>,
    listeners: Arc<Semaphore>,
    /// Something may have changed.
    wake: Notify,
    ending: CancellationToken,
}

impl Default for Live {
    fn default() -> Live {
        Live {
            shown: watch::Sender::new(Arc::from("")),
            people: Mutex::default(),
            books: Mutex::default(),
            listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
            wake: Notify::new(),
            ending: CancellationToken::new(),
        }
    }
}

impl Live {
    /// Everybody, as last heard.
    pub(super) fn people(&self) -> Arc<Vec<Person>> {
        locked(&self.people).clone()
    }

    /// What is known of a source's log.
    pub(super) fn book(&self, source: &SourceName) -> Option<Arc<Mutex<Book>>> {
        locked(&self.books).get(source).cloned()
    }

    /// Something was done of which the logs tell soon.
    pub(super) fn look(&self) {
        self.wake.notify_one();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Page {
    /// Keeps what is shown up to date until `stop`; then all who look are let go.
    pub(crate) async fn gather(self: Arc<Self>, stop: CancellationToken) {
        let _ending = self.live.ending.clone().drop_guard();
        loop {
            let lost = tokio::select! {
                () = stop.cancelled() => return,
                lost = self.gather_while_watched() => lost,
            };
            if let Err(error) = lost {
                tracing::warn!(error = deltabus_bus::causes(&error), "the page is not kept up to date at the moment");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// The same, until the records can't be watched any more.
    async fn gather_while_watched(&self) -> Result<(), Error> {
        let registry = &self.authority.registry;
        // Watching begins before what is there is looked at, so that nothing falls between.
        let mut changes = Box::pin(registry.watch().await?.ready_chunks(usize::from(u16::MAX)));
        let mut people: BTreeMap<String, Person> = BTreeMap::new();
        for participant in registry.participants().await? {
            if let Some(person) = self.person(&participant.name).await? {
                people.insert(participant.name, person);
            }
        }
        let mut followers: BTreeMap<SourceName, Follower> = BTreeMap::new();
        loop {
            let all: Vec<Person> = people.values().cloned().collect();
            self.show(all, &mut followers).await;
            let pace = if self.live.shown.receiver_count() > 0 { LOOK } else { LOOK_IDLE };
            let changed = tokio::select! {
                () = tokio::time::sleep(pace) => Vec::new(),
                () = self.live.wake.notified() => Vec::new(),
                changed = changes.next() => match changed {
                    Some(changed) => changed,
                    None => return Ok(()),
                },
            };
            tokio::time::sleep(PAUSE).await;
            for change in changed {
                let Changed::Participant(name) = change? else { continue };
                match self.person(&name).await? {
                    Some(person) => {
                        let person = person.after(people.get(&name));
                        people.insert(name, person)
                    }
                    None => people.remove(&name),
                };
            }
        }
    }

    async fn person(&self, name: &str) -> Result<Option<Person>, Error> {
        let registry = &self.authority.registry;
        let Some(participant) = registry.participant(name).await? else { return Ok(None) };
        let heard = registry.heard(name).await?;
        let report = BASE64.decode(heard.report.as_bytes()).unwrap_or_default();
        let report = v1::ReportRequest::decode(report.as_slice()).unwrap_or_default();
        Ok(Some(Person { participant, seen_millis: heard.millis, standings: report.standings, former: Vec::new() }))
    }

    /// Reads what the logs have by now, and shows it.
    async fn show(&self, people: Vec<Person>, followers: &mut BTreeMap<SourceName, Follower>) {
        let sources = sources(&people);
        followers.retain(|source, _| sources.contains(source));
        let mut unreachable = BTreeSet::new();
        for source in sources {
            let follower = followers.entry(source.clone()).or_insert_with(|| Follower::new(self.log(&source)));
            if let Err(error) = follower.catch_up().await {
                tracing::debug!(%source, error = deltabus_bus::causes(&error), "a log can't be read for the page");
                unreachable.insert(source);
            }
        }
        let books: BTreeMap<_, _> =
            followers.iter().map(|(source, follower)| (source.clone(), follower.book().clone())).collect();
        let shown: Arc<str> = overview(&people, &books, &unreachable, now_millis()).to_string().into();
        *locked(&self.live.people) = Arc::new(people);
        *locked(&self.live.books) = books;
        self.live.shown.send_if_modified(|before| {
            let differs = *before != shown;
            *before = shown;
            differs
        });
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>;

/// The overview as it is, and again whenever it changes, for as long as whoever looks may.
pub(super) async fn events(State(page): State<Arc<Page>>, Visitor(session): Visitor) -> Result<Sse<Events>, Failure> {
    let place = page.live.listeners.clone().try_acquire_owned();
    let place = place.map_err(|_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too many look at once"))?;
    let shown = page.live.shown.subscribe();
    page.live.look();
    let listener = Listener { page, session, shown, first: true, _place: place };
    let events = futures::stream::unfold(Some(listener), |listener| async move {
        let mut listener = listener?;
        let event = listener.next().await;
        Some(match event {
            Told::Event(event) => (Ok(event), Some(listener)),
            // Told, so that a browser knows it from a lost connection.
            Told::Last(kind) => (Ok(Event::default().event(kind).data("")), None),
        })
    });
    Ok(Sse::new(Box::pin(events)))
}

/// What a browser is told next.
enum Told {
    Event(Event),
    /// This kind of event, and no more.
    Last(&'static str),
}

/// One browser that is kept up to date.
struct Listener {
    page: Arc<Page>,
    session: Session,
    shown: watch::Receiver<Arc<str>>,
    first: bool,
    /// Gives its place back when it ends.
    _place: OwnedSemaphorePermit,
}

impl Listener {
    async fn next(&mut self) -> Told {
        let mut kind = "overview";
        if !std::mem::take(&mut self.first) {
            tokio::select! {
                () = self.page.live.ending.cancelled() => return Told::Last("restart"),
                _ = self.shown.changed() => {}
                () = tokio::time::sleep(BEAT) => kind = "beat",
            }
        }
        if !self.may_look().await {
            return Told::Last("end");
        }
        let shown = if kind == "beat" { Arc::from("") } else { self.shown.borrow_and_update().clone() };
        Told::Event(Event::default().event(kind).data(&*shown))
    }

    /// Nobody knows while the records can't be read: then nothing is shown that is new either.
    async fn may_look(&self) -> bool {
        self.page.logins.is_open(&self.session) && !matches!(self.page.is_administrator(&self.session).await, Ok(false))
    }
}
