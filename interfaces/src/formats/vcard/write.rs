//! Writing: the file with some cards' lines spliced.

use std::collections::HashMap;
use std::io::Write;

use deltabus_record::row::{Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, KeySpec};
use deltabus_record::value::Value;

use super::card::{Card, CardAt, Cards, keys, made_uid};
use super::fields;
use super::lines::{NewCard, edit, pin};
use super::{Text, Vcard};
use crate::formats::content_line::{FileForm, Splice, line_ending};
use crate::{Action, CollectionWrite, Error, RecordWrite, Result, Staged, Stamp};

/// Builds the file that `writes` lead to; see [`crate::Interface::stage`].
pub(super) fn stage(vcard: &Vcard, writes: &mut [CollectionWrite<'_>], expected: &Stamp) -> Result<Box<dyn Staged>> {
    let mut removed = false;
    let mut last = None;
    for write in writes {
        match write.action {
            Action::Remove => removed = true,
            _ if last.is_some() => {
                let problem = format!("a file of cards holds one collection; `{}` is a second", write.collection.name);
                return Err(Error::Unsupported { place: vcard.file.place(), problem });
            }
            _ => last = Some(write),
        }
    }
    let Some(write) = last else {
        return match removed && !expected.is_missing() {
            true => Ok(Box::new(vcard.file.remove(expected)?)),
            false => Ok(Box::new(vcard.file.keep(expected)?)),
        };
    };
    let mut replacement = vcard.file.replace(expected)?;
    let text = match removed || expected.is_missing() {
        true => Text { form: FileForm::new(vcard.encoding), content: Vec::new() },
        false => {
            let (text, stamp) = vcard.read()?;
            if stamp != *expected {
                return Err(Error::Changed { place: vcard.file.place() });
            }
            text
        }
    };
    let form = text.form;
    let cards = vcard.cards(&text)?;
    let content =
        Rewrite { vcard, text, cards, collection: write.collection, dropped: write.dropped }.run(&mut write.action)?;
    let bytes = form.encode(content).map_err(|problem| Error::Unsupported {
        place: vcard.file.place(),
        problem: format!("the file can't be written: {}", problem.text),
    })?;
    replacement.write_all(&bytes).map_err(|source| replacement.error("write", source))?;
    Ok(Box::new(replacement.seal()?))
}

/// A file on its way to a new one.
struct Rewrite<'a> {
    vcard: &'a Vcard,
    text: Text,
    cards: Cards,
    collection: &'a Collection,
    dropped: &'a [String],
}

/// A card that stays, with its bytes where they change.
struct Kept {
    place: usize,
    bytes: Option<Vec<u8>>,
}

