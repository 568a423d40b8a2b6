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

    fn folder(files: &[&str]) -> Store {
        let store = Store::new("icalendar:{}/", "calendar");
        fs::create_dir(&store.path).unwrap();
        for (at, content) in files.iter().enumerate() {
            fs::write(store.path.join(format!("{at}.ics")), content).unwrap();
        }
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

    fn said(&self) -> Vec<String> {
        let (collection, rows) = self.read().unwrap();
        said(&collection, &rows)
    }

    /// Everything there, for messages.
    fn all_text(&self) -> String {
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        match fs::read_dir(&self.path) {
            Err(_) => read(&self.path),
            Ok(entries) => entries.map(|entry| read(&entry.unwrap().path())).collect::<Vec<_>>().join("----\n"),
        }
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

/// What rows say, in the order of their keys.
fn said(collection: &Collection, rows: &Rows) -> Vec<String> {
    let mut said: Vec<String> = rows
        .iter()
        .map(|row| {
            let fields = collection.schema.fields.iter().zip(row).filter(|(_, value)| **value != Value::Absent);
            let mut fields: Vec<String> = fields.map(|(field, value)| format!("{}: {value:?}", field.name)).collect();
            fields.sort();
            fields.join("\n")
        })
        .collect();
    said.sort();
    said
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

#[cfg(shared_data)]
#[test]
fn the_samples_of_real_programs_come_back() {
    let folder = Path::new(env!("DELTABUS_SHARED_DATA")).join("pim");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "ics") {
            continue;
        }
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

/// The physical lines that differ between two texts, as `-old` and `+new`.
fn changed(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<_>, Vec<_>) = (before.split_inclusive('\n').collect(), after.split_inclusive('\n').collect());
    let front = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let back = old[front..].iter().rev().zip(new[front..].iter().rev()).take_while(|(a, b)| a == b).count();
    let gone = old[front..old.len() - back].iter().map(|line| format!("-{}", line.trim_end()));
    let come = new[front..new.len() - back].iter().map(|line| format!("+{}", line.trim_end()));
    gone.chain(come).collect()
}

/// Sets one field and tells which lines of the file are others then.
fn edit(content: &str, key: &str, field: &str, value: Value) -> Vec<String> {
    let store = Store::calendar(content);
    store.set(key, field, value.clone()).unwrap();
    let (collection, _) = store.read().unwrap();
    let projected = store.project(value, &collection.schema.fields[collection.schema.slot(field).unwrap()]);
    assert_eq!(store.value(key, field), projected, "what was written is read back");
    changed(content, &store.text())
}

const KEY: &str = "meeting@example.org";

#[test]
fn an_edit_of_one_field_rewrites_its_line_only() {
    let moment = |text: &str, kind| text::parse(text, kind).unwrap();
    use deltabus_record::value::Kind;
    let cases: Vec<(&str, Value, &[&str])> = vec![
        ("status", Value::text("CANCELLED"), &["-STATUS:CONFIRMED", "+STATUS:CANCELLED"]),
        ("status", Value::Absent, &["-STATUS:CONFIRMED"]),
        ("location", Value::text("Büro, 1; 2"), &["+LOCATION:Büro\\, 1\\; 2"]),
        (
            "start",
            moment("2024-01-05T09:30:00", Kind::DateTime),
            &["-DTSTART;TZID=Europe/Oslo:20240105T090000", "+DTSTART;TZID=Europe/Oslo:20240105T093000"],
        ),
        (
            "end_zone",
            Value::text("Europe/Rome"),
            &[
                "-DTEND;X-WHY=because;TZID=Europe/Oslo:20240105T100000",
                "+DTEND;X-WHY=because;TZID=Europe/Rome:20240105T100000",
            ],
        ),
        ("sequence", Value::Integer(4), &["-SEQUENCE:3", "+SEQUENCE:4"]),
        ("rrule", Value::text("FREQ=DAILY"), &["-RRULE:FREQ=WEEKLY;COUNT=10", "+RRULE:FREQ=DAILY"]),
        (
            "summary",
            Value::text("Kürzer"),
            &[
                "-SUMMARY;LANGUAGE=de;ALTREP=\"cid:1,2\":Besprechung\\, wöchentlich\\; im Büro \u{1f600} und so weite",
                "- r\\nzweite Zeile \\\\ Ende",
                "+SUMMARY;LANGUAGE=de;ALTREP=\"cid:1,2\":Kürzer",
            ],
        ),
    ];
    for (field, value, lines) in cases {
        assert_eq!(edit(MEETING, KEY, field, value), lines, "{field}");
    }
}

#[test]
fn edits_inside_lists_rewrite_only_what_they_change() {
    let store = Store::calendar(MEETING);
    let Value::List(mut attendees) = store.value(KEY, "attendees") else { panic!("a list") };
    attendees.push(Value::text("mailto:new@example.org"));
    assert_eq!(edit(MEETING, KEY, "attendees", Value::List(attendees.clone())), ["+ATTENDEE:mailto:new@example.org"]);
    attendees.truncate(2);
    assert_eq!(
        edit(MEETING, KEY, "attendees", Value::List(attendees)),
        ["-ATTENDEE;CN=A ^'quoted^' name^nin two lines:mailto:odd@example.org"]
    );

    let member = |map: &mut Value, name: &str, value: Value| {
        let Value::Map(members) = map else { panic!("a map") };
        members.iter_mut().find(|(known, _)| known == name).expect("it is there").1 = value;
    };
    let Value::List(mut alarms) = store.value(KEY, "alarms") else { panic!("a list") };
    member(&mut alarms[0], "trigger", Value::text("-PT20M"));
    assert_eq!(
        edit(MEETING, KEY, "alarms", Value::List(alarms.clone())),
        ["-TRIGGER;RELATED=END:-PT15M", "+TRIGGER;RELATED=END:-PT20M"]
    );
    alarms.remove(0);
    assert_eq!(edit(MEETING, KEY, "alarms", Value::List(alarms)).len(), 8, "one alarm goes");

    let Value::List(mut overrides) = store.value(KEY, "overrides") else { panic!("a list") };
    member(&mut overrides[0], "summary", Value::text("Moved again"));
    assert_eq!(
        edit(MEETING, KEY, "overrides", Value::List(overrides.clone())),
        ["-SUMMARY:Moved", "+SUMMARY:Moved again"]
    );
    overrides.remove(0);
    assert_eq!(edit(MEETING, KEY, "overrides", Value::List(overrides)).len(), 11, "one override goes");
}

#[test]
fn what_the_calendar_and_a_zone_say_can_be_edited() {
    let store = Store::calendar(MEETING);
    let Value::List(mut lines) = store.value("calendar:", "other") else { panic!("a list") };
    lines[3] = Value::text("X-WR-CALNAME:Office");
    assert_eq!(
        edit(MEETING, "calendar:", "other", Value::List(lines)),
        ["-X-WR-CALNAME;VALUE=TEXT:Büro", "+X-WR-CALNAME:Office"]
    );
    let url = Value::text("https://example.org/calendar");
    assert_eq!(edit(MEETING, "calendar:", "url", url), ["+URL:https://example.org/calendar"]);
    let url = Value::List(vec![Value::text("X-LIC-LOCATION:Oslo")]);
    assert_eq!(
        edit(MEETING, "tzid:Europe/Oslo", "other", url),
        ["-X-LIC-LOCATION:Europe/Oslo", "+X-LIC-LOCATION:Oslo"]
    );
}

#[test]
fn records_come_and_go_and_others_stay_byte_for_byte() {
    let store = Store::calendar(MEETING);
    store.remove(KEY).unwrap();
    let events = MEETING.find("BEGIN:VEVENT").unwrap();
    let rest = format!("{}END:VCALENDAR\r\n", &MEETING[..events]);
    assert_eq!(store.text(), rest);
    store.remove("tzid:Europe/Oslo").unwrap();
    assert_eq!(store.keys(), ["calendar:"]);
    // Odd line ends, blank lines, lower case and folds of what is not touched.
    let odd = "\u{feff}BEGIN:VCALENDAR\nVERSION:2.0\r\n\r\n\nbegin:vevent\nuid:a\nSumm\n ary:x\n\n\nEND:VEVENT\n\nBEGIN:VEVENT\r\nUID:b\r\nSUMMARY:y\r\nEND:VEVENT\r\nend:vcalendar";
    let store = Store::calendar(odd);
    assert_eq!(store.value("a", "summary"), Value::text("x"));
    store.set("b", "summary", Value::text("z")).unwrap();
    assert_eq!(store.text(), odd.replace("SUMMARY:y", "SUMMARY:z"));
}

#[test]
fn dates_times_and_zones_are_what_they_say() {
    use deltabus_record::value::Kind;
    let event = |lines: &str| {
        format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nBEGIN:VEVENT\r\nUID:a\r\n{lines}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n")
    };
    let cases = [
        ("DTSTART;VALUE=DATE:20240229", Kind::Date, "2024-02-29", None),
        ("DTSTART:20240229", Kind::Date, "2024-02-29", None),
        ("DTSTART:20240229T235959", Kind::DateTime, "2024-02-29T23:59:59", None),
        ("DTSTART:20240229T235959Z", Kind::Instant, "2024-02-29T23:59:59Z", None),
        ("DTSTART;TZID=\"a:b\":20240229T235959", Kind::DateTime, "2024-02-29T23:59:59", Some("a:b")),
        ("DTSTART;VALUE=DATE-TIME;TZID=\"X\":20240229T235959", Kind::DateTime, "2024-02-29T23:59:59", Some("X")),
    ];
    for (line, kind, said, zone) in cases {
        let store = Store::calendar(event(line));
        assert_eq!(store.value("a", "start"), text::parse(said, kind).unwrap(), "{line}");
        assert_eq!(store.value("a", "start_zone"), zone.map_or(Value::Absent, Value::text), "{line}");
        let back = there_and_back(&store);
        let expected = if line == "DTSTART:20240229" { "DTSTART;VALUE=DATE:20240229" } else { line };
        assert!(logical(&back.bytes()).iter().any(|found| found == expected), "{line}: {}", back.text());
    }
    // What no calendar has stays as it is written.
    for line in [
        "DTSTART:20240230",
        "DTSTART: 20240229T235959Z",
        "DTSTART:2024-02-29",
        "DTSTART:20240229T250000Z",
        "DTSTART:20240229T250000",
        "DTSTART:20240229T235960Z",
        "PRIORITY:05",
        "DTSTART:",
    ] {
        let store = Store::calendar(event(line));
        assert_eq!(store.value("a", "other"), Value::List(vec![Value::text(line)]), "{line}");
        assert!(logical(&there_and_back(&store).bytes()).iter().any(|found| found == line), "{line}");
    }
}

#[test]
fn vcalendar_1_0_is_read_and_edited_in_its_own_manner() {
    let content = "BEGIN:VCALENDAR\r\nVERSION:1.0\r\nBEGIN:VEVENT\r\nUID:a\r\nSUMMARY;ENCODING=QUOTED-PRINTABLE;CHARSET=ISO-8859-1:B=FCro=\r\n f=FCr alle=3B\r\nDALARM:20240101T000000Z;;;\r\nAALARM;TYPE=WAVE:x\r\nDTSTART:20240101T000000Z\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
    let store = Store::calendar(content);
    assert_eq!(store.value("a", "summary"), Value::text("Büro für alle;"));
    store.set("a", "summary", Value::text("Büro\r\nzwei")).unwrap();
    assert_eq!(store.text(), content.replace("B=FCro=\r\n f=FCr alle=3B", "B=FCro=0D=0Azwei"));
    let back = there_and_back(&store);
    assert_eq!(store.sorted(), back.sorted());
}

#[test]
fn values_in_character_sets_of_their_own_are_read() {
    let mut content = b"BEGIN:VCALENDAR\r\nVERSION:1.0\r\nBEGIN:VEVENT\r\nUID:a\r\nSUMMARY;CHARSET=ISO-8859-1:B\xfcro\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n".to_vec();
    let store = Store::calendar(&content);
    assert_eq!(store.value("a", "summary"), Value::text("Büro"));
    store.set("a", "location", Value::text("x")).unwrap();
    let at = content.windows(12).position(|window| window == b"SUMMARY;CHAR").unwrap();
    assert!(store.bytes().windows(30).any(|window| window == &content[at..at + 30]), "the line stays as it is");
    // Without saying so it is an error, with its place; with `encoding=` it is none.
    content.splice(at..at + 26, b"SUMMARY".iter().copied());
    let store = Store::calendar(&content);
    let error = store.read().unwrap_err().to_string();
    assert!(error.contains("calendar.ics:5:10:"), "{error}");
    let store = Store::new("icalendar:{}?encoding=latin1", "calendar.ics");
    fs::write(&store.path, &content).unwrap();
    assert_eq!(store.value("a", "summary"), Value::text("Büro"));
    store.set("a", "summary", Value::text("Bär")).unwrap();
    assert!(store.bytes().windows(11).any(|window| window == b"SUMMARY:B\xe4r"));
    assert!(store.set("a", "summary", Value::text("€")).is_err(), "latin1 has no €");
}

#[test]
fn hostile_files_are_errors_with_a_place_and_change_nothing() {
    let deep = format!("BEGIN:VCALENDAR\n{}", "BEGIN:X\n".repeat(100));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (MEETING.as_bytes()[..900].to_vec(), ":30:1: "),
        (MEETING.as_bytes()[..MEETING.find("GEO:").unwrap()].to_vec(), ":17:1: "),
        (b"BEGIN:VCALENDAR\nBEGIN:VEVENT\nEND:VTODO\nEND:VCALENDAR\n".to_vec(), ":3:1: "),
        (b"BEGIN:VCALENDAR\nEND:VCALENDAR\nEND:VCALENDAR\n".to_vec(), ":3:1: "),
        (b"SUMMARY:x\n".to_vec(), ":1:1: "),
        (b"BEGIN:VCALENDAR\nBEGIN:VEVENT\nno colon\nEND:VEVENT\nEND:VCALENDAR\n".to_vec(), ":3:1: "),
        (b"BEGIN:VCALENDAR\nBEGIN:VEVENT\nA;B=\"x:y\nEND:VEVENT\nEND:VCALENDAR\n".to_vec(), ":3:5: "),
        (b"BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:a\n\xff\xfe\nEND:VEVENT\nEND:VCALENDAR\n".to_vec(), ":4:"),
        (b" x\n".to_vec(), ":1:1: "),
        (deep.into_bytes(), ":33:1: "),
        (b"\0\0\0".to_vec(), ":1:1: "),
        (b"\xff\xfea".to_vec(), ":1:1: "),
    ];
    for (content, place) in cases {
        let store = Store::calendar(&content);
        let error = store.read().expect_err(place).to_string();
        assert!(error.contains(&format!("calendar.ics{place}")), "{place} is not in {error}");
        let other = Store::calendar(SORTS);
        let (collection, rows) = other.read().unwrap();
        let row = Row::of(&rows[0]);
        let key = collection.schema.key_of(row.as_bytes(), 0);
        let write = [RecordWrite::Put { key, row, changed: Vec::new() }];
        assert!(store.stage(&collection, Action::Write(&write)).is_err(), "{place}");
        assert_eq!(store.bytes(), content);
    }
    let two = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:a\nEND:VEVENT\nBEGIN:VTODO\nUID:a\nEND:VTODO\nEND:VCALENDAR\n";
    let error = Store::calendar(two).read().unwrap_err();
    assert!(matches!(error, Error::DuplicateKey { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("calendar.ics:5:") && error.contains("calendar.ics:2"), "{error}");
}

#[test]
fn components_without_uid_keep_the_key_that_was_made() {
    let content =
        "BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:x\nEND:VEVENT\nBEGIN:VEVENT\nSUMMARY:x\nEND:VEVENT\nEND:VCALENDAR\n";
    let store = Store::calendar(content);
    let keys = store.keys();
    assert_eq!((keys.len(), keys[1].starts_with("no-uid:")), (3, true));
    store.set(&keys[1], "summary", Value::text("y")).unwrap();
    assert!(store.keys().contains(&keys[1]), "it has the key in writing now: {}", store.text());
    assert_eq!(store.value(&keys[1], "summary"), Value::text("y"));
    assert!(store.keys().contains(&keys[2]), "the other keeps its own, now that nothing equal is before it");
    let zones = MEETING
        .replace("BEGIN:VEVENT", "BEGIN:X-NOTHING")
        .replace("END:VEVENT", "END:X-NOTHING")
        .replace("UID:meeting", "X-A:b");
    let store = Store::calendar(format!("{MEETING}{}", zones.replace("TZNAME:CET", "TZNAME:MEZ")));
    let keys = store.keys();
    assert!(keys.iter().any(|key| key.starts_with("tzid:Europe/Oslo#")), "{keys:?}");
    store.remove("tzid:Europe/Oslo").unwrap();
    let left: Vec<_> = keys.into_iter().filter(|key| key != "tzid:Europe/Oslo").collect();
    assert_eq!(store.keys(), left);
}

#[test]
fn a_folder_has_a_file_for_each_record_with_its_zones() {
    let from = Store::calendar(MEETING.replace(
        "END:VEVENT\r\nEND:VCALENDAR",
        "END:VEVENT\r\nBEGIN:VTODO\r\nUID:../../etc/passwd\r\nEND:VTODO\r\nEND:VCALENDAR",
    ));
    let folder = Store::new("icalendar:{}/", "calendar");
    folder.load(&from);
    assert_eq!(folder.sorted(), from.sorted());
    let mut names: Vec<_> =
        fs::read_dir(&folder.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["%2E.%2F..%2Fetc%2Fpasswd.ics", ".calendar.ics", ".deltabus", "meeting@example.org.ics"]);
    let event = folder.path.join("meeting@example.org.ics");
    let text = fs::read_to_string(&event).unwrap();
    assert_eq!(text.matches("TZID:Europe/Oslo").count(), 1, "{text}");
    assert!(text.contains("CALSCALE:GREGORIAN"), "the calendar's own lines are in each file");
    // One edit, one line of one file.
    let todo = fs::read(folder.path.join(&names[0])).unwrap();
    folder.set(KEY, "status", Value::text("CANCELLED")).unwrap();
    assert_eq!(changed(&text, &fs::read_to_string(&event).unwrap()), ["-STATUS:CONFIRMED", "+STATUS:CANCELLED"]);
    assert_eq!(fs::read(folder.path.join(&names[0])).unwrap(), todo);
    folder.remove(KEY).unwrap();
    assert!(!event.exists());
    assert_eq!(folder.keys(), ["calendar:", "tzid:Europe/Oslo", "../../etc/passwd"]);
}

#[test]
fn a_folder_of_other_programs_comes_back() {
    let folder = Store::new("icalendar:{}/", "calendar");
    fs::create_dir(&folder.path).unwrap();
    fs::write(folder.path.join("a.ics"), MEETING).unwrap();
    let other =
        MEETING.replace("TZNAME:CET", "TZNAME:MEZ").replace("UID:meeting", "UID:other").replace("-//a//b", "-//c//d");
    fs::write(folder.path.join("b.ICS"), &other).unwrap();
    fs::write(folder.path.join("notes.txt"), "no calendar").unwrap();
    fs::write(folder.path.join(".hidden.ics"), "no calendar").unwrap();
    assert_eq!(folder.keys().len(), 4, "two zones, two events: {:?}", folder.keys());
    let database = Store::new("sqlite:{}", "calendar.db");
    database.load(&folder);
    let back = Store::new("icalendar:{}/", "calendar");
    back.load(&database);
    assert_eq!(folder.sorted(), back.sorted());
    for (name, content) in [("meeting@example.org.ics", MEETING.to_owned()), ("other@example.org.ics", other)] {
        let made = |line: &String| !line.starts_with("UID:tzid:");
        let lines =
            logical(&fs::read(back.path.join(name)).unwrap()).into_iter().filter(made).collect::<Vec<_>>().join("\n");
        assert_eq!(tree(lines.as_bytes()), tree(content.as_bytes()), "{name}");
    }
    // And into one file.
    let one = Store::new("icalendar:{}", "calendar.ics");
    one.load(&folder);
    assert_eq!(folder.sorted(), one.sorted());
    assert_eq!(one.text().matches("BEGIN:VCALENDAR\r\nVERSION").count(), 1, "{}", one.text());
    // A zone outlives the event that it came with.
    folder.remove(KEY).unwrap();
    folder.remove("other@example.org").unwrap();
    assert_eq!(folder.keys().len(), 2, "{:?}", folder.keys());
    assert!(folder.path.join("notes.txt").exists());
    // What is linked to is neither read nor taken for gone.
    std::os::unix::fs::symlink("/etc/passwd", folder.path.join("link.ics")).unwrap();
    assert!(matches!(folder.interface.scan(None), Err(Error::Unsupported { .. })));
}

/// Lines of a component as programs, or nobody, would write them.
fn line() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "SUMMARY",
        "DESCRIPTION",
        "DTSTART",
        "DTEND",
        "DUE",
        "EXDATE",
        "RDATE",
        "CATEGORIES",
        "ATTENDEE",
        "ATTACH",
        "COMMENT",
        "PRIORITY",
        "RRULE",
        "GEO",
        "URL",
        "X-ODD",
        "x-lower",
        "ORGANIZER",
        "RELATED-TO",
        "SEQUENCE",
        "CREATED",
        "a.SUMMARY",
        "TRIGGER",
        "Location",
    ]);
    let parameter = prop::sample::select(vec![
        "",
        "",
        "",
        "",
        ";VALUE=DATE",
        ";TZID=Europe/Oslo",
        ";TZID=\"Europe/Oslo\"",
        ";LANGUAGE=de",
        ";X-A=1,\"b;c\"",
        ";X-A=^'x^n",
        ";BARE",
        ";ENCODING=BASE64;VALUE=BINARY",
        ";X=1;X=2",
        ";x=\"\"",
        ";VALUE=DATE-TIME;TZID=Z",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "",
            "20240101",
            "20240101T000000",
            "20240101T000000Z",
            "20240101,20240102",
            "20240101T000000,20240102T000000",
            "20241301",
            "5",
            "05",
            "-1",
            "a\\, b",
            "a, b",
            "a\\nb\\;c",
            "a\\",
            "mailto:x@example.org",
            "aGk=",
            "a:b;c",
        ])
        .prop_map(str::to_owned),
        "[ -~é€]{0,90}",
    ];
    (name, parameter, value).prop_map(|(name, parameter, value)| format!("{name}{parameter}:{value}"))
}

