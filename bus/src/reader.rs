//! Reading a log: what is accepted, by the log's order alone; live where possible, from the store where not.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use deltabus_proto::v1;
use deltabus_record::change::{ChangeSet, Revision};
use metrics::counter;
use prost::Message;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;
use crate::broker::{Follow, Hint, Live, Stored, Stream, Subject};
use crate::log::{Log, Position};
use crate::{metrics as figures, wire};

/// Bytes asked for in one read of the log; far below what makes a server cut a slow reader off.
pub(crate) const READ_BYTES: usize = 4 * 1024 * 1024;

/// The transmitter says this often how far the log is.
pub const BEAT: Duration = Duration::from_secs(2);

/// Without any sign of life for this long the log itself is looked at.
const SILENCE: Duration = Duration::from_secs(10);

/// The pieces of one bundle may be this large together, so that a hostile log can't fill the memory.
const PARTS_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// A change set taken from the log.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The set.
    pub set: ChangeSet,
    /// Where a reader that has taken in this set goes on.
    pub position: Position,
    /// How many bytes it takes in the log; of sets stored together each its part.
    pub bytes: u64,
    /// When it was read.
    pub arrived: Instant,
}

/// What a reader meets.
#[derive(Debug)]
pub enum Event {
    /// The next accepted set.
    Set(Box<Delivered>),
    /// The log's end is reached, at this place.
    CaughtUp(Position),
    /// The log doesn't lead on from here: load the snapshot.
    Rejoin(Reason),
}

/// Why the log doesn't lead on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// What comes next has expired.
    Trimmed {
        /// The sequence wanted.
        wanted: u64,
        /// The first there is.
        first: u64,
    },
    /// The log was founded anew with another state.
    Founded(Revision),
    /// The log is shorter than what was read of it before.
    Regressed {
        /// Where the reader was.
        wanted: u64,
        /// What there is.
        last: u64,
    },
    /// The log lost its end and went on: what was read before is not what it has.
    Replaced {
        /// A message that is of a term whose claim was not met.
        sequence: u64,
    },
    /// A set of the latest term doesn't start from the state reached.
    Diverged {
        /// The state reached.
        reached: Revision,
        /// The set's base.
        base: Revision,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Trimmed { wanted, first } => {
                write!(f, "the log begins at message {first}, and {wanted} was wanted")
            }
            Reason::Founded(revision) => write!(f, "the log was founded anew at revision {revision}"),
            Reason::Regressed { wanted, last } => write!(f, "the log ends at message {last}, before {wanted}"),
            Reason::Replaced { sequence } => {
                write!(f, "the log lost its end and went on otherwise before message {sequence}")
            }
            Reason::Diverged { reached, base } => {
                write!(f, "revision {reached} was reached, but the next set starts from another state at {base}")
            }
        }
    }
}

/// Reads a log from a place on. It accepts a set if and only if it is of the latest claimed term and its base is the
/// revision reached; everything else is as if it weren't there.
pub struct Reader {
    log: Log,
    position: Position,
    /// Read but not yet looked into, so that only one message at a time is held decoded.
    stored: VecDeque<Stored>,
    ready: VecDeque<Event>,
    live: Option<Box<dyn Live>>,
    at_end: bool,
    /// Whether the message at the position was seen to be the one that was read before. A log that lost its end may hold
    /// another one there.
    confirmed: bool,
    /// Whether the position's revision is known; a history that lost its beginning takes it from the first set.
    anchored: bool,
    parts: Option<Parts>,
    /// The last message was of a later version of the protocol.
    beyond: Option<Error>,
}

/// The pieces of a bundle that is on its way.
struct Parts {
    term: u64,
    count: u32,
    next: u32,
    data: BytesMut,
    /// The message before the first piece: its sequence and check.
    before: (u64, Option<u64>),
}

impl Reader {
    /// Reads on from `position`.
    pub fn at(log: &Log, position: Position) -> Reader {
        Reader {
            log: log.clone(),
            position,
            stored: VecDeque::new(),
            ready: VecDeque::new(),
            live: None,
            at_end: false,
            confirmed: position.sequence == 0,
            anchored: true,
            parts: None,
            beyond: None,
        }
    }

