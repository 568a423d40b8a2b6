//! What somebody decides by hand: conflicts, and edits that the source could not take.

use std::collections::BTreeMap;
use std::fmt;

use deltabus_bus::{ANSWER_OPEN, Decision, Entry, causes, history};
use deltabus_interfaces::{Error as InterfaceError, in_place};
use deltabus_record::change::{
    Change, ChangeSet, CollectionChanges, Conflict, ConflictId, FieldChange, Outcome, Reply, ReverseSet, Revision,
    Transaction, Verdict, Winner,
};
use deltabus_record::key::Key;
use deltabus_record::schema::{CollectionName, SourceName};
use deltabus_record::text;
use deltabus_state::{View, Working};

use crate::{Error, ledger, reverse};

use super::merge::{Merged, refusable, remembered};
use super::traced::Found;
use super::{Round, SOURCE_ATTEMPTS, Transmitter};

/// What came of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It had been decided before; nothing was done.
    Before,
    /// What stands stays; the decision is in the log as this revision.
    Stands(u64),
    /// The source was changed accordingly, as this revision.
    Applied(u64),
    /// The edit was refused again; where the reason is another one, it stands under a new name.
    RefusedAgain {
        /// Why.
        reason: String,
        /// Its new name.
        id: Option<ConflictId>,
    },
    /// The edit met a changed source: it is a conflict now.
    Conflict(ConflictId),
}

impl Decided {
    /// Whether something is left to be decided; also of an answer that came as text.
    pub fn is_open(answer: &str) -> bool {
        answer.starts_with(ANSWER_OPEN)
    }
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decided::Before => write!(f, "it was decided before"),
            Decided::Stands(revision) => write!(f, "closed as revision {revision}; the source stays as it is"),
            Decided::Applied(revision) => write!(f, "the source was changed, as revision {revision}"),
            Decided::RefusedAgain { reason, id: None } => write!(f, "{ANSWER_OPEN}refused again: {reason}"),
            Decided::RefusedAgain { reason, id: Some(id) } => {
                write!(f, "{ANSWER_OPEN}refused again, now as {id}: {reason}")
            }
            Decided::Conflict(id) => write!(f, "{ANSWER_OPEN}it met a changed source, and is conflict {id} now"),
        }
    }
}

/// A case that is to be decided, as the log has it.
struct Case {
    id: ConflictId,
    reply: Reply,
    verdict: Verdict,
    time_millis: u64,
    /// Somebody has decided it before.
    closed: bool,
    /// The source has changed the record since.
    touched: bool,
}

impl Transmitter {
    /// Decides a conflict or a refused edit that the log has. What is decided is published with the change that it makes, if
    /// any; deciding twice is deciding once.
    ///
    /// Fails with [`Error::MovedOn`] and leaves it open where the source has something else by now than what the decision was
    /// about.
    pub async fn decide(&mut self, id: ConflictId, decision: Decision) -> Result<Decided, Error> {
        let mut round = Round::default();
        self.become_writer().await?;
        self.publish(&mut round).await?;
        let mut attempt = 0;
        loop {
            let case = self.find_case(id).await?;
            if case.closed {
                return Ok(Decided::Before);
            }
            case.check(decision, &self.config.source)?;
            if case.writes(decision) {
                // The source comes first, as it stands.
                self.observe_and_stage(&mut round)?;
                self.publish(&mut round).await?;
                if let Some(held) = &round.held {
                    return Err(Error::Held { source_name: self.config.source.clone(), held: held.to_string() });
                }
            }
            // What was just found may be of this very record.
            let case = self.find_case(id).await?;
            let decided = match in_place(|| self.decide_now(&case, decision, &mut round)) {
                Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < SOURCE_ATTEMPTS => {
                    attempt += 1;
                    self.stamp = None;
                    continue;
                }
                decided => decided?,
            };
            self.publish(&mut round).await?;
            self.report(&round, None)?;
            return Ok(decided);
        }
    }

