//! iCalendar (RFC 5545, 7986, 9073, 9074) and, for reading and careful editing, vCalendar 1.0.
//!
//! A record is an event, to-do, journal or other component with all overrides of its recurrence; its key is the UID. Each
//! time zone is a record too (`tzid:Europe/Oslo`), and the calendar object itself where it says more than deltabus would
//! write (`calendar:`). See `docs/values.md` for the fields.
//!
//! | option | means |
//! |---|---|
//! | `encoding` | `utf-8` (default), `utf-16le`, `utf-16be`, `latin1`, `windows-1252`; a byte order mark outranks it |
//!
//! A write rewrites the lines of the fields that it changes and leaves every other byte as it is. What has no property of
//! its own goes to lines `X-DELTABUS-FIELD`, from which it comes back as it was.

mod agenda;
mod component;
mod document;
mod edit;
mod fields;
mod item;
mod place;
mod project;
mod property;
mod read;
mod wanted;
mod write;
mod zones;

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use deltabus_record::schema::Field;
use deltabus_record::value::{Kind, KindSet, Value};

use crate::file::FileStore;
use crate::formats::content_line::{FileEncoding, FileForm, Problem};
use crate::formats::file_set::{FileChange, FileSet, SetFile};
use crate::{
    Action, CollectionWrite, Content, Contents, Error, Interface, Location, Mark, Notify, Refusal, Result, Scan,
    Staged, Stamp, Watching, stem,
};
use agenda::Agenda;
use document::Document;
use fields::{COMPONENT, Scope, Shape, UID};
use write::{Layout, Next, Rewriting};

/// The extensions of calendar files; new ones get the first.
const EXTENSIONS: &[&str] = &["ics", "ical", "icalendar", "ifb", "vcs"];

/// The file in a folder that holds the calendar's own record, and the time zones. Clients and servers pass over it.
const HOME: &str = ".calendar.ics";

/// A calendar: one file, or a folder with a file for each record.
pub(crate) struct ICalendar {
    store: Store,
    encoding: Option<FileEncoding>,
}

enum Store {
    File(FileStore),
    Folder(FileSet),
}

impl ICalendar {
    /// The file or folder at `location`; the options are checked, nothing is read.
    pub(crate) fn open(location: &Location) -> Result<ICalendar> {
        let mut options = location.options.clone();
        let encoding = match options.take("encoding") {
            None => None,
            Some(name) => Some(FileEncoding::from_name(&name).ok_or_else(|| {
                let names: Vec<_> = FileEncoding::NAMES.iter().map(|(name, _)| *name).collect();
                location.error(format!("there is no encoding `{name}`; there are {}", names.join(", ")))
            })?),
        };
        options.finish(location, &["encoding"])?;
        let store = match FileSet::is_meant(&location.path) {
            true => Store::Folder(FileSet::new(&location.path, EXTENSIONS, Some(HOME))),
            false => Store::File(FileStore::new(&location.path)),
        };
        Ok(ICalendar { store, encoding })
    }

    fn read(&self) -> Result<(Agenda, Vec<String>, Stamp)> {
        match &self.store {
            Store::File(file) => {
                let mut reading = file.open()?;
                let stamp = reading.stamp().clone();
                let bytes = reading.read_all()?;
                reading.check()?;
                let document = Document::parse(file.place(), bytes, self.encoding)?;
                Ok((Agenda::new(vec![document])?, Vec::new(), stamp))
            }
            Store::Folder(set) => {
                let (mut files, stamp) = set.read()?;
                if files.first().is_none_or(|file| file.name != HOME) {
                    files.insert(0, SetFile { name: HOME.to_owned(), bytes: Vec::new() });
                }
                let mut documents = Vec::with_capacity(files.len());
                let mut names = Vec::with_capacity(files.len());
                for SetFile { name, bytes } in files {
                    documents.push(Document::parse(set.place(&name), bytes, self.encoding)?);
                    names.push(name);
                }
                Ok((Agenda::new(documents)?, names, stamp))
            }
        }
    }

