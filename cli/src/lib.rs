//! The commands of deltabus: what people type, and what they see.
//!
//! Each command is a file under `commands`; [`run`] picks one. Results go to standard output, everything else to standard
//! error. What the commands do is in the other crates.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

mod arguments;
mod attending;
mod commands;
mod config;
mod destinations;
mod direct;
mod error;
mod figures;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod log;
mod membership;
mod moment;
mod otlp;
mod output;
mod presence;
mod report;
mod session;
mod sorter;
mod terminal;

use arguments::{Arguments, BusCommand, Command};
use error::{Error, Exit};
use log::Habit;

/// Runs the program with these arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // One TLS implementation for the whole process; a second call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Nobody reads what can't be printed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let goes_on = match &arguments.command {
        Command::Transmit(options) => !options.once,
        Command::Receive(options) => !options.once,
        Command::Manage(options) => !options.setup_only,
        Command::Bus(options) => matches!(options.command, BusCommand::Watch { .. }),
        _ => false,
    };
    let habit = match &arguments.command {
        Command::Demo(_) => Habit::Tells,
        _ if goes_on => Habit::GoesOn,
        _ => Habit::Ends,
    };
    log::start(&arguments.global, habit);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .map_err(|source| Error::Io { doing: "start", path: "the runtime".into(), source });
    let exit = runtime.and_then(|runtime| {
        let exit = runtime.block_on(async {
            let exit = dispatch(arguments).await;
            otlp::finish().await;
            exit
        });
        // Threads that wait for a file or a lock are not waited for.
        runtime.shutdown_background();
        exit
    });
    match exit {
        Ok(exit) => exit.code(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("deltabus: {}", error.in_one_line());
            ExitCode::from(2)
        }
    }
}

async fn dispatch(arguments: Arguments) -> Result<Exit, Error> {
    let global = arguments.global;
    match arguments.command {
        Command::Demo(options) => commands::demo::demo(&global, options).await,
        Command::Transmit(options) => commands::transmit::transmit(&global, options).await,
        Command::Receive(options) => commands::receive::receive(&global, options).await,
        Command::Diff(options) => commands::diff::diff(options),
        Command::Copy(options) => commands::copy::copy(&global, options),
        Command::Plan(options) => commands::plan::plan(&global, options).await,
        Command::Verify(options) => commands::verify::verify(&global, options).await,
        Command::Status(options) => commands::status::status(&global, options).await,
        Command::Log(options) => commands::log::log(&global, options).await,
        Command::Show(options) => commands::log::show(&global, options).await,
        Command::Restore(options) => commands::restore::restore(&global, options).await,
        Command::Conflicts(options) => commands::conflicts::conflicts(&global, options).await,
        Command::DeadLetters(options) => commands::dead_letters::dead_letters(&global, options).await,
        Command::Confirm(options) => commands::control::confirm(&global, options).await,
        Command::Snapshot(options) => commands::control::snapshot(&global, options).await,
        Command::Bus(options) => commands::bus::bus(&global, options).await,
        Command::Certificates(options) => commands::certificates::certificates(&global, options),
        Command::Manage(options) => commands::manage::manage(&global, options).await,
        Command::Enroll(options) => commands::administration::enroll(&global, options).await,
        Command::Grant(options) => commands::administration::grant(&global, options).await,
        Command::Revoke(options) => commands::administration::revoke(&global, options).await,
        Command::Who(options) => commands::who::who(&global, options).await,
        Command::Page(options) => commands::page::page(&global, options).await,
        Command::Audit(options) => commands::who::audit(&global, options).await,
        Command::Check(options) => commands::check::check(&global, options).await,
        Command::Completions(options) => commands::shell::completions(options),
        Command::Man => commands::shell::man(),
    }
}
