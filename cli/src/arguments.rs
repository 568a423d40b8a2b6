//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use deltabus_record::change::{ConflictId, ConflictPolicy};
use deltabus_record::schema::{ReceiverName, SourceName};

use crate::commands::status::arrival::Awaited;
use crate::moment::Moment;

/// Keeps many destinations equal to one source, each in its own format, by sending only what changed.
#[derive(Debug, Parser)]
#[command(name = "deltabus", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Try it: deltabus demo\n\nLocations are INTERFACE:PATH[?option=value&…], for example csv:people.csv?key=id, json:people.json?key=id, \
ndjson:log.ndjson?key=id, sqlite:app.db?tables=orders,items"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The bus to use, one or several addresses [default: the local bus, started when needed]
    #[arg(long, global = true, env = "DELTABUS_BUS", value_name = "URL[,URL]", help_heading = "Everywhere")]
    pub(crate) bus: Option<String>,
    /// A NATS credentials file for that bus
    #[arg(long, global = true, env = "DELTABUS_CREDENTIALS", value_name = "FILE", help_heading = "Everywhere")]
    pub(crate) credentials: Option<PathBuf>,
    /// The certificate authorities of that bus (PEM), for TLS [default: the system's]
    #[arg(long, global = true, env = "DELTABUS_TLS_CA", value_name = "FILE", help_heading = "Everywhere")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The certificate to show that bus (PEM), where it asks for one
    #[arg(long, global = true, env = "DELTABUS_TLS_CERTIFICATE", value_name = "FILE", help_heading = "Everywhere")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(long, global = true, env = "DELTABUS_TLS_KEY", value_name = "FILE", help_heading = "Everywhere")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The manager that says who may do what, and where the bus is
    #[arg(
        long,
        global = true,
        env = "DELTABUS_MANAGER",
        value_name = "URL[,URL]",
        conflicts_with = "bus",
        help_heading = "Everywhere"
    )]
    pub(crate) manager: Option<String>,
    /// A file with the token that lets this device in: by a manager, or to a bus that a transmitter opened; `-` reads standard input.
    /// Needed once [default: DELTABUS_TOKEN]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token itself: from the environment only, since arguments can be seen by everybody
    #[arg(skip = std::env::var("DELTABUS_TOKEN").ok().filter(|token| !token.is_empty()))]
    pub(crate) token: Option<String>,
    /// Who to be to the manager, where several have enrolled here
    #[arg(long, global = true, env = "DELTABUS_IDENTITY", value_name = "NAME", help_heading = "Everywhere")]
    pub(crate) identity: Option<String>,
    /// Where deltabus remembers things [default: $XDG_STATE_HOME/deltabus]
    #[arg(long, global = true, env = "DELTABUS_STATE", value_name = "DIR", help_heading = "Everywhere")]
    pub(crate) state: Option<PathBuf>,
    /// Serve Prometheus metrics there, for example 127.0.0.1:9464
    #[arg(long, global = true, env = "DELTABUS_METRICS", value_name = "ADDR", help_heading = "Everywhere")]
    pub(crate) metrics: Option<std::net::SocketAddr>,
    /// Send spans to the OpenTelemetry collector there (OTLP over gRPC), for example http://127.0.0.1:4317
    #[arg(long, global = true, env = "DELTABUS_OTLP", value_name = "URL", help_heading = "Everywhere")]
    pub(crate) otlp: Option<String>,
    /// How log lines look
    #[arg(long, global = true, env = "DELTABUS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Everywhere")]
    pub(crate) log_format: LogFormat,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, env = "DELTABUS_VERBOSE", help_heading = "Everywhere")]
    pub(crate) verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, env = "DELTABUS_QUIET", help_heading = "Everywhere")]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what deltabus does: one source, four receivers, edits on both sides
    Demo(Demo),
    /// Publish a source and take its edits back
    Transmit(Transmit),
    /// Keep a destination equal to a source
    Receive(Receive),
    /// Show what turns one location into another, field by field
    Diff(Diff),
    /// Make one location equal to another, once, writing only what differs
    Copy(Copy),
    /// Show what receiving would change at a destination now; writes nothing
    Plan(Plan),
    /// Prove that a destination equals its source, or list what differs
    Verify(Verify),
    /// Show sources and receivers, how far they are and what is wrong
    Status(Status),
    /// List a source's revisions
    Log(Log),
    /// Show what one revision changed
    Show(Show),
    /// Write a former state of a source to a place
    Restore(Restore),
    /// List edits that met a changed source, or decide one
    Conflicts(Conflicts),
    /// List changes that were refused, try them again or forget them
    DeadLetters(DeadLetters),
    /// Let a delete go that is held back because it is so large
    Confirm(Named),
    /// Write a snapshot now, for receivers that join later
    Snapshot(Named),
    /// Start, stop or look at the local bus
    Bus(Bus),
    /// Make certificates for a bus with TLS: a private authority, servers, clients
    Certificates(Certificates),
    /// Run a management server, or set one up
    Manage(Manage),
    /// Let somebody in: makes a token for a transmitter or receiver, with its rights
    Enroll(Enroll),
    /// Give somebody more rights
    Grant(Grant),
    /// Take rights away, at once; without any named all of them
    Revoke(Grant),
    /// Show who may do what, who is there and how far
    Who(Who),
    /// Give a link to the manager's page
    Page(Page),
    /// Show what the manager decided
    Audit(Audit),
    /// Check a configuration and everything it names; changes nothing
    Check(Check),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Keep the files in this folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

