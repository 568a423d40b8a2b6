//! Generates the types from the `.proto` files; no protoc is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "deltabus/v1/log.proto",
        "deltabus/v1/reverse.proto",
        "deltabus/v1/snapshot.proto",
        "deltabus/v1/standing.proto",
    ];
    let set = protox::compile(files, ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(set)?;
    if std::env::var_os("CARGO_FEATURE_MANAGER").is_some() {
        let set = protox::compile(["deltabus/manager/v1/manager.proto"], ["proto"])?;
        // For the reflection service.
        let folder = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
        std::fs::write(folder.join("manager.fds"), prost::Message::encode_to_vec(&set))?;
        tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    }
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
