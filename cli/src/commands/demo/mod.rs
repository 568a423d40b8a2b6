//! `deltabus demo`: one source, four receivers of four formats, edits on both sides, a conflict, and a proof.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deltabus_bus::broker::Broker;
use deltabus_bus::jetstream::JetStream;
use deltabus_bus::local::LocalBus;
use deltabus_interfaces::found::Found;
use deltabus_interfaces::{Extent, Location};
use deltabus_receiver::{Receiver, Selection};
use deltabus_record::diff::{self, Fingerprints, Identity};
use deltabus_record::mapping::{Lens, Mapping};
use deltabus_record::row::RowBuilder;
use deltabus_record::schema::{Collection, ReceiverName, SourceName};
use deltabus_state::StateDirectory;
use deltabus_transmitter::Transmitter;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, block_in_place};
use tokio_util::sync::CancellationToken;

use crate::arguments::{Demo, Global};
use crate::commands::compare;
use crate::error::{Error, Exit};
use crate::output::{Paint, bytes_text};

mod customers;

/// How long one step may take to arrive everywhere.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long two edits made at once may take to be noticed as a conflict, before others are tried.
const DISAGREE: Duration = Duration::from_secs(6);

/// How many customers are tried for that.
const ROUNDS_MAX: u64 = 4;

/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// The fields that the CSV receiver gets under other names, and those it doesn't get.
const RENAMED: [(&str, &str); 2] = [("mail", "email"), ("town", "city")];
const OMITTED: [&str; 3] = ["phone", "credit", "note"];

/// Runs the command.
pub(crate) async fn demo(global: &Global, options: Demo) -> Result<Exit, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { doing: "make", path, source }
    };
    let (folder, _temporary) = match &options.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(failed(folder))?;
            (std::path::absolute(folder).map_err(failed(folder))?, None)
        }
        None => {
            let temporary = tempfile::tempdir().map_err(failed(&std::env::temp_dir()))?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    let state = StateDirectory::open(folder.join("state"))?;
    let bus = LocalBus::new(state.bus_folder());
    let (url, access) = match &global.bus {
        Some(url) => (url.clone(), crate::session::access(global, url)?),
        None => {
            let running = block_in_place(|| bus.ensure())?;
            (running.url.clone(), running.access())
        }
    };
    let broker = JetStream::connect(&url, &access).await.map_err(deltabus_bus::Error::from)?;
    let mut stage = Stage::new(folder, state, Arc::new(broker));
    let played = stage.play().await;
    stage.end().await;
    // The connection ends before the bus does.
    drop(stage);
    if global.bus.is_none() {
        block_in_place(|| bus.stop())?;
    }
    played?;
    if let Some(folder) = &options.keep {
        println!("The files are in {}.", folder.display());
    }
    Ok(Exit::Done)
}

/// What a transmitter or receiver just did.
enum News {
    /// Changes and bytes that went out.
    Published(u64, u64),
    /// Something failed.
    Failed(String),
}

/// One destination of the demo.
struct Destination {
    label: &'static str,
    file: &'static str,
    location: String,
    mapping: Mapping,
}

struct Stage {
    folder: PathBuf,
    state: StateDirectory,
    broker: Arc<dyn Broker>,
    source: String,
    name: SourceName,
    destinations: Vec<Destination>,
    tasks: JoinSet<Result<(), Error>>,
    stop: CancellationToken,
    news: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
    paint: Paint,
    step: u32,
}

impl Stage {
    fn new(folder: PathBuf, state: StateDirectory, broker: Arc<dyn Broker>) -> Stage {
        let source = format!("csv:{}?key=id", folder.join("customers.csv").display());
        // A bus that others use gets a source of this demo's own.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id()) as u32;
        Stage {
            folder,
            state,
            broker,
            source,
            name: SourceName::new(&format!("demo-{random:08x}")).expect("the name is made of allowed characters"),
            destinations: Vec::new(),
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            news: mpsc::unbounded_channel(),
            paint: Paint::for_stdout(),
            step: 0,
        }
    }