impl Rewrite<'_> {
    fn run(self, action: &mut Action<'_>) -> Result<Vec<u8>> {
        let ending = line_ending(&self.text.content);
        let mut out;
        let mut new = NewCards { rewrite: &self, ending, taken: HashMap::new() };
        match action {
            Action::Remove => Ok(Vec::new()),
            Action::Load(records) => {
                if !self.cards.cards.is_empty() {
                    let problem = "records can only be loaded where there are none".to_owned();
                    return Err(Error::Unsupported { place: self.vcard.file.place(), problem });
                }
                out = self.text.content.clone();
                end_line(&mut out, ending);
                while records.advance().map_err(Error::Records)? {
                    let values: Vec<_> = RowReader::new(records.row()).map(|value| value.value()).collect();
                    new.write(&values, &mut out)?;
                }
                Ok(out)
            }
            Action::Write(writes) => {
                let mut wanted = Wanted::new(self.collection, writes);
                let mut kept = Vec::with_capacity(self.cards.cards.len());
                for place in 0..self.cards.cards.len() {
                    let bytes = match wanted.take(&self.key_content(place)?) {
                        Some(RecordWrite::Remove { .. }) => continue,
                        Some(RecordWrite::Put { row, changed, .. }) => Some(self.edited(place, row, changed)?),
                        None if self.dropped.is_empty() => None,
                        None => Some(self.edited(place, &Row::default(), &[])?),
                    };
                    kept.push(Kept { place, bytes });
                }
                self.keep_keys(&mut kept)?;
                out = self.assembled(&kept);
                let rest = wanted.rest();
                if !rest.is_empty() {
                    end_line(&mut out, ending);
                }
                for row in rest {
                    new.write(&row.values(), &mut out)?;
                }
                Ok(out)
            }
        }
    }

    /// The key of the card at `place`, in the collection's terms.
    fn key_content(&self, place: usize) -> Result<Vec<u8>> {
        let schema = &self.collection.schema;
        let mut row = RowBuilder::default();
        let uid = Value::text(self.cards.keys[place].as_str());
        let by_uid = schema.key_names() == [fields::UID];
        let values =
            if by_uid { Vec::new() } else { self.read(place)?.values(&self.cards.keys[place], &self.cards.extras) };
        let names = super::read::names(&self.cards.extras);
        for field in &schema.fields {
            let value = match names.iter().position(|name| *name == field.name).filter(|_| !field.dropped) {
                Some(0) => &uid,
                Some(slot) => values.get(slot).unwrap_or(&Value::Absent),
                None => &Value::Absent,
            };
            row.push(value);
        }
        let mut key = Vec::new();
        schema.key_content_into(row.as_bytes(), &mut key);
        Ok(key)
    }

    fn read(&self, place: usize) -> Result<Card> {
        self.read_at(&self.cards.cards[place])
    }

    fn read_at(&self, at: &CardAt) -> Result<Card> {
        let card = Card::read(&self.text.content, at, self.text.charsets());
        card.map_err(|problem| self.vcard.problem(&self.text.content, problem))
    }

    /// The bytes of a card with some fields changed.
    fn edited(&self, place: usize, row: &Row, changed: &[u32]) -> Result<Vec<u8>> {
        let values = row.values();
        let mut wanted: Vec<(&str, Value)> = Vec::new();
        for slot in changed {
            if let Some(field) = self.collection.schema.fields.get(*slot as usize) {
                wanted.push((&field.name, values.get(*slot as usize).cloned().unwrap_or(Value::Absent)));
            }
        }
        let living = |name: &String| self.collection.schema.slot(name).is_some();
        wanted.extend(self.dropped.iter().filter(|name| !living(name)).map(|name| (name.as_str(), Value::Absent)));
        wanted.retain(|(name, value)| {
            // The key stays; a card without a version reads as one.
            !(*value == Value::Absent && [fields::UID, fields::VERSION].contains(name))
                && !(*name == fields::UID && *value == Value::text(self.cards.keys[place].as_str()))
        });
        let at = &self.cards.cards[place];
        let card = self.read_at(at)?;
        Ok(edit(&self.text, at, &card, &self.cards, place, &wanted))
    }

    /// Gives a `UID` to every card that has its key from its names and would get another.
    fn keep_keys(&self, kept: &mut [Kept]) -> Result<()> {
        if self.cards.cards.iter().all(|card| card.uid.is_some()) {
            return Ok(());
        }
        let mut now = Vec::with_capacity(kept.len());
        for card in kept.iter() {
            let at = &self.cards.cards[card.place];
            now.push(match &card.bytes {
                None => (at.uid.clone(), at.identity),
                Some(bytes) => {
                    let found = Cards::find(bytes, self.text.charsets());
                    let found = found.map_err(|problem| self.vcard.problem(bytes, problem))?;
                    found.cards.first().map_or((at.uid.clone(), at.identity), |card| (card.uid.clone(), card.identity))
                }
            });
        }
        let would = keys(now.iter().map(|(uid, identity)| (uid.as_deref(), identity)));
        let mut moved: HashMap<[u8; 32], ()> = HashMap::new();
        for ((card, (uid, identity)), would) in kept.iter_mut().zip(&now).zip(&would) {
            let key = &self.cards.keys[card.place];
            if uid.is_some() || (would == key && !moved.contains_key(identity)) {
                continue;
            }
            // Those of the same names behind it are counted differently from here on.
            moved.insert(*identity, ());
            let bytes = match card.bytes.take() {
                Some(bytes) => bytes,
                None => self.text.content[self.cards.cards[card.place].range.clone()].to_vec(),
            };
            let pinned = pin(&bytes, key, self.text.charsets());
            card.bytes = Some(pinned.map_err(|problem| self.vcard.problem(&bytes, problem))?);
        }
        Ok(())
    }

    /// The file with the cards that are kept.
    fn assembled(&self, kept: &[Kept]) -> Vec<u8> {
        let mut splice = Splice::new(&self.text.content);
        let mut kept = kept.iter().peekable();
        for (place, card) in self.cards.cards.iter().enumerate() {
            match kept.next_if(|kept| kept.place == place) {
                None => splice.replace(card.range.clone(), b""),
                Some(Kept { bytes: Some(bytes), .. }) => splice.replace(card.range.clone(), bytes),
                Some(_) => {}
            }
        }
        splice.finish()
    }
}

