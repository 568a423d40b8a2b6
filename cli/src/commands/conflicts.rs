//! `deltabus conflicts`: edits that met a changed source.

use std::collections::HashMap;

use deltabus_bus::{Entry, Schemas};
use deltabus_record::change::{Case, ChangeSet, Conflict, ConflictId, Outcome, Winner};
use deltabus_record::key;
use deltabus_record::text::{display, printable, to_text};
use deltabus_record::value::Value;
use deltabus_transmitter::Decision;

use crate::arguments::{Conflicts, ConflictsCommand, Global, Side};
use crate::commands::decide;
use crate::commands::log::entries;
use crate::error::{Error, Exit};
use crate::output::{Paint, counted, time_text};

/// Runs the command.
pub(crate) async fn conflicts(global: &Global, options: Conflicts) -> Result<Exit, Error> {
    match &options.command {
        None => list(global, &options).await,
        Some(ConflictsCommand::Resolve { id, take }) => {
            let decision = match take {
                Side::Source => Decision::TakeSource,
                Side::Edit => Decision::TakeEdit,
            };
            decide::decide(global, &options.source, *id, decision).await
        }
    }
}

/// Lists the conflicts in the log.
async fn list(global: &Global, options: &Conflicts) -> Result<Exit, Error> {
    let (log, entries) = entries(global, &options.source).await?;
    let mut schemas = Schemas::of(&log).await?;
    let sets = || {
        entries.iter().filter_map(|entry| match entry {
            Entry::Set(delivered) => Some(&delivered.set),
            Entry::Foundation { .. } => None,
        })
    };
    let decided: HashMap<ConflictId, u64> = sets()
        .flat_map(|set| set.replies.iter().flat_map(|reply| &reply.resolves).map(|id| (*id, set.next.number)))
        .collect();
    let paint = Paint::for_stdout();
    let mut count = 0;
    for set in sets() {
        schemas.note(set);
        for case in set.cases() {
            let Outcome::Conflict(conflict) = &case.verdict.outcome else { continue };
            let decided = decided.get(&case.id).copied();
            count += u64::from(decided.is_none());
            if decided.is_some() && !options.all {
                continue;
            }
            let schema = schemas.schema(&case.verdict.collection);
            let field = conflict.slot.map(|slot| {
                schema.fields.get(slot as usize).map_or_else(|| format!("field {slot}"), |field| field.name.clone())
            });
            match options.json {
                true => println!("{}", to_json(set, &case, conflict, field, decided)),
                false => print(paint, set, &case, conflict, field, decided),
            }
        }
    }
    if count == 0 {
        if !options.json && !global.quiet {
            println!("no conflicts in the log of {}", options.source);
        }
        return Ok(Exit::Done);
    }
    if !options.json {
        println!("{}", counted(count, "conflict"));
    }
    Ok(Exit::Differs)
}

fn to_json(
    set: &ChangeSet,
    case: &Case<'_>,
    conflict: &Conflict,
    field: Option<String>,
    decided: Option<u64>,
) -> serde_json::Value {
    let text = |value: &Value| to_text(value);
    serde_json::json!({
        "id": case.id.to_string(), "revision": case.id.revision, "time_millis": set.time_millis,
        "receiver": case.reply.reverse.receiver.as_str(), "reverse_set": case.reply.reverse.number,
        "collection": case.verdict.collection.as_str(), "key": key::display(case.verdict.edit.key().as_bytes()),
        "field": field, "base": text(&conflict.base), "source": text(&conflict.source), "edit": text(&conflict.edit),
        "source_deleted": conflict.source_deleted, "edit_deletes": conflict.edit_deletes,
        "stands": stands(conflict), "open": conflict.open && decided.is_none(), "decided": decided,
    })
}

fn print(
    paint: Paint,
    set: &ChangeSet,
    case: &Case<'_>,
    conflict: &Conflict,
    field: Option<String>,
    decided: Option<u64>,
) {
    let state = match decided {
        Some(revision) => paint.dim(&format!("  decided in revision {revision}")),
        None if conflict.open => paint.yellow("  open"),
        None => String::new(),
    };
    let (id, at) = (paint.bold(&case.id.to_string()), time_text(set.time_millis));
    let record = key::display(case.verdict.edit.key().as_bytes());
    println!("{id}  {at}  {} {record}{state}", printable(case.verdict.collection.as_str()));
    let who = case.reply.reverse.receiver.to_string();
    let mark = |side: &str| if decided.is_none() && stands(conflict) == side { "  <- stands" } else { "" };
    match field {
        Some(field) => {
            println!("  {}: both started from {}", printable(&field), display(&conflict.base));
            println!("    the source has {}{}", display(&conflict.source), mark("source"));
            println!("    {who} wanted {}{}", display(&conflict.edit), mark("edit"));
        }
        None if conflict.source_deleted => {
            println!("  the source had deleted the record, {who} edited it: it came back with the edit");
        }
        None => println!("  {who} deleted the record, but the source had changed it: it stays"),
    }
}

fn stands(conflict: &Conflict) -> &'static str {
    match conflict.winner {
        Winner::Source => "source",
        Winner::Edit => "edit",
    }
}
