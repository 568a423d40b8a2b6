//! Writing tables in one transaction.

use deltabus_record::schema::Collection;

use super::connection::{Failure, Session, first};
use super::define::{define, unusable};
use super::order::Order;
use super::read::{Locked, View};
use super::records::{Horizon, Plan, Target};
use super::stamp::{State, short};
use super::table::{Sort, Table, TableName, quote};
use super::{MARK_TABLE, Postgres, Triggers, place_of};
use crate::{Action, CollectionWrite, Content, Error, Mark, Result, Staged, Stamp};

/// How often a transaction that met another one is tried again at once, before whoever asked looks again.
const CONFLICTS_MAX: u32 = 4;

/// All writes see one state, so that what was tested is what is written; whoever wrote the same rows meanwhile is noticed.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE; SET CONSTRAINTS ALL DEFERRED";

/// Why a transaction came to nothing.
pub(super) enum Stop {
    Error(Error),
    Server { failure: Failure, place: String, doing: &'static str, key: Option<String> },
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

impl Stop {
    fn into_error(self) -> Error {
        match self {
            Stop::Error(error) => error,
            Stop::Server { failure, place, doing, key } => {
                let class = failure.code().and_then(|code| code.code().get(..2)).unwrap_or_default();
                match key {
                    // Integrity and data: it is the record's fault.
                    Some(key) if matches!(class, "22" | "23" | "44") => {
                        Error::Write { place, key, problem: failure.to_string() }
                    }
                    _ => failure.into_error(place, doing),
                }
            }
        }
    }

    fn code(&self) -> Option<&str> {
        match self {
            Stop::Server { failure, .. } => failure.code().map(|code| code.code()),
            Stop::Error(_) => None,
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self, Stop::Server { failure, .. } if failure.is_conflict())
    }
}

/// In what manner a set is written: the plainest first, others where constraints ask for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Strategy {
    /// Records go after others have let go of them, not before.
    pub(super) deletes_last: bool,
    /// Unique values that change are put aside first.
    pub(super) park: bool,
    /// Foreign keys are checked when all is written, though they are declared to be checked at once.
    pub(super) defer: bool,
}

impl Strategy {
    /// What to try after `stop`; `None` where nothing else helps.
    fn after(self, stop: &Stop) -> Option<Strategy> {
        match stop.code()? {
            "23503" | "23001" if !self.deletes_last => Some(Strategy { deletes_last: true, ..self }),
            "23503" if !self.defer => Some(Strategy { defer: true, ..self }),
            "23505" | "23P01" if !self.park => Some(Strategy { park: true, ..self }),
            _ => None,
        }
    }
}

/// Opens a transaction, checks that nobody else wrote what is to be written, and writes everything; the commit is the
/// caller's.
pub(super) fn stage<'a>(
    postgres: &'a Postgres,
    writes: &mut [CollectionWrite<'_>],
    expected: &Stamp,
    mark: Option<&Mark>,
) -> Result<Box<dyn Staged + 'a>> {
    let mut strategy = Strategy::default();
    let mut conflicts = 0;
    loop {
        let mut loaded = Loaded::No;
        let stop = match attempt(postgres, writes, expected, mark, strategy, &mut loaded) {
            Ok(transaction) => return Ok(Box::new(transaction)),
            Err(stop) => stop,
        };
        // What came as a stream has been read.
        if loaded == Loaded::Yes {
            return Err(stop.into_error());
        }
        if let Some(next) = strategy.after(&stop) {
            strategy = next;
        } else if stop.is_conflict() && conflicts < CONFLICTS_MAX {
            conflicts += 1;
        } else {
            return Err(stop.into_error());
        }
    }
}

/// Whether records have been taken off a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loaded {
    No,
    Yes,
}

