//! Spans on their way to an OpenTelemetry collector, by OTLP over gRPC.
//!
//! The way is one task behind a bounded queue. What the queue has no room for is dropped and counted, and so is what the collector
//! doesn't take: one that is away, slow or silent costs no more than that. The standard's environment variables count as in
//! other programs; its headers, which may hold a secret, go to the collector and nowhere else.

use std::borrow::Cow;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use deltabus_bus::causes;
use deltabus_bus::trace::{self, Attribute, Recorder, Span, TraceId};
use deltabus_record::text::printable;
use metrics::counter;
use opentelemetry::trace::{Link, SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::arguments::Global;
use crate::error::Error;

/// Spans that wait for the collector: some seconds of a hot source.
const QUEUE_SPANS: usize = 4_096;

/// Spans in one call: well below what collectors take in one (4 MiB).
const BATCH_SPANS: usize = 512;

/// Spans wait this long for others to go with.
const GATHER: Duration = Duration::from_millis(500);

/// A call may take this long, whatever the environment says: by itself the exporter gives it 10 s. In the meantime spans wait, and
/// then are dropped.
const EXPORT: Duration = Duration::from_secs(60);

/// What waits when the process ends may take this long together.
const FLUSH: Duration = Duration::from_secs(3);

/// Spans sent to the collector.
pub(crate) const SENT: &str = "deltabus_trace_spans_sent_total";
/// Spans dropped, by reason.
pub(crate) const DROPPED: &str = "deltabus_trace_spans_dropped_total";
/// The queue was full.
const REASON_QUEUE: &str = "queue";
/// The collector did not take them.
const REASON_COLLECTOR: &str = "collector";

/// Variables of the standard (OpenTelemetry, "Environment Variable Specification", "OTLP Exporter Configuration"). Those of headers,
/// time-out and compression are the exporter's to read.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const CERTIFICATES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const DISABLED: &str = "OTEL_SDK_DISABLED";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The only protocol spoken.
const GRPC: &str = "grpc";

/// The task that sends, until the process ends.
static SENDING: OnceLock<Mutex<Option<(mpsc::Sender<Ended>, JoinHandle<()>)>>> = OnceLock::new();

/// The end of all spans.
struct Ended;

/// Lets the counters begin, so that they are there before anything was sent.
pub(crate) fn begin() {
    counter!(SENT).absolute(0);
    for reason in [REASON_QUEUE, REASON_COLLECTOR] {
        counter!(DROPPED, "reason" => reason).absolute(0);
    }
}

/// Sends spans from here on, where a collector is named; `service`: what this process is called unless the environment says.
///
/// Fails where `--otlp` names what can't be a collector. Of the environment, which may be meant for other programs, that is only said.
pub(crate) fn start(global: &Global, service: &'static str) -> Result<(), Error> {
    let variable = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let disabled = std::env::var(DISABLED).is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    let in_environment = || ENDPOINTS.iter().find_map(variable);
    let Some(endpoint) = global.otlp.clone().or_else(in_environment).filter(|_| !disabled) else { return Ok(()) };
    let collector = without_login(&endpoint);
    match exporter(&endpoint, PROTOCOLS.iter().find_map(variable), CERTIFICATES.iter().find_map(variable)) {
        Ok(mut exporter) => {
            exporter.set_resource(&resource(service));
            let (sender, spans) = mpsc::channel(QUEUE_SPANS);
            let (end, ended) = mpsc::channel(1);
            let sending = tokio::spawn(send(exporter, spans, ended));
            *SENDING.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner) = Some((end, sending));
            trace::record_with(Box::new(Queue { sender, sampler: Sampler::of_environment() }));
            tracing::info!(collector, "spans are sent to a collector");
            Ok(())
        }
        Err(problem) if global.otlp.is_some() => {
            Err(Error::Config(format!("spans can't be sent to {}: {problem}", printable(&collector))))
        }
        Err(error) => {
            tracing::warn!(collector, error, "no spans are sent");
            Ok(())
        }
    }
}

/// Sends what still waits, if that doesn't take long. To be called when the process is about to end.
pub(crate) async fn finish() {
    let sending = SENDING.get().and_then(|held| held.lock().unwrap_or_else(PoisonError::into_inner).take());
    let Some((end, sending)) = sending else { return };
    // The task looks at it between two calls, or is given up with what it holds.
    let _ = end.try_send(Ended);
    if timeout(FLUSH, sending).await.is_err() {
        tracing::warn!("spans that waited for the collector are lost");
    }
}

