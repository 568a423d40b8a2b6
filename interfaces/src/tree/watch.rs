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
