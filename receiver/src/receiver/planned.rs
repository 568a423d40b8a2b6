//! What a running receiver would change, found out beside it.

use std::sync::Arc;

use deltabus_state::{Owner, StateDirectory};

use crate::error::Error;
use crate::plan::{Plan, rehearsal};

use super::{Purpose, Receiver};

/// Changes that are told, in an answer that people look at.
const CHANGES_TOLD_MAX: usize = 200;

/// States of more records aren't copied while their receiver waits for it.
const RECORDS_MAX: u64 = 1_000_000;

impl Receiver {
    /// What a round would change at the destination now, as JSON; found out on a copy of the state, so that nothing happens.
    pub(super) async fn planned(&self) -> Result<String, Error> {
        let records = self.position()?.map_or(0, |position| position.revision.digest.records);
        if records > RECORDS_MAX {
            return Err(Error::TooManyToPlan { records, most: RECORDS_MAX });
        }
        // receivers/<source>/<name>
        let root = self.store.dir().ancestors().nth(3).expect("a receiver's folder lies there in a state directory");
        let scratch = StateDirectory::open(root)?.scratch()?;
        let (source, receiver) = (self.config.source.clone(), self.config.name.clone());
        let folder = scratch.directory().receiver_folder(&source, &receiver);
        self.store.copy_to(&folder, &Owner::Receiver { source: source.clone(), receiver })?;
        let rehearsal = Arc::new(rehearsal(self.interface.clone(), &source, &scratch)?);
        let purpose = Purpose::Rehearse(Arc::clone(&rehearsal));
        let (config, log) = (self.config.clone(), self.log.clone());
        let mut copy = Receiver::assemble(config, rehearsal.clone(), log, scratch.directory(), purpose)?;
        let round = copy.receive_once().await?;
        drop(copy);
        Plan::new(round, rehearsal, scratch).to_json(CHANGES_TOLD_MAX)
    }
}
