//! Large values leave their record and are referred to by hash.

use crate::row::{FieldRef, RowBuilder, RowReader};
use crate::value::{Large, Value};

/// Text and bytes of more than this many bytes leave their record, so that a record never weighs more than its small
/// fields and a small edit in a large value doesn't send all of it.
pub const LARGE_MIN: usize = 64 * 1024;

/// Whether a row holds a value that is to leave it.
pub fn has_large(row: &[u8]) -> bool {
    row.len() > LARGE_MIN && RowReader::new(row).any(is_large)
}

/// Whether a row refers to values that have left it.
pub fn refers_to_large(row: &[u8]) -> bool {
    RowReader::new(row).any(|field| field.kind() == crate::value::Kind::Large)
}

fn is_large(field: FieldRef<'_>) -> bool {
    // The tag, and a length of 16 KiB to 2 MiB, add this to the text or the bytes; a longer length is large anyway.
    const OVERHEAD: usize = 4;
    field.as_bytes().len() > LARGE_MIN + OVERHEAD && matches!(field.as_bytes()[0], 8 | 9)
}

/// Rewrites a row: each large value goes to `keep` (bytes, whether they are text) and its reference takes the place.
pub fn externalize<E>(
    row: &[u8],
    out: &mut RowBuilder,
    keep: &mut dyn FnMut(&[u8], bool) -> Result<Large, E>,
) -> Result<(), E> {
    for field in RowReader::new(row) {
        if !is_large(field) {
            out.push_encoded(field);
            continue;
        }
        let large = match field.value() {
            Value::Text(text) => keep(text.as_bytes(), true)?,
            Value::Bytes(bytes) => keep(&bytes, false)?,
            _ => unreachable!("only text and bytes are large"),
        };
        out.push(&Value::Large(Box::new(large)));
    }
    Ok(())
}

/// Rewrites a row: each reference is replaced by the value that `fetch` gives.
pub fn internalize<E>(
    row: &[u8],
    out: &mut RowBuilder,
    fetch: &mut dyn FnMut(&Large) -> Result<Value, E>,
) -> Result<(), E> {
    for field in RowReader::new(row) {
        match field.kind() {
            crate::value::Kind::Large => {
                let Value::Large(large) = field.value() else { unreachable!("the kind says so") };
                out.push(&fetch(&large)?);
            }
            _ => out.push_encoded(field),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Row;

    #[test]
    fn large_values_leave_and_come_back() {
        let text = "ä".repeat(LARGE_MIN);
        let row =
            Row::of(&[Value::text("small"), Value::text(text), Value::Null, Value::Bytes(vec![7; LARGE_MIN + 1])]);
        assert!(has_large(row.as_bytes()));
        let mut kept = Vec::new();
        let mut out = RowBuilder::default();
        let mut keep = |bytes: &[u8], text: bool| {
            kept.push(bytes.to_vec());
            Ok::<_, ()>(Large { hash: [kept.len() as u8; 32], length: bytes.len() as u64, text })
        };
        externalize(row.as_bytes(), &mut out, &mut keep).unwrap();
        let small = out.row();
        assert!(!has_large(small.as_bytes()) && refers_to_large(small.as_bytes()));
        assert!(small.as_bytes().len() < 128);
        let mut back = RowBuilder::default();
        let mut fetch = |large: &Large| {
            let bytes = kept[usize::from(large.hash[0]) - 1].clone();
            Ok::<_, ()>(if large.text { Value::Text(String::from_utf8(bytes).unwrap()) } else { Value::Bytes(bytes) })
        };
        internalize(small.as_bytes(), &mut back, &mut fetch).unwrap();
        assert_eq!(back.row(), row);
    }

    #[test]
    fn values_up_to_the_limit_stay() {
        let row = Row::of(&[Value::text("a".repeat(LARGE_MIN)), Value::Bytes(vec![0; LARGE_MIN / 2])]);
        assert!(!has_large(row.as_bytes()));
    }
}
