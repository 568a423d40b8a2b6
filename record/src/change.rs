//! Changes, change sets, revisions and reverse sets.

use std::collections::BTreeMap;
use std::fmt;

use crate::digest::Digest;
use crate::key::{Key, split_occurrence};
use crate::row::Row;
use crate::schema::{Collection, CollectionName, KeySpec, Moved, ReceiverName, Schema};
use crate::value::Value;

/// Names one exact state of a source: numbers go 1, 2, 3 … without a hole; 0 is the state before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Revision {
    /// The number.
    pub number: u64,
    /// The digest over all records.
    pub digest: Digest,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)
    }
}

impl Revision {
    /// As values, for the state store.
    pub fn to_values(&self) -> [Value; 3] {
        [
            Value::Integer(self.number as i64),
            Value::Integer(self.digest.records as i64),
            Value::Bytes(self.digest.sum.to_be_bytes().to_vec()),
        ]
    }

    /// From [`Revision::to_values`]; `None` for anything else.
    pub fn from_values(values: &[Value]) -> Option<Revision> {
        match values {
            [Value::Integer(number), Value::Integer(records), Value::Bytes(sum)] => {
                let sum = u128::from_be_bytes(sum.as_slice().try_into().ok()?);
                Some(Revision { number: *number as u64, digest: Digest { records: *records as u64, sum } })
            }
            _ => None,
        }
    }
}

/// One field of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// Which field.
    pub slot: u32,
    /// Its value in the base.
    pub before: Value,
    /// Its value in the next state; differs from `before`.
    pub after: Value,
}

/// What happens to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A record that was not there.
    Insert {
        /// Its key.
        key: Key,
        /// All its values.
        row: Row,
    },
    /// Fields of a record that stays. Key fields never change: that is a delete and an insert.
    Update {
        /// Its key.
        key: Key,
        /// Only the fields that differ, by slot.
        fields: Vec<FieldChange>,
    },
    /// A record that goes.
    Delete {
        /// Its key.
        key: Key,
        /// All its values, as they were.
        row: Row,
    },
}

impl Change {
    /// The record's key.
    pub fn key(&self) -> &Key {
        match self {
            Change::Insert { key, .. } | Change::Update { key, .. } | Change::Delete { key, .. } => key,
        }
    }

    /// The same in `schema`, whose fields have `moved` to where they are. Values of fields that it lacks are left out; see
    /// [`Change::lost`].
    pub fn placed(&self, moved: &Moved, schema: &Schema) -> Change {
        let key_of = |key: &Key, row: &Row| match &schema.key {
            KeySpec::WholeRow => schema.key_of(row.as_bytes(), split_occurrence(key.as_bytes()).1),
            KeySpec::Fields(_) => key.clone(),
        };
        match self {
            Change::Insert { key, row } => {
                let row = row.in_slots(moved.from());
                Change::Insert { key: key_of(key, &row), row }
            }
            Change::Delete { key, row } => {
                let row = row.in_slots(moved.from());
                Change::Delete { key: key_of(key, &row), row }
            }
            Change::Update { key, fields } => {
                let placed = |field: &FieldChange| {
                    let slot = moved.to(field.slot as usize)? as u32;
                    Some(FieldChange { slot, ..field.clone() })
                };
                let mut fields: Vec<_> = fields.iter().filter_map(placed).collect();
                fields.sort_by_key(|field| field.slot);
                Change::Update { key: key.clone(), fields }
            }
        }
    }

    /// The first field, by slot, with the value to be there, that has no place where the others have `moved` to.
    pub fn lost(&self, moved: &Moved) -> Option<(usize, Value)> {
        let is_lost = |(slot, value): &(usize, Value)| *value != Value::Absent && moved.to(*slot).is_none();
        match self {
            Change::Insert { row, .. } => row.values().into_iter().enumerate().find(is_lost),
            Change::Update { fields, .. } => {
                fields.iter().map(|field| (field.slot as usize, field.after.clone())).find(is_lost)
            }
            Change::Delete { .. } => None,
        }
    }

    /// The change that undoes this one.
    pub fn invert(self) -> Change {
        match self {
            Change::Insert { key, row } => Change::Delete { key, row },
            Change::Delete { key, row } => Change::Insert { key, row },
            Change::Update { key, mut fields } => {
                for field in &mut fields {
                    std::mem::swap(&mut field.before, &mut field.after);
                }
                Change::Update { key, fields }
            }
        }
    }
}

