//! Decoders that have no other way in from outside, for whoever feeds them with anything (feature `fuzz`).

use std::path::Path;

use deltabus_record::schema::ReceiverName;

use crate::config::{self, Config};

/// Reads a configuration of either kind and all that it names, as `check` does before it opens anything.
///
/// # Panics
/// Where an error has no text.
pub fn configuration(text: &str) {
    let path = Path::new("deltabus.toml");
    let errors: Vec<String> = match config::of_text(path, text) {
        Err(error) => vec![error.to_string()],
        Ok(Config::Transmitter(config)) => {
            config.source.iter().filter_map(|source| source.config(path).err()).map(|error| error.to_string()).collect()
        }
        Ok(Config::Receiver(config)) => {
            let name = ReceiverName::new(config.name.as_deref().unwrap_or("oslo"));
            let Ok(name) = name else { return };
            let destinations = config.destination.iter().map(|destination| destination.config(path, name.clone()));
            destinations.filter_map(Result::err).map(|error| error.to_string()).collect()
        }
    };
    assert!(errors.iter().all(|error| !error.is_empty()));
}
