//! `deltabus diff`: what turns one location into another.

use deltabus_record::text::printable;
use std::io::{BufWriter, Write};

use crate::arguments::Diff;
use crate::commands::compare;
use crate::error::{Error, Exit};
use crate::output::{Paint, counted, print_difference, print_difference_json};

/// Runs the command.
pub(crate) fn diff(options: Diff) -> Result<Exit, Error> {
    let (a, b) = (compare::open(&options.a)?, compare::open(&options.b)?);
    let all = compare::compare(&*a, &*b)?;
    let paint = Paint::for_stdout();
    let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let mut total = [0u64; 3];
    for compared in &all {
        let mut counts = [0u64; 3];
        for difference in &compared.differences {
            counts[match (&difference.before, &difference.after) {
                (None, _) => 0,
                (_, None) => 2,
                _ => 1,
            }] += 1;
            if options.stat {
                continue;
            }
            if options.json {
                print_difference_json(&mut out, &compared.collection, &compared.schema, difference)?;
            } else {
                print_difference(&mut out, paint, &compared.collection, &compared.schema, difference)?;
            }
        }
        if options.stat && !options.json && counts.iter().any(|count| *count > 0) {
            let [added, changed, removed] = counts;
            let collection = printable(compared.collection.as_str());
            writeln!(out, "{collection}: {added} added, {changed} changed, {removed} removed")?;
        }
        if options.stat && options.json {
            let line = serde_json::json!({
                "collection": compared.collection.as_str(),
                "inserts": counts[0], "updates": counts[1], "deletes": counts[2],
            });
            writeln!(out, "{line}")?;
        }
        for (all, one) in total.iter_mut().zip(counts) {
            *all += one;
        }
    }
    let differing: u64 = total.iter().sum();
    if differing > 0 && !options.json && !options.stat {
        let [added, changed, removed] = total;
        let text = format!("{}: {added} added, {changed} changed, {removed} removed", counted(differing, "record"));
        writeln!(out, "{}", paint.dim(&text))?;
    }
    out.flush()?;
    Ok(if differing == 0 { Exit::Done } else { Exit::Differs })
}
