//! How many conflicts and refused edits of a source nobody has decided about.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use deltabus_bus::broker::Stream;
use deltabus_bus::{Entry, Log, history_tail};
use deltabus_record::change::{ConflictId, Outcome};
use deltabus_record::schema::SourceName;

use crate::error::Error;

/// So much of a log is read, about: what a look at the status may cost, for each source.
const COUNTED_BYTES: u64 = 4 * 1024 * 1024;

/// Counts of what is undecided in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cases {
    /// Conflicts, whoever has won.
    pub(crate) conflicts: u64,
    /// Those among them that wait for somebody: nobody has won.
    pub(crate) open: u64,
    /// Edits that the source refused.
    pub(crate) refused: u64,
    /// Whether all of the log was read; else there may be more of each.
    pub(crate) complete: bool,
}

/// Counts the cases of logs, and again only what has grown.
#[derive(Default)]
pub(crate) struct CaseCounter {
    /// By source: the log's end when it was read, and what was found.
    known: HashMap<SourceName, (u64, Cases)>,
}

impl CaseCounter {
    /// The cases in `log`.
    pub(crate) async fn count(&mut self, log: &Log) -> Result<Cases, Error> {
        let extent = log.broker().extent(log.source(), Stream::Changes).await.map_err(deltabus_bus::Error::from)?;
        let last = extent.map_or(0, |extent| extent.last);
        if let Some((_, cases)) = self.known.get(log.source()).filter(|(known, _)| *known == last) {
            return Ok(*cases);
        }
        let cases = count(log).await?;
        self.known.insert(log.source().clone(), (last, cases));
        Ok(cases)
    }
}

async fn count(log: &Log) -> Result<Cases, Error> {
    let undecided: Arc<Mutex<HashMap<ConflictId, Outcome>>> = Arc::default();
    let sink = Arc::clone(&undecided);
    let mut take = move |entry: Entry| {
        let Entry::Set(delivered) = entry else { return };
        let mut undecided = sink.lock().expect("nobody panics with this lock");
        for decided in delivered.set.replies.iter().flat_map(|reply| &reply.resolves) {
            undecided.remove(decided);
        }
        undecided.extend(delivered.set.cases().map(|case| (case.id, case.verdict.outcome.clone())));
    };
    let complete = history_tail(log, COUNTED_BYTES, &mut take).await?;
    let undecided = undecided.lock().expect("nobody panics with this lock");
    let count = |is: fn(&Outcome) -> bool| undecided.values().filter(|outcome| is(outcome)).count() as u64;
    Ok(Cases {
        conflicts: count(|outcome| matches!(outcome, Outcome::Conflict(_))),
        open: count(|outcome| matches!(outcome, Outcome::Conflict(conflict) if conflict.open)),
        refused: count(|outcome| matches!(outcome, Outcome::Refused { .. })),
        complete,
    })
}
