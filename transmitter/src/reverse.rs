//! Taking reverse sets: merge each edit with the source as it stands, field by field.

use std::cmp::Ordering;

use deltabus_interfaces::{Action, CollectionWrite, Interface, RecordWrite, Stamp};
use deltabus_record::change::{Change, ConflictPolicy, Outcome, Reply, ReverseSet, Verdict};
use deltabus_record::key::Key;
use deltabus_record::merge;
use deltabus_record::row::{Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_record::value::KindSet;
use deltabus_state::Working;

use crate::Error;

/// When a record last changed at the source, in milliseconds; for the policy `latest`.
pub(crate) type LastChanged<'a> = dyn Fn(&CollectionName, &Key) -> u64 + 'a;

/// Merges `set` into `working` and says what became of each edit.
///
/// `interface` tells what its store makes of each value, so that the previous state holds what the next scan will find.
pub(crate) fn merge_set(
    set: &ReverseSet,
    working: &mut Working<'_>,
    interface: &dyn Interface,
    policy: ConflictPolicy,
    last_changed: &LastChanged<'_>,
) -> Result<Reply, Error> {
    let mut verdicts = Vec::new();
    for edits in &set.edits.collections {
        for edit in &edits.changes {
            let Some(collection) = working.collection(&edits.collection).cloned() else {
                let reason = format!("the source has no collection `{}`", edits.collection);
                verdicts.push(refused(&edits.collection, edit.clone(), reason));
                continue;
            };
            let edit = match as_kept(edit, &collection, interface) {
                Ok(edit) => edit,
                Err(reason) => {
                    verdicts.push(refused(&edits.collection, edit.clone(), reason));
                    continue;
                }
            };
            let now = working.get(&edits.collection, edit.key())?;
            let clock = set.time_millis.cmp(&last_changed(&edits.collection, edit.key()));
            let clock = if clock == Ordering::Less { merge::Clock::SourceLater } else { merge::Clock::EditLater };
            let merged = merge::merge(&edit, now.as_ref(), policy, clock);
            if let Some(change) = &merged.apply {
                working.apply_change(&edits.collection, change)?;
            }
            let name = &edits.collection;
            verdicts.extend(
                merged.verdicts.into_iter().map(|(edit, outcome)| Verdict { collection: name.clone(), edit, outcome }),
            );
        }
    }
    Ok(Reply { reverse: set.id.clone(), verdicts, resolves: Vec::new() })
}

fn refused(collection: &CollectionName, edit: Change, reason: String) -> Verdict {
    Verdict { collection: collection.clone(), edit, outcome: Outcome::Refused { reason } }
}

/// The edit with its new values as the source will give them back, or why the source can't hold them.
fn as_kept(edit: &Change, collection: &Collection, interface: &dyn Interface) -> Result<Change, String> {
    let project = |slot: usize, value| {
        let field = collection.schema.fields.get(slot).ok_or_else(|| format!("the source has no field {slot}"))?;
        let name = &field.name;
        if field.dropped {
            return Err(format!("the source no longer has the field `{name}`"));
        }
        let verbatim: KindSet = interface.verbatim(field);
        if verbatim.contains(deltabus_record::value::Value::kind(&value)) {
            return Ok(value);
        }
        interface.project(value, field).map_err(|refusal| format!("field `{name}`: {refusal}"))
    };
    Ok(match edit {
        Change::Insert { key, row } => {
            let mut builder = RowBuilder::default();
            for (slot, field) in RowReader::new(row.as_bytes()).enumerate() {
                let value = field.value();
                match value {
                    deltabus_record::value::Value::Absent => builder.push(&value),
                    value => builder.push(&project(slot, value)?),
                }
            }
            // Slots that the edit left out are absent too, in the store's own way.
            Change::Insert { key: key.clone(), row: builder.row() }
        }
        Change::Update { key, fields } => {
            let mut fields = fields.clone();
            for field in &mut fields {
                field.after = project(field.slot as usize, field.after.clone())?;
            }
            Change::Update { key: key.clone(), fields }
        }
        Change::Delete { .. } => edit.clone(),
    })
}

/// What the merge changed, as writes to the source.
pub(crate) fn source_writes(working: &Working<'_>) -> Vec<(Collection, Vec<RecordWrite>)> {
    let mut writes: Vec<(Collection, Vec<RecordWrite>)> = Vec::new();
    for (name, key, touched) in working.touched() {
        let write = match (&touched.before, &touched.after) {
            (before, after) if before == after => continue,
            (before, Some(row)) => {
                RecordWrite::Put { key: key.clone(), row: row.clone(), changed: changed_slots(before.as_ref(), row) }
            }
            (Some(row), None) => RecordWrite::Remove { key: key.clone(), row: row.clone() },
            (None, None) => continue,
        };
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

/// The slots in which two rows differ; all of `after`'s where there was no row.
pub(crate) fn changed_slots(before: Option<&Row>, after: &Row) -> Vec<u32> {
    let after = after.values();
    let before = before.map(Row::values);
    let slots = after.len().max(before.as_ref().map_or(0, Vec::len));
    let absent = deltabus_record::value::Value::Absent;
    (0..slots)
        .filter(|&slot| match &before {
            Some(before) => before.get(slot).unwrap_or(&absent) != after.get(slot).unwrap_or(&absent),
            None => true,
        })
        .map(|slot| slot as u32)
        .collect()
}

/// Writes the source. Nothing is journalled: after a crash the next scan finds what was written as a change of the
/// source's own, and merging the reverse set again finds that there is nothing to do.
pub(crate) fn write_source(
    interface: &dyn Interface,
    writes: &[(Collection, Vec<RecordWrite>)],
    expected: &Stamp,
) -> Result<Stamp, deltabus_interfaces::Error> {
    let mut writes: Vec<CollectionWrite<'_>> = writes
        .iter()
        .map(|(collection, writes)| CollectionWrite { collection, dropped: &[], action: Action::Write(writes) })
        .collect();
    interface.stage(&mut writes, expected, None)?.commit()
}
