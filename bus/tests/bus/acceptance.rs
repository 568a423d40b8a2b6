//! Whatever goes wrong on the way: every reader gives out exactly the accepted chain.

use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Subject};
use deltabus_bus::memory::{Fault, MemoryBroker};
use deltabus_bus::{Accepted, Error, Event, Log, Position, Reader, Writer};
use deltabus_proto::v1;
use deltabus_record::change::Revision;
use proptest::prelude::*;
use tokio::task::JoinHandle;

use crate::brokers::prepared;
use crate::log::{claim, envelope, numbers, stored};
use crate::sets::{chain, revision};

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The present writer publishes so many sets.
    Publish(u64),
    /// Another transmitter takes over.
    TakeOver,
    /// A writer that was replaced goes on, through its own fence.
    Zombie(u64),
    /// A set of an old term is stored all the same, with the base that would be right.
    StoredLate,
    /// A message is stored a second time.
    StoredTwice(usize),
    /// A set of the present term that was published before is stored again, in another message.
    Resent(u64),
    /// The beginning of a set in parts is stored, and nothing more of it.
    BrokenOff,
    /// Something goes wrong in the broker.
    Fault(Fault),
    /// The present writer tells how far it is.
    Beat,
    /// The followers get the time to do what they can.
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..4).prop_map(Step::Publish),
        2 => Just(Step::TakeOver),
        2 => (1u64..4).prop_map(Step::Zombie),
        1 => Just(Step::StoredLate),
        1 => any::<prop::sample::Index>().prop_map(|index| Step::StoredTwice(index.index(1 << 16))),
        1 => (0u64..4).prop_map(Step::Resent),
        1 => Just(Step::BrokenOff),
        4 => prop_oneof![
            Just(Fault::LoseAck),
            Just(Fault::LoseAppend),
            Just(Fault::LoseLive),
            Just(Fault::RepeatLive),
            Just(Fault::DelayLive),
        ].prop_map(Step::Fault),
        1 => Just(Step::Beat),
        2 => Just(Step::Rest),
    ]
}

/// A source's transmitters, present and past, and what the log must have accepted of them.
struct World {
    broker: MemoryBroker,
    log: Log,
    writers: Vec<Writer>,
    reached: u64,
    messages: u64,
}

impl World {
    async fn new() -> World {
        let broker = MemoryBroker::new();
        let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
        let (writer, _) = claim(&log, "0", Position::default()).await;
        World { broker, log, writers: vec![writer], reached: 0, messages: 1 }
    }

    fn present(&mut self) -> &mut Writer {
        self.writers.last_mut().expect("there is always one")
    }

    /// A new term, which goes on from what the log accepted.
    async fn take_over(&mut self) {
        let name = self.writers.len().to_string();
        let (writer, accepted) = claim(&self.log, &name, Position::default()).await;
        let told = match accepted {
            Accepted::Nothing => Revision::default(),
            Accepted::Sets { revision, sets } => {
                assert_eq!(numbers(&sets), (1..=self.reached).collect::<Vec<_>>());
                revision
            }
            Accepted::Elsewhere { reason } => panic!("{reason}"),
        };
        assert_eq!(told, revision(1, self.reached), "what the claim says is what was accepted");
        self.writers.push(writer);
    }

    async fn publish(&mut self, sets: u64) {
        let waiting = chain(1, self.reached, self.reached + sets);
        // Whatever was stored past it makes a writer stop; the transmitter claims again and goes on.
        while let Err(error) = self.present().publish(&waiting).await {
            assert!(matches!(error, Error::Fenced { .. } | Error::Disturbed { .. }), "{error}");
            self.take_over().await;
        }
        self.reached += sets;
    }

