//! Traces: one id for a change, from the scan that found it to its apply at every receiver and back in the answers.
//!
//! Nothing is carried for it: a trace id is made from what names the change anyway, so that whoever has the set has its id, after a
//! crash and at a standby too, in sets packed together, and in a log that was written before anybody asked. For a set
//! whose changes a scan of the source found that is the source, the revision it starts from, the digest it leads to and its
//! time; for edits it is the source, the receiver and the time of the scan that found them, which the answer names as well
//! ([`Reply::time_millis`]). So the set that carries accepted edits goes on in the trace that their receiver began. What comes by a
//! snapshot has no trace.
//!
//! Ids are those of the W3C trace context: 16 bytes for a trace, 8 for a span. A span's id is made from its trace and what was
//! done, so that processes that never spoke of it agree on who is whose parent.
//!
//! Spans go to the [`Recorder`] of the process, if it has one; without one nothing is made.
//!
//! [`Reply::time_millis`]: deltabus_record::change::Reply::time_millis

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use deltabus_record::change::{ChangeSet, Reply, ReverseId, ReverseSet};
use deltabus_record::schema::{ReceiverName, SourceName};

/// A set with edits of more scans than this is named in the traces of the first of them only.
const TRACES_MAX: usize = 32;

/// Spans done together with this many others name each other.
pub const LINKS_MAX: usize = 32;

/// What ids are made from begins with this, so that no other use of the hash gives the same.
const CONTEXT_SET: &str = "deltabus 2026 trace of a change set";
const CONTEXT_EDITS: &str = "deltabus 2026 trace of edits";
const CONTEXT_SPAN: &str = "deltabus 2026 span";

/// Names a change wherever it goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub [u8; 16]);

/// Names something that was done in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// The trace of a change set; of one that answers several scans' edits that of the first.
    pub fn of_set(source: &SourceName, set: &ChangeSet) -> TraceId {
        match set.replies.iter().find_map(|reply| TraceId::of_reply(source, reply)) {
            Some(trace) => trace,
            None => {
                let mut hasher = blake3::Hasher::new_derive_key(CONTEXT_SET);
                hasher.update(source.as_str().as_bytes());
                hasher.update(&[0]);
                hasher.update(&set.base.number.to_be_bytes());
                hasher.update(&set.base.digest.records.to_be_bytes());
                hasher.update(&set.base.digest.sum.to_be_bytes());
                hasher.update(&set.next.digest.records.to_be_bytes());
                hasher.update(&set.next.digest.sum.to_be_bytes());
                hasher.update(&set.time_millis.to_be_bytes());
                TraceId(begin(&hasher))
            }
        }
    }

    /// All traces that a set belongs to, the one of [`TraceId::of_set`] first, and not more than a few.
    pub fn all_of_set(source: &SourceName, set: &ChangeSet) -> Vec<TraceId> {
        let mut traces = vec![TraceId::of_set(source, set)];
        let mut known = BTreeSet::from([traces[0]]);
        for trace in set.replies.iter().filter_map(|reply| TraceId::of_reply(source, reply)) {
            if traces.len() >= TRACES_MAX {
                break;
            }
            if known.insert(trace) {
                traces.push(trace);
            }
        }
        traces
    }

    /// The trace of edits: all that one scan of a destination found are in one.
    pub fn of_edits(source: &SourceName, set: &ReverseSet) -> TraceId {
        TraceId::of_scan(source, &set.id.receiver, set.time_millis)
    }

    /// The trace of the edits that are answered; `None` where the answer is too old to say when they were found.
    pub fn of_reply(source: &SourceName, reply: &Reply) -> Option<TraceId> {
        (reply.time_millis > 0).then(|| TraceId::of_scan(source, &reply.reverse.receiver, reply.time_millis))
    }

    fn of_scan(source: &SourceName, receiver: &ReceiverName, time_millis: u64) -> TraceId {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT_EDITS);
        hasher.update(source.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(receiver.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(&time_millis.to_be_bytes());
        TraceId(begin(&hasher))
    }

    /// The id of the span in which the change was found: the root of all others.
    pub fn root(self) -> SpanId {
        self.span(Step::Scan)
    }

    /// The id of what was done in a step.
    pub fn span(self, step: Step<'_>) -> SpanId {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT_SPAN);
        hasher.update(&self.0);
        hasher.update(step.name().as_bytes());
        hasher.update(&[0]);
        let (number, who) = match step {
            Step::Scan => (0, None),
            Step::Stage { revision } | Step::Publish { revision } => (revision, None),
            Step::Send { number } => (number, None),
            Step::Merge { reverse } => (reverse.number, Some(&reverse.receiver)),
            Step::Receive { revision, receiver }
            | Step::Wait { revision, receiver }
            | Step::Apply { revision, receiver }
            | Step::Prepare { revision, receiver }
            | Step::Commit { revision, receiver } => (revision, Some(receiver)),
        };
        hasher.update(&number.to_be_bytes());
        hasher.update(who.map(|who| who.as_str().as_bytes()).unwrap_or_default());
        SpanId(begin(&hasher))
    }
}

