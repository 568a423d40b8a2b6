//! The gRPC services: who may call what, and what they answer.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use deltabus_proto::manager::v1;
use deltabus_proto::manager::v1::administration_server::Administration;
use deltabus_proto::manager::v1::manager_server::Manager;
use deltabus_record::schema::SourceName;
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::Error;
use crate::authority::{Asking, Authority};
use crate::configuration::Locations;
use crate::registry::Changed;
use crate::requests::Requests;
use crate::rights::{self, Rights};
use crate::server::PeerInfo;
use crate::sessions::{SESSION_SECONDS, Sessions};
use crate::web::{LINK_LIFE, Logins};

/// How many tokens one call makes at most.
const INVITATIONS_MAX: usize = 256;

/// Changes that come within this time are told together.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Both services.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) authority: Arc<Authority>,
    pub(crate) sessions: Arc<Sessions>,
    /// What administrators ask of receivers.
    pub(crate) requests: Arc<Requests>,
    /// The server ends.
    pub(crate) over: CancellationToken,
    /// Who looks at the page.
    pub(crate) logins: Arc<Logins>,
    pub(crate) locations: Arc<Locations>,
    /// Makes client certificates, where that is asked for.
    pub(crate) issuing: Option<Arc<deltabus_certificates::Authority>>,
}

impl Service {
    /// Who calls; refused unless it is somebody.
    async fn asking<T>(&self, request: &Request<T>) -> Result<Asking, Status> {
        let none = || Status::unauthenticated("no session, or one that has ended");
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let session = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(none)?;
        let session = BASE64URL_NOPAD.decode(session.as_bytes()).map_err(|_| none())?;
        let key = self.sessions.key(&session).ok_or_else(none)?;
        let participant = self.authority.registry.holder(&key).await.map_err(status)?;
        let participant = participant.ok_or_else(|| Status::permission_denied("this key was revoked or replaced"))?;
        let shown = request.extensions().get::<PeerInfo>().and_then(|peer| peer.certificate.as_deref());
        if self.issuing.is_some() && shown != Some(participant.name.as_str()) {
            return Err(Status::permission_denied("this connection shows no certificate of that participant"));
        }
        Ok(Asking { participant, key })
    }

    async fn administrator<T>(&self, request: &Request<T>) -> Result<Asking, Status> {
        let asking = self.asking(request).await?;
        if !asking.participant.rights.administrate {
            return Err(Status::permission_denied(format!("`{}` is no administrator", asking.participant.name)));
        }
        Ok(asking)
    }
}

