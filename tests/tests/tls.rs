//! A bus with TLS: who is let in, who is trusted, what is said about it, and certificates that change under way.

use deltabus_tests::broker::Broker;
use deltabus_tests::proxy::Proxy;
use deltabus_tests::{World, catalogue};

const SOURCE: &str = "csv:source.csv?key=id";

/// A world with an authority and certificates in `tls`, and a broker with these TLS settings besides its certificate.
fn secured(settings: &str) -> (World, Broker) {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    world.run("certificates tls --server 127.0.0.1 --client oslo").exits(0);
    world.run("certificates other --server 127.0.0.1 --client oslo").exits(0);
    let broker = Broker::start(&world, &with_tls(settings));
    (world, broker)
}

fn with_tls(settings: &str) -> String {
    let files = "cert_file: tls/server-127.0.0.1.pem, key_file: tls/server-127.0.0.1.key";
    format!("jetstream {{ store_dir: broker }}\ntls {{ {files}, {settings} }}\n")
}

/// Runs a command that is to fail and to say so in one line, with these words in it.
fn refused(world: &World, line: &str, words: &str) {
    let ran = world.run(line).exits(2);
    let said = ran.stderr();
    assert!(said.contains(words), "{}", ran.text());
    assert_eq!(said.trim_end().lines().filter(|line| line.starts_with("deltabus: ")).count(), 1, "{}", ran.text());
}

#[test]
fn a_bus_with_tls_is_used_by_who_trusts_its_authority() {
    let (world, broker) = secured("timeout: 5");
    let bus = format!("--bus tls://127.0.0.1:{}", broker.port());
    let trusting = format!("{bus} --tls-ca tls/ca.pem");
    world.run(&format!("transmit goods {SOURCE} --once {trusting}")).exits(0);
    world.run(&format!("receive goods sqlite:copy.db --once {trusting}")).exits(0);
    world.run(&format!("diff {SOURCE} sqlite:copy.db")).exits(0);

    let receive = "receive goods sqlite:copy.db --once";
    refused(&world, &format!("{receive} {bus} --tls-ca other/ca.pem"), "not from an authority that is trusted here");
    refused(&world, &format!("{receive} {bus} --tls-ca none.pem"), "none.pem");
    refused(&world, &format!("{receive} {bus} --tls-ca source.csv"), "source.csv holds no certificate in PEM");
    let elsewhere = format!("--bus tls://localhost:{} --tls-ca tls/ca.pem", broker.port());
    refused(&world, &format!("{receive} {elsewhere}"), "for another host");
    refused(&world, &format!("{receive} --tls-ca tls/ca.pem"), "--bus");
    // Whoever names an authority gets TLS or nothing, whatever the address says.
    let plain = Broker::start(&world, "jetstream { store_dir: plain }");
    let plain = format!("--bus nats://127.0.0.1:{} --tls-ca tls/ca.pem", plain.port());
    refused(&world, &format!("{receive} {plain}"), "doesn't speak TLS");
    world.run(&format!("{receive} --bus nats://127.0.0.1:{} --tls-ca tls/ca.pem", broker.port())).exits(0);
}

#[test]
fn options_for_tls_come_from_the_environment_and_from_files_too() {
    let (world, broker) = secured("ca_file: tls/ca.pem, verify: true");
    let bus = format!("tls://127.0.0.1:{}", broker.port());
    let keys =
        "tls_ca = \"tls/ca.pem\"\ntls_certificate = \"tls/client-oslo.pem\"\ntls_key = \"tls/client-oslo.key\"\n";
    let source = format!("[[source]]\nname = \"goods\"\nlocation = \"{SOURCE}\"\n");
    world.write("transmitter.toml", &format!("bus = \"{bus}\"\n{keys}{source}"));
    world.run("check --config transmitter.toml").exits(0);
    world.run("transmit --config transmitter.toml --once").exits(0);
    world.write(
        "receiver.toml",
        &format!("bus = \"{bus}\"\n{keys}[[destination]]\nsource = \"goods\"\nlocation = \"sqlite:copy.db\"\n"),
    );
    world.run("receive --config receiver.toml --once").exits(0);
    let mut command = world.command("receive goods csv:copy.csv?key=id --once");
    command.env("DELTABUS_BUS", &bus).env("DELTABUS_TLS_CA", "tls/ca.pem");
    command.env("DELTABUS_TLS_CERTIFICATE", "tls/client-oslo.pem").env("DELTABUS_TLS_KEY", "tls/client-oslo.key");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.run("diff sqlite:copy.db csv:copy.csv?key=id").exits(0);
}

