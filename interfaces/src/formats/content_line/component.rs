//! `BEGIN` and `END`.

use super::{DEPTH_MAX, Fold, Problem, Span, Spans};

/// What a logical line is among the components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// `BEGIN:NAME` opens a component, in upper case.
    Begin(Span, String),
    /// A property of the innermost open component.
    Line(Span),
    /// `END:NAME` closes it.
    End(Span, String),
}

/// Walks logical lines and checks that components are properly nested.
///
/// Not every name need be a component's: the caller decides which are allowed where.
#[derive(Clone, Debug)]
pub(crate) struct Events<'a> {
    bytes: &'a [u8],
    spans: Spans<'a>,
    open: Vec<(String, Span)>,
}

impl<'a> Events<'a> {
    /// All of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Events<'a> {
        Events::over(bytes, Spans::new(bytes))
    }

    /// The lines that `spans` has left.
    pub(crate) fn over(bytes: &'a [u8], spans: Spans<'a>) -> Events<'a> {
        Events { bytes, spans, open: Vec::new() }
    }

    /// How many components are open after the last event.
    pub(crate) fn depth(&self) -> usize {
        self.open.len()
    }

    /// The next event; `None` at the end, where no component may be open.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, Problem> {
        let Some(span) = self.spans.next()? else {
            return match self.open.pop() {
                None => Ok(None),
                Some((name, span)) => {
                    let text = format!("`BEGIN:{name}` has no `END:{name}`; the file may be cut off");
                    Err(Problem::new(span.start, text))
                }
            };
        };
        if let Some(name) = self.bracket(span, b"BEGIN") {
            if self.open.len() == DEPTH_MAX {
                return Err(Problem::new(span.start, format!("components nest deeper than {DEPTH_MAX}")));
            }
            self.open.push((name.clone(), span));
            return Ok(Some(Event::Begin(span, name)));
        }
        if let Some(name) = self.bracket(span, b"END") {
            return match self.open.pop() {
                Some((open, _)) if open == name => Ok(Some(Event::End(span, name))),
                Some((open, begin)) => {
                    let text = format!("`END:{name}` where `END:{open}` of line {} is due", begin.line);
                    Err(Problem::new(span.start, text))
                }
                None => Err(Problem::new(span.start, format!("`END:{name}` without a `BEGIN:{name}`"))),
            };
        }
        match self.open.is_empty() {
            true => {
                Err(Problem::new(span.start, "this line belongs to no component: a `BEGIN:` should stand before it"))
            }
            false => Ok(Some(Event::Line(span))),
        }
    }

    /// The component's name if the line is `word:NAME`.
    fn bracket(&self, span: Span, word: &[u8]) -> Option<String> {
        let raw = &self.bytes[span.start..span.end];
        // Hardly a line begins like this: the rest costs nothing.
        if raw.len() <= word.len() || !raw[..word.len()].eq_ignore_ascii_case(word) {
            return None;
        }
        let line = span.unfolded(self.bytes, Fold::Octets);
        let name = line[word.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii();
        Some(String::from_utf8_lossy(name).to_ascii_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(bytes: &[u8]) -> Result<Vec<String>, Problem> {
        let mut events = Events::new(bytes);
        let mut out = Vec::new();
        while let Some(event) = events.next()? {
            out.push(match event {
                Event::Begin(span, name) => format!("{}+{name}", span.line),
                Event::Line(span) => format!("{}", span.line),
                Event::End(span, name) => format!("{}-{name}", span.line),
            });
        }
        Ok(out)
    }

    #[test]
    fn components_nest() {
        let walked = walk(b"begin:vcard\nA:1\nBEGIN : X\nBEGINNING:2\nEND:x\n\nEND:VCARD \n");
        assert_eq!(walked.unwrap(), ["1+VCARD", "2", "3+X", "4", "5-X", "7-VCARD"]);
    }

    #[test]
    fn what_does_not_pair_up_is_told_with_its_place() {
        let cases = [
            (&b"BEGIN:A\nX:1\n"[..], 0, "cut off"),
            (b"END:A\n", 0, "without"),
            (b"BEGIN:A\nBEGIN:B\nEND:A\n", 16, "of line 2 is due"),
            (b"BEGIN:A\nEND:A\nX:1\n", 14, "no component"),
        ];
        for (bytes, at, text) in cases {
            let problem = walk(bytes).unwrap_err();
            assert!(problem.at == at && problem.text.contains(text), "{problem:?}");
        }
        let deep = "BEGIN:A\n".repeat(DEPTH_MAX + 1);
        assert_eq!(walk(deep.as_bytes()).unwrap_err().at, 8 * DEPTH_MAX);
    }
}
