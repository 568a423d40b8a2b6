//! Reading: the cards one by one, decoded only where asked.

use deltabus_record::row::RowBuilder;
use deltabus_record::schema::{Collection, Field, KeySpec, Schema};
use deltabus_record::value::Kind;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Vcard;
use super::extras::Extras;
use super::fields::{self, FIELDS};
use super::shelf::{Shelf, ShelfFile};
use crate::{Decoded, Extent, Fingerprint, Position, Result, Scan, Stamp, stem};

/// One view of all cards.
pub(super) struct VcardScan {
    shelf: Shelf,
    /// Each card's file and its place there.
    places: Vec<(usize, usize)>,
    collections: Vec<Collection>,
    layout: u64,
    bytes_total: u64,
    bytes_read: u64,
    /// The current card's place plus one.
    at: usize,
}

impl VcardScan {
    pub(super) fn open(vcard: &Vcard) -> Result<VcardScan> {
        let shelf = vcard.shelf()?;
        let schema = schema(&shelf.extras);
        let names: Vec<_> = shelf.extras.iter().map(|(name, _)| name).collect();
        let layout = xxh3_64(names.join("\0").as_bytes()) ^ LAYOUT;
        let collections = vec![Collection { name: stem(vcard.path()), schema }];
        let places = shelf.places();
        let bytes_total = shelf.files.iter().map(|file| file.text.content.len() as u64).sum();
        Ok(VcardScan { shelf, places, collections, layout, bytes_total, bytes_read: 0, at: 0 })
    }

    /// The current card's file, and its place there.
    fn current(&self) -> Option<(&ShelfFile, usize)> {
        let (file, card) = *self.places.get(self.at.checked_sub(1)?)?;
        Some((&self.shelf.files[file], card))
    }
}

/// Changes whenever cards are decoded in another way.
const LAYOUT: u64 = 1;

/// The names of the fields, by slot.
pub(super) fn names(extras: &Extras) -> Vec<&str> {
    let known = FIELDS.iter().map(|field| field.field);
    let all = std::iter::once(fields::UID).chain(known).chain([fields::VERSION, fields::OTHER]);
    all.chain(extras.iter().map(|(name, _)| name)).collect()
}

/// The schema of every file of cards, and the fields that only this one has.
fn schema(extras: &Extras) -> Schema {
    let known = FIELDS.iter().map(|field| (field.field, field.kind()));
    let known = std::iter::once((fields::UID, Some(Kind::Text)))
        .chain(known)
        .chain([(fields::VERSION, Some(Kind::Text)), (fields::OTHER, Some(Kind::List))]);
    let all = known.chain(extras.iter());
    let field = |(ordinal, (name, kind)): (usize, (&str, _))| Field::new(name, kind, ordinal as u32);
    Schema { fields: all.enumerate().map(field).collect(), key: KeySpec::Fields(vec![0]) }
}

impl Scan for VcardScan {
    fn collections(&self) -> &[Collection] {
        &self.collections
    }

    fn stamp(&self) -> &Stamp {
        &self.shelf.stamp
    }

    fn layout(&self, _index: usize) -> u64 {
        self.layout
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.bytes_total)
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn start(&mut self, _index: usize, _extent: Extent) -> Result<()> {
        self.at = 0;
        self.bytes_read = 0;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        if self.at == self.places.len() {
            return Ok(None);
        }
        self.at += 1;
        let Some((file, at)) = self.current() else { return Ok(None) };
        let card = &file.cards.cards[at];
        // Of two equal cards without a UID each has a key of its own.
        let seed = if card.uid.is_none() { xxh3_64(file.cards.keys[at].as_bytes()) } else { 0 };
        // A single value may be said in another way by the file's encoding.
        let seed = seed ^ file.text.form.encoding as u64;
        let fingerprint = xxh3_64_with_seed(&file.text.content[card.range.clone()], seed);
        self.bytes_read += card.range.len() as u64;
        Ok(Some(Fingerprint(fingerprint)))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        if let Some((file, at)) = self.current() {
            let card = file.read(&file.cards.cards[at])?;
            for value in card.values(&file.cards.keys[at], &self.shelf.extras) {
                row.push(&value);
            }
        }
        Ok(Decoded::Record)
    }

    fn position(&self) -> Position {
        match self.current() {
            Some((file, at)) => file.position(at),
            None => Position::default(),
        }
    }

    fn finish(&mut self) -> Result<()> {
        // All was read at once, and checked then.
        Ok(())
    }
}
