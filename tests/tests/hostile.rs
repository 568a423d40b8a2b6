//! Text, names and paths that mean something to somebody, from source to destination through the real program and broker.

#[allow(dead_code, reason = "the matrix looks at all of a sample, this at where it goes")]
mod stores;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use deltabus_record::arbitrary;
use deltabus_tests::World;
use serde_json::{Map, Value, json};
use stores::STORES;

/// Runs a command to its end; `exits` is what it has to exit with.
fn run(command: &mut Command, exits: i32) -> Output {
    let output = command.output().expect("the program can be started");
    assert_eq!(output.status.code(), Some(exits), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Whether nothing that a terminal obeys is among what was printed.
fn is_plain(output: &Output) -> bool {
    let printed = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&printed).chars().all(|char| char == '\n' || !deltabus_record::text::is_obeyed(char))
}

/// Writes the source: each text as a key where keys may be any text, and as a value; some as names of fields.
fn fill(world: &World, name: &str, keys: Keys) -> String {
    let texts = arbitrary::hostile();
    let record = |(at, text): (usize, &String)| {
        let key = match keys {
            Keys::Hostile => text.clone(),
            Keys::Plain => format!("key {at}"),
        };
        let mut record = Map::new();
        record.insert("uid".into(), json!(key));
        record.insert("note".into(), json!(texts[(at + 1) % texts.len()]));
        record.insert("'; DROP TABLE records; --".into(), json!(texts[(at + 2) % texts.len()]));
        record.insert("a,b\t\"c\" | ü.*>".into(), json!(texts[(at + 3) % texts.len()]));
        Value::Object(record)
    };
    let records: Vec<_> = texts.iter().enumerate().map(record).collect();
    let file = format!("{name}.json");
    std::fs::write(world.path(&file), serde_json::to_vec_pretty(&records).unwrap()).unwrap();
    format!("json:{}?key=uid", world.path(&file).display())
}

#[derive(Clone, Copy)]
enum Keys {
    Hostile,
    Plain,
}

#[test]
fn hostile_text_reaches_every_store_and_edits_of_it_come_back() {
    let world = World::new();
    let hostile = fill(&world, "hostile", Keys::Hostile);
    let plain = fill(&world, "plain", Keys::Plain);
    world.run(&format!("transmit hostile {hostile} --once")).exits(0);
    world.run(&format!("transmit plain {plain} --once")).exits(0);
    for store in STORES.iter().filter(|store| store.name != "tree") {
        // A card's UID is one line.
        let (source, from) = match store.name {
            "vcard" => ("plain", &plain),
            _ => ("hostile", &hostile),
        };
        let to = (store.place)(&world, &format!("to-{}", store.name), "uid");
        world.run(&format!("receive {source} {to} --name {} --once", store.name)).exits(0);
        let diff = world.run(&format!("diff {from} {to}"));
        assert_eq!(diff.code(), Some(0), "{}: {}", store.name, diff.text());
    }
    // Every text becomes another one there, and that comes back.
    let there = world.path("edited.db");
    let to = format!("sqlite:{}?tables=records", there.display());
    world.run(&format!("receive hostile {to} --name edited --reverse --once")).exits(0);
    let connection = rusqlite::Connection::open(&there).unwrap();
    connection.execute_batch("UPDATE records SET note = uid || note || uid").unwrap();
    drop(connection);
    world.run(&format!("receive hostile {to} --name edited --reverse --once")).exits(0);
    world.run(&format!("transmit hostile {hostile} --once")).exits(0);
    world.run(&format!("receive hostile {to} --name edited --reverse --once")).exits(0);
    let diff = world.run(&format!("diff {hostile} {to}"));
    assert_eq!(diff.code(), Some(0), "{}", diff.text());
    let records: Vec<Value> = serde_json::from_str(&world.read("hostile.json")).unwrap();
    let texts = arbitrary::hostile();
    assert_eq!(records.len(), texts.len());
    for (at, record) in records.iter().enumerate() {
        let (key, note) = (&texts[at], &texts[(at + 1) % texts.len()]);
        assert_eq!((&record["uid"], &record["note"]), (&json!(key), &json!(format!("{key}{note}{key}"))));
    }
    for line in ["log hostile", "show hostile 1", "status", &format!("diff {plain} {hostile}")] {
        let output = world.command(line).output().unwrap();
        assert!(is_plain(&output), "{line}");
    }
}

/// A name is a token of subjects, a folder and a label: what would be anything else is refused before anything is made.
#[test]
fn names_that_would_be_more_than_a_name_are_refused() {
    let world = World::new();
    std::fs::write(world.path("a.csv"), "id,b\n1,x\n").unwrap();
    world.run("transmit people csv:a.csv?key=id --once").exits(0);
    let mut names = arbitrary::hostile();
    names.extend(["", "A", "a.b", "a*", "people>", "_", "-a", "a\0b", &"a".repeat(65)].map(str::to_owned));
    let names = names.iter().filter(|name| !name.contains('\0'));
    // Those that are names after all.
    let names: Vec<_> = names.filter(|name| deltabus_record::schema::SourceName::new(name).is_err()).collect();
    assert!(names.len() > 60);
    let state = || {
        let mut entries: Vec<_> = walk(&world.path("state")).into_iter().filter(|path| !path.contains("bus")).collect();
        entries.sort();
        entries
    };
    let before = state();
    for name in names {
        // Behind `--`, so that a dash in front makes no option of it.
        let line = |words: &[&str]| {
            let mut command = world.command("");
            command.args(words);
            command
        };
        run(&mut line(&["transmit", "--once", "--", name, "csv:a.csv?key=id"]), 2);
        run(&mut line(&["receive", "--once", "--", name, "csv:b.csv?key=id"]), 2);
        let named = format!("--name={name}");
        run(&mut line(&["receive", "--once", &named, "people", "csv:b.csv?key=id"]), 2);
        for command in ["log", "snapshot", "confirm", "conflicts"] {
            run(&mut line(&[command, "--", name]), 2);
        }
    }
    assert_eq!(state(), before, "nothing was made");
    assert!(!world.path("b.csv").exists());
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.to_string_lossy().into_owned());
        if path.is_dir() {
            found.extend(walk(&path));
        }
    }
    found
}

