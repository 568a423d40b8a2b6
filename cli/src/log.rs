//! Log lines on standard error: for people, or one JSON object each.
//!
//! A line has a time (RFC 3339, UTC), a level, a message that is always the same for the same event, and fields. What comes from
//! elsewhere, an error's text or a record's key, is only ever in a field: cut at a length, and without anything that a terminal
//! would obey. A process may serve many sources: what it does for one runs in a span whose fields, source and receiver, stand in
//! each of its lines.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};

use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_record::text::{is_obeyed, printable};
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::arguments::{Global, LogFormat};

/// What a field's text is cut at: errors quote what they complain about.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// The same of a dead letter that somebody drops: the log is the last place that has it.
const LETTER_BYTES_MAX: usize = 256 * 1024;
const LETTER: &str = "letter";

/// What the environment says of which lines are wanted, by module too: `deltabus_receiver=debug,warn`. It wins over `-v` and `-q`.
const FILTER: &str = "DELTABUS_LOG";

/// What is logged where nobody asks for more or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// The command runs until it is stopped.
    GoesOn,
    /// It ends, and says what it did on standard output.
    Ends,
    /// It tells a story in which what goes against somebody's wishes has its place.
    Tells,
}

/// Starts logging to standard error.
pub(crate) fn start(global: &Global, habit: Habit) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => match habit {
            Habit::GoesOn => "warn,deltabus=info",
            Habit::Ends => "warn",
            Habit::Tells => "error",
        },
        (false, 1) => {
            "info,deltabus=debug,deltabus_transmitter=debug,deltabus_receiver=debug,deltabus_bus=debug,deltabus_manager=debug"
        }
        (false, _) => "debug",
    };
    // What libraries say of their insides, headers of calls among it, is nobody's business.
    const LIBRARIES: &str = "fjall=error,lsm_tree=error,async_nats=error,h2=error,hyper=error,hyper_util=error,tower=error,tonic=error,rustls=error,opentelemetry=error,opentelemetry_sdk=error,opentelemetry_otlp=error";
    let given = std::env::var(FILTER).ok().filter(|given| !given.is_empty());
    let filter = match &given {
        Some(given) => EnvFilter::try_new(format!("{LIBRARIES},{given}")).map_err(|error| {
            // Whatever it was to be: that nothing is said would be the worst.
            eprintln!("deltabus: {FILTER} is no filter, and ignored: {}", printable(&error.to_string()));
        }),
        None => Err(()),
    };
    let filter = filter.unwrap_or_else(|()| EnvFilter::new(format!("{level},{LIBRARIES}")));
    let form = match global.log_format {
        LogFormat::Json => Form::Json,
        LogFormat::Text if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() => Form::Coloured,
        LogFormat::Text => Form::Plain,
    };
    // A second start, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(Lines { form }).try_init();
}

/// What a transmitter does: each line says of which source.
pub(crate) fn of_source(source: &SourceName) -> tracing::Span {
    // Wanted whatever lines are: of this level it is made under every filter.
    tracing::error_span!("transmitter", %source)
}

/// What a receiver does: each line says of which source, and which receiver.
pub(crate) fn of_receiver(source: &SourceName, receiver: &ReceiverName) -> tracing::Span {
    tracing::error_span!("receiver", %source, %receiver)
}

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Coloured,
    Json,
}

/// Writes each event as a line.
struct Lines {
    form: Form,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(around) = span.extensions().get::<Fields>() {
                around.0.iter().for_each(|(name, value)| fields.put_new(name, value));
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        fields.0.retain(|name, _| !own.0.contains_key(name));
        own.0.append(&mut fields.0);
        let line = self.line(&jiff::Timestamp::now(), *event.metadata().level(), own);
        // Nobody is left to be told that standard error is gone.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

impl Lines {
    fn line(&self, time: &jiff::Timestamp, level: Level, mut fields: Fields) -> String {
        // Always as many digits, so that lines sort.
        let time = format!("{time:.6}");
        if self.form == Form::Json {
            return format!("{}\n", json!({ "timestamp": time, "level": level.as_str(), "fields": fields.0 }));
        }
        let message = match fields.0.shift_remove(MESSAGE) {
            Some(Value::String(message)) => message,
            _ => String::new(),
        };
        let dim = |text: &str| match self.form {
            Form::Coloured => format!("\x1b[2m{text}\x1b[0m"),
            _ => text.to_owned(),
        };
        let shown = match (self.form, level) {
            (Form::Coloured, Level::ERROR) => "\x1b[31mERROR\x1b[0m".to_owned(),
            (Form::Coloured, Level::WARN) => "\x1b[33m WARN\x1b[0m".to_owned(),
            (Form::Coloured, Level::INFO) => "\x1b[32m INFO\x1b[0m".to_owned(),
            (_, level) => format!("{level:>5}"),
        };
        let mut line = format!("{} {shown} {}", dim(&time), printable(&message));
        for (name, value) in &fields.0 {
            let _ = write!(line, " {}{}", dim(&format!("{name}=")), shown_value(value));
        }
        line.push('\n');
        line
    }
}

/// A value for people: text in quotes where its end would not be seen.
fn shown_value(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let plain = !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c == '"' || is_obeyed(c));
            if plain { text.clone() } else { format!("\"{}\"", printable(text).replace('"', "\\\"")) }
        }
        other => other.to_string(),
    }
}

const MESSAGE: &str = "message";

/// The fields of a line, the message among them.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }

    fn put_new(&mut self, name: &str, value: &Value) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), value.clone());
        }
    }

    fn put_text(&mut self, field: &Field, text: &str) {
        let bytes_max = if field.name() == LETTER { LETTER_BYTES_MAX } else { TEXT_BYTES_MAX };
        let mut kept = text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text).to_owned();
        if kept.len() < text.len() {
            kept.push('…');
        }
        self.put(field, Value::String(kept));
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(form: Form, fields: Value) -> String {
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        let time = jiff::Timestamp::from_microsecond(1_700_000_000_000_000).expect("a time");
        Lines { form }.line(&time, Level::WARN, Fields(fields))
    }

    #[test]
    fn a_line_for_people_has_nothing_in_it_that_a_terminal_obeys() {
        let hostile = "a\u{1b}]0;title\u{7}\nb\u{202e}c \"d\"";
        let said = line(Form::Plain, json!({ "message": "a set is taken", "error": hostile, "revision": 7 }));
        assert_eq!(
            said,
            "2023-11-14T22:13:20.000000Z  WARN a set is taken error=\"a\\u{1b}]0;title\\u{7}\\nb\\u{202e}c \\\"d\\\"\" revision=7\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object_with_numbers_as_numbers() {
        let said = line(Form::Json, json!({ "message": "a set is taken", "error": "a\nb", "revision": 7 }));
        assert_eq!(said.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&said).expect("it is JSON");
        assert_eq!(
            read,
            json!({
                "timestamp": "2023-11-14T22:13:20.000000Z", "level": "WARN",
                "fields": { "message": "a set is taken", "error": "a\nb", "revision": 7 },
            })
        );
    }
}
