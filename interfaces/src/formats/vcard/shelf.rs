//! All cards of a store, in one file or in many.

use std::collections::HashMap;

use deltabus_record::text;
use deltabus_record::value::Value;

use super::card::{Card, CardAt, Cards};
use super::extras::{EXTRAS_MAX, Extras};
use super::{Text, Vcard};
use crate::file::FileStore;
use crate::formats::content_line::{FileEncoding, FileForm, Problem, place};
use crate::formats::file_set::{FileSet, SetFile};
use crate::{Error, Position, Result, Stamp};

/// Where the cards are.
#[derive(Debug)]
pub(super) enum Place {
    /// A file of many.
    File(FileStore),
    /// A folder of files, mostly of one each.
    Folder(FileSet),
}

/// What the names of card files end with.
pub(super) const EXTENSIONS: &[&str] = &["vcf", "vcard"];

/// All cards, as they were read.
pub(super) struct Shelf {
    pub(super) files: Vec<ShelfFile>,
    /// The fields that vCard has no property for.
    pub(super) extras: Extras,
    pub(super) stamp: Stamp,
}

/// A file of cards.
pub(super) struct ShelfFile {
    /// The file for messages.
    pub(super) place: String,
    /// Its name, where it is one of many.
    pub(super) name: Option<String>,
    /// What stands for the names in the keys of cards without a `UID`.
    pub(super) scope: Option<[u8; 32]>,
    pub(super) text: Text,
    pub(super) cards: Cards,
}

impl ShelfFile {
    fn new(place: String, name: Option<String>, bytes: Vec<u8>, encoding: Option<FileEncoding>) -> Result<ShelfFile> {
        let (form, content) =
            FileForm::decode(bytes, encoding).map_err(|(content, problem)| located(&place, &content, problem))?;
        let text = Text { form, content };
        let scope = name.as_deref().map(scope_of);
        let cards = Cards::find(&text.content, text.charsets(), scope)
            .map_err(|problem| located(&place, &text.content, problem))?;
        Ok(ShelfFile { place, name, scope, text, cards })
    }

    /// A file with nothing in it.
    pub(super) fn empty(place: String, encoding: Option<FileEncoding>) -> ShelfFile {
        let text = Text { form: FileForm::new(encoding), content: Vec::new() };
        ShelfFile { place, name: None, scope: None, text, cards: Cards::default() }
    }

    /// An error about the file's content.
    pub(super) fn problem(&self, problem: Problem) -> Error {
        located(&self.place, &self.text.content, problem)
    }

    /// Decodes a card.
    pub(super) fn read(&self, card: &CardAt) -> Result<Card> {
        Card::read(&self.text.content, card, self.text.charsets()).map_err(|problem| self.problem(problem))
    }

    /// Where a card begins.
    pub(super) fn position(&self, at: usize) -> Position {
        let line = self.cards.cards.get(at).map(|card| card.line);
        Position { place: self.place.clone(), line, column: line.map(|_| 1), record: None }
    }
}

fn located(place_name: &str, content: &[u8], problem: Problem) -> Error {
    let (line, column) = place(content, problem.at);
    let position = Position { place: place_name.to_owned(), line: Some(line), column: Some(column), record: None };
    Error::Data { position, problem: problem.text }
}

/// The file's name is what a card without a `UID` is known by.
fn scope_of(name: &str) -> [u8; 32] {
    *blake3::hash(name.as_bytes()).as_bytes()
}

impl Vcard {
    /// Reads everything.
    pub(super) fn shelf(&self) -> Result<Shelf> {
        let (files, stamp) = match &self.place {
            Place::File(file) => {
                let mut reading = file.open()?;
                let stamp = reading.stamp().clone();
                let bytes = reading.read_all()?;
                reading.check()?;
                (vec![ShelfFile::new(file.place(), None, bytes, self.encoding)?], stamp)
            }
            Place::Folder(set) => {
                let (found, stamp) = set.read()?;
                let mut files = Vec::with_capacity(found.len());
                for SetFile { name, bytes } in found {
                    files.push(ShelfFile::new(set.place(&name), Some(name), bytes, self.encoding)?);
                }
                (files, stamp)
            }
        };
        let mut extras = Extras::default();
        for file in &files {
            if !file.cards.extras.iter().all(|(name, kind)| extras.note(name, kind)) {
                let problem = format!("the cards have more than {EXTRAS_MAX} fields of deltabus's own");
                return Err(Error::Unsupported { place: self.place(), problem });
            }
        }
        let shelf = Shelf { files, extras, stamp };
        shelf.check_keys()?;
        Ok(shelf)
    }
}

impl Shelf {
    /// Every card's file and place in it.
    pub(super) fn places(&self) -> Vec<(usize, usize)> {
        let of_file = |(at, file): (usize, &ShelfFile)| (0..file.cards.cards.len()).map(move |card| (at, card));
        self.files.iter().enumerate().flat_map(of_file).collect()
    }

    /// Fails if two cards have one key.
    fn check_keys(&self) -> Result<()> {
        let mut known: HashMap<&str, (usize, usize)> = HashMap::new();
        for (file, card) in self.places() {
            let key = self.files[file].cards.keys[card].as_str();
            if let Some((first_file, first)) = known.insert(key, (file, card)) {
                return Err(Error::DuplicateKey {
                    position: self.files[file].position(card),
                    key: text::display(&Value::text(key)),
                    other: self.files[first_file].position(first).to_string(),
                });
            }
        }
        Ok(())
    }
}
