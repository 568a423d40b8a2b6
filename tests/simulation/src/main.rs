//! Runs simulations from the command line.
fn main() {
    let seed: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut plan = deltabus_simulation::Plan::of(seed);
    if std::env::args().nth(2).as_deref() == Some("calm") {
        plan.faults.clear();
    }
    let t = std::time::Instant::now();
    let report = deltabus_simulation::run(&plan, deltabus_simulation::Trace::Yes);
    for line in &report.trace {
        println!("{line}");
    }
    eprintln!(
        "{:?} {:?} writes {} edits {} sets {} verdicts {} conflicts {} seconds {}",
        t.elapsed(),
        report.problems,
        report.writes,
        report.edits,
        report.sets,
        report.verdicts,
        report.conflicts,
        report.seconds
    );
}
