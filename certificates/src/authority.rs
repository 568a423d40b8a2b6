//! A private certificate authority.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, DnsName};
use x509_cert::der::asn1::Utf8StringRef;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::token::random_bytes;
use crate::{Error, Fingerprint, pem};

/// How long an authority lives.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * DAY);

/// How long the certificates of servers and clients live unless told otherwise: what the strictest clients still take.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(825 * DAY);

/// Certificates are valid from so long before they are made: other machines' clocks may be slow.
const SLACK: Duration = Duration::from_secs(3600);

const DAY: u64 = 24 * 3600;

/// `id-at-commonName`.
const COMMON_NAME: &str = "2.5.4.3";

/// A DER SubjectPublicKeyInfo begins so (RFC 5480): an ECDSA key on P-256, and its 65 bytes follow.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The same (RFC 8410) of an Ed25519 key, whose 32 bytes follow.
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A certificate authority with its key (ECDSA on P-256).
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with the chain up to its authority, and its private key, as PEM.
pub struct Identity {
    chain: String,
    key: String,
}

impl Identity {
    /// The certificate, and its authority's after it. Servers send both, so that clients who know the authority's fingerprint
    /// only find it there.
    pub fn chain_pem(&self) -> &str {
        &self.chain
    }

    /// The private key (PKCS #8).
    pub fn key_pem(&self) -> &str {
        &self.key
    }
}

impl Authority {
    /// Makes an authority; `name` is for people, and gets a random part, so that no two have the same.
    pub fn new(name: &str) -> Result<Authority, Error> {
        let name = &format!("{name} {:08x}", u32::from_be_bytes(random_bytes()?));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(name, AUTHORITY_LIFETIME)?;
        // It signs certificates of servers and clients, no other authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(&key)?.into();
        Ok(Authority { certificate, issuer: Issuer::new(params, key) })
    }

    /// An authority made before, from its certificate and its key in PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Authority, Error> {
        let place = "the authority's certificate";
        let certificate = pem::certificates(certificate, place)?.swap_remove(0);
        let key = pem::key(key, "the authority's key")?;
        let key = KeyPair::try_from(&key).map_err(|_| Error::Foreign)?;
        let parsed = parsed(&certificate).ok_or_else(|| Error::NoCertificate { place: place.into() })?;
        let spki = parsed.tbs_certificate.subject_public_key_info.to_der().map_err(|_| Error::Foreign)?;
        if spki != key.subject_public_key_info() {
            return Err(Error::Mismatch { certificate: place.into(), key: "the authority's key".into() });
        }
        // What it issues must name the authority just as the authority names itself.
        let name = common_name(&parsed).ok_or(Error::Foreign)?;
        let params = params(&name, AUTHORITY_LIFETIME)?;
        let probe: CertificateDer<'static> = params.self_signed(&key)?.into();
        let same = self::parsed(&probe).is_some_and(|probe| {
            probe.tbs_certificate.subject.to_der().ok() == parsed.tbs_certificate.subject.to_der().ok()
        });
        if !same {
            return Err(Error::Foreign);
        }
        Ok(Authority { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate in PEM: what others need to trust it.
    pub fn certificate_pem(&self) -> String {
        pem::encode(pem::CERTIFICATE, &self.certificate)
    }

    /// Its private key in PEM (PKCS #8). Whoever has it can pass for any server.
    pub fn key_pem(&self) -> String {
        pem::encode(pem::PRIVATE_KEY, self.issuer.key().serialized_der())
    }

    /// Certificate and key, as [`Identity`], to be written to files together.
    pub fn identity(&self) -> Identity {
        Identity { chain: self.certificate_pem(), key: self.key_pem() }
    }

    /// The fingerprint of its certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A certificate for a server that is reached by these host names and IP addresses, at least one.
    pub fn server(&self, hosts: &[impl AsRef<str>], lifetime: Duration) -> Result<Identity, Error> {
        let first = hosts.first().map(AsRef::as_ref).ok_or_else(|| Error::Host { host: String::new() })?;
        let mut params = params(first, lifetime)?;
        params.subject_alt_names =
            hosts.iter().map(|host| alternative_name(host.as_ref())).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.with_key(params)
    }

    /// A certificate for a client; `name` says who it is, see [`subject`].
    pub fn client(&self, name: &str, lifetime: Duration) -> Result<Identity, Error> {
        self.with_key(client_params(name, lifetime)?)
    }

    /// The same for a client that keeps its key to itself: the chain in PEM. `public_key` is its DER SubjectPublicKeyInfo,
    /// ECDSA on P-256 or Ed25519. That the client has the private key is not proven by this.
    pub fn client_for(&self, name: &str, public_key: &[u8], lifetime: Duration) -> Result<String, Error> {
        self.issue(client_params(name, lifetime)?, &PublicKey::from_spki(public_key)?)
    }

    fn with_key(&self, params: CertificateParams) -> Result<Identity, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let chain = self.issue(params, &key)?;
        Ok(Identity { chain, key: pem::encode(pem::PRIVATE_KEY, key.serialized_der()) })
    }

    fn issue(&self, mut params: CertificateParams, public_key: &impl PublicKeyData) -> Result<String, Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(public_key, &self.issuer)?;
        Ok(pem::encode(pem::CERTIFICATE, certificate.der()) + &self.certificate_pem())
    }
}

