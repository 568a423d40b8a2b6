//! What every interface promises, checked for each of them: a new interface is one line in [`CASES`].

mod support;

use std::collections::BTreeMap;

use deltabus_interfaces::{Action, CollectionWrite, Error, Stamp};
use deltabus_record::arbitrary;
use deltabus_record::schema::Field;
use deltabus_record::value::{Date, Decimal, Instant, Kind, Time, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::{Case, Named, Rows, Shape, Shared, Store, collection, sorted};

/// The interfaces under test.
const CASES: &[Case] = &[
    CSV,
    Case { name: "csv, UTF-16", keyed: "csv:{}?key=id&encoding=utf-16le", whole_row: None, ..CSV },
    Case {
        name: "csv, other markers",
        keyed: "csv:{}?key=id&null=&delimiter=|",
        whole_row: Some("csv:{}?absent="),
        ..CSV
    },
    Case { name: "csv, latin1", keyed: "csv:{}?key=id&encoding=latin1", whole_row: None, ..CSV },
    Case {
        name: "csv, typed",
        keyed: "csv:{}?key=id&types=id:integer,a:float,b:bool",
        whole_row: Some("csv:{}?types=a:integer,b:integer"),
        key_kind: Kind::Integer,
        kinds: [Some(Kind::Float), Some(Kind::Bool), None],
        ..CSV
    },
    Case {
        name: "csv, more types",
        keyed: "csv:{}?key=id&types=id:integer,a:decimal,b:bytes,c:list",
        whole_row: Some("csv:{}?types=a:decimal,b:date_time"),
        key_kind: Kind::Integer,
        kinds: [Some(Kind::Decimal), Some(Kind::Bytes), Some(Kind::List)],
        ..CSV
    },
    Case { name: "tsv", file: "records.tsv", keyed: "tsv:{}?key=id", whole_row: Some("tsv:{}"), ..CSV },
    JSON,
    Case {
        name: "json, typed, inside a document",
        keyed: "json:{}?key=id&at=/data/people",
        whole_row: Some("json:{}?at=/data/people"),
        key_kind: Kind::Integer,
        kinds: [Some(Kind::Decimal), Some(Kind::Bool), Some(Kind::List)],
        ..JSON
    },
    Case { name: "json, objects by name", keyed: "json:{}?key=id&shape=object", whole_row: None, ..JSON },
    Case {
        name: "json, tables",
        keyed: "json:{}?shape=tables&key.records=id",
        whole_row: Some("json:{}?tables=records"),
        ..JSON
    },
    Case { name: "ndjson", file: "records.ndjson", keyed: "ndjson:{}?key=id", whole_row: Some("ndjson:{}"), ..JSON },
    VCARD,
    Case { name: "vcard 3.0", keyed: "vcard:{}?version=3.0", ..VCARD },
    Case { name: "vcard 2.1", keyed: "vcard:{}?version=2.1", ..VCARD },
    Case { name: "vcard, UTF-16", keyed: "vcard:{}?encoding=utf-16le", ..VCARD },
    Case { name: "vcard, latin1", keyed: "vcard:{}?encoding=latin1", ..VCARD },
    Case { name: "vcard, typed", kinds: [Some(Kind::Decimal), Some(Kind::Bytes), Some(Kind::List)], ..VCARD },
    Case {
        name: "vcard, a key of the source's",
        key: "id",
        own: &["uid", "version"],
        whole_row: Some("vcard:{}"),
        key_kind: Kind::Integer,
        ..VCARD
    },
    Case { name: "vcard, a folder", file: "records", inside: Some("a.vcf"), keyed: "vcard:{}/", ..VCARD },
    ICALENDAR,
    Case { name: "icalendar, UTF-16", keyed: "icalendar:{}?encoding=utf-16le", ..ICALENDAR },
    Case { name: "icalendar, a folder", file: "records", inside: Some("a.ics"), keyed: "icalendar:{}/", ..ICALENDAR },
    Case {
        name: "icalendar, a key of the source's",
        key: "id",
        own: &["uid", "component"],
        whole_row: Some("icalendar:{}"),
        key_kind: Kind::Integer,
        ..ICALENDAR
    },
    Case { name: "icalendar, typed", kinds: [Some(Kind::Decimal), Some(Kind::Bytes), Some(Kind::List)], ..ICALENDAR },
    SQLITE,
    Case {
        name: "sqlite, typed",
        key_kind: Kind::Integer,
        kinds: [Some(Kind::Float), Some(Kind::Bool), Some(Kind::Integer)],
        ..SQLITE
    },
    POSTGRES,
    Case {
        name: "postgres, typed",
        key_kind: Kind::Integer,
        kinds: [Some(Kind::Decimal), Some(Kind::Bytes), Some(Kind::List)],
        ..POSTGRES
    },
    Case {
        name: "postgres, more types",
        key_kind: Kind::Integer,
        kinds: [Some(Kind::DateTime), Some(Kind::Float), Some(Kind::Instant)],
        ..POSTGRES
    },
    Case { name: "tree", file: "records", keyed: "tree:{}", whole_row: None, shape: Some(&TREE), ..CSV },
];

const CSV: Case = Case {
    name: "csv",
    file: "records.csv",
    inside: None,
    keyed: "csv:{}?key=id",
    key: "id",
    own: &[],
    whole_row: Some("csv:{}"),
    key_kind: Kind::Text,
    kinds: [None; 3],
    shared: Shared::Store,
    shape: None,
};

const JSON: Case = Case {
    name: "json",
    file: "records.json",
    inside: None,
    keyed: "json:{}?key=id",
    key: "id",
    own: &[],
    whole_row: Some("json:{}"),
    key_kind: Kind::Text,
    kinds: [None; 3],
    shared: Shared::Store,
    shape: None,
};

const ICALENDAR: Case = Case {
    name: "icalendar",
    file: "records.ics",
    inside: None,
    keyed: "icalendar:{}",
    key: "uid",
    own: &["component"],
    whole_row: None,
    key_kind: Kind::Text,
    kinds: [None; 3],
    shared: Shared::Store,
    shape: None,
};

const VCARD: Case = Case {
    name: "vcard",
    file: "records.vcf",
    inside: None,
    keyed: "vcard:{}",
    key: "uid",
    own: &["version"],
    whole_row: None,
    key_kind: Kind::Text,
    kinds: [None; 3],
    shared: Shared::Store,
    shape: None,
};

const SQLITE: Case = Case {
    name: "sqlite",
    file: "records.db",
    inside: None,
    keyed: "sqlite:{}",
    key: "id",
    own: &[],
    whole_row: Some("sqlite:{}?tables=records"),
    key_kind: Kind::Text,
    kinds: [None; 3],
    shared: Shared::Store,
    shape: None,
};

const POSTGRES: Case = Case {
    name: "postgres",
    file: "none",
    inside: None,
    keyed: "{postgres}",
    key: "id",
    own: &[],
    whole_row: Some("{postgres}&tables=records"),
    key_kind: Kind::Text,
    kinds: [None; 3],
    shared: Shared::Records,
    shape: None,
};

/// Trees have fields of their own; their nesting is for a suite of their own.
const TREE: Shape = Shape {
    fields: &[
        ("path", Kind::Text),
        ("type", Kind::Text),
        ("content", Kind::Large),
        ("target", Kind::Text),
        ("mode", Kind::Integer),
        ("mtime", Kind::Instant),
    ],
    record: || {
        let path = prop_oneof![text(), "[a-z]{1,3}"].prop_map(|path| Value::Text(path.replace('/', "_")));
        let content = prop_oneof![
            vec(any::<u8>(), 0..6).prop_map(Value::Bytes),
            text().prop_map(Value::Text),
            any::<i64>().prop_map(Value::Integer),
        ];
        let mtime = (0..1_700_000_000i64, 0..1_000_000_000u32, -50_000..50_000i32)
            .prop_map(|(seconds, nanos, offset_seconds)| Value::Instant(Instant { seconds, nanos, offset_seconds }));
        let nothing = prop_oneof![Just(Value::Null), Just(Value::Absent)];
        let mode = prop::sample::select(vec![0o644, 0o600, 0o755, 0o7777, -1, 0o10000]).prop_map(Value::Integer);
        let row = (path, any::<bool>(), content, nothing, mode, mtime);
        row.prop_map(|(path, is_file, content, nothing, mode, mtime)| match is_file {
            true => vec![path, Value::text("file"), content, nothing, mode, mtime],
            false => vec![path, Value::text("folder"), nothing.clone(), nothing.clone(), mode, nothing],
        })
        .boxed()
    },
    plain: |id| {
        let instant = Instant { seconds: id, nanos: 0, offset_seconds: 0 };
        let content = Value::Bytes(vec![id as u8]);
        let path = Value::text(format!("path {id}"));
        vec![path, Value::text("file"), content, Value::Null, Value::Integer(0o644), Value::Instant(instant)]
    },
};

/// How many random inputs each law is tried with, for each case.
const TRIES: u32 = 24;

/// The same for stores on a server, of which each takes new connections.
const SERVER_TRIES: u32 = 6;

/// Runs `law` on random `input` for each case.
fn for_each_case<S: Strategy>(input: impl Fn(&Case) -> S, law: impl Fn(&Case, S::Value)) {
    for_each(CASES.iter(), input, law);
}

/// Runs `law` on random `input` for each case whose store can have any fields.
fn for_each_free_case<S: Strategy>(input: impl Fn(&Case) -> S, law: impl Fn(&Case, S::Value)) {
    for_each(CASES.iter().filter(|case| case.shape.is_none()), input, law);
}

fn for_each<'a, S: Strategy>(
    cases: impl Iterator<Item = &'a Case>,
    input: impl Fn(&Case) -> S,
    law: impl Fn(&Case, S::Value),
) {
    for case in cases {
        let cases = if case.shared == Shared::Records { SERVER_TRIES } else { TRIES };
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let result = TestRunner::new(config).run(&input(case), |value| {
            law(case, value);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{}: {error}", case.name);
        }
    }
}

#[test]
fn what_is_loaded_is_read_back() {
    for_each_case(
        |case| rows(*case, 0..12),
        |case, rows| {
            let store = Store::keyed(case);
            let rows = projected(&store, &rows);
            let stamp = store.load(&rows);
            let found = store.scan().unwrap();
            assert_eq!(sorted(found.rows), named(&store, &rows));
            assert_eq!(found.stamp, stamp);
        },
    );
}

/// Text that means something elsewhere is text: as a key, as a value, and as the name of a field.
#[test]
fn hostile_text_is_text_everywhere() {
    for case in untyped() {
        let store = Store::keyed(case);
        let texts = arbitrary::hostile();
        let row = |(at, text): (usize, &String)| {
            let key = match case.key_kind {
                Kind::Integer => Value::Integer(at as i64),
                _ => Value::text(text.as_str()),
            };
            let value = |slot: usize| match case.kinds[slot] {
                None | Some(Kind::Text) => Value::text(texts[(at + slot) % texts.len()].as_str()),
                Some(_) => Value::Null,
            };
            vec![key, value(0), value(1), value(2)]
        };
        let rows: Vec<_> = texts.iter().enumerate().map(row).filter_map(|row| store.project(&row)).collect();
        // Narrow encodings refuse what they lack, cards and calendars control characters, and nothing else is refused.
        let narrow = case.name.contains("latin1");
        let lines = ["vcard", "icalendar"].iter().any(|name| case.name.starts_with(name));
        let refused = texts.len() - rows.len();
        assert!(refused == 0 || narrow || lines, "{}: {refused} refused", case.name);
        store.load(&rows);
        assert_eq!(store.rows(), named(&store, &rows), "{}: loaded", case.name);
        // Each goes on to the next, one at a time.
        let mut rows = rows;
        for at in 0..rows.len() {
            let mut next = rows[at].clone();
            next[1] = rows[(at + 7) % rows.len()][1].clone();
            store.write(&[store.put(Some(&rows[at]), &next)]);
            rows[at] = next;
        }
        assert_eq!(store.rows(), named(&store, &rows), "{}: edited", case.name);
        let gone: Vec<_> = rows.drain(..rows.len() / 2).map(|row| store.removal(&row)).collect();
        store.write(&gone);
        assert_eq!(store.rows(), named(&store, &rows), "{}: removed", case.name);
    }
}

/// The cases whose fields may hold text.
fn untyped() -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| case.shape.is_none() && case.key_kind == Kind::Text)
}

