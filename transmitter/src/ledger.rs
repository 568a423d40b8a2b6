//! What a transmitter remembers beside the records: typed access to the store's meta entries.

use deltabus_bus::{EncodedSet, Position, ReversePlace};
use deltabus_interfaces::Stamp;
use deltabus_record::change::{Change, ConflictPolicy, ReverseCursor, Revision};
use deltabus_record::digest::Digest;
use deltabus_record::row::Row;
use deltabus_record::schema::{CollectionName, ReceiverName};
use deltabus_record::value::Value;
use deltabus_state::{Batch, View};

use crate::Error;
use crate::guard::Held;

/// The last revision staged.
const REVISION: &str = "revision";
/// Where the log acknowledged to be.
const POSITION: &str = "position";
/// Who this transmitter is.
const TRANSMITTER: &str = "transmitter";
/// The log has to be founded with the state before anything else is staged.
const FOUNDATION: &str = "foundation";
/// Where there is no state yet: the highest number that was used for one.
const FLOOR: &str = "floor";
/// What the valid scan indexes are named by.
const INDEX: &str = "index";
/// The source's stamp when it was last equal to the records.
const STAMP: &str = "stamp";
/// How far the reverse stream was taken.
const REVERSE: &str = "reverse";
/// The last reverse set taken of each receiver; the receiver's name follows.
const CURSOR: &str = "cursor/";
/// The bus may have lost the contents of large values: the source has to be read for them.
const RESUPPLY: &str = "resupply";
/// Answers to reverse sets that are owed once the log is founded anew.
const OWED: &str = "owed";
/// A set that is held because it deletes too much.
const HELD: &str = "held";
/// The held set that was confirmed.
const CONFIRMED: &str = "confirmed";
/// Bytes of the last snapshot, and of the log since.
const WEIGHTS: &str = "weights";
/// The latest time given to a set.
const CLOCK: &str = "clock";

/// How much the snapshot and the log since it weigh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weights {
    pub(crate) snapshot_bytes: u64,
    pub(crate) log_bytes: u64,
}

pub(crate) fn revision(view: &View) -> Result<Revision, Error> {
    match view.meta_values(REVISION)? {
        Some(values) => Revision::from_values(&values).ok_or(Error::Ledger(REVISION)),
        None => Ok(Revision::default()),
    }
}

pub(crate) fn put_revision(batch: &mut Batch, revision: &Revision) -> Result<(), Error> {
    Ok(batch.meta_put_values(REVISION, &revision.to_values())?)
}

pub(crate) fn position(view: &View) -> Result<Position, Error> {
    let Some(values) = view.meta_values(POSITION)? else { return Ok(Position::default()) };
    match values.as_slice() {
        [Value::Integer(term), Value::Integer(sequence), number, records, sum, check @ ..] => Ok(Position {
            term: *term as u64,
            sequence: *sequence as u64,
            revision: Revision::from_values(&[number.clone(), records.clone(), sum.clone()])
                .ok_or(Error::Ledger(POSITION))?,
            check: match check {
                [Value::Integer(check)] => Some(*check as u64),
                _ => None,
            },
        }),
        _ => Err(Error::Ledger(POSITION)),
    }
}

pub(crate) fn put_position(batch: &mut Batch, position: &Position) -> Result<(), Error> {
    let mut values = vec![Value::Integer(position.term as i64), Value::Integer(position.sequence as i64)];
    values.extend(position.revision.to_values());
    values.extend(position.check.map(|check| Value::Integer(check as i64)));
    Ok(batch.meta_put_values(POSITION, &values)?)
}

pub(crate) fn transmitter(view: &View) -> Result<Option<String>, Error> {
    Ok(view.meta(TRANSMITTER)?.and_then(|bytes| String::from_utf8(bytes).ok()))
}

pub(crate) fn put_transmitter(batch: &mut Batch, id: &str) -> Result<(), Error> {
    Ok(batch.meta_put(TRANSMITTER, id.as_bytes())?)
}

pub(crate) fn foundation(view: &View) -> Result<bool, Error> {
    Ok(view.meta(FOUNDATION)?.is_some())
}

pub(crate) fn want_foundation(batch: &mut Batch) -> Result<(), Error> {
    Ok(batch.meta_put(FOUNDATION, b"")?)
}