/// Shows whose key it is, and nothing of it.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// Shows the certificate only.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// A key pair for a client that is to be certified elsewhere, by [`Authority::client_for`].
pub struct ClientKey(KeyPair);

impl ClientKey {
    /// Makes one (ECDSA on P-256).
    pub fn new() -> Result<ClientKey, Error> {
        Ok(ClientKey(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// The public key: a DER SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The private key in PEM (PKCS #8).
    pub fn key_pem(&self) -> String {
        pem::encode(pem::PRIVATE_KEY, self.0.serialized_der())
    }

    /// Key and certificate together, once there is one.
    pub fn certified(&self, chain_pem: String) -> Result<Identity, Error> {
        let (certificate, key) = ("the certificate", "the request");
        let leaf = pem::certificates(&chain_pem, certificate)?.swap_remove(0);
        let parsed = parsed(&leaf).ok_or_else(|| Error::NoCertificate { place: certificate.into() })?;
        if parsed.tbs_certificate.subject_public_key_info.to_der().ok() != Some(self.public_key()) {
            return Err(Error::Mismatch { certificate: certificate.into(), key: key.into() });
        }
        Ok(Identity { chain: chain_pem, key: self.key_pem() })
    }
}

/// Who a certificate is for: its subject's common name; `None` where it has none, or is no certificate.
///
/// Believe it only after the certificate was verified.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    common_name(&parsed(certificate)?)
}

/// The host names and IP addresses that the first certificate in a PEM text is for.
pub fn hosts(text: &str) -> Result<Vec<String>, Error> {
    let place = "the text";
    let certificate = pem::certificates(text, place)?.swap_remove(0);
    let names = parsed(&certificate).and_then(|parsed| parsed.tbs_certificate.get::<SubjectAltName>().ok().flatten());
    let names = names.into_iter().flat_map(|(_, names)| names.0);
    Ok(names
        .filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
            GeneralName::IpAddress(bytes) => match bytes.as_bytes() {
                bytes if bytes.len() == 4 => <[u8; 4]>::try_from(bytes).ok().map(|four| IpAddr::from(four).to_string()),
                bytes => <[u8; 16]>::try_from(bytes).ok().map(|sixteen| IpAddr::from(sixteen).to_string()),
            },
            _ => None,
        })
        .collect())
}

/// From when and until when the first certificate in a PEM text is valid.
pub fn validity(text: &str) -> Result<(SystemTime, SystemTime), Error> {
    let place = "the text";
    let certificate = pem::certificates(text, place)?.swap_remove(0);
    let parsed = parsed(&certificate).ok_or_else(|| Error::NoCertificate { place: place.into() })?;
    let validity = parsed.tbs_certificate.validity;
    let at = |time: x509_cert::time::Time| UNIX_EPOCH + time.to_unix_duration();
    Ok((at(validity.not_before), at(validity.not_after)))
}

/// Whether it is time for a new one: less than a third of its life is left, or it is none.
pub fn is_due(text: &str, now: SystemTime) -> bool {
    let Ok((from, until)) = validity(text) else { return true };
    let lifetime = until.duration_since(from).unwrap_or_default();
    until.duration_since(now).unwrap_or_default() < lifetime / 3
}

fn parsed(certificate: &CertificateDer<'_>) -> Option<x509_cert::Certificate> {
    x509_cert::Certificate::from_der(certificate).ok()
}

fn common_name(certificate: &x509_cert::Certificate) -> Option<String> {
    let attributes = certificate.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let mut names = attributes.filter(|attribute| attribute.oid.to_string() == COMMON_NAME);
    let name = names.next()?.value.decode_as::<Utf8StringRef<'_>>().ok()?.as_str().to_owned();
    names.next().is_none().then_some(name)
}

fn params(name: &str, lifetime: Duration) -> Result<CertificateParams, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = |since: Duration| date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs());
    let mut params = CertificateParams::default();
    params.not_before = at(now.saturating_sub(SLACK));
    params.not_after = at(now + lifetime);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    let mut serial = random_bytes::<16>()?;
    // Positive, and of full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn client_params(name: &str, lifetime: Duration) -> Result<CertificateParams, Error> {
    let mut params = params(name, lifetime)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// Whether a certificate can name this host: a host name or an IP address.
pub fn is_host(host: &str) -> bool {
    alternative_name(host).is_ok()
}

fn alternative_name(host: &str) -> Result<SanType, Error> {
    let wrong = || Error::Host { host: host.to_owned() };
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    DnsName::try_from(host).map_err(|_| wrong())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| wrong())?))
}

struct PublicKey {
    bytes: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl PublicKey {
    fn from_spki(spki: &[u8]) -> Result<PublicKey, Error> {
        let (bytes, algorithm) = if let Some(bytes) = spki.strip_prefix(&P256_HEAD) {
            // An uncompressed point.
            (Some(bytes).filter(|bytes| bytes.len() == 65 && bytes[0] == 4), &PKCS_ECDSA_P256_SHA256)
        } else {
            (spki.strip_prefix(&ED25519_HEAD).filter(|bytes| bytes.len() == 32), &PKCS_ED25519)
        };
        Ok(PublicKey { bytes: bytes.ok_or(Error::PublicKey)?.to_vec(), algorithm })
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}
