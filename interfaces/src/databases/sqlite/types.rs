//! What SQLite's columns hold: each universal kind by the column's type.
//!
//! SQLite keeps five kinds: NULL, INTEGER (64 bits), REAL, TEXT and BLOB. A column's declared type only leans values towards
//! one of them (its *affinity*, <https://www.sqlite.org/datatype3.html>); in a STRICT table it admits no other. A value is
//! projected to what such a column would give back:
//!
//! | value | INTEGER, NUMERIC | REAL | TEXT | BLOB, none | STRICT |
//! |---|---|---|---|---|---|
//! | absent, null | NULL | NULL | NULL | NULL | NULL |
//! | bool | 0, 1 | `true`, `false` | `true`, `false` | 0, 1 | as the affinity, ANY: 0, 1 |
//! | integer | itself | float, if exact | text | itself | if of the type |
//! | float | integer, if whole and small; else itself | itself | text | itself | if of the type |
//! | NaN | `NaN` | `NaN` | `NaN` | `NaN` | text only |
//! | text | number, if written as that number is printed | the same | itself | itself | if of the type |
//! | bytes | itself | itself | itself | itself | BLOB, ANY: itself; TEXT: text |
//! | decimal | number of the same size, if there is one | the same | text | text | if of the type |
//! | all else | text | text | text | text | text only |
//!
//! Text is canonical text ([`deltabus_record::text`]). Text that looks like a number but is not written as SQLite's number would be printed (`012`,
//! `1.50`, integers beyond 64 bits) can't come back from a column of numbers, so it is refused there, as is an integer that
//! no float equals in a REAL column. Negative zero becomes zero in columns of numbers; a decimal in them loses its trailing
//! zeros. `INTEGER PRIMARY KEY` takes 64-bit integers only.

use deltabus_record::schema::Field;
use deltabus_record::text;
use deltabus_record::value::{Kind, KindSet, Value};

use crate::Refusal;

/// Declared as this in a field's hint: the column is the table's rowid and holds nothing but integers.
pub(super) const ROWID_SUFFIX: &str = " PRIMARY KEY";

/// Declared with this in a field's hint: a column of a STRICT table.
pub(super) const STRICT_SUFFIX: &str = " STRICT";

/// Words that would be read as a constraint, not as part of a type's name.
const NO_TYPE_WORDS: &[&str] = &[
    "ALWAYS",
    "AS",
    "AUTOINCREMENT",
    "CHECK",
    "COLLATE",
    "CONSTRAINT",
    "DEFAULT",
    "GENERATED",
    "KEY",
    "NOT",
    "NULL",
    "ON",
    "PRIMARY",
    "REFERENCES",
    "UNIQUE",
];

/// What a column's declared type means for its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ColumnType {
    affinity: Affinity,
    admits: Admits,
}

/// What a column leans values towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Affinity {
    Integer,
    Numeric,
    Real,
    Text,
    Blob,
}

/// What a column refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admits {
    Everything,
    /// NULL and what its affinity makes: a STRICT table.
    OneKind,
    /// Integers and nothing else, not even NULL: the rowid.
    Rowid,
}

impl ColumnType {
    /// The type of the column that `field` was read from or is to be made for.
    pub(super) fn of(field: &Field) -> ColumnType {
        let declared = field.declared.as_deref().unwrap_or_default();
        if declared.strip_suffix(ROWID_SUFFIX).is_some() {
            return ColumnType { affinity: Affinity::Integer, admits: Admits::Rowid };
        }
        match declared.strip_suffix(STRICT_SUFFIX) {
            Some("ANY") => ColumnType { affinity: Affinity::Blob, admits: Admits::Everything },
            Some(strict) => ColumnType { affinity: affinity(strict), admits: Admits::OneKind },
            None => ColumnType { affinity: affinity(declared), admits: Admits::Everything },
        }
    }

    /// The kind that such a column's values are of, for all but odd data; `None` where they may well be of several.
    fn kind(self, declared: &str) -> Option<Kind> {
        match self.affinity {
            Affinity::Integer => Some(Kind::Integer),
            Affinity::Real => Some(Kind::Float),
            Affinity::Text => Some(Kind::Text),
            Affinity::Blob if declared.is_empty() || declared.starts_with("ANY") => None,
            Affinity::Blob => Some(Kind::Bytes),
            Affinity::Numeric => None,
        }
    }
}

/// The field of a column as it was read: its kind is that of its type.
pub(super) fn field_of_column(name: &str, declared: String, ordinal: u32) -> Field {
    let mut field = Field::new(name, None, ordinal);
    field.declared = Some(declared).filter(|declared| !declared.is_empty());
    field.kind = ColumnType::of(&field).kind(field.declared.as_deref().unwrap_or_default());
    field
}

