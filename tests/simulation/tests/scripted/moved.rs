//! Logs that were founded anew with the source's fields in other slots, while edits wait.

use crate::people::People;

/// Log and transmitter's state are gone, and the source has its columns in this order now.
async fn found_anew(people: &mut People, text: &str) {
    people.broker.lose(&people.name);
    people.forget_transmitter();
    people.source(text).await;
}

/// People whose log was founded anew as `now`, while the edits in `copy` waited for the transmitter.
async fn edited_before(kind: &str, text: &str, copy: &str, now: &str) -> People {
    let mut people = People::new(kind, text, kind).await;
    people.write("copy", copy);
    assert_ne!(people.receive().await.edits, 0);
    found_anew(&mut people, now).await;
    people
}

/// Everything comes to its end, and the source holds `text`. The copy, which keeps its own columns where they are, holds `copy`.
async fn ends_as(mut people: People, text: &str, copy: &str) {
    for _ in 0..3 {
        people.receive().await;
        people.transmit().await;
    }
    people.receive().await;
    assert_eq!(people.read("people"), text);
    assert_eq!(people.read("copy"), copy);
}

#[tokio::test]
async fn an_edit_that_waits_comes_to_the_field_of_its_name() {
    let copy = "id,name,phone\n1,Ann,112\n2,Bob,222\n3,Cleo,333\n";
    let people = edited_before(
        "csv?key=id",
        "id,name,phone\n1,Ann,111\n2,Bob,222\n",
        copy,
        "id,phone,name\n1,111,Ann\n2,222,Bob\n",
    );
    ends_as(people.await, "id,phone,name\n1,112,Ann\n2,222,Bob\n3,333,Cleo\n", copy).await;
}

#[tokio::test]
async fn rows_without_a_key_that_wait_are_the_same_rows() {
    let people = edited_before("csv", "a,b\n1,2\n3,4\n", "a,b\n3,4\n5,6\n", "b,a\n2,1\n4,3\n");
    ends_as(people.await, "b,a\n4,3\n6,5\n", "a,b\n3,4\n5,6\n").await;
}

#[tokio::test]
async fn an_edit_found_on_the_old_base_comes_to_the_field_of_its_name() {
    for kind in ["csv?key=id", "csv"] {
        let mut people = People::new(kind, "id,name,phone\n1,Ann,111\n2,Bob,222\n", kind).await;
        found_anew(&mut people, "id,phone,name\n1,111,Ann\n2,222,Bob\n").await;
        let copy = "id,name,phone\n1,Ann,111\n2,Bob,223\n";
        people.write("copy", copy);
        ends_as(people, "id,phone,name\n1,111,Ann\n2,223,Bob\n", copy).await;
    }
}

/// A field that the source has no more has no place there; nothing comes to another.
#[tokio::test]
async fn an_edit_of_a_field_that_is_gone_is_refused_by_name() {
    let mut people = edited_before(
        "csv?key=id",
        "id,name,phone\n1,Ann,111\n2,Bob,222\n",
        "id,name,phone\n1,Anna,111\n2,Bob,222\n",
        "id,phone,mail\n1,111,a@x\n2,222,b@x\n",
    )
    .await;
    people.receive().await;
    assert_eq!(people.transmit().await.refused, 1);
    let text = "id,phone,mail\n1,111,a@x\n2,222,b@x\n";
    ends_as(people, text, "id,phone,mail\n1,111,a@x\n2,222,b@x\n").await;
}
