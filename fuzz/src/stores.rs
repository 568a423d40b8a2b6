//! Files that somebody else wrote: each read as a source, then written as a destination.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Extent, Fingerprint, Interface, Location, NoContents, RecordWrite, open,
};
use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, KeySpec};
use deltabus_record::value::Value;

use crate::input::Input;

/// Records of a file that are kept in mind while it is edited; files of more are only read.
const RECORDS_MAX: usize = 4_096;

/// Records of which the position is asked: that is for messages, and may count lines from the beginning.
const POSITIONS: usize = 16;

thread_local! {
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// A folder that goes with the process, in memory where the system has such.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("a folder for temporary files")
}

/// CSV and TSV: the options, then the file.
pub(crate) fn csv(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let interface = input.pick(&["csv", "tsv"]);
    let key = input.pick(&["", "key=id", "key=1", "key=id,name"]);
    let types = input.pick(&["", "types=infer", "types=id:integer,name:text", "types=id:decimal,name:bytes,a:list"]);
    let header = input.pick(&["", "header=no"]);
    let delimiter = input.pick(&["", "delimiter=|", "delimiter=%09", "delimiter=a"]);
    let encoding =
        input.pick(&["", "encoding=utf-16le", "encoding=utf-16be", "encoding=latin1", "encoding=windows-1252"]);
    let markers = input.pick(&["", "null=", "absent=", "null=NULL&absent=-"]);
    let options = [key, types, header, delimiter, encoding, markers];
    // Where the cells tell the kinds, another cell may make others of them.
    let edit = if types == "types=infer" { Edit::Counted } else { Edit::Exact };
    attack(&location(interface, "records.csv", &options), input, edit);
}

/// JSON in all its shapes: the options, then the file.
pub(crate) fn json(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let options = input.pick(&[
        "",
        "key=id",
        "key=id&at=/data/people",
        "shape=object&key=id",
        "at=/a~1b/0",
        "shape=tables",
        "shape=tables&key.people=id",
        "tables=people,pets",
        "lines",
        "lines&key=id",
    ]);
    match options.strip_prefix("lines") {
        Some(options) => {
            let options = options.trim_start_matches('&');
            attack(&location("ndjson", "records.ndjson", &[options]), input, Edit::Exact);
        }
        None => attack(&location("json", "records.json", &[options]), input, Edit::Exact),
    }
}

/// Cards: the options, then the file.
pub(crate) fn vcard(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let version = input.pick(&["", "version=3.0", "version=2.1"]);
    let encoding =
        input.pick(&["", "encoding=utf-16le", "encoding=utf-16be", "encoding=latin1", "encoding=windows-1252"]);
    attack(&location("vcard", "records.vcf", &[version, encoding]), input, Edit::Loose);
}

/// Calendars: the options, then the file.
pub(crate) fn icalendar(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let encoding =
        input.pick(&["", "encoding=utf-16le", "encoding=utf-16be", "encoding=latin1", "encoding=windows-1252"]);
    attack(&location("icalendar", "records.ics", &[encoding]), input, Edit::Loose);
}

/// A database's file.
pub(crate) fn sqlite(bytes: &[u8]) {
    attack(&location("sqlite", "records.db", &[]), Input::new(bytes), Edit::None);
}

/// What is asked of an edit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    /// It does that edit and no other.
    Exact,
    /// What other records are may follow it, how many there are doesn't.
    Counted,
    /// Other fields of the same record may follow it.
    Loose,
    /// None is made: what the file looks like is the store's own business.
    None,
}

fn location(interface: &str, file: &str, options: &[&str]) -> Location {
    let options: Vec<_> = options.iter().filter(|option| !option.is_empty()).copied().collect();
    let path = path(file);
    let options = options.join("&");
    Location::parse(&format!("{interface}:{}?{options}", path.display())).expect("a location")
}

fn path(file: &str) -> PathBuf {
    FOLDER.with(|folder| folder.get_or_init(scratch).path().join(file))
}

/// What a scan found: collections, and each record's row by key and fingerprint.
struct Found {
    collections: Vec<Collection>,
    records: Vec<Vec<(Key, Row)>>,
    fingerprints: Vec<Fingerprint>,
    whole: bool,
}

