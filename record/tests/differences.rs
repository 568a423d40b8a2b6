//! Laws of differencing: what is found is what was known with the differences applied, however the records moved.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;

use deltabus_record::apply::{Mismatch, apply};
use deltabus_record::change::{Change, FieldChange};
use deltabus_record::diff::{
    self, Comparison, DiffError, Difference, Fingerprints, Found, Identity, Index, IndexSink, Known, LOOK_AHEAD_MAX,
    MemorySorter, Outcome, Refreshed, Side, Sorter, Tally,
};
use deltabus_record::key::{Key, encode_occurrence};
use deltabus_record::row::Row;
use deltabus_record::schema::{Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};
use deltabus_record::{arbitrary, digest};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Place;
use xxhash_rust::xxh3::xxh3_64;

/// One line of a file: a record, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    id: i64,
    word: u8,
    /// The same record written otherwise has another fingerprint.
    style: u8,
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

impl Line {
    fn row(&self) -> Row {
        Row::of(&[Value::Integer(self.id), Value::text("w".repeat(self.word.into()))])
    }

    fn fingerprint(&self) -> u64 {
        xxh3_64(self.row().as_bytes()) ^ u64::from(self.style)
    }

    /// The key, of a whole row without its occurrence.
    fn key(&self, identity: Identity) -> Vec<u8> {
        let mut key = Vec::new();
        schema(identity).key_content_into(self.row().as_bytes(), &mut key);
        key
    }
}

fn schema(identity: Identity) -> Schema {
    let fields = vec![Field::new("id", Some(Kind::Integer), 0), Field::new("word", Some(Kind::Text), 1)];
    let schema = Schema { fields, key: KeySpec::WholeRow };
    match identity {
        Identity::Key => schema.with_key(&["id"]).unwrap(),
        Identity::WholeRow => schema,
    }
}

/// What a file holds; `None` if a key is there twice.
fn map_of(lines: &[Line], identity: Identity) -> Option<Map> {
    let mut map = Map::new();
    let mut counts: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for line in lines {
        let mut key = line.key(identity);
        if identity == Identity::WholeRow {
            let count = counts.entry(key.clone()).or_default();
            encode_occurrence(&mut key, *count);
            *count += 1;
        }
        if map.insert(key, line.row().as_bytes().to_vec()).is_some() {
            return None;
        }
    }
    Some(map)
}

/// Reads lines.
struct Reader<'a> {
    lines: &'a [Line],
    at: usize,
    identity: Identity,
}

impl Reader<'_> {
    fn of(lines: &[Line], identity: Identity) -> Reader<'_> {
        Reader { lines, at: 0, identity }
    }
}

impl Found for Reader<'_> {
    type Error = Infallible;

    fn next(&mut self) -> Result<Option<u64>, Infallible> {
        self.at += 1;
        Ok(self.lines.get(self.at - 1).map(Line::fingerprint))
    }

    fn decode(&mut self, key: &mut Vec<u8>, row: &mut Vec<u8>) -> Result<bool, Infallible> {
        let line = &self.lines[self.at - 1];
        key.extend(line.key(self.identity));
        row.extend_from_slice(line.row().as_bytes());
        Ok(true)
    }

    fn place(&self) -> String {
        format!("line {}", self.at)
    }
}

/// Lines of which some can't be read.
struct Unreadable<'a> {
    lines: Reader<'a>,
    is_read: &'a dyn Fn(usize) -> bool,
}

impl Found for Unreadable<'_> {
    type Error = Infallible;

    fn next(&mut self) -> Result<Option<u64>, Infallible> {
        self.lines.next()
    }

    fn decode(&mut self, key: &mut Vec<u8>, row: &mut Vec<u8>) -> Result<bool, Infallible> {
        if !(self.is_read)(self.lines.at - 1) {
            return Ok(false);
        }
        self.lines.decode(key, row)
    }

    fn place(&self) -> String {
        self.lines.place()
    }
}

/// The index that a scan makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entries {
    entries: Vec<(u64, Vec<u8>)>,
    at: usize,
}

