//! What PostgreSQL's columns hold: each universal kind by the column's type.
//!
//! A field's `declared` is the column's type as PostgreSQL prints it (`character varying(45)`, `numeric(5,2)[]`), but for
//! `int2`, `int4` and `float4`, whose usual names mean wider types elsewhere. A domain is followed by what it is made of, a
//! type of another sort by the text that stands for it: `year AS int4`, `mpaa_rating AS text`.
//!
//! | type | value | notes |
//! |---|---|---|
//! | `boolean` | bool | |
//! | `smallint`, `integer`, `bigint`, `oid` | integer | of the type's range |
//! | `numeric` | decimal with its scale | NaN and infinities are floats |
//! | `real`, `double precision` | float | a `real` by its shortest digits |
//! | `text`, `varchar`, `char`, `name` | text | no NUL; a `char(n)` with its spaces |
//! | `json`, `jsonb` | text, the very digits and members; `jsonb` in PostgreSQL's own form | the text `null` is not NULL |
//! | `bytea` | bytes | |
//! | `date`, `timestamp` | date, date_time | `infinity` and `-infinity` are text |
//! | `timestamptz` | instant, in UTC | the same |
//! | `time` | time | |
//! | `uuid` | uuid | |
//! | arrays | list, one in another for each dimension | one whose bounds don't begin at 1 is text: `[0:1]={1,2}` |
//! | enums | text | |
//! | domains | as what they are made of | |
//! | all else | text, as PostgreSQL prints it | intervals in ISO 8601: `P1Y2M3DT4H5M6.7S` |

use deltabus_record::row::DEPTH_MAX;
use deltabus_record::schema::Field;
use deltabus_record::value::{Date, Decimal, Instant, Kind, KindSet, Time, Value};
use deltabus_record::{json, text};
use num_bigint::BigInt;

use super::{array, jsonb};
use crate::Refusal;

/// Between a type's own name and that of the type which is the same to its values.
const AS: &str = " AS ";

/// Digits before and after the point that `numeric` can have (`NUMERIC_MAX_…` in PostgreSQL's `numeric.c`).
const NUMERIC_WHOLE_MAX: i64 = 131_072;
pub(super) const NUMERIC_SCALE_MAX: i32 = 16_383;

/// How deep arrays nest (`MAXDIM`).
pub(super) const DIMENSIONS_MAX: usize = 6;

/// 4714-11-24 BC to 5874897-12-31, and for times of day to 294276-12-31, in days since 1970-01-01.
const DATE_MIN: i32 = -2_440_588;
const DATE_MAX: i32 = 2_145_042_905;
const TIMESTAMP_DATE_MAX: i32 = 106_762_939;

/// Microseconds: PostgreSQL counts no smaller parts of a second.
const NANOS_PER_MICRO: u64 = 1_000;
const DECIMALS_MAX: u32 = 6;
const DAY_NANOS: u64 = 86_400_000_000_000;
const DAY_SECONDS: i64 = 86_400;

/// How the values of a column look.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// Digits in all and behind the point, where these are limited.
    Numeric(Option<(i64, i32)>),
    Text,
    /// `char(n)`, filled up with spaces.
    Char(usize),
    /// `varchar(n)`.
    VarChar(usize),
    Name,
    Json,
    Jsonb,
    Bytea,
    Date,
    /// Decimals of the second.
    Time(u32),
    Timestamp(u32),
    Timestamptz(u32),
    Uuid,
    Array(Box<Form>),
    /// What PostgreSQL prints and reads as text; its name for statements.
    Printed(String),
}

impl Form {
    /// The form of a column as `field` describes it.
    pub(super) fn of(field: &Field) -> Form {
        let declared = field.declared.as_deref().and_then(Form::parse);
        declared.unwrap_or_else(|| Form::for_kind(field.kind))
    }

