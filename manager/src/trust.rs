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
        if known.get(source).is_none_or(|(at, _)| at.elapsed() > AGE) {
            let read = registry.signatures(source.as_str()).await.map_err(|error| deltabus_bus::causes(&error))?;
            known.insert(source.clone(), (Instant::now(), read));
        }
        let Some((_, signatures)) = known.get(source) else { return Ok(false) };
        let until = match tail.strip_prefix("reverse.") {
            Some(receiver) => signatures.receivers.get(receiver).and_then(|keys| keys.get(key)),
            None => signatures.publishers.get(key),
        };
        Ok(until.is_some_and(|until| *until == 0 || millis <= *until))
    }
}
