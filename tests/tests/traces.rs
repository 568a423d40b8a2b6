//! Spans at a real collector: one tree for each change, whoever made it; and a collector that hangs or is away costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use deltabus_tests::collector::{Collector, Mood, Span};
use deltabus_tests::watched::{Served, free_address};
use deltabus_tests::{Running, World};
use serde_json::Value;

const SOURCE: &str = "csv:people.csv?key=id";
const PEOPLE: &str = "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n";
const TOKEN: &str = "Bearer swordfish-7";

/// Starts a command line with what the environment says of collectors.
fn start(world: &World, line: &str, variables: &[(&str, &str)]) -> Running {
    let mut command = world.command(line);
    command.envs(variables.iter().copied());
    world.start_as(line, command)
}

/// The trace of the newest revision, by the log.
fn newest_trace(world: &World) -> String {
    let log = world.run("log people --json").exits(0).stdout();
    let newest: Value = serde_json::from_str(log.lines().next().unwrap_or_default()).expect("it is JSON");
    newest["traces"][0].as_str().unwrap_or_default().to_owned()
}

/// A tree as lines: `scan`, `scan/publish`, `scan/publish/receive a`.
fn tree(spans: &[Span]) -> BTreeSet<String> {
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let named = |span: &Span| match span.receiver.as_str() {
        receiver if !receiver.is_empty() && span.name == "receive" => format!("receive {receiver}"),
        _ => span.name.clone(),
    };
    let path = |span: &Span| {
        let mut names = vec![named(span)];
        let mut at = span;
        while !at.parent.is_empty() {
            at = by_id.get(at.parent.as_str()).unwrap_or_else(|| panic!("the parent of {at:?} never came"));
            names.push(named(at));
        }
        names.reverse();
        names.join("/")
    };
    spans.iter().map(path).collect()
}

fn of_trace(collector: &Collector, trace: &str) -> Vec<Span> {
    collector.spans().into_iter().filter(|span| span.trace == trace).collect()
}

/// What hangs under `above` when a set is staged, published, and applied by both receivers.
fn from_stage_on(above: &str) -> BTreeSet<String> {
    let mut all: BTreeSet<_> = ["stage", "publish"].map(|name| format!("{above}/{name}")).into();
    for receiver in ["a", "b"] {
        let receive = format!("{above}/publish/receive {receiver}");
        let below = ["/wait", "/apply", "/apply/apply stage", "/apply/apply commit"];
        all.extend(below.map(|below| format!("{receive}{below}")));
        all.insert(receive);
    }
    all
}

#[test]
fn a_change_and_an_edit_are_one_tree_each_over_all_processes() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    let collector = Collector::start(Mood::Answering);
    let url = collector.url();
    // One way to name it each: an option, the environment's two, a file.
    let secret = format!("authorization={}", TOKEN.replace(' ', "%20"));
    let secret = ("OTEL_EXPORTER_OTLP_HEADERS", secret.as_str());
    let line = format!("transmit people {SOURCE} --otlp {url} --log-format json -v -v");
    let transmitter = start(&world, &line, &[secret]);
    let line = "receive people sqlite:a.db --name a --reverse -v";
    let a = start(&world, line, &[secret, ("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_SERVICE_NAME", "oslo")]);
    let file = "[[destination]]\nsource = \"people\"\nlocation = \"csv:b.csv?key=id\"\n";
    world.write("b.toml", &format!("name = \"b\"\notlp = \"{url}\"\n{file}"));
    let b = start(&world, "receive --config b.toml -v", &[secret]);
    for there in ["sqlite:a.db", "csv:b.csv?key=id"] {
        world.wait_equal(SOURCE, there);
    }

    world.write("people.csv", &PEOPLE.replace("111", "1110"));
    world.wait("the second revision is there", || world.run("log people --json").stdout().lines().count() == 2);
    let trace = newest_trace(&world);
    let mut wanted = from_stage_on("scan");
    wanted.insert("scan".into());
    world.wait("all spans of the change are there", || of_trace(&collector, &trace).len() >= wanted.len());
    let spans = of_trace(&collector, &trace);
    assert_eq!(spans.len(), wanted.len(), "each came once: {spans:#?}");
    assert_eq!(tree(&spans), wanted);
    let services: BTreeSet<_> = spans.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services, BTreeSet::from(["deltabus-transmitter", "oslo", "deltabus-receiver"]));
    let root = spans.iter().find(|span| span.parent.is_empty()).expect("a tree has a root");
    assert_eq!((root.name.as_str(), root.service.as_str()), ("scan", "deltabus-transmitter"));
    assert!(spans.iter().all(|span| span.start <= span.end && span.end > 0));

    world.sql("a.db", "UPDATE people SET phone = '2220' WHERE id = '2'");
    world.wait("the third revision is there", || world.run("log people --json").stdout().lines().count() == 3);
    let edit = newest_trace(&world);
    assert_ne!(edit, trace);
    let mut wanted = from_stage_on("scan/send/merge");
    wanted.extend(["scan", "scan/send", "scan/send/merge"].map(str::to_owned));
    // The receiver whose edit it is has nothing left to write.
    let steps = ["apply stage", "apply commit"];
    let own = |step| format!("scan/send/merge/publish/receive a/apply/{step}");
    world.wait("all spans of the edit are there", || {
        of_trace(&collector, &edit).len() + steps.len() >= wanted.len()
            && of_trace(&collector, &edit).iter().filter(|span| span.name == "receive").count() == 2
    });
    assert!(transmitter.stop().success() && a.stop().success() && b.stop().success());
    let spans = of_trace(&collector, &edit);
    let found = tree(&spans);
    assert!(found.is_subset(&wanted), "{found:#?}");
    let missing: BTreeSet<_> = wanted.difference(&found).cloned().collect();
    assert!(missing.is_subset(&steps.map(own).into()), "{missing:?}");
    let root = spans.iter().find(|span| span.parent.is_empty()).expect("a tree has a root");
    assert_eq!((root.name.as_str(), root.service.as_str(), root.receiver.as_str()), ("scan", "oslo", "a"));

    assert_eq!(collector.authorizations(), BTreeSet::from([TOKEN.to_owned()]));
    assert!(!world.logs().contains("swordfish"), "{}", world.logs());
}

