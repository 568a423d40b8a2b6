//! Contents of large values between the source and the bus.

use std::io::{self, Read};
use std::path::Path;

use deltabus_bus::Error as BusError;
use deltabus_interfaces::{Contents, Error as InterfaceError, Interface};
use deltabus_record::value::Large;

/// What a scan finds goes to the bus, as far as that lacks it.
pub(crate) struct Uploads<'a> {
    bus: &'a OnTheBus,
    source: &'a dyn Interface,
    supply: Supply,
}

/// Which contents are offered to the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supply {
    /// Those that the previous state doesn't refer to.
    New,
    /// All: the bus may have lost what it had.
    All,
}

impl<'a> Uploads<'a> {
    /// From `source` to `bus`.
    pub(crate) fn new(bus: &'a OnTheBus, source: &'a dyn Interface, supply: Supply) -> Uploads<'a> {
        Uploads { bus, source, supply }
    }

    /// Whether the bus has what is among the references of the previous state.
    pub(crate) fn has(&self, large: &Large, mut known: impl Iterator<Item = Large>) -> bool {
        self.supply == Supply::New && known.any(|known| known == *large)
    }

    /// Sends a value in memory; gives its reference.
    pub(crate) fn keep(&self, bytes: &[u8], text: bool) -> Result<Large, InterfaceError> {
        self.bus.keep(bytes, text)
    }

    /// Sends what the scan found by reference.
    pub(crate) fn keep_found(&self, large: &Large) -> Result<(), InterfaceError> {
        let open = || self.source.contents().read(large, None).map_err(io::Error::other);
        self.bus.0.keep_from(large, open).map_err(failed)
    }

    /// Returns when the bus has all of it.
    pub(crate) fn flush(&self) -> Result<(), InterfaceError> {
        self.bus.flush()
    }
}

/// What the bus has, for a source that takes it by reference.
pub(crate) struct OnTheBus(pub(crate) deltabus_bus::Contents);

impl OnTheBus {
    /// Sends a value in memory; gives its reference.
    pub(crate) fn keep(&self, bytes: &[u8], text: bool) -> Result<Large, InterfaceError> {
        self.0.keep(bytes, text).map_err(failed)
    }

    /// Returns when the bus has all that was kept.
    pub(crate) fn flush(&self) -> Result<(), InterfaceError> {
        self.0.flush().map_err(failed)
    }
}

impl Contents for OnTheBus {
    fn read<'a>(&'a self, large: &Large, similar: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>, InterfaceError> {
        Ok(Box::new(self.0.read(large, similar).map_err(failed)?))
    }
}

fn failed(error: BusError) -> InterfaceError {
    match error {
        BusError::ContentChanged { hash } => InterfaceError::Changed { place: format!("the content {hash}") },
        BusError::Content { hash, source } => InterfaceError::Content { hash, source },
        error => InterfaceError::Records(Box::new(error)),
    }
}