/// The field in which a table that we make keeps `field`: of a type that changes none of its values.
pub(super) fn field_for(field: &Field) -> Field {
    let declared = match field.declared.as_deref().and_then(|declared| keepable(declared, field.kind)) {
        Some(declared) => declared,
        None => match field.kind {
            Some(Kind::Bool) => "BOOLEAN",
            Some(Kind::Integer) => "INTEGER",
            Some(Kind::Float) => "REAL",
            Some(Kind::Bytes) => "BLOB",
            None | Some(Kind::Absent | Kind::Null) => "",
            Some(_) => "TEXT",
        },
    };
    Field { dropped: field.dropped, ..field_of_column(&field.name, declared.to_owned(), field.ordinal) }
}

/// The type that `declared` names here, if it suits values of `kind` and can stand in a statement.
fn keepable(declared: &str, kind: Option<Kind>) -> Option<&str> {
    let plain = declared.strip_suffix(ROWID_SUFFIX).unwrap_or(declared);
    let plain = match plain.strip_suffix(STRICT_SUFFIX) {
        Some("ANY") => "",
        Some(strict) => strict,
        None => plain,
    };
    let suits = match (affinity(plain), kind) {
        (Affinity::Numeric, None) => true,
        (affinity, kind) => ColumnType { affinity, admits: Admits::Everything }.kind(plain) == kind,
    };
    (suits && is_type_name(plain)).then_some(plain)
}

