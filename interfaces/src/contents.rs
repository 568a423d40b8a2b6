//! The bytes behind references to large values.

use std::io::Read;
use std::path::Path;

use deltabus_record::value::{Large, Value};

use crate::{Error, Result};

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
        let mut bytes = Vec::with_capacity(usize::try_from(large.length).unwrap_or_default().min(PREALLOCATED_MAX));
        self.read(large, None)?.read_to_end(&mut bytes).map_err(failed)?;
        match large.text {
            false => Ok(Value::Bytes(bytes)),
            true => String::from_utf8(bytes).map(Value::Text).map_err(|error| failed(std::io::Error::other(error))),
        }
    }
}

/// What is set aside at once for a content in memory, however long it says it is.
const PREALLOCATED_MAX: usize = 64 * 1024 * 1024;

/// Where there are no references, there are no contents.
pub struct NoContents;

impl Contents for NoContents {
    fn read<'a>(&'a self, large: &Large, _: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>> {
        Err(Error::Content { hash: hex(&large.hash), source: std::io::ErrorKind::NotFound.into() })
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
