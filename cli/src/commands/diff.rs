//! `deltabus diff`: what turns one location into another.

use std::io::{BufWriter, Write};

use crate::arguments::Diff;
use crate::commands::compare;
use crate::error::{Error, Exit};
use crate::report::Report;

/// Runs the command.
pub(crate) fn diff(options: Diff) -> Result<Exit, Error> {
    let (a, b) = (compare::open(&options.a)?, compare::open(&options.b)?);
    let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let mut report = Report::new(&mut out, options.stat, options.json);
    compare::compare(&*a, &*b, &mut report)?;
    let differing = report.finish()?.total();
    out.flush()?;
    Ok(if differing == 0 { Exit::Done } else { Exit::Differs })
}
