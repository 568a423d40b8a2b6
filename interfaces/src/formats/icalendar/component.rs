//! One component between its bytes and its members; edits rewrite the lines that say something else, and no others.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use deltabus_record::value::Value;

use super::document::logical;
use super::fields::{ALARMS, COMPONENTS, Members, OTHER, OVERRIDE_PROPERTY, PARAMETERS, Scope, Shape, Spec};
use super::property::{
    field_line, head_of, is_line, read_element, read_field_line, read_single, write_elements, write_line, write_single,
};
use crate::formats::content_line::{DEPTH_MAX, Event, Events, Fold, Line, Problem, Span, Spans, Splice};

/// What a component is called among components of no known sort.
const RAW_NAME: &str = "component";
/// Its lines.
const RAW_LINES: &str = "properties";
/// The components in it.
const RAW_COMPONENTS: &str = "components";

/// An alarm.
const VALARM: &str = "VALARM";

/// How often a rewritten component is read back and mended before that is given up; each round forces more fields.
const ROUNDS_MAX: usize = 6;

/// A component taken apart.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) name: String,
    /// From `BEGIN` to behind `END`, within the bytes given.
    range: Range<usize>,
    items: Vec<Item>,
    /// Where its `END` begins.
    end: usize,
}

#[derive(Debug)]
enum Item {
    Line { span: Span, text: String },
    Component(Component),
}

/// What a component says, and which of its items says what.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) members: Members,
    /// For each item the field that it belongs to.
    owners: Vec<String>,
}

impl Component {
    /// Takes the component in `range` of `bytes` apart; its first line has number `line`.
    pub(super) fn parse(bytes: &[u8], range: Range<usize>, line: u64, fold: Fold) -> Result<Component, Problem> {
        let mut events = Events::over(bytes, Spans::within(bytes, range.clone(), line));
        let mut open: Vec<Component> = Vec::new();
        while let Some(event) = events.next()? {
            match event {
                Event::Begin(span, name) => {
                    open.push(Component { name, range: span.start..span.next, items: Vec::new(), end: span.next });
                }
                Event::Line(span) => {
                    let text = logical(bytes, span, fold)?;
                    if let Some(component) = open.last_mut() {
                        component.items.push(Item::Line { span, text });
                    }
                }
                Event::End(span, _) => {
                    let Some(mut component) = open.pop() else { continue };
                    component.end = span.start;
                    component.range.end = span.next;
                    match open.last_mut() {
                        Some(outer) => outer.items.push(Item::Component(component)),
                        None => return Ok(component),
                    }
                }
            }
        }
        Err(Problem::new(range.start, "here is no component"))
    }

