//! Connections to a server, for threads that block.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement};

use super::runtime::{spawn, wait};
use super::settings::Settings;
use crate::{Error, Result};

/// The oldest server that can be talked to: `pg_current_snapshot` came with it, all older ones are out of maintenance.
const SERVER_VERSION_MIN: i32 = 130_000;

/// How many idle connections are kept for the next call: one to look with and one to write with.
const IDLE_MAX: usize = 2;

/// How many prepared statements a connection keeps.
const STATEMENTS_MAX: usize = 128;

/// What makes the text of every value exact and the same everywhere, and keeps a server's limits meant for interactive use
/// from ending a long read.
const SESSION: &str = "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601'; SET TimeZone = 'UTC';
    SET extra_float_digits = 1; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmloption = 'content';
    SET standard_conforming_strings = on; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0;
    SET jit = off";

/// A parameter of a statement.
pub(super) type Parameter = Box<dyn ToSql + Sync + Send>;

/// The server of one location, with connections kept for the next call.
pub(super) struct Server {
    pub(super) settings: Settings,
    /// Where tables are made and found by their bare names; `None`: the first schema of the search path.
    schema: Option<String>,
    /// How long to wait for a lock that another program holds, in milliseconds.
    lock_timeout_ms: u64,
    idle: Mutex<Vec<Session>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// An open connection; dropping it closes it, whatever it is doing.
pub(super) struct Session {
    client: Arc<Client>,
    statements: Arc<Mutex<HashMap<String, Statement>>>,
    connection: AbortHandle,
    /// Whether we may ask which server this is.
    pub(super) identifies: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The server notices and rolls back; rows on their way are not waited for.
        self.connection.abort();
    }
}

impl Server {
    pub(super) fn new(settings: Settings, schema: Option<String>, lock_timeout_ms: u64) -> Server {
        Server { settings, schema, lock_timeout_ms, idle: Mutex::default() }
    }

    pub(super) fn place(&self) -> &str {
        &self.settings.place
    }

    pub(super) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// A connection that nobody uses, or a new one; `begin` begins a transaction on it.
    ///
    /// [`Error::Missing`] where the server has no such database.
    pub(super) fn begin(&self, begin: &str) -> Result<Session> {
        while let Some(session) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            match session.batch(begin) {
                Ok(()) => return Ok(session),
                // The server was restarted meanwhile, or has closed it.
                Err(failure) if failure.is_disconnect() => {}
                Err(failure) => return Err(failure.into_error(self.place(), "beginning a transaction")),
            }
        }
        let session = self.connect()?;
        session.batch(begin).map_err(|failure| failure.into_error(self.place(), "beginning a transaction"))?;
        Ok(session)
    }

    /// Keeps a connection on which no transaction is open.
    pub(super) fn keep(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !session.client.is_closed() {
            idle.push(session);
        }
    }

    /// A new connection, set up.
    pub(super) fn connect(&self) -> Result<Session> {
        let settings = self.settings.clone();
        let connected = wait(async move { connect(&settings).await }).unwrap_or_else(|| Err(Failure::gone()));
        let mut session = match connected {
            Ok((client, connection)) => {
                let client = Arc::new(client);
                Session { client, statements: Arc::default(), connection, identifies: false }
            }
            Err(failure) if failure.code() == Some(&SqlState::INVALID_CATALOG_NAME) => {
                return Err(Error::Missing { place: self.place().to_owned() });
            }
            Err(failure) => return Err(failure.into_error(self.place(), "connecting")),
        };
        let prepare = || -> Result<(String, bool), Failure> {
            session.batch(&format!("{SESSION}; SET lock_timeout = {}", self.lock_timeout_ms))?;
            if let Some(schema) = &self.schema {
                session.query(
                    "SELECT set_config('search_path', quote_ident($1) || ', ' || current_setting('search_path'), false)",
                    vec![Box::new(schema.clone())],
                )?;
            }
            let sql = "SELECT current_setting('server_version_num'),
                has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
                AND has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE')";
            match session.query(sql, Vec::new())?.first() {
                Some(row) => Ok((row.try_get(0)?, row.try_get(1)?)),
                None => Err(Failure::gone()),
            }
        };
        let prepared = prepare().map_err(|failure| failure.into_error(self.place(), "setting up the connection"));
        let (version, identifies) = prepared?;
        session.identifies = identifies;
        match version.parse::<i32>() {
            Ok(version) if version >= SERVER_VERSION_MIN => Ok(session),
            _ => Err(Error::Unsupported {
                place: self.place().to_owned(),
                problem: format!("the server's version is {version}; PostgreSQL 13 or newer is needed"),
            }),
        }
    }
}

async fn connect(settings: &Settings) -> Result<(Client, AbortHandle), Failure> {
    if settings.tls.off {
        let (client, connection) = settings.config.connect(NoTls).await?;
        return Ok((client, spawn(connection).map_err(Failure::Io)?.abort_handle()));
    }
    let tls = settings.tls.connector().map_err(Failure::Io)?;
    let (client, connection) = settings.config.connect(tls).await?;
    Ok((client, spawn(connection).map_err(Failure::Io)?.abort_handle()))
}

