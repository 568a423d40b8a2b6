//! Who edits: each has records of its own, and remembers how it left them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use deltabus_test_servers::postgres::Server;

use super::faults::Random;

/// Records by `id`: their `note`.
pub(crate) type Notes = BTreeMap<String, String>;

/// How many editors one source may have: which of the first records are whose.
const EDITORS: u64 = 8;

/// Pause of an editor between two edits, at most.
const PAUSE_MS: u64 = 60;

/// An editor's own new records at once, at most: beyond, one goes.
const OWN_MAX: usize = 40;

/// How long an editor waits for a database that somebody else writes.
const BUSY: Duration = Duration::from_secs(30);

/// What one editor did.
#[derive(Clone, Debug)]
pub(crate) struct Edited {
    pub(crate) editor: String,
    pub(crate) edits: u64,
    /// How its records were left; `None`: deleted.
    left: BTreeMap<String, Option<String>>,
}

impl Edited {
    /// Whether it ever made this record.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.left.contains_key(id)
    }

    /// Its edits that don't stand in `there`.
    pub(crate) fn missing_from(&self, there: &Notes) -> Vec<String> {
        let differs = |(id, note): &(&String, &Option<String>)| there.get(*id) != note.as_ref();
        let shown = |(id, note): (&String, &Option<String>)| {
            format!("{}: {id} was left as {note:?}, is {:?}", self.editor, there.get(id))
        };
        self.left.iter().filter(differs).map(shown).collect()
    }
}

/// What an editor does next.
enum Edit {
    Set(String, String),
    Insert(String, String),
    Delete(String),
}

/// Decides what an editor does, and remembers it.
struct Mind {
    edited: Edited,
    number: u64,
}

impl Mind {
    fn new(editor: &str, number: u64) -> Mind {
        Mind { edited: Edited { editor: editor.to_owned(), edits: 0, left: BTreeMap::new() }, number }
    }

    fn next(&mut self, random: &mut Random, records: u32) -> Edit {
        let edited = &mut self.edited;
        edited.edits += 1;
        let note = format!("{} {}", edited.editor, edited.edits);
        let own = edited.left.iter().filter(|(id, note)| id.starts_with(&edited.editor) && note.is_some());
        let own: Vec<String> = own.map(|(id, _)| id.clone()).collect();
        match random.below(4) {
            0 if own.len() < OWN_MAX => {
                let id = format!("{}-{}", edited.editor, edited.edits);
                edited.left.insert(id.clone(), Some(note.clone()));
                Edit::Insert(id, note)
            }
            1 if !own.is_empty() => {
                let id = own[random.below(own.len() as u64) as usize].clone();
                edited.left.insert(id.clone(), None);
                Edit::Delete(id)
            }
            2 if !own.is_empty() => {
                let id = own[random.below(own.len() as u64) as usize].clone();
                edited.left.insert(id.clone(), Some(note.clone()));
                Edit::Set(id, note)
            }
            _ => {
                let place = random.below(u64::from(records) / EDITORS) * EDITORS + self.number % EDITORS;
                let id = format!("first-{place}");
                edited.left.insert(id.clone(), Some(note.clone()));
                Edit::Set(id, note)
            }
        }
    }
}

/// The table `records` of a database.
#[derive(Clone)]
pub(crate) enum Tables {
    Sqlite(PathBuf),
    /// How psql is started, up to the statements.
    Postgres(Arc<dyn Fn(&str) -> String + Send + Sync>),
}

impl Tables {
    pub(crate) fn sqlite(path: PathBuf) -> Tables {
        Tables::Sqlite(path)
    }

    pub(crate) fn postgres(server: &Server, database: &str) -> Tables {
        let run = server.runner(database);
        Tables::Postgres(Arc::new(run))
    }

    pub(crate) fn fill(&self, records: u32) {
        let values: Vec<_> = (0..records).map(|at| format!("('first-{at}', 'name {at}', 'first')")).collect();
        self.run(&format!(
            "CREATE TABLE records (id text PRIMARY KEY, name text, note text);
             INSERT INTO records VALUES {}",
            values.join(", ")
        ));
    }

    fn run(&self, sql: &str) {
        match self {
            Tables::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(BUSY).unwrap();
                connection.execute_batch(sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", path.display()));
            }
            Tables::Postgres(run) => drop(run(sql)),
        }
    }

    pub(crate) fn read(&self) -> Notes {
        match self {
            Tables::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                let mut statement = connection.prepare("SELECT id, note FROM records").unwrap();
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Tables::Postgres(run) => {
                let pair =
                    |line: &str| line.split_once('|').map(|(id, note)| (id.to_owned(), note.to_owned())).unwrap();
                run("SELECT id, note FROM records").lines().map(pair).collect()
            }
        }
    }

