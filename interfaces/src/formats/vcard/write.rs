//! Writing: the file with some cards' lines spliced.

use std::collections::HashMap;
use std::io::Write;

use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, Field, KeySpec};
use deltabus_record::value::Value;

use super::card::{Cards, keys, made_uid};
use super::extras::Extras;
use super::lines::{NewCard, edit, pin};
use super::shelf::{Place, Shelf, ShelfFile};
use super::{Vcard, fields};
use crate::formats::content_line::{Splice, line_ending};
use crate::formats::wanted::Wanted;
use crate::{Action, CollectionWrite, Error, Mark, RecordWrite, Result, Staged, Stamp};

/// Builds the state that `writes` lead to; see [`crate::Interface::stage`].
pub(super) fn stage<'a>(
    vcard: &'a Vcard,
    writes: &mut [CollectionWrite<'_>],
    expected: &Stamp,
    mark: Option<&Mark>,
) -> Result<Box<dyn Staged + 'a>> {
    let mut removed = false;
    let mut last = None;
    for write in writes {
        match write.action {
            Action::Remove => removed = true,
            _ if last.is_some() => {
                let problem =
                    format!("one collection of cards can be kept here; `{}` is a second", write.collection.name);
                return Err(Error::Unsupported { place: vcard.place(), problem });
            }
            _ => last = Some(write),
        }
    }
    match &vcard.place {
        Place::File(file) => {
            let Some(write) = last else {
                return match removed && !expected.is_missing() {
                    true => Ok(Box::new(file.remove(expected)?)),
                    false => Ok(Box::new(file.keep(expected)?)),
                };
            };
            let mut replacement = file.replace(expected)?;
            let shelf = match removed || expected.is_missing() {
                true => None,
                false => Some(at_stamp(vcard, expected)?),
            };
            let shelf = shelf.unwrap_or_else(|| Shelf {
                files: vec![ShelfFile::empty(file.place(), vcard.encoding)],
                extras: Extras::default(),
                stamp: Stamp::MISSING,
            });
            let next = next(vcard, &shelf, write)?;
            let [old] = shelf.files.as_slice() else { return Err(Error::Changed { place: file.place() }) };
            let mut content = next.files.into_iter().next().flatten().unwrap_or_else(|| old.text.content.clone());
            let ending = line_ending(&content);
            if !next.new.is_empty() && !matches!(content.last(), None | Some(b'\n' | b'\r')) {
                content.extend_from_slice(ending.as_bytes());
            }
            for card in next.new {
                card.write(vcard.version, old.text.charsets(), ending, &mut content);
            }
            let bytes = encoded(old, content)?;
            replacement.write_all(&bytes).map_err(|source| replacement.error("write", source))?;
            Ok(Box::new(replacement.seal()?))
        }
        Place::Folder(folder) => {
            let shelf = match expected.is_missing() {
                true => Shelf { files: Vec::new(), extras: Extras::default(), stamp: Stamp::MISSING },
                false => at_stamp(vcard, expected)?,
            };
            let next = match (last, removed) {
                (Some(write), false) => next(vcard, &shelf, write)?,
                (last, _) => {
                    let empty = Shelf { files: Vec::new(), extras: Extras::default(), stamp: Stamp::MISSING };
                    let new = last.map(|write| self::next(vcard, &empty, write)).transpose()?;
                    let files = shelf.files.iter().map(|_| removed.then(Vec::new)).collect();
                    Next { files, new: new.map(|next| next.new).unwrap_or_default() }
                }
            };
            super::folder::stage(vcard, folder, shelf, next, expected, mark)
        }
    }
}

/// The cards as they were at `expected`.
fn at_stamp(vcard: &Vcard, expected: &Stamp) -> Result<Shelf> {
    match vcard.shelf() {
        Ok(shelf) if shelf.stamp == *expected => Ok(shelf),
        Ok(_) | Err(Error::Missing { .. }) => Err(Error::Changed { place: vcard.place() }),
        Err(error) => Err(error),
    }
}

/// The bytes of a file with new content, in its own encoding.
pub(super) fn encoded(file: &ShelfFile, content: Vec<u8>) -> Result<Vec<u8>> {
    file.text.form.encode(content).map_err(|problem| Error::Unsupported {
        place: file.place.clone(),
        problem: format!("the file can't be written: {}", problem.text),
    })
}