    /// The lines, as text.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.items.iter().filter_map(|item| match item {
            Item::Line { text, .. } => Some(text.as_str()),
            Item::Component(_) => None,
        })
    }

    /// What it says.
    pub(super) fn decode(&self, scope: Scope) -> Decoded {
        let mut members = Members::default();
        let mut lists: Vec<(&'static str, Vec<Value>)> = Vec::new();
        let mut list = |name: &'static str, values: Vec<Value>| match lists.iter_mut().find(|(known, _)| *known == name)
        {
            Some((_, list)) => list.extend(values),
            None => lists.push((name, values)),
        };
        let mut heads = Vec::new();
        let mut forced = Vec::new();
        let mut firsts: Vec<&str> = Vec::new();
        let mut owners = Vec::with_capacity(self.items.len());
        for item in &self.items {
            let owner = match item {
                Item::Component(component) if component.name == VALARM && scope != Scope::Alarm => {
                    list(ALARMS, vec![component.decode(Scope::Alarm).members.into_map()]);
                    ALARMS.to_owned()
                }
                Item::Component(component) => {
                    list(COMPONENTS, vec![component.raw()]);
                    COMPONENTS.to_owned()
                }
                Item::Line { text, .. } => {
                    let line = Line::parse(text.as_bytes()).ok();
                    if line.as_ref().is_some_and(|line| line.is(OVERRIDE_PROPERTY)) && scope == Scope::Override {
                        owners.push(String::new());
                        continue;
                    }
                    match line.and_then(|line| self.read(&line, text, scope, &members, &firsts)) {
                        Some(Read::Single(spec, single)) => {
                            members.set(spec.name, single.value);
                            if let (Shape::Moment(Some(zone_name)), Some(zone)) = (spec.shape, single.zone) {
                                members.set(zone_name, Value::Text(zone));
                            }
                            if let Some(head) = single.head {
                                heads.push((spec.name.to_owned(), Value::Text(head)));
                            }
                            spec.name.to_owned()
                        }
                        Some(Read::Elements(spec, values)) => {
                            if !firsts.contains(&spec.name) {
                                firsts.push(spec.name);
                            }
                            list(spec.name, values);
                            spec.name.to_owned()
                        }
                        Some(Read::Field(name, value)) => {
                            forced.push((name.clone(), value));
                            name
                        }
                        None => {
                            list(OTHER, vec![Value::text(text.as_str())]);
                            OTHER.to_owned()
                        }
                    }
                }
            };
            owners.push(owner);
        }
        for (name, values) in lists {
            members.set(name, Value::List(values));
        }
        if !heads.is_empty() {
            heads.sort_by(|a, b| a.0.cmp(&b.0));
            members.set(PARAMETERS, Value::Map(heads));
        }
        members.overlay(forced.into_iter().map(|(name, value)| {
            let stated = matches!(scope.spec(&name), Some(Spec { shape: Shape::Context, .. }));
            (name, value, stated)
        }));
        Decoded { members, owners }
    }

    /// What a line says of a field; `None` where it belongs to no field.
    fn read<'l>(&self, line: &Line<'l>, text: &str, scope: Scope, members: &Members, firsts: &[&str]) -> Option<Read> {
        if let Some((name, value)) = read_field_line(line) {
            return Some(Read::Field(name, value));
        }
        let spec = scope.spec_of(line)?;
        match spec.shape {
            Shape::Values(_) | Shape::Words | Shape::Moments => {
                Some(Read::Elements(spec, read_element(spec, line, !firsts.contains(&spec.name))?))
            }
            // Of a property that may stand once, more are kept as they are.
            _ if members.given(spec.name).is_some() => None,
            _ => read_single(spec, text, line).map(|single| Read::Single(spec, single)),
        }
    }

    /// A component of no known sort, as it is.
    fn raw(&self) -> Value {
        let lines = self.lines().map(Value::text).collect();
        let components = self.items.iter().filter_map(|item| match item {
            Item::Component(component) => Some(component.raw()),
            Item::Line { .. } => None,
        });
        let mut map =
            vec![(RAW_NAME.to_owned(), Value::text(self.name.as_str())), (RAW_LINES.to_owned(), Value::List(lines))];
        let components: Vec<_> = components.collect();
        if !components.is_empty() {
            map.push((RAW_COMPONENTS.to_owned(), Value::List(components)));
        }
        Value::Map(map)
    }
}

