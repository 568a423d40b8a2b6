//! Taking reverse sets: merge each edit with the source as it stands, field by field.

use std::time::Duration;

use deltabus_interfaces::{Action, CollectionWrite, Contents, Interface, RecordWrite, Stamp};
use deltabus_record::change::{
    Change, CollectionChanges, ConflictPolicy, Outcome, Reply, ReverseSet, Transaction, Verdict,
};
use deltabus_record::diff::{self, count_equal};
use deltabus_record::key::{Key, RECORD_KEY_BYTES_MAX, split_occurrence};
use deltabus_record::large::{LARGE_MIN, internalize, refers_to_large};
use deltabus_record::merge::{self, Clock};
use deltabus_record::row::{Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::text;
use deltabus_record::value::{Kind, KindSet, Value};
use deltabus_state::Working;

use crate::Error;
use crate::contents::OnTheBus;

/// When a record last changed at the source, in milliseconds; for the policy `latest`.
///
/// Also the record as it was when it went, where it did.
pub(crate) type LastChanged<'a> = dyn Fn(&CollectionName, &Key) -> (u64, Option<Row>) + 'a;

/// An edit may be dated so much later than it is here: clocks differ. One dated later still wins by no date, or it would win over
/// every change of the source.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(3600);

/// The latest time that something can have been done, where it is `now_millis`.
pub(crate) fn latest_time(now_millis: u64) -> u64 {
    now_millis.saturating_add(CLOCK_AHEAD_MAX.as_millis() as u64)
}

/// When the edits of `set` were made, as far as that can be: 0, before everything, where it can't.
pub(crate) fn dated(set: &ReverseSet, now_millis: u64) -> u64 {
    if set.time_millis <= latest_time(now_millis) { set.time_millis } else { 0 }
}

/// Merges `set`, whose edits were made at `time_millis`, into `working` and says what became of each edit.
///
/// `source` tells what its store makes of each value, so that the previous state holds what the next scan will find.
pub(crate) fn merge_set(
    set: &ReverseSet,
    time_millis: u64,
    working: &mut Working<'_>,
    source: &Source<'_>,
    policy: ConflictPolicy,
    last_changed: &LastChanged<'_>,
) -> Result<Reply, Error> {
    let mut verdicts = Vec::new();
    for edits in &set.edits.collections {
        for edit in &edits.changes {
            match prepare(set, &edits.collection, edit, working, source)? {
                Prepared::Decided(verdict) => verdicts.push(verdict),
                Prepared::Edit(edit) => {
                    let edit = Edit { collection: &edits.collection, edit, time_millis };
                    verdicts.extend(merge_edit(&edit, working, policy, last_changed)?);
                }
            }
        }
    }
    Ok(Reply { reverse: set.id.clone(), time_millis: set.time_millis, verdicts, resolves: Vec::new() })
}

/// An edit as the source would have it.
pub(crate) struct Edit<'a> {
    pub(crate) collection: &'a CollectionName,
    pub(crate) edit: Change,
    pub(crate) time_millis: u64,
}

/// What an edit comes to before it is merged.
pub(crate) enum Prepared {
    /// It is to be merged.
    Edit(Change),
    /// There is nothing to merge.
    Decided(Verdict),
}

/// Brings an edit of `set` into the form in which it can be merged: values as the source keeps them, the key that these have.
pub(crate) fn prepare(
    set: &ReverseSet,
    name: &CollectionName,
    edit: &Change,
    working: &Working<'_>,
    source: &Source<'_>,
) -> Result<Prepared, Error> {
    let Some(collection) = working.collection(name) else {
        let reason = format!("the source has no collection `{name}`");
        return Ok(Prepared::Decided(refused(name, edit.clone(), reason)));
    };
    let moved = set.moved(collection);
    let placed = moved.as_ref().map(|moved| edit.placed(moved, &collection.schema));
    if let Some((slot, value)) = moved.as_ref().and_then(|moved| edit.lost(moved)) {
        let field = set.fields.get(name).and_then(|names| names.get(slot)).cloned().unwrap_or_default();
        let reason = format!("the source has no field `{field}`, which was given {}", text::display(&value));
        return Ok(Prepared::Decided(refused(name, placed.unwrap_or_else(|| edit.clone()), reason)));
    }
    let edit = placed.as_ref().unwrap_or(edit);
    let kept = match as_kept(edit, collection, source)? {
        Ok(kept) => kept,
        Err(reason) => return Ok(Prepared::Decided(refused(name, edit.clone(), reason))),
    };
    if collection.schema.key != KeySpec::WholeRow {
        return Ok(Prepared::Edit(kept));
    }
    // Equal rows are counted: it is one more, or one less than the source has, unless it has as many already.
    let (content, occurrence) = split_occurrence(kept.key().as_bytes());
    let there = count_equal(content, |key| Ok::<_, Error>(working.get(name, key)?.is_some()))?;
    let counted = match &kept {
        Change::Insert { row, .. } if occurrence >= there => {
            Some(Change::Insert { key: diff::counted(content, there), row: row.clone() })
        }
        Change::Delete { row, .. } if occurrence < there => {
            Some(Change::Delete { key: diff::counted(content, there - 1), row: row.clone() })
        }
        _ => None,
    };
    Ok(match counted {
        Some(edit) => Prepared::Edit(edit),
        None => Prepared::Decided(Verdict { collection: name.clone(), edit: kept, outcome: Outcome::Already }),
    })
}

