//! `deltabus verify`: prove a destination equal to its source, list what differs, mend it.

use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use deltabus_bus::Timeline;
use deltabus_bus::broker::Broker;
use deltabus_receiver::{
    Basis, Cause, Config, Error as ReceiverError, Receiver, Unequal, Unsent, Verified, WISH_FAILED, Why, Wish,
};
use deltabus_record::diff;
use deltabus_record::json;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, ReceiverName, SourceName};
use deltabus_record::text::{display, printable};
use deltabus_record::value::Value;
use deltabus_state::{Error as StateError, Heard, StateDirectory, ask};
use tokio::task::block_in_place;

use crate::arguments::{Global, Verify};
use crate::destinations::{self, Naming};
use crate::error::{Error, Exit};
use crate::membership::Wanted;
use crate::moment::{Moment, now_millis};
use crate::output::{Paint, counted, fields_text, key_text, key_values, name_of, spinner};
use crate::session;

use super::log;

/// A running receiver is waited for so long until it listens: it may be in the middle of a set.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the command.
pub(crate) async fn verify(global: &Global, options: Verify) -> Result<Exit, Error> {
    let (global, configs) = destinations::configs(global, &options.destinations, Naming::Passing).await?;
    let state = session::state(&global)?;
    let (mut differs, mut unread) = (false, false);
    for config in configs {
        let broker = session::broker(&global, &state, Wanted::Read(&config.source)).await?;
        let verified = verify_one(&global, &options, config, broker, &state).await?;
        unread |= !verified.unread.is_empty();
        differs |= !verified.is_equal();
    }
    Ok(match (unread, differs) {
        (true, _) => Exit::Trouble,
        (false, true) => Exit::Differs,
        (false, false) => Exit::Done,
    })
}

/// Verifies one destination, and mends it if asked to; how it is in the end.
async fn verify_one(
    global: &Global,
    options: &Verify,
    config: Config,
    broker: Arc<dyn Broker>,
    state: &StateDirectory,
) -> Result<Verified, Error> {
    let bar = spinner(global, &format!("{}: verifying", config.source));
    let verified = match &options.at {
        None => deltabus_receiver::verify(config.clone(), broker.clone(), state).await.map_err(Error::from),
        Some(at) => verify_at(global, at, config.clone(), broker.clone(), state).await,
    };
    bar.finish_and_clear();
    let verified = verified?;
    report(global, options, &config, &verified, 0)?;
    if !options.repair || verified.is_equal() {
        return Ok(verified);
    }
    let unsent = if options.discard_edits { Unsent::Discard } else { Unsent::Send };
    if unsent == Unsent::Send && verified.has(&Cause::Edit) {
        eprintln!(
            "deltabus: edits made there are not sent yet, and nothing was mended: `deltabus receive` sends them, \
             `--discard-edits` puts the source's values in their place"
        );
        return Ok(verified);
    }
    let bar = spinner(global, &format!("{}: mending", config.source));
    let mended = mend(&config, &verified, unsent, broker.clone(), state).await;
    bar.finish_and_clear();
    mended?;
    let after = deltabus_receiver::verify(config.clone(), broker, state).await?;
    let mended = verified.differing().saturating_sub(after.differing());
    report(global, options, &config, &after, mended)?;
    if after.unequal.iter().flat_map(|(_, unequal)| unequal).any(is_refused) {
        eprintln!(
            "deltabus: what the destination refuses stays: `deltabus dead-letters {}` lists it, and `retry` tries it again",
            config.source
        );
    }
    if after.has(&Cause::Edit) || after.unequal.iter().flat_map(|(_, unequal)| unequal).any(is_pending) {
        eprintln!("deltabus: edits that were sent back stay until the source has answered them");
    }
    Ok(after)
}

/// Compares a place with the source as it was.
async fn verify_at(
    global: &Global,
    at: &Moment,
    config: Config,
    broker: Arc<dyn Broker>,
    state: &StateDirectory,
) -> Result<Verified, Error> {
    let timeline = Timeline::read(&log::founded(global, broker.clone(), &config.source).await?).await?;
    let at = at.find(&timeline, &config.source, now_millis())?.revision;
    Ok(deltabus_receiver::verify_at(config, broker, state, &timeline, at).await?)
}

fn is_pending(unequal: &Unequal) -> bool {
    matches!(unequal.cause, Cause::Pending(_))
}

fn is_refused(unequal: &Unequal) -> bool {
    matches!(unequal.cause, Cause::Refused { .. })
}

/// Has the receiver mend its destination, whether it runs or not.
async fn mend(
    config: &Config,
    verified: &Verified,
    unsent: Unsent,
    broker: Arc<dyn Broker>,
    state: &StateDirectory,
) -> Result<(), Error> {
    let (source, receiver, location) = (&config.source, &config.name, &config.location);
    if verified.basis == Basis::Bus(Why::Stranger) {
        return Err(Error::Trouble(format!(
            "no receiver here keeps {location}; `deltabus receive {source} '{location}' --once` makes it equal"
        )));
    }
    let opened = Receiver::open(config.clone(), broker, state);
    if let Err(ReceiverError::State(StateError::Busy { .. })) = &opened {
        let wish = Wish::Repair(unsent);
        return ask_receiver(source, receiver, state, &wish).await?.map(drop).ok_or_else(|| {
            Error::Trouble(format!("receiver `{receiver}` of `{source}` has just ended; run this again"))
        });
    }
    opened?.repair(unsent).await?;
    Ok(())
}