#[tonic::async_trait]
impl Manager for Service {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let from = request.extensions().get::<PeerInfo>();
        let from = from.map_or_else(|| "unknown".to_owned(), |peer| peer.address.ip().to_string());
        let v1::EnrollRequest { secret, key, certificate_key } = request.into_inner();
        let participant = self.authority.enroll(&from, &secret, &key).await.map_err(status)?;
        let certificate = match &self.issuing {
            Some(authority) if !certificate_key.is_empty() => authority
                .client_for(&participant.name, &certificate_key, deltabus_certificates::LEAF_LIFETIME)
                .map_err(|error| Status::invalid_argument(error.to_string()))?,
            _ => String::new(),
        };
        let rights = Some(participant.rights.to_wire());
        Ok(Response::new(v1::EnrollResponse { name: participant.name, rights, certificate }))
    }

    async fn challenge(
        &self,
        request: Request<v1::ChallengeRequest>,
    ) -> Result<Response<v1::ChallengeResponse>, Status> {
        let challenge = self.sessions.challenge(&request.into_inner().key).map_err(status)?;
        Ok(Response::new(v1::ChallengeResponse { challenge: challenge.into() }))
    }

    async fn open(&self, request: Request<v1::OpenRequest>) -> Result<Response<v1::OpenResponse>, Status> {
        let v1::OpenRequest { key, challenge, signature } = request.into_inner();
        let refused = || Status::unauthenticated("the key doesn't prove who it is");
        let session = self.sessions.open(&key, &challenge, &signature).ok_or_else(refused)?;
        // Told here and not at the first call: a key that nobody knows, or that was revoked.
        let known = self.authority.registry.holder(&key).await.map_err(status)?;
        known.ok_or_else(|| Status::permission_denied("this key was revoked or replaced"))?;
        Ok(Response::new(v1::OpenResponse { session: session.into(), seconds: SESSION_SECONDS }))
    }

    async fn credentials(
        &self,
        request: Request<v1::CredentialsRequest>,
    ) -> Result<Response<v1::CredentialsResponse>, Status> {
        let asking = self.asking(&request).await?;
        let (jwt, life) = self.authority.credentials(&asking).await.map_err(status)?;
        let participant = asking.participant;
        Ok(Response::new(v1::CredentialsResponse {
            jwt,
            seconds: u32::try_from(life.as_secs()).unwrap_or(u32::MAX),
            inbox: format!("_INBOX_{}", participant.name),
            rights: Some(participant.rights.to_wire()),
            name: participant.name,
            version: participant.version,
        }))
    }

    async fn locate(&self, request: Request<v1::LocateRequest>) -> Result<Response<v1::LocateResponse>, Status> {
        let asking = self.asking(&request).await?;
        let source = SourceName::new(&request.into_inner().source)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let signatures = self.authority.locate(&asking, &source).await.map_err(status)?;
        let (log, snapshots, reverse) = rights::streams(&source);
        let signed = |(key, until_millis): (String, u64)| v1::SigningKey { key, until_millis };
        let receivers = signatures
            .receivers
            .into_iter()
            .map(|(receiver, keys)| v1::ReceiverKeys { receiver, keys: keys.into_iter().map(signed).collect() });
        Ok(Response::new(v1::LocateResponse {
            bus: self.locations.of(&source).to_vec(),
            log,
            snapshots,
            reverse,
            publishers: signatures.publishers.into_iter().map(signed).collect(),
            managers: vec![signed((self.authority.keys.managers.public_key(), 0))],
            receivers: receivers.collect(),
        }))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let asking = self.asking(&request).await?;
        let version = asking.participant.version;
        self.authority.report(&asking, request.into_inner()).await.map_err(status)?;
        Ok(Response::new(v1::ReportResponse { version }))
    }

    type AttendStream = Answers<v1::Request>;

    async fn attend(&self, request: Request<v1::AttendRequest>) -> Result<Response<Self::AttendStream>, Status> {
        let asking = self.asking(&request).await?;
        let requests = self.requests.of(&asking.participant.name).await.map_err(status)?;
        let service = self.clone();
        let answers = async_stream(move |answers| async move {
            let mut requests = Box::pin(requests);
            loop {
                let request = tokio::select! {
                    () = answers.closed() => return Ok(()),
                    () = service.over.cancelled() => return Err(Status::unavailable("the manager ends")),
                    request = requests.next() => request,
                };
                let Some(request) = request else { return Err(Status::unavailable("the bus ended it")) };
                let still = service.authority.registry.holder(&asking.key).await.map_err(status)?;
                if still.is_none_or(|still| still.name != asking.participant.name) {
                    return Err(Status::permission_denied("this key was revoked or replaced"));
                }
                if answers.send(Ok(request)).await.is_err() {
                    return Ok(());
                }
            }
        });
        Ok(Response::new(answers))
    }

    async fn answer(&self, request: Request<v1::AnswerRequest>) -> Result<Response<v1::AnswerResponse>, Status> {
        let asking = self.asking(&request).await?;
        self.requests.answer(&asking.participant.name, request.into_inner()).await.map_err(status)?;
        Ok(Response::new(v1::AnswerResponse {}))
    }
}

#[tonic::async_trait]
impl Administration for Service {
    async fn invite(&self, request: Request<v1::InviteRequest>) -> Result<Response<v1::InviteResponse>, Status> {
        let asking = self.administrator(&request).await?;
        let v1::InviteRequest { invitations, seconds } = request.into_inner();
        if invitations.len() > INVITATIONS_MAX {
            return Err(Status::invalid_argument(format!("at most {INVITATIONS_MAX} tokens at once")));
        }
        let mut secrets = Vec::new();
        for invitation in invitations {
            let (name, rights) = (invitation.name, invitation.rights.unwrap_or_default());
            let life = Duration::from_secs(seconds.into());
            secrets.push(self.authority.invite(&asking, &name, &rights, life).await.map_err(status)?.into());
        }
        Ok(Response::new(v1::InviteResponse { secrets }))
    }

    async fn grant(&self, request: Request<v1::GrantRequest>) -> Result<Response<v1::GrantResponse>, Status> {
        let asking = self.administrator(&request).await?;
        let v1::GrantRequest { name, rights } = request.into_inner();
        let rights = self.authority.grant(&asking, &name, &rights.unwrap_or_default()).await.map_err(status)?;
        Ok(Response::new(v1::GrantResponse { rights: Some(rights.to_wire()) }))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        let asking = self.administrator(&request).await?;
        let v1::RevokeRequest { name, rights } = request.into_inner();
        let rights = self.authority.revoke(&asking, &name, &rights.unwrap_or_default()).await.map_err(status)?;
        Ok(Response::new(v1::RevokeResponse { rights: Some(rights.to_wire()) }))
    }

    async fn who(&self, request: Request<v1::WhoRequest>) -> Result<Response<v1::WhoResponse>, Status> {
        let asking = self.asking(&request).await?;
        let rights = &asking.participant.rights;
        if !rights.administrate && rights.publish.is_empty() {
            return Err(Status::permission_denied(format!("`{}` is no administrator", asking.participant.name)));
        }
        let mut participants = self.authority.who(None).await.map_err(status)?;
        if !rights.administrate {
            participants =
                participants.into_iter().filter_map(|participant| as_publisher(rights, participant)).collect();
        }
        Ok(Response::new(v1::WhoResponse { participants }))
    }

