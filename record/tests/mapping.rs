//! Rows between a source's and a destination's schema.

use std::convert::Infallible;

use deltabus_record::arbitrary;
use deltabus_record::convert;
use deltabus_record::mapping::{Lens, Mapping, MappingError};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Field, KeySpec, Schema};
use deltabus_record::value::{Kind, KindSet, Value};
use proptest::collection::vec;
use proptest::prelude::*;

const CELLS: KindSet = KindSet::of(&[Kind::Null, Kind::Text]);

fn schema(names: &[&str]) -> Schema {
    let fields = names.iter().zip(0..).map(|(name, ordinal)| Field::new(*name, None, ordinal)).collect();
    Schema { fields, key: KeySpec::Fields(vec![0]) }
}

fn mapping(fields: &[(&str, &str)], omit: &[&str]) -> Mapping {
    let fields: Vec<_> = fields.iter().map(|(to, from)| ((*to).to_owned(), (*from).to_owned())).collect();
    Mapping::new(&fields, &omit.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
}

fn forward(lens: &Lens, row: &Row, kinds: KindSet) -> Row {
    let mut out = RowBuilder::default();
    let mut project = |value, _| Ok::<_, Infallible>(convert::project(value, kinds));
    let Ok(()) = lens.forward(row.as_bytes(), &mut out, &mut project);
    out.row()
}

fn backward(lens: &Lens, row: &Row, base: Option<&Row>) -> Row {
    let mut out = RowBuilder::default();
    lens.backward(row.as_bytes(), base.map(Row::as_bytes), &mut out);
    out.row()
}

#[test]
fn fields_are_renamed_and_left_out() {
    let source = schema(&["id", "telephone", "salary", "city"]);
    let mapping = mapping(&[("phone", "telephone")], &["salary"]);
    let destination = mapping.destination_schema(&source).unwrap();
    let names: Vec<_> = destination.fields.iter().map(|field| (field.name.as_str(), field.ordinal)).collect();
    assert_eq!(names, [("id", 0), ("phone", 1), ("city", 2)]);
    assert_eq!(destination.key_names(), ["id"]);

    let lens = Lens::new(&mapping, &source, &destination, |_| KindSet::ALL).unwrap();
    let values = ["7", "123", "9000", "Oslo"].map(Value::text);
    let row = Row::of(&values);
    let there = forward(&lens, &row, KindSet::ALL);
    assert_eq!(there.values(), ["7", "123", "Oslo"].map(Value::text));
    let edited = Row::of(&["7", "124", "Oslo"].map(Value::text));
    assert_eq!(backward(&lens, &edited, Some(&row)).values(), ["7", "124", "9000", "Oslo"].map(Value::text));
    assert_eq!(backward(&lens, &edited, None).value(2), Value::Absent);
    assert_eq!((lens.destination_slot(3), lens.destination_slot(2), lens.source_slot(2)), (Some(2), None, Some(3)));
}

#[test]
fn dropped_fields_and_the_order_for_people_count() {
    let mut source = schema(&["id", "old", "b", "a"]);
    source.fields[1].dropped = true;
    source.fields[3].ordinal = 1;
    let destination = Mapping::identity().destination_schema(&source).unwrap();
    let names: Vec<_> = destination.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["id", "a", "b"]);
    let lens = Lens::new(&Mapping::identity(), &source, &destination, |_| KindSet::ALL).unwrap();
    let row = Row::of(&["1", "gone", "B", "A"].map(Value::text));
    let there = forward(&lens, &row, KindSet::ALL);
    assert_eq!(there.values(), ["1", "A", "B"].map(Value::text));
    assert_eq!(backward(&lens, &there, Some(&row)), row);
}

#[test]
fn a_destination_s_own_fields_are_left_alone() {
    let source = schema(&["id", "name"]);
    let found = schema(&["note", "name", "id", "more"]);
    let lens = Lens::new(&Mapping::identity(), &source, &found, |_| CELLS).unwrap();
    let row = Row::of(&[Value::Integer(1), Value::text("Kari")]);
    let there = forward(&lens, &row, CELLS);
    assert_eq!(there.values(), [Value::Absent, Value::text("Kari"), Value::text("1")]);
    let noted = Row::of(&[Value::text("!"), Value::text("Kari"), Value::text("1"), Value::text("?")]);
    assert_eq!(backward(&lens, &noted, Some(&row)), row);
}

