//! Every target takes its seeds, its corpus, and what a short round of mutation makes of these: in bounded memory and time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deltabus_fuzz::allowance::{self, Counting};
use deltabus_fuzz::mutation::{Random, mutated};
use deltabus_fuzz::{TARGETS, Target, seeds};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One at a time: what is measured is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// The mutations of each target end after so many, or after so long on a slow machine: whichever comes first.
const MUTATIONS: u64 = 10_000;
const MUTATION_TIME: Duration = Duration::from_secs(1);

/// Where mutation begins; another number is another round.
const SEED: u64 = 0x64_65_6c_74_61;

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The files of a target's corpus, by name; findings are called `regression-…`.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder(target)) else { return Vec::new() };
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("the corpus can be read");
        let bytes = std::fs::read(entry.path()).expect("the corpus can be read");
        (entry.file_name().to_string_lossy().into_owned(), bytes)
    };
    let mut files: Vec<_> = entries.map(file).collect();
    files.sort();
    files
}

/// Runs a target on one input, within its allowance.
fn check(target: &Target, name: &str, input: &[u8]) {
    let mut outcome = Ok(());
    let taken = allowance::measured(|| outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let broken = match outcome {
        Err(_) => Some("it panics".to_owned()),
        Ok(()) if taken.bytes > allowance::BYTES_MAX => Some(format!("it takes {} bytes of memory", taken.bytes)),
        Ok(()) if taken.time > allowance::TIME_MAX => Some(format!("it takes {:?}", taken.time)),
        Ok(()) => None,
    };
    if let Some(broken) = broken {
        let path = std::env::temp_dir().join(format!("deltabus-fuzz-{}-{:016x}", target.name, hash(input)));
        let _ = std::fs::write(&path, input);
        panic!("{}, {name}: {broken}; the input is kept in {}", target.name, path.display());
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn replay(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let mut inputs: Vec<(String, Vec<u8>)> = Vec::new();
    inputs.extend(seeds::of(name).into_iter().enumerate().map(|(at, seed)| (format!("seed {at}"), seed)));
    assert!(!inputs.is_empty(), "there are seeds of {name}");
    inputs.push(("nothing".into(), Vec::new()));
    inputs.extend(corpus(target));
    // What is made once for all inputs is no input's.
    (target.run)(&inputs[0].1);
    for (name, input) in &inputs {
        check(target, name, input);
    }
    let inputs: Vec<_> = inputs.into_iter().map(|(_, input)| input).collect();
    let mut random = Random::new(SEED);
    let begun = Instant::now();
    for round in 0..MUTATIONS {
        if begun.elapsed() > MUTATION_TIME {
            break;
        }
        check(target, &format!("mutation {round}"), &mutated(&inputs, &mut random));
    }
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($name)),*];
            let targets: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(targets, replayed);
            let folders = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).expect("a corpus");
            for folder in folders.flatten() {
                let name = folder.file_name();
                assert!(targets.iter().any(|target| name == **target), "{name:?} is the corpus of a target");
            }
        }
    };
}

targets!(
    row,
    key,
    collection,
    text,
    json,
    convert,
    change,
    set,
    reverse,
    log,
    snapshot,
    contents,
    control,
    state,
    csv,
    json_file,
    vcard,
    icalendar,
    sqlite,
    tree,
    tree_entries,
    postgres,
    location,
    configuration,
    filter,
    token,
    manager,
);

#[test]
fn a_target_that_takes_too_much_is_noticed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let greedy = Target { name: "greedy", run: |_| drop(std::hint::black_box(vec![1_u8; allowance::BYTES_MAX + 1])) };
    let noticed = catch_unwind(|| check(&greedy, "test", b"")).expect_err("it is too much");
    assert!(noticed.downcast_ref::<String>().is_some_and(|message| message.contains("bytes of memory")));
    let broken = Target { name: "broken", run: |_| panic!("a law is broken") };
    let noticed = catch_unwind(|| check(&broken, "test", b"")).expect_err("it panics");
    assert!(noticed.downcast_ref::<String>().is_some_and(|message| message.contains("it panics")));
}
