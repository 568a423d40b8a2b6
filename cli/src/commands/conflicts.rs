//! `deltabus conflicts`: edits that met a changed source.

use deltabus_bus::Entry;
use deltabus_record::change::{ConflictId, Outcome, Winner};
use deltabus_record::key;
use deltabus_record::text::{display, printable, to_text};
use deltabus_record::value::Value;

use crate::arguments::{Conflicts, Global};
use crate::commands::log::{Schemas, entries};
use crate::error::{Error, Exit};
use crate::output::{Paint, counted, time_text};

/// Lists the conflicts in the log.
pub(crate) async fn conflicts(global: &Global, options: Conflicts) -> Result<Exit, Error> {
    let (log, entries) = entries(global, &options.source).await?;
    let mut schemas = Schemas::of(&log).await?;
    let paint = Paint::for_stdout();
    let mut count = 0;
    for entry in &entries {
        let Entry::Set(delivered) = entry else { continue };
        let set = &delivered.set;
        schemas.note(set);
        let mut index = 0;
        for reply in &set.replies {
            for verdict in &reply.verdicts {
                let Outcome::Conflict(conflict) = &verdict.outcome else { continue };
                index += 1;
                count += 1;
                let id = ConflictId { revision: set.next.number, index };
                let schema = schemas.schema(&verdict.collection);
                let field = conflict.slot.map(|slot| {
                    schema.fields.get(slot as usize).map_or_else(|| format!("field {slot}"), |field| field.name.clone())
                });
                let record = key::display(verdict.edit.key().as_bytes());
                let stands = match conflict.winner {
                    Winner::Source => "source",
                    Winner::Edit => "edit",
                };
                if options.json {
                    let text = |value: &Value| to_text(value);
                    let line = serde_json::json!({
                        "id": id.to_string(), "revision": id.revision, "time_millis": set.time_millis,
                        "receiver": reply.reverse.receiver.as_str(), "reverse_set": reply.reverse.number,
                        "collection": verdict.collection.as_str(), "key": record, "field": field,
                        "base": text(&conflict.base), "source": text(&conflict.source), "edit": text(&conflict.edit),
                        "source_deleted": conflict.source_deleted, "edit_deletes": conflict.edit_deletes,
                        "stands": stands, "open": conflict.open,
                    });
                    println!("{line}");
                    continue;
                }
                let open = if conflict.open { paint.yellow("  open") } else { String::new() };
                let at = time_text(set.time_millis);
                let collection = printable(verdict.collection.as_str());
                println!("{}  {at}  {collection} {record}{open}", paint.bold(&id.to_string()));
                let who = reply.reverse.receiver.to_string();
                match field {
                    Some(field) => {
                        println!("  {}: both started from {}", printable(&field), display(&conflict.base));
                        println!("    the source has {}{}", display(&conflict.source), mark(stands == "source"));
                        println!("    {who} wanted {}{}", display(&conflict.edit), mark(stands == "edit"));
                    }
                    None if conflict.source_deleted => {
                        println!("  the source had deleted the record, {who} edited it: it came back with the edit");
                    }
                    None => println!("  {who} deleted the record, but the source had changed it: it stays"),
                }
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

fn mark(stands: bool) -> &'static str {
    if stands { "  <- stands" } else { "" }
}
