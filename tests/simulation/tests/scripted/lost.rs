//! What the bus or a state loses.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use deltabus_bus::broker::{Broker, Stream};
use deltabus_bus::{Entry, Log, history};
use deltabus_state::read_status;

use crate::people::People;

const TWO: &str = "id,phone\n1,111\n2,222\n";

async fn two() -> People {
    People::new("csv?key=id", TWO, "csv?key=id").await
}

#[tokio::test]
async fn edits_that_the_bus_lost_before_they_were_taken_are_sent_again() {
    let mut people = two().await;
    people.write("copy", "id,phone\n1,112\n2,222\n");
    assert_eq!(people.receive().await.edits, 1);
    people.broker.cut(&people.name, Stream::Reverse, 0);
    people.end_as(0, "id,phone\n1,112\n2,222\n").await;
}

#[tokio::test]
async fn an_edit_that_the_bus_lost_before_a_later_one_goes_again() {
    let mut people = two().await;
    people.write("copy", "id,phone\n1,112\n2,222\n");
    assert_eq!(people.receive().await.edits, 1);
    people.write("copy", "id,phone\n1,112\n2,223\n");
    assert_eq!(people.receive().await.edits, 1);
    // The first goes by age; the second is taken and answered.
    people.keep_last(Stream::Reverse, 1).await;
    people.transmit().await;
    people.receive().await;
    people.end_as(0, "id,phone\n1,112\n2,223\n").await;
}

/// Seed 8891: log, transmitter's and receiver's state are lost, so that nobody knows the numbers that were answered; then the log is lost
/// again, and an old state of the transmitter comes back that does.
#[tokio::test]
async fn edits_of_a_new_state_are_not_taken_for_those_of_one_that_was_lost() {
    let mut people = two().await;
    people.write("copy", "id,phone\n1,112\n2,222\n");
    people.exchange(1).await;
    people.put_transmitter_aside();
    people.broker.lose(&people.name);
    people.forget_receiver();
    people.transmit().await;
    people.receive().await;
    people.write("copy", "id,phone\n1,112\n2,223\n");
    assert_eq!(people.receive().await.edits, 1);
    people.broker.lose(&people.name);
    people.restore_transmitter();
    people.transmit().await;
    people.receive().await;
    people.end_as(0, "id,phone\n1,112\n2,223\n").await;
}

#[tokio::test]
async fn a_conflict_that_was_lost_with_the_log_is_told_again() {
    let mut people = two().await;
    people.write("copy", "id,phone\n1,112\n2,222\n");
    people.receive().await;
    people.write("people", "id,phone\n1,113\n2,222\n");
    assert_eq!(people.transmit().await.conflicts, 1);
    people.broker.cut(&people.name, Stream::Changes, 0);
    people.broker.cut(&people.name, Stream::Snapshot, 0);
    people.end_transmitter();
    people.transmit().await;
    people.transmit().await;
    let mut conflicts = 0;
    let mut take = |entry| {
        if let Entry::Set(delivered) = entry {
            conflicts += delivered.set.cases().count();
        }
    };
    history(&Log::new(Arc::new(people.broker.clone()), people.name.clone()), &mut take).await.unwrap();
    assert_eq!(conflicts, 1);
    people.end_as(0, "id,phone\n1,113\n2,222\n").await;
    let status = read_status(&people.path("state/receivers/people/oslo")).unwrap();
    let status = String::from_utf8(status).unwrap();
    assert!(status.contains("\"pending\":0"), "{status}");
}

/// Contents are lost with the log, and nothing of them changes at the source.
#[tokio::test]
async fn a_log_that_is_lost_is_claimed_again_by_who_runs_with_the_contents_that_it_refers_to() {
    let long = "long ".repeat(40_000);
    let text = format!("id,text\n1,{long}\n");
    let mut people = People::new("csv?key=id", &text, "csv?key=id").await;
    people.broker.lose(&people.name);
    let more = format!("{text}2,{}\n", long.to_uppercase());
    people.write("people", &more);
    let failed = people.try_transmit().await.unwrap_err();
    assert!(failed.is_passing(), "{failed}");
    people.transmit().await;
    people.receive().await;
    assert_eq!(people.read("copy"), more);
    people.forget_receiver();
    fs::remove_file(people.path("copy")).unwrap();
    people.receive().await;
    assert_eq!(people.read("copy"), more);
}

