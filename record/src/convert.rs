//! Bringing values into what a store can hold, and back.

use crate::text;
use crate::value::{Decimal, Kind, KindSet, Value};
use num_bigint::BigInt;

/// What a store with the kinds `native` makes of a value: the value itself, null for an absent one it can't hold, or the
/// canonical text. Projecting twice is projecting once.
pub fn project(value: Value, native: KindSet) -> Value {
    match value {
        value if native.contains(value.kind()) => match value {
            Value::List(values) => Value::List(values.into_iter().map(|value| project(value, native)).collect()),
            Value::Map(members) => {
                Value::Map(members.into_iter().map(|(name, value)| (name, project(value, native))).collect())
            }
            value => value,
        },
        Value::Absent if native.contains(Kind::Null) => Value::Null,
        Value::Absent | Value::Null => Value::Text(String::new()),
        value => Value::Text(text::to_text(&value).unwrap_or_default()),
    }
}

/// Brings a value that was found at a destination back to the source's type.
///
/// `kind` is that of the source's field, `before` the value that the source has there. Nothing is lost: what can't be
/// converted stays as it was found.
pub fn lift(found: Value, kind: Option<Kind>, before: &Value) -> Value {
    match (&found, before) {
        (Value::Null, Value::Absent) => return Value::Absent,
        (Value::Null | Value::Absent, _) => return found,
        _ => {}
    }
    let kind = match kind {
        Some(kind) => kind,
        None if matches!(before, Value::Absent | Value::Null) => return literal(found),
        None => before.kind(),
    };
    if found.kind() == kind {
        return found;
    }
    coerce(&found, kind).unwrap_or(found)
}

/// Text in a field of no particular kind: what is written as a number or truth value is one.
fn literal(found: Value) -> Value {
    let Value::Text(text) = &found else { return found };
    for kind in [Kind::Bool, Kind::Integer, Kind::Decimal] {
        if let Some(value) = text::parse(text, kind)
            && text::to_text(&value).as_deref() == Some(text)
        {
            return value;
        }
    }
    found
}

/// The value as one of `kind`, if nothing is lost by that: the way back gives the very same value.
pub fn coerce(value: &Value, kind: Kind) -> Option<Value> {
    if value.kind() == kind {
        return Some(value.clone());
    }
    let coerced = convert(value, kind)?;
    (convert(&coerced, value.kind())? == *value).then_some(coerced)
}

fn convert(value: &Value, kind: Kind) -> Option<Value> {
    match (value, kind) {
        (Value::Bool(bool), Kind::Integer) => Some(Value::Integer((*bool).into())),
        (Value::Integer(0), Kind::Bool) => Some(Value::Bool(false)),
        (Value::Integer(1), Kind::Bool) => Some(Value::Bool(true)),
        (Value::Integer(integer), Kind::Float) => Some(Value::Float(*integer as f64)),
        (Value::Float(float), Kind::Integer) => whole(*float),
        (Value::Integer(integer), Kind::Decimal) => {
            Some(Value::Decimal(Box::new(Decimal { unscaled: BigInt::from(*integer), scale: 0 })))
        }
        (Value::Decimal(decimal), Kind::Integer) if decimal.scale == 0 => {
            Some(Value::integer(decimal.unscaled.clone()))
        }
        (Value::Float(_), Kind::Decimal) => text::parse(&text::to_text(value)?, Kind::Decimal),
        (Value::Decimal(_), Kind::Float) => text::parse(&text::to_text(value)?, Kind::Float),
        (Value::Text(text), kind) => text::parse(text, kind),
        (value, Kind::Text) => text::to_text(value).map(Value::Text),
        _ => None,
    }
}

fn whole(float: f64) -> Option<Value> {
    let limits = -9.007_199_254_740_992e15..=9.007_199_254_740_992e15;
    (float.fract() == 0.0 && limits.contains(&float) && !(float == 0.0 && float.is_sign_negative()))
        .then_some(Value::Integer(float as i64))
}
