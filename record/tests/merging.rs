//! Laws of the three-way merge: each line of the design's table, and what holds for any edit of any record.

use deltabus_record::apply::apply;
use deltabus_record::change::{Change, Conflict, ConflictPolicy, Outcome, Winner};
use deltabus_record::diff;
use deltabus_record::key::Key;
use deltabus_record::merge::{Clock, Merged, merge};
use deltabus_record::row::Row;
use deltabus_record::value::Value;
use proptest::collection::vec;
use proptest::prelude::*;

/// The slots of a record; the first is its key.
const FIELDS: usize = 5;

const POLICIES: [ConflictPolicy; 4] =
    [ConflictPolicy::Source, ConflictPolicy::Receiver, ConflictPolicy::Latest, ConflictPolicy::Manual];

fn key() -> Key {
    Key::of(&[Value::Integer(7)])
}

/// A record with few values, so that two often agree.
fn record() -> impl Strategy<Value = Row> {
    let value = prop_oneof![
        1 => Just(Value::Absent),
        1 => Just(Value::Null),
        4 => (0..3i64).prop_map(Value::Integer),
    ];
    vec(value, FIELDS - 1).prop_map(|mut values| {
        values.insert(0, Value::Integer(7));
        Row::of(&values)
    })
}

/// What both started from, what the source has now, and what the receiver made of it.
fn three() -> impl Strategy<Value = (Option<Row>, Option<Row>, Option<Row>)> {
    let present = || prop::option::weighted(0.85, record());
    (present(), present(), present(), any::<bool>()).prop_map(|(base, source, edited, same)| {
        let source = if same { base.clone() } else { source };
        (base, source, edited)
    })
}

fn groups() -> impl Strategy<Value = Vec<Vec<u32>>> {
    vec(vec(1..FIELDS as u32, 1..4), 0..3)
}

fn policy() -> impl Strategy<Value = (ConflictPolicy, Clock)> {
    (prop::sample::select(&POLICIES[..]), prop::sample::select(&[Clock::EditLater, Clock::SourceLater][..]))
}

/// The slots that an edit writes.
fn slots(edit: &Change) -> Vec<u32> {
    match edit {
        Change::Update { fields, .. } => fields.iter().map(|field| field.slot).collect(),
        Change::Insert { row, .. } => diff::fields(&Row::default(), row).iter().map(|field| field.slot).collect(),
        Change::Delete { .. } => Vec::new(),
    }
}

/// Whether the edit's side stands wherever the policy decides.
fn edit_wins(policy: ConflictPolicy, clock: Clock) -> bool {
    policy == ConflictPolicy::Receiver || (policy == ConflictPolicy::Latest && clock == Clock::EditLater)
}

fn conflict(outcome: &Outcome) -> Option<&Conflict> {
    match outcome {
        Outcome::Conflict(conflict) => Some(conflict),
        _ => None,
    }
}

