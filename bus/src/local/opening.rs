//! A local bus that is open to the network, for receivers of certain sources.
//!
//! `open.json` says where it listens and for which sources. `tokens/` holds what lets their receivers in, `tls/` the authority
//! and the certificate by which they know the bus.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use deltabus_certificates::{
    Authority, Existing, Fingerprint, IdentityFiles, LEAF_LIFETIME, Token, TokenKind, hosts, is_due, is_host,
    write_private,
};
use deltabus_record::schema::SourceName;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{LocalBus, Running, Secret, USER};
use crate::error::causes;
use crate::{Error, direct};

/// Where it is open, and for which sources.
const OPEN: &str = "open.json";

/// Seconds that a handshake may take; the server's own two are few for a slow device.
const HANDSHAKE_SECONDS: u32 = 10;

/// How a local bus is opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where it listens; the unspecified address means everywhere.
    pub listen: SocketAddr,
    /// Names and addresses by which it is reached, beside those that the machine knows of itself.
    pub hosts: Vec<String>,
}

/// A local bus that is open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The server.
    pub running: Running,
    /// Where others reach it, as good as can be told from here.
    pub url: String,
    /// The file with the token of each source, in their order.
    pub tokens: Vec<PathBuf>,
}

/// What `open.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    listen: SocketAddr,
    hosts: BTreeSet<String>,
    sources: BTreeSet<String>,
}

impl LocalBus {
    /// Opens it for receivers of these sources, beside those that it is open for already; starts it, or starts it again, where
    /// that is needed. It stays open, whoever starts it, until [`LocalBus::close`].
    ///
    /// Blocks as [`LocalBus::ensure`] does. If it can't be opened it is left as it was.
    pub fn open(&self, sources: &[SourceName], opening: &Opening) -> Result<Opened, Error> {
        fs::create_dir_all(self.folder()).map_err(|error| self.failed("make the folder", &error))?;
        let lock = self.lock()?;
        let before = self.open_for();
        let others =
            before.iter().flat_map(|open| &open.sources).filter(|name| !sources.iter().any(|s| s.as_str() == *name));
        let others: Vec<&str> = others.map(String::as_str).collect();
        if let Some(open) = before.as_ref().filter(|open| open.listen != opening.listen && !others.is_empty()) {
            let (listen, others) = (open.listen, others.join(", "));
            return Err(Error::Local(format!(
                "the local bus is open at {listen} for {others}: open it there, or close it for those first"
            )));
        }
        let mut next =
            before.clone().unwrap_or(Open { listen: opening.listen, hosts: BTreeSet::new(), sources: BTreeSet::new() });
        next.listen = opening.listen;
        next.hosts.extend(opening.hosts.iter().cloned());
        next.sources.extend(sources.iter().map(|source| source.as_str().to_owned()));
        let (authority, renewed) = self.certify(&next)?;
        let tokens: Result<Vec<_>, _> = sources.iter().map(|source| self.ensure_token(source, authority)).collect();
        let url = format!("tls://{}", advertised(opening));
        let listening = |running: &Running| running.url == local_url(next.listen);
        let running = match self.answering().filter(|running| !renewed && listening(running) && self.runs_as(&next)) {
            Some(running) => running,
            None => {
                // Told before the server is ended; its own port is free then.
                if self.status().is_none_or(|running| !running.url.ends_with(&format!(":{}", next.listen.port()))) {
                    TcpListener::bind(next.listen).map_err(|error| {
                        Error::Local(format!("the local bus can't be opened at {}: {error}", next.listen))
                    })?;
                }
                self.restart(&lock, before.as_ref(), Some(&next))?
            }
        };
        Ok(Opened { running, url, tokens: tokens? })
    }

