//! The fields that vCard has no property for, as a store's cards carry them.

use std::collections::HashMap;

use deltabus_record::schema::FIELDS_MAX;
use deltabus_record::value::Kind;

/// Their names, and the kind of their values, in the order of their first appearance.
#[derive(Clone, Debug, Default)]
pub(super) struct Extras {
    fields: Vec<(String, Option<Kind>)>,
    places: HashMap<String, usize>,
}

impl Extras {
    /// Adds a field; one whose values are of several kinds has none. `false` for one too many.
    #[must_use]
    pub(super) fn note(&mut self, name: &str, kind: Option<Kind>) -> bool {
        match self.places.get(name) {
            Some(place) => {
                let known = &mut self.fields[*place].1;
                if *known != kind {
                    *known = None;
                }
                true
            }
            None if self.fields.len() == EXTRAS_MAX => false,
            None => {
                self.places.insert(name.to_owned(), self.fields.len());
                self.fields.push((name.to_owned(), kind));
                true
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Option<Kind>)> {
        self.fields.iter().map(|(name, kind)| (name.as_str(), *kind))
    }
}

/// So many there may be beside the fields that every file has.
pub(super) const EXTRAS_MAX: usize = FIELDS_MAX - 64;