/// The span under which a set's stage and publish stand: the merge of the edits that it answers first, else the scan.
pub fn cause(source: &SourceName, set: &ChangeSet) -> SpanId {
    let trace = TraceId::of_set(source, set);
    let first = set.replies.iter().find(|reply| TraceId::of_reply(source, reply).is_some());
    match first {
        Some(reply) => trace.span(Step::Merge { reverse: &reply.reverse }),
        None => trace.root(),
    }
}

fn begin<const N: usize>(hasher: &blake3::Hasher) -> [u8; N] {
    let mut id = [0; N];
    hasher.finalize_xof().fill(&mut id);
    id
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is done to a change on its way.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// The source was read, or the destination where an edit was made, and the difference found.
    Scan,
    /// A receiver sent edits.
    Send {
        /// In the reverse set of this number.
        number: u64,
    },
    /// The transmitter merged edits and wrote them to the source.
    Merge {
        /// Those of this reverse set.
        reverse: &'a ReverseId,
    },
    /// The set was written into the transmitter's state.
    Stage {
        /// As this revision.
        revision: u64,
    },
    /// The set was published, until the log's acknowledgement.
    Publish {
        /// As this revision.
        revision: u64,
    },
    /// All that a receiver did with the set.
    Receive {
        /// Of this revision.
        revision: u64,
        /// Which receiver.
        receiver: &'a ReceiverName,
    },
    /// The set had come, and the destination was not ready.
    Wait {
        /// Of this revision.
        revision: u64,
        /// Which receiver.
        receiver: &'a ReceiverName,
    },
    /// The set was brought to destination and base.
    Apply {
        /// Of this revision.
        revision: u64,
        /// Which receiver.
        receiver: &'a ReceiverName,
    },
    /// The destination's next state was made.
    Prepare {
        /// Of this revision.
        revision: u64,
        /// Which receiver.
        receiver: &'a ReceiverName,
    },
    /// The destination's next state took its place.
    Commit {
        /// Of this revision.
        revision: u64,
        /// Which receiver.
        receiver: &'a ReceiverName,
    },
}

impl Step<'_> {
    /// The span's name.
    pub fn name(self) -> &'static str {
        match self {
            Step::Scan => "scan",
            Step::Send { .. } => "send",
            Step::Merge { .. } => "merge",
            Step::Stage { .. } => "stage",
            Step::Publish { .. } => "publish",
            Step::Receive { .. } => "receive",
            Step::Wait { .. } => "wait",
            Step::Apply { .. } => "apply",
            Step::Prepare { .. } => "apply stage",
            Step::Commit { .. } => "apply commit",
        }
    }
}

