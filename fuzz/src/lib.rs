//! What strangers may send, given to everything that takes it in.
//!
//! A [`Target`] is one way in: bytes of any kind go through a decoder, and what comes out of it has to keep that decoder's
//! laws. Three things run the same targets:
//!
//! - `cargo test -p deltabus-fuzz` gives them the corpora under `fuzz/corpus`, the [`seeds`], and a short round of mutations
//!   from a fixed seed, each input under the limits of memory and time in [`allowance`];
//! - `fuzz/run [SECONDS] [TARGET …]` builds them with coverage instrumentation and lets libFuzzer look for more;
//! - `fuzz/run replay TARGET FILE` tries a single input again.
//!
//! A finding becomes a file `regression-…` in the target's corpus, and a plain test beside the decoder.
//!
//! ```
//! let target = deltabus_fuzz::TARGETS.iter().find(|target| target.name == "json").unwrap();
//! (target.run)(br#"{"a":[1,2.50,"x"]}"#);
//! (target.run)(b"neither JSON nor UTF-8 \xff");
//! ```
//!
//! This crate tests nothing that its own code does, and nobody depends on it.

pub mod allowance;
mod commands;
mod input;
pub mod mutation;
mod postgres;
mod records;
pub mod seeds;
mod state;
mod stores;
mod tree;
mod wire;

/// One way in.
#[derive(Clone, Copy)]
pub struct Target {
    /// What it is called on the command line, and its folder under `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes; panics where a law is broken.
    pub run: fn(&[u8]),
}

/// All ways in.
pub const TARGETS: &[Target] = &[
    Target { name: "row", run: records::row },
    Target { name: "key", run: records::key },
    Target { name: "collection", run: records::collection },
    Target { name: "text", run: records::text },
    Target { name: "json", run: records::json },
    Target { name: "convert", run: records::convert },
    Target { name: "change", run: records::change },
    Target { name: "set", run: wire::set },
    Target { name: "reverse", run: wire::reverse },
    Target { name: "log", run: wire::log },
    Target { name: "snapshot", run: wire::snapshot },
    Target { name: "contents", run: wire::contents },
    Target { name: "control", run: wire::control },
    Target { name: "state", run: state::state },
    Target { name: "csv", run: stores::csv },
    Target { name: "json_file", run: stores::json },
    Target { name: "vcard", run: stores::vcard },
    Target { name: "icalendar", run: stores::icalendar },
    Target { name: "sqlite", run: stores::sqlite },
    Target { name: "tree", run: tree::journal },
    Target { name: "tree_entries", run: tree::entries },
    Target { name: "postgres", run: postgres::postgres },
    Target { name: "location", run: commands::location },
    Target { name: "configuration", run: commands::configuration },
    Target { name: "filter", run: commands::filter },
    Target { name: "token", run: commands::token },
    Target { name: "manager", run: deltabus_manager::fuzz::message },
];
