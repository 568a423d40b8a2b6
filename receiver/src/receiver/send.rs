//! Reverse sets on their way to the bus, each once, under a number that nobody else used.
//!
//! A set's number is its own only when the bus has it. Until then it may turn out that somebody else sent under this name: a
//! receiver on another machine, or this one itself, before its state was restored from a backup. Then what was not sent yet
//! goes on behind that.

use deltabus_bus::encode_reverse;
use deltabus_interfaces::in_place;

use crate::error::Error;
use crate::ledger;

use super::{Purpose, Receiver};

impl Receiver {
    /// Sends the reverse sets that the bus doesn't have.
    pub(super) async fn send(&mut self) -> Result<(), Error> {
        if self.pending.sets().is_empty() || matches!(self.purpose, Purpose::Rehearse(_)) {
            return Ok(());
        }
        self.find_sent().await?;
        let mut last = self.log.last_reverse(&self.config.name).await?;
        let mut at = 0;
        while let Some(set) = self.pending.sets().get(at) {
            let number = set.id.number;
            let is_sent = number <= self.pending.sent();
            if number <= last.number {
                if is_sent {
                    at += 1;
                } else {
                    self.renumber(last.number)?;
                }
                continue;
            }
            // Also what was sent and is there no more: the bus may have lost it before anybody took it.
            match self.log.send_reverse(set, last).await {
                Ok(Some(sent)) => {
                    last = sent;
                    if !is_sent {
                        self.mark_sent(number)?;
                    }
                    at += 1;
                }
                Ok(None) => last = self.log.last_reverse(&self.config.name).await?,
                Err(error) => {
                    self.unsure = true;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Makes sure that replies up to `answered` speak of sets that are sent, and of no others.
    pub(super) async fn settle_numbers(&mut self, answered: u64) -> Result<(), Error> {
        if answered > self.pending.sent() {
            self.find_sent().await?;
            if self.pending.unsent().next().is_some_and(|set| set.id.number <= answered) {
                self.renumber(answered)?;
            }
        }
        Ok(())
    }

    /// Finds out which sets were sent without an acknowledgement: it was lost, or the process ended before it came.
    async fn find_sent(&mut self) -> Result<(), Error> {
        if !self.unsure {
            return Ok(());
        }
        let unsent: Vec<_> = self.pending.unsent().collect();
        if !unsent.is_empty() {
            let there = self.log.stored_reverse(&unsent).await?;
            let sent = unsent.iter().zip(there).filter(|(_, there)| *there).map(|(set, _)| set.id.number).max();
            if let Some(number) = sent {
                self.mark_sent(number)?;
            }
        }
        self.unsure = false;
        Ok(())
    }

    fn mark_sent(&mut self, number: u64) -> Result<(), Error> {
        let mut batch = self.store.batch();
        ledger::put_sent(&mut batch, number)?;
        in_place(|| batch.commit())?;
        self.pending.set_sent(number);
        Ok(())
    }

    /// Gives the sets that were not sent yet the numbers behind `last`.
    fn renumber(&mut self, last: u64) -> Result<(), Error> {
        tracing::warn!(
            source = %self.config.source, receiver = %self.config.name, last,
            "somebody else sent edits under this name, or an older state was restored; what waits goes on behind them"
        );
        let mut batch = self.store.batch();
        for set in self.pending.unsent() {
            batch.outbox_remove(set.id.number);
        }
        let renumbered = self.pending.renumbered(last);
        for set in renumbered.unsent() {
            batch.outbox_put(set.id.number, &encode_reverse(set));
        }
        let number = renumbered.sets().last().map_or(last, |set| set.id.number.max(last));
        ledger::put_reverse_number(&mut batch, number)?;
        in_place(|| batch.commit())?;
        self.pending = renumbered;
        Ok(())
    }
}
