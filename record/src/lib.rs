//! The universal format of deltabus: what a record is, whatever store it lies in, and how two states of records differ.
//!
//! The tour, from small to large:
//! - A [`value`] is one field of one record: of sixteen kinds, absent and null among them. [`text`] writes and reads all
//!   kinds as text, [`json`] likewise without losing their kinds.
//! - A [`row`] is a record's values as bytes, one encoding for one value, so that comparing, hashing, storing and sending
//!   rows needs no decoding. A [`key`] is bytes that sort as the values do.
//! - A [`schema`] names the fields by slot. Slots never move: fields come at the end, and go by being marked.
//! - A [`change`] inserts, updates or deletes one record and can be inverted; change sets lead from one revision to the
//!   next. [`diff`] finds the changes between two states, [`apply`] makes them, [`merge`] decides, field by field, between
//!   what two sides did to one record.
//! - The [`digest`] says in 24 bytes which records there are; all who hold the same records have the same digest.
//! - [`mapping`] leads between a source's rows and those of a destination with other fields, [`convert`] between a source's
//!   values and what a store can hold, [`large`] keeps long values out of the rows.
//!
//! ```
//! use deltabus_record::digest::{Digest, RecordHasher};
//! use deltabus_record::row::Row;
//! use deltabus_record::schema::{CollectionName, Field, KeySpec, Schema};
//! use deltabus_record::value::{Kind, Value};
//! use deltabus_record::{apply, diff};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fields = vec![Field::new("id", Some(Kind::Integer), 0), Field::new("name", Some(Kind::Text), 1)];
//! let people = Schema { fields, key: KeySpec::WholeRow }.with_key(&["id"])?;
//! let before = Row::of(&[Value::Integer(7), Value::text("Kari")]);
//! let after = Row::of(&[Value::Integer(7), Value::text("Kari Nordmann")]);
//!
//! // Only the field that differs is in the change, with its value before and after.
//! let key = people.key_of(before.as_bytes(), 0);
//! let change = diff::change(key.clone(), Some(&before), Some(&after)).expect("the rows differ");
//! assert_eq!(apply::apply(&change, Some(&before))?, Some(after.clone()));
//! assert_eq!(apply::apply(&change.clone().invert(), Some(&after))?, Some(before.clone()));
//!
//! // The digest is kept up to date change by change, and is the same for whoever holds the same records.
//! let hasher = RecordHasher::new(&CollectionName::new("people"));
//! let mut digest = Digest::default();
//! digest.add(hasher.hash(key.as_bytes(), before.as_bytes()));
//! digest.remove(hasher.hash(key.as_bytes(), before.as_bytes()));
//! digest.add(hasher.hash(key.as_bytes(), after.as_bytes()));
//! let mut elsewhere = Digest::default();
//! elsewhere.add(hasher.hash(key.as_bytes(), after.as_bytes()));
//! assert_eq!(digest, elsewhere);
//! # Ok(())
//! # }
//! ```
//!
//! This crate is pure: it opens no file and no connection, asks no clock, logs nothing and knows no store and no bus. What
//! it is given from outside it checks and refuses with an error; it doesn't panic. Property tests elsewhere find strategies
//! for values and rows behind the feature `arbitrary`.

pub mod apply;
#[cfg(feature = "arbitrary")]
pub mod arbitrary;
mod base64;
mod calendar;
pub mod change;
pub mod convert;
pub mod diff;
pub mod digest;
pub mod json;
pub mod key;
pub mod large;
pub mod mapping;
pub mod merge;
pub mod row;
pub mod schema;
pub mod text;
pub mod value;
