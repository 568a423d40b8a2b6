//! A folder of card files: all that change, change in one step.

use std::collections::HashSet;

use super::Vcard;
use super::lines::NewCard;
use super::shelf::{Shelf, ShelfFile};
use super::write::{Next, encoded};
use crate::formats::file_set::{FileChange, FileSet};
use crate::{Mark, Result, Staged, Stamp};

/// How long the part of a file's name may be that is made of a card's `UID`; longer ones get a short name of their own.
const NAME_BYTES_MAX: usize = 120;

/// Builds the folder's next state; `shelf` is what stands there at `expected`.
pub(super) fn stage<'a>(
    vcard: &'a Vcard,
    set: &'a FileSet,
    shelf: Shelf,
    next: Next,
    expected: &Stamp,
    mark: Option<&Mark>,
) -> Result<Box<dyn Staged + 'a>> {
    let mut changes = Vec::new();
    for (file, content) in shelf.files.iter().zip(next.files) {
        let (Some(name), Some(content)) = (&file.name, content) else { continue };
        let bytes = match content.trim_ascii().is_empty() {
            true => None,
            false => Some(encoded(file, content)?),
        };
        changes.push(FileChange { name: name.clone(), bytes });
    }
    let mut taken = set.names_in_lower_case()?;
    for card in next.new {
        let name = free_name(&card, &mut taken);
        let file = ShelfFile::empty(set.place(&name), vcard.encoding);
        let mut content = Vec::new();
        card.write(vcard.version, file.text.charsets(), "\r\n", &mut content);
        changes.push(FileChange { name, bytes: Some(encoded(&file, content)?) });
    }
    set.stage(changes, expected, mark)
}

/// A file's name for a new card: its `UID`, if that can be one, else what is made of it; with a number if it is taken.
fn free_name(card: &NewCard, taken: &mut HashSet<String>) -> String {
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
        if taken.insert(name.to_lowercase()) {
            return name;
        }
        number += 1;
    }
}
