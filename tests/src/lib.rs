//! End-to-end tests of deltabus: the real program, a real broker, real files.
//!
//! A [`World`] is a folder with a state directory and a local bus of its own. Programs started in it end with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub mod broker;
pub mod browser;
pub mod catalogue;
#[cfg(target_os = "linux")]
pub mod clock;
pub mod collector;
pub mod driven;
pub mod managed;
#[cfg(target_os = "linux")]
pub mod namespace;
pub mod prometheus;
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod terminal;
pub mod watched;

/// How long a test waits for something that must come; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at while waiting.
pub(crate) const LOOK: Duration = Duration::from_millis(25);

/// A folder, a state directory and a local bus.
pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// An empty world.
    pub fn new() -> World {
        World { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// The path of `name` in this world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The content of a file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Replaces a file in one step, as careful programs do.
    pub fn write(&self, name: &str, content: &str) {
        let temporary = self.path(&format!(".{name}.new"));
        std::fs::write(&temporary, content).expect("a file can be written");
        std::fs::rename(&temporary, self.path(name)).expect("a file can be renamed");
    }

    /// A command line of the program in this world; words are split at spaces.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(program());
        self.set_up(&mut command, line);
        command
    }

    fn set_up<'a>(&self, command: &'a mut Command, line: &str) -> &'a mut Command {
        command
            .args(line.split_whitespace())
            .current_dir(self.folder.path())
            .env("DELTABUS_STATE", self.path("state"))
            .env_remove("DELTABUS_BUS")
            .env_remove("DELTABUS_TOKEN")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
    }

    /// Runs a command line to its end.
    pub fn run(&self, line: &str) -> Ran {
        self.run_as(line, self.command(line))
    }

    /// Runs a command to its end, which `line` stands for.
    pub fn run_as(&self, line: &str, mut command: Command) -> Ran {
        let output = command.output().expect("the program can be started");
        Ran { line: line.to_owned(), output }
    }

    /// The same command line of the program in the other network, with a state directory of its own.
    #[cfg(target_os = "linux")]
    pub fn command_elsewhere(&self, elsewhere: &namespace::Elsewhere, line: &str) -> Command {
        let mut command = elsewhere.command(program());
        self.set_up(&mut command, line).env("DELTABUS_STATE", self.path("elsewhere"));
        command
    }

    /// Starts a command line that goes on; it is killed with the returned guard.
    pub fn start(&self, line: &str) -> Running {
        self.start_as(line, self.command(line))
    }

    /// Starts a command that goes on, which `line` stands for; it is killed with the returned guard.
    pub fn start_as(&self, line: &str, mut command: Command) -> Running {
        let log = self.path(&format!("{}.log", line.replace(|c: char| !c.is_ascii_alphanumeric(), "_")));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log can be made");
        let errors = file.try_clone().expect("a handle can be cloned");
        let child = command.stdout(file).stderr(errors).spawn().expect("the program can be started");
        Running { child: Some(child), log }
    }

    /// Waits until `condition` holds; fails with `what` and everything the programs logged.
    pub fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < end, "waited in vain until {what}\n{}", self.logs());
            std::thread::park_timeout(LOOK);
        }
    }

    /// Waits until `deltabus diff` finds nothing between two locations.
    pub fn wait_equal(&self, a: &str, b: &str) {
        self.wait(&format!("{a} equals {b}: {}", self.run(&format!("diff {a} {b}")).text()), || {
            self.run(&format!("diff {a} {b}")).code() == Some(0)
        });
    }

    /// All logs of programs started here.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.folder.path()).expect("the folder can be read").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                all.push_str(&format!("--- {}\n{text}", entry.file_name().to_string_lossy()));
            }
        }
        all
    }

    /// The process id of the world's broker.
    pub fn broker_pid(&self) -> i32 {
        self.bus_status("")["pid"].as_i64().expect("the bus is running") as i32
    }

    /// Where the world's bus listens, with the login that its own clients have.
    pub fn bus_url(&self) -> String {
        self.bus_url_with("")
    }

    /// The same of the bus that these options mean, `--state …`.
    pub fn bus_url_with(&self, options: &str) -> String {
        let status = self.bus_status(options);
        let folder = Path::new(status["folder"].as_str().expect("a bus has a folder"));
        let secret = std::fs::read_to_string(folder.join("secret")).expect("a bus has a login");
        let url = status["url"].as_str().expect("the bus is running");
        url.replace("nats://", &format!("nats://local:{}@", secret.trim()))
    }

    fn bus_status(&self, options: &str) -> serde_json::Value {
        let status = self.run(&format!("bus status --json {options}")).exits(0);
        serde_json::from_str(&status.stdout()).expect("bus status --json is JSON")
    }

    /// Runs statements in a SQLite database, as any program may.
    pub fn sql(&self, database: &str, statements: &str) {
        let connection = rusqlite::Connection::open(self.path(database)).expect("the database can be opened");
        connection.execute_batch(statements).unwrap_or_else(|error| panic!("{statements}: {error}"));
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Best effort: the broker may never have been started.
        let _ = self.command("bus stop").stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A command that has ended.
pub struct Ran {
    line: String,
    output: Output,
}

impl Ran {
    /// Its exit code.
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// What it wrote to standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// What it wrote to standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Everything about it.
    pub fn text(&self) -> String {
        format!("`deltabus {}` {}\n{}{}", self.line, self.output.status, self.stdout(), self.stderr())
    }

    /// Fails unless it exited with `code`.
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code(), Some(code), "{}", self.text());
        self
    }
}

/// A program that is running; killed when dropped.
pub struct Running {
    child: Option<Child>,
    log: PathBuf,
}

impl Running {
    /// Kills it with signal 9.
    pub fn kill(mut self) {
        self.end(None);
    }

    /// Asks it to stop with SIGTERM and waits for its exit status.
    pub fn stop(mut self) -> ExitStatus {
        self.end(Some(())).expect("it was running")
    }

    fn end(&mut self, ask: Option<()>) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        if ask.is_some() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a child can be signalled");
        } else {
            child.kill().expect("a child can be killed");
        }
        Some(child.wait().expect("a child can be waited for"))
    }

    /// Freezes it: no instruction of it runs until [`Running::thaw`].
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("it is running");
        rustix::process::kill_process(rustix::process::Pid::from_child(child), signal)
            .expect("a child can be signalled");
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// Sends signal 9 to a process that isn't our child.
pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the process can be killed");
}

/// The program under test, built from this workspace as it stands.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "deltabus", "--bin", "deltabus"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo can be started");
        assert!(status.success(), "the program does not build");
        let test = std::env::current_exe().expect("a test knows its own path");
        let profile = test.ancestors().find(|path| path.join("deltabus").is_file());
        profile.expect("the program stands beside the tests").join("deltabus")
    })
}
