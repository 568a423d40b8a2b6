//! A process's line to the bus, with all that can go wrong on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use deltabus_bus::broker::{
    AppendError, Broker, BrokerError, Expect, Extent, Follow, Hint, Live, Question, Questions, Stored, Stream, Subject,
    Word,
};
use deltabus_bus::memory::MemoryBroker;
use deltabus_record::schema::SourceName;
use tokio::time::{sleep, timeout};

use crate::chronicle::Chronicle;
use crate::fault::Fault;
use crate::life::Life;
use crate::world::lock;

/// After this long a client gives a question up.
const ANSWER: Duration = Duration::from_secs(2);

/// One life's line to the bus.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) bus: MemoryBroker,
    pub(crate) life: Arc<Life>,
    pub(crate) chronicle: Arc<Chronicle>,
    /// A part of a snapshot was read: whoever does so joins.
    pub(crate) joins: Arc<AtomicBool>,
    /// Until when the process is cut off, in milliseconds.
    pub(crate) cut_until: Arc<Mutex<u64>>,
}

/// Whether others may go on meanwhile. Contents of large values are asked for in the middle of work that blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Time,
    NoTime,
}

impl Takes {
    fn of(subject: &Subject) -> Takes {
        let content = ["snapshot.chunk.", "snapshot.value."].iter().any(|start| subject.tail.starts_with(start));
        if content { Takes::NoTime } else { Takes::Time }
    }
}

impl Line {
    fn is_cut(&self) -> bool {
        self.life.world.millis() < *lock(&self.cut_until)
    }

    fn unavailable(&self, problem: &str) -> BrokerError {
        BrokerError::Unavailable { url: "the bus".into(), problem: problem.into() }
    }

    async fn die_at(&self, fault: Fault, takes: Takes) {
        match takes {
            Takes::Time => self.life.may_die_waiting(fault).await,
            Takes::NoTime => self.life.may_die(fault),
        }
    }

    /// A question to the bus, which may not get there.
    async fn ask_for<T>(
        &self,
        what: impl Fn() -> String,
        takes: Takes,
        answer: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        self.reach(&what, takes).await?;
        let answer = answer.await;
        self.die_at(Fault::CrashAfterBus, takes).await;
        answer
    }

    async fn reach(&self, what: &impl Fn() -> String, takes: Takes) -> Result<(), BrokerError> {
        self.die_at(Fault::CrashBeforeBus, takes).await;
        if takes == Takes::Time {
            sleep(self.life.world.delay()).await;
            if self.life.strikes(Fault::SlowBus) {
                sleep(Duration::from_millis(500 + self.life.world.below(Fault::SlowBus, 20_000))).await;
            }
        }
        if self.is_cut() {
            if takes == Takes::Time {
                sleep(ANSWER).await;
            }
            self.life.note(|| format!("{}: cut off", what()));
            return Err(self.unavailable("cut off"));
        }
        if self.life.strikes(Fault::BusError) {
            self.life.note(|| format!("{}: no answer", what()));
            return Err(self.unavailable("no answer"));
        }
        Ok(())
    }

    /// Stores a message and lets the chronicle know.
    async fn store(
        bus: &MemoryBroker,
        chronicle: &Chronicle,
        source: &SourceName,
        subject: &Subject,
        payload: Bytes,
        expect: Expect,
    ) -> Result<u64, AppendError> {
        let stored = bus.append(source, subject, payload.clone(), expect).await;
        if stored.is_ok() {
            chronicle.stored(subject, &payload);
        }
        stored
    }

