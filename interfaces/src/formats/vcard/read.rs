//! Reading: the cards one by one, decoded only where asked.

use deltabus_record::row::RowBuilder;
use deltabus_record::schema::{Collection, Field, KeySpec, Schema};
use deltabus_record::value::Kind;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::card::{Card, Cards};
use super::fields::{self, FIELDS};
use super::{Text, Vcard};
use crate::{Decoded, Extent, Fingerprint, Position, Result, Scan, Stamp, stem};

/// One view of a file of cards.
pub(super) struct VcardScan<'a> {
    vcard: &'a Vcard,
    text: Text,
    stamp: Stamp,
    cards: Cards,
    collections: Vec<Collection>,
    layout: u64,
    /// The current card's place plus one.
    at: usize,
}

impl<'a> VcardScan<'a> {
    pub(super) fn open(vcard: &'a Vcard) -> Result<VcardScan<'a>> {
        let (text, stamp) = vcard.read()?;
        let cards = vcard.cards(&text)?;
        let schema = schema(&cards.extras);
        let names: Vec<_> = cards.extras.iter().map(|(name, _)| name.as_str()).collect();
        let layout = xxh3_64(names.join("\0").as_bytes()) ^ LAYOUT;
        let collections = vec![Collection { name: stem(vcard.file.path()), schema }];
        Ok(VcardScan { vcard, text, stamp, cards, collections, layout, at: 0 })
    }

    fn current(&self) -> Option<usize> {
        self.at.checked_sub(1).filter(|at| *at < self.cards.cards.len())
    }
}

/// Changes whenever cards are decoded in another way.
const LAYOUT: u64 = 1;

/// The names of the fields, by slot.
pub(super) fn names(extras: &[(String, Option<Kind>)]) -> Vec<&str> {
    let known = FIELDS.iter().map(|field| field.field);
    let all = std::iter::once(fields::UID).chain(known).chain([fields::VERSION, fields::OTHER]);
    all.chain(extras.iter().map(|(name, _)| name.as_str())).collect()
}

/// The schema of every file of cards, and the fields that only this one has.
fn schema(extras: &[(String, Option<Kind>)]) -> Schema {
    let known = FIELDS.iter().map(|field| (field.field, field.kind()));
    let known = std::iter::once((fields::UID, Some(Kind::Text)))
        .chain(known)
        .chain([(fields::VERSION, Some(Kind::Text)), (fields::OTHER, Some(Kind::List))]);
    let all = known.chain(extras.iter().map(|(name, kind)| (name.as_str(), *kind)));
    let field = |(ordinal, (name, kind)): (usize, (&str, _))| Field::new(name, kind, ordinal as u32);
    Schema { fields: all.enumerate().map(field).collect(), key: KeySpec::Fields(vec![0]) }
}

impl Scan for VcardScan<'_> {
    fn collections(&self) -> &[Collection] {
        &self.collections
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn layout(&self, _index: usize) -> u64 {
        self.layout
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.text.content.len() as u64)
    }

    fn bytes_read(&self) -> u64 {
        self.current().map_or(0, |at| self.cards.cards[at].range.end as u64)
    }

    fn start(&mut self, _index: usize, _extent: Extent) -> Result<()> {
        self.at = 0;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        let Some(card) = self.cards.cards.get(self.at) else { return Ok(None) };
        let key = &self.cards.keys[self.at];
        self.at += 1;
        // Of two equal cards without a UID each has a key of its own.
        let seed = if card.uid.is_none() { xxh3_64(key.as_bytes()) } else { 0 };
        Ok(Some(Fingerprint(xxh3_64_with_seed(&self.text.content[card.range.clone()], seed))))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        let Some(at) = self.current() else { return Ok(Decoded::Record) };
        let card = Card::read(&self.text.content, &self.cards.cards[at], self.text.charsets());
        let card = card.map_err(|problem| self.vcard.problem(&self.text.content, problem))?;
        for value in card.values(&self.cards.keys[at], &self.cards.extras) {
            row.push(&value);
        }
        Ok(Decoded::Record)
    }

    fn position(&self) -> Position {
        let line = self.current().map(|at| self.cards.cards[at].line);
        Position { place: self.vcard.file.place(), line, column: line.map(|_| 1), record: None }
    }

    fn finish(&mut self) -> Result<()> {
        // The file was read as a whole, and checked then.
        Ok(())
    }
}