    /// Looks the case up in the log, with what became of it since.
    async fn find_case(&self, id: ConflictId) -> Result<Case, Error> {
        let mut found: Option<Case> = None;
        history(&self.log, &mut |entry| {
            let Entry::Set(delivered) = entry else { return };
            let set = &delivered.set;
            if set.next.number == id.revision {
                // Of two histories of one number the later is the log's.
                found = set.cases().find(|case| case.id == id).map(|case| Case {
                    id,
                    reply: case.reply.clone(),
                    verdict: case.verdict.clone(),
                    time_millis: set.time_millis,
                    closed: false,
                    touched: false,
                });
            } else if let Some(case) = &mut found {
                case.closed |= set.replies.iter().any(|reply| reply.resolves.contains(&id));
                case.touched |= touches(set, &case.verdict);
            }
        })
        .await?;
        found.ok_or_else(|| Error::NoCase { source_name: self.config.source.clone(), id })
    }

    fn decide_now(&mut self, case: &Case, decision: Decision, round: &mut Round) -> Result<Decided, Error> {
        let view = self.store.view();
        let base = ledger::revision(&view)?;
        if decision == Decision::Retry {
            return self.retry(case, &view, base, round);
        }
        let mut working = Working::new(&view, base.digest);
        let change = match (&case.verdict.outcome, decision) {
            (Outcome::Conflict(conflict), Decision::TakeSource) => {
                self.take(case, conflict, Winner::Source, &working)?
            }
            (Outcome::Conflict(conflict), Decision::TakeEdit) => self.take(case, conflict, Winner::Edit, &working)?,
            _ => None,
        };
        if let Some(change) = &change {
            working.apply_change(&case.verdict.collection, change)?;
        }
        let merged = self.write_merged(&working, vec![case.reply(Vec::new())])?;
        let changes = merged.transaction.len();
        let revision = self.stage_merged(&view, base, merged, self.store.batch(), Found::Decision, round)?;
        Ok(if changes > 0 { Decided::Applied(revision.number) } else { Decided::Stands(revision.number) })
    }

    /// The change that makes one side of a conflict stand; `None` if it does already.
    fn take(
        &self,
        case: &Case,
        conflict: &Conflict,
        side: Winner,
        working: &Working<'_>,
    ) -> Result<Option<Change>, Error> {
        let (collection, edit) = (&case.verdict.collection, &case.verdict.edit);
        let key = edit.key();
        if conflict.winner == side {
            return Ok(None);
        }
        let now = working.get(collection, key)?;
        let Some(slot) = conflict.slot else {
            // The record as a whole: one side has it, the other doesn't. What stands is that it is there.
            let Some(row) = now else { return Ok(None) };
            if case.touched {
                return Err(self.moved_on(case, "the record".into(), "another one".into()));
            }
            return Ok(Some(Change::Delete { key: key.clone(), row }));
        };
        let (stands, wanted) = match side {
            Winner::Edit => (&conflict.source, &conflict.edit),
            Winner::Source => (&conflict.edit, &conflict.source),
        };
        let name = || match working.collection(collection).and_then(|known| known.schema.fields.get(slot as usize)) {
            Some(field) => format!("field `{}`", field.name),
            None => format!("field {slot}"),
        };
        let Some(row) = now else { return Err(self.moved_on(case, name(), "gone with its record".into())) };
        let value = row.value(slot as usize);
        if value == *wanted {
            return Ok(None);
        }
        if value != *stands {
            return Err(self.moved_on(case, name(), text::display(&value)));
        }
        let field = FieldChange { slot, before: value, after: wanted.clone() };
        Ok(Some(Change::Update { key: key.clone(), fields: vec![field] }))
    }

    fn moved_on(&self, case: &Case, what: String, now: String) -> Error {
        Error::MovedOn { source_name: self.config.source.clone(), id: case.id, what, now }
    }

