//! What `broker-config` has for Prometheus and Grafana, in a real Prometheus that watches a real bus.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use deltabus_tests::World;
use deltabus_tests::browser;
use deltabus_tests::prometheus::{Prometheus, configuration, program};
use deltabus_tests::watched::{PEOPLE, Watched, get};
use serde_json::Value;

fn promtool(arguments: &[&str]) {
    let output =
        program("promtool").args(arguments).current_dir(configuration()).output().expect("promtool can be started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
}

#[test]
fn the_configuration_is_one_that_prometheus_takes() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "rules.yml", "alerts.yml"]);
}

#[test]
fn each_alert_comes_when_it_should_and_only_then() {
    promtool(&["test", "rules", "alerts_test.yml"]);
    let (alerts, tests) = ["alerts.yml", "alerts_test.yml"]
        .map(|name| std::fs::read_to_string(configuration().join(name)).unwrap())
        .into();
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("- alertname: {alert}\n")), "nothing tests that {alert} comes");
        assert!(
            tests.contains(&format!("alertname: {alert}, eval_time: 30m, exp_alerts: []")),
            "{alert} may come always"
        );
    }
}

/// An expression and where it stands.
type Expressions = BTreeMap<String, String>;

/// Those of all panels and variables, for the source `people` and the receiver `a`.
fn panels() -> Expressions {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker-config/grafana/dashboards");
    let mut found = Expressions::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let title = dashboard["title"].as_str().unwrap();
        let mut take = |place: &str, expression: &str| {
            let expression = expression.replace("$source", "people").replace("$receiver", "a");
            assert!(!expression.contains('$'), "{title}: {place}: {expression} has a variable that nobody sets");
            found.insert(expression, format!("{title}: {place}"));
        };
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = panel["title"].as_str().unwrap();
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{title}: {place} shows nothing");
            targets.iter().for_each(|target| take(place, target["expr"].as_str().unwrap()));
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            if let Some(of) = variable["definition"].as_str().and_then(|text| text.strip_prefix("label_values(")) {
                let (metric, label) = of.trim_end_matches(')').rsplit_once(',').unwrap();
                take("a variable", &format!("count by ({}) ({metric})", label.trim()));
            }
        }
    }
    found
}

/// The names of series in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let is_name = |word: &&str| word.starts_with("deltabus_") || word.contains(":deltabus_");
    words.filter(is_name).map(str::to_owned).collect()
}

/// Alerts whose expressions give something in this test, and why; all others are quiet, since all is well but for that.
const LOUD: [(&str, &str); 2] =
    [("DeltabusReceiverDown", "receiver c was stopped"), ("DeltabusConflictsUnresolved", "a and the source disagree")];

/// It may come or not: how full the disk is on which tests run is not ours to say.
const OF_THE_MACHINE: &str = "DeltabusStateDiskNearlyFull";

