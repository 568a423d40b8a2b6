//! The management server: who may do what, enforced by a real nats-server.

use std::collections::HashSet;

use deltabus_tests::World;
use deltabus_tests::managed::{Intruder, Managed};

const PEOPLE: &str = "id,name,city\n1,Ann,Oslo\n2,Bob,Rome\n3,Cem,Bonn\n";

/// Two sources with a transmitter each, and two receivers that send edits to the first.
fn enrolled(world: &World, managed: &Managed<'_>) {
    world.write("people.csv", PEOPLE);
    world.write("prices.csv", "id,price\na,1.50\n");
    managed.token("shop", "--publish people");
    managed.token("till", "--publish prices");
    managed.token("crm", "--reverse people");
    managed.token("erp", "--reverse people");
    world.run(&managed.line("shop", "transmit people csv:people.csv?key=id --once")).exits(0);
    world.run(&managed.line("till", "transmit prices csv:prices.csv?key=id --once")).exits(0);
    world.run(&managed.line("crm", "receive people sqlite:crm.db --reverse --once")).exits(0);
    world.run(&managed.line("erp", "receive people json:erp.json?key=id --reverse --once")).exits(0);
}

#[test]
fn five_commands_lead_from_nothing_to_equal_data_under_tls() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    let managed = Managed::start(&world, "");
    world.run("enroll shop --publish people --output shop.token").exits(0);
    world.run("enroll crm --reverse people --output crm.token").exits(0);
    let url = managed.url();
    world
        .run(&format!("transmit people csv:people.csv?key=id --once --manager {url} --token-file shop.token"))
        .exits(0);
    world
        .run(&format!("receive people sqlite:people.db --reverse --once --manager {url} --token-file crm.token"))
        .exits(0);
    world.run("diff csv:people.csv?key=id sqlite:people.db").exits(0);

    // The token is used up, the identity stays: edits go back without it.
    world.sql("people.db", "update people set city = 'Kyiv' where id = '2'");
    world.run(&format!("receive people sqlite:people.db --reverse --once --manager {url}")).exits(0);
    world.run(&format!("transmit people csv:people.csv?key=id --once --manager {url}")).exits(0);
    assert!(world.read("people.csv").contains("2,Bob,Kyiv"), "{}", world.read("people.csv"));
    let who = world.run("who --json").exits(0).stdout();
    for name in ["administrator", "shop", "crm"] {
        assert!(who.contains(&format!("\"name\":\"{name}\"")), "{who}");
    }

    // Nothing of it is a secret that others may read, and no message shows one.
    for path in walk(&world.path(".")) {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("it is there").permissions());
        let secret =
            path.extension().is_some_and(|ending| ["nk", "key", "token"].iter().any(|wanted| ending == *wanted))
                || (path.components().any(|part| part.as_os_str() == "manager")
                    && path.extension().is_some_and(|ending| ending == "json"));
        assert!(!secret || mode & 0o077 == 0, "{} may be read by others: {mode:o}", path.display());
    }
    let seed = world.read("state/manager/crm.json");
    let seed = seed.split('"').find(|text| text.starts_with("SU")).expect("an identity has a seed");
    assert!(!world.logs().contains(seed));
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder can be read").flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(walk(&entry.path())),
            _ => files.push(entry.path()),
        }
    }
    files
}

