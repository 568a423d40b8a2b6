//! Inputs that are what each target takes, made by code: where mutation begins.

use deltabus_bus::{encode_reverse, encode_set};
use deltabus_proto::v1;
use deltabus_record::change::{
    Change, ChangeSet, CollectionChanges, Conflict, FieldChange, Outcome, Reply, ReverseId, ReverseSet, Revision,
    SchemaChange, Transaction, Verdict, Winner,
};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Date, Decimal, Instant, Kind, Large, Time, Value};
use deltabus_transmitter::{Held, Question};
use prost::Message;

use crate::input::joined;
use crate::wire::VERSION;

/// The seeds of the target `name`.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "row" => rows().iter().map(|row| row.as_bytes().to_vec()).collect(),
        "key" => rows().iter().map(|row| Key::of(&row.values()).as_bytes().to_vec()).collect(),
        "collection" => {
            let (people, pets) = (people().to_bytes(), pets().to_bytes());
            let row = &rows()[0];
            vec![[joined(&[&people, &pets]), row.as_bytes().to_vec()].concat(), joined(&[&pets, &people])]
        }
        "text" => texts(),
        "json" => JSON.iter().map(|json| json.as_bytes().to_vec()).collect(),
        "convert" => {
            rows().windows(2).map(|two| with(&[0x5a, 0x42, 3], &[two[0].as_bytes(), two[1].as_bytes()])).collect()
        }
        "change" => {
            let rows = rows();
            let three = |three: &[Row]| joined(&[three[0].as_bytes(), three[1].as_bytes(), three[2].as_bytes()]);
            let missing = [vec![0], joined(&[&[5], rows[0].as_bytes(), &[5]])].concat();
            rows.windows(3).map(|rows| [vec![1], three(rows)].concat()).chain([missing]).collect()
        }
        "set" => vec![encode_set(&change_set()).0.to_vec()],
        "reverse" => reverse_sets(),
        "log" => logs(),
        "snapshot" => vec![snapshot()],
        "contents" => {
            (0..8).map(|kind| with(&[kind], &[&joined(&[b"", b"\0hello", b"\0world", b"\0hello"])])).collect()
        }
        "control" => controls(),
        "state" => states(),
        "csv" => CSV.iter().map(|(options, text)| with(options, &[&[1, 0, 3], text.as_bytes()])).collect(),
        "json_file" => {
            JSON_FILES.iter().map(|(option, text)| with(&[*option], &[&[5, 0, 3], text.as_bytes()])).collect()
        }
        "vcard" => CARDS.iter().map(|text| with(&[0, 0, 13, 0, 1], &[text.as_bytes()])).collect(),
        "icalendar" => CALENDARS.iter().map(|text| with(&[0, 21, 0, 1], &[text.as_bytes()])).collect(),
        "sqlite" => vec![with(&[0, 0, 0], &[&database()])],
        "tree" => journals(),
        "tree_entries" => trees(),
        "postgres" => server_rows(),
        "location" => LOCATIONS.iter().map(|location| location.as_bytes().to_vec()).collect(),
        "configuration" => CONFIGURATIONS.iter().map(|text| text.as_bytes().to_vec()).collect(),
        "manager" => manager_messages(),
        "token" => TOKENS.iter().map(|token| token.as_bytes().to_vec()).collect(),
        "filter" => {
            let row =
                Row::of(&[Value::Integer(7), Value::text("Kari"), Value::Null, Value::List(vec![Value::Integer(1)])]);
            FILTERS.iter().map(|text| [joined(&[text.as_bytes()]), row.as_bytes().to_vec()].concat()).collect()
        }
        _ => Vec::new(),
    }
}

fn with(first: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    [first, &rest.concat()].concat()
}

fn decimal(unscaled: i64, scale: i32) -> Value {
    Value::Decimal(Box::new(Decimal { unscaled: unscaled.into(), scale }))
}

fn big() -> Value {
    Value::integer(num(i128::MAX))
}

fn num(number: i128) -> num_bigint::BigInt {
    number.into()
}