/// Whether `declared` is words and perhaps one or two numbers in parentheses, such as `VARCHAR(20)`.
fn is_type_name(declared: &str) -> bool {
    let (words, numbers) = match declared.split_once('(') {
        Some((words, rest)) => match rest.trim_end().strip_suffix(')') {
            Some(numbers) => (words, Some(numbers)),
            None => return false,
        },
        None => (declared, None),
    };
    let is_word = |word: &str| {
        !word.starts_with(|first: char| first.is_ascii_digit())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !NO_TYPE_WORDS.iter().any(|no| no.eq_ignore_ascii_case(word))
    };
    let is_number = |number: &str| {
        let number = number.trim();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let numbers: Option<Vec<_>> = numbers.map(|numbers| numbers.split(',').collect());
    let numbers_fit = numbers.as_ref().is_none_or(|it| it.len() <= 2 && it.iter().all(|number| is_number(number)));
    words.split_ascii_whitespace().all(is_word) && numbers_fit && (numbers.is_none() || !words.trim().is_empty())
}

/// The affinity of a declared type (<https://www.sqlite.org/datatype3.html>, 3.1).
fn affinity(declared: &str) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |part: &str| declared.contains(part);
    if has("INT") {
        Affinity::Integer
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        Affinity::Text
    } else if has("BLOB") || declared.is_empty() {
        Affinity::Blob
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

/// The kinds whose every value such a column gives back as it got it.
///
/// Neither integers (there are some beyond 64 bits) nor floats (NaN) are among them.
pub(super) fn verbatim(field: &Field) -> KindSet {
    let column = ColumnType::of(field);
    match (column.admits, column.affinity) {
        (Admits::Everything, Affinity::Text | Affinity::Blob) => KindSet::of(&[Kind::Null, Kind::Text, Kind::Bytes]),
        (Admits::Everything, _) | (Admits::OneKind, Affinity::Blob) => KindSet::of(&[Kind::Null, Kind::Bytes]),
        (Admits::OneKind, Affinity::Text) => KindSet::of(&[Kind::Null, Kind::Text]),
        (Admits::OneKind, _) => KindSet::of(&[Kind::Null]),
        (Admits::Rowid, _) => KindSet::default(),
    }
}

/// What a column as `field` describes it gives back for `value`; see the module's table.
pub(super) fn project(value: Value, field: &Field) -> Result<Value, Refusal> {
    let column = ColumnType::of(field);
    let stored = match value {
        Value::Absent | Value::Null => Value::Null,
        Value::Bytes(bytes) if (column.admits, column.affinity) != (Admits::OneKind, Affinity::Text) => {
            Value::Bytes(bytes)
        }
        value => match column.affinity {
            Affinity::Integer | Affinity::Numeric => to_number(value, field, whole_as_integer)?,
            Affinity::Real => to_number(value, field, as_float)?,
            Affinity::Text => as_text(value)?,
            Affinity::Blob => as_it_is(value)?,
        },
    };
    let admitted = match column.admits {
        Admits::Everything => true,
        Admits::OneKind => {
            let kind = column.kind(field.declared.as_deref().unwrap_or_default());
            stored == Value::Null || Some(stored.kind()) == kind
        }
        Admits::Rowid => stored.kind() == Kind::Integer,
    };
    match admitted {
        true => Ok(stored),
        false => {
            Err(Refusal { reason: format!("the column takes no {} but only {}", describe(&stored), only(column)) })
        }
    }
}

fn only(column: ColumnType) -> &'static str {
    match (column.admits, column.affinity) {
        (Admits::Rowid, _) | (_, Affinity::Integer) => "integers of 64 bits",
        (_, Affinity::Real) => "floating point numbers",
        (_, Affinity::Blob) => "bytes",
        _ => "text",
    }
}

fn as_text(value: Value) -> Result<Value, Refusal> {
    match value {
        Value::Text(text) => Ok(Value::Text(text)),
        // Nobody could tell what it refers to.
        Value::Large(_) => Err(Refusal { reason: "a large value must be there as a whole to be kept".into() }),
        value => match text::to_text(&value) {
            Some(text) => Ok(Value::Text(text)),
            None => Err(Refusal { reason: format!("SQLite has no way to keep a {}", value.kind().name()) }),
        },
    }
}

fn as_it_is(value: Value) -> Result<Value, Refusal> {
    match value {
        Value::Bool(bool) => Ok(Value::Integer(bool.into())),
        Value::Integer(_) | Value::Bytes(_) => Ok(value),
        Value::Float(float) if !float.is_nan() => Ok(value),
        value => as_text(value),
    }
}

/// What a column of numbers gives back; `number` is what it makes of a number.
fn to_number(value: Value, field: &Field, number: fn(Value) -> Option<Value>) -> Result<Value, Refusal> {
    let lost = |value: &Value| Refusal {
        reason: format!(
            "{} can't come back as it is from a column of type {}; make the column TEXT, or give the field a type at its \
             source",
            describe(value),
            field.declared.as_deref().unwrap_or_default()
        ),
    };
    match value {
        Value::Bool(bool) => match number(Value::Integer(bool.into())) {
            Some(Value::Integer(integer)) => Ok(Value::Integer(integer)),
            // A column of floats would make 1.0 of it, which is no truth value.
            _ => as_text(value),
        },
        Value::Integer(_) => number(value.clone()).ok_or_else(|| lost(&value)),
        Value::Float(float) if float.is_nan() => as_text(value),
        Value::Float(_) => Ok(number(value.clone()).unwrap_or(value)),
        value => {
            let text = match as_text(value.clone())? {
                Value::Text(text) if looks_numeric(&text) => text,
                other => return Ok(other),
            };
            let found = match text.parse::<i64>() {
                Ok(integer) => number(Value::Integer(integer)),
                Err(_) => text.trim().parse().ok().and_then(|float| number(Value::Float(float))),
            };
            let comes_back = |found: &Value| {
                let again = text::to_text(found).unwrap_or_default();
                match value {
                    Value::Decimal(_) => scientific(&again) == scientific(&text),
                    _ => again == text,
                }
            };
            found.filter(comes_back).ok_or_else(|| lost(&value))
        }
    }
}

/// INTEGER and NUMERIC affinity: whole floats become integers (`sqlite3VdbeIntegerAffinity`).
fn whole_as_integer(value: Value) -> Option<Value> {
    match value {
        Value::Float(float) => {
            // The cast saturates; SQLite leaves both ends alone.
            let integer = float as i64;
            let whole = integer as f64 == float && integer != i64::MIN && integer != i64::MAX;
            Some(if whole { Value::Integer(integer) } else { value })
        }
        value => Some(value),
    }
}

/// REAL affinity: integers become floats; `None` where none equals it.
fn as_float(value: Value) -> Option<Value> {
    match value {
        Value::Integer(integer) => {
            let float = integer as f64;
            (float as i128 == i128::from(integer)).then_some(Value::Float(float))
        }
        // Whole floats are stored as integers, which have no negative zero.
        Value::Float(0.0) => Some(Value::Float(0.0)),
        value => Some(value),
    }
}

/// Whether a column of numbers would take `text` for one: digits, a point, an exponent, space around, anything after NUL.
fn looks_numeric(text: &str) -> bool {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r');
    // SQLite looks no further than a NUL.
    let text = text.split('\0').next().unwrap_or_default().trim_matches(is_space);
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && whole.len() + fraction.len() > 0
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

/// The sign, significant digits and exponent of a number's text, so that equal numbers are equal; `None` for no number.
fn scientific(text: &str) -> Option<(bool, String, i64)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some((false, String::new(), 0));
    }
    Some((negative, significant.to_owned(), exponent.checked_add((digits.len() - significant.len()) as i64)?))
}

/// A value for a message.
fn describe(value: &Value) -> String {
    format!("{} {}", value.kind().name(), text::display(value))
}

/// The type that a STRICT table can have for `field`.
pub(super) fn strict_type(field: &Field) -> &'static str {
    match ColumnType::of(field).affinity {
        Affinity::Integer => "INTEGER",
        Affinity::Real => "REAL",
        Affinity::Text => "TEXT",
        Affinity::Blob if field.kind == Some(Kind::Bytes) => "BLOB",
        Affinity::Blob | Affinity::Numeric => "ANY",
    }
}
