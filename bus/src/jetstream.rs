//! JetStream as a broker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectError, ConnectErrorKind, Event, HeaderMap, RequestErrorKind, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use deltabus_record::schema::SourceName;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::access::{Access, Login, without_login};
use crate::broker::{
    AppendError, Broker, BrokerError, Expect, Extent, Follow, Hint, Live, Question, Questions, SUBJECTS_MAX, Stored,
    Stream, Subject, Word,
};
use crate::clock::{Clock, SystemClock};
use crate::error::causes;
use crate::metrics as figures;
use crate::shared::Shared;
use crate::signature::{Signing, UNTRUSTED, last_value};
use crate::version;

/// How long the broker may take to answer one request before the outcome counts as unknown.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a transmitter may take to answer a question; one that is frozen doesn't.
const TRANSMITTER_ANSWER: Duration = Duration::from_secs(2);

/// How long a first connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Messages that may wait in a subscription of the client, which drops further ones in silence: one batch and its end. No
/// more, because as many full messages of the log (512 KiB) may wait live for a slow reader.
const SUBSCRIPTION_MESSAGES: usize = BATCH_MESSAGES + 8;

/// The most messages asked for at once.
const BATCH_MESSAGES: usize = SUBJECTS_MAX;

/// How a server says that messages of an atomic batch are missing (JSAtomicPublishIncompleteBatchErr).
const BATCH_INCOMPLETE: u64 = 10176;

/// Reconnects wait at least this long, doubled with each attempt up to the most, and a random part is taken off, so that
/// a broker's restart isn't met by all clients at once.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(4);

/// The log's limits: what is older goes. A receiver that stays away longer rejoins by snapshot.
const LOG_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
const LOG_BYTES: i64 = 8 * 1024 * 1024 * 1024;

/// Reverse sets that nobody took are kept this long.
const REVERSE_AGE: Duration = Duration::from_secs(90 * 24 * 3600);
const REVERSE_BYTES: i64 = 1024 * 1024 * 1024;

/// The most messages in one atomic batch, a limit of the server's.
const ATOMIC_MESSAGES: usize = 1_000;

/// Where heartbeats and republished sets are, below `deltabus.<source>.`.
const LIVE: &str = "live";

/// Where questions to the transmitter are.
const TRANSMITTER: &str = "transmitter";

/// A stream that may hold less than this is of little use.
const LIMIT_MIN: i64 = 64 * 1024 * 1024;

/// The class of errors by which JetStream says that it can't now.
const SERVICE_UNAVAILABLE: usize = 503;

/// No receiver needs a consumer; explicit, because the server's own default differs by version.
const CONSUMERS_MAX: i32 = 1_000;

/// A NATS server or cluster with JetStream.
pub struct JetStream {
    link: RwLock<Link>,
    /// How often the connection broke.
    cuts: watch::Sender<u64>,
    /// How often the broker was found elsewhere: subscriptions made before have ended.
    moves: watch::Sender<u64>,
    signing: Option<Signing>,
    reading: Reading,
    logs: Shared,
}

/// How one subject of a stream is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// By direct get, which needs the right to read the whole stream.
    Stream,
    /// Only its last message, the right to which can be limited to the subject.
    Last,
}

/// The broker where it is now, and the client that speaks to it.
#[derive(Clone)]
struct Link {
    client: Client,
    context: jetstream::Context,
    url: String,
    /// Set when another link took its place. A client can't be ended while it looks for its server; it stops looking.
    left: Arc<AtomicBool>,
}

impl JetStream {
    /// Connects to one of `urls` (separated by commas).
    ///
    /// Fails if none answers within a few seconds, lets nobody in who comes with this access, or is too old. Later interruptions
    /// are bridged: requests fail while they last, and the connection comes back by itself, with fresh credentials.
    pub async fn connect(urls: &str, access: &Access) -> Result<JetStream, BrokerError> {
        figures::begin();
        let cuts = watch::Sender::new(0);
        let link = RwLock::new(Link::connect(urls, access, &cuts).await?);
        let reading = match access.login {
            Login::Issued(_) => Reading::Last,
            Login::Nobody | Login::File(_) | Login::Password { .. } => Reading::Stream,
        };
        Ok(JetStream {
            link,
            cuts,
            moves: watch::Sender::new(0),
            signing: access.signing.clone(),
            reading,
            logs: Shared::default(),
        })
    }