#[test]
fn edits_of_two_receivers_in_one_set_point_at_each_other() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    let collector = Collector::start(Mood::Answering);
    let otlp = format!("--otlp {} -v", collector.url());
    let transmitter = world.start(&format!("transmit people {SOURCE} {otlp}"));
    let receivers =
        ["a", "b"].map(|name| world.start(&format!("receive people sqlite:{name}.db --name {name} --reverse {otlp}")));
    for name in ["a", "b"] {
        world.wait_equal(SOURCE, &format!("sqlite:{name}.db"));
    }
    transmitter.freeze();
    world.sql("a.db", "UPDATE people SET phone = '2220' WHERE id = '2'");
    world.sql("b.db", "UPDATE people SET phone = '3330' WHERE id = '3'");
    for receiver in &receivers {
        world.wait("the edit is sent", || receiver.log().contains("edits are sent"));
    }
    transmitter.thaw();
    for name in ["a", "b"] {
        world.wait_equal(SOURCE, &format!("sqlite:{name}.db"));
    }
    assert!(transmitter.stop().success() && receivers.into_iter().all(|receiver| receiver.stop().success()));
    let log = world.run("log people --json").exits(0).stdout();
    assert_eq!(log.lines().count(), 2, "both edits are in one set: {log}");
    let set: Value = serde_json::from_str(log.lines().next().unwrap_or_default()).expect("it is JSON");
    let [first, second] = [0, 1].map(|at| set["traces"][at].as_str().unwrap_or_default().to_owned());
    let the = |trace: &str, name: &str| {
        let mut spans = of_trace(&collector, trace).into_iter().filter(|span| span.name == name);
        let span = spans.next().unwrap_or_else(|| panic!("{trace} has no {name}"));
        assert_eq!(spans.next(), None);
        span
    };
    let (stage, merge) = (the(&first, "stage"), the(&second, "merge"));
    assert_eq!(stage.links, [(second.clone(), merge.id.clone())]);
    assert_eq!(merge.links, [(first.clone(), stage.id.clone())]);
    // The set is published and applied in the trace of the first.
    let names = |trace: &str| of_trace(&collector, trace).into_iter().map(|span| span.name).collect::<BTreeSet<_>>();
    assert_eq!(names(&second), ["scan", "send", "merge"].map(str::to_owned).into());
    assert!(names(&first).contains("apply commit"));
}

