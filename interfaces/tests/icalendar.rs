//! Calendars as programs write them: everything read, everything given back, and edits that touch one line.

use std::fs;
use std::path::{Path, PathBuf};

use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Error, Extent, Interface, Location, NoContents, RecordWrite, Records, open,
};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, Field};
use deltabus_record::text;
use deltabus_record::value::Value;
use proptest::prelude::*;

/// A store in a folder of its own.
struct Store {
    interface: Box<dyn Interface>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

type Rows = Vec<Vec<Value>>;

impl Store {
    fn new(location: &str, name: &str) -> Store {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let location = location.replace("{}", path.to_str().unwrap());
        Store { interface: open(&Location::parse(&location).unwrap()).unwrap(), path, _folder: folder }
    }

    fn calendar(content: impl AsRef<[u8]>) -> Store {
        let store = Store::new("icalendar:{}", "calendar.ics");
        fs::write(&store.path, content).unwrap();
        store
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    fn read(&self) -> Result<(Collection, Rows), Error> {
        let mut scan = self.interface.scan(None)?;
        let collection = scan.collections()[0].clone();
        scan.start(0, Extent::Whole)?;
        let mut rows = Vec::new();
        while scan.next()?.is_some() {
            let mut row = RowBuilder::default();
            assert_eq!(scan.decode(&mut row)?, Decoded::Record);
            let row = Row::from_bytes(row.as_bytes()).expect("a scan gives canonical rows");
            rows.push((0..collection.schema.fields.len()).map(|slot| row.value(slot)).collect());
        }
        scan.finish()?;
        Ok((collection, rows))
    }

    /// The value of a field of the record `key`.
    fn value(&self, key: &str, field: &str) -> Value {
        let (collection, rows) = self.read().unwrap();
        let uid = collection.schema.slot("uid").unwrap();
        let row = rows.iter().find(|row| row[uid] == Value::text(key)).unwrap_or_else(|| panic!("no record {key}"));
        row[collection.schema.slot(field).unwrap_or_else(|| panic!("no field {field}"))].clone()
    }

    /// The records in the order of their keys.
    fn sorted(&self) -> (Vec<String>, Vec<(String, String)>) {
        let (collection, rows) = self.read().unwrap();
        let uid = collection.schema.slot("uid").unwrap();
        let fields: Vec<_> = collection.schema.fields.iter().map(|field| field.name.clone()).collect();
        let said = |row: &Vec<Value>| {
            let values = fields.iter().zip(row).filter(|(_, value)| **value != Value::Absent);
            values.map(|(name, value)| format!("{name}: {value:?}\n")).collect::<String>()
        };
        let mut rows: Vec<_> = rows.iter().map(|row| (text::to_text(&row[uid]).unwrap(), said(row))).collect();
        rows.sort();
        (fields, rows)
    }

    fn keys(&self) -> Vec<String> {
        let (collection, rows) = self.read().unwrap();
        let uid = collection.schema.slot("uid").unwrap();
        rows.iter().map(|row| text::to_text(&row[uid]).unwrap()).collect()
    }

    /// The value as this store would keep it.
    fn project(&self, value: Value, field: &Field) -> Value {
        match self.interface.verbatim(field).contains(value.kind()) {
            true => value,
            false => self.interface.project(value, field).unwrap(),
        }
    }

    fn stage<'a>(&self, collection: &'a Collection, action: Action<'a>) -> Result<(), Error> {
        let stamp = self.interface.stamp()?;
        let mut writes = [CollectionWrite { collection, dropped: &[], action }];
        self.interface.stage(&mut writes, &stamp, None, &NoContents)?.commit()?;
        Ok(())
    }

    /// Sets one field of the record `key`.
    fn set(&self, key: &str, field: &str, value: Value) -> Result<(), Error> {
        let (collection, rows) = self.read()?;
        let uid = collection.schema.slot("uid").unwrap();
        let slot = collection.schema.slot(field).unwrap_or_else(|| panic!("no field {field}"));
        let mut row = rows.iter().find(|row| row[uid] == Value::text(key)).expect("the record is there").clone();
        row[slot] = self.project(value, &collection.schema.fields[slot]);
        let row = Row::of(&row);
        let key = collection.schema.key_of(row.as_bytes(), 0);
        self.stage(&collection, Action::Write(&[RecordWrite::Put { key, row, changed: vec![slot as u32] }]))
    }

