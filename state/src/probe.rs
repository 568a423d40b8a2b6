//! Being there when a store makes something durable, for tests that let it go wrong.

use std::io;

/// A place around a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing of the batch is durable yet.
    BeforeCommit,
    /// All of it is, and nobody knows.
    AfterCommit,
}

/// Is asked at every step of every commit. An error is the store's: before the commit nothing becomes true, after it all
/// has. A test may also end there what it takes for a process, by unwinding.
pub trait Probe: Send + Sync {
    /// What becomes of this step.
    fn at(&self, step: Step) -> io::Result<()>;
}
