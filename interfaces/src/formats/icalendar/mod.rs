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
mod fields;
mod project;
mod property;
mod read;
mod write;

use std::io::Write;

use deltabus_record::schema::Field;
use deltabus_record::value::{Kind, KindSet, Value};

use crate::file::FileStore;
use crate::formats::content_line::{FileEncoding, FileForm, Problem};
use crate::{
    Action, CollectionWrite, Content, Contents, Error, Interface, Location, Mark, Notify, Refusal, Result, Scan,
    Staged, Stamp, Watching, stem,
};
use agenda::{Agenda, Default};
use document::Document;
use fields::{COMPONENT, Scope, Shape, UID};

/// A calendar file.
pub(crate) struct ICalendar {
    file: FileStore,
    encoding: Option<FileEncoding>,
}

impl ICalendar {
    /// The file at `location`; the options are checked, nothing is read.
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
        Ok(ICalendar { file: FileStore::new(&location.path), encoding })
    }

    fn read(&self) -> Result<(Agenda, Stamp)> {
        let mut reading = self.file.open()?;
        let stamp = reading.stamp().clone();
        let bytes = reading.read_all()?;
        reading.check()?;
        let document = Document::parse(&self.file, bytes, self.encoding)?;
        Ok((Agenda::new(vec![document], Default::First)?, stamp))
    }

    fn nothing(&self) -> Result<Agenda> {
        let mut document = Document::parse(&self.file, Vec::new(), self.encoding)?;
        document.form = FileForm::new(self.encoding);
        Agenda::new(vec![document], Default::First)
    }
}

impl Interface for ICalendar {
    fn stamp(&self) -> Result<Stamp> {
        self.file.stamp()
    }

    fn watch(&self, notify: Notify) -> Result<Option<Watching>> {
        Ok(Some(Watching::files(&self.file.watch(), notify)?))
    }

    fn scan(&self, _since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>> {
        let (agenda, stamp) = self.read()?;
        Ok(Box::new(read::CalendarScan::new(stem(self.file.path()), agenda, stamp)?))
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
        _mark: Option<&Mark>,
        _contents: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>> {
        let mut removed = false;
        let mut last = None;
        for write in writes {
            match write.action {
                Action::Remove => removed = true,
                _ if last.is_some() => {
                    let problem = format!("a calendar holds one collection; `{}` is a second", write.collection.name);
                    return Err(Error::Unsupported { place: self.file.place(), problem });
                }
                _ => last = Some(write),
            }
        }
        let Some(write) = last else {
            return match removed && !expected.is_missing() {
                true => Ok(Box::new(self.file.remove(expected)?)),
                false => Ok(Box::new(self.file.keep(expected)?)),
            };
        };
        let mut replacement = self.file.replace(expected)?;
        let agenda = match removed || expected.is_missing() {
            true => self.nothing()?,
            false => {
                let (agenda, stamp) = self.read()?;
                if stamp != *expected {
                    return Err(Error::Changed { place: self.file.place() });
                }
                agenda
            }
        };
        let form = agenda.documents[0].form;
        let content = write::Rewriting::new(agenda).file(write)?;
        let bytes = form.encode(content).map_err(|Problem { text, .. }| Error::Unsupported {
            place: self.file.place(),
            problem: format!("{text}; give the file another `encoding`"),
        })?;
        let failed = |source| Error::Io { doing: "write", path: self.file.path().to_owned(), source };
        replacement.write_all(&bytes).map_err(failed)?;
        Ok(Box::new(replacement.seal()?))
    }

    fn mark(&self, _owner: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn transactional(&self) -> bool {
        false
    }

    fn single_collection(&self) -> bool {
        true
    }

    fn content(&self) -> Result<Option<Content>> {
        self.file.content()
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