#[test]
fn every_panel_rule_and_page_shows_what_a_running_bus_does() {
    let world = World::new();
    let mut watched = Watched::start(&world);
    let targets = |watched: &Watched| {
        let of = |served: &[deltabus_tests::watched::Served]| served.iter().map(|one| one.address.clone()).collect();
        let receivers: Vec<String> = of(&watched.receivers);
        (watched.transmitter.address.clone(), receivers, watched.watcher.address.clone())
    };
    let (transmitter, receivers, watcher) = targets(&watched);
    let receivers: Vec<&str> = receivers.iter().map(String::as_str).collect();
    let prometheus = Prometheus::start(
        &world,
        &[
            ("transmitters", vec![&transmitter]),
            ("receivers", receivers),
            ("managers", Vec::new()),
            ("brokers", vec![&watcher]),
        ],
    );
    world.write("people.csv", &format!("{PEOPLE}4,Dora,444\n"));
    watched.all_have(&world, 2);
    world.wait("all are seen", || prometheus.query("deltabus_receiver_revision == 2").len() == 3);
    watched.disagree(&world);
    drop(watched.receivers.remove(2));
    world.wait("c is seen to be gone", || prometheus.query("up{job=\"deltabus-receivers\"} == 0").len() == 1);

    let groups = prometheus.ask("/api/v1/rules")["groups"].as_array().unwrap().clone();
    let rules: Vec<Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect();
    let of_kind = |kind: &str| rules.iter().filter(|rule| rule["type"] == kind).collect::<Vec<_>>();
    let (recording, alerting) = (of_kind("recording"), of_kind("alerting"));
    assert!(recording.len() >= 9 && alerting.len() >= 20, "{rules:?}");

    let mut wanted = panels();
    assert!(wanted.len() > 60, "the dashboards have {} expressions", wanted.len());
    for rule in &recording {
        wanted.insert(rule["query"].as_str().unwrap().to_owned(), rule["name"].to_string());
        wanted.insert(rule["name"].as_str().unwrap().to_owned(), "the rule's result".into());
    }
    // An alert is quiet where all is well, but what it speaks of has to be there.
    for rule in &alerting {
        for name in names(rule["query"].as_str().unwrap()) {
            wanted.insert(name, rule["name"].to_string());
        }
    }
    let mut empty = Vec::new();
    world.wait("every expression gives something", || {
        let is_empty = |expression: &&String| prometheus.query(expression).is_empty();
        empty = wanted.keys().filter(is_empty).cloned().collect();
        if let Some(first) = empty.first() {
            eprintln!("{} of {} give nothing yet, {} among them", empty.len(), wanted.len(), wanted[first]);
        }
        empty.is_empty()
    });

    world.wait("the alerts that are to come are on their way", || {
        LOUD.iter().all(|(alert, _)| !prometheus.query(&format!("ALERTS{{alertname=\"{alert}\"}}")).is_empty())
    });
    // A scrape that a busy machine answers too late makes somebody seem down, until the next.
    world.wait("only those give something", || {
        alerting.iter().all(|rule| {
            let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
            let loud = LOUD.iter().any(|(alert, _)| *alert == name);
            let right = name == OF_THE_MACHINE || prometheus.query(query).is_empty() != loud;
            if !right {
                eprintln!("{name} should {}give something", if loud { "" } else { "not " });
            }
            right
        })
    });
    for group in prometheus.ask("/api/v1/rules")["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }

    let page = |path: &str| get(&prometheus.address, path).unwrap_or_else(|| panic!("{path} is no page"));
    let overview = page("/consoles/deltabus.html");
    for shown in [
        "<a href=\"deltabus-source.html?source=people\">people</a>",
        "<td>a</td><td class=\"text\">people</td>",
        "<td>b</td><td class=\"text\">people</td>",
        &format!("<td>watched by {watcher}</td><td class=\"good\">yes</td>"),
        "<td class=\"text\">deltabus-receivers</td><td class=\"bad\">no</td>",
        "<td>DeltabusReceiverDown</td><td class=\"text\">not yet</td>",
    ] {
        assert!(overview.contains(shown), "{shown} is missing in {overview}");
    }
    // What a browser makes of it; whoever wants to look finds the picture there.
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console.png");
    let _ = std::fs::remove_file(&picture);
    let document = browser::open(&world, &format!("http://{}/consoles/deltabus.html", prometheus.address), &picture);
    let sources = document.split_once("<table id=\"sources\">").and_then(|(_, rest)| rest.split_once("</table>"));
    let (sources, _) = sources.unwrap_or_else(|| panic!("there is no table of sources in {document}"));
    let revision = watched.transmitter.figure("deltabus_transmitter_revision", ("source", "people")).unwrap();
    assert!(sources.contains(&format!(">people</a></td><td>{revision}</td>")), "{sources}");
    let picture = std::fs::read(&picture).expect("the browser took a picture");
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000, "{} bytes", picture.len());

    let source = page("/consoles/deltabus-source.html?source=people");
    for shown in ["<h1>people</h1>", &format!("<td>{transmitter}</td><td class=\"good\">yes</td>"), "<td>a</td>"] {
        assert!(source.contains(shown), "{shown} is missing in {source}");
    }
    assert!(
        !page("/consoles/deltabus-source.html?source=%27%7D").contains("<h1>"),
        "a source of any name is asked for"
    );
}
