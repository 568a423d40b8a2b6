//! What a participant may do, and what that means on the broker.

use std::collections::BTreeSet;

use deltabus_bus::broker::Stream;
use deltabus_proto::manager::v1;
use deltabus_record::schema::{NameError, ReceiverName, SourceName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How many sources or receivers one participant can have of a kind; what it may do is written out on each of its connections.
pub const NAMES_MAX: usize = 256;

/// How many receivers' names one participant can have.
pub const RECEIVERS_MAX: usize = 16;

/// How long the answer to a question may be published by whoever was asked, in nanoseconds.
const ANSWER_NANOS: u64 = 10_000_000_000;

/// How many subjects a participant may listen to at a time: each source needs three, each request for messages one for a while.
const SUBSCRIPTIONS_MAX: i64 = 4_096;

/// What somebody may do. Names are checked when they come in ([`Rights::from_wire`]): a `*` in one would be a wildcard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rights {
    /// Sources it may publish.
    pub publish: BTreeSet<String>,
    /// Sources it may read.
    pub read: BTreeSet<String>,
    /// Sources to which it may send edits.
    pub reverse: BTreeSet<String>,
    /// The receivers' names under which it may.
    pub receivers: BTreeSet<String>,
    /// Whether it may administer the manager.
    pub administrate: bool,
}

/// What of a source a role touches on the broker: one line of the table in SECURITY.md.
struct Line {
    /// Which right gives it.
    right: Right,
    /// Whether it is for publishing or listening.
    way: Way,
    /// The subject; `{source}`, `{receiver}` and `{name}` stand for each of the participant's.
    subject: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    Publish,
    Read,
    Reverse,
    /// Everybody.
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Publish,
    Listen,
}

impl Right {
    /// The tag of a user that has it for a source; `None`: everybody has it.
    fn tag(self) -> Option<&'static str> {
        match self {
            Right::Publish => Some("publish"),
            Right::Read => Some("read"),
            Right::Reverse => Some("reverse"),
            Right::Any => None,
        }
    }
}

/// The table: everything that a participant may do. What isn't here is refused by the broker, above all every call that makes,
/// changes, purges or deletes streams, and messages in them.
const TABLE: &[Line] = &[
    line(Right::Any, Way::Listen, "_INBOX_{name}.>"),
    // The transmitter writes the log, snapshots and heartbeats …
    line(Right::Publish, Way::Publish, "deltabus.{source}.changes"),
    line(Right::Publish, Way::Publish, "deltabus.{source}.snapshot.>"),
    line(Right::Publish, Way::Publish, "deltabus.{source}.live"),
    // … asks whether another one is there, and answers that itself …
    line(Right::Publish, Way::Publish, "deltabus.{source}.transmitter"),
    line(Right::Publish, Way::Listen, "deltabus.{source}.transmitter"),
    // … and reads back its own log, and the edits of all.
    line(Right::Publish, Way::Listen, "deltabus.{source}.live"),
    line(Right::Publish, Way::Listen, "deltabus.{source}.reverse.*"),
    line(Right::Publish, Way::Publish, "$JS.API.STREAM.INFO.deltabus_{source}"),
    line(Right::Publish, Way::Publish, "$JS.API.STREAM.INFO.deltabus_{source}_SNAPSHOT"),
    line(Right::Publish, Way::Publish, "$JS.API.STREAM.INFO.deltabus_{source}_REVERSE"),
    line(Right::Publish, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}"),
    line(Right::Publish, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}.>"),
    line(Right::Publish, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}_SNAPSHOT"),
    line(Right::Publish, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}_SNAPSHOT.>"),
    line(Right::Publish, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}_REVERSE"),
    line(Right::Publish, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}_REVERSE.>"),
    // A receiver follows the log and reads what is stored.
    line(Right::Read, Way::Listen, "deltabus.{source}.live"),
    line(Right::Read, Way::Publish, "$JS.API.STREAM.INFO.deltabus_{source}"),
    line(Right::Read, Way::Publish, "$JS.API.STREAM.INFO.deltabus_{source}_SNAPSHOT"),
    line(Right::Read, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}"),
    line(Right::Read, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}.>"),
    line(Right::Read, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}_SNAPSHOT"),
    line(Right::Read, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}_SNAPSHOT.>"),
    // Edits go out under its own names, and of those on their way only its own can be read. (The stream holds one source: the
    // star is that source.)
    line(Right::Reverse, Way::Publish, "deltabus.{source}.reverse.{receiver}"),
    line(Right::Reverse, Way::Publish, "$JS.API.DIRECT.GET.deltabus_{source}_REVERSE.deltabus.*.reverse.{receiver}"),
    // What large values in edits hold: stored under its hash, by which every reader tests it.
    line(Right::Reverse, Way::Publish, "deltabus.{source}.snapshot.chunk.*"),
    line(Right::Reverse, Way::Publish, "deltabus.{source}.snapshot.value.*"),
];

