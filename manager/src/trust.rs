//! Whose messages on the bus a manager believes when it reads logs: by its own records.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deltabus_bus::signature::Trust;
use deltabus_record::schema::SourceName;
use tokio::sync::Mutex;

use crate::registry::{Registry, Signatures};

/// What was read is believed for so long: a log is read by many messages at a time.
const AGE: Duration = Duration::from_secs(2);

/// But a key that nobody knows is asked about again after so long: it may just have been let in.
const UNKNOWN_AGE: Duration = Duration::from_millis(200);

/// Knows whose signatures count, by the records.
#[derive(Default)]
pub(crate) struct ByRecords {
    /// There as soon as the bus is, on which they lie.
    registry: OnceLock<Registry>,
    known: Mutex<HashMap<SourceName, (Instant, Signatures)>>,
}

impl ByRecords {
    /// Says where the records are; the first time counts.
    pub(crate) fn set(&self, registry: &Registry) {
        let _ = self.registry.set(registry.clone());
    }
}

#[async_trait]
impl Trust for ByRecords {
    async fn accepts(&self, source: &SourceName, tail: &str, key: &str, millis: u64) -> Result<bool, String> {
        let Some(registry) = self.registry.get() else { return Err("the records are not open yet".into()) };
        let mut known = self.known.lock().await;
        let until = |signatures: &Signatures| match tail.strip_prefix("reverse.") {
            Some(receiver) => signatures.receivers.get(receiver).and_then(|keys| keys.get(key)).copied(),
            None => signatures.publishers.get(key).copied(),
        };
        let is_old = |(at, signatures): &(Instant, Signatures)| {
            at.elapsed() > AGE || (until(signatures).is_none() && at.elapsed() > UNKNOWN_AGE)
        };
        if known.get(source).is_none_or(is_old) {
            let read = registry.signatures(source.as_str()).await.map_err(|error| deltabus_bus::causes(&error))?;
            known.insert(source.clone(), (Instant::now(), read));
        }
        let until = known.get(source).and_then(|(_, signatures)| until(signatures));
        Ok(until.is_some_and(|until| until == 0 || millis <= until))
    }
}
