//! Becoming the writer of a source's log: a claim, and a state that agrees with what the log accepted.

use std::collections::BTreeMap;

use deltabus_bus::{
    Accepted, Entry, Event, Log, Position, Reader, ReversePlace, SnapshotReader, Writer, decode_set, encode_set,
};
use deltabus_record::change::{ChangeSet, ReverseCursor, Revision};
use deltabus_state::{Store, Working};

use crate::Error;
use crate::ledger::{self, Waiting, Weights};

/// Claims the log and brings the state in line with it.
pub(crate) async fn take_over(log: &Log, store: &Store, id: &str) -> Result<Writer, Error> {
    let (known, staged) = {
        let view = store.view();
        (ledger::position(&view)?, ledger::revision(&view)?)
    };
    let (mut writer, accepted) = Writer::claim(log, id, known).await?;
    let snapshot = deltabus_bus::pointer(log).await?.map_or(0, |manifest| manifest.position.revision.number);
    match accepted {
        Accepted::Nothing => found_anew(log, store, None).await?,
        Accepted::Sets { revision, .. } if revision.number == 0 => {
            // A log that has claims but was never founded has no state yet.
            acknowledge(store, &writer.position())?;
            found_anew(log, store, None).await?;
        }
        // Going on from here would use numbers again, and lead nobody on who joins by that snapshot.
        Accepted::Sets { revision, .. } if snapshot > revision.number.max(staged.number) => {
            tracing::warn!(
                reached = revision.number,
                snapshot,
                "the log lost what led to its snapshot, and this state is older; it is rebuilt from the snapshot"
            );
            rebuild(log, store).await?;
        }
        Accepted::Sets { revision, .. } if revision == staged => acknowledge(store, &writer.position())?,
        Accepted::Sets { revision, sets } => {
            let outbox = ledger::outbox(&store.view(), known.revision.number)?;
            if revision == known.revision || outbox.iter().any(|waiting| waiting.revision == revision) {
                // The rest of the outbox leads on from there.
                acknowledge(store, &writer.position())?;
            } else if undo(store, &outbox, known.revision)? {
                tracing::warn!(
                    reached = revision.number,
                    "the log went on without this transmitter; its state follows the log"
                );
                for set in sets {
                    apply(store, &set.set, &set.position)?;
                }
                acknowledge(store, &writer.position())?;
            } else {
                rebuild(log, store).await?;
            }
        }
        Accepted::Elsewhere { reason } => {
            // Whatever took the log's end may have taken that of the reverse sets, and others lie there since. All are looked
            // at again; the cursors tell which were taken.
            let mut batch = store.batch();
            ledger::put_reverse(&mut batch, ReversePlace::default())?;
            batch.commit()?;
            let reached = reachable(log).await?;
            match reached {
                Some(reached) if reached == staged || leads_on_from(store, reached)? => {
                    tracing::warn!(reason, reached = reached.number, "the log lost its end; it is sent again");
                    writer.go_on_from(reached);
                    acknowledge(store, &writer.position())?;
                }
                Some(reached) if reached.number > staged.number => {
                    tracing::warn!(reason, "the state doesn't lead to the log; it is rebuilt from the log");
                    rebuild(log, store).await?;
                }
                _ if staged.number == 0 && deltabus_bus::pointer(log).await?.is_some() => {
                    tracing::warn!(reason, "there is no state; it is rebuilt from the snapshot");
                    rebuild(log, store).await?;
                }
                reached => {
                    tracing::warn!(reason, "the log lost what it had; it is founded anew from the state");
                    found_anew(log, store, reached).await?;
                }
            }
        }
    }
    Ok(writer)
}

/// Whether a set in the outbox starts from `reached`, so that it and those after it can be sent.
fn leads_on_from(store: &Store, reached: Revision) -> Result<bool, Error> {
    let outbox = ledger::outbox(&store.view(), reached.number)?;
    let Some(first) = outbox.first() else { return Ok(false) };
    Ok(decode_set(&first.set.0)?.base == reached)
}

