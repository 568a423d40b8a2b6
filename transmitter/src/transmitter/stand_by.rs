//! Standing by: following the log until the active transmitter is gone, then taking its place.

use std::time::Duration;

use bytes::Bytes;
use deltabus_bus::lease::{GOOD_FOR, Lease, Watch};
use deltabus_bus::{Error as BusError, Question};
use metrics::gauge;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Status, Transmitter};
use crate::metrics as figures;
use crate::tenure::{ANNOUNCE, Keep, Tenure};
use crate::{Error, ledger, takeover};

/// How often is looked whether the active one lives. One that ends in an orderly way is replaced this soon.
const LOOK: Duration = Duration::from_millis(250);

/// A lease that stands unchanged for this long makes suspicious: the active one is asked, so that its answer, or that there
/// is none, is known by the time the lease runs out.
const SUSPICIOUS: Duration = Duration::from_millis(GOOD_FOR.as_millis() as u64 / 2);

/// Pause before the log is followed again after a failure that may pass.
const FOLLOW_AGAIN: Duration = Duration::from_secs(2);

/// How standing by ended.
pub(super) enum Turn {
    /// This one is to be active.
    Active,
    /// It was stopped.
    Stopped,
}

/// What is known of the active one.
struct Outlook {
    watch: Watch,
    /// Since when nothing speaks for it.
    suspicious: Option<Instant>,
    asking: Option<Asking>,
    /// It was asked since then, and nobody answered.
    silent: bool,
    /// When it was asked last.
    asked: Option<Instant>,
    /// Who it was when it was last told of.
    told: Option<String>,
}

struct Asking {
    since: Instant,
    answer: JoinHandle<Result<Option<Bytes>, deltabus_bus::broker::BrokerError>>,
}

impl Transmitter {
    /// Stands by for as long as another is active. Nothing is written meanwhile but the state, which follows the log.
    pub(super) async fn stand_by(&mut self, stop: &CancellationToken) -> Result<Turn, Error> {
        gauge!(figures::ACTIVE, "source" => self.label()).set(0.0);
        let (log, store, policy) = (self.log.clone(), self.store.clone(), self.config.conflicts);
        let following = async move {
            loop {
                match takeover::follow(&log, &store, policy).await {
                    Ok(never) => match never {},
                    Err(error) if error.is_passing() => {
                        tracing::debug!(error = deltabus_bus::causes(&error), "the log can't be followed now")
                    }
                    Err(error) => return error,
                }
                tokio::time::sleep(FOLLOW_AGAIN).await;
            }
        };
        tokio::pin!(following);
        let mut outlook = Outlook {
            watch: Watch::new(&self.log),
            suspicious: None,
            asking: None,
            silent: false,
            asked: None,
            told: None,
        };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lease = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Turn::Stopped),
                _ = look.tick() => match self.look(&mut outlook).await {
                    Ok(Some(lease)) => break lease,
                    Ok(None) => {}
                    Err(error) if error.is_transient() => tracing::debug!(error = deltabus_bus::causes(&error), "the lease can't be looked at now"),
                    Err(error) => return Err(error.into()),
                },
                error = &mut following => return Err(error),
            }
        };
        self.tenure = Some(Tenure::begin(&self.log, &self.name(), Keep::Always, Some(lease)));
        Ok(Turn::Active)
    }

    /// Looks once; gives the lease if it was to be had.
    async fn look(&self, outlook: &mut Outlook) -> Result<Option<Lease>, BusError> {
        outlook.watch.look().await?;
        let watch = &outlook.watch;
        let holder = watch.found().holder().map(str::to_owned);
        let is_suspicious = holder.is_none() || watch.unchanged() > SUSPICIOUS;
        if !is_suspicious {
            (outlook.suspicious, outlook.silent) = (None, false);
        } else if outlook.suspicious.is_none() {
            outlook.suspicious = Some(Instant::now());
            // At once: what was answered before says nothing any more.
            outlook.asked = None;
        }
        if let Some(asking) = outlook.asking.take_if(|asking| asking.answer.is_finished())
            && let Ok(Ok(answer)) = asking.answer.await
        {
            let answer = answer.map(|answer| String::from_utf8_lossy(&answer).into_owned());
            let counts = outlook.suspicious.is_some_and(|since| asking.since >= since);
            match answer {
                // One that answers lives, whether or not it keeps a lease.
                Some(active) => {
                    outlook.silent = false;
                    self.tell(outlook, &active);
                }
                None => outlook.silent = counts,
            }
        }
        if let Some(holder) = outlook.watch.holder().map(str::to_owned) {
            self.tell(outlook, &holder);
        }
        let free = outlook.watch.holder().is_none();
        if free && outlook.silent {
            let reason = match outlook.watch.found().record.as_ref() {
                None => "nobody transmits it",
                Some(record) if record.released => "the active one has ended",
                Some(_) => "the active one has not renewed its lease and does not answer",
            };
            self.log.prepare().await?;
            let lease = Lease::take(&self.log, &self.name(), outlook.watch.found()).await?;
            if lease.is_some() {
                let unchanged_ms = outlook.watch.unchanged().as_millis() as u64;
                tracing::warn!(source = %self.config.source, reason, unchanged_ms, "taking over");
            }
            return Ok(lease);
        }
        let again = if outlook.suspicious.is_some() { LOOK } else { ANNOUNCE };
        if outlook.asking.is_none() && outlook.asked.is_none_or(|asked| asked.elapsed() >= again) {
            let (log, question) = (self.log.clone(), Question::StandBy(self.name()).to_bytes());
            let answer = tokio::spawn(async move { log.broker().ask(log.source(), question).await });
            outlook.asked = Some(Instant::now());
            outlook.asking = Some(Asking { since: Instant::now(), answer });
        }
        Ok(None)
    }

    /// Says for whom this one stands by, when that changes and every now and then.
    fn tell(&self, outlook: &mut Outlook, active: &str) {
        let is_new = outlook.told.as_deref() != Some(active);
        if is_new {
            tracing::info!(source = %self.config.source, active, "standing by: another transmitter is active");
            outlook.told = Some(active.to_owned());
        }
        if let Err(error) = self.report_standing_by(active) {
            tracing::debug!(error = deltabus_bus::causes(&error), "the status could not be written");
        }
    }

    fn report_standing_by(&self, active: &str) -> Result<(), Error> {
        let revision = ledger::revision(&self.store.view())?;
        let status = Status {
            revision: revision.number,
            records: revision.digest.records,
            stands_by_for: Some(active.to_owned()),
            ..Status::default()
        };
        Ok(self.store.write_status(status.to_json(&self.config, self.now_millis()).as_bytes())?)
    }

    /// Ends being active, so that another can be: nothing is answered any more, and the lease is given back.
    pub(super) async fn leave(&mut self) {
        self.writer = None;
        self.questions = None;
        gauge!(figures::ACTIVE, "source" => self.label()).set(0.0);
        if let Some(tenure) = self.tenure.take() {
            tenure.end().await;
        }
    }
}