#[test]
fn a_token_is_good_once_and_for_a_while_and_for_whom_it_was_made() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    let managed = Managed::start(&world, "");
    managed.token("shop", "--publish people");
    let transmit = "transmit people csv:people.csv?key=id --once";
    world.run(&managed.line("shop", transmit)).exits(0);
    // The same device may show it again; another may not.
    world.run(&managed.line("shop", transmit)).exits(0);
    let again = world.run(&managed.line("shop", transmit).replace("state-shop", "state-thief")).exits(2);
    assert!(again.stderr().contains("was used already"), "{}", again.text());

    world.run("enroll late --read people --for 1s --output late.token").exits(0);
    let made = std::time::Instant::now();
    world.wait("the token has expired", || made.elapsed() > std::time::Duration::from_secs(1));
    let late = world.run(&managed.line("late", "receive people late.csv?key=id --once")).exits(2);
    assert!(late.stderr().contains("has expired"), "{}", late.text());
    world.write("made-up.token", &format!("{}\n", "A".repeat(88)));
    let none = world.run(&managed.line("made-up", transmit)).exits(2);
    assert!(none.stderr().contains("token"), "{}", none.text());
    // A token of another bus's authority leads nowhere: the certificate isn't the right one.
    let text = world.read("late.token");
    let other = world.path("other.token");
    let token: deltabus_manager::Token = text.parse().expect("it is a token");
    let wrong = deltabus_manager::Token { authority: Some(deltabus_certificates::Fingerprint([7; 32])), ..token };
    std::fs::write(&other, wrong.reveal()).expect("a file can be written");
    let refused = world.run(&managed.line("other", transmit)).exits(2);
    assert!(refused.stderr().contains("certificate"), "{}", refused.text());

    // Somebody without a right is refused, with a reason, before anything is tried at the bus.
    managed.token("crm", "--read people");
    world.run(&managed.line("crm", "receive people crm.csv?key=id --once")).exits(0);
    let refused = world.run(&managed.line("crm", "receive prices prices.csv?key=id --once")).exits(2);
    assert!(refused.stderr().contains("may do nothing with `prices`"), "{}", refused.text());
    let refused = world.run(&managed.line("crm", "who")).exits(2);
    assert!(refused.stderr().contains("no administrator"), "{}", refused.text());
    let audit = world.run("audit").exits(0).stdout();
    for line in ["was used already", "has expired", "may do nothing with `prices`"] {
        assert!(audit.contains(line), "{audit}");
    }
}

/// Every call that could make, change, empty or end what is stored, of every stream.
fn calls_of_streams() -> Vec<String> {
    let mut calls: Vec<String> =
        ["STREAM.NAMES", "STREAM.LIST", "INFO", "ACCOUNT.PURGE.x", "SERVER.REMOVE", "META.LEADER.STEPDOWN"]
            .map(|call| format!("$JS.API.{call}"))
            .into();
    for stream in [
        "deltabus_people",
        "deltabus_people_SNAPSHOT",
        "deltabus_people_REVERSE",
        "deltabus_prices",
        "KV_deltabus-manager",
        "KV_deltabus-standings",
        "DELTABUS_AUDIT",
    ] {
        for call in [
            "STREAM.CREATE",
            "STREAM.UPDATE",
            "STREAM.DELETE",
            "STREAM.PURGE",
            "STREAM.MSG.DELETE",
            "STREAM.MSG.GET",
            "STREAM.SNAPSHOT",
            "STREAM.RESTORE",
            "STREAM.PEER.REMOVE",
            "STREAM.LEADER.STEPDOWN",
            "CONSUMER.NAMES",
            "CONSUMER.LIST",
            "CONSUMER.CREATE",
        ] {
            calls.push(format!("$JS.API.{call}.{stream}"));
        }
        for call in [
            format!("CONSUMER.CREATE.{stream}.spy"),
            format!("CONSUMER.CREATE.{stream}.spy.deltabus.>"),
            format!("CONSUMER.DURABLE.CREATE.{stream}.spy"),
            format!("CONSUMER.INFO.{stream}.spy"),
            format!("CONSUMER.MSG.NEXT.{stream}.spy"),
        ] {
            calls.push(format!("$JS.API.{call}"));
        }
    }
    calls
}

#[test]
fn the_broker_refuses_whatever_a_role_does_not_have() {
    let world = World::new();
    let managed = Managed::start(&world, "");
    enrolled(&world, &managed);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let everything = everything();
        for (name, own) in [
            ("shop", publisher("people", "shop")),
            ("crm", receiver("people", "crm")),
            ("till", publisher("prices", "till")),
        ] {
            let mut intruder = managed.intruder(name).await;
            let mut refused = 0;
            for (listens, subject) in &everything {
                let allowed = own.contains(&(*listens, subject.as_str()));
                let is_refused = refused_to(&mut intruder, *listens, subject).await;
                assert_ne!(allowed, is_refused, "{name}: {} {subject}", if *listens { "subscribe" } else { "publish" });
                refused += u32::from(is_refused);
            }
            println!("{name}: {refused} of {} refused", everything.len());
        }
    });
}

