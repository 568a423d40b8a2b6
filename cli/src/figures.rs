//! Serving figures to Prometheus: how they are counted, and those that have to be looked for from time to time.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use deltabus_bus::broker::Stream as BusStream;
use deltabus_bus::monitor::{Monitor, Server};
use deltabus_bus::{Log, causes};
use deltabus_receiver::Lag;
use deltabus_record::schema::SourceName;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::time::{MissedTickBehavior, interval};

use crate::commands::cases::CaseCounter;
use crate::error::Error;
use crate::otlp;

/// Which build this is, always 1, by version.
const BUILD_INFO: &str = "deltabus_build_info";
/// What is free, and what there is, on the file system with the state directory.
const STATE_FREE: &str = "deltabus_state_filesystem_free_bytes";
const STATE_SIZE: &str = "deltabus_state_filesystem_size_bytes";
/// What the log holds and what it may, by source.
const LOG_BYTES: &str = "deltabus_log_size_bytes";
const LOG_LIMIT: &str = "deltabus_log_limit_bytes";
/// What nobody has decided yet, by source.
const CONFLICTS_UNRESOLVED: &str = "deltabus_log_conflicts_unresolved";
const REFUSED_UNRESOLVED: &str = "deltabus_log_edits_refused_unresolved";

/// A nats-server as its monitoring port shows it.
mod broker {
    pub(super) const UP: &str = "deltabus_broker_up";
    pub(super) const INFO: &str = "deltabus_broker_info";
    pub(super) const CONNECTIONS: &str = "deltabus_broker_connections";
    pub(super) const SUBSCRIPTIONS: &str = "deltabus_broker_subscriptions";
    pub(super) const SLOW_CONSUMERS: &str = "deltabus_broker_slow_consumers_total";
    pub(super) const MEMORY: &str = "deltabus_broker_memory_bytes";
    pub(super) const MESSAGES_RECEIVED: &str = "deltabus_broker_received_messages_total";
    pub(super) const MESSAGES_SENT: &str = "deltabus_broker_sent_messages_total";
    pub(super) const BYTES_RECEIVED: &str = "deltabus_broker_received_bytes_total";
    pub(super) const BYTES_SENT: &str = "deltabus_broker_sent_bytes_total";
    pub(super) const STORAGE: &str = "deltabus_broker_storage_bytes";
    pub(super) const STORAGE_LIMIT: &str = "deltabus_broker_storage_limit_bytes";
    pub(super) const STREAM_BYTES: &str = "deltabus_broker_stream_size_bytes";
    pub(super) const STREAM_LIMIT: &str = "deltabus_broker_stream_limit_bytes";
    pub(super) const STREAM_MESSAGES: &str = "deltabus_broker_stream_messages";
    pub(super) const STREAM_CONSUMERS: &str = "deltabus_broker_stream_consumers";
}

/// Of durations: from a millisecond to six hours, which the scan of a large source may take.
const DURATIONS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0, 1_800.0, 7_200.0,
    21_600.0,
];
/// Of latencies: from a millisecond to a day, for which a receiver may have been away.
const LATENCIES: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3_600.0, 86_400.0];
/// Of sizes: from 256 bytes to a mebibyte, the broker's usual limit for one message, and some above.
const SIZES: [f64; 10] =
    [256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 131_072.0, 262_144.0, 524_288.0, 1_048_576.0, 8_388_608.0];

/// How often lags are measured and the disk is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How many of these looks come to one at the logs, which costs the broker more.
const LOOKS_PER_LOG: u64 = 5;

/// How often a nats-server is asked for its figures.
const MONITOR: Duration = Duration::from_secs(5);