    fn apply(&self, edit: &Edit) {
        self.run(&match edit {
            Edit::Set(id, note) => format!("UPDATE records SET note = '{note}' WHERE id = '{id}'"),
            Edit::Insert(id, note) => format!("INSERT INTO records VALUES ('{id}', 'new', '{note}')"),
            Edit::Delete(id) => format!("DELETE FROM records WHERE id = '{id}'"),
        });
    }
}

/// Edits a table all the time.
pub(crate) struct Editor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Edited>,
}

impl Editor {
    pub(crate) fn start(name: &'static str, tables: Tables, seed: u64) -> Editor {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut random = Random(seed);
            // Editors of one source have different numbers: the table's place in its source's list.
            let number = u64::from(name.ends_with("r0"));
            let mut mind = Mind::new(name, number);
            while !stopped.load(Ordering::Relaxed) {
                tables.apply(&mind.next(&mut random, super::RECORDS));
                std::thread::park_timeout(Duration::from_millis(random.below(PAUSE_MS)));
            }
            mind.edited
        });
        Editor { stop, thread }
    }

    pub(crate) fn stop(self) -> Edited {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("an editor ends well")
    }
}

/// A file of records.
#[derive(Clone, Debug)]
pub(crate) enum Files {
    Csv(PathBuf),
    Json(PathBuf),
    Lines(PathBuf),
}

type Rows = Vec<[String; 3]>;

impl Files {
    pub(crate) fn csv(path: PathBuf) -> Files {
        Files::Csv(path)
    }

    pub(crate) fn json(path: PathBuf) -> Files {
        Files::Json(path)
    }

    pub(crate) fn lines(path: PathBuf) -> Files {
        Files::Lines(path)
    }

    pub(crate) fn fill(&self, records: u32) {
        self.write(&(0..records).map(|at| [format!("first-{at}"), format!("name {at}"), "first".to_owned()]).collect());
    }

    fn path(&self) -> &PathBuf {
        let (Files::Csv(path) | Files::Json(path) | Files::Lines(path)) = self;
        path
    }

    fn rows(&self) -> Rows {
        let text = std::fs::read_to_string(self.path()).unwrap();
        let object =
            |object: &serde_json::Value| ["id", "name", "note"].map(|name| object[name].as_str().unwrap().to_owned());
        match self {
            // No value here has a comma, a quote or a line end.
            Files::Csv(_) => {
                let row = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
                text.lines().skip(1).map(row).collect()
            }
            Files::Json(_) => {
                let values: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
                values.iter().map(object).collect()
            }
            Files::Lines(_) => text.lines().map(|line| object(&serde_json::from_str(line).unwrap())).collect(),
        }
    }

    fn write(&self, rows: &Rows) {
        let objects = || {
            rows.iter().map(|[id, name, note]| serde_json::json!({"id": id, "name": name, "note": note}).to_string())
        };
        let text = match self {
            Files::Csv(_) => {
                let lines: Vec<_> = rows.iter().map(|row| row.join(",") + "\n").collect();
                format!("id,name,note\n{}", lines.concat())
            }
            Files::Json(_) => format!("[\n{}\n]\n", objects().collect::<Vec<_>>().join(",\n")),
            Files::Lines(_) => objects().map(|line| line + "\n").collect(),
        };
        let new = self.path().with_extension("edited");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    pub(crate) fn read(&self) -> Notes {
        self.rows().into_iter().map(|[id, _, note]| (id, note)).collect()
    }
}

/// Edits a file when told to.
pub(crate) struct FileEditor {
    files: Files,
    mind: Mind,
    pub(crate) edited: Edited,
}

impl FileEditor {
    pub(crate) fn new(name: &str, files: Files, number: u64) -> FileEditor {
        // The tables' editors have 0 and 1.
        let mind = Mind::new(name, 2 + number % (EDITORS - 2));
        FileEditor { files, edited: mind.edited.clone(), mind }
    }

    /// Some edits in one go.
    pub(crate) fn edit(&mut self, random: &mut Random) {
        let mut rows = self.files.rows();
        for _ in 0..=random.below(5) {
            match self.mind.next(random, super::RECORDS) {
                Edit::Set(id, note) => {
                    let row = rows.iter_mut().find(|row| row[0] == id);
                    match row {
                        Some(row) => row[2] = note,
                        // Its own record that isn't here, which nobody else would have taken.
                        None => panic!("{}: {id} is gone", self.mind.edited.editor),
                    }
                }
                Edit::Insert(id, note) => rows.push([id, "new".to_owned(), note]),
                Edit::Delete(id) => rows.retain(|row| row[0] != id),
            }
        }
        self.files.write(&rows);
        self.edited = self.mind.edited.clone();
    }
}