/// What is to become of the cards.
pub(super) struct Next {
    /// The content of each file, where it changes; empty where no card is left in it.
    pub(super) files: Vec<Option<Vec<u8>>>,
    /// The cards that come in.
    pub(super) new: Vec<NewCard>,
}

fn next(vcard: &Vcard, shelf: &Shelf, write: &mut CollectionWrite<'_>) -> Result<Next> {
    let collection = write.collection;
    let mut new = NewCards { shelf, collection, taken: HashMap::new() };
    match &mut write.action {
        Action::Load(records) => {
            if !shelf.places().is_empty() {
                let problem = "records can only be loaded where there are none".to_owned();
                return Err(Error::Unsupported { place: vcard.place(), problem });
            }
            let mut cards = Vec::new();
            while records.advance().map_err(Error::Records)? {
                let values: Vec<_> = RowReader::new(records.row()).map(|value| value.value()).collect();
                cards.push(new.card(&values));
            }
            Ok(Next { files: shelf.files.iter().map(|_| None).collect(), new: cards })
        }
        Action::Write(writes) => {
            let mut wanted = Wanted::new(collection, writes);
            let mut files = Vec::with_capacity(shelf.files.len());
            let names = super::read::names(&shelf.extras);
            let places: HashMap<&str, usize> = names.into_iter().enumerate().map(|(at, name)| (name, at)).collect();
            let slot = |field: &Field| places.get(field.name.as_str()).copied().filter(|_| !field.dropped);
            let slots: Vec<_> = collection.schema.fields.iter().map(slot).collect();
            for file in &shelf.files {
                let (extras, dropped) = (&shelf.extras, write.dropped);
                let rewrite = Rewrite { file, extras, slots: &slots, collection, dropped };
                files.push(rewrite.run(&mut wanted)?);
            }
            Ok(Next { files, new: wanted.rest().into_iter().map(|row| new.card(&row.values())).collect() })
        }
        Action::Remove => Ok(Next { files: shelf.files.iter().map(|_| Some(Vec::new())).collect(), new: Vec::new() }),
    }
}

/// A file on its way to a new one.
struct Rewrite<'a> {
    file: &'a ShelfFile,
    extras: &'a Extras,
    /// Where a card's values have those of the collection.
    slots: &'a [Option<usize>],
    collection: &'a Collection,
    dropped: &'a [String],
}

/// A card that stays, with its bytes where they change.
struct Kept {
    place: usize,
    bytes: Option<Vec<u8>>,
}

