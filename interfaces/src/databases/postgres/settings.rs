//! How to reach a server: what the location says, else the environment, else what libpq would do.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html>

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, TargetSessionAttrs};

use super::tls::{Tls, Verify};
use crate::location::percent_decode;
use crate::{Location, Options, Result};

/// How long to try to reach a server: longer than a busy one takes, short enough for a person to wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a silent connection is left alone before the other side is asked whether it is still there, how long to wait
/// for an answer, and how often: two minutes in all, in which networks come back.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

const PORT: u16 = 5432;

/// Where servers on the same machine put their sockets.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The connection parameters that may stand in a location's query.
pub(super) const PARAMETERS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "passfile",
    "connect_timeout",
    "application_name",
    "options",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "target_session_attrs",
    "keepalives",
    "keepalives_idle",
];

/// How to connect, and what to call it.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// For messages: without user and password.
    pub(super) place: String,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The parts of `postgres://user@host:port,host/database`.
#[derive(Default)]
struct Url {
    user: Option<String>,
    hosts: Vec<(String, Option<String>)>,
    database: Option<String>,
}

impl Settings {
    /// Takes the connection parameters out of the location's `options`.
    pub(super) fn of(location: &Location, options: &mut Options) -> Result<Settings> {
        let url = Url::parse(location)?;
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut config = Config::new();
        let database = options.take("dbname").or(url.database).or_else(|| environment("PGDATABASE"));
        let user = options.take("user").or(url.user).or_else(|| environment("PGUSER"));
        let mut hosts = url.hosts;
        if let Some(value) = options.take("host").or_else(|| environment("PGHOST").filter(|_| hosts.is_empty())) {
            // As in libpq, the query's host takes the place of the authority's, whose port may stay.
            let ports: Vec<_> = hosts.iter().map(|(_, port)| port.clone()).collect();
            let port = |at: usize| ports.get(at).or(ports.first()).cloned().flatten();
            hosts = value.split(',').enumerate().map(|(at, host)| (host.to_owned(), port(at))).collect();
        }
        if hosts.is_empty() {
            let folder = SOCKET_FOLDERS.into_iter().find(|folder| Path::new(folder).join(socket_name(PORT)).exists());
            hosts.push((folder.unwrap_or("localhost").to_owned(), None));
        }
        let port = options.take("port").or_else(|| environment("PGPORT"));
        let mut places = Vec::new();
        let mut first = None;
        for (host, own) in &hosts {
            let number = match own.as_ref().or(port.as_ref()) {
                Some(text) => text
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| location.error(format!("`{text}` is no port")))?,
                None => PORT,
            };
            let host = if host.is_empty() { "localhost" } else { host };
            config.host(host).port(number);
            places.push(if number == PORT { host.to_owned() } else { format!("{host}:{number}") });
            first.get_or_insert((host.to_owned(), number));
        }
        if let Some(address) = options.take("hostaddr") {
            for address in address.split(',') {
                let parsed = address.parse().map_err(|_| location.error(format!("`{address}` is no IP address")))?;
                config.hostaddr(parsed);
            }
        }
        if let Some(user) = &user {
            config.user(user);
        }
        if let Some(database) = &database {
            config.dbname(database);
        }
        let passfile = options.take("passfile").or_else(|| environment("PGPASSFILE")).map(PathBuf::from);
        let password = location.password().map(str::to_owned).or_else(|| environment("PGPASSWORD"));
        let password = password.or_else(|| {
            let file = passfile.or_else(|| environment("HOME").map(|home| Path::new(&home).join(".pgpass")))?;
            let (host, port) = first.as_ref()?;
            let user = user.clone().or_else(|| environment("USER"))?;
            password_from(&file, host, *port, database.as_deref().unwrap_or(&user), &user)
        });
        if let Some(password) = password {
            config.password(password);
        }
        let seconds = |option: &str, value: &str| {
            value
                .parse()
                .map(Duration::from_secs)
                .map_err(|_| location.error(format!("option `{option}`: `{value}` is no number of seconds")))
        };
        let timeout = options.take("connect_timeout").or_else(|| environment("PGCONNECT_TIMEOUT"));
        config.connect_timeout(timeout.map_or(Ok(CONNECT_TIMEOUT), |value| seconds("connect_timeout", &value))?);
        let name = options.take("application_name").or_else(|| environment("PGAPPNAME"));
        config.application_name(name.unwrap_or_else(|| "deltabus".into()));
        if let Some(value) = options.take("options").or_else(|| environment("PGOPTIONS")) {
            config.options(value);
        }
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL);
        config.keepalives_retries(KEEPALIVE_RETRIES);
        config.tcp_user_timeout(KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES);
        if let Some(value) = options.take("keepalives") {
            config.keepalives(value != "0");
        }
        if let Some(value) = options.take("keepalives_idle") {
            config.keepalives_idle(seconds("keepalives_idle", &value)?);
        }
        let one_of = |option: &str, value: &str, known: &str| {
            location.error(format!("option `{option}`: `{value}` is none of {known}"))
        };
        match options.take("target_session_attrs").as_deref() {
            None | Some("any") => {}
            Some("read-write") => drop(config.target_session_attrs(TargetSessionAttrs::ReadWrite)),
            Some("read-only") => drop(config.target_session_attrs(TargetSessionAttrs::ReadOnly)),
            Some(other) => return Err(one_of("target_session_attrs", other, "any, read-write, read-only")),
        };
        match options.take("channel_binding").as_deref() {
            None | Some("prefer") => {}
            Some("disable") => drop(config.channel_binding(ChannelBinding::Disable)),
            Some("require") => drop(config.channel_binding(ChannelBinding::Require)),
            Some(other) => return Err(one_of("channel_binding", other, "disable, prefer, require")),
        };
        let root = options.take("sslrootcert").or_else(|| environment("PGSSLROOTCERT"));
        let (mode, verify) = match options.take("sslmode").or_else(|| environment("PGSSLMODE")).as_deref() {
            Some("disable") => (SslMode::Disable, Verify::Nothing),
            None | Some("allow" | "prefer") => (SslMode::Prefer, Verify::Nothing),
            // With a root certificate, `require` checks it, as libpq does.
            Some("require") if root.is_some() => (SslMode::Require, Verify::Issuer),
            Some("require") => (SslMode::Require, Verify::Nothing),
            Some("verify-ca") => (SslMode::Require, Verify::Issuer),
            Some("verify-full") => (SslMode::Require, Verify::Everything),
            Some(other) => {
                return Err(one_of("sslmode", other, "disable, allow, prefer, require, verify-ca, verify-full"));
            }
        };
        config.ssl_mode(mode);
        let (certificate, key) = (options.take("sslcert"), options.take("sslkey"));
        let tls = Tls {
            off: mode == SslMode::Disable || config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))),
            verify,
            root: root.filter(|root| root != "system").map(PathBuf::from),
            certificate: certificate.map(PathBuf::from),
            key: key.map(PathBuf::from),
        };
        let place = format!("postgres://{}/{}", places.join(","), database.or(user).unwrap_or_default());
        Ok(Settings { config, tls, place })
    }
}

