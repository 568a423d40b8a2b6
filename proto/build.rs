//! Generates the types from the `.proto` files; no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["deltabus/v1/log.proto", "deltabus/v1/reverse.proto", "deltabus/v1/snapshot.proto"];
    let set = protox::compile(files, ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(set)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
