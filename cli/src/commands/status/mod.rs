//! `deltabus status`: sources and receivers, how far they are and what is wrong.

mod course;
mod look;
mod picture;

pub(crate) mod arrival;

use std::io::{self, Write};
use std::time::Duration;

use deltabus_record::schema::SourceName;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use arrival::Arrival;
pub(crate) use look::Looker;
use picture::{Easel, picture};

use crate::arguments::{Global, Status};
use crate::error::{Error, Exit};
use crate::moment::now_millis;
use crate::output::Paint;
use crate::session;
use crate::terminal::{self, Glyphs, Line, Screen};

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);

/// ctrl-z: the same number on every system that has it.
const TERMINAL_STOP: i32 = 20;

/// Runs the command.
pub(crate) async fn status(global: &Global, options: Status) -> Result<Exit, Error> {
    let state = session::state(global)?;
    let mut looker = Looker::new(global, &state);
    let only = options.source.as_ref();
    if let Some(revision) = options.revision {
        return arrived(&mut looker, only, revision, options.json).await;
    }
    if options.watch {
        return watch(&mut looker, &options).await;
    }
    let found = looker.look(only).await?;
    known(&found, only)?;
    show(&found, &options)?;
    Ok(Exit::Done)
}

/// Fails where a source is named that nobody knows.
fn known(found: &Value, only: Option<&SourceName>) -> Result<(), Error> {
    let Some(name) = only else { return Ok(()) };
    let there = found["sources"].as_array().is_some_and(|sources| !sources.is_empty());
    if there {
        Ok(())
    } else {
        Err(Error::Config(format!("there is no source `{name}`; `deltabus status` lists those there are")))
    }
}

/// Prints what was found, once.
fn show(found: &Value, options: &Status) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{found}")?;
    } else {
        for line in picture(found, &easel(terminal::size().map(|size| size.columns)), None) {
            writeln!(out, "{}", line.text.trim_end())?;
        }
    }
    Ok(out.flush()?)
}

fn easel(columns: Option<usize>) -> Easel {
    Easel { columns, glyphs: Glyphs::here(), paint: Paint::for_stdout(), now_millis: now_millis() }
}

/// Shows it again and again: in place on a terminal, one after the other elsewhere. Ends by a signal, or when nobody reads.
async fn watch(looker: &mut Looker<'_>, options: &Status) -> Result<Exit, Error> {
    let listen =
        |kind| signal(kind).map_err(|source| Error::Io { doing: "listen for", path: "signals".into(), source });
    let mut ends = [
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
        listen(SignalKind::hangup())?,
        listen(SignalKind::quit())?,
    ];
    let mut resized = listen(SignalKind::window_change())?;
    let mut suspended = listen(SignalKind::from_raw(TERMINAL_STOP))?;
    // What can't be had at all is an error, before anything is drawn.
    let found = looker.look(options.source.as_ref()).await?;
    known(&found, options.source.as_ref())?;
    let mut screen = match terminal::size() {
        Some(_) if !options.json => Some(Screen::enter()?),
        _ => None,
    };
    let mut found = Ok(found);
    loop {
        match &mut screen {
            Some(screen) => draw(screen, &found, options)?,
            None => {
                show(found.as_ref().map_err(|problem: &String| Error::Trouble(problem.clone()))?, options)?;
            }
        }
        let next = Instant::now() + WATCH;
        let looked = async {
            tokio::time::sleep_until(next).await;
            looker.look(options.source.as_ref()).await
        };
        tokio::pin!(looked);
        let [interrupt, terminate, hangup, quit] = &mut ends;
        found = loop {
            tokio::select! {
                biased;
                _ = interrupt.recv() => return Ok(Exit::Done),
                _ = terminate.recv() => return Ok(Exit::Done),
                _ = hangup.recv() => return Ok(Exit::Done),
                _ = quit.recv() => return Ok(Exit::Done),
                _ = resized.recv(), if screen.is_some() => {}
                _ = suspended.recv() => match &mut screen {
                    Some(screen) => screen.suspend()?,
                    None => terminal::stop(),
                },
                looked = &mut looked => match looked {
                    Ok(found) => break Ok(found),
                    // On a terminal somebody looks, and it may pass.
                    Err(error) if screen.is_some() => break Err(error.in_one_line()),
                    Err(error) => return Err(error),
                },
            }
            if let Some(screen) = &mut screen {
                draw(screen, &found, options)?;
            }
        };
    }
}

/// Draws what was found, or why nothing was.
fn draw(screen: &mut Screen, found: &Result<Value, String>, options: &Status) -> Result<(), Error> {
    let Some(size) = terminal::size() else { return Ok(()) };
    let easel = easel(Some(size.columns));
    let mut lines = match found {
        Ok(found) => picture(found, &easel, Some(size.rows)),
        Err(problem) => {
            let name = options.source.as_ref().map(|source| format!("{source}: ")).unwrap_or_default();
            easel.paragraph(&format!("{name}{problem}; looking again"))
        }
    };
    lines.truncate(size.rows);
    screen.draw(&lines, size)
}

/// Says where a revision has arrived.
async fn arrived(
    looker: &mut Looker<'_>,
    only: Option<&SourceName>,
    revision: u64,
    as_json: bool,
) -> Result<Exit, Error> {
    let found = looker.look(only).await?;
    known(&found, only)?;
    let names: Vec<&str> =
        found["sources"].as_array().into_iter().flatten().filter_map(|source| source["source"].as_str()).collect();
    let name = match names.as_slice() {
        [] => return Err(Error::Config("no sources yet; `deltabus transmit NAME LOCATION` makes one".into())),
        [one] => SourceName::new(one).map_err(|error| Error::Config(error.to_string()))?,
        several => {
            return Err(Error::Config(format!("of which source? Name one: {}", several.join(", "))));
        }
    };
    // Whoever was called by that look has answered.
    let arrival = Arrival { source: name.clone(), revision, receivers: looker.receivers(&name).await? };
    let source = &found["sources"][0];
    let published = source["published"].as_u64().or(source["revision"].as_u64()).unwrap_or(0) >= revision;
    let mut out = io::stdout().lock();
    if as_json {
        let mut object = arrival.to_json();
        object["published"] = published.into();
        writeln!(out, "{object}")?;
    } else {
        for line in arrival_picture(&arrival, published) {
            writeln!(out, "{}", line.text.trim_end())?;
        }
    }
    out.flush()?;
    Ok(if published && arrival.is_everywhere() { Exit::Done } else { Exit::Differs })
}

fn arrival_picture(arrival: &Arrival, published: bool) -> Vec<Line> {
    let easel = easel(terminal::size().map(|size| size.columns));
    let (source, revision) = (&arrival.source, arrival.revision);
    let what = match (published, arrival.receivers.is_empty()) {
        (false, _) => format!("{source}: revision {revision} is not published yet"),
        (true, true) => format!("{source}: no receiver is known"),
        (true, false) if arrival.is_everywhere() => format!("{source}: revision {revision} is everywhere"),
        (true, false) => format!("{source}: revision {revision} is not everywhere yet"),
    };
    let mut lines = easel.paragraph(&what);
    if !arrival.receivers.is_empty() {
        lines.push(Line::default());
        lines.extend(picture::arrivals_table(arrival.rows(), &easel));
    }
    lines
}
