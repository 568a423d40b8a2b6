//! How a server shows who it is, and knows its clients.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, client::danger::HandshakeSignatureValid,
};

use crate::client::{authorities, certified};
use crate::files::Watched;
use crate::{Error, IdentityFiles};

/// What a server asks of its clients. The files (PEM) hold authorities and are read again when they have changed.
#[derive(Clone, Debug)]
pub enum Clients {
    /// No certificate.
    Anonymous,
    /// A certificate from an authority in this file, or none.
    Allow(PathBuf),
    /// A certificate from an authority in this file.
    Require(PathBuf),
}

/// The TLS settings of a server that shows `identity`, whose files are read again when they have changed.
pub fn server_config(identity: &IdentityFiles, clients: &Clients) -> Result<ServerConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { place: "these protocol versions".into(), source })?;
    let builder = match clients {
        Clients::Anonymous => builder.with_no_client_auth(),
        Clients::Allow(path) => builder.with_client_cert_verifier(by_file(path, Need::Optional, &provider)?),
        Clients::Require(path) => builder.with_client_cert_verifier(by_file(path, Need::Mandatory, &provider)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Shown(certified(identity, provider)?)));
    // A session taken up again would go on with a client's certificate that may not be accepted any more.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Optional,
    Mandatory,
}

fn by_file(path: &Path, need: Need, provider: &Arc<CryptoProvider>) -> Result<Arc<ByFile>, Error> {
    let (file, with) = (path.to_owned(), provider.clone());
    let load = move || {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(&file)?), with.clone());
        let place = file.display().to_string();
        builder.build().map_err(|error| Error::Verifier { place, problem: error.to_string() })
    };
    let verifier = Watched::new(vec![path.to_owned()], load)?;
    Ok(Arc::new(ByFile { verifier, need, provider: provider.clone() }))
}

/// Verifies clients by the authorities in a file.
struct ByFile {
    verifier: Watched<Arc<dyn ClientCertVerifier>>,
    need: Need,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ByFile {
    fn client_auth_mandatory(&self) -> bool {
        self.need == Need::Mandatory
    }

    /// None: the authorities may be others at the next handshake, and clients that have one certificate need no hint.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verifier.current().verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Shows a server's certificate as its files say at each time.
struct Shown(Watched<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().as_ref().clone())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl fmt::Debug for ByFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByFile")
    }
}
