//! Mending a destination on request, and other things that a running receiver is asked for.

use deltabus_bus::{Event, Reader, confirmed};
use deltabus_interfaces::in_place;
use deltabus_record::digest::{Digest, RecordHasher};

use crate::error::Error;
use crate::ledger::{self, Wanted};

use super::{Receiver, Round};

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
}

impl Wish {
    /// As it is asked.
    pub fn to_text(&self) -> String {
        match self {
            Wish::Repair(Unsent::Send) => "repair".into(),
            Wish::Repair(Unsent::Discard) => "repair discard".into(),
        }
    }

    fn from_text(text: &str) -> Option<Wish> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["repair"] => Some(Wish::Repair(Unsent::Send)),
            ["repair", "discard"] => Some(Wish::Repair(Unsent::Discard)),
            _ => None,
        }
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
            Proof::Expired if unsent == Unsent::Send => {
                self.join(round).await?;
            }
            Proof::Fails if self.config.reverse && unsent == Unsent::Send => {
                let (place, source_name) = (self.place(), self.config.source.clone());
                return Err(Error::Unproven { place, source_name });
            }
            Proof::Expired | Proof::Fails => {
                tracing::warn!(source = %self.config.source, "the copy of the source is loaded anew");
                // Edits aren't looked for by what it says.
                let mut batch = self.store.batch();
                ledger::forget_position(&mut batch)?;
                batch.commit()?;
                self.join(round).await?;
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
            Some(revision) if in_place(|| self.base_digest())? != revision.digest => Ok(Proof::Fails),
            Some(_) => Ok(Proof::Holds),
        }
    }

    fn base_digest(&self) -> Result<Digest, Error> {
        let view = self.store.view();
        let mut digest = Digest::default();
        for collection in view.collections() {
            let hasher = RecordHasher::new(&collection.name);
            for record in view.records(&collection.name)? {
                let (key, row) = record?;
                digest.add(hasher.hash(&key, &row));
            }
        }
        Ok(digest)
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

    /// Does what somebody on this machine asked for, and answers.
    pub(super) async fn serve(&mut self) -> Result<Option<Round>, Error> {
        let Some(request) = self.requests.take() else { return Ok(None) };
        let done = match Wish::from_text(&request.question) {
            Some(Wish::Repair(unsent)) => self.repair(unsent).await.map(Some),
            None => {
                request.answer(&format!("{WISH_FAILED}this receiver doesn't know that request"))?;
                return Ok(None);
            }
        };
        match done {
            Ok(round) => {
                request.answer("done")?;
                Ok(round)
            }
            Err(error) => {
                request.answer(&format!("{WISH_FAILED}{error}"))?;
                Err(error)
            }
        }
    }
}
