//! What the bus was given, taken down as it comes: whatever expires or is lost later, this stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use deltabus_bus::broker::Subject;
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{Event, Log, Reader, decode_reverse, encode_set, pointer};
use deltabus_record::change::{Change, ChangeSet, Outcome, Revision};
use deltabus_record::schema::{ReceiverName, SourceName};
use futures::FutureExt;

use crate::shelf::plain_text;
use crate::users::Users;
use crate::world::{World, lock};

/// The chronicle of one source.
pub(crate) struct Chronicle {
    world: Arc<World>,
    log: Log,
    users: Arc<Users>,
    receivers: Vec<ReceiverName>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    reader: Option<Reader>,
    /// The revision that readers have reached.
    reached: Revision,
    /// By number: the state, and the set that led there where one did.
    numbers: BTreeMap<u64, (Revision, Option<u64>)>,
    sets: u64,
    /// Texts that stand in conflicts.
    conflicts: BTreeSet<String>,
    /// Texts that stand among the dead letters.
    refused: BTreeSet<String>,
    /// Records whose delete was answered: receiver, table, key.
    deletes: BTreeSet<(String, String, String)>,
    verdicts: Verdicts,
}

/// How many edits came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdicts {
    pub(crate) accepted: u64,
    pub(crate) conflicts: u64,
    pub(crate) refused: u64,
}

impl Chronicle {
    pub(crate) fn new(
        world: Arc<World>,
        broker: MemoryBroker,
        source: SourceName,
        users: Arc<Users>,
        receivers: Vec<ReceiverName>,
    ) -> Arc<Chronicle> {
        let log = Log::new(Arc::new(broker), source);
        Arc::new(Chronicle { world, log, users, receivers, inner: Mutex::new(Inner::default()) })
    }

    /// Takes down what was stored last.
    pub(crate) fn stored(&self, subject: &Subject, payload: &[u8]) {
        match subject.tail.strip_prefix("reverse.") {
            Some(receiver) => self.reversed(receiver, payload),
            None if *subject == Subject::changes() => self.read(),
            None if *subject == Subject::snapshot("pointer") && self.waits_for_snapshot() => self.read(),
            None => {}
        }
    }

    /// Whether readers found neither log nor snapshot to lead on from where they were.
    fn waits_for_snapshot(&self) -> bool {
        let inner = lock(&self.inner);
        inner.reader.is_none() && inner.reached.number > 0
    }

    fn reversed(&self, receiver: &str, payload: &[u8]) {
        let Some(at) = self.receivers.iter().position(|name| name.as_str() == receiver) else { return };
        let Ok(set) = decode_reverse(&self.receivers[at], payload) else {
            return self.world.problem(format!("a reverse set of {receiver} can't be decoded"));
        };
        let mut texts = BTreeSet::new();
        let mut deletes = Vec::new();
        for edits in &set.edits.collections {
            for edit in &edits.changes {
                collect(edit, &mut texts);
                if let Change::Delete { key, .. } = edit {
                    deletes.push((edits.collection.to_string(), show_key(key.as_bytes())));
                }
            }
        }
        self.world
            .note("bus", || format!("has reverse set {} of {receiver}: {} edits", set.id.number, set.edits.len()));
        self.users.sent(at, &texts, &deletes);
    }

