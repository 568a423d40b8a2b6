//! Contents of large values: content-defined chunks, addressed by hash, sent and fetched only where they are missing.
//!
//! [`Sender`] and [`Fetch`] are the work itself; [`Contents`] offers both to threads that may block.

mod fetch;
mod list;
mod send;

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use deltabus_record::value::Large;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::{Handle, RuntimeFlavor};

pub use fetch::Fetch;
pub use send::Sender;

use crate::Error;
use crate::broker::Subject;
use crate::log::Log;
use fetch::Ahead;

/// Sizes of chunks in bytes: least, average, most. Part of the protocol: other sizes cut the same value elsewhere, and
/// nothing would be found again.
const CHUNK: (usize, usize, usize) = (16 * 1024, 64 * 1024, 256 * 1024);

/// Values up to this length are one chunk, which needs no list. Part of the protocol.
const WHOLE_MAX: u64 = 64 * 1024;

/// The reference to a large value.
pub fn large_of(bytes: &[u8], text: bool) -> Large {
    Large { hash: *blake3::hash(bytes).as_bytes(), length: bytes.len() as u64, text }
}

/// The contents of a source's large values on its log, for threads that may block; never call it from an async task.
pub struct Contents {
    log: Log,
    runtime: Handle,
    sender: Mutex<Sender>,
    ahead: Mutex<Ahead>,
}

impl Contents {
    /// The contents on `log`; `runtime` carries what is awaited.
    pub fn new(log: Log, runtime: Handle) -> Contents {
        let (sender, ahead) = (Mutex::new(Sender::new(log.clone())), Mutex::new(Ahead::default()));
        Contents { log, runtime, sender, ahead }
    }

    /// Sends a value in memory, as far as the log lacks it. What refers to it may be published after [`Contents::flush`].
    pub fn keep(&self, bytes: &[u8], text: bool) -> Result<Large, Error> {
        let large = large_of(bytes, text);
        self.sending(async |sender| sender.keep(&large, || Ok(bytes)).await)?;
        Ok(large)
    }

    /// The same for a value that `open` reads, if it has to be sent.
    pub fn keep_from<R: Read>(&self, large: &Large, open: impl FnOnce() -> io::Result<R>) -> Result<(), Error> {
        self.sending(async |sender| sender.keep(large, open).await)
    }

    /// Whether the log lacks a value, though it may have had it. If so, all that is kept from then on is looked for anew.
    pub fn misses(&self, large: &Large) -> Result<bool, Error> {
        let mut misses = false;
        self.sending(async |sender| {
            misses = sender.misses(large).await?;
            Ok(())
        })?;
        Ok(misses)
    }

    /// Returns when all that was kept is stored. An error means that some of it may not be: it has to be kept again.
    pub fn flush(&self) -> Result<(), Error> {
        self.sending(async |sender| sender.flush().await)
    }

    fn sending(&self, send: impl AsyncFnOnce(&mut Sender) -> Result<(), Error>) -> Result<(), Error> {
        let mut sender = lock(&self.sender);
        let sent = wait(&self.runtime, send(&mut sender));
        if sent.is_err() {
            // What it believed to be there may not be.
            *sender = Sender::new(self.log.clone());
        }
        sent
    }

    /// Says which values will be read next, in this order, so that many small ones are fetched together.
    pub fn announce(&self, upcoming: Vec<Large>) {
        *lock(&self.ahead) = Ahead::new(upcoming);
    }

    /// Reads a value from its beginning to its end. Parts that the file `similar` has too are taken from there.
    pub fn read(&self, large: &Large, similar: Option<&Path>) -> Result<Reading<'_>, Error> {
        let whole = match large.length <= WHOLE_MAX {
            true => wait(&self.runtime, lock(&self.ahead).take(&self.log, large))?,
            false => None,
        };
        let fetch = match whole {
            Some(whole) => Fetch::of_whole(&self.log, large, whole),
            None => wait(&self.runtime, Fetch::begin(&self.log, large, similar))?,
        };
        Ok(Reading { runtime: &self.runtime, fetch, chunk: Bytes::new() })
    }
}

/// Waits for `future`. On a runtime of one thread nothing else goes on meanwhile: there only a broker serves that answers at
/// once, as the memory bus does.
fn wait<F: Future>(runtime: &Handle, future: F) -> F::Output {
    match runtime.runtime_flavor() {
        RuntimeFlavor::CurrentThread => future.now_or_never().expect("a broker for one thread answers at once"),
        _ => runtime.block_on(future),
    }
}

/// Lets `future` go on by itself where the runtime has a thread for it, else when it is awaited. `None`: the runtime is going
/// down.
fn ahead_of_time<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, Option<T>> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => future.map(Some).boxed(),
        _ => tokio::spawn(future).map(Result::ok).boxed(),
    }
}

/// What a panic elsewhere left is still sound: nothing here is half done between two awaits that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that is being read, chunk by chunk as they come.
pub struct Reading<'a> {
    runtime: &'a Handle,
    fetch: Fetch,
    chunk: Bytes,
}

impl Read for Reading<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty()
            && let Some(next) = wait(self.runtime, self.fetch.next()).map_err(io::Error::other)?
        {
            self.chunk = next;
        }
        let length = out.len().min(self.chunk.len());
        out[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

fn value_subject(hash: &[u8; 32]) -> Subject {
    Subject::snapshot(&format!("value.{}", hex(hash)))
}

fn chunk_subject(hash: &[u8; 32]) -> Subject {
    Subject::snapshot(&format!("chunk.{}", hex(hash)))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS[usize::from(nibble)] as char;
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The hash that a subject names.
fn hash_in(tail: &str) -> Option<[u8; 32]> {
    let digits = tail.rsplit('.').next()?.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}
