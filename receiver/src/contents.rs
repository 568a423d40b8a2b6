//! Contents of large values between the bus and the destination.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deltabus_bus::{Error as BusError, large_of};
use deltabus_interfaces::{Contents, Error as InterfaceError, Interface};
use deltabus_record::row::FieldRef;
use deltabus_record::value::{Large, Value};

use crate::Error;

/// What stands at a destination that is being made equal is remembered up to so many bytes: the bus may have lost it, and what
/// is to be removed has to be named.
const SEEN_BYTES: usize = 64 * 1024 * 1024;

/// What the bus has, and what edits at the destination add to it.
pub(crate) struct LargeValues {
    bus: deltabus_bus::Contents,
    destination: Arc<dyn Interface>,
    /// Whether edits are sent back; drift that only stands needs no bytes on the bus.
    reverse: bool,
    /// What edits that wait refer to, and the bus has lost.
    lost: Mutex<HashSet<Large>>,
    /// Contents that were met at the destination, while somebody wants them; otherwise `None`.
    seen: Mutex<Option<HashMap<Large, Value>>>,
}

impl LargeValues {
    pub(crate) fn new(bus: deltabus_bus::Contents, destination: Arc<dyn Interface>, reverse: bool) -> LargeValues {
        LargeValues { bus, destination, reverse, lost: Mutex::default(), seen: Mutex::default() }
    }

    /// Fetches one.
    pub(crate) fn fetch(&self, large: &Large) -> Result<Value, Error> {
        match lock(&self.seen).as_ref().and_then(|seen| seen.get(large)) {
            Some(seen) => Ok(seen.clone()),
            None => Ok(self.value(large)?),
        }
    }

    /// Remembers what is met at the destination as long as the answer lives.
    pub(crate) fn remembering(self: &Arc<LargeValues>) -> Remembering {
        *lock(&self.seen) = Some(HashMap::new());
        Remembering(Arc::clone(self))
    }

    /// Sends one, as far as it isn't there yet; gives its reference.
    pub(crate) fn keep(&self, bytes: &[u8], text: bool) -> Result<Large, Error> {
        if self.reverse {
            return Ok(self.bus.keep(bytes, text)?);
        }
        let large = large_of(bytes, text);
        if let Some(seen) = lock(&self.seen).as_mut() {
            let known: u64 = seen.keys().map(|seen| seen.length).sum();
            let value =
                if text { str::from_utf8(bytes).ok().map(Value::text) } else { Some(Value::Bytes(bytes.to_vec())) };
            if known + large.length <= SEEN_BYTES as u64
                && let Some(value) = value
            {
                seen.insert(large.clone(), value);
            }
        }
        Ok(large)
    }

    /// Sends one that the destination's scan found by reference.
    pub(crate) fn keep_found(&self, large: &Large) -> Result<(), Error> {
        if !self.reverse {
            return Ok(());
        }
        let open = || self.destination.contents().read(large, None).map_err(io::Error::other);
        Ok(self.bus.keep_from(large, open)?)
    }

    /// Finds out which of these the bus has lost; until the next time they are kept wherever they are met.
    pub(crate) fn find_lost(&self, values: impl Iterator<Item = Large>) -> Result<bool, Error> {
        let mut lost = HashSet::new();
        for large in values {
            if !lost.contains(&large) && self.bus.misses(&large)? {
                lost.insert(large);
            }
        }
        let any = !lost.is_empty();
        *lock(&self.lost) = lost;
        Ok(any)
    }

    /// Sends a value that the bus has lost, where it is that, from what stands at the destination for it.
    pub(crate) fn keep_lost(&self, large: &Large, there: FieldRef<'_>) -> Result<(), Error> {
        if !lock(&self.lost).contains(large) {
            return Ok(());
        }
        match there.value() {
            Value::Text(text) => self.keep(text.as_bytes(), true).map(drop),
            Value::Bytes(bytes) => self.keep(&bytes, false).map(drop),
            Value::Large(found) => self.keep_found(&found),
            _ => Ok(()),
        }
    }

    /// Returns when the bus has all that was kept.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        Ok(self.bus.flush()?)
    }

    /// Says what will be read next.
    pub(crate) fn announce(&self, upcoming: Vec<Large>) {
        self.bus.announce(upcoming);
    }
}

/// While it lives, what is met at the destination is remembered.
pub(crate) struct Remembering(Arc<LargeValues>);

impl Drop for Remembering {
    fn drop(&mut self) {
        *lock(&self.0.seen) = None;
    }
}

/// What a panic elsewhere left is still sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Contents for LargeValues {
    fn read<'a>(&'a self, large: &Large, similar: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>, InterfaceError> {
        match self.bus.read(large, similar) {
            Ok(reading) => Ok(Box::new(reading)),
            Err(BusError::Content { hash, source }) => Err(InterfaceError::Content { hash, source }),
            Err(error) => Err(InterfaceError::Records(Box::new(error))),
        }
    }
}
