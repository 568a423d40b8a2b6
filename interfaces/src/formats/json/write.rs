//! Writing: the document with some records spliced.

use std::collections::HashMap;
use std::io::Write;

use deltabus_record::json;
use deltabus_record::row::{Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, KeySpec};
use deltabus_record::value::Value;

use super::document::{self, Container, Item, unquoted};
use super::{Found, Json, Shape};
use crate::{Action, CollectionWrite, Error, RecordWrite, Result, Staged, Stamp};

/// Builds the document that `writes` lead to; see [`crate::Interface::stage`].
pub(super) fn stage(json: &Json, writes: &mut [CollectionWrite<'_>], expected: &Stamp) -> Result<Box<dyn Staged>> {
    let mut removed = false;
    let mut last = None;
    for write in writes {
        match write.action {
            Action::Remove => removed = true,
            _ if last.is_some() => {
                let problem = format!("a JSON file holds one collection; `{}` is a second", write.collection.name);
                return Err(Error::Unsupported { place: json.file.place(), problem });
            }
            _ => last = Some(write),
        }
    }
    let Some(write) = last else {
        return match removed && !expected.is_missing() {
            true => Ok(Box::new(json.file.remove(expected)?)),
            false => Ok(Box::new(json.file.keep(expected)?)),
        };
    };
    let mut replacement = json.file.replace(expected)?;
    let text = match removed || expected.is_missing() {
        true => String::new(),
        false => {
            let (text, stamp) = json.read()?;
            if stamp != *expected {
                return Err(Error::Changed { place: json.file.place() });
            }
            text
        }
    };
    let rewritten = Rewrite::new(json, text, write.collection, write.dropped)?.run(&mut write.action)?;
    let failed = |error| Error::Io { doing: "write", path: json.file.path().to_owned(), source: error };
    replacement.write_all(rewritten.as_bytes()).map_err(failed)?;
    Ok(Box::new(replacement.seal()?))
}

/// A document on its way to a new one.
struct Rewrite<'a> {
    json: &'a Json,
    text: String,
    collection: &'a Collection,
    dropped: &'a [String],
    /// The records there; `None` where the place for them has to be made.
    container: Option<Container>,
    shape: Shape,
}

/// A record on its way out: what comes before it, itself, and what comes after.
struct Piece {
    lead: String,
    text: String,
    trail: String,
}