    async fn play(&mut self) -> Result<(), Error> {
        println!(
            "{}\n",
            self.paint.bold("deltabus: one source, many destinations, kept equal by sending only what changed")
        );
        self.source_appears().await?;
        self.receivers_join().await?;
        self.source_changes().await?;
        self.one_joins_late().await?;
        self.receiver_changes().await?;
        self.two_disagree().await?;
        self.proof()
    }

    async fn source_appears(&mut self) -> Result<(), Error> {
        self.title("A shop keeps its customers in a CSV file");
        self.write_source(&customers::csv())?;
        self.say(&format!("customers.csv: {} records, {}", customers::CUSTOMERS, bytes_text(self.source_bytes()?)));
        let start = Instant::now();
        let config = deltabus_transmitter::Config::new(self.name.clone(), Location::parse(&self.source)?);
        let transmitter = Transmitter::open(config, self.broker.clone(), &self.state)?;
        let sender = self.news.0.clone();
        let run = transmitter.run(self.stop.clone(), move |_, result| {
            let news = match result {
                Ok(round) if round.sets > 0 => News::Published(round.changes, round.bytes),
                Ok(_) => return,
                Err(error) => News::Failed(error.to_string()),
            };
            // The demo may be over.
            let _ = sender.send(news);
        });
        self.tasks.spawn(async move { run.await.map_err(Error::from) });
        self.published().await?;
        self.say(&format!("A transmitter reads it and founds its log on the bus ({})", millis(start)));
        Ok(())
    }

    async fn receivers_join(&mut self) -> Result<(), Error> {
        self.title("Three receivers plug in, each with a format of its own");
        let start = Instant::now();
        let fewer =
            Mapping::new(&RENAMED.map(|(to, from)| (to.to_owned(), from.to_owned())), &OMITTED.map(str::to_owned));
        self.join("SQLite, edits go back", "crm.db", "sqlite:", "?tables=customers", Mapping::identity(), "crm")?;
        self.join("JSON, edits go back", "website.json", "json:", "?key=id", Mapping::identity(), "website")?;
        self.join("CSV with fewer columns and other names", "mailing.csv", "csv:", "?key=id", fewer, "mailing")?;
        self.all_equal().await?;
        for destination in &self.destinations {
            let bytes = std::fs::metadata(self.folder.join(destination.file)).map_or(0, |found| found.len());
            self.say(&format!("{:<13} {:>9}  {}", destination.file, bytes_text(bytes), destination.label));
        }
        self.say(&format!("All three hold what the source holds ({})", millis(start)));
        let mailing = std::fs::read_to_string(self.folder.join("mailing.csv")).unwrap_or_default();
        for line in mailing.lines().take(2) {
            self.say(&self.paint.dim(&format!("  mailing.csv | {line}")));
        }
        Ok(())
    }

    async fn source_changes(&mut self) -> Result<(), Error> {
        self.title("The source changes: one customer moves, one is new, one is gone");
        let text = self.read_source()?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let moved = lines[42].replace(&field(&lines[42], 4), "Reykjavík");
        self.say(&self.paint.dim(&format!("  ~ {moved}")));
        lines[42] = moved;
        let new =
            format!("{},Hedy Lamarr,hedy@example.org,+43 5550100,Wien,AT,2026-11-23,914.00,", customers::CUSTOMERS + 1);
        self.say(&self.paint.dim(&format!("  + {new}")));
        lines.push(new);
        let gone = lines.remove(7);
        self.say(&self.paint.dim(&format!("  - {gone}")));
        let start = Instant::now();
        self.write_source(&(lines.join("\n") + "\n"))?;
        let (changes, bytes) = self.published().await?;
        self.all_equal().await?;
        let whole = self.source_bytes()?;
        self.say(&format!(
            "{changes} changes travelled in {}; the file has {}. On disk in all formats after {}",
            self.paint.green(&bytes_text(bytes)),
            bytes_text(whole),
            self.paint.green(&millis(start))
        ));
        Ok(())
    }

