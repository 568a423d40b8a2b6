//! What a receiver makes of what stands at its destination.

use std::fs;
use std::os::unix::fs::MetadataExt;

use deltabus_bus::broker::Stream;

use crate::people::{DiesAfterRename, People};

const TWO: &str = "id,phone\n1,111\n2,222\n";

async fn two() -> People {
    People::new("csv?key=id", TWO, "csv?key=id").await
}

#[tokio::test]
async fn a_destination_is_not_taken_back_to_the_snapshot_by_which_it_is_joined() {
    let mut people = two().await;
    people.source("id,phone\n1,112\n2,222\n").await;
    people.source("id,phone\n1,113\n2,222\n").await;
    people.receive().await;
    let inode = || fs::metadata(people.path("copy")).unwrap().ino();
    let before = inode();
    people.forget_receiver();
    let round = people.receive().await;
    assert_eq!((round.joined, round.changes, round.edits, inode()), (true, 0, 0, before));
}

#[tokio::test]
async fn an_edit_made_after_a_crash_amid_making_a_destination_equal_counts() {
    let mut people = two().await;
    people.forget_receiver();
    people.write("copy", "id,phone\n1,111\n");
    people.receiver_dies(DiesAfterRename { file: people.path("copy"), text: "2,222" }).await;
    people.write("copy", "id,phone\n1,112\n2,222\n");
    people.end_as(1, "id,phone\n1,112\n2,222\n").await;
}

#[tokio::test]
async fn an_edit_counts_also_where_the_destination_is_a_set_further_than_a_base_that_is_joined_anew() {
    let mut people = two().await;
    people.source("id,phone\n1,112\n2,222\n3,333\n").await;
    people.receiver_dies(DiesAfterRename { file: people.path("copy"), text: "3,333" }).await;
    people.write("copy", "id,phone\n1,112\n2,223\n3,333\n");
    for phone in 113..116 {
        people.source(&format!("id,phone\n1,{phone}\n2,222\n3,333\n")).await;
    }
    people.keep_last(Stream::Changes, 1).await;
    people.end_transmitter();
    people.transmit().await;
    people.receive().await;
    people.transmit().await;
    people.receive().await;
    for file in ["people", "copy"] {
        assert_eq!(people.read(file), "id,phone\n1,115\n2,223\n3,333\n");
    }
}

#[tokio::test]
async fn an_index_from_before_a_write_that_outlived_a_crash_is_not_believed() {
    let mut people = two().await;
    // Looked at, so that there is an index.
    people.write("copy", "id,phone\n1,111\n2,223\n");
    people.end_as(1, "id,phone\n1,111\n2,223\n").await;
    people.source("id,phone\n1,112\n2,223\n3,333\n").await;
    people.receiver_dies(DiesAfterRename { file: people.path("copy"), text: "3,333" }).await;
    people.write("copy", "id,phone\n1,112\n2,224\n3,333\n");
    people.end_as(1, "id,phone\n1,112\n2,224\n3,333\n").await;
}

