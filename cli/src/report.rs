//! Differences as `diff`, `plan` and `restore` show them: record by record, or counted.

use std::io::Write;

use deltabus_record::diff::Difference;
use deltabus_record::schema::{CollectionName, Schema};
use deltabus_record::text::printable;

use crate::error::Error;
use crate::output::{Paint, counted, print_difference, print_difference_json};

/// How many records come, change and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
}

impl Counts {
    /// All of them.
    pub(crate) fn total(self) -> u64 {
        self.added + self.changed + self.removed
    }

    fn count(&mut self, difference: &Difference) {
        *match (&difference.before, &difference.after) {
            (None, _) => &mut self.added,
            (_, None) => &mut self.removed,
            _ => &mut self.changed,
        } += 1;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} added, {} changed, {} removed", self.added, self.changed, self.removed)
    }
}

/// Writes differences as they come.
pub(crate) struct Report<'a> {
    out: &'a mut dyn Write,
    paint: Paint,
    stat: bool,
    json: bool,
    of_collection: Counts,
    all: Counts,
}

impl<'a> Report<'a> {
    /// To `out`; `stat`: only counts, `json`: an object a line.
    pub(crate) fn new(out: &'a mut dyn Write, stat: bool, json: bool) -> Report<'a> {
        let paint = Paint::for_stdout();
        Report { out, paint, stat, json, of_collection: Counts::default(), all: Counts::default() }
    }

    /// Where it is written, for what else is to be said.
    pub(crate) fn out(&mut self) -> &mut dyn Write {
        self.out
    }

    /// One record.
    pub(crate) fn difference(
        &mut self,
        collection: &CollectionName,
        schema: &Schema,
        difference: &Difference,
    ) -> Result<(), Error> {
        self.of_collection.count(difference);
        match (self.stat, self.json) {
            (true, _) => {}
            (false, true) => print_difference_json(self.out, collection, schema, difference, &[])?,
            (false, false) => print_difference(self.out, self.paint, collection, schema, difference)?,
        }
        Ok(())
    }

    /// Ends a collection.
    pub(crate) fn collection(&mut self, collection: &CollectionName) -> Result<(), Error> {
        let counts = std::mem::take(&mut self.of_collection);
        if self.stat && self.json {
            let line = serde_json::json!({
                "collection": collection.as_str(),
                "inserts": counts.added, "updates": counts.changed, "deletes": counts.removed,
            });
            writeln!(self.out, "{line}")?;
        } else if self.stat && counts.total() > 0 {
            writeln!(self.out, "{}: {counts}", printable(collection.as_str()))?;
        }
        self.all.added += counts.added;
        self.all.changed += counts.changed;
        self.all.removed += counts.removed;
        Ok(())
    }

    /// Ends the report with a line of counts, where records were shown to people.
    pub(crate) fn finish(self) -> Result<Counts, Error> {
        if self.all.total() > 0 && !self.json && !self.stat {
            let text = format!("{}: {}", counted(self.all.total(), "record"), self.all);
            writeln!(self.out, "{}", self.paint.dim(&text))?;
        }
        Ok(self.all)
    }
}
