//! What a receiver is told.

use std::time::Duration;

use deltabus_interfaces::Location;
use deltabus_record::schema::{ReceiverName, SourceName};

/// The part of a destination's records that may be found deleted there and be sent on as deletes.
pub const MAX_DELETE_DEFAULT: f64 = 0.5;

/// One destination of one source.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source on the bus.
    pub source: SourceName,
    /// Where the destination is.
    pub location: Location,
    /// The receiver's name; unique among the source's receivers.
    pub name: ReceiverName,
    /// Send edits made at the destination back to the source.
    pub reverse: bool,
    /// Which part of the source is wanted; `None`: the one that this receiver was last told, at first the whole.
    pub selection: Option<Selection>,
    /// What to do about a change that the destination can't take.
    pub on_error: OnError,
    /// How often the destination is looked at beside notifications.
    pub poll: Option<Duration>,
}

/// Which part of a source a destination gets, and under which names; by default the whole as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Which records are wanted, as a CEL predicate over the source's fields.
    pub filter: Option<String>,
    /// Renamed fields: `(destination field, source field)`.
    pub fields: Vec<(String, String)>,
    /// Source fields that the destination doesn't get.
    pub omit: Vec<String>,
}

/// What to do about a change that a destination can't take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Stop there and say so; nothing after it is applied.
    #[default]
    Stop,
    /// Keep the change among the dead letters and go on.
    DeadLetter,
}

impl Config {
    /// The whole source at a location, one way.
    pub fn new(source: SourceName, location: Location, name: ReceiverName) -> Config {
        Config { source, location, name, reverse: false, selection: None, on_error: OnError::default(), poll: None }
    }
}