    /// The form that a declared type names; `None` for what isn't one of ours.
    pub(super) fn parse(declared: &str) -> Option<Form> {
        // The commonest at once: this is asked for each value.
        match declared {
            "text" => return Some(Form::Text),
            "int4" => return Some(Form::Int4),
            "bigint" => return Some(Form::Int8),
            "timestamp with time zone" => return Some(Form::Timestamptz(DECIMALS_MAX)),
            "timestamp without time zone" => return Some(Form::Timestamp(DECIMALS_MAX)),
            _ => {}
        }
        if let Some(limits) = numeric_limits(declared) {
            return Some(Form::Numeric(Some(limits)));
        }
        let declared = declared.rsplit_once(AS).map_or(declared, |(_, base)| base);
        if let Some(element) = declared.strip_suffix("[]") {
            // One pair stands for all dimensions; of more nothing is asked, however many somebody declared.
            return match element.ends_with("[]") || element.contains(AS) {
                true => None,
                false => Some(Form::Array(Box::new(Form::parse(element)?))),
            };
        }
        let (name, modifiers) = split_modifiers(declared)?;
        let only = |form| modifiers.is_empty().then_some(form);
        let length = || match modifiers.as_slice() {
            [length] => usize::try_from(*length).ok(),
            _ => None,
        };
        let decimals = || match modifiers.as_slice() {
            [] => Some(DECIMALS_MAX),
            [decimals] => u32::try_from(*decimals).ok().filter(|decimals| *decimals <= DECIMALS_MAX),
            _ => None,
        };
        match name.as_str() {
            "boolean" => only(Form::Bool),
            "int2" => only(Form::Int2),
            "int4" => only(Form::Int4),
            "bigint" => only(Form::Int8),
            "oid" => only(Form::Oid),
            "float4" => only(Form::Float4),
            "double precision" => only(Form::Float8),
            "numeric" => match modifiers.as_slice() {
                [] => Some(Form::Numeric(None)),
                [precision] => Some(Form::Numeric(Some((*precision, 0)))),
                [precision, scale] => Some(Form::Numeric(Some((*precision, i32::try_from(*scale).ok()?)))),
                _ => None,
            },
            "text" => only(Form::Text),
            "character varying" if modifiers.is_empty() => Some(Form::Text),
            "character varying" => length().map(Form::VarChar),
            // Without a length it is not filled up.
            "bpchar" => only(Form::Text),
            "character" => length().map(Form::Char),
            "name" => only(Form::Name),
            "json" => only(Form::Json),
            "jsonb" => only(Form::Jsonb),
            "bytea" => only(Form::Bytea),
            "date" => only(Form::Date),
            "time without time zone" => decimals().map(Form::Time),
            "timestamp without time zone" => decimals().map(Form::Timestamp),
            "timestamp with time zone" => decimals().map(Form::Timestamptz),
            "uuid" => only(Form::Uuid),
            name if PRINTED.contains(&name) || INTERVALS.contains(&name) && modifiers.is_empty() => {
                Some(Form::Printed(declared.to_owned()))
            }
            _ => None,
        }
    }

    /// The form of the column in which values of `kind` are kept where nothing else is said.
    fn for_kind(kind: Option<Kind>) -> Form {
        match kind {
            Some(Kind::Bool) => Form::Bool,
            Some(Kind::Integer) => Form::Int8,
            Some(Kind::Decimal) => Form::Numeric(None),
            Some(Kind::Float) => Form::Float8,
            Some(Kind::Bytes) => Form::Bytea,
            Some(Kind::Date) => Form::Date,
            Some(Kind::Time) => Form::Time(DECIMALS_MAX),
            Some(Kind::DateTime) => Form::Timestamp(DECIMALS_MAX),
            Some(Kind::Instant) => Form::Timestamptz(DECIMALS_MAX),
            Some(Kind::Uuid) => Form::Uuid,
            Some(Kind::List | Kind::Map) => Form::Jsonb,
            None | Some(Kind::Absent | Kind::Null | Kind::Text | Kind::Large) => Form::Text,
        }
    }

