//! Requests to the process that holds a folder, from others on this machine: files in the folder, one for each question and each
//! answer. No network, and no right but that to the folder.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::directory::create_private;
use crate::store::is_busy;
use crate::{Error, Store};

/// Where requests lie in a folder.
pub(crate) const REQUESTS: &str = "requests";

const QUESTION: &str = "question";
const ANSWER: &str = "answer";

/// How often whoever asks looks for the answer.
const LOOK: Duration = Duration::from_millis(20);

/// How often it looks whether the holder still lives: that takes the lock for a moment.
const LOOK_FOR_HOLDER: Duration = Duration::from_millis(500);

/// An answer that nobody has fetched for so long is nobody's.
const ANSWER_KEPT: Duration = Duration::from_secs(3600);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The holder answered.
    Answer(String),
    /// Nobody holds the folder, and nothing was done.
    Nobody,
    /// The holder did not take the request in time, and won't any more.
    Deaf,
    /// The holder took the request and ended before it answered: what was asked may be done or not.
    Ended,
}

/// Asks the holder of the folder `dir`, and waits for the answer: until it takes the request at most `patience`, from then on
/// as long as it lives. Blocks; not for async threads.
pub fn ask(dir: &Path, question: &str, patience: Duration) -> Result<Heard, Error> {
    let folder = dir.join(REQUESTS);
    create_private(&folder)?;
    let id = format!("{:016x}", RandomState::new().build_hasher().finish());
    let (asked, answer) = (folder.join(format!("{id}.{QUESTION}")), folder.join(format!("{id}.{ANSWER}")));
    write(&asked, question)?;
    let start = Instant::now();
    let mut looked = start;
    let mut alive = is_busy(dir);
    loop {
        if let Some(text) = read(&answer)? {
            let _ = fs::remove_file(&answer);
            return Ok(Heard::Answer(text));
        }
        // Whoever removes the question has it: the holder to do it, or we so that it won't be done.
        let give_up = !alive || start.elapsed() > patience;
        if give_up && fs::remove_file(&asked).is_ok() {
            return Ok(if alive { Heard::Deaf } else { Heard::Nobody });
        }
        if !alive {
            // Answered, it may be, just before it ended.
            return Ok(read(&answer)?.map_or(Heard::Ended, Heard::Answer));
        }
        std::thread::park_timeout(LOOK);
        if looked.elapsed() > LOOK_FOR_HOLDER {
            looked = Instant::now();
            alive = is_busy(dir);
        }
    }
}

/// The requests to the holder of a store.
pub struct Requests {
    folder: PathBuf,
}

/// One request, to be answered.
pub struct Request {
    /// What is asked.
    pub question: String,
    answer: PathBuf,
}

impl Requests {
    /// Those in the folder of `store`.
    pub fn of(store: &Store) -> Requests {
        let requests = Requests { folder: store.dir().join(REQUESTS) };
        for path in requests.files(ANSWER) {
            let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
            if age.and_then(|time| SystemTime::now().duration_since(time).ok()).is_none_or(|age| age > ANSWER_KEPT) {
                let _ = fs::remove_file(path);
            }
        }
        requests
    }

    /// The next request, if there is one: from now on it is the caller's to do.
    pub fn take(&self) -> Option<Request> {
        self.files(QUESTION).into_iter().find_map(|path| {
            let question = fs::read_to_string(&path).ok()?;
            fs::remove_file(&path).ok()?;
            Some(Request { question, answer: path.with_extension(ANSWER) })
        })
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect()
    }
}

impl Request {
    /// Answers it.
    pub fn answer(self, text: &str) -> Result<(), Error> {
        write(&self.answer, text)
    }
}

/// Whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| Error::Io { doing: "write", path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { doing: "read", path: path.to_owned(), source }),
    }
}
