//! How a client shows a broker who it is, and how it knows that the broker is the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_nats::{Auth, AuthError, ConnectOptions};
use async_trait::async_trait;
use nkeys::KeyPair;
use rustls::ClientConfig;

use crate::signature::Signing;

/// What a client needs besides an address.
#[derive(Clone, Default)]
pub struct Access {
    /// Who it is.
    pub login: Login,
    /// How it speaks TLS; `None`: only where the broker or the address (`tls://…`) asks for it, by the system's authorities.
    pub tls: Option<Arc<ClientConfig>>,
    /// The subject below which answers to it come, one token; `None`: the usual `_INBOX`. Rights may be tied to it.
    pub inbox: Option<String>,
    /// How it signs and whom it believes; `None`: nobody signs anything.
    pub signing: Option<Signing>,
}

/// Who a client is.
#[derive(Clone, Default)]
pub enum Login {
    /// Nobody in particular.
    #[default]
    Nobody,
    /// As a credentials file says (a JWT and its seed), read again at each connection.
    File(PathBuf),
    /// By name and password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// As somebody says who is asked at each connection.
    Issued(Arc<dyn Issuer>),
}

/// Gives credentials that live for a while.
#[async_trait]
pub trait Issuer: Send + Sync {
    /// Credentials that are good now, with the answer to the broker's nonce. An error is one line.
    async fn credentials(&self, nonce: &[u8]) -> Result<Issued, String>;
}

/// Credentials for one connection.
pub struct Issued {
    /// A NATS user JWT.
    pub jwt: String,
    /// The nonce, signed by the JWT's key.
    pub signature: Vec<u8>,
}

impl Access {
    /// By a credentials file, where one is given.
    pub fn by_file(credentials: Option<&Path>) -> Access {
        let login = credentials.map_or(Login::Nobody, |path| Login::File(path.to_owned()));
        Access { login, ..Access::default() }
    }
}

/// The addresses without the logins in them, for the client and for messages; and the login, if one has any:
/// `nats://user:password@host:4222`.
pub(crate) fn without_login(urls: &str) -> (String, Option<Login>) {
    let mut found = None;
    let plain = urls.split(',').map(|url| {
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("", url.trim()));
        let Some((login, address)) = rest.rsplit_once('@') else { return url.trim().to_owned() };
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        found = Some(Login::Password { user: user.into(), password: password.into() });
        if scheme.is_empty() { address.to_owned() } else { format!("{scheme}://{address}") }
    });
    (plain.collect::<Vec<_>>().join(","), found)
}

impl Access {
    /// The client's options; an error is one line.
    ///
    /// `in_address` is the login that came with the address; it counts where there is no other.
    pub(crate) async fn options(&self, in_address: Option<Login>) -> Result<ConnectOptions, String> {
        let login = match (&self.login, in_address) {
            (Login::Nobody, Some(login)) => login,
            (login, _) => login.clone(),
        };
        let options = match &login {
            Login::Nobody => ConnectOptions::new(),
            Login::Password { user, password } => {
                ConnectOptions::with_user_and_password(user.clone(), password.clone())
            }
            Login::File(path) => {
                // Told at once, and not by a connection that never comes to be.
                read_credentials(path)?;
                by_callback(path.clone(), async |path, nonce| {
                    let (jwt, pair) = read_credentials(&path)?;
                    let signature = pair.sign(&nonce).map_err(|error| error.to_string())?;
                    Ok(Issued { jwt, signature })
                })
            }
            Login::Issued(issuer) => {
                by_callback(issuer.clone(), async |issuer, nonce| issuer.credentials(&nonce).await)
            }
        };
        Ok(match &self.tls {
            Some(config) => options.require_tls(true).tls_client_config(ClientConfig::clone(config)),
            None => options,
        })
    }
}

/// Options that ask `issue` at each connection.
fn by_callback<T, F, Fut>(of: T, issue: F) -> ConnectOptions
where
    T: Clone + Send + Sync + 'static,
    F: Fn(T, Vec<u8>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<Issued, String>> + Send + 'static,
{
    ConnectOptions::with_auth_callback(move |nonce| {
        // A task's handle can be shared where what it runs can't.
        let issued = tokio::spawn(issue(of.clone(), nonce));
        async move {
            let issued = issued.await.map_err(AuthError::new)?.map_err(AuthError::new)?;
            let mut auth = Auth::new();
            auth.jwt = Some(issued.jwt);
            auth.signature = Some(issued.signature);
            Ok(auth)
        }
    })
}

/// The JWT and the key of a credentials file; an error is one line and shows nothing of it.
fn read_credentials(path: &Path) -> Result<(String, KeyPair), String> {
    let failed = |problem: String| format!("the credentials file {}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let jwt = block(&text, "NATS USER JWT").ok_or_else(|| failed("it has no user JWT".into()))?;
    let seed = block(&text, "USER NKEY SEED").ok_or_else(|| failed("it has no seed".into()))?;
    let pair = KeyPair::from_seed(seed).map_err(|_| failed("its seed is none".into()))?;
    Ok((jwt.to_owned(), pair))
}

/// The line below `-----BEGIN <name>-----`.
fn block<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {name}");
    let after = text.lines().skip_while(|line| !line.contains(&begin)).nth(1)?.trim();
    (!after.is_empty() && !after.starts_with('-')).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(urls: &str, plain: &str, login: Option<(&str, &str)>) {
        let (found, by) = without_login(urls);
        assert_eq!(found, plain);
        let by = by.map(|by| match by {
            Login::Password { user, password } => (user, password),
            _ => panic!("addresses hold names and passwords"),
        });
        assert_eq!(by, login.map(|(user, password)| (user.to_owned(), password.to_owned())));
    }

    #[test]
    fn a_login_in_an_address_is_taken_out_of_it() {
        check("nats://a:4222, tls://b", "nats://a:4222,tls://b", None);
        check("nats://me:secret@a:4222", "nats://a:4222", Some(("me", "secret")));
        check("nats://me:se@:cret@[::1]:4222,nats://b", "nats://[::1]:4222,nats://b", Some(("me", "se@:cret")));
        check("me:secret@a", "a", Some(("me", "secret")));
        check("", "", None);
    }
}