/// Publish a source and take its edits back.
#[derive(Debug, Args)]
#[command(after_help = "Examples: deltabus transmit people 'csv:people.csv?key=id'\n          \
deltabus transmit people 'csv:people.csv?key=id' --open 0.0.0.0:4222")]
pub(crate) struct Transmit {
    /// The source's name on the bus
    #[arg(required_unless_present = "config")]
    pub(crate) source: Option<SourceName>,
    /// Where the source is
    #[arg(required_unless_present = "config")]
    pub(crate) location: Option<String>,
    /// Take waiting edits, look once, publish, and end when the log has everything
    #[arg(long)]
    pub(crate) once: bool,
    /// Sources from a file instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "location"])]
    pub(crate) config: Option<PathBuf>,
    /// Let receivers on other devices in, with TLS and a token: the local bus listens there, for example 0.0.0.0:4222,
    /// until the source is transmitted without this again
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) open: Option<String>,
    /// A name or address by which those devices reach this machine, beside its own; may be given several times
    #[arg(long, value_name = "HOST", requires = "open")]
    pub(crate) host: Vec<String>,
    /// How often to look beside notifications [default: 2s; less often where looking costs more]
    #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration)]
    pub(crate) poll: Option<Duration>,
    /// Who decides when source and edit disagree
    #[arg(long, value_enum)]
    pub(crate) conflicts: Option<Policy>,
    /// How much of a collection may be deleted without `deltabus confirm`
    #[arg(long, value_name = "PERCENT", value_parser = crate::config::parse_percent)]
    pub(crate) max_delete: Option<f64>,
    /// Stand by while another transmitter of the source is active, and take its place when it is gone
    #[arg(long, conflicts_with = "once")]
    pub(crate) standby: bool,
    /// End when what was published is applied at the destinations of so many receivers, of all that are there, or of those named
    #[arg(long, value_name = "N|all|NAME,…", value_delimiter = ',', requires = "once")]
    pub(crate) wait: Vec<Awaited>,
    /// Wait no longer than this; then it is said who lacks it, exit code 1 [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration, requires = "wait")]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Policy {
    /// The source stands.
    Source,
    /// The edit wins.
    Receiver,
    /// The later one wins.
    Latest,
    /// The source stands until somebody resolves it.
    Manual,
}

