//! PostgreSQL databases: `postgres://user@host/app?tables=orders,sales.items`.
//!
//! | option | |
//! |---|---|
//! | `tables=a,s.b` | the tables, views or foreign tables, in another schema where one is named; `"…"` around names with commas or points. Else all tables of the default schema but `_deltabus`; partitions belong to their table |
//! | `key.TABLE=a,b` | the key of one table; else its primary key, else the whole row |
//! | `key=a,b` | the same where one table is named |
//! | `schema=s` | the default schema; else the first of the search path (`public`) |
//! | `notify=CHANNEL` | look whenever something is sent on this channel (`NOTIFY`), beside polling |
//! | `triggers=off` | the tables' own triggers don't fire when their records are written here: `on` is the default. Takes the owner's rights, and locks the table against other writers until the commit |
//! | `lock_timeout=10000` | how many milliseconds to wait for a lock that another program holds |
//! | `host`, `port`, `user`, `password`, `dbname`, `sslmode`, `sslrootcert` … | connection parameters, as libpq's; what is not given comes from `PGHOST` and its like, the password also from `.pgpass` |
//!
//! Where one table is named, it stands for a source's single collection, whatever that is called. A collection is called
//! as its table, with the schema in front where that isn't the default one. Nothing is installed in the database, and
//! reading takes no more than the right to read. A table's fields are its columns in declared order, but for generated
//! columns, which PostgreSQL computes itself wherever the table is. [`types`] has what each value becomes. An old-style
//! child table is a table of its own, and its rows are not its parent's.
//!
//! # Reading
//! A scan is one transaction that sees one state, with each table sent as binary `COPY`, in the order of its primary key.
//! [`stamp`] has what a stamp says, and why rows that were not written since an earlier one need not be read.
//!
//! # Writing
//! From [`Interface::stage`] to the commit there is one transaction, which sees one state (REPEATABLE READ); data and mark,
//! in the table `_deltabus` of the default schema, are committed together. Other writers of the database are the rule, so
//! `expected` is tested row by row: writing fails with [`Error::Changed`] if a record to be written was written by others
//! after `expected`, if its table was altered since, or if somebody writes it at the same time; what others do to other
//! records is none of our business. A record that somebody deleted since comes back with the fields that are written, as an
//! edit outranks a deletion.
//!
//! Triggers, rules and cascades do at a write what they are there for. The commit's stamp then is one that equals no other,
//! so that the next look finds what they did. What is written stands, though: a value that a trigger overruled
//! (`last_update = now()`) is written once more with the table's triggers switched off, where the table is ours to alter,
//! and other writers of the table wait for the commit; two ends with such triggers would overrule each other without end.
//! With `triggers=off` they don't fire at all, as in PostgreSQL's own replication. A trigger that keeps a record from being
//! written is an error.
//!
//! Sequences that fill columns of a table are moved beyond the values that were brought in.

mod array;
mod binary;
mod connection;
mod copy;
mod decode;
mod define;
mod encode;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod jsonb;
mod order;
mod read;
mod records;
mod runtime;
mod settings;
mod stamp;
mod table;
mod tls;
mod types;
mod watching;
mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deltabus_record::schema::Field;
use deltabus_record::value::{KindSet, Value};

use self::connection::{Failure, Server, first};
use self::read::{Locked, TableScan, View};
use self::settings::{PARAMETERS, Settings};
use self::stamp::Moment;
use crate::{
    CollectionWrite, Content, Contents, Error, Interface, Location, Mark, Notify, Refusal, Result, Scan, Staged, Stamp,
    Watching,
};

/// How long to wait for another program's lock, in milliseconds: longer than any sensible transaction, short enough for a
/// person to wait.
const LOCK_TIMEOUT_MS: u64 = 10_000;

/// How often to look, unless somebody says otherwise: a look is one query that reads no table.
const POLL: Duration = Duration::from_millis(250);

/// Where marks are kept.
const MARK_TABLE: &str = "_deltabus";

const OPTIONS: &[&str] = &["tables", "key", "key.TABLE", "schema", "notify", "triggers", "lock_timeout"];

