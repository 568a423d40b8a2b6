//! A folder of card files: all that change, change in one step.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use notify::{RecursiveMode, Watcher};

use super::Vcard;
use super::lines::NewCard;
use super::shelf::{Listing, Shelf, ShelfFile, list, stamp_of};
use super::write::{Next, encoded};
use crate::folder::{Attributes, EntryPath, Folder, Sealed, Seen, WORK};
use crate::watch::signal_of;
use crate::{Content, Error, Mark, Notify, Result, Signal, Staged, Stamp, Watching};

/// How long the part of a file's name may be that is made of a card's `UID`; longer ones get a short name of their own.
const NAME_BYTES_MAX: usize = 120;

/// The stamp of what is in `folder`; [`Stamp::MISSING`] where there is none.
pub(super) fn stamp(folder: &Folder) -> Result<Stamp> {
    folder.recover()?;
    match list(folder) {
        Ok(listing) => Ok(stamp_of(&listing)),
        Err(Error::Missing { .. }) => Ok(Stamp::MISSING),
        Err(error) => Err(error),
    }
}

/// The mark that the last commit of `owner` left.
pub(super) fn mark(folder: &Folder, owner: &str) -> Result<Option<Vec<u8>>> {
    folder.recover()?;
    folder.mark(owner)
}

/// Signals whenever something in the folder at `path` is touched, its own work folder left out.
pub(super) fn watch(path: &Path, signal: Notify) -> Result<Watching> {
    let failed = |error: notify::Error| Error::Io {
        doing: "watch",
        path: path.to_owned(),
        source: std::io::Error::other(error),
    };
    let root = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // A folder that isn't there yet is noticed when it appears.
    let watched = match (root.is_dir(), root.parent()) {
        (false, Some(parent)) => parent.to_owned(),
        _ => root.clone(),
    };
    let own = root.join(WORK);
    let handler = move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.need_rescan() => signal(Signal::Written),
        Ok(event) if event.paths.iter().any(|path| path.starts_with(&root) && !path.starts_with(&own)) => {
            if let Some(kind) = signal_of(&event.kind) {
                signal(kind);
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "notifications of a folder of cards failed; polling goes on"),
    };
    let mut watcher = notify::recommended_watcher(handler).map_err(failed)?;
    watcher.watch(&watched, RecursiveMode::NonRecursive).map_err(failed)?;
    Ok(Watching::new(watcher))
}

/// Builds the folder's next state; `shelf` is what stands there at `expected`.
pub(super) fn stage<'a>(
    vcard: &'a Vcard,
    folder: &'a Folder,
    shelf: Shelf,
    next: Next,
    expected: &Stamp,
    mark: Option<&Mark>,
) -> Result<Box<dyn Staged + 'a>> {
    let mut staging = folder.stage()?;
    let mut listing: Listing = shelf.files.iter().filter_map(|file| file.entry.clone()).collect();
    // Nobody but who stages commits, so this holds until the commit, as far as deltabus goes.
    let stands = match staging.is_new() {
        true => Stamp::MISSING,
        false => stamp_of(&list(folder)?),
    };
    if stands != *expected {
        return Err(Error::Changed { place: folder.place() });
    }
    let failed = |path: &EntryPath, source| folder.error("write", Some(path), source);
    for (file, content) in shelf.files.iter().zip(next.files) {
        let (Some((path, seen)), Some(content)) = (&file.entry, content) else { continue };
        if content.trim_ascii().is_empty() {
            staging.remove(path, seen);
            listing.remove(path);
            continue;
        }
        let bytes = encoded(file, content)?;
        let mut new = staging.new_file()?;
        new.write_all(&bytes).map_err(|error| failed(path, error))?;
        let attributes = Attributes { mode: Some(seen.mode), ..Attributes::default() };
        let made = staging.put(path, new, Some(seen), attributes)?;
        listing.insert(path.clone(), made);
    }
    let mut taken: HashSet<Vec<u8>> = names_in(folder, staging.is_new())?;
    for card in next.new {
        let path = free_name(&card, &mut taken);
        let file = ShelfFile::empty(format!("{}/{path}", folder.place()), vcard.encoding);
        let mut content = Vec::new();
        card.write(vcard.version, file.text.charsets(), "\r\n", &mut content);
        let bytes = encoded(&file, content)?;
        let mut new = staging.new_file()?;
        new.write_all(&bytes).map_err(|error| failed(&path, error))?;
        let made = staging.put(&path, new, None, Attributes::default())?;
        listing.insert(path, made);
    }
    if let Some(mark) = mark {
        staging.mark(mark)?;
    }
    Ok(Box::new(StagedFolder { folder, sealed: staging.seal()?, listing }))
}

/// What stands in the folder, in lower case: a file system may not tell cases apart.
fn names_in(folder: &Folder, is_new: bool) -> Result<HashSet<Vec<u8>>> {
    if is_new {
        return Ok(HashSet::new());
    }
    let failed = |error| folder.error("read", None, error);
    let mut names = HashSet::new();
    for entry in std::fs::read_dir(folder.path()).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.insert(name.to_string_lossy().to_lowercase().into_bytes());
    }
    Ok(names)
}

/// A file's name for a new card: its `UID`, if that can be one, else what is made of it; with a number if it is taken.
fn free_name(card: &NewCard, taken: &mut HashSet<Vec<u8>>) -> EntryPath {
    let uid = card.uid.as_deref().unwrap_or_default();
    let plain = uid.strip_prefix("urn:uuid:").unwrap_or(uid);
    let fits = |name: &str| {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b'+');
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && name.bytes().all(safe)
    };
    let made = super::card::made_uid(&[b"file", uid.as_bytes()]);
    let stem = if fits(plain) { plain } else { made.trim_start_matches("urn:uuid:") };
    let mut number = 1u64;
    loop {
        let name = if number == 1 { format!("{stem}.vcf") } else { format!("{stem}-{number}.vcf") };
        if taken.insert(name.to_lowercase().into_bytes())
            && let Ok(path) = EntryPath::new(name.as_bytes())
        {
            return path;
        }
        number += 1;
    }
}

/// A folder's next state, on the disk beside it.
struct StagedFolder<'a> {
    folder: &'a Folder,
    sealed: Sealed,
    /// What will stand there.
    listing: Listing,
}

impl Staged for StagedFolder<'_> {
    fn content(&self) -> Option<Content> {
        None
    }

    fn commit(mut self: Box<Self>) -> Result<Stamp> {
        self.sealed.check()?;
        let outcome = self.sealed.commit()?;
        for (path, seen) in outcome.done {
            let Some(made) = self.listing.get_mut(&path) else { continue };
            // If somebody has written it already, the next look finds it different.
            if let Some(seen) = seen.filter(|seen: &Seen| made.has_same_content(seen)) {
                *made = seen;
            }
        }
        for left in &outcome.left {
            tracing::warn!(folder = %self.folder.place(), entry = %left.path, problem = %left.problem, "left as it is");
        }
        Ok(stamp_of(&self.listing))
    }
}
