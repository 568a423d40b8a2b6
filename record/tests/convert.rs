//! What stores make of values, and what their values mean at the source.

use deltabus_record::arbitrary;
use deltabus_record::convert::{coerce, lift, lift_from, project};
use deltabus_record::value::{Date, Decimal, Kind, KindSet, Large, Value};
use num_bigint::BigInt;
use proptest::prelude::*;

const CELLS: KindSet = KindSet::of(&[Kind::Null, Kind::Text]);
const BARE_CELLS: KindSet = KindSet::of(&[Kind::Text]);
const JSON: KindSet = KindSet::of(&[
    Kind::Absent,
    Kind::Null,
    Kind::Bool,
    Kind::Integer,
    Kind::Decimal,
    Kind::Text,
    Kind::List,
    Kind::Map,
]);
const DATABASE: KindSet = KindSet::of(&[Kind::Null, Kind::Integer, Kind::Float, Kind::Text, Kind::Bytes]);

fn decimal(unscaled: i64, scale: i32) -> Value {
    Value::Decimal(Box::new(Decimal { unscaled: BigInt::from(unscaled), scale }))
}

fn list(values: &[Value]) -> Value {
    Value::List(values.to_vec())
}

fn any_kinds() -> impl Strategy<Value = KindSet> {
    let some = prop::sample::subsequence(Kind::ALL.to_vec(), 0..Kind::ALL.len()).prop_map(|kinds| KindSet::of(&kinds));
    prop_oneof![Just(CELLS), Just(BARE_CELLS), Just(JSON), Just(DATABASE), Just(KindSet::ALL), some]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn projecting_twice_is_projecting_once(value in arbitrary::value(), kinds in any_kinds()) {
        let once = project(value, kinds);
        prop_assert_eq!(project(once.clone(), kinds), once);
    }

    #[test]
    fn a_projected_value_has_a_kind_that_the_store_keeps(value in arbitrary::value(), kinds in any_kinds()) {
        let projected = project(value, kinds);
        prop_assert!(kinds.contains(projected.kind()) || projected.kind() == Kind::Text);
    }

    #[test]
    fn what_stands_as_projected_is_no_edit(
        value in arbitrary::value(),
        kinds in any_kinds(),
        declared in prop::option::of(prop::sample::select(Kind::ALL.to_vec())),
    ) {
        let projected = project(value.clone(), kinds);
        // Of two values of which a store makes the same one, the one that it can hold is meant.
        prop_assert_eq!(lift_from(projected, declared, &value, kinds), value);
    }

    #[test]
    fn known_stores_need_not_be_told_apart(value in arbitrary::value(), declared in any::<bool>()) {
        for kinds in [CELLS, JSON, DATABASE] {
            let kind = declared.then(|| value.kind());
            prop_assert_eq!(lift(project(value.clone(), kinds), kind, &value), value.clone());
        }
    }

    #[test]
    fn coercing_loses_nothing(value in arbitrary::value(), kind in prop::sample::select(Kind::ALL.to_vec())) {
        if let Some(coerced) = coerce(&value, kind) {
            prop_assert_eq!(coerced.kind(), kind);
            prop_assert_eq!(coerce(&coerced, value.kind()), Some(value));
        }
    }

    #[test]
    fn numbers_in_text_are_coerced_only_if_they_are_written_so(text in arbitrary::text()) {
        let value = Value::Text(text.clone());
        for kind in [Kind::Integer, Kind::Decimal, Kind::Float, Kind::Bool, Kind::Date] {
            if let Some(coerced) = coerce(&value, kind) {
                prop_assert_eq!(deltabus_record::text::to_text(&coerced), Some(text.clone()));
            }
        }
    }

    #[test]
    fn lifting_ends_at_any_two_values(
        found in arbitrary::value(),
        before in arbitrary::value(),
        kinds in any_kinds(),
        declared in prop::option::of(prop::sample::select(Kind::ALL.to_vec())),
    ) {
        let lifted = lift_from(found.clone(), declared, &before, kinds);
        // Nothing is lost in silence: the text that is there afterwards says what was found.
        if let (Value::Text(text), Some(Kind::Text)) = (&found, declared) {
            prop_assert!(lifted == before || lifted == Value::Text(text.clone()));
        }
    }
}

#[test]
fn text_becomes_what_the_source_has() {
    let text = |text| Value::text(text);
    let none = Value::Absent;
    assert_eq!(lift(text("12"), Some(Kind::Integer), &none), Value::Integer(12));
    assert_eq!(lift(text("2.50"), Some(Kind::Decimal), &none), decimal(250, 2));
    assert_eq!(lift(text("2.50"), Some(Kind::Float), &none), Value::Float(2.5));
    assert_eq!(lift(text("2024-02-29"), Some(Kind::Date), &none), Value::Date(Date(19_782)));
    assert_eq!(lift(text("2024-02-29"), None, &Value::Date(Date(0))), Value::Date(Date(19_782)));
    assert_eq!(lift(text("12"), None, &text("11")), text("12"));
    assert_eq!(lift(text("soon"), None, &Value::Date(Date(0))), text("soon"));
    assert_eq!(lift(text("1.5"), None, &Value::Integer(1)), decimal(15, 1));
    assert_eq!(lift(text("true"), None, &none), Value::Bool(true));
    assert_eq!(lift(text("null"), None, &none), text("null"));
}

