//! Typed values: what a field of a record can hold.

use num_bigint::BigInt;

/// One value of the universal format. Absent, null and empty are three things.
///
/// Two values are the same value exactly when they are equal by `==`; floats compare by bits, with every NaN the same.
#[derive(Clone, Debug)]
pub enum Value {
    /// The field is not there at all (a JSON object without the member).
    Absent,
    /// The field is there and holds nothing (SQL NULL, JSON null).
    Null,
    /// True or false.
    Bool(bool),
    /// An integer of 64 bits.
    Integer(i64),
    /// An integer outside the range of [`Value::Integer`]; build it with [`Value::integer`].
    BigInteger(Box<BigInt>),
    /// An exact decimal number; its scale is part of the value (1.0 is not 1.00).
    Decimal(Box<Decimal>),
    /// A binary floating point number, NaN and infinities included.
    Float(f64),
    /// Unicode text.
    Text(String),
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// A calendar date.
    Date(Date),
    /// A time of day.
    Time(Time),
    /// A local date and time, in no particular zone.
    DateTime(Date, Time),
    /// A point in time, with the offset it was written with.
    Instant(Instant),
    /// A UUID, big-endian as printed (RFC 9562).
    Uuid([u8; 16]),
    /// A list of values.
    List(Vec<Value>),
    /// Named values in their written order; names are distinct.
    Map(Vec<(String, Value)>),
    /// A reference to a large value, kept as chunks beside the record.
    Large(Box<Large>),
}

/// A decimal number: `unscaled * 10^-scale`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// All digits, as an integer.
    pub unscaled: BigInt,
    /// How many of the digits stand behind the point; negative for trailing zeros before it.
    pub scale: i32,
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub i32);

/// Nanoseconds since midnight, 0 to 86,400,000,000,000 (24:00:00 and leap seconds included).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// A point in time, with the offset from UTC that it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
    /// Offset from UTC in seconds, east positive.
    pub offset_seconds: i32,
}

/// A reference to a value too large to travel inside a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Large {
    /// BLAKE3 of the whole value.
    pub hash: [u8; 32],
    /// Length of the whole value in bytes.
    pub length: u64,
    /// Whether the bytes are UTF-8 text ([`Kind::Text`]) or raw ([`Kind::Bytes`]).
    pub text: bool,
}

/// What kind of value this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`Value::Absent`]
    Absent,
    /// [`Value::Null`]
    Null,
    /// [`Value::Bool`]
    Bool,
    /// [`Value::Integer`] and [`Value::BigInteger`]
    Integer,
    /// [`Value::Decimal`]
    Decimal,
    /// [`Value::Float`]
    Float,
    /// [`Value::Text`]
    Text,
    /// [`Value::Bytes`]
    Bytes,
    /// [`Value::Date`]
    Date,
    /// [`Value::Time`]
    Time,
    /// [`Value::DateTime`]
    DateTime,
    /// [`Value::Instant`]
    Instant,
    /// [`Value::Uuid`]
    Uuid,
    /// [`Value::List`]
    List,
    /// [`Value::Map`]
    Map,
    /// [`Value::Large`]
    Large,
}

impl Kind {
    /// Every kind, in the order of their tags.
    pub const ALL: [Kind; 16] = [
        Kind::Absent,
        Kind::Null,
        Kind::Bool,
        Kind::Integer,
        Kind::Decimal,
        Kind::Float,
        Kind::Text,
        Kind::Bytes,
        Kind::Date,
        Kind::Time,
        Kind::DateTime,
        Kind::Instant,
        Kind::Uuid,
        Kind::List,
        Kind::Map,
        Kind::Large,
    ];

    /// The name used in configuration, output and on the wire: `integer`, `date_time` …
    pub fn name(self) -> &'static str {
        match self {
            Kind::Absent => "absent",
            Kind::Null => "null",
            Kind::Bool => "bool",
            Kind::Integer => "integer",
            Kind::Decimal => "decimal",
            Kind::Float => "float",
            Kind::Text => "text",
            Kind::Bytes => "bytes",
            Kind::Date => "date",
            Kind::Time => "time",
            Kind::DateTime => "date_time",
            Kind::Instant => "instant",
            Kind::Uuid => "uuid",
            Kind::List => "list",
            Kind::Map => "map",
            Kind::Large => "large",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A set of kinds, and perhaps of the texts that have no NUL in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KindSet(u32);

/// Above the bits of all kinds.
const PLAIN_TEXT: u32 = 1 << 16;

impl KindSet {
    /// Every kind.
    pub const ALL: KindSet = KindSet(u16::MAX as u32);

    /// The set of these kinds.
    pub const fn of(kinds: &[Kind]) -> KindSet {
        let mut bits = 0;
        let mut i = 0;
        while i < kinds.len() {
            bits |= 1 << kinds[i] as u16;
            i += 1;
        }
        KindSet(bits)
    }

    /// Whether `kind` is in the set.
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u16) != 0
    }

    /// The same set, and with it the texts that have no NUL in them, which many stores can't keep. [`KindSet::contains`] still
    /// says of texts what it said.
    pub const fn and_plain_text(self) -> KindSet {
        KindSet(self.0 | PLAIN_TEXT)
    }

    /// Whether the texts without NUL are in the set.
    pub const fn contains_plain_text(self) -> bool {
        self.0 & PLAIN_TEXT != 0
    }
}

impl Value {
    /// The integer `value`, in its one representation.
    pub fn integer(value: BigInt) -> Value {
        match i64::try_from(&value) {
            Ok(small) => Value::Integer(small),
            Err(_) => Value::BigInteger(Box::new(value)),
        }
    }

    /// Text.
    pub fn text(value: impl Into<String>) -> Value {
        Value::Text(value.into())
    }

    /// What kind of value this is.
    pub fn kind(&self) -> Kind {
        match self {
            Value::Absent => Kind::Absent,
            Value::Null => Kind::Null,
            Value::Bool(_) => Kind::Bool,
            Value::Integer(_) | Value::BigInteger(_) => Kind::Integer,
            Value::Decimal(_) => Kind::Decimal,
            Value::Float(_) => Kind::Float,
            Value::Text(_) => Kind::Text,
            Value::Bytes(_) => Kind::Bytes,
            Value::Date(_) => Kind::Date,
            Value::Time(_) => Kind::Time,
            Value::DateTime(..) => Kind::DateTime,
            Value::Instant(_) => Kind::Instant,
            Value::Uuid(_) => Kind::Uuid,
            Value::List(_) => Kind::List,
            Value::Map(_) => Kind::Map,
            Value::Large(_) => Kind::Large,
        }
    }
}

/// One bit pattern for every NaN, so that NaN equals NaN.
pub(crate) fn canonical_bits(value: f64) -> u64 {
    if value.is_nan() { 0x7ff8_0000_0000_0000 } else { value.to_bits() }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Absent, Value::Absent) | (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Integer(a), Value::Integer(b)) => a == b,
            (Value::BigInteger(a), Value::BigInteger(b)) => a == b,
            (Value::Decimal(a), Value::Decimal(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => canonical_bits(*a) == canonical_bits(*b),
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Date(a), Value::Date(b)) => a == b,
            (Value::Time(a), Value::Time(b)) => a == b,
            (Value::DateTime(a, b), Value::DateTime(c, d)) => a == c && b == d,
            (Value::Instant(a), Value::Instant(b)) => a == b,
            (Value::Uuid(a), Value::Uuid(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            (Value::Map(a), Value::Map(b)) => a == b,
            (Value::Large(a), Value::Large(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}
