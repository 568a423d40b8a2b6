//! The universal format: rows, keys, collections, text, JSON, conversions, changes.

use deltabus_record::change::Change;
use deltabus_record::key::{self, Key};
use deltabus_record::merge::{Clock, merge};
use deltabus_record::row::{self, Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, FIELDS_MAX, KeySpec, Schema};
use deltabus_record::value::{Kind, KindSet, Value};
use deltabus_record::{apply, convert, diff, json, large, text};

use crate::input::Input;

/// Bytes that claim to be a row.
pub(crate) fn row(bytes: &[u8]) {
    let row = match Row::from_bytes(bytes) {
        Ok(row) => row,
        Err(error) => {
            assert!(error.at <= bytes.len(), "{error}");
            return;
        }
    };
    let values = row.values();
    assert_eq!(Row::of(&values), row, "a row is canonical");
    assert_eq!(RowReader::new(bytes).count(), values.len());
    for (slot, value) in values.iter().enumerate() {
        assert_eq!(row.value(slot), *value);
        check_value(value);
    }
    let by_reference = large::ByReference::default();
    if by_reference.leaves(bytes) {
        let mut out = RowBuilder::default();
        let mut keep = |bytes: &[u8], text| Ok::<_, ()>(deltabus_bus::large_of(bytes, text));
        by_reference.externalize(bytes, &mut out, &mut keep).expect("nothing fails");
        assert!(!by_reference.leaves(out.as_bytes()));
    }
    check_key(&Key::of(&values), &values);
    let schema = Schema { fields: Vec::new(), key: KeySpec::WholeRow };
    let whole = schema.key_of(bytes, 3);
    // A longer one is known by its hash.
    if Key::of(&values).as_bytes().len() <= key::KEY_BYTES_MAX {
        assert_eq!(key::values(whole.as_bytes()).as_ref(), Some(&values), "a whole row is its key");
    }
}

/// What holds for every value that a row can have.
fn check_value(value: &Value) {
    let _ = text::display(value);
    match text::to_text(value) {
        Some(text) => assert_eq!(text::parse(&text, value.kind()).as_ref(), Some(value), "{text:.80} is read back"),
        None => assert!(matches!(value, Value::Absent | Value::Null)),
    }
    let written = json::write(value);
    assert_eq!(json::read(&written).as_ref(), Ok(value), "{written:.80} is read back");
}

fn check_key(key: &Key, values: &[Value]) {
    let _ = key::display(key.as_bytes());
    assert_eq!(key::values(key.as_bytes()).as_deref(), Some(values), "a key is read back");
}

/// Bytes that claim to be a key.
pub(crate) fn key(bytes: &[u8]) {
    let _ = key::display(bytes);
    if let Some(values) = key::values(bytes) {
        check_key(&Key::of(&values), &values);
    }
}

/// Bytes that claim to be a collection, another one that it is to become, and a row of it.
pub(crate) fn collection(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (first, second) = (input.piece(), input.piece());
    let Ok(collection) = Collection::from_bytes(first) else { return };
    assert_eq!(Collection::from_bytes(&collection.to_bytes()).as_ref(), Ok(&collection), "a collection is read back");
    check_schema(&collection.schema);
    if let Ok(other) = Collection::from_bytes(second) {
        let evolved = collection.schema.evolve(&other.schema);
        assert!(evolved.fields.len() >= collection.schema.fields.len(), "slots never move");
        check_schema(&evolved);
    }
    if let Ok(row) = Row::from_bytes(input.rest()) {
        let key = collection.schema.key_of(row.as_bytes(), 0);
        assert!(key::values(key.as_bytes()).is_some());
        assert_eq!(collection.schema.key_of(row.as_bytes(), 0), key);
    }
}

fn check_schema(schema: &Schema) {
    assert!(schema.fields.len() <= 2 * FIELDS_MAX);
    let names = schema.key_names();
    let again = schema.clone().with_key(&names).expect("a key's fields are there");
    if !names.is_empty() {
        assert_eq!(again.key, schema.key, "a key is found by its names");
    }
    assert_eq!(schema.evolve(schema).fields, schema.fields, "what is as it was stays");
    assert_eq!(schema.slots_in(schema).len(), schema.fields.len());
}

