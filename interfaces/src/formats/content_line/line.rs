//! One logical line taken apart.

use std::borrow::Cow;

use super::{PARAMETERS_MAX, Problem, charset};

/// A logical line: group, name, parameters and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// All before the value's colon, as written.
    pub(crate) head: &'a str,
    /// `item1` of `item1.TEL`.
    pub(crate) group: Option<&'a str>,
    /// The property's name, as written.
    pub(crate) name: &'a str,
    /// The parameters, in order.
    pub(crate) parameters: Vec<Parameter<'a>>,
    /// The value, with its escapes; in the character set that `CHARSET` names where it isn't ASCII.
    pub(crate) value: Cow<'a, str>,
}

/// Where the character set of values is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charsets {
    /// By `CHARSET` in each line, else it is UTF-8.
    OfValues,
    /// By the file's encoding, from which all is UTF-8 already.
    OfFile,
}

/// A parameter: `TYPE=home,"a,b"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameter<'a> {
    /// Its name, as written; `None` for the bare words of vCard 2.1 (`TEL;HOME;VOICE:`).
    pub(crate) name: Option<&'a str>,
    /// Its values without quotes and the escapes of RFC 6868; one for a bare word.
    pub(crate) values: Vec<Cow<'a, str>>,
}

impl<'a> Line<'a> {
    /// Takes an unfolded line apart. Problems are at offsets in it.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Line<'a>, Problem> {
        Line::parse_in(line, Charsets::OfValues)
    }

    /// The same where the file's encoding says how values are to be read.
    pub(crate) fn parse_in(line: &'a [u8], charsets: Charsets) -> Result<Line<'a>, Problem> {
        let (head, value) = match head_length(line)? {
            Some(length) => (&line[..length], &line[length + 1..]),
            None => return Err(Problem::new(0, "this line has no `:` between its name and a value")),
        };
        let head = std::str::from_utf8(head)
            .map_err(|error| Problem::new(error.valid_up_to(), "a property's name or parameter is not UTF-8"))?;
        let name_length = head.find(';').unwrap_or(head.len());
        let full_name = head[..name_length].trim_ascii();
        let (group, name) = match full_name.split_once('.') {
            Some((group, name)) => (Some(group), name),
            None => (None, full_name),
        };
        if !is_name(name) || group.is_some_and(|group| !is_name(group)) {
            let shown: String = full_name.chars().take(40).collect();
            return Err(Problem::new(0, format!("`{}` is no name of a property", shown.escape_debug())));
        }
        let mut parameters = Vec::new();
        let mut at = name_length;
        while at < head.len() {
            let (parameter, next) = Parameter::parse(head, at + 1)?;
            parameters.extend(parameter);
            if parameters.len() > PARAMETERS_MAX {
                return Err(Problem::new(at, format!("a line has more than {PARAMETERS_MAX} parameters")));
            }
            at = next;
        }
        let mut parsed = Line { head, group, name, parameters, value: Cow::Borrowed("") };
        parsed.value = match value.is_ascii() {
            true => std::str::from_utf8(value).map(Cow::Borrowed).unwrap_or_default(),
            false => {
                let label = parsed.parameter("CHARSET").filter(|_| charsets == Charsets::OfValues);
                charset::decode(label.as_deref(), value)
                    .map_err(|problem| Problem::new(head.len() + 1 + problem.at, problem.text))?
            }
        };
        Ok(parsed)
    }

    /// Whether the name is `name`, in whatever case.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The first value of the first parameter `name`.
    pub(crate) fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        let found = self.parameters.iter().find(|parameter| parameter.is(name))?;
        found.values.first().cloned()
    }
}

impl<'a> Parameter<'a> {
    /// Whether the name is `name`, in whatever case.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.is_some_and(|own| own.eq_ignore_ascii_case(name))
    }

    /// Reads the parameter at `at`, with the offset of the semicolon behind it. `None`: nothing stands there.
    fn parse(head: &'a str, at: usize) -> Result<(Option<Parameter<'a>>, usize), Problem> {
        let bytes = head.as_bytes();
        let name_end = at + head[at..].find([';', '=']).unwrap_or(head.len() - at);
        let name = head[at..name_end].trim_ascii();
        if bytes.get(name_end) != Some(&b'=') {
            let parameter = Parameter { name: None, values: vec![Cow::Borrowed(name)] };
            return Ok(((!name.is_empty()).then_some(parameter), name_end));
        }
        if !is_name(name) {
            return Err(Problem::new(at, format!("`{}` is no name of a parameter", name.escape_debug())));
        }
        let mut values = Vec::new();
        let mut start = name_end + 1;
        loop {
            let (raw, end) = match bytes.get(start) {
                Some(b'"') => {
                    // `head_length` has seen the closing quote.
                    let length = head[start + 1..].find('"').unwrap_or(head.len() - start - 1);
                    let close = start + 1 + length;
                    let end = head[close..].find([';', ',']).map_or(head.len(), |length| close + length);
                    if !head[(close + 1).min(end)..end].trim_ascii().is_empty() {
                        return Err(Problem::new(close, "something follows a parameter's closing quote"));
                    }
                    (&head[start + 1..close], end)
                }
                _ => {
                    let end = head[start..].find([';', ',']).map_or(head.len(), |length| start + length);
                    (&head[start..end], end)
                }
            };
            values.push(decode_carets(raw));
            if bytes.get(end) != Some(&b',') {
                return Ok((Some(Parameter { name: Some(name), values }), end));
            }
            start = end + 1;
        }
    }
}

