//! What a receiver remembers beside the records: typed access to the store's meta entries.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use deltabus_bus::Position;
use deltabus_interfaces::{Content, Stamp};
use deltabus_record::change::Revision;
use deltabus_record::digest::Digest;
use deltabus_record::row::Row;
use deltabus_record::value::Value;
use deltabus_state::{Batch, View};

use crate::Error;
use crate::config::Selection;

/// Where in the log the base is.
const POSITION: &str = "position";
/// The number of the last reverse set made.
const REVERSE: &str = "reverse";
/// The number of the last reverse set that is known to be on the bus.
const SENT: &str = "sent";
/// The destination must be made equal to base and pending edits before anything it holds counts as an edit.
const RECONCILE: &str = "reconcile";
/// What is about to make the destination equal, as its mark will name it.
const ATTEMPT: &str = "attempt";
/// A file is about to take the destination's place: what it is and which revision it brings.
const JOURNAL: &str = "journal";
/// The sets that are about to make collections at the destination.
const MADE: &str = "made";
/// What the valid scan indexes are named by.
const INDEX: &str = "index";
/// The destination's stamp when it was last known to hold base and pending edits.
const STAMP: &str = "stamp";
/// How many records differ there and stand, as of that stamp.
const DRIFT: &str = "drift";
/// The destination's location.
const LOCATION: &str = "location";
/// Which part of the source the destination holds.
const SELECTION: &str = "selection";

/// Sets that make collections, written down before the destination gets them: if the log has lost them when it turns out that it
/// did, nothing else tells what stands there from what somebody put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// The revision that they lead to.
    pub(crate) revision: u64,
    /// They themselves, encoded.
    pub(crate) sets: Vec<Vec<u8>>,
}

pub(crate) fn made(view: &View) -> Result<Option<Made>, Error> {
    let Some(values) = view.meta_values(MADE)? else { return Ok(None) };
    let [Value::Integer(revision), Value::List(sets)] = values.as_slice() else { return Err(Error::Ledger(MADE)) };
    let set = |set: &Value| match set {
        Value::Bytes(set) => Ok(set.clone()),
        _ => Err(Error::Ledger(MADE)),
    };
    Ok(Some(Made { revision: *revision as u64, sets: sets.iter().map(set).collect::<Result<_, _>>()? }))
}

pub(crate) fn put_made(batch: &mut Batch, made: Option<Made>) -> Result<(), Error> {
    match made {
        Some(Made { revision, sets }) => {
            let sets = sets.into_iter().map(Value::Bytes).collect();
            Ok(batch.meta_put_values(MADE, &[Value::Integer(revision as i64), Value::List(sets)])?)
        }
        None => Ok(batch.meta_remove(MADE)?),
    }
}

/// An intent that was written down before the destination was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    /// The revision that the destination will be at.
    pub(crate) revision: u64,
    /// What it will contain.
    pub(crate) content: Content,
    /// What is to take its place, where that is one file.
    pub(crate) replacing: Option<Replacing>,
}

/// A file that is about to take another's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replacing {
    /// Where it is, exactly as long as it hasn't.
    pub(crate) temporary: PathBuf,
    /// What the other contains; `None`: there is none.
    pub(crate) before: Option<Content>,
}

pub(crate) fn position(view: &View) -> Result<Option<Position>, Error> {
    let Some(values) = view.meta_values(POSITION)? else { return Ok(None) };
    match values.as_slice() {
        [Value::Integer(term), Value::Integer(sequence), number, records, sum, check @ ..] => {
            let revision = Revision::from_values(&[number.clone(), records.clone(), sum.clone()]);
            let check = match check {
                [Value::Integer(check)] => Some(*check as u64),
                _ => None,
            };
            let revision = revision.ok_or(Error::Ledger(POSITION))?;
            Ok(Some(Position { term: *term as u64, sequence: *sequence as u64, revision, check }))
        }
        _ => Err(Error::Ledger(POSITION)),
    }
}

pub(crate) fn put_position(batch: &mut Batch, position: &Position) -> Result<(), Error> {
    let mut values = vec![Value::Integer(position.term as i64), Value::Integer(position.sequence as i64)];
    values.extend(position.revision.to_values());
    values.extend(position.check.map(|check| Value::Integer(check as i64)));
    Ok(batch.meta_put_values(POSITION, &values)?)
}

