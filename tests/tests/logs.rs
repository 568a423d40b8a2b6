//! What is logged is what docs/logs.md says: every line in the code, and every line that real processes write. One trace id leads
//! through the lines of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use deltabus_tests::{Running, World};
use serde_json::Value;

/// The rooms whose lines an operator meets.
const CRATES: [&str; 9] =
    ["record", "state", "interfaces", "certificates", "bus", "transmitter", "receiver", "manager", "cli"];

/// Fields that the lines of a transmitter's or receiver's work have anyway.
const AROUND: [&str; 2] = ["source", "receiver"];

/// A line's level and fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    level: String,
    fields: BTreeSet<String>,
}

/// The tables of docs/logs.md.
fn documented() -> BTreeMap<String, Line> {
    let page = include_str!("../../docs/logs.md");
    let mut found = BTreeMap::new();
    for row in page.lines() {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let ["", level @ ("ERROR" | "WARN" | "INFO" | "DEBUG"), message, fields, _, ""] = cells.as_slice() else {
            continue;
        };
        let message =
            message.strip_prefix("`` ").and_then(|it| it.strip_suffix(" ``")).unwrap_or(message.trim_matches('`'));
        let fields = fields.split(',').map(str::trim).filter(|field| !field.is_empty()).map(str::to_owned).collect();
        let line = Line { level: (*level).to_owned(), fields };
        assert!(found.insert(message.to_owned(), line).is_none(), "`{message}` stands there twice");
    }
    found
}

/// A call of a logging macro: its file and what stands between the parentheses.
struct Call {
    place: String,
    level: String,
    parts: Vec<String>,
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every call of a logging macro in the code.
fn calls() -> Vec<Call> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests have a folder around them");
    let mut files = Vec::new();
    CRATES.iter().for_each(|name| sources(&root.join(name).join("src"), &mut files));
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source can be read");
        for level in ["trace", "debug", "info", "warn", "error"] {
            let opening = format!("tracing::{level}!(");
            for (at, _) in text.match_indices(&opening) {
                let place = format!("{}:{}", file.display(), text[..at].lines().count());
                found.push(Call { place, level: level.to_uppercase(), parts: arguments(&text[at + opening.len()..]) });
            }
        }
        let bare = text.match_indices("tracing::event!(").count() + text.match_indices("use tracing::{").count();
        assert_eq!(
            bare,
            usize::from(text.contains("use tracing::{Event")),
            "{}: macros are called by path",
            file.display()
        );
    }
    found
}