fn attempt<'a>(
    postgres: &'a Postgres,
    writes: &mut [CollectionWrite<'_>],
    expected: &Stamp,
    mark: Option<&Mark>,
    strategy: Strategy,
    loaded: &mut Loaded,
) -> Result<Transaction<'a>, Stop> {
    let server = &postgres.server;
    let session = match server.begin(BEGIN) {
        Err(Error::Missing { place }) => {
            let problem = "the server has no such database; create it first".into();
            return Err(Stop::Error(Error::Unsupported { place, problem }));
        }
        session => session?,
    };
    let failed = |doing| {
        let place = server.place().to_owned();
        move |failure| Stop::Server { failure, place, doing, key: None }
    };
    let there = Table::selected(&session, &postgres.selection).map_err(failed("reading the list of tables"))?;
    let now = State::take(&session, None, &there).map_err(failed("reading its state"))?;
    let known = known_state(postgres, expected, &now)?;
    let horizon = horizon(known.as_ref(), &now).ok_or_else(|| changed(postgres))?;
    let schema = default_schema(postgres, &session).map_err(failed("looking for the schema"))?;

    let mut tables: Vec<Option<Table>> = Vec::with_capacity(writes.len());
    let mut gone = Vec::new();
    let mut keyless = Vec::with_capacity(writes.len());
    for write in writes.iter_mut() {
        let name = name_of(postgres, write.collection, &schema)?;
        let place = place_of(postgres, write.collection.name.as_str());
        let found = match there.iter().find(|table| table.name == name) {
            Some(found) => Some(found.clone()),
            None => Table::named(&session, &name).map_err(failed("reading the table's columns"))?,
        };
        if let (Some(found), Some(known)) = (&found, &known)
            && !known.tables.contains(&(found.oid, found.fingerprint))
        {
            return Err(Stop::Error(Error::Changed { place }));
        }
        keyless.push(found.is_none() && matches!(write.action, Action::Load(_)));
        tables.push(match (&write.action, &found) {
            (Action::Remove, Some(table)) if matches!(table.sort, Sort::Table | Sort::Partitioned) => {
                gone.push(name.sql());
                None
            }
            _ => define(&session, &name, found, write, &place)?,
        });
    }
    if !gone.is_empty() {
        // All at once, as one may refer to another.
        session.batch(&format!("DROP TABLE {}", gone.join(", "))).map_err(failed("dropping tables"))?;
    }
    let mut targets: Vec<Option<Target<'_>>> = Vec::with_capacity(writes.len());
    for (write, table) in writes.iter().zip(&tables) {
        let place = place_of(postgres, write.collection.name.as_str());
        targets.push(match table {
            Some(table) => Some(Target::new(&session, table, &write.collection.schema, place)?),
            None => None,
        });
    }
    let oids: Vec<u32> = tables.iter().map(|table| table.as_ref().map_or(0, |table| table.oid)).collect();
    let order = Order::of(&session, &oids).map_err(failed("reading foreign keys"))?;
    let loads = writes.iter().any(|write| matches!(write.action, Action::Load(_)));
    // A stream can't be tried again.
    let mut after = match strategy.defer || loads && order.is_circular() {
        true => order.defer(&session, &tables).map_err(failed("deferring foreign keys"))?,
        false => Vec::new(),
    };
    if postgres.triggers == Triggers::Off {
        after.extend(
            switch_off(&session, &tables.iter().flatten().collect::<Vec<_>>())
                .map_err(failed("switching triggers off"))?,
        );
    }
    let plans = write_all(writes, &targets, &keyless, &order.parents_first, &horizon, strategy, loaded)?;
    if postgres.triggers == Triggers::On {
        insist(&session, &targets, &plans)?;
    }
    drop(plans);
    if !after.is_empty() {
        // A table with checks still to be made can't be altered.
        after.insert(0, "SET CONSTRAINTS ALL IMMEDIATE".into());
        session.batch(&after.join("; ")).map_err(failed("checking foreign keys"))?;
    }
    if let Some(mark) = mark {
        write_mark(&session, &schema, mark).map_err(failed("writing the mark"))?;
    }
    let triggers = postgres.triggers == Triggers::On;
    let reactive = tables.iter().flatten().any(|table| table.reactive || table.triggers && triggers);
    let rows = session.query("SELECT pg_current_xact_id()::text::bigint", Vec::new());
    let own: i64 = rows.and_then(|rows| first(&rows)).map_err(failed("reading its state"))?;
    drop(targets);
    Ok(Transaction { postgres, session, base: known.unwrap_or(now), own: own as u64, reactive })
}

/// What `expected` says; `None` where nothing was there, nor is now.
fn known_state(postgres: &Postgres, expected: &Stamp, now: &State) -> Result<Option<State>, Stop> {
    if expected.is_missing() {
        return match now.tables.is_empty() {
            true => Ok(None),
            false => Err(changed(postgres)),
        };
    }
    let Some(known) = State::of(expected).filter(|known| known.identity == now.identity) else {
        return Err(changed(postgres));
    };
    // Whoever altered or dropped one of the tables may mean that what is to be written goes elsewhere.
    match known.tables.iter().all(|table| now.tables.contains(table)) {
        true => Ok(Some(known)),
        false => Err(changed(postgres)),
    }
}