/// As if it had never joined.
pub(crate) fn forget_position(batch: &mut Batch) -> Result<(), Error> {
    Ok(batch.meta_remove(POSITION)?)
}

pub(crate) fn reverse_number(view: &View) -> Result<u64, Error> {
    match view.meta_values(REVERSE)?.as_deref() {
        Some([Value::Integer(number)]) => Ok(*number as u64),
        Some(_) => Err(Error::Ledger(REVERSE)),
        None => Ok(0),
    }
}

pub(crate) fn put_reverse_number(batch: &mut Batch, number: u64) -> Result<(), Error> {
    Ok(batch.meta_put_values(REVERSE, &[Value::Integer(number as i64)])?)
}

pub(crate) fn sent(view: &View) -> Result<u64, Error> {
    match view.meta_values(SENT)?.as_deref() {
        Some([Value::Integer(number)]) => Ok(*number as u64),
        Some(_) => Err(Error::Ledger(SENT)),
        None => Ok(0),
    }
}

pub(crate) fn put_sent(batch: &mut Batch, number: u64) -> Result<(), Error> {
    Ok(batch.meta_put_values(SENT, &[Value::Integer(number as i64)])?)
}

pub(crate) fn reconcile(view: &View) -> Result<bool, Error> {
    Ok(view.meta(RECONCILE)?.is_some())
}

pub(crate) fn put_reconcile(batch: &mut Batch, wanted: Wanted) -> Result<(), Error> {
    match wanted {
        Wanted::Yes => Ok(batch.meta_put(RECONCILE, b"")?),
        Wanted::No => Ok(batch.meta_remove(RECONCILE)?),
    }
}

/// Whether the destination has to be reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    No,
}

/// What is to make the destination equal, if it was begun.
pub(crate) fn attempt(view: &View) -> Result<Option<u64>, Error> {
    match view.meta_values(ATTEMPT)?.as_deref() {
        Some([Value::Integer(attempt)]) => Ok(Some(*attempt as u64)),
        Some(_) => Err(Error::Ledger(ATTEMPT)),
        None => Ok(None),
    }
}

pub(crate) fn put_attempt(batch: &mut Batch, attempt: Option<u64>) -> Result<(), Error> {
    match attempt {
        Some(attempt) => Ok(batch.meta_put_values(ATTEMPT, &[Value::Integer(attempt as i64)])?),
        None => Ok(batch.meta_remove(ATTEMPT)?),
    }
}

pub(crate) fn journal(view: &View) -> Result<Option<Journal>, Error> {
    let Some(values) = view.meta_values(JOURNAL)? else { return Ok(None) };
    match values.as_slice() {
        [Value::Integer(revision), Value::Bytes(to), rest @ ..] => {
            let content = |bytes: &[u8]| bytes.try_into().map(Content).map_err(|_| Error::Ledger(JOURNAL));
            let path = |path: &[u8]| PathBuf::from(OsStr::from_bytes(path));
            let replacing = match rest {
                [] => None,
                [Value::Bytes(temporary)] => Some(Replacing { temporary: path(temporary), before: None }),
                [Value::Bytes(temporary), Value::Bytes(before)] => {
                    Some(Replacing { temporary: path(temporary), before: Some(content(before)?) })
                }
                _ => return Err(Error::Ledger(JOURNAL)),
            };
            Ok(Some(Journal { revision: *revision as u64, content: content(to)?, replacing }))
        }
        _ => Err(Error::Ledger(JOURNAL)),
    }
}

pub(crate) fn put_journal(batch: &mut Batch, journal: Option<&Journal>) -> Result<(), Error> {
    match journal {
        Some(journal) => {
            let content = Value::Bytes(journal.content.0.to_vec());
            let mut values = vec![Value::Integer(journal.revision as i64), content];
            if let Some(Replacing { temporary, before }) = &journal.replacing {
                values.push(Value::Bytes(temporary.as_os_str().as_bytes().to_vec()));
                values.extend(before.map(|before| Value::Bytes(before.0.to_vec())));
            }
            Ok(batch.meta_put_values(JOURNAL, &values)?)
        }
        None => Ok(batch.meta_remove(JOURNAL)?),
    }
}

pub(crate) fn index(view: &View) -> Result<Option<Digest>, Error> {
    match view.meta_values(INDEX)? {
        Some(values) => Ok(Some(Revision::from_values(&values).ok_or(Error::Ledger(INDEX))?.digest)),
        None => Ok(None),
    }
}

