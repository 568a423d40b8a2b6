//! A sample of each kind of store.

use deltabus_test_servers::postgres;
use deltabus_tests::World;

/// One kind of store, with a sample in its native form.
pub(crate) struct Sample {
    /// What the table calls it.
    pub(crate) name: &'static str,
    /// The field that is the sample's key.
    pub(crate) key: &'static str,
    /// Makes the sample under a name; gives its location.
    pub(crate) fill: fn(&World, &str) -> String,
    /// The location of a store of this kind that isn't there yet, for records of this key.
    pub(crate) place: fn(&World, &str, &str) -> String,
    /// A text field of a record that somebody may edit elsewhere: the record's key, the field.
    pub(crate) edited: Option<(&'static str, &'static str)>,
}

/// The kinds there are.
pub(crate) const STORES: &[Sample] = &[
    Sample {
        name: "csv",
        key: "uid",
        fill: |world, name| {
            file(
                world,
                &format!("{name}.csv"),
                "uid,name,phone,note\nann,Ann Åström,111,\"says \"\"hi\"\", twice\"\nbob,Bob,,\"two\nlines\"\n\"c, d\",\\N,333,=1+1\n",
            );
            (CSV.0)(world, name, "uid")
        },
        place: CSV.0,
        edited: Some(("bob", "name")),
    },
    Sample {
        name: "tsv",
        key: "uid",
        fill: |world, name| {
            file(world, &format!("{name}.tsv"), "uid\tname\tphone\nann\tAnn Åström\t111\nbob\tBob\t\n");
            (TSV.0)(world, name, "uid")
        },
        place: TSV.0,
        edited: Some(("bob", "name")),
    },
    Sample {
        name: "json",
        key: "uid",
        fill: |world, name| {
            let records = [RECORDS.join(",\n  ")].concat();
            file(world, &format!("{name}.json"), &format!("[\n  {records}\n]\n"));
            (JSON.0)(world, name, "uid")
        },
        place: JSON.0,
        edited: Some(("bob", "name")),
    },
    Sample {
        name: "ndjson",
        key: "uid",
        fill: |world, name| {
            file(world, &format!("{name}.ndjson"), &format!("{}\n", RECORDS.join("\n")));
            (NDJSON.0)(world, name, "uid")
        },
        place: NDJSON.0,
        edited: Some(("bob", "name")),
    },
    Sample {
        name: "sqlite",
        key: "uid",
        fill: |world, name| {
            let connection = rusqlite::Connection::open(world.path(&format!("{name}.db"))).unwrap();
            connection.execute_batch(SQL).unwrap();
            (SQLITE.0)(world, name, "uid")
        },
        place: SQLITE.0,
        edited: Some(("bob", "name")),
    },
    Sample {
        name: "postgres",
        key: "uid",
        fill: |world, name| {
            let location = (POSTGRES.0)(world, name, "uid");
            postgres::shared().run(&database(world, name), POSTGRES_SQL);
            location
        },
        place: POSTGRES.0,
        edited: Some(("bob", "name")),
    },
    Sample {
        name: "vcard",
        key: "uid",
        fill: |world, name| {
            file(world, &format!("{name}.vcf"), CARDS);
            (VCARD.0)(world, name, "uid")
        },
        place: VCARD.0,
        edited: Some(("bob", "title")),
    },
    Sample {
        name: "icalendar",
        key: "uid",
        fill: |world, name| {
            file(world, &format!("{name}.ics"), EVENTS);
            (ICALENDAR.0)(world, name, "uid")
        },
        place: ICALENDAR.0,
        edited: Some(("lunch", "summary")),
    },
    Sample {
        name: "tree",
        key: "path",
        fill: |world, name| {
            let root = world.path(name);
            std::fs::create_dir_all(root.join("photos/empty")).unwrap();
            std::fs::write(root.join("photos/a b.txt"), "text\n").unwrap();
            std::fs::write(root.join("photos/raw.bin"), noise(200_000)).unwrap();
            std::fs::write(root.join("nothing"), "").unwrap();
            std::os::unix::fs::symlink("photos/a b.txt", root.join("link")).unwrap();
            (TREE.0)(world, name, "path")
        },
        place: TREE.0,
        edited: Some(("link", "target")),
    },
];

/// Bytes that don't repeat.
fn noise(count: u32) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// How a location is made of a name and a key.
struct Place(fn(&World, &str, &str) -> String);

const CSV: Place = Place(|world, name, key| format!("csv:{}.csv?key={key}", path(world, name)));
const TSV: Place = Place(|world, name, key| format!("tsv:{}.tsv?key={key}", path(world, name)));
const JSON: Place = Place(|world, name, key| format!("json:{}.json?key={key}", path(world, name)));
const NDJSON: Place = Place(|world, name, key| format!("ndjson:{}.ndjson?key={key}", path(world, name)));
const SQLITE: Place = Place(|world, name, _| format!("sqlite:{}.db?tables=records", path(world, name)));
const VCARD: Place = Place(|world, name, _| format!("vcard:{}.vcf", path(world, name)));
const ICALENDAR: Place = Place(|world, name, _| format!("icalendar:{}.ics", path(world, name)));
const POSTGRES: Place = Place(|world, name, _| {
    let (server, database) = (postgres::shared(), database(world, name));
    if server.run("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{database}'")).is_empty() {
        server.run("postgres", &format!("CREATE DATABASE \"{database}\""));
    }
    server.location(&database, "tables=records")
});
const TREE: Place = Place(|world, name, _| format!("tree:{}", path(world, name)));

