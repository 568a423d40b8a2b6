//! The three-way merge: an edit made on a base, and the source as it stands now, field by field.

use crate::change::{Change, Conflict, ConflictPolicy, FieldChange, Outcome, Winner};
use crate::diff;
use crate::row::Row;
use crate::value::Value;

/// Which side changed the record last; for the policy `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The edit is as late as the source's last change, or later.
    EditLater,
    /// The source changed later than the edit was made.
    SourceLater,
}

/// What becomes of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// What is to be done at the source now; `None`: nothing.
    pub apply: Option<Change>,
    /// Each part of the edit and how it came out. Every field of the edit is in exactly one of them; an
    /// edit without fields has one all the same.
    pub verdicts: Vec<(Change, Outcome)>,
}

/// Merges `edit` with the record as the source has it.
///
/// `base` is the record that the edit was made on, as far as known: what an edit of a deleted record brings back. Slots that
/// stand together in one of `groups` conflict together, also with one that the edit leaves alone and the source changed
/// since `base`.
pub fn merge(
    edit: &Change,
    source: Option<&Row>,
    base: Option<&Row>,
    policy: ConflictPolicy,
    clock: Clock,
    groups: &[Vec<u32>],
) -> Merged {
    match (edit, source) {
        (Change::Update { fields, .. }, Some(source)) => {
            merge_fields(edit, fields, source, base, policy, clock, groups)
        }
        (Change::Update { .. }, None) => bring_back(edit, base),
        (Change::Insert { row, .. }, Some(source)) => {
            let fields = diff::fields(&Row::default(), row);
            // Each field as an edit of an absent one; fields that the insert leaves out stay as the source has them.
            merge_fields(edit, &fields, source, base, policy, clock, groups)
        }
        (Change::Insert { .. }, None) => {
            Merged { apply: Some(edit.clone()), verdicts: vec![(edit.clone(), Outcome::Accepted)] }
        }
        (Change::Delete { .. }, None) => Merged { apply: None, verdicts: vec![(edit.clone(), Outcome::Already)] },
        (Change::Delete { row, .. }, Some(source)) if row == source => {
            Merged { apply: Some(edit.clone()), verdicts: vec![(edit.clone(), Outcome::Accepted)] }
        }
        (Change::Delete { .. }, Some(_)) => {
            let conflict = Conflict {
                slot: None,
                base: Value::Absent,
                source: Value::Absent,
                edit: Value::Absent,
                source_deleted: false,
                edit_deletes: true,
                winner: Winner::Source,
                open: policy == ConflictPolicy::Manual,
            };
            let outcome = Outcome::Conflict(Box::new(conflict));
            Merged { apply: None, verdicts: vec![(edit.clone(), outcome)] }
        }
    }
}

/// How one field stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    Free,
    Already,
    Conflict,
}

fn merge_fields(
    edit: &Change,
    fields: &[FieldChange],
    source: &Row,
    base: Option<&Row>,
    policy: ConflictPolicy,
    clock: Clock,
    groups: &[Vec<u32>],
) -> Merged {
    if fields.is_empty() {
        // An insert of nothing but absent values, or an update of no field: there is nothing to be done.
        return Merged { apply: None, verdicts: vec![(edit.clone(), Outcome::Already)] };
    }
    let values = source.values();
    let now = |slot: u32| values.get(slot as usize).cloned().unwrap_or(Value::Absent);
    let mut stands: Vec<Stand> = fields
        .iter()
        .map(|field| match now(field.slot) {
            now if now == field.after => Stand::Already,
            now if now == field.before => Stand::Free,
            _ => Stand::Conflict,
        })
        .collect();
    let edited = |slot: u32| fields.iter().any(|field| field.slot == slot);
    let moved = |slot: u32| base.is_some_and(|base| !edited(slot) && base.value(slot as usize) != now(slot));
    // A field may stand in several groups, so that the conflict of one becomes another's.
    let mut spreads = !groups.is_empty();
    while spreads {
        spreads = false;
        for group in groups {
            let is_member = |(i, field): (usize, &FieldChange)| group.contains(&field.slot).then_some(i);
            let members: Vec<usize> = fields.iter().enumerate().filter_map(is_member).collect();
            let conflicts =
                members.iter().any(|i| stands[*i] == Stand::Conflict) || group.iter().any(|slot| moved(*slot));
            for i in members.into_iter().filter(|_| conflicts) {
                if stands[i] == Stand::Free {
                    stands[i] = Stand::Conflict;
                    spreads = true;
                }
            }
        }
    }
    let winner = match (policy, clock) {
        (ConflictPolicy::Receiver, _) | (ConflictPolicy::Latest, Clock::EditLater) => Winner::Edit,
        _ => Winner::Source,
    };
    let mut writes = Vec::new();
    let mut verdicts = Vec::new();
    for (field, stand) in fields.iter().zip(stands) {
        let now = now(field.slot);
        let wins = stand == Stand::Free || (stand == Stand::Conflict && winner == Winner::Edit);
        if wins && now != field.after {
            writes.push(FieldChange { slot: field.slot, before: now.clone(), after: field.after.clone() });
        }
        let outcome = match stand {
            Stand::Free => Outcome::Accepted,
            Stand::Already => Outcome::Already,
            Stand::Conflict => Outcome::Conflict(Box::new(Conflict {
                slot: Some(field.slot),
                base: field.before.clone(),
                source: now,
                edit: field.after.clone(),
                source_deleted: false,
                edit_deletes: false,
                winner,
                open: policy == ConflictPolicy::Manual,
            })),
        };
        let part = Change::Update { key: edit.key().clone(), fields: vec![field.clone()] };
        verdicts.push((part, outcome));
    }
    let apply = (!writes.is_empty()).then(|| Change::Update { key: edit.key().clone(), fields: writes });
    Merged { apply, verdicts }
}

/// An edit outranks a delete: the record comes back with the edit.
fn bring_back(edit: &Change, base: Option<&Row>) -> Merged {
    let row = crate::apply::force(edit, None, base);
    let conflict = Conflict {
        slot: None,
        base: Value::Absent,
        source: Value::Absent,
        edit: Value::Absent,
        source_deleted: true,
        edit_deletes: false,
        winner: Winner::Edit,
        open: false,
    };
    Merged {
        apply: row.map(|row| Change::Insert { key: edit.key().clone(), row }),
        verdicts: vec![(edit.clone(), Outcome::Conflict(Box::new(conflict)))],
    }
}