impl Entries {
    fn of(lines: &[Line], identity: Identity) -> Entries {
        Entries { entries: lines.iter().map(|line| (line.fingerprint(), line.key(identity))).collect(), at: 0 }
    }
}

impl Index for Entries {
    type Error = Infallible;

    fn next(&mut self) -> Result<Option<u64>, Infallible> {
        self.at += 1;
        Ok(self.entries.get(self.at - 1).map(|(fingerprint, _)| *fingerprint))
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

struct State<'a>(&'a Map);

impl Known for State<'_> {
    type Error = Infallible;

    fn get(&self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Infallible> {
        let found = self.0.get(key);
        row.extend(found.into_iter().flatten());
        Ok(found.is_some())
    }

    fn keys(&self, take: &mut dyn FnMut(&[u8]) -> Result<(), Infallible>) -> Result<(), Infallible> {
        self.0.keys().try_for_each(|key| take(key))
    }
}

type Compared = Result<(Outcome, Entries), DiffError<Infallible>>;

fn with_index(known: &Map, mut index: Entries, lines: &[Line], identity: Identity) -> Compared {
    let mut sink = Entries::default();
    let mut found = Reader::of(lines, identity);
    let outcome = diff::with_index(&mut found, &mut index, &State(known), &mut sink, identity)?;
    Ok((outcome, sink))
}

fn without_index(known: &Map, lines: &[Line], identity: Identity) -> Compared {
    let mut sink = Entries::default();
    let outcome = diff::without_index(&mut Reader::of(lines, identity), &State(known), &mut sink, identity)?;
    Ok((outcome, sink))
}

fn compare(
    a: &[Line],
    b: &[Line],
    fingerprints: Fingerprints,
    identity: Identity,
) -> Result<Outcome, DiffError<Infallible>> {
    diff::compare(&mut Reader::of(a, identity), &mut Reader::of(b, identity), fingerprints, identity)
}

/// The same with so many bytes held; what is not held is read again, in another order.
fn compare_holding(
    bytes: usize,
    [a, b]: [&[Line]; 2],
    fingerprints: Fingerprints,
    identity: Identity,
) -> Result<(Vec<Difference>, Tally), DiffError<Infallible>> {
    let mut sorter = MemorySorter::new();
    let mut comparison = Comparison::new(fingerprints, identity, &mut sorter).holding(bytes);
    comparison.walk(&mut Reader::of(a, identity), &mut Reader::of(b, identity))?;
    for (side, lines) in [(Side::A, a), (Side::B, b)] {
        if comparison.wants(side) {
            let backwards: Vec<Line> = lines.iter().rev().cloned().collect();
            assert!(comparison.again(side, &mut Reader::of(&backwards, identity))?);
        }
    }
    let tally = comparison.tally();
    let mut differences = Vec::new();
    diff::settle(&mut sorter, identity, &mut |difference| {
        differences.push(difference);
        Ok::<_, Infallible>(())
    })?;
    Ok((differences, tally))
}

/// The state after these differences, each of which must start from what is there.
fn applied(mut map: Map, differences: &[Difference]) -> Map {
    for difference in differences {
        let Difference { key, before, after } = difference.clone();
        let now = map.get(key.as_bytes()).map(|row| Row::from_bytes(row).unwrap());
        assert_eq!(now, before, "{difference:?}");
        let change = diff::change(key.clone(), before.as_ref(), after.as_ref()).expect("something differs");
        match apply(&change, now.as_ref()).unwrap() {
            Some(row) => map.insert(key.as_bytes().to_vec(), row.as_bytes().to_vec()),
            None => map.remove(key.as_bytes()),
        };
    }
    map
}

/// What somebody does to a file.
#[derive(Clone, Debug)]
enum Edit {
    Insert(Place, i64),
    Delete(Place, usize),
    Change(Place, u8),
    Restyle(Place, u8),
    Move(Place, usize, Place),
    Copy(Place, Place),
    Swap(Place, Place),
    Reverse,
}

impl Edit {
    fn make(&self, lines: &mut Vec<Line>) {
        let count = lines.len();
        if count == 0 && !matches!(self, Edit::Insert(..)) {
            return;
        }
        match self {
            Edit::Insert(at, id) => lines.insert(at.index(count + 1), Line { id: *id, word: 1, style: 0 }),
            Edit::Delete(at, length) => {
                let at = at.index(count);
                lines.drain(at..count.min(at + length));
            }
            Edit::Change(at, word) => lines[at.index(count)].word = *word,
            Edit::Restyle(at, style) => lines[at.index(count)].style = *style,
            Edit::Move(from, length, to) => {
                let from = from.index(count);
                let block: Vec<Line> = lines.drain(from..count.min(from + length)).collect();
                let to = to.index(lines.len() + 1);
                lines.splice(to..to, block);
            }
            Edit::Copy(from, to) => {
                let line = lines[from.index(count)].clone();
                lines.insert(to.index(count + 1), line);
            }
            Edit::Swap(a, b) => lines.swap(a.index(count), b.index(count)),
            Edit::Reverse => lines.reverse(),
        }
    }
}

/// Edits that keep keys distinct.
fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<Place>;
    // As long as the window and longer, now and then.
    let length = || prop_oneof![4 => Just(1usize), 2 => 2..8usize, 1 => 60..150usize];
    prop_oneof![
        3 => (place(), 1_000..1_000_000i64).prop_map(|(at, id)| Edit::Insert(at, id)),
        3 => (place(), length()).prop_map(|(at, length)| Edit::Delete(at, length)),
        4 => (place(), 0..4u8).prop_map(|(at, word)| Edit::Change(at, word)),
        2 => (place(), 0..3u8).prop_map(|(at, style)| Edit::Restyle(at, style)),
        3 => (place(), length(), place()).prop_map(|(from, length, to)| Edit::Move(from, length, to)),
        2 => (place(), place()).prop_map(|(a, b)| Edit::Swap(a, b)),
        1 => Just(Edit::Reverse),
    ]
}

