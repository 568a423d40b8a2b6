//! What befalls the processes.

use std::fmt;
use std::time::Duration;

use deltabus_tests::{Running, World, kill};

use super::editors::{Edited, FileEditor, Files};

/// Random numbers from a seed (SplitMix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// How often what befell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    transmitters_killed: u64,
    receivers_killed: u64,
    frozen: u64,
    brokers_killed: u64,
    brokers_frozen: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "killed: {} transmitters, {} receivers, {} brokers; frozen: {} processes, {} brokers",
            self.transmitters_killed, self.receivers_killed, self.brokers_killed, self.frozen, self.brokers_frozen
        )
    }
}

/// Pauses between two faults and within one, in milliseconds: long enough for work to begin, and sometimes to end.
const PAUSE_MS: u64 = 400;
const DOWN_MS: u64 = 300;

/// The processes and what befalls them.
pub(crate) struct Faults<'a> {
    world: &'a World,
    lines: &'a [String],
    running: Vec<Running>,
    files: Vec<(usize, FileEditor)>,
    random: Random,
    counts: Counts,
}

impl<'a> Faults<'a> {
    /// Starts a process for each of `lines`; the files are edited while the process of that place is down.
    pub(crate) fn new(
        world: &'a World,
        lines: &'a [String],
        files: Vec<(usize, &'static str, Files)>,
        random: Random,
    ) -> Faults<'a> {
        let running = lines.iter().map(|line| world.start(line)).collect();
        let files = files.into_iter().map(|(at, name, files)| (at, FileEditor::new(name, files, at as u64))).collect();
        Faults { world, lines, running, files, random, counts: Counts::default() }
    }

    /// One fault, after a pause.
    pub(crate) fn strike(&mut self) {
        self.pause(PAUSE_MS);
        let at = self.random.below(self.running.len() as u64) as usize;
        match self.random.below(10) {
            0 => self.kill_broker(),
            1 => self.freeze_broker(),
            2 | 3 => self.freeze(at),
            _ => self.kill(at),
        }
    }

    fn pause(&mut self, most_ms: u64) {
        std::thread::park_timeout(Duration::from_millis(self.random.below(most_ms)));
    }

    fn kill(&mut self, at: usize) {
        match self.lines[at].starts_with("transmit") {
            true => self.counts.transmitters_killed += 1,
            false => self.counts.receivers_killed += 1,
        }
        let place = self.running.swap_remove(at);
        place.kill();
        for (_, editor) in self.files.iter_mut().filter(|(of, _)| *of == at) {
            editor.edit(&mut self.random);
        }
        self.pause(DOWN_MS);
        self.running.push(self.world.start(&self.lines[at]));
        let last = self.running.len() - 1;
        self.running.swap(at, last);
    }

    fn freeze(&mut self, at: usize) {
        self.counts.frozen += 1;
        self.running[at].freeze();
        self.pause(DOWN_MS * 5);
        self.running[at].thaw();
    }

    fn kill_broker(&mut self) {
        self.counts.brokers_killed += 1;
        // Somebody who uses it starts it again, if nobody was quicker.
        kill(self.world.broker_pid());
        self.pause(DOWN_MS * 5);
        self.world.run("bus start").exits(0);
    }

    fn freeze_broker(&mut self) {
        self.counts.brokers_frozen += 1;
        let pid = rustix::process::Pid::from_raw(self.world.broker_pid()).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("the broker can be frozen");
        self.pause(DOWN_MS * 5);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("the broker can be thawed");
    }

    /// No more faults: all processes go on until what this gives is dropped. None may have ended by itself.
    pub(crate) fn end(mut self) -> (Ended, Vec<Edited>) {
        for (at, running) in self.running.iter_mut().enumerate() {
            assert!(!running.has_ended(), "`{}` ended by itself\n{}", self.lines[at], self.world.logs());
        }
        let edited = self.files.into_iter().map(|(_, editor)| editor.edited).collect();
        (Ended { counts: self.counts, _running: self.running }, edited)
    }
}

/// What befell; the processes go on as long as it is there.
pub(crate) struct Ended {
    counts: Counts,
    _running: Vec<Running>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.fmt(f)
    }
}
