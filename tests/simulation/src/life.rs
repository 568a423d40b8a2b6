//! One life of a process: from its start to its end, which may come at any call.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;
use crate::world::World;

/// What a process's stack is unwound with when it dies.
pub(crate) struct Death;

/// One life of a process.
pub(crate) struct Life {
    pub(crate) world: Arc<World>,
    /// The process and which of its lives this is: `oslo/2`.
    pub(crate) name: String,
    /// Asks it to end by itself.
    pub(crate) stop: CancellationToken,
    dead: AtomicBool,
    died: Notify,
}

impl Life {
    pub(crate) fn new(world: Arc<World>, name: String) -> Arc<Life> {
        let stop = CancellationToken::new();
        Arc::new(Life { world, name, stop, dead: AtomicBool::new(false), died: Notify::new() })
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Ends it, from outside or within; what it is doing never returns.
    pub(crate) fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_one();
    }

    /// Returns when it is over.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            self.died.notified().await;
        }
    }

    /// Whether `fault` befalls it at this call.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        self.world.strikes(fault, &self.name)
    }

    /// Dies here if `fault` says so, in a call that blocks.
    pub(crate) fn may_die(&self, fault: Fault) {
        if self.is_over() || self.strikes(fault) {
            self.die();
        }
    }

    /// Dies here.
    pub(crate) fn die(&self) -> ! {
        self.end();
        resume_unwind(Box::new(Death))
    }

    /// The same in a call that is awaited, which may be of a task beside the process's main one: whoever dies there never
    /// goes on, and takes the process with it.
    pub(crate) async fn may_die_waiting(&self, fault: Fault) {
        if self.is_over() || self.strikes(fault) {
            self.end();
            std::future::pending::<()>().await;
        }
    }

    /// Writes a line of the trace.
    pub(crate) fn note<T: std::fmt::Display>(&self, what: impl FnOnce() -> T) {
        self.world.note(&self.name, what);
    }
}