impl From<Policy> for ConflictPolicy {
    fn from(policy: Policy) -> ConflictPolicy {
        match policy {
            Policy::Source => ConflictPolicy::Source,
            Policy::Receiver => ConflictPolicy::Receiver,
            Policy::Latest => ConflictPolicy::Latest,
            Policy::Manual => ConflictPolicy::Manual,
        }
    }
}

/// A source's destination, or several from a file.
#[derive(Debug, Args)]
pub(crate) struct Destinations {
    /// The source's name on the bus
    #[arg(required_unless_present = "config")]
    pub(crate) source: Option<SourceName>,
    /// Where the destination is, or is to be
    #[arg(required_unless_present = "config")]
    pub(crate) location: Option<String>,
    /// Also send edits made at the destination back to the source
    #[arg(long)]
    pub(crate) reverse: bool,
    /// The receiver's name [default: made once, kept in the state]
    #[arg(long)]
    pub(crate) name: Option<ReceiverName>,
    /// Destinations from a file instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "location"])]
    pub(crate) config: Option<PathBuf>,
}

/// Keep a destination equal to a source.
#[derive(Debug, Args)]
#[command(after_help = "Example: deltabus receive people sqlite:people.db --reverse")]
pub(crate) struct Receive {
    #[command(flatten)]
    pub(crate) destinations: Destinations,
    /// Catch up with the log as it stands, send edits, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// How often to look at the destination beside notifications [default: 2s; less often where looking costs more]
    #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration)]
    pub(crate) poll: Option<Duration>,
}

