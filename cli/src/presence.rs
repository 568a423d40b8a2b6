//! Who is there on a bus without a manager: receivers answer calls, transmitters call and remember.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deltabus_bus::standing::{self, Answers, Calls, Heard, Roll, Standing, spread};
use deltabus_bus::{Log, causes};
use deltabus_record::schema::ReceiverName;
use deltabus_state::read_status;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// A transmitter calls its receivers this often, or less often where there are so many that answers take longer.
const CALL: Duration = Duration::from_secs(10);

/// It writes down whom it heard this often, and soon who has come or left: so long after the first of those who come or leave
/// together.
const KEEP: Duration = Duration::from_secs(30);
const KEEP_NEWS: Duration = Duration::from_secs(2);

/// Who wasn't heard for so long is gone: several calls, and the time until what was heard is written down.
pub(crate) const GONE: Duration = Duration::from_secs(120);

/// A receiver answers no more often, however often it is called.
const ANSWER_PAUSE: Duration = Duration::from_millis(250);

/// Pause before a subscription that has ended is made again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a last word may take.
const LEAVING: Duration = Duration::from_secs(2);

/// What runs beside a process's receivers and transmitters for the sake of who is there. Ends when it is dropped.
#[derive(Default)]
pub(crate) struct Presence {
    tasks: JoinSet<()>,
    receivers: Vec<(Log, ReceiverName, PathBuf)>,
}