    /// The kind of the values, odd ones aside.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Form::Bool => Kind::Bool,
            Form::Int2 | Form::Int4 | Form::Int8 | Form::Oid => Kind::Integer,
            Form::Float4 | Form::Float8 => Kind::Float,
            Form::Numeric(_) => Kind::Decimal,
            Form::Text
            | Form::Char(_)
            | Form::VarChar(_)
            | Form::Name
            | Form::Json
            | Form::Jsonb
            | Form::Printed(_) => Kind::Text,
            Form::Bytea => Kind::Bytes,
            Form::Date => Kind::Date,
            Form::Time(_) => Kind::Time,
            Form::Timestamp(_) => Kind::DateTime,
            Form::Timestamptz(_) => Kind::Instant,
            Form::Uuid => Kind::Uuid,
            Form::Array(_) => Kind::List,
        }
    }

    /// The type as `declared` has it and statements can.
    pub(super) fn sql(&self) -> String {
        let decimals = |decimals: &u32| match *decimals {
            DECIMALS_MAX => String::new(),
            less => format!("({less})"),
        };
        match self {
            Form::Bool => "boolean".into(),
            Form::Int2 => "int2".into(),
            Form::Int4 => "int4".into(),
            Form::Int8 => "bigint".into(),
            Form::Oid => "oid".into(),
            Form::Float4 => "float4".into(),
            Form::Float8 => "double precision".into(),
            Form::Numeric(None) => "numeric".into(),
            Form::Numeric(Some((precision, scale))) => format!("numeric({precision},{scale})"),
            Form::Text => "text".into(),
            Form::Char(length) => format!("character({length})"),
            Form::VarChar(length) => format!("character varying({length})"),
            Form::Name => "name".into(),
            Form::Json => "json".into(),
            Form::Jsonb => "jsonb".into(),
            Form::Bytea => "bytea".into(),
            Form::Date => "date".into(),
            Form::Time(places) => format!("time{} without time zone", decimals(places)),
            Form::Timestamp(places) => format!("timestamp{} without time zone", decimals(places)),
            Form::Timestamptz(places) => format!("timestamp{} with time zone", decimals(places)),
            Form::Uuid => "uuid".into(),
            Form::Array(element) => format!("{}[]", element.sql()),
            Form::Printed(name) => name.clone(),
        }
    }
}

/// Types of PostgreSQL's own whose values are the text that it prints.
const PRINTED: &[&str] = &[
    "interval",
    "time with time zone",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "bit",
    "bit varying",
    "tsvector",
    "tsquery",
    "xml",
    "money",
    "point",
    "line",
    "lseg",
    "box",
    "path",
    "polygon",
    "circle",
    "int4range",
    "int8range",
    "numrange",
    "tsrange",
    "tstzrange",
    "daterange",
    "int4multirange",
    "int8multirange",
    "nummultirange",
    "tsmultirange",
    "tstzmultirange",
    "datemultirange",
    "pg_lsn",
    "pg_snapshot",
    "jsonpath",
    "tid",
    "xid",
    "xid8",
    "cid",
    "\"char\"",
];

/// Intervals of some fields only.
const INTERVALS: &[&str] = &[
    "interval year",
    "interval month",
    "interval day",
    "interval hour",
    "interval minute",
    "interval second",
    "interval year to month",
    "interval day to hour",
    "interval day to minute",
    "interval day to second",
    "interval hour to minute",
    "interval hour to second",
    "interval minute to second",
];

/// `timestamp(3) without time zone` as `timestamp without time zone` and 3.
fn split_modifiers(declared: &str) -> Option<(String, Vec<i64>)> {
    let Some((before, rest)) = declared.split_once('(') else { return Some((declared.to_owned(), Vec::new())) };
    let (inside, after) = rest.split_once(')')?;
    let name = match before {
        // The only types with words of their own before the decimals.
        "interval day to second" | "interval hour to second" | "interval minute to second" | "interval second" => {
            format!("interval{after}")
        }
        before => format!("{before}{after}"),
    };
    let modifiers = inside.split(',').map(|number| number.trim().parse().ok()).collect::<Option<Vec<i64>>>()?;
    Some((name, modifiers))
}

/// The type that `declared` is made of as a statement can have it; `None` for what isn't one of ours.
pub(super) fn base_sql(declared: &str) -> Option<String> {
    let form = Form::parse(declared)?;
    let base = declared.rsplit_once(AS).map_or(declared, |(_, base)| base);
    // The same as `text` but in name.
    match ["character varying", "bpchar", "character varying[]", "bpchar[]"].contains(&base) {
        true => Some(base.to_owned()),
        false => Some(form.sql()),
    }
}

/// The types that a declared one consists of: its own name, where it has one, and what stands for it.
pub(super) fn own_name(declared: &str) -> Option<&str> {
    declared.rsplit_once(AS).map(|(name, _)| name)
}