async fn refused_to(intruder: &mut Intruder, listens: bool, subject: &str) -> bool {
    match listens {
        true => intruder.may_not_subscribe(subject).await,
        false => intruder.may_not_publish(subject).await,
    }
}

/// What is tried: whether it is listening, and the subject.
fn everything() -> Vec<(bool, String)> {
    let mut all: Vec<(bool, String)> = Vec::new();
    let mut publish = |subject: &str| all.push((false, subject.to_owned()));
    for source in ["people", "prices"] {
        for tail in [
            "changes",
            "live",
            "transmitter",
            "snapshot.pointer",
            "snapshot.a.0",
            "snapshot.lease",
            "snapshot.chunk.00",
            "reverse.crm",
            "reverse.erp",
            "reverse.shop",
        ] {
            publish(&format!("deltabus.{source}.{tail}"));
        }
        for stream in ["", "_SNAPSHOT", "_REVERSE"] {
            publish(&format!("$JS.API.STREAM.INFO.deltabus_{source}{stream}"));
            publish(&format!("$JS.API.DIRECT.GET.deltabus_{source}{stream}"));
        }
        publish(&format!("$JS.API.DIRECT.GET.deltabus_{source}.deltabus.{source}.changes"));
        publish(&format!("$JS.API.DIRECT.GET.deltabus_{source}_SNAPSHOT.deltabus.{source}.snapshot.pointer"));
        for receiver in ["crm", "erp"] {
            publish(&format!("$JS.API.DIRECT.GET.deltabus_{source}_REVERSE.deltabus.{source}.reverse.{receiver}"));
            for reads in ["crm", "erp"] {
                publish(&format!(
                    "$JS.API.CONSUMER.CREATE.deltabus_{source}_REVERSE.{receiver}.deltabus.{source}.reverse.{reads}"
                ));
            }
            publish(&format!("$JS.API.CONSUMER.MSG.NEXT.deltabus_{source}_REVERSE.{receiver}"));
            publish(&format!("$JS.API.CONSUMER.DELETE.deltabus_{source}_REVERSE.{receiver}"));
        }
    }
    for call in calls_of_streams() {
        publish(&call);
    }
    for subject in [
        "$KV.deltabus-manager.participant.crm",
        "$KV.deltabus-standings.crm",
        "deltabus-audit",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.CLAIMS.UPDATE",
        "_INBOX_erp.x",
        "_INBOX.x",
        "anything",
        "deltabus.others.changes",
    ] {
        publish(subject);
    }
    for subject in [
        ">",
        "*.>",
        "deltabus.>",
        "deltabus.*.live",
        "deltabus.people.live",
        "deltabus.prices.live",
        "deltabus.people.changes",
        "deltabus.people.transmitter",
        "deltabus.prices.transmitter",
        "deltabus.people.reverse.*",
        "deltabus.prices.reverse.*",
        "deltabus.people.reverse.erp",
        "_INBOX.>",
        "_INBOX_erp.>",
        "_INBOX_crm.>",
        "_INBOX_shop.>",
        "_INBOX_till.>",
        "$SYS.>",
        "$JS.>",
        "$KV.>",
        "deltabus-audit",
    ] {
        all.push((true, subject.to_owned()));
    }
    all
}