/// The arguments of a call whose opening parenthesis is behind us.
fn arguments(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut depth, mut quoted) = (0, false);
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let part = parts.last_mut().expect("there is always one");
        match char {
            '\\' if quoted => part.extend([char, chars.next().unwrap_or(' ')]),
            '"' => {
                quoted = !quoted;
                part.push(char);
            }
            _ if quoted => part.push(char),
            ')' if depth == 0 => break,
            ',' if depth == 0 => parts.push(String::new()),
            '(' | '[' | '{' => {
                depth += 1;
                part.push(char);
            }
            ')' | ']' | '}' => {
                depth -= 1;
                part.push(char);
            }
            _ => part.push(char),
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

#[test]
fn every_line_in_the_code_has_a_constant_message_and_is_documented_as_it_is() {
    let documented = documented();
    let mut written: BTreeMap<String, Line> = BTreeMap::new();
    let calls = calls();
    assert!(calls.len() > 100, "calls are found");
    for Call { place, level, parts } in calls {
        let (message, fields) = parts.split_last().unwrap_or_else(|| panic!("{place}: nothing is said"));
        let message = message.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
        let message = message.unwrap_or_else(|| panic!("{place}: the message is no literal"));
        assert!(!message.contains(['{', '\\']), "{place}: data stands in fields, not in `{message}`");
        let line = documented.get(message).unwrap_or_else(|| panic!("{place}: `{message}` isn't documented"));
        assert_eq!(line.level, level, "{place}: `{message}`");
        let names = fields.iter().map(|field| {
            assert!(!field.starts_with('?'), "{place}: `{field}` shows how the code looks inside");
            let name = field.split('=').next().unwrap_or(field).trim().trim_start_matches('%');
            name.rsplit('.').next().unwrap_or(name).to_owned()
        });
        let names: BTreeSet<_> = names.collect();
        let unknown: Vec<_> = names.difference(&line.fields).collect();
        assert!(unknown.is_empty(), "{place}: `{message}` has fields that aren't documented: {unknown:?}");
        let written = written.entry(message.to_owned()).or_default();
        written.level = level;
        written.fields.extend(names);
    }
    for (message, line) in &documented {
        let written = written.get(message).unwrap_or_else(|| panic!("`{message}` is documented, and nobody says it"));
        let missing: Vec<_> =
            line.fields.difference(&written.fields).filter(|name| !AROUND.contains(&name.as_str())).collect();
        assert!(missing.is_empty(), "`{message}` is documented with fields that it never has: {missing:?}");
    }
}

/// A line that a process wrote.
#[derive(Clone, Debug)]
struct Said {
    level: String,
    message: String,
    fields: serde_json::Map<String, Value>,
}

impl Said {
    fn text(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, field: &str) -> u64 {
        self.fields.get(field).and_then(Value::as_u64).unwrap_or_default()
    }
}

/// What a process has said so far, each line held to docs/logs.md. The last line may be half written.
fn said(process: &Running) -> Vec<Said> {
    let documented = documented();
    let log = process.log();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let lines = whole.lines().map(|line| {
        let read: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let Value::Object(mut read) = read else { panic!("{line}") };
        let time = read.remove("timestamp").unwrap_or_default();
        let time = time.as_str().unwrap_or_else(|| panic!("{line}: no time"));
        // RFC 3339 in UTC, with microseconds.
        let form = time.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(form, "0000-00-00T00:00:00.000000Z", "{line}");
        let level = read.remove("level").unwrap_or_default().as_str().unwrap_or_default().to_owned();
        let Some(Value::Object(mut fields)) = read.remove("fields") else { panic!("{line}: no fields") };
        assert!(read.is_empty(), "{line}");
        let message = fields.remove("message").unwrap_or_default().as_str().unwrap_or_default().to_owned();
        let known = documented.get(&message).unwrap_or_else(|| panic!("not documented: {line}"));
        assert_eq!(level, known.level, "{line}");
        let names: BTreeSet<_> = fields.keys().cloned().collect();
        assert!(names.is_subset(&known.fields), "not as documented: {line}");
        // Who has a line of its own about a set says in which trace.
        if known.fields.contains("trace") {
            assert_eq!(fields["trace"].as_str().map(str::len), Some(32), "{line}");
        }
        Said { level, message, fields }
    });
    lines.collect()
}

const SOURCE: &str = "csv:people.csv?key=id";
const PEOPLE: &str = "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n";

/// A transmitter of `people` and its receivers `a`, which sends edits, and `b`, which takes no Dora.
struct Everybody {
    world: World,
    transmitter: Running,
    a: Running,
    b: Running,
}

impl Everybody {
    fn start() -> Everybody {
        let world = World::new();
        world.write("people.csv", PEOPLE);
        world.sql("b.db", "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT CHECK (name <> 'Dora'), phone TEXT)");
        world.write(
            "b.toml",
            "name = \"b\"\n[[destination]]\nsource = \"people\"\nlocation = \"sqlite:b.db?tables=people\"\non_error = \"dead-letter\"\n",
        );
        let transmitter = world.start(&format!("transmit people {SOURCE} --conflicts manual --log-format json -v"));
        let a = world.start("receive people sqlite:a.db --name a --reverse --log-format json -v");
        let b = world.start("receive --config b.toml --log-format json -v");
        let everybody = Everybody { world, transmitter, a, b };
        for receiver in [&everybody.a, &everybody.b] {
            everybody.find(receiver, |said| said.message == "received" && said.number("revision") == 1);
        }
        everybody
    }

    /// Waits for a line; the first that there is.
    fn find(&self, process: &Running, is: impl Fn(&Said) -> bool) -> Said {
        let mut found = None;
        self.world.wait("a line is there", || {
            found = said(process).into_iter().find(&is);
            found.is_some()
        });
        found.expect("it was waited for")
    }

    fn in_trace(&self, process: &Running, trace: &str, message: &str) -> Said {
        self.find(process, |said| said.message == message && said.text("trace") == trace)
    }
}

#[test]
fn one_trace_leads_from_a_scan_to_every_destination_and_from_an_edit_back_to_all() {
    let everybody = Everybody::start();
    let Everybody { world, transmitter, a, b } = &everybody;

    // A change of the source.
    world.write("people.csv", &PEOPLE.replace("111", "1110"));
    let scanned = everybody.find(transmitter, |said| said.message == "the source has changed");
    let trace = scanned.text("trace").to_owned();
    assert_eq!(scanned.number("changes"), 1);
    for message in ["a set is staged", "a set is published"] {
        assert_eq!(everybody.in_trace(transmitter, &trace, message).number("revision"), 2);
    }
    for (receiver, name) in [(a, "a"), (b, "b")] {
        let applied = everybody.in_trace(receiver, &trace, "a set is applied");
        assert_eq!((applied.text("source"), applied.text("receiver")), ("people", name));
        assert_eq!(applied.number("revision"), 2);
    }
    let log = world.run("log people --json").exits(0).stdout();
    let newest: Value = serde_json::from_str(log.lines().next().unwrap_or_default()).expect("it is JSON");
    assert_eq!((&newest["revision"], &newest["traces"]), (&2.into(), &serde_json::json!([trace])));
    assert!(world.run("show people 2").exits(0).stdout().contains(&format!("trace {trace}")));
    let shown = world.run("show people 2 --json").exits(0).stdout();
    let shown: Value = serde_json::from_str(&shown).expect("it is one line of JSON");
    assert_eq!((&shown["change"], shown["trace"].as_str()), (&"update".into(), Some(trace.as_str())));

    // An edit at a destination.
    world.sql("a.db", "UPDATE people SET phone = '2220' WHERE id = '2'");
    let found = everybody.find(a, |said| said.message == "edits were found at the destination");
    let edit = found.text("trace").to_owned();
    assert_ne!(edit, trace);
    let sent = everybody.in_trace(a, &edit, "edits are sent").number("reverse");
    assert_eq!(everybody.in_trace(transmitter, &edit, "edits were merged").text("receiver"), "a");
    for message in ["a set is staged", "a set is published"] {
        assert_eq!(everybody.in_trace(transmitter, &edit, message).number("revision"), 3);
    }
    for receiver in [a, b] {
        assert_eq!(everybody.in_trace(receiver, &edit, "a set is applied").number("revision"), 3);
    }
    assert_eq!(everybody.in_trace(a, &edit, "edits are answered").number("conflicts"), 0);

    // What is refused says in which trace it came.
    world.write("people.csv", &format!("{}4,Dora,444\n", world.read("people.csv")));
    let refused = everybody.find(b, |said| said.message == "a change is kept among the dead letters");
    assert_eq!((refused.level.as_str(), refused.text("collection")), ("ERROR", "people"));
    assert!(refused.text("error").contains("CHECK"), "{refused:?}");
    let scanned = everybody.in_trace(transmitter, refused.text("trace"), "the source has changed");
    assert_eq!(scanned.number("changes"), 1);

    // And so does what met a changed source.
    transmitter.freeze();
    world.sql("a.db", "UPDATE people SET phone = '3330' WHERE id = '3'");
    let found = everybody.find(a, |said| said.message == "edits are sent" && said.number("reverse") == sent + 1);
    let there = world.read("people.csv");
    world.write("people.csv", &there.replace("333", "3331"));
    transmitter.thaw();
    let met = everybody.in_trace(transmitter, found.text("trace"), "edits met a changed source");
    assert_eq!((met.level.as_str(), met.number("conflicts")), ("WARN", 1));
    assert_eq!(everybody.in_trace(a, found.text("trace"), "edits are answered").number("conflicts"), 1);
    for process in [transmitter, a, b] {
        let all = said(process);
        assert!(all.iter().all(|said| said.text("source") == "people" || said.text("source").is_empty()));
    }
}

#[test]
fn a_set_has_the_same_trace_when_another_run_publishes_or_applies_it() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    world.run("receive people csv:copy.csv?key=id --name c --once").exits(0);
    world.write("people.csv", &PEOPLE.replace("111", "1110"));
    let line = format!("transmit people {SOURCE} --once --log-format json -v");
    let said = |line: &str| {
        let ran = world.run(line).exits(0);
        let lines = ran.stderr().lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
        lines.unwrap_or_else(|error| panic!("{error}: {}", ran.text()))
    };
    let trace = |lines: &[Value], message: &str| {
        let line = lines.iter().find(|line| line["fields"]["message"] == message);
        line.unwrap_or_else(|| panic!("{message} is not among {lines:#?}"))["fields"]["trace"].clone()
    };
    let published = said(&line);
    let applied = said("receive people csv:copy.csv?key=id --name c --once --log-format json -v");
    assert!(trace(&published, "a set is staged").is_string());
    assert_eq!(trace(&published, "a set is staged"), trace(&published, "a set is published"));
    assert_eq!(trace(&published, "a set is staged"), trace(&applied, "a set is applied"));
}

#[test]
fn which_lines_are_shown_is_said_by_flags_or_more_exactly_by_the_environment() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    let mut at = 0;
    let mut shown = |flags: &str, filter: &str| {
        at += 1;
        world.write("people.csv", &PEOPLE.replace("111", &at.to_string()));
        let line = format!("transmit people {SOURCE} --once {flags}");
        let mut command = world.command(&line);
        command.env("DELTABUS_LOG", filter);
        world.run_as(&line, command).exits(0).stderr()
    };
    assert_eq!(shown("", ""), "");
    assert_eq!(shown("-q", ""), "");
    let said = shown("-v", "");
    assert!(said.contains(" INFO the log is claimed source=people term="), "{said}");
    assert!(said.contains("DEBUG a set is staged source=people trace="), "{said}");
    let said = shown("-q", "deltabus_transmitter=info");
    assert!(said.contains("the log is claimed") && !said.contains("DEBUG"), "{said}");
    let said = shown("-v", "warn");
    assert_eq!(said, "");
    let said = shown("", "deltabus=what");
    assert!(said.starts_with("deltabus: DELTABUS_LOG is no filter"), "{said}");
}
