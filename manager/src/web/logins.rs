//! Links that let a browser in once, and the sessions that come of them.
//!
//! Both are known by a hash of their secret and live in the memory of the manager that made them: when it ends, all have to come by
//! a new link. A session ends with its time, by logging out, and with its participant's right to administrate, which each
//! request looks up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Page;
use super::failure::Failure;
use super::guard::{Decider, Visitor, is_own};
use crate::Error;
use crate::authority::now_millis;

/// How long a link is good.
pub(crate) const LINK_LIFE: Duration = Duration::from_secs(120);

/// Links that wait to be used; the oldest gives way.
const LINKS_MAX: usize = 64;

/// How long a session lasts.
const SESSION_LIFE: Duration = Duration::from_secs(8 * 3600);

/// Sessions at a time; the oldest gives way.
const SESSIONS_MAX: usize = 256;

/// Sessions of one administrator at a time; the oldest gives way.
const SESSIONS_OF_ONE_MAX: usize = 16;

/// The session's cookie. A browser takes a name that begins so only over TLS, and for this host alone.
pub(super) const COOKIE_NAME: &str = "__Host-deltabus";

type Hash = [u8; 32];

/// Who may look at the page.
#[derive(Default)]
pub(crate) struct Logins {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// For whose key, and until when.
    links: HashMap<Hash, (String, Instant)>,
    sessions: HashMap<Hash, Session>,
}

/// An administrator who looks at the page.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// The participant's name.
    pub(super) name: String,
    /// And its key: another device that takes the name has no part in this.
    pub(super) key: String,
    /// What a script of the page shows with each thing that it wants done.
    pub(super) csrf: String,
    id: Hash,
    until: Instant,
}

impl Logins {
    /// Makes a link for the participant of a key; gives its secret.
    pub(crate) fn link(&self, key: &str) -> Result<Vec<u8>, Error> {
        let secret = random()?;
        let mut known = self.known();
        let now = Instant::now();
        known.links.retain(|_, (_, until)| *until > now);
        let oldest = known.links.iter().min_by_key(|(_, (_, until))| *until).map(|(hash, _)| *hash);
        if let Some(oldest) = oldest.filter(|_| known.links.len() >= LINKS_MAX) {
            known.links.remove(&oldest);
        }
        known.links.insert(hash(&secret), (key.to_owned(), now + LINK_LIFE));
        Ok(secret.to_vec())
    }

    /// Uses a link up; gives the key that it is for.
    fn use_link(&self, secret: &[u8]) -> Option<String> {
        let (key, until) = self.known().links.remove(&hash(secret))?;
        (until > Instant::now()).then_some(key)
    }

    /// Opens a session; gives its secret as it stands in the cookie.
    fn open(&self, name: &str, key: &str) -> Result<String, Error> {
        let secret = BASE64URL_NOPAD.encode(&random()?);
        let csrf = BASE64URL_NOPAD.encode(&random()?);
        let (id, until) = (hash(secret.as_bytes()), Instant::now() + SESSION_LIFE);
        let mut known = self.known();
        known.sessions.retain(|_, session| session.until > Instant::now());
        known.make_room(SESSIONS_OF_ONE_MAX, |session| session.key == key);
        known.make_room(SESSIONS_MAX, |_| true);
        known.sessions.insert(id, Session { name: name.to_owned(), key: key.to_owned(), csrf, id, until });
        Ok(secret)
    }

    /// The session of a cookie.
    pub(super) fn session(&self, secret: &str) -> Option<Session> {
        let session = self.known().sessions.get(&hash(secret.as_bytes())).cloned()?;
        (session.until > Instant::now()).then_some(session)
    }

    /// Whether a session is still open.
    pub(super) fn is_open(&self, session: &Session) -> bool {
        session.until > Instant::now() && self.known().sessions.contains_key(&session.id)
    }

    fn end(&self, session: &Session) {
        self.known().sessions.remove(&session.id);
    }

    /// Ends all sessions of a key.
    pub(super) fn end_all_of(&self, key: &str) {
        self.known().sessions.retain(|_, session| session.key != key);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Ends the oldest of these sessions if there are as many as may be.
    fn make_room(&mut self, most: usize, of: impl Fn(&Session) -> bool) {
        let those = || self.sessions.values().filter(|session| of(session));
        if those().count() < most {
            return;
        }
        if let Some(oldest) = those().min_by_key(|session| session.until).map(|session| session.id) {
            self.sessions.remove(&oldest);
        }
    }
}

/// What a link shows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    secret: String,
}