    /// The place up to which everything was taken in; sets of it may still be waiting to be given out.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next event; waits for what is yet to be published once the end is reached.
    ///
    /// After an error or [`Event::Rejoin`] the reader is of no more use. Cancel safe.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.ready.pop_front() {
                Some(Event::CaughtUp(_)) if self.live.is_none() => {
                    // Only now, so that nothing piles up live during a long way through the store; and before the end
                    // is looked at again: what is stored after that look comes live.
                    self.live = Some(self.log.broker.follow(&self.log.source, Follow::Changes).await?);
                    self.at_end = false;
                }
                Some(event) => return Ok(event),
                None if self.at_end => self.wait().await?,
                None => self.advance().await?,
            }
        }
    }

    /// The next event of what is stored now; [`Event::CaughtUp`] ends it. Cancel safe.
    pub async fn next_stored(&mut self) -> Result<Event, Error> {
        loop {
            match self.ready.pop_front() {
                Some(event) => return Ok(event),
                None => self.advance().await?,
            }
        }
    }

    /// Takes in the next stored message, or fetches more.
    async fn advance(&mut self) -> Result<(), Error> {
        let Some(stored) = self.stored.pop_front() else { return self.read().await };
        if stored.sequence == self.position.sequence + 1 {
            return self.take(&stored);
        }
        // A hole within what was fetched: fetched again, it shows whether the log itself has it.
        self.stored.clear();
        Ok(())
    }

    /// Reads on in the store.
    async fn read(&mut self) -> Result<(), Error> {
        let wanted = self.position.sequence + 1;
        let from = if self.confirmed { wanted } else { self.position.sequence };
        let mut batch =
            VecDeque::from(self.log.broker.read(&self.log.source, Stream::Changes, from, READ_BYTES).await?);
        if batch.front().is_some_and(|first| first.sequence == self.position.sequence) {
            let there = batch.pop_front().map(|there| there.payload).unwrap_or_default();
            let replaced = match self.position.check {
                Some(check) => check != xxh3_64(&there),
                None => wire::envelope(&there).is_ok_and(|there| there.term > self.position.term),
            };
            if replaced {
                let sequence = self.position.sequence;
                self.ready.push_back(Event::Rejoin(Reason::Replaced { sequence }));
                return Ok(());
            }
            self.confirmed = true;
            if batch.is_empty() {
                return Ok(());
            }
        }
        if let Some(first) = batch.front() {
            if first.sequence > wanted {
                self.ready.push_back(Event::Rejoin(Reason::Trimmed { wanted, first: first.sequence }));
            } else {
                // Where the message at the position is gone by age, nothing tells otherwise.
                self.confirmed = true;
                self.stored = batch;
            }
            return Ok(());
        }
        let last = self.log.broker.last(&self.log.source, &Subject::changes()).await?.map(|last| last.sequence);
        let last = match last {
            Some(last) => last,
            None => self.log.broker.extent(&self.log.source, Stream::Changes).await?.map_or(0, |extent| extent.last),
        };
        if last < self.position.sequence {
            self.ready.push_back(Event::Rejoin(Reason::Regressed { wanted: self.position.sequence, last }));
        } else if last > self.position.sequence {
            let extent = self.log.broker.extent(&self.log.source, Stream::Changes).await?.unwrap_or_default();
            if extent.first > wanted {
                self.ready.push_back(Event::Rejoin(Reason::Trimmed { wanted, first: extent.first }));
            }
            // Otherwise it was stored between the two requests: read again.
        } else if let Some(error) = self.beyond.take() {
            // Nothing that this version knows came after it.
            return Err(error);
        } else {
            self.confirmed = true;
            self.at_end = true;
            self.ready.push_back(Event::CaughtUp(self.position));
        }
        Ok(())
    }

    /// Waits for something live; what it says is believed only where it fits without a gap.
    async fn wait(&mut self) -> Result<(), Error> {
        let Some(live) = &mut self.live else {
            self.at_end = false;
            return Ok(());
        };
        match timeout(SILENCE, live.next()).await {
            Ok(Some(Hint::Stored(stored))) => {
                if stored.sequence == self.position.sequence + 1 {
                    self.take(&stored)?;
                    if self.beyond.is_some() {
                        self.at_end = false;
                    } else if !self.ready.is_empty() {
                        self.ready.push_back(Event::CaughtUp(self.position));
                    }
                } else if stored.sequence > self.position.sequence {
                    self.at_end = false;
                } else {
                    // Sent again, or stored again in a log that lost its end.
                    self.suspect();
                }
            }
            Ok(Some(Hint::Beat(beat))) => {
                let Ok(beat) = v1::Heartbeat::decode(beat) else { return Ok(()) };
                if beat.term != self.position.term {
                    // Of a claim that was not met yet; of one who was replaced and doesn't know it, whose last message is
                    // before that claim; or of the writer of a log that was lost and began anew.
                    self.suspect();
                    if beat.sequence == self.position.sequence {
                        let sequence = beat.sequence;
                        self.ready.push_back(Event::Rejoin(Reason::Replaced { sequence }));
                    }
                } else if beat.sequence != self.position.sequence {
                    self.at_end = false;
                }
            }
            // The subscription ended: subscribe again, then look at the store.
            Ok(None) => {
                self.live = Some(self.log.broker.follow(&self.log.source, Follow::Changes).await?);
                self.at_end = false;
            }
            Err(_) => self.suspect(),
        }
        Ok(())
    }

    /// The log may have lost its end and gone on: what was read last is looked at again. [`Reader::next`] does so by itself
    /// after whatever gives cause for it; a reader of what is stored does when it is told to.
    pub fn suspect(&mut self) {
        self.at_end = false;
        self.confirmed = self.position.sequence == 0;
    }

    /// Takes in one message of the log. One that can't be understood is as if it weren't there, but for its place: whether it
    /// matters is told by what comes after it, which leads on from what was reached or doesn't.
    fn take(&mut self, stored: &Stored) -> Result<(), Error> {
        let before = (self.position.sequence, self.position.check);
        (self.position.sequence, self.position.check) = (stored.sequence, Some(xxh3_64(&stored.payload)));
        match self.take_in(stored, before) {
            Err(error @ (Error::Wire { .. } | Error::Newer { .. })) => {
                self.parts = None;
                counter!(figures::REFUSED, "source" => self.log.source.to_string(), "what" => figures::LOG)
                    .increment(1);
                tracing::warn!(source = %self.log.source, sequence = stored.sequence, error = crate::causes(&error), "a message of the log is passed over");
                // By a writer that knows more, or by anybody: what comes next tells.
                self.beyond = matches!(error, Error::Newer { .. }).then_some(error);
                Ok(())
            }
            Ok(()) => {
                self.beyond = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn take_in(&mut self, stored: &Stored, before: (u64, Option<u64>)) -> Result<(), Error> {
        let envelope = wire::envelope(&stored.payload)?;
        let parts = self.parts.take();
        match envelope.content {
            Some(v1::envelope::Content::Claim(_)) => self.position.term = self.position.term.max(envelope.term),
            _ if envelope.term > self.position.term => {
                self.ready.push_back(Event::Rejoin(Reason::Replaced { sequence: stored.sequence }));
            }
            _ if envelope.term < self.position.term => {
                tracing::debug!(
                    source = %self.log.source, term = envelope.term, sequence = stored.sequence,
                    "a message of an old term is ignored"
                );
            }
            Some(v1::envelope::Content::Foundation(foundation)) => {
                let revision = wire::revision_in(foundation.revision.as_ref());
                wire::check_number("a foundation", revision.number)?;
                if !self.anchored {
                    self.position.revision = revision;
                    self.anchored = true;
                } else if revision != self.position.revision {
                    self.ready.push_back(Event::Rejoin(Reason::Founded(revision)));
                }
            }
            Some(v1::envelope::Content::Bundle(bundle)) => self.bundle(&bundle, before)?,
            Some(v1::envelope::Content::Part(part)) => {
                let parts = match parts {
                    Some(parts)
                        if part.index == parts.next && part.count == parts.count && parts.term == envelope.term =>
                    {
                        Some(parts)
                    }
                    _ if part.index == 0 => {
                        Some(Parts { term: envelope.term, count: part.count, next: 0, data: BytesMut::new(), before })
                    }
                    // The rest of a bundle whose beginning was never finished.
                    _ => None,
                };
                let Some(mut parts) = parts else { return Ok(()) };
                if parts.data.len() + part.data.len() > PARTS_BYTES_MAX {
                    let problem = format!("a change set in parts is larger than {PARTS_BYTES_MAX} bytes");
                    return Err(wire::wire("a change set", problem));
                }
                parts.data.extend_from_slice(&part.data);
                parts.next += 1;
                if parts.next < parts.count {
                    self.parts = Some(parts);
                } else {
                    let whole = v1::Bundle::decode(parts.data.freeze());
                    let whole = whole.map_err(|error| wire::wire("a change set", error))?;
                    self.bundle(&whole, parts.before)?;
                }
            }
            None => return Err(wire::wire("a message of the log", "it is of an unknown kind")),
        }
        Ok(())
    }

    /// Accepts the sets of a bundle that lead on; `before` is the message before it: its sequence and check.
    fn bundle(&mut self, bundle: &v1::Bundle, before: (u64, Option<u64>)) -> Result<(), Error> {
        let sets = wire::unbundle(bundle)?;
        let count = sets.len();
        // As stored: sets of one bundle are compressed together.
        let share = (bundle.sets.len() as u64).div_ceil(count.max(1) as u64);
        // All or none: half a message is no message.
        let sets = sets.iter().map(|bytes| wire::decode_set(bytes)).collect::<Result<Vec<_>, _>>()?;
        for (i, set) in sets.into_iter().enumerate() {
            if !self.anchored {
                self.position.revision = set.base;
                self.anchored = true;
            }
            let reached = self.position.revision;
            if set.base != reached {
                // Behind: sent again. Level with another digest, or ahead: never by a writer whose chain this is.
                if set.base.number >= reached.number {
                    self.ready.push_back(Event::Rejoin(Reason::Diverged { reached, base: set.base }));
                    return Ok(());
                }
                tracing::debug!(
                    source = %self.log.source, base = set.base.number, revision = reached.number,
                    "a set that doesn't lead on is ignored"
                );
                continue;
            }
            self.position.revision = set.next;
            // Going on after a set in the middle of a bundle means reading the bundle again; its beginning is then
            // passed over.
            let last = i + 1 == count;
            let (sequence, check) = if last { (self.position.sequence, self.position.check) } else { before };
            let position = Position { sequence, check, ..self.position };
            let bytes = share;
            let arrived = Instant::now();
            self.ready.push_back(Event::Set(Box::new(Delivered { set, position, bytes, arrived })));
        }
        Ok(())
    }
}

/// One accepted entry of the log's history.
#[derive(Debug)]
pub enum Entry {
    /// The log begins here, or begins anew.
    Foundation {
        /// With this state.
        revision: Revision,
        /// Milliseconds since 1970-01-01T00:00:00Z.
        time_millis: u64,
    },
    /// A change set.
    Set(Box<Delivered>),
}

/// Reads the accepted history of a log, oldest first, from what is still there; `take` gets each entry.
pub async fn history(log: &Log, take: &mut (dyn FnMut(Entry) + Send)) -> Result<(), Error> {
    history_between(log, 0, u64::MAX, take).await
}

/// The same of about the last `bytes` of the log, whole messages and at least one; gives whether that is all that is still
/// there.
pub async fn history_tail(log: &Log, bytes: u64, take: &mut (dyn FnMut(Entry) + Send)) -> Result<bool, Error> {
    let extent = log.broker.extent(&log.source, Stream::Changes).await?.unwrap_or_default();
    let messages = (extent.last + 1).saturating_sub(extent.first);
    if extent.bytes <= bytes || messages <= 1 {
        history_between(log, extent.first, extent.last, take).await?;
        return Ok(true);
    }
    // As if all were of one size.
    let part = u128::from(messages) * u128::from(bytes) / u128::from(extent.bytes);
    let part = u64::try_from(part).unwrap_or(messages).clamp(1, messages);
    history_between(log, extent.last + 1 - part, extent.last, take).await?;
    Ok(part == messages)
}

/// The same of the messages from `first` to `last`. What was accepted before `first` isn't known: the first set found is taken for
/// one that leads on.
pub async fn history_between(
    log: &Log,
    first: u64,
    last: u64,
    take: &mut (dyn FnMut(Entry) + Send),
) -> Result<(), Error> {
    let extent = log.broker.extent(&log.source, Stream::Changes).await?.unwrap_or_default();
    let before = extent.first.max(first).saturating_sub(1);
    let mut reader = Reader::at(log, Position { sequence: before, ..Position::default() });
    reader.anchored = false;
    while reader.position.sequence < last {
        let from = reader.position.sequence + 1;
        let batch = log.broker.read(&log.source, Stream::Changes, from, READ_BYTES).await?;
        if batch.is_empty() {
            return Ok(());
        }
        for stored in batch.into_iter().take_while(|stored| stored.sequence <= last) {
            if stored.sequence != reader.position.sequence + 1 {
                // The beginning went while it was read.
                reader.anchored = false;
                reader.parts = None;
            }
            if let Ok(envelope) = wire::envelope(&stored.payload) {
                // A log that lost its beginning has messages of a term whose claim is gone.
                reader.position.term = reader.position.term.max(envelope.term);
                if let Some(v1::envelope::Content::Foundation(foundation)) = &envelope.content
                    && envelope.term == reader.position.term
                {
                    // A history goes on with whatever state the log was founded anew.
                    let revision = wire::revision_in(foundation.revision.as_ref());
                    reader.anchored = false;
                    take(Entry::Foundation { revision, time_millis: foundation.time_millis });
                }
            }
            reader.take(&stored)?;
            for event in reader.ready.drain(..) {
                if let Event::Set(set) = event {
                    take(Entry::Set(set));
                }
            }
        }
    }
    Ok(())
}