    /// Goes on with the broker at `urls`, which is the same one that has moved. What is under way fails, and subscriptions end as
    /// if the broker had ended them.
    pub async fn move_to(&self, urls: &str, access: &Access) -> Result<(), BrokerError> {
        let link = Link::connect(urls, access, &self.cuts).await?;
        let before = std::mem::replace(&mut *self.link.write().unwrap_or_else(PoisonError::into_inner), link);
        before.left.store(true, Ordering::Relaxed);
        self.cuts.send_modify(|cuts| *cuts += 1);
        self.moves.send_modify(|moves| *moves += 1);
        Ok(())
    }

    fn link(&self) -> Link {
        self.link.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client itself, for what is not a source's log: a manager's own records.
    pub fn client(&self) -> Client {
        self.link().client
    }

    fn context(&self) -> jetstream::Context {
        self.link().context
    }

    /// Whether the connection stands at this moment.
    pub fn is_connected(&self) -> bool {
        self.client().connection_state() == State::Connected
    }

    /// Connects anew, with credentials as they are given out now.
    pub async fn renew(&self) {
        // Only a client that has ended fails; whoever uses it will notice.
        let _ = self.client().force_reconnect().await;
    }

    /// Waits for what is asked of the broker, at most [`ANSWER`] and only while the connection stands: what is under way
    /// when it breaks is never answered.
    async fn answer<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        let mut cuts = self.cuts.subscribe();
        tokio::select! {
            biased;
            answer = timeout(ANSWER, asked) => answer.ok(),
            _ = cuts.changed() => None,
        }
    }

    fn unanswered(&self) -> BrokerError {
        BrokerError::Unavailable { url: self.url(), problem: "no answer".into() }
    }

    /// What a failed publish means for the message.
    fn append_error(&self, error: &jetstream::context::PublishError, bytes: usize) -> AppendError {
        let said = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
        match (error.kind(), said) {
            (PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId, _) => AppendError::Conflict,
            // A cluster's way of saying that an earlier one with the same expectation is not decided yet.
            (_, Some(said)) if said.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => {
                AppendError::Conflict
            }
            (PublishErrorKind::MaxPayloadExceeded, _) => AppendError::TooLarge { bytes },
            // No responders: without a leader, or while the server starts. Nothing was stored.
            (PublishErrorKind::StreamNotFound, _) => AppendError::Broker(self.unavailable(error)),
            // Out of resources, or a cluster that is not ready.
            (_, Some(said)) if said.code() == SERVICE_UNAVAILABLE => AppendError::Broker(self.unavailable(error)),
            (_, Some(_)) => {
                AppendError::Broker(BrokerError::Refused { doing: "store a message", problem: causes(error) })
            }
            // Time-outs and whatever broke on this side: it may have been sent before.
            (_, None) => AppendError::Unknown,
        }
    }

    fn unavailable(&self, error: &dyn std::error::Error) -> BrokerError {
        BrokerError::Unavailable { url: self.url(), problem: causes(error) }
    }