/// A change of what a collection looks like: made (`before` is `None`), gone (`after` is `None`) or altered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaChange {
    /// The collection as it was.
    pub before: Option<Collection>,
    /// The collection as it is.
    pub after: Option<Collection>,
}

/// The changes of one collection within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionChanges {
    /// Which collection.
    pub collection: CollectionName,
    /// The changes, at most one a key.
    pub changes: Vec<Change>,
}

/// Changes that belong together: schemas first, then records.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Transaction {
    /// Schema changes, in order. A collection that goes has its records deleted in this transaction.
    pub schemas: Vec<SchemaChange>,
    /// Record changes by collection.
    pub collections: Vec<CollectionChanges>,
}

impl Transaction {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty() && self.collections.iter().all(|collection| collection.changes.is_empty())
    }

    /// How many record changes there are.
    pub fn len(&self) -> usize {
        self.collections.iter().map(|collection| collection.changes.len()).sum()
    }

    /// The transaction that undoes this one.
    pub fn invert(self) -> Transaction {
        let schemas = self.schemas.into_iter().rev();
        let schemas = schemas.map(|s| SchemaChange { before: s.after, after: s.before }).collect();
        let invert = |c: CollectionChanges| CollectionChanges {
            collection: c.collection,
            changes: c.changes.into_iter().rev().map(Change::invert).collect(),
        };
        Transaction { schemas, collections: self.collections.into_iter().rev().map(invert).collect() }
    }
}

/// Names a reverse set: sets of one receiver are numbered 1, 2, 3 … without a hole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReverseId {
    /// Who found the edits.
    pub receiver: ReceiverName,
    /// Which of its reverse sets.
    pub number: u64,
}

/// Reverse sets of one receiver that were passed over are remembered in this many ranges; more are drawn together.
const PASSED_OVER_MAX: usize = 64;

/// How far a receiver's reverse sets were taken. One whose follower was taken without it is passed over for good: the bus had
/// lost it, and its receiver sends what it held under another number.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ReverseCursor {
    last: u64,
    /// From the first to the last of each, in order.
    passed_over: Vec<(u64, u64)>,
}

impl ReverseCursor {
    /// From what [`ReverseCursor::last`] and [`ReverseCursor::passed_over`] gave; `None` if they can't have.
    pub fn new(last: u64, passed_over: Vec<(u64, u64)>) -> Option<ReverseCursor> {
        let mut before = 0;
        for (first, end) in &passed_over {
            if *first <= before || end < first {
                return None;
            }
            before = *end;
        }
        (before < last || passed_over.is_empty()).then_some(ReverseCursor { last, passed_over })
    }

    /// The number of the last set that was taken; 0: none was.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The numbers that were passed over: from the first to the last of each range, in order.
    pub fn passed_over(&self) -> &[(u64, u64)] {
        &self.passed_over
    }

    /// Whether the set of this number was taken.
    pub fn has_taken(&self, number: u64) -> bool {
        number <= self.last && !self.passed_over.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    /// Takes a set; `false` if one of its number or a later one was taken before.
    pub fn take(&mut self, number: u64) -> bool {
        if number <= self.last {
            return false;
        }
        if number > self.last + 1 {
            self.passed_over.push((self.last + 1, number - 1));
            if self.passed_over.len() > PASSED_OVER_MAX {
                // What was taken between the two oldest may be sent again, and will be found to be there.
                let (first, _) = self.passed_over.remove(0);
                self.passed_over[0].0 = first;
            }
        }
        self.last = number;
        true
    }

    /// As if nothing after the set of this number had been taken.
    pub fn rewind(&mut self, number: u64) {
        self.last = self.last.min(number);
        self.passed_over.retain(|(_, last)| *last < self.last);
    }
}

/// How one edit of a reverse set came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The source now has the edit.
    Accepted,
    /// The source already had it.
    Already,
    /// The source had changed since: see [`Conflict`].
    Conflict(Box<Conflict>),
    /// The source can't take it (type, constraint, permission); the edit is kept here as a dead letter.
    Refused {
        /// Why, in a sentence.
        reason: String,
    },
}

/// Who decides when source and edit disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ConflictPolicy {
    /// The source stands.
    #[default]
    Source,
    /// The edit wins.
    Receiver,
    /// The later one wins, by hybrid logical clock.
    Latest,
    /// The source stands until somebody resolves it.
    Manual,
}

impl ConflictPolicy {
    /// All of them.
    pub const ALL: [ConflictPolicy; 4] =
        [ConflictPolicy::Source, ConflictPolicy::Receiver, ConflictPolicy::Latest, ConflictPolicy::Manual];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            ConflictPolicy::Source => "source",
            ConflictPolicy::Receiver => "receiver",
            ConflictPolicy::Latest => "latest",
            ConflictPolicy::Manual => "manual",
        }
    }
}

