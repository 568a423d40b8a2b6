//! Edits that wait for their answer while other things happen.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use deltabus_bus::broker::Stream;
use deltabus_state::probe::{Probe, Step};

use crate::people::{DiesAfterRename, DiesBeforeRename, People};

const TWO: &str = "id,phone\n1,111\n2,222\n";
const THREE: &str = "id,phone\n1,111\n2,222\n3,333\n";

/// Somebody writes a file right after a certain commit.
struct WritesAmid {
    file: PathBuf,
    text: &'static str,
    after: usize,
    commits: AtomicUsize,
}

impl Probe for WritesAmid {
    fn at(&self, step: Step) -> std::io::Result<()> {
        if step == Step::AfterCommit && self.commits.fetch_add(1, Ordering::Relaxed) == self.after {
            fs::write(&self.file, self.text)?;
        }
        Ok(())
    }
}

/// The bus doesn't have what was sent back, so that nobody takes it; the receiver will send it again.
fn lose_reverse(people: &People) {
    people.broker.cut(&people.name, Stream::Reverse, 0);
}

/// The log goes on from a snapshot that the receiver has to join by; no edit was taken.
async fn leave_behind(people: &mut People) {
    lose_reverse(people);
    for phone in 112..116 {
        people.source(&format!("id,phone\n1,{phone}\n2,222\n")).await;
    }
    people.keep_last(Stream::Changes, 1).await;
    people.end_transmitter();
    people.transmit().await;
}

/// A receiver has joined anew, and ended before it made its destination, of three records, equal; the third is an edit on its way.
async fn ended_amid_joining() -> People {
    let mut people = People::new("csv?key=id", TWO, "csv?key=id").await;
    people.write("copy", THREE);
    assert_eq!(people.receive().await.edits, 1);
    leave_behind(&mut people).await;
    people.receiver_dies(DiesBeforeRename { folder: people.path("") }).await;
    assert_eq!(people.read("copy"), THREE);
    people
}

#[tokio::test]
async fn what_was_brought_to_a_field_that_goes_and_comes_back_is_shown_again() {
    let mut people = People::new("csv?key=id", "id,note\n1,a\n", "csv?key=id").await;
    people.write("copy", "id,note\n1,a\n2,b\n");
    assert_eq!(people.receive().await.edits, 1);
    for source in ["id,other\n1,a\n", "id,other,note\n1,a,c\n"] {
        lose_reverse(&people);
        people.source(source).await;
        people.receive().await;
    }
    assert_eq!(people.read("copy"), "id,other,note\n1,a,c\n2,\\A,b\n");
    people.transmit().await;
    assert_eq!(people.read("people"), "id,other,note\n1,a,c\n2,\\A,b\n");
}

