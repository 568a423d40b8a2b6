//! What a source's log says, kept up to date as it grows: how far it is, what nobody has decided, how much changed lately.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::{Path, State};
use deltabus_bus::{Entry, Event, Log, Position, Reader, Schemas, history_tail, pointer};
use deltabus_record::change::{ChangeSet, ConflictId, Outcome};
use deltabus_record::schema::SourceName;
use serde_json::{Value, json};

use super::Page;
use super::failure::Failure;
use super::guard::Visitor;
use super::ring::Ring;
use super::show;
use crate::authority::now_millis;

/// So much of a log is read at first, about.
const FIRST_BYTES: u64 = 16 * 1024 * 1024;

/// Undecided cases that are kept of a source; the oldest give way.
const CASES_MAX: usize = 2_000;

/// Cases that are shown at once, the newest.
const CASES_SHOWN_MAX: usize = 200;

/// What is known of one source's log.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The last revision's number; 0: nothing was published yet.
    pub(super) revision: u64,
    /// How many records it has.
    pub(super) records: u64,
    /// When the source was last read and found changed; 0: that isn't known.
    pub(super) time_millis: u64,
    /// Whether all that the log still has was read; else there may be more cases.
    pub(super) complete: bool,
    pub(super) ring: Ring,
    pub(super) schemas: Schemas,
    pub(super) conflicts: BTreeMap<ConflictId, Value>,
    pub(super) letters: BTreeMap<ConflictId, Value>,
}

impl Book {
    /// Conflicts that nobody has decided by hand, those among them that wait for somebody, and refused edits.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let open = self.conflicts.values().filter(|case| case["open"] == true).count();
        (self.conflicts.len(), open, self.letters.len())
    }

    fn take(&mut self, set: &ChangeSet) {
        self.schemas.note(set);
        (self.revision, self.records) = (set.next.number, set.next.digest.records);
        self.time_millis = set.time_millis;
        self.ring.add(set.time_millis, set.counts().iter().sum(), now_millis());
        for decided in set.replies.iter().flat_map(|reply| &reply.resolves) {
            self.conflicts.remove(decided);
            self.letters.remove(decided);
        }
        for case in set.cases() {
            let Some(shown) = show::case(&self.schemas, set, &case) else { continue };
            let to = match case.verdict.outcome {
                Outcome::Refused { .. } => &mut self.letters,
                _ => &mut self.conflicts,
            };
            to.insert(case.id, shown);
            if to.len() > CASES_MAX {
                to.pop_first();
                self.complete = false;
            }
        }
    }
}

/// Reads a log as it grows.
pub(super) struct Follower {
    log: Log,
    book: Arc<Mutex<Book>>,
    reader: Option<Reader>,
}

impl Follower {
    pub(super) fn new(log: Log) -> Follower {
        Follower { log, book: Arc::default(), reader: None }
    }

    /// What was read.
    pub(super) fn book(&self) -> &Arc<Mutex<Book>> {
        &self.book
    }

    /// Reads what the log has by now.
    pub(super) async fn catch_up(&mut self) -> Result<(), deltabus_bus::Error> {
        // After an error the reader is of no more use.
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => match self.begin().await? {
                Some(position) => Reader::at(&self.log, position),
                None => return Ok(()),
            },
        };
        loop {
            match reader.next_stored().await? {
                Event::Set(delivered) => opened(&self.book).take(&delivered.set),
                Event::CaughtUp(_) => break,
                Event::Rejoin(reason) => {
                    tracing::debug!(source = %self.log.source(), %reason, "a log is read anew for the page");
                    return Ok(());
                }
            }
        }
        self.reader = Some(reader);
        Ok(())
    }

    /// Reads the log's end, and gives where to go on; `None`: there is no log yet.
    async fn begin(&mut self) -> Result<Option<Position>, deltabus_bus::Error> {
        let Some(manifest) = pointer(&self.log).await? else { return Ok(None) };
        let mut position = manifest.position;
        let mut book = Book {
            revision: position.revision.number,
            records: position.revision.digest.records,
            time_millis: manifest.time_millis,
            schemas: Schemas::new(manifest.collections),
            ..Book::default()
        };
        let mut take = |entry| {
            let Entry::Set(delivered) = entry else { return };
            book.take(&delivered.set);
            position = delivered.position;
        };
        let complete = history_tail(&self.log, FIRST_BYTES, &mut take).await?;
        book.complete = complete && book.conflicts.len().max(book.letters.len()) < CASES_MAX;
        *opened(&self.book) = book;
        Ok(Some(position))
    }
}