fn rows() -> Vec<Row> {
    let large = Large { hash: [7; 32], length: 70_000, text: true };
    let instant = Instant { seconds: 1_700_000_000, nanos: 5, offset_seconds: 3_600 };
    let map =
        Value::Map(vec![("$deltabus".into(), Value::text("map")), ("b".into(), Value::List(vec![Value::Absent]))]);
    vec![
        Row::of(&[Value::Integer(7), Value::text("Kari"), Value::Null, Value::Bool(true), Value::Bool(false)]),
        Row::of(&[Value::Absent, Value::Integer(-300), big(), decimal(-12_345, 2), decimal(5, -3), Value::Float(-0.0)]),
        Row::of(&[Value::text("ä".repeat(80)), Value::Bytes(vec![0, 1, 255]), Value::Uuid([9; 16])]),
        Row::of(&[Value::Date(Date(19_782)), Value::Time(Time(86_399_000_000_001)), Value::Instant(instant)]),
        Row::of(&[Value::DateTime(Date(-800_000), Time(0)), map, Value::Large(Box::new(large))]),
        Row::of(&[Value::List(vec![Value::List(vec![]), Value::Map(vec![]), Value::Float(f64::NAN)])]),
        Row::default(),
    ]
}

fn people() -> Collection {
    let mut fields = vec![Field::new("id", Some(Kind::Integer), 0), Field::new("name", Some(Kind::Text), 1)];
    fields.push(Field { dropped: true, ..Field::new("old", None, 2) });
    fields.push(Field { declared: Some("VARCHAR(20)".into()), ..Field::new("a", None, 3) });
    let schema = Schema { fields, key: KeySpec::Fields(vec![0]) };
    Collection { name: CollectionName::new("people"), schema }
}

fn pets() -> Collection {
    let fields = vec![Field::new("name", None, 1), Field::new("b", Some(Kind::Large), 0)];
    Collection { name: CollectionName::new("pets"), schema: Schema { fields, key: KeySpec::WholeRow } }
}

fn texts() -> Vec<Vec<u8>> {
    let texts = [
        "true",
        "-12",
        "1.00",
        "1.2E-9",
        "1.0",
        "1e300",
        "NaN",
        "Infinity",
        "x",
        "aGk=",
        "2024-02-29",
        "23:59:60.5",
        "2024-02-29T23:59:59.5",
        "-0044-03-15",
        "2024-02-29T23:59:59+02:00",
        "00000000-0000-0000-0000-000000000000",
        "[1,2.5,\"a\"]",
        "{\"a\":null}",
        "large:text:0000000000000000000000000000000000000000000000000000000000000000:5",
    ];
    let all = |text: &&str| Kind::ALL.iter().map(|kind| with(&[*kind as u8], &[text.as_bytes()])).collect::<Vec<_>>();
    // Of each text those kinds that it is of.
    let read = |input: &Vec<u8>| {
        let text = std::str::from_utf8(&input[1..]).unwrap_or_default();
        deltabus_record::text::parse(text, Kind::ALL[usize::from(input[0])]).is_some()
    };
    texts.iter().flat_map(all).filter(read).collect()
}

const JSON: &[&str] = &[
    "{\"a\":[1,2.50,-3e5,\"x\\u00e4\\ud83d\\ude00\\n\",true,false,null],\"b\":{}}",
    "{\"$deltabus\":\"bytes\",\"value\":\"aGk=\"}",
    "{\"$deltabus\":\"map\",\"value\":{\"$deltabus\":\"map\",\"value\":{}}}",
    "[[[[[]]]], 123456789012345678901234567890 ]",
    "{\"$deltabus\":\"instant\",\"value\":\"2024-02-29T23:59:59+02:00\"}",
];