/// A declared type from its own name and what stands for it.
pub(super) fn declared_as(name: &str, base: &str) -> String {
    format!("{name}{AS}{base}")
}

/// The field in which a table that we make keeps `field`.
pub(super) fn field_for(field: &Field) -> Field {
    let declared = field
        .declared
        .as_deref()
        .filter(|declared| Form::parse(declared).is_some_and(|form| Some(form.kind()) == field.kind));
    let (declared, form) = match declared.and_then(|declared| Some((declared, Form::parse(declared)?))) {
        Some((declared, form)) => (declared.to_owned(), form),
        None => {
            let form = Form::for_kind(field.kind);
            (form.sql(), form)
        }
    };
    let mut made = Field::new(field.name.as_str(), Some(form.kind()), field.ordinal);
    made.declared = Some(declared);
    made.dropped = field.dropped;
    made
}

/// The kinds whose every value such a column gives back as it got it.
pub(super) fn verbatim(field: &Field) -> KindSet {
    match Form::of(field) {
        Form::Bool => KindSet::of(&[Kind::Null, Kind::Bool]),
        Form::Float8 => KindSet::of(&[Kind::Null, Kind::Float]),
        Form::Bytea => KindSet::of(&[Kind::Null, Kind::Bytes]),
        Form::Uuid => KindSet::of(&[Kind::Null, Kind::Uuid]),
        Form::Text => KindSet::of(&[Kind::Null]).and_plain_text(),
        _ => KindSet::of(&[Kind::Null]),
    }
}

/// What a column as `field` describes it gives back for `value`.
pub(super) fn project(value: Value, field: &Field) -> Result<Value, Refusal> {
    match value {
        Value::Absent | Value::Null => Ok(Value::Null),
        // Nobody could tell what it refers to.
        Value::Large(_) => Err(refuse("a large value must be there as a whole to be kept")),
        value => project_into(value, &Form::of(field)),
    }
}

pub(super) fn refuse(reason: impl Into<String>) -> Refusal {
    Refusal { reason: reason.into() }
}

fn lost(value: &Value, form: &Form) -> Refusal {
    refuse(format!(
        "{} {} can't come back as it is from a column of type {}",
        value.kind().name(),
        text::display(value),
        form.sql()
    ))
}

fn project_into(value: Value, form: &Form) -> Result<Value, Refusal> {
    match form {
        Form::Text | Form::VarChar(_) | Form::Char(_) | Form::Name | Form::Printed(_) | Form::Json | Form::Jsonb => {
            return project_text(value, form);
        }
        Form::Array(element) => return project_list(value, element, form),
        _ => {}
    }
    let wanted = form.kind();
    // Numbers of another kind and text that says one are as good.
    let converted = match &value {
        value if value.kind() == wanted => None,
        Value::Float(float) if wanted == Kind::Decimal && !float.is_finite() => return Ok(value),
        Value::Float(_) if wanted == Kind::Integer => return Err(lost(&value, form)),
        Value::Text(text) if matches!(text.as_str(), "infinity" | "-infinity") && form.is_unbounded() => {
            return Ok(value);
        }
        Value::Text(text) => text::parse(text, wanted),
        other => deltabus_record::convert::coerce(other, wanted),
    };
    let value = match converted {
        Some(converted) => converted,
        None if value.kind() == wanted => value,
        None => return Err(lost(&value, form)),
    };
    match (&value, form) {
        (Value::Integer(integer), _) => {
            let fits = match form {
                Form::Int2 => i16::try_from(*integer).is_ok(),
                Form::Int4 => i32::try_from(*integer).is_ok(),
                Form::Oid => u32::try_from(*integer).is_ok(),
                _ => true,
            };
            if fits { Ok(value) } else { Err(lost(&value, form)) }
        }
        (Value::Decimal(decimal), Form::Numeric(limits)) => match numeric(decimal, *limits) {
            Some(decimal) => Ok(Value::Decimal(Box::new(decimal))),
            None => Err(lost(&value, form)),
        },
        (Value::Float(float), Form::Float4) => match shortest(*float as f32) {
            back if back.to_bits() == float.to_bits() || back.is_nan() && float.is_nan() => Ok(value),
            _ => Err(lost(&value, form)),
        },
        (Value::Float(_), Form::Float8)
        | (Value::Bool(_), Form::Bool)
        | (Value::Bytes(_), Form::Bytea)
        | (Value::Uuid(_), Form::Uuid) => Ok(value),
        (Value::Date(date), Form::Date) if (DATE_MIN..=DATE_MAX).contains(&date.0) => Ok(value),
        (Value::Time(time), Form::Time(places)) if is_time(*time, *places) => Ok(value),
        (Value::DateTime(date, time), Form::Timestamp(places)) if is_time(*time, *places) => {
            let (date, time) = match time.0 {
                DAY_NANOS => (Date(date.0.saturating_add(1)), Time(0)),
                _ => (*date, *time),
            };
            match (DATE_MIN..=TIMESTAMP_DATE_MAX).contains(&date.0) {
                true => Ok(Value::DateTime(date, time)),
                false => Err(lost(&value, form)),
            }
        }
        (Value::Instant(instant), Form::Timestamptz(places)) => {
            let days = instant.seconds.div_euclid(DAY_SECONDS);
            let in_range = (i64::from(DATE_MIN)..=i64::from(TIMESTAMP_DATE_MAX)).contains(&days);
            match in_range && has_decimals(u64::from(instant.nanos), *places) {
                true => Ok(Value::Instant(Instant { offset_seconds: 0, ..*instant })),
                false => Err(lost(&value, form)),
            }
        }
        _ => Err(lost(&value, form)),
    }
}

