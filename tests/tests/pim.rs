//! Address books and calendars of real programs, through a database and back.

#[cfg(shared_data)]
use std::path::{Path, PathBuf};

use deltabus_tests::World;

/// The files that end so.
#[cfg(shared_data)]
fn samples(extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("DELTABUS_SHARED_DATA")).join("pim");
    let entries = std::fs::read_dir(&folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == extension)).collect();
    found.sort();
    assert!(!found.is_empty(), "{} has files .{extension}", folder.display());
    found
}

#[cfg(shared_data)]
fn there_and_back(interface: &str, path: &Path) {
    let world = World::new();
    let name = path.file_name().unwrap().to_str().unwrap();
    std::fs::copy(path, world.path(name)).unwrap();
    let there = format!("{interface}:{name}");
    world.run(&format!("transmit p {there} --once")).exits(0);
    world.run("receive p sqlite:p.db --name lite --reverse --once").exits(0);
    world.run(&format!("diff {there} sqlite:p.db")).exits(0);
    // A database that nobody remembers the source of, and a new file of it.
    let back = format!("{interface}:back.{}", path.extension().unwrap().to_str().unwrap());
    world.run("transmit q sqlite:p.db --once").exits(0);
    world.run(&format!("receive q {back} --name back --once")).exits(0);
    world.run(&format!("diff {there} {back}")).exits(0);
    // Nothing came back as an edit.
    world.run("receive p sqlite:p.db --name lite --reverse --once").exits(0);
    world.run(&format!("transmit p {there} --once")).exits(0);
    assert_eq!(std::fs::read(path).unwrap(), std::fs::read(world.path(name)).unwrap());
}

#[cfg(shared_data)]
#[test]
fn address_books_lose_nothing() {
    samples("vcf").iter().for_each(|path| there_and_back("vcard", path));
}

#[cfg(shared_data)]
#[test]
fn calendars_lose_nothing() {
    samples("ics").iter().for_each(|path| there_and_back("icalendar", path));
}

#[test]
fn a_contact_edited_in_a_database_changes_one_line_of_its_card() {
    let world = World::new();
    let card = "BEGIN:VCARD\r\nVERSION:3.0\r\nUID:ann\r\nFN:Ann  Other\r\nitem1.TEL;TYPE=cell:111\r\n\
                item1.X-ABLabel:mine\r\nX-ODD;P=1:kept\r\n as it is\r\nTITLE:Boss\r\nEND:VCARD\r\n";
    world.write("cards.vcf", card);
    world.run("transmit cards vcard:cards.vcf --once").exits(0);
    world.run("receive cards sqlite:cards.db --name lite --reverse --once").exits(0);
    let connection = rusqlite::Connection::open(world.path("cards.db")).unwrap();
    assert_eq!(connection.execute("UPDATE cards SET title = 'Chair' WHERE uid = 'ann'", []).unwrap(), 1);
    drop(connection);
    world.run("receive cards sqlite:cards.db --name lite --reverse --once").exits(0);
    world.run("transmit cards vcard:cards.vcf --once").exits(0);
    assert_eq!(world.read("cards.vcf"), card.replace("TITLE:Boss", "TITLE:Chair"));
}
