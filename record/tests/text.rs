//! Text and JSON of values, and back.

use deltabus_record::arbitrary;
use deltabus_record::json;
use deltabus_record::row::DEPTH_MAX;
use deltabus_record::text::{DISPLAY_CHARS_MAX, display, is_obeyed, parse, printable, to_text};
use deltabus_record::value::{Date, Decimal, Instant, Kind, Large, Time, Value};
use num_bigint::BigInt;
use proptest::prelude::*;

fn decimal(unscaled: i64, scale: i32) -> Value {
    Value::Decimal(Box::new(Decimal { unscaled: BigInt::from(unscaled), scale }))
}

#[track_caller]
fn check(value: Value, text: &str) {
    assert_eq!(to_text(&value).as_deref(), Some(text));
    assert_eq!(parse(text, value.kind()), Some(value));
}

#[track_caller]
fn check_refused(kind: Kind, texts: &[&str]) {
    for text in texts {
        assert_eq!(parse(text, kind), None, "{text:?} as {}", kind.name());
    }
}

#[test]
fn values_have_the_text_that_people_expect() {
    check(Value::Bool(true), "true");
    check(Value::Integer(-12), "-12");
    check(Value::integer(BigInt::from(i64::MAX) + 1), "9223372036854775808");
    check(decimal(100, 2), "1.00");
    check(decimal(-5, 2), "-0.05");
    check(decimal(0, 2), "0.00");
    check(decimal(12, 0), "12");
    check(decimal(1, -3), "1E+3");
    check(decimal(10, -3), "1.0E+4");
    check(decimal(1, 9), "1E-9");
    check(decimal(7, i32::MAX), "7E-2147483647");
    check(Value::Float(1.0), "1.0");
    check(Value::Float(-0.0), "-0.0");
    check(Value::Float(1e300), "1e300");
    check(Value::Float(f64::NAN), "NaN");
    check(Value::Float(f64::NEG_INFINITY), "-Infinity");
    check(Value::Bytes(b"hi".to_vec()), "aGk=");
    check(Value::Bytes(vec![]), "");
    check(Value::Date(Date(0)), "1970-01-01");
    check(Value::Date(Date(19_782)), "2024-02-29");
    check(Value::Date(Date(-719_529)), "-0001-12-31");
    check(Value::Date(Date(2_932_897)), "+10000-01-01");
    check(Value::Date(Date(i32::MAX)), "+5881580-07-11");
    check(Value::Time(Time(86_399_500_000_000)), "23:59:59.5");
    check(Value::Time(Time(86_400_000_000_000)), "24:00:00");
    check(Value::DateTime(Date(-1), Time(0)), "1969-12-31T00:00:00");
    let instant = |seconds, nanos, offset_seconds| Value::Instant(Instant { seconds, nanos, offset_seconds });
    check(instant(0, 0, 0), "1970-01-01T00:00:00Z");
    check(instant(0, 1, 7200), "1970-01-01T02:00:00.000000001+02:00");
    check(instant(0, 0, -3723), "1969-12-31T22:57:57-01:02:03");
    check(instant(i64::MIN, 0, 0), "-292277022657-01-27T08:29:52Z");
    check(Value::Uuid([0xab; 16]), "abababab-abab-abab-abab-abababababab");
    let large = Large { hash: [1; 32], length: 70_000, text: true };
    check(Value::Large(Box::new(large)), &format!("large:text:{}:70000", "01".repeat(32)));
    assert_eq!(to_text(&Value::Absent), None);
    assert_eq!(to_text(&Value::Null), None);
}

