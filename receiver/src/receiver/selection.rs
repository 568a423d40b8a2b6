//! Which part of the source the destination holds, and what happens when that changes.

use std::sync::Arc;

use deltabus_record::mapping::Mapping;

use crate::config::Selection;
use crate::error::Error;
use crate::filter::Filter;
use crate::ledger::{self, Wanted};

use super::{Purpose, Receiver, Round};

impl Receiver {
    /// Settles what is held now: what the destination was made with. Another selection waits until it has been looked at.
    pub(super) fn settle_selection(&mut self) -> Result<(), Error> {
        let view = self.store.view();
        let known = ledger::selection(&view)?;
        let joined = ledger::position(&view)?.is_some();
        let wanted = self.config.selection.clone().or_else(|| known.clone()).unwrap_or_default();
        self.reselect = None;
        match known {
            Some(known) if joined && known != wanted && !matches!(self.purpose, Purpose::Compare) => {
                self.use_selection(&known)?;
                self.reselect = Some(wanted);
            }
            known => {
                self.use_selection(&wanted)?;
                if known.as_ref() != Some(&wanted) {
                    let mut batch = self.store.batch();
                    ledger::put_selection(&mut batch, &wanted)?;
                    batch.commit()?;
                }
            }
        }
        Ok(())
    }

    /// Goes over to another selection. What was edited under the one before counts as such; what the other lacks or has
    /// more is no edit: the destination is made what it should be.
    pub(super) fn reselect(&mut self, round: &mut Round) -> Result<(), Error> {
        let Some(next) = self.reselect.clone() else { return Ok(()) };
        match self.find_edits(round) {
            // The one before speaks of fields that the source no longer has: nothing can be told by it.
            Err(error @ (Error::Filter(_) | Error::Mapping(_))) => {
                tracing::warn!(
                    error = deltabus_bus::causes(&error),
                    "edits made before the selection changed can't be found"
                );
            }
            result => result?,
        }
        tracing::info!(source = %self.config.source, receiver = %self.config.name, "another part of the source is wanted");
        let mut batch = self.store.batch();
        ledger::put_selection(&mut batch, &next)?;
        ledger::put_reconcile(&mut batch, Wanted::Yes)?;
        ledger::put_index(&mut batch, None)?;
        batch.commit()?;
        self.use_selection(&next)?;
        self.index = None;
        self.stale.clear();
        self.reselect = None;
        Ok(())
    }

    fn use_selection(&mut self, selection: &Selection) -> Result<(), Error> {
        self.filter = selection.filter.as_deref().map(Filter::compile).transpose()?.map(Arc::new);
        self.mapping = Mapping::new(&selection.fields, &selection.omit);
        Ok(())
    }
}
