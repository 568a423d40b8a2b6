//! `deltabus diff`: what turns one location into another.

use std::io::{BufWriter, Write};

use crate::arguments::Diff;
use crate::commands::compare;
use crate::error::{Error, Exit};
use crate::report::Report;

/// Runs the command.
pub(crate) fn diff(options: Diff) -> Result<Exit, Error> {
    let (a, b) = (compare::open(&options.a)?, compare::open(&options.b)?);
    let all = compare::compare(&*a, &*b)?;
    let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let mut report = Report::new(&mut out, options.stat, options.json);
    for compared in &all {
        for difference in &compared.differences {
            report.difference(&compared.collection, &compared.schema, difference)?;
        }
        // A collection without differences is listed too, so that scripts find each.
        report.collection(&compared.collection)?;
    }
    let differing = report.finish()?.total();
    out.flush()?;
    Ok(if differing == 0 { Exit::Done } else { Exit::Differs })
}
