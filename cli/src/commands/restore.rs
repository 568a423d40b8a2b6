//! `deltabus restore`: a former state of a source, written to a place.

use std::io::{BufWriter, Write};

use deltabus_bus::Timeline;
use deltabus_interfaces::Location;
use deltabus_receiver::Config;
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::StateDirectory;

use crate::arguments::{Global, Restore};
use crate::error::{Error, Exit};
use crate::moment::now_millis;
use crate::output::{counted, spinner, time_text};
use crate::report::Report;
use crate::{destinations, session};

use super::{log, plan};

/// Runs the command.
pub(crate) async fn restore(global: &Global, options: Restore) -> Result<Exit, Error> {
    let source = &options.source;
    let location = Location::parse(&options.location)?;
    let state = session::state(global)?;
    let broker = session::broker(global, &state, crate::membership::Wanted::Read(source)).await?;
    let bar = spinner(global, &format!("{source}: reading the log"));
    let timeline = Timeline::read(&log::founded(global, broker.clone(), source).await?).await?;
    let step = options.at.find(&timeline, source, now_millis())?;
    let revision = step.revision;
    let since = step.time_millis.map(|millis| format!(" of {}", time_text(millis))).unwrap_or_default();
    let what = format!("revision {revision} of {source}{since}");
    let config = Config::new(source.clone(), location.clone(), name_of(source)?);
    bar.set_message(format!("{source}: restoring"));
    if options.dry_run {
        let planned = deltabus_receiver::plan_restore(config, broker, &state, &timeline, revision).await;
        bar.finish_and_clear();
        let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
        let mut report = Report::new(&mut out, options.stat, options.json);
        let altered = plan::show(&planned?, &mut report, options.json)?;
        let counts = report.finish()?;
        if !options.json && !global.quiet {
            match counts.total() == 0 && !altered {
                true => writeln!(out, "{location} is {what} already")?,
                false => writeln!(out, "{location} would be {what}")?,
            }
        }
        out.flush()?;
        return Ok(Exit::Done);
    }
    let round = deltabus_receiver::restore(config, broker, &state, &timeline, revision).await;
    bar.finish_and_clear();
    let round = round?;
    if !global.quiet {
        println!("{location}: {what}, {} written", counted(round.changes, "record"));
    }
    if round.changes > 0 {
        warn(&state, source, &location)?;
    }
    Ok(Exit::Done)
}

/// What is restored where a receiver keeps a destination is an edit to it.
fn warn(state: &StateDirectory, source: &SourceName, location: &Location) -> Result<(), Error> {
    if let Some(receiver) = destinations::known(state, source, location)? {
        eprintln!(
            "deltabus: receiver `{receiver}` keeps {location}: what was restored counts as edits made there, until `deltabus \
             verify --repair` puts them right"
        );
    }
    Ok(())
}

/// Nobody's name: no state is kept under it.
fn name_of(source: &SourceName) -> Result<ReceiverName, Error> {
    ReceiverName::new("restore").map_err(|error| Error::Config(format!("{source}: {error}")))
}