    /// Closes it for receivers of these sources. Where it is open for no other it listens on the loopback address only.
    pub fn close(&self, sources: &[SourceName]) -> Result<(), Error> {
        let is_open = |open: &Open| sources.iter().any(|source| open.sources.contains(source.as_str()));
        if !self.open_for().is_some_and(|open| is_open(&open)) {
            return Ok(());
        }
        let lock = self.lock()?;
        let Some(before) = self.open_for().filter(is_open) else { return Ok(()) };
        let mut next = before.clone();
        next.sources.retain(|name| !sources.iter().any(|source| source.as_str() == name));
        let next = Some(next).filter(|next| !next.sources.is_empty());
        if self.status().is_some() {
            return self.restart(&lock, Some(&before), next.as_ref()).map(drop);
        }
        self.write_open(next.as_ref())
    }

    /// Where it is open, if it is.
    pub fn open_at(&self) -> Option<SocketAddr> {
        self.open_for().map(|open| open.listen)
    }

    pub(super) fn open_for(&self) -> Option<Open> {
        serde_json::from_slice(&fs::read(self.folder().join(OPEN)).ok()?).ok()
    }

    /// Has the server end and start as `next` says, or, if that can't be, as `before` said.
    fn restart(&self, lock: &fs::File, before: Option<&Open>, next: Option<&Open>) -> Result<Running, Error> {
        if let Some(running) = self.status() {
            self.end(lock, &running)?;
        }
        self.write_open(next)?;
        self.ensure_locked(lock).inspect_err(|_| {
            if self.write_open(before).and_then(|()| self.ensure_locked(lock)).is_err() {
                tracing::error!("the local bus could not be started as it was either");
            }
        })
    }

    fn write_open(&self, open: Option<&Open>) -> Result<(), Error> {
        let path = self.folder().join(OPEN);
        match open {
            Some(open) => {
                let text =
                    serde_json::to_string_pretty(open).map_err(|error| self.failed("write open.json", &error))?;
                write_private(&path, &text, Existing::Replace)
                    .map_err(|error| self.failed("write open.json", &causes(&error)))
            }
            None if path.exists() => fs::remove_file(&path).map_err(|error| self.failed("remove open.json", &error)),
            None => Ok(()),
        }
    }

    /// Whether the configuration that the server was started with is that of `open`.
    fn runs_as(&self, open: &Open) -> bool {
        let Some(secret) = self.secret() else { return false };
        let there = fs::read_to_string(self.folder().join("nats-server.conf")).unwrap_or_default();
        there == self.configuration(None, &secret, Some(open))
    }

    /// The sections of the server's configuration that say who is let in, and how.
    pub(super) fn entrance(&self, Secret(secret): &Secret, open: Option<&Open>) -> String {
        let mut users = vec![json!({ "user": USER, "password": secret })];
        let Some(open) = open else { return format!("authorization {{ users: {} }}\n", json!(users)) };
        for source in open.sources.iter().filter_map(|name| SourceName::new(name).ok()) {
            match self.token(&source) {
                Some(token) => users.push(json!({
                    "user": direct::user(&source),
                    "password": token.secret_text(),
                    "permissions": direct::permissions(&source),
                })),
                None => {
                    tracing::warn!(%source, "the token that lets receivers in is gone")
                }
            }
        }
        let files = self.identity();
        let file = |path: PathBuf| json!(path.display().to_string());
        format!(
            "tls {{ cert_file: {}, key_file: {}, timeout: {HANDSHAKE_SECONDS} }}\n\
             # For clients on this machine; receivers elsewhere are told to use TLS, and do.\n\
             allow_non_tls: true\n\
             authorization {{ users: {} }}\n",
            file(files.certificate),
            file(files.key),
            json!(users),
        )
    }

    fn identity(&self) -> IdentityFiles {
        let folder = self.folder().join("tls");
        IdentityFiles { certificate: folder.join("server.pem"), key: folder.join("server.key") }
    }

