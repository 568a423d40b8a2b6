//! Inputs that are small or plain, and would take all memory or time of whoever isn't careful: each is refused or read within
//! the allowance.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use deltabus_fuzz::TARGETS;
use deltabus_fuzz::allowance::{self, Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One at a time: what is measured is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// How much there is of what there is too much of.
const MANY: usize = 200_000;

/// Where each of many has a name of its own, or a line.
const NAMED: usize = 4_000;

/// Gives each input, behind its options, to a target.
fn check(target: &str, options: &[u8], bombs: &[(&str, String)]) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = TARGETS.iter().find(|it| it.name == target).expect("a target");
    (target.run)(&[]);
    for (name, bomb) in bombs {
        let input = [options, bomb.as_bytes()].concat();
        let mut outcome = Ok(());
        let taken = allowance::measured(|| outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))));
        println!("{} {name}: {} bytes, {taken:?}", target.name, input.len());
        assert!(outcome.is_ok(), "{}, {name}: it panics", target.name);
        assert!(taken.bytes <= allowance::BYTES_MAX, "{}, {name}: {taken:?}", target.name);
        assert!(taken.time <= allowance::TIME_MAX, "{}, {name}: {taken:?}", target.name);
    }
}

fn numbered(count: usize, each: impl Fn(usize) -> String) -> String {
    (0..count).map(each).collect()
}

#[test]
fn json_text() {
    check(
        "json",
        &[],
        &[
            ("lists in lists", "[".repeat(MANY)),
            ("maps in maps", "{\"a\":".repeat(MANY)),
            ("tags in tags", "{\"$deltabus\":\"map\",\"value\":".repeat(MANY)),
            ("digits", "1".repeat(MANY)),
            ("zeros", format!("0.{}1", "0".repeat(MANY))),
            ("an exponent", "1e999999999999999999".into()),
            ("an exponent that a scale has", "1e2147483647".into()),
            ("members", format!("{{{}\"\":0}}", numbered(MANY, |at| format!("\"{at}\":0,")))),
            ("escapes", format!("\"{}\"", "\\ud83d\\ude00".repeat(MANY / 4))),
            ("an open text", format!("\"{}", "a".repeat(MANY))),
        ],
    );
}

#[test]
fn text_of_every_kind() {
    for kind in 0..16 {
        check(
            "text",
            &[kind],
            &[
                ("digits", "9".repeat(MANY)),
                ("digits that may be", "9".repeat(149_000)),
                ("a fraction", format!("0.{}", "3".repeat(70_000))),
                ("an exponent", "1e-2147483647".into()),
                ("a year", format!("+{}-01-01", "9".repeat(MANY))),
                ("seconds", format!("00:00:00.{}", "9".repeat(MANY))),
                ("hours", "99999999:59:59".into()),
                ("the last instant", "+292277026596-12-04T15:30:07Z".into()),
                ("beyond the last instant", "+999999999999-12-04T15:30:08-99:59".into()),
                ("base64", "AAAA".repeat(MANY)),
                ("a list", "[[[".repeat(MANY)),
            ],
        );
    }
}

#[test]
fn csv_files() {
    let plain = [0, 0, 0, 0, 0, 0, 0, 1, 0, 3];
    let inferred = [0, 0, 1, 0, 0, 0, 0, 1, 0, 3];
    for options in [plain, inferred] {
        check(
            "csv",
            &options,
            &[
                ("a quote that is never closed", format!("a,b\n1,\"{}", "x\n".repeat(MANY))),
                ("nothing but quotes", "\"".repeat(MANY)),
                ("quotes inside text", format!("a\n{}", "x\"".repeat(MANY))),
                ("columns", numbered(MANY / 4, |at| format!("{at},"))),
                ("columns without names", ",".repeat(MANY)),
                ("a row of too many cells", format!("a,b\n{}", ",".repeat(MANY))),
                ("blank lines", "\n".repeat(MANY)),
                ("carriage returns", "\r".repeat(MANY)),
                ("one cell", "x".repeat(4 * MANY)),
                ("digits", format!("a\n{}\n", "7".repeat(20_000)).repeat(4)),
                ("exponents", format!("a\n{}", "1e999999999\n".repeat(NAMED))),
            ],
        );
    }
}

