//! Writing: one pass over the file that copies what stays and changes what is to change.

use deltabus_record::row::{FieldRef, RowBuilder, RowReader};
use deltabus_record::schema::Collection;

use super::cell::{self, CellWriter};
use super::encoding::Encoding;
use super::find::{Target, Wanted};
use super::output::Output;
use super::rows::sniff;
use super::settings::{Settings, Types};
use super::table::{Column, Dialect, Table};
use super::{Csv, lacks};
use crate::{Action, CollectionWrite, Error, Records, Refusal, Result, Staged, Stamp};

/// From how many rows is learned which columns are quoted.
const SAMPLED_ROWS: usize = 100;

/// Builds the file that `writes` lead to; see [`crate::Interface::stage`].
pub(super) fn stage(csv: &Csv, writes: &mut [CollectionWrite<'_>], expected: &Stamp) -> Result<Box<dyn Staged>> {
    let mut removed = false;
    let mut last = None;
    for write in writes {
        match write.action {
            Action::Remove => removed = true,
            _ if last.is_some() => {
                let problem = format!("a file of rows holds one collection; `{}` is a second", write.collection.name);
                return Err(Error::Unsupported { place: csv.file.place(), problem });
            }
            _ => last = Some(write),
        }
    }
    let Some(write) = last else {
        return match removed && !expected.is_missing() {
            true => Ok(Box::new(csv.file.remove(expected)?)),
            false => Ok(Box::new(csv.file.keep(expected)?)),
        };
    };
    let replacement = csv.file.replace(expected)?;
    let old = if removed || expected.is_missing() { None } else { Some(csv.table()?) };
    if old.as_ref().is_some_and(|table| table.reading.stamp() != expected) {
        return Err(Error::Changed { place: csv.file.place() });
    }
    let dialect = match &old {
        Some(table) => table.dialect.clone(),
        None => Dialect::of_new_file(&csv.settings),
    };
    let old = old.filter(|table| !table.columns.is_empty());
    let columns = old.as_ref().map_or(&[][..], |table| &table.columns);
    let plan = Plan::new(columns, write, csv)?;
    let rewrite = Rewrite {
        settings: &csv.settings,
        place: csv.file.place(),
        collection: write.collection,
        cells: plan.cell_writer(&dialect, &csv.settings),
        style: Style::new(&plan),
        plan,
        output: Output::new(replacement, dialect),
        line: Vec::new(),
        ends_open: false,
    };
    rewrite.run(old, &mut write.action)
}

impl Dialect {
    fn of_new_file(settings: &Settings) -> Dialect {
        let encoding = settings.encoding.unwrap_or(Encoding::Utf8);
        // UTF-16 is hardly recognized without a mark; UTF-8 is better off without one.
        let has_mark = matches!(encoding, Encoding::Utf16Le | Encoding::Utf16Be);
        Dialect { encoding, has_mark, delimiter: settings.delimiter.unwrap_or(b','), line_end: b"\n" }
    }
}

/// What becomes of the columns.
struct Plan {
    /// The columns there.
    old: Vec<OldColumn>,
    /// The columns that come in behind them, with the collection's slots.
    added: Vec<(Column, usize)>,
}

struct OldColumn {
    column: Column,
    /// The collection's slot of that name.
    slot: Option<usize>,
    dropped: bool,
}

impl Plan {
    fn new(columns: &[Column], write: &CollectionWrite<'_>, csv: &Csv) -> Result<Plan> {
        let schema = &write.collection.schema;
        let old = columns.iter().map(|column| {
            let slot = schema.slot(&column.name);
            // A name that is dropped and there again stays: the collection says what is to be.
            OldColumn { column: column.clone(), slot, dropped: slot.is_none() && write.dropped.contains(&column.name) }
        });
        let old: Vec<_> = old.collect();
        let added = schema.ordered().into_iter().filter(|(slot, _)| old.iter().all(|old| old.slot != Some(*slot)));
        let added = added
            .map(|(slot, field)| (Column { name: field.name.clone(), kind: csv.settings.kind(&field.name) }, slot));
        let plan = Plan { added: added.collect(), old };
        match plan.problem(&csv.settings) {
            None => Ok(plan),
            Some(problem) => Err(Error::Unsupported { place: csv.file.place(), problem }),
        }
    }

    fn problem(&self, settings: &Settings) -> Option<String> {
        if self.count() == 0 {
            return Some("a file of rows can't be without any column".into());
        }
        if self.old.is_empty() && settings.types == Types::Infer {
            return Some("`types=infer` needs cells to learn from; name the kinds, as in `types=id:integer`".into());
        }
        if settings.header {
            return self
                .added
                .iter()
                .any(|(column, _)| column.name.is_empty())
                .then(|| "a column needs a name; a field without one can't be kept here".into());
        }
        let names = self.old.iter().filter(|old| !old.dropped).map(|old| &old.column.name);
        let names = names.chain(self.added.iter().map(|(column, _)| &column.name));
        names.zip(1..).find(|(name, number)| **name != number.to_string()).map(|(name, number)| {
            format!("with `header=no` column {number} is called `{number}`; it can't be `{name}`")
        })
    }

    /// How many columns there will be.
    fn count(&self) -> usize {
        self.old.iter().filter(|old| !old.dropped).count() + self.added.len()
    }

    fn keeps_columns(&self) -> bool {
        self.added.is_empty() && self.old.iter().all(|old| !old.dropped)
    }

    fn cell_writer(&self, dialect: &Dialect, settings: &Settings) -> CellWriter {
        let writer = CellWriter::new(dialect.delimiter, &settings.markers, self.count());
        // Without a header any record may come to be the first row.
        if settings.header || settings.delimiter.is_some() { writer } else { writer.for_sniffed_row() }
    }
}

/// Which cells of new rows are quoted: those of columns that are quoted in all rows looked at.
struct Style {
    /// For each old column whether a cell told, and whether all that did were quoted.
    columns: Vec<(bool, bool)>,
    rows: usize,
    header: bool,
}

impl Style {
    fn new(plan: &Plan) -> Style {
        Style { columns: vec![(false, true); plan.old.len()], rows: 0, header: false }
    }

    fn learn(&mut self, table: &Table, settings: &Settings) {
        if self.rows >= SAMPLED_ROWS {
            return;
        }
        self.rows += 1;
        let row = table.rows.row();
        for (range, (told, quoted)) in table.rows.cells().zip(&mut self.columns) {
            let raw = &row[range];
            if raw != settings.markers.null.as_bytes() && raw != settings.markers.absent.as_bytes() {
                *told = true;
                *quoted &= raw.first() == Some(&b'"');
            }
        }
    }

    fn quotes(&self, column: usize) -> bool {
        match self.columns.get(column) {
            Some((true, quoted)) => *quoted,
            _ => self.quotes_added(),
        }
    }

    /// A new column is quoted if all the others are.
    fn quotes_added(&self) -> bool {
        let mut told = self.columns.iter().filter(|(told, _)| *told).peekable();
        match told.peek() {
            Some(_) => told.all(|(_, quoted)| *quoted),
            None => self.header,
        }
    }
}

/// The pass over a file.
struct Rewrite<'a> {
    settings: &'a Settings,
    place: String,
    collection: &'a Collection,
    plan: Plan,
    cells: CellWriter,
    style: Style,
    output: Output,
    /// The row being built.
    line: Vec<u8>,
    /// The last line of the old file has no line end.
    ends_open: bool,
}