pub(crate) fn founded(batch: &mut Batch) -> Result<(), Error> {
    Ok(batch.meta_remove(FOUNDATION)?)
}

pub(crate) fn floor(view: &View) -> Result<u64, Error> {
    integer(view, FLOOR)
}

pub(crate) fn put_floor(batch: &mut Batch, number: u64) -> Result<(), Error> {
    Ok(batch.meta_put_values(FLOOR, &[Value::Integer(number as i64)])?)
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

pub(crate) fn reverse(view: &View) -> Result<ReversePlace, Error> {
    match view.meta_values(REVERSE)?.as_deref() {
        Some([Value::Integer(sequence), check @ ..]) => {
            let check = match check {
                [Value::Integer(check)] => Some(*check as u64),
                _ => None,
            };
            Ok(ReversePlace { sequence: *sequence as u64, check })
        }
        Some(_) => Err(Error::Ledger(REVERSE)),
        None => Ok(ReversePlace::default()),
    }
}

pub(crate) fn put_reverse(batch: &mut Batch, place: ReversePlace) -> Result<(), Error> {
    let mut values = vec![Value::Integer(place.sequence as i64)];
    values.extend(place.check.map(|check| Value::Integer(check as i64)));
    Ok(batch.meta_put_values(REVERSE, &values)?)
}

/// Which reverse sets were taken from each receiver.
pub(crate) fn cursors(view: &View) -> Result<Vec<(ReceiverName, ReverseCursor)>, Error> {
    let mut cursors = Vec::new();
    for (name, bytes) in view.meta_prefix(CURSOR)? {
        let numbers: Vec<u64> = bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes).collect();
        let (last, passed_over) = numbers.split_first().ok_or(Error::Ledger(CURSOR))?;
        let passed_over = passed_over.chunks_exact(2).map(|range| (range[0], range[1])).collect();
        let cursor = ReverseCursor::new(*last, passed_over).ok_or(Error::Ledger(CURSOR))?;
        if let Ok(receiver) = ReceiverName::new(&name[CURSOR.len()..]) {
            cursors.push((receiver, cursor));
        }
    }
    Ok(cursors)
}

pub(crate) fn put_cursor(batch: &mut Batch, receiver: &ReceiverName, cursor: &ReverseCursor) -> Result<(), Error> {
    let mut bytes = cursor.last().to_be_bytes().to_vec();
    for (first, last) in cursor.passed_over() {
        bytes.extend(first.to_be_bytes());
        bytes.extend(last.to_be_bytes());
    }
    Ok(batch.meta_put(&format!("{CURSOR}{receiver}"), &bytes)?)
}

/// Forgets which reverse sets were taken.
pub(crate) fn forget_cursors(view: &View, batch: &mut Batch) -> Result<(), Error> {
    for (receiver, _) in cursors(view)? {
        batch.meta_remove(&format!("{CURSOR}{receiver}"))?;
    }
    put_reverse(batch, ReversePlace::default())
}

pub(crate) fn resupply(view: &View) -> Result<bool, Error> {
    Ok(view.meta(RESUPPLY)?.is_some())
}

pub(crate) fn want_resupply(batch: &mut Batch) -> Result<(), Error> {
    Ok(batch.meta_put(RESUPPLY, b"")?)
}

pub(crate) fn resupplied(batch: &mut Batch) -> Result<(), Error> {
    Ok(batch.meta_remove(RESUPPLY)?)
}

/// A set of answers that the log lost or never had.
pub(crate) fn owed(view: &View) -> Result<Option<EncodedSet>, Error> {
    Ok(view.meta(OWED)?.map(|bytes| EncodedSet(bytes.into())))
}

pub(crate) fn put_owed(batch: &mut Batch, set: Option<&EncodedSet>) -> Result<(), Error> {
    match set {
        Some(set) => Ok(batch.meta_put(OWED, &set.0)?),
        None => Ok(batch.meta_remove(OWED)?),
    }
}

pub(crate) fn held(view: &View) -> Result<Option<Held>, Error> {
    Ok(view.meta(HELD)?.and_then(|bytes| Held::from_bytes(&bytes)))
}

