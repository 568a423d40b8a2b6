//! A manager as a process: its connections, what it looks after, and the services.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deltabus_bus::access::{Access, Issued, Issuer, Login};
use deltabus_bus::jetstream::JetStream;
use deltabus_bus::signature::Signing;
use deltabus_certificates::{Trust, client_config, server_config};
use deltabus_proto::manager::v1::administration_server::AdministrationServer;
use deltabus_proto::manager::v1::manager_server::ManagerServer;
use futures::StreamExt;
use nkeys::KeyPair;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::authority::{Authority, now_millis, now_seconds};
use crate::broker::Supervised;
use crate::claims;
use crate::configuration::{ClientsWanted, Configuration};
use crate::registry::{Changed, Registry};
use crate::requests::Requests;
use crate::rights::Rights;
use crate::service::Service;
use crate::sessions::Sessions;
use crate::trust::ByRecords;
use crate::web::{self, Page};
use crate::{Error, Keys};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections at a time, handshakes among them; further ones wait.
const CONNECTIONS_MAX: usize = 4_096;

/// Calls at a time on one connection.
const CALLS_MAX: usize = 64;

/// How long a call may take, but for those that go on.
const CALL: Duration = Duration::from_secs(30);

/// The largest message that is taken.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// The name of the first administrator.
const ADMINISTRATOR: &str = "administrator";

/// How long the bus may take to be there when a manager starts.
const BUS: Duration = Duration::from_secs(60);

/// How often is tried in between.
const BUS_PAUSE: Duration = Duration::from_millis(300);

/// How often is looked whether all is as recorded on the bus: streams, and credentials that count no more.
const UPKEEP: Duration = Duration::from_secs(30);

/// A manager's own credentials live for so long; it makes itself new ones at each connection.
const OWN_CREDENTIALS: u64 = 24 * 3600;

/// A manager that has started.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    service: Service,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    broker: Option<Supervised>,
    page: Arc<Page>,
}

/// Starts a manager: its broker, where it runs one, its records, and the port.
pub async fn start(configuration: &Configuration) -> Result<Running, Error> {
    let keys = Arc::new(Keys::load(&configuration.keys)?);
    let tls = &configuration.tls;
    let certificates = |error: deltabus_certificates::Error| Error::Config(deltabus_bus::causes(&error));
    let mut acceptor = server_config(&tls.server, &configuration.clients()).map_err(certificates)?;
    // Browsers ask which protocol it is; gRPC is this one too.
    acceptor.alpn_protocols = vec![b"h2".to_vec()];
    let own = tls.issuing.as_ref().map(|issuing| &issuing.client);
    let client = Arc::new(client_config(&Trust::File(tls.ca.clone()), own).map_err(certificates)?);
    let issuing = match &tls.issuing {
        Some(issuing) if tls.clients == ClientsWanted::Required => {
            let read = |path: &std::path::Path| {
                let failed = |source| Error::Io { doing: "read", path: path.to_owned(), source };
                std::fs::read_to_string(path).map_err(failed)
            };
            let authority = deltabus_certificates::Authority::from_pem(&read(&tls.ca)?, &read(&issuing.ca_key)?);
            Some(Arc::new(authority.map_err(certificates)?))
        }
        _ => None,
    };
    let listener = TcpListener::bind(configuration.listen).await;
    let listener = listener.map_err(|error| {
        Error::Config(format!(
            "can't listen at {} (listen in the manager's configuration): {error}",
            configuration.listen
        ))
    })?;
    let address = listener.local_addr().map_err(|error| Error::Config(error.to_string()))?;
    let watched = [&tls.server.certificate, &tls.server.key, &tls.ca].map(Clone::clone);
    let broker = configuration.broker.as_ref().map(|path| Supervised::start(path, watched.into())).transpose()?;
    let trust = Arc::new(ByRecords::default());
    let signing = Signing { key: Arc::new(keys.managers.clone()), trust: trust.clone() };
    let connect = async |role: Role| {
        let login = Login::Issued(Arc::new(Own { keys: keys.clone(), role, pair: KeyPair::new_user() }));
        // Plain where the address says so: a bus on the same machine.
        let tls = (!configuration.connect.starts_with("nats://")).then(|| client.clone());
        let access = Access { login, tls, signing: Some(signing.clone()), ..Access::default() };
        persistently(async || {
            Ok(JetStream::connect(&configuration.connect, &access).await.map_err(deltabus_bus::Error::from)?)
        })
        .await
    };
    let bus = Arc::new(connect(Role::Manager).await?);
    let system = Arc::new(connect(Role::System).await?);
    let registry = persistently(async || Registry::open(&bus.client(), configuration.replicas).await).await?;
    trust.set(&registry);
    let requests = Arc::new(Requests::new(bus.client(), &keys)?);
    let authority = Arc::new(Authority {
        keys,
        registry,
        bus,
        system,
        name: configuration.name.clone(),
        lifetime: configuration.credentials,
        reported: Mutex::new(HashMap::new()),
    });
    first_administrator(&authority, &configuration.administrator).await?;
    authority.push_claims().await?;
    authority.prepare_all().await?;
    let page = Arc::new(Page::new(authority.clone(), requests.clone()));
    let service = Service {
        authority,
        requests,
        over: CancellationToken::new(),
        logins: page.logins.clone(),
        sessions: Arc::new(Sessions::new()?),
        locations: Arc::new(configuration.locations.clone()),
        issuing,
    };
    Ok(Running { address, service, listener, acceptor: TlsAcceptor::from(Arc::new(acceptor)), broker, page })
}

