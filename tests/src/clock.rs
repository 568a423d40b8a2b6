//! Wall clocks that programs under test believe, and that jump.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::{Running, World};

/// A wall clock of one program, or of several.
pub struct Clock {
    file: PathBuf,
    temporary: PathBuf,
}

impl Clock {
    /// One that is right.
    pub fn new(world: &World, name: &str) -> Clock {
        let path = |ending: &str| world.path(&format!("{name}.{ending}"));
        let clock = Clock { file: path("clock"), temporary: path("clock.new") };
        clock.jump(0);
        clock
    }

    /// From now on it is so many seconds ahead, or behind.
    pub fn jump(&self, seconds: i64) {
        std::fs::write(&self.temporary, seconds.to_string()).expect("a file can be written");
        std::fs::rename(&self.temporary, &self.file).expect("a file can be renamed");
    }

    /// Makes `command` believe it.
    pub fn believed_by(&self, command: &mut Command) {
        command.env("LD_PRELOAD", library()).env("DELTABUS_TEST_CLOCK", &self.file);
    }

    /// Starts a command line that believes it and goes on.
    pub fn start(&self, world: &World, line: &str) -> Running {
        let mut command = world.command(line);
        self.believed_by(&mut command);
        world.start_as(line, command)
    }
}

/// What shifts a program's clock, built once.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clock/shifted.rs");
        let library = PathBuf::from(env!("OUT_DIR")).join("shifted.so");
        // Other tests may be building it, or using it.
        let built = library.with_extension(std::process::id().to_string());
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(compiler)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-o"])
            .args([&built, &source])
            .status()
            .expect("rustc can be started");
        assert!(status.success(), "the shifted clock does not build");
        std::fs::rename(&built, &library).expect("a file can be renamed");
        library
    })
}
