//! What every command that talks to a bus needs: the state directory, the bus, metrics, and when to stop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use deltabus_bus::access::Access;
use deltabus_bus::broker::Broker;
use deltabus_bus::jetstream::JetStream;
use deltabus_bus::local::LocalBus;
use deltabus_certificates::{IdentityFiles, Trust, client_config};
use deltabus_record::schema::SourceName;
use deltabus_state::StateDirectory;
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use crate::arguments::Global;
use crate::direct::{self, Ticket};
use crate::error::Error;
use crate::figures;
use crate::membership::{self, Member, Wanted};

/// Where state is kept unless told otherwise.
pub(crate) fn state_path(global: &Global) -> Result<PathBuf, Error> {
    if let Some(path) = &global.state {
        return std::path::absolute(path).map_err(|source| Error::Io { doing: "find", path: path.clone(), source });
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|path| path.join("deltabus"))
        .ok_or_else(|| Error::Config("neither HOME nor XDG_STATE_HOME is set; name a directory with --state".into()))
}

/// Opens the state directory.
pub(crate) fn state(global: &Global) -> Result<StateDirectory, Error> {
    Ok(StateDirectory::open(state_path(global)?)?)
}

/// The local bus of a state directory.
pub(crate) fn local_bus(state: &StateDirectory) -> LocalBus {
    LocalBus::new(state.bus_folder())
}

/// How this process shows the bus at `url` who it is, and how it knows that bus.
pub(crate) fn access(global: &Global, url: &str) -> Result<Access, Error> {
    let access = Access::by_file(global.credentials.as_deref());
    Ok(Access { tls: tls(global, url)?, ..access })
}

/// How a scheme says that a connection is to be TLS from end to end.
const TLS_SCHEME: &str = "tls://";

/// How this process speaks TLS to the bus at `url`; `None` where nobody asks for TLS.
fn tls(global: &Global, url: &str) -> Result<Option<Arc<ClientConfig>>, Error> {
    let identity = identity(global)?;
    let asked = url.split(',').any(|url| url.trim().starts_with(TLS_SCHEME));
    let trust = match &global.tls_ca {
        Some(path) => Trust::File(path.clone()),
        None if asked || identity.is_some() => Trust::System,
        None => return Ok(None),
    };
    Ok(Some(Arc::new(client_config(&trust, identity.as_ref())?)))
}

/// The certificate that this process shows where it is asked for one.
pub(crate) fn identity(global: &Global) -> Result<Option<IdentityFiles>, Error> {
    match (&global.tls_certificate, &global.tls_key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            Ok(Some(IdentityFiles { certificate: certificate.clone(), key: key.clone() }))
        }
        _ => Err(Error::Config("--tls-certificate and --tls-key go together".into())),
    }
}

/// The bus of a command that may speak of several sources.
pub(crate) enum Bus {
    /// One for all.
    Plain(Arc<dyn Broker>),
    /// As the manager says.
    Managed(Member),
    /// Each by the token that lets in to one source.
    ByToken(BTreeMap<SourceName, Arc<dyn Broker>>),
}

impl Bus {
    /// The bus that has a source.
    pub(crate) async fn of(&self, source: &SourceName) -> Result<Arc<dyn Broker>, Error> {
        match self {
            Bus::Plain(broker) => Ok(broker.clone()),
            Bus::Managed(member) => Ok(member.broker(source).await?),
            Bus::ByToken(brokers) => {
                let none = || Error::Config(format!("there is no token for `{source}` here"));
                brokers.get(source).cloned().ok_or_else(none)
            }
        }
    }

    /// The same, and `None` for a source that is only known here and can't be reached.
    pub(crate) async fn known(&self, source: &SourceName) -> Result<Option<Arc<dyn Broker>>, Error> {
        match self {
            Bus::ByToken(brokers) => Ok(brokers.get(source).cloned()),
            Bus::Managed(member) if !member.sources().await?.contains(source) => Ok(None),
            _ => self.of(source).await.map(Some),
        }
    }