/// Edits of files whose lines are counted: copies among them.
fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![4 => edit(), 1 => (any::<Place>(), any::<Place>()).prop_map(|(from, to)| Edit::Copy(from, to))]
}

fn edited(lines: &[Line], edits: &[Edit]) -> Vec<Line> {
    let mut lines = lines.to_vec();
    for edit in edits {
        edit.make(&mut lines);
    }
    lines
}

/// A file of distinct keys, now and then longer than the window.
fn keyed() -> impl Strategy<Value = Vec<Line>> {
    let count = prop_oneof![3 => 0..12usize, 1 => 60..300usize];
    count.prop_flat_map(|count| {
        vec((0..4u8, 0..3u8), count).prop_map(|lines| {
            let line = |(id, (word, style))| Line { id: id as i64, word, style };
            lines.into_iter().enumerate().map(line).collect()
        })
    })
}

/// A file in which equal lines are common.
fn counted() -> impl Strategy<Value = Vec<Line>> {
    let line = (0..6i64, 0..2u8, 0..2u8).prop_map(|(id, word, style)| Line { id, word, style });
    prop_oneof![3 => vec(line.clone(), 0..12), 1 => vec(line, 60..200)]
}

fn file(identity: Identity) -> BoxedStrategy<(Vec<Line>, Vec<Edit>)> {
    match identity {
        Identity::Key => (keyed(), vec(edit(), 0..8)).boxed(),
        Identity::WholeRow => (counted(), vec(any_edit(), 0..8)).boxed(),
    }
}

fn identity_and_file() -> impl Strategy<Value = (Identity, Vec<Line>, Vec<Edit>)> {
    let identity = prop_oneof![Just(Identity::Key), Just(Identity::WholeRow)];
    identity.prop_flat_map(|identity| file(identity).prop_map(move |(lines, edits)| (identity, lines, edits)))
}

