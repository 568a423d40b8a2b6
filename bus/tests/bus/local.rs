//! The local bus.

use std::collections::HashSet;
use std::fs;

use deltabus_bus::access::Access;
use deltabus_bus::broker::{Broker, Expect, Follow, Hint, Stream, Subject};
use deltabus_bus::jetstream::JetStream;
use deltabus_bus::local::LocalBus;

use crate::brokers::{Server, ends, source};

#[test]
fn many_who_start_it_at_once_get_one_server() {
    let server = Server::start();
    server.bus.stop().expect("it ends");
    let started: HashSet<_> = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..8).map(|_| scope.spawn(|| server.bus.ensure().expect("it starts"))).collect();
        starters.into_iter().map(|starter| starter.join().expect("no panic")).map(|running| running.pid).collect()
    });
    assert_eq!(started.len(), 1);
    assert_eq!(started.into_iter().next(), server.bus.status().map(|running| running.pid));
}

#[test]
fn a_running_one_is_used_again() {
    let server = Server::start();
    assert_eq!(server.bus.status().as_ref(), Some(&server.running));
    assert_eq!(server.bus.ensure().expect("it runs"), server.running);
    assert_eq!(LocalBus::new(server.bus.folder()).ensure().expect("it runs"), server.running);
}

#[test]
fn stopping_says_whether_there_was_one() {
    let server = Server::start();
    assert!(server.bus.stop().expect("it ends"));
    assert_eq!(server.bus.status(), None);
    assert!(!server.bus.stop().expect("there is none"));
    let never = LocalBus::new(server.bus.folder().join("never"));
    assert!(!never.stop().expect("there is none"));
    assert_eq!((never.status(), never.stored_bytes()), (None, 0));
    assert!(!never.folder().exists());
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart_and_clients_come_back() {
    ends(async {
        let server = Server::start();
        let broker = server.connect().await;
        broker.prepare(&source("people")).await.expect("streams can be made");
        let put = |text: &'static str, last| {
            let broker = broker.clone();
            async move { broker.append(&source("people"), &Subject::changes(), text.into(), Expect::Last(last)).await }
        };
        put("one", 0).await.expect("it is stored");
        assert!(server.bus.stored_bytes() > 0);
        server.bus.stop().expect("it ends");
        let again = server.bus.ensure().expect("it starts");
        assert_ne!(again.pid, server.running.pid);
        assert_eq!(again.url, server.running.url, "at the address where its clients look for it");
        // The same client, once it has found it again.
        while put("two", 1).await.is_err() {
            let there = broker.extent(&source("people"), Stream::Changes).await;
            if there.is_ok_and(|extent| extent.is_some_and(|extent| extent.last == 2)) {
                break;
            }
            tokio::task::yield_now().await;
        }
        let found = broker.read(&source("people"), Stream::Changes, 1, 1000).await.expect("it can be read");
        let texts: Vec<_> = found.iter().map(|stored| &stored.payload[..]).collect();
        assert_eq!(texts, [b"one", b"two"]);
    })
    .await;
}

#[test]
fn one_that_was_killed_is_started_again() {
    let server = Server::start();
    server.kill();
    let again = server.bus.ensure().expect("it starts");
    assert_ne!(again.pid, server.running.pid);
    assert_eq!(server.bus.status(), Some(again));
}

#[test]
fn one_whose_record_was_lost_is_found() {
    let server = Server::start();
    // Its starter was killed before it could write down what it started.
    fs::remove_file(server.bus.folder().join("bus.json")).expect("it was written");
    assert_eq!(server.bus.status().as_ref(), Some(&server.running));
    assert_eq!(server.bus.ensure().expect("it runs"), server.running);
}

#[test]
fn a_record_of_another_process_is_not_believed() {
    let server = Server::start();
    server.bus.stop().expect("it ends");
    // Process ids are used again: this one is the test's own.
    let record = fs::read_to_string(server.bus.folder().join("bus.json")).expect("it was written");
    let pid = std::process::id().to_string();
    let lying = record.replace(&server.running.pid.to_string(), &pid);
    fs::write(server.bus.folder().join("bus.json"), lying).expect("it can be written");
    assert_eq!(server.bus.status(), None);
    assert!(!server.bus.stop().expect("there is none"));
    for junk in ["", "{", "{\"pid\":-1,\"url\":\"x\",\"version\":\"\"}", "{\"pid\":0,\"url\":\"\",\"version\":\"\"}"] {
        fs::write(server.bus.folder().join("bus.json"), junk).expect("it can be written");
        assert_eq!(server.bus.status(), None);
    }
    server.bus.ensure().expect("it starts");
}

#[test]
fn a_port_that_was_taken_meanwhile_is_given_up() {
    let server = Server::start();
    server.bus.stop().expect("it ends");
    let address = server.running.url.strip_prefix("nats://").expect("an address");
    let taken = std::net::TcpListener::bind(address).expect("the port is free");
    let again = server.bus.ensure().expect("it starts");
    assert_ne!(again.url, server.running.url);
    drop(taken);
}

