//! The bytes behind references to large values.

use std::io::Read;
use std::path::Path;

use deltabus_record::row::FieldRef;
use deltabus_record::schema::Field;
use deltabus_record::value::{Kind, Large, Value};

use crate::{Error, Interface, Result};

/// Gives the bytes that references ([`Value::Large`]) stand for: a bus, or the store that a scan found them in.
pub trait Contents: Send + Sync {
    /// Opens the content of `large` from its beginning to its end. Blocks; not for async threads.
    ///
    /// `similar` is a file that may hold parts of it: those needn't be fetched. Reading ends with an error if the bytes
    /// turn out to be others than `large` says; who reads to the end has got the very content.
    fn read<'a>(&'a self, large: &Large, similar: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>>;

    /// The content as a value in memory.
    fn value(&self, large: &Large) -> Result<Value> {
        let failed = |source| Error::Content { hash: hex(&large.hash), source };
        if large.length > IN_MEMORY_MAX {
            let problem =
                format!("{} bytes are more than the {IN_MEMORY_MAX} that one value may have here", large.length);
            return Err(failed(std::io::Error::new(std::io::ErrorKind::FileTooLarge, problem)));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(large.length).unwrap_or_default().min(PREALLOCATED_MAX));
        self.read(large, None)?.read_to_end(&mut bytes).map_err(failed)?;
        match large.text {
            false => Ok(Value::Bytes(bytes)),
            true => String::from_utf8(bytes).map(Value::Text).map_err(|error| failed(std::io::Error::other(error))),
        }
    }
}

/// What is set aside at once for a content in memory, however long it says it is.
const PREALLOCATED_MAX: usize = 1024 * 1024;

/// The longest content that is brought into memory, as stores need it that keep it among a record's other values. SQLite takes
/// no longer value, PostgreSQL none half as long again.
pub const IN_MEMORY_MAX: u64 = 1_000_000_000;

/// Where there are no references, there are no contents.
pub struct NoContents;

impl Contents for NoContents {
    fn read<'a>(&'a self, large: &Large, _: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>> {
        Err(Error::Content { hash: hex(&large.hash), source: std::io::ErrorKind::NotFound.into() })
    }
}

/// The field in which `interface` would keep the source's `field`, if it made the collection itself: where it can't keep
/// references, what they stand for.
pub fn field_for(interface: &dyn Interface, field: &Field) -> Field {
    let kept = field.kind != Some(Kind::Large) || interface.verbatim(field).contains(Kind::Large);
    match kept {
        true => interface.field_for(field),
        false => interface.field_for(&Field { kind: Some(Kind::Bytes), ..field.clone() }),
    }
}

/// Whether two values are the same content, by reference or as they are.
pub fn same_content(a: FieldRef<'_>, b: FieldRef<'_>) -> bool {
    if a == b {
        return true;
    }
    match (a.kind(), b.kind()) {
        (Kind::Large, Kind::Bytes | Kind::Text) => is_content_of(&a.value(), &b.value()),
        (Kind::Bytes | Kind::Text, Kind::Large) => is_content_of(&b.value(), &a.value()),
        _ => false,
    }
}

fn is_content_of(reference: &Value, value: &Value) -> bool {
    let (Value::Large(large), Value::Bytes(_) | Value::Text(_)) = (reference, value) else { return false };
    let bytes = match value {
        Value::Text(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes.as_slice(),
        _ => return false,
    };
    large.length == bytes.len() as u64 && *blake3::hash(bytes).as_bytes() == large.hash
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reference says any length; nothing is read, nor set aside, for one that no store could take.
    #[test]
    fn a_content_too_long_for_memory_is_refused_unread() {
        struct Endless;
        impl Contents for Endless {
            fn read<'a>(&'a self, _: &Large, _: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>> {
                panic!("nobody asks for it")
            }
        }
        for length in [IN_MEMORY_MAX + 1, u64::MAX] {
            let refused = Endless.value(&Large { hash: [7; 32], length, text: false }).unwrap_err();
            let Error::Content { source, .. } = refused else { panic!("{refused}") };
            assert!(source.to_string().contains("more than"), "{source}");
        }
    }
}
