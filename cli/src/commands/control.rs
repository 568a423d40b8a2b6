//! `deltabus confirm` and `snapshot`: asking a transmitter, wherever it runs.

use deltabus_record::text::printable;
use deltabus_transmitter::{ANSWER_FAILED, Question, Transmitter};

use crate::arguments::{Global, Named};
use crate::commands::decide;
use crate::error::{Error, Exit};
use crate::membership::Wanted;
use crate::session;

/// Lets a held delete go.
pub(crate) async fn confirm(global: &Global, options: Named) -> Result<Exit, Error> {
    let state = session::state(global)?;
    let broker = session::broker(global, &state, Wanted::Publish(&options.source)).await?;
    let question = Question::Confirm.to_bytes();
    let answer = broker.ask(&options.source, question).await.map_err(deltabus_bus::Error::from)?;
    let text = match answer {
        Some(answer) => String::from_utf8_lossy(&answer).into_owned(),
        // Nobody is running: the next round will find the confirmation in the state.
        None => {
            if !state.source_folder(&options.source).is_dir() {
                return Err(Error::Trouble(format!(
                    "no transmitter of `{}` answers, and it has no state here; run this where it runs",
                    options.source
                )));
            }
            let held = deltabus_transmitter::confirm(&state, &options.source)?;
            format!("confirmed: {held}; the next `deltabus transmit {} …` publishes it", options.source)
        }
    };
    if let Some(error) = text.strip_prefix(ANSWER_FAILED) {
        return Err(Error::Trouble(error.to_owned()));
    }
    if !global.quiet {
        println!("{}", printable(&text));
    }
    Ok(Exit::Done)
}

/// Has a snapshot written.
pub(crate) async fn snapshot(global: &Global, options: Named) -> Result<Exit, Error> {
    let state = session::state(global)?;
    let broker = session::broker(global, &state, Wanted::Publish(&options.source)).await?;
    let question = Question::Snapshot.to_bytes();
    let answer = broker.ask(&options.source, question).await.map_err(deltabus_bus::Error::from)?;
    let text = match answer {
        Some(answer) => String::from_utf8_lossy(&answer).into_owned(),
        None => {
            let config = decide::config(&state, &options.source)?;
            let mut transmitter = Transmitter::open(config, broker, &state)?;
            let revision = transmitter.snapshot().await?;
            format!("snapshot written at revision {revision}")
        }
    };
    if !global.quiet {
        println!("{}", printable(&text));
    }
    Ok(Exit::Done)
}
