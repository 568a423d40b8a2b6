//! `deltabus check`: a configuration and everything it names.

use std::path::Path;

use deltabus_bus::broker::Broker;
use deltabus_bus::jetstream::JetStream;
use deltabus_interfaces::{Error as InterfaceError, Interface, Location, Mark, NoContents};
use deltabus_receiver::Filter;

use crate::arguments::{Check, Global};
use crate::config::{self, Config};
use crate::error::{Error, Exit};
use crate::{direct, session};

/// Runs the command: every finding is a line; exit code 2 if one of them is trouble.
pub(crate) async fn check(global: &Global, options: Check) -> Result<Exit, Error> {
    let path = &options.config;
    let mut findings = Findings::default();
    match config::either(path)? {
        Config::Transmitter(file) => {
            let global = file.under(global);
            check_common(&global, &mut findings).await?;
            if let Some(open) = &file.open {
                let opening = direct::opening(open, &file.hosts);
                findings
                    .note("open", opening.map(|opening| format!("the local bus is to be open at {}", opening.listen)));
            }
            for source in &file.source {
                let name = format!("source {}", source.name);
                match source.config(path) {
                    Ok(config) => findings.note(&name, check_source(&config.location)),
                    Err(error) => findings.note(&name, Err(error)),
                }
            }
        }
        Config::Receiver(file) => {
            let global = file.under(global);
            check_common(&global, &mut findings).await?;
            for destination in &file.destination {
                let name = format!("destination {}", destination.location);
                let checked = Location::parse(&destination.location)
                    .map_err(Error::from)
                    .and_then(|location| check_destination(&location));
                findings.note(&name, checked);
                if let Some(filter) = &destination.filter {
                    let compiled = Filter::compile(filter).map(|_| "`where` is understood".to_owned());
                    findings.note(&name, compiled.map_err(|error| Error::Config(error.to_string())));
                }
            }
        }
    }
    findings.end()
}

#[derive(Default)]
struct Findings {
    troubles: usize,
}

impl Findings {
    fn note(&mut self, name: &str, found: Result<String, Error>) {
        match found {
            Ok(text) => println!("ok       {name}: {text}"),
            Err(error) => {
                self.troubles += 1;
                println!("trouble  {name}: {}", error.in_one_line());
            }
        }
    }

    fn end(self) -> Result<Exit, Error> {
        match self.troubles {
            0 => Ok(Exit::Done),
            1 => Err(Error::Config("one thing is not as it should be".into())),
            count => Err(Error::Config(format!("{count} things are not as they should be"))),
        }
    }
}

async fn check_common(global: &Global, findings: &mut Findings) -> Result<(), Error> {
    let state = session::state_path(global)?;
    let parent = state.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    findings.note("state", writable(parent).map(|()| state.display().to_string()));
    match &global.bus {
        Some(url) => {
            let connected = async {
                let connected = JetStream::connect(url, &session::access(global, url)?).await;
                connected
                    .map(|broker| format!("{} answers", broker.url()))
                    .map_err(|error| deltabus_bus::Error::from(error).into())
            };
            findings.note("bus", connected.await);
        }
        None => findings.note("bus", Ok("the local bus".into())),
    }
    Ok(())
}

fn check_source(location: &Location) -> Result<String, Error> {
    let interface = deltabus_interfaces::open(location)?;
    let scan = interface.scan(None)?;
    let described = scan.collections().iter().map(|collection| {
        let fields = collection.schema.ordered().len();
        let key = collection.schema.key_names().join(", ");
        let key = if key.is_empty() { "no key".into() } else { format!("key {key}") };
        format!("{} ({fields} fields, {key})", collection.name)
    });
    let described: Vec<_> = described.collect();
    if described.is_empty() {
        return Err(Error::Config(format!("{location} holds no collections; are the names in `tables=` right?")));
    }
    Ok(described.join(", "))
}

fn check_destination(location: &Location) -> Result<String, Error> {
    let interface = deltabus_interfaces::open(location)?;
    match interface.scan(None) {
        Ok(scan) => {
            let collections = scan.collections().len();
            drop(scan);
            match location.is_url() {
                true => takes_writes(&*interface)?,
                false => writable(&location.path)?,
            }
            Ok(format!("is there, with {collections} collections"))
        }
        Err(InterfaceError::Missing { .. }) if location.is_url() => {
            takes_writes(&*interface)?;
            Ok("isn't there yet and can be made".into())
        }
        Err(InterfaceError::Missing { .. }) => {
            let folder = location.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            writable(folder.unwrap_or(Path::new(".")))?;
            Ok("isn't there yet and can be made".into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a database lets us write: a mark that is never committed.
fn takes_writes(interface: &dyn Interface) -> Result<(), Error> {
    let mark = Mark { owner: "check".into(), value: Vec::new() };
    Ok(interface.stage(&mut [], &interface.stamp()?, Some(&mark), &NoContents).map(drop)?)
}

fn writable(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { doing: "write", path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(failed)?;
    if found.is_dir() {
        // The surest test leaves nothing behind.
        return tempfile::tempfile_in(path).map(drop).map_err(failed);
    }
    std::fs::File::options().append(true).open(path).map(drop).map_err(failed)
}
