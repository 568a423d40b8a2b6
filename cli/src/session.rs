//! What every command that talks to a bus needs: the state directory, the bus, metrics, and when to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deltabus_bus::access::Access;
use deltabus_bus::broker::Broker;
use deltabus_bus::jetstream::JetStream;
use deltabus_bus::local::LocalBus;
use deltabus_state::StateDirectory;
use tokio_util::sync::CancellationToken;

use crate::arguments::Global;
use crate::error::Error;

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

/// How this process shows a bus who it is.
pub(crate) fn access(global: &Global) -> Access {
    Access::by_file(global.credentials.as_deref())
}

/// Connects to the bus: the one named, or the local one, which is started if it isn't running.
pub(crate) async fn broker(global: &Global, state: &StateDirectory) -> Result<Arc<dyn Broker>, Error> {
    let connect = async |url: &str| JetStream::connect(url, &access(global)).await;
    if let Some(url) = &global.bus {
        return Ok(Arc::new(connect(url).await.map_err(deltabus_bus::Error::from)?));
    }
    let bus = local_bus(state);
    let mut attempt = 1;
    loop {
        let url = tokio::task::block_in_place(|| bus.ensure())?.url;
        match connect(&url).await {
            Ok(broker) => {
                tokio::spawn(keep_alive(bus));
                return Ok(Arc::new(broker));
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

/// Starts the local bus again whenever it has died.
async fn keep_alive(bus: LocalBus) {
    loop {
        tokio::time::sleep(LOCAL_LOOK).await;
        let bus = bus.clone();
        match tokio::task::spawn_blocking(move || bus.revive()).await {
            Ok(Ok(Some(running))) => tracing::warn!(url = running.url, "the local bus had died and was started again"),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the local bus has died and can't be started again"),
            Err(_) => return,
        }
    }
}

/// Serves metrics where asked.
pub(crate) fn serve_metrics(global: &Global) -> Result<(), Error> {
    let Some(address) = global.metrics else { return Ok(()) };
    // From a millisecond to a minute.
    let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
    let built = metrics_exporter_prometheus::PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets(&buckets)
        .and_then(metrics_exporter_prometheus::PrometheusBuilder::install);
    built.map_err(|error| Error::Config(format!("metrics can't be served at {address}: {error}")))?;
    deltabus_bus::refused::describe();
    deltabus_transmitter::metrics::describe();
    deltabus_receiver::metrics::describe();
    tracing::info!(%address, "metrics are served");
    Ok(())
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
            tracing::info!("finishing what is in hand; once more to leave at once");
            cancel.cancel();
        }
    });
    Ok(stop)
}
