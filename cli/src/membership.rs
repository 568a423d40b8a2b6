//! The bus as a manager gives it: who this process is there, where each source lies, and what it tells of itself.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deltabus_bus::Log;
use deltabus_bus::jetstream::JetStream;
use deltabus_manager::v1::standing::Role;
use deltabus_manager::{Client, Identities, Identity, Membership, Rights, Token, TokenKind, v1};
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::{StateDirectory, is_busy, read_status};
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};
use tokio_util::sync::CancellationToken;

use crate::arguments::Global;
use crate::attending;
use crate::commands::cases::CaseCounter;
use crate::commands::one_line;
use crate::error::Error;

/// How often a process tells the manager how it stands, and hears of changed rights.
const REPORT: Duration = Duration::from_secs(3);

/// How often a first connection is tried, and the pause in between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);

/// What a command wants to do, and with which source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// Be its transmitter, or speak with it.
    Publish(&'a SourceName),
    /// Read it.
    Read(&'a SourceName),
    /// Read it from now on.
    Receive(&'a SourceName),
    /// Whatever there is.
    Anything,
    /// Administer the manager.
    Administrate,
}

impl Wanted<'_> {
    /// How well somebody with these rights is suited; 0: not at all.
    fn suits(self, rights: &Rights) -> u8 {
        match self {
            Wanted::Publish(source) => u8::from(rights.publish.contains(source.as_str())),
            // Whoever may write the log may read it, but it is another's business.
            Wanted::Read(source) | Wanted::Receive(source) if rights.read.contains(source.as_str()) => 2,
            Wanted::Read(source) | Wanted::Receive(source) => u8::from(rights.concerns(source.as_str())),
            Wanted::Anything => u8::from(!rights.administrate),
            Wanted::Administrate => u8::from(rights.administrate),
        }
    }
}

/// The identities of a state directory.
pub(crate) fn identities(state: &StateDirectory) -> Identities {
    Identities::new(state.manager_folder())
}

/// The managers that were named.
pub(crate) fn managers(global: &Global) -> Option<Vec<String>> {
    let named = global.manager.as_ref()?;
    Some(named.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect())
}

/// Who this process is to the manager: by a token, which is used up if it is new; by name; or the one who may do what is wanted.
pub(crate) async fn identity(global: &Global, state: &StateDirectory, wanted: Wanted<'_>) -> Result<Identity, Error> {
    let identities = identities(state);
    let managers = managers(global);
    if let Some(token) = token(global)? {
        if token.kind != TokenKind::Enrolment {
            return Err(Error::Config(
                "that token is for a bus that a transmitter has opened: name it with --bus".into(),
            ));
        }
        let managers = managers.ok_or_else(|| Error::Config("name the token's manager with --manager".into()))?;
        return Ok(deltabus_manager::enroll(&managers, &token, &identities).await?.at(managers));
    }
    let mut all = identities.all()?;
    if let Some(name) = &global.identity {
        all.retain(|identity| identity.name() == name);
    } else if let Some(best) = all.iter().map(|identity| wanted.suits(identity.rights())).max().filter(|best| *best > 0)
    {
        all.retain(|identity| wanted.suits(identity.rights()) == best);
        if wanted == Wanted::Anything {
            all.truncate(1);
        }
    } else {
        // What it may do may have changed since it was last told.
        all.retain(|identity| !identity.rights().administrate || wanted == Wanted::Administrate);
    }
    let at = |identity: Identity| match managers {
        Some(managers) => identity.at(managers),
        None => identity,
    };
    match all.len() {
        1 => Ok(at(all.remove(0))),
        0 => Err(Error::Config(match &global.identity {
            Some(name) => format!("there is no identity `{name}` here: enrol with --token-file"),
            None if wanted == Wanted::Administrate => {
                "nobody here is an administrator: run this where the manager was set up, or enrol one with --token-file"
                    .into()
            }
            None => "nobody here has enrolled with that manager: `deltabus enroll` makes a token, --token-file uses it"
                .into(),
        })),
        _ => {
            let names: Vec<_> = all.iter().map(Identity::name).collect();
            Err(Error::Config(format!("who is to do this? Pick one with --identity ({})", names.join(", "))))
        }
    }
}

/// The token that was given, if one was.
pub(crate) fn token(global: &Global) -> Result<Option<Token>, Error> {
    let (text, place) = match (&global.token_file, &global.token) {
        (Some(path), _) if path.as_os_str() == "-" => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map_err(|source| Error::Io {
                doing: "read",
                path: "standard input".into(),
                source,
            })?;
            (line, "standard input".to_owned())
        }
        (Some(path), _) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|source| Error::Io { doing: "read", path: path.clone(), source })?;
            (text, path.display().to_string())
        }
        (None, Some(text)) => (text.clone(), "DELTABUS_TOKEN".to_owned()),
        (None, None) => return Ok(None),
    };
    text.parse().map(Some).map_err(|error| Error::Config(format!("{place}: {error}")))
}

