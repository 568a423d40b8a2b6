//! Writing a former state of a source to a place, once.

use std::sync::Arc;

use deltabus_bus::broker::Broker;
use deltabus_bus::{Log, Timeline};
use deltabus_interfaces::Interface;
use deltabus_record::change::Revision;
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::{Owner, Scratch, StateDirectory, Store};

use crate::config::Config;
use crate::error::Error;
use crate::plan::{Plan, rehearsal};
use crate::receiver::{Ever, Purpose, Receiver, Round};

/// Makes the place that `config` names the source's state of a revision, writing only what differs. What the source had
/// at other times (collections, fields) goes there; what it never had stays.
///
/// `at` is a revision of `timeline`. No receiver's state is used or made, and the place gets no mark.
pub async fn restore(
    config: Config,
    broker: Arc<dyn Broker>,
    state: &StateDirectory,
    timeline: &Timeline,
    at: Revision,
) -> Result<Round, Error> {
    let interface = deltabus_interfaces::open(&config.location)?.into();
    restore_with(config, interface, broker, &state.scratch()?, timeline, at).await
}

/// Finds out what [`restore`] would change. Nothing is written.
pub async fn plan_restore(
    config: Config,
    broker: Arc<dyn Broker>,
    state: &StateDirectory,
    timeline: &Timeline,
    at: Revision,
) -> Result<Plan, Error> {
    let interface: Arc<dyn Interface> = deltabus_interfaces::open(&config.location)?.into();
    let scratch = state.scratch()?;
    let rehearsal = Arc::new(rehearsal(interface, &config.source, &scratch)?);
    let round = restore_with(config, rehearsal.clone(), broker, &scratch, timeline, at).await?;
    Ok(Plan::new(round, rehearsal, scratch))
}

async fn restore_with(
    config: Config,
    interface: Arc<dyn Interface>,
    broker: Arc<dyn Broker>,
    scratch: &Scratch,
    timeline: &Timeline,
    at: Revision,
) -> Result<Round, Error> {
    let log = Log::new(broker, config.source.clone());
    let spool = spool(&config.source, scratch)?;
    let purpose = Purpose::Restore(Ever::of(timeline));
    let mut receiver = Receiver::assemble(config, interface, log, scratch.directory(), purpose)?;
    let mut round = Round::default();
    receiver.base_at(timeline, at, &spool, &mut round).await?;
    receiver.reconcile(&mut round)?;
    round.revision = at.number;
    Ok(round)
}

/// An empty store for sets, among the scratch.
pub(crate) fn spool(source: &SourceName, scratch: &Scratch) -> Result<Store, Error> {
    let receiver = ReceiverName::new("spool").expect("this is a name");
    let owner = Owner::Receiver { source: source.clone(), receiver };
    Ok(Store::open(&scratch.directory().path().join("spool"), &owner)?)
}
