//! Fetching contents.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use deltabus_record::value::Large;
use fastcdc::v2020::StreamCDC;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;

use super::list::{self, List};
use super::{CHUNK, WHOLE_MAX, ahead_of_time, chunk_subject, hash_in, hex, value_subject};
use crate::broker::SUBJECTS_MAX;
use crate::log::Log;
use crate::{Error, wire};

/// Chunks on their way at the same time.
const IN_FLIGHT: usize = 8;

/// Small contents are fetched together up to this many bytes; one group is read while the next is on its way.
const GROUP_BYTES: u64 = 4 * 1024 * 1024;

const CHUNK_IS: &str = "a chunk of a large value";

/// A value on its way, chunk by chunk.
pub struct Fetch {
    log: Log,
    large: Large,
    /// Parts of the list still to be fetched.
    parts: VecDeque<[u8; 32]>,
    chunks: VecDeque<[u8; 32]>,
    coming: FuturesOrdered<BoxFuture<'static, Result<Bytes, Error>>>,
    similar: Option<Similar>,
    hasher: blake3::Hasher,
    length: u64,
    ended: bool,
}

/// A file that may have some of the chunks.
struct Similar {
    file: File,
    chunks: HashMap<[u8; 32], (u64, usize)>,
}

impl Fetch {
    /// Begins to fetch `large`; [`Error::ChunkMissing`] if the log doesn't have it.
    pub async fn begin(log: &Log, large: &Large, similar: Option<&Path>) -> Result<Fetch, Error> {
        let mut fetch = Fetch::empty(log, large);
        if large.length == 0 {
            return Ok(fetch);
        }
        if large.length <= WHOLE_MAX {
            fetch.chunks.push_back(large.hash);
            return Ok(fetch);
        }
        let missing = || Error::ChunkMissing { hash: hex(&large.hash) };
        let list = log.broker.last(&log.source, &value_subject(&large.hash)).await?.ok_or_else(missing)?;
        match list::decode(&list.payload)? {
            List::Chunks(chunks) => fetch.chunks.extend(chunks),
            List::Parts(parts) => fetch.parts.extend(parts),
        }
        // A file that can't be read has nothing to give.
        fetch.similar = similar.and_then(|path| Similar::of(path).ok());
        Ok(fetch)
    }

    /// A value that is here already.
    pub(super) fn of_whole(log: &Log, large: &Large, whole: Bytes) -> Fetch {
        let mut fetch = Fetch::empty(log, large);
        fetch.coming.push_back(Box::pin(async move { Ok(whole) }));
        fetch
    }

    fn empty(log: &Log, large: &Large) -> Fetch {
        Fetch {
            log: log.clone(),
            large: large.clone(),
            parts: VecDeque::new(),
            chunks: VecDeque::new(),
            coming: FuturesOrdered::new(),
            similar: None,
            hasher: blake3::Hasher::new(),
            length: 0,
            ended: false,
        }
    }

    /// The next chunk; `None` at the end, by which all was what the reference says.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        while self.coming.len() < IN_FLIGHT {
            if let Some(hash) = self.chunks.pop_front() {
                let local = self.similar.as_ref().and_then(|similar| similar.chunk(&hash));
                let log = self.log.clone();
                self.coming.push_back(match local {
                    Some(data) => Box::pin(async move { Ok(data) }),
                    None => Box::pin(async move { chunk(&log, &hash).await.map(Bytes::from) }),
                });
            } else if let Some(part) = self.parts.pop_front() {
                match list::decode(&chunk(&self.log, &part).await?)? {
                    List::Chunks(chunks) if chunks.is_empty() => {
                        return Err(wire::wire("a large value", "a part of its list is empty"));
                    }
                    List::Chunks(chunks) => self.chunks.extend(chunks),
                    List::Parts(_) => return Err(wire::wire("a large value", "a part of its list has parts")),
                }
            } else {
                break;
            }
        }
        let Some(next) = self.coming.next().await else {
            self.ended = true;
            if self.length != self.large.length || *self.hasher.finalize().as_bytes() != self.large.hash {
                return Err(wire::wire("a large value", "it is not what its reference says"));
            }
            return Ok(None);
        };
        let next = next?;
        self.length += next.len() as u64;
        if self.length > self.large.length {
            return Err(wire::wire("a large value", "it is longer than its reference says"));
        }
        self.hasher.update(&next);
        Ok(Some(next))
    }
}

