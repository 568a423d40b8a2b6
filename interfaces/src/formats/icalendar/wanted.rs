//! Which records a write is about, and what they are to say.

use std::collections::{HashMap, HashSet};

use deltabus_record::row::{Row, RowReader};
use deltabus_record::schema::{Collection, KeySpec};
use deltabus_record::value::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::fields::{COMPONENT, Members, UID};
use super::write::Rewriting;
use crate::{Action, CollectionWrite, Error, RecordWrite, Result};

/// What is to become of one record: its members, or nothing.
pub(super) struct Wanted {
    pub(super) key: String,
    pub(super) members: Option<Members>,
}

/// Where the records of a collection with a key of its own are.
struct Known {
    /// The UIDs by what identifies records in the collection.
    uids: HashMap<Vec<u8>, Vec<String>>,
    taken: HashSet<String>,
    /// How many UIDs were made of each hash.
    made: HashMap<u128, u32>,
}

impl Rewriting {
    /// What each write leads to, as members.
    pub(super) fn wanted(&self, write: &mut CollectionWrite<'_>) -> Result<Vec<Wanted>> {
        let collection = write.collection;
        let mut known = match collection.schema.key_names() == [UID] {
            true => None,
            false => Some(self.known(collection)?),
        };
        let mut wanted: Vec<Wanted> = Vec::new();
        match &mut write.action {
            Action::Remove => {}
            Action::Load(records) => {
                if !self.agenda.records.is_empty() {
                    let problem = "records can only be loaded where there are none".to_owned();
                    return Err(Error::Unsupported { place: self.place_name(), problem });
                }
                while records.advance().map_err(Error::Records)? {
                    let values: Vec<_> = RowReader::new(records.row()).map(|field| field.value()).collect();
                    let key = self.new_key(collection, &values, known.as_mut())?;
                    let members = self.members(collection, &values, None, &Members::default());
                    wanted.push(Wanted { key, members: Some(members) });
                }
            }
            Action::Write(writes) => {
                for write in *writes {
                    match write {
                        RecordWrite::Put { row, changed, .. } => {
                            self.put(collection, &row.values(), changed, known.as_mut(), &mut wanted)?;
                        }
                        RecordWrite::Remove { row, .. } => {
                            let key = match &mut known {
                                None => Some(self.uid(collection, &row.values())?),
                                Some(known) => known.take(collection, row),
                            };
                            wanted.extend(key.map(|key| Wanted { key, members: None }));
                        }
                    }
                }
            }
        }
        self.drop_fields(collection, write.dropped, &mut wanted)?;
        Ok(wanted)
    }

    fn put(
        &self,
        collection: &Collection,
        values: &[Value],
        changed: &[u32],
        known: Option<&mut Known>,
        wanted: &mut Vec<Wanted>,
    ) -> Result<()> {
        let found = match &known {
            None => Some(self.uid(collection, values)?),
            // Of whole rows another one comes in, also beside an equal one.
            Some(_) if collection.schema.key == KeySpec::WholeRow => None,
            Some(known) => known.find(collection, values),
        };
        let place = found.and_then(|key| self.agenda.find(&key));
        let Some(place) = place else {
            let key = self.new_key(collection, values, known)?;
            let members = self.members(collection, values, None, &Members::default());
            wanted.push(Wanted { key, members: Some(members) });
            return Ok(());
        };
        let record = &self.agenda.records[place];
        let members = self.members(collection, values, Some(changed), &self.agenda.decode(record)?);
        let uid_slot = collection.schema.slot(UID).filter(|slot| known.is_some() && changed.contains(&(*slot as u32)));
        match uid_slot.and_then(|slot| values.get(slot)) {
            Some(Value::Text(uid)) if *uid != record.key => {
                wanted.push(Wanted { key: record.key.clone(), members: None });
                wanted.push(Wanted { key: uid.clone(), members: Some(members) });
            }
            _ => wanted.push(Wanted { key: record.key.clone(), members: Some(members) }),
        }
        Ok(())
    }

