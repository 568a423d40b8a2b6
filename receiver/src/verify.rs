//! Proving that a destination equals its source, or finding out what differs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deltabus_bus::broker::Broker;
use deltabus_bus::{Event, Log, Position, Reader, Timeline, confirmed};
use deltabus_interfaces::{Error as InterfaceError, Interface, Stamp, in_place};
use deltabus_record::change::Revision;
use deltabus_record::diff::Difference;
use deltabus_record::json;
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_record::value::Value;
use deltabus_state::{Error as StateError, Owner, Scratch, StateDirectory, is_busy};
use tokio::time::sleep;

use crate::config::{Config, Selection};
use crate::error::Error;
use crate::ledger::{self, Marked};
use crate::receiver::{Comparison, Ever, Purpose, Receiver, Round};
use crate::restore::spool;

/// How often a destination is looked at that is being written.
const ATTEMPTS: u32 = 8;

/// Pause before what differs is looked at again: a receiver says that it applied a set a moment after it did.
const SETTLE: Duration = Duration::from_millis(250);

/// What a destination was compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The receiver's own copy of the source, proven against the log's digest.
    Own,
    /// The source as the bus has it: snapshot and log.
    Bus(Why),
    /// The source as it was at a revision that was asked for, from snapshot and log.
    Past,
}

/// Why the receiver's own copy could not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No receiver of that name has any state here.
    Stranger,
    /// The receiver runs, as this process.
    Runs(Option<u32>),
    /// It isn't what the log says of its revision.
    Damaged,
    /// The log no longer says anything of its revision.
    Expired,
}

/// Why a record differs, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was changed there, and is not sent back.
    Drift,
    /// It was changed there; receiving sends it back.
    Edit,
    /// It was changed there and sent back in the reverse set of this number, which the source has not answered yet.
    Pending(u64),
    /// The destination refuses to be changed.
    Refused {
        /// The dead letter's, where one waits for somebody.
        id: Option<String>,
        /// What it said.
        reason: String,
    },
    /// The receiver's state wasn't there to tell.
    Unknown,
}

/// A record of the destination that isn't as the source has it.
#[derive(Clone, Debug)]
pub struct Unequal {
    /// As it should be and as it is, in the source's terms.
    pub difference: Difference,
    /// Why.
    pub cause: Cause,
}

/// What verifying found.
pub struct Verified {
    /// The revision that the destination was compared with, by its number and the log's digest.
    pub revision: Revision,
    /// How many sets the log has after that; `None` if it doesn't lead on.
    pub behind: Option<u64>,
    /// With what it was compared.
    pub basis: Basis,
    /// Records that are wanted there.
    pub records: u64,
    /// Ranges of keys whose digests were compared.
    pub ranges: u64,
    /// Ranges among them that were read in detail.
    pub ranges_read: u64,
    /// Collections that aren't there at all, and how many records are wanted in each.
    pub missing: Vec<(Collection, u64)>,
    /// Collections, and fields of others, that are there and that the source had only at other times than the one that was asked
    /// for.
    pub other: Vec<(CollectionName, Option<String>)>,
    /// Records that differ, by collection of the source.
    pub unequal: Vec<(Collection, Vec<Unequal>)>,
    /// Places that could not be read.
    pub unread: Vec<String>,
}

impl Verified {
    /// Whether the destination is proven to equal the source at that revision.
    pub fn is_equal(&self) -> bool {
        self.missing.is_empty() && self.unequal.is_empty() && self.other.is_empty() && self.unread.is_empty()
    }

    /// How many records differ; those of missing collections count.
    pub fn differing(&self) -> u64 {
        let unequal = self.unequal.iter().map(|(_, unequal)| unequal.len() as u64).sum::<u64>();
        unequal + self.missing.iter().map(|(_, records)| records).sum::<u64>()
    }

    /// Whether records differ for this reason.
    pub fn has(&self, cause: &Cause) -> bool {
        self.unequal.iter().flat_map(|(_, unequal)| unequal).any(|unequal| unequal.cause == *cause)
    }
}

