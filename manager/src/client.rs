//! A manager as its participants and administrators see it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use data_encoding::BASE64URL_NOPAD;
use deltabus_bus::access::{Access, Issued, Issuer, Login};
use deltabus_bus::signature::{Signing, Trust};
use deltabus_certificates::{ClientKey, Existing};
use deltabus_proto::manager::v1;
use deltabus_proto::manager::v1::administration_client::AdministrationClient;
use deltabus_proto::manager::v1::manager_client::ManagerClient;
use deltabus_record::schema::SourceName;
use hyper_util::rt::TokioIo;
use nkeys::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use crate::identity::{Identities, Identity};
use crate::rights::Rights;
use crate::sessions::signed_text;
use crate::{Error, Token};

/// How long a connection to a manager may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a call may take.
const CALL: Duration = Duration::from_secs(20);

/// The port of a manager, where its address names none.
pub const PORT: u16 = 7422;

/// Enrols by a token, and keeps the identity in `identities`.
///
/// `managers`: `https://HOST[:PORT]`, one or several. A token that was used from here before gives the identity that it made.
pub async fn enroll(managers: &[String], token: &Token, identities: &Identities) -> Result<Identity, Error> {
    if let Some(known) = identities.of_token(token)? {
        return Ok(known);
    }
    let key = KeyPair::new_user();
    let stranger = Identity::new("", managers, key, token.authority, Rights::default())?;
    let certificate_key = ClientKey::new().map_err(Error::certificate)?;
    let request = v1::EnrollRequest {
        secret: token.secret.clone().into(),
        key: stranger.public_key(),
        certificate_key: certificate_key.public_key().into(),
    };
    let client = Client::new(stranger.clone())?;
    let enrolled = client.one_of(|channel| {
        let request = request.clone();
        async move { Ok(ManagerClient::new(channel).enroll(Request::new(request)).await?.into_inner()) }
    });
    let (_, enrolled) = enrolled.await?;
    let rights = enrolled.rights.unwrap_or_default();
    let rights = Rights::from_wire(&rights).map_err(|error| Error::Config(error.to_string()))?;
    let mut identity = stranger.named(&enrolled.name, rights).by_token(token);
    if !enrolled.certificate.is_empty() {
        identities.keep_certificate(&mut identity, certificate_key, enrolled.certificate)?;
    }
    // Another that had this name was replaced at the manager just now.
    identities.keep(&identity, Existing::Replace)?;
    Ok(identity)
}

/// A manager, and who calls it.
pub struct Client {
    identity: Identity,
    channels: Vec<(String, Channel)>,
    session: Mutex<Option<Session>>,
}

/// A session with one of the managers.
#[derive(Clone)]
struct Session {
    /// Which of the channels.
    at: usize,
    header: MetadataValue<tonic::metadata::Ascii>,
    until: Instant,
}

impl Client {
    /// For somebody; connects when first needed.
    pub fn new(identity: Identity) -> Result<Client, Error> {
        let tls = Arc::new(identity.tls()?);
        let channels: Result<Vec<_>, Error> =
            identity.manager().iter().map(|url| Ok((url.clone(), channel(url, &tls)?))).collect();
        Ok(Client { identity, channels: channels?, session: Mutex::new(None) })
    }

    /// Who calls.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Credentials for the bus.
    pub async fn credentials(&self) -> Result<v1::CredentialsResponse, Error> {
        self.manager(v1::CredentialsRequest {}, |mut client, request| async move { client.credentials(request).await })
            .await
    }

    /// Where a source lies, and whose signatures count there.
    pub async fn locate(&self, source: &SourceName) -> Result<v1::LocateResponse, Error> {
        let request = v1::LocateRequest { source: source.to_string() };
        self.manager(request, |mut client, request| async move { client.locate(request).await }).await
    }

    /// Tells how somebody stands; gives the version of the rights.
    pub async fn report(&self, report: v1::ReportRequest) -> Result<u64, Error> {
        Ok(self.manager(report, |mut client, request| async move { client.report(request).await }).await?.version)
    }

    /// Makes tokens; their secrets come in the order asked for.
    pub async fn invite(&self, request: v1::InviteRequest) -> Result<v1::InviteResponse, Error> {
        self.administration(request, |mut client, request| async move { client.invite(request).await }).await
    }

