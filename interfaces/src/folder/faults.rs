//! Commits that are cut off at a step of the test's choice, as a crash would.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Counts the places where a crash would make a difference.
#[derive(Debug)]
pub(crate) struct Faults {
    passes_left: AtomicI64,
    cut_off: AtomicBool,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults { passes_left: AtomicI64::new(i64::MAX), cut_off: AtomicBool::new(false) }
    }
}

impl Faults {
    /// Cuts off at the place that is `passes` places ahead.
    pub(crate) fn cut_off_after(&self, passes: i64) {
        self.passes_left.store(passes, Ordering::Relaxed);
    }

    /// Whether that has happened: nothing is cleared away then.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    pub(super) fn pass(&self) -> io::Result<()> {
        if self.passes_left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        self.cut_off.store(true, Ordering::Relaxed);
        Err(io::Error::other("cut off by a test"))
    }
}
