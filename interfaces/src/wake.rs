//! When to look at a store again: notifications with polling beside them, and patience with half-written files.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::watch::{Signal, Watching};
use crate::{Interface, Stamp, in_place};

/// How often a store is looked at beside its notifications, unless it knows better: a look is one `stat` call.
pub const POLL: Duration = Duration::from_secs(2);

/// A store that is being written counts as finished after this long without a sign of writing. Programs that save a file
/// in several steps pause for less; one that closes the file or renames it into place isn't waited for at all.
pub const QUIET: Duration = Duration::from_millis(200);

/// A store that never gets quiet is looked at after this long all the same; a scan notices if it is written meanwhile.
pub const QUIET_MAX: Duration = Duration::from_secs(5);

/// How many notifications may wait; more say nothing that these don't.
const SIGNALS_MAX: usize = 64;

/// Tells when a store may hold a new, finished state.
pub struct Wake {
    _watching: Option<Watching>,
    signals: mpsc::Receiver<Signal>,
    /// Kept so that `signals` never closes, also without notifications.
    _sender: mpsc::Sender<Signal>,
    poll: Duration,
    /// When the store is looked at next, whatever is notified: waiting may be broken off any number of times before.
    look: Instant,
    /// Somebody was writing when this was last known.
    unsettled: bool,
}

impl Wake {
    /// Watches the store and polls every `poll`, or as often as suits the store. Where notifications can't be had, polling alone has to do; that is logged.
    ///
    /// Looking at a store blocks a thread of the runtime, here and in all that waits: others go on where it has several.
    pub fn new(interface: &dyn Interface, poll: Option<Duration>) -> Wake {
        let (sender, signals) = mpsc::channel(SIGNALS_MAX);
        let notify = sender.clone();
        // A full channel already says all there is to say.
        let notify = move |signal| {
            let _ = notify.try_send(signal);
        };
        let watching = in_place(|| interface.watch(Arc::new(notify)));
        let watching =
            watching.inspect_err(|error| tracing::warn!(%error, "no notifications of changes; polling only"));
        let poll = poll.unwrap_or_else(|| interface.poll());
        let look = Instant::now() + poll;
        Wake { _watching: watching.ok().flatten(), signals, _sender: sender, poll, look, unsettled: false }
    }

    /// Waits until the store may differ from `last` and nobody seems to be writing it. Cancel safe.
    pub async fn changed(&mut self, interface: &dyn Interface, last: Option<&Stamp>) {
        while !self.unsettled {
            match timeout_at(self.look, self.signals.recv()).await {
                Ok(Some(Signal::Written)) => return,
                Ok(Some(Signal::Writing)) => self.unsettled = true,
                Ok(None) => sleep_until(self.look).await,
                // An error is for the scan to report.
                Err(_) => {
                    self.look = Instant::now() + self.poll;
                    self.unsettled = in_place(|| interface.stamp()).ok().as_ref() != last;
                }
            }
        }
        self.settle(interface).await;
        self.unsettled = false;
    }

    /// Waits until nobody has written the store for [`QUIET`], at most [`QUIET_MAX`]; not at all for one that commits.
    pub async fn settle(&mut self, interface: &dyn Interface) {
        if interface.commits() {
            return;
        }
        let end = Instant::now() + QUIET_MAX;
        let mut before = in_place(|| interface.stamp()).ok();
        while Instant::now() < end {
            match timeout_at(end.min(Instant::now() + QUIET), self.signals.recv()).await {
                Ok(Some(Signal::Written)) => return,
                Ok(Some(Signal::Writing)) => {}
                Ok(None) | Err(_) => {
                    let now = in_place(|| interface.stamp()).ok();
                    if now == before {
                        return;
                    }
                    before = now;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;
    use crate::Location;

    /// Whoever waits also for other things breaks off again and again.
    #[tokio::test(start_paused = true)]
    async fn a_store_is_looked_at_every_poll_however_often_waiting_is_broken_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people.csv");
        std::fs::write(&path, "id\n1\n").unwrap();
        let interface = crate::open(&Location::parse(&format!("csv:{}", path.display())).unwrap()).unwrap();
        let poll = Duration::from_secs(10);
        let mut wake = Wake::new(&*interface, Some(poll));
        let other = Stamp(b"another".to_vec());
        let begin = Instant::now();
        loop {
            let waiting = std::pin::pin!(wake.changed(&*interface, Some(&other)));
            if tokio::time::timeout(Duration::from_secs(1), waiting).await.is_ok() {
                break;
            }
            assert!(begin.elapsed() < 3 * poll, "it was never looked at");
        }
        assert!(begin.elapsed() >= poll);
        // And what is as it was known wakes nobody.
        let now = interface.stamp().unwrap();
        let waiting = std::pin::pin!(wake.changed(&*interface, Some(&now)));
        assert!(waiting.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}
