//! What each column gives back.

use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Date, Decimal, Kind, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Db, int, put, text};
use deltabus_interfaces::Action;

const DECLARED: [&str; 16] = [
    "",
    "INTEGER",
    "BIGINT",
    "TINYINT(1)",
    "NUMERIC",
    "DECIMAL(10,2)",
    "BOOLEAN",
    "DATE",
    "REAL",
    "DOUBLE PRECISION",
    "FLOAT",
    "TEXT",
    "VARCHAR(20)",
    "CLOB",
    "BLOB",
    "FLOATING POINT",
];

const STRICT: [&str; 6] = ["INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"];

fn columns(declared: &[&str]) -> String {
    let columns = declared.iter().enumerate().map(|(at, declared)| format!(", c{at} {declared}"));
    columns.collect()
}

#[test]
fn a_column_gives_back_what_was_projected_for_it() {
    let db = Db::new(&format!(
        "CREATE TABLE loose (id INTEGER PRIMARY KEY{}); CREATE TABLE strict (id INTEGER PRIMARY KEY{}) STRICT",
        columns(&DECLARED),
        columns(&STRICT),
    ));
    let tables = [db.collection("loose"), db.collection("strict")];
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    let law = |values: Vec<Value>| {
        for collection in &tables {
            let mut writes = Vec::new();
            let mut expected = Vec::new();
            for (id, value) in values.iter().enumerate() {
                let project = |field: &Field| {
                    let projected = match db.interface.verbatim(field).contains(value.kind()) {
                        true => value.clone(),
                        false => db.interface.project(value.clone(), field).unwrap_or(Value::Null),
                    };
                    let again = db.interface.project(projected.clone(), field);
                    assert_eq!(again.as_ref(), Ok(&projected), "{value:?} projected twice for {field:?}");
                    projected
                };
                let fields = &collection.schema.fields[1..];
                let row: Vec<_> = std::iter::once(int(id as i64)).chain(fields.iter().map(project)).collect();
                let changed: Vec<_> = (1..row.len() as u32).collect();
                writes.push(put(collection, &row, &changed));
                expected.push(row);
            }
            db.connect().execute(&format!("DELETE FROM {}", collection.name), []).unwrap();
            db.write(collection.name.as_str(), &writes).unwrap();
            assert_eq!(db.rows(collection.name.as_str()), expected);
        }
    };
    let run = TestRunner::new(config).run(&vec(value(), 1..8), |values| {
        law(values);
        Ok(())
    });
    run.unwrap();
}

/// Values on the edges of what columns turn into one another.
fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        "[ \t]?[+-]?[0-9]{0,3}[.]?[0-9]{0,3}([eE][+-]?[0-9]{0,2})?[ \n]?",
        "[0-9]{15,22}",
        "-?9223372036854775[0-9]{3}",
        "0x[0-9]{2}",
        any::<f64>().prop_map(|float| format!("{float:?}")),
        any::<i64>().prop_map(|integer| integer.to_string()),
    ];
    let float = prop_oneof![
        any::<f64>(),
        prop::num::f64::ANY,
        any::<i64>().prop_map(|integer| integer as f64),
        (-100i32..100).prop_map(|integer| f64::from(integer) / 4.0),
        prop::sample::select(vec![-0.0, 0.0, f64::NAN, f64::INFINITY, -9223372036854775808.0, 9223372036854775808.0]),
    ];
    prop_oneof![
        Just(Value::Null),
        Just(Value::Absent),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        (-300i64..300).prop_map(Value::Integer),
        float.prop_map(Value::Float),
        number.prop_map(Value::Text),
        any::<String>().prop_map(Value::Text),
        prop::sample::select(vec!["1\0", "\u{a0}1", "Inf", "NaN", "-", ".", "1.", ".5", "1e", "1_0"]).prop_map(text),
        vec(any::<u8>(), 0..9).prop_map(Value::Bytes),
        (any::<i64>(), -30i32..30)
            .prop_map(|(digits, scale)| { Value::Decimal(Box::new(Decimal { unscaled: digits.into(), scale })) }),
        any::<i128>().prop_map(|integer| Value::integer(integer.into())),
        (-9999i32..9999).prop_map(|days| Value::Date(Date(days))),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        vec(any::<i64>().prop_map(Value::Integer), 0..3).prop_map(Value::List),
    ]
}

fn field(db: &Db, kind: Option<Kind>) -> Field {
    db.interface.field_for(&Field::new("f", kind, 0))
}

#[test]
fn a_column_we_make_changes_no_value_of_its_kind() {
    let db = Db::missing("");
    let project = |kind, value: Value| db.interface.project(value, &field(&db, kind));
    for value in [text("012"), text("1.50"), text(" 1 "), text("")] {
        assert_eq!(project(Some(Kind::Text), value.clone()), Ok(value.clone()));
        assert_eq!(project(None, value.clone()), Ok(value));
    }
    assert_eq!(project(Some(Kind::Integer), int(i64::MIN)), Ok(int(i64::MIN)));
    assert_eq!(project(Some(Kind::Float), Value::Float(3.0)), Ok(Value::Float(3.0)));
    assert_eq!(project(None, Value::Float(3.0)), Ok(Value::Float(3.0)));
    assert_eq!(project(Some(Kind::Bytes), Value::Bytes(vec![0])), Ok(Value::Bytes(vec![0])));
    assert_eq!(project(Some(Kind::Bool), Value::Bool(true)), Ok(int(1)));
    let price = Value::Decimal(Box::new(Decimal { unscaled: 150.into(), scale: 2 }));
    assert_eq!(project(Some(Kind::Decimal), price).map(|value| value.kind()), Ok(Kind::Text));
}

