//! What a server sends, from whoever says to be one.

use deltabus_record::row::{Row, RowBuilder, RowReader};

use super::types::Form;
use super::{array, binary, decode, encode, jsonb, stamp};
use crate::Stamp;

/// A row of `COPY … (FORMAT binary)` of a table whose columns are declared so. What is read can be sent again in both
/// formats, and the binary one is read as the same.
///
/// # Panics
/// Where that isn't so.
pub fn row(bytes: &[u8], declared: &[&str]) {
    let forms: Vec<_> = declared.iter().filter_map(|declared| Form::parse(declared)).collect();
    assert_eq!(forms.len(), declared.len(), "the types are ours");
    let mut out = RowBuilder::default();
    if decode::row(bytes, &forms, &mut out).is_err() {
        return;
    }
    let row = Row::from_bytes(out.as_bytes()).expect("what a server sends becomes a canonical row");
    let mut again = (forms.len() as i16).to_be_bytes().to_vec();
    for (field, form) in RowReader::new(row.as_bytes()).zip(&forms) {
        let mut text = String::new();
        let _ = encode::put_field(&mut text, field, form);
        let mut copied = Vec::new();
        encode::put_copied(&mut copied, &text);
        if !binary::is_possible(form) || binary::put_field(&mut again, field, form).is_err() {
            return;
        }
    }
    let mut out = RowBuilder::default();
    assert_eq!(decode::row(&again, &forms, &mut out), Ok(()), "what is sent is read");
    assert_eq!(out.row(), row, "what is sent is read as it was");
}

/// Text that stands for JSON, an array, a snapshot or a declared type.
///
/// # Panics
/// Where what is normal has another normal form.
pub fn text(text: &str) {
    if let Ok(normal) = jsonb::normal(text) {
        assert_eq!(jsonb::check(text), Ok(()), "what jsonb takes is JSON");
        assert_eq!(jsonb::normal(&normal).as_ref(), Ok(&normal), "what is normal stays");
    }
    let _ = array::has_bounds(text);
    let _ = stamp::Snapshot::parse(text);
    if let Some(form) = Form::parse(text) {
        let sql = form.sql();
        assert_eq!(Form::parse(&sql), Some(form), "a type is found by its name: {sql}");
    }
}

/// Bytes that claim to be a stamp.
///
/// # Panics
/// Where they are one and another comes out.
pub fn stamp(bytes: &[u8]) {
    let stamp = Stamp(bytes.to_vec());
    if let Some(state) = stamp::State::of(&stamp) {
        assert_eq!(stamp::State::of(&state.stamp()), Some(state));
    }
}