const fn line(right: Right, way: Way, subject: &'static str) -> Line {
    Line { right, way, subject }
}

impl Rights {
    /// Takes rights from a message; every name is checked.
    pub fn from_wire(rights: &v1::Rights) -> Result<Rights, NameError> {
        let sources = |names: &[String]| -> Result<BTreeSet<String>, NameError> {
            names.iter().map(|name| SourceName::new(name).map(|name| name.to_string())).collect()
        };
        let receivers = rights.receivers.iter().map(|name| ReceiverName::new(name).map(|name| name.to_string()));
        Ok(Rights {
            publish: sources(&rights.publish)?,
            read: sources(&rights.read)?,
            reverse: sources(&rights.reverse)?,
            receivers: receivers.collect::<Result<_, _>>()?,
            administrate: rights.administrate,
        })
    }

    /// As a message.
    pub fn to_wire(&self) -> v1::Rights {
        let names = |names: &BTreeSet<String>| names.iter().cloned().collect();
        v1::Rights {
            publish: names(&self.publish),
            read: names(&self.read),
            reverse: names(&self.reverse),
            receivers: names(&self.receivers),
            administrate: self.administrate,
        }
    }

    /// Whether nothing at all is allowed.
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.read.is_empty() && self.reverse.is_empty() && !self.administrate
    }

    /// Whether there are more names than one participant can have.
    pub fn is_too_much(&self) -> bool {
        let sources = [&self.publish, &self.read, &self.reverse];
        sources.iter().any(|names| names.len() > NAMES_MAX) || self.receivers.len() > RECEIVERS_MAX
    }

    /// All of both.
    pub fn and(&self, more: &Rights) -> Rights {
        let both = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.union(b).cloned().collect();
        Rights {
            publish: both(&self.publish, &more.publish),
            read: both(&self.read, &more.read),
            reverse: both(&self.reverse, &more.reverse),
            receivers: both(&self.receivers, &more.receivers),
            administrate: self.administrate || more.administrate,
        }
    }

    /// These without those.
    pub fn without(&self, less: &Rights) -> Rights {
        let rest = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
        Rights {
            publish: rest(&self.publish, &less.publish),
            read: rest(&self.read, &less.read),
            reverse: rest(&self.reverse, &less.reverse),
            receivers: rest(&self.receivers, &less.receivers),
            administrate: self.administrate && !less.administrate,
        }
    }

    /// Whether it has to do with a source at all.
    pub fn concerns(&self, source: &str) -> bool {
        [&self.publish, &self.read, &self.reverse].iter().any(|sources| sources.contains(source))
    }

    /// The tags of a user with these rights, from which the broker fills in the template.
    pub(crate) fn tags(&self) -> Vec<String> {
        let tagged = |tag: &'static str, names: &BTreeSet<String>| {
            names.iter().map(move |name| format!("{tag}:{name}")).collect::<Vec<_>>()
        };
        let kinds = [(Right::Publish, &self.publish), (Right::Read, &self.read), (Right::Reverse, &self.reverse)];
        let mut tags: Vec<String> =
            kinds.into_iter().filter_map(|(right, names)| Some(tagged(right.tag()?, names))).flatten().collect();
        tags.extend(tagged("receiver", &self.receivers));
        tags
    }

    /// What the broker is told once: the table with places for names and tags.
    pub(crate) fn template() -> Value {
        let subjects =
            |way: Way| -> Vec<String> { TABLE.iter().filter(|line| line.way == way).map(Line::template).collect() };
        json!({
            "pub": { "allow": subjects(Way::Publish) },
            "sub": { "allow": subjects(Way::Listen) },
            "resp": { "max": 1, "ttl": ANSWER_NANOS },
            "subs": SUBSCRIPTIONS_MAX, "data": -1, "payload": -1,
        })
    }

    /// Streams that have to be there for these rights: those of the sources that it publishes.
    pub(crate) fn sources_published(&self) -> impl Iterator<Item = SourceName> + '_ {
        self.publish.iter().filter_map(|name| SourceName::new(name).ok())
    }
}

