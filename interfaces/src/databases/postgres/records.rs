//! Writing one table's records.

use std::collections::BTreeMap;

use deltabus_record::row::{FieldRef, Row, RowReader};
use deltabus_record::schema::{KeySpec, Schema};
use deltabus_record::text;
use deltabus_record::value::Value;

use super::binary;
use super::connection::{Failure, Parameter, Session, first};
use super::copy::{Copy, Format};
use super::define;
use super::encode;
use super::table::{Table, quote};
use super::types::Form;
use super::write::{Stop, Strategy};
use crate::{Error, RecordWrite, Records, Refusal};

/// Up to this many records go as parameters of a statement, for which the server needs no table; more are copied into a
/// temporary one, which it reads faster and knows the size of.
const PARAMETERS_ROWS_MAX: usize = 2_000;

/// The same for their bytes: a message to the server is built in memory.
const PARAMETERS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which records others wrote since they were looked at.
#[derive(Clone, Debug)]
pub(super) struct Horizon {
    /// A condition on a row `t`; `None` where nothing was there.
    pub(super) written_since: Option<String>,
}

/// One table to write to.
pub(super) struct Target<'a> {
    session: &'a Session,
    pub(super) table: &'a Table,
    schema: &'a Schema,
    pub(super) place: String,
    /// The slots that are written, each with its column's place.
    columns: Vec<(usize, usize)>,
    /// The key's slots; empty where the whole row is the key.
    key: Vec<usize>,
}

/// Single records, sorted by what is to be done.
pub(super) struct Plan<'a> {
    removes: Vec<&'a Row>,
    /// By the slots that are set.
    updates: BTreeMap<Vec<usize>, Vec<&'a Row>>,
    inserts: Vec<&'a Row>,
}

impl Plan<'_> {
    pub(super) fn brings(&self) -> bool {
        !self.inserts.is_empty()
    }
}

impl<'a> Target<'a> {
    pub(super) fn new(session: &'a Session, table: &'a Table, schema: &'a Schema, place: String) -> Result<Self, Stop> {
        let column = |(slot, field): (usize, &deltabus_record::schema::Field)| Some((slot, table.column(&field.name)?));
        let mut columns: Vec<_> = schema.ordered().into_iter().filter_map(column).collect();
        columns.sort_unstable();
        let key: Vec<usize> = match &schema.key {
            KeySpec::Fields(slots) => slots.iter().map(|&slot| slot as usize).collect(),
            KeySpec::WholeRow => Vec::new(),
        };
        if let Some(slot) = key.iter().find(|slot| !columns.iter().any(|(known, _)| known == *slot)) {
            let name = schema.fields.get(*slot).map_or("?", |field| field.name.as_str());
            return Err(Stop::Error(Error::Unsupported {
                problem: format!("the key's field `{name}` has no column that can be written"),
                place,
            }));
        }
        Ok(Target { session, table, schema, place, columns, key })
    }

    /// Copies all `records` in; [`Error::Changed`] if others brought some in before.
    pub(super) fn load(&self, records: &mut dyn Records) -> Result<(), Stop> {
        let sql = format!("SELECT EXISTS (SELECT FROM {})", self.table.from());
        let there = self.session.query(&sql, Vec::new()).and_then(|rows| first::<bool>(&rows));
        if there.map_err(|failure| self.refused(failure, "looking for records", None))? {
            return Err(Stop::Error(Error::Changed { place: self.place.clone() }));
        }
        let slots: Vec<usize> = self.columns.iter().map(|(slot, _)| *slot).collect();
        let mut copy = Copy::start(self.session, self.table.name.sql(), self.names(&slots), self.format(&slots));
        let mut count = 0;
        loop {
            match records.advance() {
                Ok(true) => count += 1,
                Ok(false) => break,
                Err(error) => return Err(Stop::Error(Error::Records(error))),
            }
            self.put_row(&mut copy, records.row(), &slots)?;
            if !copy.flush_if_full() {
                break;
            }
        }
        let copied = copy.finish().map_err(|failure| self.refused(failure, "loading", None))?;
        if copied < count {
            return Err(Stop::Error(Error::Write {
                place: self.place.clone(),
                key: format!("of {} of {count} records", count - copied),
                problem: "nothing was written; does a trigger prevent it?".into(),
            }));
        }
        Ok(())
    }

