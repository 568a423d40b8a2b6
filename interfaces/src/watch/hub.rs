//! The process's one watcher of folders. The system gives out few (Linux: 128 for a user, inotify(7)), and a process may have thousands of
//! destinations.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Notify, Signal, Watching, signal_of};
use crate::Error;

/// Tells whether a path is one of a listener's.
pub(super) type Concerns = Box<dyn Fn(&Path) -> bool + Send + Sync>;

struct Listener {
    id: u64,
    concerns: Concerns,
    signal: Notify,
}

/// By the folder that is watched.
static LISTENERS: Mutex<Option<HashMap<PathBuf, Vec<Arc<Listener>>>>> = Mutex::new(None);

/// Held while folders are added and removed; its thread never takes this lock.
static WATCHER: Mutex<Hub> = Mutex::new(Hub { watcher: None, next: 0 });

struct Hub {
    watcher: Option<RecommendedWatcher>,
    next: u64,
}

/// Ends with whoever listens.
struct Guard {
    id: u64,
    folders: BTreeSet<PathBuf>,
}

/// Signals what happens to paths in `folders`, not below, that `concerns`.
pub(super) fn listen(folders: BTreeSet<PathBuf>, concerns: Concerns, signal: Notify) -> Result<Watching, Error> {
    let failed = |error: notify::Error| {
        let path = folders.first().cloned().unwrap_or_default();
        Error::Io { doing: "watch", path, source: std::io::Error::other(error) }
    };
    let mut hub = locked(&WATCHER);
    if hub.watcher.is_none() {
        hub.watcher = Some(notify::recommended_watcher(tell).map_err(failed)?);
    }
    hub.next += 1;
    let guard = Guard { id: hub.next, folders: folders.clone() };
    let listener = Arc::new(Listener { id: hub.next, concerns, signal });
    let mut known = locked(&LISTENERS);
    for folder in &folders {
        known.get_or_insert_default().entry(folder.clone()).or_default().push(Arc::clone(&listener));
    }
    drop(known);
    // Also a folder that is watched already: it may be another one by now.
    let watcher = hub.watcher.iter_mut();
    let watched =
        watcher.flat_map(|watcher| folders.iter().map(|folder| watcher.watch(folder, RecursiveMode::NonRecursive)));
    let watched = watched.collect::<Result<(), _>>();
    // Before `guard` goes, which takes the lock itself.
    drop(hub);
    watched.map_err(failed)?;
    Ok(Watching::new(guard))
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut hub = locked(&WATCHER);
        let mut known = locked(&LISTENERS);
        let mut left = Vec::new();
        let known_folders = known.get_or_insert_default();
        for folder in &self.folders {
            if let Some(listeners) = known_folders.get_mut(folder) {
                listeners.retain(|listener| listener.id != self.id);
                if listeners.is_empty() {
                    known_folders.remove(folder);
                    left.push(folder);
                }
            }
        }
        drop(known);
        for folder in left {
            // One that is gone is watched no more.
            let _ = hub.watcher.as_mut().map(|watcher| watcher.unwatch(folder));
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
        let all = known.iter().flat_map(HashMap::values).flatten();
        all.map(|listener| (Arc::clone(listener), Signal::Written)).collect()
    } else {
        let Some(signal) = signal_of(&event.kind) else { return };
        let known = locked(&LISTENERS);
        let mut told: Vec<(Arc<Listener>, Signal)> = Vec::new();
        for path in &event.paths {
            let folders = [Some(path.as_path()), path.parent()];
            let listeners = folders.into_iter().flatten().filter_map(|folder| known.as_ref()?.get(folder)).flatten();
            for listener in listeners.filter(|listener| (listener.concerns)(path)) {
                if !told.iter().any(|(other, _)| other.id == listener.id) {
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
