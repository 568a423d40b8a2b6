//! What a receiver remembers beside the records: typed access to the store's meta entries.

use deltabus_bus::Position;
use deltabus_interfaces::{Content, Stamp};
use deltabus_record::change::Revision;
use deltabus_record::digest::Digest;
use deltabus_record::row::Row;
use deltabus_record::value::Value;
use deltabus_state::{Batch, View};

use crate::Error;

/// Where in the log the base is.
const POSITION: &str = "position";
/// The number of the last reverse set made.
const REVERSE: &str = "reverse";
/// The destination must be made equal to base and pending edits before anything it holds counts as an edit.
const RECONCILE: &str = "reconcile";
/// A file is about to take the destination's place: what it is and which revision it brings.
const JOURNAL: &str = "journal";
/// What the valid scan indexes are named by.
const INDEX: &str = "index";
/// The destination's stamp when it was last known to hold base and pending edits.
const STAMP: &str = "stamp";
/// The destination's location.
const LOCATION: &str = "location";

/// An intent that was written down before the destination was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    /// The revision that the destination will be at.
    pub(crate) revision: u64,
    /// What it will contain.
    pub(crate) content: Content,
}

pub(crate) fn position(view: &View) -> Result<Option<Position>, Error> {
    let Some(bytes) = view.meta(POSITION)? else { return Ok(None) };
    match values(&bytes).as_slice() {
        [Value::Integer(term), Value::Integer(sequence), revision @ ..] => {
            let revision = revision_from(revision).ok_or(Error::Ledger(POSITION))?;
            Ok(Some(Position { term: *term as u64, sequence: *sequence as u64, revision }))
        }
        _ => Err(Error::Ledger(POSITION)),
    }
}

pub(crate) fn put_position(batch: &mut Batch, position: &Position) -> Result<(), Error> {
    let mut values = vec![Value::Integer(position.term as i64), Value::Integer(position.sequence as i64)];
    values.extend(revision_values(&position.revision));
    put(batch, POSITION, &values)
}

pub(crate) fn reverse_number(view: &View) -> Result<u64, Error> {
    match integer(view, REVERSE)? {
        Some(number) => Ok(number as u64),
        None => Ok(0),
    }
}

pub(crate) fn put_reverse_number(batch: &mut Batch, number: u64) -> Result<(), Error> {
    put(batch, REVERSE, &[Value::Integer(number as i64)])
}

pub(crate) fn reconcile(view: &View) -> Result<bool, Error> {
    Ok(view.meta(RECONCILE)?.is_some())
}

pub(crate) fn put_reconcile(batch: &mut Batch, wanted: Wanted) -> Result<(), Error> {
    match wanted {
        Wanted::Yes => put(batch, RECONCILE, &[Value::Bool(true)]),
        Wanted::No => Ok(batch.meta_remove(RECONCILE)?),
    }
}

/// Whether the destination has to be reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    No,
}

pub(crate) fn journal(view: &View) -> Result<Option<Journal>, Error> {
    let Some(bytes) = view.meta(JOURNAL)? else { return Ok(None) };
    match values(&bytes).as_slice() {
        [Value::Integer(revision), Value::Bytes(content)] => {
            let content = content.as_slice().try_into().map_err(|_| Error::Ledger(JOURNAL))?;
            Ok(Some(Journal { revision: *revision as u64, content: Content(content) }))
        }
        _ => Err(Error::Ledger(JOURNAL)),
    }
}

pub(crate) fn put_journal(batch: &mut Batch, journal: Option<&Journal>) -> Result<(), Error> {
    match journal {
        Some(journal) => {
            let content = Value::Bytes(journal.content.0.to_vec());
            put(batch, JOURNAL, &[Value::Integer(journal.revision as i64), content])
        }
        None => Ok(batch.meta_remove(JOURNAL)?),
    }
}

pub(crate) fn index(view: &View) -> Result<Option<Digest>, Error> {
    let Some(bytes) = view.meta(INDEX)? else { return Ok(None) };
    match revision_from(&values(&bytes)) {
        Some(revision) => Ok(Some(revision.digest)),
        None => Err(Error::Ledger(INDEX)),
    }
}

pub(crate) fn put_index(batch: &mut Batch, index: Option<&Digest>) -> Result<(), Error> {
    match index {
        Some(digest) => put(batch, INDEX, &revision_values(&Revision { number: 0, digest: *digest })),
        None => Ok(batch.meta_remove(INDEX)?),
    }
}

pub(crate) fn stamp(view: &View) -> Result<Option<Stamp>, Error> {
    Ok(view.meta(STAMP)?.map(Stamp))
}

pub(crate) fn put_stamp(batch: &mut Batch, stamp: &Stamp) -> Result<(), Error> {
    Ok(batch.meta_put(STAMP, &stamp.0)?)
}

pub(crate) fn location(view: &View) -> Result<Option<String>, Error> {
    Ok(view.meta(LOCATION)?.and_then(|bytes| String::from_utf8(bytes).ok()))
}

pub(crate) fn put_location(batch: &mut Batch, location: &str) -> Result<(), Error> {
    Ok(batch.meta_put(LOCATION, location.as_bytes())?)
}

/// A revision as the destination's mark.
pub(crate) fn mark_value(revision: &Revision) -> Vec<u8> {
    Row::of(&revision_values(revision)).as_bytes().to_vec()
}

/// The revision in a destination's mark.
pub(crate) fn mark_revision(mark: &[u8]) -> Option<Revision> {
    revision_from(&values(mark))
}

fn integer(view: &View, name: &'static str) -> Result<Option<i64>, Error> {
    let Some(bytes) = view.meta(name)? else { return Ok(None) };
    match values(&bytes).as_slice() {
        [Value::Integer(integer)] => Ok(Some(*integer)),
        _ => Err(Error::Ledger(name)),
    }
}

fn put(batch: &mut Batch, name: &str, values: &[Value]) -> Result<(), Error> {
    Ok(batch.meta_put(name, Row::of(values).as_bytes())?)
}

fn values(bytes: &[u8]) -> Vec<Value> {
    Row::from_bytes(bytes).map(|row| row.values()).unwrap_or_default()
}

fn revision_values(revision: &Revision) -> [Value; 3] {
    [
        Value::Integer(revision.number as i64),
        Value::Integer(revision.digest.records as i64),
        Value::Bytes(revision.digest.sum.to_be_bytes().to_vec()),
    ]
}

fn revision_from(values: &[Value]) -> Option<Revision> {
    match values {
        [Value::Integer(number), Value::Integer(records), Value::Bytes(sum)] => {
            let sum = u128::from_be_bytes(sum.as_slice().try_into().ok()?);
            Some(Revision { number: *number as u64, digest: Digest { records: *records as u64, sum } })
        }
        _ => None,
    }
}
