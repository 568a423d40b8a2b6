//! One subscription for all in a process who follow the same log: the broker sends each set to a connection once, and it is checked once.

use std::collections::HashMap;

use async_trait::async_trait;
use deltabus_record::schema::SourceName;
use tokio::sync::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, WeakSender};

use crate::broker::{BrokerError, Hint, Live};

/// Hints that may wait for the slowest; it loses the oldest, and reads them from the log. As many full messages of the log (512 KiB) may
/// be held, once for all.
const HINTS_MAX: usize = 64;

/// The subscriptions of a connection that are shared.
#[derive(Default)]
pub(crate) struct Shared {
    /// Held while a subscription is made, so that there is one.
    by_source: Mutex<HashMap<SourceName, WeakSender<Hint>>>,
}

impl Shared {
    /// Follows along, by a subscription that `subscribe` makes if there is none. It ends with the last who follows, and for all when the
    /// broker ends it.
    pub(crate) async fn follow<L: Live + 'static>(
        &self,
        source: &SourceName,
        subscribe: impl AsyncFnOnce() -> Result<L, BrokerError>,
    ) -> Result<Box<dyn Live>, BrokerError> {
        let mut by_source = self.by_source.lock().await;
        if let Some(sender) = by_source.get(source).and_then(WeakSender::upgrade) {
            return Ok(Box::new(Following { hints: sender.subscribe() }));
        }
        let mut live = subscribe().await?;
        let (sender, hints) = broadcast::channel(HINTS_MAX);
        by_source.retain(|_, sender| sender.strong_count() > 0);
        by_source.insert(source.clone(), sender.downgrade());
        drop(by_source);
        tokio::spawn(async move {
            loop {
                let hint = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    hint = live.next() => hint,
                };
                // Whoever comes after the last has gone makes a new one.
                let Some(true) = hint.map(|hint| sender.send(hint).is_ok()) else { return };
            }
        });
        Ok(Box::new(Following { hints }))
    }
}

struct Following {
    hints: broadcast::Receiver<Hint>,
}

#[async_trait]
impl Live for Following {
    async fn next(&mut self) -> Option<Hint> {
        loop {
            match self.hints.recv().await {
                Ok(hint) => return Some(hint),
                // The next one shows that there is a hole.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::{HINTS_MAX, Hint, Live, Shared, SourceName, async_trait};

    struct Made {
        hints: mpsc::UnboundedReceiver<Hint>,
        there: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl Live for Made {
        async fn next(&mut self) -> Option<Hint> {
            self.hints.recv().await
        }
    }

    impl Drop for Made {
        fn drop(&mut self) {
            self.there.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A broker that counts the subscriptions made, and those that are there.
    #[derive(Default)]
    struct Broker {
        shared: Shared,
        made: AtomicUsize,
        there: Arc<AtomicUsize>,
        /// Of the subscriptions, the latest last.
        senders: Mutex<Vec<mpsc::UnboundedSender<Hint>>>,
    }

    impl Broker {
        async fn follow(&self, source: &str) -> Box<dyn Live> {
            let source = SourceName::new(source).expect("it is a name");
            let subscribe = async || {
                tokio::task::yield_now().await;
                let (sender, hints) = mpsc::unbounded_channel();
                self.senders.lock().expect("nobody panics").push(sender);
                self.made.fetch_add(1, Ordering::SeqCst);
                self.there.fetch_add(1, Ordering::SeqCst);
                Ok(Made { hints, there: self.there.clone() })
            };
            self.shared.follow(&source, subscribe).await.expect("it follows")
        }

        fn say(&self, number: usize) {
            let senders = self.senders.lock().expect("nobody panics");
            senders.last().expect("somebody follows").send(hint(number)).expect("somebody follows");
        }

        fn end(&self) {
            self.senders.lock().expect("nobody panics").pop();
        }
    }

    fn hint(number: usize) -> Hint {
        Hint::Beat(Bytes::from(number.to_string()))
    }

    #[tokio::test]
    async fn all_who_follow_a_source_hear_the_same_by_one_subscription_until_the_last_has_gone() {
        let broker = Broker::default();
        let (mut one, mut two) = tokio::join!(broker.follow("people"), broker.follow("people"));
        assert_eq!(broker.made.load(Ordering::SeqCst), 1);
        broker.say(1);
        assert_eq!((one.next().await, two.next().await), (Some(hint(1)), Some(hint(1))));
        let _other = broker.follow("prices").await;
        assert_eq!(broker.made.load(Ordering::SeqCst), 2);
        drop(one);
        tokio::task::yield_now().await;
        assert_eq!(broker.there.load(Ordering::SeqCst), 2);
        drop(two);
        while broker.there.load(Ordering::SeqCst) == 2 {
            tokio::task::yield_now().await;
        }
        let mut three = broker.follow("people").await;
        broker.say(2);
        assert_eq!(three.next().await, Some(hint(2)));
        assert_eq!(broker.made.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn who_is_slow_loses_the_oldest_and_costs_the_others_nothing() {
        let broker = Broker::default();
        let mut slow = broker.follow("people").await;
        let mut quick = broker.follow("people").await;
        for number in 0..HINTS_MAX * 3 {
            broker.say(number);
            assert_eq!(quick.next().await, Some(hint(number)));
        }
        assert_eq!(slow.next().await, Some(hint(HINTS_MAX * 2)));
    }

    #[tokio::test]
    async fn when_the_broker_ends_it_all_are_told_and_the_next_is_a_new_one() {
        let broker = Broker::default();
        let mut all = [broker.follow("people").await, broker.follow("people").await];
        broker.say(1);
        broker.end();
        for live in &mut all {
            assert_eq!(live.next().await, Some(hint(1)));
            assert_eq!(live.next().await, None);
        }
        let mut again = broker.follow("people").await;
        assert_eq!(broker.made.load(Ordering::SeqCst), 2);
        broker.say(2);
        assert_eq!(again.next().await, Some(hint(2)));
    }
}
