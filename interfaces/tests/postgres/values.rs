//! Values of every type, read back exactly.

use deltabus_interfaces::Action;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Date, Decimal, Instant, Kind, Time, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Db, Rows, decimal, int, text};

/// How many sets of random values each type is tried with; each is one round trip to the server.
const TRIES: u32 = 12;

/// How many values at a time.
const VALUES: usize = 30;

fn list(values: &[Value]) -> Value {
    Value::List(values.to_vec())
}

/// One column of `sql_type` with these literals reads as `expected`, and so does a copy of it in another database.
fn check(sql_type: &str, literals: &[(&str, Value)]) {
    let values: Vec<_> = literals.iter().enumerate().map(|(at, (literal, _))| format!("({at}, {literal})")).collect();
    let sql = format!("CREATE TABLE t (id int PRIMARY KEY, v {sql_type}); INSERT INTO t VALUES {}", values.join(", "));
    let db = Db::new(&sql);
    let found = db.rows("t");
    for ((literal, expected), row) in literals.iter().zip(&found) {
        assert_eq!(&row[1], expected, "{sql_type}: {literal}");
    }
    let field = &db.collection("t").schema.fields[1];
    for (_, value) in literals {
        if !db.interface.verbatim(field).contains(value.kind()) {
            assert_eq!(db.interface.project(value.clone(), field).as_ref(), Ok(value), "{sql_type}");
        }
    }
    let copy = Db::new("");
    copy.load_all(&db);
    let of_type = |db: &Db| {
        db.run("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'v'")
    };
    assert_eq!(of_type(&copy), of_type(&db), "{sql_type}");
    let printed = |db: &Db| db.run("SELECT v::text FROM t ORDER BY id");
    assert_eq!(printed(&copy), printed(&db), "{sql_type}");
    // Written one by one, over something else.
    let collection = copy.collection("t");
    let nulls: Vec<_> =
        (0..literals.len()).map(|at| super::put(&collection, &[int(at as i64), Value::Null], &[1])).collect();
    copy.write("t", &nulls).unwrap();
    let writes: Vec<_> = found.iter().map(|row| super::put(&collection, row, &[1])).collect();
    copy.write("t", &writes).unwrap();
    assert_eq!(copy.rows("t"), found, "{sql_type}");
}

#[test]
fn numbers() {
    check("smallint", &[("-32768", int(-32768)), ("32767", int(32767)), ("NULL", Value::Null)]);
    check("integer", &[("-2147483648", int(i32::MIN.into())), ("2147483647", int(i32::MAX.into()))]);
    check("bigint", &[("-9223372036854775808", int(i64::MIN)), ("9223372036854775807", int(i64::MAX))]);
    check("oid", &[("4294967295", int(u32::MAX.into()))]);
    let big: num_bigint::BigInt = format!("1{}", "0".repeat(200)).parse().unwrap();
    check(
        "numeric",
        &[
            ("0", decimal(0, 0)),
            ("0.00", decimal(0, 2)),
            ("-1.50", decimal(-150, 2)),
            ("1e20", Value::Decimal(Box::new(Decimal { unscaled: 100_000_000_000_000_000_000_i128.into(), scale: 0 }))),
            ("1e200", Value::Decimal(Box::new(Decimal { unscaled: big.clone(), scale: 0 }))),
            ("1e-200", Value::Decimal(Box::new(Decimal { unscaled: 1.into(), scale: 200 }))),
            ("0.00001", decimal(1, 5)),
            ("12345.6789012", decimal(123_456_789_012, 7)),
            ("'NaN'", Value::Float(f64::NAN)),
            ("'Infinity'", Value::Float(f64::INFINITY)),
            ("'-Infinity'", Value::Float(f64::NEG_INFINITY)),
        ],
    );
    check("numeric(5,2)", &[("999.99", decimal(99_999, 2)), ("1", decimal(100, 2)), ("'NaN'", Value::Float(f64::NAN))]);
    check("numeric(3,5)", &[("0.00999", decimal(999, 5))]);
    check("numeric(3,-2)", &[("99900", decimal(99_900, 0))]);
    check(
        "real",
        &[
            ("0.1", Value::Float(0.1)),
            ("'-0'", Value::Float(-0.0)),
            ("3e38", Value::Float(3e38)),
            ("'NaN'", Value::Float(f64::NAN)),
        ],
    );
    check(
        "double precision",
        &[
            ("0.1", Value::Float(0.1)),
            ("'-0'", Value::Float(-0.0)),
            ("5e-324", Value::Float(5e-324)),
            ("'-inf'", Value::Float(f64::NEG_INFINITY)),
        ],
    );
    check("money", &[("'-1234.56'", text("-$1,234.56"))]);
}