    type WatchStream = Answers<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let asking = self.administrator(&request).await?;
        // Watching begins before what is there is looked at, so that nothing falls between.
        let changes = self.authority.registry.watch().await.map_err(status)?;
        let service = self.clone();
        let mut changes = Box::pin(changes.ready_chunks(usize::from(u16::MAX)));
        let answers = async_stream(move |answers| async move {
            let mut names: Option<BTreeSet<String>> = None;
            loop {
                let participants = service.authority.who(names.as_ref()).await.map_err(status)?;
                if !participants.is_empty() && answers.send(Ok(v1::WatchResponse { participants })).await.is_err() {
                    return Ok(());
                }
                let mut changed = BTreeSet::new();
                while changed.is_empty() {
                    let chunk = tokio::select! {
                        () = answers.closed() => return Ok(()),
                        () = service.over.cancelled() => return Err(Status::unavailable("the manager ends")),
                        chunk = changes.next() => chunk,
                    };
                    let Some(chunk) = chunk else { return Err(Status::unavailable("the records can't be watched")) };
                    for change in chunk {
                        if let Changed::Participant(name) = change.map_err(status)? {
                            changed.insert(name);
                        }
                    }
                }
                tokio::time::sleep(WATCH_PAUSE).await;
                // Rights to watch may have gone, too.
                let still = service.authority.registry.holder(&asking.key).await.map_err(status)?;
                if still.is_none_or(|still| !still.rights.administrate) {
                    return Err(Status::permission_denied("no administrator any more"));
                }
                names = Some(changed);
            }
        });
        Ok(Response::new(answers))
    }

    type AuditStream = Answers<v1::AuditEntry>;

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<Self::AuditStream>, Status> {
        self.administrator(&request).await?;
        let v1::AuditRequest { since_millis, follow } = request.into_inner();
        let decisions = self.authority.registry.decisions(since_millis, follow).await.map_err(status)?;
        let entries = decisions.map(|decision| {
            let decision = decision.map_err(status)?;
            Ok(v1::AuditEntry {
                millis: decision.millis,
                who: decision.who,
                action: decision.action,
                about: decision.about,
                allowed: decision.allowed,
                detail: decision.detail,
                manager: decision.manager,
            })
        });
        Ok(Response::new(Box::pin(entries)))
    }

    async fn page(&self, request: Request<v1::PageRequest>) -> Result<Response<v1::PageResponse>, Status> {
        let asking = self.administrator(&request).await?;
        let secret = self.logins.link(&asking.key).map_err(status)?;
        let name = &asking.participant.name;
        let seconds = LINK_LIFE.as_secs();
        let decided: Result<String, &Error> = Ok(format!("a link, good once, for {seconds} s"));
        self.authority.note(name, "page", name, decided).await.map_err(status)?;
        Ok(Response::new(v1::PageResponse { secret: secret.into(), seconds: seconds as u32 }))
    }
}

/// What a publisher may know of a participant: how its receivers of the publisher's own sources stand, and when it was heard.
fn as_publisher(rights: &Rights, participant: v1::Participant) -> Option<v1::Participant> {
    let of_ours = |lagging: &v1::Lagging| {
        let standing = lagging.standing.as_ref();
        standing.is_some_and(|standing| {
            standing.role() == v1::standing::Role::Receiver && rights.publish.contains(&standing.source)
        })
    };
    let v1::Participant { name, seen_millis, revoked, standings, .. } = participant;
    let standings: Vec<_> = standings.into_iter().filter(of_ours).collect();
    let known = v1::Participant { name, seen_millis, revoked, standings, ..v1::Participant::default() };
    (!known.standings.is_empty()).then_some(known)
}

/// Answers that a task of their own makes, one at a time as they are taken; an error ends them.
fn async_stream<T, F, Fut>(make: F) -> Answers<T>
where
    T: Send + 'static,
    F: FnOnce(tokio::sync::mpsc::Sender<Result<T, Status>>) -> Fut,
    Fut: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let making = make(sender.clone());
    tokio::spawn(async move {
        if let Err(status) = making.await {
            // Nobody may listen any more.
            let _ = sender.send(Err(status)).await;
        }
    });
    Box::pin(futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|answer| (answer, receiver))
    }))
}

/// An error as a caller gets it: what was refused is said; what else went wrong is for the log.
fn status(error: Error) -> Status {
    match error {
        Error::Refused(why) => Status::permission_denied(why),
        error => {
            tracing::error!(error = deltabus_bus::causes(&error), "a call failed");
            Status::unavailable("the manager can't reach its records on the bus; its log says why")
        }
    }
}
