//! Notifications that a store may have changed.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecursiveMode, Watcher};

use crate::Error;

/// What a notification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Somebody is writing; wait until it is quiet.
    Writing,
    /// Somebody has finished: a file was closed after writing, or moved into place.
    Written,
}

/// Takes signals, from whatever thread.
pub type Notify = Arc<dyn Fn(Signal) + Send + Sync>;

/// Signals go on until this is dropped.
pub struct Watching {
    _guard: Box<dyn Any + Send + Sync>,
}

impl Watching {
    /// Signals that `guard` keeps going.
    pub fn new(guard: impl Any + Send + Sync) -> Watching {
        Watching { _guard: Box::new(guard) }
    }

    /// Signals whenever an entry directly in the folder at `path` is touched. A folder that doesn't exist yet is noticed when
    /// it appears; what happens in it then is left to polling.
    pub(crate) fn folder(path: &Path, signal: Notify) -> Result<Watching, Error> {
        let root = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let watched = match root.parent() {
            Some(parent) if !root.is_dir() => parent.to_owned(),
            _ => root.clone(),
        };
        let concerns = move |path: &PathBuf| *path == root || path.parent() == Some(&root);
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => signal(Signal::Written),
            Ok(event) if event.paths.iter().any(&concerns) => {
                if let Some(kind) = signal_of(&event.kind) {
                    signal(kind);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "notifications of a folder failed; polling goes on"),
        };
        let failed = |error: notify::Error| Error::Io {
            doing: "watch",
            path: watched.clone(),
            source: std::io::Error::other(error),
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(failed)?;
        watcher.watch(&watched, RecursiveMode::NonRecursive).map_err(failed)?;
        Ok(Watching::new(watcher))
    }

    /// Signals whenever one of the files `paths` is touched.
    ///
    /// The folders that hold the files are watched, so that a file that is replaced by a rename, or made later, is noticed.
    /// A network file system gives no notifications.
    pub fn files(paths: &[PathBuf], signal: Notify) -> Result<Watching, Error> {
        let names: Arc<Vec<PathBuf>> = Arc::new(paths.iter().map(|path| absolute(path)).collect());
        let folders: BTreeSet<PathBuf> = names.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
        let wanted = Arc::clone(&names);
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => signal(Signal::Written),
            Ok(event) if event.paths.iter().any(|path| wanted.contains(path)) => {
                if let Some(kind) = signal_of(&event.kind) {
                    signal(kind);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "notifications of a file failed; polling goes on"),
        };
        let failed = |path: &Path, error: notify::Error| Error::Io {
            doing: "watch",
            path: path.to_owned(),
            source: std::io::Error::other(error),
        };
        let mut watcher = notify::recommended_watcher(handler)
            .map_err(|error| failed(names.first().map_or(Path::new("."), |p| p), error))?;
        for folder in &folders {
            watcher.watch(folder, RecursiveMode::NonRecursive).map_err(|error| failed(folder, error))?;
        }
        Ok(Watching::new(watcher))
    }
}

pub(crate) fn signal_of(kind: &EventKind) -> Option<Signal> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both | RenameMode::Any))
        | EventKind::Remove(_) => Some(Signal::Written),
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => None,
        _ => Some(Signal::Writing),
    }
}

/// The path as notifications name it: its folder resolved, its own name as it is.
fn absolute(path: &Path) -> PathBuf {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Long enough for any machine; reached only when the notification never comes.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_finished_write_and_a_rename_into_place_are_signalled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people.csv");
        let (sender, receiver) = mpsc::channel();
        let notify = move |signal| {
            let _ = sender.send(signal);
        };
        let _watching = Watching::files(std::slice::from_ref(&path), Arc::new(notify)).unwrap();
        std::fs::write(&path, "id\n").unwrap();
        while receiver.recv_timeout(PATIENCE).unwrap() != Signal::Written {}
        std::fs::write(folder.path().join("new"), "id\n1\n").unwrap();
        while receiver.try_recv().is_ok() {}
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        while receiver.recv_timeout(PATIENCE).unwrap() != Signal::Written {}
    }
}