impl Url {
    fn parse(location: &Location) -> Result<Url> {
        let path = location.path.to_str().unwrap_or_default();
        let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
        let decode =
            |text: &str| percent_decode(text).ok_or_else(|| location.error(format!("bad %-escape in `{text}`")));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(decode(user)?).filter(|user| !user.is_empty()), hosts),
            None => (None, authority),
        };
        let mut url =
            Url { user, hosts: Vec::new(), database: Some(decode(database)?).filter(|name| !name.is_empty()) };
        for host in hosts.split(',').filter(|host| !host.is_empty()) {
            let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((address, port)) => (address, port.strip_prefix(':')),
                None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
            };
            url.hosts.push((decode(name)?, port.filter(|port| !port.is_empty()).map(str::to_owned)));
        }
        Ok(url)
    }
}

fn socket_name(port: u16) -> String {
    format!(".s.PGSQL.{port}")
}

/// Looks the password up in a file of `host:port:database:user:password` lines.
fn password_from(file: &Path, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let metadata = fs::metadata(file).ok()?;
    if metadata.mode() & 0o077 != 0 {
        tracing::warn!(path = %file.display(), "the password file is ignored: others may read it");
        return None;
    }
    let host = if host.starts_with('/') { "localhost" } else { host };
    let port = port.to_string();
    let wanted = [host, &port, database, user];
    fs::read_to_string(file).ok()?.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split_escaped(line);
        let [parts @ .., password] = fields.as_slice() else { return None };
        let fits = parts.len() == 4 && parts.iter().zip(wanted).all(|(part, wanted)| part == "*" || part == wanted);
        fits.then(|| password.clone())
    })
}

/// Splits at colons; a backslash takes the next character as it is.
fn split_escaped(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut().into_iter().for_each(|field| field.extend(chars.next())),
            char => fields.last_mut().into_iter().for_each(|field| field.push(char)),
        }
    }
    fields
}
