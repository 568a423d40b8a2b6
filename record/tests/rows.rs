//! Rows as bytes.

use deltabus_record::arbitrary;
use deltabus_record::row::{DEPTH_MAX, FieldRef, Row, RowBuilder, RowReader, check, decode, encode};
use deltabus_record::text::{DIGITS_MAX, parse, to_text};
use deltabus_record::value::{Decimal, Instant, Value};
use num_bigint::BigInt;
use proptest::collection::vec;
use proptest::prelude::*;

fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, value);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn decoding_gives_back_what_was_encoded(value in arbitrary::value()) {
        let bytes = encoded(&value);
        prop_assert_eq!(decode(&bytes), Ok((value, bytes.len())));
    }

    #[test]
    fn equal_bytes_are_equal_values(a in arbitrary::value(), b in arbitrary::value()) {
        prop_assert_eq!(encoded(&a) == encoded(&b), a == b);
        prop_assert_eq!(encoded(&a.clone()), encoded(&a));
    }

    #[test]
    fn a_row_has_its_values_in_their_slots(values in vec(arbitrary::value(), 0..10)) {
        let row = Row::of(&values);
        prop_assert!(check(row.as_bytes()).is_ok());
        prop_assert_eq!(Row::from_bytes(row.as_bytes()), Ok(row.clone()));
        for (slot, value) in values.iter().enumerate() {
            prop_assert_eq!(&row.value(slot), value);
        }
        prop_assert_eq!(row.value(values.len()), Value::Absent);
        let kinds: Vec<_> = RowReader::new(row.as_bytes()).map(FieldRef::kind).collect();
        prop_assert_eq!(&kinds, &row.values().iter().map(Value::kind).collect::<Vec<_>>());
        for field in RowReader::new(row.as_bytes()) {
            let value = field.value();
            prop_assert_eq!(field.text(), match &value { Value::Text(text) => Some(text.as_str()), _ => None });
        }
    }

    #[test]
    fn absent_values_at_the_end_are_not_stored(values in vec(arbitrary::value(), 0..6), more in 0..4usize) {
        let mut longer = values.clone();
        longer.extend(vec![Value::Absent; more]);
        prop_assert_eq!(Row::of(&longer), Row::of(&values));
    }

    #[test]
    fn builders_append_alike(values in vec(arbitrary::value(), 0..8), at in any::<prop::sample::Index>()) {
        let row = Row::of(&values);
        let mut by_field = RowBuilder::default();
        by_field.push(&Value::text("an earlier row"));
        by_field.clear();
        for field in RowReader::new(row.as_bytes()) {
            match field.value() {
                Value::Text(text) => by_field.push_text(&text),
                Value::Integer(integer) => by_field.push_integer(integer),
                _ => by_field.push_encoded(field),
            }
        }
        prop_assert_eq!(by_field.row(), row.clone());
        let mut by_row = RowBuilder::default();
        by_row.push_row(row.as_bytes());
        by_row.push_encoded(FieldRef::ABSENT);
        prop_assert_eq!(by_row.row(), row);
        let at = at.index(values.len() + 1);
        let mut in_two = RowBuilder::default();
        in_two.push_row(Row::of(&values[..at]).as_bytes());
        prop_assert_eq!(in_two.row(), Row::of(&values[..at]));

    }

    #[test]
    fn any_bytes_are_refused_or_are_a_row(bytes in vec(prop_oneof![3 => 0..20u8, 1 => any::<u8>()], 0..40)) {
        if let Ok(row) = Row::from_bytes(&bytes) {
            prop_assert_eq!(Row::of(&row.values()), row);
        }
        if let Ok((value, length)) = decode(&bytes) {
            prop_assert_eq!(encoded(&value), &bytes[..length]);
        }
    }

    #[test]
    fn damaged_rows_are_refused_or_are_another_row(
        row in arbitrary::row(5),
        at in any::<prop::sample::Index>(),
        by in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = row.as_bytes().to_vec();
        if bytes.is_empty() {
            return Ok(());
        }
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = by }
        if let Ok(found) = Row::from_bytes(&bytes) {
            prop_assert_eq!(found.as_bytes(), bytes.as_slice());
            prop_assert_eq!(Row::of(&found.values()), found);
        }
    }
}

#[track_caller]
fn check_refused(bytes: &[u8], problem: &str, at: usize) {
    let error = Row::from_bytes(bytes).expect_err("these bytes are no row");
    assert_eq!((error.problem, error.at), (problem, at));
}