/// Something that was done.
#[derive(Clone, Debug)]
pub struct Span {
    /// In which trace.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// What it is a part of, or followed from; `None` for the root.
    pub parent: Option<SpanId>,
    /// What it was.
    pub name: &'static str,
    /// When it began, by the system's clock.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// The source it is about.
    pub source: SourceName,
    /// More about it.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Spans of other traces, or of other sets of this one, that were one matter with this.
    pub links: Vec<(TraceId, SpanId)>,
}

/// A value that says more about a span.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A count or a number.
    Number(u64),
    /// A name.
    Text(String),
}

impl Span {
    /// A step of `trace` that began at `start` and ended at `end`.
    pub fn new(source: &SourceName, trace: TraceId, step: Step<'_>, start: Instant, end: Instant) -> Span {
        // The system's clock may be set while something is done; the time that it took is told by the other.
        let (now, instant) = (SystemTime::now(), Instant::now());
        let at = |time: Instant| now.checked_sub(instant.saturating_duration_since(time)).unwrap_or(now);
        Span {
            trace,
            id: trace.span(step),
            parent: None,
            name: step.name(),
            start: at(start),
            end: at(end),
            source: source.clone(),
            attributes: Vec::new(),
            links: Vec::new(),
        }
    }

    /// The same under `parent`.
    pub fn under(mut self, parent: SpanId) -> Span {
        self.parent = Some(parent);
        self
    }

    /// The same with a number that says more.
    pub fn number(mut self, name: &'static str, number: u64) -> Span {
        self.attributes.push((name, Attribute::Number(number)));
        self
    }

    /// The same with a name that says more.
    pub fn text(mut self, name: &'static str, text: impl fmt::Display) -> Span {
        self.attributes.push((name, Attribute::Text(text.to_string())));
        self
    }

    /// The same with spans that were one matter with this; itself among them is left out.
    pub fn links(mut self, links: impl IntoIterator<Item = (TraceId, SpanId)>) -> Span {
        let own = (self.trace, self.id);
        self.links.extend(links.into_iter().filter(|link| *link != own).take(LINKS_MAX));
        self
    }

    /// Gives it to the process's recorder.
    pub fn record(self) {
        if let Some(recorder) = RECORDER.get() {
            recorder.record(self);
        }
    }
}

/// Where a process's spans go.
pub trait Recorder: Send + Sync {
    /// Whether spans of this trace are wanted. All processes have to come to the same answer, or traces have holes.
    fn wants(&self, trace: TraceId) -> bool;

    /// Takes a span. Never waits: what there is no room for is dropped.
    fn record(&self, span: Span);
}

static RECORDER: OnceLock<Box<dyn Recorder>> = OnceLock::new();

/// Sends the process's spans to `recorder` from now on; the first one stays.
pub fn record_with(recorder: Box<dyn Recorder>) {
    let _ = RECORDER.set(recorder);
}

/// Whether somebody records spans.
pub fn is_recorded() -> bool {
    RECORDER.get().is_some()
}

/// Whether somebody records the spans of a trace.
pub fn wants(trace: TraceId) -> bool {
    RECORDER.get().is_some_and(|recorder| recorder.wants(trace))
}

#[cfg(test)]
mod tests {
    use deltabus_record::change::Revision;
    use deltabus_record::digest::Digest;

    use super::*;

    fn source() -> SourceName {
        SourceName::new("people").expect("a good name")
    }

    fn receiver(name: &str) -> ReceiverName {
        ReceiverName::new(name).expect("a good name")
    }

    fn set(number: u64, time_millis: u64, replies: Vec<Reply>) -> ChangeSet {
        let base = Revision { number, digest: Digest { records: 3, sum: 4 } };
        let next = Revision { number: number + 1, digest: Digest { records: 4, sum: 9 } };
        ChangeSet { base, next, time_millis, transactions: Vec::new(), replies }
    }

