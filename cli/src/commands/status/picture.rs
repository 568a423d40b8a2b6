//! The status as people see it: tables that fit into the terminal.

use deltabus_record::text::printable;
use serde_json::Value;

use super::course::{SPAN_SECONDS, SPANS};
use crate::output::{Paint, counted};
use crate::terminal::{Glyphs, Line, width, wrapped};

/// Between two columns of a table.
const GAP: usize = 2;

/// A name is cut no shorter than this, a state is wrapped no narrower.
const NAME_MIN: usize = 8;
const STATE_MIN: usize = 14;

/// What is drawn with.
#[derive(Clone, Copy)]
pub(crate) struct Easel {
    /// As wide as nothing may be exceeded; `None`: as wide as it comes.
    pub(crate) columns: Option<usize>,
    pub(crate) glyphs: Glyphs,
    pub(crate) paint: Paint,
    /// What ages are counted to.
    pub(crate) now_millis: u64,
}

/// What a row is to whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    /// All is well.
    Well,
    /// Somebody should look.
    Wary,
    /// Something is wrong.
    Wrong,
    /// Not there.
    Absent,
}

/// A table's column.
struct Column {
    head: String,
    /// How narrow it may get.
    least: usize,
    /// Numbers stand at the right.
    right: bool,
    /// Those that are worth least go first where there is no room.
    worth: u8,
}

struct Row {
    cells: Vec<String>,
    tone: Tone,
}

/// All of it, as lines; at most about `rows`, where there is a limit.
pub(crate) fn picture(found: &Value, easel: &Easel, rows: Option<usize>) -> Vec<Line> {
    let empty = Vec::new();
    let sources = found["sources"].as_array().unwrap_or(&empty);
    let receivers = found["receivers"].as_array().unwrap_or(&empty);
    let mut lines = Vec::new();
    match found["bus"]["url"].as_str() {
        Some(url) => lines.push(easel.line(&format!("bus {}", printable(url)))),
        None => lines.push(easel.line("the local bus is not running")),
    }
    if sources.is_empty() {
        lines.extend(easel.paragraph("no sources yet; `deltabus transmit NAME LOCATION` makes one"));
        return lines;
    }
    lines.push(Line::default());
    lines.extend(sources_table(sources, easel));
    let notes: Vec<Line> = sources.iter().chain(receivers).flat_map(|entry| notes_of(entry, easel)).collect();
    if !receivers.is_empty() {
        lines.push(Line::default());
        // Two lines for the table's head and for what is left out.
        let room = rows.map_or(usize::MAX, |rows| rows.saturating_sub(lines.len() + notes.len() + 2).max(1));
        lines.extend(receivers_table(receivers, easel, room));
    }
    lines.extend(notes);
    lines
}

fn sources_table(sources: &[Value], easel: &Easel) -> Vec<Line> {
    let column = |head: &str, least, right, worth| Column { head: head.into(), least, right, worth };
    let minutes = SPANS as u64 * SPAN_SECONDS / 60;
    let columns = vec![
        column("SOURCE", NAME_MIN, false, 9),
        column("REVISION", 0, true, 8),
        column("RECORDS", 0, true, 2),
        column("WAITING", 0, true, 3),
        column(&format!("CHANGES IN {minutes} MIN"), 0, false, 1),
        column("STATE", STATE_MIN, false, 9),
    ];
    let rows = sources.iter().map(|source| {
        let revision = source["revision"].as_u64().or(source["published"].as_u64());
        let (state, tone) = source_state(source, easel);
        Row {
            cells: vec![
                text(&source["source"]),
                revision.map_or("-".into(), |revision| revision.to_string()),
                number(&source["records"]),
                number(&source["outbox"]),
                throughput(source, easel),
                state,
            ],
            tone,
        }
    });
    table(columns, rows.collect(), easel)
}