/// Whether an outcome is right for `lines`; `known` is the state before.
fn check(known: &Map, lines: &[Line], identity: Identity, (outcome, sink): &(Outcome, Entries)) {
    let expected = map_of(lines, identity).expect("the keys are distinct");
    assert_eq!(applied(known.clone(), &outcome.differences), expected);
    assert_eq!(outcome.records, lines.len() as u64);
    assert!(outcome.decoded <= outcome.records);
    assert!(outcome.differences.is_sorted_by(|a, b| a.key < b.key), "each key once, in order");
    assert_eq!(*sink, Entries::of(lines, identity));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_known_and_the_differences_are_what_is_found((identity, before, edits) in identity_and_file()) {
        let after = edited(&before, &edits);
        let known = map_of(&before, identity).unwrap();
        // An insert may hit on a key that is there.
        prop_assume!(map_of(&after, identity).is_some());
        let by_index = with_index(&known, Entries::of(&before, identity), &after, identity).unwrap();
        check(&known, &after, identity, &by_index);
        let one_by_one = without_index(&known, &after, identity).unwrap();
        check(&known, &after, identity, &one_by_one);
        prop_assert_eq!(by_index.0.differences, one_by_one.0.differences);
    }

    #[test]
    fn what_may_have_been_written_is_enough_unless_something_is_gone(
        (identity, before, edits) in identity_and_file(),
        doubted in vec(any::<bool>(), 64),
    ) {
        prop_assume!(identity == Identity::Key);
        let after = edited(&before, &edits);
        let known = map_of(&before, identity).unwrap();
        let Some(expected) = map_of(&after, identity) else { return Ok(()) };
        // Some are given though they stand as they stood.
        let stands = |(at, line): &(usize, &Line)| before.contains(line) && !doubted.get(*at).copied().unwrap_or(true);
        let (kept, given): (Vec<_>, Vec<_>) = after.iter().enumerate().partition(stands);
        let given: Vec<Line> = given.into_iter().map(|(_, line)| line.clone()).collect();
        let mut found = Reader::of(&given, identity);
        let outcome: Result<_, DiffError<Infallible>> =
            diff::since(&mut found, &State(&known), kept.len() as u64, known.len() as u64);
        let gone = known.keys().any(|key| !expected.contains_key(key));
        match outcome.unwrap() {
            None => prop_assert!(gone),
            Some(outcome) => {
                prop_assert!(!gone);
                prop_assert_eq!(outcome.records, after.len() as u64);
                prop_assert_eq!(applied(known, &outcome.differences), expected);
            }
        }
    }

    #[test]
    fn what_can_not_be_read_is_passed_over((identity, before, edits) in identity_and_file(), unread in vec(any::<bool>(), 64)) {
        prop_assume!(identity == Identity::Key);
        let after = edited(&before, &edits);
        prop_assume!(map_of(&after, identity).is_some());
        let known = map_of(&before, identity).unwrap();
        let is_read = |at: usize| !unread.get(at).copied().unwrap_or_default();
        let readable: Vec<_> = (0..after.len()).filter(|at| is_read(*at)).map(|at| after[at].clone()).collect();
        // Without an index every record has to be read.
        let mut found = Unreadable { lines: Reader::of(&after, identity), is_read: &is_read };
        let mut sink = Entries::default();
        let outcome: Result<Outcome, DiffError<Infallible>> =
            diff::without_index(&mut found, &State(&known), &mut sink, identity);
        let expected = without_index(&known, &readable, identity).unwrap();
        prop_assert_eq!(outcome.unwrap().differences, expected.0.differences);
        prop_assert_eq!(sink, expected.1);
    }

    #[test]
    fn each_index_serves_the_next_scan((identity, first, edits) in identity_and_file(), more in vec(edit(), 1..4)) {
        let mut lines = first;
        let mut known = map_of(&lines, identity).unwrap();
        let (_, mut index) = without_index(&Map::new(), &lines, identity).unwrap();
        for edits in [edits, more] {
            lines = edited(&lines, &edits);
            prop_assume!(map_of(&lines, identity).is_some());
            let compared = with_index(&known, index, &lines, identity).unwrap();
            check(&known, &lines, identity, &compared);
            known = applied(known, &compared.0.differences);
            index = compared.1;
        }
    }

    #[test]
    fn an_index_serves_also_when_records_were_written_since(
        (identity, first, edits) in identity_and_file(),
        more in vec(edit(), 0..4),
    ) {
        let between = edited(&first, &edits);
        let after = edited(&between, &more);
        prop_assume!(map_of(&between, identity).is_some() && map_of(&after, identity).is_some());
        let known = map_of(&between, identity).unwrap();
        let old = map_of(&first, identity).unwrap();
        // What was written between is known by key only.
        let differs = |key: &&Vec<u8>| old.get(*key) != known.get(*key);
        let stale: HashSet<Vec<u8>> = old.keys().chain(known.keys()).filter(differs).map(|key| match identity {
            Identity::Key => key.clone(),
            Identity::WholeRow => key[..key.len() - 5].to_vec(),
        }).collect();
        let index = Entries::of(&first, identity);
        let mut index = Refreshed::new(index, Some(&stale), &State(&known), identity).unwrap();
        let (mut found, mut sink) = (Reader::of(&after, identity), Entries::default());
        let outcome: Result<Outcome, DiffError<Infallible>> =
            diff::with_index(&mut found, &mut index, &State(&known), &mut sink, identity);
        check(&known, &after, identity, &(outcome.unwrap(), sink));
    }

    #[test]
    fn a_file_in_its_old_state_has_no_differences_and_is_not_decoded((identity, lines, _) in identity_and_file()) {
        let known = map_of(&lines, identity).unwrap();
        let (outcome, _) = with_index(&known, Entries::of(&lines, identity), &lines, identity).unwrap();
        prop_assert_eq!(outcome, Outcome { differences: Vec::new(), records: lines.len() as u64, decoded: 0 });
        let same = compare(&lines, &lines, Fingerprints::Comparable, identity).unwrap();
        prop_assert_eq!((same.differences.len(), same.decoded), (0, 0));
    }

    #[test]
    fn a_key_that_is_there_twice_is_an_error(before in keyed(), edits in vec(edit(), 0..4), from in any::<Place>(), to in any::<Place>(), word in 0..4u8, style in 0..3u8) {
        let mut after = edited(&before, &edits);
        prop_assume!(!after.is_empty());
        let twin = Line { word, style, ..after[from.index(after.len())].clone() };
        after.insert(to.index(after.len() + 1), twin);
        let known = map_of(&before, Identity::Key).unwrap();
        let by_index = with_index(&known, Entries::of(&before, Identity::Key), &after, Identity::Key);
        prop_assert!(matches!(by_index, Err(DiffError::DuplicateKey { .. })), "{:?}", by_index);
        let one_by_one = without_index(&known, &after, Identity::Key);
        prop_assert!(matches!(one_by_one, Err(DiffError::DuplicateKey { .. })), "{:?}", one_by_one);
        let loaded = diff::first::<Infallible, _, _, Infallible>(
            &mut Reader::of(&after, Identity::Key), &mut Entries::default(), Identity::Key, &mut |_, _| Ok(()),
        );
        prop_assert!(matches!(loaded, Err(DiffError::DuplicateKey { .. })), "{:?}", loaded);
    }

    #[test]
    fn stores_are_compared_without_a_state((identity, before, edits) in identity_and_file()) {
        let after = edited(&before, &edits);
        let known = map_of(&before, identity).unwrap();
        prop_assume!(map_of(&after, identity).is_some());
        let expected = without_index(&known, &after, identity).unwrap().0.differences;
        // How often each row comes in and goes: of equal rows it doesn't matter which.
        let rows = |differences: &[Difference]| {
            let mut balance: BTreeMap<(Option<Row>, Option<Row>), u32> = BTreeMap::new();
            for difference in differences {
                *balance.entry((difference.before.clone(), difference.after.clone())).or_default() += 1;
            }
            balance
        };
        for fingerprints in [Fingerprints::Comparable, Fingerprints::Foreign] {
            let outcome = compare(&before, &after, fingerprints, identity).unwrap();
            prop_assert_eq!(outcome.records, after.len() as u64);
            for bytes in [0, 300] {
                let (differences, _) = compare_holding(bytes, [&before, &after], fingerprints, identity).unwrap();
                match identity {
                    Identity::Key => prop_assert_eq!(&differences, &outcome.differences),
                    Identity::WholeRow => prop_assert_eq!(rows(&differences), rows(&outcome.differences)),
                }
            }
            match identity {
                Identity::Key => prop_assert_eq!(&outcome.differences, &expected),
                Identity::WholeRow => prop_assert_eq!(rows(&outcome.differences), rows(&expected)),
            }
        }
    }

    #[test]
    fn the_first_scan_loads_all((identity, lines, _) in identity_and_file()) {
        let mut loaded = Map::new();
        let mut sink = Entries::default();
        let mut load = |key: &[u8], row: &[u8]| -> Result<(), Infallible> {
            loaded.insert(key.to_vec(), row.to_vec());
            Ok(())
        };
        let outcome = diff::first::<Infallible, _, _, _>(&mut Reader::of(&lines, identity), &mut sink, identity, &mut load);
        prop_assert_eq!(outcome.unwrap().records, lines.len() as u64);
        prop_assert_eq!(loaded, map_of(&lines, identity).unwrap());
        prop_assert_eq!(sink, Entries::of(&lines, identity));
    }

    #[test]
    fn changes_lead_there_and_back(before in prop::option::of(arbitrary::row(4)), after in prop::option::of(arbitrary::row(4))) {
        let key = Key::of(&[Value::Integer(7)]);
        let Some(change) = diff::change(key, before.as_ref(), after.as_ref()) else {
            prop_assert_eq!(before, after);
            return Ok(());
        };
        prop_assert_ne!(&before, &after);
        prop_assert_eq!(apply(&change, before.as_ref()).unwrap(), after.clone());
        prop_assert_eq!(apply(&change.clone().invert(), after.as_ref()).unwrap(), before.clone());
        prop_assert_eq!(change.clone().invert().invert(), change.clone());
        if let Change::Update { fields, .. } = &change {
            prop_assert!(fields.iter().all(|field| field.before != field.after));
            prop_assert!(fields.is_sorted_by(|a, b| a.slot < b.slot));
        }
    }

    #[test]
    fn a_change_of_another_state_is_refused(before in arbitrary::row(3), after in arbitrary::row(3), other in prop::option::of(arbitrary::row(3))) {
        let key = Key::of(&[Value::Integer(7)]);
        let Some(change) = diff::change(key, Some(&before), Some(&after)) else { return Ok(()) };
        let Change::Update { fields, .. } = &change else { unreachable!("both are there") };
        match (apply(&change, other.as_ref()), &other) {
            (Err(Mismatch::Missing { .. }), None) => {}
            (Err(Mismatch::Value { slot, .. }), Some(other)) => {
                prop_assert_ne!(other.value(slot as usize), before.value(slot as usize));
            }
            (Ok(Some(made)), Some(other)) => {
                for field in fields {
                    prop_assert_eq!(&other.value(field.slot as usize), &field.before);
                }
                // Only the fields it names differ now.
                prop_assert_eq!(&diff::fields(other, &made), fields);
            }
            (result, _) => prop_assert!(false, "{:?}", result),
        }
    }

    #[test]
    fn the_digest_follows_the_differences((identity, before, edits) in identity_and_file()) {
        let after = edited(&before, &edits);
        let known = map_of(&before, identity).unwrap();
        let Some(next) = map_of(&after, identity) else { return Ok(()) };
        let hasher = digest::RecordHasher::new(&deltabus_record::schema::CollectionName::new("people"));
        let afresh = |map: &Map| {
            let mut digest = digest::Digest::default();
            map.iter().for_each(|(key, row)| digest.add(hasher.hash(key, row)));
            digest
        };
        let mut digest = afresh(&known);
        for difference in without_index(&known, &after, identity).unwrap().0.differences {
            let key = difference.key.as_bytes();
            difference.before.iter().for_each(|row| digest.remove(hasher.hash(key, row.as_bytes())));
            difference.after.iter().for_each(|row| digest.add(hasher.hash(key, row.as_bytes())));
        }
        prop_assert_eq!(digest, afresh(&next));
    }
}

