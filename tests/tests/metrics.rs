//! What is served to Prometheus is what docs/metrics.md says.

use std::collections::{BTreeMap, BTreeSet};

use deltabus_tests::World;
use deltabus_tests::managed::Managed;
use deltabus_tests::watched::{PEOPLE, Served, Watched};

/// A figure's type and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    what: String,
    labels: BTreeSet<String>,
}

/// The tables of docs/metrics.md: also the unit.
fn documented() -> BTreeMap<String, (Kind, String)> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `deltabus_"));
    let mut found = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, what, unit, labels, _meaning, ""] = cells.as_slice() else { panic!("{row}") };
        let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned).collect();
        let name = format!("deltabus_{}", name.trim_end_matches('`'));
        let kind = Kind { what: (*what).to_owned(), labels };
        assert!(found.insert(name, (kind, (*unit).to_owned())).is_none(), "{row} stands there twice");
    }
    found
}

/// What processes serve.
fn served(processes: &[&Served]) -> BTreeMap<String, Kind> {
    let mut found = BTreeMap::new();
    for process in processes {
        let page = deltabus_tests::watched::get(&process.address, "/metrics").expect("figures are served");
        let types: BTreeMap<_, _> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split_once(' '))
            .collect();
        for figure in process.figures() {
            let whole = figure.name.as_str();
            let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| whole.strip_suffix(suffix));
            let name = stem.filter(|stem| types.get(stem) == Some(&"histogram")).unwrap_or(whole);
            let what = types.get(name).unwrap_or_else(|| panic!("{name} has no type")).to_string();
            let labels = figure.labels.into_iter().map(|(label, _)| label).filter(|label| label != "le").collect();
            let kind = Kind { what, labels };
            let known = found.entry(name.to_owned()).or_insert_with(|| kind.clone());
            assert_eq!(*known, kind, "{name} has different labels at different times");
        }
    }
    found
}

#[test]
fn names_say_the_type_and_the_unit() {
    for (name, (kind, unit)) in documented() {
        assert_eq!(kind.what == "counter", name.ends_with("_total"), "{name}");
        for unit_there in ["seconds", "bytes"] {
            let stem = name.trim_end_matches("_total");
            assert_eq!(unit == unit_there, stem.ends_with(&format!("_{unit_there}")), "{name}");
        }
    }
}

#[test]
fn every_name_in_the_code_is_documented_though_it_be_served_seldom() {
    let code = [
        include_str!("../../bus/src/metrics.rs"),
        include_str!("../../transmitter/src/metrics.rs"),
        include_str!("../../receiver/src/metrics.rs"),
        include_str!("../../manager/src/metrics.rs"),
        include_str!("../../cli/src/figures.rs"),
        include_str!("../../cli/src/otlp.rs"),
    ];
    let quoted = code.iter().flat_map(|code| code.split('"'));
    let names: BTreeSet<_> = quoted.filter(|text| text.starts_with("deltabus_")).map(str::to_owned).collect();
    assert_eq!(names, documented().into_keys().collect());
}

#[test]
fn every_figure_that_is_served_is_documented_and_every_documented_one_is_served() {
    let world = World::new();
    let watched = Watched::start(&world);
    world.write("people.csv", &format!("{PEOPLE}4,Dora,444\n"));
    watched.all_have(&world, 2);
    watched.disagree(&world);
    let managed_world = World::new();
    let mut managed = Managed::start(&managed_world, "");
    managed.kill();
    let manager = Served::start(&managed_world, "manage --config bus/manager.toml");
    managed_world.wait("the manager answers", || managed_world.run("who").code() == Some(0));
    managed.token("one", "--publish people");
    let mut processes = vec![&watched.transmitter, &watched.watcher, &manager];
    processes.extend(&watched.receivers);
    let documented: BTreeMap<_, _> = documented().into_iter().map(|(name, (kind, _))| (name, kind)).collect();
    let all_served = || served(&processes);
    world.wait("everything was measured once", || all_served().len() >= documented.len());
    let served = all_served();
    let names = |map: &BTreeMap<String, Kind>| map.keys().cloned().collect::<BTreeSet<_>>();
    let undocumented: Vec<_> = names(&served).difference(&names(&documented)).cloned().collect();
    let missing: Vec<_> = names(&documented).difference(&names(&served)).cloned().collect();
    assert!(undocumented.is_empty() && missing.is_empty(), "undocumented: {undocumented:?}, missing: {missing:?}");
    assert_eq!(served, documented);
}

#[test]
fn a_destination_that_can_not_be_written_is_seen_to_lag_and_one_that_can_again_is_not() {
    let world = World::new();
    let watched = Watched::start(&world);
    let b = &watched.receivers[1];
    let lag = |name: &str| b.figure(name, ("receiver", "b")).unwrap_or_default();
    // A folder where the file was.
    std::fs::remove_file(world.path("b/people.csv")).unwrap();
    std::fs::create_dir(world.path("b/people.csv")).unwrap();
    world.write("people.csv", &format!("{PEOPLE}4,Dora,444\n"));
    world.wait("b lags", || lag("deltabus_receiver_lag_sets") == 1.0);
    let first = lag("deltabus_receiver_lag_seconds");
    world.wait("what it lacks gets older", || lag("deltabus_receiver_lag_seconds") > first);
    // The others get on; a look in the moment before one has applied a set sees it lag, and says so until the next.
    let c = |name: &str| watched.receivers[2].figure(name, ("receiver", "c"));
    world.wait("c gets on", || {
        c("deltabus_receiver_revision") == Some(2.0) && c("deltabus_receiver_lag_sets") == Some(0.0)
    });
    assert_eq!(lag("deltabus_receiver_lag_sets"), 1.0);
    std::fs::remove_dir(world.path("b/people.csv")).unwrap();
    world.wait("b lags no more", || {
        lag("deltabus_receiver_lag_sets") == 0.0 && lag("deltabus_receiver_lag_seconds") == 0.0
    });
    world.wait_equal("csv:people.csv?key=id", "csv:b/people.csv?key=id");
}

#[test]
fn a_broker_that_is_gone_is_missed_by_everybody() {
    let world = World::new();
    let Watched { broker, transmitter, receivers, watcher } = Watched::start(&world);
    let clients = || receivers.iter().chain([&transmitter]);
    world.wait("all are connected", || clients().all(|client| client.plain("deltabus_bus_up") == Some(1.0)));
    world.wait("the broker is seen", || watcher.plain("deltabus_broker_up") == Some(1.0));
    drop(broker);
    world.wait("all are cut off", || clients().all(|client| client.plain("deltabus_bus_up") == Some(0.0)));
    world.wait("the broker is missed", || watcher.plain("deltabus_broker_up") == Some(0.0));
    assert!(clients().all(|client| client.plain("deltabus_bus_disconnects_total") >= Some(1.0)));
}