    fn remove(&self, key: &str) -> Result<(), Error> {
        let (collection, rows) = self.read()?;
        let uid = collection.schema.slot("uid").unwrap();
        let row = Row::of(rows.iter().find(|row| row[uid] == Value::text(key)).expect("the record is there"));
        let key = collection.schema.key_of(row.as_bytes(), 0);
        self.stage(&collection, Action::Write(&[RecordWrite::Remove { key, row }]))
    }

    /// Loads everything that `from` has, each value as this store keeps it.
    fn load(&self, from: &Store) {
        let (mut collection, rows) = from.read().unwrap();
        for field in &mut collection.schema.fields {
            *field = self.interface.field_for(field);
        }
        let project = |row: &Vec<Value>| {
            let fields = &collection.schema.fields;
            row.iter().zip(fields).map(|(value, field)| self.project(value.clone(), field)).collect()
        };
        let rows: Rows = rows.iter().map(project).collect();
        let mut records = Loading { collection: &collection, rows: rows.iter(), key: Vec::new(), row: Row::default() };
        self.stage(&collection, Action::Load(&mut records)).unwrap();
    }
}

struct Loading<'a> {
    collection: &'a Collection,
    rows: std::slice::Iter<'a, Vec<Value>>,
    key: Vec<u8>,
    row: Row,
}

impl Records for Loading<'_> {
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let Some(values) = self.rows.next() else { return Ok(false) };
        self.row = Row::of(values);
        self.key.clear();
        self.collection.schema.key_into(self.row.as_bytes(), 0, &mut self.key);
        Ok(true)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn row(&self) -> &[u8] {
        self.row.as_bytes()
    }
}