fn change_set() -> ChangeSet {
    let key = |number| Key::of(&[Value::Integer(number)]);
    let row = |number, name: &str| Row::of(&[Value::Integer(number), Value::text(name)]);
    let update = Change::Update {
        key: key(1),
        fields: vec![FieldChange { slot: 1, before: Value::text("Kari"), after: Value::text("Ola") }],
    };
    let people_changes = CollectionChanges {
        collection: people().name,
        changes: vec![Change::Insert { key: key(1), row: row(1, "Kari") }],
    };
    let first = Transaction {
        schemas: vec![SchemaChange { before: None, after: Some(people()) }],
        collections: vec![people_changes],
    };
    let second = Transaction {
        schemas: vec![SchemaChange { before: Some(people()), after: Some(people()) }],
        collections: vec![CollectionChanges {
            collection: people().name,
            changes: vec![
                update.clone(),
                Change::Insert { key: key(2), row: row(2, "x") },
                Change::Delete { key: key(2), row: row(2, "x") },
            ],
        }],
    };
    let conflict = Conflict {
        slot: Some(1),
        base: Value::Absent,
        source: Value::text("s"),
        edit: Value::Null,
        source_deleted: false,
        edit_deletes: false,
        winner: Winner::Edit,
        open: true,
    };
    let verdict = |outcome| Verdict { collection: people().name, edit: update.clone(), outcome };
    let verdicts = vec![
        verdict(Outcome::Accepted),
        verdict(Outcome::Already),
        verdict(Outcome::Refused { reason: "no".into() }),
        verdict(Outcome::Conflict(Box::new(conflict))),
    ];
    ChangeSet {
        base: Revision::default(),
        next: Revision { number: 1, digest: Digest { records: 1, sum: 99 } },
        time_millis: 1_700_000_000_000,
        transactions: vec![first, second],
        replies: vec![Reply {
            reverse: ReverseId { receiver: crate::wire::receiver(), number: 1 },
            time_millis: 1_699_999_999_000,
            verdicts,
            resolves: vec![deltabus_record::change::ConflictId { revision: 1, index: 1 }],
        }],
    }
}

fn reverse_sets() -> Vec<Vec<u8>> {
    let edits = change_set().transactions.remove(1);
    let names = || vec!["id".to_owned(), "name".to_owned()];
    let fields = edits.collections.iter().map(|edits| (edits.collection.clone(), names())).collect();
    let set = ReverseSet {
        id: ReverseId { receiver: crate::wire::receiver(), number: 3 },
        base: Revision::default(),
        time_millis: 5,
        edits: Transaction { schemas: Vec::new(), collections: edits.collections },
        fields,
    };
    let mut long = set.clone();
    long.edits.collections = std::iter::repeat_n(long.edits.collections, 20).flatten().collect();
    vec![encode_reverse(&set).to_vec(), encode_reverse(&long).to_vec()]
}

/// Messages of a log, each led by what it is made into.
fn logs() -> Vec<Vec<u8>> {
    let set = encode_set(&change_set()).0;
    let claim = with(&[1, 0], &[b"transmitter"]);
    let foundation = v1::Foundation { revision: None, snapshot: "a-1".into(), time_millis: 5 }.encode_to_vec();
    let bundle = v1::Bundle {
        compression: 0,
        length: 0,
        sets: v1::ChangeSets { sets: vec![set.clone()] }.encode_to_vec().into(),
    };
    let bundle = bundle.encode_to_vec();
    let (front, back) = bundle.split_at(bundle.len() / 2);
    vec![
        joined(&[&claim, &with(&[2], &[&foundation]), &with(&[3], &[&set])]),
        joined(&[&claim, &with(&[4], &[&joined(&[&set, &set])])]),
        joined(&[&claim, &with(&[5, 0, 2], &[front]), &with(&[5, 1, 2], &[back])]),
        joined(&[
            &claim,
            &with(&[6, 200], &[b"\x08\x01"]),
            &with(&[7, 1, 30], &[b"nonsense"]),
            &with(&[1, 2], &[b"other"]),
        ]),
    ]
}

fn snapshot() -> Vec<u8> {
    let field = |name: &str| v1::Field { name: name.into(), kind: "text".into(), ..v1::Field::default() };
    let collection = v1::Collection { name: "people".into(), fields: vec![field("id"), field("name")], key: vec![0] };
    let manifest = v1::Manifest {
        version: VERSION,
        id: "a-1-1-5".into(),
        term: 1,
        collections: vec![collection],
        parts: 3,
        cursors: vec![v1::ReverseCursor { receiver: "oslo".into(), number: 4, passed_over: vec![2, 3] }],
        ..v1::Manifest::default()
    };
    let row = Row::of(&[Value::text("1"), Value::text("Kari")]);
    let key = Key::of(&[Value::text("1")]);
    let record = with(&[0, key.as_bytes().len() as u8, row.as_bytes().len() as u8], &[key.as_bytes(), row.as_bytes()]);
    let (front, back) = record.split_at(5);
    let manifest = manifest.encode_to_vec();
    joined(&[&manifest, &with(&[1], &[&record, &record]), &with(&[2], &[front]), &with(&[1], &[back])])
}

