//! Finding the least that still fails.

use crate::plan::Plan;
use crate::run::{Trace, run};

/// Takes away from a failing plan what isn't needed for it to fail: faults, receivers, edits. `told` hears of each step.
///
/// What happens by chance happens otherwise in the smaller plan, so that it may fail for another reason.
pub fn shrink(plan: &Plan, told: impl Fn(&Plan)) -> Plan {
    let mut smallest = plan.clone();
    let fails = |plan: &Plan| !run(plan, Trace::No).problems.is_empty();
    loop {
        let Some(smaller) = candidates(&smallest).into_iter().find(fails) else { return smallest };
        told(&smaller);
        smallest = smaller;
    }
}

/// Plans that are a little smaller, those that save most first.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut candidates = Vec::new();
    if plan.faults.len() > 1 {
        let faults: Vec<_> = plan.faults.iter().copied().collect();
        let (first, second) = faults.split_at(faults.len() / 2);
        for half in [first, second] {
            candidates.push(Plan { faults: half.iter().copied().collect(), ..plan.clone() });
        }
    }
    for fault in &plan.faults {
        let mut smaller = plan.clone();
        smaller.faults.remove(fault);
        candidates.push(smaller);
    }
    if plan.receivers.len() > 1 {
        let receivers = plan.receivers[..plan.receivers.len() - 1].to_vec();
        candidates.push(Plan { receivers, ..plan.clone() });
    }
    for edits in [plan.edits / 2, plan.edits * 3 / 4, plan.edits.saturating_sub(1)] {
        if edits < plan.edits {
            candidates.push(Plan { edits, ..plan.clone() });
        }
    }
    candidates
}
