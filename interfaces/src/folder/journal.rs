//! The journal: what a commit does, step by step, written and synced before the first step.
//!
//! A file of rows ([`deltabus_record::row`]), each after its length (4 bytes, little-endian), and the BLAKE3 of all before
//! at the end. Each step can be done again: a commit that was cut off is finished by doing all of them from the first.

use deltabus_record::row::Row;
use deltabus_record::value::{Instant, Value};

use super::beneath::{EntryKind, Moment, Seen};
use super::path::EntryPath;

/// What a journal begins with; the digit is the format's version.
const MAGIC: &[u8] = b"deltabus journal 1\n";

/// One step of a commit. Steps act only on what is still as it was [`Seen`] when the commit was staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Gives the owner the right to change the folder, until a later [`Step::Set`].
    Open { path: EntryPath },
    /// Moves an entry to the work folder, under the number `work`.
    Take { path: EntryPath, before: Seen, work: u64 },
    /// Removes a file or link.
    Remove { path: EntryPath, before: Seen },
    /// Removes a folder that is empty.
    RemoveFolder { path: EntryPath },
    /// Makes a folder where there is none.
    MakeFolder { path: EntryPath },
    /// Moves the entry of number `work` in the work folder into place. `from` is where it was taken, if it was.
    Put { path: EntryPath, before: Option<Seen>, work: u64, from: Option<EntryPath>, attributes: Attributes },
    /// Sets attributes of an entry whose content is as it was.
    Set { path: EntryPath, before: Option<Seen>, attributes: Attributes },
    /// Moves the new marks into place.
    Mark { work: u64 },
}

/// What is set beside content; `None` stays as it is, or is what any new entry gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits, `0o7777`.
    pub(crate) mode: Option<u32>,
    /// When the content was written.
    pub(crate) mtime: Option<Moment>,
}

impl Attributes {
    pub(super) fn is_empty(self) -> bool {
        self == Attributes::default()
    }
}

/// The journal's bytes.
pub(super) fn encode(steps: &[Step]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for step in steps {
        let row = Row::of(&step.values());
        out.extend_from_slice(&(row.as_bytes().len() as u32).to_le_bytes());
        out.extend_from_slice(row.as_bytes());
    }
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out
}

/// The steps; `None` for bytes that are no whole journal.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Step>> {
    let (body, hash) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body) != *hash {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (row, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        steps.push(Step::from_values(Row::from_bytes(row).ok()?.values())?);
        rest = after;
    }
    Some(steps)
}

impl Step {
    fn values(&self) -> Vec<Value> {
        let number = |number: u64| Value::integer(number.into());
        let path = |path: &EntryPath| Value::Bytes(path.as_bytes().to_vec());
        match self {
            Step::Open { path: at } => vec![Value::text("open"), path(at)],
            Step::Take { path: at, before, work } => {
                vec![Value::text("take"), path(at), seen_value(Some(before)), number(*work)]
            }
            Step::Remove { path: at, before } => vec![Value::text("remove"), path(at), seen_value(Some(before))],
            Step::RemoveFolder { path: at } => vec![Value::text("remove folder"), path(at)],
            Step::MakeFolder { path: at } => vec![Value::text("make folder"), path(at)],
            Step::Put { path: at, before, work, from, attributes } => vec![
                Value::text("put"),
                path(at),
                seen_value(before.as_ref()),
                number(*work),
                from.as_ref().map_or(Value::Null, path),
                attributes.value(),
            ],
            Step::Set { path: at, before, attributes } => {
                vec![Value::text("set"), path(at), seen_value(before.as_ref()), attributes.value()]
            }
            Step::Mark { work } => vec![Value::text("mark"), number(*work)],
        }
    }

    fn from_values(values: Vec<Value>) -> Option<Step> {
        let mut values = values.into_iter();
        let Value::Text(name) = values.next()? else { return None };
        let mut next = || values.next();
        Some(match name.as_str() {
            "open" => Step::Open { path: path_of(next()?)? },
            "take" => Step::Take { path: path_of(next()?)?, before: seen_of(next()?)??, work: number_of(next()?)? },
            "remove" => Step::Remove { path: path_of(next()?)?, before: seen_of(next()?)?? },
            "remove folder" => Step::RemoveFolder { path: path_of(next()?)? },
            "make folder" => Step::MakeFolder { path: path_of(next()?)? },
            "put" => Step::Put {
                path: path_of(next()?)?,
                before: seen_of(next()?)?,
                work: number_of(next()?)?,
                from: match next()? {
                    Value::Null => None,
                    value => Some(path_of(value)?),
                },
                attributes: Attributes::of(next()?)?,
            },
            "set" => {
                Step::Set { path: path_of(next()?)?, before: seen_of(next()?)?, attributes: Attributes::of(next()?)? }
            }
            "mark" => Step::Mark { work: number_of(next()?)? },
            _ => return None,
        })
    }
}