    async fn append_once(
        &self,
        source: &SourceName,
        subject: &Subject,
        payload: Bytes,
        expect: Expect,
        takes: Takes,
    ) -> Result<u64, AppendError> {
        let life = &self.life;
        let what = || format!("stores {} of {} bytes, {}", subject.tail, payload.len(), show_expect(expect));
        match self.reach(&what, takes).await {
            Ok(()) => {}
            // Whether it had been sent before the line broke, nobody can tell.
            Err(_) if life.world.below(Fault::CutOff, 2) == 0 => return Err(AppendError::Unknown),
            Err(error) => return Err(error.into()),
        }
        if life.strikes(Fault::LoseAppend) {
            life.note(what);
            return Err(AppendError::Unknown);
        }
        if takes == Takes::Time && life.strikes(Fault::LateAppend) {
            life.note(what);
            let (bus, chronicle) = (self.bus.clone(), Arc::clone(&self.chronicle));
            let (source, subject, payload) = (source.clone(), subject.clone(), payload.clone());
            let (late, name) = (500 + life.world.below(Fault::LateAppend, 20_000), life.name.clone());
            let world = Arc::clone(&life.world);
            tokio::spawn(async move {
                sleep(Duration::from_millis(late)).await;
                let stored = Line::store(&bus, &chronicle, &source, &subject, payload, expect).await;
                world.note(&name, || format!("what was given up arrives: {} {}", subject.tail, show_result(&stored)));
            });
            sleep(ANSWER.min(Duration::from_millis(late / 2))).await;
            return Err(AppendError::Unknown);
        }
        let store = |payload: Bytes| Line::store(&self.bus, &self.chronicle, source, subject, payload, expect);
        let stored = store(payload.clone()).await;
        life.note(|| format!("{}: {}", what(), show_result(&stored)));
        if stored.is_ok() && life.strikes(Fault::RepeatAppend) {
            let again = store(payload.clone()).await;
            life.note(|| format!("{}: {}", what(), show_result(&again)));
        }
        self.die_at(Fault::CrashAfterBus, takes).await;
        if stored.is_ok() && life.strikes(Fault::LoseAck) {
            if takes == Takes::Time {
                sleep(ANSWER).await;
            }
            return Err(AppendError::Unknown);
        }
        stored
    }
}

fn show_expect(expect: Expect) -> String {
    match expect {
        Expect::Any => "after anything".into(),
        Expect::Last(last) => format!("after #{last}"),
        Expect::New => "as the first".into(),
        Expect::SubjectLast(last) => format!("after #{last} of the subject"),
    }
}

fn show_result(stored: &Result<u64, AppendError>) -> String {
    match stored {
        Ok(sequence) => format!("#{sequence}"),
        Err(error) => error.to_string(),
    }
}

#[async_trait]
impl Broker for Line {
    async fn prepare(&self, source: &SourceName) -> Result<(), BrokerError> {
        self.ask_for(|| "prepares".into(), Takes::Time, self.bus.prepare(source)).await
    }

    async fn sources(&self) -> Result<Vec<SourceName>, BrokerError> {
        self.ask_for(|| "asks for sources".into(), Takes::Time, self.bus.sources()).await
    }

    async fn extent(&self, source: &SourceName, stream: Stream) -> Result<Option<Extent>, BrokerError> {
        // Who sends contents asks for the extent of their stream, and nobody else does.
        let takes = if stream == Stream::Snapshot { Takes::NoTime } else { Takes::Time };
        self.ask_for(|| format!("asks for the extent of {stream:?}"), takes, self.bus.extent(source, stream)).await
    }

    async fn append(
        &self,
        source: &SourceName,
        subject: &Subject,
        payload: Bytes,
        expect: Expect,
    ) -> Result<u64, AppendError> {
        self.append_once(source, subject, payload, expect, Takes::of(subject)).await
    }

