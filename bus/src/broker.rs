//! What a log needs of a broker: streams that store messages in order.

use async_trait::async_trait;
use bytes::Bytes;
use deltabus_record::schema::SourceName;

/// The three streams of a source, split by how long their messages live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The log proper: claims, foundations, change sets. One writer; oldest go first by age and size.
    Changes,
    /// Snapshot parts, the pointer, chunks of large values: the last message of each subject stays.
    Snapshot,
    /// Reverse sets of all receivers.
    Reverse,
}

impl Stream {
    /// All of them.
    pub const ALL: [Stream; 3] = [Stream::Changes, Stream::Snapshot, Stream::Reverse];

    /// The stream's name on the broker. Capitals keep it apart from any source's name.
    pub fn name(self, source: &SourceName) -> String {
        match self {
            Stream::Changes => format!("deltabus_{source}"),
            Stream::Snapshot => format!("deltabus_{source}_SNAPSHOT"),
            Stream::Reverse => format!("deltabus_{source}_REVERSE"),
        }
    }

    /// From [`Stream::name`]; `None` for any other stream.
    pub fn named(name: &str) -> Option<(SourceName, Stream)> {
        let name = name.strip_prefix("deltabus_")?;
        let (source, stream) = match (name.strip_suffix("_SNAPSHOT"), name.strip_suffix("_REVERSE")) {
            (Some(source), _) => (source, Stream::Snapshot),
            (_, Some(source)) => (source, Stream::Reverse),
            _ => (name, Stream::Changes),
        };
        Some((SourceName::new(source).ok()?, stream))
    }
}

/// The subject of a message, below `deltabus.<source>.`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The stream that stores it.
    pub stream: Stream,
    /// What follows the source's name: `changes`, `snapshot.pointer`, `reverse.oslo` …
    pub tail: String,
}

impl Subject {
    /// Where change sets go.
    pub fn changes() -> Subject {
        Subject { stream: Stream::Changes, tail: "changes".into() }
    }

    /// Something below `snapshot.`.
    pub fn snapshot(tail: &str) -> Subject {
        Subject { stream: Stream::Snapshot, tail: format!("snapshot.{tail}") }
    }

    /// The reverse sets of a receiver.
    pub fn reverse(receiver: &deltabus_record::schema::ReceiverName) -> Subject {
        Subject { stream: Stream::Reverse, tail: format!("reverse.{receiver}") }
    }

    /// The whole subject.
    pub fn full(&self, source: &SourceName) -> String {
        format!("deltabus.{source}.{}", self.tail)
    }
}

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the stream: 1, 2, 3 … in the order of storing.
    pub sequence: u64,
    /// The subject below `deltabus.<source>.`.
    pub tail: String,
    /// What was published.
    pub payload: Bytes,
}

/// What must hold for a message to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The stream's last message has this sequence (0: none was ever stored).
    Last(u64),
    /// The subject has no message yet.
    New,
    /// The subject's last message has this sequence (0: it has none).
    SubjectLast(u64),
}

/// Which messages of a stream are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Extent {
    /// The first sequence that is still there; the next one to come where the stream is empty.
    pub first: u64,
    /// The last sequence ever stored.
    pub last: u64,
    /// How many bytes are stored.
    pub bytes: u64,
    /// How many may be before the oldest go; `None`: no limit.
    pub bytes_max: Option<u64>,
}

/// Why a message was not stored, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// What was expected doesn't hold.
    #[error("the stream has moved on")]
    Conflict,
    /// Nobody answered; it may be stored or not.
    #[error("the bus did not answer; its log may say why (a full disk, too much load)")]
    Unknown,
    /// It is larger than the broker takes.
    #[error("{bytes} bytes are more than the broker takes in one message")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// It was not stored, for another reason.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// What went wrong with a broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It can't be reached; it may come back.
    #[error("the bus at {url} can't be reached: {problem}")]
    Unavailable {
        /// Where it should be.
        url: String,
        /// What happened.
        problem: String,
    },
    /// It is too old.
    #[error("the bus at {url} is nats-server {version}; deltabus needs {wanted} or newer")]
    Version {
        /// Where it is.
        url: String,
        /// What it is.
        version: String,
        /// What is needed.
        wanted: &'static str,
    },
    /// It refuses.
    #[error("the bus refused to {doing}: {problem}")]
    Refused {
        /// What was to be done.
        doing: &'static str,
        /// What it said.
        problem: String,
    },
    /// There is no such source on it.
    #[error("the bus has no source `{source_name}`; start `deltabus transmit {source_name} …` first")]
    NoSource {
        /// The source.
        source_name: SourceName,
    },
}

impl BrokerError {
    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, BrokerError::Unavailable { .. })
    }
}

/// Messages that come by themselves; a hint only: they may be lost, repeated or out of order.
#[async_trait]
pub trait Live: Send {
    /// The next one; `None` when the broker has ended the subscription. Cancel safe.
    async fn next(&mut self) -> Option<Hint>;
}

/// One message that came by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A stored message.
    Stored(Stored),
    /// A heartbeat of the transmitter, or anything else that isn't stored.
    Beat(Bytes),
}

