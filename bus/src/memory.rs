//! The memory bus: a broker inside this process, for tests and simulation.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use deltabus_record::schema::SourceName;
use tokio::sync::{mpsc, oneshot};

use crate::broker::{
    AppendError, Broker, BrokerError, Expect, Extent, Follow, Hint, Live, Question, Questions, SUBJECTS_MAX, Stored,
    Stream, Subject, Word,
};

/// As nats-server's default, so that parts are tried too.
const PAYLOAD_MAX: usize = 1024 * 1024;

/// How many live messages wait for a slow follower before further ones are lost to it.
const LIVE_MAX: usize = 1024;

/// What goes wrong next; scripted by tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next append is stored, but its acknowledgement is lost.
    LoseAck,
    /// The next append is lost on its way.
    LoseAppend,
    /// The next append is on its way until [`MemoryBroker::arrive`], and nobody answers.
    LateAppend,
    /// The next append is refused.
    Refuse,
    /// The next live message is lost to all followers.
    LoseLive,
    /// The next live message comes twice.
    RepeatLive,
    /// The next live message comes only after the one that follows it.
    DelayLive,
}

/// A broker in memory. Cloning gives another handle to the same.
#[derive(Clone, Default)]
pub struct MemoryBroker {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    streams: HashMap<(SourceName, Stream), Messages>,
    followers: Vec<(SourceName, Follow, mpsc::Sender<Hint>)>,
    questions: Vec<(SourceName, mpsc::Sender<MemoryQuestion>)>,
    faults: VecDeque<Fault>,
    late: Vec<(SourceName, Subject, Bytes, Expect)>,
    delayed: Vec<(SourceName, Follow, Hint)>,
    unavailable: bool,
}

/// The messages of one stream.
#[derive(Default)]
struct Messages {
    stored: BTreeMap<u64, Stored>,
    last: u64,
    /// The last sequence of each subject, for streams that keep only that.
    subjects: HashMap<String, u64>,
}

impl Messages {
    /// Sequence of the last message of a subject; 0: none.
    fn subject_last(&self, subject: &Subject) -> u64 {
        match subject.stream {
            Stream::Snapshot => self.subjects.get(&subject.tail).copied().unwrap_or(0),
            Stream::Changes | Stream::Reverse => {
                let found = self.stored.values().rev().find(|stored| stored.tail == subject.tail);
                found.map_or(0, |stored| stored.sequence)
            }
        }
    }

    fn store(&mut self, subject: &Subject, payload: Bytes) -> Stored {
        self.last += 1;
        let stored = Stored { sequence: self.last, tail: subject.tail.clone(), payload };
        if subject.stream == Stream::Snapshot
            && let Some(before) = self.subjects.insert(subject.tail.clone(), self.last)
        {
            self.stored.remove(&before);
        }
        self.stored.insert(self.last, stored.clone());
        stored
    }

    /// Keeps only what `kept` says.
    fn retain(&mut self, kept: impl Fn(u64) -> bool) {
        self.stored.retain(|sequence, _| kept(*sequence));
        self.subjects.retain(|_, sequence| kept(*sequence));
    }
}

impl MemoryBroker {
    /// An empty one.
    pub fn new() -> MemoryBroker {
        MemoryBroker::default()
    }

    /// Lets something go wrong, after what was scripted before.
    pub fn script(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// Forgets what was scripted and hasn't happened.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Lets the appends arrive that are late; those that expect what no longer holds are not stored.
    pub fn arrive(&self) {
        let mut state = self.state();
        for (source, subject, payload, expect) in std::mem::take(&mut state.late) {
            let _ = state.append(&source, &subject, payload, expect);
        }
    }

    /// Cuts everybody off, or lets them come back.
    pub fn set_available(&self, available: Availability) {
        self.state().unavailable = available == Availability::Down;
    }

    /// Forgets the messages of a stream before `first`, as limits do.
    pub fn trim(&self, source: &SourceName, stream: Stream, first: u64) {
        if let Some(messages) = self.state().streams.get_mut(&(source.clone(), stream)) {
            messages.retain(|sequence| sequence >= first);
        }
    }

    /// Loses the messages of a stream after `last`, as a power cut does.
    pub fn cut(&self, source: &SourceName, stream: Stream, last: u64) {
        if let Some(messages) = self.state().streams.get_mut(&(source.clone(), stream)) {
            messages.retain(|sequence| sequence <= last);
            messages.last = messages.last.min(last);
        }
    }

    /// Loses a source altogether.
    pub fn lose(&self, source: &SourceName) {
        self.state().streams.retain(|(name, _), _| name != source);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, BrokerError> {
        let state = self.state();
        if state.unavailable {
            return Err(BrokerError::Unavailable { url: self.url(), problem: "cut off".into() });
        }
        Ok(state)
    }
}

/// Whether a memory broker can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Up,
    /// It can't.
    Down,
}

impl State {
    fn take(&mut self, fault: Fault) -> bool {
        match self.faults.front() {
            Some(next) if *next == fault => self.faults.pop_front().is_some(),
            _ => false,
        }
    }