/// A kind, and text that claims to be of it.
pub(crate) fn text(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.pick(&Kind::ALL);
    let Ok(given) = std::str::from_utf8(input.rest()) else { return };
    if let Some(value) = text::parse(given, kind) {
        assert_eq!(value.kind(), kind);
        let canonical = text::to_text(&value).expect("what was read can be written");
        assert_eq!(text::parse(&canonical, kind).as_ref(), Some(&value));
        assert_eq!(text::to_text(&value), Some(canonical));
        row(Row::of(&[value]).as_bytes());
    }
}

/// Text that claims to be JSON.
pub(crate) fn json(bytes: &[u8]) {
    let Ok(given) = std::str::from_utf8(bytes) else { return };
    match json::read(given) {
        Ok(value) => {
            let written = json::write(&value);
            assert_eq!(json::read(&written).as_ref(), Ok(&value), "{written:.80}");
            row(Row::of(&[value]).as_bytes());
        }
        Err(error) => assert!(error.at <= given.len(), "{error}"),
    }
}

/// The kinds that a store has, the kind of a field, a value at the source and one at the destination.
pub(crate) fn convert(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let bits = u16::from_le_bytes([input.byte(), input.byte()]);
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| bits & 1 << *kind as u16 != 0).collect();
    let native = KindSet::of(&kinds);
    let kind = Some(input.pick(&Kind::ALL)).filter(|kind| *kind != Kind::Absent);
    let Ok((before, used)) = row::decode(input.rest()) else { return };
    let found = match row::decode(&input.rest()[used..]) {
        Ok((found, _)) => found,
        Err(_) => Value::Null,
    };
    for kind in Kind::ALL {
        if let Some(coerced) = convert::coerce(&before, kind) {
            assert_eq!(coerced.kind(), kind);
            assert_eq!(convert::coerce(&coerced, before.kind()).as_ref(), Some(&before), "nothing is lost");
        }
    }
    let projected = convert::project(before.clone(), native);
    assert_eq!(convert::project(projected.clone(), native), projected, "projecting twice is projecting once");
    let lifted = convert::lift_from(projected.clone(), kind, &before, native);
    // Null and nothing are one where a store has no null, or knows it only.
    if !matches!(before, Value::Absent | Value::Null) || projected == before {
        assert_eq!(lifted, before, "what stands there as it was projected is what it was");
    }
    let lifted = convert::lift_from(found, kind, &before, native);
    let _ = convert::lift(lifted, kind, &before);
}

/// Three rows: a record as it was, as it is, and as somebody made it meanwhile.
pub(crate) fn change(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    let row = |bytes: &[u8]| Row::from_bytes(bytes).ok();
    let (before, after, source) = (row(input.piece()), row(input.piece()), row(input.piece()));
    let key = Key::of(&[Value::Integer(1)]);
    let Some(change) = diff::change(key, before.as_ref(), after.as_ref()) else {
        assert_eq!(before, after, "rows without a difference are equal");
        return;
    };
    assert_eq!(apply::apply(&change, before.as_ref()).as_ref(), Ok(&after), "apply(a, diff(a, b)) is b");
    let back = change.clone().invert();
    assert_eq!(apply::apply(&back, after.as_ref()).as_ref(), Ok(&before), "what is undone is as it was");
    if let Err(mismatch) = apply::apply(&change, source.as_ref()) {
        let _ = mismatch.to_string();
    }
    let forced = apply::force(&change, source.as_ref(), before.as_ref());
    assert_eq!(forced.is_none(), matches!(change, Change::Delete { .. }));
    use deltabus_record::change::ConflictPolicy::{Latest, Manual, Receiver, Source};
    let policy = [Source, Receiver, Latest, Manual][usize::from(choice) % 4];
    let clock = if choice & 4 == 0 { Clock::EditLater } else { Clock::SourceLater };
    let groups: &[Vec<u32>] = if choice & 8 == 0 { &[] } else { &[vec![0, 1], vec![2]] };
    let merged = merge(&change, source.as_ref(), before.as_ref(), policy, clock, groups);
    assert!(!merged.verdicts.is_empty(), "every edit has a verdict");
    if let Some(merged) = merged.apply {
        // What is decided can be done at the source as it stands.
        let done = apply::apply(&merged, source.as_ref());
        assert!(done.is_ok(), "{merged:?} on {source:?}: {done:?}");
    }
}