/// Show what receiving would change at a destination now, field by field; nothing is written, not even the receiver's state.
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 nothing would change, 1 something would, 2 trouble\n\n\
Example: deltabus plan people sqlite:people.db\n\n\
--json prints an object a record, as `diff --json`, one for each collection that comes, goes or gets other fields \
({\"collection\", \"schema\": \"made\"|\"altered\"|\"gone\", …}), and at the end one of each destination with its counts")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) destinations: Destinations,
    /// Only count
    #[arg(long)]
    pub(crate) stat: bool,
    /// One JSON object a record
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prove that a destination equals its source at a revision, or list what differs: collection, key, field, expected, found.
///
/// The digest of the source's records is made anew and compared with the one that the log gives that revision; the destination is
/// compared by digests of key ranges, and only ranges that differ are read in detail. Names are the source's. A receiver may run
/// meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 equal, 1 differs, 2 trouble\n\nExamples: deltabus verify people sqlite:people.db\n          \
deltabus verify people sqlite:people.db --repair\n          \
deltabus verify people 'csv:backup.csv?key=id' --at 2026-10-01\n\n\
--json prints an object a record ({\"collection\", \"key\", \"problem\": \"differs\"|\"missing\"|\"extra\", \"cause\": \
\"drift\"|\"edit\"|\"pending\"|\"refused\"|\"unknown\", \"fields\": {NAME: {\"expected\", \"found\"}}}), and at the end one of each \
destination"
)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) destinations: Destinations,
    /// With the source as it was: a revision's number, or a time: 12, 2026-10-01T12:30:00Z, '2026-10-01 12:30', 2026-10-01
    #[arg(long, value_name = "N|TIME", value_parser = crate::moment::parse, conflicts_with = "repair")]
    pub(crate) at: Option<Moment>,
    /// Mend what differs, and only that; edits that wait for their answer stay
    #[arg(long)]
    pub(crate) repair: bool,
    /// Also put the source's values in the place of edits that were not sent back yet
    #[arg(long, requires = "repair")]
    pub(crate) discard_edits: bool,
    /// One JSON object a record
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what turns one location into another, field by field; formats may differ.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 equal, 1 different, 2 trouble\n\nExample: deltabus diff 'csv:old.csv?key=id' sqlite:new.db\n\n\
--json prints an object a record: {\"collection\", \"key\", \"change\": \"insert\"|\"update\"|\"delete\", \"fields\": {NAME: {\"before\", \"after\"}}}"
)]
pub(crate) struct Diff {
    /// The one side
    pub(crate) a: String,
    /// The other side
    pub(crate) b: String,
    /// Only count
    #[arg(long)]
    pub(crate) stat: bool,
    /// One JSON object a record
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make one location equal to another, once, writing only what differs; no bus.
#[derive(Debug, Args)]
#[command(after_help = "Example: deltabus copy 'csv:people.csv?key=id' sqlite:people.db")]
pub(crate) struct Copy {
    /// Where it comes from
    pub(crate) a: String,
    /// Where it goes
    pub(crate) b: String,
    /// Show what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Who is how far, and what is wrong.
#[derive(Debug, Args)]
#[command(
    after_help = "LAG is how many change sets a receiver lacks, and how old the oldest of them is. CHANGES are those that came to the \
source of late, half a minute a bar.\n\n--revision: has this change arrived, and where? Exit code: 0 everywhere, 1 not yet, 2 trouble. A receiver that \
is gone and lacks it counts: it is not everywhere then. Those of other machines are forgotten after 30 days, those of this one \
when their folder receivers/SOURCE/NAME in the state directory is removed."
)]
pub(crate) struct Status {
    /// Only this source
    pub(crate) source: Option<SourceName>,
    /// Again and again, in place
    #[arg(long)]
    pub(crate) watch: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where this revision has arrived
    #[arg(long, value_name = "N", conflicts_with = "watch")]
    pub(crate) revision: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The source
    pub(crate) source: SourceName,
    /// One JSON object a revision
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The source
    pub(crate) source: SourceName,
    /// The revision's number
    pub(crate) revision: u64,
    /// One JSON object a record, as `diff --json`
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write the source's state of a revision, or as of a time, to a place; only what differs there is written.
///
/// What the source had at other times (collections, fields) goes there; what it never had stays. No receiver's state is used or
/// made.
#[derive(Debug, Args)]
#[command(after_help = "Examples: deltabus restore people 'csv:people.csv?key=id' --at 12 --dry-run\n          \
deltabus restore people sqlite:then.db --at '2026-10-01 12:30'\n\n\
A time without an offset is local, a date is its first moment, a time without fractions counts with its whole second.")]
pub(crate) struct Restore {
    /// The source
    pub(crate) source: SourceName,
    /// Where to write it
    pub(crate) location: String,
    /// A revision's number, or a time: 12, 2026-10-01T12:30:00Z, '2026-10-01 12:30', 2026-10-01
    #[arg(long, value_name = "N|TIME", value_parser = crate::moment::parse)]
    pub(crate) at: Moment,
    /// Show what would change there, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only count
    #[arg(long, requires = "dry_run")]
    pub(crate) stat: bool,
    /// One JSON object a record, as `plan --json`
    #[arg(long, requires = "dry_run")]
    pub(crate) json: bool,
}

/// List edits that met a changed source (what both started from, both values, who, and what stands), or decide one.
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
#[command(
    after_help = "Exit code: 0 none, 1 some, 2 trouble\n\nExample: deltabus conflicts people resolve 12.1 --take edit"
)]
pub(crate) struct Conflicts {
    /// The source
    pub(crate) source: SourceName,
    /// One JSON object a conflict
    #[arg(long)]
    pub(crate) json: bool,
    /// Also those that somebody has decided
    #[arg(long)]
    pub(crate) all: bool,
    #[command(subcommand)]
    pub(crate) command: Option<ConflictsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConflictsCommand {
    /// Decide a conflict, whether its transmitter runs or not
    #[command(
        after_help = "Exit code: 0 decided, 2 trouble; deciding twice is deciding once. Where the source has changed again since, \
nothing is done and it says what is there now"
    )]
    Resolve {
        /// The conflict's name, as listed: 12.1
        id: ConflictId,
        /// Which side is to stand: the source as it is, or the edit, which becomes a change of the source
        #[arg(long, value_enum)]
        take: Side,
    },
}

