//! Where an entry stands inside a folder, checked so that it can't lead out of it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use super::WORK;

/// The longest name of an entry, as Linux and macOS have it.
const NAME_BYTES_MAX: usize = 255;

/// The longest path of an entry; Linux takes no longer one in a single call.
const PATH_BYTES_MAX: usize = 4095;

/// The path of an entry relative to its folder: names separated by `/`, none of them empty, `.` or `..`, no NUL, and the
/// first not the folder's own `.deltabus`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryPath(Box<[u8]>);

impl EntryPath {
    /// Checks `path`; the error says what is wrong with it.
    pub(crate) fn new(path: &[u8]) -> Result<EntryPath, &'static str> {
        if path.is_empty() {
            return Err("the path is empty");
        }
        if path.len() > PATH_BYTES_MAX {
            return Err("the path is longer than a file system takes (4095 bytes)");
        }
        if path[0] == b'/' {
            return Err("the path is absolute; only paths inside the folder are allowed");
        }
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" => return Err("the path has an empty name between two slashes or at its end"),
                b"." | b".." => return Err("the path has the name `.` or `..`, which could lead out of the folder"),
                name if name.contains(&0) => return Err("the path has a NUL character"),
                name if name.len() > NAME_BYTES_MAX => {
                    return Err("a name is longer than a file system takes (255 bytes)");
                }
                _ => {}
            }
        }
        let path = EntryPath(path.into());
        if is_own(path.names().next().unwrap_or_default()) {
            return Err("the folder `.deltabus` is deltabus's own and never part of the data");
        }
        Ok(path)
    }

    /// The bytes, as the file system has them.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names, the outermost folder's first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// The entry's own name.
    pub(crate) fn name(&self) -> &OsStr {
        let start = self.parent_bytes().map_or(0, |parent| parent.len() + 1);
        OsStr::from_bytes(&self.0[start..])
    }

    /// The folder that the entry is in; `None` for an entry of the folder itself.
    pub(crate) fn parent(&self) -> Option<EntryPath> {
        self.parent_bytes().map(|parent| EntryPath(parent.into()))
    }

    /// The bytes of [`EntryPath::parent`].
    pub(crate) fn parent_bytes(&self) -> Option<&[u8]> {
        self.0.iter().rposition(|byte| *byte == b'/').map(|slash| &self.0[..slash])
    }

    /// How many folders it is in.
    pub(crate) fn depth(&self) -> usize {
        self.0.iter().filter(|byte| **byte == b'/').count()
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Whether `name`, at the top of a folder, is the folder's own, on a file system that ignores case, or that ignores the
/// characters which HFS+ does.
pub(crate) fn is_own(name: &[u8]) -> bool {
    if name.eq_ignore_ascii_case(WORK.as_bytes()) {
        return true;
    }
    let ignored = |char: &char| matches!(char, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    match std::str::from_utf8(name) {
        Ok(name) if !name.is_ascii() => {
            let plain: String = name.chars().filter(|char| !ignored(char)).flat_map(char::to_lowercase).collect();
            plain == WORK
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_are_refused() {
        let long = "a".repeat(256);
        let longer = "a/".repeat(2048) + "a";
        for path in [
            "",
            "/",
            "/a",
            "//a",
            "a/",
            "a//b",
            ".",
            "..",
            "./a",
            "../a",
            "a/..",
            "a/../b",
            "a/./b",
            "a\0b",
            ".deltabus",
            ".DeltaBus/marks",
            ".delta\u{200c}bus/x",
            "\u{feff}.deltabus",
            &long,
            &longer,
        ] {
            assert!(EntryPath::new(path.as_bytes()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn other_paths_are_taken_apart() {
        for path in ["a", "...", "a/.deltabus", "a b/ü/\u{1}", " ", "a/.../-", "\\", "C:", ".deltabus2"] {
            let entry = EntryPath::new(path.as_bytes()).unwrap();
            let (parent, name) = path.rsplit_once('/').map_or((None, path), |(parent, name)| (Some(parent), name));
            assert_eq!(entry.name(), name);
            assert_eq!(entry.parent().map(|parent| parent.to_string()).as_deref(), parent);
            assert_eq!(entry.depth(), path.matches('/').count());
            assert_eq!(entry.names().collect::<Vec<_>>(), path.split('/').map(str::as_bytes).collect::<Vec<_>>());
        }
    }
}
