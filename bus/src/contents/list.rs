//! Lists of chunks: flat for most values, in parts for those of many chunks.

use bytes::Bytes;
use deltabus_proto::v1;
use prost::Message;

use crate::{Error, wire};

/// Lists of more chunks go in parts. Part of the protocol only in that readers take both.
const FLAT_MAX: usize = 256;

/// A part ends after a chunk whose hash ends with as many zero bits: about every 128th.
const PART_MASK: u8 = 0x7f;

/// A part ends here at the latest, so that no message is too long, whatever the hashes.
const PART_MAX: usize = 4_096;

/// What a list message may be made of, so that a hostile one can't fill the memory: 2^20 parts are some terabytes.
const ENTRIES_MAX: usize = 1 << 20;

const WHAT: &str = "a list of chunks";

/// A list, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum List {
    /// All chunks.
    Chunks(Vec<[u8; 32]>),
    /// The parts of the list.
    Parts(Vec<[u8; 32]>),
}

/// A list as it is stored.
pub(super) struct Encoded {
    /// The list itself.
    pub(super) list: Bytes,
    /// Its parts, each to be stored under its hash.
    pub(super) parts: Vec<([u8; 32], Vec<u8>)>,
}

/// Encodes the list of these chunks.
pub(super) fn encode(chunks: &[[u8; 32]]) -> Encoded {
    if chunks.len() <= FLAT_MAX {
        return Encoded { list: message(chunks, &[]).into(), parts: Vec::new() };
    }
    let mut parts = Vec::new();
    let mut rest = chunks;
    while !rest.is_empty() {
        let ends = |hash: &[u8; 32]| hash[31] & PART_MASK == 0;
        let length = rest.iter().position(ends).map_or(rest.len(), |at| at + 1).min(PART_MAX);
        let (part, after) = rest.split_at(length);
        let part = message(part, &[]);
        parts.push((*blake3::hash(&part).as_bytes(), part));
        rest = after;
    }
    let hashes: Vec<_> = parts.iter().map(|(hash, _)| *hash).collect();
    Encoded { list: message(&[], &hashes).into(), parts }
}

fn message(chunks: &[[u8; 32]], parts: &[[u8; 32]]) -> Vec<u8> {
    let all = |hashes: &[[u8; 32]]| hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
    v1::ChunkList { version: wire::VERSION, chunks: all(chunks), parts: all(parts) }.encode_to_vec()
}

/// Decodes a list or a part of one.
pub(super) fn decode(bytes: &[u8]) -> Result<List, Error> {
    wire::check_elements(WHAT, bytes, wire::CHUNK_LIST)?;
    let list = v1::ChunkList::decode(bytes).map_err(|error| wire::wire(WHAT, error))?;
    wire::check_version(WHAT, list.version)?;
    let all = |hashes: Vec<Bytes>| {
        let hash = |hash: Bytes| <[u8; 32]>::try_from(&*hash).map_err(|_| wire::wire(WHAT, "a hash is not one"));
        hashes.into_iter().map(hash).collect::<Result<Vec<_>, _>>()
    };
    if list.chunks.len().max(list.parts.len()) > ENTRIES_MAX {
        return Err(wire::wire(WHAT, "it is too long"));
    }
    match (list.chunks.is_empty(), list.parts.is_empty()) {
        (_, true) => Ok(List::Chunks(all(list.chunks)?)),
        (true, false) => Ok(List::Parts(all(list.parts)?)),
        (false, false) => Err(wire::wire(WHAT, "it has both chunks and parts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(count: u32) -> Vec<[u8; 32]> {
        (0..count).map(|at| *blake3::hash(&at.to_le_bytes()).as_bytes()).collect()
    }

    fn chunks_of(encoded: &Encoded) -> Vec<[u8; 32]> {
        match decode(&encoded.list).unwrap() {
            List::Chunks(chunks) => chunks,
            List::Parts(parts) => {
                let part = |hash: [u8; 32]| {
                    let (_, bytes) = encoded.parts.iter().find(|(part, _)| *part == hash).unwrap();
                    match decode(bytes).unwrap() {
                        List::Chunks(chunks) => chunks,
                        List::Parts(_) => panic!("parts have no parts"),
                    }
                };
                parts.into_iter().flat_map(part).collect()
            }
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for count in [0, 1, FLAT_MAX as u32, FLAT_MAX as u32 + 1, 20_000] {
            assert_eq!(chunks_of(&encode(&hashes(count))), hashes(count), "{count}");
        }
    }

    #[test]
    fn an_edit_renews_a_part_and_not_the_list() {
        let before = encode(&hashes(20_000));
        let mut edited = hashes(20_000);
        edited[10_000] = *blake3::hash(b"edited").as_bytes();
        edited.insert(10_001, *blake3::hash(b"put in").as_bytes());
        let after = encode(&edited);
        assert_eq!(chunks_of(&after), edited);
        let new = after.parts.iter().filter(|part| !before.parts.contains(part)).count();
        assert!((1..=3).contains(&new), "{new} of {} parts are new", after.parts.len());
        assert!(after.list.len() < 16 * 1024, "{} bytes", after.list.len());
    }

    #[test]
    fn whatever_the_hashes_a_part_is_bounded() {
        let encoded = encode(&vec![[1; 32]; 3 * PART_MAX + 1]);
        assert_eq!(encoded.parts.len(), 4);
    }

    #[test]
    fn nonsense_is_refused() {
        let both = v1::ChunkList {
            version: wire::VERSION,
            chunks: vec![Bytes::from_static(&[0; 32])],
            parts: vec![Bytes::from_static(&[0; 32])],
        };
        assert!(decode(&both.encode_to_vec()).is_err());
        let short = v1::ChunkList { version: wire::VERSION, chunks: vec![Bytes::from_static(&[0; 31])], parts: vec![] };
        assert!(decode(&short.encode_to_vec()).is_err());
        assert!(decode(b"nonsense").is_err());
    }
}