impl Attributes {
    fn value(&self) -> Value {
        let mode = self.mode.map_or(Value::Null, |mode| Value::Integer(mode.into()));
        Value::List(vec![mode, self.mtime.map_or(Value::Null, moment_value)])
    }

    fn of(value: Value) -> Option<Attributes> {
        let Value::List(values) = value else { return None };
        let [mode, mtime]: [Value; 2] = values.try_into().ok()?;
        Some(Attributes {
            mode: match mode {
                Value::Null => None,
                value => Some(u32::try_from(number_of(value)?).ok()?),
            },
            mtime: match mtime {
                Value::Null => None,
                value => Some(moment_of(value)?),
            },
        })
    }
}

fn seen_value(seen: Option<&Seen>) -> Value {
    let Some(seen) = seen else { return Value::Null };
    let number = |number: u64| Value::integer(number.into());
    let kind = match seen.kind {
        EntryKind::File => 0,
        EntryKind::Folder => 1,
        EntryKind::Link => 2,
        EntryKind::Special => 3,
    };
    Value::List(vec![
        number(kind),
        number(seen.mode.into()),
        number(seen.size),
        moment_value(seen.mtime),
        moment_value(seen.ctime),
        number(seen.inode),
        number(seen.owner.0.into()),
        number(seen.owner.1.into()),
    ])
}

/// `Some(None)` for an entry that was not there.
#[expect(clippy::option_option, reason = "bytes that are none, nothing there, and something there are three things")]
fn seen_of(value: Value) -> Option<Option<Seen>> {
    let values = match value {
        Value::Null => return Some(None),
        Value::List(values) => values,
        _ => return None,
    };
    let [kind, mode, size, mtime, ctime, inode, owner, group]: [Value; 8] = values.try_into().ok()?;
    let small = |value: Value| u32::try_from(number_of(value)?).ok();
    Some(Some(Seen {
        kind: match number_of(kind)? {
            0 => EntryKind::File,
            1 => EntryKind::Folder,
            2 => EntryKind::Link,
            3 => EntryKind::Special,
            _ => return None,
        },
        mode: small(mode)?,
        size: number_of(size)?,
        mtime: moment_of(mtime)?,
        ctime: moment_of(ctime)?,
        inode: number_of(inode)?,
        owner: (small(owner)?, small(group)?),
    }))
}

fn moment_value(moment: Moment) -> Value {
    Value::Instant(Instant { seconds: moment.seconds, nanos: moment.nanos, offset_seconds: 0 })
}

fn moment_of(value: Value) -> Option<Moment> {
    match value {
        Value::Instant(instant) => Some(Moment { seconds: instant.seconds, nanos: instant.nanos }),
        _ => None,
    }
}

fn number_of(value: Value) -> Option<u64> {
    match value {
        Value::Integer(number) => u64::try_from(number).ok(),
        Value::BigInteger(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn path_of(value: Value) -> Option<EntryPath> {
    match value {
        Value::Bytes(path) => EntryPath::new(&path).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_as_it_was_written_or_not_at_all() {
        let path = |path: &str| EntryPath::new(path.as_bytes()).unwrap();
        let moment = Moment { seconds: -5, nanos: 999_999_999 };
        let seen = Seen {
            kind: EntryKind::Link,
            mode: 0o7777,
            size: u64::MAX,
            mtime: moment,
            ctime: moment,
            inode: u64::MAX - 1,
            owner: (0, u32::MAX),
        };
        let attributes = Attributes { mode: Some(0o644), mtime: Some(moment) };
        let steps = [
            Step::Open { path: path("a") },
            Step::Take { path: path("a/b"), before: seen, work: 7 },
            Step::Remove { path: path("c"), before: Seen { kind: EntryKind::File, ..seen } },
            Step::RemoveFolder { path: path("d") },
            Step::MakeFolder { path: path("e") },
            Step::Put { path: path("f"), before: Some(seen), work: 8, from: Some(path("a/b")), attributes },
            Step::Put { path: path("g"), before: None, work: 9, from: None, attributes: Attributes::default() },
            Step::Set { path: path("h"), before: None, attributes },
            Step::Mark { work: 10 },
        ];
        let bytes = encode(&steps);
        assert_eq!(decode(&bytes).as_deref(), Some(&steps[..]));
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None);
        }
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_eq!(decode(&other), None);
        }
    }
}
