//! `deltabus receive`: keep destinations equal to sources.

use deltabus_interfaces::Location;
use deltabus_receiver::{Config, Error as ReceiverError, Receiver, Round};
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_record::text::printable;
use deltabus_state::StateDirectory;
use tokio::task::JoinSet;

use crate::arguments::{Global, Receive};
use crate::error::{Error, Exit};
use crate::output::{counted, spinner};
use crate::{config, session};

/// Runs the command.
pub(crate) async fn receive(global: &Global, options: Receive) -> Result<Exit, Error> {
    let (global, configs) = configs(global, &options)?;
    let state = session::state(&global)?;
    session::serve_metrics(&global)?;
    let broker = session::broker(&global, &state).await?;
    let mut receivers = Vec::new();
    for config in configs {
        receivers.push(Receiver::open(config, broker.clone(), &state)?);
    }
    if options.once {
        let mut exit = Exit::Done;
        for receiver in &mut receivers {
            let bar = spinner(&global, &format!("{}: catching up", receiver.source()));
            let round = receiver.receive_once().await;
            bar.finish_and_clear();
            let round = round?;
            if !global.quiet {
                println!("{}", round_text(receiver.source(), receiver.name(), &round));
            }
            for unread in &round.unread {
                eprintln!("deltabus: {}; it stands as it is", printable(unread));
                exit = Exit::Trouble;
            }
        }
        return Ok(exit);
    }
    let stop = session::stop_signal()?;
    let mut tasks = JoinSet::new();
    for receiver in receivers {
        tracing::info!(source = %receiver.source(), receiver = %receiver.name(), "receiving");
        let stop = stop.clone();
        tasks.spawn(receiver.run(stop, log_round));
    }
    super::finish(tasks, &stop).await
}

/// The global options and the destinations, from the command line or a file.
fn configs(global: &Global, options: &Receive) -> Result<(Global, Vec<Config>), Error> {
    match (&options.config, &options.source, &options.location) {
        (Some(path), ..) => {
            let file = config::receiver(path)?;
            let global = config::merged(global, &file.bus, &file.credentials, &file.state, file.metrics);
            let state = session::state(&global)?;
            let base = options
                .name
                .clone()
                .map_or_else(|| file.name.as_deref().map(ReceiverName::new).transpose(), |name| Ok(Some(name)));
            let base = base.map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
            let mut configs: Vec<Config> = Vec::new();
            for destination in &file.destination {
                let source = SourceName::new(&destination.source)
                    .map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
                let location = Location::parse(&destination.location)?;
                let name = match &base {
                    // A second destination of one source needs a name of its own.
                    Some(base) => numbered(base, configs.iter().filter(|config| config.source == source).count())?,
                    None => name_for(&state, &source, &location)?,
                };
                let mut config = destination.config(path, name)?;
                config.poll = options.poll.or(config.poll);
                config.reverse |= options.reverse;
                configs.push(config);
            }
            Ok((global, configs))
        }
        (None, Some(source), Some(location)) => {
            let location = Location::parse(location)?;
            let name = match &options.name {
                Some(name) => name.clone(),
                None => name_for(&session::state(global)?, source, &location)?,
            };
            let mut config = Config::new(source.clone(), location, name);
            config.reverse = options.reverse;
            config.poll = options.poll.or(config.poll);
            Ok((global.clone(), vec![config]))
        }
        _ => Err(Error::Config("name a source and a location, or a file with --config".into())),
    }
}

fn numbered(base: &ReceiverName, before: usize) -> Result<ReceiverName, Error> {
    if before == 0 {
        return Ok(base.clone());
    }
    let name = format!("{base}-{}", before + 1);
    ReceiverName::new(&name).map_err(|error| Error::Config(error.to_string()))
}

/// The name of the receiver at a location: made once, then found again in the state directory.
fn name_for(state: &StateDirectory, source: &SourceName, location: &Location) -> Result<ReceiverName, Error> {
    let here =
        location.place().map_err(|error| Error::Io { doing: "find", path: location.path.clone(), source: error })?;
    for (of, receiver) in state.receivers()?.into_iter().filter(|(of, _)| of == source) {
        let known = std::fs::read_to_string(state.receiver_folder(&of, &receiver).join("location"));
        if known.is_ok_and(|known| known == here) {
            return Ok(receiver);
        }
    }
    let stem = location.path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let stem: String =
        stem.chars().filter(|char| char.is_ascii_lowercase() || char.is_ascii_digit()).take(24).collect();
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), &here) as u32;
    let name =
        format!("{}{}-{random:08x}", location.interface, if stem.is_empty() { stem } else { format!("-{stem}") });
    let name = ReceiverName::new(&name).map_err(|error| Error::Config(error.to_string()))?;
    let folder = state.receiver_folder(source, &name);
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join("location"), &here))
        .map_err(|error| Error::Io { doing: "write", path: folder, source: error })?;
    Ok(name)
}

fn round_text(source: &SourceName, receiver: &ReceiverName, round: &Round) -> String {
    let mut text = format!("{source} at {receiver}: revision {}", round.revision);
    if round.joined {
        text.push_str(", joined");
    }
    if round.sets > 0 {
        text.push_str(&format!(", {} applied", counted(round.sets, "set")));
    }
    match round.changes {
        0 if round.sets == 0 && !round.joined => text.push_str(", nothing new"),
        0 => {}
        changes => text.push_str(&format!(", {} written", counted(changes, "record"))),
    }
    if round.edits > 0 {
        text.push_str(&format!(", {} sent back", counted(round.edits, "edit")));
    }
    if round.drift > 0 {
        text.push_str(&format!(", {} drifted", counted(round.drift, "record")));
    }
    if round.dead_letters > 0 {
        text.push_str(&format!(", {}", counted(round.dead_letters, "dead letter")));
    }
    text
}

fn log_round(source: &SourceName, receiver: &ReceiverName, result: &Result<Round, ReceiverError>) {
    match result {
        Ok(round) => {
            let (revision, sets, changes, edits) = (round.revision, round.sets, round.changes, round.edits);
            if round.sets + round.changes + round.edits + round.drift > 0 || round.joined {
                let (joined, drift) = (round.joined, round.drift);
                tracing::info!(%source, %receiver, revision, sets, changes, edits, drift, joined, "received");
            }
        }
        Err(error) => {
            let error = super::one_line(error);
            tracing::error!(%source, %receiver, error, "the destination stays as it is");
        }
    }
}