/// What a line was read as.
enum Read {
    Single(&'static Spec, super::property::Single),
    Elements(&'static Spec, Vec<Value>),
    Field(String, Value),
}

/// How new lines look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) fold: Fold,
    pub(super) ending: &'static str,
}

/// A component that could not be written so that it says what it should.
#[derive(Debug)]
pub(super) struct Unwritable(pub(super) String);

/// The bytes of a new component.
pub(super) fn write(name: &str, scope: Scope, members: &Members, style: Style) -> Result<Vec<u8>, Unwritable> {
    let empty = format!("BEGIN:{name}{0}END:{name}{0}", style.ending);
    rewrite(empty.as_bytes(), scope, members, style)
}

/// The bytes of a component that says `after`; the lines that needn't change stay as they are.
///
/// What is written is read back. Fields of which the formats can't hold the value, or not beside the others, go to lines of
/// our own.
pub(super) fn rewrite(source: &[u8], scope: Scope, after: &Members, style: Style) -> Result<Vec<u8>, Unwritable> {
    let parse = |bytes: &[u8]| Component::parse(bytes, 0..bytes.len(), 1, style.fold);
    let component = parse(source).map_err(|problem| Unwritable(problem.text))?;
    let before = component.decode(scope);
    if before.members == *after {
        return Ok(source.to_vec());
    }
    let mut forced = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let edit = Edit { source, component: &component, before: &before, after, scope, style, forced: &forced };
        let out = edit.run();
        let got = parse(&out).map_err(|problem| Unwritable(problem.text))?.decode(scope).members;
        let names: BTreeSet<String> = got.names().chain(after.names()).map(str::to_owned).collect();
        let wrong: Vec<_> = names.into_iter().filter(|name| got.given(name) != after.given(name)).collect();
        if wrong.is_empty() {
            return Ok(out);
        }
        let known = forced.len();
        forced.extend(wrong.iter().cloned());
        if forced.len() == known {
            return Err(Unwritable(format!("the field `{}` would be read back as another value", wrong.join("`, `"))));
        }
    }
    Err(Unwritable("its fields contradict each other".into()))
}

struct Edit<'a> {
    source: &'a [u8],
    component: &'a Component,
    before: &'a Decoded,
    after: &'a Members,
    scope: Scope,
    style: Style,
    /// Fields that go to lines of our own.
    forced: &'a BTreeSet<String>,
}