/// The logical lines of a file.
fn logical(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let unfolded = text.replace("\n ", "").replace("\n\t", "");
    unfolded.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A component as what it says: its lines and components without their order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tree {
    lines: Vec<String>,
    inside: Vec<Tree>,
}

fn tree(bytes: &[u8]) -> Tree {
    let mut stack = vec![Tree { lines: Vec::new(), inside: Vec::new() }];
    for line in logical(bytes) {
        if line.starts_with("BEGIN:") {
            stack.push(Tree { lines: vec![line], inside: Vec::new() });
        } else if line.starts_with("END:") {
            let mut done = stack.pop().unwrap();
            done.lines.sort();
            done.inside.sort();
            stack.last_mut().unwrap().inside.push(done);
        } else {
            stack.last_mut().unwrap().lines.push(line);
        }
    }
    let mut all = stack.pop().unwrap();
    all.inside.sort();
    all
}

/// Through SQLite and CSV and back into a new calendar.
fn there_and_back(from: &Store) -> Store {
    let database = Store::new("sqlite:{}", "calendar.db");
    database.load(from);
    let sheet = Store::new("csv:{}?key=uid", "calendar.csv");
    sheet.load(&database);
    let back = Store::new("icalendar:{}", "calendar.ics");
    back.load(&sheet);
    back
}

fn fixtures() -> Vec<(&'static str, String)> {
    vec![
        ("recurrence with overrides, alarms and attendees", MEETING.to_owned()),
        ("all sorts of components", SORTS.to_owned()),
        ("two calendar objects", format!("{MEETING}{}", SORTS.replace("PRODID:-//a//b//EN", "PRODID:-//c//d//EN"))),
        (
            "several definitions of a zone",
            format!(
                "{MEETING}{}",
                MEETING
                    .replace("TZNAME:CET", "TZNAME:MEZ")
                    .replace("UID:meeting", "UID:other")
                    .replace("-//a//b", "-//c//d")
            ),
        ),
    ]
}

const MEETING: &str = concat!(
    "BEGIN:VCALENDAR\r\n",
    "VERSION:2.0\r\n",
    "PRODID:-//a//b//EN\r\n",
    "CALSCALE:GREGORIAN\r\n",
    "X-WR-CALNAME;VALUE=TEXT:Büro\r\n",
    "BEGIN:VTIMEZONE\r\n",
    "TZID:Europe/Oslo\r\n",
    "X-LIC-LOCATION:Europe/Oslo\r\n",
    "BEGIN:STANDARD\r\n",
    "DTSTART:19961027T030000\r\n",
    "TZNAME:CET\r\n",
    "TZOFFSETFROM:+0200\r\n",
    "TZOFFSETTO:+0100\r\n",
    "RRULE:FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU\r\n",
    "END:STANDARD\r\n",
    "END:VTIMEZONE\r\n",
    "BEGIN:VEVENT\r\n",
    "UID:meeting@example.org\r\n",
    "DTSTAMP:20240101T120000Z\r\n",
    "DTSTART;TZID=Europe/Oslo:20240105T090000\r\n",
    "DTEND;X-WHY=because;TZID=Europe/Oslo:20240105T100000\r\n",
    "RRULE:FREQ=WEEKLY;COUNT=10\r\n",
    "EXDATE;TZID=Europe/Oslo:20240112T090000,20240119T090000\r\n",
    "EXDATE:20240126T080000Z\r\n",
    "RDATE;VALUE=DATE:20240701\r\n",
    "RDATE;VALUE=PERIOD:20240801T100000Z/PT1H\r\n",
    "SUMMARY;LANGUAGE=de;ALTREP=\"cid:1,2\":Besprechung\\, wöchentlich\\; im Büro \u{1f600} und so weite\r\n",
    " r\\nzweite Zeile \\\\ Ende\r\n",
    "ORGANIZER;CN=\"Ola, Nordmann\";SENT-BY=\"mailto:kari@example.org\":mailto:ola@example.org\r\n",
    "ATTENDEE;ROLE=REQ-PARTICIPANT;PARTSTAT=NEEDS-ACTION;RSVP=TRUE;CN=Kari;MEMBER=\"mailto:a@example.org\",\"mailto:b@\r\n",
    "\texample.org\":mailto:kari@example.org\r\n",
    "ATTENDEE:mailto:plain@example.org\r\n",
    "ATTENDEE;CN=A ^'quoted^' name^nin two lines:mailto:odd@example.org\r\n",
    "CATEGORIES:Work,Weekly\\, really\r\n",
    "CATEGORIES:Second line\r\n",
    "CATEGORIES;LANGUAGE=en:Third\r\n",
    "ATTACH;FMTTYPE=text/plain;ENCODING=BASE64;VALUE=BINARY:aGVsbG8=\r\n",
    "ATTACH:https://example.org/a;b,c\r\n",
    "GEO:59.91;10.75\r\n",
    "URL:https://example.org/?a=1;b=2,3\r\n",
    "COMMENT:one\r\n",
    "COMMENT;LANGUAGE=en:two\r\n",
    "CONFERENCE;VALUE=URI;FEATURE=AUDIO,VIDEO;LABEL=Room:https://example.org/room\r\n",
    "IMAGE;VALUE=URI;DISPLAY=BADGE:https://example.org/i.png\r\n",
    "COLOR:turquoise\r\n",
    "PRIORITY:05\r\n",
    "SEQUENCE:3\r\n",
    "STATUS:CONFIRMED\r\n",
    "TRANSP:OPAQUE\r\n",
    "X-ODD;X-P=\"a:b;c,d\";X-Q=1,2:a;b,c\\nd\r\n",
    "X-ODD:again\r\n",
    "SUMMARY:a second summary\r\n",
    "BEGIN:VALARM\r\n",
    "ACTION:DISPLAY\r\n",
    "TRIGGER;RELATED=END:-PT15M\r\n",
    "DESCRIPTION:Los!\r\n",
    "REPEAT:2\r\n",
    "DURATION:PT5M\r\n",
    "X-ALARM:1\r\n",
    "END:VALARM\r\n",
    "BEGIN:VALARM\r\n",
    "ACTION:EMAIL\r\n",
    "TRIGGER;VALUE=DATE-TIME:20240105T070000Z\r\n",
    "ATTENDEE:mailto:kari@example.org\r\n",
    "BEGIN:X-INSIDE\r\n",
    "X-A:1\r\n",
    "END:X-INSIDE\r\n",
    "END:VALARM\r\n",
    "BEGIN:PARTICIPANT\r\n",
    "UID:p1\r\n",
    "BEGIN:VLOCATION\r\n",
    "NAME:Room\r\n",
    "END:VLOCATION\r\n",
    "END:PARTICIPANT\r\n",
    "END:VEVENT\r\n",
    "BEGIN:VEVENT\r\n",
    "UID:meeting@example.org\r\n",
    "DTSTAMP:20240101T120000Z\r\n",
    "RECURRENCE-ID;TZID=Europe/Oslo:20240202T090000\r\n",
    "DTSTART;TZID=Europe/Oslo:20240202T110000\r\n",
    "SUMMARY:Moved\r\n",
    "BEGIN:VALARM\r\n",
    "ACTION:AUDIO\r\n",
    "TRIGGER:-PT5M\r\n",
    "END:VALARM\r\n",
    "END:VEVENT\r\n",
    "BEGIN:VEVENT\r\n",
    "UID:meeting@example.org\r\n",
    "RECURRENCE-ID;RANGE=THISANDFUTURE;TZID=Europe/Oslo:20240209T090000\r\n",
    "SUMMARY:Later\r\n",
    "END:VEVENT\r\n",
    "END:VCALENDAR\r\n",
);

const SORTS: &str = concat!(
    "BEGIN:VCALENDAR\n",
    "PRODID:-//a//b//EN\n",
    "VERSION:2.0\n",
    "BEGIN:VTODO\n",
    "UID:todo\n",
    "DUE;VALUE=DATE:20240501\n",
    "COMPLETED:20240430T101112Z\n",
    "PERCENT-COMPLETE:100\n",
    "SUMMARY:\n",
    "END:VTODO\n",
    "BEGIN:VJOURNAL\n",
    "UID:journal\n",
    "DTSTART:20240501T101500\n",
    "DESCRIPTION:one\n",
    "DESCRIPTION:two\n",
    "END:VJOURNAL\n",
    "BEGIN:VFREEBUSY\n",
    "UID:busy\n",
    "FREEBUSY;FBTYPE=BUSY:19980314T233000Z/19980315T003000Z,19980316T153000Z/PT1H\n",
    "END:VFREEBUSY\n",
    "BEGIN:VEVENT\n",
    "SUMMARY:without UID\n",
    "END:VEVENT\n",
    "BEGIN:VEVENT\n",
    "UID:only an override\n",
    "RECURRENCE-ID:20240101T000000Z\n",
    "SUMMARY:alone\n",
    "END:VEVENT\n",
    "BEGIN:VAVAILABILITY\n",
    "UID:available\n",
    "BEGIN:AVAILABLE\n",
    "UID:a1\n",
    "END:AVAILABLE\n",
    "END:VAVAILABILITY\n",
    "BEGIN:X-COMPONENT\n",
    "X-A:1\n",
    "END:X-COMPONENT\n",
    "END:VCALENDAR\n",
);

#[test]
fn a_calendar_comes_back_through_sqlite_and_csv() {
    for (name, content) in fixtures() {
        let from = Store::calendar(&content);
        let back = there_and_back(&from);
        assert_eq!(from.sorted(), back.sorted(), "{name}: the records");
        // What was made: the UID of a component that had none, or none that tells it from another.
        let made = |line: &String| !line.starts_with("UID:no-uid:") && !line.starts_with("UID:tzid:");
        let strip = |bytes: &[u8]| logical(bytes).into_iter().filter(made).collect::<Vec<_>>().join("\n");
        assert_eq!(tree(strip(&from.bytes()).as_bytes()), tree(strip(&back.bytes()).as_bytes()), "{name}: the lines");
    }
}

#[test]
fn the_samples_of_real_programs_come_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/icalendar");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let from = Store::calendar(fs::read(&path).unwrap());
        let back = there_and_back(&from);
        assert_eq!(from.sorted(), back.sorted(), "{}", path.display());
        let (lines, again) = (logical(&from.bytes()), logical(&back.bytes()));
        for line in &lines {
            assert!(again.contains(line), "{}: `{line}` is lost in\n{}", path.display(), again.join("\n"));
        }
        count += 1;
    }
    assert!(count >= 10, "the samples are there");
}
