//! What is not part of the data: patterns of the option `ignore` and of `.deltabusignore` files, as in `.gitignore`.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::folder::{Beneath, EntryPath, Folder, is_missing};
use crate::{Error, Position, Result};

/// The name of files with patterns for their folder and all below.
pub(super) const IGNORE_FILE: &str = ".deltabusignore";

/// A longer file of patterns is a mistake, and would be read at every look.
const IGNORE_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The rules that hold in one folder.
#[derive(Clone, Debug)]
pub(super) struct Rules(Arc<Level>);

#[derive(Debug)]
struct Level {
    patterns: Gitignore,
    /// How long the folder's path is, its last slash included.
    base: usize,
    outer: Option<Rules>,
}

impl Rules {
    /// The rules of the option; the error says which pattern is wrong.
    pub(super) fn of_option(patterns: &[&str]) -> Result<Rules, String> {
        let patterns = build(patterns.iter().copied()).map_err(|(_, problem)| problem)?;
        Ok(Rules(Arc::new(Level { patterns, base: 0, outer: None })))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.patterns.is_empty() && self.0.outer.is_none()
    }

    /// The rules inside `path`, a folder in which these hold, if it has a file of patterns; `None` if it has none.
    pub(super) fn inside(
        &self,
        path: Option<&EntryPath>,
        beneath: &mut Beneath,
        folder: &Folder,
    ) -> Result<Option<Rules>> {
        let mut name = path.map_or_else(Vec::new, |path| [path.as_bytes(), b"/"].concat());
        let base = name.len();
        name.extend_from_slice(IGNORE_FILE.as_bytes());
        let Ok(file_path) = EntryPath::new(&name) else { return Ok(None) };
        let failed = |error| folder.error("read the patterns in", Some(&file_path), error);
        let file = match beneath.read(&file_path) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let position = |line| Position {
            place: folder.path().join(OsStr::from_bytes(&name)).display().to_string(),
            line: Some(line),
            ..Position::default()
        };
        let mut text = String::new();
        file.take(IGNORE_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > IGNORE_FILE_BYTES_MAX {
            let problem = format!("a file of patterns may have {IGNORE_FILE_BYTES_MAX} bytes");
            return Err(Error::Data { position: position(1), problem });
        }
        let patterns =
            build(text.lines()).map_err(|(line, problem)| Error::Data { position: position(line), problem })?;
        Ok(Some(Rules(Arc::new(Level { patterns, base, outer: Some(self.clone()) }))))
    }

    /// Whether the entry at `path`, in the folder of these rules, is ignored: the last pattern that fits decides, inner files
    /// before outer ones.
    pub(super) fn ignore(&self, path: &[u8], is_folder: bool) -> bool {
        let mut level = Some(self);
        while let Some(Rules(here)) = level {
            if !here.patterns.is_empty() {
                let inside = Path::new(OsStr::from_bytes(path.get(here.base..).unwrap_or_default()));
                match here.patterns.matched(inside, is_folder) {
                    Match::Ignore(_) => return true,
                    Match::Whitelist(_) => return false,
                    Match::None => {}
                }
            }
            level = here.outer.as_ref();
        }
        false
    }
}

/// The patterns of these lines; the error has the line, counted from 1.
fn build<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Gitignore, (u64, String)> {
    let mut builder = GitignoreBuilder::new("");
    builder.allow_unclosed_class(false);
    for (at, line) in lines.enumerate() {
        let added = builder.add_line(None, line);
        added.map_err(|error| (at as u64 + 1, format!("`{line}` is no pattern: {error}")))?;
    }
    builder.build().map_err(|error| (1, error.to_string()))
}