    /// Takes fields out that the source has no more.
    fn drop_fields(&self, collection: &Collection, dropped: &[String], wanted: &mut Vec<Wanted>) -> Result<()> {
        let dropped = dropped.iter().map(String::as_str).filter(|name| *name != UID && *name != COMPONENT);
        let dropped: Vec<_> = dropped.filter(|name| collection.schema.slot(name).is_none()).collect();
        if dropped.is_empty() {
            return Ok(());
        }
        for members in wanted.iter_mut().filter_map(|wanted| wanted.members.as_mut()) {
            dropped.iter().for_each(|name| drop(members.take(name)));
        }
        let written: HashSet<String> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
        for record in self.agenda.records.iter().filter(|record| !written.contains(&record.key)) {
            let mut members = self.agenda.decode(record)?;
            if dropped.iter().any(|name| members.given(name).is_some()) {
                dropped.iter().for_each(|name| drop(members.take(name)));
                wanted.push(Wanted { key: record.key.clone(), members: Some(members) });
            }
        }
        Ok(())
    }

    fn place_name(&self) -> String {
        self.agenda.documents[0].place.clone()
    }

    /// The UID that a row says.
    fn uid(&self, collection: &Collection, values: &[Value]) -> Result<String> {
        let value = collection.schema.slot(UID).and_then(|slot| values.get(slot));
        match value {
            Some(Value::Text(uid)) => Ok(uid.clone()),
            other => Err(Error::Write {
                place: self.place_name(),
                key: format!("{:?}", other.unwrap_or(&Value::Absent)),
                problem: "a UID must be text".into(),
            }),
        }
    }

    /// The UID of a record that comes in: its own, or one made of what identifies it.
    fn new_key(&self, collection: &Collection, values: &[Value], known: Option<&mut Known>) -> Result<String> {
        let own = collection.schema.slot(UID).and_then(|slot| values.get(slot));
        let Some(known) = known else { return self.uid(collection, values) };
        if let Some(Value::Text(uid)) = own {
            return Ok(uid.clone());
        }
        let mut content = Vec::new();
        collection.schema.key_content_into(Row::of(values).as_bytes(), &mut content);
        let made = xxh3_128(&content);
        loop {
            let count = known.made.entry(made).or_default();
            *count += 1;
            let uid = match count {
                1 => format!("deltabus-{made:032x}"),
                count => format!("deltabus-{made:032x}-{count}"),
            };
            if known.taken.insert(uid.clone()) {
                return Ok(uid);
            }
        }
    }

    fn known(&self, collection: &Collection) -> Result<Known> {
        let mut known = Known { uids: HashMap::new(), taken: HashSet::new(), made: HashMap::new() };
        for record in &self.agenda.records {
            let members = self.agenda.decode(record)?;
            let value = |field: &deltabus_record::schema::Field| match field.name == UID {
                true => Value::text(record.key.as_str()),
                false => members.get(&field.name).clone(),
            };
            let values: Vec<_> = collection.schema.fields.iter().map(value).collect();
            let mut content = Vec::new();
            collection.schema.key_content_into(Row::of(&values).as_bytes(), &mut content);
            known.uids.entry(content).or_default().push(record.key.clone());
            known.taken.insert(record.key.clone());
        }
        Ok(known)
    }

    /// The members of a row over those that are there; `only` these slots count.
    fn members(&self, collection: &Collection, values: &[Value], only: Option<&[u32]>, before: &Members) -> Members {
        let mut members = before.clone();
        for (slot, field) in collection.schema.ordered() {
            let counts = only.is_none_or(|only| only.contains(&(slot as u32)));
            if counts && field.name != UID {
                members.set(&field.name, values.get(slot).cloned().unwrap_or(Value::Absent));
            }
        }
        if members.given(COMPONENT).is_none() {
            members.set(COMPONENT, Value::text("event"));
        }
        members
    }
}

impl Known {
    fn find(&self, collection: &Collection, values: &[Value]) -> Option<String> {
        let mut content = Vec::new();
        collection.schema.key_content_into(Row::of(values).as_bytes(), &mut content);
        self.uids.get(&content)?.first().cloned()
    }

    /// Of equal rows one.
    fn take(&mut self, collection: &Collection, row: &Row) -> Option<String> {
        let mut content = Vec::new();
        collection.schema.key_content_into(row.as_bytes(), &mut content);
        self.uids.get_mut(&content)?.pop()
    }
}
