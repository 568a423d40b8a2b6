//! Whether a revision has arrived, where, and waiting until it has.

use std::time::Duration;

use deltabus_record::schema::{ReceiverName, SourceName};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::look::{Looker, Receiver};
use super::picture::ago;
use crate::error::Error;
use crate::moment::now_millis;

/// How often is asked where a revision has arrived.
const ASK: Duration = Duration::from_millis(200);

/// The same under a manager, to whom receivers report every few seconds.
const ASK_MANAGER: Duration = Duration::from_secs(2);

/// How long is waited unless told otherwise.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// Whose arrival is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// So many, whoever.
    Count(u64),
    /// Everybody who is known and not gone; at least one.
    All,
    /// This one.
    Name(ReceiverName),
}

impl std::str::FromStr for Awaited {
    type Err = String;

    fn from_str(text: &str) -> Result<Awaited, String> {
        if text == "all" {
            return Ok(Awaited::All);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let count = text.parse().map_err(|_| format!("`{text}` are too many receivers"))?;
            return Ok(Awaited::Count(count));
        }
        ReceiverName::new(text)
            .map(Awaited::Name)
            .map_err(|error| format!("{error}; write how many receivers, `all`, or the names of some"))
    }
}

/// Several of them make sense only as names.
pub(crate) fn check(awaited: &[Awaited]) -> Result<(), Error> {
    let names = awaited.iter().all(|one| matches!(one, Awaited::Name(_)));
    if names || awaited.len() <= 1 {
        return Ok(());
    }
    Err(Error::Config("--wait takes a number, or `all`, or names: one kind at a time".into()))
}

/// Where a revision is, and where not yet.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) source: SourceName,
    pub(crate) revision: u64,
    /// Everybody who is known.
    pub(crate) receivers: Vec<Receiver>,
}

impl Arrival {
    /// Asks.
    pub(crate) async fn ask(looker: &mut Looker<'_>, source: &SourceName, revision: u64) -> Result<Arrival, Error> {
        looker.listen(std::slice::from_ref(source)).await?;
        let receivers = looker.receivers(source).await?;
        Ok(Arrival { source: source.clone(), revision, receivers })
    }

    fn has(&self, receiver: &Receiver) -> bool {
        receiver.revision >= self.revision
    }

    /// Whether it is with everybody who is known, gone or not, and there is somebody.
    pub(crate) fn is_everywhere(&self) -> bool {
        !self.receivers.is_empty() && self.receivers.iter().all(|receiver| self.has(receiver))
    }

    /// Who of those awaited has not got it, one phrase each; empty: all have.
    pub(crate) fn missing(&self, awaited: &[Awaited]) -> Vec<String> {
        let now = now_millis();
        let lacks = |receiver: &Receiver| phrase(receiver, now);
        let mut missing = Vec::new();
        for one in awaited {
            match one {
                Awaited::Count(count) => {
                    let have = self.receivers.iter().filter(|receiver| self.has(receiver)).count() as u64;
                    if have < *count {
                        missing.push(format!("{have} of {count} receivers have it"));
                        missing.extend(self.receivers.iter().filter(|receiver| !self.has(receiver)).map(lacks));
                    }
                }
                Awaited::All => {
                    let there = self.receivers.iter().filter(|receiver| !receiver.gone);
                    missing.extend(there.clone().filter(|receiver| !self.has(receiver)).map(lacks));
                    if there.count() == 0 {
                        missing.push("no receiver is there".into());
                        missing.extend(self.receivers.iter().map(lacks));
                    }
                }
                Awaited::Name(name) => match self.receivers.iter().find(|receiver| receiver.name == *name) {
                    Some(receiver) if self.has(receiver) => {}
                    Some(receiver) => missing.push(lacks(receiver)),
                    None => missing.push(format!("{name} (never heard of)")),
                },
            }
        }
        missing
    }

    /// As JSON.
    pub(crate) fn to_json(&self) -> Value {
        let receivers = self.receivers.iter().map(|receiver| {
            json!({
                "receiver": receiver.name.as_str(), "revision": receiver.revision, "arrived": self.has(receiver),
                "here": receiver.here, "gone": receiver.gone, "seen_millis": receiver.entry["seen_millis"],
                "error": receiver.entry["error"],
            })
        });
        json!({
            "source": self.source.as_str(), "revision": self.revision, "everywhere": self.is_everywhere(),
            "receivers": receivers.collect::<Vec<_>>(),
        })
    }

