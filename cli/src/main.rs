//! The program `deltabus`; everything it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    deltabus::run(std::env::args_os())
}