/// Asks a running receiver; `None` if it doesn't run any more and nothing was done.
pub(crate) async fn ask_receiver(
    source: &SourceName,
    receiver: &ReceiverName,
    state: &StateDirectory,
    wish: &Wish,
) -> Result<Option<String>, Error> {
    let folder = state.receiver_folder(source, receiver);
    match block_in_place(|| ask(&folder, &wish.to_text(), PATIENCE))? {
        Heard::Answer(answer) => match answer.strip_prefix(WISH_FAILED) {
            None => Ok(Some(answer)),
            Some(problem) => Err(Error::Trouble(format!("receiver `{receiver}` of `{source}`: {problem}"))),
        },
        Heard::Nobody => Ok(None),
        Heard::Deaf => Err(Error::Trouble(format!(
            "receiver `{receiver}` of `{source}` runs but is busy, and did not listen for {} seconds; try again later, or stop \
             it first",
            PATIENCE.as_secs()
        ))),
        Heard::Ended => Err(Error::Trouble(format!(
            "receiver `{receiver}` of `{source}` ended before it answered; run this again to see what it did"
        ))),
    }
}

/// Says what was found; `mended`: how many records of those that differed before no longer do.
fn report(global: &Global, options: &Verify, config: &Config, verified: &Verified, mended: u64) -> Result<(), Error> {
    let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let paint = Paint::for_stdout();
    for (collection, unequal) in &verified.unequal {
        for unequal in unequal {
            if options.json {
                print_json(&mut out, collection, unequal)?;
            } else {
                print(&mut out, paint, collection, unequal)?;
            }
        }
    }
    for (collection, records) in &verified.missing {
        if options.json {
            let line = serde_json::json!({
                "collection": collection.name.as_str(), "problem": "missing", "records": records,
            });
            writeln!(out, "{line}")?;
        } else {
            let records = counted(*records, "record");
            let name = printable(collection.name.as_str());
            writeln!(out, "{} collection {name} is missing, with {records}", paint.red("-"))?;
        }
    }
    for (collection, field) in &verified.other {
        let name = collection.as_str();
        if options.json {
            writeln!(
                out,
                "{}",
                serde_json::json!({ "collection": name, "field": field, "problem": "of another time" })
            )?;
        } else {
            let field = field.as_deref().map(|field| format!("field {} of ", printable(field))).unwrap_or_default();
            let name = printable(name);
            writeln!(
                out,
                "{} {field}collection {name} is there, and the source had it only at other times",
                paint.green("+")
            )?;
        }
    }
    if options.json {
        writeln!(out, "{}", summary_json(config, verified, mended))?;
    } else if !global.quiet {
        summary(&mut out, config, verified, mended)?;
    }
    Ok(out.flush()?)
}

fn print(out: &mut dyn Write, paint: Paint, collection: &Collection, unequal: &Unequal) -> Result<(), Error> {
    let Unequal { difference, cause } = unequal;
    let (name, schema) = (printable(collection.name.as_str()), &collection.schema);
    let key = key_text(schema, difference);
    let why = match cause {
        Cause::Edit => "  (edited there, not sent yet)".into(),
        Cause::Pending(number) => format!("  (edited there, sent as reverse set {number}, not answered yet)"),
        Cause::Refused { id: Some(id), reason } => format!("  (refused, dead letter {id}: {})", printable(reason)),
        Cause::Refused { id: None, reason } => format!("  (refused: {})", printable(reason)),
        Cause::Drift | Cause::Unknown => String::new(),
    };
    let why = paint.dim(&why);
    match (&difference.before, &difference.after) {
        (Some(row), None) => {
            writeln!(out, "{} {name} {key}  missing: {}{why}", paint.red("-"), fields_text(schema, row))?
        }
        (None, Some(row)) => {
            writeln!(out, "{} {name} {key}  not in the source: {}{why}", paint.green("+"), fields_text(schema, row))?
        }
        (Some(before), Some(after)) => {
            let fields = diff::fields(before, after).into_iter().map(|field| {
                let name = printable(&name_of(schema, field.slot));
                format!("{name}: expected {}, found {}", display(&field.before), display(&field.after))
            });
            let fields = fields.collect::<Vec<_>>().join("; ");
            writeln!(out, "{} {name} {key}  {fields}{why}", paint.yellow("~"))?
        }
        (None, None) => {}
    }
    Ok(())
}