    /// For each receiver: its name, the revision that it is at, whether that is enough, and what else there is to know.
    pub(crate) fn rows(&self) -> Vec<[String; 4]> {
        let now = now_millis();
        let row = |receiver: &Receiver| {
            let arrived = if self.has(receiver) { "yes" } else { "not yet" };
            let state = match (receiver.gone, receiver.entry["error"].as_str()) {
                (true, _) => gone(receiver, now),
                (false, Some(error)) => format!("error: {error}"),
                (false, None) if receiver.here => "running".into(),
                (false, None) => "running elsewhere".into(),
            };
            [receiver.name.to_string(), receiver.revision.to_string(), arrived.into(), state]
        };
        self.receivers.iter().map(row).collect()
    }
}

/// `oslo (at revision 3; gone, last seen 3 h ago)`.
fn phrase(receiver: &Receiver, now_millis: u64) -> String {
    let mut text = format!("{} (at revision {}", receiver.name, receiver.revision);
    if receiver.gone {
        text.push_str(&format!("; {}", gone(receiver, now_millis)));
    } else if let Some(error) = receiver.entry["error"].as_str() {
        text.push_str(&format!("; {error}"));
    }
    text.push(')');
    text
}

fn gone(receiver: &Receiver, now_millis: u64) -> String {
    let seen = receiver.seen_millis.filter(|millis| *millis > 0);
    seen.map_or("gone".into(), |seen| format!("gone, last seen {}", ago(seen, now_millis)))
}

/// Waits until a revision is with all who are awaited, until `end` at the latest; gives who lacks it then.
pub(crate) async fn wait(
    looker: &mut Looker<'_>,
    source: &SourceName,
    revision: u64,
    awaited: &[Awaited],
    end: Instant,
) -> Result<Vec<String>, Error> {
    loop {
        let missing = Arrival::ask(looker, source, revision).await?.missing(awaited);
        if missing.is_empty() || Instant::now() >= end {
            looker.keep(source).await;
            return Ok(missing);
        }
        let pause = if looker.is_managed() { ASK_MANAGER } else { ASK };
        sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver(name: &str, revision: u64, gone: bool) -> Receiver {
        let name = ReceiverName::new(name).expect("it is a name");
        Receiver { name, here: true, gone, revision, seen_millis: None, entry: json!({ "error": null }) }
    }

    fn arrival(receivers: Vec<Receiver>) -> Arrival {
        Arrival { source: SourceName::new("people").expect("it is a name"), revision: 5, receivers }
    }

    fn awaited(text: &str) -> Vec<Awaited> {
        text.split(',').map(|one| one.parse().expect("it is understood")).collect()
    }

    #[test]
    fn a_number_all_or_names_are_awaited() {
        assert_eq!(awaited("2"), [Awaited::Count(2)]);
        assert_eq!(awaited("all"), [Awaited::All]);
        assert!(matches!(awaited("crm,oslo-2").as_slice(), [Awaited::Name(_), Awaited::Name(_)]));
        for wrong in ["", "CRM", "a b", "-1", "99999999999999999999999"] {
            assert!(wrong.parse::<Awaited>().is_err(), "{wrong}");
        }
        assert!(check(&awaited("crm,oslo")).is_ok() && check(&awaited("all")).is_ok());
        assert!(check(&awaited("crm,2")).is_err() && check(&awaited("all,2")).is_err());
    }

    #[test]
    fn whoever_lacks_the_revision_is_named() {
        let some = arrival(vec![receiver("a", 5, false), receiver("b", 4, false), receiver("c", 3, true)]);
        for (who, missing) in [
            ("1", &[][..]),
            ("0", &[]),
            ("a", &[]),
            ("all", &["b (at revision 4)"]),
            ("c,x", &["c (at revision 3; gone)", "x (never heard of)"]),
            ("2", &["1 of 2 receivers have it", "b (at revision 4)", "c (at revision 3; gone)"]),
        ] {
            assert_eq!(some.missing(&awaited(who)), missing, "{who}");
        }
        assert!(!some.is_everywhere());
    }

    #[test]
    fn who_is_gone_is_not_waited_for_and_lacks_it_all_the_same() {
        let some = arrival(vec![receiver("a", 6, false), receiver("c", 3, true)]);
        assert!(some.missing(&awaited("all")).is_empty() && !some.is_everywhere());
        assert!(arrival(vec![receiver("a", 6, false), receiver("c", 5, true)]).is_everywhere());
    }

    #[test]
    fn nobody_is_not_everybody() {
        let nobody = arrival(Vec::new());
        assert!(!nobody.is_everywhere());
        assert_eq!(nobody.missing(&awaited("all")), ["no receiver is there"]);
        let left = arrival(vec![receiver("c", 9, true)]);
        assert_eq!(left.missing(&awaited("all")), ["no receiver is there", "c (at revision 9; gone)"]);
    }
}