fn controls() -> Vec<Vec<u8>> {
    let beat = v1::Heartbeat { term: 1, revision: None, sequence: 5 }.encode_to_vec();
    let lease = v1::Lease {
        version: VERSION,
        holder: "one, process 7".into(),
        nonce: 9,
        term: 1,
        renewal: 3,
        good_for_millis: 5_000,
        released: false,
    };
    let call = v1::Call { version: VERSION, spread_millis: 500 }.encode_to_vec();
    let standing =
        v1::Standing { version: VERSION, receiver: "oslo".into(), revision: 5, records: 3, ..v1::Standing::default() };
    let heard = v1::Heard { standing: Some(standing.clone()), seen_millis: 1_800_000_000_000 };
    let roll = v1::Roll { version: VERSION, heard: vec![heard] }.encode_to_vec();
    let questions = [Question::Who, Question::StandBy("one, process 7".into()), Question::Confirm, Question::Snapshot];
    let term = v1::Term { version: VERSION, term: 1_700_000_000_000 };
    let messages = [beat, lease.encode_to_vec(), term.encode_to_vec(), call, standing.encode_to_vec(), roll];
    questions.iter().map(|question| question.to_bytes().to_vec()).chain(messages).collect()
}

fn states() -> Vec<Vec<u8>> {
    let held = Held { collection: people().name, deletes: 3, records: 4, next: Digest { records: 1, sum: 5 } };
    let revision = Row::of(&Revision { number: 5, digest: Digest { records: 1, sum: 5 } }.to_values());
    let entry = |key: &[u8]| [&7_u64.to_le_bytes()[..], &(key.len() as u32).to_le_bytes(), key].concat();
    let block = [entry(b"one"), entry(b"two")].concat();
    vec![
        with(&[0], &[&held.to_bytes()]),
        with(&[1], &[revision.as_bytes()]),
        with(&[2], &[b"dbindex1"]),
        with(&[3, 3], &[&joined(&[&block, &entry(b"three")])]),
    ]
}

/// Choices of options, then the file.
const CSV: &[(&[u8], &str)] = &[
    (&[0, 1, 0, 0, 0, 0, 0], "id,name,a\n1,Kari,x\n2,\"Ola \"\"O\"\"\",\n\n3,\\N,\\A\n"),
    (&[0, 0, 1, 0, 0, 0, 0], "id;name;born\r\n1;a;2024-02-29\r\n2;b;\r\n"),
    (&[0, 1, 2, 0, 0, 0, 3], "id,name\n1,NULL\n2,-\n"),
    (&[1, 2, 0, 1, 0, 0, 0], "1\ta\tb\n2\tc\t\"d\ne\"\n"),
    (&[0, 0, 3, 0, 1, 0, 0], "id|name|a\n1.50|aGk=|[1]\n"),
    (&[0, 1, 0, 0, 0, 1, 0], "i\x00d\x00,\x00a\x00\n\x001\x00,\x00x\x00\n\x00"),
    (&[0, 1, 0, 0, 0, 3, 0], "id,name\n1,x\n1,x\n"),
];

const JSON_FILES: &[(u8, &str)] = &[
    (1, "[\n  {\"id\": 1, \"name\": \"Kari\"},\n  {\"id\": 2, \"name\": null, \"a\": [1, 2.50]}\n]\n"),
    (2, "{\"data\": {\"people\": [{\"id\": \"x\"}]}, \"other\": [1]}"),
    (3, "{\"one\": {\"a\": 1}, \"two\": {\"a\": {\"$deltabus\": \"bytes\", \"value\": \"aGk=\"}}}"),
    (4, "{\"a/b\": [[{\"x\": 1}, {\"x\": 1}]]}"),
    (6, "{\"people\": [{\"id\": 1}], \"pets\": {\"rex\": {\"a\": true}}}"),
    (9, "{\"id\":1,\"a\":\"x\"}\n{\"id\":2,\"a\":1e5}\r\n\n{\"id\":3}"),
    (0, "[{\"a\": \"\\u00e4\\ud83d\\ude00\"}, {}]"),
];

