//! Running a process and measuring it from outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    /// Peak resident memory in MiB, as far as it can be seen from outside (`VmHWM`).
    pub(crate) peak_mib: f64,
}

/// Runs `command` once, which must succeed with one of `codes`.
pub(crate) fn once(command: &mut Command, codes: &[i32]) -> Result<Measured> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak(&status_file).unwrap_or(0).max(peak_kib);
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::park_timeout(LOOK),
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    if !status.code().is_some_and(|code| codes.contains(&code)) {
        let mut text = String::new();
        if let Some(mut errors) = child.stderr.take() {
            std::io::Read::read_to_string(&mut errors, &mut text)?;
        }
        return Err(format!("{command:?} ended with {status}: {text}").into());
    }
    Ok(Measured { seconds, peak_mib: peak_kib as f64 / 1024.0 })
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

/// Prints one line of a table; ratios are to `reference`.
pub(crate) fn line(name: &str, measured: Measured, reference: Measured) {
    println!(
        "{name:<44} {:>9.3} s {:>7.2} x {:>9.1} MiB",
        measured.seconds,
        measured.seconds / reference.seconds,
        measured.peak_mib
    );
}
