//! Mending a destination on request, and other things that a running receiver is asked for.

use deltabus_bus::{Event, Reader, confirmed};
use deltabus_interfaces::{Error as InterfaceError, in_place};
use deltabus_record::key::Key;
use deltabus_record::row::Row;

use crate::config::OnError;
use crate::dead::{DeadLetter, DeadLetters};
use crate::error::Error;
use crate::ledger::{self, Wanted};
use crate::outlet::Outlet;
use crate::pending::Records;

use super::bring::{Bringing, Brought, Turn};
use super::{DESTINATION_ATTEMPTS, Receiver, Round};

/// What becomes of edits that were made at the destination and not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// They are edits: found and sent.
    Send,
    /// The source's values take their place.
    Discard,
}

/// What a running receiver may be asked on its own machine; see [`deltabus_state::ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Make the destination what it should be.
    Repair(Unsent),
    /// Try dead letters again, by their numbers.
    Retry(Vec<u64>),
    /// Forget dead letters.
    Drop(Vec<u64>),
    /// Say what receiving would change now; the answer is JSON, see [`Plan::to_json`](crate::Plan::to_json).
    Plan,
}

impl Wish {
    /// As it is asked.
    pub fn to_text(&self) -> String {
        match self {
            Wish::Repair(Unsent::Send) => "repair".into(),
            Wish::Repair(Unsent::Discard) => "repair discard".into(),
            Wish::Retry(numbers) => format!("retry {}", joined(numbers)),
            Wish::Drop(numbers) => format!("drop {}", joined(numbers)),
            Wish::Plan => "plan".into(),
        }
    }

    fn from_text(text: &str) -> Option<Wish> {
        let numbers = |numbers: &[&str]| numbers.iter().map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>();
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["repair"] => Some(Wish::Repair(Unsent::Send)),
            ["repair", "discard"] => Some(Wish::Repair(Unsent::Discard)),
            ["retry", rest @ ..] => numbers(rest).map(Wish::Retry),
            ["drop", rest @ ..] => numbers(rest).map(Wish::Drop),
            ["plan"] => Some(Wish::Plan),
            _ => None,
        }
    }
}

fn joined(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// What became of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The destination has the change now.
    Applied,
    /// It was refused again, for this reason.
    Refused(String),
    /// It was dropped: the destination stays as it is.
    Dropped,
    /// There is none of that number that waits: it was applied or dropped before.
    Unknown,
}

impl Tried {
    /// As it is answered, a line for each number.
    fn to_line(&self, number: u64) -> String {
        match self {
            Tried::Applied => format!("{number} applied"),
            Tried::Refused(reason) => format!("{number} refused {}", reason.replace('\n', " ")),
            Tried::Dropped => format!("{number} dropped"),
            Tried::Unknown => format!("{number} unknown"),
        }
    }

    /// All lines of an answer; what isn't one is passed over.
    pub fn from_lines(answer: &str) -> Vec<(u64, Tried)> {
        let line = |line: &str| {
            let (number, what) = line.split_once(' ')?;
            let tried = match what.split_once(' ').unwrap_or((what, "")) {
                ("applied", _) => Tried::Applied,
                ("refused", reason) => Tried::Refused(reason.to_owned()),
                ("dropped", _) => Tried::Dropped,
                ("unknown", _) => Tried::Unknown,
                _ => return None,
            };
            Some((number.parse().ok()?, tried))
        };
        answer.lines().filter_map(line).collect()
    }
}

/// What the log says of the base.
enum Proof {
    /// It is that revision's state.
    Holds,
    /// It is not.
    Fails,
    /// The log no longer says anything of that revision, or there is no base.
    Expired,
}

/// How answers to a [`Wish`] begin that could not be done.
pub const WISH_FAILED: &str = "error: ";

impl Receiver {
    /// Makes the destination what it should be at the revision reached, writing only what differs: the source with pending edits
    /// on top. A copy of the source that isn't what the log says is loaded anew first. After a crash the next round goes on.
    pub async fn repair(&mut self, unsent: Unsent) -> Result<Round, Error> {
        let mut round = Round::default();
        let result = self.mend(unsent, &mut round).await;
        self.report(result.as_ref().err())?;
        result.map(|()| round)
    }