const CARDS: &[&str] = &[
    "BEGIN:VCARD\r\nVERSION:4.0\r\nUID:urn:uuid:1\r\nFN:Kari Nordmann\r\nN:Nordmann;Kari;;;\r\nEMAIL;TYPE=work;PREF=1:k@x.no\r\n\
     TEL;VALUE=uri;TYPE=\"voice,home\":tel:+47\r\nBDAY:--0203\r\nADR;LABEL=\"a\\nb\":;;Gata 1;Oslo;;0150;Norge\r\n\
     item1.URL:https://x.no\r\nX-DELTABUS-FIELD;X-NAME=a:1\r\nEND:VCARD\r\n",
    "BEGIN:VCARD\nVERSION:3.0\nN:B;A\nFN:A B\nPHOTO;ENCODING=b;TYPE=JPEG:\n aGVs\n bG8=\nNOTE:a\\, b\\; c\\nd\nCATEGORIES:x,y\nEND:VCARD\n\
     BEGIN:VCARD\nVERSION:3.0\nFN:A B\nN:B;A\nGEO:1.5;2.5\nORG:Org;Unit\nEND:VCARD\n",
    "BEGIN:VCARD\r\nVERSION:2.1\r\nN;CHARSET=ISO-8859-1;ENCODING=QUOTED-PRINTABLE:=C5s;=\r\nPer\r\nTEL;WORK;VOICE:1\r\n\
     PHOTO;JPEG;BASE64:\r\n aGVsbG8=\r\n\r\nAGENT:\r\nBEGIN:VCARD\r\nVERSION:2.1\r\nN:x\r\nEND:VCARD\r\nEND:VCARD\r\n",
];

const CALENDARS: &[&str] = &[
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//x//y\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Oslo\r\nBEGIN:STANDARD\r\nDTSTART:19701025T030000\r\n\
     RRULE:FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU\r\nTZOFFSETFROM:+0200\r\nTZOFFSETTO:+0100\r\nEND:STANDARD\r\nEND:VTIMEZONE\r\n\
     BEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20240229T120000Z\r\nDTSTART;TZID=Europe/Oslo:20240301T090000\r\nDURATION:PT1H\r\n\
     RRULE:FREQ=WEEKLY;COUNT=5;BYDAY=MO,FR\r\nEXDATE;TZID=Europe/Oslo:20240304T090000\r\nSUMMARY:a\\, b\r\nATTENDEE;CN=\"A, B\":mailto:a@x\r\n\
     BEGIN:VALARM\r\nACTION:DISPLAY\r\nTRIGGER:-PT15M\r\nEND:VALARM\r\nEND:VEVENT\r\n\
     BEGIN:VEVENT\r\nUID:1\r\nRECURRENCE-ID;TZID=Europe/Oslo:20240308T090000\r\nSUMMARY:other\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
    "BEGIN:VCALENDAR\nVERSION:2.0\nBEGIN:VTODO\nUID:2\nDUE;VALUE=DATE:20240301\nPERCENT-COMPLETE:50\nDESCRIPTION:long\n er\nGEO:1.5;2.5\n\
     RDATE;VALUE=PERIOD:20240101T000000Z/PT1H\nX-ODD;P=1:x\nEND:VTODO\nBEGIN:VJOURNAL\nUID:3\nCATEGORIES:a,b\nEND:VJOURNAL\nEND:VCALENDAR\n",
    "BEGIN:VCALENDAR\r\nVERSION:1.0\r\nBEGIN:VEVENT\r\nDTSTART:20240301T090000Z\r\nSUMMARY;ENCODING=QUOTED-PRINTABLE:a=20=\r\nb\r\n\
     RRULE:D2 #5\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
];