#[test]
fn hostile_names_name_fields_or_are_refused() {
    for case in untyped() {
        for name in arbitrary::hostile() {
            let store = Store::keyed(case);
            let Some(mut values) = store.project(&plain(case, 1)) else { panic!("{}", case.name) };
            let mut wider = store.collection.clone();
            let field = store.interface.field_for(&Field::new(name.as_str(), Some(Kind::Text), 4));
            wider.schema.fields.push(field.clone());
            let Ok(value) = store.interface.project(Value::text("here"), &field) else { continue };
            values.push(value.clone());
            let rows = [values];
            let mut records = Rows::new(&wider, &rows);
            let mut writes = [CollectionWrite { collection: &wider, dropped: &[], action: Action::Load(&mut records) }];
            match store.interface.stage(&mut writes, &store.stamp(), None, store.contents()) {
                Ok(staged) => drop(staged.commit().unwrap_or_else(|error| panic!("{}, {name:?}: {error}", case.name))),
                Err(error) => {
                    // A name that is too long, or the same as another to this store.
                    assert!(
                        matches!(
                            error,
                            Error::Refused { .. }
                                | Error::Unsupported { .. }
                                | Error::Write { .. }
                                | Error::Database { .. }
                        ),
                        "{}, {name:?}: {error:?}",
                        case.name
                    );
                    continue;
                }
            }
            let found = store.scan().unwrap_or_else(|error| panic!("{}, {name:?}: {error}", case.name)).rows;
            assert_eq!(found.len(), 1, "{}, {name:?}", case.name);
            assert_eq!(found[0].get(&field.name), Some(&value), "{}, {name:?}: {found:?}", case.name);
        }
    }
}

