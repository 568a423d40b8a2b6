//! Keys sort as their values do.

use std::cmp::Ordering;

use deltabus_record::arbitrary;
use deltabus_record::key::{KEY_BYTES_MAX, Key, display, encode_occurrence, values};
use deltabus_record::row::Row;
use deltabus_record::schema::{Field, KeySpec, Schema};
use deltabus_record::value::{Decimal, Kind, Value};
use num_bigint::BigInt;
use proptest::collection::vec;
use proptest::prelude::*;

/// How two values of one kind compare; `None` where the kind has no order of its own.
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    Some(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Integer(_) | Value::BigInteger(_), _) => integer_of(a).cmp(&integer_of(b)),
        (Value::Decimal(a), Value::Decimal(b)) => compare_decimals(a, b)?,
        (Value::Float(a), Value::Float(b)) => match (a.is_nan(), b.is_nan()) {
            (false, false) => a.total_cmp(b),
            (a, b) => a.cmp(&b),
        },
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::Time(a), Value::Time(b)) => a.cmp(b),
        (Value::DateTime(a, at), Value::DateTime(b, bt)) => (a, at).cmp(&(b, bt)),
        (Value::Instant(a), Value::Instant(b)) => a.cmp(b),
        (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
        _ => return None,
    })
}

fn integer_of(value: &Value) -> BigInt {
    match value {
        Value::Integer(integer) => BigInt::from(*integer),
        Value::BigInteger(integer) => (**integer).clone(),
        _ => panic!("no integer: {value:?}"),
    }
}

/// By size, then scale; `None` where writing the numbers out would take too long.
fn compare_decimals(a: &Decimal, b: &Decimal) -> Option<Ordering> {
    let apart = a.scale.checked_sub(b.scale).filter(|apart| apart.abs() < 100)?;
    let raised = |decimal: &Decimal, by: i32| &decimal.unscaled * BigInt::from(10).pow(by.max(0) as u32);
    Some(raised(a, -apart).cmp(&raised(b, apart)).then(a.scale.cmp(&b.scale)))
}

fn two_of_a_kind() -> impl Strategy<Value = (Value, Value)> {
    let kinds = Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::List | Kind::Map | Kind::Large));
    prop::sample::select(kinds.collect::<Vec<_>>())
        .prop_flat_map(|kind| (arbitrary::of_kind(kind), arbitrary::of_kind(kind)))
}

fn near_decimals() -> impl Strategy<Value = (Value, Value)> {
    let decimal = (-120..120i64, -3..4i32);
    let decimal = decimal
        .prop_map(|(unscaled, scale)| Value::Decimal(Box::new(Decimal { unscaled: BigInt::from(unscaled), scale })));
    (decimal.clone(), decimal)
}