    /// What is there where nothing is.
    fn nothing(&self) -> Result<Agenda> {
        let mut document = Document::parse(self.place(), Vec::new(), self.encoding)?;
        document.form = FileForm::new(self.encoding);
        Agenda::new(vec![document])
    }

    fn place(&self) -> String {
        match &self.store {
            Store::File(file) => file.place(),
            Store::Folder(set) => set.path().display().to_string(),
        }
    }

    fn path(&self) -> &Path {
        match &self.store {
            Store::File(file) => file.path(),
            Store::Folder(set) => set.path(),
        }
    }

    fn encode(&self, place: String, form: FileForm, content: Vec<u8>) -> Result<Vec<u8>> {
        form.encode(content).map_err(|Problem { text, .. }| Error::Unsupported {
            place,
            problem: format!("{text}; give it another `encoding`"),
        })
    }

    fn stage_file(
        &self,
        file: &FileStore,
        mut writes: Writes<'_, '_>,
        expected: &Stamp,
    ) -> Result<Box<dyn Staged + '_>> {
        let Some(write) = &mut writes.last else {
            return match writes.removed && !expected.is_missing() {
                true => Ok(Box::new(file.remove(expected)?)),
                false => Ok(Box::new(file.keep(expected)?)),
            };
        };
        let nothing = matches!(write.action, Action::Write([])) && write.dropped.is_empty();
        if nothing && !writes.removed && !expected.is_missing() {
            // Not even a calendar object where there is none.
            return Ok(Box::new(file.keep(expected)?));
        }
        let mut replacement = file.replace(expected)?;
        let agenda = match writes.removed || expected.is_missing() {
            true => self.nothing()?,
            false => {
                let (agenda, _, stamp) = self.read()?;
                if stamp != *expected {
                    return Err(Error::Changed { place: file.place() });
                }
                agenda
            }
        };
        let form = agenda.documents[0].form;
        let old = agenda.documents[0].bytes.clone();
        let rewritten = Rewriting::new(agenda, Layout::One).run(write)?;
        let content = match rewritten.documents.into_iter().next() {
            Some(Next::Content(content)) => content,
            _ => old,
        };
        let bytes = self.encode(file.place(), form, content)?;
        let failed = |source| Error::Io { doing: "write", path: file.path().to_owned(), source };
        replacement.write_all(&bytes).map_err(failed)?;
        Ok(Box::new(replacement.seal()?))
    }

    fn stage_folder<'s>(
        &'s self,
        set: &'s FileSet,
        mut writes: Writes<'_, '_>,
        expected: &Stamp,
        mark: Option<&Mark>,
    ) -> Result<Box<dyn Staged + 's>> {
        let mut changes = Vec::new();
        let (agenda, names) = match expected.is_missing() {
            true => (self.nothing()?, vec![HOME.to_owned()]),
            false => {
                let (agenda, names, stamp) = self.read()?;
                if stamp != *expected {
                    return Err(Error::Changed { place: self.place() });
                }
                match writes.removed {
                    false => (agenda, names),
                    true => {
                        let removal = |name: String| FileChange { name, bytes: None };
                        changes.extend(names.into_iter().map(removal));
                        (self.nothing()?, vec![HOME.to_owned()])
                    }
                }
            }
        };
        if let Some(write) = &mut writes.last {
            let forms: Vec<_> = agenda.documents.iter().map(|document| document.form).collect();
            let new_form = FileForm::new(self.encoding);
            let rewritten = Rewriting::new(agenda, Layout::Each).run(write)?;
            for ((next, name), form) in rewritten.documents.into_iter().zip(&names).zip(forms) {
                let bytes = match next {
                    Next::Same => continue,
                    Next::Gone => None,
                    Next::Content(content) if content.is_empty() => None,
                    Next::Content(content) => Some(self.encode(set.place(name), form, content)?),
                };
                changes.retain(|change: &FileChange| change.name != *name);
                changes.push(FileChange { name: name.clone(), bytes });
            }
            let mut taken: HashSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
            for (key, content) in rewritten.new {
                let name = set.name_for(&key, |name| taken.contains(&name.to_lowercase()));
                taken.insert(name.to_lowercase());
                let bytes = Some(self.encode(set.place(&name), new_form, content)?);
                changes.retain(|change| change.name != name);
                changes.push(FileChange { name, bytes });
            }
        }
        set.stage(changes, expected, mark)
    }
}

