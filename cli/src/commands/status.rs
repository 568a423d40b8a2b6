//! `deltabus status`: sources and receivers, how far they are and what is wrong.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{Table, TableStyle};
use deltabus_bus::{Event, Log, Position, Reader, lease};
use deltabus_record::text::printable;
use deltabus_state::{StateDirectory, is_busy, read_status};
use serde_json::{Value, json};

use crate::arguments::{Global, Status};
use crate::commands::cases::CaseCounter;
use crate::error::{Error, Exit};
use crate::output::counted;
use crate::session;

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);

/// Runs the command.
pub(crate) async fn status(global: &Global, options: Status) -> Result<Exit, Error> {
    let state = session::state(global)?;
    let mut cases = CaseCounter::default();
    loop {
        let found = gather(global, &state, &mut cases).await?;
        if options.json {
            println!("{found}");
        } else {
            if options.watch {
                // Home, and clear what follows: redrawn in place.
                print!("\x1b[H\x1b[J");
            }
            print!("{}", render(&found));
            std::io::stdout().flush()?;
        }
        if !options.watch {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Everything known here, and how far the bus is.
async fn gather(global: &Global, state: &StateDirectory, cases: &mut CaseCounter) -> Result<Value, Error> {
    let running = session::local_bus(state).status();
    // Looking at the status starts nothing.
    let mut names: Vec<_> = state.sources()?;
    names.extend(state.receivers()?.into_iter().map(|(source, _)| source));
    let brokers = match (&global.bus, &running) {
        (None, None) if global.manager.is_none() => None,
        _ => Some(session::any_bus(global, state, &names).await?),
    };
    if let Some(bus) = &brokers {
        names.extend(bus.sources().await?);
    }
    let url = brokers.as_ref().and_then(session::Bus::url);
    let bus = match (&global.bus, &running) {
        _ if global.manager.is_some() => json!({ "url": global.manager, "local": false, "running": true }),
        (Some(_), _) => json!({ "url": url, "local": false, "running": true }),
        (None, Some(running)) => json!({ "url": running.url, "local": true, "running": true, "pid": running.pid }),
        (None, None) => json!({ "url": null, "local": true, "running": false }),
    };
    names.sort();
    names.dedup();
    let mut sources = Vec::new();
    let mut receivers = Vec::new();
    for name in names {
        let folder = state.source_folder(&name);
        let own = read_status(&folder).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let mut source = own.unwrap_or_else(|| json!({ "source": name.as_str() }));
        let mut revision = source["revision"].as_u64().unwrap_or(0);
        source["here"] = folder.is_dir().into();
        source["running"] = is_busy(&folder).into();
        if let Some(broker) = &brokers
            && let Some(broker) = broker.known(&name).await?
        {
            let log = Log::new(broker, name.clone());
            // There only where somebody stands by, or did.
            let lease = lease::find(&log).await?;
            source["active"] = lease.holder().into();
            if let Some(position) = log_end(&log).await {
                revision = revision.max(position.revision.number);
                source["published"] = position.revision.number.into();
            }
            if let Ok(cases) = cases.count(&log).await {
                source["conflicts"] = cases.conflicts.into();
                source["conflicts_open"] = cases.open.into();
                source["dead_letters"] = cases.refused.into();
                source["counts_complete"] = cases.complete.into();
            }
        }
        for (_, receiver) in state.receivers()?.into_iter().filter(|(of, _)| *of == name) {
            let folder = state.receiver_folder(&name, &receiver);
            let own = read_status(&folder).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            let mut entry = own.unwrap_or_else(|| json!({ "source": name.as_str(), "receiver": receiver.as_str() }));
            let at = entry["revision"].as_u64().unwrap_or(0);
            entry["lag"] = revision.saturating_sub(at).into();
            entry["running"] = is_busy(&folder).into();
            receivers.push(entry);
        }
        sources.push(source);
    }
    Ok(json!({ "bus": bus, "sources": sources, "receivers": receivers }))
}

/// How far a log is.
async fn log_end(log: &Log) -> Option<Position> {
    let manifest = deltabus_bus::pointer(log).await.ok()??;
    let mut reader = Reader::at(log, manifest.position);
    loop {
        match reader.next_stored().await.ok()? {
            Event::Set(_) => {}
            Event::CaughtUp(position) => return Some(position),
            Event::Rejoin(_) => return None,
        }
    }
}

fn render(found: &Value) -> String {
    let mut text = String::new();
    let bus = &found["bus"];
    match bus["url"].as_str() {
        Some(url) => text.push_str(&format!("bus {url}\n")),
        None => text.push_str("the local bus is not running\n"),
    }
    let empty = Vec::new();
    let sources = found["sources"].as_array().unwrap_or(&empty);
    let receivers = found["receivers"].as_array().unwrap_or(&empty);
    if sources.is_empty() {
        text.push_str("no sources yet; `deltabus transmit NAME LOCATION` makes one\n");
        return text;
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(["SOURCE", "REVISION", "RECORDS", "WAITING", "STATE", "SEEN"]);
    for source in sources {
        let revision = source["revision"].as_u64().or(source["published"].as_u64());
        table.add_row([
            string(&source["source"]),
            number(&json!(revision)),
            number(&source["records"]),
            number(&source["outbox"]),
            state_of(source, source["here"].as_bool() == Some(true)),
            age(&source["time_millis"]),
        ]);
    }
    text.push_str(&format!("\n{table}\n"));
    if !receivers.is_empty() {
        let mut table = Table::new();
        table.load_style(TableStyle::new()).set_header(["RECEIVER", "SOURCE", "REVISION", "LAG", "STATE", "SEEN"]);
        for receiver in receivers {
            table.add_row([
                string(&receiver["receiver"]),
                string(&receiver["source"]),
                number(&receiver["revision"]),
                number(&receiver["lag"]),
                state_of(receiver, true),
                age(&receiver["time_millis"]),
            ]);
        }
        text.push_str(&format!("\n{table}\n"));
    }
    for entry in sources.iter().chain(receivers) {
        let name = entry["receiver"].as_str().or(entry["source"].as_str()).unwrap_or_default();
        let standbys: Vec<_> = entry["standbys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let running = entry["running"].as_bool() == Some(true);
        if let Some(active) = entry["active"].as_str() {
            text.push_str(&format!("\n{name}: {} is active", printable(active)));
            if running && !standbys.is_empty() {
                text.push_str(&format!("; standing by: {}", printable(&standbys.join("; "))));
            }
            text.push('\n');
        }
        if let Some(held) = entry["held"].as_str() {
            text.push_str(&format!("\n{name}: held back: {held}; `deltabus confirm {name}` lets it go\n"));
        }
        if let Some(error) = entry["error"].as_str() {
            text.push_str(&format!("\n{name}: {error}\n"));
        }
    }
    text
}

fn state_of(entry: &Value, here: bool) -> String {
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
    parts.push(match (here, entry["running"].as_bool()) {
        (false, _) => "elsewhere".into(),
        (true, Some(true)) if entry["stands_by_for"].is_string() => "standing by".into(),
        (true, Some(true)) => "running".into(),
        (true, _) => "not running".into(),
    });
    parts.join(", ")
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn number(value: &Value) -> String {
    value.as_u64().map_or("-".into(), |number| number.to_string())
}

fn age(millis: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    match millis.as_u64().map(|then| now.saturating_sub(then) / 1000) {
        None => "-".into(),
        Some(0..=1) => "now".into(),
        Some(seconds @ 2..=119) => format!("{seconds} s ago"),
        Some(seconds @ 120..=7199) => format!("{} min ago", seconds / 60),
        Some(seconds @ 7200..=172_799) => format!("{} h ago", seconds / 3600),
        Some(seconds) => format!("{} days ago", seconds / 86_400),
    }
}