    /// Makes the key of a table that was made without it.
    pub(super) fn add_key(&self) -> Result<(), Stop> {
        define::add_key(self.session, self.table, self.schema, &self.place)
    }

    /// Sorts the writes by what is there; [`Error::Changed`] if others wrote one of the records.
    pub(super) fn plan<'w>(&self, writes: &'w [RecordWrite], horizon: &Horizon) -> Result<Plan<'w>, Stop> {
        let mut plan = Plan { removes: Vec::new(), updates: BTreeMap::new(), inserts: Vec::new() };
        if self.key.is_empty() {
            for write in writes {
                match write {
                    RecordWrite::Remove { row, .. } => plan.removes.push(row),
                    RecordWrite::Put { row, .. } => plan.inserts.push(row),
                }
            }
            return Ok(plan);
        }
        let rows: Vec<&Row> = writes
            .iter()
            .map(|write| match write {
                RecordWrite::Remove { row, .. } | RecordWrite::Put { row, .. } => row,
            })
            .collect();
        if rows.is_empty() {
            return Ok(plan);
        }
        let there = self.there(&rows, horizon)?;
        for (write, there) in writes.iter().zip(there) {
            match write {
                RecordWrite::Remove { row, .. } if there => plan.removes.push(row),
                RecordWrite::Remove { .. } => {}
                RecordWrite::Put { row, changed, .. } if there => {
                    let slots = self.settable(changed);
                    if !slots.is_empty() {
                        plan.updates.entry(slots).or_default().push(row);
                    }
                }
                RecordWrite::Put { row, .. } => plan.inserts.push(row),
            }
        }
        Ok(plan)
    }

    /// Which of the records are there.
    fn there(&self, rows: &[&Row], horizon: &Horizon) -> Result<Vec<bool>, Stop> {
        let source = self.source(rows, &self.key)?;
        let since = horizon.written_since.as_deref().unwrap_or("false");
        let sql = format!(
            "SELECT v.n, count(*) > 1, bool_or({since}) FROM {} JOIN {} t ON {} GROUP BY v.n",
            source.sql,
            self.table.from(),
            self.matches()
        );
        let found =
            self.session.query(&sql, source.parameters).map_err(|it| self.refused(it, "looking for records", None))?;
        let mut there = vec![false; rows.len()];
        for row in found {
            let read =
                || -> Result<(i32, bool, bool), Failure> { Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)) };
            let (at, several, changed) = read().map_err(|it| self.refused(it, "looking for records", None))?;
            let at = at as usize;
            if changed {
                return Err(Stop::Error(Error::Changed { place: self.place.clone() }));
            }
            if several {
                return Err(Stop::Error(Error::Write {
                    place: self.place.clone(),
                    key: rows.get(at).map_or_else(String::new, |row| self.key_text(row)),
                    problem: "several rows have this key".into(),
                }));
            }
            if let Some(there) = there.get_mut(at) {
                *there = true;
            }
        }
        Ok(there)
    }

    /// Takes records out.
    pub(super) fn remove(&self, plan: &Plan<'_>) -> Result<(), Stop> {
        if plan.removes.is_empty() {
            return Ok(());
        }
        if self.key.is_empty() {
            return self.remove_whole_rows(&plan.removes);
        }
        let source = self.source(&plan.removes, &self.key)?;
        let sql = format!("DELETE FROM {} t USING {} WHERE {}", self.table.from(), source.sql, self.matches());
        self.execute(&sql, source.parameters, "deleting records", &plan.removes)
    }

    /// Takes out one row for each of `rows`, whichever of its equals.
    fn remove_whole_rows(&self, rows: &[&Row]) -> Result<(), Stop> {
        let slots: Vec<usize> = self.columns.iter().map(|(slot, _)| *slot).collect();
        let source = self.source(rows, &slots)?;
        let ours: Vec<_> = slots.iter().map(|slot| format!("t.{}", self.name(*slot))).collect();
        let theirs: Vec<_> = slots.iter().map(|slot| format!("v.c{slot}")).collect();
        // Compared as text: exact, for types that can't be compared too, and an equal row can be hashed.
        let sql = format!(
            "WITH w AS (SELECT ROW({theirs})::text AS r, count(*) AS n FROM {source} GROUP BY 1),
                f AS (SELECT t.tableoid AS o, t.ctid AS i, w.n, row_number() OVER (PARTITION BY w.r) AS k
                    FROM {from} t JOIN w ON ROW({ours})::text = w.r)
             DELETE FROM {from} t USING f WHERE t.tableoid = f.o AND t.ctid = f.i AND f.k <= f.n",
            theirs = theirs.join(", "),
            ours = ours.join(", "),
            source = source.sql,
            from = self.table.from(),
        );
        self.execute(&sql, source.parameters, "deleting rows", rows)
    }

    /// Changes records and brings others in.
    pub(super) fn put(&self, plan: &Plan<'_>, strategy: Strategy) -> Result<(), Stop> {
        if strategy.park {
            self.park(plan, strategy)?;
        }
        for (slots, rows) in &plan.updates {
            self.update(slots, rows)?;
        }
        if plan.inserts.is_empty() {
            return Ok(());
        }
        let slots: Vec<usize> = self.columns.iter().map(|(slot, _)| *slot).collect();
        // Rules don't apply to copying, so that the rows go where they are looked for.
        if !fits_parameters(&plan.inserts) || self.table.insert_rules {
            let (table, names) = (self.table.name.sql(), self.names(&slots));
            let copied = self.copy(table, names, &plan.inserts, &slots);
            let copied = copied.map_err(|it| self.stop(it, "inserting records", &plan.inserts))?;
            return self.expect(copied, &plan.inserts);
        }
        let source = self.source(&plan.inserts, &slots)?;
        let values: Vec<_> = slots.iter().map(|slot| format!("v.c{slot}")).collect();
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
            self.table.name.sql(),
            self.names(&slots),
            values.join(", "),
            source.sql
        );
        self.execute(&sql, source.parameters, "inserting records", &plan.inserts)
    }

    /// Sets these slots of records that are there.
    fn update(&self, slots: &[usize], rows: &[&Row]) -> Result<(), Stop> {
        let mut needed = self.key.clone();
        needed.extend(slots);
        let source = self.source(rows, &needed)?;
        let sets: Vec<_> = slots.iter().map(|slot| format!("{} = v.c{slot}", self.name(*slot))).collect();
        let sql = format!(
            "UPDATE {} t SET {} FROM {} WHERE {}",
            self.table.from(),
            sets.join(", "),
            source.sql,
            self.matches()
        );
        self.execute(&sql, source.parameters, "updating records", rows)
    }

    /// The records in which a trigger put other values in the place of those written, with the slots that were.
    pub(super) fn overruled<'p>(&self, plan: &Plan<'p>) -> Result<Vec<(Vec<usize>, Vec<&'p Row>)>, Stop> {
        let mut overruled = Vec::new();
        if self.key.is_empty() {
            // Nobody can tell which row became of which.
            return Ok(overruled);
        }
        let all: Vec<usize> =
            self.columns.iter().map(|(slot, _)| *slot).filter(|slot| !self.key.contains(slot)).collect();
        for (slots, rows) in plan.updates.iter().chain(std::iter::once((&all, &plan.inserts))) {
            if slots.is_empty() || rows.is_empty() {
                continue;
            }
            let mut needed = self.key.clone();
            needed.extend(slots);
            let source = self.source(rows, &needed)?;
            let ours: Vec<_> = slots.iter().map(|slot| format!("v.c{slot}")).collect();
            let theirs: Vec<_> = slots.iter().map(|slot| format!("t.{}", self.name(*slot))).collect();
            let sql = format!(
                "SELECT v.n FROM {} JOIN {} t ON {} WHERE ROW({})::text <> ROW({})::text",
                source.sql,
                self.table.from(),
                self.matches(),
                ours.join(", "),
                theirs.join(", ")
            );
            let failed = |failure| self.refused(failure, "looking at what triggers did", None);
            let found = self.session.query(&sql, source.parameters).map_err(failed)?;
            let numbers = found.iter().map(|row| row.try_get::<_, i32>(0)).collect::<Result<Vec<_>, _>>();
            let numbers = numbers.map_err(|error| failed(error.into()))?;
            let changed: Vec<&Row> = numbers.iter().filter_map(|at| rows.get(*at as usize).copied()).collect();
            if !changed.is_empty() {
                overruled.push((slots.clone(), changed));
            }
        }
        Ok(overruled)
    }

    /// Writes once more what triggers overruled, which are switched off by now.
    pub(super) fn insist(&self, overruled: &[(Vec<usize>, Vec<&Row>)]) -> Result<(), Stop> {
        overruled.iter().try_for_each(|(slots, rows)| self.update(slots, rows))
    }

    /// Moves the sequences that fill columns beyond what was brought in.
    pub(super) fn advance_sequences(&self) -> Result<(), Stop> {
        for (_, at) in &self.columns {
            let column = &self.table.columns[*at];
            let Some(sequence) = &column.sequence else { continue };
            // A sequence that counts down, or that we may not set, stays.
            let sql = format!(
                "SELECT CASE WHEN has_sequence_privilege($1::text, 'UPDATE') AND has_sequence_privilege($1::text, 'USAGE')
                    THEN (SELECT setval(s.seqrelid, m.max) FROM (SELECT max({})::bigint AS max FROM {}) m, pg_sequence s
                        WHERE s.seqrelid = $1::text::regclass AND s.seqincrement > 0
                            AND m.max BETWEEN s.seqmin AND s.seqmax
                            AND m.max > coalesce(pg_sequence_last_value(s.seqrelid), s.seqmin - 1)) END",
                quote(&column.field.name),
                self.table.name.sql()
            );
            let moved = self.session.query(&sql, vec![Box::new(sequence.clone())]);
            moved.map_err(|failure| self.refused(failure, "moving a sequence", None))?;
        }
        Ok(())
    }

    /// Puts something else in the place of unique values that are to change, so that each is free for another record.
    fn park(&self, plan: &Plan<'_>, strategy: Strategy) -> Result<(), Stop> {
        let unique = self.unique_slots()?;
        let all: Vec<&Row> = match strategy.deletes_last {
            true => plan.removes.clone(),
            false => Vec::new(),
        };
        let going = (unique.iter().flatten().copied().collect::<Vec<_>>(), all);
        for (slots, rows) in plan.updates.iter().chain(std::iter::once((&going.0, &going.1))) {
            let mut sets = Vec::new();
            for index in &unique {
                let candidates: Vec<usize> = index.iter().copied().filter(|slot| slots.contains(slot)).collect();
                let best =
                    candidates.iter().copied().find_map(|slot| Some((slot, self.placeholder(slot, Nulls::Only)?)));
                let other = || candidates.iter().find_map(|&slot| Some((slot, self.placeholder(slot, Nulls::Never)?)));
                if let Some((slot, placeholder)) = best.or_else(other) {
                    sets.push(format!("{} = {placeholder}", self.name(slot)));
                }
            }
            sets.sort();
            sets.dedup();
            if sets.is_empty() || rows.is_empty() {
                continue;
            }
            let source = self.source(rows, &self.key)?;
            let sql = format!(
                "UPDATE {} t SET {} FROM {} WHERE {}",
                self.table.from(),
                sets.join(", "),
                source.sql,
                self.matches()
            );
            self.execute(&sql, source.parameters, "making room for unique values", rows)?;
        }
        Ok(())
    }

    /// The slots of each unique index but the key's own.
    fn unique_slots(&self) -> Result<Vec<Vec<usize>>, Stop> {
        let sql = "SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, at)
                JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.at <= i.indnkeyatts)
            FROM pg_index i WHERE i.indrelid = $1 AND (i.indisunique OR i.indisexclusion)";
        let failed = |failure| self.refused(failure, "reading the table's indexes", None);
        let rows = self.session.query(sql, vec![Box::new(self.table.oid)]).map_err(failed)?;
        let mut found = Vec::new();
        for row in rows {
            let names: Vec<String> = row.try_get(0).map_err(Failure::from).map_err(failed)?;
            let slot = |name: &String| {
                let at = self.table.column(name)?;
                self.columns.iter().find(|(_, column)| *column == at).map(|(slot, _)| *slot)
            };
            let slots: Vec<usize> = names.iter().filter_map(slot).filter(|slot| !self.key.contains(slot)).collect();
            if !slots.is_empty() {
                found.push(slots);
            }
        }
        Ok(found)
    }

    /// An expression for a value that no other row has.
    fn placeholder(&self, slot: usize, nulls: Nulls) -> Option<String> {
        let column = self.column(slot);
        if nulls == Nulls::Only {
            return (!column.not_null).then(|| "NULL".into());
        }
        let (name, table) = (quote(&column.field.name), self.table.from());
        let text = |length: usize| format!("left('~' || md5(random()::text || v.n), {length})");
        Some(match &column.form {
            Form::Int2 | Form::Int4 | Form::Int8 | Form::Numeric(_) | Form::Float4 | Form::Float8 => {
                format!("(SELECT least(min({name}), 0) FROM {table}) - v.n - 1")
            }
            Form::Oid => format!("((SELECT max({name}::bigint) FROM {table}) + v.n + 1)::oid"),
            Form::Text if column.as_text => return None,
            Form::Text | Form::Name => text(33),
            Form::VarChar(length) | Form::Char(length) => text((*length).min(33)),
            Form::Bytea => "decode(md5(random()::text || v.n), 'hex')".into(),
            Form::Uuid => "gen_random_uuid()".into(),
            Form::Date => "date '4713-01-01 BC' + v.n".into(),
            Form::Timestamp(_) | Form::Timestamptz(_) => "timestamp '4713-01-01 BC' + v.n * interval 'PT1S'".into(),
            _ => return None,
        })
    }

    /// The changed slots that have a column and aren't part of the key, which stands.
    fn settable(&self, changed: &[u32]) -> Vec<usize> {
        let known = |slot: &usize| self.columns.iter().any(|(known, _)| known == slot);
        let mut slots: Vec<usize> =
            changed.iter().map(|&slot| slot as usize).filter(|slot| known(slot) && !self.key.contains(slot)).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    fn column(&self, slot: usize) -> &super::table::Column {
        let at = self.columns.iter().find(|(known, _)| *known == slot).map_or(0, |(_, at)| *at);
        &self.table.columns[at]
    }

    fn name(&self, slot: usize) -> String {
        quote(&self.column(slot).field.name)
    }

    fn names(&self, slots: &[usize]) -> String {
        slots.iter().map(|slot| self.name(*slot)).collect::<Vec<_>>().join(", ")
    }

    /// The condition that a row `t` has the key of `v`.
    fn matches(&self) -> String {
        let part = |slot: &usize| {
            let column = self.column(*slot);
            let name = quote(&column.field.name);
            let as_text = format!("t.{name}::text = v.c{slot}::text");
            let condition = match &column.form {
                Form::Json => as_text,
                // Geometric types are equal when their areas are.
                Form::Printed(printed) if NO_EQUALITY.contains(&printed.as_str()) => as_text,
                // Types of others may take several texts for equal.
                Form::Text if column.as_text => format!("t.{name} = v.c{slot} AND {as_text}"),
                _ => format!("t.{name} = v.c{slot}"),
            };
            match column.not_null {
                true => condition,
                false => format!("({condition} OR t.{name} IS NULL AND v.c{slot} IS NULL)"),
            }
        };
        self.key.iter().map(part).collect::<Vec<_>>().join(" AND ")
    }

    /// These slots of `rows` as a relation `v (n, c…)`.
    fn source(&self, rows: &[&Row], slots: &[usize]) -> Result<Source, Stop> {
        if !fits_parameters(rows) {
            return self.staging(rows, slots);
        }
        let mut columns: Vec<Vec<Option<String>>> = slots.iter().map(|_| Vec::with_capacity(rows.len())).collect();
        for row in rows {
            let fields: Vec<FieldRef<'_>> = RowReader::new(row.as_bytes()).collect();
            for (values, slot) in columns.iter_mut().zip(slots) {
                let field = fields.get(*slot).copied().unwrap_or(FieldRef::ABSENT);
                let mut text = String::new();
                let there = self.put_field(&mut text, field, *slot)?;
                values.push(there.then_some(text));
            }
        }
        let numbers: Vec<i32> = (0..rows.len() as i32).collect();
        let mut parameters: Vec<Parameter> = vec![Box::new(numbers)];
        let mut unnested = vec!["$1::int4[]".to_owned()];
        let mut names = vec!["n".to_owned()];
        let mut cast = vec!["n".to_owned()];
        for (at, (values, slot)) in columns.into_iter().zip(slots).enumerate() {
            parameters.push(Box::new(values));
            unnested.push(format!("${}::text[]", at + 2));
            names.push(format!("c{slot}"));
            cast.push(format!("c{slot}::{} AS c{slot}", self.column(*slot).cast));
        }
        let sql =
            format!("(SELECT {} FROM unnest({}) u ({})) v", cast.join(", "), unnested.join(", "), names.join(", "));
        Ok(Source { sql, parameters })
    }

    /// The same in a temporary table that goes with the transaction.
    fn staging(&self, rows: &[&Row], slots: &[usize]) -> Result<Source, Stop> {
        let failed = |failure| self.refused(failure, "making a temporary table", None);
        let sql = "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'";
        let number: i64 = self.session.query(sql, Vec::new()).and_then(|rows| first(&rows)).map_err(failed)?;
        let name = format!("pg_temp.{}", quote(&format!("deltabus_{number}")));
        let columns: Vec<_> = slots.iter().map(|slot| format!(", c{slot} {}", self.column(*slot).cast)).collect();
        let made = format!(
            "CREATE TEMP TABLE {} (n int4 GENERATED ALWAYS AS IDENTITY (MINVALUE 0 START 0){}) ON COMMIT DROP",
            name.trim_start_matches("pg_temp."),
            columns.concat()
        );
        self.session.batch(&made).map_err(failed)?;
        let names: Vec<_> = slots.iter().map(|slot| format!("c{slot}")).collect();
        self.copy(name.clone(), names.join(", "), rows, slots)
            .map_err(|failure| self.stop(failure, "copying records", rows))
            .map(drop)?;
        self.session.batch(&format!("ANALYZE {name}")).map_err(failed)?;
        Ok(Source { sql: format!("{name} v"), parameters: Vec::new() })
    }

    fn copy(&self, table: String, names: String, rows: &[&Row], slots: &[usize]) -> Result<u64, CopyStop> {
        let mut copy = Copy::start(self.session, table, names, self.format(slots));
        for row in rows {
            self.put_row(&mut copy, row.as_bytes(), slots).map_err(CopyStop::Stop)?;
            if !copy.flush_if_full() {
                break;
            }
        }
        copy.finish().map_err(CopyStop::Failure)
    }

    /// Binary, where all columns of these slots can be sent so.
    fn format(&self, slots: &[usize]) -> Format {
        let binary = |slot: &usize| !self.column(*slot).as_text && binary::is_possible(&self.column(*slot).form);
        if slots.iter().all(binary) { Format::Binary } else { Format::Text }
    }

    /// Appends a row to what is copied.
    fn put_row(&self, copy: &mut Copy, row: &[u8], slots: &[usize]) -> Result<(), Stop> {
        let fields: Vec<FieldRef<'_>> = RowReader::new(row).collect();
        let field = |slot: &usize| fields.get(*slot).copied().unwrap_or(FieldRef::ABSENT);
        let out = &mut copy.chunk;
        if copy.format == Format::Binary {
            // A table has at most 1,600 columns.
            out.extend_from_slice(&(slots.len() as i16).to_be_bytes());
            for slot in slots {
                let form = &self.column(*slot).form;
                binary::put_field(out, field(slot), form).map_err(|refusal| self.refuse(refusal, *slot))?;
            }
            return Ok(());
        }
        let mut text = String::new();
        for (at, slot) in slots.iter().enumerate() {
            if at > 0 {
                out.push(b'\t');
            }
            text.clear();
            match self.put_field(&mut text, field(slot), *slot)? {
                true => encode::put_copied(out, &text),
                false => out.extend_from_slice(b"\\N"),
            }
        }
        out.push(b'\n');
        Ok(())
    }

    fn put_field(&self, out: &mut String, field: FieldRef<'_>, slot: usize) -> Result<bool, Stop> {
        encode::put_field(out, field, &self.column(slot).form).map_err(|refusal| self.refuse(refusal, slot))
    }

    fn refuse(&self, refusal: Refusal, slot: usize) -> Stop {
        let field = self.schema.fields[slot].name.clone();
        Stop::Error(Error::Refused { place: self.place.clone(), field, refusal })
    }

    fn execute(&self, sql: &str, parameters: Vec<Parameter>, doing: &'static str, rows: &[&Row]) -> Result<(), Stop> {
        match self.session.execute(sql, parameters) {
            Ok(count) => self.expect(count, rows),
            Err(failure) => Err(self.stop(CopyStop::Failure(failure), doing, rows)),
        }
    }

    /// Nothing is dropped in silence: a trigger may have kept records from being written.
    fn expect(&self, count: u64, rows: &[&Row]) -> Result<(), Stop> {
        // Rules count as they like.
        if !self.table.triggers || self.table.reactive || count >= rows.len() as u64 {
            return Ok(());
        }
        let key = match rows {
            [only] => self.key_text(only),
            several => format!("of one of {} records", several.len()),
        };
        let problem = "nothing was written; does a trigger prevent it?".into();
        Err(Stop::Error(Error::Write { place: self.place.clone(), key, problem }))
    }

    fn stop(&self, stop: CopyStop, doing: &'static str, rows: &[&Row]) -> Stop {
        match stop {
            CopyStop::Stop(stop) => stop,
            CopyStop::Failure(failure) => {
                let key = match rows {
                    [only] => self.key_text(only),
                    several => format!("of one of {} records", several.len()),
                };
                self.refused(failure, doing, Some(key))
            }
        }
    }

    fn refused(&self, failure: Failure, doing: &'static str, key: Option<String>) -> Stop {
        Stop::Server { failure, place: self.place.clone(), doing, key }
    }

    /// The key for people; the row's values where there is none.
    fn key_text(&self, row: &Row) -> String {
        let fields: Vec<_> = RowReader::new(row.as_bytes()).collect();
        let value = |slot: &usize| text::display(&fields.get(*slot).map_or(Value::Absent, |field| field.value()));
        match self.key.is_empty() {
            true => self.columns.iter().map(|(slot, _)| value(slot)).collect::<Vec<_>>().join(", "),
            false => self.key.iter().map(value).collect::<Vec<_>>().join(", "),
        }
    }
}

fn fits_parameters(rows: &[&Row]) -> bool {
    rows.len() <= PARAMETERS_ROWS_MAX
        && rows.iter().map(|row| row.as_bytes().len()).sum::<usize>() <= PARAMETERS_BYTES_MAX
}

/// Types that can't be compared, or not by what they are.
const NO_EQUALITY: [&str; 7] = ["xml", "point", "box", "circle", "path", "polygon", "lseg"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nulls {
    Only,
    Never,
}

/// A relation `v` for a statement.
struct Source {
    sql: String,
    parameters: Vec<Parameter>,
}

enum CopyStop {
    Stop(Stop),
    Failure(Failure),
}