    /// Reads messages by direct get, which needs no consumer: one request, many answers, then an end.
    async fn direct(
        &self,
        source: &SourceName,
        stream: Stream,
        request: serde_json::Value,
    ) -> Result<Vec<Stored>, BrokerError> {
        let subject = format!("$JS.API.DIRECT.GET.{}", stream.name(source));
        let mut cuts = self.cuts.subscribe();
        let client = self.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| self.unavailable(&error))?;
        let payload = Bytes::from(request.to_string());
        client.publish_with_reply(subject, inbox, payload).await.map_err(|error| self.unavailable(&error))?;
        let mut found = Vec::new();
        loop {
            let answer = tokio::select! {
                biased;
                answer = timeout(ANSWER, answers.next()) => answer.ok().flatten(),
                // What is under way when the connection breaks never comes.
                _ = cuts.changed() => None,
            };
            let answer = answer.ok_or_else(|| self.unanswered())?;
            match answer.status.map(|status| status.as_u16()) {
                None | Some(200) => found.push(self.stored(source, &answer).await?),
                // 204 ends a batch, 404 says that there is nothing.
                Some(204 | 404) => return Ok(found),
                Some(503) => {
                    return match self.extent(source, stream).await? {
                        None => Err(BrokerError::NoSource { source_name: source.clone() }),
                        Some(_) => Err(BrokerError::Unavailable {
                            url: self.url(),
                            problem: "the stream has no leader".into(),
                        }),
                    };
                }
                Some(status) => {
                    let problem = answer.description.map_or_else(|| status.to_string(), |text| text.to_string());
                    return Err(BrokerError::Refused { doing: "read", problem });
                }
            }
        }
    }

    fn config(&self, source: &SourceName, stream: Stream) -> Config {
        let config = Config {
            name: stream.name(source),
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            max_consumers: CONSUMERS_MAX,
            allow_direct: true,
            // The server's own duplicate window is not relied upon; small, so that it costs little memory.
            duplicate_window: Duration::from_secs(1),
            ..Config::default()
        };
        let all = |kind: &str| vec![format!("deltabus.{source}.{kind}.>")];
        match stream {
            Stream::Changes => Config {
                description: Some(format!("deltabus: the log of {source}")),
                subjects: vec![format!("deltabus.{source}.changes")],
                max_age: LOG_AGE,
                max_bytes: LOG_BYTES,
                republish: Some(Republish {
                    source: format!("deltabus.{source}.changes"),
                    destination: format!("deltabus.{source}.live"),
                    headers_only: false,
                }),
                ..config
            },
            Stream::Snapshot => Config {
                description: Some(format!("deltabus: snapshots of {source}")),
                subjects: all("snapshot"),
                max_messages_per_subject: 1,
                allow_atomic_publish: true,
                ..config
            },
            Stream::Reverse => Config {
                description: Some(format!("deltabus: edits on their way back to {source}")),
                subjects: all("reverse"),
                max_age: REVERSE_AGE,
                max_bytes: REVERSE_BYTES,
                ..config
            },
        }
    }
}

impl Link {
    async fn connect(urls: &str, access: &Access, cuts: &watch::Sender<u64>) -> Result<Link, BrokerError> {
        let (urls, in_address) = without_login(urls);
        let unavailable = |problem: String| BrokerError::Unavailable { url: urls.clone(), problem };
        let counted = cuts.clone();
        let left = Arc::new(AtomicBool::new(false));
        let (looking, speaking) = (left.clone(), left.clone());
        let mut options = access
            .options(in_address)
            .await
            .map_err(unavailable)?
            .name("deltabus")
            .connection_timeout(CONNECT)
            .request_timeout(Some(ANSWER))
            .subscription_capacity(SUBSCRIPTION_MESSAGES)
            .reconnect_delay_callback(reconnect_delay)
            .reconnect_to_server_callback(move |_, _| {
                let left = looking.load(Ordering::Relaxed);
                async move { if left { std::future::pending().await } else { None } }
            })
            .event_callback(move |event| {
                let left = speaking.load(Ordering::Relaxed);
                if matches!(event, Event::Disconnected) && !left {
                    counted.send_modify(|cuts| *cuts += 1);
                }
                async move {
                    if !left {
                        log_event(&event);
                    }
                }
            });
        if let Some(inbox) = &access.inbox {
            options = options.custom_inbox_prefix(inbox);
        }
        let addresses: Vec<&str> = urls.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
        let client = options.connect(addresses).await.map_err(|error| unavailable(connect_problem(&error)))?;
        let version = client.server_info().version;
        if !version::serves(&version) {
            return Err(BrokerError::Version { url: urls, version, wanted: version::MIN_TEXT });
        }
        let context =
            jetstream::context::ContextBuilder::new().timeout(ANSWER).ack_timeout(ANSWER).build(client.clone());
        Ok(Link { client, context, url: urls, left })
    }
}