fn exporter(endpoint: &str, protocol: Option<String>, certificate: Option<String>) -> Result<SpanExporter, String> {
    if let Some(protocol) = protocol.filter(|protocol| protocol != GRPC) {
        return Err(format!("OTLP is spoken over gRPC here (often port 4317), not as {}", printable(&protocol)));
    }
    let mut builder = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    if endpoint.starts_with("https://") {
        let mut tls = ClientTlsConfig::new().with_enabled_roots();
        if let Some(path) = certificate {
            let pem = std::fs::read(&path).map_err(|error| format!("{}: {error}", printable(&path)))?;
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        builder = builder.with_tls_config(tls);
    } else if !endpoint.starts_with("http://") {
        return Err("an address begins with http:// or https://".into());
    }
    // Its errors may quote the endpoint.
    builder.build().map_err(|error| causes(&error).replace(endpoint, &without_login(endpoint)))
}

/// An address without what may be a secret in it.
fn without_login(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

fn resource(service: &'static str) -> Resource {
    let named = std::env::var(SERVICE_NAME).ok().filter(|name| !name.is_empty());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let instance = format!("{host}/{}", std::process::id());
    let detectors: [Box<dyn ResourceDetector>; 2] =
        [Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())];
    // What comes later wins.
    let builder = Resource::builder_empty()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", instance))
        .with_detectors(&detectors);
    match named {
        Some(name) => builder.with_service_name(name).build(),
        None => builder.build(),
    }
}

/// Which traces are recorded. That is decided by the trace's id, so all processes with the same setting agree, and so whoever
/// comes later decides as the parent did.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sampler {
    All,
    None,
    /// This part of them, between 0 and 1.
    Part(f64),
}

impl Sampler {
    fn of_environment() -> Sampler {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (name, argument) = (variable(SAMPLER), variable(SAMPLER_ARG));
        Sampler::of(name.as_deref(), argument.as_deref()).unwrap_or_else(|error| {
            tracing::warn!(error, "the sampler is not known; all traces are recorded");
            Sampler::All
        })
    }

    fn of(name: Option<&str>, argument: Option<&str>) -> Result<Sampler, String> {
        let part = |argument: Option<&str>| match argument.map(str::parse::<f64>) {
            None => Ok(Sampler::All),
            Some(Ok(part)) if (0.0..=1.0).contains(&part) => Ok(Sampler::Part(part)),
            Some(_) => Err(format!("{SAMPLER_ARG} is a number between 0 and 1")),
        };
        match name {
            None | Some("traceidratio" | "parentbased_traceidratio") => part(argument),
            Some("always_on" | "parentbased_always_on") => Ok(Sampler::All),
            Some("always_off" | "parentbased_always_off") => Ok(Sampler::None),
            Some(other) => Err(format!("{SAMPLER} has no `{}`", printable(other))),
        }
    }

    /// As OpenTelemetry's own samplers decide: by the last 63 bits.
    fn takes(self, trace: TraceId) -> bool {
        match self {
            Sampler::All => true,
            Sampler::None => false,
            Sampler::Part(part) => {
                let last = trace.0.last_chunk::<8>().copied().map(u64::from_be_bytes).unwrap_or_default();
                last >> 1 < (part * (1_u64 << 63) as f64) as u64
            }
        }
    }
}

/// Where spans wait.
struct Queue {
    sender: mpsc::Sender<Span>,
    sampler: Sampler,
}

impl Recorder for Queue {
    fn wants(&self, trace: TraceId) -> bool {
        self.sampler.takes(trace)
    }

    fn record(&self, span: Span) {
        match self.sender.try_send(span) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => counter!(DROPPED, "reason" => REASON_QUEUE).increment(1),
        }
    }
}

/// Sends spans batch by batch, until it is told that there will be no more.
async fn send(exporter: SpanExporter, mut spans: mpsc::Receiver<Span>, mut ended: mpsc::Receiver<Ended>) {
    let mut batch = Vec::new();
    let mut away = false;
    let mut last = false;
    while !last {
        tokio::select! {
            biased;
            _ = ended.recv() => last = true,
            taken = spans.recv_many(&mut batch, BATCH_SPANS) => last = taken == 0,
        }
        if !last && batch.len() < BATCH_SPANS {
            tokio::select! {
                biased;
                _ = ended.recv() => last = true,
                () = tokio::time::sleep(GATHER) => {}
            }
        }
        loop {
            while batch.len() < BATCH_SPANS
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                break;
            }
            let count = batch.len() as u64;
            let taken = timeout(EXPORT, exporter.export(batch.drain(..).map(data).collect())).await;
            let error = match taken {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(causes(&error)),
                Err(_) => Some(format!("no answer in {} s", EXPORT.as_secs())),
            };
            match &error {
                None => counter!(SENT).increment(count),
                Some(_) => counter!(DROPPED, "reason" => REASON_COLLECTOR).increment(count),
            }
            match (&error, away) {
                (Some(error), false) => tracing::warn!(error, "the collector takes no spans; they are dropped"),
                (None, true) => tracing::info!("the collector takes spans again"),
                _ => {}
            }
            away = error.is_some();
            if !last {
                break;
            }
        }
    }
}