    /// Gives rights.
    pub async fn grant(&self, request: v1::GrantRequest) -> Result<v1::GrantResponse, Error> {
        self.administration(request, |mut client, request| async move { client.grant(request).await }).await
    }

    /// Takes rights.
    pub async fn revoke(&self, request: v1::RevokeRequest) -> Result<v1::RevokeResponse, Error> {
        self.administration(request, |mut client, request| async move { client.revoke(request).await }).await
    }

    /// Everybody.
    pub async fn who(&self) -> Result<v1::WhoResponse, Error> {
        self.administration(v1::WhoRequest {}, |mut client, request| async move { client.who(request).await }).await
    }

    /// Everybody, and each change.
    pub async fn watch(&self) -> Result<tonic::Streaming<v1::WatchResponse>, Error> {
        self.administration(v1::WatchRequest {}, |mut client, request| async move { client.watch(request).await }).await
    }

    /// Decisions.
    pub async fn audit(&self, request: v1::AuditRequest) -> Result<tonic::Streaming<v1::AuditEntry>, Error> {
        self.administration(request, |mut client, request| async move { client.audit(request).await }).await
    }

    /// What administrators ask of receivers here, as it comes.
    pub async fn attend(&self) -> Result<tonic::Streaming<v1::Request>, Error> {
        self.manager(v1::AttendRequest {}, |mut client, request| async move { client.attend(request).await }).await
    }

    /// Answers one of those.
    pub async fn answer(&self, answer: v1::AnswerRequest) -> Result<(), Error> {
        self.manager(answer, |mut client, request| async move { client.answer(request).await }).await.map(drop)
    }

    /// A link to the page, good once: for whom, and for how many seconds.
    pub async fn page(&self) -> Result<(String, u32), Error> {
        let answer =
            self.administration(v1::PageRequest {}, |mut client, request| async move { client.page(request).await });
        let v1::PageResponse { secret, seconds } = answer.await?;
        // Only the manager that made it knows it.
        let at = self.session.lock().await.as_ref().map_or(0, |session| session.at);
        let url = self.channels.get(at).map(|(url, _)| url.as_str()).unwrap_or_default();
        let parsed: Uri = url.parse().map_err(|_| Error::Config(format!("`{url}` is no manager's address")))?;
        let (host, port) = (parsed.host().unwrap_or_default(), parsed.port_u16().unwrap_or(PORT));
        // Behind a hash, so that no server, log or preview gets to see it before the browser shows it to the manager.
        Ok((format!("https://{host}:{port}/login#{}", BASE64URL_NOPAD.encode(&secret)), seconds))
    }

    /// What an error in the middle of a stream means.
    pub fn failed(&self, status: &Status) -> Error {
        meaning(&self.identity.manager().join(","), status)
    }