fn changed(postgres: &Postgres) -> Stop {
    Stop::Error(Error::Changed { place: postgres.server.place().to_owned() })
}

/// Which rows others wrote since; `None` where that can't be told.
fn horizon(known: Option<&State>, now: &State) -> Option<Horizon> {
    let Some(known) = known else { return Some(Horizon { written_since: None }) };
    let lowest = known.horizon(now)?;
    if now.snapshot.xmax.saturating_sub(lowest) > i32::MAX as u64 / 2 {
        return None;
    }
    let mut condition = format!("age(t.xmin) <= age('{}'::xid)", short(lowest));
    if !known.own.is_empty() {
        let own: Vec<_> = known.own.iter().map(|own| short(*own).to_string()).collect();
        condition.push_str(&format!(" AND t.xmin <> ALL ('{{{}}}'::xid[])", own.join(",")));
    }
    Some(Horizon { written_since: Some(condition) })
}

/// The default schema, made where it was named and is not there.
fn default_schema(postgres: &Postgres, session: &Session) -> Result<String, Failure> {
    if let Some(wanted) = postgres.server.schema() {
        let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
        let there: bool = first(&session.query(sql, vec![Box::new(wanted.to_owned())])?)?;
        if !there {
            session.batch(&format!("CREATE SCHEMA {}", quote(wanted)))?;
        }
        return Ok(wanted.to_owned());
    }
    let found: Option<String> = first(&session.query("SELECT current_schema()::text", Vec::new())?)?;
    Ok(found.unwrap_or_else(|| "public".into()))
}

/// The table that a collection is kept in.
fn name_of(postgres: &Postgres, collection: &Collection, default: &str) -> Result<TableName, Stop> {
    let collection = collection.name.as_str();
    let selection = &postgres.selection;
    let named = selection.single().or_else(|| selection.tables.iter().find(|named| named.collection() == collection));
    let name = match named {
        Some(named) => {
            TableName { schema: named.schema.clone().unwrap_or_else(|| default.to_owned()), name: named.name.clone() }
        }
        None => TableName { schema: default.to_owned(), name: collection.to_owned() },
    };
    let unsupported =
        |problem: String| Err(Stop::Error(Error::Unsupported { place: place_of(postgres, collection), problem }));
    if name.name == MARK_TABLE {
        return unsupported("no collection can have this name in PostgreSQL".into());
    }
    if let Some(problem) = unusable(&name.name) {
        return unsupported(format!("PostgreSQL can't have a table of this name: {problem}"));
    }
    Ok(name)
}

/// Switches the tables' own triggers off; gives the statements that put them back as they were.
fn switch_off(session: &Session, tables: &[&Table]) -> Result<Vec<String>, Failure> {
    let mut after = Vec::new();
    for table in tables.iter().filter(|table| table.triggers) {
        let sql = "SELECT tgname::text, tgenabled = 'A' FROM pg_trigger
            WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY tgname";
        for row in session.query(sql, vec![Box::new(table.oid)])? {
            let (name, always): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
            let (table, name) = (table.name.sql(), quote(&name));
            session.batch(&format!("ALTER TABLE {table} DISABLE TRIGGER {name}"))?;
            after.push(format!("ALTER TABLE {table} ENABLE {} TRIGGER {name}", if always { "ALWAYS" } else { "" }));
        }
    }
    Ok(after)
}

/// Puts what was written back where triggers overruled it, in tables that are ours to alter: were it to stand, and a trigger
/// at the other end to do the same, the two would overrule each other for ever.
fn insist(session: &Session, targets: &[Option<Target<'_>>], plans: &[Option<Plan<'_>>]) -> Result<(), Stop> {
    for (target, plan) in targets.iter().zip(plans) {
        let (Some(target), Some(plan)) = (target, plan) else { continue };
        if !target.table.triggers || !target.table.owned {
            continue;
        }
        let overruled = target.overruled(plan)?;
        if overruled.is_empty() {
            continue;
        }
        let failed = |failure| {
            let place = target.place.clone();
            Stop::Server { failure, place, doing: "switching triggers off", key: None }
        };
        // A table with checks still to be made can't be altered.
        session.batch("SET CONSTRAINTS ALL IMMEDIATE").map_err(failed)?;
        let after = switch_off(session, &[target.table]).map_err(failed)?;
        session.batch("SET CONSTRAINTS ALL DEFERRED").map_err(failed)?;
        target.insist(&overruled)?;
        session.batch("SET CONSTRAINTS ALL IMMEDIATE").map_err(failed)?;
        session.batch(&after.join("; ")).map_err(failed)?;
    }
    Ok(())
}