/// What a subscription follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Stored change sets as the stream republishes them, and heartbeats between.
    Changes,
    /// Reverse sets as they are published; only to know that there is something to read.
    Reverse,
    /// What is said and not stored.
    Words(Word),
}

/// What is said on a source's subjects, to whoever listens at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// How do you all stand?
    Call,
    /// How a receiver stands.
    Standing,
}

impl Word {
    /// The subject below `deltabus.<source>.`.
    pub fn tail(self) -> &'static str {
        match self {
            Word::Call => "call",
            Word::Standing => "standing",
        }
    }
}

/// A question to a source's transmitter.
#[async_trait]
pub trait Question: Send {
    /// What is asked.
    fn payload(&self) -> &Bytes;
    /// Answers it.
    async fn answer(self: Box<Self>, answer: Bytes);
}

/// Questions as they come.
#[async_trait]
pub trait Questions: Send {
    /// The next one; `None` when the broker has ended the subscription. Cancel safe.
    async fn next(&mut self) -> Option<Box<dyn Question>>;
}

/// How many subjects may be asked for at once: as many answers as a client's subscription holds.
pub const SUBJECTS_MAX: usize = 256;

/// A broker, at the level of messages. JetStream and the memory bus implement it and pass one conformance suite.
///
/// Stored messages are never reordered; sequences of a stream have no holes except where old messages went (`Changes`) or
/// a subject got a newer one (`Snapshot`). All methods may be called concurrently; none retries by itself.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Makes or updates the streams of a source; harmless when they are there.
    async fn prepare(&self, source: &SourceName) -> Result<(), BrokerError>;

    /// The sources that have streams.
    async fn sources(&self) -> Result<Vec<SourceName>, BrokerError>;

    /// What a stream holds; `None` where there is no stream.
    async fn extent(&self, source: &SourceName, stream: Stream) -> Result<Option<Extent>, BrokerError>;

    /// Stores a message and gives its sequence, once it is stored durably as far as the broker is set up to.
    async fn append(
        &self,
        source: &SourceName,
        subject: &Subject,
        payload: Bytes,
        expect: Expect,
    ) -> Result<u64, AppendError>;

    /// Stored messages from sequence `from` on, in order, as many as fit in about `bytes_max`; empty at the end.
    async fn read(
        &self,
        source: &SourceName,
        stream: Stream,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, BrokerError>;

    /// The last message of a subject.
    async fn last(&self, source: &SourceName, subject: &Subject) -> Result<Option<Stored>, BrokerError>;

    /// The messages of one subject from sequence `from` on, in order, as many as fit in about `bytes_max`; empty at the end. Whoever
    /// may see just that subject gets only its last one.
    async fn read_subject(
        &self,
        source: &SourceName,
        subject: &Subject,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, BrokerError>;

    /// Whether a subject has a message, without fetching it.
    async fn holds(&self, source: &SourceName, subject: &Subject) -> Result<bool, BrokerError>;

    /// Stores messages whose subjects name their content, so that one which is there already is the same: it may be left
    /// or stored again. When this returns, all are stored; after an error, any of them may be.
    async fn append_contents(&self, source: &SourceName, contents: Vec<(Subject, Bytes)>) -> Result<(), AppendError>;

    /// The last messages of at most [`SUBJECTS_MAX`] subjects of one stream, in any order; those that have none are missing.
    async fn last_of(&self, source: &SourceName, subjects: &[Subject]) -> Result<Vec<Stored>, BrokerError>;

    /// The tails of all subjects of a stream that begin with `start` (whole tokens: `snapshot.chunk`) and have a message.
    async fn tails(&self, source: &SourceName, stream: Stream, start: &str) -> Result<Vec<String>, BrokerError>;

    /// Subscribes to what comes by itself.
    async fn follow(&self, source: &SourceName, follow: Follow) -> Result<Box<dyn Live>, BrokerError>;

    /// Tells all followers of a source's changes something that isn't stored.
    async fn beat(&self, source: &SourceName, payload: Bytes) -> Result<(), BrokerError>;

    /// Says a word to whoever listens to such words ([`Follow::Words`]).
    async fn say(&self, source: &SourceName, word: Word, payload: Bytes) -> Result<(), BrokerError>;

    /// Asks a source's transmitter; `None` if there is none, or it doesn't answer in time.
    async fn ask(&self, source: &SourceName, question: Bytes) -> Result<Option<Bytes>, BrokerError>;

    /// Answers such questions from now on.
    async fn questions(&self, source: &SourceName) -> Result<Box<dyn Questions>, BrokerError>;

    /// The largest payload of one message, in bytes.
    fn payload_max(&self) -> usize;

    /// Where it is, for messages.
    fn url(&self) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streams_name_says_whose_and_which_it_is() {
        let source = SourceName::new("a_b-1").expect("it is a name");
        for stream in Stream::ALL {
            assert_eq!(Stream::named(&stream.name(&source)), Some((source.clone(), stream)));
        }
        for other in ["deltabus_", "deltabus_A", "deltabus_a_OTHER", "KV_deltabus", "a"] {
            assert_eq!(Stream::named(other), None, "{other}");
        }
    }
}
