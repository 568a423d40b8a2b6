//! Time zones beside the components that mean them, and what becomes of documents in which nothing else is left.

use std::collections::HashSet;

use deltabus_record::value::Value;

use super::agenda::{Kind, Part, zone_key};
use super::component::Component;
use super::document::{Unit, VTIMEZONE};
use super::fields::{Scope, ZONE};
use super::write::{Layout, Rewriting};
use crate::formats::content_line::{Fold, Line, Spans};

impl Rewriting {
    /// The definition of a time zone by its key, as it will be.
    pub(super) fn definition(&self, key: &str) -> Option<Vec<u8>> {
        match self.zones.get(key) {
            Some(definition) => definition.clone(),
            None => {
                let record = &self.agenda.records[self.agenda.find(key)?];
                let part = (record.kind == Kind::Zone).then(|| record.parts[0])?;
                Some(self.agenda.documents[part.document].unit_bytes(self.agenda.unit(part)).to_vec())
            }
        }
    }

    /// The definitions of the time zones that components mean, those left out that are `there`.
    pub(super) fn definitions(&self, components: &[u8], timezones: &Value, there: &[&str]) -> Vec<u8> {
        let mut names: Vec<String> = there.iter().map(|name| (*name).to_owned()).collect();
        let mut out = Vec::new();
        let mut spans = Spans::new(components);
        while let Ok(Some(span)) = spans.next() {
            let unfolded = span.unfolded(components, Fold::Octets);
            let line = Line::parse(&unfolded).ok();
            let Some(name) = line.and_then(|line| line.parameter("TZID").map(|name| name.into_owned())) else {
                continue;
            };
            if names.contains(&name) {
                continue;
            }
            let key = match timezones {
                Value::Map(map) => map.iter().find(|(zone, _)| *zone == name).map(|(_, key)| key),
                _ => None,
            };
            let key = match key {
                Some(Value::Text(key)) => key.clone(),
                _ => zone_key(&name),
            };
            out.extend(self.definition(&key).unwrap_or_default());
            names.push(name);
        }
        if let Value::Map(map) = timezones {
            for (name, key) in map {
                if let Value::Text(key) = key
                    && !names.contains(name)
                {
                    out.extend(self.definition(key).unwrap_or_default());
                    names.push(name.clone());
                }
            }
        }
        out
    }

    /// Whether the definitions that `timezones` names are there to be put beside a component.
    pub(super) fn are_there(&self, timezones: &Value) -> bool {
        let Value::Map(map) = timezones else { return *timezones == Value::Absent };
        map.iter().all(|(zone, key)| match key {
            Value::Text(key) if *key != zone_key(zone) => self.definition(key).is_some_and(|definition| {
                let component = Component::parse(&definition, 0..definition.len(), 1, Fold::Octets);
                component.is_ok_and(|component| {
                    *component.decode(Scope::Record).members.get(ZONE) == Value::text(zone.as_str())
                })
            }),
            _ => false,
        })
    }

    /// Puts the time zones beside what was written, where they are not: but for the home, which has its own.
    pub(super) fn complete_zones(&mut self) {
        for ((document, object), bytes) in std::mem::take(&mut self.written) {
            if (document, object) == (0, 0) {
                continue;
            }
            let parts = |(place, unit): (usize, &Unit)| {
                let part = Part { document, place };
                let stays = unit.object == Some(object) && !self.removed.contains(&part);
                if stays { unit.zone.clone() } else { None }
            };
            let units = self.agenda.documents[document].units.iter().enumerate();
            let there: Vec<String> = units.filter_map(parts).collect();
            let there: Vec<&str> = there.iter().map(String::as_str).collect();
            let missing = self.definitions(&bytes, &Value::Absent, &there);
            if !missing.is_empty() {
                let at = self.agenda.documents[document].objects[object].first;
                self.edits[document].ranges.insert(0, (at..at, missing));
            }
        }
    }

    /// The documents that go, since nothing is left in them. Time zones that were only there find a home.
    pub(super) fn gone(&mut self) -> HashSet<usize> {
        let mut gone = HashSet::new();
        if self.layout == Layout::One {
            return gone;
        }
        for (at, document) in self.agenda.documents.iter().enumerate().skip(1) {
            let part = |place: usize| Part { document: at, place };
            let has_items = document.units.iter().any(|unit| unit.name != VTIMEZONE);
            let left = |(place, unit): (usize, &Unit)| {
                !self.removed.contains(&part(place)) && (!has_items || unit.name != VTIMEZONE)
            };
            let touched = (0..document.units.len()).any(|place| self.removed.contains(&part(place)));
            if touched && !document.units.iter().enumerate().any(left) && self.edits[at].tail.is_empty() {
                gone.insert(at);
            }
        }
        let mut homeless = Vec::new();
        for record in self.agenda.records.iter().filter(|record| record.kind == Kind::Zone) {
            let stays = |part: &Part| !self.removed.contains(part) && !gone.contains(&part.document);
            let was = |part: &Part| !self.removed.contains(part);
            if !record.parts.iter().any(stays) && record.parts.iter().any(was) {
                homeless.push(record.key.clone());
            }
        }
        let definitions: Vec<u8> = homeless.iter().filter_map(|key| self.definition(key)).flatten().collect();
        if !definitions.is_empty() {
            self.bring_home(Vec::new(), definitions, Vec::new());
        }
        gone
    }
}