/// Which side of a conflict stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    /// The source's value.
    Source,
    /// The edit.
    Edit,
}

/// One disagreement, with all that is needed to decide it otherwise later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Which field; `None`: the record as a whole (edit against delete).
    pub slot: Option<u32>,
    /// The value both started from; `Absent` where there was none.
    pub base: Value,
    /// The source's value.
    pub source: Value,
    /// The edit's value.
    pub edit: Value,
    /// The source no longer has the record.
    pub source_deleted: bool,
    /// The edit deletes the record.
    pub edit_deletes: bool,
    /// Which side stands for now.
    pub winner: Winner,
    /// Whether somebody still has to look at it (policy `manual`).
    pub open: bool,
}

/// One edit and how it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The collection edited.
    pub collection: CollectionName,
    /// The edit: for an update one verdict per field, for the others one per record.
    pub edit: Change,
    /// How it came out.
    pub outcome: Outcome,
}

/// What came of one reverse set; travels in the change set that carries its accepted edits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Which reverse set.
    pub reverse: ReverseId,
    /// When its edits were found, as the reverse set says: milliseconds since 1970-01-01T00:00:00Z; 0: not known.
    pub time_millis: u64,
    /// A verdict for each edit. Accepted edits may be left out to save bytes: they are in the set's changes.
    pub verdicts: Vec<Verdict>,
    /// Somebody decided these by hand: conflicts and refused edits of this reverse set. The set may have been answered long
    /// before.
    pub resolves: Vec<ConflictId>,
}

/// Names a conflict, or an edit that was refused: the revision that recorded it and its place among all such in that set's
/// replies, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConflictId {
    /// Revision number of the set with the verdict.
    pub revision: u64,
    /// Which of that set's; see [`ChangeSet::cases`].
    pub index: u32,
}

/// A verdict that somebody may want to decide otherwise: a conflict, or an edit that was refused.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Its name.
    pub id: ConflictId,
    /// The answer that it is a part of.
    pub reply: &'a Reply,
    /// What was found.
    pub verdict: &'a Verdict,
}

impl ChangeSet {
    /// The conflicts and refused edits that this set records, in the order in which they are numbered.
    pub fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        let verdicts = self.replies.iter().flat_map(|reply| reply.verdicts.iter().map(move |verdict| (reply, verdict)));
        let open =
            verdicts.filter(|(_, verdict)| matches!(verdict.outcome, Outcome::Conflict(_) | Outcome::Refused { .. }));
        (1..).zip(open).map(|(index, (reply, verdict))| Case {
            id: ConflictId { revision: self.next.number, index },
            reply,
            verdict,
        })
    }

    /// How many records it adds, changes and takes away.
    pub fn counts(&self) -> [u64; 3] {
        let mut counts = [0; 3];
        let changes = self.transactions.iter().flat_map(|transaction| &transaction.collections);
        for change in changes.flat_map(|changes| &changes.changes) {
            counts[match change {
                Change::Insert { .. } => 0,
                Change::Update { .. } => 1,
                Change::Delete { .. } => 2,
            }] += 1;
        }
        counts
    }
}

impl std::str::FromStr for ConflictId {
    type Err = NotAConflictId;

    fn from_str(text: &str) -> Result<ConflictId, NotAConflictId> {
        let parts = || {
            let (revision, index) = text.split_once('.')?;
            Some(ConflictId { revision: revision.parse().ok()?, index: index.parse().ok()? })
        };
        parts().ok_or_else(|| NotAConflictId(text.to_owned()))
    }
}

/// Text that names no conflict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no conflict; they look like 12.1")]
pub struct NotAConflictId(pub String);

impl fmt::Display for ConflictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.revision, self.index)
    }
}

/// What leads from one revision to the next: the unit that is published, ordered and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeSet {
    /// The revision it starts from.
    pub base: Revision,
    /// The revision it leads to; its number is the base's plus one.
    pub next: Revision,
    /// Milliseconds since 1970-01-01T00:00:00Z when the source was read, never running backwards in a term.
    pub time_millis: u64,
    /// The transactions, in order.
    pub transactions: Vec<Transaction>,
    /// What came of reverse sets that this set takes up.
    pub replies: Vec<Reply>,
}

