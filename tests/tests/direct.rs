//! From a transmitter straight to a receiver on another machine: two networks, an address and a token, nothing else.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use deltabus_certificates::{Authority, Pin, Token, TokenKind, Trust, client_config};
use deltabus_tests::namespace::{Elsewhere, HERE, in_networks};
use deltabus_tests::{PATIENCE, Ran, World};

const SOURCE: &str = "csv:people.csv?key=id";
const TRANSMIT: &str = "transmit people csv:people.csv?key=id";
const RECEIVE: &str = "receive people sqlite:far.db --bus tls://10.77.0.1:4222";

fn world() -> World {
    let world = World::new();
    world.write("people.csv", "id,name,phone\n1,Ann,111\n2,Bob,222\n");
    world
}

/// Takes a source's token to the other machine.
fn take_token(world: &World, source: &str) -> Token {
    let text = world.read(&format!("state/bus/tokens/{source}.token"));
    world.write(&format!("{source}.token"), &text);
    text.parse().unwrap()
}

fn run_elsewhere(world: &World, elsewhere: &Elsewhere, line: &str) -> Ran {
    world.run_as(line, world.command_elsewhere(elsewhere, line))
}

/// Runs a command elsewhere that is to fail with these words.
fn refused(world: &World, elsewhere: &Elsewhere, line: &str, words: &str) {
    let ran = run_elsewhere(world, elsewhere, line).exits(2);
    assert!(ran.stderr().contains(words), "{}", ran.text());
}

#[test]
fn a_receiver_elsewhere_needs_an_address_and_a_token() {
    in_networks("a_receiver_elsewhere_needs_an_address_and_a_token", |elsewhere| {
        let world = world();
        // A receiver beside the transmitter, from before the bus was opened.
        world.run(&format!("{TRANSMIT} --once")).exits(0);
        let near = world.start("receive people json:near.json?key=id");
        world.wait_equal(SOURCE, "json:near.json?key=id");
        refused(&world, elsewhere, &format!("{RECEIVE} --once"), "can't be reached");

        let transmitter = world.start(&format!("{TRANSMIT} --open 0.0.0.0:4222 --poll 1s"));
        world.wait("it says what to do elsewhere", || transmitter.log().contains("tls://10.77.0.1:4222 --token-file"));
        let token = take_token(&world, "people");
        let receive = format!("{RECEIVE} --reverse --poll 1s");
        let line = format!("{receive} --token-file people.token");
        let far = world.start_as(&line, world.command_elsewhere(elsewhere, &line));
        world.wait_equal(SOURCE, "sqlite:far.db");

        world.write("people.csv", "id,name,phone\n1,Ann,112\n2,Bob,222\n3,Cleo,333\n");
        world.wait_equal(SOURCE, "sqlite:far.db");
        world.wait_equal(SOURCE, "json:near.json?key=id");
        world.sql("far.db", "UPDATE people SET phone = '999' WHERE id = '2'");
        world.wait("the edit is at the source", || world.read("people.csv").contains("2,Bob,999"));
        world.wait_equal(SOURCE, "sqlite:far.db");
        world.wait_equal(SOURCE, "json:near.json?key=id");

        // What let it in once is kept.
        assert!(far.stop().success());
        std::fs::remove_file(world.path("people.token")).unwrap();
        world.write("people.csv", "id,name,phone\n1,Ann,113\n2,Bob,999\n3,Cleo,333\n");
        let far = world.start_as(&receive, world.command_elsewhere(elsewhere, &receive));
        world.wait_equal(SOURCE, "sqlite:far.db");
        let verify = "verify people sqlite:far.db --bus tls://10.77.0.1:4222";
        run_elsewhere(&world, elsewhere, verify).exits(0);
        run_elsewhere(&world, elsewhere, "log people --bus tls://10.77.0.1:4222").exits(0);
        world.wait("the receiver is seen to be as far as the bus", || {
            let status = run_elsewhere(&world, elsewhere, "status --json --bus tls://10.77.0.1:4222").exits(0).stdout();
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            status["receivers"][0]["lag"] == 0 && status["sources"][0]["published"].as_u64() >= Some(1)
        });
        world.wait("it answers calls, and is seen where the source is", || {
            let status: serde_json::Value =
                serde_json::from_str(&world.run("status --json").exits(0).stdout()).expect("it is JSON");
            status["receivers"].as_array().into_iter().flatten().any(|one| one["here"] == false && one["gone"] == false)
        });

        // A bus that is started again is open again.
        deltabus_tests::kill(world.broker_pid());
        world.write("people.csv", "id,name,phone\n1,Ann,114\n2,Bob,999\n3,Cleo,333\n");
        world.wait_equal(SOURCE, "sqlite:far.db");
        world.wait_equal(SOURCE, "json:near.json?key=id");

        let said = world.logs() + &world.read("state/bus/nats-server.log");
        assert!(!said.contains(&token.reveal()) && !said.contains(&token.secret_text()), "{said}");
        assert!(far.stop().success());
        assert!(near.stop().success());
        assert!(transmitter.stop().success());
    });
}