#[test]
fn equal_records_have_equal_fingerprints() {
    for_each_case(
        |case| rows(*case, 0..12),
        |case, rows| {
            let store = Store::keyed(case);
            store.load(&projected(&store, &rows));
            let (first, second) = (store.scan().unwrap(), store.scan().unwrap());
            assert_eq!(first.layout, second.layout);
            assert_eq!(first.fingerprints, second.fingerprints);
            for (i, j) in (0..first.rows.len()).flat_map(|i| (0..i).map(move |j| (i, j))) {
                let same = first.fingerprints[i] == first.fingerprints[j];
                assert!(!same || first.rows[i] == first.rows[j], "one fingerprint for two records");
            }
        },
    );
}

#[test]
fn writes_lead_where_a_map_leads() {
    let rounds = |case: &Case| (rows(*case, 0..8), vec(vec((0..8usize, record(*case), any::<bool>()), 0..5), 1..4));
    for_each_case(rounds, |case, (initial, rounds)| {
        let store = Store::keyed(case);
        let mut model = BTreeMap::new();
        for row in projected(&store, &initial) {
            model.insert(store.key(&row), row);
        }
        store.load(&model.values().cloned().collect::<Vec<_>>());
        for round in rounds {
            let mut next = model.clone();
            for (at, mut row, removal) in round {
                // Half of the time a record that is there, else most likely a new one.
                if let Some(existing) = initial.get(at) {
                    row[0] = existing[0].clone();
                }
                let Some(row) = store.project(&row) else { continue };
                match removal {
                    true => next.remove(&store.key(&row)),
                    false => next.insert(store.key(&row), row),
                };
            }
            let gone = model.iter().filter(|(key, _)| !next.contains_key(*key)).map(|(_, row)| store.removal(row));
            let put = next.iter().filter(|(key, row)| model.get(*key) != Some(row));
            let put = put.map(|(key, row)| store.put(model.get(key).map(Vec::as_slice), row));
            store.write(&gone.chain(put).collect::<Vec<_>>());
            model = next;
            assert_eq!(store.rows(), named(&store, &model.values().cloned().collect::<Vec<_>>()));
        }
    });
}

