//! Splicing: a document with some stretches replaced. Every byte that isn't replaced stands as it stood.

use super::document::{Container, Item, Span};
use super::style::Spaces;

/// The stretches of a text that are replaced.
pub(super) struct Splices<'a> {
    text: &'a str,
    list: Vec<(Span, String)>,
}

impl<'a> Splices<'a> {
    pub(super) fn of(text: &'a str) -> Splices<'a> {
        Splices { text, list: Vec::new() }
    }

    /// Puts `with` where `span` stands; spans don't overlap.
    pub(super) fn replace(&mut self, span: Span, with: String) {
        self.list.push((span, with));
    }

    /// Puts `with` at the place `at`.
    pub(super) fn insert(&mut self, at: usize, with: String) {
        self.replace(Span { start: at, end: at }, with);
    }

    fn remove(&mut self, start: usize, end: usize) {
        self.replace(Span { start, end }, String::new());
    }

    /// Takes the items of `container` that are `removed` out, and brings `added` in behind those that stay, with `spaces`
    /// around them. The added are whole items: an element, or a member's name, colon and value.
    pub(super) fn change(&mut self, container: &Container, removed: &[bool], added: &[String], spaces: &Spaces) {
        let items = &container.items;
        debug_assert_eq!(items.len(), removed.len());
        let Some(first_kept) = removed.iter().position(|removed| !removed) else {
            if !items.is_empty() || !added.is_empty() {
                self.refill(container, added, spaces);
            }
            return;
        };
        if first_kept > 0 {
            // What stood before the first stands before the one that is now the first.
            self.remove(begin(&items[0]), begin(&items[first_kept]));
        }
        let last_kept = removed.iter().rposition(|removed| !removed).unwrap_or(first_kept);
        let mut at = first_kept + 1;
        while at < last_kept {
            if !removed[at] {
                at += 1;
                continue;
            }
            let next = (at..).find(|at| !removed[*at]).unwrap_or(last_kept);
            self.remove(items[at].whole.start - 1, items[next].whole.start - 1);
            at = next;
        }
        let behind: String = added.iter().map(|item| format!(",{}{item}", spaces.between)).collect();
        match items.get(last_kept + 1) {
            // The white space before the closing bracket stays.
            Some(_) => {
                let last = &items[items.len() - 1];
                self.replace(Span { start: items[last_kept].value.end, end: last.value.end }, behind);
            }
            None if behind.is_empty() => {}
            None => self.insert(items[last_kept].value.end, behind),
        }
    }

    /// Puts `added` in the place of all that a container holds.
    fn refill(&mut self, container: &Container, added: &[String], spaces: &Spaces) {
        let inside = Span { start: container.span.start + 1, end: container.span.end - 1 };
        let text = match added.is_empty() {
            true => String::new(),
            false => {
                let between = format!(",{}", spaces.between);
                format!("{}{}{}", spaces.first, added.join(&between), spaces.last)
            }
        };
        self.replace(inside, text);
    }

    /// The text with all of it done.
    pub(super) fn apply(mut self) -> String {
        self.list.sort_by_key(|(span, _)| (span.start, span.end));
        let grown: usize = self.list.iter().map(|(_, with)| with.len()).sum();
        let mut out = String::with_capacity(self.text.len() + grown);
        let mut at = 0;
        for (span, with) in &self.list {
            assert!(at <= span.start, "splices don't overlap");
            out.push_str(&self.text[at..span.start]);
            out.push_str(with);
            at = span.end;
        }
        out.push_str(&self.text[at..]);
        out
    }
}

/// Where an item's own text begins, behind its white space.
fn begin(item: &Item) -> usize {
    if item.name.start < item.name.end { item.name.start } else { item.value.start }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::document;
    use super::*;

    fn changed(text: &str, removed: &[bool], added: &[&str]) -> String {
        let container = document::container(text, 0).unwrap();
        let added: Vec<_> = added.iter().map(|text| (*text).to_owned()).collect();
        let spaces = Spaces::of(text, &container).unwrap_or_default();
        let mut splices = Splices::of(text);
        splices.change(&container, removed, &added, &spaces);
        splices.apply()
    }

    #[test]
    fn what_stays_keeps_its_white_space() {
        let text = "[ 1 ,2,\n 3 , 4\t]";
        for (removed, added, expected) in [
            ([false; 4], &[][..], text),
            ([true, false, false, false], &[], "[ 2,\n 3 , 4\t]"),
            ([true, true, false, false], &[], "[ 3 , 4\t]"),
            ([false, true, false, false], &[], "[ 1 ,\n 3 , 4\t]"),
            ([false, true, true, false], &[], "[ 1 , 4\t]"),
            ([false, false, false, true], &[], "[ 1 ,2,\n 3\t]"),
            ([true, false, true, true], &[], "[ 2\t]"),
            ([true; 4], &[], "[]"),
            ([false; 4], &["5", "6"], "[ 1 ,2,\n 3 , 4, 5, 6\t]"),
            ([false, false, true, true], &["5"], "[ 1 ,2, 5\t]"),
            ([true; 4], &["5", "6"], "[ 5, 6\t]"),
        ] {
            assert_eq!(changed(text, &removed, added), expected, "{removed:?} {added:?}");
        }
        assert_eq!(changed("[ ]", &[], &["1"]), "[1]");
        assert_eq!(changed("[ ]", &[], &[]), "[ ]");
        assert_eq!(changed("{\"a\" :1 , \"b\": 2}", &[true, false], &["\"c\": 3"]), "{\"b\": 2, \"c\": 3}");
    }

    proptest! {
        /// What stays and what comes in is what is read afterwards, whatever the white space.
        #[test]
        fn the_items_are_those_that_stay_and_those_that_come(
            items in proptest::collection::vec((any::<bool>(), "[ \t\n]{0,2}", "[ \r\n]{0,2}"), 0..7),
            added in 0..3_usize,
        ) {
            let written: Vec<_> = items.iter().enumerate().map(|(at, (_, a, b))| format!("{a}{at}{b}")).collect();
            let text = format!("[{}]", written.join(","));
            let removed: Vec<_> = items.iter().map(|(removed, ..)| *removed).collect();
            let added: Vec<_> = (0..added).map(|at| (100 + at).to_string()).collect();
            let after = changed(&text, &removed, &added.iter().map(String::as_str).collect::<Vec<_>>());
            let found = document::container(&after, 0).unwrap();
            let found: Vec<_> = found.items.iter().map(|item| item.value.of(&after).to_owned()).collect();
            let kept = (0..items.len()).filter(|at| !removed[*at]).map(|at| at.to_string());
            prop_assert_eq!(found, kept.chain(added).collect::<Vec<_>>());
        }
    }
}