/// The length of all before the colon that ends the parameters; quotes hide colons.
fn head_length(line: &[u8]) -> Result<Option<usize>, Problem> {
    let mut at = 0;
    let mut may_quote = false;
    let mut named = false;
    while let Some(byte) = line.get(at) {
        match byte {
            b':' => return Ok(Some(at)),
            b'"' if may_quote => match memchr::memchr(b'"', &line[at + 1..]) {
                Some(length) => {
                    at += length + 1;
                    may_quote = false;
                }
                None => return Err(Problem::new(at, "a parameter's quote is not closed")),
            },
            // A quote begins a value, elsewhere it is a character.
            _ => {
                named |= *byte == b';';
                may_quote = named && matches!(byte, b'=' | b',');
            }
        }
        at += 1;
    }
    Ok(None)
}

/// Names are letters, digits and hyphens; what else is visible and divides nothing is met in the wild.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b':' | b';' | b'='))
}

/// RFC 6868: `^n` is a line break, `^'` a quote, `^^` a caret; any other caret is itself.
fn decode_carets(raw: &str) -> Cow<'_, str> {
    if !raw.contains('^') {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(char) = chars.next() {
        let decoded = match (char, chars.peek()) {
            ('^', Some('n')) => '\n',
            ('^', Some('\'')) => '"',
            ('^', Some('^')) => '^',
            _ => {
                out.push(char);
                continue;
            }
        };
        chars.next();
        out.push(decoded);
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::super::write;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_group_name_parameters_and_value() {
        let line = Line::parse(br#"item1.Tel;TYPE=home,"a:b;c";X-Q="say ^'hi^'^n^^";PREF:+47:1;2"#).unwrap();
        assert_eq!((line.group, line.name, &*line.value), (Some("item1"), "Tel", "+47:1;2"));
        assert!(line.is("TEL"));
        let parameters: Vec<_> = line.parameters.iter().map(|it| (it.name, it.values.join("|"))).collect();
        let expected =
            [(Some("TYPE"), "home|a:b;c".into()), (Some("X-Q"), "say \"hi\"\n^".into()), (None, "PREF".into())];
        assert_eq!(parameters, expected);
        assert_eq!(line.parameter("type").as_deref(), Some("home"));
    }

    #[test]
    fn values_are_of_their_character_set() {
        let value = |line: &[u8]| Line::parse(line).map(|line| line.value.into_owned());
        assert_eq!(value("N:é".as_bytes()).unwrap(), "é");
        assert_eq!(value(b"N;CHARSET=ISO-8859-1:\xe9").unwrap(), "é");
        assert_eq!(value(b"N;CHARSET=Shift_JIS:\x83e").unwrap(), "テ");
        assert_eq!(value(b"N:a\xe9").unwrap_err().at, 3);
        assert_eq!(value(b"N;CHARSET=KLINGON:\xe9").unwrap_err().at, 18);
    }

    #[test]
    fn what_is_no_line_is_told_with_its_place() {
        let cases =
            [(&b"hello"[..], 0), (b":x", 0), (b"A;X=\"a:b", 4), (b"A;X=\"a\"b:c", 6), (b"A;=b:c", 2), (b"\xff:a", 0)];
        for (line, at) in cases {
            assert_eq!(Line::parse(line).unwrap_err().at, at, "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn parameters_come_back(values in prop::collection::vec("[^\r]{0,12}|[;:,\"^nN\n'\\\\]{0,6}", 1..4)) {
            let head = format!("A;{}:v", write::parameter("X-P", &values));
            let line = Line::parse(head.as_bytes()).unwrap();
            prop_assert_eq!(&line.parameters[0].values, &values);
            prop_assert_eq!(&*line.value, "v");
        }

        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..60), text in "[A;:=\",.^n ]{0,20}") {
            let _ = Line::parse(&line);
            let _ = Line::parse(text.as_bytes());
        }
    }
}