fn numbered(count: i64) -> Vec<Line> {
    (0..count).map(|id| Line { id, word: 1, style: 0 }).collect()
}

/// How many records of `after` are decoded where `before` was scanned last.
fn decoded(before: &[Line], after: &[Line]) -> u64 {
    let known = map_of(before, Identity::Key).unwrap();
    let compared = with_index(&known, Entries::of(before, Identity::Key), after, Identity::Key).unwrap();
    check(&known, after, Identity::Key, &compared);
    compared.0.decoded
}

#[test]
fn what_is_not_touched_is_not_decoded() {
    let before = numbered(10_000);
    let mut after = before.clone();
    after[5_000].word = 3;
    assert!(decoded(&before, &after) <= 2, "a changed line costs itself and the next");
    for block in [1, 20, 500, 6_000] {
        after = before.clone();
        after.drain(3_000..3_000 + block);
        assert!(decoded(&before, &after) <= 4, "{block} lines that went cost the look ahead");
        after = before.clone();
        let new = 20_000..20_000 + block as i64;
        after.splice(3_000..3_000, new.map(|id| Line { id, word: 1, style: 0 }));
        assert_eq!(decoded(&before, &after), block as u64, "lines that came cost themselves");
        after = before.clone();
        let moved: Vec<_> = after.drain(1_000..1_000 + block).collect();
        after.extend(moved);
        assert!(decoded(&before, &after) <= 4, "{block} lines that moved cost the look ahead");
    }
    after = before.clone();
    after.iter_mut().step_by(10).for_each(|line| line.word = 3);
    assert_eq!(decoded(&before, &after), 1_000, "only changed lines are decoded");
}