    async fn one_joins_late(&mut self) -> Result<(), Error> {
        self.title("A fourth receiver joins late; nobody else notices");
        let start = Instant::now();
        self.join("NDJSON, joined late", "archive.ndjson", "ndjson:", "?key=id", Mapping::identity(), "archive")?;
        self.all_equal().await?;
        self.say(&format!("archive.ndjson caught up from snapshot and log ({})", millis(start)));
        Ok(())
    }

    async fn receiver_changes(&mut self) -> Result<(), Error> {
        self.title("Somebody edits a destination: plain SQL in crm.db");
        let sql = "UPDATE customers SET phone = '+47 22 00 00 00' WHERE id = '100'";
        self.say(&self.paint.dim(&format!("  {sql}")));
        let start = Instant::now();
        self.sql(sql)?;
        self.published().await?;
        self.all_equal().await?;
        let text = self.read_source()?;
        let line = text.lines().find(|line| line.starts_with("100,")).unwrap_or_default();
        self.say(&self.paint.dim(&format!("  customers.csv | {line}")));
        if !line.contains("+47 22 00 00 00") {
            return Err(Error::Trouble("the edit did not reach the source".into()));
        }
        self.say(&format!(
            "It is in the source and in every other destination after {}",
            self.paint.green(&millis(start))
        ));
        Ok(())
    }

    async fn two_disagree(&mut self) -> Result<(), Error> {
        self.title("Two edit the same field at once: the CRM and the website");
        let json = self.folder.join("website.json");
        let mut found = None;
        let mut start = Instant::now();
        // Should the one be through before the other begins, they didn't disagree: then they try with another customer.
        for customer in 200..200 + ROUNDS_MAX {
            let text = std::fs::read_to_string(&json).map_err(|source| Error::Io {
                doing: "read",
                path: json.clone(),
                source,
            })?;
            let source = self.read_source()?;
            let own = format!("{customer},");
            let mail = field(source.lines().find(|line| line.starts_with(&own)).unwrap_or_default(), 2);
            self.say(&self.paint.dim(&format!("  customer {customer} has {mail}")));
            self.say(&self.paint.dim("  crm.db:       crm@example.org"));
            self.say(&self.paint.dim("  website.json: website@example.org"));
            start = Instant::now();
            let update = format!("UPDATE customers SET email = 'crm@example.org' WHERE id = '{customer}'");
            let edited = text.replace(&mail, "website@example.org");
            self.sql_while(&update, || replace_file(&json, &edited))?;
            let log = deltabus_bus::Log::new(self.broker.clone(), self.name.clone());
            while found.is_none() && start.elapsed() < DISAGREE {
                found = conflict(&log).await?;
                tokio::time::sleep(LOOK).await;
            }
            if found.is_some() {
                break;
            }
        }
        let Some((who, stands)) = found else {
            return Err(Error::Trouble("the two never disagreed".into()));
        };
        self.all_equal().await?;
        self.say(&format!(
            "The first to arrive was taken. {who} came second: a conflict, and by the policy `source` {} stands ({})",
            self.paint.green(&stands),
            millis(start)
        ));
        self.say("Nothing is lost: `deltabus conflicts` shows both values, what they started from, and who");
        Ok(())
    }

    fn proof(&mut self) -> Result<(), Error> {
        self.title("The proof: every destination beside the source, field by field");
        for destination in &self.destinations {
            let (records, differences) = self.differences(destination)?;
            if differences > 0 {
                return Err(Error::Trouble(format!("{} differs in {differences} records", destination.file)));
            }
            self.say(&format!(
                "{} {:<15} {records} records, 0 differences",
                self.paint.green("equal"),
                destination.file
            ));
        }
        println!("\n{}", self.paint.bold("All equal."));
        Ok(())
    }

