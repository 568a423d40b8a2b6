//! The schemas by which the changes of a log are read.

use deltabus_record::change::ChangeSet;
use deltabus_record::schema::{Collection, CollectionName, KeySpec, Schema};

use crate::Error;
use crate::log::Log;

/// Schemas by collection, as they were made last; those of collections that are gone stay, for their sets are still there.
#[derive(Clone, Debug, Default)]
pub struct Schemas {
    collections: Vec<Collection>,
}

impl Schemas {
    /// Those of a snapshot.
    pub fn new(collections: Vec<Collection>) -> Schemas {
        Schemas { collections }
    }

    /// Those of a log's newest snapshot; none if it has none.
    pub async fn of(log: &Log) -> Result<Schemas, Error> {
        let manifest = crate::pointer(log).await?;
        Ok(Schemas::new(manifest.map(|manifest| manifest.collections).unwrap_or_default()))
    }

    /// Takes in the schemas that a set makes.
    pub fn note(&mut self, set: &ChangeSet) {
        for schema in set.transactions.iter().flat_map(|transaction| &transaction.schemas) {
            if let Some(after) = &schema.after {
                self.collections.retain(|collection| collection.name != after.name);
                self.collections.push(after.clone());
            }
        }
    }

    /// The schema of a collection, if it is known.
    pub fn find(&self, name: &CollectionName) -> Option<&Schema> {
        self.collections.iter().find(|collection| collection.name == *name).map(|collection| &collection.schema)
    }

    /// The schema of a collection; an empty one if it isn't known.
    pub fn schema(&self, name: &CollectionName) -> Schema {
        let empty = || Schema { fields: Vec::new(), key: KeySpec::WholeRow };
        self.find(name).cloned().unwrap_or_else(empty)
    }
}