    async fn read(
        &self,
        source: &SourceName,
        stream: Stream,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, BrokerError> {
        let read = self.bus.read(source, stream, from, bytes_max);
        self.ask_for(|| format!("reads {stream:?} from #{from}"), Takes::Time, read).await
    }

    async fn last(&self, source: &SourceName, subject: &Subject) -> Result<Option<Stored>, BrokerError> {
        let what = || format!("asks for the last of {}", subject.tail);
        let is_part = subject.tail.starts_with("snapshot.a.") || subject.tail.starts_with("snapshot.b.");
        self.joins.fetch_or(is_part, Ordering::Relaxed);
        self.ask_for(what, Takes::of(subject), self.bus.last(source, subject)).await
    }

    async fn read_subject(
        &self,
        source: &SourceName,
        subject: &Subject,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, BrokerError> {
        let what = || format!("reads {} from {from}", subject.tail);
        self.ask_for(what, Takes::of(subject), self.bus.read_subject(source, subject, from, bytes_max)).await
    }

    async fn holds(&self, source: &SourceName, subject: &Subject) -> Result<bool, BrokerError> {
        let what = || format!("asks whether there is {}", subject.tail);
        self.ask_for(what, Takes::of(subject), self.bus.holds(source, subject)).await
    }

    async fn append_contents(&self, source: &SourceName, contents: Vec<(Subject, Bytes)>) -> Result<(), AppendError> {
        for (subject, payload) in contents {
            match self.append_once(source, &subject, payload, Expect::New, Takes::NoTime).await {
                Ok(_) | Err(AppendError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn last_of(&self, source: &SourceName, subjects: &[Subject]) -> Result<Vec<Stored>, BrokerError> {
        self.ask_for(|| "asks for contents".into(), Takes::NoTime, self.bus.last_of(source, subjects)).await
    }

    async fn tails(&self, source: &SourceName, stream: Stream, start: &str) -> Result<Vec<String>, BrokerError> {
        self.ask_for(|| format!("asks for subjects {start}"), Takes::NoTime, self.bus.tails(source, stream, start))
            .await
    }

    async fn follow(&self, source: &SourceName, follow: Follow) -> Result<Box<dyn Live>, BrokerError> {
        let what = || format!("follows {follow:?}");
        let live = self.ask_for(what, Takes::Time, self.bus.follow(source, follow)).await?;
        Ok(Box::new(FaultyLive { line: self.clone(), live, ready: Vec::new(), held: None }))
    }

    async fn beat(&self, source: &SourceName, payload: Bytes) -> Result<(), BrokerError> {
        self.ask_for(|| "beats".into(), Takes::Time, self.bus.beat(source, payload)).await
    }

    async fn say(&self, source: &SourceName, word: Word, payload: Bytes) -> Result<(), BrokerError> {
        self.ask_for(|| format!("says {word:?}"), Takes::Time, self.bus.say(source, word, payload)).await
    }

    async fn ask(&self, source: &SourceName, question: Bytes) -> Result<Option<Bytes>, BrokerError> {
        self.reach(&|| "asks the transmitter".into(), Takes::Time).await?;
        // Nobody there, or nobody who answers in time.
        let answer = timeout(ANSWER, self.bus.ask(source, question)).await.unwrap_or(Ok(None));
        self.die_at(Fault::CrashAfterBus, Takes::Time).await;
        answer
    }

    async fn questions(&self, source: &SourceName) -> Result<Box<dyn Questions>, BrokerError> {
        let what = || "answers from now on".into();
        let questions = self.ask_for(what, Takes::Time, self.bus.questions(source)).await?;
        Ok(Box::new(FaultyQuestions { line: self.clone(), questions }))
    }

    fn payload_max(&self) -> usize {
        self.bus.payload_max()
    }

    fn url(&self) -> String {
        "the bus".into()
    }
}

/// Live messages as they arrive, if they do.
struct FaultyLive {
    line: Line,
    live: Box<dyn Live>,
    /// What arrives next, last first.
    ready: Vec<Hint>,
    /// What comes after the next.
    held: Option<Hint>,
}

#[async_trait]
impl Live for FaultyLive {
    async fn next(&mut self) -> Option<Hint> {
        loop {
            if let Some(hint) = self.ready.pop() {
                return Some(hint);
            }
            let hint = self.live.next().await?;
            let life = &self.line.life;
            if life.is_over() {
                std::future::pending::<()>().await;
            }
            if self.line.is_cut() || life.strikes(Fault::LoseLive) {
                continue;
            }
            if life.strikes(Fault::EndLive) {
                return None;
            }
            if self.held.is_none() && life.strikes(Fault::DelayLive) {
                self.held = Some(hint);
                continue;
            }
            self.ready.extend(self.held.take());
            if life.strikes(Fault::RepeatLive) {
                self.ready.push(hint.clone());
            }
            self.ready.push(hint);
        }
    }
}

/// Questions as they arrive, if they do.
struct FaultyQuestions {
    line: Line,
    questions: Box<dyn Questions>,
}

#[async_trait]
impl Questions for FaultyQuestions {
    async fn next(&mut self) -> Option<Box<dyn Question>> {
        loop {
            let question = self.questions.next().await?;
            if self.line.life.is_over() {
                std::future::pending::<()>().await;
            }
            if !self.line.is_cut() {
                return Some(question);
            }
        }
    }
}
