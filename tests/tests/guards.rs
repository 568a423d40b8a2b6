//! What must not reach a destination doesn't.

use deltabus_tests::{World, catalogue};

const SOURCE: &str = "csv:source.csv?key=id";

fn started() -> World {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    world.run(&format!("transmit goods {SOURCE} --once")).exits(0);
    world.run("receive goods sqlite:copy.db --once").exits(0);
    world
}

#[test]
fn an_emptied_source_is_held_until_confirmed() {
    let world = started();
    let full = world.read("source.csv");
    let header = full.lines().next().unwrap().to_owned() + "\n";
    world.write("source.csv", &header);
    let held = world.run(&format!("transmit goods {SOURCE} --once")).exits(1);
    assert!(held.stderr().contains("confirm"), "{}", held.text());
    world.run("receive goods sqlite:copy.db --once").exits(0);
    world.write("full.csv", &full);
    world.run("diff csv:full.csv?key=id sqlite:copy.db").exits(0);

    world.run("confirm goods").exits(0);
    world.run(&format!("transmit goods {SOURCE} --once")).exits(0);
    world.run("receive goods sqlite:copy.db --once").exits(0);
    world.run(&format!("diff {SOURCE} sqlite:copy.db")).exits(0);
}

#[test]
fn an_emptied_json_source_is_held_though_its_fields_are_gone() {
    let world = World::new();
    let source = "json:source.json?key=id";
    world.write("source.json", r#"[{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]"#);
    world.run(&format!("transmit people {source} --once")).exits(0);
    world.run("receive people sqlite:copy.db --once").exits(0);
    world.write("source.json", "[]");
    let held = world.run(&format!("transmit people {source} --once")).exits(1);
    assert!(held.stderr().contains("confirm"), "{}", held.text());
    world.run("receive people sqlite:copy.db --once").exits(0);
    world.write("full.json", r#"[{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]"#);
    world.run("diff json:full.json?key=id sqlite:copy.db").exits(0);

    world.run("confirm people").exits(0);
    world.run(&format!("transmit people {source} --once")).exits(0);
    world.write("source.json", r#"[{"id": 3, "name": "Cy"}]"#);
    world.run(&format!("transmit people {source} --once")).exits(0);
    world.run("receive people sqlite:copy.db --once").exits(0);
    world.run(&format!("diff {source} sqlite:copy.db")).exits(0);
}

#[test]
fn a_held_delete_is_forgotten_when_the_source_comes_back() {
    let world = started();
    let full = world.read("source.csv");
    world.write("source.csv", full.lines().next().unwrap());
    world.run(&format!("transmit goods {SOURCE} --once")).exits(1);
    world.write("source.csv", &full);
    world.run(&format!("transmit goods {SOURCE} --once")).exits(0);
    world.run("confirm goods").exits(2);
}

#[test]
fn a_broken_line_names_its_place_and_changes_nothing() {
    let world = started();
    let mut lines: Vec<String> = catalogue::csv(2).lines().map(str::to_owned).collect();
    lines[1_233] = "77,broken \"line".to_owned();
    world.write("source.csv", &lines.join("\n"));
    let broken = world.run(&format!("transmit goods {SOURCE} --once")).exits(2);
    assert!(broken.stderr().contains("source.csv:1234"), "{}", broken.text());
    assert_eq!(broken.stderr().lines().count(), 1, "{}", broken.text());
    world.run("receive goods sqlite:copy.db --once").exits(0);
    world.write("first.csv", &catalogue::csv(1));
    world.run("diff csv:first.csv?key=id sqlite:copy.db").exits(0);
}

#[test]
fn a_missing_source_changes_nothing() {
    let world = started();
    std::fs::remove_file(world.path("source.csv")).unwrap();
    world.run(&format!("transmit goods {SOURCE} --once")).exits(2);
    world.run("receive goods sqlite:copy.db --once").exits(0);
    world.write("first.csv", &catalogue::csv(1));
    world.run("diff csv:first.csv?key=id sqlite:copy.db").exits(0);
}

#[test]
fn one_process_at_a_time_for_a_source_and_for_a_receiver() {
    let world = started();
    let transmitter = world.start(&format!("transmit goods {SOURCE}"));
    world.wait("the log is claimed", || transmitter.log().contains("the log is claimed"));
    let second = world.run(&format!("transmit goods {SOURCE} --once")).exits(2);
    assert!(second.stderr().contains("goods"), "{}", second.text());
    let elsewhere =
        world.run(&format!("transmit goods {SOURCE} --once --state elsewhere --bus {}", world.bus_url())).exits(2);
    assert!(elsewhere.stderr().contains("goods"), "{}", elsewhere.text());
    assert!(transmitter.stop().success());
}
