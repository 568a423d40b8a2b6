//! Guards the hot paths against getting slower, on any machine however busy: by counting instructions, not time.
//!
//! Each path runs under valgrind's callgrind with so many records and with twice as many; the difference is what the records
//! cost, without what comes before and after. It is compared with what `baseline` beside this file's folder says.
//! `cargo run --release -p deltabus-instructions` checks, `… -- --renew` writes the baseline anew.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

mod paths;

/// How much more, or less, than the baseline is still the same: another standard library or C library makes some difference.
const TOLERANCE_PERCENT: u64 = 5;

/// What this fails with.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        [] => check(),
        ["--renew"] => renew(),
        ["run", path, records] => run(path, records),
        _ => Err("there is nothing but `--renew`".into()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one path by itself, for callgrind.
fn run(path: &str, records: &str) -> Result<ExitCode> {
    let path =
        paths::ALL.iter().find(|known| known.name == path).ok_or_else(|| format!("there is no path `{path}`"))?;
    (path.run)(records.parse()?)?;
    Ok(ExitCode::SUCCESS)
}

/// Compares all paths with the baseline.
fn check() -> Result<ExitCode> {
    if let Some(missing) = missing_valgrind() {
        // Where it can be had, ./setup has installed it.
        println!("{missing}");
        return Ok(if cfg!(target_os = "linux") { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    let text = std::fs::read_to_string(baseline_file())?;
    let baseline: Vec<(&str, u64)> = text.lines().filter_map(entry).collect();
    let mut worse = 0;
    println!("{:<18} {:>10} {:>10} {:>8}", "instructions for a", "baseline", "now", "");
    for (path, now) in paths::ALL.iter().zip(count_all()?) {
        let known = baseline.iter().find(|(name, _)| *name == path.name).map(|(_, instructions)| *instructions);
        let Some(known) = known else { return Err(format!("`{}` has no baseline: {RENEW}", path.name).into()) };
        let verdict = match now * 100 {
            more if more > known * (100 + TOLERANCE_PERCENT) => {
                worse += 1;
                "SLOWER"
            }
            less if less < known * (100 - TOLERANCE_PERCENT) => "faster",
            _ => "",
        };
        println!("{:<18} {known:>10} {now:>10} {verdict:>8}", path.name);
    }
    if worse == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{worse} paths take over {TOLERANCE_PERCENT} % more instructions than before. Where that is meant: {RENEW}"
    );
    Ok(ExitCode::FAILURE)
}

/// How to make the baseline anew.
const RENEW: &str =
    "`cargo run --release -p deltabus-instructions -- --renew`, and commit `benches/instructions/baseline`";

fn renew() -> Result<ExitCode> {
    if let Some(missing) = missing_valgrind() {
        return Err(missing.into());
    }
    let mut text = String::from(
        "# Instructions for each record of the hot paths, as counted by callgrind on x86-64. Made by\n\
         # `cargo run --release -p deltabus-instructions -- --renew`.\n",
    );
    for (path, instructions) in paths::ALL.iter().zip(count_all()?) {
        text.push_str(&format!("{} = {instructions}\n", path.name));
    }
    std::fs::write(baseline_file(), &text)?;
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

fn entry(line: &str) -> Option<(&str, u64)> {
    let (name, instructions) = line.split_once(" = ")?;
    Some((name, instructions.parse().ok()?))
}

fn baseline_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline")
}

/// Why nothing can be counted here.
fn missing_valgrind() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("instructions are not counted: the baseline is of x86-64".into());
    }
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match version {
        Ok(status) if status.success() => None,
        _ => Some("instructions are not counted: there is no valgrind (Debian: `apt-get install valgrind`)".into()),
    }
}

/// Counts all paths, a few at a time.
fn count_all() -> Result<Vec<u64>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let counts = std::sync::Mutex::new(vec![0; paths::ALL.len()]);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                    && let Some(path) = paths::ALL.get(at)
                {
                    match count(path) {
                        Ok(count) => counts.lock().expect("no holder of this lock panics")[at] = count,
                        Err(error) => *failed.lock().expect("no holder of this lock panics") = Some(error.to_string()),
                    }
                }
            });
        }
    });
    match failed.into_inner()? {
        Some(error) => Err(error.into()),
        None => Ok(counts.into_inner()?),
    }
}

/// The instructions that each record costs.
fn count(path: &paths::HotPath) -> Result<u64> {
    let (few, many) = (callgrind(path, path.records)?, callgrind(path, 2 * path.records)?);
    Ok((many - few) / path.records)
}

/// The instructions of one process.
fn callgrind(path: &paths::HotPath, records: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["run", path.name, &records.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    match collected.filter(|_| output.status.success()) {
        Some(count) => Ok(count.parse()?),
        None => Err(format!("`{}` under valgrind ended with {}: {text}", path.name, output.status).into()),
    }
}
