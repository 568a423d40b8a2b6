//! `deltabus transmit`: publish sources and take their edits back.

use deltabus_bus::Log;
use deltabus_bus::local::Opening;
use deltabus_interfaces::Location;
use deltabus_record::schema::SourceName;
use deltabus_record::text::printable;
use deltabus_state::StateDirectory;
use deltabus_transmitter::{Config, Error as TransmitterError, Round, Transmitter};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use crate::arguments::{Global, Transmit};
use crate::commands::status::{Looker, arrival};
use crate::error::{Error, Exit};
use crate::figures::Watch;
use crate::membership::Wanted;
use crate::output::{bytes_text, counted, spinner};
use crate::presence::Presence;
use crate::session::Bus;
use crate::{config, direct, log, otlp, session};

/// Runs the command.
pub(crate) async fn transmit(global: &Global, options: Transmit) -> Result<Exit, Error> {
    arrival::check(&options.wait)?;
    let (global, configs, opening) = configs(global, &options)?;
    let state = session::state(&global)?;
    let metrics = session::serve_metrics(&global)?;
    otlp::start(&global, "deltabus-transmitter")?;
    let sources: Vec<_> = configs.iter().map(|config| config.source.clone()).collect();
    if global.bus.is_none() && global.manager.is_none() {
        let opened = direct::open_or_close(&session::local_bus(&state), &sources, opening.as_ref())?;
        if let Some(opened) = opened {
            direct::say(&global, &sources, &opened);
        }
    } else if opening.is_some() {
        return Err(Error::Config("--open opens the local bus, and --bus or --manager names another".into()));
    }
    let Some(first) = sources.first() else { return Err(Error::Config("no source is named".into())) };
    let bus = session::bus(&global, &state, Wanted::Publish(first), &[]).await?;
    let mut transmitters = Vec::new();
    let mut watch = Watch { state: session::state_path(&global)?, sources: sources.clone(), ..Watch::default() };
    for config in configs {
        let broker = bus.of(&config.source).await?;
        watch.logs.push(Log::new(broker.clone(), config.source.clone()));
        if !state.source_folder(&config.source).exists() {
            recommend_key(&global, &config.location);
        }
        transmitters.push(Transmitter::open(config, broker, &state)?);
    }
    if metrics {
        watch.begin();
    }
    if options.once {
        let mut exit = Exit::Done;
        let mut published = Vec::new();
        for transmitter in &mut transmitters {
            let source = transmitter.source().clone();
            let bar = spinner(&global, &format!("{source}: looking at the source"));
            let round = transmitter.transmit_once().instrument(log::of_source(&source)).await;
            bar.finish_and_clear();
            let round = round?;
            if !global.quiet {
                println!("{}", round_text(transmitter.source(), &round));
            }
            published.push((transmitter.source().clone(), round.revision));
            for unread in &round.unread {
                eprintln!("deltabus: {}; it stands as it was", printable(unread));
                exit = Exit::Trouble;
            }
            if let Some(held) = &round.held {
                eprintln!(
                    "deltabus: held back: {held}; `deltabus confirm {}` lets it go, putting the source right forgets it",
                    transmitter.source()
                );
                exit = Exit::Differs;
            }
        }
        bus.report().await;
        if !options.wait.is_empty() {
            let arrived = wait(&global, &state, bus, &published, &options).await?;
            exit = if exit == Exit::Done { arrived } else { exit };
        }
        return Ok(exit);
    }
    let stop = session::stop_signal()?;
    bus.attend(&stop);
    let mut presence = Presence::default();
    for source in &sources {
        if let Some(broker) = bus.hears(source).await? {
            presence.remember(Log::new(broker, source.clone()), state.source_folder(source), &stop);
        }
    }
    let mut tasks = JoinSet::new();
    for transmitter in transmitters {
        tracing::info!(source = %transmitter.source(), "transmitting");
        let (stop, lines) = (stop.clone(), log::of_source(transmitter.source()));
        tasks.spawn(transmitter.run(stop, log_round).instrument(lines));
    }
    let exit = super::finish(tasks, &stop).await;
    stop.cancel();
    presence.leave().await;
    let exit = exit?;
    bus.dismissal()?;
    Ok(exit)
}

/// Interfaces of rows that have no key unless one is named.
const KEYLESS: [&str; 3] = ["csv", "tsv", "ndjson"];