    fn messages(&mut self, source: &SourceName, stream: Stream) -> Result<&mut Messages, BrokerError> {
        self.streams
            .get_mut(&(source.clone(), stream))
            .ok_or_else(|| BrokerError::NoSource { source_name: source.clone() })
    }

    /// Stores a message if what it expects holds.
    fn append(
        &mut self,
        source: &SourceName,
        subject: &Subject,
        payload: Bytes,
        expect: Expect,
    ) -> Result<u64, AppendError> {
        let messages = self.messages(source, subject.stream)?;
        let held = match expect {
            Expect::Any => true,
            Expect::Last(last) => messages.last == last,
            Expect::New => messages.subject_last(subject) == 0,
            Expect::SubjectLast(last) => messages.subject_last(subject) == last,
        };
        if !held {
            return Err(AppendError::Conflict);
        }
        let stored = messages.store(subject, payload);
        let sequence = stored.sequence;
        match subject.stream {
            Stream::Changes => self.tell(source, Follow::Changes, &Hint::Stored(stored)),
            Stream::Reverse => self.tell(source, Follow::Reverse, &Hint::Stored(stored)),
            Stream::Snapshot => {}
        }
        Ok(sequence)
    }

    fn tell(&mut self, source: &SourceName, follow: Follow, hint: &Hint) {
        if self.take(Fault::LoseLive) {
            return;
        }
        if self.take(Fault::DelayLive) {
            self.delayed.push((source.clone(), follow, hint.clone()));
            return;
        }
        let times = if self.take(Fault::RepeatLive) { 2 } else { 1 };
        self.send(source, follow, hint, times);
        for (source, follow, hint) in std::mem::take(&mut self.delayed) {
            self.send(&source, follow, &hint, 1);
        }
    }