#[async_trait]
impl Broker for JetStream {
    async fn prepare(&self, source: &SourceName) -> Result<(), BrokerError> {
        for stream in Stream::ALL {
            let wanted = self.config(source, stream);
            // A stream that is there may have been given other limits on purpose: it is left alone.
            if self.extent(source, stream).await?.is_some() {
                continue;
            }
            self.create(wanted).await?;
        }
        Ok(())
    }

    async fn sources(&self) -> Result<Vec<SourceName>, BrokerError> {
        let mut names = self.context().stream_names();
        let mut sources = Vec::new();
        while let Some(name) = names.next().await {
            let name = name.map_err(|error| self.unavailable(&error))?;
            if let Some(source) = name.strip_prefix("deltabus_")
                && name_is_changes(&name)
                && let Ok(source) = SourceName::new(source)
            {
                sources.push(source);
            }
        }
        sources.sort();
        Ok(sources)
    }

    async fn extent(&self, source: &SourceName, stream: Stream) -> Result<Option<Extent>, BrokerError> {
        let asked = self.answer(self.context().get_stream(stream.name(source))).await;
        match asked.ok_or_else(|| self.unanswered())? {
            Ok(found) => {
                let info = found.cached_info();
                let state = &info.state;
                Ok(Some(Extent {
                    first: state.first_sequence.max(1),
                    last: state.last_sequence,
                    bytes: state.bytes,
                    bytes_max: u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0),
                }))
            }
            Err(error) => match error.kind() {
                jetstream::context::GetStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(None)
                }
                _ => Err(self.unavailable(&error)),
            },
        }
    }

    async fn append(
        &self,
        source: &SourceName,
        subject: &Subject,
        payload: Bytes,
        expect: Expect,
    ) -> Result<u64, AppendError> {
        let bytes = payload.len();
        if bytes > self.payload_max() {
            return Err(AppendError::TooLarge { bytes });
        }
        let message = PublishMessage::build().headers(self.signed(source, &subject.tail, &payload)).payload(payload);
        let message = match expect {
            Expect::Any => message,
            Expect::Last(sequence) => message.expected_last_sequence(sequence),
            Expect::New => message.expected_last_subject_sequence(0),
            Expect::SubjectLast(sequence) => message.expected_last_subject_sequence(sequence),
        };
        let failed = |error: jetstream::context::PublishError| self.append_error(&error, bytes);
        let stored = async { self.context().send_publish(subject.full(source), message).await?.await };
        let stored = self.answer(stored).await.ok_or(AppendError::Unknown)?.map_err(failed)?;
        Ok(stored.sequence)
    }

    async fn read(
        &self,
        source: &SourceName,
        stream: Stream,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, BrokerError> {
        let request = json!({ "seq": from.max(1), "batch": BATCH_MESSAGES, "max_bytes": bytes_max });
        self.direct(source, stream, request).await
    }

    async fn last(&self, source: &SourceName, subject: &Subject) -> Result<Option<Stored>, BrokerError> {
        self.direct_one(source, subject).await
    }

    async fn read_subject(
        &self,
        source: &SourceName,
        subject: &Subject,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, BrokerError> {
        if self.reading == Reading::Stream {
            let full = subject.full(source);
            let request =
                json!({ "seq": from.max(1), "next_by_subj": full, "batch": BATCH_MESSAGES, "max_bytes": bytes_max });
            return self.direct(source, subject.stream, request).await;
        }
        // A consumer could be made for one subject alone, but also to deliver to any: into a log, for example.
        let last = self.last(source, subject).await?;
        Ok(last.into_iter().filter(|last| last.sequence >= from).collect())
    }

    async fn holds(&self, source: &SourceName, subject: &Subject) -> Result<bool, BrokerError> {
        let api = format!("STREAM.INFO.{}", subject.stream.name(source));
        let full = subject.full(source);
        let request = json!({ "subjects_filter": full });
        let asked = self.answer(self.context().request(api, &request)).await;
        let info: serde_json::Value =
            asked.ok_or_else(|| self.unanswered())?.map_err(|error| self.unavailable(&error))?;
        Ok(info["state"]["subjects"].get(&full).is_some())
    }

    async fn append_contents(&self, source: &SourceName, contents: Vec<(Subject, Bytes)>) -> Result<(), AppendError> {
        let mut rest = contents.as_slice();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(rest.len().min(ATOMIC_MESSAGES));
            rest = after;
            self.append_batch(source, batch).await?;
        }
        Ok(())
    }

    async fn last_of(&self, source: &SourceName, subjects: &[Subject]) -> Result<Vec<Stored>, BrokerError> {
        let Some(first) = subjects.first() else { return Ok(Vec::new()) };
        let full: Vec<String> = subjects.iter().map(|subject| subject.full(source)).collect();
        // Without a batch size the server answers with as many as it likes to.
        let request = json!({ "multi_last": full, "batch": full.len() });
        self.direct(source, first.stream, request).await
    }

    async fn tails(&self, source: &SourceName, stream: Stream, start: &str) -> Result<Vec<String>, BrokerError> {
        let api = format!("STREAM.INFO.{}", stream.name(source));
        let before = format!("deltabus.{source}.");
        let mut tails = Vec::new();
        loop {
            let request = json!({ "subjects_filter": format!("{before}{start}.>"), "offset": tails.len() });
            let asked = self.answer(self.context().request(api.clone(), &request)).await;
            let info: serde_json::Value =
                asked.ok_or_else(|| self.unanswered())?.map_err(|error| self.unavailable(&error))?;
            let page = info["state"]["subjects"].as_object().map(|page| page.keys()).into_iter().flatten();
            let known = tails.len();
            tails.extend(page.filter_map(|full| full.strip_prefix(&before)).map(str::to_owned));
            let total = info["total"].as_u64().unwrap_or_default();
            if tails.len() == known || tails.len() as u64 >= total {
                return Ok(tails);
            }
        }
    }

    async fn follow(&self, source: &SourceName, follow: Follow) -> Result<Box<dyn Live>, BrokerError> {
        // `unstored`: where what comes without being stored is said to be.
        match follow {
            Follow::Changes => self.logs.follow(source, async || self.subscribe(source, LIVE, LIVE).await).await,
            Follow::Reverse => Ok(Box::new(self.subscribe(source, "reverse.*", LIVE).await?)),
            Follow::Words(word) => Ok(Box::new(self.subscribe(source, word.tail(), word.tail()).await?)),
        }
    }

    async fn beat(&self, source: &SourceName, payload: Bytes) -> Result<(), BrokerError> {
        let subject = format!("deltabus.{source}.live");
        let headers = self.signed(source, LIVE, &payload);
        self.client().publish_with_headers(subject, headers, payload).await.map_err(|error| self.unavailable(&error))
    }

    async fn say(&self, source: &SourceName, word: Word, payload: Bytes) -> Result<(), BrokerError> {
        let subject = format!("deltabus.{source}.{}", word.tail());
        let headers = self.signed(source, word.tail(), &payload);
        let client = self.client();
        let said = async {
            client.publish_with_headers(subject, headers, payload).await.map_err(|error| self.unavailable(&error))?;
            // Whoever says its last word ends before a buffer would be written by itself.
            client.flush().await.map_err(|error| self.unavailable(&error))
        };
        self.answer(said).await.ok_or_else(|| self.unanswered())?
    }

    async fn ask(&self, source: &SourceName, question: Bytes) -> Result<Option<Bytes>, BrokerError> {
        let subject = format!("deltabus.{source}.transmitter");
        let headers = self.signed(source, TRANSMITTER, &question);
        let client = self.client();
        let asked = client.request_with_headers(subject, headers, question);
        match timeout(TRANSMITTER_ANSWER, asked).await {
            Err(_) => Ok(None),
            Ok(Ok(answer)) => Ok(Some(answer.payload)),
            Ok(Err(error)) => match error.kind() {
                RequestErrorKind::NoResponders | RequestErrorKind::TimedOut => Ok(None),
                _ => Err(self.unavailable(&error)),
            },
        }
    }

    async fn questions(&self, source: &SourceName) -> Result<Box<dyn Questions>, BrokerError> {
        let (subscriber, moves) = self.listen(source, TRANSMITTER).await?;
        let (source, client, signing) = (source.clone(), self.client(), self.signing.clone());
        Ok(Box::new(Asked { source, client, subscriber, moves, signing }))
    }

    fn payload_max(&self) -> usize {
        // Headers count too; ours are small.
        const HEADERS: usize = 1024;
        self.client().server_info().max_payload.saturating_sub(HEADERS)
    }

    fn url(&self) -> String {
        self.link().url
    }
}