fn near_text() -> impl Strategy<Value = (Value, Value)> {
    let text = vec(prop::sample::select(vec!['\0', '\u{1}', 'a', 'ÿ']), 0..4);
    let text = text.prop_map(|chars| Value::Text(chars.into_iter().collect()));
    (text.clone(), text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn keys_sort_as_values_of_one_kind((a, b) in prop_oneof![4 => two_of_a_kind(), 2 => near_decimals(), 1 => near_text()]) {
        let keys = Key::of(std::slice::from_ref(&a)).cmp(&Key::of(std::slice::from_ref(&b)));
        if let Some(values) = compare(&a, &b) {
            prop_assert_eq!(keys, values);
        }
        prop_assert_eq!(keys.is_eq(), a == b);
    }

    #[test]
    fn kinds_sort_in_their_order(a in arbitrary::value(), b in arbitrary::value()) {
        if a.kind() != b.kind() {
            let kinds = a.kind().cmp(&b.kind());
            prop_assert_eq!(Key::of(&[a]).cmp(&Key::of(&[b])), kinds);
        }
    }

    #[test]
    fn no_key_is_the_beginning_of_another(a in vec(arbitrary::value(), 2), b in vec(arbitrary::value(), 2)) {
        let (one, other) = (Key::of(&a), Key::of(&b));
        prop_assert_eq!(one.as_bytes().starts_with(other.as_bytes()), a == b);
        let first = Key::of(&a[..1]).cmp(&Key::of(&b[..1]));
        if first != Ordering::Equal {
            prop_assert_eq!(one.cmp(&other), first);
        }
    }

    #[test]
    fn a_schema_s_key_is_that_of_its_fields(values in vec(arbitrary::value(), 5), slots in vec(0..6u32, 1..4)) {
        let schema = schema(KeySpec::Fields(slots.clone()));
        let of_slots: Vec<_> =
            slots.iter().map(|slot| values.get(*slot as usize).cloned().unwrap_or(Value::Absent)).collect();
        prop_assert_eq!(schema.key_of(Row::of(&values).as_bytes(), 3), Key::of(&of_slots));
    }

    #[test]
    fn a_whole_row_is_the_same_with_absent_values_behind(
        values in vec(arbitrary::value(), 0..5),
        behind in 1..4usize,
        occurrence in any::<u32>(),
    ) {
        let schema = schema(KeySpec::WholeRow);
        let row = Row::of(&values);
        let mut longer = row.as_bytes().to_vec();
        longer.extend(vec![0; behind]);
        let key = schema.key_of(row.as_bytes(), occurrence);
        prop_assert_eq!(&schema.key_of(&longer, occurrence), &key);
        prop_assert_ne!(&schema.key_of(row.as_bytes(), occurrence ^ 1), &key);
    }

    #[test]
    fn whole_rows_have_one_key_each(a in arbitrary::row(3), b in arbitrary::row(3)) {
        let schema = schema(KeySpec::WholeRow);
        prop_assert_eq!(schema.key_of(a.as_bytes(), 0) == schema.key_of(b.as_bytes(), 0), a == b);
    }

    #[test]
    fn a_key_tells_its_values(all in vec(arbitrary::value(), 0..4), occurrence in any::<u32>()) {
        // A decimal of more zeros than can be read is the exception.
        let readable = |value: &Value| !matches!(value, Value::Decimal(decimal) if decimal.scale.abs() > 1_000);
        let all: Vec<_> = all.into_iter().filter(readable).collect();
        let mut key = Key::of(&all).as_bytes().to_vec();
        prop_assert_eq!(values(&key), Some(all.clone()));
        encode_occurrence(&mut key, occurrence);
        prop_assert_eq!(values(&key), Some(all));
    }

    #[test]
    fn any_bytes_can_be_shown(bytes in vec(prop_oneof![0..16u8, any::<u8>()], 0..40)) {
        let shown = display(&bytes);
        // Control characters would garble a terminal.
        prop_assert!(!shown.chars().any(char::is_control), "{}", shown);
        if let Some(values) = values(&bytes) {
            prop_assert!(shown.is_empty() || !values.is_empty());
        }
    }
}

#[test]
fn keys_are_shown_for_people() {
    let day = Value::Date(deltabus_record::value::Date(19_782));
    let values = [Value::text("a\nb"), Value::Integer(-7), day, Value::Bool(true), Value::Null];
    let schema = schema(KeySpec::WholeRow);
    assert_eq!(
        display(schema.key_of(Row::of(&values).as_bytes(), 2).as_bytes()),
        "`a\\nb`, -7, 2024-02-29, true, null"
    );
}

fn schema(key: KeySpec) -> Schema {
    Schema { fields: (0..6).map(|slot| Field::new(format!("field{slot}"), None, slot)).collect(), key }
}

#[test]
fn a_row_too_long_to_be_a_key_has_its_hash_for_one() {
    let fields = vec![Field::new("a", None, 0), Field::new("b", None, 1)];
    let schema = Schema { fields, key: KeySpec::WholeRow };
    let row = |length: usize, last: &str| Row::of(&[Value::text("x".repeat(length)), Value::text(last)]);
    let key = |row: &Row| schema.key_of(row.as_bytes(), 3);
    let (long, other, short) = (row(KEY_BYTES_MAX, "a"), row(KEY_BYTES_MAX, "b"), row(KEY_BYTES_MAX / 2, "a"));
    assert!(key(&long).as_bytes().len() < 32 && key(&short).as_bytes().len() > KEY_BYTES_MAX / 2);
    assert_ne!(key(&long), key(&other));
    for row in [&long, &short] {
        let mut content = Vec::new();
        schema.key_content_into(row.as_bytes(), &mut content);
        assert_eq!(schema.key_content(&key(row)), content);
        encode_occurrence(&mut content, 3);
        assert_eq!(key(row).as_bytes(), content);
    }
    assert!(display(key(&long).as_bytes()).starts_with("a long row, "));
    assert_eq!(values(key(&long).as_bytes()), None);
    // Together with its hash no other key of the same beginning is touched.
    let mut out = b"before".to_vec();
    schema.key_content_into(long.as_bytes(), &mut out);
    assert!(out.starts_with(b"before") && out.len() < 32);
}