#[test]
fn whole_rows_are_counted() {
    let input = |_: &Case| (vec(few(), 0..10), vec(few(), 0..6), vec(any::<prop::sample::Index>(), 0..6));
    for_each_case(input, |case, (initial, added, removed)| {
        let Some(store) = Store::whole_row(case) else { return };
        let mut rows = projected(&store, &initial);
        store.load(&rows);
        assert_eq!(store.rows(), named(&store, &rows));
        let mut writes = Vec::new();
        for index in removed.iter().filter(|_| !initial.is_empty()) {
            if !rows.is_empty() {
                writes.push(store.removal(&rows.swap_remove(index.index(rows.len()))));
            }
        }
        for row in projected(&store, &added) {
            // Within one set a record is written once: removed and put at a time is neither.
            if !writes.contains(&store.removal(&row)) {
                writes.push(store.put(None, &row));
                rows.push(row);
            }
        }
        store.write(&writes);
        assert_eq!(store.rows(), named(&store, &rows));
    });
}

#[test]
fn what_the_collection_lacks_stays() {
    for_each_free_case(
        |case| (rows(*case, 1..6), rows(*case, 1..6)),
        |case, (rows, others)| {
            let store = Store::keyed(case);
            let rows = projected(&store, &rows);
            let mut fields = store.collection.schema.fields.clone();
            let extra = Field::new("extra", Some(Kind::Text), fields.len() as u32);
            fields.insert(1, store.interface.field_for(&extra));
            let wide = collection(fields, &[case.key]);
            let widen = |(at, row): (usize, &Vec<Value>)| {
                let mut row = row.clone();
                row.insert(1, Value::text(format!("extra {at}")));
                row
            };
            store.load_into(&wide, &rows.iter().enumerate().map(widen).collect::<Vec<_>>());
            let writes: Vec<_> = rows
                .iter()
                .zip(projected(&store, &others))
                .map(|(row, mut other)| {
                    other[0] = row[0].clone();
                    (store.put(Some(row), &other), other)
                })
                .collect();
            store.write(&writes.iter().map(|(write, _)| write.clone()).collect::<Vec<_>>());
            let mut expected: Vec<_> = rows.iter().map(|row| store.named(row)).collect();
            for (expected, (_, other)) in expected.iter_mut().zip(&writes) {
                *expected = store.named(other);
            }
            for (at, expected) in expected.iter_mut().enumerate() {
                expected.insert("extra".into(), Value::text(format!("extra {at}")));
            }
            assert_eq!(store.rows(), sorted(expected));
        },
    );
}

