//! The manager's figures; every name stands here once.

use metrics::{Unit, describe_counter};

/// What was asked of the manager and decided, by action and whether it was allowed.
pub const DECISIONS: &str = "deltabus_manager_decisions_total";

/// Tells the recorder what each figure means.
pub fn describe() {
    describe_counter!(DECISIONS, Unit::Count, "What was asked of the manager and decided");
}