#[test]
fn a_block_longer_than_the_look_ahead_costs_a_small_part_of_it() {
    let before = numbered(2 * LOOK_AHEAD_MAX as i64);
    let block = LOOK_AHEAD_MAX + LOOK_AHEAD_MAX / 2;
    let mut after = before.clone();
    after.drain(10..10 + block);
    let cost = decoded(&before, &after);
    assert!(cost <= block as u64 / 16, "{cost}");
    after = before.clone();
    after.rotate_left(block);
    let cost = decoded(&before, &after);
    assert!(cost <= block as u64 / 16, "{cost}");
    after = shuffled(&before);
    let cost = decoded(&before, &after);
    assert!(cost <= before.len() as u64 / 8, "{cost}");
}

/// The same lines in an order that has nothing to do with theirs.
fn shuffled(lines: &[Line]) -> Vec<Line> {
    let mut lines = lines.to_vec();
    lines.sort_by_key(|line| xxh3_64(&line.id.to_le_bytes()));
    lines
}

#[test]
fn two_stores_are_in_step_again_behind_a_block_of_any_length() {
    let lines = numbered(20_000);
    let apart = |a: &[Line], b: &[Line], bytes: usize| {
        compare_holding(bytes, [a, b], Fingerprints::Comparable, Identity::Key).unwrap()
    };
    for block in [1, 63, 64, 65, 500, 6_000] {
        let mut fewer = lines.clone();
        fewer.drain(3_000..3_000 + block);
        for (a, b) in [(&lines, &fewer), (&fewer, &lines)] {
            let (differences, tally) = apart(a, b, usize::MAX);
            assert_eq!(differences.len(), block);
            // The block, and as many on the other side, which have come up by then.
            assert!(tally.decoded <= 2 * block as u64 + 2, "{block}: {}", tally.decoded);
            let (differences, tally) = apart(a, b, 0);
            assert_eq!(differences.len(), block);
            assert!(tally.decoded <= block as u64 + 2, "what is held as a fingerprint isn't decoded in vain");
        }
        let mut moved = lines.clone();
        moved.rotate_left(block);
        // One line in fifty differs, all along: the trail is not lost by that.
        let mut edited = fewer.clone();
        edited.iter_mut().step_by(50).for_each(|line| line.word = 3);
        let (differences, tally) = apart(&lines, &edited, usize::MAX);
        assert_eq!(differences.len(), block + edited.len().div_ceil(50));
        assert!(tally.decoded <= 3 * block as u64 + 2 * differences.len() as u64, "{block}: {}", tally.decoded);
        let (differences, tally) = apart(&lines, &moved, 0);
        assert_eq!((differences.len(), tally.decoded <= 2), (0, true));
    }
    let (differences, tally) = apart(&lines, &shuffled(&lines), 0);
    // A few stand where they stood by chance, and so are looked at with the next.
    assert_eq!((differences.len(), tally.decoded <= 20), (0, true));
}

