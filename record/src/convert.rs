//! Bringing values into what a store can hold, and back.

use num_bigint::BigInt;

use crate::text;
use crate::value::{Decimal, Kind, KindSet, Value};

/// Integers up to this size are each a float of their own (2^53); beyond, a float may stand for several.
const FLOAT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// What a store that knows nothing but text and null keeps as it is.
const TEXT_ONLY: KindSet = KindSet::of(&[Kind::Null, Kind::Text]);

/// What a store with the kinds `native` makes of a value: the value itself, null for an absent one that it can't hold, or
/// the canonical text (empty for an absent one or null, where there is no null either). Inside lists and maps likewise.
///
/// Projecting twice is projecting once.
pub fn project(value: Value, native: KindSet) -> Value {
    match value {
        Value::List(values) if native.contains(Kind::List) => {
            Value::List(values.into_iter().map(|value| project(value, native)).collect())
        }
        Value::Map(members) if native.contains(Kind::Map) => {
            Value::Map(members.into_iter().map(|(name, value)| (name, project(value, native))).collect())
        }
        value if native.contains(value.kind()) => value,
        Value::Absent if native.contains(Kind::Null) => Value::Null,
        Value::Text(_) => value,
        value => Value::Text(text::to_text(&value).unwrap_or_default()),
    }
}

/// Brings a value that was found at a destination back to the source's type; [`lift_from`] for a destination that keeps
/// text and null only, or of which nothing is known.
pub fn lift(found: Value, kind: Option<Kind>, before: &Value) -> Value {
    lift_from(found, kind, before, TEXT_ONLY)
}

/// Brings a value that was found at a destination back to the source's type.
///
/// `kind` is that of the source's field, `before` the value that the source has there, `native` the kinds that the
/// destination keeps as they are. What stands there as `before` was projected is `before`. Text is read as the kind that
/// the source has; other kinds are converted if nothing is lost by that. What can't be brought back stays as it was found.
///
/// Where the source's field has no kind of its own, the kind of `before` decides, unless the destination keeps that kind:
/// then another kind was meant. Text in place of nothing becomes a number or truth value if it is written as one and the
/// destination has no numbers.
pub fn lift_from(found: Value, kind: Option<Kind>, before: &Value, native: KindSet) -> Value {
    // What is referred to is bytes; who has the edit in hand turns them into a reference.
    let kind = kind.map(|kind| if kind == Kind::Large { Kind::Bytes } else { kind });
    if found == *before {
        return found;
    }
    match (&found, before) {
        (Value::Null, Value::Absent) if !native.contains(Kind::Absent) => return Value::Absent,
        (Value::Null | Value::Absent, _) => return found,
        _ => {}
    }
    // Lists and maps are kept, yet not all that they hold.
    let projected = !native.contains(before.kind()) || matches!(before, Value::List(_) | Value::Map(_));
    if projected && project(before.clone(), native) == found {
        return before.clone();
    }
    let wanted = kind.unwrap_or_else(|| kind_before(before));
    if found.kind() == wanted {
        return lift_inside(found, before, native);
    }
    if kind.is_none() && native.contains(wanted) {
        return found;
    }
    match read(&found, wanted) {
        Some(lifted) => lifted,
        None if kind.is_none() && !native.contains(Kind::Integer) => literal(found),
        None => found,
    }
}

/// The value as one of `kind`, if nothing is lost by that: the way back gives the very same value.
pub fn coerce(value: &Value, kind: Kind) -> Option<Value> {
    if value.kind() == kind {
        return Some(value.clone());
    }
    let coerced = convert(value, kind)?;
    (convert(&coerced, value.kind())? == *value).then_some(coerced)
}

/// What kind a value is where no kind is declared; a large value is what it refers to.
fn kind_before(before: &Value) -> Kind {
    match before {
        Value::Large(large) if large.text => Kind::Text,
        Value::Large(_) => Kind::Bytes,
        before => before.kind(),
    }
}

