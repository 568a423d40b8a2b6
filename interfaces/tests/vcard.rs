//! vCard files as phones, address books and servers write them: read with all their oddities, carried through other formats
//! without a loss, and written back with nothing changed but what was to be.

use std::fs;

use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Error, Extent, Interface, Location, NoContents, RecordWrite, Records, open,
};
use deltabus_record::mapping::{Lens, Mapping};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, Schema};
use deltabus_record::value::{Date, Kind, Value};
use deltabus_record::{json, text};
use proptest::prelude::*;

const APPLE: &str = "BEGIN:VCARD\r\nVERSION:3.0\r\nPRODID:-//Apple Inc.//macOS 14.4//EN\r\nN:Hansen;Åse;Marie;Dr.;\r\nFN:Dr. Åse Marie Hansen\r\nNICKNAME:Åsi\r\nORG:Fjord & Sønner;Salg;\r\nTITLE:Leder\\, nord\r\nEMAIL;type=INTERNET;type=HOME;type=pref:ase@example.no\r\nEMAIL;type=INTERNET;type=WORK:ase.hansen@example.com\r\nTEL;type=CELL;type=VOICE;type=pref:+47 900 00 000\r\nitem1.TEL:+47 22 00 00 00\r\nitem1.X-ABLabel:_$!<HomePage>!$_\r\nitem2.ADR;type=HOME;type=pref:;;Storgata 1\\nOppgang B;Oslo;;0155;Norge\r\nitem2.X-ABADR:no\r\nitem3.URL;type=pref:http\\://example.no/\r\nNOTE:Linje en\\nLinje to\\; ja\r\nBDAY;value=date:1985-04-12\r\nX-AIM;type=HOME;type=pref:asehansen\r\nPHOTO;ENCODING=b;TYPE=JPEG:/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQN\r\n DAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/\r\n 2wBDAQkJ\r\nREV:2024-03-01T10:00:00Z\r\nUID:4fbe8971-0bc3-424c-9c26-36c3e1eff6b1\r\nX-ABUID:4FBE8971\\:ABPerson\r\nEND:VCARD\r\n";

const GOOGLE: &str = "BEGIN:VCARD\nVERSION:3.0\nFN:John Doe\nN:Doe;John;;;\nEMAIL;TYPE=INTERNET:john@example.com\nTEL;TYPE=CELL:+1-555-0100\nADR;TYPE=HOME:;;1 Main St, Suite 5;Springfield;IL;62701;USA\nitem1.ORG:ACME\\, Inc.;R&D\nitem1.X-ABLabel:\nBDAY:19700101\nCATEGORIES:myContacts,Friends\nPHOTO:https://lh3.example.com/photo.jpg\nEND:VCARD\n";

const OUTLOOK: &str = "BEGIN:VCARD\r\nVERSION:2.1\r\nN;CHARSET=windows-1252;ENCODING=QUOTED-PRINTABLE:M=FCller;J=F6rg;;;\r\nFN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:J=C3=B6rg M=C3=BCller\r\nORG:Weinhaus\r\nTEL;WORK;VOICE:+49 30 1\r\nTEL;HOME;PREF:+49 30 2\r\nADR;WORK;ENCODING=QUOTED-PRINTABLE:;;Hauptstra=DFe 1=0D=0AHinterhaus;Berlin;;10115;Deutschland=\r\n\r\nLABEL;WORK;ENCODING=QUOTED-PRINTABLE;CHARSET=ISO-8859-1:Hauptstra=DFe 1=0D=0A=\r\n10115 Berlin\r\nURL;WORK:http://example.de/\r\nEMAIL;PREF;INTERNET:joerg@example.de\r\nNOTE:A note that is long enough to be folded as RFC 822 has it, at a\r\n space\r\nPHOTO;TYPE=GIF;ENCODING=BASE64:\r\n R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7\r\n\r\nAGENT:\r\nBEGIN:VCARD\r\nVERSION:2.1\r\nFN:The Agent\r\nTEL;CELL:1\r\nEND:VCARD\r\nREV:20040101T120000Z\r\nUID:outlook-1\r\nEND:VCARD\r\n";

const RFC6350: &str = "BEGIN:VCARD\r\nVERSION:4.0\r\nUID:urn:uuid:4fbe8971-0bc3-424c-9c26-36c3e1eff6b1\r\nKIND:individual\r\nFN:Simon Perreault\r\nFN;LANGUAGE=fr;PREF=2:Simon Perrault\r\nN;SORT-AS=\"Perreault,Simon\":Perreault;Simon;;;ing. jr,M.Sc.\r\nBDAY:--0203\r\nANNIVERSARY:20090808T1430-0500\r\nGENDER:M\r\nLANG;PREF=1:fr\r\nLANG;PREF=2:en\r\nORG;TYPE=work:Viagenie\r\nADR;TYPE=work;LABEL=\"Suite D2-630^n2875 Laurier\":;Suite D2-630;2875 Laurier;Quebec;QC;G1V 2M2;Canada\r\nTEL;VALUE=uri;TYPE=\"work,voice\";PREF=1:tel:+1-418-656-9254;ext=102\r\nTEL;VALUE=uri;TYPE=\"work,cell,voice,video,text\":tel:+1-418-262-6501\r\nEMAIL;TYPE=work:simon.perreault@viagenie.ca\r\nGEO;TYPE=work:geo:46.772673,-71.282945\r\nKEY;TYPE=work;VALUE=uri:http://www.viagenie.ca/simon.perreault/simon.asc\r\nTZ:-0500\r\nURL;TYPE=home:http://nomis80.org\r\nRELATED;TYPE=friend:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6\r\nRELATED;TYPE=contact;VALUE=text:Please contact my assistant\\, Jane.\r\nCLIENTPIDMAP:1;urn:uuid:53e374d9-337e-4727-8803-a1e9c14e0556\r\nNICKNAME;TYPE=work:Boss\r\nNICKNAME:Jim,Jimmie\r\nPHOTO:data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7\r\nLOGO;MEDIATYPE=image/svg+xml:https://example.org/logo.svg\r\nX-UNKNOWN;X-P=\"a:b\";X-Q=^^^':c;d\\,e\r\nEND:VCARD\r\n";

const NEXTCLOUD: &str = "BEGIN:VCARD\r\nVERSION:3.0\r\nPRODID:-//Sabre//Sabre VObject 4.5.4//EN\r\nUID:nextcloud-1\r\nFN:Kari Nordmann\r\nN:Nordmann;Kari;;;\r\nEMAIL;TYPE=HOME:kari@example.no\r\nTEL;TYPE=\"HOME,VOICE\":12345\r\nX-SOCIALPROFILE;TYPE=MASTODON:https://snabelen.no/@kari\r\nIMPP;TYPE=matrix:matrix:u/kari:example.no\r\nREV;VALUE=DATE-AND-OR-TIME:20240102T030405Z\r\nEND:VCARD\r\n";

const SAMPLES: [(&str, &str); 5] =
    [("apple", APPLE), ("google", GOOGLE), ("outlook", OUTLOOK), ("rfc 6350", RFC6350), ("nextcloud", NEXTCLOUD)];

/// A file in a folder of its own, and the interface to it.
struct Store {
    interface: Box<dyn Interface>,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Store {
    /// `location` has `{}` for the file.
    fn at(location: &str, content: Option<&[u8]>) -> Store {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cards.data");
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let location = location.replace("{}", path.to_str().unwrap());
        Store { interface: open(&Location::parse(&location).unwrap()).unwrap(), path, _folder: folder }
    }

    fn cards(content: impl AsRef<[u8]>) -> Store {
        Store::at("vcard:{}", Some(content.as_ref()))
    }