/// The source after a merge; what is to be applied must fit it.
fn after(merged: &Merged, source: Option<&Row>) -> Option<Row> {
    match &merged.apply {
        Some(change) => apply(change, source).expect("a merge starts from what the source has"),
        None => source.cloned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn an_edit_of_an_unchanged_source_is_applied_as_it_is((base, _, edited) in three(), (policy, clock) in policy(), groups in groups()) {
        let Some(edit) = diff::change(key(), base.as_ref(), edited.as_ref()) else { return Ok(()) };
        let merged = merge(&edit, base.as_ref(), base.as_ref(), policy, clock, &groups);
        prop_assert_eq!(after(&merged, base.as_ref()), edited);
        prop_assert!(merged.verdicts.iter().all(|(_, outcome)| *outcome == Outcome::Accepted), "{:?}", merged);
    }

    #[test]
    fn each_field_of_an_edit_is_in_one_verdict((base, source, edited) in three(), (policy, clock) in policy(), groups in groups()) {
        let Some(edit) = diff::change(key(), base.as_ref(), edited.as_ref()) else { return Ok(()) };
        let merged = merge(&edit, source.as_ref(), base.as_ref(), policy, clock, &groups);
        match &merged.verdicts[..] {
            // The edit as a whole.
            [(whole, _)] if *whole == edit => {}
            parts => {
                let mut named: Vec<u32> = parts.iter().flat_map(|(part, _)| slots(part)).collect();
                named.sort_unstable();
                prop_assert_eq!(named, slots(&edit));
                prop_assert!(parts.iter().all(|(part, _)| slots(part).len() == 1 && part.key() == edit.key()));
            }
        }
    }

    #[test]
    fn a_verdict_says_what_the_source_has_then((base, source, edited) in three(), (policy, clock) in policy(), groups in groups()) {
        let Some(edit) = diff::change(key(), base.as_ref(), edited.as_ref()) else { return Ok(()) };
        let merged = merge(&edit, source.as_ref(), base.as_ref(), policy, clock, &groups);
        let next = after(&merged, source.as_ref());
        let wins = edit_wins(policy, clock);
        for (part, outcome) in &merged.verdicts {
            if let Some(conflict) = conflict(outcome) {
                prop_assert_eq!(conflict.open, policy == ConflictPolicy::Manual && !conflict.source_deleted);
            }
            let Change::Update { fields, .. } = part else {
                match (part, outcome) {
                    (Change::Insert { row, .. }, Outcome::Accepted) => prop_assert_eq!(next.as_ref(), Some(row)),
                    (Change::Delete { .. }, Outcome::Accepted | Outcome::Already) => prop_assert_eq!(&next, &None),
                    (Change::Delete { .. }, Outcome::Conflict(conflict)) => {
                        prop_assert!(conflict.edit_deletes && conflict.winner == Winner::Source);
                        prop_assert_eq!(&next, &source);
                    }
                    _ => prop_assert!(false, "{:?}", merged),
                }
                continue;
            };
            let next = next.as_ref().expect("an edited record is there");
            for field in fields {
                let slot = field.slot as usize;
                let now = source.as_ref().map_or(Value::Absent, |source| source.value(slot));
                match outcome {
                    Outcome::Accepted => prop_assert_eq!(&now, &field.before),
                    Outcome::Already => prop_assert_eq!(&now, &field.after),
                    Outcome::Conflict(conflict) if conflict.source_deleted => prop_assert!(source.is_none()),
                    Outcome::Conflict(conflict) => {
                        prop_assert_eq!((&conflict.base, &conflict.source, &conflict.edit), (&field.before, &now, &field.after));
                        prop_assert_eq!(conflict.winner == Winner::Edit, wins);
                    }
                    Outcome::Refused { .. } => prop_assert!(false, "a merge refuses nothing"),
                }
                let stands = match outcome {
                    Outcome::Conflict(conflict) if conflict.winner == Winner::Source => &now,
                    _ => &field.after,
                };
                prop_assert_eq!(&next.value(slot), stands);
            }
        }
    }

    #[test]
    fn fields_that_the_edit_does_not_name_stay((base, source, edited) in three(), (policy, clock) in policy(), groups in groups()) {
        let Some(edit) = diff::change(key(), base.as_ref(), edited.as_ref()) else { return Ok(()) };
        let merged = merge(&edit, source.as_ref(), base.as_ref(), policy, clock, &groups);
        let (Some(source), Some(next)) = (&source, after(&merged, source.as_ref())) else { return Ok(()) };
        for field in diff::fields(source, &next) {
            prop_assert!(slots(&edit).contains(&field.slot), "{:?}", merged);
        }
    }

    #[test]
    fn merging_again_changes_nothing((base, source, edited) in three(), (policy, clock) in policy(), groups in groups()) {
        let Some(edit) = diff::change(key(), base.as_ref(), edited.as_ref()) else { return Ok(()) };
        let merged = merge(&edit, source.as_ref(), base.as_ref(), policy, clock, &groups);
        let next = after(&merged, source.as_ref());
        let again = merge(&edit, next.as_ref(), base.as_ref(), policy, clock, &groups);
        prop_assert_eq!(&again.apply, &None);
        let lost = |merged: &Merged| {
            merged.verdicts.iter().any(|(_, outcome)| conflict(outcome).is_some_and(|it| it.winner == Winner::Source))
        };
        if !lost(&merged) {
            prop_assert!(again.verdicts.iter().all(|(_, outcome)| *outcome == Outcome::Already), "{:?}", again);
        }
    }

    #[test]
    fn a_group_is_taken_or_left_as_a_whole((base, source, edited) in three(), (policy, clock) in policy(), groups in groups()) {
        let Some(edit) = diff::change(key(), base.as_ref(), edited.as_ref()) else { return Ok(()) };
        let Some(source) = source else { return Ok(()) };
        let merged = merge(&edit, Some(&source), base.as_ref(), policy, clock, &groups);
        for group in &groups {
            let members = || merged.verdicts.iter().filter(|(part, _)| slots(part).iter().any(|slot| group.contains(slot)));
            let accepted = members().any(|(_, outcome)| *outcome == Outcome::Accepted);
            let conflicts = members().any(|(_, outcome)| conflict(outcome).is_some());
            prop_assert!(!(accepted && conflicts), "{:?} in {:?}", group, merged);
        }
    }
}

fn row(values: [&str; 3]) -> Row {
    Row::of(&values.map(|value| if value.is_empty() { Value::Absent } else { Value::text(value) }))
}

fn edit(before: Option<[&str; 3]>, after: Option<[&str; 3]>) -> Change {
    let (before, after) = (before.map(row), after.map(row));
    diff::change(key(), before.as_ref(), after.as_ref()).expect("something differs")
}

fn outcomes(merged: &Merged) -> Vec<&str> {
    let name = |outcome: &Outcome| match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Already => "already",
        Outcome::Conflict(conflict) if conflict.source_deleted => "came back",
        Outcome::Conflict(conflict) if conflict.edit_deletes => "stays",
        Outcome::Conflict(conflict) if conflict.winner == Winner::Edit => "conflict, edit",
        Outcome::Conflict(_) => "conflict, source",
        Outcome::Refused { .. } => "refused",
    };
    merged.verdicts.iter().map(|(_, outcome)| name(outcome)).collect()
}

