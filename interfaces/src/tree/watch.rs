//! Notifications of anything below a folder.

use std::path::{Path, PathBuf};

use notify::{Config, RecommendedWatcher, RecursiveMode, Watcher};

use crate::folder::WORK;
use crate::watch::signal_of;
use crate::{Error, Notify, Result, Signal, Watching};

/// Signals whenever something below the folder at `path` is touched, its own work folder left out.
///
/// Fails where the system has not enough watches for all the folders: polling has to do then. A folder that doesn't exist yet is
/// noticed when it appears; what happens inside it is left to polling.
pub(super) fn watch(path: &Path, signal: Notify) -> Result<Watching> {
    let failed = |error: notify::Error| Error::Io {
        doing: "watch",
        path: path.to_owned(),
        source: std::io::Error::other(error),
    };
    let root = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (watched, mode) = match (root.is_dir(), root.parent()) {
        (false, Some(parent)) => (parent.to_owned(), RecursiveMode::NonRecursive),
        _ => (root.clone(), RecursiveMode::Recursive),
    };
    let own = root.join(WORK);
    let concerns = move |path: &PathBuf| path.starts_with(&root) && !path.starts_with(&own);
    let handler = move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.need_rescan() => signal(Signal::Written),
        Ok(event) if event.paths.iter().any(&concerns) => {
            // A new mode is a change here.
            let metadata = matches!(event.kind, notify::EventKind::Modify(notify::event::ModifyKind::Metadata(_)));
            if let Some(kind) = signal_of(&event.kind).or(metadata.then_some(Signal::Writing)) {
                signal(kind);
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "notifications of a tree failed; polling goes on"),
    };
    let mut watcher =
        RecommendedWatcher::new(handler, Config::default().with_follow_symlinks(false)).map_err(failed)?;
    watcher.watch(&watched, mode).map_err(failed)?;
    Ok(Watching::new(watcher))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use super::*;

    /// Long enough for any machine; reached only when the notification never comes.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn what_happens_deep_inside_is_signalled_and_the_own_folder_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(folder.path().join(WORK)).unwrap();
        let (sender, receiver) = mpsc::channel();
        let notify = move |signal| {
            let _ = sender.send(signal);
        };
        let _watching = watch(folder.path(), Arc::new(notify)).unwrap();
        fs::write(folder.path().join(WORK).join("journal"), "ours").unwrap();
        // Events come in their order: the first is not of the file before.
        fs::create_dir(deep.join("new")).unwrap();
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), Signal::Writing);
        fs::write(deep.join("file"), "1").unwrap();
        while receiver.recv_timeout(PATIENCE).unwrap() != Signal::Written {}
        fs::remove_file(deep.join("file")).unwrap();
        while receiver.recv_timeout(PATIENCE).unwrap() != Signal::Written {}
    }
}