#[test]
fn json_files() {
    let array = [0, 5, 0, 3];
    check(
        "json_file",
        &array,
        &[
            ("lists in lists", "[".repeat(MANY)),
            ("lists in a record", format!("[{{\"a\":{}", "[".repeat(MANY))),
            ("members", format!("[{{{}\"\":0}}]", numbered(NAMED, |at| format!("\"{at}\":0,")))),
            ("a member each", format!("[{}{{}}]", numbered(NAMED / 8, |at| format!("{{\"{at}\":0}},")))),
            ("one member twice", format!("[{{{}\"a\":0}}]", "\"a\":0,".repeat(MANY))),
            ("digits", format!("[{{\"a\":{}}}]", "1".repeat(4 * MANY))),
            ("empty records", format!("[{}{{}}]", "{},".repeat(NAMED))),
            ("white space", format!("[{}]", " \n".repeat(4 * MANY))),
        ],
    );
    let tables = [5, 5, 0, 3];
    check(
        "json_file",
        &tables,
        &[("tables", format!("{{{}\"\":[]}}", numbered(NAMED, |at| format!("\"{at}\":[{{}}],"))))],
    );
    let lines = [9, 5, 0, 3];
    check("json_file", &lines, &[("records", numbered(NAMED, |at| format!("{{\"id\":{at}}}\n")))]);
}

fn card(lines: &str) -> String {
    format!("BEGIN:VCARD\r\nVERSION:4.0\r\nFN:x\r\n{lines}END:VCARD\r\n")
}

#[test]
fn cards() {
    check(
        "vcard",
        &[0, 0, 13, 0, 1],
        &[
            ("a folded line", card(&format!("NOTE:a\r\n{}", " b\r\n".repeat(MANY)))),
            ("folds of nothing", card(&format!("NOTE:a\r\n{}", " \r\n".repeat(MANY)))),
            ("properties", card(&numbered(NAMED, |at| format!("X-P{at}:v\r\n")))),
            ("properties of a field", card(&numbered(NAMED, |at| format!("EMAIL:{at}\r\n")))),
            ("parameters", card(&format!("EMAIL;{}X=1:v\r\n", numbered(NAMED, |at| format!("X{at}=1;"))))),
            ("types", card(&format!("EMAIL;TYPE={}:v\r\n", "a,".repeat(MANY)))),
            ("parts", card(&format!("N:{}\r\n", "a,b;".repeat(MANY)))),
            ("groups", card(&numbered(NAMED, |at| format!("g{at}.TEL:1\r\ng{at}.X-ABLABEL:x\r\n")))),
            ("cards in cards", "BEGIN:VCARD\r\nVERSION:2.1\r\nAGENT:\r\n".repeat(NAMED)),
            (
                "cards in cards that end",
                format!("{}{}", "BEGIN:VCARD\r\nVERSION:2.1\r\nAGENT:\r\n".repeat(500), "END:VCARD\r\n".repeat(500)),
            ),
            ("cards of one name", card("").repeat(NAMED / 4)),
            ("cards of one key", card("UID:1\r\n").repeat(NAMED / 4)),
            ("base64", card(&format!("PHOTO;ENCODING=b:{}\r\n", "AAAA".repeat(MANY)))),
            ("quoted-printable", card(&format!("NOTE;ENCODING=QUOTED-PRINTABLE:{}\r\n", "=\r\n".repeat(MANY)))),
            ("escapes", card(&format!("NOTE:{}\r\n", "\\n\\,".repeat(MANY)))),
            ("a field of our own", card(&format!("X-DELTABUS-FIELD;X-NAME=a;X-KIND=list:{}\r\n", "[".repeat(MANY)))),
            ("no end of lines", card("").replace("\r\n", "\n").repeat(10) + &"x".repeat(4 * MANY)),
        ],
    );
}

fn calendar(lines: &str) -> String {
    format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{lines}END:VCALENDAR\r\n")
}

fn event(lines: &str) -> String {
    calendar(&format!("BEGIN:VEVENT\r\nUID:1\r\nDTSTART:20240101T000000Z\r\n{lines}END:VEVENT\r\n"))
}