/// A small database with what tables can have.
fn database() -> Vec<u8> {
    let folder = crate::stores::scratch();
    let path = folder.path().join("seed.db");
    let connection = rusqlite::Connection::open(&path).expect("a folder");
    let statements = "PRAGMA page_size = 512; VACUUM;
        CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, a DECIMAL(5,2), b BLOB, c AS (id + 1));
        CREATE TABLE pets (name TEXT, owner INT, PRIMARY KEY (name, owner)) WITHOUT ROWID;
        CREATE TABLE plain (x);
        CREATE VIEW seen AS SELECT name FROM people;
        INSERT INTO people (id, name, a, b) VALUES (1, 'Kari', 1.5, x'0001'), (2, 'Ola', NULL, zeroblob(600));
        INSERT INTO pets VALUES ('Rex', 1);
        INSERT INTO plain VALUES (1.5), ('x'), (NULL), (x'ff');";
    connection.execute_batch(statements).expect("statements of our own");
    drop(connection);
    std::fs::read(&path).expect("it was just made")
}

/// Journals as the tree's commits write them.
fn journals() -> Vec<Vec<u8>> {
    let path = |path: &str| Value::Bytes(path.as_bytes().to_vec());
    let moment = Value::Instant(Instant { seconds: 5, nanos: 0, offset_seconds: 0 });
    let number = Value::Integer;
    let seen = Value::List(vec![
        number(0),
        number(0o644),
        number(7),
        moment.clone(),
        moment.clone(),
        number(1),
        number(0),
        number(0),
    ]);
    let attributes = Value::List(vec![number(0o600), moment]);
    let step = |values: &[Value]| Row::of(values).as_bytes().to_vec();
    let steps = [
        step(&[Value::text("open"), path("sub")]),
        step(&[Value::text("take"), path("file"), seen.clone(), number(1)]),
        step(&[Value::text("remove"), path("sub/other"), seen]),
        step(&[Value::text("make folder"), path("made")]),
        step(&[Value::text("put"), path("made/new"), Value::Null, number(0), Value::Null, attributes.clone()]),
        step(&[Value::text("set"), path("sub"), Value::Null, attributes]),
        step(&[Value::text("remove folder"), path("sub")]),
        step(&[Value::text("mark"), number(0)]),
    ];
    let steps: Vec<&[u8]> = steps.iter().map(Vec::as_slice).collect();
    let marks = Row::of(&[Value::List(vec![Value::text("source/receiver"), Value::Bytes(vec![1])])]);
    let through_link = step(&[Value::text("make folder"), path("out/made")]);
    vec![
        [vec![1], joined(&[marks.as_bytes()]), joined(&steps)].concat(),
        [vec![1], joined(&[b""]), joined(&[&through_link])].concat(),
        [vec![0], joined(&[b""]), b"deltabus journal 1\n".to_vec()].concat(),
    ]
}

fn trees() -> Vec<Vec<u8>> {
    let entry = |kind: u8, path: &[u8], inside: &[u8]| [vec![kind], joined(&[path, inside])].concat();
    vec![
        [entry(0, b"new", b"content"), entry(1, b"folder", b""), entry(2, b"link", b"../outside/file")].concat(),
        [entry(0, b"../outside/file", b"x"), entry(0, b"out/file", b"x"), entry(0, b"folder/new", b"x")].concat(),
        [entry(16, b"file", b""), entry(17, b"sub", b""), entry(0, b".deltabus/journal", b"x")].concat(),
        [entry(0, b"a\\xffb", b"x"), entry(1, b"file", b""), entry(2, b"sub", b"x")].concat(),
    ]
}