#[test]
fn large_files_go_both_ways() {
    in_networks("large_files_go_both_ways", |elsewhere| {
        let world = World::new();
        let content = |seed: u64, length: u64| -> Vec<u8> {
            (0..length).map(|at| ((at + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
        };
        let transmit = "transmit photos tree:photos --once --open 0.0.0.0:4222";
        let receive = "receive photos tree:copy --once --reverse --bus tls://10.77.0.1:4222 --token-file photos.token";
        std::fs::create_dir(world.path("photos")).unwrap();
        std::fs::write(world.path("photos/small"), content(1, 100)).unwrap();
        std::fs::write(world.path("photos/large"), content(2, 3_000_000)).unwrap();
        world.run(transmit).exits(0);
        take_token(&world, "photos");
        run_elsewhere(&world, elsewhere, receive).exits(0);
        world.run("diff tree:photos tree:copy").exits(0);
        std::fs::write(world.path("copy/large"), content(3, 2_000_000)).unwrap();
        std::fs::write(world.path("copy/another"), content(4, 500_000)).unwrap();
        run_elsewhere(&world, elsewhere, receive).exits(0);
        world.run(transmit).exits(0);
        assert_eq!(std::fs::read(world.path("photos/large")).unwrap(), content(3, 2_000_000));
        assert_eq!(std::fs::read(world.path("photos/another")).unwrap(), content(4, 500_000));
        run_elsewhere(&world, elsewhere, receive).exits(0);
        world.run("diff tree:photos tree:copy").exits(0);
    });
}

#[test]
fn who_has_a_wrong_token_or_meets_a_wrong_bus_is_told_so() {
    in_networks("who_has_a_wrong_token_or_meets_a_wrong_bus_is_told_so", |elsewhere| {
        let world = world();
        world.run(&format!("{TRANSMIT} --once --open 0.0.0.0:4222")).exits(0);
        let token = take_token(&world, "people");
        let receive = format!("{RECEIVE} --once");
        let with = |name: &str, text: &str| {
            world.write(name, text);
            format!("{receive} --token-file {name}")
        };
        let wrong = Token::random(TokenKind::Direct, token.authority).unwrap();
        refused(&world, elsewhere, &with("wrong.token", &wrong.reveal()), "doesn't let us in");
        let other = Authority::new("another").unwrap().fingerprint();
        let other = Token { authority: Some(other), ..token.clone() };
        refused(&world, elsewhere, &with("other.token", &other.reveal()), "certificate authority that the token names");
        let enrolment = Token { kind: TokenKind::Enrolment, ..token.clone() };
        refused(&world, elsewhere, &with("enrolment.token", &enrolment.reveal()), "for a manager");
        refused(&world, elsewhere, &with("half.token", &token.reveal()[..40]), "copied as a whole");
        refused(&world, elsewhere, &receive, "not from an authority that is trusted here");
        // By TLS alone nobody comes in, nor without it.
        let trusting = format!("{receive} --tls-ca state/bus/tls/ca.pem");
        refused(&world, elsewhere, &trusting, "doesn't let us in");
        let plain = receive.replace("tls://", "nats://");
        refused(&world, elsewhere, &plain, "doesn't let us in");
        // Nor to another source.
        let orders = with("people.token", &token.reveal()).replace("receive people", "receive orders");
        refused(&world, elsewhere, &orders, "doesn't let us in");
        let local = format!("{receive} --token-file people.token").replace(" --bus tls://10.77.0.1:4222", "");
        refused(&world, elsewhere, &local, "--bus");
        let plan = format!("{RECEIVE} --token-file people.token").replace("receive", "plan");
        run_elsewhere(&world, elsewhere, &plan).exits(1);
        assert!(!world.path("elsewhere/direct").exists(), "neither what let nobody in is kept, nor what only looked");

        // The token, by the environment and by standard input.
        let mut command = world.command_elsewhere(elsewhere, &receive);
        command.env("DELTABUS_TOKEN", token.reveal());
        world.run_as(&receive, command).exits(0);
        std::fs::remove_dir_all(world.path("elsewhere")).unwrap();
        let line = format!("{receive} --token-file -");
        let mut command = world.command_elsewhere(elsewhere, &line);
        command.stdin(std::fs::File::open(world.path("people.token")).unwrap());
        world.run_as(&line, command).exits(0);
        world.run(&format!("diff {SOURCE} sqlite:far.db")).exits(0);
    });
}

#[test]
fn sources_are_opened_and_closed_each_by_itself() {
    in_networks("sources_are_opened_and_closed_each_by_itself", |elsewhere| {
        let world = world();
        world.write("orders.csv", "id,what\n1,tea\n");
        world.run(&format!("{TRANSMIT} --once --open 0.0.0.0:4222")).exits(0);
        let pid = world.broker_pid();
        world.run(&format!("{TRANSMIT} --once --open 0.0.0.0:4222")).exits(0);
        assert_eq!(world.broker_pid(), pid, "what is open already is left alone");
        let status = world.run("bus status").exits(0).stdout();
        assert!(status.contains("open to other devices at 0.0.0.0:4222"), "{status}");
        let orders = "transmit orders csv:orders.csv?key=id --once";
        let ran = world.run(&format!("{orders} --open 0.0.0.0:4333")).exits(2);
        assert!(ran.stderr().contains("open at 0.0.0.0:4222 for people"), "{}", ran.text());
        world.write("orders.toml", "open = \"0.0.0.0:4222\"\nhosts = [\"orders.example.org\"]\n[[source]]\nname = \"orders\"\nlocation = \"csv:orders.csv?key=id\"\n");
        let ran = world.run("transmit --config orders.toml --once").exits(0);
        assert!(ran.stderr().contains("tls://orders.example.org:4222"), "{}", ran.text());
        take_token(&world, "people");
        take_token(&world, "orders");
        let receive = |source: &str| {
            let line = format!(
                "receive {source} sqlite:{source}.db --once --bus tls://10.77.0.1:4222 --token-file {source}.token"
            );
            run_elsewhere(&world, elsewhere, &line)
        };
        receive("people").exits(0);
        receive("orders").exits(0);

        world.run(&format!("{TRANSMIT} --once")).exits(0);
        assert!(receive("people").exits(2).stderr().contains("doesn't let us in"));
        receive("orders").exits(0);
        world.run(orders).exits(0);
        assert!(!world.run("bus status").exits(0).stdout().contains("open"));
        assert!(receive("orders").exits(2).stderr().contains("can't be reached"));
        // The same token opens again.
        world.run(&format!("{TRANSMIT} --once --open {HERE}:4222")).exits(0);
        receive("people").exits(0);
        assert!(receive("orders").exits(2).stderr().contains("doesn't let us in"));

        for wrong in
            ["4222", "0.0.0.0:0", "somewhere:4222", "0.0.0.0:4222 --host a/b", "0.0.0.0:4222 --bus nats://127.0.0.1:1"]
        {
            world.run(&format!("{TRANSMIT} --once --open {wrong}")).exits(2);
        }
        // Where somebody else listens the bus is left as it was.
        let taken = std::net::TcpListener::bind("0.0.0.0:4555").unwrap();
        let ran = world.run(&format!("{TRANSMIT} --once --open 0.0.0.0:4555")).exits(2);
        assert!(ran.stderr().contains("can't be opened at 0.0.0.0:4555"), "{}", ran.text());
        drop(taken);
        receive("people").exits(0);

        // A bus that was to be open at an address that is gone starts where that is taken back.
        world.run("bus stop").exits(0);
        let gone = std::process::Command::new("ip").args(["address", "flush", "dev", "near"]).status().unwrap();
        assert!(gone.success());
        let ran = world.run("bus start").exits(2);
        assert!(ran.stderr().contains("without --open takes back"), "{}", ran.text());
        let ran = world.run(&format!("{TRANSMIT} --once --log-format json")).exits(0);
        assert_eq!(ran.stderr(), "");
        world.run("receive people csv:beside.csv?key=id --once").exits(0);
        let ran = world.run(&format!("{TRANSMIT} --once --open 127.0.0.1:4222 --log-format json -v")).exits(0);
        let said = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{line}"));
        let open = ran.stderr().lines().map(said).find(|line| line["fields"]["token_file"].is_string());
        assert_eq!(open.unwrap()["fields"]["bus"], "tls://127.0.0.1:4222", "{}", ran.text());
    });
}

/// A client with a token, and what the bus refused it.
struct Raw {
    runtime: tokio::runtime::Runtime,
    client: async_nats::Client,
    refusals: Receiver<String>,
}

impl Raw {
    fn new(source: &str, token: &Token) -> Raw {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, refusals) = channel();
        let tls = client_config(&Trust::Pinned(Arc::new(Pin::new(token.authority.unwrap()))), None).unwrap();
        let client = runtime.block_on(async {
            let options =
                async_nats::ConnectOptions::with_user_and_password(format!("direct-{source}"), token.secret_text());
            let options =
                options.require_tls(true).tls_client_config(tls).custom_inbox_prefix(format!("_INBOX_direct-{source}"));
            let options = options.event_callback(move |event| {
                // Only the test's end stops listening.
                let _ = sender.send(event.to_string());
                async {}
            });
            options.connect(format!("tls://{HERE}:4222")).await.unwrap()
        });
        Raw { runtime, client, refusals }
    }

    /// Waits until the bus has refused something to do with `subject`.
    fn is_refused(&self, subject: &str) {
        loop {
            let said = self.refusals.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{subject} was not refused"));
            let said = said.to_lowercase();
            if said.contains("permissions violation") && said.contains(&format!("\"{}\"", subject.to_lowercase())) {
                return;
            }
        }
    }

    fn cant_publish(&self, subject: &str, payload: &'static str) {
        self.runtime.block_on(async {
            self.client.publish(subject.to_owned(), payload.into()).await.unwrap();
            self.client.flush().await.unwrap();
        });
        self.is_refused(subject);
    }

    fn cant_subscribe(&self, subject: &str) {
        let _subscriber = self.runtime.block_on(async {
            let subscriber = self.client.subscribe(subject.to_owned()).await.unwrap();
            self.client.flush().await.unwrap();
            subscriber
        });
        self.is_refused(subject);
    }

    /// The answer to a request that is allowed.
    fn answer(&self, subject: &str, payload: &'static str) -> String {
        let answer = self.runtime.block_on(self.client.request(subject.to_owned(), payload.into()));
        let answer = answer.unwrap_or_else(|error| panic!("{subject}: {error}"));
        format!("{:?} {}", answer.status, String::from_utf8_lossy(&answer.payload))
    }
}

#[test]
fn whoever_has_the_token_can_receive_and_send_edits_and_nothing_else() {
    in_networks("whoever_has_the_token_can_receive_and_send_edits_and_nothing_else", |elsewhere| {
        let world = world();
        world.write("orders.csv", "id,what\n1,tea\n");
        world.run("transmit orders csv:orders.csv?key=id --once").exits(0);
        world.run(&format!("{TRANSMIT} --once --open 0.0.0.0:4222")).exits(0);
        let token = take_token(&world, "people");
        let raw = Raw::new("people", &token);
        let before = raw.answer("$JS.API.STREAM.INFO.deltabus_people", "");
        assert!(before.contains("\"messages\""), "{before}");
        raw.answer(
            "$JS.API.DIRECT.GET.deltabus_people_SNAPSHOT",
            "{\"last_by_subj\":\"deltabus.people.snapshot.pointer\"}",
        );
        raw.answer("$JS.API.DIRECT.GET.deltabus_people_REVERSE", "{\"last_by_subj\":\"deltabus.people.reverse.oslo\"}");

        for stream in ["deltabus_people", "deltabus_people_SNAPSHOT", "deltabus_people_REVERSE"] {
            for what in [
                "STREAM.PURGE",
                "STREAM.DELETE",
                "STREAM.UPDATE",
                "STREAM.CREATE",
                "STREAM.MSG.DELETE",
                "STREAM.MSG.GET",
                "STREAM.SNAPSHOT",
                "CONSUMER.CREATE",
            ] {
                raw.cant_publish(&format!("$JS.API.{what}.{stream}"), "{}");
            }
        }
        for stream in ["deltabus_orders", "deltabus_orders_SNAPSHOT", "deltabus_orders_REVERSE"] {
            raw.cant_publish(&format!("$JS.API.DIRECT.GET.{stream}"), "{\"seq\":1}");
            raw.cant_publish(&format!("$JS.API.STREAM.INFO.{stream}"), "");
        }
        for subject in [
            // What a consumer delivers comes from the server itself: it would be stored where its maker may not write.
            "$JS.API.CONSUMER.CREATE.deltabus_people_REVERSE.x.deltabus.people.reverse.oslo",
            "$JS.API.CONSUMER.DURABLE.CREATE.deltabus_people_REVERSE.x",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.CREATE.own",
            "$JS.API.INFO",
            "$SYS.REQ.SERVER.PING",
            "deltabus.people.changes",
            "deltabus.people.live",
            "deltabus.people.transmitter",
            "deltabus.people.call",
            "deltabus.people.snapshot.pointer",
            "deltabus.people.snapshot.receivers",
            "deltabus.people.snapshot.a.0",
            "deltabus.orders.changes",
            "deltabus.orders.reverse.oslo",
            "deltabus.orders.snapshot.chunk.00",
            "anything",
        ] {
            raw.cant_publish(subject, "rubbish");
        }
        for subject in [
            ">",
            "deltabus.>",
            "deltabus.orders.live",
            "deltabus.people.changes",
            "deltabus.people.reverse.*",
            "deltabus.people.standing",
            "deltabus.orders.call",
            "_INBOX.>",
            "_INBOX_direct-orders.>",
            "$JS.>",
        ] {
            raw.cant_subscribe(subject);
        }
        assert_eq!(state_of(&raw.answer("$JS.API.STREAM.INFO.deltabus_people", "")), state_of(&before));
        let line = format!("{RECEIVE} --once --token-file people.token");
        run_elsewhere(&world, elsewhere, &line).exits(0);
        world.run(&format!("diff {SOURCE} sqlite:far.db")).exits(0);
    });
}

/// What a stream holds, of its information.
fn state_of(info: &str) -> serde_json::Value {
    let info: serde_json::Value = serde_json::from_str(&info[info.find('{').unwrap()..]).unwrap();
    let state = &info["state"];
    serde_json::json!([state["messages"], state["last_seq"], info["config"]])
}
