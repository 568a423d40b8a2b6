//! Readers that take what is published and do nothing with it, many in a process, and how far all of them are.
//!
//! A process of them runs this program (`readers …`) and prints a number once each of its readers has that much.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deltabus_bus::{Event, Position, Reader, pointer};
use futures::StreamExt;

use crate::measure::{Result, Running};
use crate::pipeline::{client_at, log_at};

/// How long all readers may take for anything.
const PATIENCE: Duration = Duration::from_secs(600);

/// How far the quickest reader of a process may be before its slowest.
const AHEAD_MAX: usize = 1 << 16;

/// What readers listen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way<'a> {
    /// A source's log, through the `bus` crate: every set is checked, decompressed and decoded.
    Log,
    /// A subject, by a plain subscription of the NATS client.
    Subject(&'a str),
}

/// How many readers there are, and how they come to the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// How many.
    pub(crate) count: usize,
    /// How many of them in a process.
    pub(crate) together: usize,
    /// Whether each has a connection of its own, as those of different machines have; else one of each process serves all.
    pub(crate) apart: bool,
}

/// Processes of readers.
pub(crate) struct Readers {
    pub(crate) running: Running,
    reached: Arc<(Mutex<Vec<u64>>, Condvar)>,
}

impl Readers {
    /// Starts readers of the local bus in the state directory `folder`, and returns when all of them listen.
    pub(crate) fn start(folder: &Path, way: Way<'_>, crowd: Crowd) -> Result<Readers> {
        let Crowd { count, together, apart } = crowd;
        let processes = count.div_ceil(together);
        let reached = Arc::new((Mutex::new(vec![0; processes]), Condvar::new()));
        let mut running = Running::default();
        for process in 0..processes {
            let here = together.min(count - process * together);
            let what = match way {
                Way::Log => "",
                Way::Subject(subject) => subject,
            };
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("readers").arg(folder).arg(here.to_string()).arg(what);
            if apart {
                command.arg("--apart");
            }
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
            let lines = BufReader::new(child.stdout.take().ok_or("it has no output")?).lines();
            running.0.push(child);
            let reached = Arc::clone(&reached);
            std::thread::spawn(move || {
                for number in lines.map_while(|line| line.ok()?.parse::<u64>().ok()) {
                    reached.0.lock().unwrap_or_else(PoisonError::into_inner)[process] = number;
                    reached.1.notify_all();
                }
            });
        }
        let readers = Readers { running, reached };
        readers.all_have(1)?;
        Ok(readers)
    }

    /// Returns when every reader has `number`: that revision of a log, that many messages and one of a subject.
    pub(crate) fn all_have(&self, number: u64) -> Result<()> {
        tokio::task::block_in_place(|| {
            let begin = Instant::now();
            let mut reached = self.reached.0.lock().unwrap_or_else(PoisonError::into_inner);
            while reached.iter().any(|reached| *reached < number) {
                if begin.elapsed() > PATIENCE {
                    return Err(format!("{number} did not arrive everywhere").into());
                }
                let waited = self.reached.1.wait_timeout(reached, Duration::from_secs(1));
                reached = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            Ok(())
        })
    }
}

/// What all readers of one process have.
struct Tally {
    readers: usize,
    /// By number, modulo [`AHEAD_MAX`]: how many have it.
    having: Vec<AtomicUsize>,
}

impl Tally {
    fn take(&self, number: u64) {
        let having = &self.having[number as usize % AHEAD_MAX];
        if having.fetch_add(1, Ordering::Relaxed) + 1 == self.readers {
            having.store(0, Ordering::Relaxed);
            println!("{number}");
        }
    }
}

/// Is a process of `count` readers, until it is ended; `apart`: see [`Crowd`].
pub(crate) fn run(folder: &Path, count: usize, subject: &str, apart: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let having = (0..AHEAD_MAX).map(|_| AtomicUsize::new(0)).collect();
        let tally = Arc::new(Tally { readers: count, having });
        let mut tasks = tokio::task::JoinSet::new();
        if subject.is_empty() {
            let mut log = log_at(folder).await?;
            let start = pointer(&log).await?.ok_or("nothing was published")?.position;
            for at in 0..count {
                if apart && at > 0 {
                    log = log_at(folder).await?;
                }
                tasks.spawn(follow(Reader::at(&log, start), start, Arc::clone(&tally)));
            }
        } else {
            let mut client = client_at(folder).await?;
            let mut subscribers = Vec::new();
            for at in 0..count {
                if apart && at > 0 {
                    client = client_at(folder).await?;
                }
                subscribers.push(client.subscribe(subject.to_owned()).await?);
                client.flush().await?;
            }
            for mut subscriber in subscribers {
                let tally = Arc::clone(&tally);
                tasks.spawn(async move {
                    for number in 1.. {
                        tally.take(number);
                        if subscriber.next().await.is_none() {
                            return;
                        }
                    }
                });
            }
        }
        while tasks.join_next().await.is_some() {}
        Err("the readers have ended".into())
    })
}

async fn follow(mut reader: Reader, start: Position, tally: Arc<Tally>) {
    let mut number = start.revision.number;
    let mut listens = false;
    loop {
        match reader.next().await {
            Ok(Event::Set(set)) => {
                number = set.set.next.number;
                if listens {
                    tally.take(number);
                }
            }
            // A reader says so only once it listens.
            Ok(Event::CaughtUp(_)) if !listens => {
                listens = true;
                tally.take(number);
            }
            Ok(Event::CaughtUp(_)) => {}
            Ok(Event::Rejoin(reason)) => return eprintln!("a reader can't go on: {reason}"),
            Err(error) => return eprintln!("a reader failed: {error}"),
        }
    }
}