impl<'a> Rewrite<'a> {
    fn new(json: &'a Json, text: String, collection: &'a Collection, dropped: &'a [String]) -> Result<Rewrite<'a>> {
        let container = match json.find(&text)? {
            Found::Records(container) => Some(container),
            Found::Nothing { .. } => None,
        };
        let shape = match &container {
            Some(container) if json.shape != Shape::Lines => {
                if container.is_object {
                    Shape::Object
                } else {
                    Shape::Array
                }
            }
            _ => json.shape,
        };
        Ok(Rewrite { json, text, collection, dropped, container, shape })
    }

    fn run(self, action: &mut Action<'_>) -> Result<String> {
        let mut pieces = Vec::new();
        let style = self.style();
        let items = self.container.as_ref().map(|container| container.items.clone()).unwrap_or_default();
        match action {
            Action::Remove => {}
            Action::Load(records) => {
                if !items.is_empty() {
                    let problem = "records can only be loaded where there are none".to_owned();
                    return Err(Error::Unsupported { place: self.json.file.place(), problem });
                }
                while records.advance().map_err(Error::Records)? {
                    pieces.push(self.new_piece(records.row(), &style)?);
                }
            }
            Action::Write(writes) => {
                let mut wanted = Wanted::new(self.collection, writes);
                for item in &items {
                    let values = self.values(item)?;
                    let text = match wanted.take(self.collection, &values) {
                        Some(RecordWrite::Remove { .. }) => continue,
                        Some(RecordWrite::Put { row, changed, .. }) => self.changed(item, row, changed)?,
                        None if self.dropped.is_empty() => item.value.of(&self.text).to_owned(),
                        None => self.changed(item, &Row::default(), &[])?,
                    };
                    pieces.push(self.piece(item, text));
                }
                if let (Some(piece), Some(last)) = (pieces.last_mut(), items.last()) {
                    // The white space before the closing bracket stays there, whichever record is the last.
                    piece.trail = self.text[last.value.end..last.whole.end].to_owned();
                }
                let mut new = Vec::new();
                for row in wanted.rest() {
                    new.push(self.new_piece(row.as_bytes(), &style)?);
                }
                if let (Some(last), Some(before)) = (new.last_mut(), pieces.last_mut()) {
                    last.trail = std::mem::take(&mut before.trail);
                }
                pieces.extend(new);
            }
        }
        Ok(self.assemble(pieces, &style))
    }

    /// A record as it stands, with its value replaced by `text`.
    fn piece(&self, item: &Item, text: String) -> Piece {
        Piece { lead: self.text[item.whole.start..item.value.start].to_owned(), text, trail: String::new() }
    }

    /// The values of a record in the collection's slots.
    fn values(&self, item: &Item) -> Result<Vec<Value>> {
        let fields = &self.collection.schema.fields;
        let mut values = vec![Value::Absent; fields.len()];
        if self.shape == Shape::Object
            && let Some(slot) = self.collection.schema.slot(self.json.name_field())
        {
            values[slot] = Value::Text(unquoted(item.name.of(&self.text)));
        }
        for member in self.members(item)?.items {
            let name = unquoted(member.name.of(&self.text));
            if let Some(slot) = self.collection.schema.slot(&name) {
                values[slot] = json::read(member.value.of(&self.text)).map_err(|error| {
                    self.json.problem_at(&self.text, member.value.start + error.at, error.problem.to_owned())
                })?;
            }
        }
        Ok(values)
    }

    fn members(&self, item: &Item) -> Result<Container> {
        document::container(&self.text, item.value.start).map_err(|problem| self.json.problem(&self.text, problem))
    }

    /// A record's text with some members changed.
    fn changed(&self, item: &Item, row: &Row, changed: &[u32]) -> Result<String> {
        let members = self.members(item)?;
        let values = row.values();
        let mut wanted: HashMap<&str, &Value> = HashMap::new();
        let absent = Value::Absent;
        for slot in changed {
            if let Some(field) = self.collection.schema.fields.get(*slot as usize)
                && !(self.shape == Shape::Object && field.name == self.json.name_field())
            {
                wanted.insert(&field.name, values.get(*slot as usize).unwrap_or(&absent));
            }
        }
        let mut kept: Vec<String> = Vec::new();
        let mut tail = None;
        for member in &members.items {
            tail = Some(self.text[member.value.end..member.whole.end].to_owned());
            let name = unquoted(member.name.of(&self.text));
            let before = &self.text[member.whole.start..member.value.start];
            match wanted.remove(name.as_str()) {
                Some(Value::Absent) => {}
                Some(value) => kept.push(format!("{before}{}", json::write(value))),
                None if self.dropped.contains(&name) => {}
                None => kept.push(format!("{before}{}", member.value.of(&self.text))),
            }
        }
        let style = MemberStyle::of(&self.text, &members);
        for (_, field) in self.collection.schema.ordered() {
            match wanted.get(field.name.as_str()) {
                Some(Value::Absent) | None => {}
                Some(value) => {
                    let lead = if kept.is_empty() { &style.first } else { &style.lead };
                    kept.push(format!("{lead}{}{}{}", json::quoted(&field.name), style.colon, json::write(value)));
                }
            }
        }
        let tail = tail.unwrap_or_default();
        Ok(if kept.is_empty() { "{}".to_owned() } else { format!("{{{}{tail}}}", kept.join(",")) })
    }

    /// A record that comes in.
    fn new_piece(&self, row: &[u8], style: &Style) -> Result<Piece> {
        let values: Vec<_> = RowReader::new(row).collect();
        let mut members = Vec::new();
        let mut name = None;
        for (slot, field) in self.collection.schema.ordered() {
            let value = values.get(slot).map_or(Value::Absent, |value| value.value());
            if self.shape == Shape::Object && field.name == self.json.name_field() {
                name = Some(value);
            } else if value != Value::Absent {
                members.push(format!("{}{}{}", json::quoted(&field.name), style.member.colon, json::write(&value)));
            }
        }
        let mut text = String::new();
        if self.shape == Shape::Object {
            let Some(Value::Text(name)) = name else {
                let problem = "records that are members of an object need a name that is text".to_owned();
                return Err(Error::Unsupported { place: self.json.file.place(), problem });
            };
            text = format!("{}{}", json::quoted(&name), style.member.colon);
        }
        if members.is_empty() {
            text.push_str("{}");
        } else {
            let lead = &style.member.lead;
            let joined = members.join(&format!(",{lead}"));
            text.push_str(&format!("{{{}{joined}{}}}", style.member.first, style.member.last));
        }
        Ok(Piece { lead: style.lead.clone(), text, trail: String::new() })
    }

    fn assemble(&self, pieces: Vec<Piece>, style: &Style) -> String {
        if self.shape == Shape::Lines {
            return self.assemble_lines(&pieces);
        }
        let (open, close) = if self.shape == Shape::Object { ('{', '}') } else { ('[', ']') };
        let count = pieces.len();
        let mut records = String::new();
        records.push(open);
        for (i, piece) in pieces.iter().enumerate() {
            if i > 0 {
                records.push(',');
            }
            records.push_str(&piece.lead);
            records.push_str(&piece.text);
            if i + 1 == count && piece.trail.is_empty() && self.had_none() {
                records.push_str(&style.trail);
            } else {
                records.push_str(&piece.trail);
            }
        }
        records.push(close);
        match &self.container {
            Some(container) => {
                format!("{}{records}{}", &self.text[..container.span.start], &self.text[container.span.end..])
            }
            None => self.with_place(&records),
        }
    }

    fn had_none(&self) -> bool {
        self.container.as_ref().is_none_or(|container| container.items.is_empty())
    }

    /// Lines, each with its own end; what stands between stays.
    fn assemble_lines(&self, pieces: &[Piece]) -> String {
        let Some(container) = &self.container else { return String::new() };
        let end = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let mut out = self.text[..container.span.start].to_owned();
        for piece in pieces {
            if !out.is_empty() && !out.ends_with('\n') && out != "\u{feff}" {
                out.push_str(end);
            }
            out.push_str(&piece.lead);
            out.push_str(&piece.text);
        }
        let closed = self.text.is_empty() || self.text.ends_with('\n') || container.items.is_empty();
        if closed && !pieces.is_empty() {
            out.push_str(end);
        }
        out
    }

    /// The document with a place made for the records.
    fn with_place(&self, records: &str) -> String {
        let wrap = |tokens: &[String]| {
            tokens.iter().rev().fold(records.to_owned(), |inner, token| format!("{{{}: {inner}}}", json::quoted(token)))
        };
        let root = match self.json.find(&self.text) {
            Ok(Found::Nothing { root: Some(root), depth }) => Some((root, depth)),
            _ => None,
        };
        match root {
            Some((place, depth)) if self.text.as_bytes()[place.start] == b'{' => {
                let token = json::quoted(&self.json.pointer[depth]);
                let inner = wrap(&self.json.pointer[depth + 1..]);
                let before = self.text[..place.end - 1].trim_end();
                let comma = if before.ends_with('{') { "" } else { "," };
                let between = &self.text[before.len()..place.end - 1];
                let lead = if between.contains('\n') { "\n  " } else { " " };
                format!("{before}{comma}{lead}{token}: {inner}{between}{}", &self.text[place.end - 1..])
            }
            _ => format!("{}\n", wrap(&self.json.pointer)),
        }
    }

    /// How new records look: as the last one does.
    fn style(&self) -> Style {
        let pretty = Style {
            lead: "\n  ".into(),
            trail: "\n".into(),
            member: MemberStyle {
                first: "\n    ".into(),
                lead: "\n    ".into(),
                colon: ": ".into(),
                last: "\n  ".into(),
            },
        };
        let line = Style {
            lead: String::new(),
            trail: String::new(),
            member: MemberStyle { first: String::new(), lead: String::new(), colon: ":".into(), last: String::new() },
        };
        let plain = if self.shape == Shape::Lines { line } else { pretty };
        let Some(container) = &self.container else { return plain };
        let Some(last) = container.items.last() else { return plain };
        let lead_end = if last.name.start < last.name.end { last.name.start } else { last.value.start };
        let members = document::container(&self.text, last.value.start).ok();
        let member = members.filter(|members| !members.items.is_empty());
        let member = member.map_or(plain.member, |members| MemberStyle::of(&self.text, &members));
        Style { lead: self.text[last.whole.start..lead_end].to_owned(), trail: String::new(), member }
    }
}

/// The white space around records.
struct Style {
    lead: String,
    trail: String,
    member: MemberStyle,
}

/// The white space around members.
struct MemberStyle {
    /// Before the first.
    first: String,
    /// Before each other.
    lead: String,
    /// Between name and value.
    colon: String,
    /// After the last.
    last: String,
}

impl MemberStyle {
    fn of(text: &str, members: &Container) -> MemberStyle {
        let (Some(first), Some(last)) = (members.items.first(), members.items.last()) else {
            return MemberStyle { first: String::new(), lead: " ".into(), colon: ": ".into(), last: String::new() };
        };
        let lead = |item: &Item| text[item.whole.start..item.name.start].to_owned();
        let second = members
            .items
            .get(1)
            .map_or_else(|| if lead(first).contains('\n') { lead(first) } else { " ".into() }, lead);
        MemberStyle {
            first: lead(first),
            lead: second,
            colon: text[first.name.end..first.value.start].to_owned(),
            last: text[last.value.end..last.whole.end].to_owned(),
        }
    }
}

/// The writes that wait for their record.
struct Wanted<'a> {
    counted: bool,
    writes: HashMap<Vec<u8>, Vec<&'a RecordWrite>>,
    order: Vec<Vec<u8>>,
}