#[test]
fn a_bus_that_asks_for_certificates_lets_in_who_has_one() {
    let (world, broker) = secured("ca_file: tls/ca.pem, verify: true");
    let bus = format!("--bus tls://127.0.0.1:{} --tls-ca tls/ca.pem", broker.port());
    let client =
        |folder: &str| format!("{bus} --tls-certificate {folder}/client-oslo.pem --tls-key {folder}/client-oslo.key");
    world.run(&format!("transmit goods {SOURCE} --once {}", client("tls"))).exits(0);
    world.run(&format!("receive goods sqlite:copy.db --once {}", client("tls"))).exits(0);
    world.run(&format!("diff {SOURCE} sqlite:copy.db")).exits(0);

    let receive = "receive goods sqlite:copy.db --once";
    refused(&world, &format!("{receive} {bus}"), "client certificate");
    refused(&world, &format!("{receive} {}", client("other")), "client certificate");
    refused(&world, &format!("{receive} {bus} --tls-certificate tls/client-oslo.pem"), "go together");
    let mixed = "--tls-certificate tls/client-oslo.pem --tls-key other/client-oslo.key";
    refused(&world, &format!("{receive} {bus} {mixed}"), "is not that of the certificate");
}

#[test]
fn all_go_on_when_every_certificate_is_replaced() {
    let (world, broker) = secured("ca_file: tls/ca.pem, verify: true");
    let (near, far) = (Proxy::before(broker.url()), Proxy::before(broker.url()));
    let own = "--tls-ca tls/ca.pem --tls-certificate tls/client-oslo.pem --tls-key tls/client-oslo.key";
    let tls = |proxy: &Proxy| proxy.url().replace("nats://", "tls://");
    let transmitter = world.start(&format!("transmit goods {SOURCE} --poll 1s --bus {} {own}", tls(&near)));
    let receiver = world.start(&format!("receive goods sqlite:copy.db --reverse --bus {} {own}", tls(&far)));
    world.wait_equal(SOURCE, "sqlite:copy.db");

    // All of another authority: whoever connects from now on by what was there before is refused.
    for name in ["ca", "server-127.0.0.1", "client-oslo"] {
        for kind in ["key", "pem"] {
            std::fs::copy(world.path(&format!("tls/{name}.{kind}")), world.path(&format!("{name}.{kind}"))).unwrap();
            std::fs::rename(world.path(&format!("other/{name}.{kind}")), world.path(&format!("tls/{name}.{kind}")))
                .unwrap();
        }
    }
    broker.reload();
    let log = format!("log goods --bus tls://127.0.0.1:{}", broker.port());
    world.wait("the broker shows its new certificate", || world.run(&format!("{log} {own}")).code() == Some(0));
    let former = "--tls-ca ca.pem --tls-certificate client-oslo.pem --tls-key client-oslo.key";
    refused(&world, &format!("{log} {former}"), "not from an authority that is trusted here");

    world.write("source.csv", &catalogue::csv(2));
    world.wait_equal(SOURCE, "sqlite:copy.db");
    // Each connects again, and by what the files hold now.
    near.cut();
    far.cut();
    world.write("source.csv", &catalogue::csv(3));
    world.wait_equal(SOURCE, "sqlite:copy.db");
    assert!(transmitter.stop().success());
    assert!(receiver.stop().success());
}

#[test]
fn certificates_are_added_and_renewed_but_never_written_over() {
    let world = World::new();
    let mut seen = std::collections::BTreeMap::new();
    let mut changed = || {
        let mut changed = Vec::new();
        for entry in std::fs::read_dir(world.path("tls")).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            if seen.insert(name.clone(), text.clone()) != Some(text) {
                changed.push(name);
            }
        }
        changed.sort();
        changed
    };
    let ran = world.run("certificates tls --server bus.example.org,192.0.2.1").exits(0);
    assert!(ran.stdout().contains("cert_file") && ran.stdout().contains("ca.key"), "{}", ran.text());
    assert_eq!(changed(), ["ca.key", "ca.pem", "server-bus.example.org.key", "server-bus.example.org.pem"]);
    world.run("certificates tls --server bus.example.org,192.0.2.1 --client oslo").exits(0);
    assert_eq!(changed(), ["client-oslo.key", "client-oslo.pem"]);
    // Other hosts need another certificate, which nobody asked to be made in its place.
    let ran = world.run("certificates tls --server bus.example.org").exits(2);
    assert!(ran.stderr().contains("--renew"), "{}", ran.text());
    assert_eq!(changed(), [""; 0]);
    world.run("certificates tls --server bus.example.org --renew").exits(0);
    assert_eq!(changed(), ["server-bus.example.org.key", "server-bus.example.org.pem"]);
    world.run("certificates tls --renew").exits(0);
    let leaves = ["client-oslo.key", "client-oslo.pem", "server-bus.example.org.key", "server-bus.example.org.pem"];
    assert_eq!(changed(), leaves);
    for wrong in ["--server a_b/c", "--client a/b", "--client ..", "--server nats://bus", ""] {
        world.run(&format!("certificates tls {wrong}")).exits(2);
    }
    // An authority whose key is elsewhere issues nothing, and is not replaced.
    std::fs::remove_file(world.path("tls/ca.key")).unwrap();
    let ran = world.run("certificates tls --client bergen").exits(2);
    assert!(ran.stderr().contains("ca.key"), "{}", ran.text());
    assert_eq!(changed(), [""; 0]);
}
