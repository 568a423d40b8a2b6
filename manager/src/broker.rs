//! The nats-server that a manager runs: started again when it dies, told when its certificates change.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::Error;

/// How often is looked whether it can be started, and whether its certificates have changed.
const LOOK: Duration = Duration::from_secs(1);

/// How long it may take to end.
const END: Duration = Duration::from_secs(30);

/// A broker that is kept running.
pub(crate) struct Supervised {
    stop: CancellationToken,
    keeping: tokio::task::JoinHandle<()>,
}

impl Supervised {
    /// Runs `nats-server -c configuration`. `certificates`: files after whose change it reads its configuration again.
    pub(crate) fn start(configuration: &Path, certificates: Vec<PathBuf>) -> Result<Supervised, Error> {
        let (program, _) = deltabus_bus::local::find_server()?;
        let configuration = std::path::absolute(configuration).map_err(|source| Error::Io {
            doing: "find",
            path: configuration.to_owned(),
            source,
        })?;
        if !configuration.is_file() {
            return Err(Error::Config(format!("there is no {} to run the broker with", configuration.display())));
        }
        let beside = |name: &str| configuration.with_file_name(name);
        let (lock, log) = (beside("nats-server.lock"), beside("nats-server.log"));
        let open = |path: &Path| {
            let opened = File::options().create(true).append(true).open(path);
            opened.map_err(|source| Error::Io { doing: "open", path: path.to_owned(), source })
        };
        let broker = Broker { program, configuration, lock: open(&lock)?, log: open(&log)? };
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(broker.keep(certificates, stop.clone()));
        Ok(Supervised { stop, keeping })
    }

    /// Ends it, in an orderly way, and waits for that.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let _ = self.keeping.await;
    }
}

struct Broker {
    program: PathBuf,
    configuration: PathBuf,
    lock: File,
    log: File,
}

impl Broker {
    async fn keep(self, certificates: Vec<PathBuf>, stop: CancellationToken) {
        let mut known = stamps(&certificates);
        let mut child: Option<Child> = None;
        loop {
            if child.is_none() {
                child = self.start();
            }
            let ended = async {
                match &mut child {
                    Some(child) => child.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                status = ended => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    let path = self.configuration.with_file_name("nats-server.log");
                    tracing::warn!(status, path = %path.display(), "the broker ended; it is started again");
                    child = None;
                    tokio::time::sleep(LOOK).await;
                }
                () = tokio::time::sleep(LOOK) => {
                    let now = stamps(&certificates);
                    if now != known {
                        known = now;
                        tracing::info!("certificates have changed; the broker reads them again");
                        match &child {
                            Some(child) => signal(Some(child), Signal::HUP),
                            None => self.signal_other(Signal::HUP),
                        }
                    }
                }
            }
        }
        match child {
            Some(mut child) => {
                signal(Some(&child), Signal::TERM);
                let _ = tokio::time::timeout(END, child.wait()).await;
            }
            None => self.signal_other(Signal::TERM),
        }
    }

    /// Tells one that was left by a manager that was killed.
    fn signal_other(&self, signal: Signal) {
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Nobody holds it, so none is running, and its number may be another's by now.
            return;
        }
        let pid = std::fs::read_to_string(self.configuration.with_file_name("nats-server.pid")).ok();
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?)) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Starts it, unless one is running: left by a manager that was killed, or another manager's.
    fn start(&self) -> Option<Child> {
        // nats-server doesn't lock what it stores: as its standard input it holds the lock for as long as it lives.
        flock(&self.lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        let started = (|| {
            let held = self.lock.try_clone()?;
            let (log, errors) = (self.log.try_clone()?, self.log.try_clone()?);
            Command::new(&self.program)
                .arg("-c")
                .arg(&self.configuration)
                .stdin(held)
                .stdout(Stdio::from(log))
                .stderr(Stdio::from(errors))
                .process_group(0)
                .spawn()
        })();
        match started {
            Ok(child) => Some(child),
            Err(error) => {
                tracing::error!(error = deltabus_bus::causes(&error), path = %self.program.display(), "the broker can't be started");
                let _ = flock(&self.lock, FlockOperation::Unlock);
                None
            }
        }
    }
}

fn signal(child: Option<&Child>, signal: Signal) {
    let pid = child.and_then(Child::id).and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // It may just have ended.
        let _ = kill_process(pid, signal);
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    files.iter().map(stamp).collect()
}
