//! What people do and what befalls them: one test for each line of docs/scenarios.md.

use std::collections::BTreeMap;
use std::path::Path;

use deltabus_tests::World;

const SOURCE: &str = "csv:people.csv?key=id";
const TRANSMIT: &str = "transmit people csv:people.csv?key=id --once";
const A: &str = "receive people sqlite:a.db --name a --reverse --once";
const B: &str = "receive people csv:b.csv?key=id --name b --reverse --once";
const C: &str = "receive people json:c.json?key=id --name c --reverse --once";

const FIELDS: [&str; 3] = ["id", "name", "phone"];

/// Three people at the source, at `a` and at `b`.
fn world() -> World {
    let world = World::new();
    world.write("people.csv", "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n");
    transmit(&world);
    receive(&world);
    world
}

fn transmit(world: &World) {
    world.run(TRANSMIT).exits(0);
}

fn receive(world: &World) {
    world.run(A).exits(0);
    world.run(B).exits(0);
}

/// Edits go out, are taken and come back.
fn exchange(world: &World) {
    receive(world);
    transmit(world);
    receive(world);
}

fn all_equal(world: &World) {
    world.run(&format!("diff {SOURCE} sqlite:a.db")).exits(0);
    world.run(&format!("diff {SOURCE} csv:b.csv?key=id")).exits(0);
}

/// The source and both copies hold this.
fn all_hold(world: &World, content: &str) {
    assert_eq!(world.read("people.csv"), content);
    all_equal(world);
}

/// The revisions that the log has.
fn revisions(world: &World) -> Vec<u64> {
    let log = world.run("log people --json").exits(0).stdout();
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["revision"].as_u64().unwrap();
    let mut numbers: Vec<u64> = log.lines().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Copies a folder with all that it holds.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Takes a folder back to what it was when it was copied.
fn restore_folder(backup: &Path, place: &Path) {
    std::fs::remove_dir_all(place).unwrap();
    copy_folder(backup, place);
}

/// A receiver's state and its destination's file as they were at one moment, while it did not run.
struct Backup {
    file: &'static str,
    state: String,
}

impl Backup {
    fn of(world: &World, file: &'static str, receive: &str) -> Backup {
        let name = receive.split(' ').skip_while(|word| *word != "--name").nth(1).expect("a receiver has a name");
        let backup = Backup { file, state: format!("state/receivers/people/{name}") };
        copy_folder(&world.path(&backup.state), &world.path("backup"));
        std::fs::copy(world.path(file), world.path("backup.file")).unwrap();
        backup
    }

    fn restore(&self, world: &World) {
        self.restore_state(world);
        std::fs::copy(world.path("backup.file"), world.path(self.file)).unwrap();
    }

    /// Only the state: the destination is newer then.
    fn restore_state(&self, world: &World) {
        restore_folder(&world.path("backup"), &world.path(&self.state));
    }
}

/// The people in a CSV or JSON file.
fn people(world: &World, file: &str) -> Vec<[String; 3]> {
    let text = world.read(file);
    if file.ends_with(".csv") {
        let person = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        return text.lines().skip(1).map(person).collect();
    }
    let people: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    people.iter().map(|person| FIELDS.map(|field| person[field].as_str().unwrap().to_owned())).collect()
}

fn put_people(world: &World, file: &str, people: &[[String; 3]]) {
    if file.ends_with(".csv") {
        let lines: String = people.iter().map(|person| format!("{}\n", person.join(","))).collect();
        world.write(file, &format!("{}\n{lines}", FIELDS.join(",")));
    } else {
        let people: Vec<BTreeMap<_, _>> =
            people.iter().map(|person| FIELDS.into_iter().zip(person).collect()).collect();
        world.write(file, &serde_json::to_string(&people).unwrap());
    }
}

/// Sets a person's field in a copy, as its user does.
fn set(world: &World, file: &str, id: &str, field: &str, value: &str) {
    if file.ends_with(".db") {
        return world.sql(file, &format!("UPDATE people SET {field} = '{value}' WHERE id = '{id}'"));
    }
    let mut all = people(world, file);
    let at = FIELDS.iter().position(|name| *name == field).unwrap();
    all.iter_mut().find(|person| person[0] == id).unwrap()[at] = value.to_owned();
    put_people(world, file, &all);
}

/// Adds a person to a copy, as its user does.
fn add(world: &World, file: &str, person: [&str; 3]) {
    if file.ends_with(".db") {
        let [id, name, phone] = person;
        return world.sql(file, &format!("INSERT INTO people VALUES ('{id}', '{name}', '{phone}')"));
    }
    let mut all = people(world, file);
    all.push(person.map(str::to_owned));
    put_people(world, file, &all);
}

/// Does something to the bus with a client of its own.
fn on_the_bus(world: &World, work: impl AsyncFnOnce(async_nats::jetstream::Context)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = world.bus_url();
        let (login, address) = url.strip_prefix("nats://").unwrap().split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
        let client = options.connect(address).await.unwrap();
        work(async_nats::jetstream::new(client)).await;
    });
}

