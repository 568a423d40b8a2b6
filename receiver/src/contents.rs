//! Contents of large values between the bus and the destination.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use deltabus_bus::{Error as BusError, large_of};
use deltabus_interfaces::{Contents, Error as InterfaceError, Interface};
use deltabus_record::value::{Large, Value};

use crate::Error;

/// What the bus has, and what edits at the destination add to it.
pub(crate) struct LargeValues {
    bus: deltabus_bus::Contents,
    destination: Arc<dyn Interface>,
    /// Whether edits are sent back; drift that only stands needs no bytes on the bus.
    reverse: bool,
}

impl LargeValues {
    pub(crate) fn new(bus: deltabus_bus::Contents, destination: Arc<dyn Interface>, reverse: bool) -> LargeValues {
        LargeValues { bus, destination, reverse }
    }

    /// Fetches one.
    pub(crate) fn fetch(&self, large: &Large) -> Result<Value, Error> {
        Ok(self.value(large)?)
    }

    /// Sends one, as far as it isn't there yet; gives its reference.
    pub(crate) fn keep(&self, bytes: &[u8], text: bool) -> Result<Large, Error> {
        match self.reverse {
            true => Ok(self.bus.keep(bytes, text)?),
            false => Ok(large_of(bytes, text)),
        }
    }

    /// Sends one that the destination's scan found by reference.
    pub(crate) fn keep_found(&self, large: &Large) -> Result<(), Error> {
        if !self.reverse {
            return Ok(());
        }
        let open = || self.destination.contents().read(large, None).map_err(io::Error::other);
        Ok(self.bus.keep_from(large, open)?)
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

impl Contents for LargeValues {
    fn read<'a>(&'a self, large: &Large, similar: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>, InterfaceError> {
        match self.bus.read(large, similar) {
            Ok(reading) => Ok(Box::new(reading)),
            Err(BusError::Content { hash, source }) => Err(InterfaceError::Content { hash, source }),
            Err(error) => Err(InterfaceError::Records(Box::new(error))),
        }
    }
}
