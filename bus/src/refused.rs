//! Figures of what is passed over on the bus: by source and kind of message, and by nothing that a sender could choose.

use metrics::{Unit, describe_counter};

/// Messages that were passed over because they can't be understood, or not be true; by source and what they should be.
pub const MESSAGES: &str = "deltabus_bus_messages_refused_total";

/// A message of the log.
pub const LOG: &str = "log";
/// A part of a snapshot.
pub const SNAPSHOT: &str = "snapshot";
/// A reverse set.
pub const REVERSE: &str = "reverse";

/// Tells the recorder what the figure means.
pub fn describe() {
    describe_counter!(MESSAGES, Unit::Count, "Messages passed over because they can't be understood or true");
}
