//! `deltabus enroll`, `grant` and `revoke`: who may do what.

use deltabus_certificates::{Existing, write_private};
use deltabus_manager::{Client, TOKEN_LIFE_MAX, Token, TokenKind, v1};
use deltabus_record::text::printable;

use crate::arguments::{Enroll, Global, Grant, Rights};
use crate::error::{Error, Exit};
use crate::membership::{self, Wanted};
use crate::session;

/// The manager, as its administrator.
pub(crate) async fn administrator(global: &Global) -> Result<Client, Error> {
    let state = session::state(global)?;
    let identity = membership::identity(global, &state, Wanted::Administrate).await?;
    Ok(Client::new(identity)?)
}

/// Makes a token.
pub(crate) async fn enroll(global: &Global, options: Enroll) -> Result<Exit, Error> {
    let life = options.life;
    if life.as_secs() == 0 || life > TOKEN_LIFE_MAX {
        let days = TOKEN_LIFE_MAX.as_secs() / 86_400;
        return Err(Error::Config(format!("--for is a second to {days} days")));
    }
    if let Some(path) = options.output.as_ref().filter(|path| path.exists()) {
        return Err(Error::Config(format!("{} is there already", path.display())));
    }
    let client = administrator(global).await?;
    let name = options.name.to_string();
    let invitation = v1::Invitation { name: name.clone(), rights: Some(options.rights.to_wire()) };
    let seconds = u32::try_from(life.as_secs()).unwrap_or(u32::MAX);
    let invited = client.invite(v1::InviteRequest { invitations: vec![invitation], seconds }).await?;
    let secret = invited.secrets.first().ok_or_else(|| Error::Trouble("the manager made no token".into()))?;
    let authority = client.identity().authority()?;
    let token = Token { kind: TokenKind::Enrolment, authority, secret: secret.to_vec() }.reveal();
    let file = match &options.output {
        Some(path) => {
            write_private(path, &format!("{token}\n"), Existing::Keep)?;
            path.display().to_string()
        }
        None => {
            println!("{token}");
            "FILE".to_owned()
        }
    };
    if !global.quiet {
        let manager = client.identity().manager().join(",");
        let rights = &options.rights;
        let command = match (rights.publish.first(), rights.reverse.first(), rights.read.first()) {
            (Some(source), ..) => format!("transmit {source} LOCATION"),
            (_, Some(source), _) => format!("receive {source} LOCATION --reverse"),
            (.., Some(source)) => format!("receive {source} LOCATION"),
            _ if rights.administrate => "who".to_owned(),
            _ => "receive SOURCE LOCATION".to_owned(),
        };
        eprintln!("good once, for {}: whoever holds it becomes `{name}`. There:", life_text(life));
        eprintln!("deltabus {command} --manager {manager} --token-file {file}");
    }
    Ok(Exit::Done)
}

/// Gives rights.
pub(crate) async fn grant(global: &Global, options: Grant) -> Result<Exit, Error> {
    let rights = options.rights.to_wire();
    if rights == v1::Rights::default() {
        return Err(Error::Config(
            "name what to grant: --publish, --read, --reverse, --receiver or --administrate".into(),
        ));
    }
    let client = administrator(global).await?;
    let granted = client.grant(v1::GrantRequest { name: options.name.to_string(), rights: Some(rights) }).await?;
    say(global, &options.name.to_string(), granted.rights);
    Ok(Exit::Done)
}

/// Takes rights.
pub(crate) async fn revoke(global: &Global, options: Grant) -> Result<Exit, Error> {
    let client = administrator(global).await?;
    let request = v1::RevokeRequest { name: options.name.to_string(), rights: Some(options.rights.to_wire()) };
    let left = client.revoke(request).await?;
    say(global, &options.name.to_string(), left.rights);
    Ok(Exit::Done)
}

fn say(global: &Global, name: &str, rights: Option<v1::Rights>) {
    if !global.quiet {
        println!("{name}: {}", rights_text(&rights.unwrap_or_default()));
    }
}

/// What somebody may do, in words.
pub(crate) fn rights_text(rights: &v1::Rights) -> String {
    // Whoever may send edits may read.
    let read: Vec<_> = rights.read.iter().filter(|source| !rights.reverse.contains(source)).cloned().collect();
    let mut parts = Vec::new();
    for (what, names) in [("publish", &rights.publish), ("read", &read), ("reverse", &rights.reverse)] {
        if !names.is_empty() {
            parts.push(format!("{what} {}", names.join(",")));
        }
    }
    if rights.receivers.len() > 1 {
        parts.push(format!("as {}", rights.receivers.join(",")));
    }
    if rights.administrate {
        parts.push("administrate".into());
    }
    if parts.is_empty() { "nothing".into() } else { printable(&parts.join("; ")) }
}

fn life_text(life: std::time::Duration) -> String {
    match life.as_secs() {
        seconds if seconds % 86_400 == 0 => crate::output::counted(seconds / 86_400, "day"),
        seconds if seconds % 3_600 == 0 => crate::output::counted(seconds / 3_600, "hour"),
        seconds if seconds % 60 == 0 => crate::output::counted(seconds / 60, "minute"),
        seconds => crate::output::counted(seconds, "second"),
    }
}

impl Rights {
    fn to_wire(&self) -> v1::Rights {
        fn names<T: ToString>(names: &[T]) -> Vec<String> {
            names.iter().map(ToString::to_string).collect()
        }
        v1::Rights {
            publish: names(&self.publish),
            read: names(&self.read),
            reverse: names(&self.reverse),
            receivers: names(&self.receiver),
            administrate: self.administrate,
        }
    }
}