impl Edit<'_> {
    fn run(&self) -> Vec<u8> {
        let mut names: Vec<&str> = self.scope.specs().map(|spec| spec.name).collect();
        let mut seen: HashSet<&str> = names.iter().copied().collect();
        let given = self.before.members.names().chain(self.after.names()).chain(self.forced.iter().map(String::as_str));
        for name in given {
            if seen.insert(name) {
                names.push(name);
            }
        }
        let mut edits: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
        for name in names {
            if self.forced.contains(name) || self.is_touched(name) {
                self.replace(name, &mut edits);
            }
        }
        edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut splice = Splice::new(self.source);
        for (range, new) in edits {
            splice.replace(range, &new);
        }
        splice.finish()
    }

    /// Whether the lines of a field have to say something else.
    fn is_touched(&self, name: &str) -> bool {
        let (before, after) = (&self.before.members, self.after);
        let differs = |name: &str| before.given(name) != after.given(name);
        let zone = match self.scope.spec(name).map(|spec| spec.shape) {
            Some(Shape::Moment(Some(zone))) => differs(zone),
            _ => false,
        };
        differs(name) || zone || head_of(before, name) != head_of(after, name)
    }

    fn replace(&self, name: &str, edits: &mut Vec<(Range<usize>, Vec<u8>)>) {
        let owned = self.component.items.iter().zip(&self.before.owners).filter(|(_, owner)| *owner == name);
        let (mut old_lines, mut old_components) = (Vec::new(), Vec::new());
        for (item, _) in owned {
            match item {
                Item::Line { span, text } => old_lines.push((*span, text.as_str())),
                Item::Component(component) => old_components.push(component),
            }
        }
        let natural = if self.forced.contains(name) { None } else { self.natural(name) };
        let is_nested = matches!(self.scope.spec(name).map(|spec| spec.shape), Some(Shape::Alarms | Shape::Components));
        let (lines, components) = match natural {
            Some(Natural::Lines(lines)) => (lines, Vec::new()),
            Some(Natural::Components(components)) => (Vec::new(), components),
            None => {
                let value = self.after.get(name);
                let nothing =
                    *value == Value::Absent && !self.forced.contains(name) && self.after.given(name).is_none();
                (if nothing { Vec::new() } else { vec![field_line(name, value)] }, Vec::new())
            }
        };
        self.replace_lines(&old_lines, &lines, edits);
        if is_nested {
            self.replace_components(&old_components, &components, edits);
        }
    }

    /// The lines or components by which the formats say the value of `name`.
    fn natural(&self, name: &str) -> Option<Natural> {
        let spec = self.scope.spec(name)?;
        let value = self.after.given(name);
        let Some(value) = value else {
            return Some(match spec.shape {
                Shape::Alarms | Shape::Components => Natural::Components(Vec::new()),
                _ => Natural::Lines(Vec::new()),
            });
        };
        let lines = match spec.shape {
            Shape::Text | Shape::Raw | Shape::Integer | Shape::Value(_) => {
                vec![write_single(spec, value, None, head_of(self.after, name))?]
            }
            Shape::Moment(zone_name) => {
                let zone = match zone_name.map(|zone_name| self.after.get(zone_name)) {
                    Some(Value::Text(zone)) => Some(zone.as_str()),
                    _ => None,
                };
                vec![write_single(spec, value, zone, head_of(self.after, name))?]
            }
            Shape::Carried => Vec::new(),
            Shape::Values(_) | Shape::Words | Shape::Moments => write_elements(spec, value)?,
            Shape::Lines => match value {
                Value::List(lines) => lines.iter().map(text_of).collect::<Option<Vec<_>>>()?,
                _ => return None,
            },
            Shape::Context => return None,
            Shape::Alarms => return self.alarms(value),
            Shape::Components => {
                let Value::List(components) = value else { return None };
                let write = |component| raw_bytes(component, self.style, 3);
                return Some(Natural::Components(components.iter().map(write).collect::<Option<_>>()?));
            }
        };
        // Such a line would make an override of a record.
        let overrides = |line: &String| {
            let line = Line::parse(line.as_bytes());
            self.scope == Scope::Record && line.is_ok_and(|line| line.is("RECURRENCE-ID") || line.is(OVERRIDE_PROPERTY))
        };
        let good = |line: &String| is_line(line, self.style.fold) && !overrides(line);
        lines.iter().all(good).then_some(Natural::Lines(lines))
    }

    fn alarms(&self, value: &Value) -> Option<Natural> {
        let Value::List(alarms) = value else { return None };
        let mut old = Vec::new();
        for item in &self.component.items {
            if let Item::Component(component) = item
                && component.name == VALARM
            {
                old.push(component);
            }
        }
        let before: Vec<_> = old.iter().map(|component| component.decode(Scope::Alarm).members.into_map()).collect();
        let (front, back) = common(&before, alarms);
        let mut out = Vec::new();
        for (at, alarm) in alarms.iter().enumerate() {
            let Value::Map(alarm) = alarm else { return None };
            // An alarm that says what it said stays; one in its place is edited; more are new.
            let in_back = at + back >= alarms.len();
            let partner = match in_back {
                true => Some(old[old.len() + at - alarms.len()]),
                false => old.get(at).copied().filter(|_| at < front || at + back < old.len()),
            };
            let members = Members::of_map(alarm);
            out.push(match partner {
                Some(partner) => {
                    rewrite(&self.source[partner.range.clone()], Scope::Alarm, &members, self.style).ok()?
                }
                None => write(VALARM, Scope::Alarm, &members, self.style).ok()?,
            });
        }
        Some(Natural::Components(out))
    }

    fn replace_lines(&self, old: &[(Span, &str)], new: &[String], edits: &mut Vec<(Range<usize>, Vec<u8>)>) {
        let before: Vec<&str> = old.iter().map(|(_, text)| *text).collect();
        let after: Vec<&str> = new.iter().map(String::as_str).collect();
        let (front, back) = common(&before, &after);
        let (old_middle, new_middle) = (&old[front..old.len() - back], &new[front..new.len() - back]);
        for (at, (span, _)) in old_middle.iter().enumerate() {
            match new_middle.get(at) {
                Some(line) => {
                    let mut bytes = Vec::new();
                    write_line(line, self.style.fold, self.style.ending, &mut bytes);
                    bytes.truncate(bytes.len() - self.style.ending.len());
                    edits.push((span.start..span.end, bytes));
                }
                None => edits.push((span.start..span.next, Vec::new())),
            }
        }
        if let Some(more) = new_middle.get(old_middle.len()..)
            && !more.is_empty()
        {
            let mut bytes = Vec::new();
            for line in more {
                write_line(line, self.style.fold, self.style.ending, &mut bytes);
            }
            let at = match (front + old_middle.len()).checked_sub(1) {
                Some(last) => old[last].0.next,
                None if back > 0 => old[front].0.start,
                None => self.tail(),
            };
            edits.push((at..at, bytes));
        }
    }

    fn replace_components(&self, old: &[&Component], new: &[Vec<u8>], edits: &mut Vec<(Range<usize>, Vec<u8>)>) {
        let before: Vec<&[u8]> = old.iter().map(|component| &self.source[component.range.clone()]).collect();
        let after: Vec<&[u8]> = new.iter().map(Vec::as_slice).collect();
        let (front, back) = common(&before, &after);
        let (old_middle, new_middle) = (&old[front..old.len() - back], &new[front..new.len() - back]);
        for (at, component) in old_middle.iter().enumerate() {
            edits.push((component.range.clone(), new_middle.get(at).cloned().unwrap_or_default()));
        }
        if let Some(more) = new_middle.get(old_middle.len()..)
            && !more.is_empty()
        {
            let at = match (front + old_middle.len()).checked_sub(1) {
                Some(last) => old[last].range.end,
                None if back > 0 => old[front].range.start,
                None => self.component.end,
            };
            edits.push((at..at, more.concat()));
        }
    }

    /// Where lines come in that have no neighbour: before the first component inside.
    fn tail(&self) -> usize {
        let first = self.component.items.iter().find_map(|item| match item {
            Item::Component(component) => Some(component.range.start),
            Item::Line { .. } => None,
        });
        first.unwrap_or(self.component.end)
    }
}

