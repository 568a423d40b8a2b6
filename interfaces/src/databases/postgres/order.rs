//! In which order tables are written, so that foreign keys hold at each step.

use tokio_postgres::Row;

use super::connection::{Failure, Session};
use super::table::{Table, quote};

/// An order of tables, by their foreign keys.
pub(super) struct Order {
    /// The tables' places: whoever is referred to comes first.
    pub(super) parents_first: Vec<usize>,
    keys: Vec<ForeignKey>,
    circular: bool,
}

/// A foreign key among the tables.
struct ForeignKey {
    name: String,
    child: usize,
    parent: usize,
    deferrable: bool,
}

impl Order {
    /// The order of the tables `oids`; 0 stands for none.
    pub(super) fn of(session: &Session, oids: &[u32]) -> Result<Order, Failure> {
        let sql = "SELECT conname::text, conrelid, confrelid, condeferrable FROM pg_constraint
            WHERE contype = 'f' AND conparentid = 0 AND conrelid = ANY($1) AND confrelid = ANY($1) ORDER BY oid";
        let rows = session.query(sql, vec![Box::new(oids.to_vec())])?;
        let place = |oid: u32| oids.iter().position(|it| *it == oid).unwrap_or_default();
        let key = |row: &Row| -> Result<ForeignKey, Failure> {
            let (child, parent) = (place(row.try_get(1)?), place(row.try_get(2)?));
            Ok(ForeignKey { name: row.try_get(0)?, child, parent, deferrable: row.try_get(3)? })
        };
        let keys = rows.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let mut parents_first: Vec<usize> = Vec::with_capacity(oids.len());
        let mut left: Vec<usize> = (0..oids.len()).collect();
        let mut circular = false;
        while !left.is_empty() {
            let waits = |child: usize, left: &[usize]| {
                keys.iter().any(|key| key.child == child && key.parent != child && left.contains(&key.parent))
            };
            let free = left.iter().position(|at| !waits(*at, &left));
            // In a circle somebody must be first; deferrable keys make no difference to it.
            circular |= free.is_none();
            parents_first.push(left.remove(free.unwrap_or_default()));
        }
        Ok(Order { parents_first, keys, circular })
    }

    /// Whether tables refer to each other in a circle.
    pub(super) fn is_circular(&self) -> bool {
        self.circular
    }

    /// Has the foreign keys checked at the end, those of tables that are ours to alter; gives the statements that put
    /// everything back.
    pub(super) fn defer(&self, session: &Session, tables: &[Option<Table>]) -> Result<Vec<String>, Failure> {
        let mut after = Vec::new();
        for key in self.keys.iter().filter(|key| !key.deferrable) {
            let Some(table) = tables.get(key.child).and_then(Option::as_ref).filter(|table| table.owned) else {
                continue;
            };
            let (table, name) = (table.name.sql(), quote(&key.name));
            session.batch(&format!("ALTER TABLE {table} ALTER CONSTRAINT {name} DEFERRABLE INITIALLY DEFERRED"))?;
            after.push(format!("ALTER TABLE {table} ALTER CONSTRAINT {name} NOT DEFERRABLE"));
        }
        if !after.is_empty() {
            session.batch("SET CONSTRAINTS ALL DEFERRED")?;
        }
        Ok(after)
    }
}
