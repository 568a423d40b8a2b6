//! `deltabus log` and `show`: a source's history.

use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex};

use deltabus_bus::broker::Broker;
use deltabus_bus::{Delivered, Entry, Log as BusLog, Schemas, TraceId, history};
use deltabus_record::change::{ChangeSet, Outcome, ReverseId};
use deltabus_record::schema::{Collection, SourceName};
use deltabus_record::text::printable;
use deltabus_record::value::Value;

use crate::arguments::{Global, Log, Show};
use crate::error::{Error, Exit};
use crate::membership::Wanted;
use crate::output::{Paint, bytes_text, counted, difference_of, print_difference, print_difference_json, time_text};
use crate::session;

/// The log of a source that the bus has.
pub(crate) async fn founded(global: &Global, broker: Arc<dyn Broker>, source: &SourceName) -> Result<BusLog, Error> {
    let log = BusLog::new(broker, source.clone());
    if !log.is_founded().await? {
        return Err(unknown(global, &log).await);
    }
    Ok(log)
}

/// So many sources are named to somebody who may have mistyped one.
const NAMED_MAX: usize = 8;

/// The error for a source that the bus doesn't have; says which the local bus has: elsewhere not everybody may ask that.
pub(crate) async fn unknown(global: &Global, log: &BusLog) -> Error {
    let source = log.source();
    let mut there = match (&global.bus, &global.manager) {
        (None, None) => log.broker().sources().await.unwrap_or_default(),
        _ => Vec::new(),
    };
    there.retain(|other| other != source);
    let more = if there.len() > NAMED_MAX { " …" } else { "" };
    there.truncate(NAMED_MAX);
    let names: Vec<_> = there.iter().map(|name| format!("`{name}`")).collect();
    let has = if names.is_empty() { String::new() } else { format!(" (it has {}{more})", names.join(", ")) };
    Error::Trouble(format!(
        "the bus has no source `{source}`{has}; start `deltabus transmit {source} …` first, or name another bus with --bus"
    ))
}

/// The accepted history, oldest first.
pub(crate) async fn entries(global: &Global, source: &SourceName) -> Result<(BusLog, Vec<Entry>), Error> {
    let state = session::state(global)?;
    let log = founded(global, session::broker(global, &state, Wanted::Read(source)).await?, source).await?;
    let found = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&found);
    history(&log, &mut |entry| sink.lock().expect("nobody panics with this lock").push(entry)).await?;
    let entries = std::mem::take(&mut *found.lock().expect("nobody panics with this lock"));
    Ok((log, entries))
}