/// A span as the exporter wants it.
fn data(span: Span) -> SpanData {
    let trace = opentelemetry::trace::TraceId::from_bytes(span.trace.0);
    let context = |trace, id: trace::SpanId, is_remote| {
        let id = opentelemetry::trace::SpanId::from_bytes(id.0);
        SpanContext::new(trace, id, TraceFlags::SAMPLED, is_remote, TraceState::NONE)
    };
    let mut attributes = vec![KeyValue::new("deltabus.source", span.source.to_string())];
    attributes.extend(span.attributes.into_iter().map(|(name, value)| {
        let name = format!("deltabus.{name}");
        match value {
            Attribute::Number(number) => KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX)),
            Attribute::Text(text) => KeyValue::new(name, text),
        }
    }));
    let mut links = SpanLinks::default();
    links.links = span
        .links
        .into_iter()
        .map(|(trace, id)| {
            let trace = opentelemetry::trace::TraceId::from_bytes(trace.0);
            Link::new(context(trace, id, true), Vec::new(), 0)
        })
        .collect();
    SpanData {
        span_context: context(trace, span.id, false),
        parent_span_id: span
            .parent
            .map_or(opentelemetry::trace::SpanId::INVALID, |id| opentelemetry::trace::SpanId::from_bytes(id.0)),
        parent_span_is_remote: matches!(span.name, "merge" | "receive"),
        span_kind: match span.name {
            "publish" | "send" => SpanKind::Producer,
            "receive" | "merge" => SpanKind::Consumer,
            _ => SpanKind::Internal,
        },
        name: Cow::Borrowed(span.name),
        start_time: span.start,
        end_time: span.end,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("deltabus")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_names_of_samplers_are_known() {
        let of = Sampler::of;
        assert_eq!(of(None, None), Ok(Sampler::All));
        assert_eq!(of(None, Some("0.25")), Ok(Sampler::Part(0.25)));
        assert_eq!(of(Some("parentbased_traceidratio"), Some("0.25")), Ok(Sampler::Part(0.25)));
        assert_eq!(of(Some("always_on"), Some("0.25")), Ok(Sampler::All));
        assert_eq!(of(Some("parentbased_always_off"), None), Ok(Sampler::None));
        for (name, argument) in [(None, "2"), (Some("traceidratio"), "half"), (Some("jaeger_remote"), "1")] {
            assert!(of(name, Some(argument)).is_err(), "{name:?} {argument}");
        }
    }

    #[test]
    fn a_part_of_all_traces_is_about_that_part_and_always_the_same() {
        let trace = |n: u64| TraceId(*blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk().expect("32 bytes"));
        for (part, least, most) in [(0.0, 0, 0), (0.1, 800, 1_200), (1.0, 10_000, 10_000)] {
            let taken = (0..10_000).filter(|n| Sampler::Part(part).takes(trace(*n))).count();
            assert!((least..=most).contains(&taken), "{part}: {taken}");
        }
        let last_bits = |last: u64| {
            let mut id = [0xff; 16];
            id[8..].copy_from_slice(&last.to_be_bytes());
            TraceId(id)
        };
        assert!(Sampler::Part(0.5).takes(last_bits(u64::MAX / 2)));
        assert!(!Sampler::Part(0.5).takes(last_bits(u64::MAX / 2 + 1)));
    }

    #[test]
    fn an_address_is_shown_without_its_login() {
        assert_eq!(without_login("https://user:secret@host:4317/x?token=secret"), "https://host:4317");
        assert_eq!(without_login("http://host:4317"), "http://host:4317");
    }

    #[tokio::test]
    async fn what_can_not_be_a_collector_is_refused_without_showing_a_login() {
        for endpoint in ["host:4317", "http://user:secret@ho st:1", "ftp://user:secret@host"] {
            let error = exporter(endpoint, None, None).map(drop).expect_err(endpoint);
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(exporter("http://host:4318", Some("http/protobuf".into()), None).is_err());
    }
}