/// Lets a browser in that shows a link's secret.
pub(super) async fn log_in(
    State(page): State<Arc<Page>>,
    uri: Uri,
    headers: HeaderMap,
    Json(shown): Json<Shown>,
) -> Result<Response, Failure> {
    let refused = |problem: &str| Failure::new(StatusCode::FORBIDDEN, problem);
    if !is_own(&headers, &uri) {
        return Err(refused("this didn't come from the manager's page"));
    }
    let spent = || refused("this link was used already, or is too old: `deltabus page` makes a new one");
    let secret = BASE64URL_NOPAD.decode(shown.secret.as_bytes()).map_err(|_| spent())?;
    let key = page.logins.use_link(&secret).ok_or_else(spent)?;
    let holder = page.authority.registry.holder(&key).await?.filter(|holder| holder.rights.administrate);
    let holder = holder.ok_or_else(|| refused("whoever this link is for is no administrator any more"))?;
    let decided: Result<String, &Error> = Ok("to the page".into());
    page.authority.note(&holder.name, "login", &holder.name, decided).await?;
    let secret = page.logins.open(&holder.name, &key)?;
    let life = SESSION_LIFE.as_secs();
    let cookie = format!("{COOKIE_NAME}={secret}; Path=/; Max-Age={life}; Secure; HttpOnly; SameSite=Strict");
    Ok(([(SET_COOKIE, cookie)], Json(json!({}))).into_response())
}

/// Ends a session.
pub(super) async fn log_out(State(page): State<Arc<Page>>, Decider(session): Decider) -> Response {
    page.logins.end(&session);
    let cookie = format!("{COOKIE_NAME}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict");
    ([(SET_COOKIE, cookie)], Json(json!({}))).into_response()
}

/// Who looks.
pub(super) async fn me(State(page): State<Arc<Page>>, Visitor(session): Visitor) -> Json<Value> {
    let (manager, now_millis) = (&page.authority.name, now_millis());
    Json(json!({ "name": session.name, "csrf": session.csrf, "manager": manager, "now_millis": now_millis }))
}

fn hash(secret: &[u8]) -> Hash {
    blake3::derive_key("deltabus 2026-11 login to the page", secret)
}

fn random() -> Result<[u8; 32], Error> {
    deltabus_certificates::random_bytes().map_err(|error| Error::Key(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_lets_in_once() {
        let logins = Logins::default();
        let secret = logins.link("UKEY").expect("random");
        assert_eq!(logins.use_link(&secret).as_deref(), Some("UKEY"));
        assert_eq!(logins.use_link(&secret), None, "it was used");
        assert_eq!(logins.use_link(b"made up"), None);
    }

    #[test]
    fn links_and_sessions_are_bounded_and_the_oldest_give_way() {
        let logins = Logins::default();
        let links: Vec<_> = (0..LINKS_MAX + 1).map(|_| logins.link("UKEY").expect("random")).collect();
        assert_eq!(logins.use_link(&links[0]), None, "the oldest gave way");
        assert!(logins.use_link(&links[1]).is_some());
        let mine: Vec<_> = (0..SESSIONS_OF_ONE_MAX + 1).map(|_| logins.open("ann", "U1").expect("random")).collect();
        assert!(logins.session(&mine[0]).is_none(), "the oldest gave way");
        assert_eq!(logins.session(&mine[1]).expect("it is open").name, "ann");
        for number in 0..SESSIONS_MAX {
            logins.open("others", &format!("O{number}")).expect("random");
        }
        assert_eq!(logins.known().sessions.len(), SESSIONS_MAX);
        assert!(mine.iter().all(|secret| logins.session(secret).is_none()));
    }

    #[test]
    fn a_session_ends_by_logging_out_and_with_its_key() {
        let logins = Logins::default();
        let [a, b, c] =
            [("ann", "U1"), ("ann", "U1"), ("bob", "U2")].map(|(name, key)| logins.open(name, key).expect("random"));
        let first = logins.session(&a).expect("it is open");
        assert_ne!(first.csrf, logins.session(&b).expect("it is open").csrf);
        logins.end(&first);
        assert!(!logins.is_open(&first) && logins.session(&a).is_none() && logins.session(&b).is_some());
        logins.end_all_of("U1");
        assert!(logins.session(&b).is_none() && logins.session(&c).is_some());
        assert!(logins.session("").is_none() && logins.session("made up").is_none());
    }
}
