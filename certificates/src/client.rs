//! How a client knows the server, and shows who it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use crate::files::{self, Watched};
use crate::{Error, Fingerprint, IdentityFiles, pem};

/// Whose word a client takes for it that the server is the right one.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The word of an authority that the system trusts.
    System,
    /// The word of an authority in this file (PEM), which is read again when it has changed.
    File(PathBuf),
    /// The word of exactly this authority, whose certificate the server itself shows.
    Pinned(Arc<Pin>),
}

/// An authority of which only the fingerprint is known, until a server showed it.
#[derive(Debug)]
pub struct Pin {
    fingerprint: Fingerprint,
    learned: OnceLock<CertificateDer<'static>>,
}

impl Pin {
    /// The authority with this fingerprint.
    pub fn new(fingerprint: Fingerprint) -> Pin {
        Pin { fingerprint, learned: OnceLock::new() }
    }

    /// Its certificate in PEM, once a server was accepted by it.
    pub fn learned_pem(&self) -> Option<String> {
        self.learned.get().map(|certificate| pem::encode(pem::CERTIFICATE, certificate))
    }
}

/// The TLS settings of a client that trusts so, and shows `identity` where it is asked who it is.
///
/// The identity's files are read again when they have changed: a connection made after that is made with what they hold then.
pub fn client_config(trust: &Trust, identity: Option<&IdentityFiles>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { place: "these protocol versions".into(), source })?;
    let builder = match trust {
        Trust::System => builder.with_root_certificates(system_authorities()?),
        Trust::File(path) => {
            let (file, with) = (path.clone(), provider.clone());
            let load = move || verifier(authorities(&file)?, &file.display().to_string(), &with);
            let verifier = ByFile { verifier: Watched::new(vec![path.clone()], load)?, provider: provider.clone() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        Trust::Pinned(pin) => {
            let verifier = ByPin { pin: pin.clone(), provider: provider.clone() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(files) => builder.with_client_cert_resolver(Arc::new(Shown(certified(files, provider)?))),
    };
    // A session taken up again would go on with certificates that may have been replaced since.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// All authorities in a file.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let place = path.display().to_string();
    let mut store = RootCertStore::empty();
    for certificate in pem::certificates(&files::read(path)?, &place)? {
        store.add(certificate).map_err(|source| Error::Tls { place: place.clone(), source })?;
    }
    Ok(store)
}

/// A certificate with its key, as their files say at each time.
pub(crate) fn certified(
    files: &IdentityFiles,
    provider: Arc<CryptoProvider>,
) -> Result<Watched<Arc<CertifiedKey>>, Error> {
    let paths = vec![files.certificate.clone(), files.key.clone()];
    let files = files.clone();
    Watched::new(paths, move || {
        let (certificate, key) = (files.certificate.display().to_string(), files.key.display().to_string());
        let chain = pem::certificates(&files::read(&files.certificate)?, &certificate)?;
        let private = pem::key(&files::read(&files.key)?, &key)?;
        match CertifiedKey::from_der(chain, private, &provider) {
            Ok(certified) => Ok(Arc::new(certified)),
            Err(rustls::Error::InconsistentKeys(_)) => Err(Error::Mismatch { certificate, key }),
            Err(source) => Err(Error::Tls { place: certificate, source }),
        }
    })
}

fn system_authorities() -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    // Single ones that can't be read or are of an odd kind don't spoil the others.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() { Err(Error::NoSystemAuthorities) } else { Ok(store) }
}

fn verifier(
    authorities: RootCertStore,
    place: &str,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
        .build()
        .map_err(|error| Error::Verifier { place: place.to_owned(), problem: error.to_string() })
}

/// Verifies by the authorities in a file.
struct ByFile {
    verifier: Watched<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

/// Verifies by an authority that the server itself shows.
struct ByPin {
    pin: Arc<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByFile {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier.current().verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for ByPin {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |problem| rustls::Error::InvalidCertificate(problem);
        let wanted = |shown: &&CertificateDer<'_>| Fingerprint::of(shown) == self.pin.fingerprint;
        let authority = intermediates.iter().find(wanted);
        let authority = authority.ok_or_else(|| refused(CertificateError::Other(OtherError(Arc::new(NotPinned)))))?;
        let mut store = RootCertStore::empty();
        store.add(authority.clone().into_owned())?;
        let verifier = verifier(store, "the pinned authority", &self.provider)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        self.pin.learned.get_or_init(|| authority.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The server shows another authority than the one that is pinned, or none.
#[derive(Debug, thiserror::Error)]
#[error("it doesn't show the certificate authority that the token names: it is another server, or was set up anew")]
struct NotPinned;

/// Shows a client's certificate as its files say at each time.
struct Shown(Watched<Arc<CertifiedKey>>);

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().as_ref().clone())
    }

    fn has_certs(&self) -> bool {
        true
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

impl fmt::Debug for ByPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByPin({})", self.pin.fingerprint)
    }
}
