//! Finds the real data that some tests use: beside the checkout (`../shared/data`), or where `DELTABUS_SHARED` says.
//!
//! It is not part of the project. Where it isn't there, those tests are left out, and the build says so; CI has to have it.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(shared_data)");
    println!("cargo::rerun-if-env-changed=DELTABUS_SHARED");
    println!("cargo::rerun-if-env-changed=CI");
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let beside = || Path::new(&manifest).join("../../shared");
    let data = std::env::var_os("DELTABUS_SHARED").map_or_else(beside, PathBuf::from).join("data");
    println!("cargo::rerun-if-changed={}", data.display());
    if data.is_dir() {
        println!("cargo::rustc-cfg=shared_data");
        println!("cargo::rustc-env=DELTABUS_SHARED_DATA={}", data.display());
    } else if std::env::var_os("CI").is_some() {
        println!("cargo::error=the tests of real data need {}", data.display());
    } else {
        println!("cargo::warning=the tests of real data are left out: there is no {}", data.display());
    }
}
