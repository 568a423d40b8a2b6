//! A receiver that ended about a file's rename, and somebody who edits the file, or restores it, before it is back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltabus_bus::memory::MemoryBroker;
use deltabus_interfaces::Location;
use deltabus_receiver::Receiver;
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::StateDirectory;
use deltabus_state::probe::{Probe, Step};
use deltabus_transmitter::Transmitter;

/// Fails every commit once the file holds this text.
struct DiesAfterRename {
    file: PathBuf,
    text: &'static str,
}

impl Probe for DiesAfterRename {
    fn at(&self, step: Step) -> std::io::Result<()> {
        let written = fs::read_to_string(&self.file).is_ok_and(|text| text.contains(self.text));
        match written && step == Step::BeforeCommit {
            true => Err(std::io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

/// Fails the commit that writes down that a file is about to take the other's place, once that is done.
struct DiesBeforeRename {
    folder: PathBuf,
}

impl Probe for DiesBeforeRename {
    fn at(&self, step: Step) -> std::io::Result<()> {
        match step == Step::AfterCommit && temporary(&self.folder).is_some() {
            true => Err(std::io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

/// The file that is about to take another's place.
fn temporary(folder: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "tmp"))
}

/// People and a copy of them, in a file each.
struct People {
    folder: tempfile::TempDir,
    broker: Arc<MemoryBroker>,
    transmitter: Transmitter,
    config: deltabus_receiver::Config,
}

impl People {
    async fn new() -> People {
        let folder = tempfile::tempdir().unwrap();
        let broker = Arc::new(MemoryBroker::new());
        let source = SourceName::new("people").unwrap();
        let state = StateDirectory::open(folder.path().join("state")).unwrap();
        fs::write(folder.path().join("people.csv"), "id,phone\n1,111\n2,222\n3,333\n").unwrap();
        let location = |name: &str| Location::parse(&format!("csv:{}?key=id", folder.path().join(name).display()));
        let config = deltabus_transmitter::Config::new(source.clone(), location("people.csv").unwrap());
        let transmitter = Transmitter::open(config, broker.clone(), &state).unwrap();
        let name = ReceiverName::new("oslo").unwrap();
        let mut config = deltabus_receiver::Config::new(source, location("copy.csv").unwrap(), name);
        config.reverse = true;
        let mut people = People { folder, broker, transmitter, config };
        people.transmitter.transmit_once().await.unwrap();
        people.receiver().receive_once().await.unwrap();
        people
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    /// The source becomes `text` and is transmitted.
    async fn source(&mut self, text: &str) {
        self.write("people.csv", text);
        self.transmitter.transmit_once().await.unwrap();
    }

    fn receiver(&self) -> Receiver {
        let state = StateDirectory::open(self.file("state")).unwrap();
        Receiver::open(self.config.clone(), self.broker.clone(), &state).unwrap()
    }

    /// The receiver takes what there is, and ends as `probe` says.
    async fn receiver_dies(&self, probe: impl Probe + 'static) {
        let state = StateDirectory::open(self.file("state")).unwrap().probed(Arc::new(probe));
        let mut receiver = Receiver::open(self.config.clone(), self.broker.clone(), &state).unwrap();
        receiver.receive_once().await.unwrap_err();
    }

    /// The receiver is back and finds so many edits, which the source takes without a conflict; both then hold `text`.
    async fn end_as(&mut self, edits: u64, text: &str) {
        let mut receiver = self.receiver();
        let round = receiver.receive_once().await.unwrap();
        assert_eq!(round.edits, edits);
        let round = self.transmitter.transmit_once().await.unwrap();
        assert_eq!(round.conflicts, 0);
        receiver.receive_once().await.unwrap();
        assert_eq!(self.read("people.csv"), text);
        assert_eq!(self.read("copy.csv"), text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_set_brought_is_no_edit_of_whoever_edits_the_file_next() {
    let mut people = People::new().await;
    people.source("id,phone\n1,112\n2,222\n3,333\n4,444\n").await;
    people.receiver_dies(DiesAfterRename { file: people.file("copy.csv"), text: "4,444" }).await;
    assert_eq!(people.read("copy.csv"), "id,phone\n1,112\n2,222\n3,333\n4,444\n");
    // Meanwhile the source goes on, and somebody edits the copy.
    people.source("id,phone\n1,113\n2,222\n3,333\n").await;
    people.write("copy.csv", "id,phone\n1,112\n2,223\n3,333\n4,444\n");
    people.end_as(1, "id,phone\n1,113\n2,223\n3,333\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_before_the_rename_brings_nothing_back() {
    let mut people = People::new().await;
    people.source("id,phone\n1,112\n2,222\n4,444\n").await;
    people.receiver_dies(DiesBeforeRename { folder: people.folder.path().to_owned() }).await;
    assert_eq!(people.read("copy.csv"), "id,phone\n1,111\n2,222\n3,333\n");
    // A backup has the copy and the state, not what was about to take the copy's place.
    fs::remove_file(temporary(people.folder.path()).unwrap()).unwrap();
    people.source("id,phone\n1,113\n2,222\n").await;
    people.end_as(0, "id,phone\n1,113\n2,222\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_after_the_rename_brings_nothing_back() {
    let mut people = People::new().await;
    people.source("id,phone\n1,112\n2,222\n4,444\n").await;
    people.receiver_dies(DiesAfterRename { file: people.file("copy.csv"), text: "4,444" }).await;
    people.source("id,phone\n1,113\n2,222\n").await;
    people.end_as(0, "id,phone\n1,113\n2,222\n").await;
}
