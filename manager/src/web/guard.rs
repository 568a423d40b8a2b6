//! Who looks, and what a browser is told to keep to.

use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::header::{CACHE_CONTROL, COOKIE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::Response;

use super::Page;
use super::failure::Failure;
use super::logins::{COOKIE_NAME, Session};

/// Where a browser shows, with each thing that it wants done, what only a script of this page can know.
const CSRF: &str = "deltabus-csrf";

/// What a browser keeps to on this page: nothing from elsewhere, no script or style but our files, in no frame.
const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// Adds those headers to every answer; what isn't said to be kept isn't.
pub(super) async fn headers(mut response: Response) -> Response {
    let to = response.headers_mut();
    for (name, value) in HEADERS {
        to.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    to.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// An administrator with a session.
pub(super) struct Visitor(pub(super) Session);

/// One whose browser sent this of its own will: a script of this page did, and no other.
pub(super) struct Decider(pub(super) Session);

impl FromRequestParts<Arc<Page>> for Visitor {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, page: &Arc<Page>) -> Result<Visitor, Failure> {
        let none =
            || Failure::new(StatusCode::UNAUTHORIZED, "your session has ended: `deltabus page` makes a new link");
        let secret = cookie(&parts.headers).ok_or_else(none)?;
        let session = page.logins.session(secret).ok_or_else(none)?;
        if !page.is_administrator(&session).await? {
            page.logins.end_all_of(&session.key);
            return Err(none());
        }
        Ok(Visitor(session))
    }
}

impl OptionalFromRequestParts<Arc<Page>> for Visitor {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, page: &Arc<Page>) -> Result<Option<Visitor>, Failure> {
        match <Visitor as FromRequestParts<Arc<Page>>>::from_request_parts(parts, page).await {
            Ok(visitor) => Ok(Some(visitor)),
            Err(failure) if failure.status == StatusCode::UNAUTHORIZED => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

impl FromRequestParts<Arc<Page>> for Decider {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, page: &Arc<Page>) -> Result<Decider, Failure> {
        let Visitor(session) = <Visitor as FromRequestParts<Arc<Page>>>::from_request_parts(parts, page).await?;
        let shown = parts.headers.get(CSRF).map(HeaderValue::as_bytes).unwrap_or_default();
        if blake3::hash(shown) != blake3::hash(session.csrf.as_bytes()) || !is_own(&parts.headers, &parts.uri) {
            return Err(Failure::new(StatusCode::FORBIDDEN, "this didn't come from the manager's page"));
        }
        Ok(Decider(session))
    }
}

impl Page {
    /// Whether a session's participant may still look.
    pub(super) async fn is_administrator(&self, session: &Session) -> Result<bool, crate::Error> {
        let holder = self.authority.registry.holder(&session.key).await?;
        Ok(holder.is_some_and(|holder| holder.name == session.name && holder.rights.administrate))
    }
}

/// Whether a browser says that a page of ours sent this.
pub(super) fn is_own(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    // Older browsers say where it came from.
    let own = uri.authority().map(|authority| authority.as_str()).or(text(HOST));
    text(ORIGIN).and_then(|origin| origin.strip_prefix("https://")).is_some_and(|origin| own == Some(origin))
}

/// The secret in the session's cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE_NAME).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(pairs: &[(&'static str, &str)], uri: &str) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(HeaderName::from_static(name), value.parse().expect("a header's value"));
        }
        is_own(&headers, &uri.parse().expect("a URI"))
    }

    #[test]
    fn only_what_a_page_of_ours_sent_is_our_own() {
        assert!(own(&[("sec-fetch-site", "same-origin")], "/api/logout"));
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!own(&[("sec-fetch-site", site), ("origin", "https://a:7422")], "https://a:7422/login"), "{site}");
        }
        assert!(own(&[("origin", "https://a:7422")], "https://a:7422/login"));
        assert!(own(&[("origin", "https://a"), ("host", "a")], "/login"));
        for origin in ["https://b:7422", "http://a:7422", "https://a", "null"] {
            assert!(!own(&[("origin", origin)], "https://a:7422/login"), "{origin}");
        }
        assert!(!own(&[], "https://a:7422/login"), "nobody says where it came from");
    }

    #[tokio::test]
    async fn every_answer_says_what_a_browser_is_to_keep_to() {
        let answer = headers(Response::default()).await;
        for (name, value) in HEADERS {
            assert_eq!(answer.headers()[name], value);
        }
        assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
        let policy = HEADERS[0].1;
        assert!(
            !policy.contains("unsafe") && !policy.contains("http") && policy.contains("default-src 'none'"),
            "{policy}"
        );
        let kept = Response::builder().header(CACHE_CONTROL, "no-cache").body(Default::default());
        assert_eq!(headers(kept.expect("a response")).await.headers()[CACHE_CONTROL], "no-cache");
    }

    #[test]
    fn the_session_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        assert_eq!(cookie(&headers), None);
        headers.append(COOKIE, "a=b; __Host-deltabus-x=1".parse().expect("a header's value"));
        assert_eq!(cookie(&headers), None);
        headers.append(COOKIE, "c=d; __Host-deltabus=secret".parse().expect("a header's value"));
        assert_eq!(cookie(&headers), Some("secret"));
    }
}
