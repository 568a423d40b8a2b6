//! The state directory: one folder for each source transmitted, each receiver, and the local bus.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltabus_record::schema::{ReceiverName, SourceName};

use crate::probe::Probe;
use crate::{Error, Owner, Store};

/// The root of everything that deltabus remembers on this machine.
///
/// ```text
/// sources/<source>/             a transmitter's state
/// receivers/<source>/<name>/    a receiver's
/// bus/                          the local bus
/// manager/<name>.json           who this is to a manager
/// scratch/<any>/                what is made only to be looked at; see [`StateDirectory::scratch`]
/// ```
#[derive(Clone)]
pub struct StateDirectory {
    root: PathBuf,
    probe: Option<Arc<dyn Probe>>,
}

impl StateDirectory {
    /// Opens the directory, which is made (for the user alone) where it is missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<StateDirectory, Error> {
        let root = root.into();
        create_private(&root)?;
        Ok(StateDirectory { root, probe: None })
    }

    /// The same directory, with a probe at every commit of the stores that are opened by it.
    pub fn probed(self, probe: Arc<dyn Probe>) -> StateDirectory {
        StateDirectory { probe: Some(probe), ..self }
    }

    /// Opens the store of `owner` in its folder; see [`Store::open`].
    pub fn store(&self, owner: &Owner) -> Result<Store, Error> {
        let folder = match owner {
            Owner::Transmitter { source } => self.source_folder(source),
            Owner::Receiver { source, receiver } => self.receiver_folder(source, receiver),
        };
        Store::open_probed(&folder, owner, self.probe.clone())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder of a source's transmitter; it may not exist yet.
    pub fn source_folder(&self, source: &SourceName) -> PathBuf {
        self.root.join("sources").join(source.as_str())
    }

    /// The folder of a receiver; it may not exist yet.
    pub fn receiver_folder(&self, source: &SourceName, receiver: &ReceiverName) -> PathBuf {
        self.root.join("receivers").join(source.as_str()).join(receiver.as_str())
    }

    /// The folder of who this is to a manager; it may not exist yet.
    pub fn manager_folder(&self) -> PathBuf {
        self.root.join("manager")
    }

    /// The folder of the local bus; it may not exist yet.
    pub fn bus_folder(&self) -> PathBuf {
        self.root.join("bus")
    }

    /// The sources transmitted from here, by name.
    pub fn sources(&self) -> Result<Vec<SourceName>, Error> {
        let names = names_in(&self.root.join("sources"))?;
        Ok(names.iter().filter_map(|name| SourceName::new(name).ok()).collect())
    }

    /// The receivers kept here, by source and name.
    pub fn receivers(&self) -> Result<Vec<(SourceName, ReceiverName)>, Error> {
        let mut receivers = Vec::new();
        let root = self.root.join("receivers");
        for source in names_in(&root)?.iter().filter_map(|name| SourceName::new(name).ok()) {
            let names = names_in(&root.join(source.as_str()))?;
            receivers.extend(names.iter().filter_map(|name| Some((source.clone(), ReceiverName::new(name).ok()?))));
        }
        Ok(receivers)
    }
}

/// Makes a folder that only the user can enter.
pub(crate) fn create_private(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| Error::Io { doing: "create", path: path.to_owned(), source })
}

fn names_in(path: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Io { doing: "read", path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
