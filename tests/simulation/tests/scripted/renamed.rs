//! A receiver that ended about a file's rename, and somebody who edits the file, or restores it, before it is back.

use std::fs;

use crate::people::{DiesAfterRename, DiesBeforeRename, People, temporary};

async fn three() -> People {
    People::new("csv?key=id", "id,phone\n1,111\n2,222\n3,333\n", "csv?key=id").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_set_brought_is_no_edit_of_whoever_edits_the_file_next() {
    let mut people = three().await;
    people.source("id,phone\n1,112\n2,222\n3,333\n4,444\n").await;
    people.receiver_dies(DiesAfterRename { file: people.path("copy"), text: "4,444" }).await;
    assert_eq!(people.read("copy"), "id,phone\n1,112\n2,222\n3,333\n4,444\n");
    // Meanwhile the source goes on, and somebody edits the copy.
    people.source("id,phone\n1,113\n2,222\n3,333\n").await;
    people.write("copy", "id,phone\n1,112\n2,223\n3,333\n4,444\n");
    people.end_as(1, "id,phone\n1,113\n2,223\n3,333\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_before_the_rename_brings_nothing_back() {
    let mut people = three().await;
    people.source("id,phone\n1,112\n2,222\n4,444\n").await;
    people.receiver_dies(DiesBeforeRename { folder: people.folder.path().to_owned() }).await;
    assert_eq!(people.read("copy"), "id,phone\n1,111\n2,222\n3,333\n");
    // A backup has the copy and the state, not what was about to take the copy's place.
    fs::remove_file(temporary(people.folder.path()).unwrap()).unwrap();
    people.source("id,phone\n1,113\n2,222\n").await;
    people.end_as(0, "id,phone\n1,113\n2,222\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_after_the_rename_brings_nothing_back() {
    let mut people = three().await;
    people.source("id,phone\n1,112\n2,222\n4,444\n").await;
    people.receiver_dies(DiesAfterRename { file: people.path("copy"), text: "4,444" }).await;
    people.source("id,phone\n1,113\n2,222\n").await;
    people.end_as(0, "id,phone\n1,113\n2,222\n").await;
}