    fn send(&mut self, source: &SourceName, follow: Follow, hint: &Hint, times: usize) {
        self.followers.retain(|(_, _, sender)| !sender.is_closed());
        for (_, _, sender) in self.followers.iter().filter(|(name, what, _)| name == source && *what == follow) {
            for _ in 0..times {
                // A slow follower loses messages, as with a real broker.
                let _ = sender.try_send(hint.clone());
            }
        }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn prepare(&self, source: &SourceName) -> Result<(), BrokerError> {
        let mut state = self.up()?;
        for stream in Stream::ALL {
            state.streams.entry((source.clone(), stream)).or_default();
        }
        Ok(())
    }

    async fn sources(&self) -> Result<Vec<SourceName>, BrokerError> {
        let state = self.up()?;
        let mut sources: Vec<_> = state.streams.keys().map(|(source, _)| source.clone()).collect();
        sources.sort();
        sources.dedup();
        Ok(sources)
    }

    async fn extent(&self, source: &SourceName, stream: Stream) -> Result<Option<Extent>, BrokerError> {
        let state = self.up()?;
        Ok(state.streams.get(&(source.clone(), stream)).map(|messages| Extent {
            first: messages.stored.keys().next().copied().unwrap_or(messages.last + 1),
            last: messages.last,
            bytes: messages.stored.values().map(|stored| stored.payload.len() as u64).sum(),
            bytes_max: None,
        }))
    }

    async fn append(
        &self,
        source: &SourceName,
        subject: &Subject,
        payload: Bytes,
        expect: Expect,
    ) -> Result<u64, AppendError> {
        if payload.len() > PAYLOAD_MAX {
            return Err(AppendError::TooLarge { bytes: payload.len() });
        }
        let mut state = self.up()?;
        if state.take(Fault::LoseAppend) {
            return Err(AppendError::Unknown);
        }
        if state.take(Fault::LateAppend) {
            state.late.push((source.clone(), subject.clone(), payload, expect));
            return Err(AppendError::Unknown);
        }
        if state.take(Fault::Refuse) {
            let problem = "scripted".into();
            return Err(AppendError::Broker(BrokerError::Refused { doing: "store a message", problem }));
        }
        let lose_ack = state.take(Fault::LoseAck);
        let sequence = state.append(source, subject, payload, expect)?;
        if lose_ack { Err(AppendError::Unknown) } else { Ok(sequence) }
    }

    async fn read(
        &self,
        source: &SourceName,
        stream: Stream,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, BrokerError> {
        let mut state = self.up()?;
        let messages = state.messages(source, stream)?;
        let mut bytes = 0;
        let mut found = Vec::new();
        for stored in messages.stored.range(from..).map(|(_, stored)| stored) {
            if bytes > 0 && bytes + stored.payload.len() > bytes_max {
                break;
            }
            bytes += stored.payload.len();
            found.push(stored.clone());
        }
        Ok(found)
    }

    async fn read_subject(
        &self,
        source: &SourceName,
        subject: &Subject,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, BrokerError> {
        let mut state = self.up()?;
        let messages = state.messages(source, subject.stream)?;
        let mut bytes = 0;
        let of_subject = messages.stored.range(from..).filter(|(_, stored)| stored.tail == subject.tail);
        let fits = of_subject.take_while(|(_, stored)| {
            let fits = bytes == 0 || bytes + stored.payload.len() <= bytes_max;
            bytes += stored.payload.len();
            fits
        });
        Ok(fits.map(|(_, stored)| stored.clone()).collect())
    }

    async fn last(&self, source: &SourceName, subject: &Subject) -> Result<Option<Stored>, BrokerError> {
        let mut state = self.up()?;
        let messages = state.messages(source, subject.stream)?;
        Ok(messages.stored.get(&messages.subject_last(subject)).cloned())
    }

    async fn holds(&self, source: &SourceName, subject: &Subject) -> Result<bool, BrokerError> {
        Ok(self.last(source, subject).await?.is_some())
    }

    async fn append_contents(&self, source: &SourceName, contents: Vec<(Subject, Bytes)>) -> Result<(), AppendError> {
        for (subject, payload) in contents {
            match self.append(source, &subject, payload, Expect::New).await {
                Ok(_) | Err(AppendError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn last_of(&self, source: &SourceName, subjects: &[Subject]) -> Result<Vec<Stored>, BrokerError> {
        let mut found = Vec::new();
        for subject in subjects.iter().take(SUBJECTS_MAX) {
            found.extend(self.last(source, subject).await?);
        }
        Ok(found)
    }

    async fn tails(&self, source: &SourceName, stream: Stream, start: &str) -> Result<Vec<String>, BrokerError> {
        let mut state = self.up()?;
        let messages = state.messages(source, stream)?;
        let below = |tail: &str| tail.strip_prefix(start).is_some_and(|rest| rest.starts_with('.'));
        let tails: BTreeSet<&str> = messages.stored.values().map(|stored| stored.tail.as_str()).collect();
        Ok(tails.into_iter().filter(|tail| below(tail)).map(str::to_owned).collect())
    }

    async fn follow(&self, source: &SourceName, follow: Follow) -> Result<Box<dyn Live>, BrokerError> {
        let (sender, receiver) = mpsc::channel(LIVE_MAX);
        self.up()?.followers.push((source.clone(), follow, sender));
        Ok(Box::new(MemoryLive { receiver }))
    }

    async fn beat(&self, source: &SourceName, payload: Bytes) -> Result<(), BrokerError> {
        self.up()?.tell(source, Follow::Changes, &Hint::Beat(payload));
        Ok(())
    }

    async fn say(&self, source: &SourceName, word: Word, payload: Bytes) -> Result<(), BrokerError> {
        // Nothing scripted for what is live is meant for words: they are beside all that the log promises.
        self.up()?.send(source, Follow::Words(word), &Hint::Beat(payload), 1);
        Ok(())
    }

    async fn ask(&self, source: &SourceName, question: Bytes) -> Result<Option<Bytes>, BrokerError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.up()?;
            state.questions.retain(|(_, questions)| !questions.is_closed());
            // Everybody is asked, and the first to answer is heard; nobody answers once all have dropped the question.
            let question = MemoryQuestion { payload: question, answer: Arc::new(Mutex::new(Some(sender))) };
            for (_, questions) in state.questions.iter().filter(|(name, _)| name == source) {
                let _ = questions.try_send(question.clone());
            }
        }
        Ok(receiver.await.ok())
    }

    async fn questions(&self, source: &SourceName) -> Result<Box<dyn Questions>, BrokerError> {
        let (sender, receiver) = mpsc::channel(LIVE_MAX);
        self.up()?.questions.push((source.clone(), sender));
        Ok(Box::new(MemoryQuestions { receiver }))
    }

    fn payload_max(&self) -> usize {
        PAYLOAD_MAX
    }

    fn url(&self) -> String {
        "memory".into()
    }
}

struct MemoryLive {
    receiver: mpsc::Receiver<Hint>,
}

#[async_trait]
impl Live for MemoryLive {
    async fn next(&mut self) -> Option<Hint> {
        self.receiver.recv().await
    }
}

#[derive(Clone)]
struct MemoryQuestion {
    payload: Bytes,
    answer: Arc<Mutex<Option<oneshot::Sender<Bytes>>>>,
}

#[async_trait]
impl Question for MemoryQuestion {
    fn payload(&self) -> &Bytes {
        &self.payload
    }

    async fn answer(self: Box<Self>, answer: Bytes) {
        let sender = self.answer.lock().expect("no holder of this lock panics").take();
        // Whoever asked may have given up.
        let _ = sender.map(|sender| sender.send(answer));
    }
}

struct MemoryQuestions {
    receiver: mpsc::Receiver<MemoryQuestion>,
}

#[async_trait]
impl Questions for MemoryQuestions {
    async fn next(&mut self) -> Option<Box<dyn Question>> {
        let question = self.receiver.recv().await?;
        Some(Box::new(question))
    }
}
