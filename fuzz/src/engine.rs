//! libFuzzer around one of the targets: that which `DELTABUS_FUZZ_TARGET` names. See `fuzz/run`.
//!
//! `engine targets` lists the targets, `engine seeds TARGET FOLDER` writes the seeds of one.

#![no_main]
#![allow(unsafe_code, reason = "libFuzzer calls by name")]

use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;

use deltabus_fuzz::{TARGETS, Target, seeds};

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: begin(), |bytes: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(bytes);
    }
});

fn begin() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["targets"] => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            exit(0);
        }
        ["seeds", target, folder] => {
            for (at, seed) in seeds::of(target).into_iter().enumerate() {
                let path = Path::new(folder).join(format!("seed-{at:02}"));
                if let Err(error) = std::fs::write(&path, seed) {
                    eprintln!("can't write {}: {error}", path.display());
                    exit(2);
                }
            }
            exit(0);
        }
        _ => {}
    }
    let name = std::env::var("DELTABUS_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        eprintln!("DELTABUS_FUZZ_TARGET names no target: `{name}`");
        exit(2);
    };
    let _ = TARGET.set(*target);
}