/// Lets the log begin with the state, once there is one. `reached`: what of the log is still true.
///
/// No number is used for another state: the state gets one that the log doesn't know, if the log is further than it. What
/// the sets that go answered is answered anew.
async fn found_anew(log: &Log, store: &Store, reached: Option<Revision>) -> Result<(), Error> {
    let highest = highest_number(log).await?;
    let view = store.view();
    let mut staged = ledger::revision(&view)?;
    let mut batch = store.batch();
    let mut replies = match ledger::owed(&view)? {
        Some(owed) => decode_set(&owed.0)?.replies,
        None => Vec::new(),
    };
    for waiting in ledger::outbox(&view, 0)? {
        batch.outbox_remove(waiting.revision.number);
        if reached.is_none_or(|reached| waiting.revision.number > reached.number) {
            replies.extend(decode_set(&waiting.set.0)?.replies);
        }
    }
    if staged.number > 0 {
        if highest >= staged.number && reached != Some(staged) {
            staged.number = highest + 1;
            ledger::put_revision(&mut batch, &staged)?;
        }
        ledger::want_foundation(&mut batch)?;
        ledger::want_resupply(&mut batch)?;
    } else {
        ledger::put_floor(&mut batch, highest)?;
    }
    if !replies.is_empty() {
        let (base, next) = (Revision::default(), Revision::default());
        let owed = ChangeSet { base, next, time_millis: 0, transactions: Vec::new(), replies };
        ledger::put_owed(&mut batch, Some(&encode_set(&owed)))?;
    }
    Ok(batch.commit()?)
}

/// The highest number that the log or its snapshot has.
async fn highest_number(log: &Log) -> Result<u64, Error> {
    let snapshot = deltabus_bus::pointer(log).await?;
    let mut highest = snapshot.map_or(0, |manifest| manifest.position.revision.number);
    let mut take = |entry| match entry {
        Entry::Foundation { revision, .. } => highest = highest.max(revision.number),
        Entry::Set(set) => highest = highest.max(set.set.next.number),
    };
    deltabus_bus::history(log, &mut take).await?;
    Ok(highest)
}

/// Remembers how far the log is.
fn acknowledge(store: &Store, position: &Position) -> Result<(), Error> {
    let mut batch = store.batch();
    ledger::put_position(&mut batch, position)?;
    Ok(batch.commit()?)
}

/// Takes back what was staged but is not in the log, newest first; the next scan finds it again. `false` if the sets that
/// would be needed are no longer there.
fn undo(store: &Store, outbox: &[Waiting], back_to: Revision) -> Result<bool, Error> {
    let view = store.view();
    let staged = ledger::revision(&view)?;
    let mut working = Working::new(&view, staged.digest);
    let mut at = staged;
    let mut replies = Vec::new();
    for waiting in outbox.iter().rev() {
        let set = decode_set(&waiting.set.0)?;
        if waiting.revision != at {
            return Ok(false);
        }
        for transaction in set.transactions.into_iter().rev() {
            working.apply(&transaction.invert())?;
        }
        replies.extend(set.replies);
        at = set.base;
    }
    if at != back_to || working.digest() != back_to.digest {
        return Ok(false);
    }
    let mut batch = store.batch();
    working.write(&mut batch)?;
    for waiting in outbox {
        batch.outbox_remove(waiting.revision.number);
    }
    // What these sets answered is for whoever wrote the log to answer, or to be taken again.
    let mut cursors: BTreeMap<_, ReverseCursor> = ledger::cursors(&view)?.into_iter().collect();
    for reply in replies {
        let cursor = cursors.entry(reply.reverse.receiver).or_default();
        cursor.rewind(reply.reverse.number - 1);
    }
    for (receiver, cursor) in &cursors {
        ledger::put_cursor(&mut batch, receiver, cursor)?;
    }
    ledger::put_reverse(&mut batch, ReversePlace::default())?;
    ledger::put_revision(&mut batch, &back_to)?;
    ledger::put_index(&mut batch, None)?;
    ledger::put_stamp(&mut batch, None)?;
    batch.commit()?;
    Ok(true)
}