/// The names that receivers may have here, the usual one first.
pub(crate) fn receiver_names(identity: &Identity, source: &SourceName) -> Vec<ReceiverName> {
    let rights = identity.rights();
    let own = std::iter::once(identity.name())
        .filter(|name| !rights.reverse.contains(source.as_str()) || rights.receivers.contains(*name));
    let named = rights.receivers.iter().map(String::as_str).filter(|name| *name != identity.name());
    own.chain(named).filter_map(|name| ReceiverName::new(name).ok()).collect()
}

/// A process's part in what a manager rules.
#[derive(Clone)]
pub(crate) struct Member {
    membership: Arc<Membership>,
    /// The connections, by the addresses that they go to.
    brokers: Arc<Mutex<HashMap<Vec<String>, Arc<JetStream>>>>,
    /// And where each source was found to lie.
    located: Arc<Mutex<HashMap<SourceName, Arc<JetStream>>>>,
    /// What the manager lets this process see, asked once.
    sources: Arc<OnceCell<Vec<SourceName>>>,
    state: StateDirectory,
    /// Conflicts and refused edits of the sources that are published here.
    cases: Arc<Mutex<CaseCounter>>,
    /// Why the manager wants nothing to do with this process any more.
    dismissed: Arc<OnceLock<String>>,
}

impl Member {
    /// As somebody.
    pub(crate) fn join(identity: Identity, state: &StateDirectory) -> Result<Member, Error> {
        let client = Arc::new(Client::new(identity)?);
        let membership = Membership::new(client, identities(state));
        let (brokers, located, sources) = (Arc::default(), Arc::default(), Arc::default());
        let (cases, dismissed) = (Arc::default(), Arc::default());
        Ok(Member { membership, brokers, located, sources, state: state.clone(), cases, dismissed })
    }

    /// The bus that has a source. The manager is asked first, so that its refusal is seen and not a connection that fails.
    pub(crate) async fn broker(&self, source: &SourceName) -> Result<Arc<JetStream>, Error> {
        let mut known = self.located.lock().await;
        if let Some(broker) = known.get(source) {
            return Ok(broker.clone());
        }
        let broker = self.locate(source).await?;
        known.insert(source.clone(), broker.clone());
        Ok(broker)
    }

    async fn locate(&self, source: &SourceName) -> Result<Arc<JetStream>, Error> {
        let located = self.membership.client().locate(source).await?;
        let mut brokers = self.brokers.lock().await;
        if let Some(broker) = brokers.get(&located.bus) {
            return Ok(broker.clone());
        }
        // Whoever set the bus up without TLS says so in its address.
        let plain = located.bus.iter().all(|url| url.starts_with("nats://"));
        let access = self.membership.access(plain)?;
        let mut attempt = 1;
        let broker = loop {
            match JetStream::connect(&located.bus.join(","), &access).await {
                Ok(broker) => break Arc::new(broker),
                // A broker that reads its configuration again lets nobody in for a moment; the manager has just said that we may.
                Err(error) if error.is_transient() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(deltabus_bus::Error::from(error).into()),
            }
            tokio::time::sleep(PAUSE).await;
        };
        brokers.insert(located.bus, broker.clone());
        Ok(broker)
    }

    /// What the manager lets this process see.
    pub(crate) async fn sources(&self) -> Result<Vec<SourceName>, Error> {
        let asked = self.sources.get_or_try_init(async || {
            let given = self.membership.client().credentials().await?;
            let rights = given.rights.unwrap_or_default();
            let names = rights.publish.iter().chain(&rights.read);
            let mut names: Vec<_> = names.filter_map(|name| SourceName::new(name).ok()).collect();
            names.sort();
            names.dedup();
            Ok::<_, Error>(names)
        });
        Ok(asked.await?.clone())
    }

