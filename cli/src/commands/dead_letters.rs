//! `deltabus dead-letters`: changes and edits that were refused.

use std::collections::{BTreeMap, HashSet};

use deltabus_bus::{Entry, Schemas};
use deltabus_receiver::{Config, Error as ReceiverError, OnError, Receiver, Tried, Wish};
use deltabus_record::change::{ConflictId, Outcome};
use deltabus_record::diff;
use deltabus_record::key;
use deltabus_record::row::Row;
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_record::text::{display, printable, to_text};
use deltabus_record::value::Value;
use deltabus_state::{Error as StateError, StateDirectory, read_letters, read_status};
use deltabus_transmitter::Decision;
use serde_json::{Value as Json, json};

use crate::arguments::{DeadLetters, DeadLettersCommand, Global, LetterId};
use crate::commands::log::entries;
use crate::commands::{decide, verify};
use crate::error::{Error, Exit};
use crate::membership::Wanted;
use crate::output::{Paint, counted, difference_of, kind_of, name_of, time_text};
use crate::session;

/// Runs the command.
pub(crate) async fn dead_letters(global: &Global, options: DeadLetters) -> Result<Exit, Error> {
    match &options.command {
        None => list(global, &options).await,
        Some(DeadLettersCommand::Retry { ids }) => settle(global, &options.source, ids, Settling::Retry).await,
        Some(DeadLettersCommand::Drop { ids }) => settle(global, &options.source, ids, Settling::Drop).await,
    }
}

/// Lists those of receivers that have their state here, then those of the source.
async fn list(global: &Global, options: &DeadLetters) -> Result<Exit, Error> {
    let state = session::state(global)?;
    let mut letters = Vec::new();
    for (_, receiver) in state.receivers()?.into_iter().filter(|(source, _)| *source == options.source) {
        letters.extend(of_receiver(&state, &options.source, &receiver)?);
    }
    letters.extend(of_source(global, &options.source).await?);
    let open = |letter: &Json| letter["dropped"] != true && letter["closed"] != true;
    let waiting = letters.iter().filter(|letter| open(letter)).count() as u64;
    for letter in letters.iter().filter(|letter| options.all || open(letter)) {
        match options.json {
            true => println!("{letter}"),
            false => print(letter, Paint::for_stdout()),
        }
    }
    if waiting == 0 {
        if !options.json && !global.quiet {
            println!("no dead letters of {}", options.source);
        }
        return Ok(Exit::Done);
    }
    if !options.json {
        println!("{}", counted(waiting, "dead letter"));
    }
    Ok(Exit::Differs)
}

/// What a receiver wrote down, whether it runs or not.
fn of_receiver(state: &StateDirectory, source: &SourceName, receiver: &ReceiverName) -> Result<Vec<Json>, Error> {
    let folder = state.receiver_folder(source, receiver);
    let Some(bytes) = read_letters(&folder) else { return Ok(Vec::new()) };
    let letters: Vec<Json> = serde_json::from_slice(&bytes).map_err(|error| {
        Error::Trouble(format!("the dead letters in {} can't be understood: {error}", folder.display()))
    })?;
    let status = read_status(&folder).unwrap_or_default();
    let status: Json = serde_json::from_slice(&status).unwrap_or_default();
    let with_place = |mut letter: Json| {
        letter["receiver"] = receiver.as_str().into();
        letter["location"] = status["location"].clone();
        letter
    };
    Ok(letters.into_iter().map(with_place).collect())
}

/// Edits that the source refused, from the log.
async fn of_source(global: &Global, source: &SourceName) -> Result<Vec<Json>, Error> {
    let (log, entries) = entries(global, source).await?;
    let mut schemas = Schemas::of(&log).await?;
    let mut letters: Vec<(ConflictId, Json)> = Vec::new();
    let mut closed = HashSet::new();
    for entry in &entries {
        let Entry::Set(delivered) = entry else { continue };
        let set = &delivered.set;
        schemas.note(set);
        closed.extend(set.replies.iter().flat_map(|reply| reply.resolves.iter().copied()));
        for case in set.cases() {
            let Outcome::Refused { reason } = &case.verdict.outcome else { continue };
            let schema = schemas.schema(&case.verdict.collection);
            let difference = difference_of(&case.verdict.edit);
            let empty = Row::default();
            let (before, after) = (difference.before.as_ref(), difference.after.as_ref());
            let change = kind_of(&difference);
            let mut fields = serde_json::Map::new();
            for field in diff::fields(before.unwrap_or(&empty), after.unwrap_or(&empty)) {
                let sides = [("held", field.before), ("wanted", field.after)];
                let sides = sides.into_iter().filter(|(_, value)| *value != Value::Absent);
                let sides = sides.map(|(side, value)| (side.to_owned(), json!(to_text(&value)))).collect();
                fields.insert(name_of(&schema, field.slot), Json::Object(sides));
            }
            let letter = json!({
                "id": case.id.to_string(), "collection": case.verdict.collection.as_str(),
                "key": key::display(case.verdict.edit.key().as_bytes()), "change": change, "fields": fields,
                "reason": reason, "revision": case.id.revision, "time_millis": set.time_millis,
                "edited_by": case.reply.reverse.receiver.as_str(), "reverse_set": case.reply.reverse.number,
            });
            letters.push((case.id, letter));
        }
    }
    let with_end = |(id, mut letter): (ConflictId, Json)| {
        letter["closed"] = closed.contains(&id).into();
        letter
    };
    Ok(letters.into_iter().map(with_end).collect())
}

