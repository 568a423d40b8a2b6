//! Configuration files: one struct for each process, unknown keys refused with the nearest known one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deltabus_interfaces::Location;
use deltabus_receiver::Selection;
use deltabus_record::mapping::distance;
use deltabus_record::schema::{ReceiverName, SourceName};
use serde::Deserialize;

use crate::arguments::{Global, Policy};
use crate::error::Error;

/// transmitter.toml
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransmitterConfig {
    pub(crate) bus: Option<String>,
    pub(crate) manager: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) identity: Option<String>,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_certificate: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) metrics: Option<std::net::SocketAddr>,
    pub(crate) otlp: Option<String>,
    pub(crate) open: Option<String>,
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
    pub(crate) source: Vec<SourceConfig>,
}

/// One `[[source]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceConfig {
    pub(crate) name: String,
    pub(crate) location: String,
    pub(crate) poll: Option<String>,
    pub(crate) conflicts: Option<Policy>,
    pub(crate) max_delete: Option<String>,
    #[serde(default)]
    pub(crate) standby: bool,
}

/// receiver.toml
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReceiverConfig {
    pub(crate) name: Option<String>,
    pub(crate) bus: Option<String>,
    pub(crate) manager: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) identity: Option<String>,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_certificate: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) metrics: Option<std::net::SocketAddr>,
    pub(crate) otlp: Option<String>,
    pub(crate) destination: Vec<DestinationConfig>,
}

/// One `[[destination]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestinationConfig {
    pub(crate) source: String,
    pub(crate) location: String,
    #[serde(default)]
    pub(crate) reverse: bool,
    #[serde(rename = "where")]
    pub(crate) filter: Option<String>,
    #[serde(default)]
    pub(crate) fields: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) omit: Vec<String>,
    pub(crate) on_error: Option<OnError>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnError {
    Stop,
    DeadLetter,
}

/// Either configuration.
pub(crate) enum Config {
    Transmitter(TransmitterConfig),
    Receiver(ReceiverConfig),
}

/// What every configuration may say of the global options.
struct Common<'a> {
    bus: &'a Option<String>,
    manager: &'a Option<String>,
    token_file: &'a Option<PathBuf>,
    identity: &'a Option<String>,
    credentials: &'a Option<PathBuf>,
    tls_ca: &'a Option<PathBuf>,
    tls_certificate: &'a Option<PathBuf>,
    tls_key: &'a Option<PathBuf>,
    state: &'a Option<PathBuf>,
    metrics: Option<std::net::SocketAddr>,
    otlp: &'a Option<String>,
}

impl Common<'_> {
    /// The global options with what the file adds; what was typed wins.
    fn under(&self, global: &Global) -> Global {
        let mut merged = global.clone();
        fn add<T: Clone>(typed: &mut Option<T>, written: &Option<T>) {
            *typed = typed.take().or_else(|| written.clone());
        }
        add(&mut merged.bus, self.bus);
        add(&mut merged.manager, self.manager);
        add(&mut merged.token_file, self.token_file);
        add(&mut merged.identity, self.identity);
        add(&mut merged.credentials, self.credentials);
        add(&mut merged.tls_ca, self.tls_ca);
        add(&mut merged.tls_certificate, self.tls_certificate);
        add(&mut merged.tls_key, self.tls_key);
        add(&mut merged.state, self.state);
        add(&mut merged.metrics, &self.metrics);
        add(&mut merged.otlp, self.otlp);
        merged
    }
}

impl TransmitterConfig {
    /// The global options with what this file adds; what was typed wins.
    pub(crate) fn under(&self, global: &Global) -> Global {
        let TransmitterConfig {
            bus,
            manager,
            token_file,
            identity,
            credentials,
            tls_ca,
            tls_certificate,
            tls_key,
            state,
            metrics,
            otlp,
            ..
        } = self;
        let metrics = *metrics;
        Common {
            bus,
            manager,
            token_file,
            identity,
            credentials,
            tls_ca,
            tls_certificate,
            tls_key,
            state,
            metrics,
            otlp,
        }
        .under(global)
    }
}

impl ReceiverConfig {
    /// The global options with what this file adds; what was typed wins.
    pub(crate) fn under(&self, global: &Global) -> Global {
        let ReceiverConfig {
            bus,
            manager,
            token_file,
            identity,
            credentials,
            tls_ca,
            tls_certificate,
            tls_key,
            state,
            metrics,
            otlp,
            ..
        } = self;
        let metrics = *metrics;
        Common {
            bus,
            manager,
            token_file,
            identity,
            credentials,
            tls_ca,
            tls_certificate,
            tls_key,
            state,
            metrics,
            otlp,
        }
        .under(global)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { doing: "read", path: path.to_owned(), source })
}

/// Reads a transmitter's configuration.
pub(crate) fn transmitter(path: &Path) -> Result<TransmitterConfig, Error> {
    parse(path, &read(path)?)
}

/// Reads a receiver's configuration.
pub(crate) fn receiver(path: &Path) -> Result<ReceiverConfig, Error> {
    parse(path, &read(path)?)
}

/// Reads a configuration of either kind; what it holds tells which.
pub(crate) fn either(path: &Path) -> Result<Config, Error> {
    of_text(path, &read(path)?)
}