impl Form {
    fn is_unbounded(&self) -> bool {
        matches!(self, Form::Date | Form::Timestamp(_) | Form::Timestamptz(_))
    }
}

fn is_time(time: Time, places: u32) -> bool {
    time.0 <= DAY_NANOS && has_decimals(time.0, places)
}

fn has_decimals(nanos: u64, places: u32) -> bool {
    nanos.is_multiple_of(NANOS_PER_MICRO * 10_u64.pow(DECIMALS_MAX.saturating_sub(places)))
}

/// The float of the shortest digits that give this one: 0.1, not 0.10000000149011612.
pub(super) fn shortest(float: f32) -> f64 {
    if float.is_finite() { float.to_string().parse().unwrap_or(f64::NAN) } else { float.into() }
}

/// The most decimal digits of which each number fits 64 bits.
const SHORT_DIGITS: u32 = 19;

/// Precision and scale of `numeric(12,2)`.
fn numeric_limits(declared: &str) -> Option<(i64, i32)> {
    let (precision, scale) = declared.strip_prefix("numeric(")?.strip_suffix(')')?.split_once(',')?;
    Some((precision.parse().ok()?, scale.parse().ok()?))
}

/// The number as a column of these limits keeps it; `None` where it would be rounded or refused.
fn numeric(decimal: &Decimal, limits: Option<(i64, i32)>) -> Option<Decimal> {
    let wanted = match limits {
        Some((_, scale)) => scale,
        None => decimal.scale.max(0),
    };
    if let Some((precision, scale)) = limits
        && decimal.scale == scale
        && (0..=NUMERIC_SCALE_MAX).contains(&scale)
        && let Ok(precision @ 0..=SHORT_DIGITS) = u32::try_from(precision)
        && let Ok(short) = u64::try_from(decimal.unscaled.magnitude())
    {
        return (short < 10_u64.pow(precision)).then(|| decimal.clone());
    }
    if wanted > NUMERIC_SCALE_MAX || decimal.scale > NUMERIC_SCALE_MAX * 2 {
        return None;
    }
    let digits = decimal.unscaled.magnitude().to_string();
    let zero = digits == "0";
    let whole = digits.len() as i64 - i64::from(decimal.scale);
    if !zero && whole > NUMERIC_WHOLE_MAX {
        return None;
    }
    let more = i64::from(wanted) - i64::from(decimal.scale);
    let unscaled = match more {
        _ if zero => BigInt::default(),
        0 => decimal.unscaled.clone(),
        1.. => decimal.unscaled.clone() * BigInt::from(10).pow(u32::try_from(more).ok()?),
        _ => {
            let divisor = BigInt::from(10).pow(u32::try_from(-more).ok()?);
            let quotient = &decimal.unscaled / &divisor;
            if &quotient * &divisor != decimal.unscaled {
                return None;
            }
            quotient
        }
    };
    if let Some((precision, scale)) = limits
        && !zero
        && whole > precision - i64::from(scale)
    {
        return None;
    }
    match wanted < 0 {
        // Rounded to the left of the point; printed with its zeros.
        true => Some(Decimal { unscaled: unscaled * BigInt::from(10).pow(wanted.unsigned_abs()), scale: 0 }),
        false => Some(Decimal { unscaled, scale: wanted }),
    }
}

