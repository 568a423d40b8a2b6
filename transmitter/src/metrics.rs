//! The transmitter's figures; every name stands here once.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// Record changes published, by source and collection.
pub const CHANGES_PUBLISHED: &str = "deltabus_transmitter_changes_published_total";
/// Change sets published, by source.
pub const SETS_PUBLISHED: &str = "deltabus_transmitter_sets_published_total";
/// Encoded bytes of the sets published, by source.
pub const BYTES_PUBLISHED: &str = "deltabus_transmitter_published_bytes_total";
/// The last revision staged, by source.
pub const REVISION: &str = "deltabus_transmitter_revision";
/// Sets staged but not yet acknowledged by the log, by source.
pub const OUTBOX_SETS: &str = "deltabus_transmitter_outbox_sets";
/// How long reading the source and finding the difference took, by source.
pub const SCAN_SECONDS: &str = "deltabus_transmitter_scan_duration_seconds";
/// Places at the source that could not be read, while the rest could, by source.
pub const UNREAD: &str = "deltabus_transmitter_unread";
/// How long writing a set into the state store took, by source.
pub const STAGE_SECONDS: &str = "deltabus_transmitter_stage_duration_seconds";
/// How long publishing took until the log's acknowledgement, by source.
pub const PUBLISH_SECONDS: &str = "deltabus_transmitter_publish_duration_seconds";
/// Records read from the source, by source and collection.
pub const RECORDS_SCANNED: &str = "deltabus_transmitter_records_scanned_total";
/// Reverse sets taken, by source and receiver.
pub const REVERSE_SETS: &str = "deltabus_transmitter_reverse_sets_total";
/// Edits that met a changed source, by source and receiver.
pub const CONFLICTS: &str = "deltabus_transmitter_conflicts_total";
/// Edits that the source could not take, by source and receiver.
pub const DEAD_LETTERS: &str = "deltabus_transmitter_dead_letters_total";
/// Reverse sets that are taken with a reservation, by source and reason.
pub const DOUBTFUL: &str = "deltabus_transmitter_reverse_sets_doubtful_total";
/// Their date is later than it can be.
pub const REASON_DATE: &str = "date";
/// 1 while a mass delete is held, by source.
pub const HELD: &str = "deltabus_transmitter_held";
/// 1 while this transmitter is the active one, 0 while it stands by, by source.
pub const ACTIVE: &str = "deltabus_transmitter_active";
/// When the last round ended well, in seconds since 1970-01-01T00:00:00Z, by source.
pub const ROUND_TIME: &str = "deltabus_transmitter_last_round_timestamp_seconds";
/// Rounds that ended in an error, by source.
pub const ERRORS: &str = "deltabus_transmitter_errors_total";

/// Tells the recorder what each figure means.
pub fn describe() {
    describe_counter!(CHANGES_PUBLISHED, Unit::Count, "Record changes published");
    describe_counter!(SETS_PUBLISHED, Unit::Count, "Change sets published");
    describe_counter!(BYTES_PUBLISHED, Unit::Bytes, "Encoded bytes of the change sets published");
    describe_gauge!(REVISION, Unit::Count, "Last revision staged");
    describe_gauge!(OUTBOX_SETS, Unit::Count, "Change sets staged but not acknowledged by the log");
    describe_histogram!(SCAN_SECONDS, Unit::Seconds, "Reading the source and finding the difference");
    describe_histogram!(STAGE_SECONDS, Unit::Seconds, "Writing a change set into the state store");
    describe_histogram!(PUBLISH_SECONDS, Unit::Seconds, "Publishing until the log's acknowledgement");
    describe_counter!(RECORDS_SCANNED, Unit::Count, "Records read from the source");
    describe_counter!(REVERSE_SETS, Unit::Count, "Reverse sets taken");
    describe_counter!(CONFLICTS, Unit::Count, "Edits that met a changed source");
    describe_counter!(DEAD_LETTERS, Unit::Count, "Edits that the source could not take");
    describe_counter!(DOUBTFUL, Unit::Count, "Reverse sets taken with a reservation");
    describe_gauge!(HELD, Unit::Count, "1 while a mass delete is held");
    describe_gauge!(UNREAD, Unit::Count, "Places at the source that could not be read, while the rest could");
    describe_gauge!(ACTIVE, Unit::Count, "1 while active, 0 while standing by");
    describe_gauge!(ROUND_TIME, Unit::Seconds, "When the last round ended well, since 1970");
    describe_counter!(ERRORS, Unit::Count, "Rounds that ended in an error");
}

/// Lets the figures of a source begin, so that they are there before anything happened: what appears with its first event is
/// not seen to have grown.
pub(crate) fn begin(source: &str) {
    for name in [SETS_PUBLISHED, BYTES_PUBLISHED, ERRORS] {
        counter!(name, "source" => source.to_owned()).absolute(0);
    }
    counter!(DOUBTFUL, "source" => source.to_owned(), "reason" => REASON_DATE).absolute(0);
    for name in [REVISION, OUTBOX_SETS, UNREAD, HELD, ACTIVE] {
        gauge!(name, "source" => source.to_owned()).set(0.0);
    }
}
