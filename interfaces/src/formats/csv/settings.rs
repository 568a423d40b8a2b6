//! What a location's options say about a file.

use std::collections::BTreeMap;

use deltabus_record::value::Kind;

use super::encoding::Encoding;
use crate::{Location, Result};

/// The options that a CSV or TSV location has.
const OPTIONS: &[&str] = &["key", "types", "header", "delimiter", "encoding", "null", "absent"];

/// The options of a location, understood.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The key's columns; none: the whole row.
    pub(super) key: Vec<String>,
    pub(super) types: Types,
    /// Whether the first row names the columns.
    pub(super) header: bool,
    /// `None`: the first row tells.
    pub(super) delimiter: Option<u8>,
    /// `None`: the byte order mark tells, else UTF-8.
    pub(super) encoding: Option<Encoding>,
    pub(super) markers: Markers,
}

/// The unquoted cells that stand for no text.
#[derive(Clone, Debug)]
pub(super) struct Markers {
    pub(super) null: String,
    pub(super) absent: String,
}

/// Where the kinds of the columns come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Types {
    /// The columns named here have these kinds, all others are text.
    Named(BTreeMap<String, Kind>),
    /// The cells tell.
    Infer,
}

impl Settings {
    pub(super) fn of(location: &Location) -> Result<Settings> {
        let mut options = location.options.clone();
        let key = match options.take("key") {
            Some(names) => names.split(',').map(str::to_owned).collect(),
            None => Vec::new(),
        };
        if key.iter().any(String::is_empty) {
            return Err(location.error("`key` has an empty column name; write `key=country,code`"));
        }
        let types = types(location, options.take("types").as_deref())?;
        let header = match options.take("header").as_deref() {
            None | Some("yes") => true,
            Some("no") => false,
            Some(other) => return Err(location.error(format!("`header={other}`: write `header=yes` or `header=no`"))),
        };
        let delimiter = match options.take("delimiter") {
            Some(delimiter) => Some(delimiter_of(location, &delimiter)?),
            None if location.interface == "tsv" => Some(b'\t'),
            None => None,
        };
        let encoding = match options.take("encoding") {
            None => None,
            Some(name) => Some(Encoding::from_name(&name).ok_or_else(|| {
                let known: Vec<_> = Encoding::NAMES.iter().map(|(name, _)| *name).collect();
                location.error(format!("there is no encoding `{name}` here; there are {}", known.join(", ")))
            })?),
        };
        let markers = Markers {
            null: options.take("null").unwrap_or_else(|| "\\N".into()),
            absent: options.take("absent").unwrap_or_else(|| "\\A".into()),
        };
        markers.check(location, delimiter)?;
        options.finish(location, OPTIONS)?;
        Ok(Settings { key, types, header, delimiter, encoding, markers })
    }

    /// The kind of the column `name` where the options say it, else text.
    pub(super) fn kind(&self, name: &str) -> Kind {
        match &self.types {
            Types::Named(kinds) => kinds.get(name).copied().unwrap_or(Kind::Text),
            Types::Infer => Kind::Text,
        }
    }
}

impl Markers {
    fn check(&self, location: &Location, delimiter: Option<u8>) -> Result<()> {
        if self.null == self.absent {
            return Err(location.error("`null` and `absent` are the same cell; they must differ"));
        }
        for (name, marker) in [("null", &self.null), ("absent", &self.absent)] {
            // Any of the delimiters that may be sniffed would make two cells of it.
            let divides = |byte: u8| delimiter.map_or(super::rows::DELIMITERS.contains(&byte), |known| known == byte);
            if marker.bytes().any(|byte| divides(byte) || matches!(byte, b'\n' | b'\r' | b'"' | 0)) {
                return Err(location.error(format!("`{name}` can't hold a quote, a line end or the delimiter")));
            }
        }
        Ok(())
    }
}

fn delimiter_of(location: &Location, text: &str) -> Result<u8> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0) => Ok(*byte),
        _ => Err(location.error(format!("`delimiter={text}`: a delimiter is one ASCII character, tab being `%09`"))),
    }
}

fn types(location: &Location, given: Option<&str>) -> Result<Types> {
    let mut kinds = BTreeMap::new();
    match given {
        None => {}
        Some("infer") => return Ok(Types::Infer),
        Some(given) => {
            for pair in given.split(',') {
                let Some((name, kind)) = pair.rsplit_once(':') else {
                    return Err(location.error(format!("`types`: write `{pair}:KIND`, or `types=infer`")));
                };
                let Some(kind) = CELL_KINDS.into_iter().find(|known| known.name() == kind) else {
                    let known: Vec<_> = CELL_KINDS.iter().map(|kind| kind.name()).collect();
                    return Err(
                        location.error(format!("`types`: there is no kind `{kind}`; there are {}", known.join(", ")))
                    );
                };
                if kinds.insert(name.to_owned(), kind).is_some() {
                    return Err(location.error(format!("`types` has the column `{name}` twice")));
                }
            }
        }
    }
    Ok(Types::Named(kinds))
}

/// The kinds that a column can have.
const CELL_KINDS: [Kind; 13] = [
    Kind::Bool,
    Kind::Integer,
    Kind::Decimal,
    Kind::Float,
    Kind::Text,
    Kind::Bytes,
    Kind::Date,
    Kind::Time,
    Kind::DateTime,
    Kind::Instant,
    Kind::Uuid,
    Kind::List,
    Kind::Map,
];