/// A component with lines and components inside.
fn component(name: &'static str, inside: Option<BoxedStrategy<String>>) -> BoxedStrategy<String> {
    let lines = prop::collection::vec(line(), 0..8);
    let inside = match inside {
        Some(inside) => prop::collection::vec(inside, 0..3).boxed(),
        None => Just(Vec::new()).boxed(),
    };
    (lines, inside)
        .prop_map(move |(lines, inside)| {
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            format!("BEGIN:{name}\r\n{lines}{}END:{name}\r\n", inside.concat())
        })
        .boxed()
}

/// A calendar with a few events, the first with an override.
fn calendar() -> impl Strategy<Value = String> {
    let nested = || prop_oneof![component("VALARM", None), component("X-IN", Some(component("X-DEEP", None)))].boxed();
    let event = || component("VEVENT", Some(nested()));
    (event(), event(), event(), any::<bool>()).prop_map(|(first, second, other, version)| {
        let with =
            |event: &str, lines: &str| event.replacen("BEGIN:VEVENT\r\n", &format!("BEGIN:VEVENT\r\n{lines}"), 1);
        format!(
            "BEGIN:VCALENDAR\r\n{}{}{}{}END:VCALENDAR\r\n",
            if version { "VERSION:2.0\r\n" } else { "" },
            with(&first, "UID:a\r\n"),
            with(&second, "UID:a\r\nRECURRENCE-ID:20240101T000000Z\r\n"),
            with(&other, "UID:b\r\n"),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_calendar_comes_back(content in calendar()) {
        let from = Store::calendar(&content);
        let back = there_and_back(&from);
        prop_assert_eq!(from.sorted(), back.sorted());
        let folder = Store::new("icalendar:{}/", "calendar");
        folder.load(&from);
        prop_assert_eq!(from.sorted(), folder.sorted());
    }

    #[test]
    fn an_edit_of_any_calendar_leaves_the_rest(content in calendar(), text in "[ -~é\n]{0,20}", field in 0..6usize) {
        let field = ["summary", "description", "start", "priority", "categories", "organizer"][field];
        let store = Store::calendar(&content);
        let (collection, before) = store.read().unwrap();
        let slot = collection.schema.slot(field).unwrap();
        store.set("b", field, Value::text(text.as_str())).unwrap();
        let (after_collection, after) = store.read().unwrap();
        prop_assert_eq!(&collection.schema, &after_collection.schema);
        let projected = store.project(Value::text(text), &collection.schema.fields[slot]);
        for (before, after) in before.iter().zip(&after) {
            for at in 0..before.len() {
                let expected = if at == slot && before[0] == Value::text("b") { &projected } else { &before[at] };
                prop_assert_eq!(expected, &after[at]);
            }
        }
        // Everything but the lines of the field is what it was.
        let start = store.text().find("UID:b").unwrap();
        prop_assert_eq!(&content[..content.find("UID:b").unwrap()], &store.text()[..start]);
    }

    #[test]
    fn no_file_makes_it_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "BEGIN:VCALENDAR\n", "END:VCALENDAR\n", "BEGIN:VEVENT\n", "END:VEVENT\n", "BEGIN:VTIMEZONE\n", "END:VTIMEZONE\n",
        "UID:a\n", "UID:b\n", "TZID:a\n", "RECURRENCE-ID:1\n", "X-DELTABUS-FIELD;X-NAME=uid:c\n", "X-DELTABUS-FIELD;X-KIND=json:[\"a\"\\,1]\n",
        "X-DELTABUS-FIELD;X-NAME=overrides;X-KIND=list:[1]\n", "X-DELTABUS-OVERRIDE:TRUE\n", "VERSION:1.0\n", " x\n", "\n", "\r",
        "SUMMARY;ENCODING=QUOTED-PRINTABLE:a=\n", "DTSTART;TZID=a:20240101T000000\n", "BEGIN:VALARM\n", "END:VALARM\n", "BEGIN:", "\u{feff}", "é",
    ]), 0..24)) {
        let content = pieces.concat();
        for store in [Store::calendar(&content), Store::folder(&[&content])] {
            let _ = store.read();
        }
    }

    #[test]
    fn what_is_done_to_one_record_is_done_to_no_other(
        first in prop::collection::vec(object(), 0..4),
        second in prop::collection::vec(object(), 0..4),
        third in prop::collection::vec(object(), 0..3),
        steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..5),
    ) {
        let files = [first.concat(), second.concat(), third.concat()];
        for store in [Store::calendar(files.concat()), Store::folder(&[&files[0], &files[1], &files[2]])] {
            if store.read().is_err() {
                continue;
            }
            for (index, removes) in &steps {
                let keys = store.keys();
                if keys.is_empty() {
                    break;
                }
                let key = index.get(&keys);
                let before = store.sorted().1;
                if *removes {
                    store.remove(key).unwrap();
                } else {
                    store.set(key, "summary", Value::text("x")).unwrap();
                    prop_assert_eq!(store.value(key, "summary"), Value::text("x"));
                }
                let others = |rows: Vec<(String, String)>| rows.into_iter().filter(|(other, _)| other != key).collect::<Vec<_>>();
                let after = store.sorted().1;
                // What follows from the place of a record follows from the calendar's own record and from time zones.
                let own = |rows: Vec<(String, String)>| {
                    let follows = |line: &&str| !line.starts_with("calendar:") && !line.starts_with("timezones:");
                    let said = |said: String| said.lines().filter(follows).collect::<String>();
                    rows.into_iter().map(|(key, value)| (key, said(value))).collect::<Vec<_>>()
                };
                let (before, after) = (others(before), others(after));
                match key.starts_with("calendar:") || key.starts_with("tzid:") || key.starts_with("no-uid:") {
                    true => prop_assert_eq!(own(before), own(after), "{} {} in\n{}", key, removes, store.all_text()),
                    false => prop_assert_eq!(before, after, "{} {} in\n{}", key, removes, store.all_text()),
                }
            }
        }
    }

    #[test]
    fn any_values_in_any_fields_are_read_back(
        rows in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), odd_value()), 0..7), 1..4),
        folder in any::<bool>(),
        again in prop::collection::vec((any::<prop::sample::Index>(), odd_value()), 1..4),
    ) {
        let store = Store::new(if folder { "icalendar:{}/" } else { "icalendar:{}" }, "calendar");
        let (mut collection, _) = Store::calendar("").read().unwrap();
        let count = collection.schema.fields.len();
        for (at, name) in ["rooms", "recurrence_id", "action"].into_iter().enumerate() {
            collection.schema.fields.push(Field::new(name, None, (count + at) as u32));
        }
        let fields = collection.schema.fields.clone();
        let place = |index: &prop::sample::Index| 1 + index.index(fields.len() - 1);
        let row_of = |at: usize, set: &[(prop::sample::Index, Value)]| {
            let mut row = vec![Value::Absent; fields.len()];
            row[0] = Value::text(format!("key {at}"));
            for (index, value) in set {
                row[place(index)] = value.clone();
            }
            let projected: Vec<_> = row.into_iter().zip(&fields).map(|(value, field)| store.project(value, field)).collect();
            for (value, field) in projected.iter().zip(&fields) {
                assert_eq!(store.project(value.clone(), field), *value, "projecting twice: {}", field.name);
            }
            projected
        };
        let mut rows: Rows = rows.iter().enumerate().map(|(at, set)| row_of(at, set)).collect();
        let mut records = Loading { collection: &collection, rows: rows.iter(), key: Vec::new(), row: Row::default() };
        store.stage(&collection, Action::Load(&mut records)).unwrap();
        prop_assert_eq!(store.said(), said(&collection, &rows), "{}", store.all_text());
        // And edited.
        let mut changed = Vec::new();
        for (index, value) in &again {
            let slot = place(index);
            rows[0][slot] = store.project(value.clone(), &fields[slot]);
            changed.push(slot as u32);
        }
        let row = Row::of(&rows[0]);
        let key = collection.schema.key_of(row.as_bytes(), 0);
        store.stage(&collection, Action::Write(&[RecordWrite::Put { key, row, changed }])).unwrap();
        prop_assert_eq!(store.said(), said(&collection, &rows), "{}", store.all_text());
    }
}