/// What of it the transmitter of a source may.
fn publisher(source: &str, name: &str) -> HashSet<(bool, &'static str)> {
    let mut may: Vec<(bool, String)> =
        ["changes", "live", "transmitter", "snapshot.pointer", "snapshot.a.0", "snapshot.lease", "snapshot.chunk.00"]
            .map(|tail| (false, format!("deltabus.{source}.{tail}")))
            .into();
    for stream in ["", "_SNAPSHOT", "_REVERSE"] {
        may.push((false, format!("$JS.API.STREAM.INFO.deltabus_{source}{stream}")));
        may.push((false, format!("$JS.API.DIRECT.GET.deltabus_{source}{stream}")));
    }
    may.push((false, format!("$JS.API.DIRECT.GET.deltabus_{source}.deltabus.{source}.changes")));
    may.push((false, format!("$JS.API.DIRECT.GET.deltabus_{source}_SNAPSHOT.deltabus.{source}.snapshot.pointer")));
    for receiver in ["crm", "erp"] {
        may.push((false, format!("$JS.API.DIRECT.GET.deltabus_{source}_REVERSE.deltabus.{source}.reverse.{receiver}")));
    }
    for tail in ["live", "transmitter", "reverse.*", "reverse.erp"] {
        may.push((true, format!("deltabus.{source}.{tail}")));
    }
    may.push((true, format!("_INBOX_{name}.>")));
    leaked(may)
}

/// What of it a receiver may that sends edits.
fn receiver(source: &str, name: &str) -> HashSet<(bool, &'static str)> {
    let mut may = vec![
        (true, format!("deltabus.{source}.live")),
        (true, format!("_INBOX_{name}.>")),
        (false, format!("deltabus.{source}.reverse.{name}")),
        (false, format!("deltabus.{source}.snapshot.chunk.00")),
        (false, format!("$JS.API.DIRECT.GET.deltabus_{source}.deltabus.{source}.changes")),
        (false, format!("$JS.API.DIRECT.GET.deltabus_{source}_SNAPSHOT.deltabus.{source}.snapshot.pointer")),
        (false, format!("$JS.API.DIRECT.GET.deltabus_{source}_REVERSE.deltabus.{source}.reverse.{name}")),
    ];
    for stream in ["", "_SNAPSHOT"] {
        may.push((false, format!("$JS.API.STREAM.INFO.deltabus_{source}{stream}")));
        may.push((false, format!("$JS.API.DIRECT.GET.deltabus_{source}{stream}")));
    }
    leaked(may)
}

fn leaked(may: Vec<(bool, String)>) -> HashSet<(bool, &'static str)> {
    may.into_iter().map(|(listens, subject)| (listens, &*subject.leak())).collect()
}

/// A broker answers on a client's behalf to whatever subject the client names, where its rights don't reach: a receiver can so
/// have what it chose stored where it may not publish. Nobody believes it.
#[test]
fn what_a_broker_puts_somewhere_on_a_receivers_behalf_is_not_believed() {
    let world = World::new();
    let managed = Managed::start(&world, "");
    enrolled(&world, &managed);
    let shop = world.start(&managed.line("shop", "transmit people csv:people.csv?key=id"));
    let erp = world.start(&managed.line("erp", "receive people json:erp.json?key=id --reverse"));
    world.write("people.csv", &PEOPLE.replace("Oslo", "Turku"));
    world.wait_equal("csv:people.csv?key=id", "json:erp.json?key=id");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let intruder = managed.intruder("crm").await;
        let client = &intruder.client;
        // What the transmitter itself once published, and what the receiver likes to say; stored, and then sent elsewhere.
        let old = "$JS.API.DIRECT.GET.deltabus_people.deltabus.people.changes";
        let said = "$JS.API.DIRECT.GET.deltabus_people_REVERSE.deltabus.people.reverse.crm";
        let answer = client.request(old, "".into()).await.expect("it may read that");
        for payload in [answer.payload.clone(), "confirm".into(), "x".into()] {
            client.publish("deltabus.people.reverse.crm", payload).await.expect("it goes out");
            for target in [
                "deltabus.people.changes",
                "deltabus.people.live",
                "deltabus.people.transmitter",
                "deltabus.people.reverse.erp",
                "deltabus.people.reverse.crm",
            ] {
                for source in [old, said] {
                    client.publish_with_reply(source, target, "".into()).await.expect("it goes out");
                }
                let own = client.publish_with_reply("deltabus.people.reverse.crm", target, "y".into());
                own.await.expect("it goes out");
            }
        }
        client.request(old, "".into()).await.expect("all before was handled");
    });

    // Everybody goes on: edits of the source and of the destination, and whoever joins now.
    world.write("people.csv", &PEOPLE.replace("Oslo", "Bergen"));
    world.wait_equal("csv:people.csv?key=id", "json:erp.json?key=id");
    let edited = world.read("erp.json").replace("Rome", "Kyiv");
    world.write("erp.json", &edited);
    world.wait("the edit is at the source", || world.read("people.csv").contains("2,Bob,Kyiv"));
    managed.token("new", "--read people");
    world.run(&managed.line("new", "receive people new.csv?key=id --once")).exits(0);
    world.run("diff csv:people.csv?key=id new.csv?key=id").exits(0);
    assert!(erp.log().contains("is not believed") || shop.log().contains("is not believed"), "{}", world.logs());
}