impl Session {
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// Runs statements without parameters.
    pub(super) fn batch(&self, sql: &str) -> Result<(), Failure> {
        let (client, sql) = (self.client(), sql.to_owned());
        self.wait(async move { Ok(client.batch_execute(&sql).await?) })
    }

    /// Runs a statement and gives its rows; it stays prepared.
    pub(super) fn query(&self, sql: &str, parameters: Vec<Parameter>) -> Result<Vec<Row>, Failure> {
        let statement = self.prepare(sql);
        let client = self.client();
        self.wait(async move {
            let statement = statement.await?;
            let parameters: Vec<&(dyn ToSql + Sync)> =
                parameters.iter().map(|it| &**it as &(dyn ToSql + Sync)).collect();
            Ok(client.query(&statement, &parameters).await?)
        })
    }

    /// Runs a statement and gives the number of rows that it touched; it stays prepared.
    pub(super) fn execute(&self, sql: &str, parameters: Vec<Parameter>) -> Result<u64, Failure> {
        let statement = self.prepare(sql);
        let client = self.client();
        self.wait(async move {
            let statement = statement.await?;
            let parameters: Vec<&(dyn ToSql + Sync)> =
                parameters.iter().map(|it| &**it as &(dyn ToSql + Sync)).collect();
            Ok(client.execute(&statement, &parameters).await?)
        })
    }

    fn prepare(&self, sql: &str) -> impl Future<Output = Result<Statement, Failure>> + Send + 'static {
        let (client, sql, statements) = (self.client(), sql.to_owned(), Arc::clone(&self.statements));
        async move {
            let known = statements.lock().unwrap_or_else(PoisonError::into_inner).get(&sql).cloned();
            if let Some(statement) = known {
                return Ok(statement);
            }
            let statement = client.prepare(&sql).await?;
            let mut statements = statements.lock().unwrap_or_else(PoisonError::into_inner);
            if statements.len() >= STATEMENTS_MAX {
                statements.clear();
            }
            statements.insert(sql, statement.clone());
            Ok(statement)
        }
    }

    fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        wait(future).unwrap_or_else(|| Err(Failure::gone()))
    }
}

/// The first column of the first row.
pub(super) fn first<T: for<'a> tokio_postgres::types::FromSql<'a>>(rows: &[Row]) -> Result<T, Failure> {
    match rows.first() {
        Some(row) => Ok(row.try_get(0)?),
        None => Err(Failure::Io(io::Error::other("the server gave no row where it always gives one"))),
    }
}

/// What went wrong on a connection.
#[derive(Debug)]
pub(super) enum Failure {
    Server(tokio_postgres::Error),
    Io(io::Error),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        Failure::Server(error)
    }
}

impl Failure {
    pub(super) fn gone() -> Failure {
        Failure::Io(io::ErrorKind::ConnectionAborted.into())
    }

    /// What the server calls it.
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Failure::Server(error) => error.code(),
            Failure::Io(_) => None,
        }
    }

    /// The connection is gone, or was never there.
    pub(super) fn is_disconnect(&self) -> bool {
        match self {
            Failure::Server(error) => match error.code() {
                Some(code) => matches!(
                    *code,
                    SqlState::ADMIN_SHUTDOWN
                        | SqlState::CRASH_SHUTDOWN
                        | SqlState::CANNOT_CONNECT_NOW
                        | SqlState::TOO_MANY_CONNECTIONS
                ),
                None => error.is_closed() || caused_by_io(error),
            },
            Failure::Io(error) => error.kind() != io::ErrorKind::Other,
        }
    }

    /// Trying the same transaction again may work: it met another one.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.code(), Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE
            || *code == SqlState::T_R_DEADLOCK_DETECTED)
    }

    pub(super) fn is_lock_timeout(&self) -> bool {
        self.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// What it means; `place` is the database or the table.
    pub(super) fn into_error(self, place: impl Into<String>, doing: &'static str) -> Error {
        let place = place.into();
        if self.is_lock_timeout() {
            return Error::Locked { place };
        }
        if self.is_conflict() {
            return Error::Changed { place };
        }
        if self.is_disconnect() {
            return Error::Unreachable { place, doing, source: Box::new(self) };
        }
        Error::Database { place, doing, source: Box::new(self) }
    }
}

fn caused_by_io(error: &tokio_postgres::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<io::Error>() {
            return true;
        }
        source = cause.source();
    }
    false
}

impl StdError for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Failure::Io(error) => return error.fmt(f),
            Failure::Server(error) => error,
        };
        let Some(refusal) = error.as_db_error() else {
            error.fmt(f)?;
            let mut source = error.source();
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
            return Ok(());
        };
        f.write_str(refusal.message())?;
        for (name, value) in [("detail", refusal.detail()), ("hint", refusal.hint()), ("in", refusal.where_())] {
            if let Some(value) = value {
                write!(f, "; {name}: {}", value.replace('\n', " "))?;
            }
        }
        if let Some(constraint) = refusal.constraint().filter(|name| !refusal.message().contains(*name)) {
            write!(f, "; constraint: {constraint}")?;
        }
        write!(f, " ({})", refusal.code().code())
    }
}