fn project_text(value: Value, form: &Form) -> Result<Value, Refusal> {
    let text = match (value, form) {
        (Value::Text(text), _) => text,
        (value, Form::Json | Form::Jsonb) => json::write(&value),
        (value, _) => match text::to_text(&value) {
            Some(text) => text,
            None => return Err(refuse(format!("PostgreSQL has no way to keep a {}", value.kind().name()))),
        },
    };
    if text.contains('\0') {
        return Err(refuse("PostgreSQL's text can't hold the character NUL (U+0000); use a column of type bytea"));
    }
    let text = match form {
        Form::VarChar(length) => fit(text, *length, form)?,
        Form::Char(length) => {
            // Spaces beyond the length are dropped, missing ones added.
            let mut text = text;
            let count = text.chars().count();
            if count > *length {
                let kept = text.trim_end_matches(' ').chars().count().max(*length);
                text = text.chars().take(kept).collect();
            }
            let text = fit(text, *length, form)?;
            let missing = length - text.chars().count();
            text + &" ".repeat(missing)
        }
        Form::Name if text.len() > 63 => return Err(lost(&Value::Text(text), form)),
        Form::Json => match jsonb::check(&text) {
            Ok(()) => text,
            Err(problem) => return Err(refuse(format!("not JSON: {problem}"))),
        },
        Form::Jsonb => jsonb::normal(&text).map_err(|problem| refuse(format!("not JSON for jsonb: {problem}")))?,
        _ => text,
    };
    Ok(Value::Text(text))
}

fn fit(text: String, length: usize, form: &Form) -> Result<String, Refusal> {
    match text.len() > length && text.chars().count() > length {
        true => Err(lost(&Value::Text(text), form)),
        false => Ok(text),
    }
}

fn project_list(value: Value, element: &Form, form: &Form) -> Result<Value, Refusal> {
    let values = match value {
        Value::List(values) => values,
        // An array whose bounds don't begin at 1.
        Value::Text(text) if array::has_bounds(&text) => return Ok(Value::Text(text)),
        Value::Text(text) => match json::read(&text) {
            Ok(Value::List(values)) => values,
            _ => return Err(lost(&Value::Text(text), form)),
        },
        value => return Err(lost(&value, form)),
    };
    let projected = project_elements(values, element, 0)?;
    match array::dimensions(&projected) {
        Some(_) => Ok(Value::List(projected)),
        None => Err(refuse(format!(
            "PostgreSQL's arrays are of one depth throughout (at most {DIMENSIONS_MAX}), of one length at each, and not \
             empty inside: {} is none of type {}",
            text::display(&Value::List(projected)),
            form.sql()
        ))),
    }
}

fn project_elements(values: Vec<Value>, element: &Form, depth: usize) -> Result<Vec<Value>, Refusal> {
    let project = |value| match value {
        Value::Absent | Value::Null => Ok(Value::Null),
        Value::List(values) if depth < DEPTH_MAX.min(DIMENSIONS_MAX) => {
            Ok(Value::List(project_elements(values, element, depth + 1)?))
        }
        Value::Large(_) => Err(refuse("a large value must be there as a whole to be kept")),
        value => project_into(value, element),
    };
    values.into_iter().map(project).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a peer declares is any text: many pairs of brackets once overflowed the stack.
    #[test]
    fn a_declared_array_has_one_pair_of_brackets() {
        assert_eq!(Form::parse("int4[]"), Some(Form::Array(Box::new(Form::Int4))));
        assert_eq!(Form::parse("a AS int4[]"), Some(Form::Array(Box::new(Form::Int4))));
        for declared in ["int4[][]".to_owned(), "[]".to_owned(), format!("int4{}", "[]".repeat(1_000_000))] {
            assert_eq!(Form::parse(&declared), None);
        }
    }
}
