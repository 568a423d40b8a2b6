//! How what comes in is written: as its neighbours are.

use super::document::{self, Container, Item};

/// How many records are looked at for one that has members.
const SAMPLES_MAX: usize = 16;

/// One step of indentation where a document shows none.
const INDENTATION: &str = "  ";

/// The white space around the items of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spaces {
    /// Before the first.
    pub(super) first: String,
    /// Before each other.
    pub(super) between: String,
    /// After the last.
    pub(super) last: String,
}

impl Spaces {
    /// As the items have it that are there; `None` where there are none.
    pub(super) fn of(text: &str, container: &Container) -> Option<Spaces> {
        let (first, last) = (container.items.first()?, container.items.last()?);
        let lead = lead(text, first);
        let between = match container.items.len() {
            1 if lead.contains('\n') || !container.is_object => lead,
            // A lone member on the line of its brackets: what follows `:` is likely to follow a comma.
            1 => colon(text, first).trim_start_matches([' ', '\t']).trim_start_matches(':'),
            _ => self::lead(text, last),
        };
        let last = &text[last.value.end..last.whole.end];
        Some(Spaces { first: lead.to_owned(), between: between.to_owned(), last: last.to_owned() })
    }

    /// A line for each item, indented one step more than `indentation`.
    fn lines(indentation: &str) -> Spaces {
        let inner = format!("\n{indentation}{INDENTATION}");
        Spaces { first: inner.clone(), between: inner, last: format!("\n{indentation}") }
    }
}

/// How the records of a container are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// Around the records.
    pub(super) records: Spaces,
    /// Around their members.
    pub(super) members: Spaces,
    /// Between name and value.
    pub(super) colon: String,
}

impl Style {
    /// All on one line.
    pub(super) fn line() -> Style {
        Style { colon: ":".into(), ..Style::default() }
    }

    /// A line for each member, the container standing at `indentation`.
    pub(super) fn lines(indentation: &str) -> Style {
        Style {
            records: Spaces::lines(indentation),
            members: Spaces::lines(&format!("{indentation}{INDENTATION}")),
            colon: ": ".into(),
        }
    }

    /// As the last record that has members; an empty container as the document around it.
    pub(super) fn of(text: &str, container: &Container) -> Style {
        let fallback = match one_line(text, container.span.start) {
            true => Style::line(),
            false => Style::lines(indentation(text, container.span.start)),
        };
        Style::of_neighbours(text, container, fallback)
    }

    /// As the last line that has members, and always on one.
    pub(super) fn of_lines(text: &str, lines: &Container) -> Style {
        Style::of_neighbours(text, lines, Style::line())
    }

    fn of_neighbours(text: &str, container: &Container, fallback: Style) -> Style {
        let Some(records) = Spaces::of(text, container) else { return fallback };
        let members = container.items.iter().rev().take(SAMPLES_MAX).find_map(|item| {
            let members = document::container(text, item.value.start).ok()?;
            Some((Spaces::of(text, &members)?, colon_of(text, &members)?))
        });
        match members {
            Some((members, colon)) => Style { records, members, colon },
            None => Style { records, ..fallback },
        }
    }

    /// The text of a record with these members, each a name in quotes and the text of a value.
    pub(super) fn record(&self, members: &[(String, String)]) -> String {
        if members.is_empty() {
            return "{}".to_owned();
        }
        let written: Vec<_> = members.iter().map(|(name, value)| self.member(name, value)).collect();
        let between = format!(",{}", self.members.between);
        format!("{{{}{}{}}}", self.members.first, written.join(&between), self.members.last)
    }

    /// The text of a member.
    pub(super) fn member(&self, name: &str, value: &str) -> String {
        format!("{name}{}{value}", self.colon)
    }

    /// The text of an array of records, or of an object of them.
    pub(super) fn container(&self, is_object: bool, records: &[String]) -> String {
        let (open, close) = if is_object { ('{', '}') } else { ('[', ']') };
        if records.is_empty() {
            return format!("{open}{close}");
        }
        let between = format!(",{}", self.records.between);
        format!("{open}{}{}{}{close}", self.records.first, records.join(&between), self.records.last)
    }
}

/// What stands between name and value of the first member.
pub(super) fn colon_of(text: &str, members: &Container) -> Option<String> {
    members.items.first().map(|first| colon(text, first).to_owned())
}

fn colon<'a>(text: &'a str, member: &Item) -> &'a str {
    &text[member.name.end..member.value.start]
}

fn lead<'a>(text: &'a str, item: &Item) -> &'a str {
    let begin = if item.name.start < item.name.end { item.name.start } else { item.value.start };
    &text[item.whole.start..begin]
}

/// The white space at the head of the line that `at` is in.
fn indentation(text: &str, at: usize) -> &str {
    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = &text[line..at];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// Whether a place inside a document is on its only line so far.
fn one_line(text: &str, at: usize) -> bool {
    let before = &text[..at];
    !before.contains('\n') && !before.trim_start_matches(['\u{feff}', ' ', '\t', '\r']).is_empty()
}
