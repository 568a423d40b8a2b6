//! From the outbox to the log; snapshots and foundations.

use std::time::Instant;

use deltabus_bus::broker::Stream;
use deltabus_bus::{Contents, EncodedSet, SnapshotWriter, encode_set, pointer};
use deltabus_interfaces::in_place;
use deltabus_record::change::{ChangeSet, Revision};
use deltabus_state::{Batch, View};
use metrics::{counter, gauge, histogram};

use crate::Error;
use crate::contents::OnTheBus;
use crate::ledger::{self, Waiting, Weights};
use crate::metrics as figures;

use super::{OUTBOX_KEPT, ROUND_MAX, Round, SNAPSHOT_MIN_BYTES, Transmitter};

impl Transmitter {
    /// Publishes what waits in the outbox, and returns when the log has it.
    pub(super) async fn publish(&mut self, round: &mut Round) -> Result<(), Error> {
        if ledger::foundation(&self.store.view())? {
            self.write_snapshot(Purpose::Foundation).await?;
            round.snapshot = true;
            round.sets += 1;
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let view = self.store.view();
        let position = ledger::position(&view)?;
        let waiting = ledger::outbox(&view, position.revision.number)?;
        gauge!(figures::OUTBOX_SETS, "source" => self.config.source.to_string()).set(waiting.len() as f64);
        if waiting.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let sets: Vec<(Revision, EncodedSet)> =
            waiting.iter().map(|waiting| (waiting.revision, waiting.set.clone())).collect();
        let stored = match writer.publish(&sets).await {
            Ok(stored) => stored,
            Err(error) => {
                // What became of it is found out by the next claim.
                self.writer = None;
                return Err(error.into());
            }
        };
        let position = writer.position();
        let weights = ledger::weights(&view)?;
        let mut batch = self.store.batch();
        ledger::put_position(&mut batch, &position)?;
        ledger::put_weights(&mut batch, &Weights { log_bytes: weights.log_bytes + stored, ..weights })?;
        // Acknowledged sets go, but late: see OUTBOX_KEPT.
        let old = self.now_millis().saturating_sub(OUTBOX_KEPT.as_millis() as u64);
        for entry in view.outbox(0) {
            let waiting = Waiting::from_bytes(entry?.1)?;
            if waiting.time_millis >= old || waiting.revision.number > position.revision.number {
                break;
            }
            batch.outbox_remove(waiting.revision.number);
        }
        in_place(|| batch.commit())?;
        round.sets += sets.len() as u64;
        round.bytes += stored;
        gauge!(figures::OUTBOX_SETS, "source" => self.config.source.to_string()).set(0.0);
        counter!(figures::SETS_PUBLISHED, "source" => self.config.source.to_string()).increment(sets.len() as u64);
        counter!(figures::BYTES_PUBLISHED, "source" => self.config.source.to_string()).increment(stored);
        histogram!(figures::PUBLISH_SECONDS, "source" => self.config.source.to_string()).record(start.elapsed());
        self.trace_published(&waiting, start);
        Ok(())
    }

    pub(super) async fn snapshot_if_due(&mut self, round: &mut Round) -> Result<(), Error> {
        let weights = ledger::weights(&self.store.view())?;
        let founded = self.writer.is_some() && ledger::revision(&self.store.view())?.number > 0;
        if !founded {
            return Ok(());
        }
        let due = weights.log_bytes > weights.snapshot_bytes.max(SNAPSHOT_MIN_BYTES);
        if due || self.snapshot_wanted || self.snapshot_is_behind().await? {
            self.write_snapshot(Purpose::Rejoin).await?;
            self.snapshot_wanted = false;
            round.snapshot = true;
        }
        Ok(())
    }

    /// Whether the log no longer leads on from the snapshot, or there is none: then nobody can join. Asked of the bus once in
    /// a while; a log that lost its end is noticed then too.
    async fn snapshot_is_behind(&mut self) -> Result<bool, Error> {
        if self.snapshot_seen.is_some_and(|seen| seen.elapsed() < ROUND_MAX) {
            return Ok(false);
        }
        let (broker, source) = (self.log.broker(), self.log.source());
        let extent = broker.extent(source, Stream::Changes).await.map_err(deltabus_bus::Error::from)?;
        let extent = extent.unwrap_or_default();
        if let Some(writer) = &self.writer {
            let wanted = writer.position().sequence;
            if extent.last < wanted {
                let source_name = source.clone();
                return Err(deltabus_bus::Error::LogLost { source_name, last: extent.last, wanted }.into());
            }
            if extent.last > wanted {
                writer.confirm().await?;
            }
        }
        let snapshot = match pointer(&self.log).await {
            Err(error @ deltabus_bus::Error::Wire { .. }) => {
                tracing::warn!(%source, error = deltabus_bus::causes(&error), "the snapshot is written anew");
                return Ok(true);
            }
            snapshot => snapshot?,
        };
        if snapshot.is_none() {
            // Contents lie beside the snapshot: they are gone too.
            let mut batch = self.store.batch();
            ledger::want_resupply(&mut batch)?;
            batch.commit()?;
            self.contents = OnTheBus(Contents::new(self.log.clone(), tokio::runtime::Handle::current()));
        }
        let leads = match snapshot {
            Some(manifest) => self.log.leads_on_from(&manifest.position).await?,
            None => false,
        };
        if leads {
            self.snapshot_seen = Some(tokio::time::Instant::now());
        }
        Ok(!leads)
    }

    /// What the log had answered before it was lost, or was about to answer, comes after its new foundation.
    fn stage_owed(&self, view: &View, base: Revision, batch: &mut Batch) -> Result<(), Error> {
        let Some(owed) = ledger::owed(view)? else { return Ok(()) };
        let replies = owed.decode()?.replies;
        let time_millis = self.now_millis().max(ledger::clock(view)? + 1);
        let next = Revision { number: base.number + 1, ..base };
        let set = ChangeSet { base, next, time_millis, transactions: Vec::new(), replies };
        let waiting = Waiting { revision: next, time_millis, set: encode_set(&set).packed() };
        batch.outbox_put(next.number, &waiting.to_bytes());
        ledger::put_revision(batch, &next)?;
        ledger::put_clock(batch, time_millis)?;
        ledger::put_owed(batch, None)
    }

    /// Writes a snapshot of the state, which the log has up to here.
    async fn write_snapshot(&mut self, purpose: Purpose) -> Result<(), Error> {
        let time_millis = self.now_millis();
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let view = self.store.view();
        let revision = ledger::revision(&view)?;
        let position = deltabus_bus::Position { revision, ..writer.position() };
        let mut snapshot = SnapshotWriter::begin(&self.log, position, view.collections(), time_millis).await?;
        for (i, collection) in view.collections().iter().enumerate() {
            for record in view.records(&collection.name)? {
                let (key, row) = record?;
                if snapshot.push(i, &key, &row) {
                    snapshot.flush().await?;
                }
            }
        }
        let manifest = snapshot.finish(ledger::cursors(&view)?).await?;
        if purpose == Purpose::Foundation
            && let Err(error) = writer.found(&manifest.id, revision, time_millis).await
        {
            self.writer = None;
            return Err(error.into());
        }
        let mut batch = self.store.batch();
        ledger::put_weights(&mut batch, &Weights { snapshot_bytes: manifest.bytes, log_bytes: 0 })?;
        ledger::put_position(&mut batch, &writer.position())?;
        if purpose == Purpose::Foundation {
            ledger::founded(&mut batch)?;
            self.stage_owed(&view, revision, &mut batch)?;
        }
        in_place(|| batch.commit())?;
        tracing::debug!(
            revision = revision.number,
            bytes = manifest.bytes,
            parts = manifest.parts,
            "a snapshot is written"
        );
        Ok(())
    }
}

/// What a snapshot is written for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Foundation,
    Rejoin,
}