/// Counts from here on, and serves the figures at `address`.
pub(crate) fn serve(address: SocketAddr) -> Result<(), Error> {
    let suffix = |text: &str| Matcher::Suffix(text.to_owned());
    let built = PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(suffix("_duration_seconds"), &DURATIONS)
        .and_then(|builder| builder.set_buckets_for_metric(suffix("_latency_seconds"), &LATENCIES))
        .and_then(|builder| builder.set_buckets_for_metric(suffix("_size_bytes"), &SIZES))
        .and_then(PrometheusBuilder::install);
    built.map_err(|error| Error::Config(format!("metrics can't be served at {address}: {error}")))?;
    deltabus_bus::metrics::describe();
    deltabus_transmitter::metrics::describe();
    deltabus_receiver::metrics::describe();
    deltabus_manager::metrics::describe();
    describe();
    otlp::begin();
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    tracing::info!(%address, "metrics are served");
    Ok(())
}

fn describe() {
    describe_gauge!(BUILD_INFO, Unit::Count, "Always 1; the version is in the label");
    describe_counter!(otlp::SENT, Unit::Count, "Spans sent to the collector");
    describe_counter!(otlp::DROPPED, Unit::Count, "Spans that had to be dropped");
    describe_gauge!(STATE_FREE, Unit::Bytes, "Free on the file system with the state directory");
    describe_gauge!(STATE_SIZE, Unit::Bytes, "Size of the file system with the state directory");
    describe_gauge!(LOG_BYTES, Unit::Bytes, "What the log holds");
    describe_gauge!(LOG_LIMIT, Unit::Bytes, "What the log may hold before its oldest messages go");
    describe_gauge!(CONFLICTS_UNRESOLVED, Unit::Count, "Conflicts that wait for somebody to resolve them");
    describe_gauge!(REFUSED_UNRESOLVED, Unit::Count, "Edits that the source refused and nobody has decided about");
    describe_gauge!(broker::UP, Unit::Count, "1 while the nats-server's monitoring port answers");
    describe_gauge!(broker::INFO, Unit::Count, "Always 1; the nats-server's version is in the label");
    describe_gauge!(broker::CONNECTIONS, Unit::Count, "Clients connected");
    describe_gauge!(broker::SUBSCRIPTIONS, Unit::Count, "Subscriptions of all clients");
    describe_counter!(broker::SLOW_CONSUMERS, Unit::Count, "Clients cut off because they read too slowly");
    describe_gauge!(broker::MEMORY, Unit::Bytes, "Resident memory of the nats-server");
    describe_counter!(broker::MESSAGES_RECEIVED, Unit::Count, "Messages from clients");
    describe_counter!(broker::MESSAGES_SENT, Unit::Count, "Messages to clients");
    describe_counter!(broker::BYTES_RECEIVED, Unit::Bytes, "Bytes from clients");
    describe_counter!(broker::BYTES_SENT, Unit::Bytes, "Bytes to clients");
    describe_gauge!(broker::STORAGE, Unit::Bytes, "What JetStream stores in files");
    describe_gauge!(broker::STORAGE_LIMIT, Unit::Bytes, "What JetStream may store in files");
    describe_gauge!(broker::STREAM_BYTES, Unit::Bytes, "What a stream holds");
    describe_gauge!(broker::STREAM_LIMIT, Unit::Bytes, "What a stream may hold; none where it has no limit");
    describe_gauge!(broker::STREAM_MESSAGES, Unit::Count, "Messages in a stream");
    describe_gauge!(broker::STREAM_CONSUMERS, Unit::Count, "Consumers of a stream");
}

/// What has to be looked for, in a process that goes on.
#[derive(Default)]
pub(crate) struct Watch {
    /// The state directory.
    pub(crate) state: PathBuf,
    /// Logs that this process writes.
    pub(crate) logs: Vec<Log>,
    /// Receivers that run here.
    pub(crate) lags: Vec<Lag>,
    /// All sources that it has to do with.
    pub(crate) sources: Vec<SourceName>,
}

impl Watch {
    /// Looks from time to time, for as long as the process lives.
    pub(crate) fn begin(self) {
        for source in &self.sources {
            deltabus_bus::metrics::begin_source(source.as_str());
        }
        tokio::spawn(self.run());
    }

