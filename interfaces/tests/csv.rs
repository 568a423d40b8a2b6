//! CSV files as people and programs write them: read with all their oddities, told apart from broken ones, and written
//! back with nothing changed but what was to be.

use std::fs;

use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Error, Extent, Interface, Location, NoContents, RecordWrite, Records, open,
};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};
use proptest::prelude::*;

/// A file in a folder of its own, and the interface to it.
struct Sheet {
    interface: Box<dyn Interface>,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

/// What is to be done to a file: `key` is the text of its first column.
enum Edit<'a> {
    /// Sets `column` of the record `key`.
    Set(&'a str, &'a str, Value),
    /// Takes the record `key` out.
    Remove(&'a str),
    /// Brings a record in.
    Insert(&'a [&'a str]),
}

use Edit::{Insert, Remove, Set};

impl Sheet {
    fn new(options: &str, content: impl AsRef<[u8]>) -> Sheet {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people.csv");
        fs::write(&path, content).unwrap();
        let location = format!("csv:{}?{options}", path.display());
        Sheet { interface: open(&Location::parse(&location).unwrap()).unwrap(), path, _folder: folder }
    }

    fn read(&self) -> Result<(Collection, Vec<Vec<Value>>), Error> {
        let mut scan = self.interface.scan(None)?;
        let collection = scan.collections()[0].clone();
        scan.start(0, Extent::Whole)?;
        let mut rows = Vec::new();
        while scan.next()?.is_some() {
            let mut row = RowBuilder::default();
            assert_eq!(scan.decode(&mut row)?, Decoded::Record);
            let fields = 0..collection.schema.fields.len();
            rows.push(fields.map(|slot| row.row().value(slot)).collect());
        }
        scan.finish()?;
        Ok((collection, rows))
    }

    fn edit(&self, edits: &[Edit<'_>]) -> Result<(), Error> {
        let (collection, rows) = self.read()?;
        let schema = &collection.schema;
        let row_of = |key: &str| {
            let row = rows.iter().find(|row| deltabus_text(&row[0]) == key);
            row.cloned().unwrap_or_else(|| panic!("there is no record {key}"))
        };
        let writes = edits.iter().map(|edit| match edit {
            Set(key, column, value) => {
                let slot = schema.slot(column).unwrap();
                let mut row = row_of(key);
                row[slot] = value.clone();
                let row = Row::of(&row);
                RecordWrite::Put { key: schema.key_of(row.as_bytes(), 0), row, changed: vec![slot as u32] }
            }
            Remove(key) => {
                let row = Row::of(&row_of(key));
                RecordWrite::Remove { key: schema.key_of(row.as_bytes(), 0), row }
            }
            Insert(cells) => {
                let row = Row::of(&cells.iter().map(|cell| Value::text(*cell)).collect::<Vec<_>>());
                RecordWrite::Put { key: schema.key_of(row.as_bytes(), 0), row, changed: Vec::new() }
            }
        });
        self.write(&collection, &[], &writes.collect::<Vec<_>>())
    }

    fn write(&self, collection: &Collection, dropped: &[String], writes: &[RecordWrite]) -> Result<(), Error> {
        let mut writes = [CollectionWrite { collection, dropped, action: Action::Write(writes) }];
        let stamp = self.interface.stamp()?;
        self.interface.stage(&mut writes, &stamp, None, &NoContents)?.commit()?;
        Ok(())
    }

    fn content(&self) -> String {
        String::from_utf8(fs::read(&self.path).unwrap()).unwrap()
    }
}

fn deltabus_text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Integer(integer) => integer.to_string(),
        other => format!("{other:?}"),
    }
}

fn text(text: &str) -> Value {
    Value::text(text)
}