/// Brings what stands in a list or map back, each value beside the one that the source has in its place.
fn lift_inside(found: Value, before: &Value, native: KindSet) -> Value {
    match (found, before) {
        (Value::List(found), Value::List(before)) => {
            // Where values came in or went, places say nothing; what all have in common still does.
            let kind = common_kind(before).filter(|kind| !native.contains(*kind));
            let lift_at = |(i, value)| lift_from(value, kind, before.get(i).unwrap_or(&Value::Absent), native);
            Value::List(found.into_iter().enumerate().map(lift_at).collect())
        }
        (Value::Map(found), Value::Map(before)) => {
            let lift_member = |(i, (name, value)): (usize, (String, Value))| {
                // Mostly the members stand where they stood.
                let same_place = before.get(i).filter(|(other, _)| *other == name);
                let before = same_place.or_else(|| before.iter().find(|(other, _)| *other == name));
                let lifted = lift_from(value, None, before.map_or(&Value::Absent, |(_, before)| before), native);
                (name, lifted)
            };
            Value::Map(found.into_iter().enumerate().map(lift_member).collect())
        }
        (found, _) => found,
    }
}

/// The one kind that all values have which are there.
fn common_kind(values: &[Value]) -> Option<Kind> {
    let mut kinds = values.iter().map(Value::kind).filter(|kind| !matches!(kind, Kind::Absent | Kind::Null));
    let first = kinds.next()?;
    kinds.all(|kind| kind == first).then_some(first)
}

/// What somebody meant who put `found` where values of kind `wanted` stand.
fn read(found: &Value, wanted: Kind) -> Option<Value> {
    match (found, wanted) {
        // Zeros in front mean something to whoever wrote them.
        (Value::Text(text), Kind::Integer | Kind::Decimal | Kind::Float) if has_leading_zero(text) => None,
        (Value::Text(text), _) => text::parse(text, wanted),
        // Not in base64, of which nobody thinks who replaces text by bytes.
        (Value::Bytes(_) | Value::Large(_), Kind::Text) => None,
        (Value::Decimal(decimal), Kind::Float) => float_of(decimal),
        _ => coerce(found, wanted),
    }
}

fn has_leading_zero(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    matches!(digits, [b'0', second, ..] if second.is_ascii_digit())
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

fn convert(value: &Value, kind: Kind) -> Option<Value> {
    let decimal = |unscaled: BigInt| Some(Value::Decimal(Box::new(Decimal { unscaled, scale: 0 })));
    match (value, kind) {
        (Value::Bool(bool), Kind::Integer) => Some(Value::Integer((*bool).into())),
        (Value::Integer(0), Kind::Bool) => Some(Value::Bool(false)),
        (Value::Integer(1), Kind::Bool) => Some(Value::Bool(true)),
        (Value::Integer(integer), Kind::Float) => Some(Value::Float(*integer as f64)),
        (Value::Float(float), Kind::Integer) => whole(*float),
        (Value::Integer(integer), Kind::Decimal) => decimal(BigInt::from(*integer)),
        (Value::BigInteger(integer), Kind::Decimal) => decimal((**integer).clone()),
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
    let negative_zero = float == 0.0 && float.is_sign_negative();
    let is_whole = float.fract() == 0.0 && float.abs() <= FLOAT_INTEGER_MAX && !negative_zero;
    is_whole.then_some(Value::Integer(float as i64))
}

/// The float whose shortest digits are this decimal's, zeros at the end aside: a float has no scale to keep them.
fn float_of(decimal: &Decimal) -> Option<Value> {
    let float = convert(&Value::Decimal(Box::new(decimal.clone())), Kind::Float)?;
    let Some(Value::Decimal(shortest)) = convert(&float, Kind::Decimal) else { return None };
    (significant(&shortest) == significant(decimal)).then_some(float)
}

/// Digits without the zeros at the end, and the power of ten of the last.
fn significant(decimal: &Decimal) -> (String, i64) {
    let digits = decimal.unscaled.to_string();
    let trimmed = digits.trim_end_matches('0');
    match trimmed {
        "" => (String::new(), 0),
        _ => (trimmed.to_owned(), (digits.len() - trimmed.len()) as i64 - i64::from(decimal.scale)),
    }
}
