//! `deltabus plan`: what receiving would change at a destination now.

use std::io::{BufWriter, Write};
use std::sync::Arc;

use deltabus_bus::broker::Broker;
use deltabus_receiver::{Config, Error as ReceiverError, Planned};
use deltabus_record::schema::CollectionName;
use deltabus_record::text::printable;
use deltabus_state::{Error as StateError, StateDirectory};
use serde_json::json;

use crate::arguments::{Global, Plan};
use crate::destinations::{self, Naming};
use crate::error::{Error, Exit};
use crate::membership::Wanted;
use crate::output::{counted, spinner};
use crate::report::Report;
use crate::session;

/// Runs the command.
pub(crate) async fn plan(global: &Global, options: Plan) -> Result<Exit, Error> {
    let (global, configs) = destinations::configs(global, &options.destinations, Naming::Passing).await?;
    let state = session::state(&global)?;
    let mut exit = Exit::Done;
    for config in configs {
        let broker = session::broker(&global, &state, Wanted::Read(&config.source)).await?;
        if plan_one(&global, &options, config, broker, &state).await? {
            exit = Exit::Differs;
        }
    }
    Ok(exit)
}

/// Plans one destination; whether anything would change there.
async fn plan_one(
    global: &Global,
    options: &Plan,
    config: Config,
    broker: Arc<dyn Broker>,
    state: &StateDirectory,
) -> Result<bool, Error> {
    let (source, receiver, location) = (config.source.clone(), config.name.clone(), config.location.clone());
    let bar = spinner(global, &format!("{source}: planning"));
    let planned = deltabus_receiver::plan(config, broker, state).await;
    bar.finish_and_clear();
    let plan = planned.map_err(|error| match error {
        ReceiverError::State(StateError::Busy { pid, .. }) => Error::Trouble(format!(
            "receiver `{receiver}` of `{source}` runs{} and keeps {location} by itself: what it would change, it changes at \
             once. `deltabus verify` shows what differs there",
            pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
        )),
        error => error.into(),
    })?;
    let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let mut report = Report::new(&mut out, options.stat, options.json);
    let altered = show(&plan, &mut report, options.json)?;
    let counts = report.finish()?;
    let round = &plan.round;
    if options.json {
        let line = json!({
            "source": source.as_str(), "receiver": receiver.as_str(), "location": location.given,
            "revision": round.revision, "inserts": counts.added, "updates": counts.changed, "deletes": counts.removed,
            "edits": round.edits, "drift": round.drift, "dead_letters": round.dead_letters, "unread": round.unread,
        });
        writeln!(out, "{line}")?;
    } else if !global.quiet {
        if counts.total() == 0 && !altered {
            writeln!(out, "nothing would change at {location}: revision {}", round.revision)?;
        } else {
            writeln!(out, "{location} would be at revision {}", round.revision)?;
        }
        if round.edits > 0 {
            writeln!(out, "{} made there would be sent back", counted(round.edits, "edit"))?;
        }
        if round.drift > 0 {
            let verb = if round.drift == 1 { "differs" } else { "differ" };
            writeln!(out, "{} there {verb} from the source and would stand", counted(round.drift, "record"))?;
        }
        if round.dead_letters > 0 {
            writeln!(out, "{} would come up", counted(round.dead_letters, "dead letter"))?;
        }
        for unread in &round.unread {
            writeln!(out, "can't be read, and would stand as it is: {}", printable(unread))?;
        }
    }
    out.flush()?;
    Ok(counts.total() > 0 || altered)
}

/// Shows everything that is planned; whether collections themselves would change.
pub(crate) fn show(plan: &deltabus_receiver::Plan, report: &mut Report<'_>, json: bool) -> Result<bool, Error> {
    let mut altered = false;
    let mut current: Option<CollectionName> = None;
    plan.each(&mut |planned| {
        let name = match &planned {
            Planned::Made { collection } => &collection.name,
            Planned::Altered { collection, .. } | Planned::Gone { collection } => collection,
            Planned::Record { collection, .. } => collection,
        };
        if let Some(before) = current.take_if(|current| *current != *name) {
            report.collection(&before)?;
        }
        current.get_or_insert_with(|| name.clone());
        if let Planned::Record { collection, schema, difference } = planned {
            return report.difference(collection, schema, difference);
        }
        altered = true;
        show_schema(&planned, report, json)
    })?;
    if let Some(last) = current {
        report.collection(&last)?;
    }
    Ok(altered)
}

fn show_schema(planned: &Planned<'_>, report: &mut Report<'_>, json: bool) -> Result<(), Error> {
    let line = match planned {
        Planned::Made { collection } if json => {
            let fields: Vec<_> =
                collection.schema.ordered().into_iter().map(|(_, field)| field.name.as_str()).collect();
            json!({ "collection": collection.name.as_str(), "schema": "made", "fields": fields }).to_string()
        }
        Planned::Altered { collection, added, dropped } if json => {
            json!({ "collection": collection.as_str(), "schema": "altered", "added": added, "dropped": dropped })
                .to_string()
        }
        Planned::Gone { collection } if json => {
            json!({ "collection": collection.as_str(), "schema": "gone" }).to_string()
        }
        Planned::Record { .. } => return Ok(()),
        other => printable(&other.to_string()),
    };
    Ok(writeln!(report.out(), "{line}")?)
}