/// Merges `edit`, made on `base`, with `source`: `expected` outcomes, and the source then.
fn check(
    base: Option<[&str; 3]>,
    edited: Option<[&str; 3]>,
    source: Option<[&str; 3]>,
    policy: ConflictPolicy,
    expected: &[&str],
    next: Option<[&str; 3]>,
) {
    let (base_row, source) = (base.map(row), source.map(row));
    let merged = merge(&edit(base, edited), source.as_ref(), base_row.as_ref(), policy, Clock::SourceLater, &[]);
    assert_eq!(outcomes(&merged), expected);
    assert_eq!(after(&merged, source.as_ref()), next.map(row));
}

const BASE: Option<[&str; 3]> = Some(["7", "Kari", "Oslo"]);
const MOVED: Option<[&str; 3]> = Some(["7", "Kari", "Bergen"]);
const ELSEWHERE: Option<[&str; 3]> = Some(["7", "Kari", "Tromsø"]);

#[test]
fn a_source_as_before_takes_the_edit() {
    check(BASE, MOVED, BASE, ConflictPolicy::Source, &["accepted"], MOVED);
}

#[test]
fn a_source_that_has_the_edit_already_stays() {
    check(BASE, MOVED, MOVED, ConflictPolicy::Source, &["already"], MOVED);
}

#[test]
fn where_the_source_has_something_else_the_policy_decides() {
    check(BASE, MOVED, ELSEWHERE, ConflictPolicy::Source, &["conflict, source"], ELSEWHERE);
    check(BASE, MOVED, ELSEWHERE, ConflictPolicy::Receiver, &["conflict, edit"], MOVED);
    check(BASE, MOVED, ELSEWHERE, ConflictPolicy::Manual, &["conflict, source"], ELSEWHERE);
    // The source changed later.
    check(BASE, MOVED, ELSEWHERE, ConflictPolicy::Latest, &["conflict, source"], ELSEWHERE);
    let (base, source) = (BASE.map(row), ELSEWHERE.map(row));
    let merged =
        merge(&edit(BASE, MOVED), source.as_ref(), base.as_ref(), ConflictPolicy::Latest, Clock::EditLater, &[]);
    assert_eq!(outcomes(&merged), ["conflict, edit"]);
}