/// Compares the destination that `config` names with the source, and writes nothing but scratch.
///
/// It is compared with the revision that it should be at: the one that the receiver has reached, or, where no receiver is known
/// here, the log's last. The receiver's own copy of the source serves if its records have the very digest that the log gives that
/// revision; else, or while the receiver runs, the source is taken from the bus. The digest is made anew from the records.
pub async fn verify(config: Config, broker: Arc<dyn Broker>, state: &StateDirectory) -> Result<Verified, Error> {
    let interface: Arc<dyn Interface> = deltabus_interfaces::open(&config.location)?.into();
    let log = Log::new(broker, config.source.clone());
    let folder = state.receiver_folder(&config.source, &config.name);
    let mut before = None;
    for attempt in 1.. {
        match verify_once(&config, &interface, &log, state).await {
            Err(error) if attempt < ATTEMPTS && is_passing(&error) => before = None,
            Err(error) => return Err(error),
            Ok((verified, situation)) => {
                // What differs may be a set that is being applied: only what stays as it is counts.
                let quiet = verified.basis == Basis::Own && !is_busy(&folder);
                let quiet = quiet && in_place(|| interface.stamp())? == situation.stamp;
                if verified.is_equal() || quiet || attempt >= ATTEMPTS || before.as_ref() == Some(&situation) {
                    return Ok(verified);
                }
                before = Some(situation);
            }
        }
        sleep(SETTLE).await;
    }
    unreachable!("the last attempt returns")
}

/// Compares the place that `config` names with the source as it was at a revision of `timeline`, and writes nothing but scratch.
///
/// The state of that revision comes from the bus, each step to it proven by the log's digest. Where a receiver keeps the place,
/// the part of the source that it holds is what is compared, if no other is asked for and the receiver doesn't run.
pub async fn verify_at(
    mut config: Config,
    broker: Arc<dyn Broker>,
    state: &StateDirectory,
    timeline: &Timeline,
    at: Revision,
) -> Result<Verified, Error> {
    let interface: Arc<dyn Interface> = deltabus_interfaces::open(&config.location)?.into();
    let log = Log::new(broker, config.source.clone());
    if config.selection.is_none() {
        config.selection = selection_held(&config, state)?;
    }
    let scratch = state.scratch()?;
    let spool = spool(&config.source, &scratch)?;
    let purpose = Purpose::Restore(Ever::of(timeline));
    let mut receiver = Receiver::assemble(config, interface, log, scratch.directory(), purpose)?;
    receiver.base_at(timeline, at, &spool, &mut Round::default()).await?;
    let mut attempt = 1;
    let comparison = loop {
        match in_place(|| receiver.compare_by_ranges()) {
            Err(error) if attempt < ATTEMPTS && is_passing(&error) => attempt += 1,
            comparison => break comparison?,
        }
        sleep(SETTLE).await;
    };
    if comparison.base != at.digest {
        return Err(Error::Digest { source_name: receiver.source().clone(), revision: at.number });
    }
    let behind = timeline.steps().last().map(|newest| newest.revision.number.saturating_sub(at.number));
    Ok(verified(&receiver, at, behind, comparison, Basis::Past).0)
}