#[tokio::test]
async fn what_was_put_into_a_collection_that_goes_and_comes_back_is_there_again() {
    let tables = "json?shape=tables";
    let both = |a: &str| format!(r#"{{"$keys":{{"a":["id"],"b":["id"]}},"a":[{{"id":1}}{a}],"b":[{{"id":1}}]}}"#);
    let mut people = People::new(tables, &both(""), tables).await;
    people.write("copy", &both(r#",{"id":2}"#));
    assert_eq!(people.receive().await.edits, 1);
    for source in [r#"{"$keys":{"b":["id"]},"b":[{"id":1}]}"#, &both("")] {
        lose_reverse(&people);
        people.source(source).await;
        people.receive().await;
    }
    let copy = people.read("copy");
    assert!(copy.contains(r#"{"id":2}"#), "{copy}");
    people.transmit().await;
    assert!(people.read("people").contains(r#"{"id":2}"#));
}

/// The field comes, goes with the end of the log, and the record is edited before it comes again.
#[tokio::test]
async fn what_was_brought_to_a_field_that_the_log_lost_outlives_a_later_edit_of_the_record() {
    let mut people = People::new("csv?key=id", "id,name\n1,a\n", "csv?key=id").await;
    let end = people.broker_end().await;
    people.source("id,name,note\n1,a,c\n").await;
    people.receive().await;
    people.write("copy", "id,name,note\n1,a,c\n2,b,d\n");
    assert_eq!(people.receive().await.edits, 1);
    lose_reverse(&people);
    people.broker.cut(&people.name, Stream::Changes, end);
    people.receive().await;
    assert_eq!(people.read("copy"), "id,name\n1,a\n2,b\n");
    people.write("copy", "id,name\n1,a\n2,e\n");
    assert_eq!(people.receive().await.edits, 1);
    people.try_transmit().await.ok();
    for _ in 0..2 {
        people.transmit().await;
        people.receive().await;
    }
    for file in ["people", "copy"] {
        assert_eq!(people.read(file), "id,name,note\n1,a,c\n2,e,d\n");
    }
}

#[tokio::test]
async fn an_edit_of_what_was_answered_while_its_base_was_aside_counts() {
    let mut people = ended_amid_joining().await;
    // The third is taken now; here it goes.
    people.transmit().await;
    assert_eq!(people.read("people"), "id,phone\n1,115\n2,222\n3,333\n");
    people.write("copy", TWO);
    people.end_as(1, "id,phone\n1,115\n2,222\n").await;
}

#[tokio::test]
async fn an_edit_of_what_a_snapshot_says_was_taken_while_its_base_was_aside_counts() {
    let mut people = ended_amid_joining().await;
    people.transmit().await;
    people.keep_last(Stream::Changes, 0).await;
    people.end_transmitter();
    people.transmit().await;
    people.write("copy", TWO);
    people.end_as(1, "id,phone\n1,115\n2,222\n").await;
}

#[tokio::test]
async fn what_is_written_while_a_destination_is_being_made_equal_counts_whenever_that_is() {
    for after in 0..5 {
        let mut people = ended_amid_joining().await;
        // Another write of the same moment, so that it is looked at.
        people.write("copy", "id,phone\n1,111\n2,223\n3,333\n");
        let (file, text) = (people.path("copy"), "id,phone\n1,111\n2,224\n3,333\n");
        people.receive_with(WritesAmid { file, text, after, commits: AtomicUsize::new(0) }).await;
        for _ in 0..2 {
            people.transmit().await;
            people.receive().await;
        }
        let there = people.read("people");
        assert!(there.contains("2,224") && there.contains("3,333"), "after commit {after}: {there}");
        assert_eq!(people.read("copy"), there);
    }
}

#[tokio::test]
async fn contents_that_the_bus_lost_are_sent_again_with_the_edit_that_refers_to_them() {
    let long = "long ".repeat(40_000);
    let mut people = People::new("csv?key=id", "id,text\n1,a\n", "csv?key=id").await;
    let edited = format!("id,text\n1,{long}\n2,{}\n", long.to_uppercase());
    people.write("copy", &edited);
    assert_eq!(people.receive().await.edits, 2);
    people.broker.lose(&people.name);
    people.try_transmit().await.unwrap_err();
    people.transmit().await;
    people.receive().await;
    assert_eq!(people.transmit().await.refused, 0);
    assert_eq!(people.read("people"), edited);
}

#[tokio::test]
async fn an_edit_whose_content_is_nowhere_is_refused_and_stops_nobody() {
    let long = "long ".repeat(40_000);
    let mut people = People::new("csv?key=id", "id,text\n1,a\n2,b\n", "csv?key=id").await;
    people.write("copy", &format!("id,text\n1,{long}\n2,c\n"));
    assert_eq!(people.receive().await.edits, 2);
    people.broker.cut(&people.name, Stream::Snapshot, 0);
    assert_eq!(people.transmit().await.refused, 1);
    assert_eq!(people.read("people"), "id,text\n1,a\n2,c\n");
}

#[tokio::test]
async fn a_destination_is_made_anew_without_contents_that_the_source_has_no_more() {
    let long = "long ".repeat(40_000);
    let mut people = People::new("csv?key=id", &format!("id,text\n1,{long}\n"), "csv?key=id").await;
    people.broker.lose(&people.name);
    people.write("people", "id,text\n1,short\n");
    people.try_transmit().await.unwrap_err();
    people.transmit().await;
    fs::remove_file(people.path("copy")).unwrap();
    people.receive().await;
    assert_eq!(people.read("copy"), "id,text\n1,short\n");
}

#[tokio::test]
async fn equal_rows_without_a_key_go_though_the_bus_lost_their_contents() {
    let long = "long ".repeat(40_000);
    let mut people = People::transmitted("csv", &format!("text,phone\n{long},1\n{long},1\nx,2\n"), "sqlite").await;
    people.receive_one_way().await;
    people.broker.lose(&people.name);
    people.write("people", "text,phone\nx,2\n");
    people.try_transmit().await.unwrap_err();
    people.transmit().await;
    people.receive_one_way().await;
    let copy = rusqlite::Connection::open(people.path("copy")).unwrap();
    let count: i64 = copy.query_row("SELECT count(*) FROM people", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn what_differs_and_stands_is_told_by_every_run_and_sent_once_edits_are() {
    let mut people = People::transmitted("csv?key=id", TWO, "csv?key=id").await;
    people.receive_one_way().await;
    people.write("copy", "id,phone\n1,111\n2,223\n");
    for _ in 0..3 {
        assert_eq!(people.receive_one_way().await.drift, 1);
    }
    people.end_as(1, "id,phone\n1,111\n2,223\n").await;
    assert_eq!(people.receive_one_way().await.drift, 0);
}

/// The set that made it was there, but the receiver ended before it had noted that; then the log lost it.
#[tokio::test]
async fn what_is_put_into_a_collection_that_was_made_when_the_receiver_ended_counts() {
    let tables = "json?shape=tables";
    let source = |b: &str| format!(r#"{{"$keys":{{"a":["id"],"b":["id"]}},"a":[{{"id":1}}],"b":[{b}]}}"#);
    let one = r#"{"$keys":{"a":["id"]},"a":[{"id":1}]}"#;
    let mut people = People::new(tables, one, tables).await;
    people.source(&source(r#"{"id":1,"x":1},{"id":2,"x":2}"#)).await;
    people.receiver_dies(DiesAfterRename { file: people.path("copy"), text: "\"b\"" }).await;
    people.write("copy", &source(r#"{"id":1,"x":1},{"id":2,"x":9},{"id":3,"x":3}"#));
    for x in 4..8 {
        people.source(&source(&format!(r#"{{"id":1,"x":{x}}},{{"id":2,"x":2}}"#))).await;
    }
    people.keep_last(Stream::Changes, 1).await;
    people.end_transmitter();
    people.transmit().await;
    assert!(people.receive().await.joined);
    people.transmit().await;
    people.receive().await;
    for file in ["people", "copy"] {
        let text = people.read(file).replace([' ', '\n'], "");
        for record in [r#"{"id":1,"x":7}"#, r#"{"id":2,"x":9}"#, r#"{"id":3,"x":3}"#] {
            assert!(text.contains(record), "{file}: {text}");
        }
    }
}