#[test]
fn a_store_that_was_written_before_it_was_read_again_is_noticed() {
    let (a, b) = (numbered(300), shuffled(&numbered(200)));
    let mut sorter = MemorySorter::new();
    let mut comparison = Comparison::new(Fingerprints::Comparable, Identity::Key, &mut sorter).holding(0);
    comparison.walk(&mut Reader::of(&a, Identity::Key), &mut Reader::of(&b, Identity::Key)).unwrap();
    assert!(comparison.wants(Side::A) && !comparison.wants(Side::B));
    assert!(!comparison.again(Side::A, &mut Reader::of(&b, Identity::Key)).unwrap());
}

#[test]
fn entries_come_by_key_and_those_of_one_key_as_they_were_put() {
    let mut sorter = MemorySorter::<Infallible>::new();
    for (key, value) in [("b", "1"), ("a", "2"), ("b", ""), ("", "4"), ("a", "5")] {
        sorter.push(key.as_bytes(), value.as_bytes()).unwrap();
    }
    let (mut key, mut value, mut all) = (Vec::new(), Vec::new(), String::new());
    while sorter.next(&mut key, &mut value).unwrap() {
        all += &format!("{}={} ", key.escape_ascii(), value.escape_ascii());
    }
    assert_eq!(all, "=4 a=2 a=5 b=1 b= ");
}