    /// Makes the authority and the certificate where they are missing, due, or for other hosts. Says whether the certificate is
    /// new.
    fn certify(&self, open: &Open) -> Result<(Fingerprint, bool), Error> {
        let certified = || -> Result<(Fingerprint, bool), deltabus_certificates::Error> {
            let folder = self.folder().join("tls");
            let ca = IdentityFiles { certificate: folder.join("ca.pem"), key: folder.join("ca.key") };
            let authority = match (read(&ca.certificate), read(&ca.key)) {
                (Some(certificate), Some(key)) => Authority::from_pem(&certificate, &key)?,
                _ => {
                    let authority = Authority::new("deltabus")?;
                    ca.write(&authority.identity(), Existing::Replace)?;
                    authority
                }
            };
            let wanted = own_hosts(open);
            let there = read(&self.identity().certificate).unwrap_or_default();
            let serves = there.ends_with(&authority.certificate_pem()) && !is_due(&there, SystemTime::now());
            let named: BTreeSet<String> = hosts(&there).unwrap_or_default().into_iter().collect();
            if serves && self.identity().key.exists() && wanted.iter().all(|host| named.contains(host)) {
                return Ok((authority.fingerprint(), false));
            }
            let wanted: Vec<String> = wanted.into_iter().collect();
            self.identity().write(&authority.server(&wanted, LEAF_LIFETIME)?, Existing::Replace)?;
            Ok((authority.fingerprint(), true))
        };
        private_folder(&self.folder().join("tls")).map_err(|error| self.failed("make a folder", &error))?;
        certified().map_err(|error| self.failed("make a certificate", &causes(&error)))
    }

    fn token_file(&self, source: &SourceName) -> PathBuf {
        self.folder().join("tokens").join(format!("{source}.token"))
    }

    fn token(&self, source: &SourceName) -> Option<Token> {
        read(&self.token_file(source))?.parse().ok()
    }

    /// The file of a source's token, made if it is missing or names another authority.
    fn ensure_token(&self, source: &SourceName, authority: Fingerprint) -> Result<PathBuf, Error> {
        let path = self.token_file(source);
        if self.token(source).is_some_and(|token| token.authority == Some(authority)) {
            return Ok(path);
        }
        private_folder(&self.folder().join("tokens")).map_err(|error| self.failed("make a folder", &error))?;
        let made = Token::random(TokenKind::Direct, Some(authority))
            .and_then(|token| write_private(&path, &(token.reveal() + "\n"), Existing::Replace));
        made.map_err(|error| self.failed("make a token", &causes(&error)))?;
        Ok(path)
    }
}

impl Open {
    /// Where it listens.
    pub(super) fn listen(&self) -> SocketAddr {
        self.listen
    }
}

/// How clients on this machine reach a server that listens there.
pub(super) fn local_url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("nats://{}", SocketAddr::new(ip, listen.port()))
}

/// All by which this machine may be reached.
fn own_hosts(open: &Open) -> BTreeSet<String> {
    let mut hosts: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    hosts.extend(open.hosts.iter().cloned());
    hosts.extend(Some(open.listen.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    hosts.extend(host_name());
    hosts.extend(own_addresses().iter().map(ToString::to_string));
    hosts
}

/// Where others find it: what was said, else what it listens on, else what looks most like it.
fn advertised(opening: &Opening) -> String {
    let port = opening.listen.port();
    if let Some(host) = opening.hosts.first() {
        return match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).to_string(),
            Err(_) => format!("{host}:{port}"),
        };
    }
    if !opening.listen.ip().is_unspecified() {
        return opening.listen.to_string();
    }
    let addresses = own_addresses();
    let outward = addresses.iter().find(|ip| ip.is_ipv4()).or(addresses.first());
    match outward {
        Some(ip) => SocketAddr::new(*ip, port).to_string(),
        None => format!("{}:{port}", host_name().unwrap_or_else(|| "HOST".into())),
    }
}

/// The machine's name, if certificates can name it.
fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().filter(|name| is_host(name)).map(str::to_owned)
}

/// The machine's addresses but those that only it, or its next neighbours, can use.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces
        .iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_link_local())
        .map(|interface| interface.ip())
        .collect()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}
