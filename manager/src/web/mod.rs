//! The page: what administrators see of all sources and receivers in a browser, and what they decide there.
//!
//! It is served on the manager's own port, to whoever came by a link of `deltabus page` ([`logins`]). [`live`] keeps what is shown
//! up to date for all who look, [`book`] what a source's log says, [`history`] reads older sets when somebody asks; [`decisions`]
//! are carried out by the source's transmitter or the receiver, and recorded under the person's name. The browser's side is in
//! `static/`: plain HTML, CSS and JavaScript, nothing of it from elsewhere.

mod assets;
mod book;
mod decisions;
mod failure;
mod guard;
mod history;
mod live;
mod logins;
mod overview;
mod receivers;
mod ring;
mod show;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use deltabus_bus::Log;
use deltabus_record::schema::SourceName;

use crate::authority::Authority;
use crate::requests::Requests;

pub(crate) use logins::{LINK_LIFE, Logins};

/// The largest body that a browser may send.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// What all parts of the page share.
pub(crate) struct Page {
    pub(crate) logins: Arc<Logins>,
    authority: Arc<Authority>,
    requests: Arc<Requests>,
    live: live::Live,
}

impl Page {
    pub(crate) fn new(authority: Arc<Authority>, requests: Arc<Requests>) -> Page {
        Page { logins: Arc::default(), authority, requests, live: live::Live::default() }
    }

    fn log(&self, source: &SourceName) -> Log {
        Log::new(self.authority.bus.clone(), source.clone())
    }
}

/// Everything that a browser may ask for.
pub(crate) fn router(page: Arc<Page>) -> Router {
    let source = "/api/sources/{source}";
    let receiver = "/api/receivers/{source}/{receiver}";
    Router::new()
        .route("/health", get(async || "ok\n"))
        .route("/login", get(assets::login).post(logins::log_in))
        .route("/login.js", get(assets::login_script))
        .route("/style.css", get(assets::style))
        .route("/icon.svg", get(assets::icon))
        .route("/", get(assets::index))
        .route("/app.js", get(assets::script))
        .route("/view.js", get(assets::view_script))
        .route("/api/me", get(logins::me))
        .route("/api/logout", post(logins::log_out))
        .route("/api/events", get(live::events))
        .route(&format!("{source}/conflicts"), get(book::conflicts))
        .route(&format!("{source}/dead-letters"), get(book::dead_letters))
        .route(&format!("{source}/history"), get(history::page))
        .route(&format!("{source}/history/{{revision}}"), get(history::set))
        .route(&format!("{source}/confirm"), post(decisions::confirm))
        .route(&format!("{source}/decide"), post(decisions::decide))
        .route(&format!("{receiver}/plan"), get(receivers::plan))
        .route(&format!("{receiver}/dead-letters"), get(receivers::dead_letters).post(receivers::settle))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::map_response(guard::headers))
        .with_state(page)
}
