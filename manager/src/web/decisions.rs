//! What people decide about a source: the manager asks its transmitter, and records who wanted what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use deltabus_bus::broker::Broker;
use deltabus_bus::{ANSWER_BUSY, ANSWER_FAILED, ANSWER_OPEN, Decision, Question};
use deltabus_record::change::ConflictId;
use deltabus_record::schema::SourceName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Page;
use super::book::named;
use super::failure::Failure;
use super::guard::Decider;
use super::overview;
use super::show::text;
use crate::Error;

/// A transmitter is asked for so long: it may be in the middle of a long scan. Within the time that a call may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pause before one that is busy is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// A held delete that is to go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Confirm {
    /// As it was shown: another one since then isn't meant.
    held: String,
}

/// Lets a held delete go.
pub(super) async fn confirm(
    State(page): State<Arc<Page>>,
    Path(source): Path<String>,
    Decider(session): Decider,
    Json(wanted): Json<Confirm>,
) -> Result<Json<Value>, Failure> {
    let source = named(&source)?;
    let people = page.live.people();
    let held = text(overview::held(&people, &source));
    if held.is_empty() || held != wanted.held {
        return Err(Failure::conflict("what is held back is not what you were shown; look again"));
    }
    page.record(&session.name, "confirm", source.as_str(), Ok(held)).await?;
    let answered = page.ask(&source, Question::Confirm).await;
    page.done(&session.name, "confirm", &source, answered).await
}

/// A conflict or a refused edit, and what is decided about it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decide {
    id: String,
    /// `source`, `edit`, `retry` or `drop`.
    decision: String,
}

/// Decides a conflict or a refused edit.
pub(super) async fn decide(
    State(page): State<Arc<Page>>,
    Path(source): Path<String>,
    Decider(session): Decider,
    Json(wanted): Json<Decide>,
) -> Result<Json<Value>, Failure> {
    let source = named(&source)?;
    let wrong = |problem: String| Failure::new(StatusCode::BAD_REQUEST, problem);
    let id: ConflictId = wanted.id.parse().map_err(|error| wrong(format!("{error}")))?;
    let decision = Decision::named(&wanted.decision).ok_or_else(|| wrong("nobody can decide that".into()))?;
    let action = match decision {
        Decision::TakeSource | Decision::TakeEdit => "resolve",
        Decision::Retry => "retry",
        Decision::Drop => "drop",
    };
    page.record(&session.name, action, source.as_str(), Ok(format!("{id}: {}", decision.name()))).await?;
    let answered = page.ask(&source, Question::Decide(id, decision)).await;
    page.done(&session.name, action, &source, answered).await
}

impl Page {
    /// Records what somebody wants, before it is done: what can't be recorded doesn't happen.
    pub(super) async fn record(
        &self,
        who: &str,
        action: &str,
        about: &str,
        wanted: Result<String, String>,
    ) -> Result<(), Error> {
        let refused = wanted.as_ref().err().cloned().map(Error::Refused);
        let decided = match (&wanted, &refused) {
            (Ok(wanted), _) => Ok(wanted.clone()),
            (Err(_), Some(error)) => Err(error),
            (Err(_), None) => return Ok(()),
        };
        self.authority.note(who, action, about, decided).await
    }

    /// Asks a transmitter until it answers or patience ends.
    async fn ask(&self, source: &SourceName, question: Question) -> Result<String, Failure> {
        let bus = &self.authority.bus;
        let ask = async |question: &Question| {
            let answer = bus.ask(source, question.to_bytes()).await.map_err(deltabus_bus::Error::from)?;
            Ok::<_, Failure>(answer.map(|answer| String::from_utf8_lossy(&answer).into_owned()))
        };
        if ask(&Question::Who).await?.is_none() {
            return Err(Failure::conflict(format!(
                "the transmitter of {source} doesn't answer, so that nothing was done; is it running?"
            )));
        }
        let start = Instant::now();
        loop {
            match ask(&question).await? {
                Some(answer) if answer != ANSWER_BUSY => {
                    return match answer.strip_prefix(ANSWER_FAILED) {
                        None => Ok(answer),
                        Some(problem) => Err(Failure::conflict(text(problem))),
                    };
                }
                // It goes on with what it was asked; asked again, it says what came of it.
                _ if start.elapsed() < PATIENCE => tokio::time::sleep(AGAIN).await,
                _ => {
                    return Err(Failure::new(
                        StatusCode::GATEWAY_TIMEOUT,
                        format!("the transmitter of {source} is busy; it may still do this. Look again in a while"),
                    ));
                }
            }
        }
    }

    /// Tells a browser what came of it, and the audit what went wrong.
    async fn done(
        &self,
        who: &str,
        action: &str,
        source: &SourceName,
        answered: Result<String, Failure>,
    ) -> Result<Json<Value>, Failure> {
        self.live.look();
        match answered {
            Ok(answer) => {
                let open = answer.starts_with(ANSWER_OPEN);
                Ok(Json(json!({ "answer": text(answer.strip_prefix(ANSWER_OPEN).unwrap_or(&answer)), "open": open })))
            }
            Err(failure) => {
                self.record(who, action, source.as_str(), Err(failure.problem.clone())).await?;
                Err(failure)
            }
        }
    }
}