    /// Reads on as far as the log leads, by the rule of all readers.
    fn read(&self) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if let Some(reader) = &mut inner.reader {
            reader.suspect();
        }
        let mut rejoined = false;
        loop {
            let reader = match &mut inner.reader {
                Some(reader) => reader,
                None => {
                    let snapshot = pointer(&self.log).now_or_never().and_then(Result::ok).flatten();
                    let position = snapshot.map(|manifest| manifest.position).unwrap_or_default();
                    inner.reached = position.revision;
                    inner.reader.insert(Reader::at(&self.log, position))
                }
            };
            match reader.next_stored().now_or_never() {
                Some(Ok(Event::Set(delivered))) => self.accepted(inner, &delivered.set),
                Some(Ok(Event::CaughtUp(position))) => {
                    if position.revision != inner.reached {
                        self.founded(inner, position.revision);
                    }
                    return;
                }
                Some(Ok(Event::Rejoin(reason))) => {
                    self.world.note("chronicle", || format!("reads on from the snapshot: {reason}"));
                    let snapshot = pointer(&self.log).now_or_never().and_then(Result::ok).flatten();
                    let Some(manifest) = snapshot else {
                        inner.reader = None;
                        return;
                    };
                    self.founded(inner, manifest.position.revision);
                    // A snapshot that doesn't lead to the end either is one that is to be replaced.
                    if rejoined {
                        inner.reader = None;
                        return;
                    }
                    rejoined = true;
                    inner.reader = Some(Reader::at(&self.log, manifest.position));
                }
                Some(Err(error)) => return self.world.problem(format!("the log can't be read: {error}")),
                None => return self.world.problem("the memory bus did not answer at once"),
            }
        }
    }

    fn founded(&self, inner: &mut Inner, revision: Revision) {
        inner.reached = revision;
        self.world.note("chronicle", || format!("revision {} ({})", revision.number, brief(&revision)));
        self.name(inner, revision, None);
    }

    fn name(&self, inner: &mut Inner, revision: Revision, set: Option<u64>) {
        if revision.number == 0 {
            return;
        }
        let known = inner.numbers.entry(revision.number).or_insert((revision, set));
        let other = known.0 != revision || known.1.is_some_and(|known| set.is_some_and(|set| set != known));
        if other && !self.world.plan.forgets_numbers() {
            self.world.problem(format!("number {} named two different sets", revision.number));
        }
        *known = (revision, set.or(known.1));
    }

    fn accepted(&self, inner: &mut Inner, set: &ChangeSet) {
        if set.next.number != set.base.number + 1 || set.base != inner.reached {
            self.world.problem(format!("set {} follows {}", set.next.number, inner.reached.number));
        }
        inner.reached = set.next;
        inner.sets += 1;
        let bytes = encode_set(set).0;
        self.world.note("chronicle", || {
            let changes: usize = set.transactions.iter().map(|transaction| transaction.len()).sum();
            let replies = set
                .replies
                .iter()
                .map(|reply| format!(", answers {}/{}", reply.reverse.receiver, reply.reverse.number));
            format!(
                "revision {} ({}): {changes} changes{}",
                set.next.number,
                brief(&set.next),
                replies.collect::<String>()
            )
        });
        self.name(inner, set.next, Some(xxhash_rust::xxh3::xxh3_64(&bytes)));
        for reply in &set.replies {
            let receiver = reply.reverse.receiver.to_string();
            for verdict in &reply.verdicts {
                if let Change::Delete { key, .. } = &verdict.edit {
                    let key = show_key(key.as_bytes());
                    inner.deletes.insert((receiver.clone(), verdict.collection.to_string(), key));
                }
                match &verdict.outcome {
                    Outcome::Accepted | Outcome::Already => inner.verdicts.accepted += 1,
                    Outcome::Conflict(conflict) => {
                        inner.verdicts.conflicts += 1;
                        collect(&verdict.edit, &mut inner.conflicts);
                        inner.conflicts.extend(plain_text(&conflict.edit));
                        inner.conflicts.extend(plain_text(&conflict.source));
                    }
                    Outcome::Refused { .. } => {
                        inner.verdicts.refused += 1;
                        collect(&verdict.edit, &mut inner.refused);
                    }
                }
            }
        }
    }

    /// The revision that readers have reached.
    pub(crate) fn reached(&self) -> Revision {
        lock(&self.inner).reached
    }

    /// How many sets readers accepted.
    pub(crate) fn sets(&self) -> u64 {
        lock(&self.inner).sets
    }

    /// How edits came out.
    pub(crate) fn verdicts(&self) -> Verdicts {
        lock(&self.inner).verdicts
    }

    /// Whether a text stands in a conflict or among the dead letters.
    pub(crate) fn keeps(&self, text: &str) -> bool {
        let inner = lock(&self.inner);
        inner.conflicts.contains(text) || inner.refused.contains(text)
    }

    /// Whether a receiver's delete of a record was answered.
    pub(crate) fn answered_delete(&self, receiver: &str, table: &str, key: &str) -> bool {
        lock(&self.inner).deletes.contains(&(receiver.to_owned(), table.to_owned(), key.to_owned()))
    }
}

fn brief(revision: &Revision) -> String {
    format!("{} records, {:08x}", revision.digest.records, revision.digest.sum as u32)
}

/// A key as [`crate::shelf::Table::key`] shows it.
fn show_key(key: &[u8]) -> String {
    let values = deltabus_record::key::values(key).unwrap_or_default();
    values.iter().map(deltabus_record::text::display).collect::<Vec<_>>().join(",")
}

/// The texts that an edit brings.
fn collect(edit: &Change, texts: &mut BTreeSet<String>) {
    match edit {
        Change::Insert { row, .. } => texts.extend(row.values().iter().filter_map(plain_text)),
        Change::Update { fields, .. } => texts.extend(fields.iter().filter_map(|field| plain_text(&field.after))),
        Change::Delete { .. } => {}
    }
}