#[test]
fn text_and_bytes() {
    check(
        "text",
        &[
            ("''", text("")),
            ("E'a\\tb\\\\c\\n\\r\"{}'", text("a\tb\\c\n\r\"{}")),
            ("'\\N'", text("\\N")),
            ("'NULL'", text("NULL")),
            ("'😀é'", text("😀é")),
        ],
    );
    check("varchar(5)", &[("'abcde'", text("abcde"))]);
    check("varchar", &[("'x'", text("x"))]);
    check("char(4)", &[("'a'", text("a   ")), ("''", text("    "))]);
    check("bpchar", &[("'a  '", text("a  "))]);
    check("name", &[("'n'", text("n"))]);
    check("\"char\"", &[("'c'", text("c"))]);
    check("bytea", &[("'\\x00ff5c'", Value::Bytes(vec![0, 255, 92])), ("''", Value::Bytes(Vec::new()))]);
    check("boolean", &[("true", Value::Bool(true)), ("false", Value::Bool(false))]);
    check(
        "uuid",
        &[(
            "'00112233-4455-6677-8899-aabbccddeeff'",
            Value::Uuid([0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]),
        )],
    );
    check("json", &[("'{\"b\": 1.50, \"b\":2}'", text("{\"b\": 1.50, \"b\":2}")), ("'null'", text("null"))]);
    check(
        "jsonb",
        &[
            ("'{\"b\": 1.50, \"aa\": [1e3], \"b\":null}'", text("{\"b\": null, \"aa\": [1000]}")),
            ("'null'", text("null")),
            ("'\"\"'", text("\"\"")),
        ],
    );
    check("xml", &[("'<a>é</a>'", text("<a>é</a>"))]);
    check("tsvector", &[("'''a b'':1A c:2'", text("'a b':1A 'c':2"))]);
}

