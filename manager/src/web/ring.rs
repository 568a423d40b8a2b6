//! How much a source changed lately, for a line to be drawn: a bounded ring of short spans of time.

use std::collections::BTreeMap;

/// How long a span is.
pub(super) const SPAN_MILLIS: u64 = 5_000;

/// How many spans are kept: ten minutes.
pub(super) const SPANS_MAX: u64 = 120;

/// Changes by span of time, newest last; what is older is forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    changes: BTreeMap<u64, u64>,
}

impl Ring {
    /// Adds changes of a time; what lies before the ring or after `now` counts nowhere.
    pub(super) fn add(&mut self, millis: u64, changes: u64, now_millis: u64) {
        let (span, now) = (millis / SPAN_MILLIS, now_millis / SPAN_MILLIS);
        if span > now || span + SPANS_MAX <= now {
            return;
        }
        *self.changes.entry(span).or_default() += changes;
        self.changes = self.changes.split_off(&(now + 1).saturating_sub(SPANS_MAX));
    }

    /// The changes of each span, the last being that of `now`.
    pub(super) fn line(&self, now_millis: u64) -> Vec<u64> {
        let now = now_millis / SPAN_MILLIS;
        let first = (now + 1).saturating_sub(SPANS_MAX);
        (first..=now).map(|span| self.changes.get(&span).copied().unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_last_spans_and_no_more() {
        let mut ring = Ring::default();
        let now = 10_000 * SPAN_MILLIS;
        ring.add(now, 3, now);
        ring.add(now + 1, 4, now + 1);
        ring.add(now - SPAN_MILLIS, 5, now);
        ring.add(now - SPANS_MAX * SPAN_MILLIS, 99, now);
        ring.add(now + SPAN_MILLIS, 99, now);
        let line = ring.line(now);
        assert_eq!(line.len() as u64, SPANS_MAX);
        assert_eq!(line[line.len() - 2..], [5, 7]);
        assert_eq!(line.iter().sum::<u64>(), 12);
        let later = now + SPANS_MAX * SPAN_MILLIS;
        assert_eq!(ring.line(later).iter().sum::<u64>(), 0);
        for step in 0..1_000 {
            ring.add(later + step * SPAN_MILLIS, 1, later + step * SPAN_MILLIS);
        }
        assert!(ring.changes.len() as u64 <= SPANS_MAX);
    }
}
