//! Dead letters: changes that the destination refused, kept until it takes them or somebody drops them.
//!
//! A record whose change is refused is *set aside*: the destination goes on holding it as it did, which is remembered. A later
//! change of it is tried as a whole, from what is held to what the source has then; so nothing is applied on a wrong base, and
//! what was refused comes along with what the destination takes. Meanwhile what is held is expected there: it is neither
//! drift nor an edit.

use std::collections::BTreeMap;

use deltabus_record::diff;
use deltabus_record::json;
use deltabus_record::key::{Key, split_occurrence};
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, KeySpec, ReceiverName};
use deltabus_record::value::Value;
use deltabus_state::{Batch, View};

use crate::error::Error;
use crate::pending::{Held, Records};

/// So many changes may be refused by one destination. More are no longer single records: something is wrong with it as a
/// whole, and going on would hide that. All of them are held in memory.
pub const DEAD_LETTERS_MAX: usize = 10_000;

/// Dead letters in the store; the number follows.
const DEAD: &str = "dead/";
/// The number of the last dead letter made.
const NUMBER: &str = "dead-number";
/// What is about to be refused, together with a revision that is about to be written.
const REFUSALS: &str = "refusals";

/// A change that the destination refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// Its number among the receiver's; never used twice.
    pub(crate) number: u64,
    /// Of the source.
    pub(crate) collection: CollectionName,
    /// The source's.
    pub(crate) key: Key,
    /// The record as the destination holds it, in the source's terms.
    pub(crate) held: Option<Row>,
    /// The record as the source has it.
    pub(crate) wanted: Option<Row>,
    /// The revision that first brought a refused change, and when.
    pub(crate) first: Refusal,
    /// The revision that was refused last, and when.
    pub(crate) last: Refusal,
    /// How often the destination refused.
    pub(crate) attempts: u64,
    /// What it said last.
    pub(crate) reason: String,
    /// Somebody has dropped it: it is tried again only when the source changes the record.
    pub(crate) dropped: bool,
}

/// When a change was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) revision: u64,
    pub(crate) time_millis: u64,
}

/// A change that has just been refused.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) collection: CollectionName,
    pub(crate) key: Key,
    pub(crate) held: Option<Row>,
    pub(crate) wanted: Option<Row>,
    pub(crate) reason: String,
    /// It was left out of a stream of records, that is not to be written again.
    pub(crate) left_out: bool,
}

/// A receiver's dead letters, one a record at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeadLetters {
    letters: BTreeMap<(CollectionName, Key), DeadLetter>,
    /// The last number used.
    number: u64,
}

impl DeadLetters {
    /// Those in the store.
    pub(crate) fn read(view: &View) -> Result<DeadLetters, Error> {
        let number = match view.meta_values(NUMBER)?.as_deref() {
            Some([Value::Integer(number)]) => *number as u64,
            Some(_) => return Err(Error::Ledger(NUMBER)),
            None => 0,
        };
        let mut letters = BTreeMap::new();
        for (_, bytes) in view.meta_prefix(DEAD)? {
            let values = Row::from_bytes(&bytes).map(|row| row.values()).unwrap_or_default();
            let letter = DeadLetter::from_values(&values).ok_or(Error::Ledger(DEAD))?;
            letters.insert((letter.collection.clone(), letter.key.clone()), letter);
        }
        Ok(DeadLetters { letters, number })
    }