    async fn run(self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cases = CaseCounter::default();
        for look in 0u64.. {
            ticks.tick().await;
            self.look_at_disk();
            for lag in &self.lags {
                if let Err(error) = lag.measure().await {
                    tracing::debug!(error = causes(&error), "a lag can't be measured now");
                }
            }
            if look % LOOKS_PER_LOG == 0 {
                for log in &self.logs {
                    if let Err(error) = look_at_log(log, &mut cases).await {
                        tracing::debug!(error = causes(&error), "a log can't be looked at now");
                    }
                }
            }
        }
    }

    fn look_at_disk(&self) {
        match rustix::fs::statvfs(&self.state) {
            Ok(found) => {
                gauge!(STATE_FREE).set((found.f_bavail * found.f_frsize) as f64);
                gauge!(STATE_SIZE).set((found.f_blocks * found.f_frsize) as f64);
            }
            Err(error) => tracing::debug!(%error, "the state directory's disk can't be looked at"),
        }
    }
}

async fn look_at_log(log: &Log, cases: &mut CaseCounter) -> Result<(), Error> {
    let source = log.source().to_string();
    let extent = log.broker().extent(log.source(), BusStream::Changes).await.map_err(deltabus_bus::Error::from)?;
    let Some(extent) = extent else { return Ok(()) };
    gauge!(LOG_BYTES, "source" => source.clone()).set(extent.bytes as f64);
    if let Some(limit) = extent.bytes_max {
        gauge!(LOG_LIMIT, "source" => source.clone()).set(limit as f64);
    }
    let cases = cases.count(log).await?;
    gauge!(CONFLICTS_UNRESOLVED, "source" => source.clone()).set(cases.open as f64);
    gauge!(REFUSED_UNRESOLVED, "source" => source).set(cases.refused as f64);
    Ok(())
}

/// Asks a nats-server for its figures from time to time, and never ends.
pub(crate) async fn watch_broker(monitor: &Monitor) {
    let mut ticks = interval(MONITOR);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    gauge!(broker::UP).set(0.0);
    loop {
        ticks.tick().await;
        match monitor.look().await {
            Ok(server) => show_broker(&server),
            Err(error) => {
                gauge!(broker::UP).set(0.0);
                tracing::warn!(error = causes(&error), "the nats-server can't be looked at");
            }
        }
    }
}

fn show_broker(server: &Server) {
    gauge!(broker::UP).set(1.0);
    gauge!(broker::INFO, "version" => server.version.clone()).set(1.0);
    gauge!(broker::CONNECTIONS).set(server.connections as f64);
    gauge!(broker::SUBSCRIPTIONS).set(server.subscriptions as f64);
    counter!(broker::SLOW_CONSUMERS).absolute(server.slow_consumers);
    gauge!(broker::MEMORY).set(server.memory_bytes as f64);
    counter!(broker::MESSAGES_RECEIVED).absolute(server.messages.received);
    counter!(broker::MESSAGES_SENT).absolute(server.messages.sent);
    counter!(broker::BYTES_RECEIVED).absolute(server.bytes.received);
    counter!(broker::BYTES_SENT).absolute(server.bytes.sent);
    gauge!(broker::STORAGE).set(server.storage_bytes as f64);
    gauge!(broker::STORAGE_LIMIT).set(server.storage_bytes_max as f64);
    for found in &server.streams {
        let stream = match found.stream {
            BusStream::Changes => "changes",
            BusStream::Snapshot => "snapshot",
            BusStream::Reverse => "reverse",
        };
        let labels = [("source", found.source.to_string()), ("stream", stream.to_owned())];
        gauge!(broker::STREAM_BYTES, &labels).set(found.bytes as f64);
        if let Some(limit) = found.bytes_max {
            gauge!(broker::STREAM_LIMIT, &labels).set(limit as f64);
        }
        gauge!(broker::STREAM_MESSAGES, &labels).set(found.messages as f64);
        gauge!(broker::STREAM_CONSUMERS, &labels).set(found.consumers as f64);
    }
}