/// `before`, edited, is `after`.
fn check_edit(options: &str, before: &str, edits: &[Edit<'_>], after: &str) {
    let sheet = Sheet::new(options, before);
    sheet.edit(edits).unwrap();
    assert_eq!(sheet.content(), after, "{options}: {before:?}");
}

/// Reading `content` fails with `message`, which begins with line and column.
fn check_error(options: &str, content: impl AsRef<[u8]>, message: &str) {
    let sheet = Sheet::new(options, content.as_ref());
    let error = sheet.read().unwrap_err().to_string();
    let start = format!("{}:", sheet.path.display());
    assert_eq!(error.strip_prefix(&start), Some(message), "{error}");
}

fn check_rows(options: &str, content: impl AsRef<[u8]>, rows: &[&[Value]]) {
    assert_eq!(Sheet::new(options, content).read().unwrap().1, rows);
}

#[test]
fn cells_are_text_null_or_absent() {
    check_rows(
        "key=id",
        "id,a,b,c\n1,\\N,\\A,\n2,\"\\N\",\"\\A\",\"\"\n3,x\"y,\"x\"\"y\",\" a,\nb\"\n",
        &[
            &[text("1"), Value::Null, Value::Absent, text("")],
            &[text("2"), text("\\N"), text("\\A"), text("")],
            &[text("3"), text("x\"y"), text("x\"y"), text(" a,\nb")],
        ],
    );
    check_rows("null=&absent=-", "a,b\n,-\n\"\",\"-\"\n", &[&[Value::Null, Value::Absent], &[text(""), text("-")]]);
}

#[test]
fn columns_have_the_kinds_that_the_types_say() {
    check_rows(
        "types=id:integer,ok:bool",
        "id,ok,name\n1,true,\n\"2\",,x\n\\N,\"\",\n",
        &[
            &[Value::Integer(1), Value::Bool(true), text("")],
            &[Value::Integer(2), Value::Null, text("x")],
            &[Value::Null, Value::Null, text("")],
        ],
    );
    check_error(
        "types=id:integer",
        "id\n1\n x\n",
        "3:1: column `id`: \" x\" is no integer, which `types` says of this column",
    );
}

#[test]
fn kinds_are_inferred_where_every_cell_is_canonical() {
    let content = "id,zip,ok,mixed,none,price,day\n1,0123,true,1,,1,2026-02-03\n-2,12345,false,x,\\N,1.50,\n,,,,,,\n";
    let (collection, rows) = Sheet::new("types=infer", content).read().unwrap();
    let kinds: Vec<_> = collection.schema.fields.iter().map(|field| field.kind.unwrap()).collect();
    assert_eq!(kinds, [Kind::Integer, Kind::Text, Kind::Bool, Kind::Text, Kind::Text, Kind::Decimal, Kind::Date]);
    assert_eq!(rows[2], [Value::Null, text(""), Value::Null, text(""), text(""), Value::Null, Value::Null]);
}

#[test]
fn a_file_without_header_numbers_its_columns() {
    let sheet = Sheet::new("header=no&key=2", "a,1\n\nb,2\n");
    let (collection, rows) = sheet.read().unwrap();
    assert_eq!(collection.schema.key_names(), ["2"]);
    assert_eq!(rows, [[text("a"), text("1")], [text("b"), text("2")]]);
    check_edit("header=no&key=1", "a,1\nb,2", &[Remove("a"), Insert(&["c", "3"])], "b,2\nc,3");
}

#[test]
fn an_empty_file_is_an_empty_collection_and_a_header_too() {
    for (content, fields) in [("", 0), ("\n\n", 0), ("\u{feff}", 0), ("id,name", 2), ("id,name\r\n\r\n", 2)] {
        let (collection, rows) = Sheet::new("", content).read().unwrap();
        assert_eq!((collection.schema.fields.len(), rows.len()), (fields, 0), "{content:?}");
        assert_eq!(collection.name.as_str(), "people");
    }
}

#[test]
fn broken_files_are_told_with_line_and_column() {
    check_error("", "id,name\n1,a\n2\n", "3:1: 1 field, but the first row has 2");
    check_error("", "id,name\n1,a,b\n", "2:1: 3 fields, but the first row has 2");
    check_error("", "id,name\n1,ä,\"b\n2,c\n", "2:5: a quote is opened here and never closed");
    check_error(
        "",
        "id,name\n\"1\n2\",\"b\" c\n",
        "3:7: text after the closing quote; a quote inside a quoted field is written twice",
    );
    check_error("", "id,name,id\n", "1:9: a second column named `id`");
    check_error("", "id,,name\n", "1:4: a column without a name in the header");
    check_error("key=no", "id,name\n", "1:1: there is no field `no` to be the key; the fields are `id`, `name`");
    check_error("", "id,name\n1,a\0\n", "2:4: a NUL character; if the file is UTF-16, say so: `?encoding=utf-16le`");
    check_error(
        "",
        b"id,name\n1,\xe4\n",
        "2:3: not UTF-8 (byte 0xE4); if the file has another encoding, name it: `?encoding=latin1`",
    );
    check_error("encoding=utf-16le", b"i\0\n\0\0\xd8x\0", "2:1: not utf-16le: half of a surrogate pair");
    check_error(
        "encoding=latin1",
        "\u{feff}id\n",
        "1:1: the file begins with the byte order mark of utf-8, but `encoding=latin1` was given",
    );
}

#[test]
fn options_are_checked() {
    for (location, problem) in [
        ("csv:a.csv?delimiter=ab", "a delimiter is one ASCII character"),
        ("csv:a.csv?delimiter=%22", "a delimiter is one ASCII character"),
        ("csv:a.csv?header=maybe", "write `header=yes` or `header=no`"),
        ("csv:a.csv?types=id:number", "there is no kind `number`"),
        ("csv:a.csv?types=id", "write `id:KIND`"),
        ("csv:a.csv?key=a,,b", "empty column name"),
        ("csv:a.csv?null=x&absent=x", "they must differ"),
        ("csv:a.csv?null=%22", "can't hold a quote"),
        ("csv:a.csv?encoding=ebcdic", "there is no encoding `ebcdic`"),
        ("csv:a.csv?at=/x", "csv has no option `at`"),
    ] {
        let error = open(&Location::parse(location).unwrap()).err().expect(location).to_string();
        assert!(error.contains(problem), "{location}: {error}");
    }
}

#[test]
fn an_edit_changes_one_cell_and_nothing_else() {
    let before = "\u{feff}id;\"name\";\"note\"\r\n1; a ;\"x\"\r\n\r\n2;\"b\";y\n3;c;\"=1+1\"";
    let set = |value: Value| [Set("2", "note", value)];
    check_edit("key=id", before, &set(text("z")), &before.replace(";y\n", ";z\n"));
    check_edit("key=id", before, &set(text("z;")), &before.replace(";y\n", ";\"z;\"\n"));
    check_edit("key=id", before, &set(Value::Null), &before.replace(";y\n", ";\\N\n"));
    check_edit("key=id", before, &set(text("\\N")), &before.replace(";y\n", ";\"\\N\"\n"));
    check_edit("key=id", before, &[Set("1", "note", text("w"))], &before.replace("\"x\"", "\"w\""));
    check_edit("key=id", before, &[Set("1", "note", Value::Absent)], &before.replace("\"x\"", "\\A"));
}

#[test]
fn rows_go_and_come_in_the_dialect_of_the_file() {
    let edits = || [Remove("1"), Insert(&["3", "c", ""])];
    check_edit("key=id", "id,n,x\n1,a,b\n2,b,c\n", &edits(), "id,n,x\n2,b,c\n3,c,\n");
    check_edit("key=id", "id,n,x\r\n2,b,c\r\n1,a,b", &edits(), "id,n,x\r\n2,b,c\r\n3,c,");
    check_edit(
        "key=id",
        "\"id\",n,x\n\"1\",a,\"b\"\n\"2\",\"b\",\"c\"\n",
        &edits(),
        "\"id\",n,x\n\"2\",\"b\",\"c\"\n\"3\",c,\"\"\n",
    );
    check_edit("key=id", "id\tn\tx\r1\ta\tb\r", &edits(), "id\tn\tx\r3\tc\t\r");
    check_edit("key=id", "id,n,x\n2,b,c\n1,a,b", &[Remove("1")], "id,n,x\n2,b,c");
    check_edit("key=id", "id,n,x", &[Insert(&["1", "a", "b"])], "id,n,x\n1,a,b");
    check_edit(
        "key=id",
        "\"id\",\"n\",\"x\"\n",
        &[Insert(&["1", "a", "b"])],
        "\"id\",\"n\",\"x\"\n\"1\",\"a\",\"b\"\n",
    );
}

#[test]
fn other_encodings_are_written_back_as_they_were() {
    for (options, before, after) in [
        ("key=id&encoding=latin1", &b"id,n\n1,\xe4\n2,b\n"[..], &b"id,n\n1,\xe4\n2,\xfc\n"[..]),
        ("key=id&encoding=windows-1252", b"id,n\n1,\x80\n2,b\n", b"id,n\n1,\x80\n2,\xfc\n"),
        ("key=id", b"\xff\xfei\0d\0,\0n\0\n\x002\0,\0b\0", b"\xff\xfei\0d\0,\0n\0\n\x002\0,\0\xfc\0"),
        ("key=id", b"\xfe\xff\0i\0d\0,\0n\0\n\x002\0,\0b", b"\xfe\xff\0i\0d\0,\0n\0\n\x002\0,\0\xfc"),
    ] {
        let sheet = Sheet::new(options, before);
        sheet.edit(&[Set("2", "n", text("ü"))]).unwrap();
        assert_eq!(fs::read(&sheet.path).unwrap(), after, "{options}");
    }
    let sheet = Sheet::new("key=id&encoding=latin1", "id,n\n1,a\n");
    let error = sheet.edit(&[Set("1", "n", text("€"))]).unwrap_err();
    assert!(matches!(error, Error::Refused { ref field, .. } if field == "n"), "{error}");
    assert_eq!(sheet.content(), "id,n\n1,a\n");
}

#[test]
fn columns_come_behind_the_others_and_dropped_ones_go() {
    let sheet = Sheet::new("key=id", "id,a,own\n\"1\",x,mine\n2,y,mine\n");
    let (mut collection, _) = sheet.read().unwrap();
    collection.schema.fields.remove(2);
    collection.schema.fields[1].dropped = true;
    collection.schema.fields.push(Field::new("b;", Some(Kind::Text), 2));
    let row = Row::of(&[text("2"), Value::Absent, text("new")]);
    let put = RecordWrite::Put { key: collection.schema.key_of(row.as_bytes(), 0), row, changed: vec![2] };
    sheet.write(&collection, &["a".into()], &[put]).unwrap();
    assert_eq!(sheet.content(), "id,own,\"b;\"\n\"1\",mine,\\A\n2,mine,new\n");
}

#[test]
fn a_load_keeps_the_dialect_and_the_columns_that_are_there() {
    struct One(bool);
    impl Records for One {
        fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
            Ok(std::mem::take(&mut self.0))
        }
        fn key(&self) -> &[u8] {
            unreachable!("a file of rows needs no keys to load")
        }
        fn row(&self) -> &[u8] {
            // The row of `1, ;, null`.
            b"\x811\x81;\x01"
        }
    }
    let load = |before: &str| {
        let sheet = Sheet::new("key=id", before);
        let names = ["id", "name", "mail"].into_iter().zip(0..);
        let fields = names.map(|(name, at)| Field::new(name, Some(Kind::Text), at)).collect();
        let schema = Schema { fields, key: KeySpec::WholeRow }.with_key(&["id"]).unwrap();
        let collection = Collection { name: CollectionName::new("any"), schema };
        let mut records = One(true);
        let mut writes =
            [CollectionWrite { collection: &collection, dropped: &[], action: Action::Load(&mut records) }];
        let stamp = sheet.interface.stamp().unwrap();
        let staged = sheet.interface.stage(&mut writes, &stamp, None, &NoContents)?;
        staged.commit()?;
        Ok::<_, Error>(sheet.content())
    };
    assert_eq!(load("").unwrap(), "id,name,mail\n1,;,\\N\n");
    assert_eq!(load("own;\"name\"\r\n").unwrap(), "own;\"name\";id;mail\r\n;\";\";1;\\N\r\n");
    assert!(matches!(load("id,name\n1,a\n"), Err(Error::Unsupported { .. })));
}

