//! How a source has gone lately: when its revisions came, and how much changed.

use std::collections::VecDeque;

use deltabus_bus::{Delivered, Entry, Error, Event, Log, Reader, history_tail, pointer};

/// So much of a log is read, about, to begin with: what a look at the status may cost, for each source.
const LOOKED_AT_BYTES: u64 = 4 * 1024 * 1024;

/// So many revisions are remembered: those of the time that is shown, of all but the busiest sources.
const STEPS_MAX: usize = 100_000;

/// Throughput is shown over so many spans of so many seconds each.
pub(crate) const SPANS: usize = 20;
pub(crate) const SPAN_SECONDS: u64 = 30;

/// A revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    number: u64,
    time_millis: u64,
    changes: u64,
}

/// What is known of a source's revisions, and a reader that goes on from there.
pub(crate) struct Course {
    reader: Reader,
    steps: Steps,
    /// The last revision in the log.
    end: u64,
}

/// The last revisions, oldest first.
#[derive(Default)]
struct Steps(VecDeque<Step>);

impl Course {
    /// Reads what the log has. `None` where nothing was published.
    pub(crate) async fn begin(log: &Log) -> Result<Option<Course>, Error> {
        let Some(manifest) = pointer(log).await? else { return Ok(None) };
        let (sender, entries) = std::sync::mpsc::channel();
        let mut take = move |entry: Entry| {
            if let Entry::Set(delivered) = entry {
                // Only this function's end takes the other one away.
                let _ = sender.send(Step::of(&delivered));
            }
        };
        history_tail(log, LOOKED_AT_BYTES, &mut take).await?;
        let mut steps = Steps::default();
        entries.try_iter().for_each(|step| steps.note(step));
        let end = manifest.position.revision.number;
        let mut course = Course { reader: Reader::at(log, manifest.position), steps, end };
        Ok(course.go_on().await?.then_some(course))
    }

    /// Reads what has come since. False: the log doesn't lead on, and has to be read anew.
    pub(crate) async fn go_on(&mut self) -> Result<bool, Error> {
        loop {
            match self.reader.next_stored().await? {
                Event::Set(set) => self.steps.note(Step::of(&set)),
                Event::CaughtUp(position) => {
                    self.end = position.revision.number;
                    return Ok(true);
                }
                Event::Rejoin(_) => return Ok(false),
            }
        }
    }

    /// The last revision in the log.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// When the first revision after `number` came, as far as that is known; `None` where there is none.
    pub(crate) fn since(&self, number: u64) -> Option<u64> {
        self.steps.since(number)
    }

    /// How many changes came in each of the last [`SPANS`], oldest first; the last one is going on.
    pub(crate) fn throughput(&self, now_millis: u64) -> Vec<u64> {
        self.steps.throughput(now_millis)
    }
}

impl Step {
    fn of(set: &Delivered) -> Step {
        let changes = set.set.transactions.iter().map(|transaction| transaction.len() as u64).sum();
        Step { number: set.set.next.number, time_millis: set.set.time_millis, changes }
    }
}

impl Steps {
    fn note(&mut self, step: Step) {
        // Read before, from further back.
        if self.0.back().is_some_and(|last| last.number >= step.number) {
            return;
        }
        if self.0.len() == STEPS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(step);
    }

    fn since(&self, number: u64) -> Option<u64> {
        let at = self.0.partition_point(|step| step.number <= number);
        self.0.get(at).map(|step| step.time_millis)
    }

    fn throughput(&self, now_millis: u64) -> Vec<u64> {
        // Spans stand still while time goes on, so that a bar only moves and never changes its height.
        let current = now_millis / (SPAN_SECONDS * 1000);
        let mut spans = vec![0; SPANS];
        for step in self.0.iter().rev() {
            let ago = current.saturating_sub(step.time_millis / (SPAN_SECONDS * 1000)) as usize;
            // Clocks differ: what seems to come from the future is of now.
            match spans.len().checked_sub(ago + 1) {
                Some(at) => spans[at] += step.changes,
                None => break,
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000 * SPAN_SECONDS * 1000 + 7_000;

    fn steps(of: &[(u64, u64, u64)]) -> Steps {
        let mut steps = Steps::default();
        for (number, seconds_ago, changes) in of {
            steps.note(Step { number: *number, time_millis: NOW - seconds_ago * 1000, changes: *changes });
        }
        steps
    }

    #[test]
    fn changes_count_in_the_span_in_which_they_came() {
        let steps = steps(&[(1, 700, 5), (2, 586, 1), (3, 38, 2), (4, 37, 3), (5, 7, 4), (6, 0, 6)]);
        let spans = steps.throughput(NOW);
        assert_eq!(spans.len(), SPANS);
        assert_eq!((spans[0], spans[18], spans[19]), (0, 3, 10), "{spans:?}");
        // 586 s ago was in the twentieth span before this one, 38 s ago in the second.
        assert_eq!((spans[17], spans.iter().sum::<u64>()), (2, 15), "{spans:?}");
    }

    #[test]
    fn what_comes_from_the_future_is_of_now() {
        let mut steps = steps(&[(1, 1, 1)]);
        steps.note(Step { number: 2, time_millis: NOW + 3_600_000, changes: 2 });
        assert_eq!(steps.throughput(NOW)[SPANS - 1], 3);
    }

    #[test]
    fn a_receiver_lacks_the_first_revision_after_its_own() {
        let steps = steps(&[(5, 40, 1), (6, 30, 1), (7, 20, 1)]);
        for (at, seconds_ago) in [(5, Some(30)), (6, Some(20)), (7, None), (9, None), (1, Some(40))] {
            assert_eq!(steps.since(at), seconds_ago.map(|ago| NOW - ago * 1000), "{at}");
        }
    }

    #[test]
    fn a_revision_that_was_read_before_counts_once() {
        assert_eq!(steps(&[(1, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)]).0.len(), 3);
    }
}
