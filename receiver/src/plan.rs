//! What receiving would change at a destination, found out on a copy of the receiver's state.

use std::sync::Arc;

use deltabus_bus::Log;
use deltabus_bus::broker::Broker;
use deltabus_interfaces::Interface;
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::{Owner, Scratch, StateDirectory, Store};

use crate::config::Config;
use crate::error::Error;
use crate::receiver::{Purpose, Receiver, Round};
use crate::rehearsal::{Planned, Rehearsal};

/// What a round of a receiver would do, or a restoring.
pub struct Plan {
    /// What the round came to. Nothing of it has happened.
    pub round: Round,
    rehearsal: Arc<Rehearsal>,
    // Last, so that the stores in it are closed before it goes.
    _scratch: Scratch,
}

impl Plan {
    pub(crate) fn new(round: Round, rehearsal: Arc<Rehearsal>, scratch: Scratch) -> Plan {
        Plan { round, rehearsal, _scratch: scratch }
    }

    /// Calls `take` with everything that would change at the destination, beside what stands there now: of each collection
    /// first what becomes of the collection itself, then records that change or go, by key, then those that come.
    pub fn each<E: From<Error>>(&self, take: &mut dyn FnMut(Planned<'_>) -> Result<(), E>) -> Result<(), E> {
        self.rehearsal.each(take)
    }
}

/// Finds out what [`Receiver::receive_once`] would change at the destination now. Nothing is written or sent, neither to the
/// destination nor to the bus nor to the receiver's state: all of it happens to a copy that goes with the result.
///
/// What a database says to a record only when it is written (a constraint) doesn't show.
///
/// Fails with [`deltabus_state::Error::Busy`] while the receiver runs.
pub async fn plan(config: Config, broker: Arc<dyn Broker>, state: &StateDirectory) -> Result<Plan, Error> {
    let interface: Arc<dyn Interface> = deltabus_interfaces::open(&config.location)?.into();
    let log = Log::new(broker, config.source.clone());
    let scratch = state.scratch()?;
    state.copy_receiver(&config.source, &config.name, scratch.directory())?;
    let rehearsal = Arc::new(rehearsal(interface, &config.source, &scratch)?);
    let purpose = Purpose::Rehearse(Arc::clone(&rehearsal));
    let mut receiver = Receiver::assemble(config, rehearsal.clone(), log, scratch.directory(), purpose)?;
    let round = receiver.receive_once().await?;
    drop(receiver);
    Ok(Plan::new(round, rehearsal, scratch))
}

/// A rehearsal on `interface`, with a store of its own among the scratch.
pub(crate) fn rehearsal(
    interface: Arc<dyn Interface>,
    source: &SourceName,
    scratch: &Scratch,
) -> Result<Rehearsal, Error> {
    let receiver = ReceiverName::new("rehearsal").expect("this is a name");
    let owner = Owner::Receiver { source: source.clone(), receiver };
    Ok(Rehearsal::new(interface, Store::open(&scratch.directory().path().join("rehearsal"), &owner)?))
}