#[test]
fn lists_and_maps_are_json_that_keeps_kinds() {
    let list = vec![Value::Null, Value::Integer(1), decimal(5, 0), decimal(10, 1), Value::text("a\"\n\u{1}é")];
    check(Value::List(list), r#"[null,1,5e0,1.0,"a\"\n\u0001é"]"#);
    let map = |name: &str, value| Value::Map(vec![(name.to_owned(), value)]);
    check(map("a", Value::Bytes(vec![1])), r#"{"a":{"$deltabus":"bytes","value":"AQ=="}}"#);
    check(map("a", Value::Absent), r#"{"a":{"$deltabus":"absent","value":""}}"#);
    check(map("$deltabus", Value::text("bytes")), r#"{"$deltabus":"map","value":{"$deltabus":"bytes"}}"#);
}

#[test]
fn usual_variants_are_read() {
    let same = |kind, text: &str, canonical: &str| assert_eq!(parse(text, kind), parse(canonical, kind), "{text}");
    same(Kind::Float, "1.50", "1.5");
    same(Kind::Float, "15e-1", "1.5");
    same(Kind::Decimal, "1e3", "1E+3");
    same(Kind::Time, "12:30", "12:30:00");
    same(Kind::DateTime, "2024-01-01 12:30:00.500", "2024-01-01T12:30:00.5");
    same(Kind::Instant, "2024-01-01T12:30:00+00:00", "2024-01-01T12:30:00Z");
    same(Kind::Uuid, "ABABABAB-ABAB-ABAB-ABAB-ABABABABABAB", "abababab-abab-abab-abab-abababababab");
    same(Kind::List, " [ 1 , \"\\u00e9\\ud83d\\ude00\" ] ", "[1,\"é😀\"]");
}

#[test]
fn text_that_says_something_else_is_not_read() {
    check_refused(Kind::Bool, &["", "1", "True", "true "]);
    check_refused(Kind::Integer, &["", "-", "+1", "1.0", " 1", "1e3", "٣"]);
    check_refused(Kind::Decimal, &["", ".", ".5", "5.", "1e", "1e+", "1e99999999999", "1.-5", "NaN", "0x1"]);
    check_refused(Kind::Float, &["", "inf", "nan", "infinity", "1e999", "-1e999", "1_0", " 1"]);
    check_refused(Kind::Bytes, &["a", "aa", "aaa", "====", "aGl=", "aG=k", "aGk=aGk=", "aGk\n", "ab=="]);
    check_refused(Kind::Date, &["2024-02-30", "2023-02-29", "24-01-01", "2024-1-1", "2024-13-01", "2024-00-10", ""]);
    check_refused(Kind::Date, &["+02024-01-01", "+9999999-01-01", "20240101", "2024-01-01T", "99999-01-01"]);
    check_refused(
        Kind::Time,
        &["24", "1:00:00", "12:60:00", "12:00:61", "12:00:00.", "12:00:00.1234567890", "12:30.5"],
    );
    check_refused(Kind::Instant, &["2024-01-01T00:00:00", "2024-01-01T00:00:00+2", "2024-01-01T00:00:00+02:60"]);
    check_refused(Kind::Uuid, &["abababab-abab-abab-abab-ababababab", "abababababab-abab-abab-abab-abababab", "é"]);
    check_refused(Kind::Large, &["large:text:01:5", "large:other::1", "large:text"]);
    check_refused(
        Kind::Map,
        &["[]", "{\"a\":1,\"a\":2}", "{a:1}", "{\"a\":1,}", "{} {}", "{\"$deltabus\":\"date\"} x"],
    );
    check_refused(
        Kind::List,
        &["[01]", "[1,]", "[.5]", "[+1]", "[\"\\ud800\"]", "[\"\t\"]", "[nul]", "[", "[-]", "[1.]"],
    );
    check_refused(Kind::Integer, &[&"9".repeat(1_000_000)]);
    check_refused(Kind::Decimal, &[&"9".repeat(1_000_000)]);
}

#[test]
fn a_foreign_object_that_only_looks_tagged_is_a_map() {
    for text in [r#"{"$deltabus":5}"#, r#"{"$deltabus":"date","value":"soon"}"#, r#"{"$deltabus":"text","value":"a"}"#]
    {
        let value = json::read(text).unwrap();
        assert_eq!(value.kind(), Kind::Map, "{text}");
        assert_eq!(json::read(&json::write(&value)), Ok(value));
    }
}

#[test]
fn depth_is_limited_and_every_depth_below_comes_back() {
    let nested =
        |depth| (0..depth).fold(Value::Date(Date(0)), |inner, _| Value::Map(vec![("$deltabus".into(), inner)]));
    let deepest = nested(DEPTH_MAX);
    assert_eq!(json::read(&json::write(&deepest)), Ok(deepest));
    assert!(json::read(&json::write(&nested(DEPTH_MAX + 1))).is_err());
    assert!(json::read(&"[".repeat(1_000_000)).is_err());
    assert!(json::read(&"{\"$deltabus\":\"map\",\"value\":".repeat(100_000)).is_err());
}

#[test]
fn errors_tell_the_place() {
    assert_eq!(json::read("[1,x]").unwrap_err().to_string(), "no value at byte 3");
    assert_eq!(json::read(r#"{"a":1 "b":2}"#).unwrap_err().at, 7);
}

#[test]
fn long_values_are_cut_for_display() {
    assert_eq!(display(&Value::text("a\"b\n")), r#""a\"b\n""#);
    assert_eq!(display(&Value::Null), "null");
    assert_eq!(display(&Value::Bytes(b"hi".to_vec())), "2 bytes <aGk=>");
    for value in [Value::text("ä".repeat(5_000)), Value::Bytes(vec![0; 5_000]), Value::List(vec![Value::Null; 5_000])]
    {
        let shown = display(&value);
        assert!(shown.contains('…') && shown.chars().count() < DISPLAY_CHARS_MAX + 20, "{shown}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn text_and_kind_give_the_value_back(value in arbitrary::value()) {
        match to_text(&value) {
            Some(text) => prop_assert_eq!(parse(&text, value.kind()), Some(value)),
            None => prop_assert!(matches!(value, Value::Absent | Value::Null)),
        }
    }

    #[test]
    fn json_gives_the_value_back(value in arbitrary::value()) {
        prop_assert_eq!(json::read(&json::write(&value)), Ok(value));
    }

    #[test]
    fn any_text_is_read_or_refused(text in arbitrary::text()) {
        for kind in Kind::ALL {
            if let Some(value) = parse(&text, kind) {
                prop_assert_eq!(value.kind(), kind);
                let canonical = to_text(&value).unwrap();
                prop_assert_eq!(parse(&canonical, kind), Some(value));
            }
        }
    }

    #[test]
    fn damaged_text_is_read_or_refused(value in arbitrary::value(), at in any::<prop::sample::Index>(), by in any::<char>()) {
        let Some(text) = to_text(&value) else { return Ok(()) };
        let mut chars: Vec<char> = text.chars().chain(['x']).collect();
        let at = at.index(chars.len());
        chars[at] = by;
        let text: String = chars.into_iter().collect();
        if let Some(found) = parse(&text, value.kind()) {
            let canonical = to_text(&found).unwrap();
            prop_assert_eq!(parse(&canonical, value.kind()), Some(found));
        }
    }

    #[test]
    fn display_is_short(value in arbitrary::value()) {
        prop_assert!(display(&value).chars().count() < 2 * DISPLAY_CHARS_MAX);
    }
}

#[test]
fn what_a_terminal_obeys_is_shown_and_not_obeyed() {
    let text = "ü\u{1b}[2J\u{7}\r\n\u{9b}\u{202e}txt.exe\u{2028}\u{301}";
    let shown = printable(text);
    assert_eq!(shown, "ü\\u{1b}[2J\\u{7}\\r\\n\\u{9b}\\u{202e}txt.exe\\u{2028}\u{301}");
    for value in [Value::text(text), Value::List(vec![Value::text(text)])] {
        assert!(!display(&value).contains(is_obeyed), "{}", display(&value));
    }
}

/// The standard library's widths end at 65,535: beyond, a zero in front of the digits was a panic.
#[test]
fn a_decimal_of_many_digits_behind_the_point_is_written() {
    for digits in [1, 65_535, 65_536, 140_000] {
        let text = format!("0.{}", "3".repeat(digits));
        let value = parse(&text, Kind::Decimal).unwrap();
        assert!(to_text(&value).unwrap() == text, "{digits}");
    }
}
