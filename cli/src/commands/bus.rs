//! `deltabus bus`: the local bus, and watching any.

use deltabus_bus::monitor::Monitor;

use crate::arguments::{Bus, BusCommand, Global};
use crate::error::{Error, Exit};
use crate::output::bytes_text;
use crate::{figures, session};

/// Runs the command.
pub(crate) async fn bus(global: &Global, options: Bus) -> Result<Exit, Error> {
    let state = session::state(global)?;
    let bus = session::local_bus(&state);
    let say = |text: String| {
        if !global.quiet {
            println!("{text}");
        }
    };
    match options.command {
        BusCommand::Watch { monitor } => return watch(global, &monitor).await,
        BusCommand::Start => {
            let running = bus.ensure()?;
            say(format!("the bus is at {} (process {}, nats-server {})", running.url, running.pid, running.version));
        }
        BusCommand::Stop => {
            let text = if bus.stop()? { "the bus has ended" } else { "the bus was not running" };
            say(text.into());
        }
        BusCommand::Status { json } => {
            let running = bus.status();
            let stored = bus.stored_bytes();
            if json {
                let (pid, url, version) = match &running {
                    Some(running) => (Some(running.pid), Some(&running.url), Some(&running.version)),
                    None => (None, None, None),
                };
                let folder = bus.folder().display().to_string();
                let open = bus.open_at().map(|listen| listen.to_string());
                let status = serde_json::json!({
                    "running": running.is_some(), "pid": pid, "url": url, "version": version,
                    "open": open, "stored_bytes": stored, "folder": folder,
                });
                println!("{status}");
            } else {
                let open =
                    bus.open_at().map(|listen| format!(", open to other devices at {listen}")).unwrap_or_default();
                match running {
                    Some(running) => println!(
                        "running at {} (process {}, nats-server {}){open}, {} stored in {}",
                        running.url,
                        running.pid,
                        running.version,
                        bytes_text(stored),
                        bus.folder().display()
                    ),
                    None => println!("not running, {} stored in {}", bytes_text(stored), bus.folder().display()),
                }
            }
        }
    }
    Ok(Exit::Done)
}

/// Serves a nats-server's figures until the process is told to stop.
async fn watch(global: &Global, monitor: &str) -> Result<Exit, Error> {
    let monitor = Monitor::at(monitor).map_err(|error| Error::Config(error.to_string()))?;
    if !session::serve_metrics(global)? {
        return Err(Error::Config("say with --metrics where the figures are to be served".into()));
    }
    let stop = session::stop_signal()?;
    tokio::select! {
        () = stop.cancelled() => {}
        () = figures::watch_broker(&monitor) => {}
    }
    Ok(Exit::Done)
}
