//! Large values leave their record and are referred to by hash.

use crate::row::{FieldRef, RowBuilder, RowReader};
use crate::schema::{Field, Schema};
use crate::value::{Kind, Large, Value};

/// Text and bytes of more than this many bytes leave their record, so that a record never weighs more than its small
/// fields and a small edit in a large value doesn't send all of it.
pub const LARGE_MIN: usize = 64 * 1024;

/// The fields of a collection whose values are references whatever their length: those of [`Kind::Large`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByReference {
    slots: Vec<usize>,
}

impl ByReference {
    /// Those of `schema`.
    pub fn of(schema: &Schema) -> ByReference {
        let by_reference = |field: &Field| field.kind == Some(Kind::Large);
        let slots = schema.fields.iter().enumerate().filter(|(_, field)| by_reference(field));
        ByReference { slots: slots.map(|(slot, _)| slot).collect() }
    }

    /// Whether a row holds a value that is to leave it.
    pub fn leaves(&self, row: &[u8]) -> bool {
        if row.len() <= LARGE_MIN && self.slots.is_empty() {
            return false;
        }
        RowReader::new(row).enumerate().any(|(slot, field)| self.leaves_from(slot, field))
    }

    fn leaves_from(&self, slot: usize, field: FieldRef<'_>) -> bool {
        is_large(field) || (self.slots.contains(&slot) && matches!(field.kind(), Kind::Text | Kind::Bytes))
    }

    /// Rewrites a row: each value that is to leave it goes to `keep` (bytes, whether they are text) and its reference takes
    /// the place. In fields that hold nothing but references all are of bytes.
    pub fn externalize<E>(
        &self,
        row: &[u8],
        out: &mut RowBuilder,
        keep: &mut dyn FnMut(&[u8], bool) -> Result<Large, E>,
    ) -> Result<(), E> {
        for (slot, field) in RowReader::new(row).enumerate() {
            if !self.leaves_from(slot, field) {
                out.push_encoded(field);
                continue;
            }
            let large = match field.value() {
                Value::Text(text) => keep(text.as_bytes(), !self.slots.contains(&slot))?,
                Value::Bytes(bytes) => keep(&bytes, false)?,
                _ => unreachable!("only text and bytes leave a row"),
            };
            out.push(&Value::Large(Box::new(large)));
        }
        Ok(())
    }
}

/// Whether a row refers to values that have left it.
pub fn refers_to_large(row: &[u8]) -> bool {
    RowReader::new(row).any(|field| field.kind() == Kind::Large)
}

/// The references in a row.
pub fn references(row: &[u8]) -> impl Iterator<Item = Large> {
    let reference = |field: FieldRef<'_>| match field.value() {
        Value::Large(large) => Some(*large),
        _ => None,
    };
    RowReader::new(row).filter(|field| field.kind() == Kind::Large).filter_map(reference)
}

fn is_large(field: FieldRef<'_>) -> bool {
    // The tag, and a length of 16 KiB to 2 MiB, add this to the text or the bytes; a longer length is large anyway.
    const OVERHEAD: usize = 4;
    field.as_bytes().len() > LARGE_MIN + OVERHEAD && matches!(field.as_bytes()[0], 8 | 9)
}

/// Rewrites a row: each reference is replaced by the value that `fetch` gives, but for those in slots that `stay`.
pub fn internalize<E>(
    row: &[u8],
    out: &mut RowBuilder,
    stay: &dyn Fn(usize) -> bool,
    fetch: &mut dyn FnMut(&Large) -> Result<Value, E>,
) -> Result<(), E> {
    for (slot, field) in RowReader::new(row).enumerate() {
        match field.kind() {
            Kind::Large if !stay(slot) => {
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
        let values = ByReference::default();
        assert!(values.leaves(row.as_bytes()));
        let mut kept = Vec::new();
        let mut out = RowBuilder::default();
        let mut keep = |bytes: &[u8], text: bool| {
            kept.push(bytes.to_vec());
            Ok::<_, ()>(Large { hash: [kept.len() as u8; 32], length: bytes.len() as u64, text })
        };
        values.externalize(row.as_bytes(), &mut out, &mut keep).unwrap();
        let small = out.row();
        assert!(!values.leaves(small.as_bytes()) && refers_to_large(small.as_bytes()));
        assert!(small.as_bytes().len() < 128);
        let mut back = RowBuilder::default();
        let mut fetch = |large: &Large| {
            let bytes = kept[usize::from(large.hash[0]) - 1].clone();
            Ok::<_, ()>(if large.text { Value::Text(String::from_utf8(bytes).unwrap()) } else { Value::Bytes(bytes) })
        };
        internalize(small.as_bytes(), &mut back, &|_| false, &mut fetch).unwrap();
        assert_eq!(back.row(), row);
    }

    #[test]
    fn values_up_to_the_limit_stay() {
        let row = Row::of(&[Value::text("a".repeat(LARGE_MIN)), Value::Bytes(vec![0; LARGE_MIN / 2])]);
        assert!(!ByReference::default().leaves(row.as_bytes()));
    }

    #[test]
    fn some_fields_hold_nothing_but_references() {
        let fields = vec![Field::new("path", Some(Kind::Text), 0), Field::new("content", Some(Kind::Large), 1)];
        let contents = ByReference::of(&Schema { fields, key: crate::schema::KeySpec::WholeRow });
        let large = Large { hash: [7; 32], length: 3, text: false };
        for value in [Value::text("abc"), Value::Bytes(b"abc".to_vec())] {
            let row = Row::of(&[Value::text("a"), value]);
            assert!(contents.leaves(row.as_bytes()));
            let mut out = RowBuilder::default();
            let mut keep = |bytes: &[u8], text: bool| {
                assert_eq!((bytes, text), (b"abc".as_slice(), false));
                Ok::<_, ()>(large.clone())
            };
            contents.externalize(row.as_bytes(), &mut out, &mut keep).unwrap();
            let small = out.row();
            assert_eq!(small.values(), [Value::text("a"), Value::Large(Box::new(large.clone()))]);
            assert_eq!(references(small.as_bytes()).collect::<Vec<_>>(), std::slice::from_ref(&large));
            let mut back = RowBuilder::default();
            internalize(small.as_bytes(), &mut back, &|slot| slot == 1, &mut |_| Err(())).unwrap();
            assert_eq!(back.row(), small);
        }
        assert!(!contents.leaves(Row::of(&[Value::text("a"), Value::Null]).as_bytes()));
    }
}