    async fn manager<Q: Clone, A, F>(
        &self,
        message: Q,
        call: impl Fn(ManagerClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        self.call(message, |channel, request| call(ManagerClient::new(channel), request)).await
    }

    async fn administration<Q: Clone, A, F>(
        &self,
        message: Q,
        call: impl Fn(AdministrationClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        self.call(message, |channel, request| call(AdministrationClient::new(channel), request)).await
    }

    /// Calls with a session; a session that has ended, or a manager that is gone, is replaced once.
    async fn call<Q: Clone, A, F>(&self, message: Q, call: impl Fn(Channel, Request<Q>) -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let mut last = None;
        for _ in 0..2 {
            let session = self.session(last.as_ref()).await?;
            let mut request = Request::new(message.clone());
            request.metadata_mut().insert("authorization", session.header.clone());
            let (url, channel) = &self.channels[session.at];
            match call(channel.clone(), request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if matches!(status.code(), Code::Unauthenticated | Code::Unavailable | Code::Unknown) => {
                    last = Some((session.header, meaning(url, &status)));
                }
                Err(status) => return Err(meaning(url, &status)),
            }
        }
        Err(last.map_or_else(|| Error::Config("no manager is named".into()), |(_, error)| error))
    }

    /// The session, or a new one if it is `spent` or about to end.
    async fn session(&self, spent: Option<&(MetadataValue<tonic::metadata::Ascii>, Error)>) -> Result<Session, Error> {
        let mut held = self.session.lock().await;
        if let Some(session) = &*held
            && session.until > Instant::now()
            && spent.is_none_or(|(spent, _)| *spent != session.header)
        {
            return Ok(session.clone());
        }
        *held = None;
        let (at, opened) = self.one_of(|channel| prove(channel, self.identity.key().clone())).await?;
        let header = format!("Bearer {}", BASE64URL_NOPAD.encode(&opened.session));
        let header = header.parse().map_err(|_| Error::Config("the manager's session is none".into()))?;
        // A little early, so that none ends on its way.
        let life = Duration::from_secs(opened.seconds.into()).mul_f64(0.9);
        let session = Session { at, header, until: Instant::now() + life };
        *held = Some(session.clone());
        Ok(session)
    }

    /// Asks the managers one after the other until one answers.
    async fn one_of<A, F>(&self, call: impl Fn(Channel) -> F) -> Result<(usize, A), Error>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let mut last = None;
        for (at, (url, channel)) in self.channels.iter().enumerate() {
            match call(channel.clone()).await {
                Ok(answer) => return Ok((at, answer)),
                Err(status) => {
                    let error = meaning(url, &status);
                    if !error.is_transient() {
                        return Err(error);
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Config("no manager is named".into())))
    }
}

/// Opens a session by proving to hold a key.
async fn prove(channel: Channel, pair: Arc<KeyPair>) -> Result<v1::OpenResponse, Status> {
    let (mut client, key) = (ManagerClient::new(channel), pair.public_key());
    let challenge = client.challenge(Request::new(v1::ChallengeRequest { key: key.clone() })).await?;
    let challenge = challenge.into_inner().challenge;
    let signature = pair.sign(&signed_text(&challenge)).map_err(|error| Status::internal(error.to_string()))?.into();
    Ok(client.open(Request::new(v1::OpenRequest { key, challenge, signature })).await?.into_inner())
}

/// What a failed call means.
fn meaning(url: &str, status: &Status) -> Error {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::NotFound => {
            Error::Refused(status.message().to_owned())
        }
        _ => {
            let explained = std::error::Error::source(status).and_then(deltabus_certificates::explain);
            let problem = explained.unwrap_or_else(|| match std::error::Error::source(status) {
                Some(source) => deltabus_bus::causes(&source),
                None => status.message().to_owned(),
            });
            Error::Unavailable { url: url.to_owned(), problem }
        }
    }
}

/// A channel to a manager at `https://HOST[:PORT]`, for whatever services it has; connects when first needed.
pub fn channel(url: &str, tls: &Arc<ClientConfig>) -> Result<Channel, Error> {
    let wrong = |problem: &str| Error::Config(format!("`{url}` is no manager's address: {problem}"));
    let parsed: Uri = url.parse().map_err(|_| wrong("https://HOST:PORT is one"))?;
    if parsed.scheme_str() != Some("https") {
        return Err(wrong("it begins with https://"));
    }
    let host = parsed.host().ok_or_else(|| wrong("it names no host"))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare.clone()).map_err(|_| wrong("its host is none"))?;
    let port = parsed.port_u16().unwrap_or(PORT);
    // TLS is ours: for the endpoint it is a plain connection.
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))
        .map_err(|error| wrong(&error.to_string()))?
        .connect_timeout(CONNECT)
        .timeout(CALL)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connector = TlsConnector::from(tls.clone());
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, name, bare) = (connector.clone(), name.clone(), bare.clone());
        async move {
            let stream = TcpStream::connect((bare.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connect))
}

/// How long it is believed whose signatures count, before the manager is asked again.
const TRUST_AGE: Duration = Duration::from_secs(60);

/// A signature that nobody knows is asked about at most this often for a source.
const TRUST_PAUSE: Duration = Duration::from_secs(2);

/// Where questions to a transmitter go, below its source.
const QUESTIONS: &str = "transmitter";

