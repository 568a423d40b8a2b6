//! Paths that a file system takes for one another.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

/// Which differences between names a file system doesn't see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blindness {
    /// `README` is `readme` (Windows, macOS as it comes, folders of Linux that were made so).
    pub(super) case: bool,
    /// `é` is `e` with an accent (macOS).
    pub(super) normalization: bool,
}

impl Blindness {
    fn fold(self, name: &str) -> String {
        match (self.case, self.normalization) {
            (false, false) => name.to_owned(),
            (true, false) => name.to_lowercase(),
            (false, true) => name.nfd().collect(),
            (true, true) => name.nfd().flat_map(char::to_lowercase).nfd().collect(),
        }
    }
}

/// Two of `paths` that are one to a file system: paths of entries, or of the folders they are in.
pub(super) fn clash<'a>(paths: impl Iterator<Item = &'a str>, blindness: Blindness) -> Option<(&'a str, &'a str)> {
    if blindness == Blindness::default() {
        return None;
    }
    let mut known: HashMap<String, &str> = HashMap::new();
    for path in paths {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let part = &path[..end];
            match known.entry(blindness.fold(part)) {
                std::collections::hash_map::Entry::Occupied(other) if *other.get() != part => {
                    return Some((other.get(), part));
                }
                std::collections::hash_map::Entry::Occupied(_) => {}
                std::collections::hash_map::Entry::Vacant(free) => drop(free.insert(part)),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: Blindness = Blindness { case: false, normalization: false };
    const MACOS: Blindness = Blindness { case: true, normalization: true };
    const WINDOWS: Blindness = Blindness { case: true, normalization: false };
    const MACOS_CASE_SENSITIVE: Blindness = Blindness { case: false, normalization: true };

    fn check(paths: &[&'static str], blindness: Blindness, expected: Option<(&str, &str)>) {
        assert_eq!(clash(paths.iter().copied(), blindness), expected, "{paths:?} {blindness:?}");
    }

    #[test]
    fn names_that_a_file_system_takes_for_one_are_found() {
        let case = ["README", "readme"];
        check(&case, LINUX, None);
        check(&case, MACOS, Some(("README", "readme")));
        check(&case, WINDOWS, Some(("README", "readme")));
        check(&case, MACOS_CASE_SENSITIVE, None);
        let accents = ["\u{e9}", "e\u{301}"];
        check(&accents, LINUX, None);
        check(&accents, MACOS, Some(("\u{e9}", "e\u{301}")));
        check(&accents, WINDOWS, None);
        check(&accents, MACOS_CASE_SENSITIVE, Some(("\u{e9}", "e\u{301}")));
        check(&["\u{c9}", "e\u{301}"], MACOS, Some(("\u{c9}", "e\u{301}")));
    }

    #[test]
    fn folders_clash_as_files_do() {
        check(&["A/x", "a/y"], MACOS, Some(("A", "a")));
        check(&["a/b/c", "a/B"], MACOS, Some(("a/b", "a/B")));
        check(&["a", "a/b", "a/c", "b/a", "ab"], MACOS, None);
    }
}