    /// All of them, by collection and key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &DeadLetter> {
        self.letters.values()
    }

    /// Whether there are none, not even dropped ones.
    pub(crate) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// How many wait for somebody.
    pub(crate) fn waiting(&self) -> usize {
        self.iter().filter(|letter| !letter.dropped).count()
    }

    /// The one of a record.
    pub(crate) fn of(&self, collection: &CollectionName, key: &Key) -> Option<&DeadLetter> {
        self.letters.get(&(collection.clone(), key.clone()))
    }

    /// The one of a number that waits for somebody.
    pub(crate) fn numbered(&self, number: u64) -> Option<&DeadLetter> {
        self.iter().find(|letter| letter.number == number && !letter.dropped)
    }

    /// What is set aside by them, as it is held.
    pub(crate) fn held(&self) -> Held {
        let held = |letter: &DeadLetter| letter.held.clone();
        self.letters.iter().map(|(key, letter)| (key.clone(), held(letter))).collect()
    }

    /// What is set aside by those that were dropped.
    pub(crate) fn dropped(&self) -> Held {
        let dropped = self.letters.iter().filter(|(_, letter)| letter.dropped);
        dropped.map(|(key, letter)| (key.clone(), letter.held.clone())).collect()
    }

    /// How they are after `tried` records were tried again and `refused` were refused, at this revision and time.
    pub(crate) fn after(&self, tried: &Records, refused: Vec<Refused>, at: Refusal) -> Result<DeadLetters, Error> {
        let mut next = self.without(tried);
        for refused in refused {
            let place = (refused.collection.clone(), refused.key.clone());
            let before = self.letters.get(&place);
            let number = match before {
                Some(before) if !before.dropped => before.number,
                _ => {
                    next.number += 1;
                    next.number
                }
            };
            let letter = DeadLetter {
                number,
                collection: refused.collection,
                key: refused.key,
                held: refused.held,
                wanted: refused.wanted,
                first: before.filter(|before| !before.dropped).map_or(at, |before| before.first),
                last: at,
                attempts: before.map_or(0, |before| before.attempts) + 1,
                reason: refused.reason,
                dropped: false,
            };
            next.letters.insert(place, letter);
        }
        if next.letters.len() > DEAD_LETTERS_MAX {
            return Err(Error::TooManyDeadLetters {
                reason: next.iter().last().map(|letter| letter.reason.clone()).unwrap_or_default(),
            });
        }
        Ok(next)
    }

    /// The same with the fields where they are in the collections `now`; they were as in those of `before`.
    pub(crate) fn placed(&self, now: &[Collection], before: &[Collection]) -> DeadLetters {
        let mut placed = DeadLetters { letters: BTreeMap::new(), number: self.number };
        for mut letter in self.letters.values().cloned() {
            let of = |collections: &'_ [Collection]| {
                collections
                    .iter()
                    .find(|collection| collection.name == letter.collection)
                    .map(|known| known.schema.clone())
            };
            if let (Some(now), Some(before)) = (of(now), of(before))
                && let Some(moved) = now.moved(&before.names())
            {
                let occurrence = split_occurrence(letter.key.as_bytes()).1;
                letter.held = letter.held.map(|row| row.in_slots(moved.from()));
                letter.wanted = letter.wanted.map(|row| row.in_slots(moved.from()));
                if let (KeySpec::WholeRow, Some(row)) = (&now.key, letter.held.as_ref().or(letter.wanted.as_ref())) {
                    letter.key = now.key_of(row.as_bytes(), occurrence);
                }
            }
            placed.letters.insert((letter.collection.clone(), letter.key.clone()), letter);
        }
        placed
    }

    /// The same without those of these records, which the destination holds by now.
    pub(crate) fn without(&self, records: &Records) -> DeadLetters {
        let mut next = self.clone();
        next.letters.retain(|key, _| !records.contains(key));
        next
    }

    /// How they are when these records have changed and all of the destination is yet to be made what it should be: what was
    /// dropped is tried again with the others.
    pub(crate) fn touched(&self, records: &Records) -> DeadLetters {
        let mut next = self.clone();
        next.letters.retain(|key, letter| !letter.dropped || !records.contains(key));
        next
    }

    /// The same with one dropped; `None` if there is none of that number that waits.
    pub(crate) fn dropping(&self, number: u64) -> Option<DeadLetters> {
        let mut next = self.clone();
        next.letters.values_mut().find(|letter| letter.number == number && !letter.dropped)?.dropped = true;
        Some(next)
    }

    /// Puts into `batch` what leads from `before` to these.
    pub(crate) fn write(&self, before: &DeadLetters, batch: &mut Batch) -> Result<(), Error> {
        for letter in before.iter().filter(|letter| self.of(&letter.collection, &letter.key) != Some(letter)) {
            batch.meta_remove(&letter.name())?;
        }
        for letter in self.iter().filter(|letter| before.of(&letter.collection, &letter.key) != Some(letter)) {
            batch.meta_put_values(&letter.name(), &letter.to_values())?;
        }
        if self.number != before.number {
            batch.meta_put_values(NUMBER, &[Value::Integer(self.number as i64)])?;
        }
        Ok(())
    }

    /// Keeps these as what comes true with `revision`: after a crash the destination tells whether it did.
    pub(crate) fn intend(&self, revision: u64, batch: &mut Batch) -> Result<(), Error> {
        let letters = self.iter().map(|letter| Value::List(letter.to_values())).collect();
        let values = [Value::Integer(revision as i64), Value::Integer(self.number as i64), Value::List(letters)];
        Ok(batch.meta_put_values(REFUSALS, &values)?)
    }

    /// What was about to come true, and with which revision.
    pub(crate) fn intended(view: &View) -> Result<Option<(u64, DeadLetters)>, Error> {
        let Some(values) = view.meta_values(REFUSALS)? else { return Ok(None) };
        let [Value::Integer(revision), Value::Integer(number), Value::List(letters)] = values.as_slice() else {
            return Err(Error::Ledger(REFUSALS));
        };
        let letter = |value: &Value| match value {
            Value::List(values) => DeadLetter::from_values(values).ok_or(Error::Ledger(REFUSALS)),
            _ => Err(Error::Ledger(REFUSALS)),
        };
        let letters = letters.iter().map(letter).collect::<Result<Vec<_>, Error>>()?;
        let letters =
            letters.into_iter().map(|letter| ((letter.collection.clone(), letter.key.clone()), letter)).collect();
        Ok(Some((*revision as u64, DeadLetters { letters, number: *number as u64 })))
    }

    /// Nothing is intended any more.
    pub(crate) fn settle(batch: &mut Batch) -> Result<(), Error> {
        Ok(batch.meta_remove(REFUSALS)?)
    }

    /// For people and scripts: a JSON array of an object for each. `collections` are the source's.
    pub(crate) fn to_json(&self, receiver: &ReceiverName, collections: &[Collection]) -> String {
        let mut letters: Vec<&DeadLetter> = self.iter().collect();
        letters.sort_by_key(|letter| letter.number);
        let lines: Vec<String> = letters.iter().map(|letter| letter.to_json(receiver, collections)).collect();
        format!("[{}\n]\n", lines.iter().map(|line| format!("\n{line}")).collect::<Vec<_>>().join(","))
    }
}

