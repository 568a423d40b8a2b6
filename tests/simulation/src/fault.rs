//! What can go wrong.

/// How a fault comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurs {
    /// At a call, once in so many of those that it could befall.
    Call(u64),
    /// By itself, about once in so many seconds.
    Seconds(u64),
}

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident $name:literal $occurs:ident($often:literal),)*) => {
        /// One kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $fault,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$fault,)*];

            /// The name in traces, figures and arguments.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$fault => $name,)* }
            }

            /// How it comes about, where a plan says nothing else.
            pub fn occurs(self) -> Occurs {
                match self { $(Fault::$fault => Occurs::$occurs($often),)* }
            }
        }
    };
}

faults! {
    /// A process dies before a commit of its state store.
    CrashBeforeCommit "crash-before-commit" Call(120),
    /// A process dies after a commit of its state store, before it knows.
    CrashAfterCommit "crash-after-commit" Call(120),
    /// A state store fails to commit: disk full.
    CommitFails "commit-fails" Call(150),
    /// A process dies before what it asks of the bus is done.
    CrashBeforeBus "crash-before-bus" Call(250),
    /// A process dies after what it asked of the bus is done, before it knows.
    CrashAfterBus "crash-after-bus" Call(250),
    /// A process dies before it reads or writes a store.
    CrashBeforeStore "crash-before-interface" Call(200),
    /// A process dies between stage and commit of a store.
    CrashBetween "crash-between-stage-and-commit" Call(40),
    /// A process dies after it has written a store, before it knows.
    CrashAfterWrite "crash-after-write" Call(40),
    /// A process dies at any moment.
    Crash "crash-at-any-time" Seconds(60),
    /// The bus does not answer.
    BusError "bus-error" Call(100),
    /// The bus takes seconds to answer.
    SlowBus "slow-bus" Call(150),
    /// A message is stored, and its acknowledgement lost.
    LoseAck "lose-ack" Call(20),
    /// A message is lost, and nobody knows.
    LoseAppend "lose-message" Call(30),
    /// A message is stored seconds after its sender gave it up.
    LateAppend "late-message" Call(30),
    /// A message arrives twice.
    RepeatAppend "repeat-message" Call(20),
    /// A live message is lost to a follower.
    LoseLive "lose-live" Call(10),
    /// A live message comes twice to a follower.
    RepeatLive "repeat-live" Call(10),
    /// A live message comes after the one that follows it.
    DelayLive "delay-live" Call(10),
    /// A subscription ends.
    EndLive "end-live" Call(40),
    /// A process is cut off from the bus for a while.
    CutOff "cut-off" Seconds(60),
    /// The bus is down for a while.
    BusDown "bus-down" Seconds(150),
    /// Old messages of the log expire.
    TrimLog "trim-log" Seconds(50),
    /// Old reverse sets expire.
    TrimReverse "trim-reverse" Seconds(100),
    /// Somebody wants a snapshot.
    Snapshot "snapshot" Seconds(50),
    /// The log loses its end: a power cut.
    LoseEnd "lose-end-of-log" Seconds(100),
    /// The source's streams are lost.
    LoseLog "lose-log" Seconds(200),
    /// A transmitter's state is lost.
    LoseTransmitter "lose-transmitter-state" Seconds(120),
    /// A transmitter's state is restored from an older copy.
    OldTransmitter "old-transmitter-state" Seconds(120),
    /// A receiver's state is lost.
    LoseReceiver "lose-receiver-state" Seconds(120),
    /// A receiver's state is restored from an older copy.
    OldReceiver "old-receiver-state" Seconds(120),
    /// Somebody starts another transmitter of the same source.
    SecondTransmitter "second-transmitter" Seconds(80),
    /// A process's clock jumps.
    SkewClock "skew-clock" Seconds(50),
    /// A user writes a store while a process is at it.
    UserAmid "user-amid" Call(30),
    /// A store is locked for a moment.
    StoreLocked "store-locked" Call(60),
    /// A store is written, and the commit reported to have failed.
    WriteUnknown "write-unknown" Call(40),
}

impl Fault {
    /// The fault of that name.
    pub fn named(name: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|fault| fault.name() == name)
    }

    /// What ends a process.
    pub fn crashes(self) -> bool {
        matches!(
            self,
            Fault::CrashBeforeCommit
                | Fault::CrashAfterCommit
                | Fault::CrashBeforeBus
                | Fault::CrashAfterBus
                | Fault::CrashBeforeStore
                | Fault::CrashBetween
                | Fault::CrashAfterWrite
                | Fault::Crash
        )
    }
}

/// How often each fault happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally([u64; Fault::ALL.len()]);

impl Default for Tally {
    fn default() -> Tally {
        Tally([0; Fault::ALL.len()])
    }
}

impl Tally {
    /// Once more.
    pub fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How often one happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// How many there were of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Takes another's figures in.
    pub fn add(&mut self, other: &Tally) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}