    /// Tells the manager how what runs in this state directory stands, again and again, and renews what the bus is shown. When the
    /// manager dismisses this process, everything is stopped.
    pub(crate) fn attend(&self, stop: &CancellationToken) {
        tokio::spawn(self.clone().hear(stop.clone()));
        let (member, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            let mut unreachable = false;
            loop {
                match member.report().await {
                    Ok(()) => {
                        if std::mem::take(&mut unreachable) {
                            tracing::info!("the manager answers again");
                        }
                    }
                    Err(Error::Manager(error)) if !error.is_transient() => {
                        let _ = member.dismissed.set(one_line(&error));
                        stop.cancel();
                        return;
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut unreachable, true) {
                            tracing::warn!(
                                error = one_line(&error),
                                "the manager doesn't answer; going on without it while credentials last"
                            );
                        }
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(REPORT) => {}
                }
            }
        });
    }

    /// Answers what administrators ask of the receivers here, until `stop`.
    async fn hear(self, stop: CancellationToken) {
        let client = self.membership.client();
        loop {
            let heard = async {
                let mut requests = client.attend().await?;
                while let Some(request) = requests.message().await.map_err(|status| client.failed(&status))? {
                    let member = self.clone();
                    tokio::spawn(async move {
                        let answer = attending::answer(&member.state, request).await;
                        if let Err(error) = member.membership.client().answer(answer).await {
                            tracing::debug!(error = one_line(&error), "an answer didn't reach the manager");
                        }
                    });
                }
                Ok::<_, deltabus_manager::Error>(())
            };
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = heard => ended,
            };
            if let Err(error) = ended {
                // That the manager is away, or wants nothing to do with us, is told by whoever reports.
                tracing::debug!(error = one_line(&error), "nobody can ask anything here at the moment");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REPORT) => {}
            }
        }
    }

    /// One report.
    pub(crate) async fn report(&self) -> Result<(), Error> {
        let mut standings = standings(&self.state)?;
        for standing in standings.iter_mut().filter(|standing| standing.role() == Role::Transmitter) {
            let Ok(source) = SourceName::new(&standing.source) else { continue };
            // Another process of this state directory may publish what this one has no right to.
            if !self.membership.client().identity().rights().publish.contains(source.as_str()) {
                continue;
            }
            let log = Log::new(self.broker(&source).await?, source);
            let cases = self.cases.lock().await.count(&log).await?;
            (standing.conflicts, standing.dead_letters) = (cases.conflicts, cases.refused);
        }
        let version = self.membership.client().report(v1::ReportRequest { standings }).await?;
        if self.membership.is_due(version) {
            tracing::debug!(version, "credentials are renewed");
            for broker in self.brokers.lock().await.values() {
                broker.renew().await;
            }
        }
        Ok(())
    }

    /// How everybody stands of whom this process may know: those who keep the sources that it publishes, or all. Nobody, where it
    /// may know nothing.
    pub(crate) async fn company(&self) -> Result<Vec<v1::Participant>, Error> {
        match self.membership.client().who().await {
            Ok(told) => Ok(told.participants),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Why this process was stopped, if the manager did it.
    pub(crate) fn dismissal(&self) -> Result<(), Error> {
        match self.dismissed.get() {
            Some(why) => Err(Error::Trouble(why.clone())),
            None => Ok(()),
        }
    }
}

/// How everything in a state directory stands that runs now.
fn standings(state: &StateDirectory) -> Result<Vec<v1::Standing>, Error> {
    let mut standings = Vec::new();
    let status_of = |folder: &std::path::Path| -> Option<Value> {
        if !is_busy(folder) {
            return None;
        }
        serde_json::from_slice(&read_status(folder)?).ok()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    for source in state.sources()? {
        let Some(status) = status_of(&state.source_folder(&source)) else { continue };
        standings.push(v1::Standing {
            role: Role::Transmitter.into(),
            source: source.to_string(),
            revision: count(&status["revision"]),
            records: count(&status["records"]),
            waiting: count(&status["outbox"]),
            held: text(&status["held"]),
            problem: text(&status["error"]),
            ..v1::Standing::default()
        });
    }
    for (source, receiver) in state.receivers()? {
        let Some(status) = status_of(&state.receiver_folder(&source, &receiver)) else { continue };
        standings.push(v1::Standing {
            role: Role::Receiver.into(),
            source: source.to_string(),
            receiver: receiver.to_string(),
            revision: count(&status["revision"]),
            records: count(&status["records"]),
            waiting: count(&status["pending"]),
            dead_letters: count(&status["dead_letters"]),
            drift: count(&status["drift"]),
            problem: text(&status["error"]),
            ..v1::Standing::default()
        });
    }
    Ok(standings)
}
