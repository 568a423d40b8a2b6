//! Taking in the records of a snapshot.

use deltabus_bus::{Records, SnapshotReader};
use deltabus_interfaces::in_place;
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_state::Load;
use tokio::sync::mpsc;

use crate::error::Error;

/// A snapshot of so few parts is taken in by the task that fetches it: it isn't worth another thread.
const PARTS_ALONE: u32 = 4;

/// Parts that wait, unpacked, for the thread that takes them in: each is half a MiB as a rule.
const PARTS_WAITING: usize = 2;

/// Where the records go, and what they add up to.
pub(super) struct Intake {
    hashers: Vec<RecordHasher>,
    /// By the place of the collection.
    pub(super) loads: Vec<Load>,
    pub(super) digest: Digest,
}

impl Intake {
    pub(super) fn new(hashers: Vec<RecordHasher>, loads: Vec<Load>) -> Intake {
        Intake { hashers, loads, digest: Digest::default() }
    }

    /// Takes in all that `reader` gives; parts are fetched and unpacked while those before are taken in.
    pub(super) async fn take_all(mut self, reader: &mut SnapshotReader) -> Result<Intake, Error> {
        if reader.manifest().parts <= PARTS_ALONE {
            while let Some(records) = reader.next().await? {
                in_place(|| self.take(records))?;
            }
            return Ok(self);
        }
        let (sender, mut waiting) = mpsc::channel::<Records>(PARTS_WAITING);
        let taking = tokio::task::spawn_blocking(move || {
            while let Some(records) = waiting.blocking_recv() {
                self.take(records)?;
            }
            Ok(self)
        });
        let read = async {
            while let Some(records) = reader.next().await? {
                if sender.send(records).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let read = read.await;
        drop(sender);
        // Nobody cancels it.
        let taken = taking.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        read.and(taken)
    }

    fn take(&mut self, mut records: Records) -> Result<(), Error> {
        while let Some((collection, key, row)) = records.advance()? {
            self.digest.add(self.hashers[collection].hash(key, row));
            self.loads[collection].put(key, row)?;
        }
        Ok(())
    }
}