#[test]
fn a_key_that_stands_twice_is_not_written_to() {
    let before = "id,n\n1,a\n1,b\n";
    let sheet = Sheet::new("key=id", before);
    let error = sheet.edit(&[Set("1", "n", text("c"))]).unwrap_err();
    assert!(
        matches!(&error, Error::DuplicateKey { position, other, .. } if position.line == Some(3) && other == "line 2")
    );
    assert_eq!(sheet.content(), before);
}

#[test]
fn a_record_never_becomes_a_blank_line() {
    let sheet = Sheet::new("", "id,a\n,x\n1,y\n");
    let (mut collection, _) = sheet.read().unwrap();
    collection.schema.fields.pop();
    sheet.write(&collection, &["a".into()], &[]).unwrap();
    assert_eq!(sheet.content(), "id\n\"\"\n1\n");
    check_edit("key=id", "id\n1\n", &[Insert(&[""])], "id\n1\n\"\"\n");
    let sheet = Sheet::new("null=&key=id", "id\n1\n");
    let (collection, _) = sheet.read().unwrap();
    let row = Row::of(&[Value::Null]);
    let put = RecordWrite::Put { key: collection.schema.key_of(row.as_bytes(), 0), row, changed: vec![0] };
    assert!(matches!(sheet.write(&collection, &[], &[put]), Err(Error::Refused { .. })));
}

