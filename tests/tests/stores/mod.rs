//! A sample of each kind of store.

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
const TREE: Place = Place(|world, name, _| format!("tree:{}", path(world, name)));

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