pub(crate) fn put_held(batch: &mut Batch, held: Option<&Held>) -> Result<(), Error> {
    match held {
        Some(held) => Ok(batch.meta_put(HELD, &held.to_bytes())?),
        None => {
            batch.meta_remove(CONFIRMED)?;
            Ok(batch.meta_remove(HELD)?)
        }
    }
}

pub(crate) fn confirmed(view: &View) -> Result<Option<Held>, Error> {
    Ok(view.meta(CONFIRMED)?.and_then(|bytes| Held::from_bytes(&bytes)))
}

pub(crate) fn put_confirmed(batch: &mut Batch, held: &Held) -> Result<(), Error> {
    Ok(batch.meta_put(CONFIRMED, &held.to_bytes())?)
}

pub(crate) fn weights(view: &View) -> Result<Weights, Error> {
    match view.meta_values(WEIGHTS)?.as_deref() {
        Some([Value::Integer(snapshot), Value::Integer(log)]) => {
            Ok(Weights { snapshot_bytes: *snapshot as u64, log_bytes: *log as u64 })
        }
        Some(_) => Err(Error::Ledger(WEIGHTS)),
        None => Ok(Weights::default()),
    }
}

pub(crate) fn put_weights(batch: &mut Batch, weights: &Weights) -> Result<(), Error> {
    let values = [Value::Integer(weights.snapshot_bytes as i64), Value::Integer(weights.log_bytes as i64)];
    Ok(batch.meta_put_values(WEIGHTS, &values)?)
}

pub(crate) fn clock(view: &View) -> Result<u64, Error> {
    integer(view, CLOCK)
}

pub(crate) fn put_clock(batch: &mut Batch, time_millis: u64) -> Result<(), Error> {
    Ok(batch.meta_put_values(CLOCK, &[Value::Integer(time_millis as i64)])?)
}

/// Remembers when a record changed, and what it was when it went: for the policy `latest`, and for edits that bring a deleted
/// record back.
pub(crate) fn remember(
    batch: &mut Batch,
    collection: &CollectionName,
    change: &Change,
    time_millis: u64,
    policy: ConflictPolicy,
) {
    let time = Value::Integer(time_millis as i64);
    let row = match change {
        Change::Delete { row, .. } => Row::of(&[time, Value::Bytes(row.as_bytes().to_vec())]),
        // Times matter to one policy only; what was deleted may have to come back under any.
        _ if policy == ConflictPolicy::Latest => Row::of(&[time]),
        _ => return,
    };
    batch.overlay_put(collection, change.key().as_bytes(), row.as_bytes());
}

fn integer(view: &View, name: &'static str) -> Result<u64, Error> {
    match view.meta_values(name)?.as_deref() {
        Some([Value::Integer(integer)]) => Ok(*integer as u64),
        Some(_) => Err(Error::Ledger(name)),
        None => Ok(0),
    }
}

/// A set in the outbox: which revision it leads to, when it was made, and its bytes as they travel.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) revision: Revision,
    pub(crate) time_millis: u64,
    pub(crate) set: EncodedSet,
}

/// Number, records, digest and time before the set's bytes.
const WAITING_BYTES: usize = 8 + 8 + 16 + 8;

impl Waiting {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(WAITING_BYTES + self.set.0.len());
        bytes.extend_from_slice(&self.revision.number.to_be_bytes());
        bytes.extend_from_slice(&self.revision.digest.records.to_be_bytes());
        bytes.extend_from_slice(&self.revision.digest.sum.to_be_bytes());
        bytes.extend_from_slice(&self.time_millis.to_be_bytes());
        bytes.extend_from_slice(&self.set.0);
        bytes
    }

    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Waiting, Error> {
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let parts = || {
            let sum = u128::from_be_bytes(bytes.get(16..32)?.try_into().ok()?);
            let revision = Revision { number: number(0)?, digest: Digest { records: number(8)?, sum } };
            Some((revision, number(32)?))
        };
        let (revision, time_millis) = parts().ok_or(Error::Ledger("outbox"))?;
        let set = EncodedSet(bytes[WAITING_BYTES..].to_vec().into());
        Ok(Waiting { revision, time_millis, set })
    }
}

/// The sets in the outbox after revision `after`.
pub(crate) fn outbox(view: &View, after: u64) -> Result<Vec<Waiting>, Error> {
    view.outbox(after + 1).map(|entry| Waiting::from_bytes(entry?.1)).collect()
}