#[test]
fn what_sqlite_has_no_kind_for_is_kept_as_its_canonical_text() {
    let db = Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY, d DATE, s TEXT, x)");
    let fields = db.collection("t").schema.fields;
    let list = Value::List(vec![int(1), Value::Null, Value::Map(vec![("a".into(), text("b"))])]);
    for (value, kept) in [
        (Value::Date(Date(19_782)), "2024-02-29"),
        (list, r#"[1,null,{"a":"b"}]"#),
        (Value::Uuid([0xab; 16]), "abababab-abab-abab-abab-abababababab"),
    ] {
        let made = field(&db, Some(value.kind()));
        for field in fields[1..].iter().chain([&made]) {
            assert_eq!(db.interface.project(value.clone(), field), Ok(text(kept)), "{field:?}");
        }
        assert!(db.interface.project(value, &fields[0]).is_err());
    }
}

#[test]
fn what_would_not_come_back_is_refused() {
    let db = Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY, i INTEGER, r REAL, d DECIMAL(9,2), s TEXT)");
    let fields = db.collection("t").schema.fields;
    let project = |slot: usize, value: Value| db.interface.project(value, &fields[slot]);
    assert_eq!(project(1, text("12")), Ok(int(12)));
    assert_eq!(project(1, text("twelve")), Ok(text("twelve")));
    for lost in ["012", "+1", " 1", "1.0", "1e3", "99999999999999999999"] {
        assert!(project(1, text(lost)).is_err(), "{lost}");
        assert_eq!(project(4, text(lost)), Ok(text(lost)));
    }
    assert!(project(1, Value::integer(1i128.wrapping_shl(70).into())).is_err());
    assert!(project(2, int((1 << 53) + 1)).is_err());
    let price = |unscaled: i64| Value::Decimal(Box::new(Decimal { unscaled: unscaled.into(), scale: 2 }));
    assert_eq!(project(3, price(990)), Ok(Value::Float(9.9)));
    assert_eq!(project(3, price(900)), Ok(int(9)));
    assert!(project(3, price(i64::MAX)).is_err());
    for no_rowid in [Value::Null, Value::Absent, text("x"), Value::Float(0.5), Value::Bytes(vec![1])] {
        assert!(project(0, no_rowid.clone()).is_err(), "{no_rowid:?}");
    }
    assert_eq!(project(0, text("7")), Ok(int(7)));
}

#[test]
fn a_declared_type_is_kept_where_it_suits_and_is_one() {
    let db = Db::missing("");
    let made = |declared: &str, kind| {
        let mut field = Field::new("f", kind, 0);
        field.declared = Some(declared.into());
        db.interface.field_for(&field).declared.unwrap_or_default()
    };
    assert_eq!(made("VARCHAR(20)", Some(Kind::Text)), "VARCHAR(20)");
    assert_eq!(made("DECIMAL(10, 2)", None), "DECIMAL(10, 2)");
    assert_eq!(made("double precision", Some(Kind::Float)), "double precision");
    assert_eq!(made("INTEGER PRIMARY KEY", Some(Kind::Integer)), "INTEGER");
    assert_eq!(made("TEXT STRICT", Some(Kind::Text)), "TEXT");
    assert_eq!(made("ANY STRICT", None), "");
    // Others' types that would turn values into something else here.
    assert_eq!(made("numeric(20,4)", Some(Kind::Decimal)), "TEXT");
    assert_eq!(made("integer[]", Some(Kind::List)), "TEXT");
    assert_eq!(made("bytea", Some(Kind::Bytes)), "BLOB");
    for attack in ["TEXT); DROP TABLE t; --", "TEXT DEFAULT 'x'", "TEXT NOT NULL", "TEXT /*", "TEXT (1", "TEXT(1,2,3)"]
    {
        assert_eq!(made(attack, Some(Kind::Text)), "TEXT", "{attack}");
    }
}

#[test]
fn a_table_we_make_reads_as_the_fields_it_was_made_of() {
    let db = Db::missing("");
    let kinds = Kind::ALL.into_iter().map(Some).chain([None]);
    let fields =
        kinds.enumerate().map(|(at, kind)| db.interface.field_for(&Field::new(format!("c{at}"), kind, at as u32)));
    let schema = Schema { fields: fields.collect(), key: KeySpec::WholeRow };
    let collection = Collection { name: CollectionName::new("all kinds"), schema };
    db.commit(&collection, &[], Action::Write(&[])).unwrap();
    assert_eq!(db.collections(), std::slice::from_ref(&collection));
    // And a receiver of that table makes the same.
    let again = collection.schema.fields.iter().map(|field| db.interface.field_for(field));
    assert_eq!(again.collect::<Vec<_>>(), collection.schema.fields);
}
