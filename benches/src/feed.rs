//! A source that the benchmark itself plays: sets of one edit, true to the last digest, published through the `bus` crate as
//! a transmitter publishes what it has staged.

use std::time::{Duration, Instant};

use deltabus_bus::{BEAT, EncodedSet, Writer, encode_set, pointer};
use deltabus_record::change::{Change, ChangeSet, CollectionChanges, FieldChange, Revision, Transaction};
use deltabus_record::digest::RecordHasher;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::Collection;
use deltabus_record::value::Value;

use crate::measure::Result;
use crate::pipeline::Deltabus;
use crate::rows::mix;

/// The field that is edited.
const FIELD: &str = "name";

/// Writes a log in the place of its transmitter.
pub(crate) struct Feed {
    writer: Writer,
    collection: Collection,
    key: Key,
    row: Option<Row>,
    edits: u64,
    beaten: Instant,
}

impl Feed {
    /// Takes the log of `bench` over from a transmitter that has ended.
    pub(crate) async fn claim(deltabus: &Deltabus) -> Result<Feed> {
        let log = deltabus.log().await?;
        let manifest = pointer(&log).await?.ok_or("nothing was published")?;
        let (writer, _) = Writer::claim(&log, "benchmark", manifest.position).await?;
        let collection = manifest.collections.into_iter().next().ok_or("the source is empty")?;
        let key = Key::of(&[Value::Text("feed".into())]);
        Ok(Feed { writer, collection, key, row: None, edits: 0, beaten: Instant::now() })
    }

    /// The number of the last revision published.
    pub(crate) fn revision(&self) -> u64 {
        self.writer.position().revision.number
    }

    /// Publishes an edit of one field to a text of `bytes` and returns once the log has it; gives the bytes stored.
    pub(crate) async fn edit(&mut self, bytes: usize) -> Result<u64> {
        let (next, set) = self.next(bytes)?;
        let stored = self.writer.publish(&[(next, set)]).await?;
        Ok(stored)
    }

    /// Heartbeats, as often as transmitters send them.
    pub(crate) async fn beat(&mut self) -> Result<()> {
        if self.beaten.elapsed() >= BEAT {
            self.writer.beat().await?;
            self.beaten = Instant::now();
        }
        Ok(())
    }

    /// Lets time pass with nothing but heartbeats.
    pub(crate) async fn idle(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.beat().await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn next(&mut self, bytes: usize) -> Result<(Revision, EncodedSet)> {
        self.edits += 1;
        let slot = self.collection.schema.slot(FIELD).ok_or("the source has no such field")?;
        // Hexadecimal digits, which nothing makes much shorter.
        let mut text = String::with_capacity(bytes + 16);
        let mut seed = self.edits << 32;
        while text.len() < bytes {
            seed += 1;
            text.push_str(&format!("{:016x}", mix(seed)));
        }
        text.truncate(bytes.max(1));
        let hasher = RecordHasher::new(&self.collection.name);
        let base = self.writer.position().revision;
        let mut digest = base.digest;
        let mut values: Vec<Value> = match &self.row {
            Some(row) => row.values(),
            None => self.collection.schema.fields.iter().map(|_| Value::Text("feed".into())).collect(),
        };
        let before = std::mem::replace(&mut values[slot], Value::Text(text));
        let row = Row::of(&values);
        let key = self.key.clone();
        let change = match &self.row {
            Some(old) => {
                digest.remove(hasher.hash(key.as_bytes(), old.as_bytes()));
                let fields = vec![FieldChange { slot: slot as u32, before, after: values[slot].clone() }];
                Change::Update { key, fields }
            }
            None => Change::Insert { key, row: row.clone() },
        };
        digest.add(hasher.hash(self.key.as_bytes(), row.as_bytes()));
        self.row = Some(row);
        let next = Revision { number: base.number + 1, digest };
        let changes = CollectionChanges { collection: self.collection.name.clone(), changes: vec![change] };
        let transaction = Transaction { schemas: Vec::new(), collections: vec![changes] };
        let time_millis = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
        let set = ChangeSet { base, next, time_millis, transactions: vec![transaction], replies: Vec::new() };
        Ok((next, encode_set(&set).packed()))
    }
}