#[test]
fn a_revocation_bites_at_once_and_a_grant_opens_without_a_restart() {
    let world = World::new();
    let mut managed = Managed::start(&world, "");
    enrolled(&world, &managed);
    let _shop = world.start(&managed.line("shop", "transmit people csv:people.csv?key=id"));
    let mut crm = world.start(&managed.line("crm", "receive people sqlite:crm.db --reverse"));
    let mut erp = world.start(&managed.line("erp", "receive people json:erp.json?key=id --reverse"));
    world.write("people.csv", &PEOPLE.replace("Oslo", "Turku"));
    world.wait_equal("csv:people.csv?key=id", "sqlite:crm.db");
    world.wait_equal("csv:people.csv?key=id", "json:erp.json?key=id");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let start = std::time::Instant::now();
    world.run("revoke crm").exits(0);
    runtime.block_on(async {
        // Its credentials are still young; the broker takes them no more.
        let identities = deltabus_manager::Identities::new(world.path("state-crm/manager"));
        let identity = identities.all().expect("they can be read").pop().expect("it has enrolled");
        let client = deltabus_manager::Client::new(identity).expect("its manager has an address");
        assert!(client.credentials().await.is_err());
    });
    world.wait("the revoked receiver has ended", || crm.has_ended());
    println!("a revoked receiver has ended after {:?}", start.elapsed());
    assert!(crm.log().contains("revoked"), "{}", crm.log());

    // The others don't notice, and the revoked one gets nothing more.
    world.write("people.csv", &PEOPLE.replace("Oslo", "Bergen"));
    world.wait_equal("csv:people.csv?key=id", "json:erp.json?key=id");
    world.run(&managed.line("crm", "receive people sqlite:crm.db --reverse --once")).exits(2);
    world.run("diff csv:people.csv?key=id sqlite:crm.db").exits(1);
    assert!(!erp.has_ended());

    // Rights that are added work in a process that runs: its edits were refused before.
    managed.token("web", "--read people");
    let _web = world.start(&managed.line("web", "receive people sqlite:web.db --reverse"));
    world.wait_equal("csv:people.csv?key=id", "sqlite:web.db");
    world.sql("web.db", "update people set city = 'Lima' where id = '3'");
    world.run("grant web --reverse people").exits(0);
    world.wait("the edit is at the source", || world.read("people.csv").contains("3,Cem,Lima"));

    // With a manager that is killed all goes on, and it finds everything as it was.
    managed.kill();
    world.write("people.csv", &world.read("people.csv").replace("Bergen", "Narvik"));
    world.wait_equal("csv:people.csv?key=id", "sqlite:web.db");
    managed.restart();
    world.wait("all are seen again", || {
        let who = world.run("who --json").stdout();
        who.lines().filter(|line| line.contains("\"revision\"")).count() >= 3
    });
    world.run(&managed.line("crm", "receive people sqlite:crm.db --reverse --once")).exits(2);
}

