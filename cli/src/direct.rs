//! Straight from a transmitter to receivers elsewhere: the transmitter's local bus is opened, and a token lets receivers in.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use deltabus_bus::access::Access;
use deltabus_bus::local::{LocalBus, Opened, Opening};
use deltabus_certificates::{Existing, Pin, Token, TokenKind, Trust, client_config, is_host, write_private};
use deltabus_record::schema::SourceName;
use deltabus_state::StateDirectory;
use serde::{Deserialize, Serialize};

use crate::arguments::{Global, LogFormat};
use crate::error::Error;
use crate::{membership, session};

/// Opens the local bus for receivers of these sources, or closes it for them where `opening` asks for nothing.
pub(crate) fn open_or_close(
    bus: &LocalBus,
    sources: &[SourceName],
    opening: Option<&Opening>,
) -> Result<Option<Opened>, Error> {
    tokio::task::block_in_place(|| match opening {
        Some(opening) => Ok(Some(bus.open(sources, opening)?)),
        None => Ok(bus.close(sources).map(|()| None)?),
    })
}

/// How the local bus is to be opened.
pub(crate) fn opening(listen: &str, hosts: &[String]) -> Result<Opening, Error> {
    let wrong =
        || Error::Config(format!("`{listen}` is no address to open the bus at; write 0.0.0.0:4222 or [::]:4222"));
    let listen: std::net::SocketAddr = listen.parse().map_err(|_| wrong())?;
    if listen.port() == 0 {
        return Err(wrong());
    }
    if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
        return Err(Error::Config(format!("`{host}` is neither a host name nor an IP address")));
    }
    Ok(Opening { listen, hosts: hosts.to_vec() })
}

/// Says what to do on the other device.
pub(crate) fn say(global: &Global, sources: &[SourceName], opened: &Opened) {
    match global.log_format {
        LogFormat::Text if !global.quiet => eprintln!("{}", hint(sources, opened)),
        LogFormat::Text => {}
        // Whoever reads the log as JSON reads nothing else there.
        LogFormat::Json => {
            for (source, token) in sources.iter().zip(&opened.tokens) {
                let (bus, token_file) = (&opened.url, token.display());
                tracing::info!(%source, bus, %token_file, "the bus is open to receivers on other devices");
            }
        }
    }
}

fn hint(sources: &[SourceName], opened: &Opened) -> String {
    let mut text = format!("the bus is open at {}; on another device:", opened.url);
    for (source, token) in sources.iter().zip(&opened.tokens) {
        text.push_str(&format!(
            "\n  deltabus receive {source} LOCATION --bus {} --token-file FILE\n  FILE is a copy of {}, which lets in whoever has it",
            opened.url,
            token.display()
        ));
    }
    text
}

/// A token, and where it is for.
pub(crate) struct Ticket {
    source: SourceName,
    bus: String,
    token: Token,
    trust: Trust,
}

/// The token for the bus that is named: the one given, else the one that let us in before. `None`: there is none, and none is
/// needed as far as known.
pub(crate) fn ticket(global: &Global, state: &StateDirectory, sources: &[SourceName]) -> Result<Option<Ticket>, Error> {
    let given = membership::token(global)?;
    let Some(bus) = global.bus.clone() else {
        return match given {
            Some(_) => Err(Error::Config("a token is for a bus elsewhere: name it with --bus".into())),
            None => Ok(None),
        };
    };
    let one = sources.first().filter(|first| sources.iter().all(|source| source == *first));
    let Some(source) = one else {
        return match given {
            Some(_) => Err(Error::Config("a token is for one source: give each its own configuration".into())),
            None => Ok(None),
        };
    };
    let Some(token) = given.or_else(|| kept(state, source, &bus)) else { return Ok(None) };
    if token.kind != TokenKind::Direct {
        return Err(Error::Config("the token is for a manager, not for a bus".into()));
    }
    let trust = match (token.authority, &global.tls_ca) {
        (Some(authority), _) => Trust::Pinned(Arc::new(Pin::new(authority))),
        (None, Some(file)) => Trust::File(file.clone()),
        (None, None) => Trust::System,
    };
    Ok(Some(Ticket { source: source.clone(), bus, token, trust }))
}

impl Ticket {
    /// Where it is for.
    pub(crate) fn bus(&self) -> &str {
        &self.bus
    }

    /// How to come in with it.
    pub(crate) fn access(&self, global: &Global) -> Result<Access, Error> {
        let tls = client_config(&self.trust, session::identity(global)?.as_ref())?;
        Ok(deltabus_bus::direct::access(&self.source, self.token.secret_text(), Arc::new(tls)))
    }

    /// Keeps it for later runs, now that it has let us in.
    pub(crate) fn keep(&self, state: &StateDirectory) -> Result<(), Error> {
        if kept(state, &self.source, &self.bus).as_ref() == Some(&self.token) {
            return Ok(());
        }
        let path = kept_at(state, &self.source);
        let failed = |source| Error::Io { doing: "write", path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let kept = Kept { bus: self.bus.clone(), token: self.token.reveal() };
        let text = serde_json::to_string(&kept).map_err(|error| failed(error.into()))?;
        Ok(write_private(&path, &text, Existing::Replace)?)
    }
}

/// A token that let us in.
#[derive(Serialize, Deserialize)]
struct Kept {
    bus: String,
    token: String,
}

fn kept_at(state: &StateDirectory, source: &SourceName) -> PathBuf {
    state.path().join("direct").join(format!("{source}.json"))
}

fn kept(state: &StateDirectory, source: &SourceName, bus: &str) -> Option<Token> {
    let kept: Kept = serde_json::from_slice(&fs::read(kept_at(state, source)).ok()?).ok()?;
    (kept.bus == bus).then(|| kept.token.parse().ok())?
}