#[test]
fn dates_and_times() {
    let never = [("'infinity'", text("infinity")), ("'-infinity'", text("-infinity"))];
    let with =
        |values: &[(&'static str, Value)]| never.iter().cloned().chain(values.iter().cloned()).collect::<Vec<_>>();
    check(
        "date",
        &with(&[
            ("'1970-01-01'", Value::Date(Date(0))),
            ("'4714-11-24 BC'", Value::Date(Date(-2_440_588))),
            ("'5874897-12-31'", Value::Date(Date(2_145_042_905))),
            ("'0001-12-31 BC'", Value::Date(Date(-719_163))),
        ]),
    );
    check(
        "timestamp",
        &with(&[
            ("'1969-12-31 23:59:59.999999'", Value::DateTime(Date(-1), Time(86_399_999_999_000))),
            ("'4714-11-24 00:00:00 BC'", Value::DateTime(Date(-2_440_588), Time(0))),
            ("'294276-12-31 23:59:59.999999'", Value::DateTime(Date(106_762_939), Time(86_399_999_999_000))),
        ]),
    );
    check(
        "timestamptz",
        &with(&[(
            "'2024-02-29 12:00:00.5+02'",
            Value::Instant(Instant { seconds: 1_709_200_800, nanos: 500_000_000, offset_seconds: 0 }),
        )]),
    );
    check("timestamp(3)", &[("'2024-01-01 00:00:00.1234'", Value::DateTime(Date(19_723), Time(123_000_000)))]);
    check(
        "time",
        &[("'24:00'", Value::Time(Time(86_400_000_000_000))), ("'00:00:00.000001'", Value::Time(Time(1000)))],
    );
    check("time(0)", &[("'12:00:00.4'", Value::Time(Time(43_200_000_000_000)))]);
    check("timetz", &[("'12:00:00+02:30'", text("12:00:00+02:30"))]);
    check(
        "interval",
        &[
            ("'1 year 2 months 3 days 04:05:06.7'", text("P1Y2M3DT4H5M6.7S")),
            ("'-1 day +00:00:01'", text("P-1DT1S")),
            ("'0'", text("PT0S")),
        ],
    );
    check("interval day to second(3)", &[("'1 day 00:00:01.5'", text("P1DT1.5S"))]);
}

#[test]
fn all_else_is_what_postgres_prints() {
    check("inet", &[("'::1/64'", text("::1/64")), ("'10.0.0.1'", text("10.0.0.1/32"))]);
    check("cidr", &[("'10.0.0.0/8'", text("10.0.0.0/8"))]);
    check("macaddr", &[("'08-00-2b-01-02-03'", text("08:00:2b:01:02:03"))]);
    check("bit(3)", &[("B'101'", text("101"))]);
    check("bit varying(9)", &[("B'10'", text("10")), ("B''", text(""))]);
    check("int4range", &[("'[1,5]'", text("[1,6)")), ("'empty'", text("empty"))]);
    check("tstzrange", &[("'[2020-01-01 00:00+00,)'", text("[\"2020-01-01 00:00:00+00\",)"))]);
    check("point", &[("'(1,2.5)'", text("(1,2.5)"))]);
    check("pg_lsn", &[("'16/B374D848'", text("16/B374D848"))]);
}

#[test]
fn arrays() {
    check(
        "int[]",
        &[
            ("'{}'", list(&[])),
            ("'{1,NULL,3}'", list(&[int(1), Value::Null, int(3)])),
            ("'{{1,2},{3,4}}'", list(&[list(&[int(1), int(2)]), list(&[int(3), int(4)])])),
            ("'[0:1]={1,2}'", text("[0:1]={\"1\",\"2\"}")),
        ],
    );
    check(
        "text[]",
        &[(
            "ARRAY['', 'NULL', NULL, 'a\"b\\c,{}', ' ']",
            list(&[text(""), text("NULL"), Value::Null, text("a\"b\\c,{}"), text(" ")]),
        )],
    );
    check("numeric(5,2)[]", &[("'{1.5,NaN}'", list(&[decimal(150, 2), Value::Float(f64::NAN)]))]);
    check("bytea[]", &[("ARRAY['\\x00'::bytea]", list(&[Value::Bytes(vec![0])]))]);
    check("timestamptz[]", &[("ARRAY['infinity'::timestamptz]", list(&[text("infinity")]))]);
    check("interval[]", &[("ARRAY['1 day'::interval]", list(&[text("P1D")]))]);
    check("jsonb[]", &[("ARRAY['{\"a\":1}'::jsonb]", list(&[text("{\"a\": 1}")]))]);
    check("varchar(3)[]", &[("ARRAY['abc']", list(&[text("abc")]))]);
}

#[test]
fn types_of_the_database_are_kept_where_they_are_and_replaced_where_not() {
    let types = "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN year AS int CHECK (VALUE > 1900);
        CREATE DOMAIN price AS numeric(7,2); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN word AS varchar(4);
        CREATE TYPE span AS RANGE (subtype = float8);";
    let rows = "CREATE TABLE t (id int PRIMARY KEY, m mood, y year, p price, c pair, ms mood[], ys year[], cs pair[], w word, s span);
        INSERT INTO t VALUES (1, 'so so', 1999, 1.5, ROW(1, 'x,\"'), '{sad,\"so so\"}', '{1999,2000}', ARRAY[ROW(2, NULL)::pair], 'abcd', '[1.5,2)')";
    let db = Db::new(&format!("{types}{rows}"));
    let expected = vec![
        int(1),
        text("so so"),
        int(1999),
        decimal(150, 2),
        text("(1,\"x,\"\"\")"),
        list(&[text("sad"), text("so so")]),
        list(&[int(1999), int(2000)]),
        list(&[text("(2,)")]),
        text("abcd"),
        text("[1.5,2)"),
    ];
    assert_eq!(db.rows("t"), [expected]);
    let declared: Vec<_> =
        db.collection("t").schema.fields.iter().map(|field| field.declared.clone().unwrap()).collect();
    assert_eq!(declared[1..4], ["mood AS text", "year AS int4", "price AS numeric(7,2)"]);
    let of_types = |db: &Db| {
        db.run("SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0")
    };
    let same = Db::new(types);
    same.load_all(&db);
    assert_eq!(of_types(&same), of_types(&db));
    let bare = Db::new("");
    let (tables, _) = db.scan().unwrap();
    let collection = bare.made_of(&db.collection("t"));
    bare.commit(vec![(&collection, Action::Load(&mut Rows::new(&collection.schema, &tables["t"])))]).unwrap();
    assert_eq!(
        of_types(&bare),
        "integer text integer numeric(7,2) text text[] integer[] text[] character varying(4) text"
    );
    assert_eq!(bare.tables(), tables);
}

#[test]
fn what_a_type_can_not_hold_is_refused() {
    let db = Db::new(
        "CREATE TABLE t (i2 smallint, n numeric(4,2), v varchar(3), t text, f real, d date, ts timestamp(0), a int[], j jsonb, jj json)",
    );
    let fields = db.collection("t").schema.fields;
    let project = |name: &str, value: Value| {
        let field = fields.iter().find(|field| field.name == name).unwrap();
        db.interface.project(value, field)
    };
    for (name, value) in [
        ("i2", int(40_000)),
        ("i2", Value::integer(num_bigint::BigInt::from(1) << 70)),
        ("i2", Value::Float(1.0)),
        ("i2", text("x")),
        ("n", decimal(1_234, 3)),
        ("n", decimal(12_345, 2)),
        ("v", text("abcd")),
        ("t", text("a\0b")),
        ("f", Value::Float(0.123_456_789)),
        ("d", Value::Date(Date(i32::MAX))),
        ("ts", Value::DateTime(Date(0), Time(500_000_000))),
        ("ts", Value::DateTime(Date(0), Time(1))),
        ("a", list(&[list(&[int(1)]), int(2)])),
        ("a", list(&[list(&[])])),
        ("a", text("{1}")),
        ("j", text("{")),
        ("j", text("\"\\u0000\"")),
        ("jj", text("[1,]")),
    ] {
        assert!(project(name, value.clone()).is_err(), "{name} takes {value:?}");
    }
    assert_eq!(project("n", decimal(5, 1)), Ok(decimal(50, 2)));
    assert_eq!(project("n", int(5)), Ok(decimal(500, 2)));
    assert_eq!(project("i2", text("12")), Ok(int(12)));
    assert_eq!(project("t", int(12)), Ok(text("12")));
    assert_eq!(project("j", text("[1 , 2.50]")), Ok(text("[1, 2.50]")));
}

/// Random values in a column, projected and brought in by every way there is, are read back.
fn comes_back(field: &Field, values: impl Strategy<Value = Value>) {
    let db = Db::new("");
    let fields = [Field::new("id", Some(Kind::Integer), 0), field.clone()];
    let fields = fields.iter().map(|field| db.interface.field_for(field)).collect();
    let schema = Schema { fields, key: KeySpec::Fields(vec![0]) };
    let collection = Collection { name: CollectionName::new("t"), schema };
    let field = collection.schema.fields[1].clone();
    let config = ProptestConfig { cases: TRIES, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&vec(values, VALUES), |values| {
        db.run("DROP TABLE IF EXISTS t");
        let project = |value: Value| match db.interface.verbatim(&field).contains(value.kind()) {
            true => Ok(value),
            false => db.interface.project(value, &field),
        };
        let mut rows = Vec::new();
        for value in values {
            if let Ok(once) = project(value) {
                assert_eq!(project(once.clone()).as_ref(), Ok(&once));
                rows.push(vec![int(rows.len() as i64), once]);
            }
        }
        let (loaded, written) = rows.split_at(rows.len() / 2);
        db.commit(vec![(&collection, Action::Load(&mut Rows::new(&collection.schema, loaded)))]).unwrap();
        let writes: Vec<_> = written.iter().map(|row| super::insert(&collection, row)).collect();
        db.write("t", &writes).unwrap();
        assert_eq!(db.rows("t"), rows);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{field:?}: {error}");
    }
}

fn declared(sql_type: &str, kind: Kind) -> Field {
    let mut field = Field::new("v", Some(kind), 1);
    field.declared = Some(sql_type.to_owned());
    field
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[\\\\\"{},\t\n\r N'().x]{0,8}"]
}

fn any_decimal() -> impl Strategy<Value = Value> {
    (any::<i128>(), -30..60i32, 0..40u32).prop_map(|(unscaled, scale, shift)| {
        let unscaled = unscaled.checked_shr(shift * 3).unwrap_or_default();
        Value::Decimal(Box::new(Decimal { unscaled: unscaled.into(), scale }))
    })
}

#[test]
fn random_scalars_come_back() {
    comes_back(&declared("numeric", Kind::Decimal), any_decimal());
    comes_back(&declared("numeric(30,7)", Kind::Decimal), any_decimal());
    comes_back(&declared("text", Kind::Text), any_text().prop_map(Value::Text));
    comes_back(&declared("character(9)", Kind::Text), any_text().prop_map(Value::Text));
    comes_back(
        &declared("float4", Kind::Float),
        any::<f32>().prop_map(|float| Value::Float(float.to_string().parse().unwrap())),
    );
    comes_back(&declared("double precision", Kind::Float), any::<f64>().prop_map(Value::Float));
    comes_back(&declared("bytea", Kind::Bytes), vec(any::<u8>(), 0..20).prop_map(Value::Bytes));
    comes_back(&declared("date", Kind::Date), any::<i32>().prop_map(|days| Value::Date(Date(days))));
    let time = || (0..=86_400_000_000u64).prop_map(|micros| Time(micros * 1_000));
    comes_back(&declared("time without time zone", Kind::Time), time().prop_map(Value::Time));
    let date_time = (-2_500_000..200_000_000i32, time()).prop_map(|(days, time)| Value::DateTime(Date(days), time));
    comes_back(&declared("timestamp without time zone", Kind::DateTime), date_time);
    let instant = (-300_000_000_000..10_000_000_000_000i64, 0..1_000_000u32, -50_000..50_000i32);
    let instant = instant.prop_map(|(seconds, micros, offset_seconds)| {
        Value::Instant(Instant { seconds, nanos: micros * 1_000, offset_seconds })
    });
    comes_back(&declared("timestamp with time zone", Kind::Instant), instant);
    comes_back(&declared("uuid", Kind::Uuid), any::<[u8; 16]>().prop_map(Value::Uuid));
}

#[test]
fn random_arrays_and_json_come_back() {
    let texts = || prop_oneof![any_text().prop_map(Value::Text), Just(Value::Null)];
    comes_back(&declared("text[]", Kind::List), vec(texts(), 0..5).prop_map(Value::List));
    let square = (1..3usize, 1..4usize)
        .prop_flat_map(|(a, b)| vec(vec(any::<i32>().prop_map(|it| int(it.into())), b).prop_map(Value::List), a));
    comes_back(&declared("int4[]", Kind::List), square.prop_map(Value::List));
    comes_back(&declared("numeric[]", Kind::List), vec(any_decimal(), 0..4).prop_map(Value::List));
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        any_decimal(),
        any::<f64>().prop_map(Value::Float),
        any_text().prop_map(Value::Text),
    ];
    let tree = leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::List),
            vec((any_text(), inner), 0..5).prop_map(|mut members| {
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members.dedup_by(|a, b| a.0 == b.0);
                Value::Map(members)
            }),
        ]
    });
    comes_back(&Field::new("v", Some(Kind::Map), 1), tree.clone());
    comes_back(&declared("json", Kind::Text), tree.prop_map(|value| Value::Text(deltabus_record::json::write(&value))));
}