/// A sparkline and its sum.
fn throughput(source: &Value, easel: &Easel) -> String {
    let Some(changes) = source["throughput"]["changes"].as_array() else { return "-".into() };
    let changes: Vec<u64> = changes.iter().map(|count| count.as_u64().unwrap_or(0)).collect();
    format!("{} {}", easel.glyphs.sparkline(&changes), changes.iter().sum::<u64>())
}

fn receivers_table(receivers: &[Value], easel: &Easel, room: usize) -> Vec<Line> {
    let column = |head: &str, least, right, worth| Column { head: head.into(), least, right, worth };
    let columns = vec![
        column("RECEIVER", NAME_MIN, false, 9),
        column("SOURCE", NAME_MIN, false, 5),
        column("REVISION", 0, true, 7),
        column("LAG", 0, false, 8),
        column("STATE", STATE_MIN, false, 9),
    ];
    let mut shown: Vec<&Value> = receivers.iter().collect();
    if shown.len() > room {
        // Those that somebody should look at.
        shown.sort_by_key(|receiver| {
            let troubled = receiver["error"].is_string() || receiver["gone"] == true;
            (!troubled, std::cmp::Reverse(receiver["lag"].as_u64()))
        });
        shown.truncate(room);
    }
    let rows = shown.iter().map(|receiver| {
        let (state, tone) = receiver_state(receiver, easel);
        let cells = vec![
            text(&receiver["receiver"]),
            text(&receiver["source"]),
            number(&receiver["revision"]),
            lag(receiver),
            state,
        ];
        Row { cells, tone }
    });
    let mut lines = table(columns, rows.collect(), easel);
    if shown.len() < receivers.len() {
        let more = receivers.len() - shown.len();
        let behind = receivers.iter().filter(|receiver| receiver["lag"].as_u64() > Some(0)).count();
        let gone = receivers.iter().filter(|receiver| receiver["gone"] == true).count();
        lines.push(
            easel.line(&format!("and {more} more; of all {}, {behind} are behind, {gone} gone", receivers.len())),
        );
    }
    lines
}

/// Where a revision has arrived: receiver, revision, whether that is enough, state.
pub(crate) fn arrivals_table(rows: Vec<[String; 4]>, easel: &Easel) -> Vec<Line> {
    let column = |head: &str, least, right, worth| Column { head: head.into(), least, right, worth };
    let columns = vec![
        column("RECEIVER", NAME_MIN, false, 9),
        column("REVISION", 0, true, 5),
        column("ARRIVED", 0, false, 8),
        column("STATE", STATE_MIN, false, 7),
    ];
    let row = |cells: [String; 4]| {
        let tone = if cells[2] == "yes" { Tone::Well } else { Tone::Wary };
        Row { cells: cells.into(), tone }
    };
    table(columns, rows.into_iter().map(row).collect(), easel)
}

/// How far a receiver is behind: `2 sets, 4 s`.
pub(crate) fn lag(receiver: &Value) -> String {
    match (receiver["lag"].as_u64(), receiver["lag_seconds"].as_u64()) {
        (None, _) => "-".into(),
        (Some(0), _) => "0".into(),
        (Some(sets), None) => counted(sets, "set"),
        (Some(sets), Some(seconds)) => format!("{}, {}", counted(sets, "set"), span(seconds)),
    }
}

fn source_state(source: &Value, easel: &Easel) -> (String, Tone) {
    let mut parts = trouble(source);
    let running = source["running"] == true;
    let (word, tone) = match source["here"].as_bool() {
        Some(true) if running && source["stands_by_for"].is_string() => ("standing by".into(), Tone::Plain),
        Some(true) if running => ("running".into(), Tone::Well),
        Some(true) => (format!("not running{}", easel.last_seen(&source["time_millis"])), Tone::Absent),
        _ => ("elsewhere".into(), Tone::Plain),
    };
    let tone = tone_of(source, &parts, tone);
    parts.push(word);
    (parts.join(", "), tone)
}