/// The source gets a field that was the destination's own: what stands there is an edit. A receiver that goes on has an index
/// that knows nothing of it.
#[tokio::test]
async fn what_stands_in_a_field_that_the_source_gets_later_is_looked_at() {
    let mut people = People::new("json?key=id", r#"[{"id":"1"},{"id":"2"}]"#, "csv?key=id").await;
    people.write("copy", "id,city\n1,Oslo\n2,\n3,Rome\n");
    let mut receiver = people.receiver();
    let mut edits = Vec::new();
    for source in [None, Some(r#"[{"id":"1"},{"id":"2","city":"Nice"},{"id":"3"}]"#), None] {
        if let Some(text) = source {
            people.source(text).await;
        }
        edits.push(receiver.receive_once().await.unwrap().edits);
        people.transmit().await;
        receiver.receive_once().await.unwrap();
    }
    people.transmit().await;
    receiver.receive_once().await.unwrap();
    let all = r#"[{"id":"1","city":"Oslo"},{"id":"2","city":"Nice"},{"id":"3","city":"Rome"}]"#;
    assert_eq!(people.read("people"), all, "{edits:?}");
    assert_eq!(people.read("copy"), "id,city\n1,Oslo\n2,Nice\n3,Rome\n");
}

#[tokio::test]
async fn a_collection_that_goes_and_comes_again_between_two_rounds_is_another_one() {
    let tables = "json?shape=tables";
    let mut people =
        People::new(tables, r#"{"$keys":{"a":["id"]},"a":[{"id":1,"x":"1"}],"b":[{"y":1}]}"#, tables).await;
    people.source(r#"{"b":[{"y":1}]}"#).await;
    people.source(r#"{"$keys":{"a":["name"]},"a":[{"name":"n","id":2}],"b":[{"y":1}]}"#).await;
    people.receive().await;
    assert_eq!(people.receive().await.edits, 0);
    let copy = people.read("copy");
    assert!(!copy.contains("\"x\"") && copy.contains(r#""name""#), "{copy}");
    people.forget_receiver();
    let round = people.receive().await;
    assert_eq!((round.changes, round.edits), (0, 0), "{copy}");
}

/// SQLite has nothing that is absent: null stands for it.
#[tokio::test]
async fn rows_without_a_key_of_which_the_destination_makes_the_same_are_no_edits() {
    let text = r#"[{"a":"x","b":null},{"a":"x"},{"a":"x"},{"a":"y","b":null}]"#;
    let mut people = People::new("json", text, "sqlite").await;
    let copy = rusqlite::Connection::open(people.path("copy")).unwrap();
    copy.execute("INSERT INTO people VALUES ('z', 'w')", []).unwrap();
    drop(copy);
    people.exchange(1).await;
    assert_eq!(people.read("people"), text.replace("}]", "},{\"a\":\"z\",\"b\":\"w\"}]"));
}

#[tokio::test]
async fn equal_rows_without_a_key_are_merged_by_count() {
    let mut people = People::new("csv", "a,b\nx,1\nx,1\nx,1\n", "csv").await;
    people.write("copy", "a,b\nx,1\nx,1\n");
    people.write("people", "a,b\nx,1\nx,1\nx,1\nx,1\ny,2\n");
    assert_eq!(people.receive().await.edits, 1);
    people.transmit().await;
    people.receive().await;
    assert_eq!(people.read("people"), "a,b\nx,1\nx,1\nx,1\ny,2\n");
    people.end_as(0, "a,b\nx,1\nx,1\nx,1\ny,2\n").await;
}

#[tokio::test]
async fn an_equal_row_that_comes_at_one_end_and_one_that_goes_at_the_other_leave_as_many() {
    let mut people = People::new("csv", "a,b\nx,1\nx,1\n", "csv").await;
    people.write("copy", "a,b\nx,1\nx,1\nx,1\n");
    assert_eq!(people.receive().await.edits, 1);
    // The source's own delete comes before the answer to this insert.
    people.broker.cut(&people.name, Stream::Reverse, 0);
    people.source("a,b\nx,1\n").await;
    people.receive().await;
    assert_eq!(people.read("copy"), "a,b\nx,1\nx,1\n");
    people.end_as(0, "a,b\nx,1\nx,1\n").await;
}

#[tokio::test]
async fn what_is_edited_beside_a_part_that_is_gone_counts_and_the_part_is_made_anew() {
    let tables = "json?shape=tables";
    let both =
        |a: &str| format!(r#"{{"$keys":{{"a":["id"],"b":["id"]}},"a":[{{"id":1,"x":"{a}"}}],"b":[{{"id":1}}]}}"#);
    let mut people = People::new(tables, &both("1"), tables).await;
    people.write("copy", r#"{"$keys":{"a":["id"]},"a":[{"id":1,"x":"2"}]}"#);
    people.exchange(1).await;
    assert_eq!(people.read("people"), both("2"));
    assert!(people.read("copy").contains(r#""b""#), "{}", people.read("copy"));
}