    fn reply(name: &str, number: u64, time_millis: u64) -> Reply {
        let reverse = ReverseId { receiver: receiver(name), number };
        Reply { reverse, time_millis, verdicts: Vec::new(), resolves: Vec::new() }
    }

    #[test]
    fn a_set_has_the_same_trace_wherever_it_is_read_and_no_other_has_it() {
        let one = set(5, 1_000, Vec::new());
        let read = crate::decode_set(&crate::encode_set(&one).0).expect("it can be read");
        let trace = TraceId::of_set(&source(), &one);
        assert_eq!(TraceId::of_set(&source(), &read), trace);
        // Undone by another writer and made again under the same number, it is another one.
        assert_ne!(TraceId::of_set(&source(), &set(5, 1_001, Vec::new())), trace);
        assert_ne!(TraceId::of_set(&source(), &set(6, 1_000, Vec::new())), trace);
        assert_ne!(TraceId::of_set(&SourceName::new("other").expect("a good name"), &one), trace);
    }

    #[test]
    fn a_set_with_edits_goes_on_in_the_trace_that_their_receiver_began() {
        let edits = ReverseSet {
            id: ReverseId { receiver: receiver("oslo"), number: 7 },
            base: Revision::default(),
            time_millis: 900,
            edits: Default::default(),
            fields: Default::default(),
        };
        let begun = TraceId::of_edits(&source(), &edits);
        let answering = set(5, 1_000, vec![reply("oslo", 7, 900), reply("rome", 1, 901), reply("oslo", 8, 900)]);
        let read = crate::decode_set(&crate::encode_set(&answering).0).expect("it can be read");
        assert_eq!(TraceId::of_set(&source(), &read), begun);
        let other = TraceId::of_reply(&source(), &answering.replies[1]).expect("it says when");
        assert_eq!(TraceId::all_of_set(&source(), &read), [begun, other]);
        // Sent under another number it is still the same edit.
        let renumbered = ReverseSet { id: ReverseId { number: 9, ..edits.id.clone() }, ..edits };
        assert_eq!(TraceId::of_edits(&source(), &renumbered), begun);
    }

    #[test]
    fn an_answer_that_is_too_old_to_say_when_leaves_the_set_its_own_trace() {
        let old = set(5, 1_000, vec![reply("oslo", 7, 0)]);
        assert_eq!(TraceId::of_set(&source(), &old), TraceId::of_set(&source(), &set(5, 1_000, Vec::new())));
    }

    #[test]
    fn a_trace_costs_nothing_on_the_bus_but_the_time_in_an_answer() {
        let bytes = |time_millis| crate::encode_set(&set(5, 1_000, vec![reply("oslo", 7, time_millis)])).0.len();
        assert_eq!(bytes(1_772_000_000_000) - bytes(0), 7);
    }

    #[test]
    fn steps_of_a_trace_have_ids_of_their_own() {
        let trace = TraceId::of_set(&source(), &set(5, 1_000, Vec::new()));
        let (oslo, rome) = (receiver("oslo"), receiver("rome"));
        let reverse = ReverseId { receiver: oslo.clone(), number: 6 };
        let steps = [
            Step::Scan,
            Step::Send { number: 6 },
            Step::Merge { reverse: &reverse },
            Step::Stage { revision: 6 },
            Step::Publish { revision: 6 },
            Step::Publish { revision: 7 },
            Step::Receive { revision: 6, receiver: &oslo },
            Step::Receive { revision: 6, receiver: &rome },
            Step::Wait { revision: 6, receiver: &oslo },
            Step::Apply { revision: 6, receiver: &oslo },
            Step::Prepare { revision: 6, receiver: &oslo },
            Step::Commit { revision: 6, receiver: &oslo },
        ];
        let ids: BTreeSet<_> = steps.iter().map(|step| trace.span(*step)).collect();
        assert_eq!(ids.len(), steps.len());
    }
}
