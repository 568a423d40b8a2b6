//! What a log's owner takes from its surroundings: the time, and numbers that nobody else has.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time and gives numbers. The system's is [`SystemClock`]; a simulation has its own, so that it runs the same way
/// every time.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01T00:00:00Z. May jump, in either direction.
    fn now_millis(&self) -> u64;

    /// A number that differs from call to call and from process to process.
    fn fresh(&self) -> u64;
}

/// The system's time and random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_millis(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
    }

    fn fresh(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
}
