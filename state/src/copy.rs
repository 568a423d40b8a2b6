//! Copying a store while its owner has it open.

use std::path::Path;

use crate::{Batch, Error, Owner, Store, View};

impl Store {
    /// Copies all that is committed into a new store of the same owner in the folder `dir`; this one stays open.
    pub fn copy_to(&self, dir: &Path, owner: &Owner) -> Result<(), Error> {
        let view = self.view();
        let copy = Store::open(dir, owner)?;
        // First, since putting aside takes all that is there by then.
        copy_records(&view.aside(), &copy)?.commit()?;
        let mut batch = copy.batch();
        batch.put_aside();
        batch.commit()?;
        let mut batch = copy_records(&view, &copy)?;
        for entry in view.outbox(0) {
            let (number, entry) = entry?;
            batch.outbox_put(number, &entry);
        }
        for entry in view.overlays() {
            let (place, value) = entry?;
            batch.overlay_put_at(place, &value);
        }
        for (name, value) in view.meta_prefix("")? {
            // What begins so is the store's own.
            if !name.starts_with('\0') {
                batch.meta_put(&name, &value)?;
            }
        }
        batch.commit()
    }
}

/// The collections of `view` with their records, to be committed.
fn copy_records(view: &View, to: &Store) -> Result<Batch, Error> {
    let mut batch = to.batch();
    for collection in view.collections() {
        let mut load = to.load(collection)?;
        for record in view.records(&collection.name)? {
            let (key, row) = record?;
            load.put(&key, &row)?;
        }
        load.finish(&mut batch)?;
    }
    Ok(batch)
}