    /// Ends all transmitters and receivers.
    async fn end(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    fn join(
        &mut self,
        label: &'static str,
        file: &'static str,
        interface: &str,
        options: &str,
        mapping: Mapping,
        name: &str,
    ) -> Result<(), Error> {
        let location = format!("{interface}{}{options}", self.folder.join(file).display());
        let name = ReceiverName::new(name).expect("the demo's names are allowed");
        let mut config = deltabus_receiver::Config::new(self.name.clone(), Location::parse(&location)?, name);
        config.reverse = label.contains("edits go back");
        if mapping != Mapping::identity() {
            config.selection = Some(Selection {
                fields: RENAMED.map(|(to, from)| (to.to_owned(), from.to_owned())).to_vec(),
                omit: OMITTED.map(str::to_owned).to_vec(),
                ..Selection::default()
            });
        }
        let receiver = Receiver::open(config, self.broker.clone(), &self.state)?;
        let sender = self.news.0.clone();
        let run = receiver.run(self.stop.clone(), move |_, name, result| {
            if let Err(error) = result {
                // The demo may be over.
                let _ = sender.send(News::Failed(format!("{name}: {error}")));
            }
        });
        self.tasks.spawn(async move { run.await.map_err(Error::from) });
        self.destinations.push(Destination { label, file, location, mapping });
        Ok(())
    }

    /// Waits until the transmitter has published something; changes and bytes.
    async fn published(&mut self) -> Result<(u64, u64), Error> {
        loop {
            match tokio::time::timeout(PATIENCE, self.news.1.recv()).await {
                Ok(Some(News::Published(changes, bytes))) => return Ok((changes, bytes)),
                Ok(Some(News::Failed(error))) => tracing::warn!(error, "a step is tried again"),
                Ok(None) | Err(_) => return Err(Error::Trouble("the transmitter published nothing".into())),
            }
        }
    }

    /// Waits until every destination equals the source.
    async fn all_equal(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let equal = block_in_place(|| {
                self.destinations
                    .iter()
                    .all(|destination| self.differences(destination).is_ok_and(|(_, count)| count == 0))
            });
            if equal {
                return Ok(());
            }
            self.check_time(start, "all destinations were equal")?;
            tokio::time::sleep(LOOK).await;
        }
    }

    fn check_time(&self, start: Instant, what: &str) -> Result<(), Error> {
        if start.elapsed() < PATIENCE { Ok(()) } else { Err(Error::Trouble(format!("it took too long until {what}"))) }
    }

    /// How many records a destination holds, and how many of them aren't what the source's mapping makes of it.
    fn differences(&self, destination: &Destination) -> Result<(u64, u64), Error> {
        let (source, there) = (compare::open(&self.source)?, compare::open(&destination.location)?);
        let (mut left, mut right) = (source.scan(None)?, there.scan(None)?);
        let from = left.collections()[0].clone();
        let Some(found) = right.collections().first().cloned() else { return Ok((0, 1)) };
        let wanted = destination.mapping.destination_schema(&from.schema)?;
        let wanted = Collection { name: found.name.clone(), schema: wanted };
        let lens = Lens::new(&destination.mapping, &from.schema, &wanted.schema, |field| there.verbatim(field))?;
        let slots = wanted.schema.slots_in(&found.schema);
        left.start(0, Extent::Whole)?;
        right.start(0, Extent::Whole)?;
        let mut out = RowBuilder::default();
        let mut a = Found::new(
            &mut *left,
            Box::new(|row, key, into| {
                out.clear();
                lens.forward(row, &mut out, &mut |value, slot| {
                    there.project(value, &wanted.schema.fields[slot]).map_err(|refusal| {
                        deltabus_interfaces::Error::Refused {
                            place: destination.file.to_owned(),
                            field: wanted.schema.fields[slot].name.clone(),
                            refusal,
                        }
                    })
                })?;
                wanted.schema.key_content_into(out.as_bytes(), key);
                into.extend_from_slice(out.as_bytes());
                Ok(())
            }),
        );
        let mut same = RowBuilder::default();
        let mut b = Found::new(
            &mut *right,
            Box::new(|row, key, into| {
                let fields: Vec<_> = deltabus_record::row::RowReader::new(row).collect();
                same.clear();
                for slot in &slots {
                    let field = slot.and_then(|slot| fields.get(slot).copied());
                    same.push_encoded(field.unwrap_or(deltabus_record::row::FieldRef::ABSENT));
                }
                wanted.schema.key_content_into(same.as_bytes(), key);
                into.extend_from_slice(same.as_bytes());
                Ok(())
            }),
        );
        let outcome =
            diff::compare(&mut a, &mut b, Fingerprints::Foreign, Identity::Key).map_err(compare::duplicate)?;
        Ok((outcome.records, outcome.differences.len() as u64))
    }

