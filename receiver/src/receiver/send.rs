//! Reverse sets on their way to the bus, each once, under a number that nobody else used.
//!
//! A set's number is its own only when the bus has it. Until then it may turn out that somebody else sent under this name: a
//! receiver on another machine, or this one itself, before its state was restored from a backup. Then what was not sent yet
//! goes on behind that.

use std::time::Instant;

use deltabus_bus::{Delivered, Entry, Event, Reader, encode_reverse, history, pointer};
use deltabus_interfaces::in_place;
use deltabus_record::change::ReverseSet;

use crate::error::Error;
use crate::ledger;
use crate::pending::Pending;

use super::{Purpose, Receiver};

impl Receiver {
    /// Sends the reverse sets that the bus doesn't have.
    pub(super) async fn send(&mut self) -> Result<(), Error> {
        if self.pending.sets().is_empty() || matches!(self.purpose, Purpose::Rehearse(_)) {
            return Ok(());
        }
        if !self.find_answered().await? {
            return Ok(());
        }
        // Contents of edits that were just found were stored a moment ago.
        let doubtful = self.unsure;
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
            if doubtful || is_sent {
                in_place(|| self.send_lost_contents(set))?;
            }
            let start = Instant::now();
            // Also what was sent and is there no more: the bus may have lost it before anybody took it.
            match self.log.send_reverse(set, last).await {
                Ok(Some(sent)) => {
                    last = sent;
                    self.trace_sent(set, start);
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

    /// Sends the contents that a set refers to once more, if the bus lost them since they were found: from the destination, as
    /// far as they still stand there.
    fn send_lost_contents(&self, set: &ReverseSet) -> Result<(), Error> {
        if !self.large.find_lost(Pending::brought(set).into_iter())? {
            return Ok(());
        }
        let number = set.id.number;
        tracing::warn!(
            reverse = number,
            "the bus lost contents of edits that wait; they are looked for at the destination"
        );
        self.look_at_all(&self.store.view())?;
        self.large.flush()
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

    /// Makes sure that nothing is sent under a number that the source has answered already: this state may be an older one
    /// that was restored, and the bus may have lost what was sent after it. Once is enough: from then on answers come as they
    /// are made.
    ///
    /// `false`: that can't be told before the log is founded anew.
    async fn find_answered(&mut self) -> Result<bool, Error> {
        if self.numbers_known || self.pending.unsent().next().is_none() {
            return Ok(true);
        }
        let mut answered = 0;
        let mut reader = Reader::at(&self.log, self.position()?.unwrap_or_default());
        loop {
            match reader.next_stored().await? {
                Event::Set(set) => answered = answered.max(self.last_answered_by(&set)),
                Event::CaughtUp(_) => break,
                Event::Rejoin(_) => {
                    // Whoever founds the log anew says what was answered.
                    let Some(manifest) = pointer(&self.log).await? else { return Ok(false) };
                    let mine = manifest.cursors.iter().find(|(receiver, _)| *receiver == self.config.name);
                    answered = answered.max(mine.map_or(0, |(_, cursor)| cursor.last()));
                    let mut take = |entry| {
                        if let Entry::Set(set) = entry {
                            answered = answered.max(self.last_answered_by(&set));
                        }
                    };
                    history(&self.log, &mut take).await?;
                    break;
                }
            }
        }
        self.settle_numbers(answered).await?;
        self.numbers_known = true;
        Ok(true)
    }

    fn last_answered_by(&self, set: &Delivered) -> u64 {
        self.answered_by(std::slice::from_ref(set)).last().copied().unwrap_or_default()
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
            source = %self.config.source, receiver = %self.config.name, reverse = last,
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
