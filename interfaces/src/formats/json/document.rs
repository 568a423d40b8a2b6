//! A document as spans: which bytes are which record and which member. Nothing is rewritten that isn't changed.

use deltabus_record::row::DEPTH_MAX;

/// What is wrong with a document, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) text: String,
    pub(super) at: usize,
}

type Result<T> = std::result::Result<T, Problem>;

/// A stretch of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    pub(super) fn of(self, text: &str) -> &str {
        &text[self.start..self.end]
    }
}

/// One element of an array, or one member of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// A member's name, quotes included; empty for an element.
    pub(super) name: Span,
    /// The value.
    pub(super) value: Span,
    /// From the bracket or comma before it to the comma or bracket after it.
    pub(super) whole: Span,
}

/// What a pair of brackets holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    /// Brackets included.
    pub(super) span: Span,
    pub(super) is_object: bool,
    pub(super) items: Vec<Item>,
}

/// Steps through JSON text (RFC 8259), strictly.
pub(super) struct Walker<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walker<'a> {
    pub(super) fn at(text: &'a str, at: usize) -> Walker<'a> {
        Walker { text, bytes: text.as_bytes(), at }
    }

    fn problem<T>(&self, text: impl Into<String>) -> Result<T> {
        Err(Problem { text: text.into(), at: self.at })
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Steps over one value; its span.
    pub(super) fn value(&mut self, depth: usize) -> Result<Span> {
        if depth > DEPTH_MAX {
            return self.problem(format!("more than {DEPTH_MAX} brackets inside each other"));
        }
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string()?,
            Some(b'{' | b'[') => {
                self.container(depth, &mut |_| {})?;
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => {
                let word = ["null", "true", "false"].into_iter().find(|word| self.text[self.at..].starts_with(word));
                let Some(word) = word else { return self.problem("this is no JSON value") };
                self.at += word.len();
                if self.bytes.get(self.at).is_some_and(u8::is_ascii_alphanumeric) {
                    return self.problem("this is no JSON value");
                }
            }
            None => return self.problem("the text ends where a value should be"),
        }
        Ok(Span { start, end: self.at })
    }

    /// Steps over an array or object and gives each item to `take`; whether it is an object.
    pub(super) fn container(&mut self, depth: usize, take: &mut dyn FnMut(Item)) -> Result<bool> {
        let opened = self.at;
        let is_object = self.peek() == Some(b'{');
        let close = if is_object { b'}' } else { b']' };
        self.at += 1;
        let mut names = std::collections::HashSet::new();
        let mut first = true;
        loop {
            let start = self.at;
            self.space();
            if first && self.peek() == Some(close) {
                self.at += 1;
                return Ok(is_object);
            }
            first = false;
            let mut name = Span { start: self.at, end: self.at };
            if is_object {
                if self.peek() != Some(b'"') {
                    return self.problem(if self.peek().is_none() {
                        "the text ends inside an object"
                    } else {
                        "a member must begin with its name in quotes"
                    });
                }
                name.start = self.at;
                self.string()?;
                name.end = self.at;
                if !names.insert(name.of(self.text)) {
                    return Err(Problem {
                        text: format!("two members are named {}", name.of(self.text)),
                        at: name.start,
                    });
                }
                self.space();
                if self.peek() != Some(b':') {
                    return self.problem("after a member's name comes `:`");
                }
                self.at += 1;
                self.space();
            }
            let value = self.value(depth + 1)?;
            self.space();
            let whole = Span { start, end: self.at };
            take(Item { name, value, whole });
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(is_object);
                }
                Some(_) => return self.problem(format!("here must be `,` or `{}`", char::from(close))),
                None => {
                    let at = opened;
                    return Err(Problem {
                        text: format!("this `{}` is never closed", char::from(self.bytes[opened])),
                        at,
                    });
                }
            }
        }
    }

    fn string(&mut self) -> Result<()> {
        let opened = self.at;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    let length = match self.bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u') => {
                            let digits = self.bytes.get(self.at + 2..self.at + 6);
                            if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                                return self.problem("`\\u` must be followed by four hexadecimal digits");
                            }
                            6
                        }
                        _ => return self.problem("this escape is not known"),
                    };
                    self.at += length;
                }
                Some(0..=0x1f) => return self.problem("a control character must be escaped"),
                Some(_) => self.at += 1,
                None => return Err(Problem { text: "this text has no closing quote".into(), at: opened }),
            }
        }
    }

    fn number(&mut self) -> Result<()> {
        let start = self.at;
        let digits = |walker: &mut Walker<'_>| {
            let before = walker.at;
            while walker.bytes.get(walker.at).is_some_and(u8::is_ascii_digit) {
                walker.at += 1;
            }
            walker.at > before
        };
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let whole = self.at;
        let mut good = digits(self) && (self.bytes[whole] != b'0' || self.at == whole + 1);
        if self.peek() == Some(b'.') {
            self.at += 1;
            good &= digits(self);
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            good &= digits(self);
        }
        if good { Ok(()) } else { Err(Problem { text: "this is no JSON number".into(), at: start }) }
    }
}

/// The items of the array or object at `at`.
pub(super) fn container(text: &str, at: usize) -> Result<Container> {
    let mut items = Vec::new();
    let mut walker = Walker::at(text, at);
    let is_object = walker.container(0, &mut |item| items.push(item))?;
    Ok(Container { span: Span { start: at, end: walker.position() }, is_object, items })
}

/// The text of a name or string in quotes.
pub(super) fn unquoted(text: &str) -> String {
    match deltabus_record::json::read(text) {
        Ok(deltabus_record::value::Value::Text(text)) => text,
        // Half a surrogate pair: kept as it is written.
        _ => text.trim_matches('"').to_owned(),
    }
}

/// Where a JSON Pointer leads.
pub(super) enum Resolved {
    /// To a value.
    Value(Span),
    /// Only as far as an object that lacks the member of step `depth`.
    Object { object: Container, depth: usize },
}

/// What stands at a JSON Pointer (RFC 6901). A pointer that leads through what can have no such member is a problem.
pub(super) fn resolve(text: &str, root: Span, pointer: &[String]) -> Result<Resolved> {
    let mut here = root;
    for (depth, token) in pointer.iter().enumerate() {
        let problem = |problem: String| Problem { text: problem, at: here.start };
        if !matches!(text.as_bytes()[here.start], b'{' | b'[') {
            return Err(problem(format!(
                "`at` leads to `{token}` in here, but this is neither an object nor an array"
            )));
        }
        let found = container(text, here.start)?;
        if found.is_object {
            match found.items.iter().find(|item| unquoted(item.name.of(text)) == *token) {
                Some(item) => here = item.value,
                None => return Ok(Resolved::Object { object: found, depth }),
            }
        } else {
            // RFC 6901: no sign, no leading zero.
            let index = Some(token.as_str()).filter(|token| *token == "0" || !token.starts_with(['0', '+']));
            let item = index.and_then(|token| token.parse::<usize>().ok()).and_then(|index| found.items.get(index));
            let there = found.items.len();
            let missing = || problem(format!("`at` leads to element `{token}` of this array, which has {there}"));
            here = item.ok_or_else(missing)?.value;
        }
    }
    Ok(Resolved::Value(here))
}