impl Similar {
    fn of(path: &Path) -> std::io::Result<Similar> {
        let file = File::open(path)?;
        let mut chunks = HashMap::new();
        for chunk in StreamCDC::new(&file, CHUNK.0, CHUNK.1, CHUNK.2) {
            let chunk = chunk.map_err(std::io::Error::from)?;
            chunks.insert(*blake3::hash(&chunk.data).as_bytes(), (chunk.offset, chunk.length));
        }
        Ok(Similar { file, chunks })
    }

    /// A chunk, if it is still there.
    fn chunk(&self, hash: &[u8; 32]) -> Option<Bytes> {
        let (offset, length) = *self.chunks.get(hash)?;
        let mut data = vec![0; length];
        self.file.read_exact_at(&mut data, offset).ok()?;
        (*blake3::hash(&data).as_bytes() == *hash).then(|| data.into())
    }
}

async fn chunk(log: &Log, hash: &[u8; 32]) -> Result<Vec<u8>, Error> {
    let stored = log.broker.last(&log.source, &chunk_subject(hash)).await?;
    let stored = stored.ok_or_else(|| Error::ChunkMissing { hash: hex(hash) })?;
    unpacked(&stored.payload, hash)
}

fn unpacked(payload: &[u8], hash: &[u8; 32]) -> Result<Vec<u8>, Error> {
    let data = wire::decompress_framed(CHUNK_IS, payload, CHUNK.2 as u64)?;
    if data.is_empty() {
        // Nobody sends one, and a list of them would take for ever to come to nothing.
        return Err(wire::wire(CHUNK_IS, "it is empty"));
    }
    if *blake3::hash(&data).as_bytes() != *hash {
        return Err(wire::wire(CHUNK_IS, "it is not what its name says"));
    }
    Ok(data)
}

/// Small values that are announced, fetched by groups ahead of their reader.
#[derive(Default)]
pub(super) struct Ahead {
    groups: Vec<Vec<[u8; 32]>>,
    /// In which group a value is.
    places: HashMap<[u8; 32], usize>,
    /// Which group comes next, and whether it is on its way.
    next: usize,
    coming: Option<BoxFuture<'static, Option<Group>>>,
    here: HashMap<[u8; 32], Bytes>,
}

/// Values by their hash.
type Group = Result<HashMap<[u8; 32], Bytes>, Error>;

impl Ahead {
    /// What is to be read next, in about this order.
    pub(super) fn new(upcoming: Vec<Large>) -> Ahead {
        let mut ahead = Ahead::default();
        let mut bytes = 0;
        for large in upcoming.iter().filter(|large| (1..=WHOLE_MAX).contains(&large.length)) {
            if ahead.places.contains_key(&large.hash) {
                continue;
            }
            match ahead.groups.last_mut().filter(|group| group.len() < SUBJECTS_MAX && bytes < GROUP_BYTES) {
                Some(group) => group.push(large.hash),
                None => {
                    ahead.groups.push(vec![large.hash]);
                    bytes = 0;
                }
            }
            bytes += large.length;
            ahead.places.insert(large.hash, ahead.groups.len() - 1);
        }
        ahead
    }

    /// A small value, if it was announced; `None`: it has to be fetched on its own.
    pub(super) async fn take(&mut self, log: &Log, large: &Large) -> Result<Option<Bytes>, Error> {
        if let Some(whole) = self.here.get(&large.hash) {
            return Ok(Some(whole.clone()));
        }
        let Some(place) = self.places.get(&large.hash).copied().filter(|place| *place >= self.next) else {
            return Ok(None);
        };
        let coming = match self.coming.take().filter(|_| place == self.next) {
            Some(coming) => coming,
            // What nobody asked for is passed over.
            None => self.fetch(log, place),
        };
        self.here = coming.await.unwrap_or_else(|| Ok(HashMap::new()))?;
        self.next = place + 1;
        // The next group is on its way while this one is read.
        self.coming = (self.next < self.groups.len()).then(|| self.fetch(log, self.next));
        Ok(self.here.get(&large.hash).cloned())
    }

    fn fetch(&self, log: &Log, place: usize) -> BoxFuture<'static, Option<Group>> {
        let log = log.clone();
        let subjects: Vec<_> = self.groups[place].iter().map(chunk_subject).collect();
        ahead_of_time(async move {
            let mut here = HashMap::new();
            for stored in log.broker.last_of(&log.source, &subjects).await? {
                if let Some(hash) = hash_in(&stored.tail) {
                    here.insert(hash, unpacked(&stored.payload, &hash)?.into());
                }
            }
            Ok(here)
        })
    }
}
