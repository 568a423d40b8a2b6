//! Schemas that evolve, collections as bytes, digests.

use deltabus_record::arbitrary;
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_schema_found_again_changes_nothing(schema in arbitrary::schema()) {
        prop_assert_eq!(schema.evolve(&schema), schema);
    }

    #[test]
    fn slots_never_move(known in arbitrary::schema(), found in arbitrary::schema()) {
        let next = known.evolve(&found);
        prop_assert!(next.fields.len() >= known.fields.len());
        for (before, after) in known.fields.iter().zip(&next.fields) {
            prop_assert_eq!(&before.name, &after.name);
        }
        prop_assert_eq!(next.evolve(&found), next.clone());
        prop_assert_eq!(next.key_names(), found.key_names());
        let names = |schema: &Schema| {
            let mut names: Vec<_> = schema.ordered().into_iter().map(|(_, field)| field.name.clone()).collect();
            names.sort();
            names
        };
        prop_assert_eq!(names(&next), names(&found));
        for (_, field) in found.ordered() {
            prop_assert_eq!(&next.fields[next.slot(&field.name).unwrap()], field);
        }
    }

    #[test]
    fn what_comes_back_gets_its_slot_back(known in arbitrary::schema(), between in arbitrary::schema()) {
        let there_and_back = known.evolve(&between).evolve(&known);
        for (slot, field) in known.ordered() {
            prop_assert_eq!(there_and_back.slot(&field.name), Some(slot));
        }
        prop_assert_eq!(there_and_back.key_names(), known.key_names());
    }

    #[test]
    fn collections_come_back_from_bytes(collection in arbitrary::collection()) {
        prop_assert_eq!(Collection::from_bytes(&collection.to_bytes()), Ok(collection));
    }

    #[test]
    fn damaged_collections_are_refused_or_are_others(
        collection in arbitrary::collection(),
        at in any::<prop::sample::Index>(),
        by in any::<u8>(),
    ) {
        let mut bytes = collection.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = by;
        if let Ok(found) = Collection::from_bytes(&bytes) {
            // Whatever is asked of it, it answers.
            found.schema.key_names();
            found.schema.evolve(&found.schema);
            prop_assert_eq!(Collection::from_bytes(&found.to_bytes()), Ok(found));
        }
    }

    #[test]
    fn a_digest_depends_on_no_order(hashes in vec(any::<u128>(), 0..20), gone in vec(any::<u128>(), 0..5)) {
        let mut forward = Digest::default();
        hashes.iter().for_each(|hash| forward.add(*hash));
        let mut backward = Digest::default();
        gone.iter().for_each(|hash| backward.add(*hash));
        hashes.iter().rev().for_each(|hash| backward.add(*hash));
        gone.iter().rev().for_each(|hash| backward.remove(*hash));
        prop_assert_eq!(forward, backward);
        prop_assert_eq!(forward.records, hashes.len() as u64);
    }

    #[test]
    fn records_of_any_length_have_hashes_of_their_own(
        key in vec(any::<u8>(), 0..300),
        row in vec(any::<u8>(), 0..900),
        at in any::<prop::sample::Index>(),
    ) {
        let hasher = RecordHasher::new(&CollectionName::new("people"));
        let hash = hasher.hash(&key, &row);
        prop_assert_eq!(hasher.hash(&key, &row), hash);
        prop_assert_ne!(RecordHasher::new(&CollectionName::new("places")).hash(&key, &row), hash);
        let whole = [key.as_slice(), &row].concat();
        let at = at.index(whole.len() + 1);
        prop_assert_eq!(hasher.hash(&whole[..at], &whole[at..]) == hash, at == key.len());
    }
}

#[test]
fn equal_pairs_do_not_cancel_out() {
    let mut digest = Digest::default();
    digest.add(7);
    digest.add(7);
    assert_eq!((digest.records, digest.sum), (2, 14));
}

#[test]
fn a_schema_that_would_be_asked_in_vain_is_refused() {
    let check = |values: &[Value]| assert!(Collection::from_bytes(Row::of(values).as_bytes()).is_err(), "{values:?}");
    let field = |name: &str, dropped| {
        Value::List(vec![Value::text(name), Value::Null, Value::Null, Value::Integer(0), Value::Bool(dropped)])
    };
    let key = |slot| Value::List(vec![Value::Integer(slot)]);
    let named = Value::text("people");
    check(&[]);
    check(&[named.clone(), key(1), Value::List(vec![field("a", false)])]);
    check(&[named.clone(), key(-1), Value::List(vec![field("a", false)])]);
    check(&[named.clone(), key(0), Value::List(vec![field("a", true)])]);
    check(&[named.clone(), Value::Null, Value::List(vec![field("a", false), field("a", false)])]);
    check(&[Value::Null, Value::Null, Value::List(vec![])]);
}

#[test]
fn names_of_keys_that_do_not_exist_are_told_with_those_that_do() {
    let fields = vec![Field::new("id", Some(Kind::Integer), 0), Field::new("name", None, 1)];
    let schema = Schema { fields, key: KeySpec::WholeRow };
    let error = schema.with_key(&["uid"]).unwrap_err();
    assert_eq!(error.to_string(), "there is no field `uid` to be the key; the fields are `id`, `name`");
}