fn receiver_state(receiver: &Value, easel: &Easel) -> (String, Tone) {
    let mut parts = trouble(receiver);
    let gone = receiver["gone"] == true;
    let (word, tone) = match receiver["here"].as_bool() {
        _ if gone => (format!("gone{}", easel.last_seen(&receiver["seen_millis"])), Tone::Absent),
        Some(false) => ("running elsewhere".into(), Tone::Well),
        _ => ("running".into(), Tone::Well),
    };
    let tone = tone_of(receiver, &parts, tone);
    parts.push(word);
    (parts.join(", "), tone)
}

fn tone_of(entry: &Value, parts: &[String], otherwise: Tone) -> Tone {
    match parts {
        _ if entry["error"].is_string() => Tone::Wrong,
        [] => otherwise,
        _ => Tone::Wary,
    }
}

/// What somebody should know of a source or receiver.
fn trouble(entry: &Value) -> Vec<String> {
    let mut parts = Vec::new();
    if entry["error"].is_string() {
        parts.push("error".to_owned());
    }
    if entry["held"].is_string() {
        parts.push("held".to_owned());
    }
    let counts = [
        ("pending", "reverse set"),
        ("drift", "drifted record"),
        ("conflicts", "conflict"),
        ("dead_letters", "dead letter"),
    ];
    let least = if entry["counts_complete"] == false { "at least " } else { "" };
    for (name, one) in counts {
        if let Some(count) = entry[name].as_u64().filter(|count| *count > 0) {
            let open = entry[format!("{name}_open")].as_u64().filter(|open| *open > 0);
            let open = open.map_or(String::new(), |open| format!(" ({open} open)"));
            parts.push(format!("{least}{}{open}", counted(count, one)));
        }
    }
    parts
}

/// What has no place in a table.
fn notes_of(entry: &Value, easel: &Easel) -> Vec<Line> {
    let name = printable(entry["receiver"].as_str().or(entry["source"].as_str()).unwrap_or_default());
    let mut notes = Vec::new();
    if let Some(active) = entry["active"].as_str() {
        let mut note = format!("{name}: {} is active", printable(active));
        let standbys: Vec<_> = entry["standbys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if entry["running"] == true && !standbys.is_empty() {
            note.push_str(&format!("; standing by: {}", printable(&standbys.join("; "))));
        }
        notes.push(note);
    }
    if let Some(held) = entry["held"].as_str() {
        notes.push(format!("{name}: held back: {}; `deltabus confirm {name}` lets it go", printable(held)));
    }
    if let Some(error) = entry["error"].as_str() {
        notes.push(format!("{name}: {}", printable(&error.replace('\n', " "))));
    }
    let lines = notes.iter().flat_map(|note| std::iter::once(Line::default()).chain(easel.paragraph(note)));
    lines.collect()
}

/// A table in lines, its last column wrapped, the others cut in the middle where there is no room.
fn table(mut columns: Vec<Column>, mut rows: Vec<Row>, easel: &Easel) -> Vec<Line> {
    for row in &mut rows {
        row.cells.iter_mut().for_each(|cell| *cell = easel.glyphs.shown(&printable(cell)));
    }
    let mut widths = natural(&columns, &rows);
    if let Some(room) = easel.columns {
        loop {
            let taken = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            while taken(&widths) > room {
                // The one that has most to give gives one.
                let giving = (0..columns.len()).filter(|at| columns[*at].least > 0 && widths[*at] > columns[*at].least);
                let Some(most) = giving.max_by_key(|at| widths[*at] - columns[*at].least) else { break };
                widths[most] -= 1;
            }
            if taken(&widths) <= room || columns.len() == 1 {
                break;
            }
            // No narrower as it is: what is worth least goes.
            let Some(least) = (0..columns.len()).min_by_key(|at| columns[*at].worth) else { break };
            columns.remove(least);
            rows.iter_mut().for_each(|row| drop(row.cells.remove(least)));
            widths = natural(&columns, &rows);
        }
        widths.iter_mut().for_each(|width| *width = (*width).min(room));
    }
    let heads = columns.iter().map(|column| column.head.clone()).collect();
    let mut lines = row_lines(&Row { cells: heads, tone: Tone::Plain }, &columns, &widths, easel, Part::Head);
    for row in &rows {
        lines.extend(row_lines(row, &columns, &widths, easel, Part::Body));
    }
    lines
}