#[test]
fn fields_come_and_go() {
    for_each_free_case(
        |case| rows(*case, 1..6),
        |case, rows| {
            let store = Store::keyed(case);
            let rows = projected(&store, &rows);
            if rows.is_empty() {
                return;
            }
            store.load(&rows);
            let mut fields = store.collection.schema.fields.clone();
            fields[1].dropped = true;
            fields.push(store.interface.field_for(&Field::new("new", Some(Kind::Text), 9)));
            let next = collection(fields, &[case.key]);
            let mut first = rows[0].clone();
            first[1] = Value::Absent;
            first.push(Value::text("here"));
            let write = match store.put(None, &first) {
                deltabus_interfaces::RecordWrite::Put { row, key: _, .. } => {
                    deltabus_interfaces::RecordWrite::Put { key: store.key(&rows[0]), row, changed: vec![4] }
                }
                other => other,
            };
            store.commit(&next, &["a".into()], Action::Write(&[write]), &store.stamp()).unwrap();
            let absent = store.project_absent();
            let expected = rows.iter().enumerate().map(|(at, row)| {
                let mut row = store.named(row);
                row.remove("a");
                row.insert("new".into(), if at == 0 { Value::text("here") } else { absent.clone() });
                row.retain(|_, value| *value != Value::Absent);
                row
            });
            let found = store.rows();
            let found = found.into_iter().map(|mut row: Named| {
                // A store that can't drop a field empties it.
                if let Some(value) = row.remove("a") {
                    assert_eq!(value, absent);
                }
                row
            });
            assert_eq!(sorted(found.collect()), sorted(expected.collect()));
        },
    );
}