fn print_json(out: &mut dyn Write, collection: &Collection, unequal: &Unequal) -> Result<(), Error> {
    let Unequal { difference, cause } = unequal;
    let (before, after) = (difference.before.as_ref(), difference.after.as_ref());
    let empty = Row::default();
    let problem = match (before, after) {
        (_, None) => "missing",
        (None, _) => "extra",
        _ => "differs",
    };
    let fields = diff::fields(before.unwrap_or(&empty), after.unwrap_or(&empty)).into_iter().map(|field| {
        let sides = [("expected", field.before), ("found", field.after)];
        let sides = sides.into_iter().filter(|(_, value)| *value != Value::Absent);
        let sides = sides.map(|(name, value)| (name.to_owned(), value)).collect();
        (name_of(&collection.schema, field.slot), Value::Map(sides))
    });
    let mut object = vec![
        ("collection".to_owned(), Value::text(collection.name.as_str())),
        ("key".into(), Value::Map(key_values(&collection.schema, before.or(after).unwrap_or(&empty)))),
        ("problem".into(), Value::text(problem)),
        ("cause".into(), Value::text(cause_name(cause))),
        ("fields".into(), Value::Map(fields.collect())),
    ];
    if let Cause::Pending(number) = cause {
        object.push(("reverse_set".into(), Value::Integer(*number as i64)));
    }
    if let Cause::Refused { id, reason } = cause {
        object.extend(id.as_ref().map(|id| ("dead_letter".to_owned(), Value::text(id.as_str()))));
        object.push(("reason".into(), Value::text(reason.as_str())));
    }
    Ok(writeln!(out, "{}", json::write(&Value::Map(object)))?)
}

fn cause_name(cause: &Cause) -> &'static str {
    match cause {
        Cause::Drift => "drift",
        Cause::Edit => "edit",
        Cause::Pending(_) => "pending",
        Cause::Refused { .. } => "refused",
        Cause::Unknown => "unknown",
    }
}

fn summary_json(config: &Config, verified: &Verified, mended: u64) -> serde_json::Value {
    let (basis, process) = match &verified.basis {
        Basis::Own => ("state", None),
        Basis::Past => ("bus: as it was", None),
        Basis::Bus(Why::Runs(process)) => ("bus: receiver runs", *process),
        Basis::Bus(Why::Stranger) => ("bus: no receiver here", None),
        Basis::Bus(Why::Damaged) => ("bus: state damaged", None),
        Basis::Bus(Why::Expired) => ("bus: state expired", None),
    };
    serde_json::json!({
        "source": config.source.as_str(), "receiver": config.name.as_str(), "location": config.location.given,
        "equal": verified.is_equal(), "revision": verified.revision.number,
        "digest": verified.revision.digest.to_string(), "behind": verified.behind, "basis": basis, "process": process,
        "records": verified.records, "differing": verified.differing(), "mended": mended,
        "ranges": verified.ranges, "ranges_read": verified.ranges_read, "unread": verified.unread,
    })
}

fn summary(out: &mut dyn Write, config: &Config, verified: &Verified, mended: u64) -> Result<(), Error> {
    let (location, source, revision) = (&config.location, &config.source, &verified.revision);
    let records = counted(verified.records, "record");
    let (ranges, read) = (counted(verified.ranges, "range"), verified.ranges_read);
    if mended > 0 {
        writeln!(out, "{} mended", counted(mended, "record"))?;
    }
    for unread in &verified.unread {
        writeln!(out, "can't be read, so nothing is proven of it: {}", printable(unread))?;
    }
    if verified.is_equal() {
        let digest = revision.digest;
        writeln!(out, "{location} equals {source} at revision {revision}: {records} in {ranges}, digest {digest}")?;
    } else {
        let differing = verified.differing();
        let verb = if differing == 1 { "differs" } else { "differ" };
        let differing = counted(differing, "record");
        writeln!(
            out,
            "{location} is not {source} at revision {revision}: {differing} {verb}, {records} expected; {read} of {ranges} read in \
             detail"
        )?;
    }
    match verified.behind {
        Some(0) => {}
        Some(sets) if verified.basis == Basis::Past => {
            writeln!(out, "the source has gone on since by {}", counted(sets, "revision"))?
        }
        Some(sets) => writeln!(out, "the log goes on: {} to receive", counted(sets, "set"))?,
        None => writeln!(out, "the log doesn't lead on from that revision: receiving joins anew by snapshot")?,
    }
    match &verified.basis {
        Basis::Own | Basis::Past | Basis::Bus(Why::Stranger) => {}
        Basis::Bus(Why::Runs(process)) => {
            let process = process.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            writeln!(
                out,
                "receiver `{}` runs{process} and holds its state: compared with what the bus has; what differs may be edits on their \
                 way",
                config.name
            )?;
        }
        Basis::Bus(Why::Damaged) => writeln!(
            out,
            "receiver `{}` has a copy of the source that isn't what the log says: compared with what the bus has; `--repair` loads \
             it anew",
            config.name
        )?,
        Basis::Bus(Why::Expired) => writeln!(
            out,
            "the log no longer has the revision that receiver `{}` is at: compared with what the bus has now",
            config.name
        )?,
    }
    Ok(())
}