/// Lists revisions, newest first.
pub(crate) async fn log(global: &Global, options: Log) -> Result<Exit, Error> {
    let (_, entries) = entries(global, &options.source).await?;
    let mut out = BufWriter::new(std::io::stdout());
    let paint = Paint::for_stdout();
    for entry in entries.iter().rev() {
        match entry {
            Entry::Foundation { revision, time_millis } => {
                if options.json {
                    let line = serde_json::json!({
                        "revision": revision.number, "time_millis": time_millis, "foundation": true,
                        "records": revision.digest.records, "digest": revision.digest.to_string(),
                        "bytes": 0, "inserts": 0, "updates": 0, "deletes": 0, "replies": 0, "conflicts": 0,
                        "traces": [],
                    });
                    writeln!(out, "{line}")?;
                } else {
                    writeln!(
                        out,
                        "{:>6}  {}  foundation: {}",
                        paint.bold(&revision.number.to_string()),
                        time_text(*time_millis),
                        counted(revision.digest.records, "record")
                    )?;
                }
            }
            Entry::Set(delivered) => {
                let Delivered { set, bytes, .. } = &**delivered;
                let [inserts, updates, deletes] = set.counts();
                let conflicts = conflicts_in(set);
                let traces = traces_of(&options.source, set);
                if options.json {
                    let line = serde_json::json!({
                        "revision": set.next.number, "time_millis": set.time_millis, "foundation": false,
                        "records": set.next.digest.records, "digest": set.next.digest.to_string(), "bytes": bytes,
                        "inserts": inserts, "updates": updates, "deletes": deletes,
                        "replies": set.replies.len(), "conflicts": conflicts, "traces": traces,
                    });
                    writeln!(out, "{line}")?;
                } else {
                    let answers = set.replies.iter().filter(|reply| reply.resolves.is_empty());
                    let from = answers.map(|reply| reply.reverse.receiver.to_string()).collect::<Vec<_>>();
                    let from =
                        if from.is_empty() { String::new() } else { format!("  edits from {}", from.join(", ")) };
                    let decided = set.replies.iter().flat_map(|reply| &reply.resolves);
                    let decided = decided.map(ToString::to_string).collect::<Vec<_>>();
                    let from = match decided.is_empty() {
                        true => from,
                        false => format!("{from}  decides {}", decided.join(", ")),
                    };
                    let conflicts =
                        if conflicts > 0 { format!("  {}", counted(conflicts, "conflict")) } else { String::new() };
                    writeln!(
                        out,
                        "{:>6}  {}  {} {} {}  {}{from}{conflicts}",
                        paint.bold(&set.next.number.to_string()),
                        time_text(set.time_millis),
                        paint.green(&format!("+{inserts}")),
                        paint.yellow(&format!("~{updates}")),
                        paint.red(&format!("-{deletes}")),
                        paint.dim(&bytes_text(*bytes)),
                    )?;
                }
            }
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// Shows what one revision changed.
pub(crate) async fn show(global: &Global, options: Show) -> Result<Exit, Error> {
    let (log, entries) = entries(global, &options.source).await?;
    let mut schemas = Schemas::of(&log).await?;
    // The snapshot's schemas are the newest: going back, each schema change is undone.
    let mut wanted = None;
    for entry in entries.into_iter().rev() {
        match entry {
            Entry::Set(delivered) if delivered.set.next.number == options.revision => {
                wanted = Some(delivered);
                break;
            }
            Entry::Foundation { revision, time_millis } if revision.number == options.revision => {
                let text = format!(
                    "revision {} of {}, {}: the log begins here with {}",
                    revision.number,
                    options.source,
                    time_text(time_millis),
                    counted(revision.digest.records, "record")
                );
                if options.json {
                    println!("{}", serde_json::json!({ "foundation": revision.number }))
                } else {
                    println!("{text}")
                }
                return Ok(Exit::Done);
            }
            _ => {}
        }
    }
    let Some(delivered) = wanted else {
        return Err(Error::Trouble(format!(
            "the log of `{}` has no revision {}; `deltabus log {0}` lists what it has",
            options.source, options.revision
        )));
    };
    let set = &delivered.set;
    schemas.note(set);
    let mut out = BufWriter::new(std::io::stdout());
    let paint = Paint::for_stdout();
    let trace = [("trace", Value::text(TraceId::of_set(&options.source, set).to_string()))];
    if !options.json {
        let time = time_text(set.time_millis);
        writeln!(out, "revision {} of {}, {time}, digest {}", set.next.number, options.source, set.next.digest)?;
        writeln!(out, "trace {}", traces_of(&options.source, set).join(", "))?;
        for transaction in &set.transactions {
            for schema in &transaction.schemas {
                let names = |collection: &Option<Collection>| {
                    collection.as_ref().map_or("nothing".into(), |collection| {
                        let fields = collection.schema.ordered().into_iter().map(|(_, field)| printable(&field.name));
                        fields.collect::<Vec<_>>().join(", ")
                    })
                };
                writeln!(out, "schema: {} -> {}", names(&schema.before), names(&schema.after))?;
            }
        }
    }
    for transaction in &set.transactions {
        for changes in &transaction.collections {
            let schema = schemas.schema(&changes.collection);
            for change in &changes.changes {
                let difference = difference_of(change);
                if options.json {
                    print_difference_json(&mut out, &changes.collection, &schema, &difference, &trace)?;
                } else {
                    print_difference(&mut out, paint, &changes.collection, &schema, &difference)?;
                }
            }
        }
    }
    if !options.json {
        for reply in set.replies.iter().filter(|reply| !reply.resolves.is_empty()) {
            let decided = reply.resolves.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let ReverseId { receiver, number } = &reply.reverse;
            writeln!(out, "decides {decided}, of reverse set {number} of {receiver}")?;
        }
        for reply in set.replies.iter().filter(|reply| reply.resolves.is_empty()) {
            writeln!(
                out,
                "answers reverse set {} of {}: {}",
                reply.reverse.number,
                reply.reverse.receiver,
                counted(reply.verdicts.len() as u64, "edit")
            )?;
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// The traces that a set belongs to.
fn traces_of(source: &SourceName, set: &ChangeSet) -> Vec<String> {
    TraceId::all_of_set(source, set).iter().map(ToString::to_string).collect()
}

fn conflicts_in(set: &ChangeSet) -> u64 {
    let verdicts = set.replies.iter().flat_map(|reply| &reply.verdicts);
    verdicts.filter(|verdict| matches!(verdict.outcome, Outcome::Conflict(_))).count() as u64
}