impl JetStream {
    /// Makes a stream. Its limit of bytes counts against the broker's storage as if it were full: where that is not to be
    /// had, less has to do.
    async fn create(&self, mut wanted: Config) -> Result<(), BrokerError> {
        loop {
            let Err(error) = self.context().create_stream(wanted.clone()).await else { return Ok(()) };
            let full = matches!(
                error.kind(),
                jetstream::context::CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STORAGE_RESOURCES_EXCEEDED
            );
            if !full || wanted.max_bytes / 4 < LIMIT_MIN {
                let problem = match full {
                    true => format!("{}; raise `max_file_store` of the server or the account's limit", causes(&error)),
                    false => causes(&error),
                };
                return Err(BrokerError::Refused { doing: "make a stream", problem });
            }
            wanted.max_bytes /= 4;
            tracing::warn!(stream = wanted.name, bytes_max = wanted.max_bytes, "the bus has no room for more");
        }
    }

    /// Stores messages in one batch: synced once, where each on its own would be synced alone.
    async fn append_batch(&self, source: &SourceName, batch: &[(Subject, Bytes)]) -> Result<(), AppendError> {
        if let Some((_, payload)) = batch.iter().find(|(_, payload)| payload.len() > self.payload_max()) {
            return Err(AppendError::TooLarge { bytes: payload.len() });
        }
        let Some(((last, last_payload), first)) = batch.split_last() else { return Ok(()) };
        let client = self.client();
        let inbox = client.new_inbox();
        let id = inbox.rsplit('.').next().unwrap_or(&inbox);
        let headers = |sequence: usize| {
            // Contents: their subjects name their hashes, which is as good as a signature.
            let mut headers = HeaderMap::new();
            headers.insert(NATS_BATCH_ID, id);
            headers.insert(NATS_BATCH_SEQUENCE, sequence.to_string());
            headers
        };
        for (at, (subject, payload)) in first.iter().enumerate() {
            let sent = client.publish_with_headers(subject.full(source), headers(at + 1), payload.clone());
            sent.await.map_err(|error| self.unavailable(&error))?;
        }
        let mut commit = headers(batch.len());
        commit.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        let asked = client.request_with_headers(last.full(source), commit, last_payload.clone());
        // Nobody knows what became of it: the same again does no harm.
        let answer = self.answer(asked).await.ok_or(AppendError::Unknown)?.map_err(|_| AppendError::Unknown)?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)
            .map_err(|error| BrokerError::Refused { doing: "store a batch", problem: error.to_string() })?;
        if let Some(error) = answer.get("error") {
            // A message of it was lost on its way, or a server changed: nothing of the batch is stored.
            let refused = |problem: String| BrokerError::Refused { doing: "store a batch", problem };
            return match error["err_code"].as_u64() {
                Some(BATCH_INCOMPLETE) => Err(AppendError::Unknown),
                _ => Err(refused(error["description"].as_str().unwrap_or("no reason given").to_owned()).into()),
            };
        }
        Ok(())
    }

    /// The last message of a subject by direct get, in the form that can be allowed for one subject.
    async fn direct_one(&self, source: &SourceName, subject: &Subject) -> Result<Option<Stored>, BrokerError> {
        let stream = subject.stream;
        let api = format!("$JS.API.DIRECT.GET.{}.{}", stream.name(source), subject.full(source));
        let asked = self.answer(self.client().request(api, Bytes::new())).await;
        let answer = match asked.ok_or_else(|| self.unanswered())? {
            Ok(answer) => answer,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                return match self.extent(source, stream).await? {
                    None => Err(BrokerError::NoSource { source_name: source.clone() }),
                    Some(_) => Err(self.unavailable(&error)),
                };
            }
            Err(error) => return Err(self.unavailable(&error)),
        };
        match answer.status.map(|status| status.as_u16()) {
            Some(404) => Ok(None),
            Some(status) if status != 200 => {
                let problem = answer.description.map_or_else(|| status.to_string(), |text| text.to_string());
                Err(BrokerError::Refused { doing: "read", problem })
            }
            _ => Ok(Some(self.stored(source, &answer).await?)),
        }
    }
}