pub(super) fn opened(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Conflicts of a source that nobody has decided, the newest first.
pub(super) async fn conflicts(
    State(page): State<Arc<Page>>,
    Path(source): Path<String>,
    _: Visitor,
) -> Result<Json<Value>, Failure> {
    listed(&page, &source, |book| &book.conflicts)
}

/// Edits that a source refused and that nobody has decided about, the newest first.
pub(super) async fn dead_letters(
    State(page): State<Arc<Page>>,
    Path(source): Path<String>,
    _: Visitor,
) -> Result<Json<Value>, Failure> {
    listed(&page, &source, |book| &book.letters)
}

fn listed(
    page: &Page,
    source: &str,
    of: impl Fn(&Book) -> &BTreeMap<ConflictId, Value>,
) -> Result<Json<Value>, Failure> {
    let book = page.book(&named(source)?)?;
    let book = opened(&book);
    let cases = of(&book);
    let shown: Vec<&Value> = cases.values().rev().take(CASES_SHOWN_MAX).collect();
    Ok(Json(json!({ "cases": shown, "more": cases.len() - shown.len(), "complete": book.complete })))
}

/// The source of that name.
pub(super) fn named(source: &str) -> Result<SourceName, Failure> {
    SourceName::new(source).map_err(|error| Failure::none(error.to_string()))
}

impl Page {
    /// What is known of a source's log.
    pub(super) fn book(&self, source: &SourceName) -> Result<Arc<Mutex<Book>>, Failure> {
        self.live.book(source).ok_or_else(|| Failure::none(format!("there is no source `{source}`")))
    }
}

#[cfg(test)]
mod tests {
    use deltabus_record::change::{Change, Conflict, FieldChange, Reply, ReverseId, Revision, Verdict, Winner};
    use deltabus_record::key::Key;
    use deltabus_record::schema::{CollectionName, ReceiverName};
    use deltabus_record::value::Value as Field;

    use super::*;

    fn edit() -> Change {
        let field = FieldChange { slot: 0, before: Field::text("a"), after: Field::text("b") };
        Change::Update { key: Key::of(&[Field::text("k")]), fields: vec![field] }
    }

    /// A set with these verdicts, which decides these cases.
    fn set(number: u64, outcomes: Vec<Outcome>, resolves: Vec<ConflictId>) -> ChangeSet {
        let collection = CollectionName::new("people");
        let verdict = |outcome| Verdict { collection: collection.clone(), edit: edit(), outcome };
        let reverse = ReverseId { receiver: ReceiverName::new("crm").expect("a name"), number };
        let reply = Reply { reverse, verdicts: outcomes.into_iter().map(verdict).collect(), resolves, time_millis: 0 };
        let next = Revision { number, ..Revision::default() };
        let base = Revision { number: number - 1, ..Revision::default() };
        ChangeSet { base, next, time_millis: 0, transactions: Vec::new(), replies: vec![reply] }
    }

    fn conflict() -> Outcome {
        let [base, source, edit] = ["a", "<b>", "c"].map(Field::text);
        let (source_deleted, edit_deletes, winner, open) = (false, false, Winner::Source, true);
        Outcome::Conflict(Box::new(Conflict {
            slot: Some(0),
            base,
            source,
            edit,
            source_deleted,
            edit_deletes,
            winner,
            open,
        }))
    }

    #[test]
    fn what_is_decided_is_no_longer_listed() {
        let mut book = Book::default();
        book.take(&set(1, vec![conflict(), Outcome::Refused { reason: "too old".into() }, conflict()], Vec::new()));
        assert_eq!(book.counts(), (2, 2, 1));
        let shown = &book.conflicts[&ConflictId { revision: 1, index: 1 }];
        assert_eq!(
            (&shown["id"], &shown["source"], &shown["receiver"]),
            (&json!("1.1"), &json!("\"<b>\""), &json!("crm"))
        );
        let letter = &book.letters[&ConflictId { revision: 1, index: 2 }];
        assert_eq!((&letter["reason"], &letter["fields"][0]["after"]), (&json!("too old"), &json!("\"b\"")));
        let decided = [1, 2].map(|index| ConflictId { revision: 1, index });
        book.take(&set(2, Vec::new(), decided.into()));
        assert_eq!((book.counts(), book.revision), ((1, 1, 0), 2));
    }

    #[test]
    fn of_very_many_cases_the_newest_are_kept_and_that_is_said() {
        let mut book = Book { complete: true, ..Book::default() };
        for number in 1..=CASES_MAX as u64 + 5 {
            book.take(&set(number, vec![conflict()], Vec::new()));
        }
        assert_eq!(book.counts().0, CASES_MAX);
        assert!(!book.complete);
        assert_eq!(book.conflicts.keys().next().map(|id| id.revision), Some(6));
    }
}
