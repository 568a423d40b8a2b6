//! The receiver's figures; every name stands here once.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// Record writes brought to the destination, by source, receiver and collection.
pub const CHANGES_APPLIED: &str = "deltabus_receiver_changes_applied_total";
/// Change sets applied, by source and receiver.
pub const SETS_APPLIED: &str = "deltabus_receiver_sets_applied_total";
/// Encoded bytes of the change sets and snapshots taken from the bus, by source and receiver.
pub const BYTES_RECEIVED: &str = "deltabus_receiver_received_bytes_total";
/// The revision the destination is at, by source and receiver.
pub const REVISION: &str = "deltabus_receiver_revision";
/// How many sets the log has that the destination lacks, by source and receiver.
pub const LAG_SETS: &str = "deltabus_receiver_lag_sets";
/// How old the oldest set is that the log has and the destination lacks; 0 when it lacks none, by source and receiver.
pub const LAG_SECONDS: &str = "deltabus_receiver_lag_seconds";
/// From a set's staging at the transmitter to its commit at the destination, by source and receiver.
pub const LATENCY_SECONDS: &str = "deltabus_receiver_latency_seconds";
/// How long bringing a group of sets to the destination took, by source and receiver.
pub const APPLY_SECONDS: &str = "deltabus_receiver_apply_duration_seconds";
/// How long reading the destination and finding its edits took, by source and receiver.
pub const SCAN_SECONDS: &str = "deltabus_receiver_scan_duration_seconds";
/// Edits sent as reverse sets, by source and receiver.
pub const EDITS_SENT: &str = "deltabus_receiver_edits_sent_total";
/// Fields and records at the destination that differ from the source and are not sent back, by source and receiver.
pub const DRIFT: &str = "deltabus_receiver_drift_records";
/// Places at the destination that could not be read, while the rest could, by source and receiver.
pub const UNREAD: &str = "deltabus_receiver_unread";
/// Changes kept among the dead letters, by source and receiver.
pub const DEAD_LETTERS: &str = "deltabus_receiver_dead_letters_total";
/// Changes among the dead letters that wait for somebody, by source and receiver.
pub const DEAD_LETTERS_WAITING: &str = "deltabus_receiver_dead_letters_waiting";
/// Reverse sets that were not answered yet, by source and receiver.
pub const PENDING_SETS: &str = "deltabus_receiver_pending_sets";
/// Sets that did not lead to the state that their digest names, by source and receiver.
pub const DIGEST_MISMATCHES: &str = "deltabus_receiver_digest_mismatches_total";
/// Joins by snapshot, the first and those after, by source and receiver.
pub const JOINS: &str = "deltabus_receiver_joins_total";
/// Rounds that ended in an error, by source and receiver.
pub const ERRORS: &str = "deltabus_receiver_errors_total";

/// Tells the recorder what each figure means.
pub fn describe() {
    describe_counter!(CHANGES_APPLIED, Unit::Count, "Record writes brought to the destination");
    describe_counter!(SETS_APPLIED, Unit::Count, "Change sets applied");
    describe_counter!(BYTES_RECEIVED, Unit::Bytes, "Encoded bytes taken from the bus");
    describe_gauge!(REVISION, Unit::Count, "Revision the destination is at");
    describe_gauge!(LAG_SETS, Unit::Count, "Change sets in the log that the destination lacks");
    describe_gauge!(LAG_SECONDS, Unit::Seconds, "Age of the oldest change set that the destination lacks");
    describe_histogram!(LATENCY_SECONDS, Unit::Seconds, "From staging at the transmitter to commit at the destination");
    describe_histogram!(APPLY_SECONDS, Unit::Seconds, "Bringing a group of change sets to the destination");
    describe_histogram!(SCAN_SECONDS, Unit::Seconds, "Reading the destination and finding its edits");
    describe_counter!(EDITS_SENT, Unit::Count, "Edits sent as reverse sets");
    describe_gauge!(DRIFT, Unit::Count, "Records at the destination that differ and are not sent back");
    describe_gauge!(UNREAD, Unit::Count, "Places at the destination that could not be read, while the rest could");
    describe_counter!(DEAD_LETTERS, Unit::Count, "Changes kept among the dead letters");
    describe_gauge!(DEAD_LETTERS_WAITING, Unit::Count, "Changes among the dead letters that wait for somebody");
    describe_gauge!(PENDING_SETS, Unit::Count, "Reverse sets not answered yet");
    describe_counter!(DIGEST_MISMATCHES, Unit::Count, "Change sets that did not lead to the state their digest names");
    describe_counter!(JOINS, Unit::Count, "Joins by snapshot");
    describe_counter!(ERRORS, Unit::Count, "Rounds that ended in an error");
}

/// Lets the figures of a receiver begin, so that they are there before anything happened: what appears with its first event is
/// not seen to have grown.
pub(crate) fn begin(labels: &[(&'static str, String); 2]) {
    for name in [SETS_APPLIED, BYTES_RECEIVED, EDITS_SENT, DEAD_LETTERS, DIGEST_MISMATCHES, JOINS, ERRORS] {
        counter!(name, labels).absolute(0);
    }
    for name in [REVISION, LAG_SETS, LAG_SECONDS, UNREAD, DEAD_LETTERS_WAITING, PENDING_SETS] {
        gauge!(name, labels).set(0.0);
    }
}