/// A PostgreSQL database as source and destination; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Postgres {
    location: Location,
    server: Arc<Server>,
    selection: Selection,
    channel: Option<String>,
    triggers: Triggers,
    /// The last stamp, and when that was so: as long as nothing is committed, nothing else need be looked at.
    last: Mutex<Option<(Moment, Stamp)>>,
}

/// Whether triggers fire when records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Triggers {
    On,
    Off,
}

/// Which tables, with which keys.
#[derive(Clone, Debug)]
struct Selection {
    /// As named; empty for all.
    tables: Vec<Named>,
    /// Columns by table, as named.
    keys: BTreeMap<String, Vec<String>>,
}

/// A table as the location names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    schema: Option<String>,
    name: String,
}

impl Named {
    /// `table`, `schema.table`, either with quotes.
    fn parse(text: &str) -> Option<Named> {
        let mut parts = split_quoted(text, '.')?;
        let name = parts.pop()?;
        let schema = parts.pop();
        let empty = name.is_empty() || schema.as_ref().is_some_and(String::is_empty) || !parts.is_empty();
        (!empty).then_some(Named { schema, name })
    }

    /// What a source calls it, where its schema isn't the default one.
    fn collection(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Selection {
    /// The one table, where one is named.
    fn single(&self) -> Option<&Named> {
        match self.tables.as_slice() {
            [table] => Some(table),
            _ => None,
        }
    }
}

/// Splits at `separator` outside of quotes, which are taken off; `None` where they don't match.
fn split_quoted(text: &str, separator: char) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                parts.last_mut()?.push('"');
            }
            '"' => quoted = !quoted,
            char if char == separator && !quoted => parts.push(String::new()),
            char => parts.last_mut()?.push(char),
        }
    }
    (!quoted).then_some(parts)
}

