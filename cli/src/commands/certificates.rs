//! `deltabus certificates`: what a bus with TLS needs at first.

use std::path::{Path, PathBuf};

use deltabus_certificates::{
    Authority, Error as CertificatesError, Existing, Identity, IdentityFiles, LEAF_LIFETIME, hosts,
};

use crate::arguments::{Certificates, Global};
use crate::error::{Error, Exit};

/// What files are called: `server-HOST.pem`, `client-NAME.pem`, with the key beside each.
const SERVER: &str = "server-";
const CLIENT: &str = "client-";

/// A client's name, which is a file's name too.
const NAME_BYTES_MAX: usize = 64;

/// One certificate that is asked for.
enum Wanted {
    /// By all its hosts; `stem` is what its files are called.
    Server { stem: String, hosts: Vec<String> },
    /// By its name.
    Client(String),
}

/// Runs the command.
pub(crate) fn certificates(global: &Global, options: Certificates) -> Result<Exit, Error> {
    let folder = &options.folder;
    let mut wanted = asked(&options)?;
    if wanted.is_empty() {
        wanted = present(folder)?;
    }
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { doing: "make", path: folder.clone(), source })?;
    let say = |text: &str| {
        if !global.quiet {
            println!("{text}");
        }
    };
    let (authority, made) = authority(folder)?;
    let ca = IdentityFiles { certificate: folder.join("ca.pem"), key: folder.join("ca.key") };
    say(&match made {
        true => format!("made     {}: the authority ({} is its key)", ca.certificate.display(), ca.key.display()),
        false => format!("is there {}: the authority", ca.certificate.display()),
    });
    let mut exit = Exit::Done;
    for wanted in &wanted {
        let files = wanted.files(folder);
        let there = files.certificate.exists() || files.key.exists();
        let path = files.certificate.display();
        if there && !options.renew {
            match wanted.differs(&files)? {
                None => say(&format!("is there {path}: {wanted}")),
                Some(others) => {
                    eprintln!("deltabus: {path} is for {others}, and stays so; --renew makes one for {wanted}");
                    exit = Exit::Trouble;
                }
            }
            continue;
        }
        let existing = if options.renew { Existing::Replace } else { Existing::Keep };
        files.write(&wanted.issue(&authority)?, existing)?;
        say(&format!("{} {path}: {wanted}", if there { "renewed " } else { "made    " }));
    }
    say(&guide(folder, &wanted, &ca));
    Ok(exit)
}

/// What the command line names.
fn asked(options: &Certificates) -> Result<Vec<Wanted>, Error> {
    let mut wanted = Vec::new();
    for server in &options.server {
        let hosts: Vec<String> = server.split(',').map(|host| host.trim().to_owned()).collect();
        let stem = format!("{SERVER}{}", hosts[0]);
        wanted.push(Wanted::Server { stem, hosts });
    }
    for client in &options.client {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if client.is_empty() || client.len() > NAME_BYTES_MAX || client.starts_with('.') || !client.bytes().all(fits) {
            let problem = format!("`{client}` is no name for a client: letters, digits, `-`, `_` and `.`, at most");
            return Err(Error::Config(format!("{problem} {NAME_BYTES_MAX}")));
        }
        wanted.push(Wanted::Client(client.clone()));
    }
    Ok(wanted)
}

/// What the folder has certificates for.
fn present(folder: &Path) -> Result<Vec<Wanted>, Error> {
    let failed = |source| Error::Io { doing: "read", path: folder.to_owned(), source };
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    let mut wanted = Vec::new();
    for name in &names {
        let Some(stem) = name.strip_suffix(".pem") else { continue };
        if stem.starts_with(SERVER) {
            wanted.push(Wanted::Server { stem: stem.to_owned(), hosts: hosts(&read(&folder.join(name))?)? });
        } else if let Some(client) = stem.strip_prefix(CLIENT) {
            wanted.push(Wanted::Client(client.to_owned()));
        }
    }
    match wanted.is_empty() {
        true => Err(Error::Config(format!("{} has no certificates to renew", folder.display()))),
        false => Ok(wanted),
    }
}

/// The folder's authority, and whether it was made just now.
fn authority(folder: &Path) -> Result<(Authority, bool), Error> {
    let files = IdentityFiles { certificate: folder.join("ca.pem"), key: folder.join("ca.key") };
    if files.certificate.exists() {
        return Ok((Authority::from_pem(&read(&files.certificate)?, &read(&files.key)?)?, false));
    }
    let authority = Authority::new("deltabus")?;
    files.write(&authority.identity(), Existing::Keep)?;
    Ok((authority, true))
}

fn read(path: &PathBuf) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { doing: "read", path: path.clone(), source })
}

impl Wanted {
    fn files(&self, folder: &Path) -> IdentityFiles {
        let stem = match self {
            Wanted::Server { stem, .. } => stem.clone(),
            Wanted::Client(name) => format!("{CLIENT}{name}"),
        };
        IdentityFiles { certificate: folder.join(format!("{stem}.pem")), key: folder.join(format!("{stem}.key")) }
    }

    fn issue(&self, authority: &Authority) -> Result<Identity, CertificatesError> {
        match self {
            Wanted::Server { hosts, .. } => authority.server(hosts, LEAF_LIFETIME),
            Wanted::Client(name) => authority.client(name, LEAF_LIFETIME),
        }
    }

    /// Which other hosts the certificate in these files is for.
    fn differs(&self, files: &IdentityFiles) -> Result<Option<String>, Error> {
        let Wanted::Server { hosts: wanted, .. } = self else { return Ok(None) };
        let there = hosts(&read(&files.certificate)?)?;
        Ok((there != *wanted).then(|| there.join(", ")))
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Server { hosts, .. } => write!(f, "the server {}", hosts.join(", ")),
            Wanted::Client(name) => write!(f, "the client {name}"),
        }
    }
}

/// What to put where.
fn guide(folder: &Path, wanted: &[Wanted], ca: &IdentityFiles) -> String {
    let mut text = String::new();
    for wanted in wanted {
        let files = wanted.files(folder);
        let (certificate, key, ca) = (files.certificate.display(), files.key.display(), ca.certificate.display());
        match wanted {
            Wanted::Server { hosts, .. } => text.push_str(&format!(
                "\nOn {}, in nats-server's configuration (`verify: true` lets in only clients with a certificate):\n\
                 tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: false }}\n",
                hosts.join(", "),
                certificate.to_string(),
                key.to_string(),
                ca.to_string(),
            )),
            Wanted::Client(name) => {
                text.push_str(&format!("\nFor {name}: --tls-ca {ca} --tls-certificate {certificate} --tls-key {key}\n"))
            }
        }
    }
    text.push_str(&format!(
        "\nEverybody who connects needs {}: --bus tls://HOST:4222 --tls-ca {}\n\
         Keep {} away from servers and clients: whoever has it can pass for any of them.",
        ca.certificate.display(),
        ca.certificate.display(),
        ca.key.display(),
    ));
    text
}
