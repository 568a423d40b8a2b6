//! Becoming the writer of a source's log: a claim, and a state that agrees with what the log accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use deltabus_bus::broker::Stream;
use deltabus_bus::{
    Accepted, BUNDLE_SETS, Delivered, Entry, Error as BusError, Event, Log, Manifest, Position, Reader, Reason,
    ReversePlace, SnapshotReader, Writer, encode_set,
};
use deltabus_interfaces::in_place;
use deltabus_record::change::{ChangeSet, ConflictPolicy, Reply, ReverseCursor, Revision};
use deltabus_state::{Batch, Store, View, Working};

use crate::ledger::{self, Waiting, Weights};
use crate::{Error, reverse};

/// Pause of one that stands by before it looks again whether there is something to follow.
const FOLLOW_AGAIN: Duration = Duration::from_secs(2);

/// Claims the log and brings the state in line with it.
pub(crate) async fn take_over(log: &Log, store: &Store, id: &str, policy: ConflictPolicy) -> Result<Writer, Error> {
    let (known, staged) = {
        let view = store.view();
        (ledger::position(&view)?, ledger::revision(&view)?)
    };
    let (mut writer, accepted) = Writer::claim(log, id, known).await?;
    let snapshot = readable_pointer(log).await?.map_or_else(Revision::default, |manifest| manifest.position.revision);
    let outbox = ledger::outbox(&store.view(), known.revision.number)?;
    // It was somebody else's who founded the log anew, and nothing of that is left but the snapshot.
    let is_astray = |reached: Revision, sets: &[Delivered]| {
        let own = outbox.iter().map(|waiting| waiting.revision).chain([known.revision, staged]);
        let another = own.into_iter().any(|own| own.number == snapshot.number && own != snapshot);
        another && reached != snapshot && sets.iter().all(|set| set.set.next != snapshot)
    };
    match accepted {
        Accepted::Nothing => found_anew(log, store, policy, None).await?,
        Accepted::Sets { revision, .. } if revision.number == 0 => {
            // A log that has claims but was never founded has no state yet.
            acknowledge(store, &writer.position())?;
            found_anew(log, store, policy, None).await?;
        }
        // Going on from here would use numbers again, and lead nobody on who joins by that snapshot.
        Accepted::Sets { revision, sets }
            if snapshot.number > revision.number.max(staged.number) || is_astray(revision, &sets) =>
        {
            tracing::warn!(
                revision = revision.number,
                snapshot = snapshot.number,
                "the log lost what led to its snapshot, and this state is older; it is rebuilt from the snapshot"
            );
            rebuild_or_found(log, store, policy).await?;
        }
        Accepted::Sets { revision, sets } => {
            let is_reached = |waiting: &Waiting| waiting.revision == revision;
            if revision == known.revision || revision == staged || outbox.iter().any(is_reached) {
                // The rest of the outbox leads on from there.
                take_again(store, &outbox, &sets, revision)?;
                acknowledge(store, &writer.position())?;
            } else if undo(store, &outbox, known.revision)? {
                tracing::warn!(
                    revision = revision.number,
                    "the log went on without this transmitter; its state follows the log"
                );
                match sets.iter().try_for_each(|set| apply(log, store, set, policy)) {
                    Ok(()) => acknowledge(store, &writer.position())?,
                    Err(error) if misfits(&error) => {
                        // No reader gets on either: what it has is written by nobody who knows the source.
                        tracing::warn!(
                            error = deltabus_bus::causes(&error),
                            "the log doesn't lead on from the state; it is founded anew"
                        );
                        found_from(log, store, None).await?;
                    }
                    Err(error) => return Err(error),
                }
            } else {
                rebuild_or_found(log, store, policy).await?;
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
                    tracing::warn!(reason, revision = reached.number, "the log lost its end; it is sent again");
                    writer.go_on_from(reached);
                    acknowledge(store, &writer.position())?;
                }
                Some(reached) if reached.number > staged.number => {
                    tracing::warn!(reason, "the state doesn't lead to the log; it is rebuilt from the log");
                    rebuild_or_found(log, store, policy).await?;
                }
                reached => {
                    tracing::warn!(reason, "the log lost what it had; it is founded anew from the state");
                    found_anew(log, store, policy, reached).await?;
                }
            }
        }
    }
    Ok(writer)
}

