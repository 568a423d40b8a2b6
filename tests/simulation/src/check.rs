//! What must hold in the end.

use std::collections::BTreeMap;

use deltabus_record::change::Revision;
use deltabus_record::convert;
use deltabus_record::schema::ReceiverName;
use deltabus_record::value::Value;
use deltabus_state::{Owner, StateDirectory, View};

use crate::interface::native;
use crate::process::Role;
use crate::run::{Report, Run};
use crate::shelf::{Shelf, Table, Tables};
use crate::world::lock;

/// What differs between source and destinations, or what still waits; `None`: nothing.
pub(crate) fn difference(run: &Run) -> Option<String> {
    let source = lock(&run.processes[0].shelf);
    let Some(tables) = source.tables() else { return Some("the source is gone".into()) };
    if run.processes[0].plight().held.is_some() {
        return Some("a delete is held".into());
    }
    run.processes[2..].iter().find_map(|process| {
        let shelf = lock(&process.shelf);
        let found = unequal(tables, &shelf)?;
        Some(format!("{}: {found}", process.name))
    })
}

/// How a destination differs from the source.
fn unequal(source: &Tables, destination: &Shelf) -> Option<String> {
    let Some(tables) = destination.tables() else { return Some("nothing is there".into()) };
    let surplus = |table: &&Table| {
        !source.iter().any(|wanted| wanted.name == table.name) && !destination.orphans.contains(&table.name)
    };
    if let Some(table) = tables.iter().find(surplus).filter(|_| !destination.kind.single) {
        return Some(format!("{} is left over", table.name));
    }
    source.iter().find_map(|wanted| {
        let there = match destination.kind.single {
            true => tables.first(),
            false => tables.iter().find(|table| table.name == wanted.name),
        };
        let Some(there) = there else { return Some(format!("{} is missing", wanted.name)) };
        let wanted = Table {
            rows: wanted.rows.iter().map(|row| row.iter().map(|value| project(value, destination)).collect()).collect(),
            ..wanted.clone()
        };
        let (wanted_rows, rows) = (wanted.named(), there.named());
        if wanted_rows == rows {
            return None;
        }
        let show = |row: &BTreeMap<String, String>| {
            row.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let missing = wanted_rows.iter().find(|row| !rows.contains(row)).map(show);
        let surplus = rows.iter().find(|row| !wanted_rows.contains(row)).map(show);
        Some(format!(
            "{} has {} records instead of {}; missing {}; too many {}",
            wanted.name,
            rows.len(),
            wanted_rows.len(),
            missing.unwrap_or_else(|| "none".into()),
            surplus.unwrap_or_else(|| "none".into()),
        ))
    })
}

fn project(value: &Value, destination: &Shelf) -> Value {
    convert::project(value.clone(), native(destination.kind.absent))
}

/// Compares what the processes remember: all are at the revision that readers reached, with its digest, and nothing waits.
pub(crate) async fn states(run: &Run) {
    let reached = run.chronicle.reached();
    for process in run.processes.iter().filter(|process| process.name != "tx2") {
        let owner = match process.role {
            Role::Transmitter => Owner::Transmitter { source: run.source.clone() },
            Role::Receiver(at) => Owner::Receiver {
                source: run.source.clone(),
                receiver: ReceiverName::new(run.world.plan.receivers[at].name).expect("it is a name"),
            },
        };
        let store = StateDirectory::open(process.state()).and_then(|state| state.store(&owner));
        let store = match store {
            Ok(store) => store,
            Err(error) => {
                run.world.problem(format!("the state of {} can't be opened: {}", process.name, process.tell(&error)));
                continue;
            }
        };
        let view = store.view();
        let (revision, waits) = match process.role {
            Role::Transmitter => {
                let position = position(&view).unwrap_or_default();
                let waits = view.outbox(position.number + 1).count();
                (view.meta_values("revision").ok().flatten().and_then(|values| Revision::from_values(&values)), waits)
            }
            Role::Receiver(_) => (position(&view), view.outbox(0).count()),
        };
        match revision {
            Some(revision) if revision == reached => {}
            other => run.world.problem(format!(
                "{} is at {}, readers are at {}",
                process.name,
                other.map_or("nothing".into(), |revision| format!("{} ({})", revision.number, revision.digest)),
                format_args!("{} ({})", reached.number, reached.digest),
            )),
        }
        if waits > 0 {
            run.world.problem(format!("{waits} sets wait in the outbox of {}", process.name));
        }
        match view.digest() {
            Ok(digest) if digest == reached.digest => {}
            Ok(digest) => run.world.problem(format!("the records of {} have the digest {digest}", process.name)),
            Err(error) => run.world.problem(format!("the records of {} can't be read: {error}", process.name)),
        }
    }
}

/// The revision at which a process last saw the log.
fn position(view: &View) -> Option<Revision> {
    let values = view.meta_values("position").ok()??;
    match values.as_slice() {
        [_, _, number, records, sum, ..] => Revision::from_values(&[number.clone(), records.clone(), sum.clone()]),
        _ => None,
    }
}

/// Finds out what became of every traced edit, and sums up.
pub(crate) fn edits(run: &Run) -> Report {
    let mut excused = 0;
    let source = lock(&run.processes[0].shelf);
    let edits = run.users.edits();
    for (value, edit) in &edits {
        let known = source.ever_had(value) || run.chronicle.keeps(value) || edit.superseded;
        if !known {
            let receiver = run.world.plan.receivers[edit.receiver].name;
            match edit.held || edit.sent {
                true => run.world.problem(format!("lost: {value}, written at {receiver} after {} ms", edit.millis)),
                false => excused += 1,
            }
        }
    }
    let deletions = run.users.deletions();
    for gone in &deletions {
        let receiver = run.world.plan.receivers[gone.receiver].name;
        let known = source.lacked_since(&gone.table, &gone.key, gone.millis)
            || run.chronicle.answered_delete(receiver, &gone.table, &gone.key)
            || gone.superseded;
        if !known {
            match gone.held || gone.sent {
                true => run.world.problem(format!(
                    "lost: the delete of {} {} at {receiver} after {} ms",
                    gone.table, gone.key, gone.millis
                )),
                false => excused += 1,
            }
        }
    }
    twice(run, &source, &edits);
    let verdicts = run.chronicle.verdicts();
    Report {
        problems: run.world.problems(),
        faults: run.world.tally(),
        writes: run.users.writes(),
        edits: (edits.len() + deletions.len()) as u64,
        excused,
        sets: run.chronicle.sets(),
        verdicts: verdicts.accepted + verdicts.conflicts + verdicts.refused,
        conflicts: verdicts.conflicts,
        refused: verdicts.refused,
        seconds: run.world.millis() / 1000,
        trace: run.world.trace(),
    }
}

/// Looks for what was done twice.
fn twice(run: &Run, source: &Shelf, edits: &BTreeMap<String, crate::users::Edit>) {
    use deltabus_record::change::ConflictPolicy;
    // Where the edit wins anyway, the source's own change since may be overwritten once more after a crash.
    if run.world.plan.policy == ConflictPolicy::Source {
        for ((value, table, key), times) in source.arrivals.iter().filter(|(_, times)| **times > 1) {
            if edits.contains_key(value) {
                run.world.problem(format!("twice: {value} came to {table} {key} of the source {times} times"));
            }
        }
    }
}
