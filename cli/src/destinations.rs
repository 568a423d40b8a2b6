//! The destinations that a command is about, and which receiver keeps each.

use deltabus_interfaces::Location;
use deltabus_receiver::Config;
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::{StateDirectory, read_status};

use crate::arguments::{Destinations, Global};
use crate::error::Error;
use crate::membership::{self, Wanted};
use crate::{config, session};

/// What becomes of a name that is made for a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// It is written down, to be found again.
    Lasting,
    /// Nothing is: the receiver is only thought of.
    Passing,
}

/// The global options and the destinations, from the command line or a file.
pub(crate) async fn configs(
    global: &Global,
    options: &Destinations,
    naming: Naming,
) -> Result<(Global, Vec<Config>), Error> {
    match (&options.config, &options.source, &options.location) {
        (Some(path), ..) => {
            let file = config::receiver(path)?;
            let global = file.under(global);
            let state = session::state(&global)?;
            let base = options
                .name
                .clone()
                .map_or_else(|| file.name.as_deref().map(ReceiverName::new).transpose(), |name| Ok(Some(name)));
            let base = base.map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
            let mut configs: Vec<Config> = Vec::new();
            for destination in &file.destination {
                let source = SourceName::new(&destination.source)
                    .map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
                let location = Location::parse(&destination.location)?;
                // A second destination of one source needs a name of its own.
                let before = configs.iter().filter(|config| config.source == source).count();
                let name = match base.as_ref().map(|base| numbered(base, before)).transpose()? {
                    None if global.manager.is_some() => {
                        Some(managed_name(&global, &state, &source, &location, before).await?)
                    }
                    name => name,
                };
                let name = name_for(&state, &source, &location, name, naming)?;
                let mut config = destination.config(path, name)?;
                config.reverse |= options.reverse;
                configs.push(config);
            }
            Ok((global, configs))
        }
        (None, Some(source), Some(location)) => {
            let location = Location::parse(location)?;
            let state = session::state(global)?;
            let name = match &options.name {
                None if global.manager.is_some() => Some(managed_name(global, &state, source, &location, 0).await?),
                name => name.clone(),
            };
            let name = name_for(&state, source, &location, name, naming)?;
            let sends = naming == Naming::Passing && sends_edits(&state, source, &name);
            let mut config = Config::new(source.clone(), location, name);
            config.reverse = options.reverse || sends;
            Ok((global.clone(), vec![config]))
        }
        _ => Err(Error::Config("name a source and a location, or a file with --config".into())),
    }
}

/// Whether a receiver sent edits back when it last ran.
fn sends_edits(state: &StateDirectory, source: &SourceName, receiver: &ReceiverName) -> bool {
    let status = read_status(&state.receiver_folder(source, receiver)).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap_or_default();
    status["reverse"].as_bool() == Some(true)
}

/// A name that the manager lets a receiver here have: the one that is at the location already, else the first that is nowhere
/// yet. `before`: how many of the same process come first.
async fn managed_name(
    global: &Global,
    state: &StateDirectory,
    source: &SourceName,
    location: &Location,
    before: usize,
) -> Result<ReceiverName, Error> {
    let identity = membership::identity(global, state, Wanted::Read(source)).await?;
    let here = place(location)?;
    let mut names = membership::receiver_names(&identity, source);
    if let Some(at) = names.iter().position(|name| is_at(state, source, name, &here)) {
        return Ok(names.swap_remove(at));
    }
    let free: Vec<_> = names.into_iter().filter(|name| !state.receiver_folder(source, name).exists()).collect();
    free.into_iter().nth(before).ok_or_else(|| {
        let name = identity.name();
        Error::Config(format!(
            "`{name}` keeps other destinations of `{source}` here already, and has no further name for a receiver: \
             `deltabus grant {name} --receiver {name}-2` gives one, `--name` takes a destination's over"
        ))
    })
}

fn numbered(base: &ReceiverName, before: usize) -> Result<ReceiverName, Error> {
    if before == 0 {
        return Ok(base.clone());
    }
    let name = format!("{base}-{}", before + 1);
    ReceiverName::new(&name).map_err(|error| Error::Config(error.to_string()))
}

/// Where a receiver's folder says which location it keeps.
const LOCATION_FILE: &str = "location";

/// The name of the receiver at a location: the one given, else the one that is there already, else a new one.
fn name_for(
    state: &StateDirectory,
    source: &SourceName,
    location: &Location,
    given: Option<ReceiverName>,
    naming: Naming,
) -> Result<ReceiverName, Error> {
    let here = place(location)?;
    let name = match given {
        Some(given) if is_at(state, source, &given, &here) => return Ok(given),
        Some(given) => given,
        None => match known(state, source, location)? {
            Some(known) => return Ok(known),
            None => new_name(location, &here)?,
        },
    };
    if naming == Naming::Lasting {
        let folder = state.receiver_folder(source, &name);
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join(LOCATION_FILE), &here))
            .map_err(|error| Error::Io { doing: "write", path: folder, source: error })?;
    }
    Ok(name)
}

/// The receiver that keeps a location.
pub(crate) fn known(
    state: &StateDirectory,
    source: &SourceName,
    location: &Location,
) -> Result<Option<ReceiverName>, Error> {
    let here = place(location)?;
    let receivers = state.receivers()?.into_iter().filter(|(of, _)| of == source).map(|(_, receiver)| receiver);
    Ok(receivers.into_iter().find(|receiver| is_at(state, source, receiver, &here)))
}

fn place(location: &Location) -> Result<String, Error> {
    location.place().map_err(|error| Error::Io { doing: "find", path: location.path.clone(), source: error })
}

fn is_at(state: &StateDirectory, source: &SourceName, receiver: &ReceiverName, here: &str) -> bool {
    let known = std::fs::read_to_string(state.receiver_folder(source, receiver).join(LOCATION_FILE));
    known.is_ok_and(|known| known == here)
}

/// A name that tells what is there, and that no other receiver has.
fn new_name(location: &Location, here: &str) -> Result<ReceiverName, Error> {
    let stem = location.path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let stem: String =
        stem.chars().filter(|char| char.is_ascii_lowercase() || char.is_ascii_digit()).take(24).collect();
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), here) as u32;
    let name =
        format!("{}{}-{random:08x}", location.interface, if stem.is_empty() { stem } else { format!("-{stem}") });
    ReceiverName::new(&name).map_err(|error| Error::Config(error.to_string()))
}