#[test]
fn strangers_and_nonsense_are_refused_and_cost_nobody_anything() {
    use deltabus_manager::v1;
    use deltabus_manager::v1::administration_client::AdministrationClient;
    use deltabus_manager::v1::manager_client::ManagerClient;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tonic::{Code, Request};

    let world = World::new();
    let managed = Managed::start(&world, "");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let identities = deltabus_manager::Identities::new(world.path("state/manager"));
        let administrator = identities.all().expect("they can be read").pop().expect("it was set up");
        let tls = std::sync::Arc::new(administrator.tls().expect("its TLS settings are good"));
        let url = managed.url();
        let channel = || deltabus_manager::channel(&url, &tls).expect("it is an address");

        // Health and reflection, for whoever looks after it.
        let service = "deltabus.manager.v1.Manager".to_owned();
        let request = tonic_health::pb::HealthCheckRequest { service };
        let health = tonic_health::pb::health_client::HealthClient::new(channel()).check(request).await;
        let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
        assert_eq!(health.expect("it answers").into_inner().status(), serving);
        let request = tonic_reflection::pb::v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            )),
        };
        let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel());
        let mut answers =
            reflection.server_reflection_info(futures::stream::iter([request])).await.expect("it answers").into_inner();
        let answer = format!("{:?}", answers.message().await.expect("it answers").expect("there is an answer"));
        assert!(answer.contains("deltabus.manager.v1.Administration"), "{answer}");

        // Calls without a session, or with one that was made up.
        let mut administration = AdministrationClient::new(channel());
        let refused = administration.who(v1::WhoRequest {}).await.expect_err("nobody may");
        assert_eq!(refused.code(), Code::Unauthenticated);
        for made_up in ["", "x", "AAAA", &"A".repeat(200)] {
            let mut request = Request::new(v1::CredentialsRequest {});
            request.metadata_mut().insert("authorization", format!("Bearer {made_up}").parse().expect("a header"));
            let refused = ManagerClient::new(channel()).credentials(request).await.expect_err("nobody may");
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        // A secret that is none, a key that is none, and more than a message may be.
        for (secret, key) in [(vec![], ""), (vec![7; 32], "UAAA"), (vec![7; 32], "*"), (vec![7; 300_000], "U")] {
            let request =
                v1::EnrollRequest { secret: secret.into(), key: key.to_owned(), certificate_key: Default::default() };
            ManagerClient::new(channel()).enroll(request).await.expect_err("nobody may");
        }
        // Somebody without TLS, somebody who sends noise, and somebody who says nothing.
        let address = url.trim_start_matches("https://").to_owned();
        let mut plain = tokio::net::TcpStream::connect(&address).await.expect("it listens");
        plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it goes out");
        let mut rest = Vec::new();
        let _ = plain.read_to_end(&mut rest).await;
        let silent = tokio::net::TcpStream::connect(&address).await.expect("it listens");
        let connector = tokio_rustls::TlsConnector::from(tls.clone());
        let stream = tokio::net::TcpStream::connect(&address).await.expect("it listens");
        let name = "localhost".try_into().expect("a name");
        let mut noise = connector.connect(name, stream).await.expect("the handshake is good");
        noise.write_all(&[0xff; 4096]).await.expect("it goes out");
        let _ = noise.read_to_end(&mut rest).await;
        drop(silent);
    });
    // And it goes on.
    world.run("who").exits(0);
    enrolled(&world, &managed);
}