#[test]
fn a_record_edited_at_the_source_outlasts_a_delete_elsewhere() {
    let world = world();
    world.sql("a.db", "DELETE FROM people WHERE id = '2'");
    world.write("people.csv", "id,name,phone\n1,Ann,111\n2,Bob,999\n3,Cleo,333\n");
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,111\n2,Bob,999\n3,Cleo,333\n");
    world.run("conflicts people").exits(1);
}

#[test]
fn two_inserts_of_one_key_are_merged_field_by_field() {
    let world = world();
    world.sql("a.db", "INSERT INTO people VALUES ('4', 'Dan', NULL)");
    world.write("b.csv", "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n4,Dan,444\n");
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n4,Dan,444\n");
    world.run("conflicts people").exits(0);
    // Where both say something, the first stands and the other is kept.
    world.sql("a.db", "INSERT INTO people VALUES ('5', 'Eve', '555')");
    let all = world.read("b.csv");
    world.write("b.csv", &format!("{all}5,Eva,555\n"));
    exchange(&world);
    all_hold(&world, &format!("{all}5,Eve,555\n"));
    let conflicts = world.run("conflicts people").exits(1).stdout();
    assert!(conflicts.contains("Eva"), "{conflicts}");
}

#[test]
fn a_changed_key_is_a_delete_and_an_insert() {
    let world = world();
    world.sql("a.db", "UPDATE people SET id = '9' WHERE id = '2'");
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,111\n3,Cleo,333\n9,Bob,222\n");
    world.write("people.csv", "id,name,phone\n1,Ann,111\n3,Cleo,333\n8,Bob,222\n");
    transmit(&world);
    receive(&world);
    all_equal(&world);
}

#[test]
fn a_renamed_column_takes_its_values_along() {
    let world = world();
    world.write("people.csv", "id,name,telephone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n");
    transmit(&world);
    receive(&world);
    all_equal(&world);
    assert_eq!(world.read("b.csv"), "id,name,telephone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n");
    // An edit of the old column's successor comes back.
    world.sql("a.db", "UPDATE people SET telephone = '112' WHERE id = '1'");
    exchange(&world);
    all_hold(&world, "id,name,telephone\n1,Ann,112\n2,Bob,222\n3,Cleo,333\n");
}

#[test]
fn an_edit_on_the_way_survives_its_columns_end_among_the_dead_letters() {
    let world = world();
    world.sql("a.db", "UPDATE people SET phone = '777' WHERE id = '1'");
    world.run(A).exits(0);
    world.write("people.csv", "id,name\n1,Ann\n2,Bob\n3,Cleo\n");
    transmit(&world);
    receive(&world);
    transmit(&world);
    receive(&world);
    all_hold(&world, "id,name\n1,Ann\n2,Bob\n3,Cleo\n");
    let kept = world.run("dead-letters people").exits(1).stdout();
    assert!(kept.contains("777") && kept.contains("no longer has the field `phone`"), "{kept}");
}

#[test]
fn a_receiver_that_returns_after_the_log_was_trimmed_joins_by_difference() {
    let world = world();
    for number in 10..20 {
        world.write("people.csv", &format!("id,name,phone\n1,Ann,{number}\n2,Bob,222\n4,Dan,444\n"));
        transmit(&world);
        world.run(A).exits(0);
    }
    // Kept back: an edit that `b` made long ago.
    world.write("b.csv", "id,name,phone\n1,Ann,111\n2,Robert,222\n3,Cleo,333\n");
    world.run("snapshot people").exits(0);
    on_the_bus(&world, async |bus| {
        let stream = bus.get_stream("deltabus_people").await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        stream.purge().sequence(last).await.unwrap();
    });
    world.run(B).exits(0);
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,19\n2,Robert,222\n4,Dan,444\n");
}

/// Receivers whose state and destination are restored from a backup, by the destination's file.
const RESTORED: [(&str, &str); 3] = [("a.db", A), ("b.csv", B), ("c.json", C)];