    fn sql(&self, statement: &str) -> Result<(), Error> {
        self.sql_while(statement, || Ok(()))
    }

    /// Runs a statement; `meanwhile` happens right before it is committed.
    fn sql_while(&self, statement: &str, meanwhile: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let failed = |error: rusqlite::Error| Error::Trouble(format!("crm.db: {error}"));
        let database = rusqlite::Connection::open(self.folder.join("crm.db")).map_err(failed)?;
        database.busy_timeout(PATIENCE).map_err(failed)?;
        database.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        database.execute_batch(statement).map_err(failed)?;
        meanwhile()?;
        database.execute_batch("COMMIT").map_err(failed)
    }

    fn source_path(&self) -> PathBuf {
        self.folder.join("customers.csv")
    }

    fn read_source(&self) -> Result<String, Error> {
        let path = self.source_path();
        std::fs::read_to_string(&path).map_err(|source| Error::Io { doing: "read", path, source })
    }

    fn write_source(&self, text: &str) -> Result<(), Error> {
        replace_file(&self.source_path(), text)
    }

    fn source_bytes(&self) -> Result<u64, Error> {
        let path = self.source_path();
        let found = std::fs::metadata(&path).map_err(|source| Error::Io { doing: "read", path, source })?;
        Ok(found.len())
    }

    fn title(&mut self, text: &str) {
        self.step += 1;
        println!("{} {}", self.paint.bold(&format!("{}.", self.step)), self.paint.bold(text));
        let _ = std::io::stdout().flush();
    }

    fn say(&self, text: &str) {
        println!("   {text}");
        let _ = std::io::stdout().flush();
    }
}

/// The first conflict in the log: who came second, and the value that stands.
async fn conflict(log: &deltabus_bus::Log) -> Result<Option<(String, String)>, Error> {
    let mut found = None;
    deltabus_bus::history(log, &mut |entry| {
        let deltabus_bus::Entry::Set(delivered) = entry else { return };
        for reply in &delivered.set.replies {
            for verdict in &reply.verdicts {
                if let deltabus_record::change::Outcome::Conflict(conflict) = &verdict.outcome {
                    let stands = deltabus_record::text::display(&conflict.source);
                    found = Some((reply.reverse.receiver.to_string(), stands));
                }
            }
        }
    })
    .await?;
    Ok(found)
}

/// One field of a line without quotes.
fn field(line: &str, at: usize) -> String {
    line.split(',').nth(at).unwrap_or_default().to_owned()
}

/// Replaces a file in one step, as careful programs do.
fn replace_file(path: &Path, text: &str) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)).map_err(|source| Error::Io {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

fn millis(start: Instant) -> String {
    format!("{:.0} ms", start.elapsed().as_secs_f64() * 1e3)
}
