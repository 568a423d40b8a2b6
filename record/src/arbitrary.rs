//! Strategies for property tests: any values and rows (feature `arbitrary`).
//!
//! The corners are visited as often as the middle: numbers about the limits of their encodings, empty and long text,
//! absent values at a row's end.

use num_bigint::BigInt;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Union;

use crate::row::Row;
use crate::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use crate::value::{Date, Decimal, Instant, Kind, Large, Time, Value};

const NANOS_PER_DAY: u64 = 86_400_000_000_000;

/// Any value, lists and maps of any values among them.
pub fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 24, 5, |inner| {
        let name = prop_oneof![5 => text(), 1 => Just("$deltabus".to_owned()), 1 => Just("value".to_owned())];
        prop_oneof![vec(inner.clone(), 0..5).prop_map(Value::List), vec((name, inner), 0..5).prop_map(map)]
    })
}

/// Any value that holds no others, absent and null among them.
pub fn scalar() -> impl Strategy<Value = Value> {
    let kinds = Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::List | Kind::Map));
    Union::new(kinds.map(|kind| of_kind(kind).boxed()))
}

/// A value of `kind`; lists and maps hold scalars.
pub fn of_kind(kind: Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Absent => Just(Value::Absent).boxed(),
        Kind::Null => Just(Value::Null).boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Integer => integer().prop_map(Value::integer).boxed(),
        Kind::Decimal => {
            let scale = prop_oneof![6 => -3..12i32, 1 => any::<i32>()];
            let decimal = (integer(), scale).prop_map(|(unscaled, scale)| Decimal { unscaled, scale });
            decimal.prop_map(|decimal| Value::Decimal(Box::new(decimal))).boxed()
        }
        Kind::Float => {
            let float = prop_oneof![
                any::<f64>(),
                any::<u64>().prop_map(f64::from_bits),
                any::<i16>().prop_map(|small| f64::from(small) / 4.0),
                prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE]),
            ];
            float.prop_map(Value::Float).boxed()
        }
        Kind::Text => text().prop_map(Value::Text).boxed(),
        Kind::Bytes => vec(prop_oneof![any::<u8>(), Just(0)], 0..40).prop_map(Value::Bytes).boxed(),
        Kind::Date => date().prop_map(Value::Date).boxed(),
        Kind::Time => time().prop_map(Value::Time).boxed(),
        Kind::DateTime => (date(), time()).prop_map(|(date, time)| Value::DateTime(date, time)).boxed(),
        Kind::Instant => {
            let seconds = prop_oneof![4 => -100_000_000_000..100_000_000_000i64, 1 => any::<i64>()];
            let nanos = prop_oneof![Just(0), 0..1_000_000_000u32];
            let offset = prop_oneof![Just(0), (-60..60i32).prop_map(|quarter| quarter * 900), any::<i32>()];
            let instant = (seconds, nanos, offset).prop_map(|(seconds, nanos, offset_seconds)| Instant {
                seconds,
                nanos,
                offset_seconds,
            });
            instant.prop_map(Value::Instant).boxed()
        }
        Kind::Uuid => any::<[u8; 16]>().prop_map(Value::Uuid).boxed(),
        Kind::List => vec(scalar(), 0..5).prop_map(Value::List).boxed(),
        Kind::Map => vec((text(), scalar()), 0..5).prop_map(map).boxed(),
        Kind::Large => {
            let large = (any::<[u8; 32]>(), any::<u64>(), any::<bool>());
            large.prop_map(|(hash, length, text)| Value::Large(Box::new(Large { hash, length, text }))).boxed()
        }
    }
}

/// A row of `fields` values.
pub fn row(fields: usize) -> impl Strategy<Value = Row> {
    vec(prop_oneof![4 => value(), 1 => Just(Value::Absent)], fields).prop_map(|values| Row::of(&values))
}

/// A schema of 1 to 8 fields, some dropped, with any key.
pub fn schema() -> impl Strategy<Value = Schema> {
    let field = (option::of(prop::sample::select(Kind::ALL.to_vec())), option::of(text()), any::<bool>());
    let fields = vec((field, 0..8u32), 1..8);
    (fields, vec(any::<prop::sample::Index>(), 0..3)).prop_map(|(fields, key)| {
        let field = |(slot, ((kind, declared, dropped), ordinal))| {
            let name = format!("field{slot}");
            // One field lives, or there is nothing to speak of.
            Field { name, kind, declared, ordinal, dropped: dropped && slot > 0 }
        };
        let fields: Vec<Field> = fields.into_iter().enumerate().map(field).collect();
        let living: Vec<u32> = (0..fields.len() as u32).filter(|slot| !fields[*slot as usize].dropped).collect();
        let mut slots: Vec<u32> = Vec::new();
        for index in key {
            let slot = living[index.index(living.len())];
            if !slots.contains(&slot) {
                slots.push(slot);
            }
        }
        let key = if slots.is_empty() { KeySpec::WholeRow } else { KeySpec::Fields(slots) };
        Schema { fields, key }
    })
}

