//! `deltabus completions` and `man`.

use std::io::Write;

use clap::CommandFactory;

use crate::arguments::{Arguments, Completions};
use crate::error::{Error, Exit};

/// Prints a completion script.
pub(crate) fn completions(options: Completions) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Arguments::command(), "deltabus", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Done)
}

/// Prints the manual page.
pub(crate) fn man() -> Result<Exit, Error> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
    std::io::stdout().write_all(&page)?;
    Ok(Exit::Done)
}
