//! Work that blocks, done from an async task.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// Does work that blocks where it is called: the runtime's other tasks go on, if it has other threads.
///
/// On a runtime of one thread they wait, as in a simulation, where all that happens comes one after another.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::CurrentThread) | Err(_) => work(),
        Ok(_) => block_in_place(work),
    }
}
