//! Figures of the bus as its clients see it; every name stands here once. By source and kind of message, and by nothing that a
//! sender could choose.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// 1 while the connection to the bus stands; where a process has several, of the one that changed last.
pub const UP: &str = "deltabus_bus_up";
/// Connections made.
pub const CONNECTS: &str = "deltabus_bus_connects_total";
/// Connections that broke.
pub const DISCONNECTS: &str = "deltabus_bus_disconnects_total";
/// How large messages written to the log are, as stored, by source.
pub const MESSAGE_BYTES: &str = "deltabus_bus_message_size_bytes";
/// Messages that nobody signed who may publish there, by source.
pub const UNTRUSTED: &str = "deltabus_bus_untrusted_messages_total";
/// Messages that were passed over because they can't be understood, or not be true; by source and what they should be.
pub const REFUSED: &str = "deltabus_bus_messages_refused_total";

/// A message of the log.
pub const LOG: &str = "log";
/// A part of a snapshot.
pub const SNAPSHOT: &str = "snapshot";
/// A reverse set.
pub const REVERSE: &str = "reverse";

/// Tells the recorder what each figure means.
pub fn describe() {
    describe_gauge!(UP, Unit::Count, "1 while the connection to the bus stands");
    describe_counter!(CONNECTS, Unit::Count, "Connections to the bus made");
    describe_counter!(DISCONNECTS, Unit::Count, "Connections to the bus that broke");
    describe_histogram!(MESSAGE_BYTES, Unit::Bytes, "Size of messages written to the log, as stored");
    describe_counter!(UNTRUSTED, Unit::Count, "Messages that nobody signed who may publish there");
    describe_counter!(REFUSED, Unit::Count, "Messages passed over because they can't be understood or true");
}

/// Lets a process's own figures begin, so that they are there before anything happened.
pub(crate) fn begin() {
    gauge!(UP).set(0.0);
    counter!(CONNECTS).absolute(0);
    counter!(DISCONNECTS).absolute(0);
}

/// The same for what is counted of a source.
pub fn begin_source(source: &str) {
    counter!(UNTRUSTED, "source" => source.to_owned()).absolute(0);
    for what in [LOG, SNAPSHOT, REVERSE] {
        counter!(REFUSED, "source" => source.to_owned(), "what" => what).absolute(0);
    }
}
