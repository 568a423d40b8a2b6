//! A bus with everybody on it, each serving its figures.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::broker::Broker;
use crate::{Running, World};

/// The source as it is at first.
pub const PEOPLE: &str = "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n";

/// Where it is.
pub const SOURCE: &str = "csv:people.csv?key=id";

/// A broker, a transmitter of `people`, its receivers `a` (which sends edits), `b` and `c`, and who watches the broker.
pub struct Watched {
    /// The broker.
    pub broker: Broker,
    /// Everybody who runs.
    pub transmitter: Served,
    /// `sqlite:a.db`, `csv:b/people.csv`, `ndjson:c.ndjson`.
    pub receivers: Vec<Served>,
    /// `deltabus bus watch`.
    pub watcher: Served,
}

/// A process and where it serves its figures.
pub struct Served {
    /// The process.
    pub running: Running,
    /// Host and port.
    pub address: String,
}

impl Served {
    /// Starts a command line that serves its figures, on a port of the system's choice.
    pub fn start(world: &World, line: &str) -> Served {
        let address = free_address();
        let running = world.start(&format!("{line} --metrics {address}"));
        Served { running, address }
    }

    /// What it serves; empty while it doesn't.
    pub fn figures(&self) -> Vec<Figure> {
        let page = get(&self.address, "/metrics").unwrap_or_default();
        page.lines().filter_map(Figure::parse).collect()
    }

    /// The sample of this name, which has no labels.
    pub fn plain(&self, name: &str) -> Option<f64> {
        self.figures()
            .into_iter()
            .find(|figure| figure.name == name && figure.labels.is_empty())
            .map(|found| found.value)
    }

    /// The sum of all samples of this name whose label has this value.
    pub fn figure(&self, name: &str, label: (&str, &str)) -> Option<f64> {
        let figures = self.figures();
        let has = |figure: &&Figure| figure.name == name && figure.label(label.0) == Some(label.1);
        figures.iter().filter(has).map(|figure| figure.value).reduce(|a, b| a + b)
    }
}

/// One sample.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its name, with the suffix that a histogram's samples have.
    pub name: String,
    /// Its labels in order.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Figure {
    /// From a line of the text format; values of labels have no quotes or braces here.
    fn parse(line: &str) -> Option<Figure> {
        if line.starts_with('#') {
            return None;
        }
        let (left, value) = line.rsplit_once(' ')?;
        let (name, labels) = left.split_once('{').unwrap_or((left, ""));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect();
        Some(Figure { name: name.to_owned(), labels, value: value.parse().ok()? })
    }

    fn label(&self, wanted: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

impl Watched {
    /// Starts them, and waits until all receivers have what the source has.
    pub fn start(world: &World) -> Watched {
        let store = world.path("jetstream").display().to_string();
        let settings = format!("http: \"127.0.0.1:-1\"\njetstream: {{ store_dir: {store:?}, max_file_store: 1GB }}");
        let broker = Broker::start(world, &settings);
        world.write("people.csv", PEOPLE);
        std::fs::create_dir(world.path("b")).expect("a folder can be made");
        let bus = broker.url().to_owned();
        let transmitter =
            Served::start(world, &format!("transmit people {SOURCE} --conflicts manual --max-delete 50% --bus {bus}"));
        world.wait("the source is published", || {
            transmitter.figure("deltabus_transmitter_revision", ("source", "people")) == Some(1.0)
        });
        let receivers =
            ["sqlite:a.db --name a --reverse", "csv:b/people.csv?key=id --name b", "ndjson:c.ndjson?key=id --name c"];
        let receivers = receivers.map(|rest| Served::start(world, &format!("receive people {rest} --bus {bus}")));
        let watcher = Served::start(world, &format!("bus watch {}", broker.monitoring()));
        let watched = Watched { broker, transmitter, receivers: receivers.into(), watcher };
        watched.all_have(world, 1);
        watched
    }

    /// Waits until all receivers are at a revision.
    pub fn all_have(&self, world: &World, revision: u64) {
        for receiver in &self.receivers {
            world.wait(&format!("revision {revision} is everywhere"), || {
                receiver.figure("deltabus_receiver_revision", ("source", "people")) == Some(revision as f64)
            });
        }
    }

    /// An edit at `a` meets a change of the same field at the source: nobody has won.
    pub fn disagree(&self, world: &World) {
        self.transmitter.running.freeze();
        world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '2'");
        world.wait("the edit is sent", || {
            self.receivers[0].figure("deltabus_receiver_pending_sets", ("receiver", "a")) == Some(1.0)
        });
        let there = world.read("people.csv");
        world.write("people.csv", &there.replace("222", "888"));
        self.transmitter.running.thaw();
        world.wait("they disagree", || {
            self.transmitter.figure("deltabus_log_conflicts_unresolved", ("source", "people")) == Some(1.0)
        });
    }
}

/// An address of the loopback interface that nobody has at this moment.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a listener has an address").to_string()
}

/// The body of a page that answers with 200.
pub fn get(address: &str, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect(address).ok()?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    Some(body.to_owned())
}
