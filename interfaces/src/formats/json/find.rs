//! Finding: where in a document its collections are.

use deltabus_record::schema::CollectionName;

use super::document::{self, Container, Item, Problem, Resolved, Span, Walker, unquoted};
use super::settings::Shape;
use super::{Json, KEYS, NAME_FIELD};
use crate::Result;

/// A document and what it holds.
pub(super) struct Document {
    pub(super) text: String,
    /// Its collections, in the order in which they stand there.
    pub(super) beds: Vec<Bed>,
    pub(super) place: Place,
}

/// Where the collections are.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Nowhere: the document is empty.
    Empty,
    /// Nowhere: `at` leads only as far as `object`, which lacks the member of step `depth`.
    Missing { object: Container, depth: usize },
    /// The one bed is what `at` leads to, or all the lines.
    Here,
    /// Each is a member of `tables`.
    Tables {
        tables: Container,
        /// What says which fields are keys.
        keys: Option<Container>,
    },
}

/// One collection in a document.
#[derive(Clone, Debug)]
pub(super) struct Bed {
    pub(super) name: CollectionName,
    pub(super) records: Container,
    /// The fields of its key; none for whole rows.
    pub(super) key: Vec<String>,
    /// The member of the tables that it is.
    pub(super) member: Option<usize>,
}

impl Bed {
    /// What a record's name is called, where records are members.
    pub(super) fn name_field(&self) -> Option<&str> {
        self.records.is_object.then(|| self.key.first().map_or(NAME_FIELD, String::as_str))
    }
}

impl Document {
    /// Finds the collections of `text`.
    pub(super) fn parse(json: &Json, text: String) -> Result<Document> {
        let found = find(json, &text);
        let (place, beds) = found.map_err(|problem| json.problem_at(&text, problem.at, problem.text))?;
        Ok(Document { text, beds, place })
    }
}

type Found = std::result::Result<(Place, Vec<Bed>), Problem>;

fn find(json: &Json, text: &str) -> Found {
    let settings = &json.settings;
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    if settings.shape == Shape::Lines {
        let records = lines(text, start)?;
        return Ok((Place::Here, vec![bed(json, json.name(), records, None)]));
    }
    let mut walker = Walker::at(text, start);
    walker.space();
    if walker.peek().is_none() {
        return Ok((Place::Empty, Vec::new()));
    }
    let root = walker.value(0)?;
    walker.space();
    if walker.peek().is_some() {
        let problem = "the document is over, but more follows; is this NDJSON?".to_owned();
        return Err(Problem { text: problem, at: walker.position() });
    }
    let here = match document::resolve(text, root, &settings.pointer)? {
        Resolved::Value(here) => here,
        Resolved::Object { object, depth } => return Ok((Place::Missing { object, depth }, Vec::new())),
    };
    if settings.shape == Shape::Tables {
        return tables(json, text, here);
    }
    if !is_container(text, here) {
        let problem = "records are an array or an object of objects; `at` names another place".to_owned();
        return Err(Problem { text: problem, at: here.start });
    }
    let records = document::container(text, here.start)?;
    if let Some(odd) = records.items.iter().find(|item| !is_object(text, item.value)) {
        let problem = match records.is_object && text.as_bytes()[odd.value.start] == b'[' {
            true => "a record must be an object; where arrays of records have names, say `shape=tables`",
            false => "a record must be an object",
        };
        return Err(Problem { text: problem.to_owned(), at: odd.value.start });
    }
    Ok((Place::Here, vec![bed(json, json.name(), records, None)]))
}

fn bed(json: &Json, name: CollectionName, records: Container, member: Option<usize>) -> Bed {
    Bed { name, records, key: json.settings.key.clone(), member }
}

