//! The demo's source: the customers of a shop, the same ones every time.

use std::fmt::Write as _;

/// How many customers there are.
pub(super) const CUSTOMERS: u64 = 3_000;

const FIRST: [&str; 24] = [
    "Ada", "Björn", "Chloé", "Dilip", "Elena", "Femi", "Greta", "Hassan", "Ingrid", "João", "Kaori", "Liam", "Mei",
    "Nikos", "Olga", "Pablo", "Quynh", "Rosa", "Sven", "Tariq", "Ursula", "Věra", "Wanjiru", "Zoë",
];
const LAST: [&str; 24] = [
    "Andersen",
    "Baptiste",
    "Castillo",
    "Dvořák",
    "Eriksen",
    "Fischer",
    "García",
    "Hughes",
    "Ivanova",
    "Jansen",
    "Kowalski",
    "Lindqvist",
    "Moreau",
    "Nakamura",
    "O'Brien",
    "Papadakis",
    "Quispe",
    "Rossi",
    "Silva",
    "Tanaka",
    "Uysal",
    "Virtanen",
    "Weber",
    "Yılmaz",
];
const PLACES: [(&str, &str, &str); 12] = [
    ("Oslo", "NO", "+47"),
    ("Lyon", "FR", "+33"),
    ("Kraków", "PL", "+48"),
    ("Nairobi", "KE", "+254"),
    ("Osaka", "JP", "+81"),
    ("Porto", "PT", "+351"),
    ("Quito", "EC", "+593"),
    ("Izmir", "TR", "+90"),
    ("Leeds", "GB", "+44"),
    ("Turku", "FI", "+358"),
    ("Graz", "AT", "+43"),
    ("Córdoba", "AR", "+54"),
];

/// The customers as CSV.
pub(super) fn csv() -> String {
    let mut text = String::from("id,name,email,phone,city,country,since,credit,note\n");
    for id in 1..=CUSTOMERS {
        let mut random = Random(id);
        let first = random.of(&FIRST);
        let last = random.of(&LAST);
        let (city, country, prefix) = random.of(&PLACES);
        let note = match random.below(8) {
            0 => "\"prefers letters, not mail\"",
            1 => "\"calls himself \"\"the Captain\"\"\"",
            2 => "pays late",
            3 => "wholesale",
            _ => "",
        };
        let (phone, street) = (random.below(90_000_000) + 10_000_000, random.below(12));
        let _ = writeln!(
            text,
            "{id},{first} {last},customer{id}@example.{},{prefix} {phone},{city},{country},20{:02}-{:02}-{:02},{}.{:02},{note}",
            ["org", "net", "com"][street as usize % 3],
            random.below(26),
            random.below(12) + 1,
            random.below(28) + 1,
            random.below(5_000),
            random.below(100),
        );
    }
    text
}

/// Numbers that look random and are always the same (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0.wrapping_mul(0xff51_afd7_ed55_8ccd);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}