pub(crate) fn put_index(batch: &mut Batch, index: Option<Digest>) -> Result<(), Error> {
    match index {
        Some(digest) => Ok(batch.meta_put_values(INDEX, &Revision { number: 0, digest }.to_values())?),
        None => Ok(batch.meta_remove(INDEX)?),
    }
}

pub(crate) fn stamp(view: &View) -> Result<Option<Stamp>, Error> {
    Ok(view.meta(STAMP)?.map(Stamp))
}

pub(crate) fn put_stamp(batch: &mut Batch, stamp: Option<&Stamp>) -> Result<(), Error> {
    match stamp {
        Some(stamp) => Ok(batch.meta_put(STAMP, &stamp.0)?),
        None => Ok(batch.meta_remove(STAMP)?),
    }
}

pub(crate) fn drift(view: &View) -> Result<u64, Error> {
    match view.meta_values(DRIFT)?.as_deref() {
        Some([Value::Integer(drift)]) => Ok(*drift as u64),
        Some(_) => Err(Error::Ledger(DRIFT)),
        None => Ok(0),
    }
}

pub(crate) fn put_drift(batch: &mut Batch, drift: u64) -> Result<(), Error> {
    match drift {
        0 => Ok(batch.meta_remove(DRIFT)?),
        drift => Ok(batch.meta_put_values(DRIFT, &[Value::Integer(drift as i64)])?),
    }
}

pub(crate) fn location(view: &View) -> Result<Option<String>, Error> {
    Ok(view.meta(LOCATION)?.and_then(|bytes| String::from_utf8(bytes).ok()))
}

pub(crate) fn put_location(batch: &mut Batch, location: &str) -> Result<(), Error> {
    Ok(batch.meta_put(LOCATION, location.as_bytes())?)
}

pub(crate) fn selection(view: &View) -> Result<Option<Selection>, Error> {
    let Some(values) = view.meta_values(SELECTION)? else { return Ok(None) };
    let text = |value: &Value| match value {
        Value::Text(text) => Ok(text.clone()),
        _ => Err(Error::Ledger(SELECTION)),
    };
    match values.as_slice() {
        [filter, Value::List(fields), Value::List(omit)] => {
            let filter = if *filter == Value::Null { None } else { Some(text(filter)?) };
            let field = |pair: &[Value]| match pair {
                [to, from] => Ok((text(to)?, text(from)?)),
                _ => Err(Error::Ledger(SELECTION)),
            };
            let fields = fields.chunks(2).map(field).collect::<Result<_, Error>>()?;
            Ok(Some(Selection { filter, fields, omit: omit.iter().map(text).collect::<Result<_, Error>>()? }))
        }
        _ => Err(Error::Ledger(SELECTION)),
    }
}

pub(crate) fn put_selection(batch: &mut Batch, selection: &Selection) -> Result<(), Error> {
    let text = |text: &String| Value::text(text.as_str());
    let values = [
        selection.filter.as_ref().map_or(Value::Null, text),
        Value::List(selection.fields.iter().flat_map(|(to, from)| [text(to), text(from)]).collect()),
        Value::List(selection.omit.iter().map(text).collect()),
    ];
    Ok(batch.meta_put_values(SELECTION, &values)?)
}

/// What a destination's mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    /// The revision it is at.
    pub(crate) revision: Revision,
    /// Names what made it equal to that, where it was made so as a whole.
    pub(crate) attempt: Option<u64>,
    /// How many of its records are held, though the source has them otherwise.
    pub(crate) held: u64,
}

impl Marked {
    /// As it is kept at the destination.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut values = self.revision.to_values().to_vec();
        values.push(self.attempt.map_or(Value::Null, |attempt| Value::Integer(attempt as i64)));
        values.push(Value::Integer(self.held as i64));
        Row::of(&values).as_bytes().to_vec()
    }

    /// From [`Marked::to_bytes`]; `None` for anything else.
    pub(crate) fn from_bytes(mark: &[u8]) -> Option<Marked> {
        let values = Row::from_bytes(mark).ok()?.values();
        let number = |at: usize| match values.get(at) {
            Some(Value::Integer(number)) => Some(*number as u64),
            _ => None,
        };
        let revision = Revision::from_values(values.get(..3)?)?;
        Some(Marked { revision, attempt: number(3), held: number(4).unwrap_or_default() })
    }
}