fn natural(columns: &[Column], rows: &[Row]) -> Vec<usize> {
    let of = |(at, column): (usize, &Column)| {
        let cells = rows.iter().map(|row| width(&row.cells[at]));
        cells.chain([width(&column.head)]).max().unwrap_or(0)
    };
    columns.iter().enumerate().map(of).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body,
}

/// One row, of several lines where its last cell is wrapped.
fn row_lines(row: &Row, columns: &[Column], widths: &[usize], easel: &Easel, part: Part) -> Vec<Line> {
    let Some((state, first)) = row.cells.split_last() else { return Vec::new() };
    let (&state_width, first_widths) = widths.split_last().unwrap_or((&0, &[]));
    let mut left = String::new();
    for ((cell, column), room) in first.iter().zip(columns).zip(first_widths) {
        let cell = easel.glyphs.middle(cell, *room);
        let pad = " ".repeat(room - width(&cell));
        if column.right {
            left.extend([pad, cell])
        } else {
            left.extend([cell, pad])
        }
        left.push_str(&" ".repeat(GAP));
    }
    let indent = width(&left);
    wrapped(state, state_width)
        .into_iter()
        .enumerate()
        .map(|(at, state)| {
            let start = if at == 0 { left.clone() } else { " ".repeat(indent) };
            let line_width = indent + width(&state);
            if part == Part::Head {
                return Line { text: easel.paint.bold(&format!("{start}{state}")), width: line_width };
            }
            let state = match row.tone {
                Tone::Plain => state,
                Tone::Well => easel.paint.green(&state),
                Tone::Wary => easel.paint.yellow(&state),
                Tone::Wrong => easel.paint.red(&state),
                Tone::Absent => easel.paint.dim(&state),
            };
            Line { text: format!("{start}{state}"), width: line_width }
        })
        .collect()
}

impl Easel {
    /// One line, cut in the middle where it is too long.
    pub(crate) fn line(&self, text: &str) -> Line {
        let text = self.glyphs.shown(text);
        let text = self.columns.map_or(text.clone(), |columns| self.glyphs.middle(&text, columns));
        Line { width: width(&text), text }
    }

    /// A text in as many lines as it takes.
    pub(crate) fn paragraph(&self, text: &str) -> Vec<Line> {
        let text = self.glyphs.shown(text);
        let lines = self.columns.map_or(vec![text.clone()], |columns| wrapped(&text, columns));
        lines.into_iter().map(|text| Line { width: width(&text), text }).collect()
    }

    /// `, last seen 3 h ago`.
    fn last_seen(&self, millis: &Value) -> String {
        match millis.as_u64().filter(|millis| *millis > 0) {
            None => String::new(),
            Some(millis) => format!(", last seen {}", ago(millis, self.now_millis)),
        }
    }
}

/// `now`, `3 s ago`, `3 h ago`.
pub(crate) fn ago(then_millis: u64, now_millis: u64) -> String {
    match now_millis.saturating_sub(then_millis) / 1000 {
        0..=1 => "now".into(),
        seconds => format!("{} ago", span(seconds)),
    }
}