/// Keeps the state where the log is, for one that stands by: nothing is claimed, and nothing written but the state. Goes on until
/// it is dropped, or fails for a reason that may pass.
pub(crate) async fn follow(log: &Log, store: &Store, policy: ConflictPolicy) -> Result<Infallible, Error> {
    let mut leads = step_back(store)?;
    loop {
        if !leads && !rebuilt(log, store, policy).await? {
            tokio::time::sleep(FOLLOW_AGAIN).await;
            continue;
        }
        pass_answered(log, store).await?;
        let mut reader = Reader::at(log, ledger::position(&store.view())?);
        let mut answered = false;
        loop {
            match reader.next().await? {
                Event::Set(set) => match apply(log, store, &set, policy) {
                    Ok(()) => answered |= !set.set.replies.is_empty(),
                    Err(error) if misfits(&error) => {
                        tracing::warn!(
                            error = deltabus_bus::causes(&error),
                            "a set of the log doesn't fit the state; it is rebuilt"
                        );
                        break;
                    }
                    Err(error) => return Err(error),
                },
                Event::CaughtUp(position) => {
                    if ledger::position(&store.view())? != position {
                        acknowledge(store, &position)?;
                    }
                    if std::mem::take(&mut answered) {
                        pass_answered(log, store).await?;
                    }
                }
                Event::Rejoin(reason) => {
                    tracing::debug!(%reason, "the state is rebuilt from the snapshot");
                    break;
                }
            }
        }
        leads = false;
    }
}

/// Takes back what was staged and is not known to be in the log: whoever is active finds it at the source. `false` if the state
/// doesn't go back to where the log was.
fn step_back(store: &Store) -> Result<bool, Error> {
    let view = store.view();
    let (known, staged) = (ledger::position(&view)?.revision, ledger::revision(&view)?);
    if ledger::foundation(&view)? {
        return Ok(false);
    }
    Ok(staged == known || undo(store, &ledger::outbox(&view, known.number)?, known)?)
}

