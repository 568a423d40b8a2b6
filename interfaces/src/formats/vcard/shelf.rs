//! All cards of a store, in one file or in many.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use deltabus_record::text;
use deltabus_record::value::Value;

use super::card::{Card, CardAt, Cards};
use super::extras::{EXTRAS_MAX, Extras};
use super::{Text, Vcard};
use crate::file::FileStore;
use crate::folder::{EntryKind, EntryPath, Folder, Seen, is_missing};
use crate::formats::content_line::{FileEncoding, FileForm, Problem, place};
use crate::{Error, Position, Result, Stamp};

/// Where the cards are.
#[derive(Debug)]
pub(super) enum Place {
    /// A file of many.
    File(FileStore),
    /// A folder of files, mostly of one each.
    Folder(Folder),
}

/// What the names of card files end with.
const EXTENSIONS: [&[u8]; 2] = [b"vcf", b"vcard"];

/// The files of cards in a folder, by name.
pub(super) type Listing = BTreeMap<EntryPath, Seen>;

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
    pub(super) entry: Option<(EntryPath, Seen)>,
    /// What stands for the names in the keys of cards without a `UID`.
    pub(super) scope: Option<[u8; 32]>,
    pub(super) text: Text,
    pub(super) cards: Cards,
}

impl ShelfFile {
    fn new(
        place: String,
        entry: Option<(EntryPath, Seen)>,
        bytes: Vec<u8>,
        encoding: Option<FileEncoding>,
    ) -> Result<ShelfFile> {
        let (form, content) =
            FileForm::decode(bytes, encoding).map_err(|(content, problem)| located(&place, &content, problem))?;
        let text = Text { form, content };
        let scope = entry.as_ref().map(|(path, _)| scope_of(path));
        let cards = Cards::find(&text.content, text.charsets(), scope)
            .map_err(|problem| located(&place, &text.content, problem))?;
        Ok(ShelfFile { place, entry, scope, text, cards })
    }

    /// A file with nothing in it.
    pub(super) fn empty(place: String, encoding: Option<FileEncoding>) -> ShelfFile {
        let text = Text { form: FileForm::new(encoding), content: Vec::new() };
        ShelfFile { place, entry: None, scope: None, text, cards: Cards::default() }
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
fn scope_of(path: &EntryPath) -> [u8; 32] {
    *blake3::hash(path.as_bytes()).as_bytes()
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
            Place::Folder(folder) => {
                folder.recover()?;
                let listing = list(folder)?;
                let mut files = Vec::with_capacity(listing.len());
                let mut beneath = folder.open()?;
                for (path, seen) in &listing {
                    let changed = || Error::Changed { place: format!("{}/{path}", folder.place()) };
                    let failed = |error: io::Error| match is_missing(&error) {
                        true => changed(),
                        false => folder.error("read", Some(path), error),
                    };
                    let mut bytes =
                        Vec::with_capacity(usize::try_from(seen.size).unwrap_or_default().min(BYTES_RESERVED_MAX));
                    beneath.read(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
                    // What was written while it was read may be neither the old nor the new.
                    if beneath.seen(path).map_err(failed)?.as_ref() != Some(seen) {
                        return Err(changed());
                    }
                    let place = format!("{}/{path}", folder.path().display());
                    files.push(ShelfFile::new(place, Some((path.clone(), *seen)), bytes, self.encoding)?);
                }
                // One view of all: nothing came, went or changed in the meantime.
                if list(folder)? != listing {
                    return Err(Error::Changed { place: folder.place() });
                }
                (files, stamp_of(&listing))
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

/// What is set aside at once for a file, however long it says it is.
const BYTES_RESERVED_MAX: usize = 16 * 1024 * 1024;

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

/// The files of cards in `folder`; hidden ones, and what other programs keep there, are not among them.
pub(super) fn list(folder: &Folder) -> Result<Listing> {
    let mut beneath = folder.open()?;
    let mut listing = Listing::new();
    let entries = std::fs::read_dir(folder.path()).map_err(|error| folder.error("read", None, error))?;
    for entry in entries {
        let name = entry.map_err(|error| folder.error("read", None, error))?.file_name();
        let name = name.as_bytes();
        let extension = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let is_card = EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)) && name.contains(&b'.');
        if !is_card || name.starts_with(b".") {
            continue;
        }
        let Ok(path) = EntryPath::new(name) else { continue };
        match beneath.seen(&path).map_err(|error| folder.error("examine", Some(&path), error))? {
            // It went in the meantime.
            None => {}
            Some(seen) if seen.kind == EntryKind::File => {
                listing.insert(path, seen);
            }
            Some(_) => {
                return Err(Error::Unsupported {
                    place: format!("{}/{path}", folder.place()),
                    problem: "a card must be a regular file; links and folders are not followed".into(),
                });
            }
        }
    }
    Ok(listing)
}

/// Names, sizes, times and numbers of all files.
pub(super) fn stamp_of(listing: &Listing) -> Stamp {
    let mut hasher = blake3::Hasher::new();
    for (path, seen) in listing {
        hasher.update(&(path.as_bytes().len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        for number in [seen.mtime.seconds, i64::from(seen.mtime.nanos), seen.ctime.seconds, i64::from(seen.ctime.nanos)]
        {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&seen.size.to_le_bytes());
        hasher.update(&seen.inode.to_le_bytes());
    }
    Stamp(hasher.finalize().as_bytes().to_vec())
}