    fn read(&self) -> Result<(Collection, Vec<Vec<Value>>), Error> {
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

    /// The value of a field of the card at `at`.
    fn value(&self, at: usize, field: &str) -> Value {
        let (collection, rows) = self.read().unwrap();
        collection.schema.slot(field).map_or(Value::Absent, |slot| rows[at][slot].clone())
    }

    /// The same as JSON text; text as it is.
    fn shown(&self, at: usize, field: &str) -> String {
        match self.value(at, field) {
            Value::Text(text) => text,
            value => json::write(&value),
        }
    }

    fn bytes(&self) -> String {
        String::from_utf8(fs::read(&self.path).unwrap()).unwrap()
    }

    fn commit<'a>(&self, collection: &'a Collection, dropped: &'a [String], action: Action<'a>) -> Result<(), Error> {
        let stamp = self.interface.stamp()?;
        let mut writes = [CollectionWrite { collection, dropped, action }];
        self.interface.stage(&mut writes, &stamp, None, &NoContents)?.commit()?;
        Ok(())
    }

    /// Sets a field of the card at `at`, as an edit elsewhere would, and checks that just that is read back.
    fn set(&self, at: usize, field: &str, value: Value) {
        let (mut collection, rows) = self.read().unwrap();
        let slot = collection.schema.slot(field).unwrap_or_else(|| {
            let slot = collection.schema.fields.len();
            let new = deltabus_record::schema::Field::new(field, Some(value.kind()), slot as u32);
            collection.schema.fields.push(self.interface.field_for(&new));
            slot
        });
        let mut row = rows[at].clone();
        row.resize(collection.schema.fields.len(), Value::Absent);
        let value = self.projected(value, &collection.schema, slot);
        row[slot] = value;
        let mut expected = rows;
        expected[at] = row.clone();
        let write = put(&collection.schema, &row, &[slot as u32]);
        self.commit(&collection, &[], Action::Write(&[write])).unwrap();
        let (_, found) = self.read().unwrap();
        let trim = |rows: &[Vec<Value>]| rows.iter().map(|row| Row::of(row)).collect::<Vec<_>>();
        assert_eq!(trim(&found), trim(&expected));
    }

    fn projected(&self, value: Value, schema: &Schema, slot: usize) -> Value {
        let field = &schema.fields[slot];
        match self.interface.verbatim(field).contains(value.kind()) {
            true => value,
            false => {
                let once = self.interface.project(value, field).unwrap();
                let again = match self.interface.verbatim(field).contains(once.kind()) {
                    true => once.clone(),
                    false => self.interface.project(once.clone(), field).unwrap(),
                };
                assert_eq!(once, again, "projecting twice");
                once
            }
        }
    }

    /// Takes in all rows of `source`, in this store's terms.
    fn take(&self, source: &Store) {
        let (collection, rows) = source.read().unwrap();
        let mut own = collection.clone();
        for field in &mut own.schema.fields {
            *field = self.interface.field_for(field);
        }
        let rows: Vec<Vec<Value>> = rows
            .iter()
            .map(|row| {
                row.iter().enumerate().map(|(slot, value)| self.projected(value.clone(), &own.schema, slot)).collect()
            })
            .collect();
        let mut records = Rows { schema: &own.schema, rows: rows.iter(), key: Vec::new(), row: Row::default() };
        self.commit(&own, &[], Action::Load(&mut records)).unwrap();
    }
}

fn put(schema: &Schema, row: &[Value], changed: &[u32]) -> RecordWrite {
    let row = Row::of(row);
    RecordWrite::Put { key: schema.key_of(row.as_bytes(), 0), row, changed: changed.to_vec() }
}

struct Rows<'a> {
    schema: &'a Schema,
    rows: std::slice::Iter<'a, Vec<Value>>,
    key: Vec<u8>,
    row: Row,
}

impl Records for Rows<'_> {
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let Some(values) = self.rows.next() else { return Ok(false) };
        self.row = Row::of(values);
        self.key.clear();
        self.schema.key_into(self.row.as_bytes(), 0, &mut self.key);
        Ok(true)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn row(&self) -> &[u8] {
        self.row.as_bytes()
    }
}

/// The lines that only one of the two has.
fn differing<'a>(before: &'a str, after: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let only = |a: &'a str, b: &str| {
        let mut rest: Vec<&str> = b.split_inclusive('\n').collect();
        a.split_inclusive('\n')
            .filter(|line| match rest.iter().position(|other| other == line) {
                Some(at) => {
                    rest.remove(at);
                    false
                }
                None => true,
            })
            .collect()
    };
    (only(before, after), only(after, before))
}

fn json_value(text: &str) -> Value {
    json::read(text).unwrap()
}

