//! What a browser is told that doesn't get what it asked for.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::Error;

/// Why not, in words for the person who looks.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) problem: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, problem: impl Into<String>) -> Failure {
        Failure { status, problem: problem.into() }
    }

    /// Something that isn't there.
    pub(super) fn none(problem: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, problem)
    }

    /// Something that can't be done as things are.
    pub(super) fn conflict(problem: impl Into<String>) -> Failure {
        Failure::new(StatusCode::CONFLICT, problem)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "problem": self.problem }))).into_response()
    }
}

/// What was refused is said; what else went wrong is for the log.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Refused(why) => Failure::new(StatusCode::FORBIDDEN, why),
            error => {
                tracing::error!(error = deltabus_bus::causes(&error), "the page can't show something");
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the manager can't reach the bus; its log says why")
            }
        }
    }
}

impl From<deltabus_bus::Error> for Failure {
    fn from(error: deltabus_bus::Error) -> Failure {
        Failure::from(Error::from(error))
    }
}