/// A calendar object, or components outside any; some have no UID, and equals and opposites occur.
fn object() -> impl Strategy<Value = String> {
    let lines = prop::sample::select(vec![
        "UID:a\n",
        "UID:b\n",
        "UID:c\n",
        "RECURRENCE-ID:20240101T000000Z\n",
        "RECURRENCE-ID:20240102T000000Z\n",
        "SUMMARY:y\n",
        "LOCATION:z\n",
        "DTSTART;TZID=a:20240101T000000\n",
        "DTSTART;TZID=b:20240101T000000\n",
        "X-DELTABUS-FIELD;X-NAME=rooms;X-KIND=integer:1\n",
        "X-DELTABUS-OVERRIDE:TRUE\n",
        "X-DELTABUS-FIELD;X-NAME=calendar;X-KIND=absent:\n",
        "BEGIN:VALARM\nACTION:AUDIO\nEND:VALARM\n",
    ]);
    let item = (prop::sample::select(vec!["VEVENT", "VEVENT", "VTODO", "X-A"]), prop::collection::vec(lines, 0..4))
        .prop_map(|(name, lines)| format!("BEGIN:{name}\n{}END:{name}\n", lines.concat()));
    let zone =
        (prop::sample::select(vec!["TZID:a\n", "TZID:b\n", ""]), prop::sample::select(vec!["", "X-A:1\n", "X-A:2\n"]))
            .prop_map(|(zone, line)| format!("BEGIN:VTIMEZONE\n{zone}{line}END:VTIMEZONE\n"));
    let unit = prop_oneof![2 => item, 1 => zone];
    let header = prop::sample::select(vec![
        None,
        Some(""),
        Some("VERSION:2.0\n"),
        Some("VERSION:2.0\nPRODID:-//deltabus//deltabus//EN\n"),
        Some("X-B:1\n"),
    ]);
    (header, prop::collection::vec(unit, 0..4)).prop_map(|(header, units)| match header {
        None => units.concat(),
        Some(header) => format!("BEGIN:VCALENDAR\n{header}{}END:VCALENDAR\n", units.concat()),
    })
}