impl DeadLetter {
    /// The record's collection and key.
    pub(crate) fn place(&self) -> (CollectionName, Key) {
        (self.collection.clone(), self.key.clone())
    }

    fn name(&self) -> String {
        format!("{DEAD}{:020}", self.number)
    }

    fn to_values(&self) -> Vec<Value> {
        let number = |number: u64| Value::Integer(number as i64);
        let row = |row: &Option<Row>| row.as_ref().map_or(Value::Null, |row| Value::Bytes(row.as_bytes().to_vec()));
        vec![
            number(self.number),
            Value::text(self.collection.as_str()),
            Value::Bytes(self.key.as_bytes().to_vec()),
            row(&self.held),
            row(&self.wanted),
            number(self.first.revision),
            number(self.first.time_millis),
            number(self.last.revision),
            number(self.last.time_millis),
            number(self.attempts),
            Value::text(self.reason.as_str()),
            Value::Bool(self.dropped),
        ]
    }

    fn from_values(values: &[Value]) -> Option<DeadLetter> {
        let row = |value: &Value| match value {
            Value::Null => Some(None),
            Value::Bytes(bytes) => Some(Some(Row::from_bytes(bytes).ok()?)),
            _ => None,
        };
        match values {
            [
                Value::Integer(number),
                Value::Text(collection),
                Value::Bytes(key),
                held,
                wanted,
                Value::Integer(first_revision),
                Value::Integer(first_time),
                Value::Integer(last_revision),
                Value::Integer(last_time),
                Value::Integer(attempts),
                Value::Text(reason),
                Value::Bool(dropped),
            ] => Some(DeadLetter {
                number: *number as u64,
                collection: CollectionName::new(collection.as_str()),
                key: Key::from_trusted(key.as_slice()),
                held: row(held)?,
                wanted: row(wanted)?,
                first: Refusal { revision: *first_revision as u64, time_millis: *first_time as u64 },
                last: Refusal { revision: *last_revision as u64, time_millis: *last_time as u64 },
                attempts: *attempts as u64,
                reason: reason.clone(),
                dropped: *dropped,
            }),
            _ => None,
        }
    }