    /// The bus where a source's receivers can be called and heard: not under a manager, who is told, nor by a token, which lets
    /// nobody listen to others.
    pub(crate) async fn hears(&self, source: &SourceName) -> Result<Option<Arc<dyn Broker>>, Error> {
        match self {
            Bus::Plain(_) => self.known(source).await,
            Bus::Managed(_) | Bus::ByToken(_) => Ok(None),
        }
    }

    /// Where it is, if it is one place.
    pub(crate) fn url(&self) -> Option<String> {
        match self {
            Bus::Plain(broker) => Some(broker.url()),
            Bus::Managed(_) => None,
            Bus::ByToken(brokers) => brokers.values().next().map(|broker| broker.url()),
        }
    }

    /// The sources that are there, as far as this process may know.
    pub(crate) async fn sources(&self) -> Result<Vec<SourceName>, Error> {
        match self {
            Bus::Plain(broker) => Ok(broker.sources().await.map_err(deltabus_bus::Error::from)?),
            Bus::Managed(member) => member.sources().await,
            Bus::ByToken(brokers) => Ok(brokers.keys().cloned().collect()),
        }
    }

    /// Tells the manager, where there is one, how everything stands, until `stop`.
    pub(crate) fn attend(&self, stop: &CancellationToken) {
        if let Bus::Managed(member) = self {
            member.attend(stop);
        }
    }

    /// Tells it once.
    pub(crate) async fn report(&self) {
        if let Bus::Managed(member) = self
            && let Err(error) = member.report().await
        {
            tracing::warn!(error = crate::commands::one_line(&error), "the manager was not told how this stands");
        }
    }

    /// Whether the manager ended this process.
    pub(crate) fn dismissal(&self) -> Result<(), Error> {
        match self {
            Bus::Plain(_) | Bus::ByToken(_) => Ok(()),
            Bus::Managed(member) => member.dismissal(),
        }
    }
}

/// Connects to the bus: through the manager, to the one named, or to the local one, which is started if it isn't running.
/// `sources`: those that are to be read there.
pub(crate) async fn bus(
    global: &Global,
    state: &StateDirectory,
    wanted: Wanted<'_>,
    sources: &[SourceName],
) -> Result<Bus, Error> {
    if global.manager.is_none() {
        // A token lets in to one source, given or kept.
        let Some(ticket) = direct::ticket(global, state, sources)? else {
            return Ok(Bus::Plain(plain(global, state).await?));
        };
        let broker = by(global, &ticket).await?;
        if matches!(wanted, Wanted::Receive(_)) {
            ticket.keep(state)?;
        }
        return Ok(Bus::Plain(broker));
    }
    let identity = membership::identity(global, state, wanted).await?;
    Ok(Bus::Managed(Member::join(identity, state)?))
}

/// The bus that has the source of which a command speaks.
pub(crate) async fn broker(
    global: &Global,
    state: &StateDirectory,
    wanted: Wanted<'_>,
) -> Result<Arc<dyn Broker>, Error> {
    let (source, read) = match wanted {
        Wanted::Publish(source) => (source, [].as_slice()),
        Wanted::Read(source) | Wanted::Receive(source) => (source, std::slice::from_ref(source)),
        Wanted::Anything | Wanted::Administrate => return Err(Error::Config("no source is named".into())),
    };
    bus(global, state, wanted, read).await?.of(source).await
}

/// The bus of what is known here, whatever that is.
pub(crate) async fn any_bus(global: &Global, state: &StateDirectory, names: &[SourceName]) -> Result<Bus, Error> {
    let mut by_token = BTreeMap::new();
    if global.manager.is_none() {
        for name in names {
            if let Some(ticket) = direct::ticket(global, state, std::slice::from_ref(name))?
                && !by_token.contains_key(name)
            {
                by_token.insert(name.clone(), by(global, &ticket).await?);
            }
        }
    }
    if by_token.is_empty() { bus(global, state, Wanted::Anything, &[]).await } else { Ok(Bus::ByToken(by_token)) }
}