/// Says once, before a source is published for the first time, what it means that no key is named: it can't be changed later.
fn recommend_key(global: &Global, location: &Location) {
    if !global.quiet && KEYLESS.contains(&location.interface.as_str()) && !location.options.has("key") {
        let path = printable(&location.path.display().to_string());
        eprintln!(
            "deltabus: {path}: no key is named, so a row that changes is one that goes and one that comes; where a column tells rows apart, \
name it now: {}:{path}?key=COLUMN",
            location.interface
        );
    }
}

/// Waits until what was published is with those who are waited for, and says who lacks it when the time is over.
async fn wait(
    global: &Global,
    state: &StateDirectory,
    bus: Bus,
    published: &[(SourceName, u64)],
    options: &Transmit,
) -> Result<Exit, Error> {
    let mut looker = Looker::on(global, state, bus);
    let timeout = options.timeout.unwrap_or(arrival::WAIT);
    let end = Instant::now() + timeout;
    let mut exit = Exit::Done;
    for (source, revision) in published {
        let bar = spinner(global, &format!("{source}: waiting until revision {revision} has arrived"));
        let missing = arrival::wait(&mut looker, source, *revision, &options.wait, end).await;
        bar.finish_and_clear();
        let missing = missing?;
        if missing.is_empty() {
            if !global.quiet {
                println!("{source}: revision {revision} has arrived");
            }
            continue;
        }
        let missing = printable(&missing.join(", ").replace('\n', " "));
        eprintln!(
            "deltabus: {source}: after {} s revision {revision} has not arrived: {missing}",
            timeout.as_secs_f64()
        );
        exit = Exit::Differs;
    }
    Ok(exit)
}

/// The global options, the sources, and whether the local bus is to be opened for them, from the command line or a file.
fn configs(global: &Global, options: &Transmit) -> Result<(Global, Vec<Config>, Option<Opening>), Error> {
    let (mut open, mut hosts) = (options.open.clone(), options.host.clone());
    let (global, mut configs) = match (&options.config, &options.source, &options.location) {
        (Some(path), ..) => {
            let file = config::transmitter(path)?;
            let global = file.under(global);
            open = open.or_else(|| file.open.clone());
            hosts.extend(file.hosts.iter().cloned());
            let configs = file.source.iter().map(|source| source.config(path)).collect::<Result<Vec<_>, _>>()?;
            (global, configs)
        }
        (None, Some(source), Some(location)) => {
            (global.clone(), vec![Config::new(source.clone(), Location::parse(location)?)])
        }
        _ => return Err(Error::Config("name a source and its location, or a file with --config".into())),
    };
    for config in &mut configs {
        config.poll = options.poll.or(config.poll);
        config.max_delete = options.max_delete.unwrap_or(config.max_delete);
        config.conflicts = options.conflicts.map_or(config.conflicts, Into::into);
        config.standby |= options.standby;
    }
    if open.is_none() && !hosts.is_empty() {
        return Err(Error::Config(
            "`hosts` says by which names the bus is reached that `open` opens; there is none".into(),
        ));
    }
    let opening = open.map(|open| direct::opening(&open, &hosts)).transpose()?;
    Ok((global, configs, opening))
}

fn round_text(source: &SourceName, round: &Round) -> String {
    let mut text = format!("{source}: revision {}", round.revision);
    if round.sets > 0 {
        text.push_str(&format!(", {} published", counted(round.changes, "change")));
        if round.bytes > 0 {
            text.push_str(&format!(" in {}", bytes_text(round.bytes)));
        }
    } else if round.held.is_none() {
        text.push_str(", nothing new");
    }
    if round.reverse_sets > 0 {
        text.push_str(&format!(", {} taken", counted(round.reverse_sets, "reverse set")));
    }
    if round.conflicts > 0 {
        text.push_str(&format!(", {}", counted(round.conflicts, "conflict")));
    }
    if round.refused > 0 {
        text.push_str(&format!(", {} refused", counted(round.refused, "edit")));
    }
    text
}

fn log_round(source: &SourceName, result: &Result<Round, TransmitterError>) {
    match result {
        Ok(round) => {
            if let Some(held) = &round.held {
                tracing::warn!(%source, %held, "a delete is held back");
            }
            if round.sets > 0 || round.reverse_sets > 0 {
                let (revision, changes, bytes) = (round.revision, round.changes, round.bytes);
                let (reverse_sets, conflicts) = (round.reverse_sets, round.conflicts);
                tracing::info!(%source, revision, changes, bytes, reverse_sets, conflicts, "published");
            }
        }
        Err(error) => {
            let passes = error.is_passing() && error.passes_by_itself();
            let error = super::one_line(error);
            if passes {
                tracing::warn!(%source, error, "a round failed and is tried again");
            } else {
                tracing::error!(%source, error, "nothing was published");
            }
        }
    }
}