    /// As a JSON object.
    pub(crate) fn to_json(&self, receiver: &ReceiverName, collections: &[Collection]) -> String {
        let schema = collections.iter().find(|known| known.name == self.collection).map(|known| &known.schema);
        let name = |slot: u32| match schema.and_then(|schema| schema.fields.get(slot as usize)) {
            Some(field) => field.name.clone(),
            None => format!("field {slot}"),
        };
        let (change, empty) = (change(self.held.as_ref(), self.wanted.as_ref()), Row::default());
        let (held, wanted) = (self.held.as_ref().unwrap_or(&empty), self.wanted.as_ref().unwrap_or(&empty));
        let fields = diff::fields(held, wanted).into_iter().map(|field| {
            let sides = [("held", field.before), ("wanted", field.after)];
            let sides = sides.into_iter().filter(|(_, value)| *value != Value::Absent);
            (name(field.slot), Value::Map(sides.map(|(side, value)| (side.to_owned(), value)).collect()))
        });
        let number = |number: u64| Value::Integer(number as i64);
        let object = vec![
            ("id".to_owned(), Value::text(format!("{receiver}/{}", self.number))),
            ("collection".into(), Value::text(self.collection.as_str())),
            ("key".into(), Value::text(deltabus_record::key::display(self.key.as_bytes()))),
            ("change".into(), Value::text(change)),
            ("fields".into(), Value::Map(fields.collect())),
            ("reason".into(), Value::text(self.reason.as_str())),
            ("revision".into(), number(self.last.revision)),
            ("time_millis".into(), number(self.last.time_millis)),
            ("first_revision".into(), number(self.first.revision)),
            ("first_time_millis".into(), number(self.first.time_millis)),
            ("attempts".into(), number(self.attempts)),
            ("dropped".into(), Value::Bool(self.dropped)),
        ];
        json::write(&Value::Map(object))
    }
}

/// What a change from `before` to `after` is called.
fn change(before: Option<&Row>, after: Option<&Row>) -> &'static str {
    match (before, after) {
        (None, _) => "insert",
        (_, None) => "delete",
        _ => "update",
    }
}

#[cfg(test)]
mod tests {
    use deltabus_record::schema::{Field, KeySpec, Schema};
    use deltabus_state::{Owner, Store};

    use super::*;

    fn name() -> CollectionName {
        CollectionName::new("people")
    }

    fn key(id: i64) -> Key {
        Key::of(&[Value::Integer(id)])
    }

    fn row(id: i64, name: &str) -> Option<Row> {
        Some(Row::of(&[Value::Integer(id), Value::text(name)]))
    }

    fn refused(id: i64, held: Option<Row>, wanted: Option<Row>) -> Refused {
        Refused { collection: name(), key: key(id), held, wanted, reason: format!("no {id}"), left_out: false }
    }

    fn at(revision: u64) -> Refusal {
        Refusal { revision, time_millis: revision * 1000 }
    }

    fn tried(ids: &[i64]) -> Records {
        ids.iter().map(|id| (name(), key(*id))).collect()
    }

    fn numbers(letters: &DeadLetters) -> Vec<(u64, u64, u64)> {
        letters.iter().map(|letter| (letter.number, letter.first.revision, letter.attempts)).collect()
    }

