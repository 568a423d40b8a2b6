//! Copying rows in while they are made.

use bytes::Bytes;
use futures::SinkExt;

use super::binary;
use super::connection::{Failure, Session};
use super::runtime;

/// How many bytes are copied at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// How many chunks may wait, so that memory stays bounded.
const CHUNKS_WAITING: usize = 4;

/// How rows are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Binary,
    Text,
}

/// A `COPY … FROM STDIN` under way; dropped before its end, it fails and brings nothing.
pub(super) struct Copy {
    pub(super) format: Format,
    /// What is to be sent next.
    pub(super) chunk: Vec<u8>,
    chunks: tokio::sync::mpsc::Sender<Option<Bytes>>,
    outcome: std::sync::mpsc::Receiver<Result<u64, Failure>>,
}

impl Copy {
    pub(super) fn start(session: &Session, table: String, names: String, format: Format) -> Copy {
        let options = if format == Format::Binary { " (FORMAT binary)" } else { "" };
        let sql = format!("COPY {table} ({names}) FROM STDIN{options}");
        let (chunks, mut waiting) = tokio::sync::mpsc::channel::<Option<Bytes>>(CHUNKS_WAITING);
        let (sender, outcome) = std::sync::mpsc::channel();
        let client = session.client();
        let copied = async move {
            let mut sink = Box::pin(client.copy_in::<_, Bytes>(&sql).await?);
            loop {
                match waiting.recv().await {
                    Some(Some(chunk)) => sink.send(chunk).await?,
                    Some(None) => return Ok(sink.as_mut().finish().await?),
                    // Not finished: the server is told that it failed.
                    None => return Err(Failure::gone()),
                }
            }
        };
        // Where it can't be started, the channels end.
        let _ = runtime::spawn(async move {
            let _ = sender.send(copied.await);
        });
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        if format == Format::Binary {
            chunk.extend_from_slice(binary::HEADER);
        }
        Copy { format, chunk, chunks, outcome }
    }

    /// Sends what there is once it is enough; `false` where the server takes no more.
    pub(super) fn flush_if_full(&mut self) -> bool {
        self.chunk.len() < CHUNK_BYTES || self.flush()
    }

    fn flush(&mut self) -> bool {
        let next = Vec::with_capacity(self.chunk.capacity());
        let chunk = Bytes::from(std::mem::replace(&mut self.chunk, next));
        self.send(Some(chunk))
    }

    fn send(&self, chunk: Option<Bytes>) -> bool {
        let chunk = match self.chunks.try_send(chunk) {
            Ok(()) => return true,
            Err(tokio::sync::mpsc::error::TrySendError::Full(chunk)) => chunk,
            Err(tokio::sync::mpsc::error::TrySendError::Closed(_)) => return false,
        };
        let chunks = self.chunks.clone();
        runtime::wait(async move { chunks.send(chunk).await.is_ok() }).unwrap_or(false)
    }

    pub(super) fn finish(mut self) -> Result<u64, Failure> {
        if self.format == Format::Binary {
            self.chunk.extend_from_slice(&binary::TRAILER);
        }
        if (self.chunk.is_empty() || self.flush()) && self.send(None) {
            return self.outcome.recv().unwrap_or_else(|_| Err(Failure::gone()));
        }
        // It has ended by itself; why, it says.
        self.outcome.recv().unwrap_or_else(|_| Err(Failure::gone()))
    }
}