#[test]
fn a_receiver_restored_from_a_backup_catches_up_and_loses_no_edit() {
    for (file, receive_it) in RESTORED {
        let world = world();
        world.run(receive_it).exits(0);
        let exchange_it = || {
            world.run(receive_it).exits(0);
            transmit(&world);
            world.run(receive_it).exits(0);
        };
        set(&world, file, "1", "phone", "1");
        exchange_it();
        // Some edits are on their way when the backup is made.
        add(&world, file, ["8", "Hal", "888"]);
        set(&world, file, "2", "phone", "229");
        world.run(receive_it).exits(0);
        let backup = Backup::of(&world, file, receive_it);
        exchange_it();
        for number in 2..4 {
            set(&world, file, "1", "phone", &number.to_string());
            exchange_it();
        }
        // What the backup has, and what came after it, goes.
        world.write("people.csv", "id,name,phone\n1,Ann,3\n3,Cleo,333\n9,Ida,999\n");
        exchange_it();
        world.write("people.csv", "id,name,phone\n1,Ann,3\n3,Cleo,334\n");
        exchange_it();
        backup.restore(&world);
        // Edited before it knows what it missed: no number of its own may be taken for one that was taken long ago.
        set(&world, file, "1", "name", "Anna");
        add(&world, file, ["7", "Gil", "777"]);
        exchange_it();
        exchange_it();
        receive(&world);
        let all = "id,name,phone\n1,Anna,3\n3,Cleo,334\n7,Gil,777\n";
        all_hold(&world, all);
        let location = receive_it.split(' ').nth(2).expect("a receiver has a location");
        world.run(&format!("diff {SOURCE} {location}")).exits(0);
        world.run("conflicts people").exits(0);
    }
}

#[test]
fn a_receivers_state_older_than_its_destination_is_told_by_the_mark_and_not_by_a_file() {
    for (file, receive_it) in RESTORED {
        let world = world();
        world.run(receive_it).exits(0);
        let backup = Backup::of(&world, file, receive_it);
        world.write("people.csv", "id,name,phone\n1,Ann,112\n3,Cleo,333\n4,Dan,444\n");
        transmit(&world);
        world.run(receive_it).exits(0);
        world.write("people.csv", "id,name,phone\n1,Ann,113\n3,Cleo,333\n");
        transmit(&world);
        backup.restore_state(&world);
        world.run(receive_it).exits(0);
        transmit(&world);
        receive(&world);
        if file == "a.db" {
            all_hold(&world, "id,name,phone\n1,Ann,113\n3,Cleo,333\n");
            world.run("conflicts people").exits(0);
        } else {
            // What it was told counts as said here: what the source has changed since is a conflict, what it has deleted is new.
            all_hold(&world, "id,name,phone\n1,Ann,113\n3,Cleo,333\n4,Dan,444\n");
            let conflicts = world.run("conflicts people").exits(1).stdout();
            assert!(conflicts.contains("112"), "{conflicts}");
        }
    }
}

#[test]
fn a_destination_replaced_by_an_older_copy_counts_as_edited() {
    let world = world();
    std::fs::copy(world.path("b.csv"), world.path("b.old")).unwrap();
    world.write("people.csv", "id,name,phone\n1,Ann,112\n2,Bob,222\n3,Cleo,333\n");
    transmit(&world);
    receive(&world);
    std::fs::rename(world.path("b.old"), world.path("b.csv")).unwrap();
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n");
}

#[test]
fn a_transmitter_restored_from_a_backup_uses_no_number_twice() {
    let world = world();
    let (state, backup) = (world.path("state/sources/people"), world.path("backup"));
    copy_folder(&state, &backup);
    for number in 2..5 {
        world.write("people.csv", &format!("id,name,phone\n1,Ann,{number}\n2,Bob,222\n3,Cleo,333\n"));
        transmit(&world);
    }
    receive(&world);
    restore_folder(&backup, &state);
    // Something else than what the lost revisions said.
    world.write("people.csv", "id,name,phone\n1,Ann,99\n2,Bob,222\n3,Cleo,333\n5,Eve,555\n");
    transmit(&world);
    assert_eq!(revisions(&world), [1, 2, 3, 4, 5]);
    receive(&world);
    all_equal(&world);
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,99\n2,Bob,222\n3,Cleo,333\n5,Eve,555\n");
}

#[test]
fn a_source_replaced_by_an_older_file_is_a_new_revision() {
    let world = world();
    let old = world.read("people.csv");
    world.write("people.csv", "id,name,phone\n1,Ann,112\n2,Bob,222\n3,Cleo,333\n4,Dan,444\n");
    transmit(&world);
    receive(&world);
    world.write("people.csv", &old);
    transmit(&world);
    receive(&world);
    all_hold(&world, &old);
    assert_eq!(revisions(&world), [1, 2, 3]);
}