    async fn mend(&mut self, unsent: Unsent, round: &mut Round) -> Result<(), Error> {
        self.recover()?;
        match self.prove().await? {
            Proof::Holds => {}
            Proof::Fails if self.config.reverse && unsent == Unsent::Send => {
                let (place, source_name) = (self.place(), self.config.source.clone());
                return Err(Error::Unproven { place, source_name });
            }
            proof => {
                tracing::warn!(source = %self.config.source, "the copy of the source is loaded anew");
                if matches!(proof, Proof::Fails) || unsent == Unsent::Discard {
                    // Edits aren't looked for by what it says.
                    let mut batch = self.store.batch();
                    ledger::forget_position(&mut batch)?;
                    batch.drop_aside();
                    batch.commit()?;
                }
                self.join(round).await?;
                // The destination is made equal when the base has caught up.
                return self.catch_up(round).await;
            }
        }
        if let Some(ahead) = self.ahead {
            self.catch_up_with(ahead, round).await?;
        }
        if self.config.reverse && unsent == Unsent::Send {
            self.find_edits(round)?;
        }
        self.reselect(round)?;
        let mut batch = self.store.batch();
        ledger::put_reconcile(&mut batch, Wanted::Yes)?;
        batch.commit()?;
        self.reconcile(round)?;
        round.revision = self.position()?.map_or(0, |position| position.revision.number);
        self.send().await
    }

    /// Whether the base is the state that the log says it is, record by record.
    async fn prove(&self) -> Result<Proof, Error> {
        let Some(position) = self.position()? else { return Ok(Proof::Expired) };
        match confirmed(&self.log, position).await? {
            None => Ok(Proof::Expired),
            Some(revision) if revision != position.revision => Ok(Proof::Fails),
            Some(revision) if in_place(|| self.store.view().digest())? != revision.digest => Ok(Proof::Fails),
            Some(_) => Ok(Proof::Holds),
        }
    }

    /// Brings the base to what the destination has already.
    async fn catch_up_with(&mut self, ahead: u64, round: &mut Round) -> Result<(), Error> {
        let mut reader = Reader::at(&self.log, self.position()?.unwrap_or_default());
        let mut group = Vec::new();
        while let Event::Set(set) = reader.next_stored().await? {
            let there = set.set.next.number >= ahead;
            group.push(*set);
            if there {
                break;
            }
        }
        self.apply(group, round).await?;
        // What the log no longer leads to is found by comparing.
        self.ahead = None;
        Ok(())
    }

    /// Tries dead letters again: each record as a whole, from what the destination holds to what the source has now. What is
    /// refused again stays with the new reason.
    pub async fn retry(&mut self, numbers: &[u64]) -> Result<Vec<(u64, Tried)>, Error> {
        let mut round = Round::default();
        let result = self.retry_in(numbers, &mut round).await;
        self.report(result.as_ref().err())?;
        result
    }

    async fn retry_in(&mut self, numbers: &[u64], round: &mut Round) -> Result<Vec<(u64, Tried)>, Error> {
        self.recover()?;
        if let Some(ahead) = self.ahead {
            self.catch_up_with(ahead, round).await?;
        }
        let mut attempt = 0;
        loop {
            // Edits made there come first.
            self.tend(round).await?;
            match in_place(|| self.retry_now(numbers, round)) {
                Err(Error::Interface(InterfaceError::Changed { .. })) if attempt < DESTINATION_ATTEMPTS => {
                    attempt += 1;
                    self.stamp = None;
                }
                result => return result,
            }
        }
    }