impl Rewrite<'_> {
    fn run(mut self, mut old: Option<Table>, action: &mut Action<'_>) -> Result<Box<dyn Staged>> {
        self.output.begin()?;
        self.write_header(old.as_ref())?;
        match action {
            Action::Write(writes) => {
                let mut wanted = Wanted::new(writes, self.collection);
                if let Some(table) = &mut old {
                    self.pass(table, &mut wanted)?;
                }
                for row in wanted.new_rows() {
                    self.append(row.as_bytes())?;
                }
            }
            Action::Load(records) => {
                if let Some(table) = &mut old
                    && self.pass(table, &mut Wanted::new(&[], self.collection))? > 0
                {
                    let problem = "records are there already; loading is for empty collections".into();
                    return Err(Error::Unsupported { place: self.place, problem });
                }
                self.load(&mut **records)?;
            }
            Action::Remove => {}
        }
        if let Some(table) = &old {
            table.reading.check()?;
        }
        if self.settings.delimiter.is_none()
            && self.output.first_row().is_some_and(|row| sniff(row) != self.output.delimiter())
        {
            let problem = "the delimiter could no longer be read off the first row; name it: `?delimiter=`".into();
            return Err(Error::Unsupported { place: self.place, problem });
        }
        Ok(Box::new(self.output.finish(self.ends_open)?))
    }

    fn write_header(&mut self, old: Option<&Table>) -> Result<()> {
        if let Some(table) = old {
            self.output.write(&table.blank)?;
        }
        if !self.settings.header {
            return Ok(());
        }
        let cells = self.cells.for_sniffed_row();
        self.line.clear();
        if let Some(table) = old {
            let row = table.rows.row();
            self.style.header = table.rows.cells().all(|range| row[range].first() == Some(&b'"'));
            self.ends_open = table.rows.line_end().is_empty();
            if self.plan.keeps_columns() {
                return self.output.row(row, table.rows.line_end());
            }
            for (range, old) in table.rows.cells().zip(&self.plan.old) {
                if !old.dropped {
                    separate(&mut self.line, self.output.delimiter());
                    self.line.extend_from_slice(&row[range]);
                }
            }
        }
        for (column, _) in &self.plan.added {
            separate(&mut self.line, self.output.delimiter());
            self.output.can_hold(&column.name).map_err(|char| Error::Refused {
                place: self.place.clone(),
                field: column.name.clone(),
                refusal: lacks(self.output.encoding(), char),
            })?;
            cells.write_text(&column.name, self.style.header, &mut self.line);
        }
        match old {
            Some(table) => self.output.row(&self.line, table.rows.line_end()),
            None => self.output.append(&self.line),
        }
    }

    /// Copies the file's rows, but for those that `wanted` knows; says how many records there were.
    fn pass(&mut self, table: &mut Table, wanted: &mut Wanted<'_>) -> Result<u64> {
        let mut records = 0;
        let finder = wanted.finder(&table.columns);
        while table.advance()? {
            self.ends_open = table.rows.line_end().is_empty();
            if table.rows.is_blank() {
                self.output.row(b"", table.rows.line_end())?;
                continue;
            }
            records += 1;
            self.style.learn(table, self.settings);
            match wanted.target(&finder, table, &self.settings.markers)? {
                Target::None if self.plan.keeps_columns() => {
                    self.output.row(table.rows.row(), table.rows.line_end())?;
                }
                Target::None => self.rebuild(table, None)?,
                Target::Gone => {}
                Target::Changed { row, slots } => self.rebuild(table, Some((row, slots)))?,
            }
        }
        Ok(records)
    }

    /// Writes the current row with some of its cells changed, dropped or added.
    fn rebuild(&mut self, table: &Table, change: Option<(&[u8], &[u32])>) -> Result<()> {
        let text = table.text()?;
        let fields: Vec<_> = change.map_or(Vec::new(), |(row, _)| RowReader::new(row).collect());
        let field = |slot: usize| fields.get(slot).copied().unwrap_or(FieldRef::ABSENT);
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let mut begun = false;
        let mut count = 0;
        for range in table.rows.cells() {
            count += 1;
            let Some(old) = self.plan.old.get(count - 1).filter(|old| !old.dropped) else { continue };
            if std::mem::replace(&mut begun, true) {
                line.push(self.output.delimiter());
            }
            let raw = &text[range];
            let changed = old.slot.filter(|&slot| change.is_some_and(|(_, slots)| slots.contains(&(slot as u32))));
            match changed {
                Some(slot) => {
                    let marker = raw == self.settings.markers.null || raw == self.settings.markers.absent;
                    let quoted = raw.starts_with('"') || (marker && self.style.quotes(count - 1));
                    self.write_cell(field(slot), &old.column, quoted, &mut line)?;
                }
                // Alone in its line, an empty cell would be none.
                None if raw.is_empty() && self.plan.count() == 1 => {
                    let mut value = RowBuilder::default();
                    let read = cell::read(raw, old.column.kind, &self.settings.markers, &mut value);
                    read.map_err(|problem| table.rows.error_at(0, problem))?;
                    let value = RowReader::new(value.as_bytes()).next().unwrap_or(FieldRef::ABSENT);
                    self.write_cell(value, &old.column, false, &mut line)?;
                }
                None => line.extend_from_slice(raw.as_bytes()),
            }
        }
        if count != self.plan.old.len() {
            return Err(table.ragged(count));
        }
        for (column, slot) in &self.plan.added {
            if std::mem::replace(&mut begun, true) {
                line.push(self.output.delimiter());
            }
            self.write_cell(field(*slot), column, self.style.quotes_added(), &mut line)?;
        }
        self.output.row(&line, table.rows.line_end())?;
        self.line = line;
        Ok(())
    }

    fn load(&mut self, records: &mut dyn Records) -> Result<()> {
        while records.advance().map_err(Error::Records)? {
            self.append(records.row())?;
        }
        Ok(())
    }

    /// Writes a new row at the end.
    fn append(&mut self, row: &[u8]) -> Result<()> {
        let fields: Vec<_> = RowReader::new(row).collect();
        let field = |slot: usize| fields.get(slot).copied().unwrap_or(FieldRef::ABSENT);
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let mut begun = false;
        for (index, old) in self.plan.old.iter().enumerate().filter(|(_, old)| !old.dropped) {
            if std::mem::replace(&mut begun, true) {
                line.push(self.output.delimiter());
            }
            match old.slot {
                Some(slot) => self.write_cell(field(slot), &old.column, self.style.quotes(index), &mut line)?,
                // A column that the collection doesn't have: nothing is known of it.
                None => self.cells.write_text("", self.style.quotes(index), &mut line),
            }
        }
        for (column, slot) in &self.plan.added {
            if std::mem::replace(&mut begun, true) {
                line.push(self.output.delimiter());
            }
            self.write_cell(field(*slot), column, self.style.quotes_added(), &mut line)?;
        }
        self.output.append(&line)?;
        self.line = line;
        Ok(())
    }

    fn write_cell(&self, field: FieldRef<'_>, column: &Column, quoted: bool, line: &mut Vec<u8>) -> Result<()> {
        let start = line.len();
        let written = self.cells.write(field, column.kind, quoted, line);
        let written = written.and_then(|()| self.check_encoding(&line[start..]));
        written.map_err(|refusal| Error::Refused { place: self.place.clone(), field: column.name.clone(), refusal })
    }

    fn check_encoding(&self, cell: &[u8]) -> Result<(), Refusal> {
        if self.output.encoding().is_unicode() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(cell);
        self.output.can_hold(&text).map_err(|char| lacks(self.output.encoding(), char))
    }
}

fn separate(line: &mut Vec<u8>, delimiter: u8) {
    if !line.is_empty() {
        line.push(delimiter);
    }
}
