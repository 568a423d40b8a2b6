//! Locations: `INTERFACE:PATH[?option=value&option=value]`, or the store's usual URL.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::Error;

/// Where a store is and how to read it.
///
/// A password in a URL is taken out of everything that may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The interface's name: `csv`, `sqlite` …
    pub interface: String,
    /// The path, as written; of a URL all before the options.
    pub path: PathBuf,
    /// The options.
    pub options: Options,
    /// The whole location as given.
    pub given: String,
    password: Option<Secret>,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Stands where a password stood.
const HIDDEN: &str = "***";

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
pub const INTERFACES: &[&str] = &["csv", "tsv", "json", "ndjson", "vcard", "icalendar", "postgres", "sqlite", "tree"];

/// Which URL's scheme speaks for which interface.
const SCHEMES: &[(&str, &str)] = &[("postgres", "postgres"), ("postgresql", "postgres")];

/// Options of a URL that say where something is.
const PLACE_OPTIONS: &[&str] = &["host", "port", "dbname", "schema"];

/// Whether a text looks like an interface's name, well or badly written.
fn is_word(text: &str) -> bool {
    text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Location {
    /// Parses a location. Without an interface's name the path's extension picks it.
    pub fn parse(given: &str) -> Result<Location, Error> {
        if let Some((scheme, rest)) = given.split_once("://")
            && let Some((_, interface)) = SCHEMES.iter().find(|(known, _)| *known == scheme)
        {
            return Location::parse_url(scheme, rest, interface);
        }
        let error = |problem: String| Error::Location { location: given.to_owned(), problem };
        let (before, query) = match given.split_once('?') {
            Some((before, query)) => (before, query),
            None => (given, ""),
        };
        let named = before.split_once(':').filter(|(name, _)| INTERFACES.contains(name));
        let (interface, path) = match named {
            Some((name, path)) => (name.to_owned(), path),
            None => {
                if let Some((name, path)) = before.split_once(':')
                    && is_word(name)
                    && !path.starts_with("//")
                    && !std::path::Path::new(before).exists()
                {
                    return Err(error(format!(
                        "there is no interface `{name}`; there are {}. A file of that name is `./{name}:{path}`",
                        INTERFACES.join(", ")
                    )));
                }
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
        if let Some((scheme, _)) = SCHEMES.iter().find(|(_, known)| *known == interface) {
            // What stands there may hold a password: it is not shown.
            let location = format!("{interface}:{HIDDEN}");
            return Err(Error::Location { location, problem: format!("no URL; write `{scheme}://…`") });
        }
        let options = Options::parse(query).map_err(error)?;
        let path = PathBuf::from(path);
        Ok(Location { interface, path, options, given: given.to_owned(), password: None })
    }

    /// `SCHEME://[USER[:PASSWORD]@]REST[?OPTIONS]`, where the password may also be an option.
    fn parse_url(scheme: &str, rest: &str, interface: &str) -> Result<Location, Error> {
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = before.split_at(before.find('/').unwrap_or(before.len()));
        let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (user, password) = match user.and_then(|user| user.split_once(':')) {
            Some((user, password)) => (Some(user), Some(password)),
            None => (user, None),
        };
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let mut ports = hosts.split(',').filter_map(|host| host.rsplit(']').next()?.split_once(':'));
        if path.contains('@') && user.is_none() || ports.any(|(_, port)| !is_port(port)) {
            // What stands there may be a password: it is not shown.
            return Err(Error::Location {
                location: format!("{scheme}://{HIDDEN}"),
                problem:
                    "a port is no number; in user and password, `/`, `?`, `:`, `@` and `%` are written as %-escapes"
                        .into(),
            });
        }
        let named = |user: &str, password: &str| format!("{scheme}://{user}{password}@{hosts}{path}");
        let clean = user.map_or_else(|| format!("{scheme}://{before}"), |user| named(user, ""));
        let hide = |pair: &str| match pair.split_once('=') {
            Some(("password", _)) => format!("password={HIDDEN}"),
            _ => pair.to_owned(),
        };
        let query_shown = query.split('&').map(hide).collect::<Vec<_>>().join("&");
        let mut given = match (user, password) {
            (Some(user), Some(_)) => named(user, &format!(":{HIDDEN}")),
            _ => clean.clone(),
        };
        if !query.is_empty() {
            given = format!("{given}?{query_shown}");
        }
        let error = |problem: String| Error::Location { location: given.clone(), problem };
        let mut options = Options::parse(query).map_err(error)?;
        // Out of the options in any case: these are shown.
        let password = match (password, options.take("password")) {
            (Some(_), Some(_)) => return Err(error("the password is given twice".into())),
            (Some(password), None) => {
                Some(percent_decode(password).ok_or_else(|| error("bad %-escape in the password".into()))?)
            }
            (None, option) => option,
        };
        let password = password.map(Secret);
        Ok(Location { interface: interface.to_owned(), path: PathBuf::from(clean), options, given, password })
    }

    /// The password that the URL gave.
    pub fn password(&self) -> Option<&str> {
        self.password.as_ref().map(|Secret(password)| password.as_str())
    }

    /// What makes two locations the same place, whatever the other options: an interface and an absolute path, or a URL
    /// with what may also be said of the place by options.
    pub fn place(&self) -> Result<String, std::io::Error> {
        if self.is_url() {
            let said = PLACE_OPTIONS.iter().filter_map(|name| Some((name, self.options.values.get(*name)?)));
            let said: Vec<_> = said.map(|(name, value)| format!("{name}={value}")).collect();
            return Ok(format!("{}?{}", self.path.display(), said.join("&")));
        }
        Ok(format!("{}:{}", self.interface, std::path::absolute(&self.path)?.display()))
    }

    /// The same location, said so that it means the same from any folder. A password is hidden.
    pub fn anywhere(&self) -> String {
        if self.is_url() {
            return self.given.clone();
        }
        let query = self.given.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        format!("{}:{}{query}", self.interface, path.display())
    }

    /// Whether [`Location::anywhere`] of a location with a password was given: nothing can be opened by it.
    pub fn hides_password(given: &str) -> bool {
        given.contains(HIDDEN)
    }

    /// Whether it was given as a URL: a server has it, no path leads there.
    pub fn is_url(&self) -> bool {
        SCHEMES.iter().any(|(scheme, _)| self.given.strip_prefix(scheme).is_some_and(|rest| rest.starts_with("://")))
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
    /// `name=value&name=value`, values %-escaped.
    fn parse(query: &str) -> Result<Options, String> {
        let mut values = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("option `{pair}` has no value; write `{pair}=…`"));
            };
            let decoded = percent_decode(value).ok_or_else(|| match name {
                "password" => "bad %-escape in the password".to_owned(),
                _ => format!("option `{name}`: bad %-escape in `{value}`"),
            })?;
            if values.insert(name.to_owned(), decoded).is_some() {
                return Err(format!("option `{name}` is given twice"));
            }
        }
        Ok(Options { values })
    }

    /// Whether the option `name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

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

/// Undoes `%41`; `None` for what is no escape, or not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_from_anywhere_is_the_same_place_with_the_same_options() {
        for given in ["csv:people.csv?key=id&types=infer", "people.csv?key=id", "tree:photos/", "sqlite:/data/app.db"] {
            let location = Location::parse(given).unwrap();
            let anywhere = Location::parse(&location.anywhere()).unwrap();
            assert!(anywhere.path.is_absolute(), "{given}");
            assert_eq!((&anywhere.interface, &anywhere.options), (&location.interface, &location.options), "{given}");
            assert_eq!(anywhere.place().unwrap(), location.place().unwrap(), "{given}");
        }
    }

    #[test]
    fn an_interface_that_is_none_is_not_taken_for_a_part_of_the_path() {
        let error = Location::parse("cvs:people.csv?key=id").unwrap_err().to_string();
        assert!(
            error.contains("no interface `cvs`") && error.contains("csv, tsv") && error.contains("./cvs:people.csv"),
            "{error}"
        );
        let file = Location::parse("./cvs:people.csv").unwrap();
        assert_eq!((file.interface.as_str(), file.path.to_str()), ("csv", Some("./cvs:people.csv")));
    }

    #[test]
    fn a_password_stays_hidden_from_anywhere() {
        let location = Location::parse("postgres://crm:secret@db/crm?tables=people").unwrap();
        assert!(!location.anywhere().contains("secret") && Location::hides_password(&location.anywhere()));
        let open = Location::parse("postgres://crm@db/crm?tables=people").unwrap();
        assert!(!Location::hides_password(&open.anywhere()));
    }

    /// `postgres:` before a URL, or before something mistyped, is no path: what stands there may hold a password.
    #[test]
    fn a_server_is_named_by_a_url_only() {
        for given in ["postgres:postgres://crm:secret@localhost/crm", "postgres:crm:secret@localhost", "postgres:a"] {
            let error = Location::parse(given).unwrap_err().to_string();
            assert!(error.contains("postgres://") && !error.contains("secret"), "{error}");
        }
        assert!(Location::parse("postgres://crm:secret@localhost/crm").is_ok());
    }
}