#[test]
fn certificates_are_renewed_without_a_restart() {
    let world = World::new();
    let managed = Managed::start(&world, "");
    enrolled(&world, &managed);
    let shop = world.start(&managed.line("shop", "transmit people csv:people.csv?key=id"));
    let crm = world.start(&managed.line("crm", "receive people sqlite:crm.db --reverse"));
    let shown = |address: String| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
        runtime.block_on(shown_by(&world, &address))
    };
    let (manager, bus) = (managed.url(), managed.bus_url());
    let first = (shown(manager.clone()), shown(bus.clone()));
    assert_eq!(first.0, first.1, "both show the one that was made for this machine");

    let folder = world.path("bus/certificates");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it is there");
    let authority = deltabus_certificates::Authority::from_pem(&read("ca.pem"), &read("ca.key")).expect("it is one");
    let renewed =
        authority.server(&["localhost", "127.0.0.1"], deltabus_certificates::LEAF_LIFETIME).expect("it can be made");
    let files =
        deltabus_certificates::IdentityFiles { certificate: folder.join("server.pem"), key: folder.join("server.key") };
    files.write(&renewed, deltabus_certificates::Existing::Replace).expect("they can be written");
    world.wait("the manager and the bus show the new one", || {
        let now = (shown(manager.clone()), shown(bus.clone()));
        now.0 != first.0 && now.0 == now.1
    });
    world.write("people.csv", &PEOPLE.replace("Oslo", "Turku"));
    world.wait_equal("csv:people.csv?key=id", "sqlite:crm.db");
    world.run("who").exits(0);
    for running in [&shop, &crm] {
        assert!(!running.log().contains("ERROR"), "{}", running.log());
    }
}

/// The certificate that a server shows, the bus after its greeting.
async fn shown_by(world: &World, url: &str) -> Vec<u8> {
    use tokio::io::AsyncBufReadExt;

    let identities = deltabus_manager::Identities::new(world.path("state/manager"));
    let administrator = identities.all().expect("they can be read").pop().expect("it was set up");
    let tls = std::sync::Arc::new(administrator.tls().expect("its TLS settings are good"));
    let address = url.rsplit('/').next().expect("an address");
    let mut stream = tokio::io::BufReader::new(tokio::net::TcpStream::connect(address).await.expect("it listens"));
    if url.starts_with("tls") {
        let mut greeting = String::new();
        stream.read_line(&mut greeting).await.expect("a NATS server greets");
    }
    let connector = tokio_rustls::TlsConnector::from(tls);
    let name = "localhost".try_into().expect("a name");
    let stream = connector.connect(name, stream.into_inner()).await.expect("the handshake is good");
    stream.get_ref().1.peer_certificates().expect("it shows one")[0].to_vec()
}

#[test]
fn a_second_transmitter_with_an_identity_of_its_own_takes_over() {
    let world = World::new();
    let managed = Managed::start(&world, "");
    world.write("people.csv", PEOPLE);
    managed.token("shop", "--publish people");
    managed.token("spare", "--publish people");
    managed.token("crm", "--reverse people");
    let transmit = "transmit people csv:people.csv?key=id --standby";
    let shop = world.start(&managed.line("shop", transmit));
    world.wait("the first is active", || shop.log().contains("published"));
    world.run(&managed.line("crm", "receive people sqlite:crm.db --reverse --once")).exits(0);
    let spare = world.start(&managed.line("spare", transmit));
    world.wait("the second stands by", || spare.log().contains("standing by"));
    let _crm = world.start(&managed.line("crm", "receive people sqlite:crm.db --reverse"));
    shop.kill();
    world.write("people.csv", &PEOPLE.replace("Oslo", "Turku"));
    world.wait_equal("csv:people.csv?key=id", "sqlite:crm.db");
    assert!(spare.log().contains("taking over"), "{}", spare.log());
    // Edits are taken by the second, and who joins now believes what both have signed.
    world.sql("crm.db", "update people set city = 'Kyiv' where id = '2'");
    world.wait("the edit is at the source", || world.read("people.csv").contains("2,Bob,Kyiv"));
    managed.token("late", "--read people");
    world.run(&managed.line("late", "receive people late.csv?key=id --once")).exits(0);
    world.run("diff csv:people.csv?key=id late.csv?key=id").exits(0);
}