impl JetStream {
    /// A subscription that stands, and what tells that the broker has moved since, which ends it.
    async fn listen(&self, source: &SourceName, tail: &str) -> Result<(Subscriber, watch::Receiver<u64>), BrokerError> {
        let subject = format!("deltabus.{source}.{tail}");
        // In this order: what moves in between ends the subscription.
        let moves = self.moves.subscribe();
        let client = self.client();
        let subscriber = client.subscribe(subject).await.map_err(|error| self.unavailable(&error))?;
        // It must stand before the log's end is looked at.
        client.flush().await.map_err(|error| self.unavailable(&error))?;
        Ok((subscriber, moves))
    }

    async fn subscribe(
        &self,
        source: &SourceName,
        tail: &str,
        unstored: &'static str,
    ) -> Result<Following, BrokerError> {
        let (subscriber, moves) = self.listen(source, tail).await?;
        Ok(Following { source: source.clone(), unstored, subscriber, moves, signing: self.signing.clone() })
    }

    /// The headers of a message: its signature, where there are signatures.
    fn signed(&self, source: &SourceName, tail: &str, payload: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(signing) = &self.signing {
            signing.sign(source, tail, payload, &mut headers);
        }
        headers
    }

    /// A stored message from its direct get answer.
    async fn stored(&self, source: &SourceName, message: &async_nats::Message) -> Result<Stored, BrokerError> {
        let place = Place::of(source, message).ok_or_else(|| BrokerError::Refused {
            doing: "read",
            problem: "a stored message came without its sequence".into(),
        })?;
        let unknown = |problem| BrokerError::Unavailable { url: self.url(), problem };
        place.stored(source, message, self.signing.as_ref()).await.map_err(unknown)
    }
}