/// Edits that a receiver found at its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReverseSet {
    /// Which reverse set of which receiver.
    pub id: ReverseId,
    /// The revision that the edits were made on.
    pub base: Revision,
    /// Milliseconds since 1970-01-01T00:00:00Z when the edits were found.
    pub time_millis: u64,
    /// The edits; schema changes are never among them.
    pub edits: Transaction,
    /// The names of the edits' fields by slot, for each collection: while the edits wait, the log may be founded anew with the
    /// fields in other slots. Those of a collection that isn't here are where the source has them.
    pub fields: BTreeMap<CollectionName, Vec<String>>,
}

impl ReverseSet {
    /// Where the fields of a collection's edits are in `collection`; `None`: where they were.
    pub fn moved(&self, collection: &Collection) -> Option<Moved> {
        collection.schema.moved(self.fields.get(&collection.name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(outcome: Outcome) -> Verdict {
        let edit = Change::Delete { key: Key::of(&[Value::Integer(1)]), row: Row::default() };
        Verdict { collection: CollectionName::new("people"), edit, outcome }
    }

    fn conflict() -> Outcome {
        Outcome::Conflict(Box::new(Conflict {
            slot: None,
            base: Value::Absent,
            source: Value::Absent,
            edit: Value::Absent,
            source_deleted: false,
            edit_deletes: true,
            winner: Winner::Source,
            open: true,
        }))
    }

    #[test]
    fn a_cursor_remembers_what_was_passed_over() {
        let mut cursor = ReverseCursor::default();
        let taken: Vec<bool> = [2, 3, 3, 7, 1].into_iter().map(|number| cursor.take(number)).collect();
        assert_eq!(taken, [true, true, false, true, false]);
        assert_eq!((cursor.last(), cursor.passed_over()), (7, &[(1, 1), (4, 6)][..]));
        let is_taken: Vec<u64> = (1..10).filter(|number| cursor.has_taken(*number)).collect();
        assert_eq!(is_taken, [2, 3, 7]);
        assert_eq!(ReverseCursor::new(cursor.last(), cursor.passed_over().to_vec()), Some(cursor.clone()));
        cursor.rewind(3);
        assert_eq!((cursor.last(), cursor.passed_over()), (3, &[(1, 1)][..]));
        cursor.rewind(0);
        assert_eq!(cursor, ReverseCursor::default());
    }

    #[test]
    fn a_cursor_that_draws_ranges_together_forgets_none_of_them() {
        let mut cursor = ReverseCursor::default();
        let last = 4 * PASSED_OVER_MAX as u64;
        (2..=last).step_by(2).for_each(|number| assert!(cursor.take(number)));
        assert_eq!(cursor.passed_over().len(), PASSED_OVER_MAX);
        assert!((1..=last).step_by(2).all(|number| !cursor.has_taken(number)));
        assert!(cursor.has_taken(last));
    }

    #[test]
    fn cursors_that_make_no_sense_are_none() {
        for ranges in [vec![(3, 2)], vec![(2, 3), (3, 4)], vec![(0, 1)], vec![(2, 5)]] {
            assert_eq!(ReverseCursor::new(5, ranges), None);
        }
    }

    #[test]
    fn cases_are_numbered_through_all_replies_of_a_set() {
        let reply = |number, outcomes: Vec<Outcome>| Reply {
            reverse: ReverseId { receiver: ReceiverName::new("oslo").unwrap(), number },
            time_millis: 0,
            verdicts: outcomes.into_iter().map(verdict).collect(),
            resolves: Vec::new(),
        };
        let refused = Outcome::Refused { reason: "no".into() };
        let set = ChangeSet {
            base: Revision::default(),
            next: Revision { number: 7, ..Revision::default() },
            time_millis: 0,
            transactions: Vec::new(),
            replies: vec![
                reply(4, vec![Outcome::Accepted, conflict(), Outcome::Already]),
                reply(5, vec![refused, Outcome::Accepted, conflict()]),
            ],
        };
        let cases: Vec<_> = set.cases().map(|case| (case.id.to_string(), case.reply.reverse.number)).collect();
        assert_eq!(cases, [("7.1".into(), 4), ("7.2".into(), 5), ("7.3".into(), 5)]);
        assert!(matches!(set.cases().nth(1).unwrap().verdict.outcome, Outcome::Refused { .. }));
    }

    #[test]
    fn a_conflicts_name_is_read_as_it_is_written() {
        let id = ConflictId { revision: 12, index: 3 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "12", "12.", ".3", "12.x", "-1.2", "12.3.4", "oslo/3"] {
            assert_eq!(wrong.parse::<ConflictId>(), Err(NotAConflictId(wrong.to_owned())));
        }
    }
}
