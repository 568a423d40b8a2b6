//! A receiver that ended between a file's rename and its own note of it, and somebody who edits the file before it is back.

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
struct Dies {
    file: PathBuf,
    text: &'static str,
}

impl Probe for Dies {
    fn at(&self, step: Step) -> std::io::Result<()> {
        let written = fs::read_to_string(&self.file).is_ok_and(|text| text.contains(self.text));
        match written && step == Step::BeforeCommit {
            true => Err(std::io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

fn location(path: &Path) -> Location {
    Location::parse(&format!("csv:{}?key=id", path.display())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_set_brought_is_no_edit_of_whoever_edits_the_file_next() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let broker = Arc::new(MemoryBroker::new());
    let source = SourceName::new("people").unwrap();
    let state = StateDirectory::open(file("state")).unwrap();
    fs::write(file("people.csv"), "id,phone\n1,111\n2,222\n3,333\n").unwrap();
    let config = deltabus_transmitter::Config::new(source.clone(), location(&file("people.csv")));
    let mut transmitter = Transmitter::open(config, broker.clone(), &state).unwrap();
    let name = ReceiverName::new("oslo").unwrap();
    let mut config = deltabus_receiver::Config::new(source, location(&file("copy.csv")), name);
    config.reverse = true;
    transmitter.transmit_once().await.unwrap();
    let mut receiver = Receiver::open(config.clone(), broker.clone(), &state).unwrap();
    receiver.receive_once().await.unwrap();
    drop(receiver);

    fs::write(file("people.csv"), "id,phone\n1,112\n2,222\n3,333\n4,444\n").unwrap();
    transmitter.transmit_once().await.unwrap();
    let probe = Arc::new(Dies { file: file("copy.csv"), text: "4,444" });
    let dying = StateDirectory::open(file("state")).unwrap().probed(probe);
    let mut receiver = Receiver::open(config.clone(), broker.clone(), &dying).unwrap();
    receiver.receive_once().await.unwrap_err();
    drop(receiver);
    assert_eq!(fs::read_to_string(file("copy.csv")).unwrap(), "id,phone\n1,112\n2,222\n3,333\n4,444\n");

    // Meanwhile the source goes on, and somebody edits the copy.
    fs::write(file("people.csv"), "id,phone\n1,113\n2,222\n3,333\n").unwrap();
    transmitter.transmit_once().await.unwrap();
    fs::write(file("copy.csv"), "id,phone\n1,112\n2,223\n3,333\n4,444\n").unwrap();
    let mut receiver = Receiver::open(config, broker, &state).unwrap();
    let round = receiver.receive_once().await.unwrap();
    assert_eq!(round.edits, 1);
    let round = transmitter.transmit_once().await.unwrap();
    assert_eq!(round.conflicts, 0);
    receiver.receive_once().await.unwrap();
    let all = "id,phone\n1,113\n2,223\n3,333\n";
    assert_eq!(fs::read_to_string(file("people.csv")).unwrap(), all);
    assert_eq!(fs::read_to_string(file("copy.csv")).unwrap(), all);
}
