//! What turns one list into another, with as much as possible left where it is.

/// One step, in the order of both lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The old one at this place stands.
    Keep(usize),
    /// The old one at the first place becomes the new one at the second.
    Replace(usize, usize),
    /// The old one goes.
    Remove(usize),
    /// The new one comes in.
    Insert(usize),
}

/// Beyond this many comparisons the middle of two lists is paired by place alone.
const COMPARISONS_MAX: usize = 1_000_000;

/// The steps from `old` to `new`.
pub(super) fn steps<T: PartialEq>(old: &[T], new: &[T]) -> Vec<Step> {
    let front = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (rest_old, rest_new) = (&old[front..], &new[front..]);
    let back = rest_old.iter().rev().zip(rest_new.iter().rev()).take_while(|(old, new)| old == new).count();
    let middle_old = &rest_old[..rest_old.len() - back];
    let middle_new = &rest_new[..rest_new.len() - back];
    let mut steps: Vec<_> = (0..front).map(Step::Keep).collect();
    let mut gap = (front, front);
    let mut fill = |steps: &mut Vec<Step>, to: (usize, usize)| {
        let (olds, news) = (to.0 - gap.0, to.1 - gap.1);
        for at in 0..olds.max(news) {
            steps.push(match (at < olds, at < news) {
                (true, true) => Step::Replace(gap.0 + at, gap.1 + at),
                (true, false) => Step::Remove(gap.0 + at),
                _ => Step::Insert(gap.1 + at),
            });
        }
        gap = (to.0 + 1, to.1 + 1);
    };
    for (at_old, at_new) in common(middle_old, middle_new) {
        fill(&mut steps, (front + at_old, front + at_new));
        steps.push(Step::Keep(front + at_old));
    }
    fill(&mut steps, (front + middle_old.len(), front + middle_new.len()));
    steps.extend((old.len() - back..old.len()).map(Step::Keep));
    steps
}

/// A longest common subsequence, as pairs of places.
fn common<T: PartialEq>(old: &[T], new: &[T]) -> Vec<(usize, usize)> {
    if old.is_empty() || new.is_empty() || old.len().saturating_mul(new.len()) > COMPARISONS_MAX {
        return Vec::new();
    }
    let width = new.len() + 1;
    let mut lengths = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = match old[i] == new[j] {
                true => lengths[(i + 1) * width + j + 1] + 1,
                false => lengths[(i + 1) * width + j].max(lengths[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn steps_lead_from_old_to_new(old in prop::collection::vec(0..4u8, 0..9), new in prop::collection::vec(0..4u8, 0..9)) {
            let mut made = Vec::new();
            let mut next = 0;
            for step in steps(&old, &new) {
                match step {
                    Step::Keep(at) => { prop_assert_eq!(at, next); next += 1; made.push(old[at]); }
                    Step::Replace(at, with) => { prop_assert_eq!(at, next); next += 1; made.push(new[with]); }
                    Step::Remove(at) => { prop_assert_eq!(at, next); next += 1; }
                    Step::Insert(at) => made.push(new[at]),
                }
            }
            prop_assert_eq!(next, old.len());
            prop_assert_eq!(made, new);
        }
    }

    #[test]
    fn one_edit_is_one_step() {
        let edited = steps(&["a", "b", "c"], &["a", "x", "c"]);
        assert_eq!(edited, [Step::Keep(0), Step::Replace(1, 1), Step::Keep(2)]);
        let removed = steps(&["a", "b", "c"], &["a", "c"]);
        assert_eq!(removed, [Step::Keep(0), Step::Remove(1), Step::Keep(2)]);
    }
}
