//! Files of certificates and keys: private, never half written, never written over unasked.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::{Error, Identity};

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and writing is refused.
    Keep,
    /// It gives way to the new one, in one step.
    Replace,
}

/// A certificate chain and its key, each in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain in PEM, the leaf first.
    pub certificate: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
}

impl IdentityFiles {
    /// Writes an identity, both files for the owner only.
    ///
    /// The key comes first: whoever reads both in between finds a pair that doesn't match, and keeps what it had.
    pub fn write(&self, identity: &Identity, existing: Existing) -> Result<(), Error> {
        if existing == Existing::Keep {
            for path in [&self.certificate, &self.key] {
                if path.symlink_metadata().is_ok() {
                    return Err(Error::Exists { path: path.clone() });
                }
            }
        }
        write_private(&self.key, identity.key_pem(), existing)?;
        write_private(&self.certificate, identity.chain_pem(), existing)
    }
}

/// Writes a file that only its owner may read (mode 0600), in one step and to the disk.
pub fn write_private(path: &Path, text: &str, existing: Existing) -> Result<(), Error> {
    let failed = |source| Error::Io { doing: "write", path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?);
    name.push(format!(".{}.new", std::process::id()));
    let temporary = folder.join(name);
    let written = write_new(&temporary, text).and_then(|()| match existing {
        Existing::Replace => fs::rename(&temporary, path),
        // A link fails where the name is taken, whoever took it just now.
        Existing::Keep => fs::hard_link(&temporary, path),
    });
    let _ = fs::remove_file(&temporary);
    match written {
        Ok(()) => File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && existing == Existing::Keep => {
            Err(Error::Exists { path: path.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // Left by a process that was killed and had our number.
    let _ = fs::remove_file(path);
    let mut options = File::options();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Io { doing: "read", path: path.to_owned(), source })
}

/// What is made of some files, and made anew when they change.
pub(crate) struct Watched<T> {
    files: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T, Error> + Send + Sync>,
    held: Mutex<(Vec<Stamp>, Arc<T>)>,
}

/// Tells a file's content from a later one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl<T> Watched<T> {
    pub(crate) fn new(
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Watched<T>, Error> {
        // The stamps come first: what is written after them is seen as a change.
        let stamps = stamps(&files);
        let held = Mutex::new((stamps, Arc::new(load()?)));
        Ok(Watched { files, load: Box::new(load), held })
    }

    /// As the files say now; where they say nothing sensible (they are being replaced just now), as they said last.
    pub(crate) fn current(&self) -> Arc<T> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        if now != held.0 {
            match (self.load)() {
                Ok(loaded) => *held = (now, Arc::new(loaded)),
                // Not noted as seen: the next who asks tries again.
                Err(error) => tracing::warn!(%error, "a changed certificate can't be used; going on with the former"),
            }
        }
        held.1.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| match fs::metadata(path) {
        Ok(found) => Stamp {
            modified: found.modified().ok(),
            length: found.len(),
            inode: std::os::unix::fs::MetadataExt::ino(&found),
        },
        Err(_) => Stamp { modified: None, length: 0, inode: 0 },
    };
    files.iter().map(stamp).collect()
}
