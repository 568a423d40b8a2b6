//! What a transmitter or receiver finds on its own disk.

use std::cell::OnceCell;

use deltabus_record::change::Revision;
use deltabus_record::digest::Digest;
use deltabus_record::row::Row;
use deltabus_record::schema::CollectionName;
use deltabus_state::{ScanIndex, ScanIndexWriter};
use deltabus_transmitter::Held;

use crate::input::Input;

/// The layout that scan indexes are written and read with.
const LAYOUT: u64 = 7;

thread_local! {
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// A ledger's entry, or a scan index: as it stands, or with its checksums put right.
pub(crate) fn state(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.byte();
    match kind % 4 {
        0 => {
            if let Some(held) = Held::from_bytes(input.rest()) {
                assert_eq!(Held::from_bytes(&held.to_bytes()), Some(held));
            }
        }
        1 => {
            let Ok(row) = Row::from_bytes(input.rest()) else { return };
            if let Some(revision) = Revision::from_values(&row.values()) {
                assert_eq!(Row::of(&revision.to_values()), row);
            }
        }
        2 => index(input.rest().to_vec()),
        _ => index(with_checksums(input)),
    }
}

/// Reads a scan index to where it ends or breaks.
fn index(file: Vec<u8>) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(crate::stores::scratch);
        let name = CollectionName::new("people");
        // An index says in its name whose it is: that of an empty one is taken.
        let path = folder.path().join("index");
        if !path.exists() {
            let writer = ScanIndexWriter::create(&path, &name, LAYOUT).expect("a folder");
            writer.finish(Digest::default()).expect("a folder");
        }
        let entry = std::fs::read_dir(&path).expect("a folder").flatten().next().expect("an index");
        std::fs::write(entry.path(), &file).expect("a folder");
        let Some(mut index) = ScanIndex::open(&path, &name, LAYOUT, Digest::default()) else { return };
        let mut bytes = 0;
        while let Ok(Some(_)) = index.advance() {
            bytes += 12 + index.key().len();
            assert!(bytes <= file.len(), "no more entries than the file has bytes");
        }
    });
}

/// A header with its count, then blocks, with lengths and checksums that fit.
fn with_checksums(mut input: Input<'_>) -> Vec<u8> {
    let mut file = b"dbindex1".to_vec();
    file.extend_from_slice(&LAYOUT.to_le_bytes());
    file.extend_from_slice(&[0; 24]);
    file.extend_from_slice(&u64::from(input.byte()).to_le_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&file);
    file.extend_from_slice(&check.to_le_bytes());
    for block in input.pieces(16) {
        file.extend_from_slice(&(block.len() as u32).to_le_bytes());
        file.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(block).to_le_bytes());
        file.extend_from_slice(block);
    }
    file
}
