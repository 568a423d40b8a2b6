//! JSON documents as people and programs write them: read where they say that their records are, and written back with
//! nothing changed but what was to be.

use std::collections::BTreeMap;
use std::fs;

use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Error, Extent, Interface, Location, NoContents, RecordWrite, Records, Stamp, open,
};
use deltabus_record::json;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, CollectionName, Field, Schema};
use deltabus_record::value::{Kind, Value};
use proptest::prelude::*;

/// A document in a folder of its own, and the interface to it.
struct Document {
    interface: Box<dyn Interface>,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

/// What is to be done to a table: its name, the text of a record's key, and what else it takes, values as JSON.
#[derive(Clone, Copy, Debug)]
enum Edit<'a> {
    /// Sets a field; without a value it is absent.
    Set(&'a str, &'a str, &'a str, Option<&'a str>),
    /// Takes a record out.
    Remove(&'a str, &'a str),
    /// Brings a record in.
    Insert(&'a str, &'a [(&'a str, &'a str)]),
}

use Edit::{Insert, Remove, Set};

type Tables = Vec<(Collection, Vec<Vec<Value>>)>;

impl Document {
    fn missing(interface: &str, options: &str) -> Document {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people");
        let location = format!("{interface}:{}?{options}", path.display());
        Document { interface: open(&Location::parse(&location).unwrap()).unwrap(), path, _folder: folder }
    }

    fn new(interface: &str, options: &str, content: impl AsRef<[u8]>) -> Document {
        let document = Document::missing(interface, options);
        fs::write(&document.path, content).unwrap();
        document
    }

    fn read(&self) -> Result<Tables, Error> {
        let mut scan = self.interface.scan(None)?;
        let mut tables = Vec::new();
        for (index, collection) in scan.collections().to_vec().into_iter().enumerate() {
            scan.start(index, Extent::Whole)?;
            let mut rows = Vec::new();
            while scan.next()?.is_some() {
                let mut row = RowBuilder::default();
                assert_eq!(scan.decode(&mut row)?, Decoded::Record);
                rows.push((0..collection.schema.fields.len()).map(|slot| row.row().value(slot)).collect());
            }
            tables.push((collection, rows));
        }
        scan.finish()?;
        Ok(tables)
    }

    /// What is there, one line a table.
    fn shown(&self) -> String {
        let mut out = String::new();
        for (collection, rows) in self.read().unwrap() {
            let names: Vec<_> = collection.schema.fields.iter().map(|field| field.name.as_str()).collect();
            let rows: Vec<_> = rows.iter().map(|row| row.iter().map(shown).collect::<Vec<_>>().join(" ")).collect();
            let key = collection.schema.key_names().join(",");
            out.push_str(&format!("{}[{key}]({}): {}\n", collection.name, names.join(" "), rows.join(", ")));
        }
        out
    }

