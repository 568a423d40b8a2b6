//! Sets applied by hand: prepared upserts, one transaction for each set, which keeps the set's number with its rows.

use std::path::Path;

use csv::StringRecord;

use crate::measure::Result;
use crate::rows;

/// The rows of each set of a file whose first column is the set's number.
fn sets(delta: &Path) -> Result<Vec<(i64, Vec<StringRecord>)>> {
    let mut sets: Vec<(i64, Vec<StringRecord>)> = Vec::new();
    for record in csv::Reader::from_path(delta)?.records() {
        let record = record?;
        let number = record[0].parse()?;
        match sets.last_mut() {
            Some((last, rows)) if *last == number => rows.push(record),
            _ => sets.push((number, vec![record])),
        }
    }
    Ok(sets)
}

/// `INSERT … ON CONFLICT DO UPDATE` with these parameters.
fn upsert(parameter: impl Fn(usize) -> String) -> String {
    let names: Vec<_> = rows::HEADER.split(',').collect();
    let parameters: Vec<_> = (1..=names.len()).map(parameter).collect();
    let updates: Vec<_> = names[1..].iter().map(|name| format!("{name} = excluded.{name}")).collect();
    format!(
        "INSERT INTO bench ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}",
        rows::HEADER,
        parameters.join(", "),
        updates.join(", ")
    )
}

const APPLIED: &str = "CREATE TABLE IF NOT EXISTS applied (source text PRIMARY KEY, number bigint)";

/// Into SQLite, with its own settings: each commit waits for the disk.
pub(crate) fn sqlite(database: &Path, delta: &Path) -> Result<()> {
    let mut connection = rusqlite::Connection::open(database)?;
    connection.execute_batch(APPLIED)?;
    for (number, rows) in sets(delta)? {
        let transaction = connection.transaction()?;
        {
            let mut upsert = transaction.prepare_cached(&upsert(|at| format!("?{at}")))?;
            for row in rows {
                upsert.execute(rusqlite::params_from_iter(row.iter().skip(1)))?;
            }
            let mut applied = transaction.prepare_cached("INSERT OR REPLACE INTO applied VALUES ('bench', ?)")?;
            applied.execute([number])?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Into PostgreSQL, with the server's settings.
pub(crate) fn postgres(socket: &Path, database: &Path, delta: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut config = tokio_postgres::Config::new();
        config.host_path(socket).user("postgres").dbname(database.to_string_lossy());
        let (mut client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(APPLIED).await?;
        let upsert = client.prepare(&upsert(|at| format!("${at}"))).await?;
        let applied = "INSERT INTO applied VALUES ('bench', $1)
            ON CONFLICT (source) DO UPDATE SET number = excluded.number";
        let applied = client.prepare(applied).await?;
        for (number, rows) in sets(delta)? {
            let transaction = client.transaction().await?;
            for row in rows {
                let values: Vec<&str> = row.iter().skip(1).collect();
                transaction.execute_raw(&upsert, values).await?;
            }
            transaction.execute(&applied, &[&number]).await?;
            transaction.commit().await?;
        }
        Ok(())
    })
}
