//! Deciding about conflicts and refused edits: by the transmitter that runs, or by its state where none does.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use deltabus_interfaces::Location;
use deltabus_record::change::ConflictId;
use deltabus_record::schema::SourceName;
use deltabus_record::text::printable;
use deltabus_transmitter::{ANSWER_BUSY, ANSWER_FAILED, Config, Decided, Decision, Question, Transmitter};

use crate::arguments::{Global, Policy};
use crate::error::{Error, Exit};
use crate::membership::Wanted;
use crate::session;

/// A transmitter that runs is asked for so long: it may be in the middle of a long scan.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause before one that is busy is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// Decides, and says what came of it; [`Exit::Differs`] if something is left to decide.
pub(crate) async fn decide(
    global: &Global,
    source: &SourceName,
    id: ConflictId,
    decision: Decision,
) -> Result<Exit, Error> {
    let state = session::state(global)?;
    let broker = session::broker(global, &state, Wanted::Publish(source)).await?;
    let ask = |question: Question| {
        let broker = broker.clone();
        async move { broker.ask(source, question.to_bytes()).await.map_err(deltabus_bus::Error::from) }
    };
    let answer = if ask(Question::Who).await?.is_some() {
        let start = Instant::now();
        loop {
            let answer = ask(Question::Decide(id, decision)).await?;
            let text = answer.map(|answer| String::from_utf8_lossy(&answer).into_owned());
            match text {
                Some(text) if text != ANSWER_BUSY => break text,
                // It goes on with what it was asked; asked again, it says what came of it.
                _ if start.elapsed() < PATIENCE => tokio::time::sleep(AGAIN).await,
                _ => {
                    return Err(Error::Trouble(format!(
                        "the transmitter of `{source}` runs but has not answered for {} seconds; run this again to see what it did",
                        PATIENCE.as_secs()
                    )));
                }
            }
        }
    } else {
        let mut transmitter = Transmitter::open(config(&state, source)?, broker.clone(), &state)?;
        transmitter.decide(id, decision).await?.to_string()
    };
    if let Some(problem) = answer.strip_prefix(ANSWER_FAILED) {
        return Err(Error::Trouble(problem.to_owned()));
    }
    if !global.quiet {
        println!("{id}: {}", printable(&answer));
    }
    Ok(if Decided::is_open(&answer) { Exit::Differs } else { Exit::Done })
}

/// What the transmitter of a source was last told, from what it wrote down.
pub(crate) fn config(state: &deltabus_state::StateDirectory, source: &SourceName) -> Result<Config, Error> {
    let folder = state.source_folder(source);
    let status = deltabus_state::read_status(&folder).ok_or_else(|| {
        Error::Trouble(format!(
            "no transmitter of `{source}` answers, and it has no state here; run this where it runs"
        ))
    })?;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap_or_default();
    let location = location_in(&status, &format!("the transmitter of `{source}`"))?;
    let mut config = Config::new(source.clone(), location);
    if let Some(policy) = status["conflicts"].as_str().and_then(|name| Policy::from_str(name, false).ok()) {
        config.conflicts = policy.into();
    }
    config.max_delete = status["max_delete"].as_f64().unwrap_or(config.max_delete);
    Ok(config)
}

/// The location that a process wrote down.
pub(crate) fn location_in(status: &serde_json::Value, whose: &str) -> Result<Location, Error> {
    let given = status["at"].as_str().or(status["location"].as_str()).unwrap_or_default();
    if Location::hides_password(given) {
        return Err(Error::Trouble(format!("{whose} doesn't run, and its location needs a password; start it first")));
    }
    Ok(Location::parse(given)?)
}