/// Names that a file system takes and others stumble over.
fn file_names() -> Vec<Vec<u8>> {
    let texts = arbitrary::hostile();
    let names = texts.iter().filter(|text| !text.contains('/') && text.len() <= 255);
    let names = names.filter(|text| ![".", "..", ".deltabus"].contains(&text.as_str()));
    let mut names: Vec<Vec<u8>> = names.map(|text| text.as_bytes().to_vec()).collect();
    names.extend([b"\xff\xfe".to_vec(), b"a\xc3".to_vec(), b"\\x41".to_vec(), vec![b'n'; 255], vec![0xc3; 255]]);
    names
}

#[test]
fn hostile_file_names_cross_the_bus_and_edits_come_back() {
    let world = World::new();
    let (from, to) = (world.path("from"), world.path("to"));
    for (at, name) in file_names().iter().enumerate() {
        let name = OsStr::from_bytes(name);
        match at % 3 {
            0 => {
                std::fs::create_dir_all(from.join(name)).unwrap();
                std::fs::write(from.join(name).join(name), format!("{at}")).unwrap();
            }
            1 => std::fs::write(from.join(name), format!("{at}")).unwrap(),
            _ => std::os::unix::fs::symlink(name, from.join(name)).unwrap(),
        }
    }
    world.run("transmit files tree:from --once").exits(0);
    world.run("receive files tree:to --name there --reverse --once").exits(0);
    world.run("diff tree:from tree:to").exits(0);
    for (at, name) in file_names().iter().enumerate().filter(|(at, _)| at % 3 != 2) {
        let name = OsStr::from_bytes(name);
        let path = if at % 3 == 0 { to.join(name).join(name) } else { to.join(name) };
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{at}"), "{path:?}");
        std::fs::write(path, format!("edited {at}")).unwrap();
    }
    world.run("receive files tree:to --name there --reverse --once").exits(0);
    world.run("transmit files tree:from --once").exits(0);
    world.run("receive files tree:to --name there --reverse --once").exits(0);
    world.run("diff tree:from tree:to").exits(0);
    let last = file_names();
    let name = OsStr::from_bytes(&last[0]);
    assert_eq!(std::fs::read_to_string(from.join(name).join(name)).unwrap(), "edited 0");
    // From there to a store of text and back to files of the very same names.
    world.run("receive files csv:list.csv?key=path --name list --once").exits(0);
    world.run("diff tree:from csv:list.csv?key=path").exits(0);
}

#[test]
fn hostile_paths_are_paths() {
    let world = World::new();
    std::fs::write(world.path("other.csv"), "id,b\n2,y\n").unwrap();
    // What stands behind `?` is options.
    let names = file_names().into_iter().filter_map(|name| String::from_utf8(name).ok());
    let names: Vec<_> = names.filter(|name| !name.contains('?') && name.len() < 250).collect();
    for (at, name) in names.iter().enumerate().filter(|(at, _)| at % 4 == 0) {
        let folder = world.path("paths").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.csv")), "id,b\n1,x\n").unwrap();
        let from = format!("csv:paths/{name}/{name}.csv?key=id");
        let to = format!("json:paths/{name}/{name}.json?key=id");
        let source = format!("s{at}");
        run(world.command(&format!("transmit {source} --once")).arg(&from), 0);
        run(world.command(&format!("receive {source} --once --name r")).arg(&to), 0);
        run(world.command("diff").arg(&from).arg(&to), 0);
        let differ = run(world.command("diff").arg(&from).arg("csv:other.csv?key=id"), 1);
        let nowhere = run(world.command("diff").arg(&from).arg(format!("csv:paths/{name}/nowhere.csv")), 2);
        assert!(is_plain(&differ) && is_plain(&nowhere), "{name:?}");
    }
}
