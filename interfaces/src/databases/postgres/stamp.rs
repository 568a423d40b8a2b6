//! Stamps: which transactions had been committed.
//!
//! A stamp is the server's snapshot: every transaction that writes has a number, a snapshot says which of them count, and
//! so equal snapshots of one server mean that nothing was committed in between. With it come the server's identity and
//! timeline (a restored backup counts on from an older number), the role (rows may be hidden from some), and for each table
//! a fingerprint of what the catalog says of it.
//!
//! # Rows that were not written since
//! Let S be the snapshot of an earlier stamp, C that of a scan, and x the `xmin` of a row that C sees: the transaction, or
//! the part of one, that wrote the row. Let L be the lowest transaction that was running at S and is not at C, or the first
//! that had not begun at S where there is none. If x < L, then S saw the very same row:
//!
//! - C sees the row, so x and the transaction t that it is part of (t ≤ x) were committed before C, and so is t not running
//!   at C. As t ≤ x < L, t had begun at S. Had t been running at S, then L ≤ t. So t had ended at S, in a commit.
//! - The row was not deleted at C, so it wasn't at S.
//! - A row never changes: an update writes another one with another `xmin`. What is made of its bytes can change with the
//!   catalog only, whose fingerprints must be equal: columns, types, labels of enums, defaults of added columns, and the
//!   files in which the rows lie, which are other ones after whatever moves rows without writing them (`TRUNCATE`, rewrites,
//!   `VACUUM FULL`). Types whose text depends on more than that, row security and views are never left out.
//!
//! A standby doesn't say which transactions are running; there L is the lowest that may be (the snapshot's `xmin`).
//!
//! Rows hold 32 bits of x. `age(x)` counts back from the next transaction N as a signed number of 32 bits, so
//! `age(x) > N - L` says x < L as long as N - L is below 2^31, which is checked. Rows so old that their x has come round are
//! taken for new at worst: they are frozen, and `age` puts them anywhere.

use std::collections::BTreeSet;

use super::connection::{Failure, Session, first};
use super::table::Table;
use crate::Stamp;

/// The first byte: what kind of stamp follows.
const EXACT: u8 = 1;
const PARTIAL: u8 = 2;

/// How many of our own transactions a stamp remembers, before the rows that they wrote count as somebody else's.
const OWN_MAX: usize = 64;

/// A snapshot, as `pg_current_snapshot` prints it: `10:20:10,14,15`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// All before had ended.
    pub(super) xmin: u64,
    /// None from here on had.
    pub(super) xmax: u64,
    /// Those between that were running, in order.
    pub(super) running: Vec<u64>,
}

/// A server's state without regard to what tables are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    identity: Identity,
    snapshot: Snapshot,
    replayed: Option<u64>,
}

/// What the stamp of a database says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) identity: Identity,
    pub(super) snapshot: Snapshot,
    /// How far a standby has replayed; `None` on a primary.
    pub(super) replayed: Option<u64>,
    /// Fingerprints by table.
    pub(super) tables: Vec<(u32, u64)>,
    /// Transactions of ours that came after the snapshot; where there are any, nothing is known of what else did.
    pub(super) own: Vec<u64>,
    /// Tells states apart that can't be told apart otherwise.
    pub(super) nonce: u64,
}

/// Whose transactions are counted, and who looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    system: u64,
    timeline: u32,
    database: u32,
    role: u32,
}

impl Snapshot {
    pub(super) fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.split(':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let running = parts.next()?.split(',').filter(|it| !it.is_empty()).map(|it| it.parse().ok());
        Some(Snapshot { xmin, xmax, running: running.collect::<Option<_>>()? })
    }

    /// Whether nothing but `own` has ended since `earlier`.
    pub(super) fn differs_only_by(&self, earlier: &Snapshot, own: u64) -> bool {
        earlier.xmax == own && self.xmax == own + 1 && self.running == earlier.running
    }
}

fn malformed() -> Failure {
    Failure::Io(std::io::Error::other("the server gave a snapshot that is none"))
}

impl Moment {
    /// The moment that the server is at. A standby replays on meanwhile: what is seen lies at or before what it says.
    pub(super) fn take(session: &Session) -> Result<Moment, Failure> {
        // Some providers keep this to themselves; there a database's number must do.
        let (system, timeline) = match session.identifies {
            true => (
                "(SELECT system_identifier FROM pg_control_system())",
                "(SELECT timeline_id FROM pg_control_checkpoint())",
            ),
            false => ("0::bigint", "0"),
        };
        let sql = format!(
            "SELECT pg_current_snapshot()::text, {system}, {timeline},
                (SELECT oid FROM pg_database WHERE datname = current_database()),
                (SELECT oid FROM pg_roles WHERE rolname = current_user),
                CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END"
        );
        let rows = session.query(&sql, Vec::new())?;
        let Some(row) = rows.first() else { return Err(malformed()) };
        let identity = Identity {
            system: row.try_get::<_, i64>(1)? as u64,
            timeline: row.try_get::<_, i32>(2)? as u32,
            database: row.try_get(3)?,
            role: row.try_get(4)?,
        };
        let snapshot = Snapshot::parse(row.try_get(0)?).ok_or_else(malformed)?;
        let replayed = row.try_get::<_, Option<i64>>(5)?.map(|lsn| lsn as u64);
        Ok(Moment { identity, snapshot, replayed })
    }
}

