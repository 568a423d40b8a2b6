//! Laws of differencing, applying and merging.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;

use deltabus_record::apply;
use deltabus_record::change::{Change, ConflictPolicy, Outcome};
use deltabus_record::diff::{self, DiffError, Fingerprints, Found, Identity, Index, IndexSink, Known};
use deltabus_record::key::Key;
use deltabus_record::merge::{Clock, merge};
use deltabus_record::row::Row;
use deltabus_record::value::Value;
use proptest::collection::vec;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// A record of the tests: a key and a value.
type Record = (u8, u8);

fn row(record: Record) -> Row {
    Row::of(&[Value::Integer(record.0.into()), Value::Integer(record.1.into())])
}

fn content(record: Record, identity: Identity) -> Vec<u8> {
    let key = Value::Integer(record.0.into());
    let rest = Value::Integer(record.1.into());
    let values = if identity == Identity::Key { vec![key] } else { vec![key, rest] };
    Key::of(&values).as_bytes().to_vec()
}

fn fingerprint(record: Record) -> u64 {
    xxh3_64(&[record.0, record.1])
}

/// A file of records.
struct File<'a> {
    records: &'a [Record],
    at: usize,
    identity: Identity,
    decoded: &'a Cell<usize>,
}

impl Found for File<'_> {
    type Error = Infallible;

    fn next(&mut self) -> Result<Option<u64>, Infallible> {
        let record = self.records.get(self.at);
        self.at += 1;
        Ok(record.map(|record| fingerprint(*record)))
    }

    fn decode(&mut self, key: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Infallible> {
        self.decoded.set(self.decoded.get() + 1);
        let record = self.records[self.at - 1];
        key.extend(content(record, self.identity));
        out.extend_from_slice(row(record).as_bytes());
        Ok(())
    }

    fn place(&self) -> String {
        format!("record {}", self.at)
    }
}

/// The index of a scan.
#[derive(Default)]
struct Entries {
    entries: Vec<(u64, Vec<u8>)>,
    at: usize,
}

impl Index for Entries {
    type Error = Infallible;

    fn next(&mut self) -> Result<Option<u64>, Infallible> {
        self.at += 1;
        Ok(self.entries.get(self.at - 1).map(|entry| entry.0))
    }

    fn key(&self) -> &[u8] {
        &self.entries[self.at - 1].1
    }
}

impl IndexSink for Entries {
    type Error = Infallible;

    fn push(&mut self, fingerprint: u64, key: &[u8]) -> Result<(), Infallible> {
        self.entries.push((fingerprint, key.to_vec()));
        Ok(())
    }
}

/// The records known, by key.
#[derive(Clone, Default, Debug, PartialEq)]
struct State(BTreeMap<Vec<u8>, Row>);

impl Known for State {
    type Error = Infallible;

    fn get(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, Infallible> {
        Ok(self.0.get(key).map(|row| out.extend_from_slice(row.as_bytes())).is_some())
    }

    fn keys(&self, take: &mut dyn FnMut(&[u8]) -> Result<(), Infallible>) -> Result<(), Infallible> {
        self.0.keys().try_for_each(|key| take(key))
    }
}

impl State {
    fn of(records: &[Record], identity: Identity) -> State {
        let mut state = State::default();
        let mut counts: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for record in records {
            let content = content(*record, identity);
            let key = match identity {
                Identity::Key => content,
                Identity::WholeRow => {
                    let count = counts.entry(content.clone()).or_default();
                    *count += 1;
                    diff::counted(&content, *count - 1).as_bytes().to_vec()
                }
            };
            state.0.insert(key, row(*record));
        }
        state
    }