#[tokio::test]
async fn what_stands_at_a_destination_is_recognized_without_the_contents_that_the_bus_lost() {
    let long = "long ".repeat(40_000);
    let mut people = People::new("csv?key=id", &format!("id,text,phone\n1,{long},1\n2,x,2\n"), "csv?key=id").await;
    people.broker.cut(&people.name, Stream::Snapshot, 0);
    people.write("copy", &format!("id,text,phone\n1,{long},1\n2,x,3\n"));
    assert_eq!(people.receive().await.edits, 1);
    people.transmit().await;
    assert_eq!(people.read("people"), people.read("copy"));
}

/// The source had deleted the record: to bring it back takes a content that nobody has any more.
#[tokio::test]
async fn an_edit_that_takes_a_content_that_the_bus_lost_is_refused_and_the_others_are_taken() {
    let long = "long ".repeat(40_000);
    let mut people = People::new("csv?key=id", &format!("id,text,phone\n1,{long},1\n2,x,2\n"), "csv?key=id").await;
    people.write("copy", &format!("id,text,phone\n1,{long},9\n2,x,9\n"));
    assert_eq!(people.receive().await.edits, 2);
    people.broker.cut(&people.name, Stream::Snapshot, 0);
    people.write("people", "id,text,phone\n2,x,2\n");
    let round = people.transmit().await;
    assert_eq!((round.reverse_sets, round.refused), (1, 1));
    people.receive().await;
    assert_eq!(people.read("people"), "id,text,phone\n2,x,9\n");
    assert_eq!(people.read("copy"), people.read("people"));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_end_is_noticed_though_nothing_is_published() {
    let mut people = two().await;
    people.source("id,phone\n1,112\n2,222\n").await;
    people.receive().await;
    let extent = people.broker.extent(&people.name, Stream::Changes).await.unwrap().unwrap();
    people.broker.cut(&people.name, Stream::Changes, extent.last - 1);
    tokio::time::advance(Duration::from_secs(60)).await;
    people.try_transmit().await.unwrap_err();
    people.transmit().await;
    // Whoever comes now gets all of it.
    people.forget_receiver();
    fs::remove_file(people.path("copy")).unwrap();
    people.receive().await;
    assert_eq!(people.read("copy"), "id,phone\n1,112\n2,222\n");
}

#[tokio::test]
async fn a_log_that_lost_what_its_snapshot_leads_to_gets_a_new_one() {
    let mut people = two().await;
    for phone in 112..116 {
        people.source(&format!("id,phone\n1,{phone}\n2,222\n")).await;
    }
    people.keep_last(Stream::Changes, 1).await;
    people.end_transmitter();
    people.transmit().await;
    people.forget_receiver();
    fs::remove_file(people.path("copy")).unwrap();
    people.receive().await;
    assert_eq!(people.read("copy"), "id,phone\n1,115\n2,222\n");
}

/// The snapshot also says which edits were taken: none is taken again.
#[tokio::test]
async fn a_transmitter_without_a_state_goes_on_from_the_snapshot_when_the_log_is_lost() {
    let mut people = two().await;
    people.write("copy", "id,phone\n1,112\n2,222\n");
    people.end_as(1, "id,phone\n1,112\n2,222\n").await;
    people.source(TWO).await;
    people.keep_last(Stream::Changes, 0).await;
    people.end_transmitter();
    people.transmit().await;
    people.broker.cut(&people.name, Stream::Changes, 0);
    people.end_transmitter();
    fs::remove_dir_all(people.path("state/sources")).unwrap();
    people.transmit().await;
    people.end_as(0, TWO).await;
}

#[tokio::test]
async fn a_transmitter_without_a_state_and_without_a_snapshot_uses_no_number_that_the_log_has() {
    let mut people = two().await;
    people.source("id,phone\n1,112\n2,222\n").await;
    people.broker.cut(&people.name, Stream::Snapshot, 0);
    people.end_transmitter();
    fs::remove_dir_all(people.path("state/sources")).unwrap();
    people.source("id,phone\n1,113\n2,222\n").await;
    assert_eq!(people.receive().await.revision, 3);
    assert_eq!(people.read("copy"), "id,phone\n1,113\n2,222\n");
}
