//! Large values: content-defined chunks, addressed by hash, sent and fetched only when missing.

use bytes::Bytes;
use deltabus_proto::v1;
use deltabus_record::value::{Large, Value};
use fastcdc::v2020::FastCDC;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use prost::Message;

use crate::Error;
use crate::broker::{AppendError, Expect, Subject};
use crate::log::Log;
use crate::wire;

/// Sizes of chunks in bytes: least, average, most. Part of the protocol: other sizes cut the same value elsewhere, and
/// nothing would be found again.
const CHUNK: (usize, usize, usize) = (16 * 1024, 64 * 1024, 256 * 1024);

/// Chunks on their way at the same time.
const IN_FLIGHT: usize = 8;

/// How often a chunk is sent again when its acknowledgement is lost.
const ATTEMPTS: u32 = 5;

/// The reference to a large value.
pub fn large_of(bytes: &[u8], text: bool) -> Large {
    Large { hash: *blake3::hash(bytes).as_bytes(), length: bytes.len() as u64, text }
}

impl Log {
    /// Stores a large value's chunks as far as the bus doesn't have them; gives the reference.
    pub async fn put_large(&self, bytes: &[u8], text: bool) -> Result<Large, Error> {
        let large = large_of(bytes, text);
        let list_subject = value_subject(&large.hash);
        if self.broker.holds(&self.source, &list_subject).await? {
            return Ok(large);
        }
        let mut list = v1::ChunkList { version: wire::VERSION, chunks: Vec::new() };
        let mut uploads = FuturesOrdered::new();
        for chunk in FastCDC::new(bytes, CHUNK.0, CHUNK.1, CHUNK.2) {
            let data = &bytes[chunk.offset..chunk.offset + chunk.length];
            let hash = *blake3::hash(data).as_bytes();
            list.chunks.push(Bytes::copy_from_slice(&hash));
            if uploads.len() >= IN_FLIGHT
                && let Some(uploaded) = uploads.next().await
            {
                let _: () = uploaded?;
            }
            uploads.push_back(self.put_chunk(hash, data));
        }
        while let Some(uploaded) = uploads.next().await {
            uploaded?;
        }
        // The list last: whoever finds it finds all chunks.
        self.put_new(list_subject, list.encode_to_vec().into()).await?;
        Ok(large)
    }

    /// Fetches a large value.
    pub async fn get_large(&self, large: &Large) -> Result<Value, Error> {
        let missing = || Error::ChunkMissing { hash: hex(&large.hash) };
        let list = self.broker.last(&self.source, &value_subject(&large.hash)).await?.ok_or_else(missing)?;
        let list = v1::ChunkList::decode(list.payload).map_err(|error| wire::wire("a large value", error))?;
        wire::check_version("a large value", list.version)?;
        let mut bytes = Vec::new();
        let mut fetches = FuturesOrdered::new();
        let mut hashes = list.chunks.iter();
        loop {
            while fetches.len() < IN_FLIGHT
                && let Some(hash) = hashes.next()
            {
                fetches.push_back(self.get_chunk(hash));
            }
            let Some(chunk) = fetches.next().await else { break };
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > large.length {
                return Err(wire::wire("a large value", "it is longer than its reference says"));
            }
        }
        if bytes.len() as u64 != large.length || *blake3::hash(&bytes).as_bytes() != large.hash {
            return Err(wire::wire("a large value", "it is not what its reference says"));
        }
        if !large.text {
            return Ok(Value::Bytes(bytes));
        }
        String::from_utf8(bytes).map(Value::Text).map_err(|error| wire::wire("a large value", error))
    }

    async fn put_chunk(&self, hash: [u8; 32], data: &[u8]) -> Result<(), Error> {
        let subject = chunk_subject(&hash);
        if self.broker.holds(&self.source, &subject).await? {
            return Ok(());
        }
        self.put_new(subject, wire::compress_framed(data)).await
    }

    async fn put_new(&self, subject: Subject, payload: Bytes) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            match self.broker.append(&self.source, &subject, payload.clone(), Expect::New).await {
                // The subject is the content's hash: whatever is there is the same.
                Ok(_) | Err(AppendError::Conflict) => return Ok(()),
                Err(AppendError::Unknown) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn get_chunk(&self, hash: &[u8]) -> Result<Vec<u8>, Error> {
        let missing = || Error::ChunkMissing { hash: hex(hash) };
        let hash: [u8; 32] = hash.try_into().map_err(|_| missing())?;
        let stored = self.broker.last(&self.source, &chunk_subject(&hash)).await?.ok_or_else(missing)?;
        let data = wire::decompress_framed("a chunk of a large value", &stored.payload)?;
        if *blake3::hash(&data).as_bytes() != hash {
            return Err(wire::wire("a chunk of a large value", "it is not what its name says"));
        }
        Ok(data)
    }
}

fn value_subject(hash: &[u8; 32]) -> Subject {
    Subject::snapshot(&format!("value.{}", hex(hash)))
}

fn chunk_subject(hash: &[u8; 32]) -> Subject {
    Subject::snapshot(&format!("chunk.{}", hex(hash)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