/// Run a management server: it says who may do what, and the broker enforces it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples: deltabus manage --new bus --host bus.example.org\n          deltabus manage --config bus/manager.toml\n\n\
--new makes keys, a private certificate authority, and configurations for nats-server and manager in a new folder, and goes on \
as --config does. The administrator's identity is kept in the state directory."
)]
pub(crate) struct Manage {
    /// The manager's configuration
    #[arg(long, value_name = "FILE", required_unless_present = "new", conflicts_with = "new")]
    pub(crate) config: Option<PathBuf>,
    /// Set up a bus and its manager in this new folder
    #[arg(long, value_name = "DIR", requires = "host")]
    pub(crate) new: Option<PathBuf>,
    /// Names and addresses by which others reach this machine; they are told the first
    #[arg(long, value_name = "HOST[,HOST]", value_delimiter = ',', requires = "new")]
    pub(crate) host: Vec<String>,
    /// The port of the bus
    #[arg(long, value_name = "PORT", default_value_t = 4222, requires = "new")]
    pub(crate) bus_port: u16,
    /// The port of the manager
    #[arg(long, value_name = "PORT", default_value_t = deltabus_manager::PORT, requires = "new")]
    pub(crate) manager_port: u16,
    /// Let nobody in without a certificate of its own, which is made when it enrols
    #[arg(long, requires = "new")]
    pub(crate) mutual: bool,
    /// Only set up
    #[arg(long, requires = "new")]
    pub(crate) setup_only: bool,
}

/// What somebody may do.
#[derive(Debug, Args)]
pub(crate) struct Rights {
    /// Sources to publish, as their transmitter
    #[arg(long, value_name = "SOURCE", value_delimiter = ',')]
    pub(crate) publish: Vec<SourceName>,
    /// Sources to read
    #[arg(long, value_name = "SOURCE", value_delimiter = ',')]
    pub(crate) read: Vec<SourceName>,
    /// Sources to read and to send edits to
    #[arg(long, value_name = "SOURCE", value_delimiter = ',')]
    pub(crate) reverse: Vec<SourceName>,
    /// Names of receivers under which to do so [default: the participant's own]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) receiver: Vec<ReceiverName>,
    /// Administer the manager
    #[arg(long)]
    pub(crate) administrate: bool,
}

/// Let somebody in: gives rights, and a token that is good once. Again for the same name, its device is replaced.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples: deltabus enroll shop --publish people --output shop.token\n          deltabus enroll crm --reverse people --for 2h"
)]
pub(crate) struct Enroll {
    /// The participant's name; its receiver is called the same
    pub(crate) name: ReceiverName,
    #[command(flatten)]
    pub(crate) rights: Rights,
    /// How long the token is good
    #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = crate::config::parse_duration)]
    pub(crate) life: Duration,
    /// Write the token to this new file, for its owner only, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Change what somebody may do.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples: deltabus grant crm --read prices\n          deltabus revoke crm --reverse people\n          deltabus revoke crm"
)]
pub(crate) struct Grant {
    /// The participant
    pub(crate) name: ReceiverName,
    #[command(flatten)]
    pub(crate) rights: Rights,
}

/// Show who may do what, who is there and how far.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// Again with each change, in place
    #[arg(long)]
    pub(crate) watch: bool,
    /// As JSON, an object a participant
    #[arg(long)]
    pub(crate) json: bool,
}

/// Let a browser in to the manager's page, which shows all sources and receivers as they are: gives a link that is good once, for
/// two minutes.
#[derive(Debug, Args)]
pub(crate) struct Page {
    /// Open it in the browser of this machine
    #[arg(long)]
    pub(crate) open: bool,
}

