//! What a change went through at the receiver, for the log and for whoever records spans.

use std::sync::PoisonError;
use std::time::Instant;

use deltabus_bus::trace::{self, LINKS_MAX, Span, SpanId, Step as TraceStep};
use deltabus_bus::{Delivered, TraceId};
use deltabus_record::change::{ChangeSet, Outcome as Verdict, ReverseSet};
use deltabus_record::key::Key;
use deltabus_record::schema::{CollectionName, SourceName};
use tracing::Level;

use super::Receiver;

/// A part of writing the destination.
#[derive(Clone, Copy)]
pub(super) struct Step {
    phase: Phase,
    start: Instant,
    end: Instant,
}

/// Which part.
#[derive(Clone, Copy)]
pub(super) enum Phase {
    /// The next state was made beside the old one.
    Stage,
    /// It took its place.
    Commit,
}

/// Where the destination is after sets were taken in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has what they bring.
    Equal,
    /// It is made equal to all that is known, later.
    EqualLater,
}

impl Receiver {
    /// Remembers a part of writing the destination, which began at `start` and has just ended.
    pub(super) fn step(&self, phase: Phase, start: Instant) {
        if trace::is_recorded() {
            self.steps().push(Step { phase, start, end: Instant::now() });
        }
    }

    /// The parts of writing the destination since this was last asked.
    pub(super) fn take_steps(&self) -> Vec<Step> {
        std::mem::take(&mut *self.steps())
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that sets were taken in, since `start`, and what they answer.
    pub(super) fn trace_applied(&self, sets: &[Delivered], start: Instant, outcome: Outcome) {
        let (source, receiver) = (&self.config.source, &self.config.name);
        for Delivered { set, .. } in sets {
            self.trace_answers(set);
        }
        let steps = self.take_steps();
        if !trace::is_recorded() && !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let now = Instant::now();
        let traces: Vec<_> = sets.iter().map(|set| TraceId::all_of_set(source, &set.set)).collect();
        let apply = |trace: TraceId, revision| trace.span(TraceStep::Apply { revision, receiver });
        let together = sets.iter().zip(&traces).take(LINKS_MAX + 1);
        let together: Vec<(TraceId, SpanId)> =
            together.map(|(set, traces)| (traces[0], apply(traces[0], set.set.next.number))).collect();
        for (delivered, traces) in sets.iter().zip(&traces) {
            let revision = delivered.set.next.number;
            for trace in traces {
                match outcome {
                    Outcome::Equal => tracing::debug!(%source, %trace, %receiver, revision, "a set is applied"),
                    Outcome::EqualLater => {
                        tracing::debug!(%source, %trace, %receiver, revision, "a set is taken in, to be applied later");
                    }
                }
            }
            let Some(trace) = traces.first().copied().filter(|trace| trace::wants(*trace)) else { continue };
            let span = |step, start, end| {
                Span::new(source, trace, step, start, end).text("receiver", receiver).number("revision", revision)
            };
            let receive = TraceStep::Receive { revision, receiver };
            span(receive, delivered.arrived, now)
                .under(trace.span(TraceStep::Publish { revision }))
                .number("bytes", delivered.bytes)
                .record();
            span(TraceStep::Wait { revision, receiver }, delivered.arrived, start).under(trace.span(receive)).record();
            span(TraceStep::Apply { revision, receiver }, start, now)
                .under(trace.span(receive))
                .number("sets", sets.len() as u64)
                .links(together.iter().copied())
                .record();
            for Step { phase, start, end } in &steps {
                let step = match phase {
                    Phase::Stage => TraceStep::Prepare { revision, receiver },
                    Phase::Commit => TraceStep::Commit { revision, receiver },
                };
                span(step, *start, *end).under(apply(trace, revision)).record();
            }
        }
    }

    /// Says what became of this receiver's edits.
    fn trace_answers(&self, set: &ChangeSet) {
        let (source, receiver, revision) = (&self.config.source, &self.config.name, set.next.number);
        for reply in set.replies.iter().filter(|reply| reply.reverse.receiver == *receiver) {
            let count = |is: fn(&Verdict) -> bool| reply.verdicts.iter().filter(|it| is(&it.outcome)).count();
            let conflicts = count(|outcome| matches!(outcome, Verdict::Conflict(_)));
            let refused = count(|outcome| matches!(outcome, Verdict::Refused { .. }));
            let trace = TraceId::of_reply(source, reply).map(tracing::field::display);
            let reverse = reply.reverse.number;
            tracing::debug!(%source, trace, %receiver, reverse, revision, conflicts, refused, "edits are answered");
        }
    }

    /// Says that a scan of the destination, begun at `since`, found the edits of these sets.
    pub(super) fn trace_scan(&self, sets: &[ReverseSet], since: Instant) {
        let (source, receiver) = (&self.config.source, &self.config.name);
        for set in sets {
            let (trace, reverse) = (TraceId::of_edits(source, set), set.id.number);
            let edits = set.edits.len();
            tracing::debug!(%source, %trace, %receiver, reverse, edits, "edits were found at the destination");
        }
        let Some(trace) = sets.first().map(|set| TraceId::of_edits(source, set)).filter(|trace| trace::wants(*trace))
        else {
            return;
        };
        Span::new(source, trace, TraceStep::Scan, since, Instant::now())
            .text("receiver", receiver)
            .number("edits", sets.iter().map(|set| set.edits.len() as u64).sum())
            .record();
    }

    /// Says that the bus has a reverse set, which was sent at `start`.
    pub(super) fn trace_sent(&self, set: &ReverseSet, start: Instant) {
        let (source, receiver) = (&self.config.source, &self.config.name);
        let (trace, reverse, edits) = (TraceId::of_edits(source, set), set.id.number, set.edits.len());
        tracing::debug!(%source, %trace, %receiver, reverse, edits, "edits are sent");
        if trace::wants(trace) {
            Span::new(source, trace, TraceStep::Send { number: reverse }, start, Instant::now())
                .under(trace.root())
                .text("receiver", receiver)
                .number("reverse", reverse)
                .number("edits", edits as u64)
                .record();
        }
    }
}

/// The trace in which a record was changed last by `sets`.
pub(super) fn trace_of(
    source: &SourceName,
    sets: &[Delivered],
    collection: &CollectionName,
    key: &Key,
) -> Option<TraceId> {
    let changes = |set: &&Delivered| {
        let all = set.set.transactions.iter().flat_map(|transaction| &transaction.collections);
        let mut all = all.filter(|changes| changes.collection == *collection).flat_map(|changes| &changes.changes);
        all.any(|change| change.key() == key)
    };
    sets.iter().rfind(changes).map(|set| TraceId::of_set(source, &set.set))
}
