//! Locations: `INTERFACE:PATH[?option=value&option=value]`, or the store's usual URL.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::Error;

/// Where a store is and how to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The interface's name: `csv`, `sqlite` …
    pub interface: String,
    /// The path, as written.
    pub path: PathBuf,
    /// The options.
    pub options: Options,
    /// The whole location as given.
    pub given: String,
}

/// The options of a location, each used up by the interface that knows it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Options {
    values: BTreeMap<String, String>,
}

/// Which file extension speaks for which interface.
const EXTENSIONS: &[(&str, &str)] = &[
    ("csv", "csv"),
    ("tsv", "tsv"),
    ("tab", "tsv"),
    ("ics", "icalendar"),
    ("ical", "icalendar"),
    ("icalendar", "icalendar"),
    ("ifb", "icalendar"),
    ("vcs", "icalendar"),
    ("json", "json"),
    ("ndjson", "ndjson"),
    ("jsonl", "ndjson"),
    ("vcf", "vcard"),
    ("vcard", "vcard"),
    ("db", "sqlite"),
    ("sqlite", "sqlite"),
    ("sqlite3", "sqlite"),
];

/// The interfaces there are.
pub const INTERFACES: &[&str] = &["csv", "tsv", "json", "ndjson", "vcard", "icalendar", "sqlite", "tree"];

impl Location {
    /// Parses a location. Without an interface's name the path's extension picks it.
    pub fn parse(given: &str) -> Result<Location, Error> {
        let error = |problem: String| Error::Location { location: given.to_owned(), problem };
        let (before, query) = match given.split_once('?') {
            Some((before, query)) => (before, query),
            None => (given, ""),
        };
        let named = before.split_once(':').filter(|(name, _)| INTERFACES.contains(name));
        let (interface, path) = match named {
            Some((name, path)) => (name.to_owned(), path),
            None => {
                let extension = before.rsplit(['.', '/']).next().unwrap_or_default().to_ascii_lowercase();
                match EXTENSIONS.iter().find(|(known, _)| *known == extension && before.contains('.')) {
                    Some((_, interface)) => ((*interface).to_owned(), before),
                    None => {
                        return Err(error(format!(
                            "no interface is named and the extension tells none; begin with one of {}, as in `csv:{before}`",
                            INTERFACES.join(", ")
                        )));
                    }
                }
            }
        };
        if path.is_empty() {
            return Err(error("the path is empty".into()));
        }
        let mut values = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(error(format!("option `{pair}` has no value; write `{pair}=…`")));
            };
            let decoded =
                percent_decode(value).ok_or_else(|| error(format!("option `{name}`: bad %-escape in `{value}`")))?;
            if values.insert(name.to_owned(), decoded).is_some() {
                return Err(error(format!("option `{name}` is given twice")));
            }
        }
        Ok(Location { interface, path: PathBuf::from(path), options: Options { values }, given: given.to_owned() })
    }

    /// An error about this location.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::Location { location: self.given.clone(), problem: problem.into() }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl Options {
    /// Takes out the option `name`.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// Takes out all options that begin with `prefix` (`key.` for `key.TABLE=…`), without the prefix.
    pub fn take_prefixed(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let names: Vec<_> = self.values.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        names
            .into_iter()
            .map(|name| (name[prefix.len()..].to_owned(), self.values.remove(&name).unwrap_or_default()))
            .collect()
    }

    /// Fails if an option is left that nobody knew; `known` are the interface's options, for the message.
    pub fn finish(self, location: &Location, known: &[&str]) -> Result<(), Error> {
        match self.values.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(location.error(format!(
                "{} has no option `{name}`; it has {}",
                location.interface,
                known.join(", ")
            ))),
        }
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