/// Merges one edit into `working` and says what became of its parts.
pub(crate) fn merge_edit(
    edit: &Edit<'_>,
    working: &mut Working<'_>,
    policy: ConflictPolicy,
    last_changed: &LastChanged<'_>,
) -> Result<Vec<Verdict>, Error> {
    let Edit { collection, edit, time_millis } = edit;
    let now = working.get(collection, edit.key())?;
    let (changed, gone) = last_changed(collection, edit.key());
    // What an edit of a deleted record brings back: deleted just now, by another reverse set, or earlier.
    let gone = match (&now, edit) {
        (None, Change::Update { .. }) => working.before(collection, edit.key())?.or(gone),
        _ => None,
    };
    if now.is_none() && gone.is_none() && matches!(edit, Change::Update { .. }) {
        let reason = "the source has deleted the record, and it is no longer known what it was".to_owned();
        return Ok(vec![refused(collection, edit.clone(), reason)]);
    }
    let clock = if *time_millis < changed { Clock::SourceLater } else { Clock::EditLater };
    let merged = merge::merge(edit, now.as_ref(), gone.as_ref(), policy, clock, &[]);
    if let Some(change) = &merged.apply {
        working.apply_change(collection, change)?;
    }
    let verdict = |(edit, outcome)| Verdict { collection: (*collection).clone(), edit, outcome };
    Ok(merged.verdicts.into_iter().map(verdict).collect())
}

pub(crate) fn refused(collection: &CollectionName, edit: Change, reason: String) -> Verdict {
    Verdict { collection: collection.clone(), edit, outcome: Outcome::Refused { reason } }
}

/// The source that edits are merged into.
pub(crate) struct Source<'a> {
    pub(crate) interface: &'a dyn Interface,
    pub(crate) contents: &'a OnTheBus,
}