/// Connects with a token.
async fn by(global: &Global, ticket: &Ticket) -> Result<Arc<dyn Broker>, Error> {
    let connected = JetStream::connect(ticket.bus(), &ticket.access(global)?).await;
    Ok(Arc::new(connected.map_err(deltabus_bus::Error::from)?))
}

/// Connects to the one named, or to the local one.
async fn plain(global: &Global, state: &StateDirectory) -> Result<Arc<dyn Broker>, Error> {
    if let Some(url) = &global.bus {
        let connected = JetStream::connect(url, &access(global, url)?).await;
        return Ok(Arc::new(connected.map_err(deltabus_bus::Error::from)?));
    }
    if global.tls_ca.is_some() || global.tls_certificate.is_some() || global.tls_key.is_some() {
        return Err(Error::Config("TLS is for a bus that --bus names; the local one is reached without".into()));
    }
    let bus = local_bus(state);
    let mut attempt = 1;
    loop {
        let running = tokio::task::block_in_place(|| bus.ensure())?;
        match JetStream::connect(&running.url, &running.access()).await {
            Ok(broker) => {
                let broker = Arc::new(broker);
                tokio::spawn(keep_alive(bus, Arc::downgrade(&broker), running.url));
                return Ok(broker);
            }
            // It was just ending.
            Err(error) if error.is_transient() && attempt < LOCAL_ATTEMPTS => attempt += 1,
            Err(error) => return Err(deltabus_bus::Error::from(error).into()),
        }
        tokio::time::sleep(LOCAL_PAUSE).await;
    }
}

/// How often a local bus is started and connected to, and the pause in between.
const LOCAL_ATTEMPTS: u32 = 5;
const LOCAL_PAUSE: Duration = Duration::from_millis(200);

/// How often is looked whether the local bus still lives: as often as clients try to reach it again, about.
const LOCAL_LOOK: Duration = Duration::from_secs(1);

/// Starts the local bus again whenever it has died, and follows it where it listens elsewhere from then on.
async fn keep_alive(bus: LocalBus, broker: Weak<JetStream>, mut url: String) {
    loop {
        tokio::time::sleep(LOCAL_LOOK).await;
        let looking = bus.clone();
        let looked = tokio::task::spawn_blocking(move || (looking.revive(), looking.status())).await;
        let Ok((revived, running)) = looked else { return };
        match revived {
            Ok(Some(running)) => tracing::warn!(bus = running.url, "the local bus had died and was started again"),
            Ok(None) => {}
            Err(error) => tracing::error!(
                error = deltabus_bus::causes(&error),
                "the local bus has died and can't be started again"
            ),
        }
        let Some(broker) = broker.upgrade() else { return };
        let Some(running) = running.filter(|running| running.url != url) else { continue };
        match broker.move_to(&running.url, &running.access()).await {
            Ok(()) => {
                tracing::info!(bus = running.url, "the local bus listens elsewhere now");
                url = running.url;
            }
            Err(error) => tracing::debug!(%error, "the local bus can't be reached where it is now"),
        }
    }
}

/// Serves metrics where asked; gives whether it does.
pub(crate) fn serve_metrics(global: &Global) -> Result<bool, Error> {
    global.metrics.map_or(Ok(false), |address| figures::serve(address).map(|()| true))
}

/// Is cancelled by SIGTERM and ctrl-c; a second one ends the process at once.
pub(crate) fn stop_signal() -> Result<CancellationToken, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |source| Error::Io { doing: "listen for", path: "signals".into(), source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if cancel.is_cancelled() {
                std::process::exit(130);
            }
            tracing::info!("finishing what is in hand");
            cancel.cancel();
        }
    });
    Ok(stop)
}