    #[test]
    fn a_record_refused_again_keeps_its_number_and_one_that_is_taken_goes() {
        let none = DeadLetters::default();
        let two = vec![refused(1, row(1, "a"), row(1, "b")), refused(2, None, row(2, "c"))];
        let first = none.after(&tried(&[1, 2, 3]), two, at(5)).unwrap();
        assert_eq!(numbers(&first), [(1, 5, 1), (2, 5, 1)]);
        let second = first.after(&tried(&[1, 2]), vec![refused(2, None, row(2, "d"))], at(6)).unwrap();
        assert_eq!(numbers(&second), [(2, 5, 2)]);
        assert_eq!(second.held(), BTreeMap::from([((name(), key(2)), None)]));
        // Records that were not tried stay as they are, and numbers are never used again.
        let third = second.after(&tried(&[1]), vec![refused(1, row(1, "a"), None)], at(7)).unwrap();
        assert_eq!(numbers(&third), [(3, 7, 1), (2, 5, 2)]);
    }

    #[test]
    fn one_that_was_dropped_is_set_aside_still_and_a_new_one_when_it_is_refused_again() {
        let first = DeadLetters::default().after(&tried(&[1]), vec![refused(1, None, row(1, "a"))], at(5)).unwrap();
        assert!(first.dropping(9).is_none());
        let dropped = first.dropping(1).unwrap();
        assert!(dropped.dropping(1).is_none() && dropped.numbered(1).is_none());
        assert_eq!((dropped.waiting(), dropped.held().len(), dropped.dropped().len()), (0, 1, 1));
        let again = dropped.after(&tried(&[1]), vec![refused(1, None, row(1, "b"))], at(6)).unwrap();
        assert_eq!(numbers(&again), [(2, 6, 2)]);
    }

    #[test]
    fn too_many_are_an_error() {
        let many = (0..=DEAD_LETTERS_MAX as i64).map(|id| refused(id, None, row(id, "a"))).collect();
        let failed = DeadLetters::default().after(&Records::new(), many, at(5));
        assert!(matches!(failed, Err(Error::TooManyDeadLetters { .. })));
    }

    #[test]
    fn the_store_has_them_and_what_is_intended_besides() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner::Transmitter { source: "people".parse().unwrap() };
        let store = Store::open(folder.path(), &owner).unwrap();
        let none = DeadLetters::read(&store.view()).unwrap();
        let two = vec![refused(1, row(1, "a"), row(1, "b")), refused(2, None, row(2, "c"))];
        let first = none.after(&Records::new(), two, at(5)).unwrap();
        let mut batch = store.batch();
        first.write(&none, &mut batch).unwrap();
        batch.commit().unwrap();
        assert_eq!(DeadLetters::read(&store.view()).unwrap(), first);
        let second = first.dropping(2).unwrap().after(&tried(&[1]), Vec::new(), at(6)).unwrap();
        let mut batch = store.batch();
        second.intend(6, &mut batch).unwrap();
        batch.commit().unwrap();
        assert_eq!(DeadLetters::read(&store.view()).unwrap(), first);
        assert_eq!(DeadLetters::intended(&store.view()).unwrap(), Some((6, second.clone())));
        let mut batch = store.batch();
        second.write(&first, &mut batch).unwrap();
        DeadLetters::settle(&mut batch).unwrap();
        batch.commit().unwrap();
        assert_eq!(DeadLetters::read(&store.view()).unwrap(), second);
        assert_eq!(DeadLetters::intended(&store.view()).unwrap(), None);
    }

    #[test]
    fn the_list_has_all_that_a_person_needs() {
        let fields = vec![Field::new("id", None, 0), Field::new("name", None, 1)];
        let people = Collection { name: name(), schema: Schema { fields, key: KeySpec::Fields(vec![0]) } };
        let letters = vec![refused(7, row(7, "a"), row(7, "b"))];
        let letters = DeadLetters::default().after(&Records::new(), letters, at(5)).unwrap();
        let text = letters.to_json(&"oslo".parse().unwrap(), &[people]);
        assert_eq!(
            text,
            "[\n{\"id\":\"oslo/1\",\"collection\":\"people\",\"key\":\"7\",\"change\":\"update\",\"fields\":{\"name\":{\"held\":\"a\",\
             \"wanted\":\"b\"}},\"reason\":\"no 7\",\"revision\":5,\"time_millis\":5000,\"first_revision\":5,\
             \"first_time_millis\":5000,\"attempts\":1,\"dropped\":false}\n]\n"
        );
    }
}
