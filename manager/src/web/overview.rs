//! All sources and receivers at one look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use deltabus_proto::manager::v1;
use deltabus_proto::manager::v1::standing::Role;
use deltabus_record::schema::SourceName;
use serde_json::{Value, json};

use super::book::{Book, opened};
use super::ring::SPAN_MILLIS;
use super::show::text;
use crate::registry::Participant;

/// Who was not heard of for so long is gone: reports come every few seconds, and are written down every ten.
const GONE_MILLIS: u64 = 30_000;

/// Receivers that have ended are remembered, of one participant; the oldest are forgotten.
const FORMER_MAX: usize = 64;

/// A participant, and how it stands, as last heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Person {
    pub(super) participant: Participant,
    pub(super) seen_millis: u64,
    pub(super) standings: Vec<v1::Standing>,
    /// Receivers of which it told before and no longer does, with when it last did: they have ended, and others there go on.
    pub(super) former: Vec<(u64, v1::Standing)>,
}

impl Person {
    /// The same after what was known of it `before`.
    pub(super) fn after(mut self, before: Option<&Person>) -> Person {
        let Some(before) = before else { return self };
        let same =
            |a: &v1::Standing, b: &v1::Standing| (a.role, &a.source, &a.receiver) == (b.role, &b.source, &b.receiver);
        let told = before.standings.iter().map(|standing| (before.seen_millis, standing.clone()));
        let all = before.former.iter().cloned().chain(told.filter(|(_, told)| told.role() == Role::Receiver));
        self.former = all.filter(|(_, former)| !self.standings.iter().any(|now| same(now, former))).collect();
        let more = self.former.len().saturating_sub(FORMER_MAX);
        self.former.drain(..more);
        self
    }

    fn is_gone(&self, now_millis: u64) -> bool {
        self.participant.revoked || now_millis.saturating_sub(self.seen_millis) > GONE_MILLIS
    }

    fn standing(&self, role: Role, source: &str) -> impl Iterator<Item = &v1::Standing> {
        self.standings.iter().filter(move |standing| standing.role() == role && standing.source == source)
    }
}

/// Where a receiver of a source runs, or ran.
pub(super) fn home<'a>(people: &'a [Person], source: &SourceName, receiver: &str) -> Option<&'a Person> {
    let here = |person: &&Person| {
        let former = person.former.iter().map(|(_, former)| former).filter(|former| former.source == source.as_str());
        person.standing(Role::Receiver, source.as_str()).chain(former).any(|standing| standing.receiver == receiver)
    };
    // Of several of one name the one that was heard of last.
    people.iter().filter(here).max_by_key(|person| person.seen_millis)
}

/// The delete of a source that is held back, in its transmitter's words; empty: none is.
pub(super) fn held<'a>(people: &'a [Person], source: &SourceName) -> &'a str {
    let transmitters = people.iter().filter(|person| !person.participant.revoked);
    let standings = transmitters.flat_map(|person| {
        person.standing(Role::Transmitter, source.as_str()).map(move |standing| (person.seen_millis, standing))
    });
    standings.max_by_key(|(seen, _)| *seen).map(|(_, standing)| standing.held.as_str()).unwrap_or_default()
}

/// The sources that anybody has to do with.
pub(super) fn sources(people: &[Person]) -> BTreeSet<SourceName> {
    let living = people.iter().filter(|person| !person.participant.revoked);
    let named =
        living.flat_map(|person| person.participant.rights.publish.iter().chain(&person.participant.rights.read));
    named.filter_map(|name| SourceName::new(name).ok()).collect()
}

/// Everything, as a browser gets it.
pub(super) fn overview(
    people: &[Person],
    books: &BTreeMap<SourceName, Arc<Mutex<Book>>>,
    unreachable: &BTreeSet<SourceName>,
    now_millis: u64,
) -> Value {
    let sources = sources(people).into_iter().map(|source| {
        let book = books.get(&source).map(|book| opened(book));
        let (conflicts, open, refused) = book.as_ref().map(|book| book.counts()).unwrap_or_default();
        let revision = book.as_ref().map_or(0, |book| book.revision);
        json!({
            "name": source.as_str(), "revision": revision,
            "records": book.as_ref().map_or(0, |book| book.records),
            "time_millis": book.as_ref().map_or(0, |book| book.time_millis),
            "complete": book.as_ref().is_none_or(|book| book.complete),
            "readable": !unreachable.contains(&source),
            "conflicts": conflicts, "open": open, "dead_letters": refused,
            "line": book.as_ref().map(|book| book.ring.line(now_millis)).unwrap_or_default(),
            "transmitters": transmitters(people, &source, now_millis),
            "receivers": receivers(people, &source, revision, now_millis),
        })
    });
    json!({ "span_millis": SPAN_MILLIS, "sources": sources.collect::<Vec<_>>() })
}

fn transmitters(people: &[Person], source: &SourceName, now_millis: u64) -> Vec<Value> {
    let publishers = people.iter().filter(|person| person.participant.rights.publish.contains(source.as_str()));
    publishers
        .map(|person| {
            let standing = person.standing(Role::Transmitter, source.as_str()).next().cloned().unwrap_or_default();
            json!({
                "participant": person.participant.name, "seen_millis": person.seen_millis,
                "gone": person.is_gone(now_millis), "revision": standing.revision, "waiting": standing.waiting,
                "held": text(&standing.held), "problem": text(&standing.problem),
            })
        })
        .collect()
}