/// Makes the state anew; `false` where snapshot and log lead nowhere yet.
async fn rebuilt(log: &Log, store: &Store, policy: ConflictPolicy) -> Result<bool, Error> {
    match rebuild(log, store, policy).await {
        Ok(reason) => Ok(reason.is_none()),
        Err(Error::Bus(BusError::NoSnapshot(_))) => Ok(false),
        Err(error) if misfits(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves the place among the reverse sets over those that were answered, so that whoever takes over begins behind them.
async fn pass_answered(log: &Log, store: &Store) -> Result<(), Error> {
    loop {
        let view = store.view();
        let cursors: BTreeMap<_, _> = ledger::cursors(&view)?.into_iter().collect();
        let waiting = log.reverse_sets(ledger::reverse(&view)?).await?;
        let is_answered = |set: &deltabus_record::change::ReverseSet| {
            cursors.get(&set.id.receiver).is_some_and(|cursor| set.id.number <= cursor.last())
        };
        // Nobody takes what can't be understood.
        let answered = waiting.iter().take_while(|waiting| waiting.set.as_ref().map_or(true, is_answered));
        let Some(last) = answered.last().map(|answered| answered.place) else { return Ok(()) };
        let mut batch = store.batch();
        ledger::put_reverse(&mut batch, last)?;
        batch.commit()?;
    }
}

/// Whether a set in the outbox starts from `reached`, so that it and those after it can be sent.
fn leads_on_from(store: &Store, reached: Revision) -> Result<bool, Error> {
    let outbox = ledger::outbox(&store.view(), reached.number)?;
    let Some(first) = outbox.first() else { return Ok(false) };
    Ok(first.set.decode()?.base == reached)
}

/// Lets the log begin with the state, once there is one. `reached`: what of the log is still true. Without a state, a snapshot
/// that is left is gone on from: it says also which edits were taken.
async fn found_anew(log: &Log, store: &Store, policy: ConflictPolicy, reached: Option<Revision>) -> Result<(), Error> {
    if ledger::revision(&store.view())?.number == 0 && readable_pointer(log).await?.is_some() {
        tracing::warn!("there is no state; it is rebuilt from the snapshot");
        return rebuild_or_found(log, store, policy).await;
    }
    found_from(log, store, reached).await
}

/// Lets the log begin with the state, or, where there is none, leaves that to the first look at the source.
///
/// No number is used for another state: the state gets one that the log can't have had, if the log is further than it. What
/// the sets that go answered is answered anew.
async fn found_from(log: &Log, store: &Store, reached: Option<Revision>) -> Result<(), Error> {
    let view = store.view();
    let mut staged = ledger::revision(&view)?;
    let highest = highest_number(log).await?;
    let mut batch = store.batch();
    let mut replies = match ledger::owed(&view)? {
        Some(owed) => owed.decode()?.replies,
        None => Vec::new(),
    };
    for waiting in ledger::outbox(&view, 0)? {
        batch.outbox_remove(waiting.revision.number);
        if reached.is_none_or(|reached| waiting.revision.number > reached.number) {
            replies.extend(waiting.set.decode()?.replies);
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

/// Whether a set of the log is none that leads on from the state.
fn misfits(error: &Error) -> bool {
    matches!(error, Error::Apply(_) | Error::Digest { .. })
}

/// What the snapshot's pointer points to; one that can't be understood is as good as none.
async fn readable_pointer(log: &Log) -> Result<Option<Manifest>, Error> {
    match deltabus_bus::pointer(log).await {
        Err(error @ BusError::Wire { .. }) => {
            tracing::warn!(error = deltabus_bus::causes(&error), "the snapshot is passed over");
            Ok(None)
        }
        pointer => Ok(pointer?),
    }
}

/// The highest number that the log and its snapshot have, or can have had where all sets since the snapshot went by age.
async fn highest_number(log: &Log) -> Result<u64, Error> {
    let snapshot = readable_pointer(log).await?.map(|manifest| manifest.position).unwrap_or_default();
    let mut highest = 0;
    let mut take = |entry| match entry {
        Entry::Foundation { revision, .. } => highest = highest.max(revision.number),
        Entry::Set(set) => highest = highest.max(set.set.next.number),
    };
    deltabus_bus::history(log, &mut take).await?;
    if highest > 0 {
        // Numbers only rise: those that went were lower.
        return Ok(highest.max(snapshot.revision.number));
    }
    let extent = log.broker().extent(log.source(), Stream::Changes).await.map_err(BusError::from)?.unwrap_or_default();
    let gone = extent.first.saturating_sub(1).saturating_sub(snapshot.sequence);
    Ok(snapshot.revision.number.saturating_add(gone.saturating_mul(BUNDLE_SETS as u64)))
}

/// Remembers how far the log is.
fn acknowledge(store: &Store, position: &Position) -> Result<(), Error> {
    let mut batch = store.batch();
    ledger::put_position(&mut batch, position)?;
    Ok(batch.commit()?)
}

/// Somebody else's sets may lead to the same state as those that were staged here, up to `reached`, without answering what these
/// do: it is taken again.
fn take_again(store: &Store, outbox: &[Waiting], sets: &[Delivered], reached: Revision) -> Result<(), Error> {
    let answered: BTreeSet<_> = sets
        .iter()
        .flat_map(|set| &set.set.replies)
        .map(|reply| (&reply.reverse.receiver, reply.reverse.number))
        .collect();
    let mut unanswered = Vec::new();
    for waiting in outbox.iter().filter(|waiting| waiting.revision.number <= reached.number) {
        unanswered.extend(waiting.set.decode()?.replies);
    }
    unanswered.retain(|reply| !answered.contains(&(&reply.reverse.receiver, reply.reverse.number)));
    if unanswered.is_empty() {
        return Ok(());
    }
    let mut batch = store.batch();
    rewind(&store.view(), unanswered, &mut batch)?;
    Ok(batch.commit()?)
}

/// Lets the reverse sets be taken again that these replies would have answered.
fn rewind(view: &View, replies: Vec<Reply>, batch: &mut Batch) -> Result<(), Error> {
    let mut cursors: BTreeMap<_, ReverseCursor> = ledger::cursors(view)?.into_iter().collect();
    // What somebody decided by hand answers a set that was taken before; it is open again.
    for reply in replies.into_iter().filter(|reply| reply.resolves.is_empty()) {
        let cursor = cursors.entry(reply.reverse.receiver).or_default();
        cursor.rewind(reply.reverse.number.saturating_sub(1));
    }
    for (receiver, cursor) in &cursors {
        ledger::put_cursor(batch, receiver, cursor)?;
    }
    ledger::put_reverse(batch, ReversePlace::default())
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
        let set = waiting.set.decode()?;
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
    rewind(&view, replies, &mut batch)?;
    ledger::put_revision(&mut batch, &back_to)?;
    ledger::put_index(&mut batch, None)?;
    ledger::put_stamp(&mut batch, None)?;
    batch.commit()?;
    Ok(true)
}

/// Brings the state to the next revision by a set of the log.
fn apply(log: &Log, store: &Store, delivered: &Delivered, policy: ConflictPolicy) -> Result<(), Error> {
    let (set, view) = (&delivered.set, store.view());
    let mut working = Working::new(&view, set.base.digest);
    for transaction in &set.transactions {
        working.apply(transaction)?;
    }
    if working.digest() != set.next.digest {
        return Err(Error::Digest { source_name: log.source().clone(), revision: set.next.number });
    }
    // A time that can't be would be later than all that come.
    let time_millis = set.time_millis.min(reverse::latest_time(log.clock().now_millis()));
    let mut batch = store.batch();
    working.write(&mut batch)?;
    let changes = set.transactions.iter().flat_map(|transaction| &transaction.collections);
    for (collection, change) in changes.flat_map(|changes| changes.changes.iter().map(|it| (&changes.collection, it))) {
        ledger::remember(&mut batch, collection, change, time_millis, policy);
    }
    let cursors: BTreeMap<_, ReverseCursor> = ledger::cursors(&view)?.into_iter().collect();
    let mut answered = cursors.clone();
    for reply in &set.replies {
        // A decision by hand speaks of a reverse set that was answered before.
        answered.entry(reply.reverse.receiver.clone()).or_default().take(reply.reverse.number);
    }
    for (receiver, cursor) in answered.iter().filter(|(receiver, cursor)| cursors.get(*receiver) != Some(*cursor)) {
        ledger::put_cursor(&mut batch, receiver, cursor)?;
    }
    let weights = ledger::weights(&view)?;
    ledger::put_weights(&mut batch, &Weights { log_bytes: weights.log_bytes + delivered.bytes, ..weights })?;
    ledger::put_clock(&mut batch, ledger::clock(&view)?.max(time_millis))?;
    ledger::put_revision(&mut batch, &set.next)?;
    ledger::put_position(&mut batch, &delivered.position)?;
    ledger::put_index(&mut batch, None)?;
    ledger::put_stamp(&mut batch, None)?;
    Ok(in_place(|| batch.commit())?)
}

/// The revision that snapshot and log lead to; `None` if they lead nowhere.
async fn reachable(log: &Log) -> Result<Option<Revision>, Error> {
    let Some(manifest) = readable_pointer(log).await? else { return Ok(None) };
    let mut reader = Reader::at(log, manifest.position);
    loop {
        match reader.next_stored().await? {
            Event::Set(_) => {}
            Event::CaughtUp(position) => return Ok(Some(position.revision)),
            Event::Rejoin(_) => return Ok(None),
        }
    }
}

/// Makes the state anew from snapshot and log; founds the log anew where that leads nowhere.
async fn rebuild_or_found(log: &Log, store: &Store, policy: ConflictPolicy) -> Result<(), Error> {
    let reason = match rebuild(log, store, policy).await {
        Ok(None) => return Ok(()),
        Ok(Some(reason)) => reason.to_string(),
        Err(error) if misfits(&error) => error.to_string(),
        Err(error) => return Err(error),
    };
    tracing::warn!(reason, "the log can't be followed from its snapshot; it is founded anew");
    found_from(log, store, None).await
}

/// Makes the state anew from snapshot and log. Gives the reason if the log can't be followed from there.
async fn rebuild(log: &Log, store: &Store, policy: ConflictPolicy) -> Result<Option<Reason>, Error> {
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
            Event::Set(set) => apply(log, store, &set, policy)?,
            Event::CaughtUp(position) => {
                acknowledge(store, &position)?;
                return Ok(None);
            }
            Event::Rejoin(reason) => return Ok(Some(reason)),
        }
    }
}