/// Whose signatures count for a source, as the manager said.
struct Known {
    at: Instant,
    publishers: BTreeMap<String, u64>,
    /// Those count on questions to the transmitter, too.
    managers: BTreeMap<String, u64>,
    receivers: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Known {
    /// What is known of a key under a subject: until when it counts, 0: still.
    fn until(&self, tail: &str, key: &str) -> Option<u64> {
        match tail.strip_prefix("reverse.") {
            Some(receiver) => self.receivers.get(receiver)?.get(key).copied(),
            None => {
                let asking = if tail == QUESTIONS { self.managers.get(key) } else { None };
                self.publishers.get(key).or(asking).copied()
            }
        }
    }
}

/// Gives a participant credentials for the bus: asked for anew at each connection.
pub struct Membership {
    client: Arc<Client>,
    identities: Identities,
    /// The version of the rights in the credentials given last.
    version: std::sync::atomic::AtomicU64,
    /// Until when those are good, as far as half their life: then they are to be renewed.
    renew_at: std::sync::Mutex<Option<Instant>>,
    /// Whose signatures count, by source.
    known: Mutex<HashMap<SourceName, Known>>,
}

impl Membership {
    /// For somebody with an identity.
    pub fn new(client: Arc<Client>, identities: Identities) -> Arc<Membership> {
        let (version, renew_at, known) = (0.into(), std::sync::Mutex::new(None), Mutex::default());
        Arc::new(Membership { client, identities, version, renew_at, known })
    }

    /// The client.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// How it shows a bus who it is.
    pub fn access(self: &Arc<Self>, plain: bool) -> Result<Access, Error> {
        let tls = if plain { None } else { Some(Arc::new(self.client.identity.tls()?)) };
        let inbox = Some(format!("_INBOX_{}", self.client.identity.name()));
        let signing = Some(Signing { key: self.client.identity.key().clone(), trust: self.clone() });
        Ok(Access { login: Login::Issued(self.clone()), tls, inbox, signing })
    }

    /// Whether the credentials should be replaced by now: half their life is over, or the rights are of another version.
    pub fn is_due(&self, version: u64) -> bool {
        let given = self.version.load(std::sync::atomic::Ordering::Relaxed);
        let renew_at = *self.renew_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        given != 0 && (given != version || renew_at.is_some_and(|at| at <= Instant::now()))
    }
}

#[async_trait]
impl Issuer for Membership {
    async fn credentials(&self, nonce: &[u8]) -> Result<Issued, String> {
        let given = self.client.credentials().await.map_err(|error| deltabus_bus::causes(&error))?;
        self.version.store(given.version, std::sync::atomic::Ordering::Relaxed);
        let half = Duration::from_secs(given.seconds.into()) / 2;
        *self.renew_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now() + half);
        if let Ok(rights) = Rights::from_wire(&given.rights.unwrap_or_default())
            && let Err(error) = self.identities.note_rights(self.client.identity.name(), &rights)
        {
            tracing::warn!(error = deltabus_bus::causes(&error), "what this participant may do can't be written down");
        }
        let signature = self.client.identity.key().sign(nonce).map_err(|error| error.to_string())?;
        Ok(Issued { jwt: given.jwt, signature })
    }
}

#[async_trait]
impl Trust for Membership {
    async fn accepts(&self, source: &SourceName, tail: &str, key: &str, millis: u64) -> Result<bool, String> {
        // What it sent itself, nobody has to tell it about: a receiver isn't told whose edits count.
        if tail.starts_with("reverse.") && key == self.client.identity.public_key() {
            return Ok(true);
        }
        let mut known = self.known.lock().await;
        let age = known.get(source).map(|known| known.at.elapsed());
        let until = known.get(source).and_then(|known| known.until(tail, key));
        let is_old =
            age.is_none_or(|age| age > TRUST_AGE) || (until.is_none() && age.is_none_or(|age| age > TRUST_PAUSE));
        if is_old {
            match self.client.locate(source).await {
                Ok(located) => {
                    known.insert(source.clone(), told(located));
                }
                // What was known goes on to count while the manager is away; a stranger has to wait.
                Err(error) if until.is_none() => {
                    return Err(format!("whose signatures count isn't known: {}", deltabus_bus::causes(&error)));
                }
                Err(_) => {}
            }
        }
        let until = known.get(source).and_then(|known| known.until(tail, key));
        Ok(until.is_some_and(|until| until == 0 || millis <= until))
    }
}

fn told(located: v1::LocateResponse) -> Known {
    let keys = |keys: Vec<v1::SigningKey>| keys.into_iter().map(|key| (key.key, key.until_millis)).collect();
    Known {
        at: Instant::now(),
        publishers: keys(located.publishers),
        managers: keys(located.managers),
        receivers: located.receivers.into_iter().map(|of| (of.receiver, keys(of.keys))).collect(),
    }
}
