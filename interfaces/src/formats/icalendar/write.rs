//! Writing: documents with some components spliced.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::agenda::{Agenda, Part};
use super::document::Document;
use crate::formats::content_line::{Splice, line_ending};
use crate::{CollectionWrite, Result};

/// Edits of one document.
#[derive(Default)]
pub(super) struct Edits {
    pub(super) ranges: Vec<(Range<usize>, Vec<u8>)>,
    /// What comes in at the end.
    pub(super) tail: Vec<u8>,
}

/// A set of documents on its way to the next. The first is the home of the calendar's own record and of time zones, there
/// or not.
pub(super) struct Rewriting {
    pub(super) agenda: Agenda,
    pub(super) layout: Layout,
    pub(super) edits: Vec<Edits>,
    /// The header from now on, where it is another.
    pub(super) header: Option<Vec<String>>,
    /// Definitions of time zones that are new, changed, or gone.
    pub(super) zones: HashMap<String, Option<Vec<u8>>>,
    /// Components that go.
    pub(super) removed: HashSet<Part>,
    /// What was written in each object: its time zones must be there too.
    pub(super) written: BTreeMap<(usize, usize), Vec<u8>>,
    /// New files, with the key of the record in each.
    pub(super) files: Vec<(String, Vec<u8>)>,
}

/// Where new records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In the one document.
    One,
    /// Each in a document of its own, but for the calendar's own record and time zones.
    Each,
}

/// What is to become of the documents.
#[derive(Debug)]
pub(super) struct Rewritten {
    /// For each document its next content: as it is, another, or none at all.
    pub(super) documents: Vec<Next>,
    /// New documents, with the key of the record in each.
    pub(super) new: Vec<(String, Vec<u8>)>,
}

/// What is to become of one document.
#[derive(Debug)]
pub(super) enum Next {
    Same,
    Content(Vec<u8>),
    Gone,
}

impl Rewriting {
    /// Begins with what is there.
    pub(super) fn new(agenda: Agenda, layout: Layout) -> Rewriting {
        let edits = agenda.documents.iter().map(|_| Edits::default()).collect();
        Rewriting {
            agenda,
            layout,
            edits,
            header: None,
            zones: HashMap::new(),
            removed: HashSet::new(),
            written: BTreeMap::new(),
            files: Vec::new(),
        }
    }

    /// Applies a write to the documents.
    pub(super) fn run(mut self, write: &mut CollectionWrite<'_>) -> Result<Rewritten> {
        let wanted = self.wanted(write)?;
        self.pin(&wanted)?;
        let mut new = Vec::new();
        for wanted in wanted {
            if let Some(members) = self.edit(wanted)? {
                new.push(members);
            }
        }
        self.place(new)?;
        self.complete_zones();
        let gone = self.gone();
        let edits = std::mem::take(&mut self.edits);
        let next = |(at, edits): (usize, Edits)| match gone.contains(&at) {
            true => Next::Gone,
            false if edits.ranges.is_empty() && edits.tail.is_empty() => Next::Same,
            false => Next::Content(spliced(&self.agenda.documents[at], edits)),
        };
        Ok(Rewritten { documents: edits.into_iter().enumerate().map(next).collect(), new: self.files })
    }
}

/// The document with its edits.
fn spliced(document: &Document, mut edits: Edits) -> Vec<u8> {
    edits.ranges.sort_by_key(|(range, _)| (range.start, range.end));
    let mut splice = Splice::new(&document.bytes);
    for (range, new) in edits.ranges {
        splice.replace(range, &new);
    }
    let mut bytes = splice.finish();
    if !edits.tail.is_empty() {
        if !bytes.is_empty() && !bytes.ends_with(b"\n") && !bytes.ends_with(b"\r") {
            bytes.extend_from_slice(line_ending(&document.bytes).as_bytes());
        }
        bytes.extend(edits.tail);
    }
    bytes
}