/// What is to be done to the one collection.
struct Writes<'w, 'a> {
    removed: bool,
    last: Option<&'w mut CollectionWrite<'a>>,
}

impl Interface for ICalendar {
    fn stamp(&self) -> Result<Stamp> {
        match &self.store {
            Store::File(file) => file.stamp(),
            Store::Folder(set) => set.stamp(),
        }
    }

    fn watch(&self, notify: Notify) -> Result<Option<Watching>> {
        match &self.store {
            Store::File(file) => Watching::files(&file.watch(), notify).map(Some),
            Store::Folder(set) => set.watch(notify).map(Some),
        }
    }

    fn own_fields(&self) -> &'static [&'static str] {
        &["component", "uid"]
    }

    fn commits(&self) -> bool {
        false
    }

    fn scan(&self, _since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>> {
        let (agenda, _, stamp) = self.read()?;
        Ok(Box::new(read::CalendarScan::new(stem(self.path()), agenda, stamp)?))
    }

    fn verbatim(&self, field: &Field) -> KindSet {
        const TEXT: KindSet = KindSet::of(&[Kind::Absent, Kind::Text]);
        let Some(spec) = Scope::Record.spec(&field.name) else { return OWN };
        match spec.shape {
            _ if spec.name == UID => KindSet::of(&[Kind::Text]),
            _ if spec.name == COMPONENT => KindSet::of(&[]),
            Shape::Text | Shape::Raw => TEXT,
            Shape::Integer => KindSet::of(&[Kind::Absent, Kind::Integer]),
            Shape::Moment(_) => KindSet::of(&[Kind::Absent, Kind::Date, Kind::DateTime]),
            _ => KindSet::of(&[Kind::Absent]),
        }
    }

    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        let value = project::project(value, &field.name, Scope::Record);
        if field.name == UID && value.kind() != Kind::Text {
            let reason = format!("a UID must be text, not {}", value.kind().name());
            return Err(Refusal { reason });
        }
        Ok(value)
    }

    fn field_for(&self, field: &Field) -> Field {
        match fields::FIELDS.iter().find(|known| known.name == field.name) {
            Some(known) => Field { ordinal: field.ordinal, dropped: field.dropped, ..known.clone() },
            None => Field { declared: None, ..field.clone() },
        }
    }

    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        expected: &Stamp,
        mark: Option<&Mark>,
        _contents: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>> {
        let mut removed = false;
        let mut last = None;
        for write in writes {
            match write.action {
                Action::Remove => removed = true,
                _ if last.is_some() => {
                    let problem = format!("a calendar holds one collection; `{}` is a second", write.collection.name);
                    return Err(Error::Unsupported { place: self.place(), problem });
                }
                _ => last = Some(write),
            }
        }
        let writes = Writes { removed, last };
        match &self.store {
            Store::File(file) => self.stage_file(file, writes, expected),
            Store::Folder(set) => self.stage_folder(set, writes, expected, mark),
        }
    }

    fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>> {
        match &self.store {
            Store::File(_) => Ok(None),
            Store::Folder(set) => set.mark(owner),
        }
    }

    fn transactional(&self) -> bool {
        matches!(self.store, Store::Folder(_))
    }

    fn single_collection(&self) -> bool {
        true
    }

    fn content(&self) -> Result<Option<Content>> {
        match &self.store {
            Store::File(file) => file.content(),
            Store::Folder(_) => Ok(None),
        }
    }
}

/// What lines of our own keep: everything that can stand in a record.
const OWN: KindSet = KindSet::of(&[
    Kind::Absent,
    Kind::Null,
    Kind::Bool,
    Kind::Integer,
    Kind::Decimal,
    Kind::Float,
    Kind::Text,
    Kind::Bytes,
    Kind::Date,
    Kind::Time,
    Kind::DateTime,
    Kind::Instant,
    Kind::Uuid,
    Kind::List,
    Kind::Map,
]);
