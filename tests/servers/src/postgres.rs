//! PostgreSQL: `initdb` in a temporary folder, reached by a socket in it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Where a server's programs may be that are not on PATH: the places of Debian, Red Hat and Homebrew.
const PLACES: [&str; 4] = ["/usr/lib/postgresql", "/usr", "/opt/homebrew/opt", "/usr/local/opt"];

/// Who runs the server where we are root, which PostgreSQL refuses to be.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Holds its server until its input ends, which it does when the test process is gone, however that came.
const KEEPER: &str = r#"
    trap '' INT TERM HUP
    data=$1 log=$2 options=$3
    shift 3
    "$@" pg_ctl -D "$data" -l "$log" -o "$options" -w -t 60 start >&2 && echo ready
    cat >/dev/null
    "$@" pg_ctl -D "$data" -m immediate -w stop >&2
    rm -rf "$(dirname "$data")"
"#;

/// A server with a socket and nothing else; superuser `postgres`, no password.
pub struct Server {
    folder: PathBuf,
    // The server ends when this does.
    _input: ChildStdin,
    _keeper: Child,
    databases: AtomicU32,
}

/// The server that all tests of this process share.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// A server that nobody else uses as long as this is there: transactions are counted by server.
pub struct Lease(Option<Server>);

static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// Takes a server that is idle, or starts one.
pub fn lease() -> Lease {
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    Lease(Some(idle.unwrap_or_else(Server::start)))
}

impl std::ops::Deref for Lease {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
    }
}

impl Server {
    fn start() -> Server {
        Server::with("")
    }

    /// A server of one's own, with further settings: `-c wal_level=logical`.
    pub fn with(settings: &str) -> Server {
        let programs = programs();
        let folder =
            tempfile::Builder::new().prefix("deltabus-postgres-").tempdir_in("/tmp").expect("a folder can be made");
        let folder = folder.keep();
        let as_user = as_user(&folder);
        let data = folder.join("data");
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut words: Vec<String> = as_user.clone();
        words.push(programs.join("initdb").display().to_string());
        let made = Command::new(&words[0])
            .args(&words[1..])
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .env("PATH", &path)
            .output()
            .expect("initdb can be started");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        // Tests wait for nothing that a machine's failure would need, and nobody but them counts transactions.
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c synchronous_commit=off \
             -c full_page_writes=off -c autovacuum=off -c max_connections=200 -c max_prepared_transactions=8 \
             -c shared_buffers=32MB -c max_wal_size=256MB -c wal_level=minimal -c max_wal_senders=0 {settings}",
            folder.display()
        );
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(&data)
            .arg(folder.join("log"))
            .arg(options)
            .args(&as_user)
            .env("PATH", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        let input = keeper.stdin.take().expect("its input is a pipe");
        let mut said = String::new();
        let output = keeper.stdout.take().expect("its output is a pipe");
        BufReader::new(output).read_line(&mut said).expect("a pipe can be read");
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert_eq!(said.trim(), "ready", "the server did not start: {}", log());
        Server { folder, _input: input, _keeper: keeper, databases: AtomicU32::new(0) }
    }

    /// The folder of the server's socket, to be given as host.
    pub fn socket(&self) -> &Path {
        &self.folder
    }

    /// A location in `database` with these options: `tables=…&key=…`.
    pub fn location(&self, database: &str, options: &str) -> String {
        self.location_as("postgres", database, options)
    }

    /// The same for another user.
    pub fn location_as(&self, user: &str, database: &str, options: &str) -> String {
        let and = if options.is_empty() { "" } else { "&" };
        format!("postgres://{user}@/{database}?host={}{and}{options}", self.folder.display())
    }

    /// A name that was not given yet.
    pub fn fresh_name(&self) -> String {
        format!("fresh_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    /// A new, empty database.
    pub fn database(&self) -> String {
        let name = self.fresh_name();
        self.run("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Runs statements with psql and gives what they print, columns separated by `|`.
    pub fn run(&self, database: &str, sql: &str) -> String {
        run(&self.folder, database, sql)
    }

    /// The same for a thread of its own, which must end before the server does.
    pub fn runner(&self, database: &str) -> impl Fn(&str) -> String + Send + Sync + use<> {
        let (folder, database) = (self.folder.clone(), database.to_owned());
        move |sql| run(&folder, &database, sql)
    }

    /// Runs a file of statements with psql.
    pub fn run_file(&self, database: &str, file: &Path) {
        let output = psql(&self.folder, database, &["-f", file.to_str().expect("a path in UTF-8")]);
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}

fn run(folder: &Path, database: &str, sql: &str) -> String {
    let output = psql(folder, database, &["-c", sql]);
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn psql(folder: &Path, database: &str, arguments: &[&str]) -> std::process::Output {
    Command::new(programs().join("psql"))
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
        .arg(folder)
        .args(arguments)
        .output()
        .expect("psql can be started")
}

/// The words before a command that run it as somebody whom PostgreSQL accepts, to whom `folder` is given.
fn as_user(folder: &Path) -> Vec<String> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if id(&["-u"]).as_deref() != Some("0") {
        return Vec::new();
    }
    let (uid, gid) =
        USERS.iter().find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?))).unwrap_or_else(|| {
            panic!("PostgreSQL doesn't run as root, and there is no user {} to run it", USERS.join(" or "))
        });
    let (user, group) = (uid.parse().expect("a number"), gid.parse().expect("a number"));
    std::os::unix::fs::chown(folder, Some(user), Some(group)).expect("root may give a folder away");
    ["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()].into()
}

/// The folder with `initdb`, `pg_ctl`, `postgres` and `psql`.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        for place in PLACES {
            let mut found: Vec<PathBuf> = std::fs::read_dir(place)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
                .collect();
            // The newest first.
            found.sort();
            folders.extend(found.into_iter().rev());
        }
        let complete = |folder: &PathBuf| {
            ["initdb", "pg_ctl", "postgres", "psql"].iter().all(|program| folder.join(program).is_file())
        };
        folders.into_iter().find(complete).unwrap_or_else(|| {
            panic!("this test needs a PostgreSQL server's programs (initdb, pg_ctl, postgres, psql): run ./setup")
        })
    })
}