#[test]
fn errors_name_the_nearest() {
    let source = schema(&["id", "telephone"]);
    let check = |mapping: Mapping, message: &str| {
        let found = mapping.check_names([&source].into_iter()).and_then(|()| mapping.check(&source));
        assert_eq!(found.unwrap_err().to_string(), message);
    };
    check(mapping(&[("phone", "telefone")], &[]), "the source has no field `telefone`; did you mean `telephone`?");
    check(mapping(&[], &["salary"]), "the source has no field `salary`; its fields are id, telephone");
    check(mapping(&[], &["id"]), "the field `id` belongs to the key and can't be left out");
    check(mapping(&[("id", "telephone")], &[]), "two fields would be named `id` at the destination");
    check(
        mapping(&[("a", "telephone"), ("b", "telephone")], &[]),
        "the field `telephone` can't stand in two fields of the destination",
    );
    let whole = Schema { key: KeySpec::WholeRow, ..source.clone() };
    assert_eq!(mapping(&[], &["telephone"]).destination_schema(&whole), Err(MappingError::WholeRow));
}

#[test]
fn a_name_may_be_another_collection_s_or_a_dropped_field_s() {
    let (people, mut places) = (schema(&["id", "salary"]), schema(&["id", "city"]));
    let mapping = mapping(&[("town", "city")], &["salary"]);
    assert_eq!(mapping.check_names([&people, &places].into_iter()), Ok(()));
    assert!(mapping.check_names([&people].into_iter()).is_err());
    places.fields[1].dropped = true;
    assert_eq!(mapping.check_names([&people, &places].into_iter()), Ok(()));
    assert_eq!(mapping.check_names([].into_iter()), Ok(()));
    let names = |schema: &Schema| mapping.destination_schema(schema).unwrap().fields.len();
    assert_eq!((names(&people), names(&places)), (1, 1));
}

#[test]
fn names_can_be_swapped() {
    let source = schema(&["id", "a", "b"]);
    let mapping = mapping(&[("a", "b"), ("b", "a")], &[]);
    let destination = mapping.destination_schema(&source).unwrap();
    let lens = Lens::new(&mapping, &source, &schema(&["id", "a", "b"]), |_| KindSet::ALL).unwrap();
    assert_eq!(destination.fields[1].name, "b");
    let row = Row::of(&["1", "A", "B"].map(Value::text));
    let there = forward(&lens, &row, KindSet::ALL);
    assert_eq!(there.values(), ["1", "B", "A"].map(Value::text));
    assert_eq!(backward(&lens, &there, None), row);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_went_there_comes_back(
        values in vec(arbitrary::value(), 5),
        order in Just(vec!["id", "a", "b", "c", "d", "own"]).prop_shuffle(),
        kinds in prop::sample::select(vec![
            KindSet::ALL,
            CELLS,
            KindSet::of(&[Kind::Null, Kind::Integer, Kind::Float, Kind::Text, Kind::Bytes]),
        ]),
        declared in any::<bool>(),
    ) {
        let mut source = schema(&["id", "a", "b", "c", "d"]);
        if declared {
            for (field, value) in source.fields.iter_mut().zip(&values) {
                field.kind = Some(value.kind());
            }
        }
        let found = schema(&order);
        let lens = Lens::new(&Mapping::identity(), &source, &found, |_| kinds).unwrap();
        let row = Row::of(&values);
        let there = forward(&lens, &row, kinds);
        prop_assert_eq!(Row::from_bytes(there.as_bytes()), Ok(there.clone()));
        prop_assert_eq!(backward(&lens, &there, Some(&row)), row);
        for (slot, value) in values.iter().enumerate() {
            let place = lens.destination_slot(slot).unwrap();
            prop_assert_eq!(lens.source_slot(place), Some(slot));
            prop_assert_eq!(there.value(place), convert::project(value.clone(), kinds));
        }
    }

    #[test]
    fn wide_rows_go_in_any_order(values in vec(arbitrary::scalar(), 150), place in Just((0..150).collect::<Vec<usize>>()).prop_shuffle()) {
        let names: Vec<_> = (0..150).map(|i| format!("field{i}")).collect();
        let source = schema(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let found = schema(&place.iter().map(|i| names[*i].as_str()).collect::<Vec<_>>());
        let lens = Lens::new(&Mapping::identity(), &source, &found, |_| KindSet::ALL).unwrap();
        let row = Row::of(&values);
        let there = forward(&lens, &row, KindSet::ALL);
        prop_assert_eq!(backward(&lens, &there, None), row);
        let same = Lens::new(&Mapping::identity(), &source, &source, |_| KindSet::ALL).unwrap();
        prop_assert_eq!(forward(&same, &there, KindSet::ALL), there);
    }
}