impl Presence {
    /// Answers for a receiver whose state is in `folder`, from now until `stop`.
    pub(crate) fn answer(&mut self, log: Log, receiver: ReceiverName, folder: PathBuf, stop: &CancellationToken) {
        self.receivers.push((log.clone(), receiver.clone(), folder.clone()));
        let stop = stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = answer_calls(&log, &receiver, &folder) => {}
            }
        });
    }

    /// Calls the receivers of a source that is transmitted from `folder`, and remembers who was heard, from now until `stop`.
    pub(crate) fn remember(&mut self, log: Log, folder: PathBuf, stop: &CancellationToken) {
        let stop = stop.clone();
        self.tasks.spawn(async move { keep_roll(&log, &folder, &stop).await });
    }

    /// The last word of the receivers, and what a transmitter has still to write down.
    pub(crate) async fn leave(mut self) {
        for (log, receiver, folder) in &self.receivers {
            leave(log, receiver, folder).await;
        }
        // Told to stop before, they end by themselves; who doesn't has nothing that matters.
        let _ = timeout(LEAVING, async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

/// The last word of a receiver.
pub(crate) async fn leave(log: &Log, receiver: &ReceiverName, folder: &Path) {
    let standing = standing(receiver, folder).map(|standing| Standing { leaves: true, ..standing });
    let Some(standing) = standing else { return };
    if let Ok(Err(error)) = timeout(LEAVING, standing::answer(log, &standing)).await {
        tracing::debug!(error = causes(&error), "nobody was told that this receiver ends");
    }
}

async fn answer_calls(log: &Log, receiver: &ReceiverName, folder: &Path) {
    loop {
        match Calls::listen(log).await {
            Ok(mut calls) => {
                while let Some(spread) = calls.next().await {
                    sleep(at_random(log, spread)).await;
                    // Who called meanwhile is answered by the same word.
                    while let Ok(Some(_)) = timeout(Duration::ZERO, calls.next()).await {}
                    if let Some(standing) = standing(receiver, folder)
                        && let Err(error) = standing::answer(log, &standing).await
                    {
                        tracing::debug!(error = causes(&error), "a call can't be answered now");
                    }
                    sleep(ANSWER_PAUSE).await;
                }
            }
            Err(error) => tracing::debug!(error = causes(&error), "calls can't be listened to now"),
        }
        sleep(AGAIN).await;
    }
}

/// Some time up to `spread`, another one for each receiver.
fn at_random(log: &Log, spread: Duration) -> Duration {
    let millis = spread.as_millis() as u64;
    Duration::from_millis(log.clock().fresh() % (millis + 1))
}

/// How a receiver stands, as it wrote down itself.
fn standing(receiver: &ReceiverName, folder: &Path) -> Option<Standing> {
    let status: Value = serde_json::from_slice(&read_status(folder)?).ok()?;
    let count = |name: &str| status[name].as_u64().unwrap_or_default();
    Some(Standing {
        receiver: receiver.clone(),
        revision: count("revision"),
        records: count("records"),
        pending: count("pending"),
        dead_letters: count("dead_letters"),
        drift: count("drift"),
        problem: status["error"].as_str().unwrap_or_default().to_owned(),
        leaves: false,
    })
}

/// Calls, listens and writes down, until `stop`; not while it stands by, where the active one does it.
async fn keep_roll(log: &Log, folder: &Path, stop: &CancellationToken) {
    let company = Company::listen(log);
    if let Err(error) = company.recall().await {
        tracing::debug!(error = causes(&error), "whom we heard before can't be looked up now");
    }
    let mut kept: Option<(Roll, Instant)> = None;
    let mut next_call = Instant::now();
    while !stop.is_cancelled() {
        if Instant::now() >= next_call {
            let mut pause = CALL;
            if !stands_by(folder) {
                company.listens().await;
                let spread = spread(company.there().len());
                pause = pause.max(spread * 2);
                if let Err(error) = company.call(spread).await {
                    tracing::debug!(error = causes(&error), "receivers can't be called now");
                }
            }
            next_call = Instant::now() + pause;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep_until(next_call) => {}
            () = company.news.notified() => tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(KEEP_NEWS) => {}
            },
        }
        let roll = company.roll();
        let due = match &kept {
            None => roll.iter().next().is_some(),
            Some((before, _)) if *before == roll => false,
            Some((before, when)) => stop.is_cancelled() || when.elapsed() >= KEEP || !same_company(before, &roll),
        };
        if due && !stands_by(folder) {
            match company.keep().await {
                Ok(()) => kept = Some((roll, Instant::now())),
                Err(error) => tracing::debug!(error = causes(&error), "whom we heard can't be written down now"),
            }
        }
    }
}

fn stands_by(folder: &Path) -> bool {
    let status = read_status(folder).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    status.is_some_and(|status| status["stands_by_for"].is_string())
}

/// Whether the same are there in both.
fn same_company(a: &Roll, b: &Roll) -> bool {
    let there = |roll: &Roll| -> Vec<(ReceiverName, bool)> {
        roll.iter().map(|heard| (heard.standing.receiver.clone(), heard.standing.leaves)).collect()
    };
    there(a) == there(b)
}

/// The receivers of a source as they are heard from here.
pub(crate) struct Company {
    log: Log,
    /// Whom we heard ourselves.
    heard: Arc<Mutex<Roll>>,
    /// Whom the transmitter remembers, as of when we looked last.
    remembered: Mutex<Roll>,
    /// Somebody has come or left.
    news: Arc<Notify>,
    /// Whether we listen at this moment.
    listens: watch::Receiver<bool>,
    listening: JoinHandle<()>,
}

impl Company {
    /// Listens from about now on.
    pub(crate) fn listen(log: &Log) -> Company {
        let heard: Arc<Mutex<Roll>> = Arc::default();
        let (own, noted) = (log.clone(), Arc::clone(&heard));
        let (tell, listens) = watch::channel(false);
        let news: Arc<Notify> = Arc::default();
        let tell_news = Arc::clone(&news);
        let listening = tokio::spawn(async move {
            loop {
                if let Ok(mut answers) = Answers::listen(&own).await {
                    tell.send_replace(true);
                    while let Some(standing) = answers.next().await {
                        let seen_millis = own.clock().now_millis();
                        let mut roll = locked(&noted);
                        let known = roll.of(&standing.receiver);
                        let is_news = known.is_none_or(|known| known.standing.leaves != standing.leaves);
                        roll.note(Heard { standing, seen_millis });
                        if is_news {
                            tell_news.notify_one();
                        }
                    }
                    tell.send_replace(false);
                }
                sleep(AGAIN).await;
            }
        });
        Company { log: log.clone(), heard, remembered: Mutex::default(), news, listens, listening }
    }

    /// Waits until we listen, for a while: who calls before that misses answers.
    pub(crate) async fn listens(&self) {
        let mut listens = self.listens.clone();
        // A bus that can't be listened to is told of by whoever asks it next.
        let _ = timeout(AGAIN, listens.wait_for(|listens| *listens)).await;
    }

    /// Asks everybody to answer within `spread`.
    pub(crate) async fn call(&self, spread: Duration) -> Result<(), deltabus_bus::Error> {
        standing::call(&self.log, spread).await
    }

    /// Looks up whom the transmitter remembers.
    pub(crate) async fn recall(&self) -> Result<(), deltabus_bus::Error> {
        let kept = standing::kept(&self.log).await?;
        *locked(&self.remembered) = kept.roll;
        Ok(())
    }

    /// Everybody who is known.
    pub(crate) fn roll(&self) -> Roll {
        let mut roll = locked(&self.remembered).clone();
        roll.merge(&locked(&self.heard));
        roll
    }

    /// Who of them is there.
    pub(crate) fn there(&self) -> Vec<Heard> {
        let now = self.log.clock().now_millis();
        self.roll().iter().filter(|heard| !is_gone(heard, now)).cloned().collect()
    }

    /// Writes down who is known, with what others wrote down before.
    pub(crate) async fn keep(&self) -> Result<(), deltabus_bus::Error> {
        let found = standing::kept(&self.log).await?;
        let mut roll = found.roll.clone();
        roll.merge(&locked(&self.heard));
        roll.forget(self.log.clock().now_millis());
        standing::keep(&self.log, &roll, &found).await?;
        *locked(&self.remembered) = roll;
        Ok(())
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Whether a receiver has left, or was silent for too long.
pub(crate) fn is_gone(heard: &Heard, now_millis: u64) -> bool {
    heard.standing.leaves || now_millis.saturating_sub(heard.seen_millis) > GONE.as_millis() as u64
}

fn locked(roll: &Mutex<Roll>) -> MutexGuard<'_, Roll> {
    roll.lock().unwrap_or_else(PoisonError::into_inner)
}