/// A length of time in its largest unit: `3 s`, `3 min`, `3 h`, `3 days`.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn number(value: &Value) -> String {
    value.as_u64().map_or("-".into(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn easel(columns: Option<usize>, glyphs: Glyphs) -> Easel {
        Easel { columns, glyphs, paint: Paint::none(), now_millis: NOW }
    }

    fn source(name: &str) -> Value {
        let mut changes = vec![0; SPANS];
        (changes[3], changes[19]) = (40, 10);
        json!({
            "source": name, "revision": 12, "records": 3000, "outbox": 0, "here": true, "running": true, "conflicts": 1,
            "conflicts_open": 1, "counts_complete": true, "throughput": { "span_seconds": 30, "changes": changes },
        })
    }

    fn receiver(name: &str, of: &str, revision: u64) -> Value {
        let lag = 12 - revision;
        json!({
            "receiver": name, "source": of, "revision": revision, "lag": lag, "lag_seconds": lag * 2, "here": true,
            "running": true, "gone": false, "seen_millis": NOW,
        })
    }

    fn gone(mut receiver: Value) -> Value {
        receiver["gone"] = true.into();
        receiver["seen_millis"] = (NOW - 3 * HOUR).into();
        receiver
    }

    fn found(sources: Vec<Value>, receivers: Vec<Value>) -> Value {
        json!({ "bus": { "url": "nats://127.0.0.1:4222" }, "sources": sources, "receivers": receivers })
    }

    fn shop() -> Value {
        let mut far = receiver("oslo", "people", 10);
        far["here"] = false.into();
        far["dead_letters"] = 2.into();
        found(vec![source("people")], vec![receiver("crm", "people", 12), gone(receiver("mailing", "people", 9)), far])
    }

    fn check(found: &Value, easel: Easel, expected: &[&str]) {
        let lines: Vec<_> =
            picture(found, &easel, None).into_iter().map(|line| line.text.trim_end().to_owned()).collect();
        assert_eq!(lines, expected, "\n{}", lines.join("\n"));
    }

    #[test]
    fn all_fits_into_80_columns() {
        check(
            &shop(),
            easel(Some(80), Glyphs::UNICODE),
            &[
                "bus nats://127.0.0.1:4222",
                "",
                "SOURCE  REVISION  RECORDS  WAITING  CHANGES IN 10 MIN        STATE",
                "people        12     3000        0  ▁▁▁█▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▃ 50  1 conflict (1",
                "                                                             open), running",
                "",
                "RECEIVER  SOURCE  REVISION  LAG          STATE",
                "crm       people        12  0            running",
                "mailing   people         9  3 sets, 6 s  gone, last seen 3 h ago",
                "oslo      people        10  2 sets, 4 s  2 dead letters, running elsewhere",
            ],
        );
    }

    #[test]
    fn what_matters_fits_into_40_columns() {
        check(
            &shop(),
            easel(Some(40), Glyphs::ASCII),
            &[
                "bus nats://127.0.0.1:4222",
                "",
                "SOURCE  REVISION  STATE",
                "people        12  1 conflict (1 open),",
                "                  running",
                "",
                "RECEIVER  LAG          STATE",
                "crm       0            running",
                "mailing   3 sets, 6 s  gone, last seen 3",
                "                       h ago",
                "oslo      2 sets, 4 s  2 dead letters,",
                "                       running elsewhere",
            ],
        );
    }

    #[test]
    fn where_unicode_is_not_shown_ascii_is() {
        let found = found(vec![source("people")], Vec::new());
        let lines = picture(&found, &easel(Some(80), Glyphs::ASCII), None);
        assert!(lines.iter().all(|line| line.text.is_ascii()), "{lines:?}");
        assert!(lines.iter().any(|line| line.text.contains("___#_") && line.text.contains("_: 50")), "{lines:?}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_whatever_is_in_it() {
        let long = "a".repeat(64);
        let texts = [
            "the disk is full".to_owned(),
            "東京支店の顧客名簿が読めません".repeat(9),
            format!("/very/{}/long", "x".repeat(300)),
            "\u{1b}[2Jevil\u{7}\u{200d}👨‍👩‍👧‍👦 e\u{301}".repeat(5),
            "🏳️‍🌈❤️".repeat(30),
        ];
        for text in texts {
            let mut one = source(&long);
            (one["held"], one["error"], one["active"]) =
                (text.as_str().into(), text.as_str().into(), text.as_str().into());
            one["standbys"] = json!([text, text]);
            let mut other = gone(receiver(&long, &long, 1));
            (other["error"], other["lag"]) = (text.as_str().into(), u64::MAX.into());
            (other["drift"], other["pending"]) = (u64::MAX.into(), u64::MAX.into());
            // Names are ASCII today; tables don't rely on it.
            let found = json!({
                "bus": { "url": text }, "sources": [one, source(&text), source("a")],
                "receivers": [other, receiver(&text, &text, 3), receiver("b", "a", 12)],
            });
            for columns in [20, 40, 79, 80, 81, 200] {
                for glyphs in [Glyphs::UNICODE, Glyphs::ASCII] {
                    for line in picture(&found, &easel(Some(columns), glyphs), None) {
                        assert_eq!(line.width, width(&line.text), "{line:?}");
                        assert!(line.width <= columns, "{} of {columns}: {line:?}", line.width);
                        assert!(!line.text.contains('\u{1b}') && !line.text.contains('\u{7}'), "{line:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_name_is_cut_in_the_middle_and_whole_where_there_is_no_limit() {
        let name = "warehouse-of-the-northern-region-with-a-rather-long-name-1";
        let found = found(vec![source("people")], vec![receiver(name, "people", 12)]);
        let text = |columns| {
            let lines = picture(&found, &easel(columns, Glyphs::UNICODE), None);
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>().join("\n")
        };
        assert!(text(None).contains(name));
        let cut = text(Some(60));
        assert!(
            !cut.contains(name) && cut.contains("warehouse-of") && cut.contains("…") && cut.contains("name-1"),
            "{cut}"
        );
    }

    #[test]
    fn where_there_are_too_many_those_are_shown_that_somebody_should_look_at() {
        let mut receivers: Vec<_> = (0..500).map(|at| receiver(&format!("r{at}"), "people", 12)).collect();
        receivers[400] = gone(receiver("lost", "people", 11));
        receivers[450] = receiver("slow", "people", 2);
        let found = found(vec![source("people")], receivers);
        let lines = picture(&found, &easel(Some(80), Glyphs::UNICODE), Some(24));
        let text: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        assert!(lines.len() <= 24, "{}\n{}", lines.len(), text.join("\n"));
        for part in ["lost", "slow", "of all 500, 2 are behind, 1 gone"] {
            assert!(text.iter().any(|line| line.contains(part)), "{part}\n{}", text.join("\n"));
        }
    }

    #[test]
    fn colours_take_no_room() {
        let plain = easel(Some(60), Glyphs::UNICODE);
        let painted = Easel { paint: Paint::always(), ..plain };
        let widths = |easel| picture(&shop(), &easel, None).into_iter().map(|line| line.width).collect::<Vec<_>>();
        assert_eq!(widths(plain), widths(painted));
        assert!(picture(&shop(), &painted, None).iter().any(|line| line.text.contains("\x1b[32m")));
        assert!(picture(&shop(), &plain, None).iter().all(|line| !line.text.contains('\x1b')));
    }

    #[test]
    fn an_empty_world_says_how_to_begin() {
        let found = json!({ "bus": { "url": null }, "sources": [], "receivers": [] });
        check(
            &found,
            easel(Some(80), Glyphs::UNICODE),
            &["the local bus is not running", "no sources yet; `deltabus transmit NAME LOCATION` makes one"],
        );
    }

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        for (seconds, text) in [
            (0, "now"),
            (1, "now"),
            (2, "2 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7_200, "2 h ago"),
            (172_800, "2 days ago"),
        ] {
            assert_eq!(ago(NOW - seconds * 1000, NOW), text);
        }
        assert_eq!(ago(NOW + 5_000, NOW), "now");
    }
}