fn print(letter: &Json, paint: Paint) {
    let text = |name: &str| printable(letter[name].as_str().unwrap_or_default());
    let time = time_text(letter["time_millis"].as_u64().unwrap_or_default());
    let state = match (letter["dropped"].as_bool(), letter["closed"].as_bool()) {
        (Some(true), _) => "  dropped",
        (_, Some(true)) => "  decided",
        _ => "",
    };
    println!(
        "{}  {time}  {} {} {}{}",
        paint.bold(&text("id")),
        text("change"),
        text("collection"),
        text("key"),
        paint.dim(state)
    );
    match letter["edited_by"].as_str() {
        Some(receiver) => println!(
            "  an edit of {receiver} (reverse set {}), refused by the source in revision {}",
            letter["reverse_set"], letter["revision"]
        ),
        None => {
            let attempts = letter["attempts"].as_u64().unwrap_or(1);
            let again = if attempts > 1 {
                format!(", {attempts} times since revision {}", letter["first_revision"])
            } else {
                String::new()
            };
            println!("  refused by {} at revision {}{again}", text("location"), letter["revision"]);
        }
    }
    let empty = serde_json::Map::new();
    for (name, sides) in letter["fields"].as_object().unwrap_or(&empty) {
        let side = |side: &str| match &sides[side] {
            Json::Null if sides.get(side).is_none() => "(absent)".to_owned(),
            Json::String(text) => display(&Value::text(text.as_str())),
            other => printable(&other.to_string()),
        };
        println!("  {}: {} -> {}", printable(name), side("held"), side("wanted"));
    }
    println!("  {}", paint.yellow(&text("reason")));
}

/// What is done with dead letters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settling {
    Retry,
    Drop,
}

async fn settle(global: &Global, source: &SourceName, ids: &[LetterId], settling: Settling) -> Result<Exit, Error> {
    let mut of_receivers: BTreeMap<&ReceiverName, Vec<u64>> = BTreeMap::new();
    let mut exit = Exit::Done;
    for id in ids {
        match id {
            LetterId::Receiver(receiver, number) => of_receivers.entry(receiver).or_default().push(*number),
            LetterId::Source(id) => {
                let decision = if settling == Settling::Retry { Decision::Retry } else { Decision::Drop };
                if decide::decide(global, source, *id, decision).await? == Exit::Differs {
                    exit = Exit::Differs;
                }
            }
        }
    }
    for (receiver, numbers) in of_receivers {
        for (number, tried) in by_receiver(global, source, receiver, &numbers, settling).await? {
            let text = match &tried {
                Tried::Applied => "applied".to_owned(),
                Tried::Dropped => "dropped; the destination stays as it is".to_owned(),
                Tried::Unknown => "no dead letter of that name waits: it was applied or dropped before".to_owned(),
                Tried::Refused(reason) => {
                    exit = Exit::Differs;
                    format!("refused again: {}", printable(reason))
                }
            };
            if !global.quiet {
                println!("{receiver}/{number}: {text}");
            }
        }
    }
    Ok(exit)
}

/// Asks the receiver if it runs, else does it in its place.
async fn by_receiver(
    global: &Global,
    source: &SourceName,
    receiver: &ReceiverName,
    numbers: &[u64],
    settling: Settling,
) -> Result<Vec<(u64, Tried)>, Error> {
    let state = session::state(global)?;
    let folder = state.receiver_folder(source, receiver);
    let Some(status) = read_status(&folder) else {
        return Err(Error::Trouble(format!(
            "no receiver `{receiver}` of `{source}` has its state here; run this where it runs"
        )));
    };
    let wish = match settling {
        Settling::Retry => Wish::Retry(numbers.to_vec()),
        Settling::Drop => Wish::Drop(numbers.to_vec()),
    };
    if deltabus_state::is_busy(&folder)
        && let Some(answer) = verify::ask_receiver(source, receiver, &state, &wish).await?
    {
        return Ok(Tried::from_lines(&answer));
    }
    let status: Json = serde_json::from_slice(&status).unwrap_or_default();
    let location = decide::location_in(&status, &format!("receiver `{receiver}` of `{source}`"))?;
    let mut config = Config::new(source.clone(), location, receiver.clone());
    config.reverse = status["reverse"].as_bool().unwrap_or_default();
    config.on_error = OnError::DeadLetter;
    let broker = session::broker(global, &state, Wanted::Read(source)).await?;
    let mut opened = Receiver::open(config, broker, &state).map_err(|error| match error {
        ReceiverError::State(StateError::Busy { .. }) => {
            Error::Trouble(format!("receiver `{receiver}` of `{source}` has just started; run this again"))
        }
        error => error.into(),
    })?;
    Ok(match settling {
        Settling::Retry => opened.retry(numbers).await?,
        Settling::Drop => opened.drop_letters(numbers)?,
    })
}
