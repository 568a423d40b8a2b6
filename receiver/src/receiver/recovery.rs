//! Beginning where another run ended: which destination the state is about, what it remembers, and what a crash left.

use deltabus_bus::{Position, decode_reverse};
use deltabus_state::Batch;
use metrics::gauge;

use crate::dead::DeadLetters;
use crate::error::Error;
use crate::ledger::{self, Marked, Replacing, Wanted};
use crate::metrics as figures;
use crate::pending::Pending;

use super::{Purpose, Receiver};

impl Receiver {
    /// Where its destination is, the same for all who mean it.
    pub(super) fn here(&self) -> String {
        let given = &self.config.location;
        given.place().unwrap_or_else(|_| given.to_string())
    }

    /// Whether the destination is the one that its state is about.
    pub(crate) fn is_at_home(&self) -> Result<bool, Error> {
        Ok(ledger::location(&self.store.view())?.is_some_and(|known| known == self.here()))
    }

    /// A receiver that is pointed at another place begins there anew: nothing that stands there is an edit.
    pub(super) fn settle_location(&self) -> Result<(), Error> {
        if matches!(self.purpose, Purpose::Compare) {
            return Ok(());
        }
        let here = self.here();
        let view = self.store.view();
        let before = ledger::location(&view)?;
        if before.as_deref() == Some(here.as_str()) {
            return Ok(());
        }
        let mut batch = self.store.batch();
        if before.is_some() {
            tracing::warn!(before, place = here, "the destination is another one than before");
            for entry in view.outbox(0) {
                batch.outbox_remove(entry?.0);
            }
            batch.drop_aside();
            DeadLetters::default().write(&DeadLetters::read(&view)?, &mut batch)?;
            ledger::put_reconcile(&mut batch, Wanted::Yes)?;
            ledger::put_journal(&mut batch, None)?;
            ledger::put_index(&mut batch, None)?;
            ledger::put_stamp(&mut batch, None)?;
            ledger::put_drift(&mut batch, 0)?;
        }
        ledger::put_location(&mut batch, &here)?;
        Ok(batch.commit()?)
    }

    /// Takes from the store what is kept in memory.
    pub(super) fn reload(&mut self) -> Result<(), Error> {
        let view = self.store.view();
        let mut sets = Vec::new();
        for entry in view.outbox(0) {
            sets.push(decode_reverse(&self.config.name, &entry?.1)?);
        }
        self.dead = DeadLetters::read(&view)?;
        self.pending = Pending::new(sets, ledger::sent(&view)?, self.dead.held());
        self.drift = ledger::drift(&view)?;
        if matches!(self.purpose, Purpose::Keep) {
            gauge!(figures::DRIFT, &self.labels()).set(self.drift as f64);
            self.list_letters(&self.dead, view.collections())?;
        }
        self.numbers_known = false;
        self.unsure = true;
        self.stamp = ledger::stamp(&view)?;
        self.index = ledger::index(&view)?;
        self.found = None;
        self.stale.clear();
        self.ahead = None;
        self.recovered = false;
        self.remake = false;
        self.settle_selection()
    }

    /// After a crash: finds out whether the destination already has what was about to be written.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        if self.recovered {
            return Ok(());
        }
        let view = self.store.view();
        if let Some(position) = ledger::position(&view)? {
            let mut batch = self.store.batch();
            if self.interface.transactional() {
                let mark = self.interface.mark(&self.owner())?.and_then(|mark| Marked::from_bytes(&mark));
                let attempt = ledger::attempt(&view)?;
                if attempt.is_some() && mark.and_then(|mark| mark.attempt) == attempt {
                    self.is_equal(&position, &mut batch)?;
                }
                let intended = DeadLetters::intended(&view)?.map(|(revision, _)| revision);
                match mark {
                    Some(mark) if mark.revision == position.revision => {}
                    Some(Marked { revision, held, .. }) if revision.number > position.revision.number => {
                        // Which records are held was written down here before, unless this state is an older one.
                        match held == 0 || intended == Some(revision.number) {
                            true => self.ahead = Some(revision.number),
                            false => ledger::put_reconcile(&mut batch, Wanted::Yes)?,
                        }
                        // One from before it was ever written: what differs from what the mark says was edited there.
                        if self.ahead.is_some() && ledger::stamp(&view)?.is_none() {
                            let mut first = self.store.batch();
                            ledger::put_reconcile(&mut first, Wanted::No)?;
                            ledger::put_attempt(&mut first, None)?;
                            first.commit()?;
                        }
                    }
                    // Another destination than the one that was written last.
                    _ => ledger::put_reconcile(&mut batch, Wanted::Yes)?,
                }
            } else if let Some(journal) = ledger::journal(&view)? {
                let now = self.interface.content()?;
                // Somebody may have written it since: then the temporary file tells. It is gone as well where the destination
                // and this state were restored from a backup, but then that is as it was before.
                let renamed = |Replacing { temporary, before }: &Replacing| now != *before && !temporary.exists();
                let written = now == Some(journal.content) || journal.replacing.as_ref().is_some_and(renamed);
                match ledger::reconcile(&view)? {
                    true if written => self.is_equal(&position, &mut batch)?,
                    false if written && journal.revision > position.revision.number => {
                        self.ahead = Some(journal.revision);
                    }
                    _ => {}
                }
                ledger::put_journal(&mut batch, None)?;
            }
            if self.ahead.is_none() {
                batch.commit()?;
            } else {
                // What was written since the last scan its index doesn't know. The journal stays until the base is there too.
                let mut batch = self.store.batch();
                ledger::put_index(&mut batch, None)?;
                batch.commit()?;
                self.index = None;
            }
        }
        self.recovered = true;
        Ok(())
    }

    /// The destination was made equal to the base, and a crash came before that was written down.
    fn is_equal(&mut self, position: &Position, batch: &mut Batch) -> Result<(), Error> {
        if let Some((revision, dead)) = DeadLetters::intended(&self.store.view())?
            && revision == position.revision.number
        {
            dead.write(&self.dead, batch)?;
            self.pending = self.pending.holding(dead.held());
            self.dead = dead;
        }
        DeadLetters::settle(batch)?;
        ledger::put_reconcile(batch, Wanted::No)?;
        ledger::put_attempt(batch, None)?;
        ledger::put_index(batch, None)?;
        batch.drop_aside();
        self.index = None;
        Ok(())
    }

    /// Brings the base to what the destination was last written with, without touching that.
    pub(crate) async fn settled(&mut self) -> Result<Option<Position>, Error> {
        self.recover()?;
        if let Some(ahead) = self.ahead.take() {
            self.forward_to(Some(ahead)).await?;
        }
        self.position()
    }
}