/// Where a message is stored, and since when, as the server says.
struct Place {
    sequence: u64,
    tail: String,
    millis: u64,
}

impl Place {
    /// From the headers of a direct get answer or a republished copy.
    fn of(source: &SourceName, message: &async_nats::Message) -> Option<Place> {
        let headers = message.headers.as_ref()?;
        let sequence = last_value(headers, "Nats-Sequence")?.parse().ok()?;
        let subject = last_value(headers, "Nats-Subject")?;
        let tail = tail_of(source, subject)?;
        let time = last_value(headers, "Nats-Time-Stamp").and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let millis =
            time.and_then(|time| u64::try_from(time.as_millisecond()).ok()).unwrap_or_else(|| SystemClock.now_millis());
        Some(Place { sequence, tail: tail.to_owned(), millis })
    }

    /// The message there, if it is to be believed; an error: nobody can say.
    async fn stored(
        self,
        source: &SourceName,
        message: &async_nats::Message,
        signing: Option<&Signing>,
    ) -> Result<Stored, String> {
        let Place { sequence, tail, millis } = self;
        let payload = match signing {
            Some(signing) => signing.checked(source, &tail, message, millis).await?,
            // A copy: the client's payloads are slices of a large read buffer that they would keep alive.
            None => Bytes::copy_from_slice(&message.payload),
        };
        Ok(Stored { sequence, tail, payload })
    }
}

fn tail_of<'a>(source: &SourceName, subject: &'a str) -> Option<&'a str> {
    subject.strip_prefix("deltabus.")?.strip_prefix(source.as_str())?.strip_prefix('.')
}

struct Following {
    source: SourceName,
    unstored: &'static str,
    subscriber: Subscriber,
    signing: Option<Signing>,
    moves: watch::Receiver<u64>,
}