#[test]
fn other_forms_of_a_value_are_refused() {
    let not_canonical = "value not in canonical form";
    check_refused(&[4, 0x80, 0], not_canonical, 3);
    check_refused(&[5, 1, 7], not_canonical, 3);
    check_refused(&[5, 8, 0x7f, 0, 0, 0, 0, 0, 0, 0], not_canonical, 10);
    check_refused(&[5, 10, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], not_canonical, 12);
    check_refused(&[6, 0, 0], not_canonical, 3);
    check_refused(&[6, 0, 2, 0, 1], not_canonical, 5);
    check_refused(&[6, 0, 2, 0xff, 0xff], not_canonical, 5);
    check_refused(&[7, 1, 0, 0, 0, 0, 0, 0xf8, 0x7f], not_canonical, 9);
    check_refused(&[8, 1, b'a'], not_canonical, 3);
    check_refused(&[129, b'a', 0], "trailing absent value", 3);
}

#[test]
fn what_is_no_value_is_refused() {
    check_refused(&[19], "unknown tag", 1);
    check_refused(&[127], "unknown tag", 1);
    check_refused(&[130, b'a'], "cut off", 1);
    check_refused(&[129, 0xff], "text is not UTF-8", 2);
    check_refused(&[4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], "number too large", 11);
    check_refused(&[10, 0x80, 0x80, 0x80, 0x80, 0x10], "number too large", 6);
    check_refused(&[13, 0, 0x80, 0x94, 0xeb, 0xdc, 3, 0], "a second of too many nanoseconds", 7);
    check_refused(&[9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "cut off", 11);
    check_refused(&[15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1], "cut off", 12);
    check_refused(&[16, 1, 1, 0xff, 1], "text is not UTF-8", 4);
}

#[test]
fn depth_is_limited() {
    let mut bytes = [15, 1].repeat(DEPTH_MAX);
    bytes.push(1);
    assert!(Row::from_bytes(&bytes).is_ok());
    assert_eq!(decode(&bytes).map(|(_, length)| length), Ok(bytes.len()));
    let deeper = [&[15, 1][..], &bytes].concat();
    check_refused(&deeper, "nested too deeply", 2 * DEPTH_MAX + 2);
    check_refused(&[15, 1].repeat(1_000_000), "nested too deeply", 2 * DEPTH_MAX + 2);
}

#[test]
fn the_encoding_is_the_documented_one() {
    let instant = Instant { seconds: -1, nanos: 5, offset_seconds: 3600 };
    let row = Row::of(&[
        Value::Absent,
        Value::Null,
        Value::Bool(true),
        Value::Integer(-1),
        Value::text("hi"),
        Value::Bytes(vec![1, 2]),
        Value::Instant(instant),
        Value::List(vec![Value::Integer(300)]),
        Value::Map(vec![("a".into(), Value::Null)]),
        Value::Absent,
    ]);
    let bytes =
        [0, 1, 3, 4, 1, 130, b'h', b'i', 9, 2, 1, 2, 13, 1, 5, 0xa0, 0x38, 15, 1, 4, 0xd8, 4, 16, 1, 1, b'a', 1];
    assert_eq!(row.as_bytes(), bytes);
}

/// A map's names are distinct, also where the map comes from outside: JSON text of two members of one name is none.
#[test]
fn two_members_of_one_name_are_refused() {
    let map = |names: [&str; 3]| {
        let members = names.map(|name| (name.to_owned(), Value::List(vec![Value::Null])));
        encoded(&Value::Map(members.to_vec()))
    };
    assert!(check(&map(["a", "b", ""])).is_ok());
    for names in [["a", "b", "a"], ["", "", "b"]] {
        let bytes = map(names);
        check_refused(&bytes, "two members of one name", bytes.len());
    }
}

/// Printing a number takes time by the square of its digits: no row has one that text could not bring.
#[test]
fn a_number_has_no_more_digits_than_text_may_have() {
    let most = BigInt::from(10).pow(DIGITS_MAX as u32) - 1;
    for sign in [1, -1] {
        for scale in [None, Some(0), Some(7), Some(-3)] {
            let value = |number: &BigInt| match scale {
                None => Value::integer(number * sign),
                Some(scale) => Value::Decimal(Box::new(Decimal { unscaled: number * sign, scale })),
            };
            let largest = encoded(&value(&most));
            assert!(check(&largest).is_ok());
            let text = to_text(&value(&most)).unwrap();
            assert!(parse(&text, value(&most).kind()) == Some(value(&most)), "{sign} {scale:?}");
            for number in [&most + 1, &most + 5, &most * 1000] {
                let bytes = encoded(&value(&number));
                check_refused(&bytes, "a number of too many digits", bytes.len());
                assert_eq!(parse(&to_text(&value(&number)).unwrap(), value(&number).kind()), None);
            }
        }
    }
}