#[test]
fn other_fields_of_both_sides_come_together() {
    let renamed = Some(["7", "Kari Nordmann", "Oslo"]);
    check(BASE, MOVED, renamed, ConflictPolicy::Source, &["accepted"], Some(["7", "Kari Nordmann", "Bergen"]));
}

#[test]
fn an_edited_record_that_the_source_deleted_comes_back_with_the_edit() {
    for policy in POLICIES {
        check(BASE, MOVED, None, policy, &["came back"], MOVED);
    }
}

#[test]
fn a_record_that_the_source_changed_is_not_deleted() {
    for policy in POLICIES {
        check(BASE, None, ELSEWHERE, policy, &["stays"], ELSEWHERE);
    }
}

#[test]
fn a_delete_of_what_is_as_it_was_or_gone_is_fine() {
    check(BASE, None, BASE, ConflictPolicy::Source, &["accepted"], None);
    check(BASE, None, None, ConflictPolicy::Source, &["already"], None);
}

#[test]
fn an_insert_of_a_new_key_is_accepted() {
    check(None, BASE, None, ConflictPolicy::Source, &["accepted"], BASE);
}

#[test]
fn an_insert_of_a_key_that_is_there_is_merged_field_by_field() {
    let source = Some(["7", "", "Tromsø"]);
    let expected = ["already", "accepted", "conflict, source"];
    check(None, BASE, source, ConflictPolicy::Source, &expected, Some(["7", "Kari", "Tromsø"]));
    let expected = ["already", "accepted", "conflict, edit"];
    check(None, BASE, source, ConflictPolicy::Receiver, &expected, BASE);
}

#[test]
fn fields_of_a_group_conflict_together() {
    // A price and its currency: the source changed the one, the receiver the other.
    let price = |price: &str, currency: &str| Row::of(&["7", price, currency].map(Value::text));
    let (base, source, edited) = (price("10", "EUR"), price("12", "EUR"), price("10", "USD"));
    let edit = diff::change(key(), Some(&base), Some(&edited)).unwrap();
    let merged = |policy| merge(&edit, Some(&source), Some(&base), policy, Clock::EditLater, &[vec![1, 2]]);
    assert_eq!(outcomes(&merged(ConflictPolicy::Source)), ["conflict, source"]);
    assert_eq!(merged(ConflictPolicy::Source).apply, None);
    let both = diff::change(key(), Some(&base), Some(&price("11", "USD"))).unwrap();
    let merged = merge(&both, Some(&source), Some(&base), ConflictPolicy::Source, Clock::EditLater, &[vec![1, 2]]);
    assert_eq!(outcomes(&merged), ["conflict, source", "conflict, source"]);
}

#[test]
fn a_field_of_two_groups_hands_the_conflict_on() {
    let row = |values: [i64; 4]| Row::of(&values.map(Value::Integer));
    let (base, source) = (row([7, 0, 0, 0]), row([7, 0, 0, 5]));
    let edit = diff::change(key(), Some(&base), Some(&row([7, 1, 1, 1]))).unwrap();
    let groups = [vec![1, 2], vec![2, 3]];
    let merged = merge(&edit, Some(&source), Some(&base), ConflictPolicy::Source, Clock::EditLater, &groups);
    assert_eq!(outcomes(&merged), ["conflict, source"; 3]);
}

/// Every edit is answered, so that its receiver no longer waits for it: also one that does nothing.
#[test]
fn an_edit_of_no_field_is_there_already() {
    let insert = Change::Insert { key: key(), row: Row::default() };
    let update = Change::Update { key: key(), fields: Vec::new() };
    for edit in [insert, update] {
        let merged = merge(&edit, Some(&Row::default()), None, ConflictPolicy::Source, Clock::EditLater, &[]);
        assert_eq!(merged, Merged { apply: None, verdicts: vec![(edit, Outcome::Already)] });
    }
}
