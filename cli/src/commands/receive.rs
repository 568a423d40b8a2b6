//! `deltabus receive`: keep destinations equal to sources.

use deltabus_bus::broker::BrokerError;
use deltabus_bus::{Error as BusError, Log};
use deltabus_receiver::{Error as ReceiverError, Receiver, Round};
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_record::text::printable;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::arguments::{Global, Receive};
use crate::commands::log::unknown;
use crate::destinations::{self, Naming};
use crate::error::{Error, Exit};
use crate::figures::Watch;
use crate::membership::Wanted;
use crate::output::{counted, spinner};
use crate::presence::{self, Presence};
use crate::{log, otlp, session};

/// Runs the command.
pub(crate) async fn receive(global: &Global, options: Receive) -> Result<Exit, Error> {
    let (global, mut configs) = destinations::configs(global, &options.destinations, Naming::Lasting).await?;
    for config in &mut configs {
        config.poll = options.poll.or(config.poll);
    }
    let state = session::state(&global)?;
    let metrics = session::serve_metrics(&global)?;
    otlp::start(&global, "deltabus-receiver")?;
    let sources: Vec<_> = configs.iter().map(|config| config.source.clone()).collect();
    let Some(first) = sources.first() else { return Err(Error::Config("no destination is named".into())) };
    let bus = session::bus(&global, &state, Wanted::Receive(first), &sources).await?;
    let mut receivers = Vec::new();
    let mut watch = Watch { state: session::state_path(&global)?, sources: sources.clone(), ..Watch::default() };
    for config in configs {
        let broker = bus.of(&config.source).await?;
        let receiver = Receiver::open(config, broker, &state)?;
        watch.lags.push(receiver.lag());
        receivers.push(receiver);
    }
    if metrics {
        watch.begin();
    }
    if options.once {
        let mut exit = Exit::Done;
        for receiver in &mut receivers {
            let lines = log::of_receiver(receiver.source(), receiver.name());
            let bar = spinner(&global, &format!("{}: catching up", receiver.source()));
            let round = receiver.receive_once().instrument(lines).await;
            bar.finish_and_clear();
            let round = match round {
                unpublished if is_unpublished(&unpublished) => {
                    let broker = bus.of(receiver.source()).await?;
                    return Err(unknown(&global, &Log::new(broker, receiver.source().clone())).await);
                }
                round => round?,
            };
            if !global.quiet {
                println!("{}", round_text(receiver.source(), receiver.name(), &round));
            }
            for unread in &round.unread {
                eprintln!("deltabus: {}; it stands as it is", printable(unread));
                exit = Exit::Trouble;
            }
        }
        bus.report().await;
        for receiver in &receivers {
            if let Some(broker) = bus.hears(receiver.source()).await? {
                let log = Log::new(broker, receiver.source().clone());
                let folder = state.receiver_folder(receiver.source(), receiver.name());
                presence::leave(&log, receiver.name(), &folder).await;
            }
        }
        return Ok(exit);
    }
    let stop = session::stop_signal()?;
    bus.attend(&stop);
    let mut presence = Presence::default();
    let mut tasks = JoinSet::new();
    for receiver in receivers {
        if let Some(broker) = bus.hears(receiver.source()).await? {
            let log = Log::new(broker, receiver.source().clone());
            let folder = state.receiver_folder(receiver.source(), receiver.name());
            presence.answer(log, receiver.name().clone(), folder, &stop);
        }
        tracing::info!(source = %receiver.source(), receiver = %receiver.name(), "receiving");
        let (stop, lines) = (stop.clone(), log::of_receiver(receiver.source(), receiver.name()));
        let mut waits = false;
        let after = move |source: &SourceName, receiver: &ReceiverName, result: &Result<Round, ReceiverError>| {
            let before = std::mem::replace(&mut waits, is_unpublished(result));
            match (before, waits) {
                (true, true) => {}
                (false, true) => {
                    tracing::warn!(%source, %receiver, "the bus has no such source yet; waiting until it is transmitted");
                }
                (_, false) => log_round(source, receiver, result),
            }
        };
        tasks.spawn(receiver.run(stop, after).instrument(lines));
    }
    let exit = super::finish(tasks, &stop).await;
    stop.cancel();
    presence.leave().await;
    let exit = exit?;
    bus.dismissal()?;
    Ok(exit)
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

/// Whether nothing is wrong but that nobody has published the source yet.
fn is_unpublished(result: &Result<Round, ReceiverError>) -> bool {
    matches!(result, Err(ReceiverError::Bus(BusError::Broker(BrokerError::NoSource { .. }) | BusError::NoSnapshot(_))))
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
            let passes = error.passes_by_itself();
            let error = super::one_line(error);
            if passes {
                tracing::warn!(%source, %receiver, error, "a round failed and is tried again");
            } else {
                tracing::error!(%source, %receiver, error, "the destination stays as it is");
            }
        }
    }
}