#[test]
fn apple_cards_are_read() {
    let store = Store::cards(APPLE);
    let cases = [
        ("uid", "4fbe8971-0bc3-424c-9c26-36c3e1eff6b1"),
        ("version", "3.0"),
        ("fn", "Dr. Åse Marie Hansen"),
        ("n", r#"{"family":"Hansen","given":"Åse","additional":"Marie","prefixes":"Dr."}"#),
        ("nicknames", r#"["Åsi"]"#),
        ("org", r#"{"name":"Fjord & Sønner","units":["Salg",""]}"#),
        ("title", "Leder, nord"),
        (
            "emails",
            r#"[{"value":"ase@example.no","types":["INTERNET","HOME"],"pref":1},{"value":"ase.hansen@example.com","types":["INTERNET","WORK"]}]"#,
        ),
        (
            "phones",
            r#"[{"value":"+47 900 00 000","types":["CELL","VOICE"],"pref":1},{"value":"+47 22 00 00 00","group":"item1"}]"#,
        ),
        (
            "addresses",
            r#"[{"street":"Storgata 1\nOppgang B","locality":"Oslo","postcode":"0155","country":"Norge","types":["HOME"],"pref":1,"group":"item2"}]"#,
        ),
        ("note", "Linje en\nLinje to; ja"),
        ("rev", "2024-03-01T10:00:00Z"),
    ];
    for (field, expected) in cases {
        assert_eq!(store.shown(0, field), expected, "{field}");
    }
    assert_eq!(store.value(0, "bday"), text::parse("1985-04-12", Kind::Date).unwrap());
    assert!(matches!(store.value(0, "photo"), Value::Bytes(bytes) if bytes.starts_with(&[0xff, 0xd8])));
    assert!(store.shown(0, "other").contains(r#"{"name":"X-ABLabel","value":"_$!<HomePage>!$_","group":"item1"}"#));
    assert_eq!(store.value(0, "gender"), Value::Absent);
}

#[test]
fn outlook_cards_are_read() {
    let store = Store::cards(OUTLOOK.replace("Hauptstra=DFe 1=0D=0AHinterhaus", "Hauptstr. 1=0D=0AHinterhaus"));
    let cases = [
        ("n", r#"{"family":"Müller","given":"Jörg"}"#),
        ("fn", "Jörg Müller"),
        ("phones", r#"[{"value":"+49 30 1","types":["WORK","VOICE"]},{"value":"+49 30 2","types":["HOME"],"pref":1}]"#),
        (
            "addresses",
            r#"[{"street":"Hauptstr. 1\nHinterhaus","locality":"Berlin","postcode":"10115","country":"Deutschland","types":["WORK"]}]"#,
        ),
        ("labels", r#"[{"value":"Hauptstraße 1\n10115 Berlin","types":["WORK"]}]"#),
        ("note", "A note that is long enough to be folded as RFC 822 has it, at a space"),
        (
            "other",
            r#"[{"name":"AGENT","value":""},{"component":"BEGIN:VCARD\nVERSION:2.1\nFN:The Agent\nTEL;CELL:1\nEND:VCARD"}]"#,
        ),
    ];
    for (field, expected) in cases {
        assert_eq!(store.shown(0, field), expected, "{field}");
    }
    assert!(matches!(store.value(0, "photo"), Value::Bytes(bytes) if bytes.starts_with(b"GIF89a")));
    // Bytes that are not of the character set are never guessed at.
    let error = Store::cards(OUTLOOK).read().unwrap_err().to_string();
    assert!(error.contains(":8:36: these bytes are not UTF-8"), "{error}");
}

#[test]
fn the_examples_of_rfc_6350_are_read() {
    let store = Store::cards(RFC6350);
    let cases = [
        ("uid", "urn:uuid:4fbe8971-0bc3-424c-9c26-36c3e1eff6b1"),
        ("fn", r#"[{"value":"Simon Perreault"},{"value":"Simon Perrault","pref":2,"params":{"LANGUAGE":"fr"}}]"#),
        (
            "n",
            r#"{"family":"Perreault","given":"Simon","suffixes":["ing. jr","M.Sc."],"params":{"SORT-AS":"Perreault,Simon"}}"#,
        ),
        ("bday", "--0203"),
        ("anniversary", "20090808T1430-0500"),
        ("langs", r#"[{"value":"fr","pref":1},{"value":"en","pref":2}]"#),
        (
            "addresses",
            r#"[{"extended":"Suite D2-630","street":"2875 Laurier","locality":"Quebec","region":"QC","postcode":"G1V 2M2","country":"Canada","types":["work"],"label":"Suite D2-630\n2875 Laurier"}]"#,
        ),
        (
            "phones",
            r#"[{"value":"tel:+1-418-656-9254;ext=102","types":["work","voice"],"pref":1,"params":{"VALUE":"uri"}},{"value":"tel:+1-418-262-6501","types":["work","cell","voice","video","text"],"params":{"VALUE":"uri"}}]"#,
        ),
        ("geo", r#"{"value":"geo:46.772673,-71.282945","types":["work"]}"#),
        ("nicknames", r#"[{"values":["Boss"],"types":["work"]},"Jim","Jimmie"]"#),
        ("logo", r#"{"value":"https://example.org/logo.svg","media":"image/svg+xml"}"#),
    ];
    for (field, expected) in cases {
        assert_eq!(store.shown(0, field), expected, "{field}");
    }
}

#[test]
fn a_new_file_says_what_the_old_one_said() {
    for (name, sample) in SAMPLES {
        let sample = sample.replace("Hauptstra=DFe 1=0D=0AHinterhaus", "Hauptstr. 1");
        let source = Store::cards(&sample);
        let copy = Store::at("vcard:{}", None);
        copy.take(&source);
        let (_, before) = source.read().unwrap();
        let (_, after) = copy.read().unwrap();
        assert_eq!(before, after, "{name}: {}", copy.bytes());
        for line in copy.bytes().lines() {
            assert!(line.len() <= 75 || sample.contains("VERSION:2.1"), "{name}: {line}");
        }
    }
}

#[test]
fn values_come_back_from_where_there_is_nothing_but_text() {
    // As through SQLite and CSV: null for absent, text for all but bytes, then text for these too.
    for (name, sample) in SAMPLES {
        let sample = sample.replace("Hauptstra=DFe 1=0D=0AHinterhaus", "Hauptstr. 1");
        let source = Store::cards(&sample);
        let (collection, rows) = source.read().unwrap();
        for row in &rows {
            for (slot, value) in row.iter().enumerate() {
                let as_text = text::to_text(value).map_or(Value::Null, Value::Text);
                let back = source.projected(as_text, &collection.schema, slot);
                assert_eq!(back, *value, "{name}: {}", collection.schema.fields[slot].name);
            }
        }
    }
}

#[test]
fn an_edit_changes_its_line_and_no_other() {
    let cases: [(&str, &str, Value, &[&str], &[&str]); 12] = [
        ("apple", "title", Value::text("Sjef; nord"), &["TITLE:Leder\\, nord\r\n"], &["TITLE:Sjef\\; nord\r\n"]),
        (
            "apple",
            "phones",
            json_value(
                r#"[{"value":"+47 911 11 111","types":["CELL","VOICE"],"pref":1},{"value":"+47 22 00 00 00","group":"item1"}]"#,
            ),
            &["TEL;type=CELL;type=VOICE;type=pref:+47 900 00 000\r\n"],
            &["TEL;type=CELL;type=VOICE;type=pref:+47 911 11 111\r\n"],
        ),
        (
            "apple",
            "emails",
            json_value(r#"[{"value":"ase@example.no","types":["INTERNET","HOME"],"pref":1}]"#),
            &["EMAIL;type=INTERNET;type=WORK:ase.hansen@example.com\r\n"],
            &[],
        ),
        (
            "apple",
            "bday",
            Value::Date(Date(0)),
            &["BDAY;value=date:1985-04-12\r\n"],
            &["BDAY;value=date:1970-01-01\r\n"],
        ),
        ("apple", "gender", Value::text("F"), &[], &["GENDER:F\r\n"]),
        ("apple", "salary", Value::Integer(5000), &[], &["X-DELTABUS-FIELD;NAME=salary;KIND=integer:5000\r\n"]),
        (
            "google",
            "categories",
            json_value(r#"["myContacts"]"#),
            &["CATEGORIES:myContacts,Friends\n"],
            &["CATEGORIES:myContacts\n"],
        ),
        ("google", "note", Value::text("a,b\r\nc"), &[], &["NOTE:a\\,b\\nc\n"]),
        (
            "outlook",
            "note",
            Value::text("Grüße"),
            &["NOTE:A note that is long enough to be folded as RFC 822 has it, at a\r\n", " space\r\n"],
            &["NOTE;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:Gr=C3=BC=C3=9Fe\r\n"],
        ),
        (
            "outlook",
            "photo",
            Value::Absent,
            &[
                "PHOTO;TYPE=GIF;ENCODING=BASE64:\r\n",
                " R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7\r\n",
                "\r\n",
            ],
            &[],
        ),
        ("rfc 6350", "bday", Value::Date(Date(5_580)), &["BDAY:--0203\r\n"], &["BDAY:19850412\r\n"]),
        (
            "rfc 6350",
            "org",
            json_value(r#"{"name":"Viagénie","types":["work"]}"#),
            &["ORG;TYPE=work:Viagenie\r\n"],
            &["ORG;TYPE=work:Viagénie\r\n"],
        ),
    ];
    for (name, field, value, gone, come) in cases {
        let sample = SAMPLES.iter().find(|(own, _)| *own == name).unwrap().1;
        let sample = sample.replace("Hauptstra=DFe 1=0D=0AHinterhaus", "Hauptstr. 1");
        let store = Store::cards(&sample);
        store.set(0, field, value);
        let bytes = store.bytes();
        assert_eq!(differing(&sample, &bytes), (gone.to_vec(), come.to_vec()), "{name}, {field}");
        if let (Some(old), Some(new)) = (gone.first(), come.first()) {
            assert_eq!(sample.find(old), bytes.find(new), "{name}, {field}: it stands where it stood");
        }
    }
}

#[test]
fn a_card_without_a_uid_keeps_its_key() {
    let cards = |phone: &str, first: &str| {
        format!(
            "BEGIN:VCARD\nVERSION:3.0\nFN:{first}\nTEL:{phone}\nEND:VCARD\n\nBEGIN:VCARD\nVERSION:3.0\nFN:B\nTEL:2\nEND:VCARD\nBEGIN:VCARD\nVERSION:3.0\nFN:B\nTEL:2\nEND:VCARD\n"
        )
    };
    let keys = |store: &Store| (0..3).map(|at| store.shown(at, "uid")).collect::<Vec<_>>();
    let store = Store::cards(cards("1", "A"));
    let before = keys(&store);
    assert!(before[1] != before[2] && before.iter().all(|key| key.starts_with("urn:uuid:")), "{before:?}");
    assert_eq!(keys(&Store::cards(cards("other", "A"))), before);
    assert_eq!(keys(&Store::cards(cards("1", "A").replace("FN:A", "FN:\n A"))), before);
    assert_ne!(keys(&Store::cards(cards("1", "C"))), before);
    // Equal cards are two records: their fingerprints differ as their keys do.
    let mut scan = store.interface.scan(None).unwrap();
    scan.start(0, Extent::Whole).unwrap();
    let prints: Vec<_> = std::iter::from_fn(|| scan.next().unwrap()).collect();
    assert_ne!(prints[1], prints[2]);
    drop(scan);
    // An edit that leaves the key leaves it unwritten, too.
    store.set(0, "phones", json_value(r#"[{"value":"new"}]"#));
    assert_eq!(differing(&cards("1", "A"), &store.bytes()), (vec!["TEL:1\n"], vec!["TEL:new\n"]));
    store.set(0, "fn", Value::text("Renamed"));
    assert_eq!(store.bytes(), cards("new", "Renamed").replacen("3.0\n", &format!("3.0\nUID:{}\n", before[0]), 1));
    // The second of two namesakes stays who it was when the first goes.
    let (collection, rows) = store.read().unwrap();
    let row = Row::of(&rows[1]);
    let removal = RecordWrite::Remove { key: collection.schema.key_of(row.as_bytes(), 0), row };
    store.commit(&collection, &[], Action::Write(&[removal])).unwrap();
    assert_eq!(store.shown(1, "uid"), before[2]);
    assert!(store.bytes().contains(&format!("UID:{}\nFN:B", before[2])), "{}", store.bytes());
}

#[test]
fn cards_come_and_go_with_nothing_else() {
    let two = format!("\r\n{APPLE}\r\n\r\n{}", GOOGLE.trim_end());
    let store = Store::cards(&two);
    let (collection, rows) = store.read().unwrap();
    let row = Row::of(&rows[0]);
    let removal = RecordWrite::Remove { key: collection.schema.key_of(row.as_bytes(), 0), row };
    let mut new = vec![Value::Absent; collection.schema.fields.len()];
    new[0] = Value::text("new");
    new[collection.schema.slot("fn").unwrap()] = Value::text("Ny");
    new[collection.schema.slot("version").unwrap()] = Value::text("3.0");
    let all: Vec<u32> = (0..new.len() as u32).collect();
    store.commit(&collection, &[], Action::Write(&[removal, put(&collection.schema, &new, &all)])).unwrap();
    let expected =
        format!("\r\n\r\n\r\n{}\r\nBEGIN:VCARD\r\nVERSION:3.0\r\nUID:new\r\nFN:Ny\r\nEND:VCARD\r\n", GOOGLE.trim_end());
    assert_eq!(store.bytes(), expected);
}

#[test]
fn a_card_can_change_its_version() {
    let store = Store::cards(RFC6350);
    for version in ["2.1", "3.0", "4.0"] {
        store.set(0, "version", Value::text(version));
        assert!(store.bytes().starts_with(&format!("BEGIN:VCARD\r\nVERSION:{version}\r\nUID:urn:uuid:4fbe")));
    }
}

#[test]
fn files_in_other_encodings_stay_in_them() {
    let utf_16: Vec<u8> = format!("\u{feff}{APPLE}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let store = Store::cards(&utf_16);
    assert_eq!(store.shown(0, "fn"), "Dr. Åse Marie Hansen");
    store.set(0, "title", Value::text("ø𝄞"));
    let units: Vec<u16> =
        fs::read(&store.path).unwrap().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    assert_eq!(String::from_utf16(&units).unwrap(), format!("\u{feff}{}", APPLE.replace("Leder\\, nord", "ø𝄞")));

    let latin1: Vec<u8> = APPLE.chars().map(|char| u8::try_from(char).unwrap()).collect();
    let error = Store::cards(&latin1).read().unwrap_err().to_string();
    assert!(error.contains(":4:10: these bytes are not UTF-8"), "{error}");
    let store = Store::at("vcard:{}?encoding=latin1", Some(&latin1));
    store.set(0, "title", Value::text("ø"));
    let expected: Vec<u8> = latin1_of(&APPLE.replace("Leder\\, nord", "ø"));
    assert_eq!(fs::read(&store.path).unwrap(), expected);

    // Single values, too.
    let mixed = b"BEGIN:VCARD\nVERSION:2.1\nUID:1\nN;CHARSET=ISO-8859-1:\xc5;B\nX-Y;CHARSET=ISO-8859-1:\xe5\nNOTE:a\nEND:VCARD\n";
    let store = Store::cards(mixed);
    assert_eq!(store.shown(0, "n"), r#"{"family":"Å","given":"B","components":2}"#);
    store.set(0, "note", Value::text("b"));
    assert!(fs::read(&store.path).unwrap().windows(4).any(|window| window == b"1:\xe5\n"));
    store.set(0, "other", json_value(r#"[{"name":"X-Y","value":"ææ","params":{"CHARSET":"ISO-8859-1"}}]"#));
    assert!(fs::read(&store.path).unwrap().windows(5).any(|window| window == b"1:\xe6\xe6\n"));
}

fn latin1_of(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).unwrap()).collect()
}

#[test]
fn hostile_files_are_told_with_their_place_and_stay() {
    let deep = "BEGIN:VCARD\n".repeat(100);
    let cases: [(&str, &[u8], &str); 16] = [
        ("cut off", b"BEGIN:VCARD\nVERSION:3.0\nFN:A\n", ":1:1: `BEGIN:VCARD` has no `END:VCARD`"),
        ("an end without a beginning", b"\nEND:VCARD\n", ":2:1: `END:VCARD` without"),
        ("crossed", b"BEGIN:VCARD\nBEGIN:A\nEND:VCARD\nEND:A\n", ":3:1: `END:VCARD` where `END:A` of line 2 is due"),
        ("outside", b"BEGIN:VCARD\nEND:VCARD\nFN:A\n", ":3:1: this line belongs to no component"),
        ("another format", b"BEGIN:VCALENDAR\nEND:VCALENDAR\n", ":1:1: a file of cards has"),
        ("deep", deep.as_bytes(), ":33:1: components nest deeper"),
        ("no colon", b"BEGIN:VCARD\nVERSION:3.0\nhello\nEND:VCARD\n", ":3:1: this line has no `:`"),
        ("a fold of nothing", b"  FN:A\n", ":1:1: white space begins"),
        ("an open quote", b"BEGIN:VCARD\nADR;X=\"a:b\nEND:VCARD\n", ":2:7: a parameter's quote"),
        ("not UTF-8", b"BEGIN:VCARD\nFN:A\n NOT\xff\nEND:VCARD\n", ":3:5: these bytes"),
        ("bad base64", b"BEGIN:VCARD\nVERSION:3.0\nPHOTO;ENCODING=b:?\nEND:VCARD\n", ":3:18: this is not base64"),
        (
            "bad quoted-printable",
            b"BEGIN:VCARD\nVERSION:2.1\nFN;ENCODING=QUOTED-PRINTABLE:=XY\nEND:VCARD\n",
            ":3:30: `=XY` is no quoted-printable",
        ),
        ("no such character set", b"BEGIN:VCARD\nFN;CHARSET=X:\xe9\nEND:VCARD\n", ":2:14: `CHARSET=X`"),
        ("half of UTF-16", b"\xff\xfeB\0E", ":1:2: not utf-16le"),
        (
            "a field of no kind",
            b"BEGIN:VCARD\nX-DELTABUS-FIELD;NAME=a;KIND=b:c\nEND:VCARD\n",
            ":2:1: X-DELTABUS-FIELD names a kind",
        ),
        (
            "duplicate",
            b"BEGIN:VCARD\nUID:a\nEND:VCARD\nBEGIN:VCARD\nUID:b\nEND:VCARD\nBEGIN:VCARD\nuid:a\nEND:VCARD\n",
            "cards.data:7:1: the key \"a\" is also that of ",
        ),
    ];
    for (name, bytes, expected) in cases {
        let store = Store::cards(bytes);
        let error = store.read().unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
        let schema = Store::cards(GOOGLE).read().unwrap().0;
        let row = [Value::text("new"), Value::Absent, Value::text("A")];
        let written = store.commit(&schema, &[], Action::Write(&[put(&schema.schema, &row, &[0, 2])]));
        // What is wrong within a card that stays as it is need not be understood.
        if written.is_err() {
            assert_eq!(fs::read(&store.path).unwrap(), bytes, "{name}");
        } else {
            assert!(fs::read(&store.path).unwrap().starts_with(bytes), "{name}");
        }
    }
}

#[test]
fn odd_cards_are_no_errors() {
    let odd = "BEGIN:VCARD\nfn:no version\0\nITEM1.tel;;TYPE=:1\nX/odd_name;A=1;A=2;B:v\nBDAY:1985-02-30\nGEO:37.386013;-122.082932\nNOTE:C:\\dir \\x \\\\n\nEMAIL;PREF=200:a@b\nURL;VALUE=text:a\\,b\nend:vcard";
    let store = Store::cards(odd);
    assert_eq!(store.value(0, "version"), Value::Absent);
    assert_eq!(store.shown(0, "fn"), "no version\0");
    assert_eq!(store.shown(0, "phones"), r#"[{"value":"1","group":"ITEM1"}]"#);
    assert_eq!(store.shown(0, "other"), r#"[{"name":"X/odd_name","value":"v","params":{"A":["1","2"],"":"B"}}]"#);
    assert_eq!(store.shown(0, "bday"), "1985-02-30");
    assert_eq!(store.shown(0, "geo"), "37.386013;-122.082932");
    assert_eq!(store.shown(0, "note"), "C:\\dir \\x \\n");
    assert_eq!(store.shown(0, "emails"), r#"[{"value":"a@b","params":{"PREF":"200"}}]"#);
    assert_eq!(store.shown(0, "urls"), r#"[{"value":"a,b","params":{"VALUE":"text"}}]"#);
    let copy = Store::at("vcard:{}", None);
    copy.take(&store);
    let (collection, after) = copy.read().unwrap();
    let mut before = store.read().unwrap().1;
    // A card that is written says its version.
    before[0][collection.schema.slot("version").unwrap()] = Value::text("4.0");
    assert_eq!(after, before);
}

#[test]
fn values_of_other_kinds_are_told_or_carried() {
    let store = Store::cards(GOOGLE);
    let cases = [
        ("fn", Value::Integer(5), "\"5\"", "FN:5\n"),
        ("emails", Value::text("a@b"), r#"[{"value":"a@b"}]"#, "EMAIL:a@b\n"),
        ("categories", Value::text("a"), r#"["a"]"#, "CATEGORIES:a\n"),
        ("n", Value::text("Doe"), r#"{"family":"Doe"}"#, "N:Doe;;;;\n"),
        ("bday", Value::text("20000101"), r#"{"$deltabus":"date","value":"2000-01-01"}"#, "BDAY:2000-01-01\n"),
        ("phones", Value::List(vec![]), "[]", "X-DELTABUS-FIELD;NAME=phones;KIND=list:[]\n"),
        (
            "phones",
            json_value(r#"[{"value":"1","odd":2}]"#),
            r#"[{"value":"1","odd":2}]"#,
            "X-DELTABUS-FIELD;NAME=phones;KIND=list:[{\"value\":\"1\"\\,\"odd\":2}]\n",
        ),
        // Its line would go on in the next.
        (
            "phones",
            json_value(r#"[{"value":"1=","params":{"X-A":"QUOTED-PRINTABLE"}}]"#),
            r#"[{"value":"1=","params":{"X-A":"QUOTED-PRINTABLE"}}]"#,
            "X-DELTABUS-FIELD;NAME=phones;KIND=list:",
        ),
        ("phones", json_value(r#"[{"value":"1"}]"#), r#"[{"value":"1"}]"#, "TEL:1\n"),
        (
            "other",
            json_value(r#"[{"name":"NOTE","value":"1"}]"#),
            r#"[{"name":"NOTE","value":"1"}]"#,
            "X-DELTABUS-FIELD;NAME=other;KIND=list:",
        ),
        (
            "photo",
            Value::Bytes(vec![1, 2, 3]),
            "\"data:application/octet-stream;base64,AQID\"",
            "PHOTO;TYPE=application/octet-stream;ENCODING=b:AQID\n",
        ),
        (
            "salary",
            text::parse("1.50", Kind::Decimal).unwrap(),
            "1.50",
            "X-DELTABUS-FIELD;NAME=salary;KIND=decimal:1.50\n",
        ),
        ("note", Value::Null, "", ""),
    ];
    for (field, value, shown, line) in cases {
        store.set(0, field, value);
        let found = store.value(0, field);
        assert_eq!(if found == Value::Absent { String::new() } else { json::write(&found) }, shown, "{field}");
        assert!(store.bytes().contains(line), "{field}: {}", store.bytes());
    }
    let field = deltabus_record::schema::Field::new("uid", Some(Kind::Text), 0);
    for value in [Value::Null, Value::text(""), Value::text("a\rb")] {
        assert!(store.interface.project(value, &field).is_err());
    }
}

#[cfg(shared_data)]
#[test]
fn the_cards_of_real_programs_come_back() {
    let folder = std::path::Path::new(env!("DELTABUS_SHARED_DATA")).join("pim");
    let files = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{} should hold sample cards: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "vcf"));
    let mut count = 0;
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let store = Store::cards(&bytes);
        store.read().unwrap();
        let copy = Store::at("vcard:{}", None);
        copy.take(&store);
        assert_eq!(copy.read().unwrap().1, store.read().unwrap().1, "{}", path.display());
        store.set(0, "note", Value::text("new"));
        let before = String::from_utf8(bytes).unwrap();
        let after = store.bytes();
        let (gone, come) = differing(&before, &after);
        assert!(gone.is_empty() && come.len() == 1 && come[0].starts_with("NOTE:new"), "{}: {come:?}", path.display());
        count += 1;
    }
    assert!(count > 0, "{} holds no cards", folder.display());
}

/// Text with what means something in a card.
fn piece() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "",
        "a",
        "B c",
        "é",
        "日本",
        ",",
        ";",
        ":",
        "\\",
        "\\n",
        "\n",
        "\r\n",
        "\r",
        "\"",
        "^",
        "^n",
        "=",
        "=3D",
        "=\n",
        " ",
        "\t",
        "{",
        "[",
        "}",
        "\0",
        "pref",
        "QUOTED-PRINTABLE",
        "data:image/png;base64,",
        "AQID",
        "http://a/b?c=d",
        "1985-04-12",
        "19850412",
        "END:VCARD",
        "long enough to be folded, whatever stands before it, and in words that may be divided ",
    ]);
    prop::collection::vec(pieces, 0..4).prop_map(|pieces| pieces.concat())
}

fn list(of: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop::collection::vec(of, 0..4).prop_map(Value::List).boxed()
}

fn piece_value() -> impl Strategy<Value = Value> {
    piece().prop_map(Value::Text)
}

/// What is said beside a value.
fn attributes() -> impl Strategy<Value = Vec<(String, Value)>> {
    let word =
        prop_oneof!["[A-Za-z]{1,8}", Just("pref".to_owned()), Just("BASE64".into()), Just("x,y".into()), piece()];
    let name = prop::sample::select(vec![
        "X-A",
        "VALUE",
        "LANGUAGE",
        "TYPE",
        "PREF",
        "MEDIATYPE",
        "",
        "CHARSET",
        "x/y",
        "a b",
    ]);
    let value = prop_oneof![3 => prop::sample::select(vec!["uri", "text", "date", "1", "7", "en"]).prop_map(Value::text), 2 => piece_value()];
    let members = (
        prop::option::of(list(word.prop_map(Value::Text))),
        prop::option::of((0..120i64).prop_map(Value::Integer)),
        prop::option::weighted(0.2, piece_value()),
        prop::option::weighted(0.2, prop::sample::select(vec!["item1", "a.b", "B-2"]).prop_map(Value::text)),
        prop::option::weighted(0.2, prop::sample::select(vec!["JPEG", "image/x", "pref"]).prop_map(Value::text)),
        prop::option::weighted(0.3, prop::collection::btree_map(name, value, 1..3)),
    );
    members.prop_map(|(types, pref, label, group, media, params)| {
        let params =
            params.map(|map| Value::Map(map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()));
        let all = [
            ("types", types),
            ("pref", pref),
            ("label", label),
            ("group", group),
            ("media", media),
            ("params", params),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    })
}

/// A property as a map, with members that fit it or don't.
fn entry() -> BoxedStrategy<Value> {
    let part = || prop_oneof![3 => piece_value().boxed(), 1 => list(piece_value())];
    let own = prop_oneof![
        4 => piece_value().prop_map(|value| vec![("value".to_owned(), value)]),
        1 => (part(), part()).prop_map(|(family, prefixes)| vec![("family".to_owned(), family), ("prefixes".to_owned(), prefixes)]),
        1 => (part(), 0..9i64, list(part())).prop_map(|(street, count, extra)| {
            vec![("street".to_owned(), street), ("components".to_owned(), Value::Integer(count)), ("extra".to_owned(), extra)]
        }),
        1 => (piece_value(), list(piece_value())).prop_map(|(name, units)| vec![("name".to_owned(), name), ("units".to_owned(), units)]),
        1 => list(piece_value()).prop_map(|values| vec![("values".to_owned(), values)]),
        1 => (prop::sample::select(vec!["X-A", "NOTE", "END", "x_y"]), piece_value()).prop_map(|(name, value)| {
            vec![("name".to_owned(), Value::text(name)), ("value".to_owned(), value)]
        }),
        1 => prop::sample::select(vec!["BEGIN:A\nB:1\nEND:A", "BEGIN:A\nEND:A\n", "BEGIN:A\n B\nEND:A", "A:1"])
            .prop_map(|text| vec![("component".to_owned(), Value::text(text))]),
    ];
    (own, prop_oneof![1 => Just(Vec::new()), 1 => attributes()])
        .prop_map(|(own, attributes)| {
            let mut members = own;
            for (name, value) in attributes {
                if members.iter().all(|(known, _)| *known != name) {
                    members.push((name, value));
                }
            }
            Value::Map(members)
        })
        .boxed()
}

/// Any value that somebody may put into a field.
fn field_value() -> BoxedStrategy<Value> {
    let shaped = prop_oneof![
        3 => entry(),
        5 => prop::collection::vec(prop_oneof![4 => entry(), 1 => piece_value()], 0..4).prop_map(Value::List),
    ];
    prop_oneof![
        3 => piece_value(),
        3 => shaped.clone(),
        2 => shaped.prop_map(|value| Value::Text(json::write(&value))),
        1 => (-800_000..800_000i32).prop_map(|days| Value::Date(Date(days))),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Value::Bytes),
        1 => Just(Value::Bytes(b"GIF89a and more than fits into a single line of a card, in base64".to_vec())),
        1 => any::<i64>().prop_map(Value::Integer),
        1 => any::<bool>().prop_map(Value::Bool),
    ]
    .boxed()
}

/// The schema of every file, with a field that vCard doesn't know.
fn whole_schema(store: &Store) -> Collection {
    let mut collection = Store::cards("").read().unwrap().0;
    for name in ["salary", "odd:\"^n"] {
        let field = deltabus_record::schema::Field::new(name, None, collection.schema.fields.len() as u32);
        collection.schema.fields.push(store.interface.field_for(&field));
    }
    collection
}

fn by_name(collection: &Collection, row: &[Value]) -> Vec<(String, Value)> {
    let names = collection.schema.fields.iter().map(|field| field.name.clone());
    let mut named: Vec<_> = names.zip(row.iter().cloned()).filter(|(_, value)| *value != Value::Absent).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_in_every_version(
        values in prop::collection::vec((0..40usize, field_value()), 1..6),
        again in (0..40usize, field_value()),
    ) {
        for version in ["2.1", "3.0", "4.0"] {
            let store = Store::at(&format!("vcard:{{}}?version={version}"), None);
            let collection = whole_schema(&store);
            let fields = collection.schema.fields.len();
            let mut row = vec![Value::Absent; fields];
            row[0] = Value::text("1");
            row[collection.schema.slot("version").unwrap()] = Value::text(version);
            for (at, value) in &values {
                let slot = 1 + at % (fields - 1);
                if collection.schema.fields[slot].name != "version" {
                    row[slot] = store.projected(value.clone(), &collection.schema, slot);
                }
            }
            let rows = [row.clone()];
            let mut records = Rows { schema: &collection.schema, rows: rows.iter(), key: Vec::new(), row: Row::default() };
            store.commit(&collection, &[], Action::Load(&mut records)).unwrap();
            let (found, read) = store.read().unwrap();
            prop_assert_eq!(by_name(&found, &read[0]), by_name(&collection, &row), "{}", store.bytes());
            // And again after an edit, which leaves all other lines alone.
            let slot = 1 + again.0 % (fields - 1);
            if collection.schema.fields[slot].name == "version" {
                continue;
            }
            row[slot] = store.projected(again.1.clone(), &collection.schema, slot);
            let write = put(&collection.schema, &row, &[slot as u32]);
            store.commit(&collection, &[], Action::Write(&[write])).unwrap();
            let (found, read) = store.read().unwrap();
            prop_assert_eq!(by_name(&found, &read[0]), by_name(&collection, &row), "{}", store.bytes());
        }
    }

    #[test]
    fn one_entry_edited_is_one_line_changed(
        entries in prop::collection::vec(entry(), 2..5),
        at in any::<prop::sample::Index>(),
        new in entry(),
        field in prop::sample::select(vec!["phones", "addresses", "urls", "related", "langs"]),
    ) {
        let entry = at.index(entries.len());
        one_entry_is_one_line(&entries, entry, &new, field)?;
    }

    #[test]
    fn no_card_makes_it_panic(
        lines in prop::collection::vec((prop::sample::select(vec![
            "FN", "N", "TEL;HOME", "ADR;TYPE=a,\"b;c\"", "PHOTO;ENCODING=b", "NOTE;QUOTED-PRINTABLE", "item1.X-A", "UID", "VERSION", "BEGIN", "END",
            " ", "X-DELTABUS-FIELD;NAME=fn;KIND=list", "KEY;VALUE=uri", "BDAY", "TEL;CHARSET=ISO-8859-1", "",
        ]), prop_oneof![piece(), Just("VCARD".to_owned()), Just("A".into())], any::<bool>()), 0..8),
        version in prop::sample::select(vec!["2.1", "3.0", "4.0"]),
        cut in any::<prop::sample::Index>(),
    ) {
        let body: String = lines.iter().map(|(head, value, crlf)| format!("{head}:{value}{}", if *crlf { "\r\n" } else { "\n" })).collect();
        let card = format!("BEGIN:VCARD\nVERSION:{version}\n{body}END:VCARD\n");
        for bytes in [card.as_bytes(), &card.as_bytes()[..cut.index(card.len())]] {
            let store = Store::cards(bytes);
            let Ok((collection, rows)) = store.read() else { continue };
            // What can be read can be written anew, without a loss.
            let values = |store: &Store| store.read().map(|(collection, rows)| rows.iter().map(|row| by_name(&collection, row)).collect::<Vec<_>>());
            let before = values(&store).unwrap();
            let Some(row) = rows.first() else { continue };
            let mut edited = row.clone();
            edited[collection.schema.slot("title").unwrap()] = Value::text("new");
            let slot = collection.schema.slot("title").unwrap() as u32;
            store.commit(&collection, &[], Action::Write(&[put(&collection.schema, &edited, &[slot])])).unwrap();
            let after = values(&store).unwrap();
            let rest = |row: &Vec<(String, Value)>| row.iter().filter(|(name, _)| name != "title").cloned().collect::<Vec<_>>();
            prop_assert_eq!(before.iter().map(rest).collect::<Vec<_>>(), after.iter().map(rest).collect::<Vec<_>>());
            prop_assert!(after[0].contains(&("title".to_owned(), Value::text("new"))));
        }
    }
}

/// Where several of `entries` stand in a field, that one of them becomes `new` changes one line, in each version.
fn one_entry_is_one_line(entries: &[Value], at: usize, new: &Value, field: &str) -> Result<(), TestCaseError> {
    for version in ["2.1", "3.0", "4.0"] {
        let card = format!("BEGIN:VCARD\r\nVERSION:{version}\r\nFN:A\r\nUID:1\r\nTITLE:B\r\nEND:VCARD\r\n");
        let store = Store::cards(card);
        let schema = store.read().unwrap().0.schema;
        let slot = schema.slot(field).unwrap();
        // Only what stands in properties of its own, each of them another.
        let natural = |value: &Value| match store.projected(Value::List(vec![value.clone()]), &schema, slot) {
            Value::List(mut list) if list.len() == 1 => {
                let entry = list.remove(0);
                let again = Store::cards("BEGIN:VCARD\nVERSION:4.0\nUID:1\nEND:VCARD\n");
                again.set(0, field, Value::List(vec![entry.clone()]));
                (!again.bytes().contains("X-DELTABUS")).then_some(entry)
            }
            _ => None,
        };
        let mut list: Vec<Value> = Vec::new();
        for entry in entries.iter().filter_map(natural) {
            if !list.contains(&entry) {
                list.push(entry);
            }
        }
        let Some(new) = natural(new).filter(|new| !list.contains(new)) else { return Ok(()) };
        if list.is_empty() {
            return Ok(());
        }
        store.set(0, field, Value::List(list.clone()));
        let before = store.bytes();
        let at = at % list.len();
        list[at] = new;
        store.set(0, field, Value::List(list));
        let after = store.bytes();
        let (before, after) = (logical(&before), logical(&after));
        prop_assert_eq!(before.len(), after.len());
        let changed: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        prop_assert_eq!(changed.len(), 1, "{:?}", changed);
    }
    Ok(())
}

#[test]
fn a_line_that_only_speaks_of_quoted_printable_is_broken_as_it_is_read() {
    let text = |text: &str| Value::text(text);
    let members = |members: Vec<(&str, Value)>| {
        Value::Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let odd = members(vec![
        ("value", text("")),
        ("types", Value::List(vec![text("QUOTED-PRINTABLE")])),
        ("label", text("")),
        ("group", text("B-2")),
        ("params", members(vec![("VALUE", text("http://a/b?c=dQUOTED-PRINTABLE")), ("x/y", text("uri"))])),
    ]);
    let plain = members(vec![("value", text(""))]);
    one_entry_is_one_line(std::slice::from_ref(&plain), 0, &odd, "phones").unwrap();
    one_entry_is_one_line(std::slice::from_ref(&odd), 0, &plain, "phones").unwrap();
    let store = Store::cards("BEGIN:VCARD\r\nVERSION:4.0\r\nUID:1\r\nEND:VCARD\r\n");
    store.set(0, "phones", Value::List(vec![odd.clone()]));
    let (collection, rows) = store.read().unwrap();
    let slot = collection.schema.slot("phones").unwrap();
    assert_eq!((rows.len(), &rows[0][slot]), (1, &Value::List(vec![odd])), "{}", store.bytes());
}

/// The lines of a card with those that continue them.
fn logical(card: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut soft = false;
    for line in card.split_inclusive("\r\n") {
        match lines.last_mut() {
            Some(last) if soft || line.starts_with([' ', '\t']) || line == "\r\n" => last.push_str(line),
            _ => lines.push(line.to_owned()),
        }
        // What stands before the colon says so, in a parameter's value also.
        let quoted = |whole: &String| whole.split(':').next().is_some_and(|head| head.contains("QUOTED-PRINTABLE"));
        soft = line.ends_with("=\r\n") && lines.last().is_some_and(quoted);
    }
    lines
}

/// A folder of cards, with other things in it.
fn folder_of(files: &[(&str, &str)]) -> Store {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cards");
    fs::create_dir(&path).unwrap();
    for (name, content) in files {
        fs::write(path.join(name), content).unwrap();
    }
    let location = format!("vcard:{}", path.display());
    Store { interface: open(&Location::parse(&location).unwrap()).unwrap(), path, _folder: folder }
}

fn names_in(path: &std::path::Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".deltabus").collect();
    names.sort();
    names
}

#[test]
fn a_folder_changes_where_its_cards_do() {
    let nameless = "BEGIN:VCARD\nVERSION:3.0\nFN:B\nEND:VCARD\n";
    let store = folder_of(&[
        ("a.vcf", APPLE),
        ("b.VCARD", nameless),
        ("notes.txt", "no card"),
        (".hidden.vcf", "no card"),
        ("c.vcf", ""),
    ]);
    let (collection, rows) = store.read().unwrap();
    assert_eq!((collection.name.as_str(), rows.len()), ("cards", 2));
    let untouched = fs::metadata(store.path.join("b.VCARD")).unwrap().modified().unwrap();
    store.set(0, "title", Value::text("x"));
    assert_eq!(fs::read_to_string(store.path.join("a.vcf")).unwrap(), APPLE.replace("Leder\\, nord", "x"));
    assert_eq!(fs::metadata(store.path.join("b.VCARD")).unwrap().modified().unwrap(), untouched);
    // Whatever a card without a UID is called, its file says which it is.
    store.set(1, "fn", Value::text("C"));
    assert_eq!(fs::read_to_string(store.path.join("b.VCARD")).unwrap(), nameless.replace("FN:B", "FN:C"));

    let schema = &collection.schema;
    let card = |uid: &str| {
        let mut row = vec![Value::Absent; schema.fields.len()];
        row[0] = Value::text(uid);
        row[schema.slot("fn").unwrap()] = Value::text("New");
        row[schema.slot("version").unwrap()] = Value::text("4.0");
        put(schema, &row, &(0..schema.fields.len() as u32).collect::<Vec<_>>())
    };
    let gone = Row::of(&store.read().unwrap().1[0]);
    let removal = RecordWrite::Remove { key: schema.key_of(gone.as_bytes(), 0), row: gone };
    let writes = [removal, card("urn:uuid:0001"), card("B"), card("../x"), card("C"), card("A")];
    store.commit(&collection, &[], Action::Write(&writes)).unwrap();
    // What can't be a file's name gets one of its own, as long as a UUID.
    let (made, named): (Vec<_>, Vec<_>) = names_in(&store.path).into_iter().partition(|name| name.len() == 40);
    assert_eq!(named, [".hidden.vcf", "0001.vcf", "A-2.vcf", "B.vcf", "C-2.vcf", "b.VCARD", "c.vcf", "notes.txt"]);
    assert_eq!(made.len(), 1);
    assert_eq!(
        fs::read_to_string(store.path.join("0001.vcf")).unwrap(),
        "BEGIN:VCARD\r\nVERSION:4.0\r\nUID:urn:uuid:0001\r\nFN:New\r\nEND:VCARD\r\n"
    );
    assert_eq!(store.read().unwrap().1.len(), 6);
}

#[test]
fn what_is_wrong_in_a_folder_is_told_with_its_file() {
    let twice = folder_of(&[("a.vcf", NEXTCLOUD), ("b.vcf", NEXTCLOUD)]);
    let error = twice.read().unwrap_err().to_string();
    assert!(
        error.contains("b.vcf:1:1: the key \"nextcloud-1\" is also that of") && error.ends_with("a.vcf:1:1"),
        "{error}"
    );
    let broken = folder_of(&[("a.vcf", NEXTCLOUD), ("b.vcf", "BEGIN:VCARD\nFN:A\n")]);
    let error = broken.read().unwrap_err().to_string();
    assert!(error.contains("b.vcf:1:1: `BEGIN:VCARD` has no `END:VCARD`"), "{error}");
    let linked = folder_of(&[("a.vcf", NEXTCLOUD)]);
    std::os::unix::fs::symlink("a.vcf", linked.path.join("b.vcf")).unwrap();
    assert!(matches!(linked.read(), Err(Error::Unsupported { .. })));
}

#[test]
fn a_folder_that_another_wrote_is_not_written_over() {
    let store = folder_of(&[("a.vcf", NEXTCLOUD)]);
    let (collection, rows) = store.read().unwrap();
    let mut row = rows[0].clone();
    let slot = collection.schema.slot("title").unwrap();
    row[slot] = Value::text("x");
    let write = [put(&collection.schema, &row, &[slot as u32])];
    let stage = |stamp: &deltabus_interfaces::Stamp| {
        let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&write) }];
        store.interface.stage(&mut writes, stamp, None, &NoContents).and_then(|staged| staged.commit())
    };
    let stamp = store.interface.stamp().unwrap();
    fs::write(store.path.join("b.vcf"), GOOGLE).unwrap();
    assert!(matches!(stage(&stamp), Err(Error::Changed { .. })));
    assert_eq!(fs::read_to_string(store.path.join("a.vcf")).unwrap(), NEXTCLOUD);
    stage(&store.interface.stamp().unwrap()).unwrap();
    assert!(fs::read_to_string(store.path.join("a.vcf")).unwrap().contains("TITLE:x\r\n"));
}

#[test]
fn locations_are_understood() {
    for (location, problem) in [
        ("vcard:a.vcf?version=5", "`version` is `2.1`, `3.0` or `4.0`, not `5`"),
        ("vcard:a.vcf?encoding=klingon", "there is no encoding `klingon`"),
        ("a.vcf?key=fn", "vcard has no option `key`; it has version, encoding"),
    ] {
        let error = open(&Location::parse(location).unwrap()).err().unwrap().to_string();
        assert!(error.contains(problem), "{error}");
    }
    assert_eq!(Location::parse("cards.vcard").unwrap().interface, "vcard");
}

/// Makes `to` hold what `from` holds, as `deltabus copy` does; gives the way between the two.
fn copy(from: &Store, to: &Store) -> (Collection, Lens) {
    let (source, rows) = from.read().unwrap();
    let mapping = Mapping::identity();
    let mut collection = source.clone();
    for field in &mut collection.schema.fields {
        *field = to.interface.field_for(field);
    }
    let lens = Lens::new(&mapping, &source.schema, &collection.schema, |field| to.interface.verbatim(field)).unwrap();
    let forward = |row: &Vec<Value>| {
        let mut out = RowBuilder::default();
        lens.forward(Row::of(row).as_bytes(), &mut out, &mut |value, slot| {
            to.interface.project(value, &collection.schema.fields[slot])
        })
        .unwrap();
        out.row().values()
    };
    let rows: Vec<_> = rows.iter().map(forward).collect();
    let mut records = Rows { schema: &collection.schema, rows: rows.iter(), key: Vec::new(), row: Row::default() };
    to.commit(&collection, &[], Action::Load(&mut records)).unwrap();
    (collection, lens)
}

#[test]
fn cards_to_sqlite_to_csv_and_back_lose_nothing() {
    for (name, sample) in SAMPLES {
        let sample = sample.replace("Hauptstra=DFe 1=0D=0AHinterhaus", "Hauptstr. 1");
        let cards = Store::cards(&sample);
        let database = Store::at("sqlite:{}", None);
        let sheet = Store::at("csv:{}?key=uid", None);
        let again = Store::at("vcard:{}", None);
        copy(&cards, &database);
        copy(&database, &sheet);
        copy(&sheet, &again);
        assert_eq!(again.read().unwrap(), cards.read().unwrap(), "{name}");
    }
}

#[test]
fn a_contact_edited_in_sqlite_changes_one_line_of_its_card() {
    let cards = Store::cards(format!("{NEXTCLOUD}{APPLE}"));
    let before = cards.bytes();
    let database = Store::at("sqlite:{}", None);
    let (collection, lens) = copy(&cards, &database);
    let (_, rows) = database.read().unwrap();
    let at = rows.iter().position(|row| row[0] == Value::text("4fbe8971-0bc3-424c-9c26-36c3e1eff6b1")).unwrap();
    let slot = collection.schema.slot("phones").unwrap();
    let Value::Text(phones) = &rows[at][slot] else { panic!("a list is text in SQLite") };
    let mut edited = rows[at].clone();
    edited[slot] = Value::text(phones.replace("900 00 000", "922 22 222"));
    let (source, base) = cards.read().unwrap();
    let base = base.iter().find(|row| row[0] == edited[0]).unwrap();
    let mut lifted = RowBuilder::default();
    lens.backward(Row::of(&edited).as_bytes(), Some(Row::of(base).as_bytes()), &mut lifted);
    let mut lifted = lifted.row().values();
    lifted.resize(base.len(), Value::Absent);
    let changed: Vec<_> = (0..base.len()).filter(|slot| lifted[*slot] != base[*slot]).map(|slot| slot as u32).collect();
    // Null and absent are one to SQLite; every other field came back as it was.
    assert_eq!(changed, [slot as u32]);
    lifted[slot] = cards.projected(lifted[slot].clone(), &source.schema, slot);
    cards.commit(&source, &[], Action::Write(&[put(&source.schema, &lifted, &changed)])).unwrap();
    let line = "TEL;type=CELL;type=VOICE;type=pref:+47 900 00 000\r\n";
    assert_eq!(cards.bytes(), before.replace(line, &line.replace("900 00 000", "922 22 222")));
}