fn scan(interface: &dyn Interface) -> Result<Found, deltabus_interfaces::Error> {
    let mut scan = interface.scan(None)?;
    let collections = scan.collections().to_vec();
    let mut found = Found { collections, records: Vec::new(), fingerprints: Vec::new(), whole: true };
    let mut row = RowBuilder::default();
    for (index, collection) in found.collections.iter().enumerate() {
        let _ = scan.layout(index);
        scan.start(index, Extent::Whole)?;
        let mut records = Vec::new();
        let mut counts: BTreeMap<Row, u32> = BTreeMap::new();
        while let Some(fingerprint) = scan.next()? {
            found.fingerprints.push(fingerprint);
            row.clear();
            match scan.decode(&mut row)? {
                Decoded::Record if found.fingerprints.len() <= RECORDS_MAX => {
                    let row = Row::from_bytes(row.as_bytes()).expect("a scan gives canonical rows");
                    assert!(row.values().len() <= collection.schema.fields.len(), "no more values than fields");
                    let occurrence = match collection.schema.key {
                        KeySpec::WholeRow => {
                            let count = counts.entry(row.clone()).or_default();
                            *count += 1;
                            *count - 1
                        }
                        KeySpec::Fields(_) => 0,
                    };
                    records.push((collection.schema.key_of(row.as_bytes(), occurrence), row));
                }
                Decoded::Record | Decoded::Unread => found.whole = false,
            }
            if found.fingerprints.len() <= POSITIONS {
                let _ = scan.position();
            }
        }
        found.records.push(records);
    }
    found.whole &= scan.unread().is_empty();
    scan.finish()?;
    Ok(found)
}

fn attack(location: &Location, mut input: Input<'_>, edit: Edit) {
    let choice = input.byte();
    let what = (input.byte(), input.byte());
    let bytes = input.rest();
    std::fs::write(&location.path, bytes).expect("a folder for temporary files");
    let interface = open(location).expect("options that there are");
    let interface = interface.as_ref();
    let stamp = interface.stamp().expect("the file is there");
    let found = match scan(interface) {
        Ok(found) => found,
        Err(error) => {
            let error = error.to_string();
            assert!(!error.is_empty());
            return;
        }
    };
    let again = scan(interface).expect("what was read is read again");
    assert_eq!(again.fingerprints, found.fingerprints, "equal records have equal fingerprints");
    assert!(again.records == found.records && again.collections == found.collections, "the same is the same");
    if !interface.transactional() {
        // Nothing to be done does nothing.
        let mut writes: Vec<_> = found.collections.iter().map(|it| writing(it, &[])).collect();
        let staged = interface.stage(&mut writes, &stamp, None, &NoContents);
        if let Some(content) = staged.ok().and_then(|staged| staged.content()) {
            assert_eq!(content.0, *blake3::hash(bytes).as_bytes(), "what isn't changed stays byte for byte");
        }
    }
    if edit == Edit::None || !found.whole || found.records.iter().all(Vec::is_empty) {
        return;
    }
    edit_one(interface, &found, choice, what, edit);
}

fn writing<'a>(collection: &'a Collection, writes: &'a [RecordWrite]) -> CollectionWrite<'a> {
    CollectionWrite { collection, dropped: &[], action: Action::Write(writes) }
}

/// Text that means something to somebody.
const HOSTILE: &[&str] = &[
    "",
    "x",
    " ",
    "=cmd|' /C calc'!A0",
    "-1",
    "a\"b",
    "\"",
    "'; DROP TABLE people; --",
    "two\nlines",
    "a\r\nb",
    "\r",
    "\\N",
    "\\A",
    "null",
    "../../etc/passwd",
    "\u{202e}abc\u{301}",
    "a,b;c\td|e",
    "BEGIN:VCARD",
    "END:VCARD\r\nBEGIN:VCARD",
    "END:VEVENT",
    "FREQ=SECONDLY;COUNT=99999999999",
    "{\"a\":[1]}",
    "99999999999999999999999999999999",
    "1e999999999",
    "2024-02-30",
    "\u{feff}",
    "\u{0}",
    "😀",
    "=20=\n",
    "ä",
];

