//! A source's history, read from the log when somebody asks: pages of sets, and pages of one set's changes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use deltabus_bus::broker::Stream;
use deltabus_bus::{Delivered, Entry, Log, Schemas, history_between};
use deltabus_record::change::ChangeSet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Page;
use super::book::named;
use super::failure::Failure;
use super::guard::Visitor;
use super::show;

/// Sets on one page.
const SETS_MAX: usize = 40;

/// Messages of the log that are read for a page at first; one has a set or more, as a rule.
const MESSAGES: u64 = 64;

/// And at most; where there are fewer sets among so many, the page is shorter.
const MESSAGES_MAX: u64 = 4_096;

/// Changes of a set on one page.
const CHANGES_MAX: usize = 100;

/// Where a page begins.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Before {
    /// Only sets before this revision; none: the newest.
    before: Option<u64>,
    /// The message of the log up to which to look.
    at: Option<u64>,
}

/// Where in a set a page begins.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Within {
    /// The message of the log that has the set.
    at: u64,
    /// After so many changes.
    #[serde(default)]
    from: usize,
}

/// An entry of the log, with the message up to which to look for it and what is before it.
struct Found {
    at: u64,
    number: u64,
    shown: Value,
}

/// Some of the sets, the newest first.
pub(super) async fn page(
    State(page): State<Arc<Page>>,
    Path(source): Path<String>,
    Query(wanted): Query<Before>,
    _: Visitor,
) -> Result<Json<Value>, Failure> {
    let log = page.log(&named(&source)?);
    let extent = log.broker().extent(log.source(), Stream::Changes).await.map_err(deltabus_bus::Error::from)?;
    let extent = extent.unwrap_or_default();
    let last = wanted.at.unwrap_or(extent.last).min(extent.last);
    let (found, begins) = sets(&log, extent.first, last, wanted.before.unwrap_or(u64::MAX)).await?;
    let more = found.len() > SETS_MAX || !begins;
    let shown: Vec<&Found> = found.iter().rev().take(SETS_MAX).collect();
    let next = shown.last().filter(|_| more).map(|last| json!({ "before": last.number, "at": last.at }));
    let shown: Vec<&Value> = shown.into_iter().map(|found| &found.shown).collect();
    Ok(Json(json!({ "sets": shown, "next": next, "begins": begins && !more })))
}

/// Sets before a revision, the oldest first, from messages up to `last`; whether nothing is before them.
async fn sets(log: &Log, first: u64, last: u64, before: u64) -> Result<(Vec<Found>, bool), Failure> {
    let mut messages = MESSAGES;
    loop {
        let from = (last + 1).saturating_sub(messages).max(first);
        let mut found: Vec<Found> = Vec::new();
        let mut at = from;
        let mut take = |entry: Entry| {
            let next = match &entry {
                // Of sets stored together the place is before their message, of the last behind it.
                Entry::Set(delivered) => {
                    at = delivered.position.sequence + 1;
                    delivered.set.next.number
                }
                Entry::Foundation { revision, .. } => revision.number,
            };
            if next < before {
                found.push(Found { at, number: next, shown: entry_shown(&entry, at) });
            }
        };
        history_between(log, from, last, &mut take).await?;
        if found.len() > SETS_MAX || from <= first || messages >= MESSAGES_MAX {
            return Ok((found, from <= first));
        }
        messages = (messages * 4).min(MESSAGES_MAX);
    }
}

fn entry_shown(entry: &Entry, at: u64) -> Value {
    match entry {
        Entry::Foundation { revision, time_millis } => json!({
            "revision": revision.number, "time_millis": time_millis, "foundation": true,
            "records": revision.digest.records, "at": at,
        }),
        Entry::Set(delivered) => {
            let Delivered { set, bytes, .. } = &**delivered;
            let [inserts, updates, deletes] = set.counts();
            let (edited_by, decides) = origin(set);
            json!({
                "revision": set.next.number, "time_millis": set.time_millis, "records": set.next.digest.records,
                "at": at, "bytes": bytes, "inserts": inserts, "updates": updates, "deletes": deletes,
                "edited_by": edited_by, "decides": decides, "cases": set.cases().count(),
                "schemas": set.transactions.iter().map(|transaction| transaction.schemas.len()).sum::<usize>(),
            })
        }
    }
}

/// The receivers whose edits a set answers, and the cases that it decides.
fn origin(set: &ChangeSet) -> (Vec<String>, Vec<String>) {
    let answers = set.replies.iter().filter(|reply| reply.resolves.is_empty());
    let mut edited_by: Vec<_> = answers.map(|reply| reply.reverse.receiver.to_string()).collect();
    edited_by.dedup();
    let decides = set.replies.iter().flat_map(|reply| &reply.resolves).map(ToString::to_string).collect();
    (edited_by, decides)
}

/// Some of the changes of one set.
pub(super) async fn set(
    State(page): State<Arc<Page>>,
    Path((source, revision)): Path<(String, u64)>,
    Query(wanted): Query<Within>,
    _: Visitor,
) -> Result<Json<Value>, Failure> {
    let log = page.log(&named(&source)?);
    let mut schemas = Schemas::of(&log).await?;
    let mut found = None;
    let mut take = |entry: Entry| match entry {
        // Of two histories of one number the later is the log's.
        Entry::Set(delivered) if delivered.set.next.number == revision => found = Some(delivered.set),
        _ => {}
    };
    history_between(&log, wanted.at.saturating_sub(1), wanted.at, &mut take).await?;
    let set = found.ok_or_else(|| Failure::none(format!("the log no longer has revision {revision}")))?;
    schemas.note(&set);
    let collections = set.transactions.iter().flat_map(|transaction| &transaction.collections);
    let changes = collections.flat_map(|of| of.changes.iter().map(move |change| (&of.collection, change)));
    let all = changes.clone().count();
    let shown: Vec<Value> = changes
        .skip(wanted.from)
        .take(CHANGES_MAX)
        .map(|(collection, change)| show::change(&schemas, collection, change))
        .collect();
    let end = wanted.from.saturating_add(shown.len());
    Ok(Json(json!({
        "revision": revision, "digest": set.next.digest.to_string(), "changes": shown, "all": all,
        "next": (end < all).then_some(end),
    })))
}
