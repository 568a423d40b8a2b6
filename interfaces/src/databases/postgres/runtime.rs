//! The threads that connections run on, and waiting for them from a thread that blocks.

use std::future::Future;
use std::io;
use std::sync::{OnceLock, mpsc};

use tokio::runtime::{Builder, Runtime};

/// One thread to talk to the server while another decodes what came: connections wait far more than they work.
const WORKERS: usize = 2;

/// Runs `future` on this room's threads and waits for what it gives.
///
/// The calling thread may belong to another runtime: it blocks on a channel, which every thread may. `None` if the task
/// died.
pub(super) fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    spawn(async move {
        // Whoever asked has gone where this fails.
        let _ = sender.send(future.await);
    })
    .ok()?;
    receiver.recv().ok()
}

/// Starts `future` on this room's threads.
pub(super) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> io::Result<tokio::task::JoinHandle<T>> {
    static RUNTIME: OnceLock<Result<Runtime, io::ErrorKind>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let runtime = Builder::new_multi_thread().worker_threads(WORKERS).thread_name("postgres").enable_all().build();
        runtime.map_err(|error| error.kind())
    });
    match made {
        Ok(runtime) => Ok(runtime.spawn(future)),
        Err(kind) => Err((*kind).into()),
    }
}
