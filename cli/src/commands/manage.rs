//! `deltabus manage`: the management server.

use deltabus_certificates::Existing;
use deltabus_manager::{ClientsWanted, Configuration, Setup};

use crate::arguments::{Global, Manage};
use crate::error::{Error, Exit};
use crate::{membership, session};

/// Runs the command.
pub(crate) async fn manage(global: &Global, options: Manage) -> Result<Exit, Error> {
    let path = match (&options.config, &options.new) {
        (Some(path), _) => path.clone(),
        (None, Some(_)) => set_up(global, &options)?,
        (None, None) => {
            return Err(Error::Config("name a configuration with --config, or a new folder with --new".into()));
        }
    };
    if options.setup_only {
        return Ok(Exit::Done);
    }
    let configuration = Configuration::read(&path)?;
    session::serve_metrics(global)?;
    let stop = session::stop_signal()?;
    let running = tokio::select! {
        started = deltabus_manager::start(&configuration) => started?,
        () = stop.cancelled() => return Ok(Exit::Done),
    };
    tracing::info!(manager = configuration.name, address = %running.address, bus = configuration.connect, "managing");
    tracing::info!(address = %running.address, "the page is served; `deltabus page` gives a link to it");
    running.run(stop).await?;
    Ok(Exit::Done)
}

/// Makes a bus and its manager; gives the manager's configuration.
fn set_up(global: &Global, options: &Manage) -> Result<std::path::PathBuf, Error> {
    let Some(folder) = options.new.clone() else { return Err(Error::Config("name a new folder with --new".into())) };
    let hosts = options.host.clone();
    let clients = if options.mutual { ClientsWanted::Required } else { ClientsWanted::Anonymous };
    let (bus_port, manager_port) = (options.bus_port, options.manager_port);
    let state = session::state(global)?;
    let identities = membership::identities(&state);
    if identities.all()?.iter().any(|identity| identity.rights().administrate) {
        return Err(Error::Config(format!(
            "somebody in {} is the administrator of another manager: use another state directory (--state)",
            state.manager_folder().display()
        )));
    }
    let made = Setup { folder: folder.clone(), hosts, bus_port, manager_port, clients }.make(&identities)?;
    let kept = identities.keep(&made.administrator, Existing::Keep)?;
    if !global.quiet {
        let offline = folder.join("keys/offline");
        eprintln!("bus       {}  (nats-server.conf)", made.bus);
        eprintln!("manager   {}  (manager.toml)", made.manager);
        eprintln!("you       the administrator, by {}", kept.display());
        eprintln!("          {}: take it to a safe place, nothing needs it from day to day", offline.display());
        eprintln!("next      deltabus enroll NAME --publish SOURCE --output NAME.token");
    }
    Ok(made.configuration)
}
