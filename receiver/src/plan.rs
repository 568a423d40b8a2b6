//! What receiving would change at a destination, found out on a copy of the receiver's state.

use std::sync::Arc;

use deltabus_bus::Log;
use deltabus_bus::broker::Broker;
use deltabus_interfaces::Interface;
use deltabus_record::diff::{self, Difference};
use deltabus_record::row::Row;
use deltabus_record::schema::{ReceiverName, Schema, SourceName};
use deltabus_record::text::{display, printable};
use deltabus_record::value::Value;
use deltabus_record::{json, key};
use deltabus_state::{Owner, Scratch, StateDirectory, Store};

use crate::config::Config;
use crate::error::Error;
use crate::receiver::{Purpose, Receiver, Round};
use crate::rehearsal::{Planned, Rehearsal};

/// Fields of a record that are told.
const FIELDS_TOLD_MAX: usize = 64;

/// What a round of a receiver would do, or a restoring.
pub struct Plan {
    /// What the round came to. Nothing of it has happened.
    pub round: Round,
    rehearsal: Arc<Rehearsal>,
    // Last, so that the stores in it are closed before it goes.
    _scratch: Scratch,
}

impl Plan {
    pub(crate) fn new(round: Round, rehearsal: Arc<Rehearsal>, scratch: Scratch) -> Plan {
        Plan { round, rehearsal, _scratch: scratch }
    }

    /// Calls `take` with everything that would change at the destination, beside what stands there now: of each collection
    /// first what becomes of the collection itself, then records that change or go, by key, then those that come.
    pub fn each<E: From<Error>>(&self, take: &mut dyn FnMut(Planned<'_>) -> Result<(), E>) -> Result<(), E> {
        self.rehearsal.each(take)
    }

    /// All of it as a JSON object, with at most so many changes: `revision`, `inserts`, `updates`, `deletes`, `edits`, `drift`,
    /// `dead_letters`, `unread`, `collections` (what becomes of collections, in words), `changes` and how many there are `more`.
    pub fn to_json(&self, most: usize) -> Result<String, Error> {
        let number = |number: u64| Value::Integer(number as i64);
        let text = |text: &str| Value::text(printable(text));
        let (mut changes, mut collections, mut counts) = (Vec::new(), Vec::new(), [0; 3]);
        self.each::<Error>(&mut |planned| {
            let (collection, schema, difference) = match planned {
                Planned::Record { collection, schema, difference } => (collection, schema, difference),
                other => {
                    collections.push(text(&other.to_string()));
                    return Ok(());
                }
            };
            let (kind, at) = match (&difference.before, &difference.after) {
                (None, _) => ("insert", 0),
                (_, None) => ("delete", 2),
                _ => ("update", 1),
            };
            counts[at] += 1;
            if changes.len() < most {
                changes.push(Value::Map(vec![
                    ("change".into(), Value::text(kind)),
                    ("collection".into(), text(collection.as_str())),
                    ("key".into(), text(&key::display(difference.key.as_bytes()))),
                    ("fields".into(), fields(schema, difference)),
                ]));
            }
            Ok(())
        })?;
        let more = counts.iter().sum::<u64>() - changes.len() as u64;
        let [inserts, updates, deletes] = counts;
        let round = &self.round;
        collections.truncate(most);
        Ok(json::write(&Value::Map(vec![
            ("revision".into(), number(round.revision)),
            ("inserts".into(), number(inserts)),
            ("updates".into(), number(updates)),
            ("deletes".into(), number(deletes)),
            ("edits".into(), number(round.edits)),
            ("drift".into(), number(round.drift)),
            ("dead_letters".into(), number(round.dead_letters)),
            ("unread".into(), Value::List(round.unread.iter().take(most).map(|unread| text(unread)).collect())),
            ("collections".into(), Value::List(collections)),
            ("changes".into(), Value::List(changes)),
            ("more".into(), number(more)),
        ])))
    }
}

/// Fields that differ, each before and after, for people.
fn fields(schema: &Schema, difference: &Difference) -> Value {
    let empty = Row::default();
    let (before, after) = (difference.before.as_ref(), difference.after.as_ref());
    let side = |value: &Value| if *value == Value::Absent { Value::Null } else { Value::text(display(value)) };
    let fields = diff::fields(before.unwrap_or(&empty), after.unwrap_or(&empty)).into_iter().take(FIELDS_TOLD_MAX);
    let told = fields.map(|field| {
        let name = schema.fields.get(field.slot as usize).map_or_else(String::new, |field| printable(&field.name));
        Value::Map(vec![
            ("name".into(), Value::text(name)),
            ("before".into(), side(&field.before)),
            ("after".into(), side(&field.after)),
        ])
    });
    Value::List(told.collect())
}

/// Finds out what [`Receiver::receive_once`] would change at the destination now. Nothing is written or sent, neither to the
/// destination nor to the bus nor to the receiver's state: all of it happens to a copy that goes with the result.
///
/// What a database says to a record only when it is written (a constraint) doesn't show.
///
/// Fails with [`deltabus_state::Error::Busy`] while the receiver runs.
pub async fn plan(config: Config, broker: Arc<dyn Broker>, state: &StateDirectory) -> Result<Plan, Error> {
    let interface: Arc<dyn Interface> = deltabus_interfaces::open(&config.location)?.into();
    let log = Log::new(broker, config.source.clone());
    let scratch = state.scratch()?;
    state.copy_receiver(&config.source, &config.name, scratch.directory())?;
    let rehearsal = Arc::new(rehearsal(interface, &config.source, &scratch)?);
    let purpose = Purpose::Rehearse(Arc::clone(&rehearsal));
    let mut receiver = Receiver::assemble(config, rehearsal.clone(), log, scratch.directory(), purpose)?;
    let round = receiver.receive_once().await?;
    drop(receiver);
    Ok(Plan::new(round, rehearsal, scratch))
}

/// A rehearsal on `interface`, with a store of its own among the scratch.
pub(crate) fn rehearsal(
    interface: Arc<dyn Interface>,
    source: &SourceName,
    scratch: &Scratch,
) -> Result<Rehearsal, Error> {
    let receiver = ReceiverName::new("rehearsal").expect("this is a name");
    let owner = Owner::Receiver { source: source.clone(), receiver };
    Ok(Rehearsal::new(interface, Store::open(&scratch.directory().path().join("rehearsal"), &owner)?))
}