impl<'a> Wanted<'a> {
    fn new(collection: &Collection, writes: &'a [RecordWrite]) -> Wanted<'a> {
        let counted = collection.schema.key == KeySpec::WholeRow;
        let mut wanted = Wanted { counted, writes: HashMap::new(), order: Vec::new() };
        for write in writes {
            let (RecordWrite::Put { row, .. } | RecordWrite::Remove { row, .. }) = write;
            let mut key = Vec::new();
            collection.schema.key_content_into(row.as_bytes(), &mut key);
            wanted.order.push(key.clone());
            wanted.writes.entry(key).or_default().push(write);
        }
        wanted
    }

    /// The write for a record that is there. Of whole rows only removals have one: another equal row comes in beside it.
    fn take(&mut self, collection: &Collection, values: &[Value]) -> Option<&'a RecordWrite> {
        let mut row = RowBuilder::default();
        for value in values {
            row.push(value);
        }
        let mut key = Vec::new();
        collection.schema.key_content_into(row.as_bytes(), &mut key);
        let writes = self.writes.get_mut(&key)?;
        let at = match self.counted {
            true => writes.iter().position(|write| matches!(write, RecordWrite::Remove { .. }))?,
            false => writes.len().checked_sub(1)?,
        };
        Some(writes.remove(at))
    }

    /// The rows that come in.
    fn rest(mut self) -> Vec<&'a Row> {
        let mut rows = Vec::new();
        for key in std::mem::take(&mut self.order) {
            let Some(writes) = self.writes.get_mut(&key) else { continue };
            if !writes.is_empty()
                && let RecordWrite::Put { row, .. } = writes.remove(0)
            {
                rows.push(row);
            }
        }
        rows
    }
}
