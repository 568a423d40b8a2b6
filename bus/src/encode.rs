//! The changes of a set as bytes, without building a message for each: sets of hundreds of thousands of changes are encoded
//! in one go. The bytes are those of `deltabus.v1.Transaction` (<https://protobuf.dev/programming-guides/encoding>).

use deltabus_record::change::{Change, CollectionChanges, FieldChange};
use deltabus_record::row::RowBuilder;
use deltabus_record::value::Value;
use prost::encoding::{encode_varint, encoded_len_varint};

/// The wire type of what has a length.
const LENGTH_DELIMITED: u64 = 2;

/// Writes changes; its buffers are used again.
#[derive(Default)]
pub(crate) struct ChangesEncoder {
    collection: Vec<u8>,
    slots: Vec<u8>,
    before: RowBuilder,
    after: RowBuilder,
}

impl ChangesEncoder {
    /// Appends `changes` as a `CollectionChanges` in the field `number`.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, number: u64, changes: &CollectionChanges) {
        self.collection.clear();
        put_bytes(&mut self.collection, 1, changes.collection.as_str().as_bytes());
        for change in &changes.changes {
            self.put_change(change);
        }
        put_message(out, number, self.collection.len());
        out.extend_from_slice(&self.collection);
    }

    fn put_change(&mut self, change: &Change) {
        let (kind, key, parts) = match change {
            Change::Insert { key, row } => (1, key, [row.as_bytes(), &[], &[]]),
            Change::Delete { key, row } => (3, key, [row.as_bytes(), &[], &[]]),
            Change::Update { key, fields } => {
                self.slots.clear();
                fields.iter().for_each(|field| encode_varint(field.slot.into(), &mut self.slots));
                put_values(&mut self.before, fields, |field| &field.before);
                put_values(&mut self.after, fields, |field| &field.after);
                (2, key, [self.slots.as_slice(), self.before.as_bytes(), self.after.as_bytes()])
            }
        };
        let inside = field_bytes(key.as_bytes()) + parts.iter().map(|part| field_bytes(part)).sum::<usize>();
        let out = &mut self.collection;
        put_message(out, 2, 1 + encoded_len_varint(inside as u64) + inside);
        put_message(out, kind, inside);
        put_bytes(out, 1, key.as_bytes());
        for (number, part) in (2..).zip(parts) {
            put_bytes(out, number, part);
        }
    }
}

fn put_values(row: &mut RowBuilder, fields: &[FieldChange], value: fn(&FieldChange) -> &Value) {
    row.clear();
    fields.iter().for_each(|field| row.push(value(field)));
}

/// Begins a message of so many bytes in the field `number`; there even if it is empty.
pub(crate) fn put_message(out: &mut Vec<u8>, number: u64, bytes: usize) {
    encode_varint(number << 3 | LENGTH_DELIMITED, out);
    encode_varint(bytes as u64, out);
}

/// Appends the field `number`; left out where there are no bytes, as any field is that has its default.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_message(out, number, bytes.len());
        out.extend_from_slice(bytes);
    }
}

/// What [`put_bytes`] appends for a field below 16.
pub(crate) fn field_bytes(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + encoded_len_varint(bytes.len() as u64) + bytes.len() }
}