impl Running {
    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Running { service, listener, acceptor, broker, page, .. } = self;
        // Calls that go on would keep a server from ending.
        let (ending, over) = (stop.clone(), service.over.clone());
        tokio::spawn(async move {
            ending.cancelled().await;
            over.cancel();
        });
        let looking = tokio::spawn(look_after(service.authority.clone(), stop.clone()));
        let gathering = tokio::spawn(page.clone().gather(stop.clone()));
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ManagerServer<Service>>().await;
        health.set_serving::<AdministrationServer<Service>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(deltabus_proto::manager::DESCRIPTION)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| Error::Config(error.to_string()))?;
        let manager = ManagerServer::new(service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let administration = AdministrationServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut services = tonic::service::Routes::builder();
        services.add_service(health_service).add_service(reflection).add_service(manager).add_service(administration);
        let routes = services.routes().into_axum_router().merge(web::router(page));
        let served = tonic::transport::Server::builder()
            .concurrency_limit_per_connection(CALLS_MAX)
            .timeout(CALL)
            .max_concurrent_streams(CALLS_MAX as u32)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .add_routes(routes.into())
            .serve_with_incoming_shutdown(incoming(listener, acceptor), stop.clone().cancelled_owned())
            .await;
        looking.abort();
        gathering.abort();
        if let Some(broker) = broker {
            broker.stop().await;
        }
        served.map_err(|error| Error::Config(deltabus_bus::causes(&error)))
    }
}

/// Tries until it works, as long as it is something that may pass.
async fn persistently<T>(attempt: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
    let end = Instant::now() + BUS;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > end => return Err(error),
            Err(error) => tracing::debug!(error = deltabus_bus::causes(&error), "the bus is not ready yet"),
        }
        tokio::time::sleep(BUS_PAUSE).await;
    }
}

/// Makes the first administrator a participant, once: what became of it later stands.
async fn first_administrator(authority: &Authority, key: &str) -> Result<(), Error> {
    if authority.registry.participant(ADMINISTRATOR).await?.is_some() {
        return Ok(());
    }
    let rights = Rights { administrate: true, ..Rights::default() };
    authority
        .registry
        .change_participant(ADMINISTRATOR, |participant| {
            participant.rights = rights.clone();
            participant.key = Some(key.to_owned());
            participant.enrolled_millis = now_millis();
            Ok(())
        })
        .await?;
    authority.registry.put_holder(key, ADMINISTRATOR).await
}

/// Keeps the broker to what is recorded, whichever manager recorded it, and whatever the broker lost.
async fn look_after(authority: Arc<Authority>, stop: CancellationToken) {
    loop {
        let Ok(changes) = authority.registry.watch().await else {
            tokio::time::sleep(BUS_PAUSE).await;
            continue;
        };
        let mut changes = Box::pin(changes);
        let mut due = tokio::time::interval(UPKEEP);
        loop {
            let claims = tokio::select! {
                () = stop.cancelled() => return,
                _ = due.tick() => true,
                change = changes.next() => match change {
                    Some(Ok(Changed::Revocations)) => true,
                    Some(Ok(_)) => false,
                    // The connection broke: watch anew.
                    Some(Err(_)) | None => break,
                },
            };
            if !claims {
                continue;
            }
            let done = async {
                authority.push_claims().await?;
                authority.prepare_all().await
            };
            if let Err(error) = done.await {
                tracing::warn!(error = deltabus_bus::causes(&error), "the bus isn't as recorded yet");
            }
        }
        tokio::time::sleep(BUS_PAUSE).await;
    }
}

/// As what a manager connects to the bus.
#[derive(Clone, Copy)]
enum Role {
    Manager,
    System,
}

/// A manager's own credentials, made by itself.
struct Own {
    keys: Arc<Keys>,
    role: Role,
    pair: KeyPair,
}

#[async_trait]
impl Issuer for Own {
    async fn credentials(&self, nonce: &[u8]) -> Result<Issued, String> {
        let (account, signing) = match self.role {
            Role::Manager => (&self.keys.account, &self.keys.managers),
            Role::System => (&self.keys.system_account, &self.keys.system),
        };
        let now = now_seconds();
        let until = Some(now + OWN_CREDENTIALS);
        let jwt = claims::everything("manager", &self.pair.public_key(), account, signing, now, until);
        let signature = self.pair.sign(nonce).map_err(|error| error.to_string())?;
        Ok(Issued { jwt: jwt.map_err(|error| error.to_string())?, signature })
    }
}

/// A connection after its handshake.
pub(crate) struct Peer {
    stream: TlsStream<TcpStream>,
    info: PeerInfo,
    /// Gives its place back when it ends.
    _place: tokio::sync::OwnedSemaphorePermit,
}

/// Who is at the other end, as far as the connection tells.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo {
    pub(crate) address: SocketAddr,
    /// The name in its certificate, where it showed one.
    pub(crate) certificate: Option<String>,
}

impl Connected for Peer {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Connections as they come, each handshake on its own: one that dawdles keeps nobody waiting.
fn incoming(
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> impl futures::Stream<Item = std::io::Result<Peer>> + Send + use<> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Too many open files, as a rule: it passes.
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(BUS_PAUSE).await;
                    continue;
                }
            };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                        let certificate = shown.and_then(deltabus_certificates::subject);
                        let info = PeerInfo { address, certificate };
                        let _ = sender.send(Ok(Peer { stream, info, _place: place })).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%address, %error, "a handshake failed"),
                    Err(_) => tracing::debug!(%address, "a handshake took too long"),
                }
            });
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|peer| (peer, receiver)) })
}
