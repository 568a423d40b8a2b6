//! `deltabus who` and `audit`: what a manager knows, and what it decided.

use std::collections::BTreeMap;
use std::io::Write;

use comfy_table::{Table, TableStyle};
use deltabus_manager::v1;
use deltabus_manager::v1::standing::Role;
use deltabus_record::text::printable;
use serde_json::{Value, json};

use crate::arguments::{Audit, Global, Who};
use crate::commands::administration::{administrator, rights_text};
use crate::error::{Error, Exit};
use crate::moment::now_millis;
use crate::output::{counted, time_text};

/// Who was not heard of for so long is gone: reports come every few seconds, and are written down every ten.
pub(crate) const GONE_MILLIS: u64 = 30_000;

/// Runs `who`.
pub(crate) async fn who(global: &Global, options: Who) -> Result<Exit, Error> {
    let client = administrator(global).await?;
    if !options.watch {
        show(&client.who().await?.participants, options.json)?;
        return Ok(Exit::Done);
    }
    let mut changes = client.watch().await?;
    let mut known: BTreeMap<String, v1::Participant> = BTreeMap::new();
    while let Some(changed) = changes.message().await.map_err(|status| client.failed(&status))? {
        if options.json {
            show(&changed.participants, true)?;
            continue;
        }
        known.extend(changed.participants.into_iter().map(|participant| (participant.name.clone(), participant)));
        // Home, and clear what follows: redrawn in place.
        print!("\x1b[H\x1b[J");
        show(&known.values().cloned().collect::<Vec<_>>(), false)?;
    }
    Ok(Exit::Done)
}

fn show(participants: &[v1::Participant], as_json: bool) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    if as_json {
        for participant in participants {
            writeln!(out, "{}", participant_json(participant))?;
        }
    } else {
        write!(out, "{}", table(participants))?;
    }
    Ok(out.flush()?)
}

fn table(participants: &[v1::Participant]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(["NAME", "MAY", "SEEN", "SOURCE", "REVISION", "BEHIND", "STATE"]);
    for participant in participants {
        let rights = rights_text(&participant.rights.clone().unwrap_or_default());
        let mut name = participant.name.clone();
        let (mut may, mut seen) = (rights, seen(participant));
        if participant.standings.is_empty() {
            table.add_row([name, may, seen, String::new(), String::new(), String::new(), String::new()]);
            continue;
        }
        for lagging in &participant.standings {
            let standing = lagging.standing.clone().unwrap_or_default();
            let behind = if standing.role() == Role::Receiver { lagging.behind.to_string() } else { String::new() };
            table.add_row([
                std::mem::take(&mut name),
                std::mem::take(&mut may),
                std::mem::take(&mut seen),
                standing.source.clone(),
                standing.revision.to_string(),
                behind,
                state(&standing),
            ]);
        }
    }
    format!("{table}\n")
}

fn seen(participant: &v1::Participant) -> String {
    if participant.revoked {
        return "revoked".into();
    }
    if participant.key.is_empty() {
        return "not enrolled yet".into();
    }
    match now_millis().saturating_sub(participant.seen_millis) {
        _ if participant.seen_millis == 0 => "never".into(),
        millis if millis < GONE_MILLIS => "now".into(),
        _ => format!("gone since {}", time_text(participant.seen_millis)),
    }
}

fn state(standing: &v1::Standing) -> String {
    let mut parts = Vec::new();
    if !standing.receiver.is_empty() {
        parts.push(format!("receiver {}", standing.receiver));
    }
    for (count, one) in [
        (standing.waiting, "waiting set"),
        (standing.conflicts, "conflict"),
        (standing.dead_letters, "dead letter"),
        (standing.drift, "drifted record"),
    ] {
        if count > 0 {
            parts.push(counted(count, one));
        }
    }
    if !standing.held.is_empty() {
        parts.push(format!("held back: {}", standing.held));
    }
    if !standing.problem.is_empty() {
        parts.push(standing.problem.clone());
    }
    printable(&parts.join(", "))
}

fn participant_json(participant: &v1::Participant) -> Value {
    let rights = participant.rights.clone().unwrap_or_default();
    let standings = participant.standings.iter().map(|lagging| {
        let standing = lagging.standing.clone().unwrap_or_default();
        json!({
            "role": match standing.role() {
                Role::Transmitter => "transmitter",
                Role::Receiver => "receiver",
                Role::Unspecified => "unknown",
            },
            "source": standing.source, "receiver": standing.receiver, "revision": standing.revision, "records": standing.records,
            "behind": lagging.behind, "waiting": standing.waiting, "conflicts": standing.conflicts,
            "dead_letters": standing.dead_letters, "drift": standing.drift, "held": standing.held, "problem": standing.problem,
        })
    });
    json!({
        "name": participant.name,
        "publish": rights.publish, "read": rights.read, "reverse": rights.reverse, "receivers": rights.receivers,
        "administrate": rights.administrate, "revoked": participant.revoked, "enrolled_millis": participant.enrolled_millis,
        "seen_millis": participant.seen_millis, "standings": standings.collect::<Vec<_>>(),
    })
}

/// Runs `audit`.
pub(crate) async fn audit(global: &Global, options: Audit) -> Result<Exit, Error> {
    let client = administrator(global).await?;
    let request = v1::AuditRequest { since_millis: options.since.unwrap_or_default(), follow: options.follow };
    let mut entries = client.audit(request).await?;
    while let Some(entry) = entries.message().await.map_err(|status| client.failed(&status))? {
        let mut out = std::io::stdout().lock();
        if options.json {
            let entry = json!({
                "millis": entry.millis, "who": entry.who, "action": entry.action, "about": entry.about,
                "allowed": entry.allowed, "detail": entry.detail, "manager": entry.manager,
            });
            writeln!(out, "{entry}")?;
        } else {
            let verdict = if entry.allowed { "allowed" } else { "REFUSED" };
            let line =
                format!("{:<14} {:<11} {:<14} {verdict}  {}", entry.who, entry.action, entry.about, entry.detail);
            writeln!(out, "{}  {}", time_text(entry.millis), printable(&line))?;
        }
        out.flush()?;
    }
    Ok(Exit::Done)
}