enum Natural {
    Lines(Vec<String>),
    Components(Vec<Vec<u8>>),
}

/// How many are equal at the front and, of the rest, at the back.
pub(super) fn common<T: PartialEq>(before: &[T], after: &[T]) -> (usize, usize) {
    let front = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let rest = before[front..].iter().rev().zip(after[front..].iter().rev());
    (front, rest.take_while(|(a, b)| a == b).count())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

/// The bytes of what [`Component::raw`] gave.
fn raw_bytes(value: &Value, style: Style, depth: usize) -> Option<Vec<u8>> {
    if depth > DEPTH_MAX {
        return None;
    }
    let Value::Map(members) = value else { return None };
    let (name, lines, components) = match members.as_slice() {
        [(a, Value::Text(name)), (b, Value::List(lines))] if a == RAW_NAME && b == RAW_LINES => (name, lines, &[][..]),
        [(a, Value::Text(name)), (b, Value::List(lines)), (c, Value::List(components))]
            if a == RAW_NAME && b == RAW_LINES && c == RAW_COMPONENTS && !components.is_empty() =>
        {
            (name, lines, components.as_slice())
        }
        _ => return None,
    };
    let begin = format!("BEGIN:{name}");
    let is_name = !name.is_empty() && *name == name.trim().to_ascii_uppercase();
    if !is_name || begin.bytes().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return None;
    }
    let mut out = Vec::new();
    write_line(&begin, style.fold, style.ending, &mut out);
    for line in lines {
        let line = text_of(line).filter(|line| is_line(line, style.fold))?;
        write_line(&line, style.fold, style.ending, &mut out);
    }
    for component in components {
        out.extend(raw_bytes(component, style, depth + 1)?);
    }
    write_line(&format!("END:{name}"), style.fold, style.ending, &mut out);
    Some(out)
}