/// The collections that are members of the object at `here`.
fn tables(json: &Json, text: &str, here: Span) -> Found {
    if !is_object(text, here) {
        let problem = "tables are the members of an object; `at` names another place".to_owned();
        return Err(Problem { text: problem, at: here.start });
    }
    let tables = document::container(text, here.start)?;
    let mut keys = None;
    let mut beds = Vec::new();
    for (member, item) in tables.items.iter().enumerate() {
        let name = unquoted(item.name.of(text));
        if name == KEYS {
            keys = Some(item);
        } else if json.settings.selects(&name)
            && let Some(records) = records(json, text, item)?
        {
            beds.push(bed(json, CollectionName::new(name), records, Some(member)));
        }
    }
    let (keys, named) = match keys {
        Some(item) => named_keys(text, item)?,
        None => (None, Vec::new()),
    };
    for bed in &mut beds {
        let named = named.iter().find(|(table, _)| table == bed.name.as_str()).map(|(_, key)| key.as_slice());
        bed.key = json.settings.key_of(bed.name.as_str()).or(named).unwrap_or_default().to_vec();
    }
    Ok((Place::Tables { tables, keys }, beds))
}

/// The records that a member of the tables holds. One that was not asked for and holds none at all is no table.
fn records(json: &Json, text: &str, item: &Item) -> std::result::Result<Option<Container>, Problem> {
    let asked = !json.settings.tables.is_empty();
    let name = unquoted(item.name.of(text));
    if !is_container(text, item.value) {
        return match asked {
            true => Err(Problem {
                text: format!("the table `{name}` must be an array or an object of records"),
                at: item.value.start,
            }),
            false => Ok(None),
        };
    }
    let records = document::container(text, item.value.start)?;
    let odd = records.items.iter().find(|item| !is_object(text, item.value));
    match odd {
        None => Ok(Some(records)),
        Some(_) if !asked && !records.items.iter().any(|item| is_object(text, item.value)) => Ok(None),
        Some(odd) => Err(Problem {
            text: format!("a record must be an object; if `{name}` is no table, name those that are by `tables=`"),
            at: odd.value.start,
        }),
    }
}

type Keys = (Option<Container>, Vec<(String, Vec<String>)>);

/// What the member of keys says: the fields by table.
fn named_keys(text: &str, item: &Item) -> std::result::Result<Keys, Problem> {
    let problem =
        |at: usize| Problem { text: format!("`{KEYS}` is an object with an array of field names for each table"), at };
    if !is_object(text, item.value) {
        return Err(problem(item.value.start));
    }
    let keys = document::container(text, item.value.start)?;
    let mut named = Vec::new();
    for table in &keys.items {
        if text.as_bytes()[table.value.start] != b'[' {
            return Err(problem(table.value.start));
        }
        let mut fields = Vec::new();
        for field in document::container(text, table.value.start)?.items {
            if text.as_bytes()[field.value.start] != b'"' {
                return Err(problem(field.value.start));
            }
            fields.push(unquoted(field.value.of(text)));
        }
        named.push((unquoted(table.name.of(text)), fields));
    }
    Ok((Some(keys), named))
}

/// Each line with a value; blank ones are none.
fn lines(text: &str, start: usize) -> std::result::Result<Container, Problem> {
    let mut items = Vec::new();
    let mut at = start;
    while at < text.len() {
        let end = memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |length| at + length);
        let mut walker = Walker::at(&text[..end], at);
        walker.space();
        if walker.position() < end {
            let value = walker.value(0)?;
            walker.space();
            if walker.position() < end {
                return Err(Problem { text: "more than one value in a line".into(), at: walker.position() });
            }
            if !is_object(text, value) {
                return Err(Problem { text: "a record must be an object".into(), at: value.start });
            }
            let none = Span { start: value.start, end: value.start };
            items.push(Item { name: none, value, whole: Span { start: at, end } });
        }
        at = end + 1;
    }
    Ok(Container { span: Span { start, end: text.len() }, is_object: false, items })
}

fn is_object(text: &str, value: Span) -> bool {
    text.as_bytes()[value.start] == b'{'
}

fn is_container(text: &str, value: Span) -> bool {
    matches!(text.as_bytes()[value.start], b'{' | b'[')
}