    async fn step(&mut self, step: Step) {
        let term = self.present().term();
        match step {
            Step::Publish(sets) => self.publish(sets).await,
            Step::TakeOver => self.take_over().await,
            Step::Zombie(sets) => {
                let old = self.writers.len().saturating_sub(2);
                if old + 1 < self.writers.len() {
                    let published = self.writers[old].publish(&chain(1, self.reached, self.reached + sets)).await;
                    assert!(matches!(published, Err(Error::Fenced { .. })), "{published:?}");
                }
            }
            Step::StoredLate if term > 1 => self.store_set(term - 1, self.reached).await,
            Step::StoredLate => {}
            Step::Resent(back) if self.reached > back => self.store_set(term, self.reached - back - 1).await,
            Step::Resent(_) => {}
            Step::StoredTwice(which) => {
                let sequence = which as u64 % self.messages + 1;
                let again = self.broker.read(self.log.source(), deltabus_bus::broker::Stream::Changes, sequence, 1);
                if let Some(again) = again.await.expect("it can be read").first() {
                    self.store(again.payload.clone()).await;
                }
            }
            Step::BrokenOff => {
                let part = v1::Part { index: 0, count: 2, data: Bytes::from_static(b"the beginning of something") };
                self.store(envelope(term, v1::envelope::Content::Part(part))).await;
            }
            Step::Fault(fault) => self.broker.script(fault),
            Step::Beat => self.present().beat().await.expect("it is sent"),
            Step::Rest => {
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
            }
        }
        let extent = self.broker.extent(self.log.source(), deltabus_bus::broker::Stream::Changes).await;
        self.messages = extent.expect("asked").expect("it is there").last;
    }

    /// Stores the set after revision `base` past all fences.
    async fn store_set(&self, term: u64, base: u64) {
        let sets = v1::ChangeSets { sets: vec![chain(1, base, base + 1).remove(0).1.0] };
        let sets = Bytes::from(prost::Message::encode_to_vec(&sets));
        let compression = v1::Compression::None.into();
        let bundle = v1::Bundle { compression, length: sets.len() as u64, sets };
        self.store(envelope(term, v1::envelope::Content::Bundle(bundle))).await;
    }

    async fn store(&self, payload: Bytes) {
        // Its acknowledgement may be lost, or it itself: either is one of the things that happen.
        let _ = self.broker.append(self.log.source(), &Subject::changes(), payload, Expect::Any).await;
    }
}

/// Follows the log live until it reaches `end`; gives the numbers of the sets.
fn follow(log: &Log, mut end: tokio::sync::watch::Receiver<Option<u64>>) -> JoinHandle<Vec<u64>> {
    let mut reader = Reader::at(log, Position::default());
    tokio::spawn(async move {
        let mut found = Vec::new();
        loop {
            let event = tokio::select! {
                event = reader.next() => event,
                // The end may be told only after it was reached.
                changed = end.changed() => {
                    changed.expect("it is told before it goes");
                    let reached = reader.position().sequence;
                    if end.borrow().is_some_and(|end| reached >= end) { Ok(Event::CaughtUp(reader.position())) } else { continue }
                }
            };
            match event.expect("it can be read") {
                Event::Set(set) => found.push(set.set.next.number),
                Event::CaughtUp(position) if end.borrow().is_some_and(|end| position.sequence >= end) => return found,
                Event::CaughtUp(_) => {}
                Event::Rejoin(reason) => panic!("{reason}"),
            }
        }
    })
}

/// Reads what is stored, but dies after every few sets and goes on from the last one it took in.
async fn read_with_restarts(log: &Log, every: usize) -> Vec<u64> {
    let mut found = Vec::new();
    let mut position = Position::default();
    loop {
        let mut reader = Reader::at(log, position);
        for _ in 0..every {
            match reader.next_stored().await.expect("it can be read") {
                Event::Set(set) => {
                    found.push(set.set.next.number);
                    position = set.position;
                }
                Event::CaughtUp(_) => return found,
                Event::Rejoin(reason) => panic!("{reason}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_readers_give_out_the_accepted_chain(steps in prop::collection::vec(step(), 1..60), every in 1usize..6) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut world = World::new().await;
            let (end_sender, end) = tokio::sync::watch::channel(None);
            let followers = [follow(&world.log, end.clone()), follow(&world.log, end)];
            for step in steps {
                world.step(step).await;
            }
            world.broker.heal();
            world.publish(1).await;
            let accepted: Vec<_> = (1..=world.reached).collect();
            assert_eq!(numbers(&stored(&world.log, Position::default()).await), accepted);
            assert_eq!(read_with_restarts(&world.log, every).await, accepted);
            let last = world.present().position();
            assert_eq!(last.revision, revision(1, world.reached));
            end_sender.send(Some(last.sequence)).expect("they follow");
            world.present().beat().await.expect("it is sent");
            for follower in followers {
                assert_eq!(follower.await.expect("it doesn't panic"), accepted);
            }
        });
    }
}