impl Rewrite<'_> {
    /// The file's content with all that is wanted, where it is another.
    fn run(self, wanted: &mut Wanted<'_>) -> Result<Option<Vec<u8>>> {
        let cards = &self.file.cards.cards;
        let mut kept = Vec::with_capacity(cards.len());
        for place in 0..cards.len() {
            let bytes = match wanted.take(&self.key_content(place)?) {
                Some(RecordWrite::Remove { .. }) => continue,
                Some(RecordWrite::Put { row, changed, .. }) => Some(self.edited(place, row, changed)?),
                None if self.dropped.is_empty() => None,
                None => Some(self.edited(place, &Row::default(), &[])?),
            };
            kept.push(Kept { place, bytes });
        }
        self.keep_keys(&mut kept)?;
        let changes = kept.len() < cards.len() || kept.iter().any(|card| card.bytes.is_some());
        Ok(changes.then(|| self.assembled(&kept)))
    }

    /// The key of the card at `place`, in the collection's terms.
    fn key_content(&self, place: usize) -> Result<Vec<u8>> {
        let schema = &self.collection.schema;
        let cards = &self.file.cards;
        let key = cards.keys[place].as_str();
        if schema.key_names() == [fields::UID] {
            return Ok(Key::of(&[Value::text(key)]).as_bytes().to_vec());
        }
        let values = self.file.read(&cards.cards[place])?.values(key, self.extras);
        let mut row = RowBuilder::default();
        for slot in self.slots {
            row.push(slot.and_then(|slot| values.get(slot)).unwrap_or(&Value::Absent));
        }
        let mut key = Vec::new();
        schema.key_content_into(row.as_bytes(), &mut key);
        Ok(key)
    }

    /// The bytes of a card with some fields changed.
    fn edited(&self, place: usize, row: &Row, changed: &[u32]) -> Result<Vec<u8>> {
        let values = row.values();
        let key = &self.file.cards.keys[place];
        let mut wanted: Vec<(&str, Value)> = Vec::new();
        for slot in changed {
            if let Some(field) = self.collection.schema.fields.get(*slot as usize) {
                wanted.push((&field.name, values.get(*slot as usize).cloned().unwrap_or(Value::Absent)));
            }
        }
        let living = |name: &String| self.collection.schema.slot(name).is_some();
        wanted.extend(self.dropped.iter().filter(|name| !living(name)).map(|name| (name.as_str(), Value::Absent)));
        // The key stays; a card without a version reads as one.
        wanted.retain(|(name, value)| match *name {
            fields::UID => *value != Value::Absent && *value != Value::text(key.as_str()),
            fields::VERSION => *value != Value::Absent,
            _ => true,
        });
        let at = &self.file.cards.cards[place];
        let card = self.file.read(at)?;
        Ok(edit(&self.file.text, at, &card, key, self.extras, &wanted))
    }

    /// Gives a `UID` to every card that has its key from its names and would get another.
    fn keep_keys(&self, kept: &mut [Kept]) -> Result<()> {
        let Cards { cards, keys: before, .. } = &self.file.cards;
        let charsets = self.file.text.charsets();
        if cards.iter().all(|card| card.uid.is_some()) {
            return Ok(());
        }
        let mut now = Vec::with_capacity(kept.len());
        for card in kept.iter() {
            let at = &cards[card.place];
            now.push(match &card.bytes {
                None => (at.uid.clone(), at.identity),
                Some(bytes) => {
                    let found = Cards::find(bytes, charsets, self.file.scope);
                    let found = found.map_err(|problem| self.file.problem(problem))?;
                    found.cards.first().map_or((at.uid.clone(), at.identity), |card| (card.uid.clone(), card.identity))
                }
            });
        }
        let would = keys(now.iter().map(|(uid, identity)| (uid.as_deref(), identity)));
        let mut moved: HashMap<[u8; 32], ()> = HashMap::new();
        for ((card, (uid, identity)), would) in kept.iter_mut().zip(&now).zip(&would) {
            let key = &before[card.place];
            if uid.is_some() || (would == key && !moved.contains_key(identity)) {
                continue;
            }
            // Those of the same names behind it are counted differently from here on.
            moved.insert(*identity, ());
            let bytes = match card.bytes.take() {
                Some(bytes) => bytes,
                None => self.file.text.content[cards[card.place].range.clone()].to_vec(),
            };
            let pinned = pin(&bytes, key, charsets);
            card.bytes = Some(pinned.map_err(|problem| self.file.problem(problem))?);
        }
        Ok(())
    }

    /// The file with the cards that are kept.
    fn assembled(&self, kept: &[Kept]) -> Vec<u8> {
        let mut splice = Splice::new(&self.file.text.content);
        let mut kept = kept.iter().peekable();
        for (place, card) in self.file.cards.cards.iter().enumerate() {
            match kept.next_if(|kept| kept.place == place) {
                None => splice.replace(card.range.clone(), b""),
                Some(Kept { bytes: Some(bytes), .. }) => splice.replace(card.range.clone(), bytes),
                Some(_) => {}
            }
        }
        splice.finish()
    }
}

/// Makes cards that come in.
struct NewCards<'a> {
    shelf: &'a Shelf,
    collection: &'a Collection,
    /// How many UIDs were made of one key.
    taken: HashMap<Vec<u8>, u64>,
}

impl NewCards<'_> {
    fn card(&mut self, values: &[Value]) -> NewCard {
        let mut card = NewCard::default();
        for (slot, field) in self.collection.schema.ordered() {
            card.set(&field.name, values.get(slot).cloned().unwrap_or(Value::Absent));
        }
        if card.uid.is_none() {
            let mut key = Vec::new();
            self.collection.schema.key_content_into(Row::of(values).as_bytes(), &mut key);
            let known = |uid: &String| self.shelf.files.iter().any(|file| file.cards.keys.contains(uid));
            // Equal rows without a key of their own are told apart by their number.
            let counted = matches!(self.collection.schema.key, KeySpec::WholeRow);
            loop {
                let count = self.taken.entry(key.clone()).or_default();
                let uid = made_uid(&[&key, &count.to_le_bytes()]);
                *count += 1;
                if !counted || !known(&uid) {
                    card.uid = Some(uid);
                    break;
                }
            }
        }
        card
    }
}
