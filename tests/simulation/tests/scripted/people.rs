//! People and a copy of them, each in a file, on a memory bus: scripted, with real interfaces and stores.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltabus_bus::broker::{Broker, Stream};
use deltabus_bus::memory::MemoryBroker;
use deltabus_interfaces::Location;
use deltabus_receiver::{Receiver, Round};
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::StateDirectory;
use deltabus_state::probe::{Probe, Step};
use deltabus_transmitter::Transmitter;

/// Fails every commit once the file holds this text.
pub(crate) struct DiesAfterRename {
    pub(crate) file: PathBuf,
    pub(crate) text: &'static str,
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
pub(crate) struct DiesBeforeRename {
    pub(crate) folder: PathBuf,
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
pub(crate) fn temporary(folder: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "tmp"))
}

/// A source and one receiver of it.
pub(crate) struct People {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) broker: MemoryBroker,
    pub(crate) name: SourceName,
    source: String,
    copy: String,
    transmitter: Option<Transmitter>,
}

impl People {
    /// The source holds `text` in a file of `source`, an interface and its options, and is transmitted; nobody has received it.
    pub(crate) async fn transmitted(source: &str, text: &str, copy: &str) -> People {
        let name = SourceName::new("people").unwrap();
        let (source, copy) = (source.to_owned(), copy.to_owned());
        let folder = tempfile::tempdir().unwrap();
        let mut people = People { folder, broker: MemoryBroker::new(), name, source, copy, transmitter: None };
        people.source(text).await;
        people
    }

    /// The same, and the copy is there.
    pub(crate) async fn new(source: &str, text: &str, copy: &str) -> People {
        let people = People::transmitted(source, text, copy).await;
        people.receive().await;
        people
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Writes a file as its user does.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn location(&self, kind: &str, name: &str) -> Location {
        let (interface, options) = kind.split_once('?').unwrap_or((kind, ""));
        Location::parse(&format!("{interface}:{}?{options}", self.path(name).display())).unwrap()
    }

    fn state(&self) -> StateDirectory {
        StateDirectory::open(self.path("state")).unwrap()
    }

    /// The source becomes `text` and is transmitted.
    pub(crate) async fn source(&mut self, text: &str) {
        self.write("people", text);
        self.transmit().await;
    }

    pub(crate) async fn transmit(&mut self) -> deltabus_transmitter::Round {
        self.try_transmit().await.unwrap()
    }

    pub(crate) async fn try_transmit(&mut self) -> Result<deltabus_transmitter::Round, deltabus_transmitter::Error> {
        let transmitter = match self.transmitter.take() {
            Some(transmitter) => transmitter,
            None => {
                let mut config =
                    deltabus_transmitter::Config::new(self.name.clone(), self.location(&self.source, "people"));
                config.max_delete = 1.0;
                Transmitter::open(config, Arc::new(self.broker.clone()), &self.state()).unwrap()
            }
        };
        self.transmitter.insert(transmitter).transmit_once().await
    }

    /// The transmitter ends; the next round is another's.
    pub(crate) fn end_transmitter(&mut self) {
        self.transmitter = None;
    }

    /// The transmitter ends, and its state is gone.
    pub(crate) fn forget_transmitter(&mut self) {
        self.end_transmitter();
        fs::remove_dir_all(self.path("state/sources")).unwrap();
    }

    /// The transmitter ends; its state is kept elsewhere.
    pub(crate) fn put_transmitter_aside(&mut self) {
        self.end_transmitter();
        fs::rename(self.path("state/sources"), self.path("aside")).unwrap();
    }

    /// The transmitter has the state again that was put aside.
    pub(crate) fn restore_transmitter(&mut self) {
        self.forget_transmitter();
        fs::rename(self.path("aside"), self.path("state/sources")).unwrap();
    }

    fn receiver_on(&self, state: &StateDirectory, reverse: bool) -> Receiver {
        let name = ReceiverName::new("oslo").unwrap();
        let mut config = deltabus_receiver::Config::new(self.name.clone(), self.location(&self.copy, "copy"), name);
        config.reverse = reverse;
        Receiver::open(config, Arc::new(self.broker.clone()), state).unwrap()
    }

    /// One that goes on.
    pub(crate) fn receiver(&self) -> Receiver {
        self.receiver_on(&self.state(), true)
    }

    /// The receiver is started, goes one round and ends.
    pub(crate) async fn receive(&self) -> Round {
        self.receiver().receive_once().await.unwrap()
    }

    /// The receiver takes what there is, and ends as `probe` says.
    pub(crate) async fn receiver_dies(&self, probe: impl Probe + 'static) {
        let state = self.state().probed(Arc::new(probe));
        self.receiver_on(&state, true).receive_once().await.unwrap_err();
    }

    /// The same while something happens at its commits.
    pub(crate) async fn receive_with(&self, probe: impl Probe + 'static) -> Round {
        let state = self.state().probed(Arc::new(probe));
        self.receiver_on(&state, true).receive_once().await.unwrap()
    }

    /// The same without sending edits back.
    pub(crate) async fn receive_one_way(&self) -> Round {
        self.receiver_on(&self.state(), false).receive_once().await.unwrap()
    }

    /// The receiver's state is gone.
    pub(crate) fn forget_receiver(&self) {
        fs::remove_dir_all(self.path("state/receivers")).unwrap();
    }

    /// Edits go out, are taken without a conflict, and come back; both then hold `text`.
    pub(crate) async fn end_as(&mut self, edits: u64, text: &str) {
        self.exchange(edits).await;
        assert_eq!(self.read("people"), text);
        assert_eq!(self.read("copy"), text);
    }

    /// So many edits are found, go out, are taken without a conflict, and come back.
    pub(crate) async fn exchange(&mut self, edits: u64) {
        assert_eq!(self.receive().await.edits, edits);
        assert_eq!(self.transmit().await.conflicts, 0);
        self.receive().await;
    }

    /// The last message of the log.
    pub(crate) async fn broker_end(&self) -> u64 {
        self.broker.extent(&self.name, Stream::Changes).await.unwrap().unwrap().last
    }

    /// The bus loses all messages of a stream but the last so many.
    pub(crate) async fn keep_last(&self, stream: Stream, messages: u64) {
        let extent = self.broker.extent(&self.name, stream).await.unwrap().unwrap();
        self.broker.trim(&self.name, stream, extent.last + 1 - messages);
    }
}