fn receivers(people: &[Person], source: &SourceName, revision: u64, now_millis: u64) -> Vec<Value> {
    let mut receivers = Vec::new();
    for person in people {
        let participant = &person.participant;
        let mut known = false;
        let former = person.former.iter().filter(|(_, former)| former.source == source.as_str());
        let there = person.standing(Role::Receiver, source.as_str());
        let there = there.map(|standing| (person.seen_millis, person.is_gone(now_millis), standing));
        for (seen_millis, gone, standing) in there.chain(former.map(|(seen, standing)| (*seen, true, standing))) {
            known = true;
            receivers.push(json!({
                "name": standing.receiver, "participant": participant.name, "seen_millis": seen_millis,
                "gone": gone, "revoked": participant.revoked,
                "reverse": participant.rights.reverse.contains(source.as_str()),
                "revision": standing.revision, "behind": revision.saturating_sub(standing.revision),
                "records": standing.records, "waiting": standing.waiting, "dead_letters": standing.dead_letters,
                "drift": standing.drift, "problem": text(&standing.problem),
            }));
        }
        let rights = &participant.rights;
        // Somebody who may, and was never seen to do so.
        let expected = rights.read.contains(source.as_str()) && !rights.publish.contains(source.as_str());
        if !known && expected && !participant.revoked && !rights.administrate {
            receivers.push(json!({
                "name": participant.name, "participant": participant.name, "seen_millis": person.seen_millis,
                "gone": true, "never": true, "reverse": rights.reverse.contains(source.as_str()),
            }));
        }
    }
    receivers
}

#[cfg(test)]
mod tests {
    use crate::rights::Rights;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn person(name: &str, rights: Rights, seen_millis: u64, standings: Vec<v1::Standing>) -> Person {
        let participant = Participant { name: name.into(), rights, key: Some("U".into()), ..Participant::default() };
        Person { participant, seen_millis, standings, former: Vec::new() }
    }

    fn reads() -> Rights {
        Rights { read: ["people".to_owned()].into(), ..Rights::default() }
    }

    fn receiver(name: &str, revision: u64) -> v1::Standing {
        v1::Standing {
            role: Role::Receiver.into(),
            source: "people".into(),
            receiver: name.into(),
            revision,
            ..v1::Standing::default()
        }
    }

    fn people() -> Vec<Person> {
        let publishes = Rights { publish: ["people".to_owned()].into(), ..Rights::default() };
        let standing = v1::Standing {
            role: Role::Transmitter.into(),
            source: "people".into(),
            revision: 9,
            held: "3 of 4 records".into(),
            ..v1::Standing::default()
        };
        vec![
            person("shop", publishes, NOW, vec![standing]),
            person("crm", reads(), NOW - 1_000, vec![receiver("crm", 7)]),
            person("old", reads(), NOW - GONE_MILLIS - 1, vec![receiver("old", 2)]),
            person("new", reads(), 0, Vec::new()),
        ]
    }

    #[test]
    fn who_is_there_who_is_gone_and_who_never_came() {
        let source = SourceName::new("people").expect("a name");
        let book = Arc::new(Mutex::new(Book { revision: 9, records: 4, complete: true, ..Book::default() }));
        let all = overview(&people(), &[(source, book)].into(), &BTreeSet::new(), NOW);
        let source = &all["sources"][0];
        assert_eq!((&source["name"], &source["revision"]), (&json!("people"), &json!(9)));
        assert_eq!(source["transmitters"][0]["held"], "3 of 4 records");
        let states: Vec<_> = source["receivers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| (one["name"].as_str().expect("a name"), one["gone"] == true, one["behind"].as_u64()))
            .collect();
        assert_eq!(states, [("crm", false, Some(2)), ("old", true, Some(7)), ("new", true, None)]);
        assert_eq!(source["receivers"][2]["never"], true);
    }

    #[test]
    fn a_receiver_that_ended_beside_others_is_gone_until_it_is_there_again() {
        let two = person("crm", reads(), NOW - 5_000, vec![receiver("crm", 7), receiver("sales", 6)]);
        let one = person("crm", reads(), NOW, vec![receiver("crm", 8)]).after(Some(&two));
        let source = SourceName::new("people").expect("a name");
        let seen = |people: &[Person]| -> Vec<(String, bool, u64)> {
            let text = |one: &Value| one["name"].as_str().expect("a name").to_owned();
            let of = |one: &Value| (text(one), one["gone"] == true, one["seen_millis"].as_u64().expect("a time"));
            receivers(people, &source, 8, NOW).iter().map(of).collect()
        };
        let expected = [("crm".to_owned(), false, NOW), ("sales".to_owned(), true, NOW - 5_000)];
        assert_eq!(seen(std::slice::from_ref(&one)), expected);
        let again = person("crm", reads(), NOW, vec![receiver("crm", 8), receiver("sales", 8)]).after(Some(&one));
        assert!(seen(&[again]).iter().all(|(_, gone, _)| !gone));
        let mut many = person("crm", reads(), NOW, (0..500).map(|n| receiver(&format!("r{n}"), 1)).collect());
        many = person("crm", reads(), NOW, Vec::new()).after(Some(&many));
        assert_eq!(many.former.len(), FORMER_MAX);
    }

    #[test]
    fn a_receiver_is_asked_where_it_was_heard_of_last() {
        let source = SourceName::new("people").expect("a name");
        let mut people = people();
        people.push(person("crm-2", reads(), NOW, vec![receiver("crm", 8)]));
        let home_of = |name: &str| home(&people, &source, name).map(|person| person.participant.name.clone());
        assert_eq!(home_of("crm").as_deref(), Some("crm-2"));
        assert_eq!(home_of("nobody"), None);
        assert_eq!(held(&people, &source), "3 of 4 records");
        assert_eq!(held(&people, &SourceName::new("prices").expect("a name")), "");
    }
}