impl State {
    /// The state that the transaction just begun sees; `replayed` was read before it began.
    pub(super) fn take(session: &Session, replayed: Option<u64>, tables: &[Table]) -> Result<State, Failure> {
        let Moment { identity, snapshot, .. } = Moment::take(session)?;
        // What foreign tables hold changes without any transaction here.
        let nonce = match tables.iter().any(|table| table.sort == super::table::Sort::Foreign) {
            true => std::time::SystemTime::now()
                .duration_since(std::time::SystemTime::UNIX_EPOCH)
                .map_or(1, |now| now.as_nanos() as u64),
            false => 0,
        };
        let tables = tables.iter().map(|table| (table.oid, table.fingerprint)).collect();
        Ok(State { identity, snapshot, replayed, tables, own: Vec::new(), nonce })
    }

    /// How far a standby has replayed the log; `None` on a primary. To be read before a snapshot is taken.
    pub(super) fn replayed(session: &Session) -> Result<Option<u64>, Failure> {
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END";
        Ok(first::<Option<i64>>(&session.query(sql, Vec::new())?)?.map(|lsn| lsn as u64))
    }

    /// The moment of this state: at an equal one the state is this one. `None` where no transaction tells of changes.
    ///
    /// A standby's position was read before the snapshot here and is read after it in a moment: where both are the same,
    /// nothing was replayed between.
    pub(super) fn moment(&self) -> Option<Moment> {
        let moment =
            Moment { identity: self.identity.clone(), snapshot: self.snapshot.clone(), replayed: self.replayed };
        (self.nonce == 0).then_some(moment)
    }

    /// The lowest transaction whose rows may be unknown to who knows this state, seen from `now`; see the module's
    /// documentation. `None` where that can't be told.
    pub(super) fn horizon(&self, now: &State) -> Option<u64> {
        let comparable = self.identity == now.identity && self.snapshot.xmax <= now.snapshot.xmax;
        if !comparable {
            return None;
        }
        if self.replayed.is_some() || now.replayed.is_some() {
            return Some(self.snapshot.xmin);
        }
        let running: BTreeSet<u64> = now.snapshot.running.iter().copied().collect();
        let ended = self.snapshot.running.iter().copied().filter(|xid| !running.contains(xid)).min();
        Some(ended.unwrap_or(self.snapshot.xmax))
    }

    /// The state that was this one before our transaction `own`.
    pub(super) fn and_own(mut self, own: u64) -> State {
        self.own.push(own);
        let more = self.own.len().saturating_sub(OWN_MAX);
        self.own.drain(..more);
        self
    }

    pub(super) fn stamp(&self) -> Stamp {
        let mut out = vec![if self.own.is_empty() { EXACT } else { PARTIAL }];
        put(&mut out, self.identity.system);
        put(&mut out, self.identity.timeline.into());
        put(&mut out, self.identity.database.into());
        put(&mut out, self.identity.role.into());
        put(&mut out, self.snapshot.xmin);
        put(&mut out, self.snapshot.xmax);
        put_all(&mut out, &self.snapshot.running);
        put_all(&mut out, self.replayed.as_slice());
        put(&mut out, self.tables.len() as u64);
        for (table, fingerprint) in &self.tables {
            put(&mut out, (*table).into());
            put(&mut out, *fingerprint);
        }
        put_all(&mut out, &self.own);
        put(&mut out, self.nonce);
        Stamp(out)
    }

    /// The state that a stamp says; `None` for what isn't one of ours.
    pub(super) fn of(stamp: &Stamp) -> Option<State> {
        let [EXACT | PARTIAL, rest @ ..] = stamp.0.as_slice() else { return None };
        let mut reader = Reader { rest };
        let identity = Identity {
            system: reader.number()?,
            timeline: u32::try_from(reader.number()?).ok()?,
            database: u32::try_from(reader.number()?).ok()?,
            role: u32::try_from(reader.number()?).ok()?,
        };
        let (xmin, xmax) = (reader.number()?, reader.number()?);
        let snapshot = Snapshot { xmin, xmax, running: reader.numbers()? };
        let replayed = reader.numbers()?.first().copied();
        let count = reader.number()?;
        let mut tables = Vec::new();
        for _ in 0..count {
            tables.push((u32::try_from(reader.number()?).ok()?, reader.number()?));
        }
        let own = reader.numbers()?;
        let nonce = reader.number()?;
        reader.rest.is_empty().then_some(State { identity, snapshot, replayed, tables, own, nonce })
    }
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_all(out: &mut Vec<u8>, numbers: &[u64]) {
    put(out, numbers.len() as u64);
    numbers.iter().for_each(|number| put(out, *number));
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    fn numbers(&mut self) -> Option<Vec<u64>> {
        let count = self.number()?;
        (0..count).map(|_| self.number()).collect()
    }
}

/// The 32 bits of a transaction's number that rows hold.
pub(super) fn short(xid: u64) -> u32 {
    xid as u32
}