#[tokio::test]
async fn a_client_follows_a_bus_that_listens_elsewhere() {
    ends(async {
        let server = Server::start();
        let access = server.running.access();
        let broker = JetStream::connect(&server.running.url, &access).await.expect("it takes connections");
        let people = source("people");
        broker.prepare(&people).await.expect("streams can be made");
        let mut live = broker.follow(&people, Follow::Changes).await.expect("it can be followed");
        server.bus.stop().expect("it ends");
        let address = server.running.url.strip_prefix("nats://").expect("an address");
        let _taken = std::net::TcpListener::bind(address).expect("the port is free");
        let again = server.bus.ensure().expect("it starts");
        assert_ne!(again.url, server.running.url);
        broker.move_to(&again.url, &again.access()).await.expect("it takes connections");
        assert!(live.next().await.is_none(), "what was followed before has ended");
        assert_eq!(broker.url(), again.url);
        let mut live = broker.follow(&people, Follow::Changes).await.expect("it can be followed");
        broker.append(&people, &Subject::changes(), "one".into(), Expect::Last(0)).await.expect("it is stored");
        assert!(matches!(live.next().await, Some(Hint::Stored(stored)) if stored.payload == "one"));
    })
    .await;
}

#[test]
fn only_its_owner_reads_its_configuration() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start();
    for file in ["nats-server.conf", "bus.json", "secret"] {
        let mode = fs::metadata(server.bus.folder().join(file)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let text = fs::read_to_string(server.bus.folder().join("nats-server.conf")).expect("it is there");
    assert!(text.contains("127.0.0.1:") && text.contains("sync_interval: always"));
}

#[tokio::test]
async fn who_has_no_login_is_not_let_in_and_no_message_shows_one() {
    ends(async {
        let server = Server::start();
        let secret = fs::read_to_string(server.bus.folder().join("secret")).expect("it is there");
        let secret = secret.trim();
        let refused = |login: &str| {
            let url = server.running.url.replace("nats://", &format!("nats://{login}"));
            async move { JetStream::connect(&url, &Access::default()).await.err().expect("it is refused").to_string() }
        };
        for login in ["", "local:wrong@", &format!("other:{secret}@")] {
            let said = refused(login).await;
            assert!(said.contains("let us in") && said.contains(&server.running.url), "{said}");
            assert!(!said.contains(secret) && !said.contains("wrong"), "{said}");
        }
        let url = server.running.url.replace("nats://", &format!("nats://local:{secret}@"));
        let broker = JetStream::connect(&url, &Access::default()).await.expect("it is let in");
        assert_eq!(broker.url(), server.running.url);
        assert!(!format!("{:?}", server.running).contains(secret));
        for file in ["bus.json", "nats-server.log"] {
            let text = fs::read_to_string(server.bus.folder().join(file)).expect("it is there");
            assert!(!text.contains(secret), "{file}");
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_an_older_version_started_without_logins_is_used_until_it_ends() {
    ends(async {
        let server = Server::start();
        server.bus.stop().expect("it ends");
        let file = |name: &str| server.bus.folder().join(name);
        let text = fs::read_to_string(file("nats-server.conf")).expect("it is there");
        let without: Vec<_> = text.lines().filter(|line| !line.starts_with("authorization")).collect();
        assert!(without.len() < text.lines().count());
        let address = server.running.url.strip_prefix("nats://").expect("an address");
        let older = without.join("\n").replace("127.0.0.1:-1", address);
        fs::write(file("nats-server.conf"), older).expect("it can be written");
        fs::remove_file(file("secret")).expect("it is there");
        fs::remove_file(file("stopped")).expect("it is there");
        let (program, _) = deltabus_bus::local::find_server().expect("it is there");
        let mut command = std::process::Command::new(program);
        let mut older = command
            .arg("-c")
            .arg(file("nats-server.conf"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it can be started");
        let running = loop {
            match server.bus.status().filter(|running| running.pid == older.id() as i32) {
                Some(running) => break running,
                None => tokio::task::yield_now().await,
            }
        };
        // Looking changes nothing; whoever uses it has a login ready.
        assert!(!file("secret").exists());
        let used = server.bus.ensure().expect("it runs");
        assert_eq!((used.pid, &used.url), (running.pid, &running.url));
        let broker = JetStream::connect(&used.url, &used.access()).await.expect("it takes connections");
        older.kill().expect("it can be killed");
        older.wait().expect("it has ended");
        let again = server.bus.ensure().expect("it starts");
        assert_eq!(again.url, used.url);
        let asked = || broker.sources();
        while asked().await.is_err() {
            tokio::task::yield_now().await;
        }
        let refused = JetStream::connect(&again.url, &Access::default()).await;
        assert!(refused.is_err(), "from now on nobody comes in without a login");
    })
    .await;
}

#[tokio::test]
async fn where_nobody_listens_the_address_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = free.local_addr().expect("it is bound").to_string();
    drop(free);
    let failed =
        JetStream::connect(&format!("nats://{address}"), &Access::default()).await.err().expect("nobody listens");
    assert!(failed.is_transient());
    assert!(failed.to_string().contains(&address), "{failed}");
    let failed =
        JetStream::connect("nats://127.0.0.1:1", &Access::by_file(Some("/nowhere/x.creds".as_ref()))).await.err();
    assert!(failed.expect("there is no such file").to_string().contains("/nowhere/x.creds"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_has_room_for_many_sources() {
    let server = crate::brokers::Server::start();
    let broker = server.connect().await;
    for at in 0..40 {
        broker.prepare(&crate::brokers::source(&format!("s{at}"))).await.expect("there is room");
    }
    assert_eq!(broker.sources().await.expect("sources are listed").len(), 40);
}