/// Brings the state to the next revision by a set of the log.
fn apply(store: &Store, set: &ChangeSet, position: &Position) -> Result<(), Error> {
    let view = store.view();
    let mut working = Working::new(&view, set.base.digest);
    for transaction in &set.transactions {
        working.apply(transaction)?;
    }
    let mut batch = store.batch();
    working.write(&mut batch)?;
    let cursors: BTreeMap<_, ReverseCursor> = ledger::cursors(&view)?.into_iter().collect();
    let mut answered = cursors.clone();
    for reply in &set.replies {
        // A decision by hand speaks of a reverse set that was answered before.
        answered.entry(reply.reverse.receiver.clone()).or_default().take(reply.reverse.number);
    }
    for (receiver, cursor) in answered.iter().filter(|(receiver, cursor)| cursors.get(*receiver) != Some(*cursor)) {
        ledger::put_cursor(&mut batch, receiver, cursor)?;
    }
    ledger::put_revision(&mut batch, &set.next)?;
    ledger::put_position(&mut batch, position)?;
    ledger::put_index(&mut batch, None)?;
    ledger::put_stamp(&mut batch, None)?;
    Ok(batch.commit()?)
}

/// The revision that snapshot and log lead to; `None` if they lead nowhere.
async fn reachable(log: &Log) -> Result<Option<Revision>, Error> {
    let Some(manifest) = deltabus_bus::pointer(log).await? else { return Ok(None) };
    let mut reader = Reader::at(log, manifest.position);
    loop {
        match reader.next_stored().await? {
            Event::Set(_) => {}
            Event::CaughtUp(position) => return Ok(Some(position.revision)),
            Event::Rejoin(_) => return Ok(None),
        }
    }
}

/// Makes the state anew from snapshot and log.
async fn rebuild(log: &Log, store: &Store) -> Result<(), Error> {
    let mut reader = SnapshotReader::open(log).await?;
    let manifest = reader.manifest().clone();
    let mut loads = Vec::new();
    for collection in &manifest.collections {
        loads.push(store.load(collection)?);
    }
    while let Some(mut records) = reader.next().await? {
        while let Some((collection, key, row)) = records.advance()? {
            loads[collection].put(key, row)?;
        }
    }
    let mut batch = store.batch();
    for collection in store.view().collections() {
        if !manifest.collections.iter().any(|kept| kept.name == collection.name) {
            batch.remove_collection(&collection.name)?;
        }
    }
    for load in loads {
        load.finish(&mut batch)?;
    }
    for waiting in ledger::outbox(&store.view(), 0)? {
        batch.outbox_remove(waiting.revision.number);
    }
    ledger::forget_cursors(&store.view(), &mut batch)?;
    ledger::put_owed(&mut batch, None)?;
    for (receiver, cursor) in &manifest.cursors {
        ledger::put_cursor(&mut batch, receiver, cursor)?;
    }
    ledger::put_revision(&mut batch, &manifest.position.revision)?;
    ledger::put_position(&mut batch, &manifest.position)?;
    ledger::put_index(&mut batch, None)?;
    ledger::put_stamp(&mut batch, None)?;
    ledger::founded(&mut batch)?;
    ledger::put_weights(&mut batch, &Weights { snapshot_bytes: manifest.bytes, log_bytes: 0 })?;
    batch.commit()?;
    let mut reader = Reader::at(log, manifest.position);
    loop {
        match reader.next_stored().await? {
            Event::Set(set) => apply(store, &set.set, &set.position)?,
            Event::CaughtUp(position) => return acknowledge(store, &position),
            Event::Rejoin(reason) => {
                tracing::warn!(%reason, "the log can't be followed from its snapshot; it is founded anew");
                return found_anew(log, store, None).await;
            }
        }
    }
}