impl Source<'_> {
    /// The value as the source will give it back, or why it can't hold it.
    fn project(&self, value: Value, field: &Field) -> Result<Result<Value, String>, Error> {
        let verbatim: KindSet = self.interface.verbatim(field);
        let projected = |value: Value| self.interface.project(value, field).map_err(|refusal| refusal.to_string());
        let Value::Large(large) = &value else {
            return Ok(if verbatim.contains(value.kind()) { Ok(value) } else { projected(value) });
        };
        let inside = if large.text { Kind::Text } else { Kind::Bytes };
        if verbatim.contains(Kind::Large) || verbatim.contains(inside) {
            return Ok(Ok(value));
        }
        let whole = match self.contents.value(large) {
            Ok(whole) => whole,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let whole = match projected(whole) {
            Ok(whole) => whole,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let kept = match &whole {
            Value::Text(text) if text.len() > LARGE_MIN => self.contents.keep(text.as_bytes(), true)?,
            Value::Bytes(bytes) if bytes.len() > LARGE_MIN => self.contents.keep(bytes, false)?,
            _ => return Ok(Ok(whole)),
        };
        Ok(Ok(Value::Large(Box::new(kept))))
    }
}

/// The edit with its new values as the source will give them back, or why the source can't hold them.
fn as_kept(edit: &Change, collection: &Collection, source: &Source<'_>) -> Result<Result<Change, String>, Error> {
    let project = |slot: usize, value: Value| -> Result<Result<Value, String>, Error> {
        let Some(field) = collection.schema.fields.get(slot) else {
            return Ok(Err(format!("the source has no field {slot}")));
        };
        let name = &field.name;
        if field.dropped {
            return Ok(Err(format!("the source no longer has the field `{name}`")));
        }
        Ok(source.project(value, field)?.map_err(|problem| format!("field `{name}`: {problem}")))
    };
    if let Err(problem) = check_key(edit, &collection.schema) {
        return Ok(Err(problem));
    }
    Ok(Ok(match edit {
        Change::Insert { key, row } => {
            let mut builder = RowBuilder::default();
            for (slot, field) in RowReader::new(row.as_bytes()).enumerate() {
                match field.value() {
                    Value::Absent => builder.push(&Value::Absent),
                    value => match project(slot, value)? {
                        Ok(value) => builder.push(&value),
                        Err(problem) => return Ok(Err(problem)),
                    },
                }
            }
            // Slots that the edit left out are absent too, in the store's own way.
            let occurrence = split_occurrence(key.as_bytes()).1;
            let key = match builder.as_bytes() == row.as_bytes() {
                true => key.clone(),
                false => collection.schema.key_of(builder.as_bytes(), occurrence),
            };
            Change::Insert { key, row: builder.row() }
        }
        Change::Update { key, fields } => {
            let mut fields = fields.clone();
            for field in &mut fields {
                match project(field.slot as usize, field.after.clone())? {
                    Ok(value) => field.after = value,
                    Err(problem) => return Ok(Err(problem)),
                }
            }
            Change::Update { key: key.clone(), fields }
        }
        Change::Delete { .. } => edit.clone(),
    }))
}

/// Whether an edit's key can be that of its record: whoever sends it only says so.
fn check_key(edit: &Change, schema: &Schema) -> Result<(), String> {
    let key = edit.key();
    let bytes = key.as_bytes().len();
    if !(1..=RECORD_KEY_BYTES_MAX).contains(&bytes) {
        return Err(format!("the record's key has {bytes} bytes, and {RECORD_KEY_BYTES_MAX} are the most"));
    }
    let KeySpec::Fields(slots) = &schema.key else { return Ok(()) };
    match edit {
        Change::Insert { row, .. } if schema.key_of(row.as_bytes(), 0) != *key => {
            Err("the record's key is not that of its fields".into())
        }
        Change::Update { fields, .. } if fields.iter().any(|field| slots.contains(&field.slot)) => {
            Err("a record's key doesn't change; delete it and insert another".into())
        }
        _ => Ok(()),
    }
}

/// What the merge changed, as writes to the source.
pub(crate) fn source_writes(working: &Working<'_>) -> Vec<(Collection, Vec<RecordWrite>)> {
    let mut writes: Vec<(Collection, Vec<RecordWrite>)> = Vec::new();
    for (name, key, touched) in working.touched() {
        let Some(write) = write_of(key, touched.before.as_ref(), touched.after.as_ref()) else { continue };
        match writes.last_mut().filter(|(collection, _)| collection.name == *name) {
            Some((_, writes)) => writes.push(write),
            None => {
                let Some(collection) = working.collection(name) else { continue };
                writes.push((collection.clone(), vec![write]));
            }
        }
    }
    writes
}

/// What differs between two stages of a merge, as writes to the source.
pub(crate) fn source_writes_from(
    after: &Working<'_>,
    before: &Working<'_>,
) -> Result<Vec<(Collection, Vec<RecordWrite>)>, Error> {
    let mut writes = Vec::new();
    for (name, key, touched) in after.touched() {
        let Some(collection) = after.collection(name) else { continue };
        if let Some(write) = write_of(key, before.get(name, key)?.as_ref(), touched.after.as_ref()) {
            writes.push((collection.clone(), vec![write]));
        }
    }
    Ok(writes)
}

fn write_of(key: &Key, before: Option<&Row>, after: Option<&Row>) -> Option<RecordWrite> {
    match (before, after) {
        (before, after) if before == after => None,
        (before, Some(row)) => {
            Some(RecordWrite::Put { key: key.clone(), row: row.clone(), changed: changed_slots(before, row) })
        }
        (Some(row), None) => Some(RecordWrite::Remove { key: key.clone(), row: row.clone() }),
        (None, None) => None,
    }
}

/// The slots in which two rows differ; all of `after`'s where there was no row.
pub(crate) fn changed_slots(before: Option<&Row>, after: &Row) -> Vec<u32> {
    match before {
        Some(before) => diff::changed_slots(before, after),
        None => (0..RowReader::new(after.as_bytes()).count() as u32).collect(),
    }
}

/// What the merge changed, as a transaction.
pub(crate) fn transaction_of(working: &Working<'_>) -> Transaction {
    let mut transaction = Transaction::default();
    for (name, key, touched) in working.touched() {
        let Some(change) = diff::change(key.clone(), touched.before.as_ref(), touched.after.as_ref()) else { continue };
        match transaction.collections.last_mut().filter(|changes| changes.collection == *name) {
            Some(changes) => changes.changes.push(change),
            None => {
                transaction.collections.push(CollectionChanges { collection: name.clone(), changes: vec![change] });
            }
        }
    }
    transaction
}

/// Writes the source, if `may` says so when all is ready for it: what follows then is one step. Nothing is journalled: after
/// a crash the next scan finds what was written as a change of the source's own, and merging the reverse set again finds that
/// there is nothing to do.
pub(crate) fn write_source(
    interface: &dyn Interface,
    writes: &[(Collection, Vec<RecordWrite>)],
    expected: &Stamp,
    contents: &dyn Contents,
    may: &dyn Fn() -> Result<(), Error>,
) -> Result<Stamp, Error> {
    let mut whole = Vec::with_capacity(writes.len());
    for (collection, writes) in writes {
        let kept = |slot: usize| {
            collection.schema.fields.get(slot).is_some_and(|field| interface.verbatim(field).contains(Kind::Large))
        };
        let writes: Result<Vec<_>, _> = writes.iter().map(|write| with_large(write, &kept, contents)).collect();
        whole.push((collection, writes?));
    }
    let mut writes: Vec<CollectionWrite<'_>> = whole
        .iter()
        .map(|(collection, writes)| CollectionWrite { collection, dropped: &[], action: Action::Write(writes) })
        .collect();
    let staged = interface.stage(&mut writes, expected, None, contents)?;
    may()?;
    Ok(staged.commit()?)
}

/// The write with large values in their place, but for those that are `kept` by reference.
fn with_large(
    write: &RecordWrite,
    kept: &dyn Fn(usize) -> bool,
    contents: &dyn Contents,
) -> Result<RecordWrite, deltabus_interfaces::Error> {
    let mut write = write.clone();
    let (RecordWrite::Put { row, .. } | RecordWrite::Remove { row, .. }) = &mut write;
    if refers_to_large(row.as_bytes()) {
        let mut whole = RowBuilder::default();
        internalize(row.as_bytes(), &mut whole, kept, &mut |large| contents.value(large))?;
        *row = whole.row();
    }
    Ok(write)
}

#[cfg(test)]
mod tests {
    use deltabus_record::change::FieldChange;

    use super::*;

    /// A key is bytes beside the record: whoever sends another's overwrites that one.
    #[test]
    fn an_edit_under_a_key_that_is_not_its_own_is_refused() {
        let fields = vec![Field::new("id", Some(Kind::Integer), 0), Field::new("name", Some(Kind::Text), 1)];
        let schema = Schema { fields, key: KeySpec::WholeRow };
        let keyed = schema.clone().with_key(&["id"]).unwrap();
        let row = Row::of(&[Value::Integer(7), Value::text("Kari")]);
        let own = keyed.key_of(row.as_bytes(), 0);
        let other = Key::of(&[Value::Integer(8)]);
        let insert = |key: &Key| Change::Insert { key: key.clone(), row: row.clone() };
        let update = |slot| {
            let field = FieldChange { slot, before: Value::Null, after: Value::Integer(9) };
            Change::Update { key: own.clone(), fields: vec![field] }
        };
        assert_eq!(check_key(&insert(&own), &keyed), Ok(()));
        assert_eq!(check_key(&update(1), &keyed), Ok(()));
        for edit in [insert(&other), update(0), insert(&Key::from_trusted(Vec::new()))] {
            assert!(check_key(&edit, &keyed).is_err(), "{edit:?}");
        }
        let long = Key::from_trusted(vec![6; RECORD_KEY_BYTES_MAX + 1]);
        for schema in [&schema, &keyed] {
            let problem = check_key(&Change::Delete { key: long.clone(), row: row.clone() }, schema).unwrap_err();
            assert!(problem.contains("32774 bytes"), "{problem}");
        }
    }
}