/// A collection of any name and schema.
pub fn collection() -> impl Strategy<Value = Collection> {
    (text(), schema()).prop_map(|(name, schema)| Collection { name: CollectionName::new(name), schema })
}

/// Text: words, numbers, quotes, control and other characters, nothing, and more than 127 bytes.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{0,8}",
        2 => "[-+.0-9eE]{0,6}",
        2 => proptest::collection::vec(any::<char>(), 0..12).prop_map(|chars| chars.into_iter().collect::<String>()),
        1 => "[\"\\\\\u{0}\n\r\t,; äß€]{0,8}",
        1 => "[a-z]{120,140}",
        1 => prop::sample::select(vec!["true", "null", "2024-02-29", "$deltabus"]).prop_map(str::to_owned),
    ]
}

/// Text that means something to somebody: to shells, SQL, paths, NATS subjects, formats, spreadsheets, terminals and fonts.
/// Distinct, none empty, and none with the character NUL, which some stores can't hold.
pub fn hostile() -> Vec<String> {
    let long = |bytes: usize| "long/".chars().cycle().take(bytes).collect::<String>();
    let mut texts: Vec<String> = [
        // SQL, shells, templates
        "'; DROP TABLE records; --",
        "\" OR \"\"=\"",
        "`id`; $(reboot) & | > < ~ ! # %s %n {0} ${x}",
        "--help",
        "-",
        "\\",
        "\\'",
        "'",
        "\"",
        "%00%0a%2e%2e%2f",
        // paths
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        ".",
        "..",
        "~root",
        "C:\\x:y",
        ".deltabus",
        "con",
        // subjects of NATS
        "deltabus.people.changes",
        ">",
        "*",
        "a.*.>",
        "$JS.API.STREAM.DELETE.deltabus_people",
        "a b\tc",
        // spreadsheets
        "=cmd|' /C calc'!A0",
        "+1+1",
        "@SUM(A1)",
        // formats
        "a,b;c|d\te",
        "two\nlines",
        "two\r\nlines\r\n",
        "\r",
        "\n",
        "\\N",
        "\\A",
        "null",
        "NULL",
        "{\"$deltabus\":\"bytes\",\"value\":\"aGk=\"}",
        "[1,2",
        "<a href='x'>&amp;]]>",
        "BEGIN:VCARD\r\nEND:VCARD",
        "END:VEVENT\nEND:VCALENDAR",
        "X;Y=\"Z\":=0D=0A",
        "=\n",
        "$deltabus",
        "value",
        // numbers, dates and what looks so
        "007",
        "1e999999999",
        "-0.0",
        "NaN",
        "99999999999999999999999999999999",
        "2024-02-30",
        "true",
        // fonts and terminals
        "\u{202e}txt.exe\u{202c}",
        "e\u{301}",
        "\u{e9}",
        "\u{feff}bom",
        "a\u{200b}b\u{200d}",
        "\u{1b}[2J\u{7}\u{8}",
        "\u{85}\u{2028}\u{2029}",
        "\u{fffd}\u{ffff}\u{10ffff}",
        "\u{1f469}\u{200d}\u{1f469}",
        " leading",
        "trailing ",
        "\u{a0}",
        " ",
        "\t",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend([long(255), long(256), long(1_000), "\u{fe0f}\u{301}".repeat(100), "\"".repeat(300)]);
    texts
}

fn integer() -> impl Strategy<Value = BigInt> {
    prop_oneof![
        3 => (-300..300i64).prop_map(BigInt::from),
        2 => any::<i64>().prop_map(BigInt::from),
        1 => (-2..=2i64, prop::sample::select(vec![i64::MIN, i64::MAX, 0])).prop_map(|(a, b)| BigInt::from(a) + b),
        2 => vec(any::<u8>(), 0..24).prop_map(|bytes| BigInt::from_signed_bytes_be(&bytes)),
        1 => (any::<i32>(), 0..30u32).prop_map(|(digits, zeros)| BigInt::from(digits) * BigInt::from(10).pow(zeros)),
    ]
}

fn date() -> impl Strategy<Value = Date> {
    prop_oneof![4 => -800_000..3_000_000i32, 1 => any::<i32>()].prop_map(Date)
}

fn time() -> impl Strategy<Value = Time> {
    let seconds = (0..=86_400u64).prop_map(|seconds| seconds * 1_000_000_000);
    prop_oneof![seconds, 0..=NANOS_PER_DAY].prop_map(Time)
}

/// A map of these members, without those whose name was there before.
fn map(members: Vec<(String, Value)>) -> Value {
    let mut distinct: Vec<(String, Value)> = Vec::new();
    for (name, value) in members {
        if distinct.iter().all(|(other, _)| *other != name) {
            distinct.push((name, value));
        }
    }
    Value::Map(distinct)
}