impl Postgres {
    /// The database at `location`; nothing is read yet.
    pub(crate) fn open(location: &Location) -> Result<Postgres> {
        if !location.path.to_str().is_some_and(|path| path.contains("://")) {
            return Err(location.error("write a URL: `postgres://user@host/database?tables=…`"));
        }
        let mut options = location.options.clone();
        let list = |option: &str, value: &str| -> Result<Vec<String>> {
            let names = split_quoted(value, ',').unwrap_or_default();
            match names.iter().any(String::is_empty) || names.is_empty() {
                true => Err(location.error(format!("option `{option}` has an empty name in `{value}`"))),
                false => Ok(names),
            }
        };
        let mut tables = Vec::new();
        if let Some(value) = options.take("tables") {
            for named in split_at_commas(&value) {
                let table = Named::parse(named)
                    .ok_or_else(|| location.error(format!("option `tables`: `{named}` is no table's name")))?;
                if table.name == MARK_TABLE {
                    return Err(location.error(format!("`{MARK_TABLE}` is no table of the data")));
                }
                tables.push(table);
            }
        }
        let schema = options.take("schema").filter(|schema| !schema.is_empty());
        // Naming the default schema names no other.
        for table in &mut tables {
            if table.schema.is_some() && table.schema == schema {
                table.schema = None;
            }
        }
        let mut keys = BTreeMap::new();
        for (table, value) in options.take_prefixed("key.") {
            let option = format!("key.{table}");
            let names = |named: &Named| named.collection() == table;
            if !tables.is_empty() && !tables.iter().any(names) {
                return Err(location.error(format!("option `{option}`: `tables` doesn't name `{table}`")));
            }
            keys.insert(table, list(&option, &value)?);
        }
        if let Some(value) = options.take("key") {
            let [table] = tables.as_slice() else {
                return Err(location.error("option `key` is for one table, named by `tables`; else say `key.TABLE=…`"));
            };
            let table = table.collection();
            if keys.insert(table.clone(), list("key", &value)?).is_some() {
                return Err(location.error(format!("`key` and `key.{table}` are the same option")));
            }
        }
        let channel = options.take("notify");
        let triggers = match options.take("triggers").as_deref() {
            None | Some("on") => Triggers::On,
            Some("off") => Triggers::Off,
            Some(other) => {
                return Err(location.error(format!("option `triggers`: `{other}` is neither `on` nor `off`")));
            }
        };
        let lock_timeout_ms = match options.take("lock_timeout") {
            // PostgreSQL counts milliseconds in 31 bits; 0 would wait for ever.
            Some(value) => {
                value.parse::<u64>().ok().filter(|ms| (1..=i32::MAX as u64).contains(ms)).ok_or_else(|| {
                    location.error(format!("option `lock_timeout`: `{value}` is no number of milliseconds"))
                })?
            }
            None => LOCK_TIMEOUT_MS,
        };
        let settings = Settings::of(location, &mut options)?;
        let known: Vec<_> = OPTIONS.iter().chain(PARAMETERS).copied().collect();
        options.finish(location, &known)?;
        Ok(Postgres {
            location: location.clone(),
            server: Arc::new(Server::new(settings, schema, lock_timeout_ms)),
            selection: Selection { tables, keys },
            channel,
            triggers,
            last: Mutex::default(),
        })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(Failure) -> Error {
        let place = self.server.place().to_owned();
        move |failure| failure.into_error(place.clone(), doing)
    }
}

/// The parts between commas outside of quotes, quotes and all.
fn split_at_commas(text: &str) -> Vec<&str> {
    let mut quoted = false;
    text.split(|char: char| {
        quoted ^= char == '"';
        char == ',' && !quoted
    })
    .map(str::trim)
    .collect()
}

/// A table for messages.
fn place_of(postgres: &Postgres, table: &str) -> String {
    format!("{}, table `{table}`", postgres.server.place())
}

impl Interface for Postgres {
    fn stamp(&self) -> Result<Stamp> {
        let session = match self.server.begin("") {
            Ok(session) => session,
            Err(Error::Missing { .. }) => return Ok(Stamp::MISSING),
            Err(error) => return Err(error),
        };
        let moment = Moment::take(&session).map_err(self.failed("reading its state"))?;
        self.server.keep(session);
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, stamp)) = &*last()
            && *known == moment
        {
            return Ok(stamp.clone());
        }
        let View { session, state, .. } = match View::begin(self, Locked::No) {
            Ok(view) => view,
            Err(Error::Missing { .. }) => {
                // What was looked at came after the moment, which doesn't come again once something is committed.
                *last() = Some((moment, Stamp::MISSING));
                return Ok(Stamp::MISSING);
            }
            Err(error) => return Err(error),
        };
        session.batch("COMMIT").map_err(self.failed("reading its state"))?;
        self.server.keep(session);
        let stamp = state.stamp();
        *last() = state.moment().map(|moment| (moment, stamp.clone()));
        Ok(stamp)
    }

    fn watch(&self, notify: Notify) -> Result<Option<Watching>> {
        match &self.channel {
            Some(channel) => watching::listen(&self.server, channel, notify).map(Some),
            None => Ok(None),
        }
    }

    fn commits(&self) -> bool {
        true
    }

    fn poll(&self) -> Duration {
        POLL
    }

    fn scan(&self, since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>> {
        Ok(Box::new(TableScan::begin(self, since)?))
    }

    fn verbatim(&self, field: &Field) -> KindSet {
        types::verbatim(field)
    }

    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        types::project(value, field)
    }

    fn field_for(&self, field: &Field) -> Field {
        types::field_for(field)
    }

    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        expected: &Stamp,
        mark: Option<&Mark>,
        _contents: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>> {
        write::stage(self, writes, expected, mark)
    }

    fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>> {
        let session = match self.server.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") {
            Ok(session) => session,
            Err(Error::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mark = || -> Result<Option<Vec<u8>>, Failure> {
            let sql = format!(
                "SELECT (SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = current_schema() AND c.relname = '{MARK_TABLE}')"
            );
            let found = match first::<Option<String>>(&session.query(&sql, Vec::new())?)? {
                Some(table) => {
                    let sql = format!("SELECT value FROM {table} WHERE owner = $1");
                    session
                        .query(&sql, vec![Box::new(owner.to_owned())])?
                        .first()
                        .map(|row| row.try_get(0))
                        .transpose()?
                }
                None => None,
            };
            session.batch("COMMIT")?;
            Ok(found)
        };
        let mark = mark().map_err(self.failed("reading the mark"))?;
        self.server.keep(session);
        Ok(mark)
    }

    fn transactional(&self) -> bool {
        true
    }

    fn single_collection(&self) -> bool {
        self.selection.single().is_some()
    }

    fn content(&self) -> Result<Option<Content>> {
        Ok(None)
    }
}