/// Writes all records; gives what was done to single ones. `keyless`: tables that get their key when they are loaded.
fn write_all<'w>(
    writes: &'w mut [CollectionWrite<'_>],
    targets: &[Option<Target<'_>>],
    keyless: &[bool],
    parents_first: &[usize],
    horizon: &Horizon,
    strategy: Strategy,
    loaded: &mut Loaded,
) -> Result<Vec<Option<Plan<'w>>>, Stop> {
    let mut loads = Vec::new();
    let mut plans: Vec<Option<Plan<'w>>> = Vec::with_capacity(writes.len());
    for (write, target) in writes.iter_mut().zip(targets) {
        let (plan, load) = match (&mut write.action, target) {
            (Action::Write(writes), Some(target)) => (Some(target.plan(writes, horizon)?), None),
            (Action::Load(records), Some(_)) => (None, Some(records)),
            _ => (None, None),
        };
        plans.push(plan);
        loads.push(load);
    }
    let remove = |plans: &[Option<Plan<'_>>]| -> Result<(), Stop> {
        for &at in parents_first.iter().rev() {
            if let (Some(target), Some(plan)) = (&targets[at], &plans[at]) {
                target.remove(plan)?;
            }
        }
        Ok(())
    };
    if !strategy.deletes_last {
        remove(&plans)?;
    }
    for &at in parents_first {
        let Some(target) = &targets[at] else { continue };
        if let Some(plan) = &plans[at] {
            target.put(plan, strategy)?;
            if plan.brings() {
                target.advance_sequences()?;
            }
        }
        if let Some(records) = &mut loads[at] {
            *loaded = Loaded::Yes;
            target.load(&mut ***records)?;
            if keyless[at] {
                target.add_key()?;
            }
            target.advance_sequences()?;
        }
    }
    if strategy.deletes_last {
        remove(&plans)?;
    }
    Ok(plans)
}

fn write_mark(session: &Session, schema: &str, mark: &Mark) -> Result<(), Failure> {
    let table = format!("{}.{MARK_TABLE}", quote(schema));
    let there: bool = first(&session.query("SELECT to_regclass($1) IS NOT NULL", vec![Box::new(table.clone())])?)?;
    if !there {
        session.batch(&format!("CREATE TABLE {table} (owner text PRIMARY KEY, value bytea NOT NULL)"))?;
    }
    let sql = format!(
        "INSERT INTO {table} (owner, value) VALUES ($1, $2) ON CONFLICT (owner) DO UPDATE SET value = excluded.value"
    );
    session.execute(&sql, vec![Box::new(mark.owner.clone()), Box::new(mark.value.clone())]).map(drop)
}

/// An open transaction; dropping it rolls it back.
struct Transaction<'a> {
    postgres: &'a Postgres,
    session: Session,
    /// What was known before.
    base: State,
    /// Our transaction's number.
    own: u64,
    /// Whether more may have happened than was written.
    reactive: bool,
}

impl Staged for Transaction<'_> {
    fn content(&self) -> Option<Content> {
        None
    }

    fn commit(self: Box<Self>) -> Result<Stamp> {
        let Transaction { postgres, session, base, own, reactive } = *self;
        let place = postgres.server.place().to_owned();
        session.batch("COMMIT").map_err(|failure| {
            Stop::Server { failure, place: place.clone(), doing: "committing", key: Some("of some record".into()) }
                .into_error()
        })?;
        postgres.server.keep(session);
        // Committed: from here on nothing may fail the commit, only make its stamp one that equals no other.
        let exact = match View::begin(postgres, Locked::No) {
            Ok(View { session, state, .. }) => {
                if session.batch("COMMIT").is_ok() {
                    postgres.server.keep(session);
                }
                let known = !reactive && base.own.is_empty() && state.snapshot.differs_only_by(&base.snapshot, own);
                known.then(|| state.stamp())
            }
            Err(Error::Missing { .. }) if !reactive => Some(Stamp::MISSING),
            Err(_) => None,
        };
        Ok(exact.unwrap_or_else(|| base.and_own(own).stamp()))
    }
}