/// Writes cards that come in.
struct NewCards<'a> {
    rewrite: &'a Rewrite<'a>,
    ending: &'a str,
    /// How many UIDs were made of one key.
    taken: HashMap<Vec<u8>, u64>,
}

impl NewCards<'_> {
    fn write(&mut self, values: &[Value], out: &mut Vec<u8>) -> Result<()> {
        let collection = self.rewrite.collection;
        let mut card = NewCard::default();
        for (slot, field) in collection.schema.ordered() {
            card.set(&field.name, values.get(slot).cloned().unwrap_or(Value::Absent));
        }
        if card.uid.is_none() {
            let mut key = Vec::new();
            collection.schema.key_content_into(Row::of(values).as_bytes(), &mut key);
            let known = &self.rewrite.cards.keys;
            // Equal rows without a key of their own are told apart by their number.
            let counted = matches!(collection.schema.key, KeySpec::WholeRow);
            loop {
                let count = self.taken.entry(key.clone()).or_default();
                let uid = made_uid(&[&key, &count.to_le_bytes()]);
                *count += 1;
                if !counted || !known.contains(&uid) {
                    card.uid = Some(uid);
                    break;
                }
            }
        }
        card.write(self.rewrite.vcard.version, self.rewrite.text.charsets(), self.ending, out);
        Ok(())
    }
}

/// Ends the last line, if anything is there.
fn end_line(out: &mut Vec<u8>, ending: &str) {
    if !matches!(out.last(), None | Some(b'\n' | b'\r')) {
        out.extend_from_slice(ending.as_bytes());
    }
}

/// The writes that wait for their record.
struct Wanted<'a> {
    counted: bool,
    writes: HashMap<Vec<u8>, Vec<&'a RecordWrite>>,
    order: Vec<Vec<u8>>,
}

impl<'a> Wanted<'a> {
    fn new(collection: &Collection, writes: &'a [RecordWrite]) -> Wanted<'a> {
        let counted = collection.schema.key == KeySpec::WholeRow;
        let mut wanted = Wanted { counted, writes: HashMap::new(), order: Vec::new() };
        for write in writes {
            let (RecordWrite::Put { row, .. } | RecordWrite::Remove { row, .. }) = write;
            let mut key = Vec::new();
            collection.schema.key_content_into(row.as_bytes(), &mut key);
            wanted.order.push(key.clone());
            wanted.writes.entry(key).or_default().push(write);
        }
        wanted
    }

    /// The write for the record of `key`. Of whole rows only removals have one: another equal row comes in beside it.
    fn take(&mut self, key: &[u8]) -> Option<&'a RecordWrite> {
        let writes = self.writes.get_mut(key)?;
        let at = match self.counted {
            true => writes.iter().position(|write| matches!(write, RecordWrite::Remove { .. }))?,
            false => writes.len().checked_sub(1)?,
        };
        Some(writes.remove(at))
    }

    /// The rows that come in.
    fn rest(mut self) -> Vec<&'a Row> {
        let mut rows = Vec::new();
        for key in std::mem::take(&mut self.order) {
            let Some(writes) = self.writes.get_mut(&key) else { continue };
            if !writes.is_empty()
                && let RecordWrite::Put { row, .. } = writes.remove(0)
            {
                rows.push(row);
            }
        }
        rows
    }
}
