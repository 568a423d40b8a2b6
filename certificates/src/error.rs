//! What can go wrong.

use std::io;
use std::path::PathBuf;

use rustls::CertificateError;

/// What went wrong with a certificate, a key or their files. No message holds anything of a key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("can't {doing} {}", path.display())]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is there is not written over.
    #[error("{} is there already and is not written over", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// What should be a certificate in PEM isn't.
    #[error("{place} holds no certificate in PEM")]
    NoCertificate {
        /// Where.
        place: String,
    },
    /// What should be a private key in PEM isn't.
    #[error("{place} holds no private key in PEM")]
    NoKey {
        /// Where.
        place: String,
    },
    /// A certificate and a key are of different pairs.
    #[error("the key in {key} is not that of the certificate in {certificate}")]
    Mismatch {
        /// Where the certificate is.
        certificate: String,
        /// Where the key is.
        key: String,
    },
    /// An authority of another making.
    #[error("the authority was not made by deltabus: issue certificates with what made it")]
    Foreign,
    /// A public key of a kind that isn't certified.
    #[error("a public key is neither ECDSA P-256 nor Ed25519")]
    PublicKey,
    /// A host that a certificate can't name.
    #[error("`{host}` is neither a host name nor an IP address")]
    Host {
        /// What was given.
        host: String,
    },
    /// The system trusts nobody.
    #[error("the system has no certificate authorities (Debian: ca-certificates); name one with a CA file")]
    NoSystemAuthorities,
    /// No randomness.
    #[error("the system gives no random numbers")]
    Random,
    /// A certificate could not be made.
    #[error("a certificate can't be made")]
    Make(#[from] rcgen::Error),
    /// TLS settings that don't fit together.
    #[error("TLS can't be set up with {place}")]
    Tls {
        /// With what.
        place: String,
        /// Why not.
        source: rustls::Error,
    },
    /// Settings for verifying that don't fit together.
    #[error("certificates can't be verified by {place}: {problem}")]
    Verifier {
        /// By what.
        place: String,
        /// Why not.
        problem: String,
    },
}

/// What a failed handshake means to whoever runs the one side of it, in one line; `None`: it was no TLS that failed.
///
/// Looks for a TLS error among `error` and its causes.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = error.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref())) {
            return Some(explained(tls));
        }
        next = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

fn explained(error: &rustls::Error) -> String {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            // A bad signature: an authority that only has the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not from an authority that is trusted here".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is for another host: {problem}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired (or this machine's clock is wrong)".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet (or this machine's clock is wrong)".into()
            }
            CertificateError::Other(other) => other.to_string(),
            problem => format!("its certificate is not accepted: {problem}"),
        },
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            "it asks for a client certificate, and none was given".into()
        }
        rustls::Error::AlertReceived(
            Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown | Alert::AccessDenied,
        ) => "it doesn't accept our client certificate, or wants one".into(),
        rustls::Error::AlertReceived(Alert::CertificateExpired) => "it says that our certificate has expired".into(),
        rustls::Error::InvalidMessage(_) => "it doesn't speak TLS".into(),
        error => error.to_string(),
    }
}