    fn edit(&self, edits: &[Edit<'_>]) -> Result<(), Error> {
        let tables = self.read()?;
        let mut collections: BTreeMap<String, (Collection, Vec<RecordWrite>)> = BTreeMap::new();
        for edit in edits {
            let (Set(table, ..) | Remove(table, ..) | Insert(table, ..)) = *edit;
            let (collection, rows) = tables.iter().find(|(collection, _)| collection.name.as_str() == table).unwrap();
            let (collection, writes) =
                collections.entry(table.to_owned()).or_insert_with(|| (collection.clone(), Vec::new()));
            let schema = &mut collection.schema;
            let row_of = |schema: &Schema, key: &str| {
                let name = schema.key_names()[0].to_owned();
                let slot = schema.slot(&name).unwrap();
                rows.iter().find(|row| shown(&row[slot]) == key).unwrap_or_else(|| panic!("no record {key}")).clone()
            };
            writes.push(match *edit {
                Set(_, key, field, value) => {
                    let mut row = row_of(schema, key);
                    let slot = slot_of(schema, field);
                    row.resize(schema.fields.len(), Value::Absent);
                    row[slot] = value.map_or(Value::Absent, |value| json::read(value).unwrap());
                    put(schema, &row, vec![slot as u32])
                }
                Remove(_, key) => {
                    let row = Row::of(&row_of(schema, key));
                    RecordWrite::Remove { key: schema.key_of(row.as_bytes(), 0), row }
                }
                Insert(_, members) => {
                    let slots: Vec<_> = members.iter().map(|(name, _)| slot_of(schema, name)).collect();
                    let mut row = vec![Value::Absent; schema.fields.len()];
                    for (slot, (_, value)) in slots.iter().zip(members) {
                        row[*slot] = json::read(value).unwrap();
                    }
                    put(schema, &row, Vec::new())
                }
            });
        }
        let mut writes: Vec<_> = collections
            .values()
            .map(|(collection, writes)| CollectionWrite { collection, dropped: &[], action: Action::Write(writes) })
            .collect();
        self.commit(&mut writes)
    }

    fn commit(&self, writes: &mut [CollectionWrite<'_>]) -> Result<(), Error> {
        let stamp = self.interface.stamp()?;
        self.interface.stage(writes, &stamp, None, &NoContents)?.commit()?;
        Ok(())
    }

    fn content(&self) -> String {
        String::from_utf8(fs::read(&self.path).unwrap()).unwrap()
    }
}

/// The slot of a field, which is made where it isn't there.
fn slot_of(schema: &mut Schema, name: &str) -> usize {
    schema.slot(name).unwrap_or_else(|| {
        schema.fields.push(Field::new(name, None, schema.fields.len() as u32));
        schema.fields.len() - 1
    })
}

fn put(schema: &Schema, values: &[Value], changed: Vec<u32>) -> RecordWrite {
    let row = Row::of(values);
    RecordWrite::Put { key: schema.key_of(row.as_bytes(), 0), row, changed }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Absent => "-".to_owned(),
        Value::Text(text) => text.clone(),
        value => json::write(value),
    }
}

/// A collection of text fields, the first its key where there is `key`.
fn collection(name: &str, fields: &[&str], key: &[&str]) -> Collection {
    let fields =
        fields.iter().enumerate().map(|(at, name)| Field::new(*name, Some(Kind::Text), at as u32)).collect::<Vec<_>>();
    let schema = Schema { fields, key: deltabus_record::schema::KeySpec::WholeRow };
    let schema = if key.is_empty() { schema } else { schema.with_key(key).unwrap() };
    Collection { name: CollectionName::new(name), schema }
}

/// Rows of text to load.
struct Rows(Vec<Row>, usize);

impl Rows {
    fn of(rows: &[&[&str]]) -> Rows {
        let row = |row: &&[&str]| Row::of(&row.iter().map(|text| Value::text(*text)).collect::<Vec<_>>());
        Rows(rows.iter().map(row).collect(), 0)
    }
}

impl Records for Rows {
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        self.1 += 1;
        Ok(self.1 <= self.0.len())
    }

    fn key(&self) -> &[u8] {
        &[]
    }

    fn row(&self) -> &[u8] {
        self.0[self.1 - 1].as_bytes()
    }
}