    fn apply(mut self, differences: &[diff::Difference]) -> State {
        for difference in differences {
            let key = difference.key.as_bytes().to_vec();
            let change = difference.clone().into_change().expect("a difference changes something");
            let after = apply::apply(&change, self.0.get(&key)).expect("the difference starts from this state");
            match after {
                Some(row) => drop(self.0.insert(key, row)),
                None => drop(self.0.remove(&key)),
            }
        }
        self
    }
}

fn index(records: &[Record], identity: Identity) -> Entries {
    let entries = records.iter().map(|record| (fingerprint(*record), content(*record, identity))).collect();
    Entries { entries, at: 0 }
}

type Result2 = Result<diff::Outcome, DiffError<Infallible>>;

fn by_index(before: &[Record], after: &[Record], identity: Identity) -> (Result2, Entries, usize) {
    let decoded = Cell::new(0);
    let mut file = File { records: after, at: 0, identity, decoded: &decoded };
    let mut sink = Entries::default();
    let known = State::of(before, identity);
    let outcome = diff::with_index(&mut file, &mut index(before, identity), &known, &mut sink, identity);
    (outcome, sink, decoded.get())
}

fn by_lookup(before: &[Record], after: &[Record], identity: Identity) -> Result2 {
    let decoded = Cell::new(0);
    let mut file = File { records: after, at: 0, identity, decoded: &decoded };
    let known = State::of(before, identity);
    diff::without_index(&mut file, &known, &mut Entries::default(), identity)
}

fn by_comparing(before: &[Record], after: &[Record], identity: Identity, fingerprints: Fingerprints) -> Result2 {
    let decoded = Cell::new(0);
    let mut a = File { records: before, at: 0, identity, decoded: &decoded };
    let mut b = File { records: after, at: 0, identity, decoded: &decoded };
    diff::compare(&mut a, &mut b, fingerprints, identity)
}

/// Records with distinct keys in any order.
fn keyed() -> impl Strategy<Value = Vec<Record>> {
    prop::collection::btree_map(any::<u8>(), 0..4u8, 0..150)
        .prop_map(|records| records.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

/// A file and what edits made of it: rows changed, moved in blocks, put in and taken out.
fn edited() -> impl Strategy<Value = (Vec<Record>, Vec<Record>)> {
    let edit = (0..5u8, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
    (keyed(), vec(edit, 0..8)).prop_map(|(before, edits)| {
        let mut after = before.clone();
        for (kind, at, to, value) in edits {
            if after.is_empty() {
                break;
            }
            let (at, to) = (at.index(after.len()), to.index(after.len()));
            match kind {
                0 => after[at].1 = value,
                1 => drop(after.remove(at)),
                2 if !after.iter().any(|record| record.0 == value) => after.insert(at, (value, 9)),
                3 => {
                    let block: Vec<_> = after.drain(at.min(to)..at.max(to)).collect();
                    let place = to.min(after.len());
                    after.splice(place..place, block);
                }
                _ => after.swap(at, to),
            }
        }
        (before, after)
    })
}

proptest! {
    #[test]
    fn what_differs_leads_from_the_one_to_the_other((before, after) in edited()) {
        let (outcome, sink, _) = by_index(&before, &after, Identity::Key);
        let outcome = outcome.unwrap();
        let applied = State::of(&before, Identity::Key).apply(&outcome.differences);
        prop_assert_eq!(applied, State::of(&after, Identity::Key));
        prop_assert_eq!(sink.entries, index(&after, Identity::Key).entries);
        prop_assert_eq!(outcome.records, after.len() as u64);
    }

    #[test]
    fn all_ways_find_the_same((before, after) in edited()) {
        let found = by_index(&before, &after, Identity::Key).0.unwrap().differences;
        prop_assert_eq!(&by_lookup(&before, &after, Identity::Key).unwrap().differences, &found);
        for fingerprints in [Fingerprints::Comparable, Fingerprints::Foreign] {
            let compared = by_comparing(&before, &after, Identity::Key, fingerprints).unwrap().differences;
            prop_assert_eq!(&compared, &found);
        }
    }

    #[test]
    fn whole_rows_are_counted(
        before in vec((0..3u8, 0..3u8), 0..40),
        after in vec((0..3u8, 0..3u8), 0..40),
    ) {
        let wanted = State::of(&after, Identity::WholeRow);
        let known = State::of(&before, Identity::WholeRow);
        let (by_index, ..) = by_index(&before, &after, Identity::WholeRow);
        prop_assert_eq!(known.clone().apply(&by_index.unwrap().differences), wanted.clone());
        let looked_up = by_lookup(&before, &after, Identity::WholeRow).unwrap();
        prop_assert_eq!(known.apply(&looked_up.differences), wanted);
        let compared = by_comparing(&before, &after, Identity::WholeRow, Fingerprints::Comparable).unwrap();
        let added = compared.differences.iter().filter(|difference| difference.before.is_none()).count();
        prop_assert_eq!(before.len() + 2 * added, after.len() + compared.differences.len());
    }

    #[test]
    fn a_copied_line_is_an_error(
        records in keyed().prop_filter("some", |records| !records.is_empty()),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        value in 0..4u8,
    ) {
        let mut after = records.clone();
        let (key, _) = records[from.index(records.len())];
        after.insert(to.index(records.len() + 1), (key, value));
        let (by_index, ..) = by_index(&records, &after, Identity::Key);
        let by_index_failed = matches!(by_index, Err(DiffError::DuplicateKey { .. }));
        prop_assert!(by_index_failed);
        let looked_up_failed = matches!(by_lookup(&records, &after, Identity::Key), Err(DiffError::DuplicateKey { .. }));
        prop_assert!(looked_up_failed);
    }

    #[test]
    fn what_stays_in_place_is_not_decoded(records in keyed(), at in any::<prop::sample::Index>()) {
        let (_, _, decoded) = by_index(&records, &records, Identity::Key);
        prop_assert_eq!(decoded, 0);
        if !records.is_empty() {
            let mut after = records.clone();
            after[at.index(records.len())].1 = 77;
            // The record itself, and what the window took in on the way to the next common one.
            prop_assert!(by_index(&records, &after, Identity::Key).2 <= 2);
        }
    }

    #[test]
    fn a_change_undone_is_as_before(before in any::<Option<u8>>(), after in any::<Option<u8>>()) {
        let (before, after) = (before.map(|value| row((1, value))), after.map(|value| row((1, value))));
        let key = Key::of(&[Value::Integer(1)]);
        if let Some(change) = diff::change(key, before.as_ref(), after.as_ref()) {
            prop_assert_eq!(apply::apply(&change, before.as_ref()).unwrap(), after.clone());
            prop_assert_eq!(apply::apply(&change.invert(), after.as_ref()).unwrap(), before);
        }
    }

    #[test]
    fn merging_loses_no_edit_and_repeats_nothing(
        base in any::<Option<[u8; 3]>>(),
        source in any::<Option<[u8; 3]>>(),
        edited in any::<Option<[u8; 3]>>(),
        policy in prop_oneof![
            Just(ConflictPolicy::Source), Just(ConflictPolicy::Receiver),
            Just(ConflictPolicy::Latest), Just(ConflictPolicy::Manual),
        ],
        later in any::<bool>(),
    ) {
        let row = |fields: [u8; 3]| Row::of(&fields.map(|field| Value::Integer((field % 3).into())));
        let (base, source, edited) = (base.map(row), source.map(row), edited.map(row));
        let key = Key::of(&[Value::Integer(1)]);
        let Some(edit) = diff::change(key, base.as_ref(), edited.as_ref()) else { return Ok(()) };
        let clock = if later { Clock::EditLater } else { Clock::SourceLater };
        let merged = merge(&edit, source.as_ref(), base.as_ref(), policy, clock, &[]);
        // Each field of the edit is in exactly one verdict.
        let whole = |change: &Change| matches!(change, Change::Insert { .. } | Change::Delete { .. });
        let mut slots: Vec<u32> = Vec::new();
        for (part, _) in &merged.verdicts {
            match part {
                Change::Update { fields, .. } => slots.extend(fields.iter().map(|field| field.slot)),
                part => prop_assert!(whole(part)),
            }
        }
        if let Change::Update { fields, .. } = &edit {
            slots.sort_unstable();
            prop_assert_eq!(slots, fields.iter().map(|field| field.slot).collect::<Vec<_>>());
        }
        prop_assert!(!merged.verdicts.is_empty());
        // On an unchanged source the edit is simply applied.
        if source == base {
            let after = merged.apply.as_ref().map(|change| apply::apply(change, source.as_ref()).unwrap());
            prop_assert_eq!(after.unwrap_or(source.clone()), edited);
            prop_assert!(merged.verdicts.iter().all(|(_, outcome)| *outcome == Outcome::Accepted));
        }
        // Where the edit won, merging it again finds nothing left to do.
        let after = match &merged.apply {
            Some(change) => apply::apply(change, source.as_ref()).unwrap(),
            None => source.clone(),
        };
        if matches!(policy, ConflictPolicy::Receiver) {
            let again = merge(&edit, after.as_ref(), base.as_ref(), policy, clock, &[]);
            prop_assert_eq!(again.apply, None);
        }
    }
}

fn conflict_of(policy: ConflictPolicy, clock: Clock) -> (Option<u8>, bool) {
    let key = Key::of(&[Value::Integer(1)]);
    let edit = diff::change(key, Some(&row((1, 1))), Some(&row((1, 3)))).unwrap();
    let merged = merge(&edit, Some(&row((1, 2))), None, policy, clock, &[]);
    let open = matches!(&merged.verdicts[0].1, Outcome::Conflict(conflict) if conflict.open);
    assert!(matches!(&merged.verdicts[0].1, Outcome::Conflict(_)));
    (merged.apply.map(|_| 3), open)
}

#[test]
fn the_policy_decides_a_conflict() {
    assert_eq!(conflict_of(ConflictPolicy::Source, Clock::EditLater), (None, false));
    assert_eq!(conflict_of(ConflictPolicy::Receiver, Clock::SourceLater), (Some(3), false));
    assert_eq!(conflict_of(ConflictPolicy::Latest, Clock::EditLater), (Some(3), false));
    assert_eq!(conflict_of(ConflictPolicy::Latest, Clock::SourceLater), (None, false));
    assert_eq!(conflict_of(ConflictPolicy::Manual, Clock::EditLater), (None, true));
}

#[test]
fn an_edit_outranks_a_delete_and_a_delete_of_a_changed_record_is_refused() {
    let key = Key::of(&[Value::Integer(1)]);
    let edit = diff::change(key.clone(), Some(&row((1, 1))), Some(&row((1, 3)))).unwrap();
    let back = merge(&edit, None, Some(&row((1, 1))), ConflictPolicy::Source, Clock::EditLater, &[]);
    assert_eq!(back.apply, Some(Change::Insert { key: key.clone(), row: row((1, 3)) }));
    assert!(matches!(&back.verdicts[0].1, Outcome::Conflict(conflict) if conflict.source_deleted));

    let delete = Change::Delete { key, row: row((1, 1)) };
    let refused = merge(&delete, Some(&row((1, 2))), None, ConflictPolicy::Receiver, Clock::EditLater, &[]);
    assert_eq!(refused.apply, None);
    assert!(matches!(&refused.verdicts[0].1, Outcome::Conflict(conflict) if conflict.edit_deletes));
    let already = merge(&delete, None, None, ConflictPolicy::Source, Clock::EditLater, &[]);
    assert_eq!(already.verdicts[0].1, Outcome::Already);
}

#[test]
fn fields_of_a_group_conflict_together() {
    let key = Key::of(&[Value::Integer(1)]);
    let of = |price, currency| Row::of(&[Value::Integer(1), Value::Integer(price), Value::Integer(currency)]);
    let edit = diff::change(key, Some(&of(10, 1)), Some(&of(12, 2))).unwrap();
    let merged = merge(&edit, Some(&of(11, 1)), None, ConflictPolicy::Source, Clock::EditLater, &[vec![1, 2]]);
    assert_eq!(merged.apply, None);
    assert!(merged.verdicts.iter().all(|(_, outcome)| matches!(outcome, Outcome::Conflict(_))));
}