    /// Merges a refused edit once more.
    fn retry(&mut self, case: &Case, view: &View, base: Revision, round: &mut Round) -> Result<Decided, Error> {
        let Verdict { collection, edit, .. } = &case.verdict;
        let edits = vec![CollectionChanges { collection: collection.clone(), changes: vec![edit.clone()] }];
        let set = ReverseSet {
            id: case.reply.reverse.clone(),
            base,
            time_millis: case.time_millis,
            edits: Transaction { schemas: Vec::new(), collections: edits },
            fields: BTreeMap::new(),
        };
        let last_changed = |collection: &CollectionName, key: &Key| remembered(view, collection, key);
        let mut working = Working::new(view, base.digest);
        let dated = reverse::dated(&set, self.now_millis());
        let policy = self.config.conflicts;
        let reply = reverse::merge_set(&set, dated, &mut working, &self.as_merged(), policy, &last_changed)?;
        let merged = match self.write_merged(&working, vec![case.reply(reply.verdicts)]) {
            Err(Error::Interface(error)) if refusable(&error) => {
                let reason = causes(&error);
                let verdicts = vec![reverse::refused(collection, edit.clone(), reason)];
                Merged {
                    transaction: Transaction::default(),
                    replies: vec![case.reply(verdicts)],
                    stamp: self.stamp.clone(),
                }
            }
            merged => merged?,
        };
        let outcomes: Vec<_> = merged.replies.iter().flat_map(|reply| &reply.verdicts).map(|it| &it.outcome).collect();
        let refused = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Refused { reason } => Some(reason.clone()),
            _ => None,
        });
        let conflict = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Conflict(_)));
        if let (Some(reason), Outcome::Refused { reason: before }) = (&refused, &case.verdict.outcome)
            && reason == before
        {
            return Ok(Decided::RefusedAgain { reason: reason.clone(), id: None });
        }
        let revision = self.stage_merged(view, base, merged, self.store.batch(), Found::Decision, round)?;
        let id = ConflictId { revision: revision.number, index: 1 };
        Ok(match refused {
            Some(reason) => Decided::RefusedAgain { reason, id: Some(id) },
            None if conflict => Decided::Conflict(id),
            None => Decided::Applied(revision.number),
        })
    }
}

impl Case {
    /// Whether this can be decided about it.
    fn check(&self, decision: Decision, source: &SourceName) -> Result<(), Error> {
        let refused = matches!(self.verdict.outcome, Outcome::Refused { .. });
        match (decision, refused) {
            (Decision::Retry | Decision::Drop, true) | (Decision::TakeSource | Decision::TakeEdit, false) => Ok(()),
            _ => Err(Error::OtherCase { source_name: source.clone(), id: self.id, refused }),
        }
    }

    /// Whether the source may have to be written.
    fn writes(&self, decision: Decision) -> bool {
        match (&self.verdict.outcome, decision) {
            (Outcome::Conflict(conflict), Decision::TakeSource) => conflict.winner != Winner::Source,
            (Outcome::Conflict(conflict), Decision::TakeEdit) => conflict.winner != Winner::Edit,
            (_, decision) => decision == Decision::Retry,
        }
    }

    /// The answer that closes it.
    fn reply(&self, verdicts: Vec<Verdict>) -> Reply {
        let Reply { reverse, time_millis, .. } = &self.reply;
        Reply { reverse: reverse.clone(), time_millis: *time_millis, verdicts, resolves: vec![self.id] }
    }
}

/// Whether a set changes the record that a verdict is about.
fn touches(set: &ChangeSet, verdict: &Verdict) -> bool {
    let collections = set.transactions.iter().flat_map(|transaction| &transaction.collections);
    let mut changes = collections.filter(|changes| changes.collection == verdict.collection);
    changes.any(|changes| changes.changes.iter().any(|change| change.key() == verdict.edit.key()))
}
