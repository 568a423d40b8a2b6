//! What a transmitter has for as long as it is the active one of its source: a lease, where somebody stands by.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use deltabus_bus::broker::BrokerError;
use deltabus_bus::lease::{self, Kept, Lease, RENEW, Watch};
use deltabus_bus::{Error as BusError, Log};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::Error;

/// Whoever stands by says so this often.
pub(crate) const ANNOUNCE: Duration = Duration::from_secs(5);

/// Whoever hasn't said so for this long stands by no longer.
const STANDBY_SEEN: Duration = Duration::from_secs(30);

/// So many that stand by are known by name; more are as good, and only not named.
const STANDBYS_MAX: usize = 16;

/// Giving the lease back may take this long; without it whoever stands by waits until it has run out.
const RELEASE: Duration = Duration::from_secs(2);

/// When a lease is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All the time.
    Always,
    /// While somebody stands by, so that a source without costs nothing.
    WhenWatched,
}

/// The time in which a transmitter is active.
pub(crate) struct Tenure {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

/// What the transmitter, whoever answers for it, and the lease's keeper have together.
pub(crate) struct Shared {
    log: Log,
    name: String,
    keep: Keep,
    /// The term that the log was claimed with; 0 before.
    term: AtomicU64,
    known: Mutex<Known>,
    /// The keeper has something to do.
    wake: Notify,
    replaced: CancellationToken,
    ended: CancellationToken,
}

#[derive(Default)]
struct Known {
    /// Until when nobody can have taken the lease; `None` as long as there is none.
    good_until: Option<Instant>,
    /// Who took it.
    replaced_by: Option<String>,
    /// When somebody was last heard of for whom the lease is kept.
    watched: Option<Instant>,
    /// Who stands by, and when that was last said.
    standbys: BTreeMap<String, Instant>,
}

impl Tenure {
    /// Begins, with a lease that was taken before or without.
    pub(crate) fn begin(log: &Log, name: &str, keep: Keep, lease: Option<Lease>) -> Tenure {
        let known = Known { good_until: lease.as_ref().map(Lease::good_until), ..Known::default() };
        let shared = Arc::new(Shared {
            log: log.clone(),
            name: name.to_owned(),
            keep,
            term: AtomicU64::new(0),
            known: Mutex::new(known),
            wake: Notify::new(),
            replaced: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let keeper = tokio::spawn(keep_lease(Arc::clone(&shared), lease).in_current_span());
        Tenure { shared, keeper }
    }

    /// What others may hold of it.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether there is a lease that nobody else has taken.
    pub(crate) fn holds(&self) -> bool {
        !self.shared.replaced.is_cancelled() && self.shared.known().good_until.is_some()
    }

    /// The log is claimed. Where one before had a lease, somebody may stand by: it is kept from now on.
    pub(crate) async fn claimed(&self, term: u64) -> Result<(), BusError> {
        self.shared.term.store(term, Ordering::Relaxed);
        if !self.holds() && lease::find(&self.shared.log).await?.holder().is_some() {
            self.shared.known().watched = Some(Instant::now());
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Fails with [`BusError::Fenced`] if somebody has taken over.
    pub(crate) fn check_replaced(&self) -> Result<(), Error> {
        match &self.shared.known().replaced_by {
            None => Ok(()),
            Some(by) => {
                let source_name = self.shared.log.source().clone();
                Err(BusError::Fenced { source_name, by: by.clone() }.into())
            }
        }
    }

    /// The same, and fails for a passing reason where that can't be known: the lease was not renewed in time, as after this
    /// process was frozen.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_replaced()?;
        match self.shared.known().good_until {
            Some(until) if until <= Instant::now() => {
                let problem = "the lease could not be renewed in time".to_owned();
                Err(BusError::from(BrokerError::Unavailable { url: self.shared.log.broker().url(), problem }).into())
            }
            _ => Ok(()),
        }
    }

    /// Who stands by.
    pub(crate) fn standbys(&self) -> Vec<String> {
        let known = self.shared.known();
        known.standbys.iter().filter(|(_, seen)| seen.elapsed() < STANDBY_SEEN).map(|(name, _)| name.clone()).collect()
    }

    /// Waits until somebody has taken over. Cancel safe.
    pub(crate) async fn replaced(&self) {
        self.shared.replaced.cancelled().await;
    }

    /// Ends it, and gives the lease back.
    pub(crate) async fn end(mut self) {
        self.shared.ended.cancel();
        if timeout(RELEASE, &mut self.keeper).await.is_err() {
            tracing::debug!("the lease could not be given back; it runs out");
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock panics")
    }

    /// Somebody says that it stands by.
    pub(crate) fn announced(&self, name: String) {
        let mut known = self.known();
        known.standbys.retain(|_, seen| seen.elapsed() < STANDBY_SEEN);
        let is_new = !known.standbys.contains_key(&name);
        if is_new && known.standbys.len() >= STANDBYS_MAX {
            known.watched = Some(Instant::now());
            return;
        }
        if is_new {
            tracing::info!(source = %self.log.source(), standby = name, "another transmitter stands by");
        }
        known.standbys.insert(name, Instant::now());
        known.watched = Some(Instant::now());
        drop(known);
        self.wake.notify_one();
    }

    fn is_wanted(&self) -> bool {
        self.keep == Keep::Always || self.known().watched.is_some_and(|seen| seen.elapsed() < STANDBY_SEEN)
    }

    fn lost(&self, by: String) {
        let mut known = self.known();
        known.good_until = None;
        known.replaced_by = Some(by);
        drop(known);
        self.replaced.cancel();
    }
}

/// Renews the lease for as long as it is wanted, until it is lost.
async fn keep_lease(shared: Arc<Shared>, mut lease: Option<Lease>) {
    let mut tick = tokio::time::interval(RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::new(&shared.log);
    loop {
        tokio::select! {
            biased;
            () = shared.ended.cancelled() => break,
            _ = tick.tick() => {}
            () = shared.wake.notified() => {}
        }
        let term = shared.term.load(Ordering::Relaxed);
        match (&mut lease, shared.is_wanted()) {
            (Some(held), true) => match held.renew(term).await {
                Ok(Kept::Still) => shared.known().good_until = Some(held.good_until()),
                Ok(Kept::Lost { by }) => return shared.lost(by),
                Err(error) => tracing::debug!(error = deltabus_bus::causes(&error), "the lease could not be renewed"),
            },
            (None, true) if term > 0 => match take(&shared, &mut watch, term).await {
                Ok(Taken::Held(taken)) => {
                    shared.known().good_until = Some(taken.good_until());
                    lease = Some(taken);
                }
                Ok(Taken::NotYet) => {}
                Ok(Taken::Lost { by }) => return shared.lost(by),
                Err(error) => tracing::debug!(error = deltabus_bus::causes(&error), "no lease could be taken"),
            },
            (Some(_), false) => {
                shared.known().good_until = None;
                give_back(lease.take()).await;
            }
            (None, _) => {}
        }
    }
    give_back(lease).await;
}

enum Taken {
    Held(Lease),
    NotYet,
    Lost { by: String },
}

/// Takes the lease for one who has claimed the log with `term`: from all whose term is before that.
async fn take(shared: &Shared, watch: &mut Watch, term: u64) -> Result<Taken, BusError> {
    let record = watch.look().await?.record.clone();
    match record.filter(|record| !record.released) {
        Some(record) if record.term > term => return Ok(Taken::Lost { by: record.holder }),
        // It is about to claim the log, or died before it could.
        Some(record) if record.term == 0 && !watch.has_run_out() => return Ok(Taken::NotYet),
        _ => {}
    }
    let taken = Lease::take(&shared.log, &shared.name, watch.found()).await?;
    Ok(taken.map_or(Taken::NotYet, Taken::Held))
}

async fn give_back(lease: Option<Lease>) {
    if let Some(lease) = lease
        && let Err(error) = lease.release().await
    {
        tracing::debug!(error = deltabus_bus::causes(&error), "the lease could not be given back; it runs out");
    }
}