/// Show what the manager decided: who asked for what, and whether it was allowed.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only what came after this time
    #[arg(long, value_name = "TIME", value_parser = crate::moment::parse_time)]
    pub(crate) since: Option<u64>,
    /// Go on with what comes
    #[arg(long)]
    pub(crate) follow: bool,
    /// As JSON, an object a decision
    #[arg(long)]
    pub(crate) json: bool,
}

/// A side of a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// What the source had.
    Source,
    /// What was edited.
    Edit,
}

/// List changes that a destination refused, and edits that the source refused: where, why, when, and the values; or try them
/// again, or forget them.
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
#[command(
    after_help = "Exit code: 0 none, 1 some, 2 trouble\n\nExamples: deltabus dead-letters people retry oslo/3\n          \
deltabus dead-letters people drop 12.1\n\n\
Those of receivers (oslo/3) are listed where the receivers run, those of the source (12.1) everywhere. Until it is taken, the \
destination holds the record as it was; a later change of it is tried as a whole, from what is held to what the source has then."
)]
pub(crate) struct DeadLetters {
    /// The source
    pub(crate) source: SourceName,
    /// One JSON object a dead letter
    #[arg(long)]
    pub(crate) json: bool,
    /// Also those that were dropped or taken care of
    #[arg(long)]
    pub(crate) all: bool,
    #[command(subcommand)]
    pub(crate) command: Option<DeadLettersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Try them again; what is refused again stays, with the new reason
    #[command(after_help = "Exit code: 0 all are taken, 1 some are refused again, 2 trouble")]
    Retry {
        /// Their names, as listed: oslo/3, 12.1
        #[arg(required = true)]
        ids: Vec<LetterId>,
    },
    /// Forget them, after writing them to the log: the destination, or the source, stays as it is
    Drop {
        /// Their names, as listed: oslo/3, 12.1
        #[arg(required = true)]
        ids: Vec<LetterId>,
    },
}

/// Names a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LetterId {
    /// A change that a destination refused, by its number among the receiver's.
    Receiver(ReceiverName, u64),
    /// An edit that the source refused.
    Source(ConflictId),
}

impl std::str::FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<LetterId, String> {
        let unknown = || format!("`{text}` names no dead letter; they look like oslo/3 or 12.1");
        match text.split_once('/') {
            Some((receiver, number)) => {
                let receiver = ReceiverName::new(receiver).map_err(|_| unknown())?;
                Ok(LetterId::Receiver(receiver, number.parse().map_err(|_| unknown())?))
            }
            None => text.parse().map(LetterId::Source).map_err(|_| unknown()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The source
    pub(crate) source: SourceName,
}

#[derive(Debug, Args)]
pub(crate) struct Bus {
    #[command(subcommand)]
    pub(crate) command: BusCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BusCommand {
    /// Start it, if it isn't running
    Start,
    /// End it; what it stores stays
    Stop,
    /// Show whether it runs, where, and how much it stores
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Serve the figures of a nats-server, as its monitoring port shows them, to Prometheus (at --metrics)
    Watch {
        /// The monitoring port, for example http://127.0.0.1:8222
        #[arg(value_name = "URL")]
        monitor: String,
    },
}

/// Make certificates for a bus with TLS: a private authority (if DIR has none), and what it issues to servers and clients.
///
/// What is there already stays: run it again to add to it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples: deltabus certificates tls --server bus.example.org,192.0.2.1 --client oslo\n          \
deltabus certificates tls --renew\n\n\
Servers' and clients' certificates are valid for 825 days, the authority for ten years. All files are for their owner only."
)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["server", "client", "renew"]))]
pub(crate) struct Certificates {
    /// The folder for the files, made if it isn't there
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// A server, by all host names and IP addresses that it is reached by; may be given several times
    #[arg(long, value_name = "HOST[,HOST…]")]
    pub(crate) server: Vec<String>,
    /// A client that a bus asks for a certificate; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) client: Vec<String>,
    /// New certificates in place of those that are there, from the same authority; of all if none is named
    #[arg(long)]
    pub(crate) renew: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A transmitter's or a receiver's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}