/// The configuration that `text` is, which stands at `path`.
pub(crate) fn of_text(path: &Path, text: &str) -> Result<Config, Error> {
    let is_receiver = text.lines().any(|line| line.trim_start().starts_with("[[destination"));
    Ok(if is_receiver { Config::Receiver(parse(path, text)?) } else { Config::Transmitter(parse(path, text)?) })
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| {
        let place = match error.span() {
            Some(span) => {
                let before = &text[..span.start.min(text.len())];
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                format!("{}:{line}:{column}", path.display())
            }
            None => path.display().to_string(),
        };
        Error::Config(format!("{place}: {}", with_nearest(error.message())))
    })
}

/// serde's message about an unknown key lists all known ones; the nearest is what people want.
fn with_nearest(message: &str) -> String {
    let message = message.trim().replace('\n', " ");
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.starts_with("unknown field"), names.as_slice()) {
        (true, [unknown, known @ ..]) if !known.is_empty() => {
            let nearest = known.iter().min_by_key(|name| distance(unknown, name)).unwrap_or(&known[0]);
            let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            if distance(unknown, nearest) <= 1 + unknown.len() / 3 {
                format!("unknown key `{unknown}`; did you mean `{nearest}`? (known: {list})")
            } else {
                format!("unknown key `{unknown}`; known are {list}")
            }
        }
        _ => message,
    }
}

impl SourceConfig {
    /// As the transmitter wants it.
    pub(crate) fn config(&self, path: &Path) -> Result<deltabus_transmitter::Config, Error> {
        let named = |error: String| Error::Config(format!("{}: source `{}`: {error}", path.display(), self.name));
        let source = SourceName::new(&self.name).map_err(|error| named(error.to_string()))?;
        let mut config = deltabus_transmitter::Config::new(source, Location::parse(&self.location)?);
        if let Some(poll) = &self.poll {
            config.poll = Some(parse_duration(poll).map_err(named)?);
        }
        if let Some(part) = &self.max_delete {
            config.max_delete = parse_percent(part).map_err(named)?;
        }
        if let Some(policy) = self.conflicts {
            config.conflicts = policy.into();
        }
        config.standby = self.standby;
        Ok(config)
    }
}

impl DestinationConfig {
    /// As the receiver wants it, under `name`.
    pub(crate) fn config(&self, path: &Path, name: ReceiverName) -> Result<deltabus_receiver::Config, Error> {
        let source = SourceName::new(&self.source)
            .map_err(|error| Error::Config(format!("{}: destination: {error}", path.display())))?;
        let mut config = deltabus_receiver::Config::new(source, Location::parse(&self.location)?, name);
        config.reverse = self.reverse;
        config.selection = Some(Selection {
            filter: self.filter.clone(),
            fields: self.fields.clone().into_iter().collect(),
            omit: self.omit.clone(),
        });
        config.on_error = match self.on_error {
            Some(OnError::DeadLetter) => deltabus_receiver::OnError::DeadLetter,
            Some(OnError::Stop) | None => deltabus_receiver::OnError::Stop,
        };
        Ok(config)
    }
}

/// `500ms`, `30s`, `5m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is no length of time; write 500ms, 30s, 5m or 1h")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is no length of time; write 500ms, 30s, 5m or 1h"))?;
    let duration = Duration::try_from_secs_f64(number * scale).map_err(|_| format!("`{text}` is too long"))?;
    if duration.is_zero() { Err(format!("`{text}` is no time at all")) } else { Ok(duration) }
}

/// `50%` as 0.5.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match number {
        Some(number) if (0.0..=100.0).contains(&number) => Ok(number / 100.0),
        _ => Err(format!("`{text}` is no part of a whole; write 0% to 100%")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse::<TransmitterConfig>(Path::new("transmitter.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        let text = "bus = \"nats://localhost\"\n[[source]]\nname = \"a\"\nlocaton = \"csv:a.csv\"\n";
        let error = error(text);
        assert!(
            error.starts_with("transmitter.toml:4:1: unknown key `localton`")
                || error.starts_with("transmitter.toml:4:1: unknown key `locaton`; did you mean `location`?"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_type_names_its_line() {
        let error = error("[[source]]\nname = 5\nlocation = \"csv:a.csv\"\n");
        assert!(error.starts_with("transmitter.toml:2:"), "{error}");
    }

    #[test]
    fn a_source_stands_by_only_where_it_says_so() {
        for (line, standby) in [("", false), ("standby = true", true), ("standby = false", false)] {
            let text = format!("[[source]]\nname = \"a\"\nlocation = \"csv:a.csv?key=id\"\n{line}\n");
            let path = Path::new("transmitter.toml");
            let file = parse::<TransmitterConfig>(path, &text).expect("it is understood");
            assert_eq!(file.source[0].config(path).expect("it is whole").standby, standby, "{line}");
        }
    }

    #[test]
    fn durations_and_percents_are_read() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert!(parse_duration("30").is_err() && parse_duration("s").is_err() && parse_duration("0s").is_err());
        assert_eq!(parse_percent("50%"), Ok(0.5));
        assert!(parse_percent("50").is_err() && parse_percent("101%").is_err());
    }
}