/// Values that mean something to some field, and others.
fn odd_value() -> impl Strategy<Value = Value> {
    use deltabus_record::value::{Date, Instant, Time};
    let word = || {
        prop_oneof![
            prop::sample::select(vec![
                "",
                "event",
                "todo",
                "timezone",
                "calendar",
                "vevent",
                "X-A",
                "x y",
                "Europe/Oslo",
                "a:b;\"c\"",
                "20240101T000000Z",
                "2024-01-01",
                "2024-01-01T00:00:00",
                "5",
                "[]",
                "{}",
                "[\"a\"]",
                "SUMMARY:x",
                "SUMMARY;LANGUAGE=de",
                "DTSTART;TZID;X-A=1",
                "DTSTART;VALUE=DATE",
                "RECURRENCE-ID:1",
                "UID:other",
                "BEGIN:VEVENT",
                "END:VEVENT",
                "X-A:1",
                " X-A:1",
                "X-A;ENCODING=QUOTED-PRINTABLE:a=",
                "SUMMARY;ENCODING=QUOTED-PRINTABLE",
                "X-DELTABUS-FIELD;X-NAME=summary:x",
                "X-DELTABUS-OVERRIDE:TRUE",
                "VERSION:2.0",
                "BEGIN:VCALENDAR",
                "PRODID:x",
                "no line",
                "a\r\nb",
                "a\nb",
                "\u{0}",
                "\u{85}",
                "tzid:Europe/Oslo",
            ])
            .prop_map(str::to_owned),
            any::<String>(),
        ]
    };
    let scalar = move || {
        prop_oneof![
            6 => word().prop_map(Value::Text),
            1 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::Bool),
            1 => any::<i64>().prop_map(Value::Integer),
            1 => any::<f64>().prop_map(Value::Float),
            1 => prop::collection::vec(any::<u8>(), 0..5).prop_map(Value::Bytes),
            1 => (-100_000..3_000_000i32).prop_map(|days| Value::Date(Date(days))),
            1 => (-100_000..100_000i32, 0..86_400u64).prop_map(|(days, seconds)| Value::DateTime(Date(days), Time(seconds * 1_000_000_000))),
            1 => (-10_000_000_000i64..10_000_000_000, 0..2u32, -50_000..50_000i32)
                .prop_map(|(seconds, nanos, offset_seconds)| Value::Instant(Instant { seconds, nanos, offset_seconds })),
        ]
    };
    let name = || {
        prop::sample::select(vec![
            "value",
            "values",
            "zone",
            "parameters",
            "component",
            "properties",
            "components",
            "summary",
            "start",
            "start_zone",
            "recurrence_id",
            "recurrence_zone",
            "alarms",
            "overrides",
            "action",
            "trigger",
            "other",
            "uid",
            "CN",
            "ROLE",
            "x y",
            "description",
            "calendar",
        ])
    };
    scalar().prop_recursive(4, 24, 4, move |inner| {
        let distinct = |members: Vec<(&str, Value)>| {
            let mut map: Vec<(String, Value)> = Vec::new();
            for (name, value) in members {
                if !map.iter().any(|(known, _)| known == name) {
                    map.push((name.to_owned(), value));
                }
            }
            Value::Map(map)
        };
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::vec((name(), inner.clone()), 0..5).prop_map(distinct),
            // Shapes that fields have.
            (inner.clone(), name(), inner.clone()).prop_map(move |(value, name, parameter)| Value::Map(vec![
                ("value".to_owned(), value),
                ("parameters".to_owned(), distinct(vec![(name, parameter)])),
            ])),
            (word(), prop::collection::vec(word(), 0..3)).prop_map(|(name, lines)| Value::List(vec![Value::Map(
                vec![
                    ("component".to_owned(), Value::Text(name)),
                    ("properties".to_owned(), Value::List(lines.into_iter().map(Value::Text).collect())),
                ]
            )])),
            prop::collection::vec(word(), 0..4).prop_map(|lines| {
                let begin = std::iter::once(Value::text("BEGIN:VCALENDAR"));
                Value::List(begin.chain(lines.into_iter().map(Value::Text)).collect())
            }),
        ]
    })
}

/// Nothing to be done does nothing: not even an empty file gets a calendar object.
#[test]
fn a_file_without_a_calendar_stays_as_it_is_until_something_is_written() {
    for content in ["", "BEGIN:VEVENT\nUID:1\nEND:VEVENT", "\r\n"] {
        let store = Store::calendar(content);
        let (collection, _) = store.read().unwrap();
        let stamp = store.interface.stamp().unwrap();
        let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&[]) }];
        store.interface.stage(&mut writes, &stamp, None, &NoContents).unwrap().commit().unwrap();
        assert_eq!(store.text(), content);
    }
}