fn server_rows() -> Vec<Vec<u8>> {
    let field = |bytes: &[u8]| [&(bytes.len() as i32).to_be_bytes()[..], bytes].concat();
    let words = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let longs = |longs: &[i32]| longs.iter().flat_map(|long| long.to_be_bytes()).collect::<Vec<_>>();
    let numeric = words(&[2, 0, 0x4000, 2, 123, 4500]);
    // Two by one of int4.
    let array = [longs(&[2, 0, 23, 2, 1, 1, 1]), field(&5_i32.to_be_bytes()), longs(&[-1])].concat();
    let row = [&2_i16.to_be_bytes()[..], &field(&7_i32.to_be_bytes()), &longs(&[-1])].concat();
    let stamp: Vec<u8> =
        [1_u64, 1, 1, 1, 10, 20, 1, 10, 0, 1, 5, 6, 0, 9].iter().flat_map(|it| it.to_le_bytes()).collect();
    let text = |text: &str| with(&[2], &[text.as_bytes()]);
    vec![
        with(&[0, 2, 2, 9], &[&row]),
        with(&[1, 7], &[&numeric]),
        with(&[1, 22], &[&array]),
        with(&[1, 18], &[&700_000_000_000_000_i64.to_be_bytes()]),
        with(&[1, 14], &[b"\x01{\"a\": 1}"]),
        with(&[3, 1], &[&stamp]),
        text("{\"bb\": [1e2, -0.0, 1.50], \"a\": \"\\u00e4\\n\", \"a\": null}"),
        text("[0:1]={1,2}"),
        text("10:20:10,14,15"),
        text("numeric(5,2)[]"),
        text("year AS int4"),
    ]
}

const LOCATIONS: &[&str] = &[
    "csv:people.csv?key=id,name&types=id:integer&delimiter=%09&null=",
    "people.json?key=id&at=/people",
    "json:a.json?tables=a,b&key.a=id",
    "sqlite:app.db?tables=orders,items&key.orders=id",
    "postgres://crm:secret@localhost:5432/crm?tables=people&sslmode=disable",
    "postgresql://u@[::1]:5433,b/d?host=/tmp&password=x%20y",
    "tree:photos/?modes=no&ignore=*.tmp",
    "vcard:cards/?version=3.0",
    "icalendar:-?encoding=latin1",
];

const CONFIGURATIONS: &[&str] = &[
    "bus = \"nats://a:4222,nats://b:4222\"\nmetrics = \"127.0.0.1:9464\"\n[[source]]\nname = \"people\"\nlocation = \"csv:a.csv?key=id\"\n\
     poll = \"1.5h\"\nconflicts = \"latest\"\nmax_delete = \"50%\"\n",
    "name = \"oslo\"\n[[destination]]\nsource = \"people\"\nlocation = \"json:b.json\"\nreverse = true\nwhere = 'a == \"NO\"'\n\
     fields = { phone = \"telephone\" }\nomit = [\"salary\"]\non_error = \"dead-letter\"\n",
    "[[source]]\nlocaton = 5\n",
];

const FILTERS: &[&str] = &[
    "name == 'Kari' && id > 3",
    "a == null || b.size() > 0 || name.startsWith('K')",
    "name.matches('^(a|b)*$') ? true : !(id in [1, 2, 7])",
    "b.exists(x, x == 1) && {'a': 1}.a == 1",
    "id * 9223372036854775807 > 1 || id / 0 == 1",
    "timestamp('2024-02-29T00:00:00Z') < timestamp(name)",
];

/// Both kinds, and one that is cut off.
const TOKENS: [&str; 3] = [
    "AQKrq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq3NlY3JldA",
    "AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "AQKrq6urq6urq6ur",
];

/// Of each kind that a manager takes apart.
fn manager_messages() -> Vec<Vec<u8>> {
    use deltabus_manager::v1;
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let rights = v1::Rights {
        publish: names(&["people", "prices"]),
        read: names(&["people"]),
        reverse: names(&["a_b-c", "*"]),
        receivers: names(&["oslo", "{{name()}}"]),
        administrate: true,
    };
    let invitation = v1::Invitation { name: "oslo".into(), rights: Some(rights.clone()) };
    let open = v1::OpenRequest { key: "UAAA".into(), challenge: vec![0; 56].into(), signature: vec![1; 64].into() };
    let standing = v1::Standing { source: "people".into(), revision: 7, held: "half".into(), ..Default::default() };
    vec![
        rights.encode_to_vec(),
        v1::GrantRequest { name: "oslo".into(), rights: Some(rights) }.encode_to_vec(),
        v1::InviteRequest { invitations: vec![invitation], seconds: 60 }.encode_to_vec(),
        open.encode_to_vec(),
        v1::ReportRequest { standings: vec![standing] }.encode_to_vec(),
    ]
}