#[test]
fn nothing_happens_without_a_commit() {
    fn stage<'a>(store: &'a Store, action: Action<'a>) {
        let mut writes = [CollectionWrite { collection: &store.collection, dropped: &[], action }];
        drop(store.interface.stage(&mut writes, &store.stamp(), None, store.contents()).unwrap());
    }
    for_each_case(
        |case| rows(*case, 1..6),
        |case, rows| {
            let store = Store::keyed(case);
            let rows = projected(&store, &rows);
            if rows.is_empty() {
                return;
            }
            stage(&store, Action::Load(&mut Rows::new(&store.collection, &rows)));
            assert!(matches!(store.scan(), Err(Error::Missing { .. })));
            let stamp = store.load(&rows);
            let before = store.rows();
            stage(&store, Action::Write(&[store.removal(&rows[0])]));
            stage(&store, Action::Remove);
            assert_eq!(store.rows(), before);
            if !store.interface.transactional() {
                assert_eq!(store.stamp(), stamp);
            }
        },
    );
}

#[test]
fn what_somebody_else_wrote_is_not_overwritten() {
    for case in CASES {
        let store = Store::keyed(case);
        let rows = projected(&store, &[plain(case, 1), plain(case, 2), plain(case, 3)]);
        let missing = store.stamp();
        let first = store.load(&rows[..1]);
        let second = store.write(&[store.put(None, &rows[1])]);
        let write = [store.put(None, &rows[2])];
        for stale in [&missing, &first] {
            // The record that was written since, and another.
            for row in [&rows[1], &rows[2]] {
                if case.shared == Shared::Records && stale == &first && row == &rows[2] {
                    continue;
                }
                let again = [store.put(None, row)];
                let result = store.commit(&store.collection, &[], Action::Write(&again), stale);
                assert!(matches!(result, Err(Error::Changed { .. })), "{}: {result:?}", case.name);
            }
        }
        if case.shared == Shared::Records {
            let gone = [store.removal(&rows[1])];
            let result = store.commit(&store.collection, &[], Action::Write(&gone), &first);
            assert!(matches!(result, Err(Error::Changed { .. })), "{}: {result:?}", case.name);
            let mut writes =
                [CollectionWrite { collection: &store.collection, dropped: &[], action: Action::Write(&write) }];
            store.interface.stage(&mut writes, &first, None, store.contents()).unwrap().commit().unwrap();
            assert_eq!(store.rows(), named(&store, &rows), "{}", case.name);
        }
        if !store.interface.transactional() {
            let mut writes =
                [CollectionWrite { collection: &store.collection, dropped: &[], action: Action::Write(&write) }];
            let staged = store.interface.stage(&mut writes, &second, None, store.contents()).unwrap();
            store.write(&[store.removal(&rows[0])]);
            assert!(matches!(staged.commit(), Err(Error::Changed { .. })), "{}", case.name);
            assert_eq!(store.rows(), named(&store, &rows[1..2]), "{}", case.name);
        }
    }
}

#[test]
fn a_stamp_moves_with_every_commit_and_only_then() {
    for case in CASES {
        let store = Store::keyed(case);
        assert!(store.stamp().is_missing(), "{}", case.name);
        let rows = projected(&store, &[plain(case, 1), plain(case, 2)]);
        let mut stamps = vec![store.stamp(), store.load(&rows[..1])];
        for write in [store.put(None, &rows[1]), store.removal(&rows[1]), store.put(None, &rows[1])] {
            stamps.push(store.write(&[write]));
            store.scan().unwrap();
            assert_eq!(stamps.last(), Some(&store.stamp()), "{}", case.name);
        }
        for pair in stamps.windows(2) {
            assert_ne!(pair[0], pair[1], "{}", case.name);
        }
    }
}

