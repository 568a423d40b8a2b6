//! A broker that dies while sets are published.

use deltabus_bus::{Accepted, Event, Log, Position, Reader, Writer};
use tokio::sync::watch;

use crate::brokers::{Server, ends, prepared};
use crate::log::{numbers, stored};
use crate::sets::{chain, revision};

/// How often the server is killed.
const KILLS: u64 = 3;

/// Sets that are published between two kills.
const SETS: u64 = 60;

/// Claims the log, however long the broker is away; gives what the log has accepted.
async fn claim(log: &Log) -> (Writer, u64) {
    loop {
        match Writer::claim(log, "t", Position::default()).await {
            Ok((writer, Accepted::Nothing)) => return (writer, 0),
            Ok((writer, Accepted::Sets { revision, .. })) => return (writer, revision.number),
            Ok((_, Accepted::Elsewhere { reason })) => panic!("{reason}"),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

/// Publishes sets one after another until `last`, and tells how many were acknowledged.
async fn transmit(log: Log, last: u64, acknowledged: watch::Sender<u64>) {
    let (mut writer, mut reached) = claim(&log).await;
    while reached < last {
        match writer.publish(&chain(1, reached, reached + 1)).await {
            Ok(_) => {
                reached += 1;
                acknowledged.send_replace(reached);
            }
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                let (again, accepted) = claim(&log).await;
                // The one in flight may be there or not; what was acknowledged is.
                assert!((reached..=reached + 1).contains(&accepted), "{accepted} of {reached}");
                (writer, reached) = (again, accepted);
            }
        }
    }
}

/// Follows the log until revision `last`, whatever becomes of the broker.
async fn receive(log: Log, last: u64) -> Vec<u64> {
    let mut found = Vec::new();
    let mut position = Position::default();
    while position.revision.number < last {
        let mut reader = Reader::at(&log, position);
        loop {
            match reader.next().await {
                Ok(Event::Set(set)) => {
                    found.push(set.set.next.number);
                    position = set.position;
                    if position.revision.number == last {
                        break;
                    }
                }
                Ok(Event::CaughtUp(_)) => {}
                Ok(Event::Rejoin(reason)) => panic!("{reason}"),
                Err(error) => {
                    assert!(error.is_transient(), "{error}");
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_a_killed_server() {
    ends(async {
        let server = Server::start();
        let log = prepared(&server.connect().await).await;
        let last = KILLS * SETS;
        let (sender, mut acknowledged) = watch::channel(0);
        let transmitter = tokio::spawn(transmit(log.clone(), last, sender));
        let of_its_own = server.connect().await;
        let receiver = tokio::spawn(receive(Log::new(of_its_own, log.source().clone()), last));
        for kill in 1..=KILLS {
            acknowledged.wait_for(|sets| *sets >= kill * SETS - SETS / 2).await.expect("it goes on");
            server.kill();
            server.bus.ensure().expect("it starts again");
        }
        transmitter.await.expect("it doesn't panic");
        // What comes last may be lost live.
        let (writer, reached) = claim(&log).await;
        assert_eq!(reached, last);
        writer.beat().await.expect("it is sent");
        let all: Vec<_> = (1..=last).collect();
        assert_eq!(receiver.await.expect("it doesn't panic"), all, "each exactly once");
        let found = stored(&log, Position::default()).await;
        assert_eq!(numbers(&found), all);
        assert_eq!(found.last().expect("there are some").set.next, revision(1, last));
    })
    .await;
}