    fn retry_now(&mut self, numbers: &[u64], round: &mut Round) -> Result<Vec<(u64, Tried)>, Error> {
        let view = self.store.view();
        let Some(position) = self.position()? else { return Ok(unknown(numbers)) };
        let found = self.found.clone().unwrap_or_default();
        let outlets = self.outlets(view.collections(), &found)?;
        let letters = numbers.iter().filter_map(|number| self.dead.numbered(*number));
        let tried: Records = letters.map(DeadLetter::place).collect();
        let lifted = self.pending.lifting(&tried);
        let known = |outlet: &Outlet, key: &Key| -> Result<Option<Row>, Error> {
            let mut row = Vec::new();
            let there = view.get(outlet.name(), key.as_bytes(), &mut row)?;
            outlet.wanted(there.then(|| Row::from_trusted(row)))
        };
        let mut turns = Vec::new();
        for (collection, key) in &tried {
            let Some(at) = outlets.iter().position(|outlet| outlet.name() == collection) else { continue };
            let outlet = &outlets[at];
            let before = self.pending.on_top(&outlet.source, key, |key| known(outlet, key))?;
            let after = lifted.on_top(&outlet.source, key, |key| known(outlet, key))?;
            if before != after {
                turns.push(Turn { at, key: key.clone(), before, after });
            }
        }
        let to =
            Bringing { outlets: &outlets, tried: &tried, gone: &[], schemas_changed: false, next: position, sets: &[] };
        // Whatever the receiver does about what comes: these are set aside already.
        let on_error = std::mem::replace(&mut self.config.on_error, OnError::DeadLetter);
        let brought = self.bring(&to, turns, round);
        self.config.on_error = on_error;
        let Brought { stamp, dead, .. } = brought?;
        let mut batch = self.store.batch();
        dead.write(&self.dead, &mut batch)?;
        DeadLetters::settle(&mut batch)?;
        ledger::put_journal(&mut batch, None)?;
        ledger::put_index(&mut batch, None)?;
        ledger::put_stamp(&mut batch, stamp.as_ref())?;
        self.list_letters(&dead, view.collections())?;
        batch.commit()?;
        let outcome = |number: &u64| {
            let tried = match self.dead.numbered(*number) {
                None => Tried::Unknown,
                Some(letter) => match dead.of(&letter.collection, &letter.key) {
                    None => Tried::Applied,
                    Some(again) => Tried::Refused(again.reason.clone()),
                },
            };
            (*number, tried)
        };
        let outcomes = numbers.iter().map(outcome).collect();
        self.index = None;
        self.stale.clear();
        self.stamp = stamp;
        self.pending = lifted.holding(dead.held());
        self.dead = dead;
        Ok(outcomes)
    }

    /// Forgets dead letters: the destination stays as it is, and is tried with the record again only when the source changes
    /// that. What is forgotten is written to the log first.
    pub fn drop_letters(&mut self, numbers: &[u64]) -> Result<Vec<(u64, Tried)>, Error> {
        let view = self.store.view();
        let mut dead = self.dead.clone();
        let mut outcomes = Vec::new();
        for number in numbers {
            let Some(next) = dead.dropping(*number) else {
                outcomes.push((*number, Tried::Unknown));
                continue;
            };
            if let Some(letter) = dead.numbered(*number) {
                let letter = letter.to_json(&self.config.name, view.collections());
                tracing::warn!(source = %self.config.source, receiver = %self.config.name, letter, "a dead letter is dropped");
            }
            dead = next;
            outcomes.push((*number, Tried::Dropped));
        }
        let mut batch = self.store.batch();
        dead.write(&self.dead, &mut batch)?;
        self.list_letters(&dead, view.collections())?;
        batch.commit()?;
        self.dead = dead;
        self.report(None)?;
        Ok(outcomes)
    }

    /// Does what somebody on this machine asked for, and answers.
    pub(super) async fn serve(&mut self) -> Result<Option<Round>, Error> {
        let Some(request) = self.requests.take() else { return Ok(None) };
        let lines = |outcomes: Vec<(u64, Tried)>| {
            let lines: Vec<_> = outcomes.iter().map(|(number, tried)| tried.to_line(*number)).collect();
            (lines.join("\n"), Round::default())
        };
        let done = match Wish::from_text(&request.question) {
            Some(Wish::Repair(unsent)) => self.repair(unsent).await.map(|round| (String::new(), round)),
            Some(Wish::Retry(numbers)) => self.retry(&numbers).await.map(lines),
            Some(Wish::Drop(numbers)) => self.drop_letters(&numbers).map(lines),
            Some(Wish::Plan) => {
                // Nothing has happened, whatever came of it.
                let planned = self.planned().await.unwrap_or_else(|error| format!("{WISH_FAILED}{error}"));
                request.answer(&planned)?;
                return Ok(None);
            }
            None => {
                request.answer(&format!("{WISH_FAILED}this receiver doesn't know that request"))?;
                return Ok(None);
            }
        };
        match done {
            Ok((answer, round)) => {
                request.answer(&answer)?;
                Ok(Some(round))
            }
            Err(error) => {
                request.answer(&format!("{WISH_FAILED}{error}"))?;
                Err(error)
            }
        }
    }
}

fn unknown(numbers: &[u64]) -> Vec<(u64, Tried)> {
    numbers.iter().map(|number| (*number, Tried::Unknown)).collect()
}