/// Changes, removes or adds one record, and looks at what became of all.
fn edit_one(interface: &dyn Interface, found: &Found, choice: u8, (which, value): (u8, u8), edit: Edit) {
    let Some(at) = found.records.iter().position(|records| !records.is_empty()) else { return };
    let distinct: HashSet<_> = found.records[at].iter().map(|(key, _)| key).collect();
    if distinct.len() < found.records[at].len() {
        // Whoever reads on says so.
        return;
    }
    let collection = &found.collections[at];
    let records = &found.records[at];
    let (key, row) = &records[usize::from(which) % records.len()];
    let keys: Vec<u32> = match &collection.schema.key {
        KeySpec::Fields(slots) => slots.clone(),
        KeySpec::WholeRow => Vec::new(),
    };
    let living: Vec<usize> = collection.schema.ordered().into_iter().map(|(slot, _)| slot).collect();
    if living.is_empty() {
        return;
    }
    let slot = living[usize::from(choice >> 2) % living.len()];
    let mut values = row.values();
    values.resize(collection.schema.fields.len(), Value::Absent);
    let wanted = Value::text(HOSTILE[usize::from(value) % HOSTILE.len()]);
    let field = &collection.schema.fields[slot];
    let projected = match interface.verbatim(field).contains(wanted.kind()) {
        true => wanted,
        false => match interface.project(wanted, field) {
            Ok(projected) => projected,
            Err(_) => return,
        },
    };
    let remove = RecordWrite::Remove { key: key.clone(), row: row.clone() };
    let (writes, after) = match choice & 3 {
        0 => (vec![remove], None),
        _ => {
            let before = std::mem::replace(&mut values[slot], projected);
            let unchanged = before == values[slot];
            let after = Row::of(&values);
            let is_key = keys.is_empty() || keys.contains(&(slot as u32));
            let after_key = collection.schema.key_of(after.as_bytes(), 0);
            if is_key && !unchanged && records.iter().any(|(_, other)| *other == after)
                || !keys.is_empty() && after_key != *key && records.iter().any(|(other, _)| *other == after_key)
            {
                return;
            }
            let changed = match is_key && !unchanged {
                // Another key is another record.
                true => (0..values.len() as u32).collect(),
                false => vec![slot as u32],
            };
            let key = if is_key && !unchanged { after_key } else { key.clone() };
            let put = RecordWrite::Put { key, row: after.clone(), changed };
            match is_key && !unchanged {
                true => (vec![remove, put], Some(after)),
                false => (vec![put], Some(after)),
            }
        }
    };
    // A whole row that is put as it is would be one more.
    if keys.is_empty() && after.as_ref() == Some(row) {
        return;
    }
    let stamp = interface.stamp().expect("the file is there");
    let mut writing = [writing(collection, &writes)];
    let Ok(staged) = interface.stage(&mut writing, &stamp, None, &NoContents) else { return };
    let content = staged.content();
    if staged.commit().is_err() {
        return;
    }
    assert_eq!(interface.content().ok().flatten(), content, "the content is as staged");
    let next = scan(interface).expect("what was written is read");
    let mut left: Vec<_> = records.iter().filter(|(other, _)| other != key).cloned().collect();
    let mut now = match next.collections.iter().position(|it| it.name == collection.name) {
        Some(at) => by_names(collection, &next.collections[at], &next.records[at]),
        None => Vec::new(),
    };
    left.sort();
    now.sort();
    if edit == Edit::Loose {
        // The record itself may follow its own rules; what stands beside it is not touched.
        let others = now.iter().filter(|(key, _)| left.iter().any(|(other, _)| other == key)).count();
        assert!(others == left.len(), "all others are there: {writes:?}\n{left:?}\n{now:?}");
        for (key, row) in &left {
            let stands = now.iter().any(|other| other.0 == *key && other.1 == *row);
            assert!(stands, "others are as they were: {writes:?}\n{key:?} {row:?}\n{now:?}");
        }
        return;
    }
    if let Some(after) = after {
        left.push((collection.schema.key_of(after.as_bytes(), 0), after));
    }
    // Among whole rows the count says which is which.
    let rows = |records: &[(Key, Row)]| {
        let mut rows: Vec<_> = records.iter().map(|(_, row)| row.clone()).collect();
        rows.sort();
        rows
    };
    match edit {
        Edit::Counted => assert_eq!(left.len(), now.len(), "an edit is of one record: {writes:?}"),
        _ => assert_eq!(rows(&left), rows(&now), "an edit does itself and nothing else: {writes:?}"),
    }
}

/// Records in the slots of the schema as it was: fields come and go with what is written.
fn by_names(before: &Collection, now: &Collection, records: &[(Key, Row)]) -> Vec<(Key, Row)> {
    let slots = before.schema.slots_in(&now.schema);
    let rearranged = |(_, row): &(Key, Row)| {
        let values: Vec<_> = slots.iter().map(|slot| slot.map_or(Value::Absent, |slot| row.value(slot))).collect();
        Row::of(&values)
    };
    let mut counts: BTreeMap<Row, u32> = BTreeMap::new();
    let keyed = |row: Row| {
        let count = counts.entry(row.clone()).or_default();
        *count += 1;
        let occurrence = if before.schema.key == KeySpec::WholeRow { *count - 1 } else { 0 };
        (before.schema.key_of(row.as_bytes(), occurrence), row)
    };
    records.iter().map(rearranged).map(keyed).collect()
}