#[test]
fn calendars() {
    let each = |line: fn(usize) -> String| event(&numbered(NAMED, line));
    check(
        "icalendar",
        &[0, 21, 0, 1],
        &[
            (
                "a recurrence without end",
                event("RRULE:FREQ=SECONDLY\r\nRRULE:FREQ=SECONDLY;INTERVAL=0;COUNT=99999999999\r\n"),
            ),
            ("a recurrence until the last day", event("RRULE:FREQ=SECONDLY;UNTIL=99991231T235959Z\r\n")),
            ("parts of a recurrence", event(&format!("RRULE:FREQ=YEARLY;BYDAY={}MO\r\n", "-53MO,".repeat(MANY)))),
            ("exceptions", event(&format!("EXDATE:{}20240101\r\n", "20240101T000000Z,".repeat(MANY / 4)))),
            ("lines of exceptions", each(|_| "EXDATE:20240101T000000Z\r\n".into())),
            ("a long time", event("DURATION:P99999999999999999999W\r\nTRIGGER:-PT9999999999999999999999S\r\n")),
            ("a late time", event("DTEND:99999999T999999Z\r\nDUE;VALUE=DATE:00000000\r\n")),
            (
                "overrides",
                calendar(&numbered(NAMED / 4, |at| {
                    format!(
                        "BEGIN:VEVENT\r\nUID:1\r\nRECURRENCE-ID:2024010{}T{:06}Z\r\nEND:VEVENT\r\n",
                        at % 9 + 1,
                        at % 240_000
                    )
                })),
            ),
            ("events", calendar(&numbered(NAMED / 4, |at| format!("BEGIN:VEVENT\r\nUID:{at}\r\nEND:VEVENT\r\n")))),
            ("events without a key", calendar(&"BEGIN:VEVENT\r\nSUMMARY:x\r\nEND:VEVENT\r\n".repeat(NAMED / 4))),
            ("components in components", calendar(&"BEGIN:VEVENT\r\n".repeat(NAMED))),
            (
                "components in components that end",
                calendar(&format!(
                    "BEGIN:VEVENT\r\nUID:1\r\n{}{}END:VEVENT\r\n",
                    "BEGIN:X-A\r\n".repeat(NAMED),
                    "END:X-A\r\n".repeat(NAMED)
                )),
            ),
            ("alarms", each(|_| "BEGIN:VALARM\r\nTRIGGER:-PT1M\r\nEND:VALARM\r\n".into())),
            (
                "zones",
                calendar(&numbered(NAMED / 4, |at| {
                    format!(
                        "BEGIN:VTIMEZONE\r\nTZID:z{at}\r\nEND:VTIMEZONE\r\nBEGIN:VEVENT\r\nUID:{at}\r\nDTSTART;TZID=z{at}:20240101T000000\r\nEND:VEVENT\r\n"
                    )
                })),
            ),
            (
                "zones of one name",
                calendar(&numbered(NAMED / 4, |at| {
                    format!("BEGIN:VTIMEZONE\r\nTZID:z\r\nX-N:{at}\r\nEND:VTIMEZONE\r\n")
                })),
            ),
            ("properties", each(|at| format!("X-P{at}:v\r\n"))),
            ("a folded line", event(&format!("SUMMARY:a\r\n{}", " b\r\n".repeat(MANY)))),
            ("calendars", calendar("").repeat(NAMED / 4)),
        ],
    );
}

#[test]
fn what_people_type() {
    check(
        "location",
        &[],
        &[
            ("options", format!("csv:a.csv?{}", numbered(MANY, |at| format!("o{at}=1&")))),
            ("escapes", format!("csv:a.csv?key={}", "%41".repeat(MANY))),
            ("a key of many", format!("csv:a.csv?key={}", "a,".repeat(MANY))),
            ("hosts", format!("postgres://{}", "a:1,".repeat(MANY))),
        ],
    );
    check(
        "configuration",
        &[],
        &[
            ("lists in lists", format!("a = {}", "[".repeat(MANY))),
            ("tables in tables", format!("a = {}", "{a = ".repeat(MANY))),
            ("names in names", format!("{}a = 1", "a.".repeat(MANY))),
            ("tables", numbered(NAMED, |at| format!("[t{at}]\n"))),
            ("sources", "[[source]]\nname = \"a\"\nlocation = \"csv:a\"\n".repeat(NAMED)),
            (
                "a length of time",
                format!("[[source]]\nname = \"a\"\nlocation = \"csv:a\"\npoll = \"{}h\"", "9".repeat(400)),
            ),
        ],
    );
}

#[test]
fn what_a_server_sends() {
    check(
        "postgres",
        &[2],
        &[
            ("lists in lists", "[".repeat(MANY)),
            ("members", format!("{{{}\"\":0}}", numbered(MANY, |at| format!("\"{at}\":0,")))),
            ("a number with an exponent", "1e131071".into()),
            ("numbers with exponents", format!("[{}0]", "1e131071,".repeat(100))),
            ("a scale", "1e-16383".into()),
            ("bounds", format!("{}={{}}", "[0:1]".repeat(MANY))),
            ("types of types", format!("int4{}", "[]".repeat(MANY))),
        ],
    );
}
