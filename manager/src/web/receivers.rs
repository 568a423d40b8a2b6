//! What is asked of a running receiver: its plan, and the changes that its destination refused.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use deltabus_proto::manager::v1;
use deltabus_proto::manager::v1::request::What;
use deltabus_record::schema::ReceiverName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Page;
use super::book::named;
use super::failure::Failure;
use super::guard::{Decider, Visitor};
use super::overview;
use super::show::text;
use crate::requests::Heard;

/// Dead letters that are decided at once.
const NUMBERS_MAX: usize = 100;

/// What receiving would change at a receiver's destination now.
pub(super) async fn plan(
    State(page): State<Arc<Page>>,
    Path((source, receiver)): Path<(String, String)>,
    _: Visitor,
) -> Result<Json<Value>, Failure> {
    page.ask_receiver(&source, &receiver, What::Plan, Vec::new()).await
}

/// What a receiver's destination refused.
pub(super) async fn dead_letters(
    State(page): State<Arc<Page>>,
    Path((source, receiver)): Path<(String, String)>,
    _: Visitor,
) -> Result<Json<Value>, Failure> {
    page.ask_receiver(&source, &receiver, What::DeadLetters, Vec::new()).await
}

/// Dead letters, and what becomes of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settle {
    numbers: Vec<u64>,
    decision: Settling,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Settling {
    Retry,
    Drop,
}

/// Has dead letters tried again, or forgotten.
pub(super) async fn settle(
    State(page): State<Arc<Page>>,
    Path((source, receiver)): Path<(String, String)>,
    Decider(session): Decider,
    Json(wanted): Json<Settle>,
) -> Result<Json<Value>, Failure> {
    if wanted.numbers.is_empty() || wanted.numbers.len() > NUMBERS_MAX {
        return Err(Failure::new(StatusCode::BAD_REQUEST, format!("1 to {NUMBERS_MAX} at once")));
    }
    let (action, what) = match wanted.decision {
        Settling::Retry => ("retry", What::Retry),
        Settling::Drop => ("drop", What::Drop),
    };
    let numbers: Vec<_> = wanted.numbers.iter().map(|number| format!("{receiver}/{number}")).collect();
    page.record(&session.name, action, &source, Ok(numbers.join(", "))).await?;
    let answered = page.ask_receiver(&source, &receiver, what, wanted.numbers).await;
    if let Err(failure) = &answered {
        page.record(&session.name, action, &source, Err(failure.problem.clone())).await?;
    }
    page.live.look();
    answered
}

impl Page {
    /// Asks a receiver where it runs; its answer, as far as it is JSON, is passed on.
    async fn ask_receiver(
        &self,
        source: &str,
        receiver: &str,
        what: What,
        numbers: Vec<u64>,
    ) -> Result<Json<Value>, Failure> {
        let source = named(source)?;
        let receiver = ReceiverName::new(receiver).map_err(|error| Failure::none(error.to_string()))?;
        let people = self.live.people();
        let home = overview::home(&people, &source, receiver.as_str());
        let home = home.ok_or_else(|| Failure::none(format!("there is no receiver {receiver} of {source}")))?;
        let request = v1::Request {
            id: 0,
            what: what.into(),
            source: source.to_string(),
            receiver: receiver.to_string(),
            numbers,
        };
        match self.requests.ask(&home.participant.name, request).await? {
            Heard::Answer(answer) => {
                let answer: Value = serde_json::from_str(&answer).map_err(|_| Failure {
                    status: StatusCode::BAD_GATEWAY,
                    problem: format!("{receiver} answered something that can't be understood"),
                })?;
                Ok(Json(json!({ "answer": answer })))
            }
            Heard::Problem(problem) => Err(Failure::conflict(text(&problem))),
            Heard::Nobody => Ok(Json(json!({ "offline": true, "seen_millis": home.seen_millis }))),
            Heard::Silence => Err(Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!("{receiver} is there but busy, and didn't answer in time; ask again in a while"),
            )),
        }
    }
}
