//! An OpenTelemetry collector that keeps what it is sent, and may fall silent.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

/// A collector on the loopback address; it ends with this.
pub struct Collector {
    held: Arc<Mutex<Held>>,
    address: SocketAddr,
    _runtime: Runtime,
}

/// Whether calls are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// Each at once.
    #[default]
    Answering,
    /// None, ever.
    Silent,
}

#[derive(Default)]
struct Held {
    mood: Mood,
    calls: u64,
    spans: Vec<Span>,
    authorizations: BTreeSet<String>,
}

/// A span as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The service that sent it.
    pub service: String,
    /// 32 hexadecimal digits.
    pub trace: String,
    /// 16 of them.
    pub id: String,
    /// The same; empty for a root.
    pub parent: String,
    /// What was done.
    pub name: String,
    /// The receiver it speaks of; empty if it doesn't.
    pub receiver: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// The spans that it is linked to: trace and id.
    pub links: Vec<(String, String)>,
}

impl Collector {
    /// Starts one.
    pub fn start(mood: Mood) -> Collector {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let held = Arc::new(Mutex::new(Held { mood, ..Held::default() }));
        let service = TraceServiceServer::new(Service { held: Arc::clone(&held) });
        let address = runtime.block_on(async {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let incoming = TcpIncoming::bind(any).expect("a port is free");
            let address = incoming.local_addr().expect("a listener has an address");
            tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
            address
        });
        Collector { held, address, _runtime: runtime }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it answers, or doesn't.
    pub fn turn(&self, mood: Mood) {
        self.held().mood = mood;
    }

    /// How many calls came, answered or not.
    pub fn calls(&self) -> u64 {
        self.held().calls
    }

    /// What it was sent and took.
    pub fn spans(&self) -> Vec<Span> {
        self.held().spans.clone()
    }

    /// What stood in the header `authorization` of any call.
    pub fn authorizations(&self) -> BTreeSet<String> {
        self.held().authorizations.clone()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().expect("nobody panics with this lock")
    }
}

struct Service {
    held: Arc<Mutex<Held>>,
}

#[async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let authorization =
            request.metadata().get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mood = {
            let mut held = self.held.lock().expect("nobody panics with this lock");
            held.calls += 1;
            held.authorizations.extend(authorization);
            if held.mood == Mood::Answering {
                held.spans.extend(spans(request.into_inner()));
            }
            held.mood
        };
        match mood {
            Mood::Answering => Ok(Response::new(ExportTraceServiceResponse::default())),
            Mood::Silent => pending().await,
        }
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for of_resource in request.resource_spans {
        let service = text(&of_resource.resource.unwrap_or_default().attributes, "service.name");
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            found.push(Span {
                service: service.clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                receiver: text(&span.attributes, "deltabus.receiver"),
                name: span.name,
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            });
        }
    }
    found
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()).and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
