//! Notifications that a store may have changed.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};

use crate::Error;

mod hub;

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
        let concerns = move |path: &Path| path == root || path.parent() == Some(&root);
        hub::listen(BTreeSet::from([watched]), Box::new(concerns), signal)
    }

    /// Signals whenever one of the files `paths` is touched.
    ///
    /// The folders that hold the files are watched, so that a file that is replaced by a rename, or made later, is noticed.
    /// A network file system gives no notifications.
    pub fn files(paths: &[PathBuf], signal: Notify) -> Result<Watching, Error> {
        let names: Vec<PathBuf> = paths.iter().map(|path| absolute(path)).collect();
        let folders = names.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
        hub::listen(folders, Box::new(move |path| names.iter().any(|name| name == path)), signal)
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

    /// What one listener is told, and nothing else.
    fn listen(path: &Path) -> (mpsc::Receiver<Signal>, Watching) {
        let (sender, receiver) = mpsc::channel();
        let notify = move |signal| {
            let _ = sender.send(signal);
        };
        (receiver, Watching::files(&[path.to_owned()], Arc::new(notify)).unwrap())
    }

    #[test]
    fn those_who_listen_in_one_folder_hear_of_their_own_files_until_they_go() {
        let folder = tempfile::tempdir().unwrap();
        let [mine, others] = ["mine.csv", "others.csv"].map(|name| folder.path().join(name));
        let (first, first_watching) = listen(&mine);
        let (second, _second_watching) = listen(&mine);
        let (third, third_watching) = listen(&others);
        std::fs::write(&mine, "id\n").unwrap();
        for receiver in [&first, &second] {
            while receiver.recv_timeout(PATIENCE).unwrap() != Signal::Written {}
        }
        drop(first_watching);
        drop(third_watching);
        std::fs::write(&others, "id\n").unwrap();
        std::fs::write(&mine, "id\n1\n").unwrap();
        while second.recv_timeout(PATIENCE).unwrap() != Signal::Written {}
        // Events come in their order: what was to be heard before would have been.
        assert_eq!((first.try_iter().count(), third.try_iter().count()), (0, 0));
    }

    #[test]
    fn more_listen_than_the_system_has_watchers_for_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..300).map(|at| folder.path().join(format!("{at}/people.csv"))).collect();
        let listening: Vec<_> = paths
            .iter()
            .map(|path| {
                std::fs::create_dir(path.parent().unwrap()).unwrap();
                listen(path)
            })
            .collect();
        for (path, (receiver, _)) in paths.iter().zip(&listening) {
            std::fs::write(path, "id\n").unwrap();
            while receiver.recv_timeout(PATIENCE).unwrap() != Signal::Written {}
        }
    }

    #[test]
    fn a_folder_that_was_made_anew_is_heard_again_by_whoever_listens_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there/people.csv");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let (_, _before) = listen(&path);
        std::fs::remove_dir(path.parent().unwrap()).unwrap();
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let (receiver, _watching) = listen(&path);
        std::fs::write(&path, "id\n").unwrap();
        while receiver.recv_timeout(PATIENCE).unwrap() != Signal::Written {}
    }
}