/// A database for each name in each world.
fn database(world: &World, name: &str) -> String {
    let folder = world.path("x");
    let world = folder.parent().and_then(|folder| folder.file_name()).expect("a world lies in a folder");
    format!("{}-{name}", world.to_string_lossy().replace('.', ""))
}

fn path(world: &World, name: &str) -> String {
    world.path(name).to_str().expect("temporary folders have plain names").to_owned()
}

fn file(world: &World, name: &str, content: &str) {
    std::fs::write(world.path(name), content).expect("a file can be written");
}

/// One of each kind that JSON has.
const RECORDS: [&str; 3] = [
    r#"{"uid": "ann", "name": "Ann Åström", "age": 41, "rate": 1.10, "vip": true}"#,
    r#"{"uid": "bob", "name": "Bob", "age": null, "tags": ["a", 1, null, {"x": [2.50]}], "home": {"city": "Rome", "zip": "00100"}}"#,
    r#"{"uid": "c/d", "name": "", "age": -7, "rate": 1e3, "vip": false}"#,
];

/// Each storage class of SQLite.
const SQL: &str = "CREATE TABLE records (uid TEXT PRIMARY KEY, name TEXT, age INTEGER, rate REAL, photo BLOB, any);
    INSERT INTO records VALUES ('ann', 'Ann Åström', 41, 1.1, x'00ff10', 'text');
    INSERT INTO records VALUES ('bob', 'Bob', NULL, -0.5, NULL, 7);
    INSERT INTO records VALUES ('c/d', '', 9223372036854775807, 1e300, x'', NULL);";

/// Many types of PostgreSQL.
const POSTGRES_SQL: &str = "CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE TABLE records (uid text PRIMARY KEY, name text, age integer, rate numeric(12, 3), score double precision,
        vip boolean, photo bytea, born date, seen timestamptz, at timestamp, clock time, id uuid, tags text[], doc jsonb,
        pause interval, feels mood, net inet);
    INSERT INTO records VALUES ('ann', 'Ann Åström', 41, 1.100, 0.1, true, '\\x00ff10', '1985-02-28',
        '2026-11-23 06:25:00.123456+02', '2026-11-23 06:25:00', '06:25', '6ba7b810-9dad-11d1-80b4-00c04fd430c8',
        '{a,NULL,\"b c\"}', '{\"x\": [1, 2.50]}', '1 year 2 days', 'glad', '10.0.0.1/8');
    INSERT INTO records (uid, name, rate, score, born) VALUES ('bob', 'Bob', 'NaN', '-Infinity', 'infinity');
    INSERT INTO records (uid, name, age) VALUES ('c/d', '', -7);";

/// Cards of two versions.
const CARDS: &str = "BEGIN:VCARD\r\nVERSION:3.0\r\nUID:ann\r\nFN:Ann Åström\r\nN:Åström;Ann;;;\r\n\
    EMAIL;TYPE=home,pref:ann@example.org\r\nitem1.TEL;TYPE=cell:111\r\nitem1.X-ABLabel:mine\r\nBDAY:1985-02-28\r\n\
    PHOTO;ENCODING=b;TYPE=PNG:iVBORw0KGgo=\r\nX-ODD;P=1:kept\\, as it is\r\nEND:VCARD\r\n\
    BEGIN:VCARD\r\nVERSION:4.0\r\nUID:bob\r\nFN:Bob\r\nTITLE:Boss\r\nADR;LABEL=\"Via Roma\":;;1 Via Roma;Rome;;00100;Italy\r\n\
    CATEGORIES:a,b\\,c\r\nEND:VCARD\r\n";

/// An event with an override, an alarm and a zone; a to-do.
const EVENTS: &str = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Example//EN\r\n\
    BEGIN:VTIMEZONE\r\nTZID:Europe/Oslo\r\nBEGIN:STANDARD\r\nDTSTART:19701025T030000\r\nTZOFFSETFROM:+0200\r\n\
    TZOFFSETTO:+0100\r\nEND:STANDARD\r\nEND:VTIMEZONE\r\n\
    BEGIN:VEVENT\r\nUID:lunch\r\nDTSTAMP:20261101T120000Z\r\nDTSTART;TZID=Europe/Oslo:20261123T120000\r\nDURATION:PT1H\r\n\
    SUMMARY:Lunch\\, daily\r\nRRULE:FREQ=DAILY;COUNT=5\r\nEXDATE;TZID=Europe/Oslo:20261124T120000\r\n\
    ATTENDEE;CN=\"Ann, A.\";PARTSTAT=ACCEPTED:mailto:ann@example.org\r\nX-ODD;P=1:kept\r\n\
    BEGIN:VALARM\r\nACTION:DISPLAY\r\nTRIGGER:-PT5M\r\nDESCRIPTION:now\r\nEND:VALARM\r\nEND:VEVENT\r\n\
    BEGIN:VEVENT\r\nUID:lunch\r\nDTSTAMP:20261101T120000Z\r\nRECURRENCE-ID;TZID=Europe/Oslo:20261125T120000\r\n\
    DTSTART;TZID=Europe/Oslo:20261125T130000\r\nSUMMARY:Late lunch\r\nEND:VEVENT\r\n\
    BEGIN:VTODO\r\nUID:buy\r\nDTSTAMP:20261101T120000Z\r\nDUE;VALUE=DATE:20261201\r\nSUMMARY:Buy\r\nPRIORITY:1\r\nEND:VTODO\r\n\
    END:VCALENDAR\r\n";
