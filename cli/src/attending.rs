//! What administrators ask, through the manager, of the receivers that run in this state directory.

use deltabus_manager::v1::request::What;
use deltabus_manager::v1::{AnswerRequest, Request};
use deltabus_receiver::{Tried, Wish};
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_record::text::display;
use deltabus_record::value::Value;
use deltabus_state::{StateDirectory, is_busy, read_letters, read_status};
use serde_json::{Value as Json, json};

use crate::commands::{one_line, verify};
use crate::error::Error;

/// Dead letters that are told at once, the newest.
const LETTERS_TOLD_MAX: usize = 100;

/// Fields of one that are told.
const FIELDS_TOLD_MAX: usize = 64;

/// What a manager takes as one answer, in bytes: the last of what is told are left out where it would be more.
const ANSWER_BYTES_MAX: usize = 120 * 1024;

/// Does what was asked; the answer to be sent.
pub(crate) async fn answer(state: &StateDirectory, request: Request) -> AnswerRequest {
    let id = request.id;
    match done(state, request).await {
        Ok(answer) => AnswerRequest { id, answer: bounded(answer).to_string(), problem: String::new() },
        Err(error) => AnswerRequest { id, answer: String::new(), problem: one_line(&error) },
    }
}

async fn done(state: &StateDirectory, request: Request) -> Result<Json, Error> {
    let name = |error: deltabus_record::schema::NameError| Error::Config(error.to_string());
    let source = SourceName::new(&request.source).map_err(name)?;
    let receiver = ReceiverName::new(&request.receiver).map_err(name)?;
    let wish = match request.what() {
        What::DeadLetters => return letters(state, &source, &receiver),
        What::Plan => Wish::Plan,
        What::Retry => Wish::Retry(request.numbers.clone()),
        What::Drop => Wish::Drop(request.numbers.clone()),
        What::Unspecified => return Err(Error::Trouble("this version doesn't know what is asked".into())),
    };
    let none = || Error::Trouble(format!("receiver `{receiver}` of `{source}` doesn't run here"));
    if !is_busy(&state.receiver_folder(&source, &receiver)) {
        return Err(none());
    }
    let answer = verify::ask_receiver(&source, &receiver, state, &wish).await?.ok_or_else(none)?;
    if wish == Wish::Plan {
        return serde_json::from_str(&answer).map_err(|error| Error::Trouble(format!("its plan is none: {error}")));
    }
    let outcomes = Tried::from_lines(&answer).into_iter().map(|(number, tried)| {
        let (outcome, reason) = match tried {
            Tried::Applied => ("applied", None),
            Tried::Refused(reason) => ("refused", Some(reason)),
            Tried::Dropped => ("dropped", None),
            Tried::Unknown => ("unknown", None),
        };
        json!({ "number": number, "outcome": outcome, "reason": reason })
    });
    Ok(json!({ "outcomes": outcomes.collect::<Vec<_>>() }))
}

/// What a receiver's destination refused, as it wrote it down.
fn letters(state: &StateDirectory, source: &SourceName, receiver: &ReceiverName) -> Result<Json, Error> {
    let folder = state.receiver_folder(source, receiver);
    let status: Json = serde_json::from_slice(&read_status(&folder).unwrap_or_default()).unwrap_or_default();
    let letters: Vec<Json> = match read_letters(&folder) {
        None => Vec::new(),
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::Trouble(format!("its dead letters can't be understood: {error}")))?,
    };
    let waiting: Vec<Json> = letters.into_iter().filter(|letter| letter["dropped"] != true).collect();
    let told: Vec<Json> = waiting.iter().rev().take(LETTERS_TOLD_MAX).map(told).collect();
    Ok(json!({ "location": status["location"], "more": waiting.len() - told.len(), "letters": told }))
}

/// A dead letter, with its values as texts.
fn told(letter: &Json) -> Json {
    let side = |sides: &Json, side: &str| match sides.get(side) {
        None => Json::Null,
        Some(Json::String(text)) => display(&Value::text(text.as_str())).into(),
        Some(Json::Number(number)) => number.to_string().into(),
        Some(other) => display(&Value::text(other.to_string())).into(),
    };
    let fields = letter["fields"].as_object().into_iter().flatten().take(FIELDS_TOLD_MAX);
    let fields: Vec<Json> = fields
        .map(|(name, sides)| json!({ "name": name, "before": side(sides, "held"), "after": side(sides, "wanted") }))
        .collect();
    json!({
        "id": letter["id"], "collection": letter["collection"], "key": letter["key"], "change": letter["change"],
        "fields": fields, "reason": letter["reason"], "revision": letter["revision"],
        "time_millis": letter["time_millis"], "attempts": letter["attempts"],
    })
}

/// The same with fewer changes or letters told, until it is no longer than an answer may be.
fn bounded(mut answer: Json) -> Json {
    while answer.to_string().len() > ANSWER_BYTES_MAX {
        let Some(list) = ["changes", "letters"].into_iter().find(|name| answer[*name].is_array()) else { break };
        let Some(told) = answer[list].as_array_mut() else { break };
        let left = told.len() / 2;
        let cut = told.len() - left;
        if cut == 0 {
            break;
        }
        told.truncate(left);
        answer["more"] = (answer["more"].as_u64().unwrap_or_default() + cut as u64).into();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_cut_to_what_a_manager_takes_and_says_so() {
        let change = json!({ "key": "x".repeat(1_000) });
        let cut = bounded(json!({ "changes": vec![change; 200], "more": 5 }));
        assert!(cut.to_string().len() <= ANSWER_BYTES_MAX);
        let left = cut["changes"].as_array().expect("a list").len() as u64;
        assert!(left > 0 && cut["more"] == 205 - left, "{left} {}", cut["more"]);
        let whole = json!({ "letters": [1, 2], "more": 0 });
        assert_eq!(bounded(whole.clone()), whole);
    }
}
