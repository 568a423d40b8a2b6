//! A client that may write everywhere puts what it likes on a real broker, while a transmitter and two receivers run: all of
//! them go on, and stay equal.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use deltabus_tests::{Running, World};

const SOURCE: &str = "csv:people.csv?key=id";
const TRANSMIT: &str = "transmit people csv:people.csv?key=id --poll 1s --conflicts latest";
const RECEIVE: [&str; 2] = [
    "receive people sqlite:there.db --name there --reverse --poll 1s",
    "receive people json:copy.json?key=id --name copy",
];

/// How long an answer of the broker may take.
const ANSWER: Duration = Duration::from_secs(20);

/// Reverse sets in a flood.
const FLOOD: usize = 2_000;

/// A raw client.
struct Peer {
    runtime: tokio::runtime::Runtime,
    context: jetstream::Context,
}

impl Peer {
    fn of(world: &World) -> Peer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let context = runtime.block_on(async {
            let url = world.bus_url();
            let (login, place) = url.trim_start_matches("nats://").split_once('@').expect("the bus has a login");
            let (user, password) = login.split_once(':').expect("a name and a secret");
            let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
            let client = options.connect(place).await.unwrap();
            jetstream::context::ContextBuilder::new().timeout(ANSWER).ack_timeout(ANSWER).build(client)
        });
        Peer { runtime, context }
    }

    /// Stores a message, whatever it is.
    fn put(&self, subject: &str, payload: &[u8]) {
        let (subject, payload) = (format!("deltabus.people.{subject}"), payload.to_vec());
        self.runtime.block_on(async {
            self.context.publish(subject, payload.into()).await.unwrap().await.expect("it is stored");
        });
    }

    /// All that a stream has: subjects below `deltabus.people.` and payloads.
    fn all(&self, stream: &str) -> Vec<(String, Vec<u8>)> {
        self.runtime.block_on(async {
            let mut stream = self.context.get_stream(stream).await.unwrap();
            let state = stream.info().await.unwrap().state.clone();
            let mut found = Vec::new();
            for sequence in state.first_sequence..=state.last_sequence {
                // What a newer message of its subject replaced is gone.
                if let Ok(message) = stream.get_raw_message(sequence).await {
                    let tail = message.subject.strip_prefix("deltabus.people.").expect("of this source");
                    found.push((tail.to_owned(), message.payload.to_vec()));
                }
            }
            found
        })
    }
}

/// What it runs against: each step ends with all equal again.
struct Scene<'a> {
    world: &'a World,
    running: Vec<Running>,
    rows: BTreeMap<String, String>,
    step: u64,
}

impl Scene<'_> {
    fn write(&self) {
        let rows: String = self.rows.iter().map(|(id, note)| format!("{id},{note}\n")).collect();
        self.world.write("people.csv", &format!("id,note\n{rows}"));
    }

    /// An edit at each end reaches all others.
    fn all_goes_on(&mut self, what: &str) {
        self.step += 1;
        let (step, world) = (self.step, self.world);
        println!("{what}");
        self.rows.insert("source".into(), format!("source {step}"));
        self.write();
        let line = format!("source,source {step}\n");
        world.wait(&format!("an edit of the source is everywhere after {what}"), || {
            world.read("copy.json").contains(&format!("source {step}")) && world.read("people.csv").contains(&line)
        });
        world.wait_equal(SOURCE, "sqlite:there.db");
        world.sql("there.db", &format!("UPDATE people SET note = 'there {step}' WHERE id = 'there'"));
        self.rows.insert("there".into(), format!("there {step}"));
        world.wait(&format!("an edit made there is at the source after {what}"), || {
            world.read("people.csv").contains(&format!("there,there {step}\n"))
        });
        world.wait_equal(SOURCE, "json:copy.json?key=id");
        world.wait_equal(SOURCE, "sqlite:there.db");
        for running in &mut self.running {
            assert!(!running.has_ended(), "a process ended by itself after {what}\n{}", world.logs());
        }
        let rows: String = self.rows.iter().map(|(id, note)| format!("{id},{note}\n")).collect();
        assert_eq!(world.read("people.csv"), format!("id,note\n{rows}"), "nothing else has changed after {what}");
    }
}