#[test]
fn who_is_how_far_and_what_is_undecided_is_seen_by_whoever_administers() {
    let world = World::new();
    let managed = Managed::start(&world, "");
    enrolled(&world, &managed);
    // One field edited at both ends: the source stands, and the edit is a conflict.
    world.sql("crm.db", "update people set city = 'Here' where id = '1'");
    world.write("people.csv", &PEOPLE.replace("Oslo", "There"));
    let transmit = managed.line("shop", "transmit people csv:people.csv?key=id --once");
    world.run(&managed.line("crm", "receive people sqlite:crm.db --reverse --once")).exits(0);
    world.run(&transmit).exits(0);
    let who = world.run("who --json").exits(0).stdout();
    let standing = |name: &str| -> serde_json::Value {
        let line = who.lines().find(|line| line.contains(&format!("\"name\":\"{name}\""))).expect("it is there");
        serde_json::from_str::<serde_json::Value>(line).expect("it is JSON")["standings"][0].clone()
    };
    let (shop, crm) = (standing("shop"), standing("crm"));
    assert_eq!((&shop["role"], &shop["conflicts"]), (&"transmitter".into(), &1.into()), "{who}");
    let behind = shop["revision"].as_u64().expect("a number") - crm["revision"].as_u64().expect("a number");
    assert!(behind > 0 && crm["behind"] == behind && crm["waiting"] == 1, "{who}");
    let text = world.run("who").exits(0).stdout();
    assert!(text.contains("1 conflict"), "{text}");
}

#[test]
fn any_of_several_managers_may_fail() {
    let world = World::new();
    let mut managed = Managed::start(&world, "");
    enrolled(&world, &managed);
    let (_second, other) = managed.second();
    managed.kill();
    let both = format!("{},{other}", managed.url());
    let line = |name: &str, command: &str| format!("{command} --manager {both} --state state-{name}");
    world.write("people.csv", &PEOPLE.replace("Bonn", "Graz"));
    world.run(&line("shop", "transmit people csv:people.csv?key=id --once")).exits(0);
    world.run(&line("crm", "receive people sqlite:crm.db --reverse --once")).exits(0);
    world.run("diff csv:people.csv?key=id sqlite:crm.db").exits(0);
    // What one decides, the other knows.
    world.run(&format!("revoke crm --manager {other}")).exits(0);
    managed.restart();
    let refused = world.run(&managed.line("crm", "receive people sqlite:crm.db --reverse --once")).exits(2);
    assert!(refused.stderr().contains("revoked"), "{}", refused.text());
    let audit = world.run("audit --json").exits(0).stdout();
    assert!(audit.contains("\"manager\":\"manager-2\""), "{audit}");
}

#[test]
fn where_everybody_needs_a_certificate_nobody_comes_in_without() {
    let world = World::new();
    let managed = Managed::start(&world, "--mutual");
    enrolled(&world, &managed);
    world.run("diff csv:people.csv?key=id sqlite:crm.db").exits(0);
    for file in ["crm.pem", "crm.key"] {
        assert!(world.path("state-crm/manager").join(file).is_file());
    }
    std::fs::remove_file(world.path("state-crm/manager/crm.pem")).expect("it was there");
    let refused = world.run(&managed.line("crm", "receive people sqlite:crm.db --reverse --once")).exits(2);
    assert!(refused.stderr().contains("certificate"), "{}", refused.text());
}

#[test]
fn credentials_are_renewed_while_everything_runs() {
    let world = World::new();
    let mut managed = Managed::start(&world, "");
    let configuration =
        world.read("bus/manager.toml").replace("credentials_seconds = 3600", "credentials_seconds = 10");
    std::fs::write(world.path("bus/manager.toml"), configuration).expect("a file can be written");
    managed.kill();
    managed.restart();
    enrolled(&world, &managed);
    let shop = world.start(&managed.line("shop", "transmit people csv:people.csv?key=id"));
    let crm = world.start(&managed.line("crm", "receive people sqlite:crm.db --reverse"));
    // Three times as long as the first ones live.
    let issued = || {
        world.run("audit").stdout().lines().filter(|line| line.contains("credentials") && line.contains("crm")).count()
    };
    let first = issued();
    let mut turn = 0;
    world.wait("credentials were renewed often", || {
        turn += 1;
        world.write("people.csv", &PEOPLE.replace("Oslo", &format!("Place {turn}")));
        issued() >= first + 5
    });
    world.wait_equal("csv:people.csv?key=id", "sqlite:crm.db");
    for running in [&shop, &crm] {
        assert!(!running.log().contains("ERROR"), "{}", running.log());
    }
}