#[test]
fn a_collector_that_hangs_costs_nothing_but_its_spans() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    let collector = Collector::start(Mood::Silent);
    let served = |line: &str| {
        let address = free_address();
        let line = format!("{line} --otlp {} --metrics {address}", collector.url());
        let running = start(&world, &line, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "300")]);
        Served { running, address }
    };
    let transmitter = served(&format!("transmit people {SOURCE}"));
    let receiver = served("receive people csv:copy.csv?key=id --name a --reverse");
    for phone in ["1110", "1111", "1112"] {
        world.write("people.csv", &PEOPLE.replace("111", phone));
        world.wait_equal(SOURCE, "csv:copy.csv?key=id");
    }
    let copy = world.read("copy.csv");
    world.write("copy.csv", &copy.replace("222", "2220"));
    world.wait("the edit is at the source", || world.read("people.csv").contains("2220"));
    let dropped = |served: &Served| served.figure("deltabus_trace_spans_dropped_total", ("reason", "collector"));
    for process in [&transmitter, &receiver] {
        world.wait("what was lost is counted", || dropped(process) > Some(0.0));
        assert_eq!(process.plain("deltabus_trace_spans_sent_total"), Some(0.0));
        assert_eq!(process.running.log().matches("the collector takes no spans; they are dropped").count(), 1);
    }
    assert!(collector.calls() > 0);

    // Once it answers, it has what comes then.
    collector.turn(Mood::Answering);
    let there = world.read("people.csv");
    world.write("people.csv", &there.replace("333", "3330"));
    for process in [&transmitter, &receiver] {
        world.wait("spans are taken", || process.plain("deltabus_trace_spans_sent_total") > Some(0.0));
    }

    // And no end waits for it.
    collector.turn(Mood::Silent);
    world.write("people.csv", &there.replace("333", "3331"));
    world.wait_equal(SOURCE, "csv:copy.csv?key=id");
    assert!(transmitter.running.stop().success());
    assert!(receiver.running.stop().success());
}

#[test]
fn a_collector_that_is_not_there_is_said_once_and_nothing_else_changes() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    let nobody = format!("http://user:swordfish@{}", free_address());
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    world.write("people.csv", &PEOPLE.replace("111", "1110"));
    let ran = world.run(&format!("transmit people {SOURCE} --once --otlp {nobody}")).exits(0);
    assert!(ran.stderr().contains("the collector takes no spans"), "{}", ran.text());
    assert!(!ran.stderr().contains("swordfish"), "{}", ran.text());
    let ran = world.run(&format!("receive people csv:copy.csv?key=id --once --otlp {nobody}")).exits(0);
    assert!(!ran.stderr().contains("swordfish"), "{}", ran.text());
    world.wait_equal(SOURCE, "csv:copy.csv?key=id");
    // What can't be an address is refused where it was typed, and said where it may be meant for others.
    let ran = world.run(&format!("transmit people {SOURCE} --once --otlp localhost")).exits(2);
    assert!(ran.stderr().contains("http://"), "{}", ran.text());
    let line = format!("transmit people {SOURCE} --once");
    let mut command = world.command(&line);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let ran = world.run_as(&line, command).exits(0);
    assert!(ran.stderr().contains("no spans are sent"), "{}", ran.text());
}

#[test]
fn a_part_of_all_traces_is_the_same_part_for_every_process() {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    let collector = Collector::start(Mood::Answering);
    let half = [("OTEL_TRACES_SAMPLER_ARG", "0.5")];
    let transmitter = start(&world, &format!("transmit people {SOURCE} --otlp {}", collector.url()), &half);
    let receiver = start(&world, &format!("receive people csv:copy.csv?key=id --otlp {}", collector.url()), &half);
    // What a receiver gets by the snapshot has no trace.
    world.wait_equal(SOURCE, "csv:copy.csv?key=id");
    let mut all = BTreeSet::new();
    for phone in 500..510 {
        world.write("people.csv", &PEOPLE.replace("111", &phone.to_string()));
        world.wait_equal(SOURCE, "csv:copy.csv?key=id");
        all.insert(newest_trace(&world));
    }
    assert_eq!(all.len(), 10);
    assert!(transmitter.stop().success() && receiver.stop().success());
    let by = |service: &str| {
        let spans = collector.spans().into_iter().filter(|span| span.service == service && all.contains(&span.trace));
        spans.map(|span| span.trace).collect::<BTreeSet<_>>()
    };
    // As OpenTelemetry's samplers decide.
    let chosen = |trace: &&String| u64::from_str_radix(&trace[16..], 16).expect("digits") >> 1 < 1 << 62;
    let chosen: BTreeSet<_> = all.iter().filter(chosen).cloned().collect();
    assert_eq!(by("deltabus-transmitter"), chosen);
    assert_eq!(by("deltabus-receiver"), chosen);
}