#[test]
fn what_can_not_be_brought_back_stays() {
    for (found, kind) in [
        (Value::text("soon"), Kind::Date),
        (Value::text("007"), Kind::Integer),
        (Value::text("007.50"), Kind::Decimal),
        (decimal(50, 1), Kind::Integer),
        (Value::Float(0.5), Kind::Integer),
        (Value::Float(-0.0), Kind::Integer),
        (Value::Integer(2), Kind::Bool),
        (Value::Integer(i64::MAX), Kind::Float),
        (Value::Bytes(vec![1]), Kind::Text),
    ] {
        assert_eq!(lift(found.clone(), Some(kind), &Value::Null), found, "{found:?} as {}", kind.name());
    }
}

#[test]
fn numbers_become_the_source_s_kind_of_number() {
    let none = Value::Absent;
    assert_eq!(lift(Value::Integer(1), Some(Kind::Bool), &none), Value::Bool(true));
    assert_eq!(lift(Value::Integer(5), Some(Kind::Float), &none), Value::Float(5.0));
    assert_eq!(lift(Value::Integer(5), Some(Kind::Decimal), &none), decimal(5, 0));
    assert_eq!(lift(Value::Integer(5), Some(Kind::Text), &none), Value::text("5"));
    assert_eq!(lift(Value::Float(5.0), Some(Kind::Integer), &none), Value::Integer(5));
    assert_eq!(lift(Value::Float(2.5), Some(Kind::Decimal), &none), decimal(25, 1));
    assert_eq!(lift(decimal(250, 2), Some(Kind::Float), &none), Value::Float(2.5));
    let big = BigInt::from(10).pow(30);
    assert_eq!(
        lift(Value::integer(big.clone()), Some(Kind::Decimal), &none),
        Value::Decimal(Box::new(Decimal { unscaled: big, scale: 0 }))
    );
}

#[test]
fn null_stands_for_absent_only_where_absent_can_not_be_told() {
    assert_eq!(lift(Value::Null, None, &Value::Absent), Value::Absent);
    assert_eq!(lift_from(Value::Null, None, &Value::Absent, JSON), Value::Null);
    assert_eq!(lift(Value::Null, Some(Kind::Text), &Value::text("a")), Value::Null);
    assert_eq!(lift(Value::text(""), Some(Kind::Text), &Value::Null), Value::text(""));
    assert_eq!(lift_from(Value::text(""), Some(Kind::Text), &Value::Null, BARE_CELLS), Value::Null);
}

#[test]
fn a_store_with_kinds_means_the_kind_that_it_has() {
    assert_eq!(lift_from(Value::text("12"), None, &Value::Integer(11), JSON), Value::text("12"));
    assert_eq!(lift_from(Value::text("12"), None, &Value::Absent, JSON), Value::text("12"));
    assert_eq!(lift_from(Value::Integer(5), None, &Value::text("4"), JSON), Value::Integer(5));
    assert_eq!(lift_from(decimal(25, 1), None, &Value::Float(1.5), JSON), Value::Float(2.5));
}

#[test]
fn values_in_lists_and_maps_keep_their_kinds_through_an_edit_beside_them() {
    let day = |day| Value::Date(Date(day));
    let before = list(&[day(0), day(1)]);
    let Value::List(mut found) = project(before.clone(), JSON) else { panic!("a list stays a list") };
    found.insert(0, Value::text("1970-01-03"));
    assert_eq!(lift_from(Value::List(found), None, &before, JSON), list(&[day(2), day(0), day(1)]));

    let map = |name: &str, day: Value| Value::Map(vec![("other".into(), Value::Integer(1)), (name.into(), day)]);
    let found = Value::Map(vec![("day".into(), Value::text("1970-01-02")), ("new".into(), Value::text("1"))]);
    let lifted = Value::Map(vec![("day".into(), day(1)), ("new".into(), Value::text("1"))]);
    assert_eq!(lift_from(found, None, &map("day", day(0)), JSON), lifted);
}

#[test]
fn large_values_are_what_they_refer_to() {
    let large = |text| Value::Large(Box::new(Large { hash: [1; 32], length: 70_000, text }));
    assert_eq!(lift(Value::text("12"), None, &large(true)), Value::text("12"));
    assert_eq!(lift(Value::text("aGk="), None, &large(false)), Value::Bytes(b"hi".to_vec()));
    let text = project(large(true), CELLS);
    assert_eq!(lift(text, Some(Kind::Text), &large(true)), large(true));
}
