//! Running a process and measuring it from outside.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// What benchmarks fail with.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How often a process's memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// How often each process is run; the fastest run counts.
pub(crate) const RUNS: usize = 3;

/// One process, run to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Wall time.
    pub(crate) seconds: f64,
    /// Processor time, in user and system mode; where others use the machine too, it says more than wall time.
    pub(crate) cpu_seconds: f64,
    /// Peak resident memory in MiB, as far as it can be seen from outside (`VmHWM`).
    pub(crate) peak_mib: f64,
}

/// Runs `command` once, which must succeed with one of `codes`.
pub(crate) fn once(command: &mut Command, codes: &[i32]) -> Result<Measured> {
    let cpu_before = children_cpu()?;
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(Pid::from_child(&child)), ended)?.is_none() {
        peak_kib = peak(&status_file).unwrap_or(0).max(peak_kib);
        std::thread::park_timeout(LOOK);
    }
    let seconds = start.elapsed().as_secs_f64();
    let status = child.wait()?;
    let cpu_seconds = children_cpu()? - cpu_before;
    if !status.code().is_some_and(|code| codes.contains(&code)) {
        let mut text = String::new();
        if let Some(mut errors) = child.stderr.take() {
            std::io::Read::read_to_string(&mut errors, &mut text)?;
        }
        return Err(format!("{command:?} ended with {status}: {text}").into());
    }
    Ok(Measured { seconds, cpu_seconds, peak_mib: peak_kib as f64 / 1024.0 })
}

/// The fastest of [`RUNS`] runs; `prepare` comes before each.
pub(crate) fn best(codes: &[i32], mut prepare: impl FnMut() -> Result<Command>) -> Result<Measured> {
    let mut best: Option<Measured> = None;
    for _ in 0..RUNS {
        let run = once(&mut prepare()?, codes)?;
        if best.is_none_or(|best| run.seconds < best.seconds) {
            best = Some(run);
        }
    }
    best.ok_or_else(|| "no run".into())
}

/// One of several that are measured side by side.
pub(crate) struct Case<'a> {
    /// What is run.
    pub(crate) name: String,
    /// The exit codes of success.
    pub(crate) codes: &'a [i32],
    /// Comes before each run.
    pub(crate) prepare: Box<dyn FnMut() -> Result<Command> + 'a>,
}

impl<'a> Case<'a> {
    /// A command that is the same each time.
    pub(crate) fn new(
        name: impl Into<String>,
        codes: &'a [i32],
        prepare: impl FnMut() -> Result<Command> + 'a,
    ) -> Case<'a> {
        Case { name: name.into(), codes, prepare: Box::new(prepare) }
    }
}

/// Runs all of them in turn, [`RUNS`] times, and prints the fastest run of each; ratios are to the first.
pub(crate) fn alternating(cases: Vec<Case<'_>>) -> Result<Vec<Measured>> {
    in_turn(cases, RUNS)
}

/// The same with so many runs.
pub(crate) fn in_turn(mut cases: Vec<Case<'_>>, runs: usize) -> Result<Vec<Measured>> {
    let mut fastest: Vec<Option<Measured>> = vec![None; cases.len()];
    for _ in 0..runs.max(1) {
        for (case, fastest) in cases.iter_mut().zip(&mut fastest) {
            let run = once(&mut (case.prepare)()?, case.codes)?;
            let before = fastest.unwrap_or(run);
            *fastest = Some(Measured {
                seconds: run.seconds.min(before.seconds),
                cpu_seconds: run.cpu_seconds.min(before.cpu_seconds),
                peak_mib: run.peak_mib.max(before.peak_mib),
            });
        }
    }
    let fastest: Vec<Measured> = fastest.into_iter().flatten().collect();
    for (case, measured) in cases.iter().zip(&fastest) {
        line(&case.name, *measured, fastest[0]);
    }
    Ok(fastest)
}

/// Processor time of all processes that this one has waited for, and of those that they waited for, in seconds.
fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let times = [usage.user_time(), usage.system_time()];
    Ok(times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum())
}

fn peak(status_file: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status_file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The program, which stands beside this one.
pub(crate) fn deltabus() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("deltabus");
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is missing: `cargo build --release` first", path.display()).into())
    }
}

/// This program, to run an alternative.
pub(crate) fn alternative(name: &str, files: &[&Path]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("alternative").arg(name).args(files);
    Ok(command)
}

/// Whether a program is installed.
pub(crate) fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Prints one line of a table: wall time, processor time, memory; ratios are to `reference`.
pub(crate) fn line(name: &str, measured: Measured, reference: Measured) {
    println!(
        "{name:<44} {:>9.3} s {:>7.2} x {:>9.2} s {:>7.2} x {:>9.1} MiB",
        measured.seconds,
        measured.seconds / reference.seconds,
        measured.cpu_seconds,
        measured.cpu_seconds / reference.cpu_seconds,
        measured.peak_mib
    );
}

/// A process that goes on, by its id.
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// Processor time of all its threads so far, in seconds, as exact as the scheduler counts it.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let mut nanos = 0_u64;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.0))? {
            // A thread may end meanwhile; what it took is lost, which is little where threads last.
            let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            nanos += text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(nanos as f64 / 1e9)
    }

    /// Resident memory.
    pub(crate) fn memory_mib(&self) -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// The most resident memory so far.
    pub(crate) fn peak_mib(&self) -> Result<f64> {
        let file = format!("/proc/{}/status", self.0);
        Ok(peak(&file).ok_or_else(|| format!("{file} tells no memory"))? as f64 / 1024.0)
    }
}

/// Processes that end with this.
#[derive(Default)]
pub(crate) struct Running(pub(crate) Vec<Child>);

impl Running {
    /// Processor time of all of them so far, in seconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        self.0.iter().map(|child| Process(child.id()).cpu()).sum()
    }

    /// Their resident memory.
    pub(crate) fn memory_mib(&self) -> Result<f64> {
        self.0.iter().map(|child| Process(child.id()).memory_mib()).sum()
    }

    /// The most resident memory of each so far, added up.
    pub(crate) fn peak_mib(&self) -> Result<f64> {
        self.0.iter().map(|child| Process(child.id()).peak_mib()).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// The value below which a part (0 to 1) of `sorted` lies.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * part).round() as usize).copied().unwrap_or(f64::NAN)
}