#[test]
fn the_transmitters_state_lost_is_rebuilt_from_the_bus() {
    let world = world();
    world.sql("a.db", "UPDATE people SET name = 'Anna' WHERE id = '1'");
    receive(&world);
    std::fs::remove_dir_all(world.path("state/sources/people")).unwrap();
    world.write("people.csv", "id,name,phone\n1,Ann,111\n2,Bob,223\n3,Cleo,333\n");
    transmit(&world);
    receive(&world);
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Anna,111\n2,Bob,223\n3,Cleo,333\n");
    let numbers = revisions(&world);
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_receivers_state_lost_is_joined_anew_without_writing_what_is_equal() {
    let world = world();
    let before = std::fs::metadata(world.path("b.csv")).unwrap().modified().unwrap();
    std::fs::remove_dir_all(world.path("state/receivers/people/b")).unwrap();
    receive(&world);
    assert_eq!(std::fs::metadata(world.path("b.csv")).unwrap().modified().unwrap(), before);
    world.write("b.csv", "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Clea,333\n");
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Clea,333\n");
}

#[test]
fn a_lost_log_is_founded_anew_and_receivers_go_on() {
    let world = world();
    world.write("people.csv", "id,name,phone\n1,Ann,112\n2,Bob,222\n3,Cleo,333\n");
    transmit(&world);
    world.run("bus stop").exits(0);
    std::fs::remove_dir_all(world.path("state/bus/jetstream")).unwrap();
    world.run("bus start").exits(0);
    world.sql("a.db", "UPDATE people SET name = 'Roberta' WHERE id = '2'");
    transmit(&world);
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,112\n2,Roberta,222\n3,Cleo,333\n");
}

#[test]
fn a_log_that_lost_its_end_is_noticed_and_nothing_is_missing() {
    let world = world();
    world.run("bus stop").exits(0);
    copy_folder(&world.path("state/bus/jetstream"), &world.path("backup"));
    world.run("bus start").exits(0);
    for number in 2..5 {
        world.write("people.csv", &format!("id,name,phone\n1,Ann,{number}\n2,Bob,222\n3,Cleo,333\n"));
        transmit(&world);
    }
    // One receiver saw what the log then lost, the other didn't.
    world.run(A).exits(0);
    world.run("bus stop").exits(0);
    restore_folder(&world.path("backup"), &world.path("state/bus/jetstream"));
    world.run("bus start").exits(0);
    world.write("people.csv", "id,name,phone\n1,Ann,5\n2,Bob,222\n3,Cleo,333\n4,Dan,444\n");
    transmit(&world);
    receive(&world);
    exchange(&world);
    all_hold(&world, "id,name,phone\n1,Ann,5\n2,Bob,222\n3,Cleo,333\n4,Dan,444\n");
}

#[test]
fn a_state_directory_copied_to_another_machine_takes_over_and_the_first_is_told() {
    let world = world();
    let bus = world.bus_url();
    copy_folder(&world.path("state/sources"), &world.path("elsewhere/sources"));
    let first = world.start("transmit people csv:people.csv?key=id");
    world.wait("the log is claimed", || first.log().contains("the log is claimed"));
    let there = format!("{TRANSMIT} --state elsewhere --bus {bus}");
    let refused = world.run(&there).exits(2);
    assert!(refused.stderr().contains("people"), "{}", refused.text());
    assert!(first.stop().success());
    world.write("people.csv", "id,name,phone\n1,Ann,112\n2,Bob,222\n3,Cleo,333\n");
    world.run(&there).exits(0);
    world.write("people.csv", "id,name,phone\n1,Ann,113\n2,Bob,222\n3,Cleo,333\n");
    transmit(&world);
    receive(&world);
    all_equal(&world);
    assert_eq!(revisions(&world), [1, 2, 3]);
}

#[test]
fn two_receivers_of_one_name_lose_no_edit_and_are_told() {
    let world = world();
    let bus = world.bus_url();
    // Another machine, where somebody chose the same name.
    let twin = format!("receive people json:twin.json?key=id --name a --reverse --once --state elsewhere --bus {bus}");
    world.run(&twin).exits(0);
    let mut told = String::new();
    for number in 1..4 {
        world.sql("a.db", &format!("UPDATE people SET phone = 'a{number}' WHERE id = '1'"));
        let text = world.read("twin.json");
        let old = if number == 1 { "Bob".to_owned() } else { format!("Bob {}", number - 1) };
        world.write("twin.json", &text.replace(&format!("\"{old}\""), &format!("\"Bob {number}\"")));
        told += &world.run(A).exits(0).stderr();
        told += &world.run(&twin).exits(0).stderr();
        transmit(&world);
        told += &world.run(&twin).exits(0).stderr();
        receive(&world);
        all_hold(&world, &format!("id,name,phone\n1,Ann,a{number}\n2,Bob {number},222\n3,Cleo,333\n"));
        world.run(&format!("diff {SOURCE} json:twin.json?key=id")).exits(0);
    }
    assert!(told.contains("sent edits under this name"), "{told}");
}