#[async_trait]
impl Live for Following {
    async fn next(&mut self) -> Option<Hint> {
        loop {
            let message = until_moved(&mut self.subscriber, &mut self.moves).await?;
            let hint = match Place::of(&self.source, &message) {
                Some(place) => place.stored(&self.source, &message, self.signing.as_ref()).await.map(Hint::Stored),
                None => match &self.signing {
                    None => Ok(Hint::Beat(Bytes::copy_from_slice(&message.payload))),
                    Some(signing) => {
                        let now = SystemClock.now_millis();
                        signing.checked(&self.source, self.unstored, &message, now).await.map(Hint::Beat)
                    }
                },
            };
            // It was only a hint: what nobody can judge now is read from the store later.
            if let Ok(hint) = hint {
                return Some(hint);
            }
        }
    }
}

struct Asked {
    source: SourceName,
    client: Client,
    subscriber: Subscriber,
    signing: Option<Signing>,
    moves: watch::Receiver<u64>,
}

/// The next message, until the broker has moved.
async fn until_moved(subscriber: &mut Subscriber, moves: &mut watch::Receiver<u64>) -> Option<async_nats::Message> {
    tokio::select! {
        biased;
        _ = moves.changed() => None,
        message = subscriber.next() => message,
    }
}

struct AskedOne {
    client: Client,
    message: async_nats::Message,
}

#[async_trait]
impl Questions for Asked {
    async fn next(&mut self) -> Option<Box<dyn Question>> {
        loop {
            let mut message = until_moved(&mut self.subscriber, &mut self.moves).await?;
            if let Some(signing) = &self.signing {
                match signing.checked(&self.source, TRANSMITTER, &message, SystemClock.now_millis()).await {
                    Ok(payload) if payload != UNTRUSTED => message.payload = payload,
                    // Whoever asked asks again.
                    _ => continue,
                }
            }
            return Some(Box::new(AskedOne { client: self.client.clone(), message }));
        }
    }
}

#[async_trait]
impl Question for AskedOne {
    fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    async fn answer(self: Box<Self>, answer: Bytes) {
        if let Some(reply) = self.message.reply.clone() {
            // Whoever asked may be gone.
            let _ = self.client.publish(reply, answer).await;
            let _ = self.client.flush().await;
        }
    }
}

/// Why no connection came to be.
fn connect_problem(error: &ConnectError) -> String {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => {
            "it doesn't let us in with this login (credentials, password or token)".into()
        }
        _ => deltabus_certificates::explain(error).unwrap_or_else(|| causes(error)),
    }
}

fn name_is_changes(name: &str) -> bool {
    !name.ends_with("_SNAPSHOT") && !name.ends_with("_REVERSE")
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = RECONNECT_MIN.saturating_mul(1 << attempts.min(10) as u32).min(RECONNECT_MAX);
    // Anything that differs from process to process will do.
    let noise = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.subsec_nanos().wrapping_mul(std::process::id() | 1));
    doubled.mul_f64(0.5 + f64::from(noise % 1000) / 2000.0)
}

fn log_event(event: &Event) {
    match event {
        Event::Connected => {
            metrics::counter!(figures::CONNECTS).increment(1);
            metrics::gauge!(figures::UP).set(1.0);
            tracing::debug!("connected to the bus");
        }
        Event::Disconnected => {
            metrics::counter!(figures::DISCONNECTS).increment(1);
            metrics::gauge!(figures::UP).set(0.0);
            tracing::warn!("the bus is gone; trying to reach it again");
        }
        Event::SlowConsumer(_) => tracing::debug!("a subscription lost messages; they are read from the log"),
        Event::ServerError(error) => tracing::warn!(%error, "the bus reports an error"),
        Event::ClientError(error) => tracing::debug!(%error, "the bus client reports an error"),
        event => tracing::debug!(%event, "the bus client reports something"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnects_wait_longer_each_time_within_bounds() {
        for attempt in 0..100 {
            let delay = reconnect_delay(attempt);
            assert!(delay >= RECONNECT_MIN / 2 && delay <= RECONNECT_MAX);
        }
    }
}