/// `before`, edited, is `after`, byte for byte.
fn check_edit(location: (&str, &str), before: &str, edits: &[Edit<'_>], after: &str) {
    let document = Document::new(location.0, location.1, before);
    document.edit(edits).unwrap();
    assert_eq!(document.content(), after, "{location:?} {edits:?}: {before:?}");
}

/// Reading `content` fails with `message`, which begins with line and column, and nothing is changed.
fn check_error(location: (&str, &str), content: impl AsRef<[u8]>, message: &str) {
    let document = Document::new(location.0, location.1, content.as_ref());
    let error = document.read().unwrap_err().to_string();
    let start = format!("{}:", document.path.display());
    assert_eq!(error.strip_prefix(&start), Some(message), "{error}");
    assert_eq!(fs::read(&document.path).unwrap(), content.as_ref());
}

const KEYED: (&str, &str) = ("json", "key=id");
const NAMED: (&str, &str) = ("json", "key=name&shape=object");
const LINES: (&str, &str) = ("ndjson", "key=id");
const TABLES: (&str, &str) = ("json", "shape=tables");

#[test]
fn only_what_is_edited_changes() {
    let odd = "\u{feff} [\r\n{\"id\" :1 ,\"a\":1.50 , \"b\": [1 ,2]} ,\t{ \"id\":2,\"a\" : \"\\u00e9\" , \"z\":null }\r\n ]\r\n\r\n";
    let p = "people";
    for (edits, after) in [
        (&[Set(p, "1", "a", Some("1.5"))][..], odd.replace("1.50", "1.5")),
        (&[Set(p, "1", "a", None)], odd.replace("\"a\":1.50 , ", "").replace("1 ,\"b\"", "1 , \"b\"")),
        (&[Set(p, "1", "b", None)], odd.replace("1.50 , \"b\": [1 ,2]", "1.50")),
        (&[Set(p, "2", "b", Some("true"))], odd.replace("null }", "null, \"b\":true }")),
        (
            &[Set(p, "2", "z", Some("0")), Set(p, "1", "a", Some("\"x\""))],
            odd.replace("null", "0").replace("1.50", "\"x\""),
        ),
        (&[Remove(p, "1")], "\u{feff} [\r\n{ \"id\":2,\"a\" : \"\\u00e9\" , \"z\":null }\r\n ]\r\n\r\n".to_owned()),
        (&[Remove(p, "2")], "\u{feff} [\r\n{\"id\" :1 ,\"a\":1.50 , \"b\": [1 ,2]}\r\n ]\r\n\r\n".to_owned()),
        (&[Remove(p, "1"), Remove(p, "2")], "\u{feff} []\r\n\r\n".to_owned()),
        (&[Insert(p, &[("id", "3"), ("a", "{}")])], odd.replace("null }", "null },\t{ \"id\":3, \"a\":{} }")),
    ] {
        check_edit(KEYED, odd, edits, &after);
    }
}

#[test]
fn records_by_name_keep_their_look() {
    let before = "{\n    \"ann\": {\"phone\": 1},\n    \"bob\": {}\n}";
    let p = "people";
    check_edit(NAMED, before, &[Set(p, "bob", "phone", Some("2"))], &before.replace("{}", "{\"phone\": 2}"));
    check_edit(NAMED, before, &[Remove(p, "ann")], "{\n    \"bob\": {}\n}");
    check_edit(
        NAMED,
        before,
        &[Insert(p, &[("name", "\"cy\""), ("phone", "3")]), Remove(p, "bob")],
        "{\n    \"ann\": {\"phone\": 1},\n    \"cy\": {\"phone\": 3}\n}",
    );
}

#[test]
fn lines_keep_their_ends_and_blank_lines_stay() {
    let mixed = "{\"id\":1}\r\n\n {\"id\":2, \"a\":1}\n{\"id\":3}\r\n\r\n{\"id\":4}";
    let p = "people";
    for (edits, after) in [
        (&[Set(p, "2", "a", Some("5"))][..], mixed.replace("\"a\":1", "\"a\":5")),
        (&[Remove(p, "2")], mixed.replace(" {\"id\":2, \"a\":1}\n", "")),
        (&[Remove(p, "4")], mixed.replace("\r\n{\"id\":4}", "")),
        (&[Remove(p, "1"), Remove(p, "3")], "\n {\"id\":2, \"a\":1}\n\r\n{\"id\":4}".to_owned()),
        (&[Insert(p, &[("id", "5")])], format!("{mixed}\r\n{{\"id\":5}}")),
        (&[Remove(p, "4"), Insert(p, &[("id", "5")])], mixed.replace("{\"id\":4}", "{\"id\":5}")),
    ] {
        check_edit(LINES, mixed, edits, &after);
    }
    check_edit(LINES, "{\"id\":1}\n{\"id\":2}\n{\"id\":3}", &[Remove(p, "3"), Remove(p, "2")], "{\"id\":1}");
    check_edit(LINES, "{\"id\":1}", &[Remove(p, "1")], "");
    check_edit(LINES, "{\"id\": 1}\n\n", &[Insert(p, &[("id", "2")])], "{\"id\": 1}\n\n{\"id\": 2}\n");
    check_edit(LINES, "", &[Insert(p, &[("id", "2"), ("a", "null")])], "{\"id\":2,\"a\":null}\n");
}

#[test]
fn a_record_without_members_stays_on_its_line_when_it_gets_some() {
    let id = Value::Integer(1);
    for (before, after) in [("{}", "{\"id\":1}"), ("\n{}\n", "\n{\"id\":1}\n"), ("{}\r\n", "{\"id\":1}\r\n")] {
        let document = Document::new("ndjson", "key=id", before);
        let collection = document.read().unwrap().remove(0).0;
        let removed = Row::of(&[Value::Absent]);
        let remove = RecordWrite::Remove { key: collection.schema.key_of(removed.as_bytes(), 0), row: removed };
        let writes = [remove, put(&collection.schema, std::slice::from_ref(&id), vec![0])];
        let action = Action::Write(&writes);
        document.commit(&mut [CollectionWrite { collection: &collection, dropped: &[], action }]).unwrap();
        assert_eq!(document.content(), after);
    }
    check_edit(LINES, "{\"id\":1}", &[Remove("people", "1"), Insert("people", &[("id", "2")])], "{\"id\":2}");
}

#[test]
fn a_place_is_made_where_there_is_none() {
    let cards = collection("people", &["id", "name"], &["id"]);
    let load = |options: &str, before: Option<&str>| {
        let document = Document::missing("json", options);
        if let Some(before) = before {
            fs::write(&document.path, before).unwrap();
        }
        let mut rows = Rows::of(&[&["1", "Ann"], &["2", "Bob"]]);
        let mut writes = [CollectionWrite { collection: &cards, dropped: &[], action: Action::Load(&mut rows) }];
        document.commit(&mut writes).map(|()| document.content()).map_err(|error| {
            assert_eq!(before.map(str::to_owned), fs::read_to_string(&document.path).ok(), "nothing was changed");
            error.to_string().replace(&document.path.display().to_string(), "FILE")
        })
    };
    let pretty = "[\n  {\n    \"id\": \"1\",\n    \"name\": \"Ann\"\n  },\n  {\n    \"id\": \"2\",\n    \"name\": \"Bob\"\n  }\n]";
    assert_eq!(load("key=id", None).unwrap(), format!("{pretty}\n"));
    let deeper = |text: &str, by: &str| text.replace('\n', &format!("\n{by}"));
    assert_eq!(
        load("key=id&at=/app/people", None).unwrap(),
        format!("{{\n  \"app\": {{\n    \"people\": {}\n  }}\n}}\n", deeper(pretty, "    "))
    );
    assert_eq!(
        load("key=id&at=/app/people", Some("{\n  \"v\": 1.0\n}\n")).unwrap(),
        format!("{{\n  \"v\": 1.0,\n  \"app\": {{\n    \"people\": {}\n  }}\n}}\n", deeper(pretty, "    "))
    );
    let compact = "[{\"id\":\"1\",\"name\":\"Ann\"},{\"id\":\"2\",\"name\":\"Bob\"}]";
    assert_eq!(
        load("key=id&at=/app/people", Some("{\"v\":1.0}")).unwrap(),
        format!("{{\"v\":1.0,\"app\":{{\"people\":{compact}}}}}")
    );
    assert_eq!(
        load("key=id&at=/1/people", Some("[0,{\"people\":[ ]},2]")).unwrap(),
        format!("[0,{{\"people\":{compact}}},2]")
    );
    for (at, document, message) in [
        (
            "/a/0/people",
            "{\"a\": 1}",
            "FILE:1:7: `at` leads to `0` in here, but this is neither an object nor an array",
        ),
        ("/2/people", "[1,\n2]", "FILE:1:1: `at` leads to element `2` of this array, which has 2"),
        ("/01", "[[],[]]", "FILE:1:1: `at` leads to element `01` of this array, which has 2"),
        ("/a", "{\"a\": \"b\"}", "FILE:1:7: records are an array or an object of objects; `at` names another place"),
    ] {
        assert_eq!(load(&format!("key=id&at={at}"), Some(document)).unwrap_err(), message);
    }
}

#[test]
fn tables_come_edit_and_go_in_one_document() {
    let document = Document::missing("json", "shape=tables");
    let (film, tag) = (collection("film", &["id", "title"], &["id"]), collection("tag", &["name"], &[]));
    let pair = collection("film_tag", &["film", "tag"], &["film", "tag"]);
    let mut films = Rows::of(&[&["1", "Alien"], &["2", "Brazil"]]);
    let (mut tags, mut pairs) = (Rows::of(&[&["dark"]]), Rows::of(&[&["1", "dark"]]));
    document
        .commit(&mut [
            CollectionWrite { collection: &film, dropped: &[], action: Action::Load(&mut films) },
            CollectionWrite { collection: &tag, dropped: &[], action: Action::Load(&mut tags) },
            CollectionWrite { collection: &pair, dropped: &[], action: Action::Load(&mut pairs) },
        ])
        .unwrap();
    let expected = r#"{
  "$keys": {
    "film": ["id"],
    "film_tag": ["film", "tag"]
  },
  "film": [
    {
      "id": "1",
      "title": "Alien"
    },
    {
      "id": "2",
      "title": "Brazil"
    }
  ],
  "tag": [
    {
      "name": "dark"
    }
  ],
  "film_tag": [
    {
      "film": "1",
      "tag": "dark"
    }
  ]
}
"#;
    assert_eq!(document.content(), expected);
    let tables = "film[id](id title): 1 Alien, 2 Brazil\ntag[](name): dark\nfilm_tag[film,tag](film tag): 1 dark\n";
    assert_eq!(document.shown(), tables);
    document.edit(&[Set("film", "2", "title", Some("\"Bananas\""))]).unwrap();
    assert_eq!(document.content(), expected.replace("Brazil", "Bananas"));
    let year = collection("year", &["year"], &["year"]);
    let mut years = Rows::of(&[]);
    document
        .commit(&mut [
            CollectionWrite { collection: &film, dropped: &[], action: Action::Remove },
            CollectionWrite { collection: &tag, dropped: &[], action: Action::Remove },
            CollectionWrite { collection: &year, dropped: &[], action: Action::Load(&mut years) },
        ])
        .unwrap();
    let after = r#"{
  "$keys": {
    "film_tag": ["film", "tag"],
    "year": ["year"]
  },
  "film_tag": [
    {
      "film": "1",
      "tag": "dark"
    }
  ],
  "year": []
}
"#;
    assert_eq!(document.content(), after);
    assert_eq!(document.shown(), "film_tag[film,tag](film tag): 1 dark\nyear[year](year): \n");
}