/// Bytes that are no message, or only nearly one.
fn damaged(whole: &[u8]) -> Vec<Vec<u8>> {
    let mut flipped = whole.to_vec();
    let middle = flipped.len() / 2;
    if let Some(byte) = flipped.get_mut(middle) {
        *byte ^= 0x55;
    }
    vec![Vec::new(), b"{}".to_vec(), vec![0xff; 700_000], whole[..whole.len() / 2].to_vec(), flipped]
}

#[test]
fn whatever_a_peer_puts_on_the_bus_the_others_go_on() {
    let world = World::new();
    let rows = [("source", "first"), ("there", "first"), ("z", "z")];
    let rows = rows.into_iter().map(|(id, note)| (id.to_owned(), note.to_owned())).collect();
    let mut scene = Scene { world: &world, running: Vec::new(), rows, step: 0 };
    scene.write();
    scene.running.push(world.start(TRANSMIT));
    scene.running.extend(RECEIVE.map(|line| world.start(line)));
    world.wait_equal(SOURCE, "sqlite:there.db");
    world.wait_equal(SOURCE, "json:copy.json?key=id");
    scene.all_goes_on("nothing");
    let peer = Peer::of(&world);

    let log = peer.all("deltabus_people");
    let (_, last) = log.last().expect("it has messages").clone();
    for message in damaged(&last) {
        peer.put("changes", &message);
    }
    scene.all_goes_on("garbage on the log");
    // All of it once more, last first.
    for (_, message) in log.iter().rev() {
        peer.put("changes", message);
    }
    scene.all_goes_on("the log once more");
    // The same of the term that is current: its claim, and whatever it has published.
    for (_, message) in peer.all("deltabus_people").iter().rev() {
        peer.put("changes", message);
    }
    scene.all_goes_on("the log of the latest term once more");

    let reverse = peer.all("deltabus_people_REVERSE");
    let (_, edits) = reverse.last().expect("there was an edit").clone();
    for message in damaged(&edits) {
        peer.put("reverse.stranger", &message);
        peer.put("reverse.there", &message);
        peer.put("reverse.NotAName", &message);
    }
    scene.all_goes_on("garbage among reverse sets");
    // What one sent, as another's: its edits are done already, or too late, whoever says them.
    for (_, message) in &reverse {
        peer.put("reverse.stranger", message);
    }
    for (_, message) in reverse.iter().rev() {
        peer.put("reverse.there", message);
    }
    scene.all_goes_on("reverse sets once more, some as another's");
    for _ in 0..FLOOD {
        peer.put("reverse.stranger", b"\x00\x08\x01");
    }
    scene.all_goes_on("a flood of reverse sets");

    // A receiver that joins while the snapshot is damaged waits for a better one.
    world.run("snapshot people").exits(0);
    scene.all_goes_on("a snapshot");
    let parts = peer.all("deltabus_people_SNAPSHOT");
    for (subject, whole) in parts.iter().filter(|(subject, _)| subject.starts_with("snapshot.")) {
        peer.put(subject, &damaged(whole).pop().expect("a message"));
    }
    scene.running.push(world.start("receive people csv:late.csv?key=id --name late"));
    let late = scene.running.last().expect("it was started");
    world.wait("the one that joins says what is wrong", || {
        late.log().contains("can't be understood") || late.log().contains("is damaged")
    });
    assert!(!world.path("late.csv").exists());
    scene.all_goes_on("a damaged snapshot");
    world.run("snapshot people").exits(0);
    world.wait_equal(SOURCE, "csv:late.csv?key=id");
    // Who is active is no secret, and no weapon: a record of garbage, questions of garbage.
    peer.put("snapshot.lease", &[0xff; 300]);
    for question in [&b""[..], b"\xff\xff", b"standby ", b"decide 99.99 edit", b"confirm please"] {
        let question = question.to_vec();
        peer.runtime.block_on(async {
            let client = peer.context.client();
            client.publish("deltabus.people.transmitter", question.into()).await.unwrap();
            client.publish("deltabus.people.live", vec![0xff; 500].into()).await.unwrap();
            client.flush().await.unwrap();
        });
    }
    scene.all_goes_on("questions and beats of garbage");
}