/// The part of the source that the receiver of this name holds at the place, as far as its state can be read.
fn selection_held(config: &Config, state: &StateDirectory) -> Result<Option<Selection>, Error> {
    let scratch = state.scratch()?;
    match state.copy_receiver(&config.source, &config.name, scratch.directory()) {
        Ok(true) => {
            let owner = Owner::Receiver { source: config.source.clone(), receiver: config.name.clone() };
            ledger::selection(&scratch.directory().store(&owner)?.view())
        }
        Ok(false) | Err(StateError::Busy { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_passing(error: &Error) -> bool {
    match error {
        Error::Interface(InterfaceError::Changed { .. }) => true,
        Error::Bus(error) => error.is_transient(),
        _ => false,
    }
}

/// What may change while a destination is verified.
#[derive(Clone, PartialEq, Eq)]
struct Situation {
    stamp: Stamp,
    revision: Revision,
    differing: u64,
}

async fn verify_once(
    config: &Config,
    interface: &Arc<dyn Interface>,
    log: &Log,
    state: &StateDirectory,
) -> Result<(Verified, Situation), Error> {
    let scratch = state.scratch()?;
    let why = match state.copy_receiver(&config.source, &config.name, scratch.directory()) {
        Ok(true) => match own(config, interface, log, &scratch).await? {
            Ok(verified) => return Ok(verified),
            Err(why) => why,
        },
        Ok(false) => Why::Stranger,
        Err(StateError::Busy { pid, .. }) => Why::Runs(pid),
        Err(error) => return Err(error.into()),
    };
    drop(scratch);
    from_bus(config, interface, log, state, why).await
}

/// Compares with the receiver's own copy, if that can be proven.
async fn own(
    config: &Config,
    interface: &Arc<dyn Interface>,
    log: &Log,
    scratch: &Scratch,
) -> Result<Result<(Verified, Situation), Why>, Error> {
    let (config, interface) = (config.clone(), Arc::clone(interface));
    let mut receiver = Receiver::assemble(config, interface, log.clone(), scratch.directory(), Purpose::Compare)?;
    if !receiver.is_at_home()? {
        return Ok(Err(Why::Stranger));
    }
    let Some(position) = receiver.settled().await? else { return Ok(Err(Why::Stranger)) };
    let confirmed = match confirmed(log, position).await? {
        None => return Ok(Err(Why::Expired)),
        Some(confirmed) => confirmed,
    };
    let comparison = in_place(|| receiver.compare_by_ranges())?;
    if confirmed != position.revision || comparison.base != confirmed.digest {
        return Ok(Err(Why::Damaged));
    }
    let behind = behind(log, position).await?;
    Ok(Ok(verified(&receiver, position.revision, behind, comparison, Basis::Own)))
}

/// Compares with the source as the bus has it.
async fn from_bus(
    config: &Config,
    interface: &Arc<dyn Interface>,
    log: &Log,
    state: &StateDirectory,
    why: Why,
) -> Result<(Verified, Situation), Error> {
    let folder = state.receiver_folder(&config.source, &config.name);
    // Where it should be, says the destination itself, else the receiver.
    let owner = format!("{}/{}", config.source, config.name);
    let mark = in_place(|| interface.mark(&owner));
    let mark = match mark {
        Err(InterfaceError::Missing { .. }) => None,
        mark => mark?.and_then(|mark| Marked::from_bytes(&mark)).map(|mark| mark.revision.number),
    };
    let wanted = match why {
        Why::Runs(_) | Why::Damaged => mark.or_else(|| reported(&folder)),
        Why::Stranger => mark,
        // It is known to be behind; what it should be in the end is what counts.
        Why::Expired => None,
    };
    let scratch = state.scratch()?;
    let (config, interface) = (config.clone(), Arc::clone(interface));
    let mut receiver = Receiver::assemble(config, interface, log.clone(), scratch.directory(), Purpose::Compare)?;
    let mut round = Round::default();
    let position = receiver.join(&mut round).await?;
    match wanted.filter(|number| *number > 0) {
        Some(number) if number < position.revision.number => {
            let timeline = Timeline::read(log).await?;
            match timeline.find(number) {
                Some(step) => {
                    let spool = spool(receiver.source(), &scratch)?;
                    receiver.base_at(&timeline, step.revision, &spool, &mut round).await?;
                }
                None => receiver.forward_to(None).await?,
            }
        }
        wanted => receiver.forward_to(wanted).await?,
    }
    let position = receiver.position()?.unwrap_or(position);
    let comparison = in_place(|| receiver.compare_by_ranges())?;
    if comparison.base != position.revision.digest {
        return Err(Error::Digest { source_name: receiver.source().clone(), revision: position.revision.number });
    }
    let behind = behind(log, position).await?;
    Ok(verified(&receiver, position.revision, behind, comparison, Basis::Bus(why)))
}

fn verified(
    receiver: &Receiver,
    revision: Revision,
    behind: Option<u64>,
    comparison: Comparison,
    basis: Basis,
) -> (Verified, Situation) {
    let refused = comparison.refused;
    let cause = |collection: &Collection, difference: &Difference| match basis {
        Basis::Own => receiver.cause(collection, difference),
        Basis::Bus(_) | Basis::Past => match refused.get(&(collection.name.clone(), difference.key.clone())) {
            Some(reason) => Cause::Refused { id: None, reason: reason.clone() },
            None => Cause::Unknown,
        },
    };
    let mut unequal = Vec::new();
    for (collection, differences) in comparison.differences {
        let with_cause = |difference: Difference| Unequal { cause: cause(&collection, &difference), difference };
        let differences = differences.into_iter().map(with_cause).collect();
        unequal.push((collection, differences));
    }
    let unread = comparison.unread.iter().map(|part| format!("{}: {}", part.position, part.problem)).collect();
    let verified = Verified {
        revision,
        behind,
        records: comparison.records,
        ranges: comparison.ranges,
        ranges_read: comparison.ranges_read,
        missing: comparison.missing,
        other: comparison.other,
        unequal,
        unread,
        basis,
    };
    let situation = Situation { stamp: comparison.stamp, revision, differing: verified.differing() };
    (verified, situation)
}

/// How many sets the log has after a position.
async fn behind(log: &Log, position: Position) -> Result<Option<u64>, Error> {
    let mut reader = Reader::at(log, position);
    let mut sets = 0;
    loop {
        match reader.next_stored().await? {
            Event::Set(_) => sets += 1,
            Event::CaughtUp(_) => return Ok(Some(sets)),
            Event::Rejoin(_) => return Ok(None),
        }
    }
}

/// The revision that a running receiver last said to be at.
fn reported(folder: &Path) -> Option<u64> {
    let status = String::from_utf8(deltabus_state::read_status(folder)?).ok()?;
    let Ok(Value::Map(members)) = json::read(&status) else { return None };
    members.iter().find_map(|(name, value)| match value {
        Value::Integer(revision) if name == "revision" => u64::try_from(*revision).ok(),
        _ => None,
    })
}