#[test]
fn a_delimiter_that_could_no_longer_be_sniffed_is_refused() {
    let sheet = Sheet::new("", "id;a\n1,5;x\n");
    let (mut collection, _) = sheet.read().unwrap();
    collection.schema.fields.pop();
    let error = sheet.write(&collection, &["a".into()], &[]).unwrap_err();
    assert!(error.to_string().contains("?delimiter="), "{error}");
    assert_eq!(sheet.content(), "id;a\n1,5;x\n");
}

#[test]
fn of_equal_rows_as_many_go_as_are_to() {
    let sheet = Sheet::new("", "a,b\n1,2\n\"1\",2\n3,4\n1,2\n");
    let (collection, rows) = sheet.read().unwrap();
    assert_eq!(collection.schema.key, KeySpec::WholeRow);
    let row = Row::of(&rows[0]);
    let remove = |n| RecordWrite::Remove { key: collection.schema.key_of(row.as_bytes(), n), row: row.clone() };
    sheet.write(&collection, &[], &[remove(2), remove(1)]).unwrap();
    assert_eq!(sheet.content(), "a,b\n3,4\n1,2\n");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Cells of any look stay byte for byte when a cell of another row changes.
    #[test]
    fn rows_that_are_not_written_stay_byte_for_byte(
        cells in prop::collection::vec(("[a-z ;|'=]{0,6}|\"([a-z\n\r,;]|\"\"){0,6}\"|\\\\N|\\\\A", prop::sample::select(vec!["\n", "\r\n", "\r"])), 1..20),
        ends_open: bool,
        target: prop::sample::Index,
    ) {
        let target = target.index(cells.len());
        let build = |changed: &str| {
            let rows = cells.iter().enumerate().map(|(at, (cell, end))| {
                let note = if at == target { changed } else { "-" };
                let end = if ends_open && at + 1 == cells.len() { "" } else { end };
                format!("{at},{cell},{note}{end}")
            });
            "id,cell,note\n".to_owned() + &rows.collect::<String>()
        };
        let sheet = Sheet::new("key=id", build("before"));
        sheet.edit(&[Set(&target.to_string(), "note", text("after"))]).unwrap();
        prop_assert_eq!(sheet.content(), build("after"));
    }
}
