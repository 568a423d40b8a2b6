//! The browser's side, as it is in `static/`.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};

use super::guard::Visitor;

/// An asset: changes with the program, so that a browser asks again each time.
fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text).into_response()
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page itself; a stranger is sent to where links lead.
pub(super) async fn index(visitor: Option<Visitor>) -> Response {
    match visitor {
        Some(_) => asset(HTML, include_str!("static/index.html")),
        None => Redirect::to("/login").into_response(),
    }
}

pub(super) async fn script(_: Visitor) -> Response {
    asset(SCRIPT, include_str!("static/app.js"))
}

pub(super) async fn view_script(_: Visitor) -> Response {
    asset(SCRIPT, include_str!("static/view.js"))
}

pub(super) async fn login() -> Response {
    asset(HTML, include_str!("static/login.html"))
}

pub(super) async fn login_script() -> Response {
    asset(SCRIPT, include_str!("static/login.js"))
}

pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("static/style.css"))
}

pub(super) async fn icon() -> Response {
    asset("image/svg+xml", include_str!("static/icon.svg"))
}
