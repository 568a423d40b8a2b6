//! What a transmitter is told.

use std::time::Duration;

use deltabus_interfaces::Location;
use deltabus_record::change::ConflictPolicy;
use deltabus_record::schema::SourceName;

/// The part of a collection that one set may delete without being confirmed, unless told otherwise.
pub const MAX_DELETE_DEFAULT: f64 = 0.5;

/// One source to transmit.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name on the bus.
    pub source: SourceName,
    /// Where it is.
    pub location: Location,
    /// How often it is looked at beside notifications.
    pub poll: Option<Duration>,
    /// Who decides when source and edit disagree.
    pub conflicts: ConflictPolicy,
    /// The part of a collection, 0 to 1, that one set may delete; more is held until confirmed.
    pub max_delete: f64,
    /// Whether it stands by while another transmitter of the source is active; else that is an error.
    pub standby: bool,
}

impl Config {
    /// A source at a location, all else as by default.
    pub fn new(source: SourceName, location: Location) -> Config {
        Config {
            source,
            location,
            poll: None,
            conflicts: ConflictPolicy::default(),
            max_delete: MAX_DELETE_DEFAULT,
            standby: false,
        }
    }
}
