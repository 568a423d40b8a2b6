//! What a receiver remembers beside the records: typed access to the store's meta entries.

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
/// Which part of the source the destination holds.
const SELECTION: &str = "selection";

/// An intent that was written down before the destination was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    /// The revision that the destination will be at.
    pub(crate) revision: u64,
    /// What it will contain.
    pub(crate) content: Content,
}

pub(crate) fn position(view: &View) -> Result<Option<Position>, Error> {
    let Some(values) = view.meta_values(POSITION)? else { return Ok(None) };
    match values.as_slice() {
        [Value::Integer(term), Value::Integer(sequence), revision @ ..] => {
            let revision = Revision::from_values(revision).ok_or(Error::Ledger(POSITION))?;
            Ok(Some(Position { term: *term as u64, sequence: *sequence as u64, revision }))
        }
        _ => Err(Error::Ledger(POSITION)),
    }
}

pub(crate) fn put_position(batch: &mut Batch, position: &Position) -> Result<(), Error> {
    let mut values = vec![Value::Integer(position.term as i64), Value::Integer(position.sequence as i64)];
    values.extend(position.revision.to_values());
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

pub(crate) fn journal(view: &View) -> Result<Option<Journal>, Error> {
    let Some(values) = view.meta_values(JOURNAL)? else { return Ok(None) };
    match values.as_slice() {
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
            Ok(batch.meta_put_values(JOURNAL, &[Value::Integer(journal.revision as i64), content])?)
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

/// What a destination's mark says: the revision it is at, and how many records are set aside there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) revision: Revision,
    pub(crate) aside: u64,
}

impl Marked {
    /// As it is kept at the destination.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut values = self.revision.to_values().to_vec();
        values.push(Value::Integer(self.aside as i64));
        Row::of(&values).as_bytes().to_vec()
    }

    /// From [`Marked::to_bytes`]; `None` for anything else.
    pub(crate) fn from_bytes(mark: &[u8]) -> Option<Marked> {
        let values = Row::from_bytes(mark).ok()?.values();
        let (revision, aside) = match values.as_slice() {
            [revision @ .., Value::Integer(aside)] if revision.len() == 3 => (revision, *aside as u64),
            revision => (revision, 0),
        };
        Some(Marked { revision: Revision::from_values(revision)?, aside })
    }
}
