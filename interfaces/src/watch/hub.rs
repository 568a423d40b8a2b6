//! The process's one watcher of folders. The system gives out few (Linux: 128 for a user, inotify(7)), and a process may have thousands of
//! destinations.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Notify, Signal, Watching, signal_of};
use crate::Error;

/// Tells whether a path is one of a listener's.
pub(super) type Concerns = Box<dyn Fn(&Path) -> bool + Send + Sync>;

struct Listener {
    concerns: Concerns,
    signal: Notify,
}

/// By the folder that is watched.
static LISTENERS: LazyLock<Mutex<HashMap<PathBuf, Vec<Arc<Listener>>>>> = LazyLock::new(Mutex::default);

/// Held while folders are added and removed; its thread never takes this lock.
static WATCHER: Mutex<Option<RecommendedWatcher>> = Mutex::new(None);

/// Ends with whoever listens.
struct Guard {
    listener: Arc<Listener>,
    folders: BTreeSet<PathBuf>,
}

/// Signals what happens to paths in `folders`, not below, that `concerns`.
pub(super) fn listen(folders: BTreeSet<PathBuf>, concerns: Concerns, signal: Notify) -> Result<Watching, Error> {
    let failed = |error: notify::Error| {
        let path = folders.first().cloned().unwrap_or_default();
        Error::Io { doing: "watch", path, source: std::io::Error::other(error) }
    };
    let mut held = locked(&WATCHER);
    let watcher = match held.take() {
        Some(watcher) => watcher,
        None => notify::recommended_watcher(tell).map_err(failed)?,
    };
    let watcher = held.insert(watcher);
    let listener = Arc::new(Listener { concerns, signal });
    let guard = Guard { listener: Arc::clone(&listener), folders: folders.clone() };
    let mut known = locked(&LISTENERS);
    for folder in &folders {
        known.entry(folder.clone()).or_default().push(Arc::clone(&listener));
    }
    drop(known);
    // Also a folder that is watched already: it may be another one by now.
    let watched = folders.iter().try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive));
    // Before `guard` goes, which takes the lock itself.
    drop(held);
    watched.map_err(failed)?;
    Ok(Watching::new(guard))
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut watcher = locked(&WATCHER);
        let mut known = locked(&LISTENERS);
        let mut left = Vec::new();
        for folder in &self.folders {
            if let Some(listeners) = known.get_mut(folder) {
                listeners.retain(|listener| !Arc::ptr_eq(listener, &self.listener));
                if listeners.is_empty() {
                    known.remove(folder);
                    left.push(folder);
                }
            }
        }
        drop(known);
        for folder in left {
            // One that is gone is watched no more.
            let _ = watcher.as_mut().map(|watcher| watcher.unwatch(folder));
        }
    }
}

/// Takes an event, on the watcher's thread.
fn tell(event: notify::Result<notify::Event>) {
    let event = match event {
        Ok(event) => event,
        Err(error) => return tracing::warn!(%error, "notifications of a file failed; polling goes on"),
    };
    let told: Vec<(Arc<Listener>, Signal)> = if event.need_rescan() {
        let known = locked(&LISTENERS);
        known.values().flatten().map(|listener| (Arc::clone(listener), Signal::Written)).collect()
    } else {
        let Some(signal) = signal_of(&event.kind) else { return };
        let known = locked(&LISTENERS);
        let mut told: Vec<(Arc<Listener>, Signal)> = Vec::new();
        for path in &event.paths {
            let folders = [Some(path.as_path()), path.parent()];
            let listeners = folders.into_iter().flatten().filter_map(|folder| known.get(folder)).flatten();
            for listener in listeners.filter(|listener| (listener.concerns)(path)) {
                if !told.iter().any(|(other, _)| Arc::ptr_eq(other, listener)) {
                    told.push((Arc::clone(listener), signal));
                }
            }
        }
        told
    };
    // Without a lock: whoever is told may begin or end to listen.
    told.iter().for_each(|(listener, signal)| (listener.signal)(*signal));
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