impl Line {
    fn template(&self) -> String {
        let source = self.right.tag().map(|tag| format!("{{{{tag({tag})}}}}")).unwrap_or_default();
        self.subject
            .replace("{source}", &source)
            .replace("{receiver}", "{{tag(receiver)}}")
            .replace("{name}", "{{name()}}")
    }
}

/// The table of rights by subject, as it stands in SECURITY.md: right, publish or listen, subject.
pub fn table() -> Vec<(&'static str, &'static str, &'static str)> {
    let way = |line: &Line| match line.way {
        Way::Publish => "publish",
        Way::Listen => "subscribe",
    };
    TABLE.iter().map(|line| (line.right.tag().unwrap_or("any"), way(line), line.subject)).collect()
}

/// The names of a source's streams, for whoever asks where they are.
pub(crate) fn streams(source: &SourceName) -> (String, String, String) {
    (Stream::Changes.name(source), Stream::Snapshot.name(source), Stream::Reverse.name(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as SECURITY.md shows it.
    fn documented() -> String {
        let mut text = String::from("| right | may | subject |\n|---|---|---|\n");
        for (right, way, subject) in table() {
            text.push_str(&format!("| {right} | {way} | `{subject}` |\n"));
        }
        text
    }

    #[test]
    fn the_table_in_security_md_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../SECURITY.md");
        let security = std::fs::read_to_string(path).expect("SECURITY.md is there");
        assert!(security.contains(&documented()), "SECURITY.md should have this table:\n{}", documented());
    }

    #[test]
    fn no_line_lets_anybody_make_change_or_empty_a_stream() {
        for (right, way, subject) in table() {
            for verb in [
                "STREAM.CREATE",
                "STREAM.UPDATE",
                "STREAM.DELETE",
                "STREAM.PURGE",
                "STREAM.MSG",
                "STREAM.RESTORE",
                "$KV",
                "$SYS",
            ] {
                assert!(!subject.contains(verb), "{right} {way} {subject}");
            }
            assert!(subject != ">" && !subject.starts_with('*'), "{right} {way} {subject}");
        }
    }

    #[test]
    fn names_that_could_be_wildcards_or_templates_are_no_names() {
        for name in ["*", ">", "a.b", "{{name()}}", "", "A", "a b", "ä", &"a".repeat(65)] {
            let names = vec![name.to_owned()];
            for rights in [
                v1::Rights { publish: names.clone(), ..v1::Rights::default() },
                v1::Rights { read: names.clone(), ..v1::Rights::default() },
                v1::Rights { reverse: names.clone(), ..v1::Rights::default() },
                v1::Rights { receivers: names.clone(), ..v1::Rights::default() },
            ] {
                assert!(Rights::from_wire(&rights).is_err(), "{name:?}");
            }
        }
    }

    #[test]
    fn what_is_added_and_taken_away_is_what_is_left() {
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let one = Rights { read: set(&["a", "b"]), administrate: true, ..Rights::default() };
        let two = Rights { read: set(&["b", "c"]), publish: set(&["a"]), ..Rights::default() };
        let both = one.and(&two);
        assert_eq!(both.read, set(&["a", "b", "c"]));
        assert!(both.administrate && both.publish == set(&["a"]));
        assert_eq!(both.without(&two).read, set(&["a"]));
        assert_eq!(Rights::from_wire(&both.to_wire()), Ok(both));
    }
}