#[test]
fn a_record_written_otherwise_is_no_difference() {
    let before = numbered(100);
    let after: Vec<Line> = before.iter().map(|line| Line { style: 1, ..line.clone() }).collect();
    let known = map_of(&before, Identity::Key).unwrap();
    let (outcome, _) = with_index(&known, Entries::of(&before, Identity::Key), &after, Identity::Key).unwrap();
    assert_eq!(outcome.differences, []);
}

#[test]
fn of_many_equal_rows_the_last_ones_go() {
    let line = Line { id: 1, word: 1, style: 0 };
    let (before, after) = (vec![line.clone(); 1_000], vec![line; 990]);
    let known = map_of(&before, Identity::WholeRow).unwrap();
    let compared = with_index(&known, Entries::of(&before, Identity::WholeRow), &after, Identity::WholeRow).unwrap();
    check(&known, &after, Identity::WholeRow, &compared);
    assert_eq!(compared.0.differences.len(), 10);
}

#[test]
fn a_duplicate_key_names_both_places() {
    let mut lines = numbered(5);
    lines[4] = Line { id: 1, word: 3, style: 0 };
    let known = map_of(&numbered(5), Identity::Key).unwrap();
    let error = without_index(&known, &lines, Identity::Key).unwrap_err().to_string();
    assert_eq!(error, "line 5: another record has the same key (1): record 2");
    let known = map_of(&numbered(1), Identity::Key).unwrap();
    let error = with_index(&known, Entries::of(&numbered(1), Identity::Key), &lines, Identity::Key).unwrap_err();
    assert_eq!(error.to_string(), "record 5: another record has the same key (1): record 2");
    let error = compare(&numbered(1), &lines, Fingerprints::Comparable, Identity::Key).unwrap_err();
    assert_eq!(error.to_string(), "record 5: another record has the same key (1): record 2");
}

#[test]
fn an_update_can_not_fill_the_memory() {
    let field = FieldChange { slot: u32::MAX, before: Value::Absent, after: Value::Null };
    let change = Change::Update { key: Key::of(&[]), fields: vec![field] };
    let row = Row::of(&[Value::Null]);
    assert!(matches!(apply(&change, Some(&row)), Err(Mismatch::Value { slot: u32::MAX, .. })));
    assert_eq!(deltabus_record::apply::force(&change, Some(&row), None), Some(row));
}