#[test]
fn a_store_that_is_not_there_is_missing() {
    for case in CASES {
        let store = Store::keyed(case);
        assert_eq!(store.stamp(), Stamp::MISSING, "{}", case.name);
        assert!(matches!(store.scan(), Err(Error::Missing { .. })), "{}", case.name);
        assert_eq!(store.interface.content().unwrap(), None, "{}", case.name);
        assert_eq!(store.interface.mark("source/receiver").unwrap(), None, "{}", case.name);
        assert!(!store.path.exists(), "{}: looking at it made it", case.name);
    }
}

#[test]
fn a_removed_collection_is_gone_and_can_come_again() {
    for case in CASES {
        let store = Store::keyed(case);
        let rows = projected(&store, &[plain(case, 1), plain(case, 2)]);
        store.load(&rows);
        store.commit(&store.collection, &[], Action::Remove, &store.stamp()).unwrap();
        match store.scan() {
            Err(Error::Missing { .. }) => {}
            found => assert_eq!(found.unwrap().rows, Vec::<Named>::new(), "{}", case.name),
        }
        store.load(&rows);
        assert_eq!(store.rows(), named(&store, &rows), "{}", case.name);
    }
}

#[test]
fn an_empty_load_makes_an_empty_collection() {
    for case in CASES {
        let store = Store::keyed(case);
        store.load(&[]);
        assert_eq!(store.rows(), Vec::<Named>::new(), "{}", case.name);
        let rows = projected(&store, &[plain(case, 1)]);
        store.load(&rows);
        assert_eq!(store.rows(), named(&store, &rows), "{}", case.name);
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let bytes = || prop_oneof![vec(any::<u8>(), 0..200), markup().prop_map(String::into_bytes)];
    for_each_case(
        |case| (bytes(), rows(*case, 1..3)),
        |case, (bytes, rows)| {
            for store in [Some(Store::keyed(case)), Store::whole_row(case)].into_iter().flatten() {
                let planted = store.plant(&bytes);
                let scanned = store.scan();
                let rows = projected(&store, &rows);
                let writes: Vec<_> = rows.iter().map(|row| store.put(None, row)).collect();
                // A file in the place of a folder has no stamp; whatever is expected then, nothing is written.
                let stamp = store.interface.stamp();
                assert!(stamp.is_ok() || scanned.is_err());
                let expected = stamp.unwrap_or(Stamp::MISSING);
                let written = store.commit(&store.collection, &[], Action::Write(&writes), &expected);
                match written {
                    // What could be read can still be read.
                    Ok(_) if scanned.is_ok() => drop(store.scan().unwrap()),
                    Ok(_) => {}
                    Err(_) => assert_eq!(std::fs::read(&planted).unwrap(), bytes),
                }
            }
        },
    );
}

/// The rows as they would be read back; those that the store refuses are left out, and of equal keys all but one.
fn projected(store: &Store, rows: &[Vec<Value>]) -> Vec<Vec<Value>> {
    let mut seen = Vec::new();
    let keyed = !store.collection.schema.key_names().is_empty();
    let mut projected: Vec<_> = rows.iter().filter_map(|row| store.project(row)).collect();
    projected.retain(|row| {
        let new = !keyed || !seen.contains(&row[0]);
        seen.push(row[0].clone());
        new
    });
    projected
}

fn named(store: &Store, rows: &[Vec<Value>]) -> Vec<Named> {
    sorted(rows.iter().map(|row| store.named(row)).collect())
}

/// A row that every store takes.
fn plain(case: &Case, id: i64) -> Vec<Value> {
    if let Some(shape) = case.shape {
        return (shape.plain)(id);
    }
    let id = if case.key_kind == Kind::Integer { Value::Integer(id) } else { Value::text(format!("id {id}")) };
    let last = if case.kinds[2].is_none() { Value::text("text") } else { Value::Null };
    vec![id, Value::Null, Value::Null, last]
}

fn rows(case: Case, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Value>>> {
    vec(record(case), count)
}

/// A row at the source, of the fields `id`, `a`, `b`, `c` or those that the store has.
fn record(case: Case) -> BoxedStrategy<Vec<Value>> {
    if let Some(shape) = case.shape {
        return (shape.record)();
    }
    let id = match case.key_kind {
        Kind::Integer => any::<i64>().prop_map(Value::Integer).boxed(),
        _ => prop_oneof![text(), "[a-z]{1,3}"].prop_map(Value::Text).boxed(),
    };
    let [a, b, c] = case.kinds.map(of_kind);
    (id, a, b, c).prop_map(|(id, a, b, c)| vec![id, a, b, c]).boxed()
}

/// Values of one kind, or of any.
fn of_kind(kind: Option<Kind>) -> BoxedStrategy<Value> {
    let typed = match kind {
        None => return value().boxed(),
        Some(Kind::Integer) => any::<i64>().prop_map(Value::Integer).boxed(),
        Some(Kind::Float) => any::<f64>().prop_map(Value::Float).boxed(),
        Some(Kind::Bool) => any::<bool>().prop_map(Value::Bool).boxed(),
        Some(Kind::Decimal) => decimal().boxed(),
        Some(Kind::Bytes) => vec(any::<u8>(), 0..6).prop_map(Value::Bytes).boxed(),
        Some(Kind::List) => vec(scalar(), 0..4).prop_map(Value::List).boxed(),
        Some(Kind::Text) => text().prop_map(Value::Text).boxed(),
        Some(other) => value().prop_filter("of the kind", move |value| value.kind() == other).boxed(),
    };
    prop_oneof![8 => typed, 1 => Just(Value::Null), 1 => Just(Value::Absent)].boxed()
}

/// Few different rows, so that equals occur.
fn few() -> impl Strategy<Value = Vec<Value>> {
    vec(prop_oneof![Just(Value::Null), Just(Value::text("")), Just(Value::text("1")), Just(Value::Integer(1))], 4)
}

fn value() -> impl Strategy<Value = Value> {
    let nested = || vec(scalar(), 0..4);
    prop_oneof![
        1 => Just(Value::Null),
        1 => Just(Value::Absent),
        8 => scalar(),
        1 => nested().prop_map(Value::List),
        1 => nested().prop_map(|values| {
            let members = values.into_iter().enumerate();
            Value::Map(members.map(|(at, value)| (format!("{at}"), value)).collect())
        }),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    let date = || (-1_000_000..1_000_000i32).prop_map(Date);
    let time = || (0..86_400_000_000_000u64).prop_map(Time);
    prop_oneof![
        1 => any::<bool>().prop_map(Value::Bool),
        1 => any::<i64>().prop_map(Value::Integer),
        1 => any::<i128>().prop_map(|integer| Value::integer(integer.into())),
        1 => decimal(),
        1 => any::<f64>().prop_map(Value::Float),
        4 => text().prop_map(Value::Text),
        1 => vec(any::<u8>(), 0..6).prop_map(Value::Bytes),
        1 => date().prop_map(Value::Date),
        1 => time().prop_map(Value::Time),
        1 => (date(), time()).prop_map(|(date, time)| Value::DateTime(date, time)),
        1 => (-1_000_000_000_000i64..1_000_000_000_000, 0..1_000_000_000u32, -50_000..50_000i32).prop_map(
            |(seconds, nanos, offset_seconds)| Value::Instant(Instant { seconds, nanos, offset_seconds })
        ),
        1 => any::<[u8; 16]>().prop_map(Value::Uuid),
    ]
}

fn decimal() -> impl Strategy<Value = Value> {
    (any::<i64>(), -3..25i32)
        .prop_map(|(unscaled, scale)| Value::Decimal(Box::new(Decimal { unscaled: unscaled.into(), scale })))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), markup()]
}

/// Text that means something in one format or other.
fn markup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "", "\"", "\"\"", ",", ";", "\t", "|", "\n", "\r", "\r\n", "\\N", "\\A", "\\", "'", "{", "}", "[", "]", ":",
        "null", "0", "-1", "1.0", "1e3", "true", "NaN", "id", "a", "b", "c", " ", "\u{feff}", "\0", "é", "=1+1",
    ]);
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}
