//! What a change went through at the transmitter, for the log and for whoever records spans.

use std::time::Instant;

use deltabus_bus::TraceId;
use deltabus_bus::trace::{self, LINKS_MAX, Span, Step, cause};
use deltabus_record::change::{ChangeSet, Outcome, Reply};
use tracing::Level;

use crate::ledger::Waiting;

use super::Transmitter;

/// How a set came about.
#[derive(Clone, Copy)]
pub(super) enum Found {
    /// A scan of the source, begun then, found its changes.
    Scan { since: Instant },
    /// Edits were merged, from then on.
    Edits { since: Instant },
    /// Somebody decided about edits that were merged before.
    Decision,
}

/// What a set comes from, and the answers that it carries.
pub(super) struct Origin {
    pub(super) replies: Vec<Reply>,
    pub(super) found: Found,
}

impl Transmitter {
    /// Says what a set comes from; it is about to be staged.
    pub(super) fn trace_found(&self, set: &ChangeSet, found: Found) {
        let source = &self.config.source;
        if !trace::is_recorded() && !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let trace = TraceId::of_set(source, set);
        let now = Instant::now();
        match found {
            Found::Scan { since } => {
                let changes = changes_in(set);
                tracing::debug!(%source, %trace, changes, "the source has changed");
                if trace::wants(trace) {
                    Span::new(source, trace, Step::Scan, since, now).number("changes", changes).record();
                }
            }
            Found::Edits { since } => {
                let stage = Step::Stage { revision: set.next.number };
                for reply in set.replies.iter() {
                    let Some(begun) = TraceId::of_reply(source, reply).filter(|begun| trace::wants(*begun)) else {
                        continue;
                    };
                    let reverse = &reply.reverse;
                    // In a set that answers several scans' edits only one's trace goes on; the others point there.
                    let links = (begun != trace).then(|| (trace, trace.span(stage)));
                    Span::new(source, begun, Step::Merge { reverse }, since, now)
                        .under(begun.span(Step::Send { number: reverse.number }))
                        .text("receiver", &reverse.receiver)
                        .number("reverse", reverse.number)
                        .number("conflicts", conflicts_in(reply))
                        .number("refused", refused_in(reply))
                        .links(links)
                        .record();
                }
            }
            Found::Decision => {}
        }
    }

    /// Says that a set is staged, since `start`, and what became of the edits that it answers.
    pub(super) fn trace_staged(&self, set: &ChangeSet, start: Instant) {
        let source = &self.config.source;
        let revision = set.next.number;
        for reply in set.replies.iter().filter(|reply| reply.resolves.is_empty()) {
            let trace = TraceId::of_reply(source, reply).map(tracing::field::display);
            let (receiver, reverse) = (&reply.reverse.receiver, reply.reverse.number);
            let (conflicts, refused) = (conflicts_in(reply), refused_in(reply));
            tracing::debug!(%source, trace, %receiver, reverse, revision, conflicts, refused, "edits were merged");
            if conflicts > 0 {
                tracing::warn!(%source, trace, %receiver, reverse, revision, conflicts, "edits met a changed source");
            }
            if refused > 0 {
                tracing::warn!(%source, trace, %receiver, reverse, revision, refused, "edits were refused by the source");
            }
        }
        if !trace::is_recorded() && !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let (traces, changes, now) = (TraceId::all_of_set(source, set), changes_in(set), Instant::now());
        for trace in &traces {
            tracing::debug!(%source, %trace, revision, changes, "a set is staged");
        }
        let Some(trace) = traces.first().copied().filter(|trace| trace::wants(*trace)) else { return };
        let merged = set.replies.iter().filter_map(|reply| {
            let begun = TraceId::of_reply(source, reply).filter(|begun| *begun != trace)?;
            Some((begun, begun.span(Step::Merge { reverse: &reply.reverse })))
        });
        Span::new(source, trace, Step::Stage { revision }, start, now)
            .under(cause(source, set))
            .number("revision", revision)
            .number("changes", changes)
            .links(merged)
            .record();
    }

    /// Says that the log has these sets, since `start`.
    pub(super) fn trace_published(&self, published: &[Waiting], start: Instant) {
        if !trace::is_recorded() && !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let source = &self.config.source;
        let now = Instant::now();
        let mut spans = Vec::new();
        for waiting in published {
            // What this transmitter encoded itself it can decode.
            let Ok(set) = waiting.set.decode() else { continue };
            let (revision, bytes) = (set.next.number, waiting.set.0.len() as u64);
            let traces = TraceId::all_of_set(source, &set);
            for trace in &traces {
                tracing::debug!(%source, %trace, revision, bytes, "a set is published");
            }
            if let Some(trace) = traces.first().copied().filter(|trace| trace::wants(*trace)) {
                spans.push(
                    Span::new(source, trace, Step::Publish { revision }, start, now)
                        .under(cause(source, &set))
                        .number("revision", revision)
                        .number("bytes", bytes)
                        .number("sets", published.len() as u64),
                );
            }
        }
        let together: Vec<_> = spans.iter().take(LINKS_MAX + 1).map(|span| (span.trace, span.id)).collect();
        for span in spans {
            span.links(together.iter().copied()).record();
        }
    }
}

fn changes_in(set: &ChangeSet) -> u64 {
    set.transactions.iter().map(|transaction| transaction.len() as u64).sum()
}

/// Edits of an answered reverse set that met a changed source.
pub(super) fn conflicts_in(reply: &Reply) -> u64 {
    reply.verdicts.iter().filter(|verdict| matches!(verdict.outcome, Outcome::Conflict(_))).count() as u64
}

/// Edits of an answered reverse set that the source could not take.
pub(super) fn refused_in(reply: &Reply) -> u64 {
    reply.verdicts.iter().filter(|verdict| matches!(verdict.outcome, Outcome::Refused { .. })).count() as u64
}