#[test]
fn tables_are_what_holds_records() {
    let text = r#"{"v": 1, "tags": ["a", "b"], "meta": {"by": "me"}, "film": [{"id": 1}], "cast": {"ann": {"age": 3}}, "none": []}"#;
    let tables = |options: &str| Document::new("json", options, text).shown();
    assert_eq!(tables("shape=tables"), "film[](id): 1\ncast[key](key age): ann 3\nnone[](): \n");
    assert_eq!(
        tables("key.film=id&key.cast=name&key.none=a,b"),
        "film[id](id): 1\ncast[name](name age): ann 3\nnone[a,b](a b): \n"
    );
    assert_eq!(tables("tables=none,film"), "film[](id): 1\nnone[](): \n");
    assert_eq!(
        Document::new("json", "at=/data&shape=tables", format!("{{\"data\": {text}}}")).shown(),
        tables("shape=tables")
    );
    let own = text.replacen("{", r#"{"$keys": {"film": ["id"], "gone": ["x"]}, "#, 1);
    let own = Document::new("json", "shape=tables", own);
    assert_eq!(own.shown(), "film[id](id): 1\ncast[key](key age): ann 3\nnone[](): \n");
    own.edit(&[Insert("film", &[("id", "2"), ("a", "1")])]).unwrap();
    assert_eq!(
        own.content(),
        text.replacen("{", r#"{"$keys": {"film": ["id"], "gone": ["x"]}, "#, 1)
            .replace(r#"[{"id": 1}]"#, r#"[{"id": 1},{"id": 2, "a": 1}]"#)
    );
}

#[test]
fn a_collection_without_records_keeps_its_key() {
    assert_eq!(Document::new("json", "key=a,b", "[]").shown(), "people[a,b](a b): \n");
    assert_eq!(Document::new("ndjson", "key=a", "\n").shown(), "people[a](a): \n");
    assert_eq!(Document::new("json", "key=a", "{}").shown(), "people[a](a): \n");
}

#[test]
fn a_record_without_its_key_is_read_also_when_it_is_the_last() {
    let table = r#"{"people": [{"id":1},{"b":2}], "$keys": {"people": ["id"]}}"#;
    for (location, before, left, shown) in [
        (KEYED, r#"[{"id":1},{"a":2}]"#, r#"[{"a":2}]"#, "people[id](a id): 2 -\n"),
        (KEYED, r#"[{"id":1},{}]"#, "[{}]", "people[id](id): -\n"),
        (LINES, "{\"id\":1}\n{\"a\":2}\n", "{\"a\":2}\n", "people[id](a id): 2 -\n"),
        (TABLES, table, &table.replace(r#"{"id":1},"#, ""), "people[id](b id): 2 -\n"),
        (
            ("json", "key=id,k"),
            r#"[{"id":1,"k":1},{"id":3,"a":2},{"id":2}]"#,
            r#"[{"id":3,"a":2},{"id":2}]"#,
            "people[id,k](id a k): 3 2 -, 2 - -\n",
        ),
    ] {
        check_edit(location, before, &[Remove("people", "1")], left);
        assert_eq!(Document::new(location.0, location.1, left).shown(), shown);
    }
}

#[test]
fn what_holds_a_collection_stays_when_it_goes() {
    let document = Document::new("json", "key=id&at=/people", "{\"people\": [ {\"id\": \"1\"} ], \"v\": 1 }");
    let people = collection("people", &["id"], &["id"]);
    let remove = || CollectionWrite { collection: &people, dropped: &[], action: Action::Remove };
    document.commit(&mut [remove()]).unwrap();
    assert_eq!(document.content(), "{\"people\": [], \"v\": 1 }");
    let whole = Document::new("json", "key=id", "[]");
    whole.commit(&mut [remove()]).unwrap();
    assert_eq!(whole.interface.stamp().unwrap(), Stamp::MISSING);
}

#[test]
fn a_second_collection_is_refused_with_a_way_out() {
    let document = Document::missing("json", "");
    let (a, b) = (collection("a", &["x"], &[]), collection("b", &["x"], &[]));
    let (mut first, mut second) = (Rows::of(&[]), Rows::of(&[]));
    let mut writes = [
        CollectionWrite { collection: &a, dropped: &[], action: Action::Load(&mut first) },
        CollectionWrite { collection: &b, dropped: &[], action: Action::Load(&mut second) },
    ];
    let error = document.commit(&mut writes).unwrap_err().to_string();
    assert!(error.contains("`b` is a second; `shape=tables` makes it hold several"), "{error}");
}

#[test]
fn hostile_documents_are_errors_with_a_position() {
    let deep = format!("{{\"a\":[{{\"b\":{}", "[".repeat(200_000));
    for (location, content, message) in [
        (KEYED, "[{\"id\":1},", "1:11: the text ends where a value should be"),
        (KEYED, "[{\"id\":1}\n {\"id\":2}]", "2:2: here must be `,` or `]`"),
        (KEYED, "[{\"id\":1}]\n{}", "2:1: the document is over, but more follows; is this NDJSON?"),
        (KEYED, "[{\"id\":1,\n\"id\":2}]", "2:1: two members are named \"id\""),
        (KEYED, "[1]", "1:2: a record must be an object"),
        (KEYED, "[{\"id\":01}]", "1:8: this is no JSON number"),
        (KEYED, "[{\"i\":1},{\"i\":2}]", "1:1: in `people` there is no field `id` to be the key; the fields are `i`"),
        (
            KEYED,
            "{\"a\": [{\"id\":1}]}",
            "1:7: a record must be an object; where arrays of records have names, say `shape=tables`",
        ),
        (KEYED, "[{\"id\":\"\\ud800\"}]", "1:15: half a character"),
        (
            NAMED,
            "{\"ann\": {\"name\": 1}}",
            "1:10: a record has a member `name`, which is what its own name is called; choose another as the key",
        ),
        (LINES, "{\"id\":1}\n{\"id\":2} {\"id\":3}", "2:10: more than one value in a line"),
        (LINES, "{\"id\":1}\n[]", "2:1: a record must be an object"),
        (LINES, "{\"id\":1}\n{\"id\":", "2:7: the text ends where a value should be"),
        (TABLES, "[]", "1:1: tables are the members of an object; `at` names another place"),
        (
            TABLES,
            "{\"a\": [{}, 1]}",
            "1:12: a record must be an object; if `a` is no table, name those that are by `tables=`",
        ),
        (
            TABLES,
            "{\"$keys\": {\"a\": \"id\"}}",
            "1:17: `$keys` is an object with an array of field names for each table",
        ),
        (TABLES, "{\"$keys\": {\"a\": [1]}}", "1:18: `$keys` is an object with an array of field names for each table"),
        (
            TABLES,
            "{\"a\": [{\"id\":1}, {}], \"$keys\": {\"a\": [\"x\"]}}",
            "1:7: in `a` there is no field `x` to be the key; the fields are `id`",
        ),
        (
            TABLES,
            "{\"a\": {\"b\": {}}, \"$keys\": {\"a\": [\"x\", \"y\"]}}",
            "1:7: the records of `a` have names, so the key is one field, their name",
        ),
        (("json", "tables=a"), "{\"a\": 1}", "1:7: the table `a` must be an array or an object of records"),
        (("json", "at=/x"), "{\"a\": 1}", "1:1: there is nothing at `/x`; to begin with no records, put `[]` there"),
    ] {
        check_error(location, content, message);
    }
    let document = Document::new("json", "shape=tables", &deep);
    let error = document.read().unwrap_err().to_string();
    assert!(error.contains("brackets inside each other"), "{error}");
    check_error(KEYED, b"[{\"id\":\"\xff\"}]", "1:9: this is not UTF-8");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for (location, message) in [
        ("json:a.json?shape=list", "`shape` is `array`, `object` or `tables`, not `list`"),
        ("json:a.json?shape=tables&key=id", "of several tables each has a key of its own: say `key.TABLE=…`"),
        ("json:a.json?shape=array&tables=a", "options `tables` and `key.TABLE` go with `shape=tables`"),
        ("json:a.json?shape=object&key=a,b", "records by name have one key field, which is their name"),
        ("json:a.json?tables=a&key.b=id", "option `key.b`: `tables` doesn't name `b`"),
        ("json:a.json?key=", "option `key` has an empty name in ``"),
        ("ndjson:a.ndjson?at=/a", "ndjson has no option `at`; it has key"),
    ] {
        let error = open(&Location::parse(location).unwrap()).err().unwrap().to_string();
        assert!(error.ends_with(message), "{error}");
    }
}

/// White space as a writer may put it.
fn space() -> impl Strategy<Value = String> {
    "[ \t]{0,2}(\r?\n)?[ ]{0,3}"
}

/// The text of a document of records `id`, `a`, `b`, with odd white space, and the number of its records.
fn odd_document() -> impl Strategy<Value = (String, usize)> {
    let member = |name: &'static str, value: BoxedStrategy<String>| {
        (space(), space(), space(), value, space())
            .prop_map(move |(s1, s2, s3, value, s4)| format!("{s1}\"{name}\"{s2}:{s3}{value}{s4}"))
    };
    let value = || {
        prop_oneof![
            Just("1.0".to_owned()),
            Just("\"t\\u0041\"".to_owned()),
            Just("null".to_owned()),
            Just("[ 1 , {\"x\" : 2}]".to_owned()),
        ]
        .boxed()
    };
    let record = (member("a", value()), member("b", value()), space(), space());
    (proptest::collection::vec(record, 1..5), space(), space()).prop_map(|(records, before, after)| {
        let written = records.iter().enumerate().map(|(at, (a, b, s1, s2))| format!("{s1}{{\"id\":{at},{a},{b}}}{s2}"));
        let written: Vec<_> = written.collect();
        (format!("{before}[{}]{after}", written.join(",")), records.len())
    })
}

proptest! {
    /// A field edited and edited back is the document it was but for that value's own spelling.
    #[test]
    fn an_edit_taken_back_leaves_every_byte((text, count) in odd_document(), at in any::<prop::sample::Index>()) {
        let key = at.index(count).to_string();
        let document = Document::new("json", "key=id", &text);
        document.edit(&[Set("people", &key, "a", Some("123456789"))]).unwrap();
        let edited = document.content();
        let value_at = edited.find("123456789").unwrap();
        prop_assert!(edited.starts_with(&text[..value_at]));
        let rest = &edited[value_at + "123456789".len()..];
        prop_assert!(text.ends_with(rest));
    }

    /// A record that came in and went again leaves every byte.
    #[test]
    fn a_record_that_comes_and_goes_leaves_every_byte((text, _) in odd_document()) {
        let document = Document::new("json", "key=id", &text);
        document.edit(&[Insert("people", &[("id", "77"), ("b", "1")])]).unwrap();
        let mut shown = document.shown();
        prop_assert!(shown.contains("77 - 1"), "{}", shown);
        document.edit(&[Remove("people", "77")]).unwrap();
        shown = document.content();
        prop_assert_eq!(shown, text);
    }

    /// A field that came in and went again leaves every byte.
    #[test]
    fn a_member_that_comes_and_goes_leaves_every_byte((text, count) in odd_document(), at in any::<prop::sample::Index>()) {
        let key = at.index(count).to_string();
        let document = Document::new("json", "key=id", &text);
        document.edit(&[Set("people", &key, "new", Some("[]"))]).unwrap();
        document.edit(&[Set("people", &key, "new", None)]).unwrap();
        prop_assert_eq!(document.content(), text);
    }
}
