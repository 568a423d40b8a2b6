//! Real handshakes over a pipe in memory: who is accepted, who is refused, and what is said about it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deltabus_certificates::{
    Authority, ClientKey, Clients, Error, Existing, Fingerprint, IdentityFiles, LEAF_LIFETIME, Pin, Trust,
    client_config, explain, hosts, is_due, server_config, subject, validity, write_private,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HOSTS: [&str; 4] = ["bus.example.org", "localhost", "192.0.2.7", "2001:db8::7"];

/// A folder with two authorities, `ca` and `other`.
struct Place {
    folder: tempfile::TempDir,
    ca: Authority,
    other: Authority,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            folder: tempfile::tempdir().unwrap(),
            ca: Authority::new("one authority").unwrap(),
            other: Authority::new("one authority").unwrap(),
        };
        write_private(&place.path("ca.pem"), &place.ca.certificate_pem(), Existing::Keep).unwrap();
        write_private(&place.path("other.pem"), &place.other.certificate_pem(), Existing::Keep).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self, name: &str) -> IdentityFiles {
        IdentityFiles { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) }
    }

    /// A server of `ca`.
    fn server(&self) -> Arc<ServerConfig> {
        self.server_with(&Clients::Anonymous, LEAF_LIFETIME)
    }

    fn server_with(&self, clients: &Clients, lifetime: Duration) -> Arc<ServerConfig> {
        let identity = self.ca.server(&HOSTS, lifetime).unwrap();
        self.files("server").write(&identity, Existing::Replace).unwrap();
        server_config(&self.files("server"), clients).unwrap().into()
    }

    fn client(&self, trust: &str) -> Arc<ClientConfig> {
        client_config(&Trust::File(self.path(trust)), None).unwrap().into()
    }

    fn client_as(&self, name: &str, from: &Authority) -> Arc<ClientConfig> {
        let files = self.files(name);
        files.write(&from.client(name, LEAF_LIFETIME).unwrap(), Existing::Replace).unwrap();
        client_config(&Trust::File(self.path("ca.pem")), Some(&files)).unwrap().into()
    }
}

/// What both sides saw: the server's leaf and the client's name; or what the client was told.
type Seen = Result<(Fingerprint, Option<String>), String>;

async fn handshake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, host: &str) -> Seen {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let acceptor = tokio_rustls::TlsAcceptor::from(server.clone());
    let served = tokio::spawn(async move {
        let mut stream = acceptor.accept(there).await?;
        let name = stream.get_ref().1.peer_certificates().and_then(|chain| subject(&chain[0]));
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        // Until the client has read it.
        let _ = stream.read(&mut [0]).await;
        Ok::<_, std::io::Error>(name)
    });
    let connector = tokio_rustls::TlsConnector::from(client.clone());
    let met = async {
        let mut stream = connector.connect(ServerName::try_from(host.to_owned()).unwrap(), here).await?;
        let leaf = Fingerprint::of(&stream.get_ref().1.peer_certificates().unwrap()[0]);
        let mut greeting = [0; 5];
        // With TLS 1.3 a client learns only here that it was refused.
        stream.read_exact(&mut greeting).await?;
        assert_eq!(&greeting, b"hello");
        Ok::<_, std::io::Error>(leaf)
    };
    let leaf = met.await.map_err(|error| explain(&error).unwrap_or_else(|| error.to_string()))?;
    Ok((leaf, served.await.unwrap().map_err(|error| error.to_string())?))
}

fn refused(seen: Seen, with: &str) {
    let said = seen.expect_err("it is refused");
    assert!(said.contains(with), "{said}");
}

#[tokio::test]
async fn a_server_of_the_trusted_authority_is_accepted_by_each_of_its_names() {
    let place = Place::new();
    let (server, client) = (place.server(), place.client("ca.pem"));
    for host in HOSTS {
        handshake(&server, &client, host).await.unwrap();
    }
    refused(handshake(&server, &client, "elsewhere.example.org").await, "for another host");
    refused(handshake(&server, &client, "192.0.2.8").await, "for another host");
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let place = Place::new();
    refused(
        handshake(&place.server(), &place.client("other.pem"), "localhost").await,
        "not from an authority that is trusted",
    );
}

#[tokio::test]
async fn an_authority_among_several_in_one_file_is_trusted() {
    let place = Place::new();
    let both = place.other.certificate_pem() + &place.ca.certificate_pem();
    write_private(&place.path("both.pem"), &both, Existing::Keep).unwrap();
    handshake(&place.server(), &place.client("both.pem"), "localhost").await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let place = Place::new();
    // Certificates begin an hour before they are made.
    let server = place.server_with(&Clients::Anonymous, Duration::ZERO);
    let until = validity(&std::fs::read_to_string(place.files("server").certificate).unwrap()).unwrap().1;
    while std::time::SystemTime::now() <= until + Duration::from_secs(1) {
        tokio::task::yield_now().await;
    }
    refused(handshake(&server, &place.client("ca.pem"), "localhost").await, "has expired");
}

#[tokio::test]
async fn a_pinned_authority_is_found_in_what_the_server_shows_and_learned() {
    let place = Place::new();
    let server = place.server();
    let pin = Arc::new(Pin::new(place.ca.fingerprint()));
    let client = Arc::new(client_config(&Trust::Pinned(pin.clone()), None).unwrap());
    refused(handshake(&server, &client, "elsewhere.example.org").await, "for another host");
    assert_eq!(pin.learned_pem(), None, "nothing is learned from who is refused");
    handshake(&server, &client, "192.0.2.7").await.unwrap();
    assert_eq!(pin.learned_pem(), Some(place.ca.certificate_pem()));
}

#[tokio::test]
async fn another_authority_than_the_pinned_one_is_refused() {
    let place = Place::new();
    let pin = Arc::new(Pin::new(place.other.fingerprint()));
    let client = Arc::new(client_config(&Trust::Pinned(pin.clone()), None).unwrap());
    refused(handshake(&place.server(), &client, "localhost").await, "the certificate authority that the token names");
    assert_eq!(pin.learned_pem(), None);
}

#[tokio::test]
async fn showing_the_pinned_authority_is_not_enough() {
    let place = Place::new();
    // A leaf of `other`, with the certificate of `ca`, which everybody may know, put beside it.
    let identity = place.other.server(&HOSTS, LEAF_LIFETIME).unwrap();
    let files = place.files("server");
    write_private(&files.certificate, &(identity.chain_pem().to_owned() + &place.ca.certificate_pem()), Existing::Keep)
        .unwrap();
    write_private(&files.key, identity.key_pem(), Existing::Keep).unwrap();
    let server = Arc::new(server_config(&files, &Clients::Anonymous).unwrap());
    let pin = Arc::new(Pin::new(place.ca.fingerprint()));
    let client = Arc::new(client_config(&Trust::Pinned(pin.clone()), None).unwrap());
    refused(handshake(&server, &client, "localhost").await, "not from an authority that is trusted");
    assert_eq!(pin.learned_pem(), None);
}

#[tokio::test]
async fn a_server_shows_its_renewed_certificate_without_a_restart() {
    let place = Place::new();
    let (server, client) = (place.server(), place.client("ca.pem"));
    let before = handshake(&server, &client, "localhost").await.unwrap().0;
    assert_eq!(handshake(&server, &client, "localhost").await.unwrap().0, before);
    let renewed = place.ca.server(&HOSTS, LEAF_LIFETIME).unwrap();
    // Between the two files a pair doesn't match: the former goes on.
    write_private(&place.files("server").key, renewed.key_pem(), Existing::Replace).unwrap();
    assert_eq!(handshake(&server, &client, "localhost").await.unwrap().0, before);
    write_private(&place.files("server").certificate, renewed.chain_pem(), Existing::Replace).unwrap();
    let after = handshake(&server, &client, "localhost").await.unwrap().0;
    assert_eq!(after, Fingerprint::of_pem(renewed.chain_pem()).unwrap());
    // Nor does a file that is gone end a server.
    std::fs::remove_file(place.files("server").certificate).unwrap();
    assert_eq!(handshake(&server, &client, "localhost").await.unwrap().0, after);
}

#[tokio::test]
async fn a_client_trusts_what_its_file_says_at_each_handshake() {
    let place = Place::new();
    let (server, client) = (place.server(), place.client("other.pem"));
    refused(handshake(&server, &client, "localhost").await, "not from an authority that is trusted");
    write_private(&place.path("other.pem"), &place.ca.certificate_pem(), Existing::Replace).unwrap();
    handshake(&server, &client, "localhost").await.unwrap();
}

#[tokio::test]
async fn a_client_shows_its_renewed_certificate() {
    let place = Place::new();
    let server = place.server_with(&Clients::Require(place.path("ca.pem")), LEAF_LIFETIME);
    let client = place.client_as("oslo", &place.ca);
    assert_eq!(handshake(&server, &client, "localhost").await.unwrap().1.as_deref(), Some("oslo"));
    let renewed = place.ca.client("bergen", LEAF_LIFETIME).unwrap();
    place.files("oslo").write(&renewed, Existing::Replace).unwrap();
    assert_eq!(handshake(&server, &client, "localhost").await.unwrap().1.as_deref(), Some("bergen"));
}

#[tokio::test]
async fn who_requires_certificates_lets_in_only_clients_of_its_authority() {
    let place = Place::new();
    let server = place.server_with(&Clients::Require(place.path("ca.pem")), LEAF_LIFETIME);
    let seen = handshake(&server, &place.client_as("oslo", &place.ca), "localhost").await.unwrap();
    assert_eq!(seen.1.as_deref(), Some("oslo"));
    refused(handshake(&server, &place.client("ca.pem"), "localhost").await, "asks for a client certificate");
    refused(handshake(&server, &place.client_as("bad", &place.other), "localhost").await, "client certificate");
}

#[tokio::test]
async fn who_allows_certificates_lets_in_clients_without_one_too() {
    let place = Place::new();
    let server = place.server_with(&Clients::Allow(place.path("ca.pem")), LEAF_LIFETIME);
    assert_eq!(handshake(&server, &place.client("ca.pem"), "localhost").await.unwrap().1, None);
    let seen = handshake(&server, &place.client_as("oslo", &place.ca), "localhost").await.unwrap();
    assert_eq!(seen.1.as_deref(), Some("oslo"));
    refused(handshake(&server, &place.client_as("bad", &place.other), "localhost").await, "client certificate");
}

#[tokio::test]
async fn a_servers_certificate_is_none_for_a_client() {
    let place = Place::new();
    let server = place.server_with(&Clients::Require(place.path("ca.pem")), LEAF_LIFETIME);
    let client = client_config(&Trust::File(place.path("ca.pem")), Some(&place.files("server"))).unwrap();
    assert!(handshake(&server, &client.into(), "localhost").await.is_err());
}

#[tokio::test]
async fn a_client_that_keeps_its_key_is_certified_by_its_public_key() {
    let place = Place::new();
    let server = place.server_with(&Clients::Require(place.path("ca.pem")), LEAF_LIFETIME);
    let key = ClientKey::new().unwrap();
    let chain = place.ca.client_for("oslo", &key.public_key(), LEAF_LIFETIME).unwrap();
    let files = place.files("oslo");
    files.write(&key.certified(chain.clone()).unwrap(), Existing::Keep).unwrap();
    let client = client_config(&Trust::File(place.path("ca.pem")), Some(&files)).unwrap();
    assert_eq!(handshake(&server, &client.into(), "localhost").await.unwrap().1.as_deref(), Some("oslo"));
    assert!(matches!(ClientKey::new().unwrap().certified(chain), Err(Error::Mismatch { .. })));
}

#[tokio::test]
async fn an_authority_read_from_its_files_issues_as_before() {
    let place = Place::new();
    let again = Authority::from_pem(&place.ca.certificate_pem(), &place.ca.key_pem()).unwrap();
    assert_eq!(again.fingerprint(), place.ca.fingerprint());
    let files = place.files("server");
    files.write(&again.server(&HOSTS, LEAF_LIFETIME).unwrap(), Existing::Keep).unwrap();
    let server = Arc::new(server_config(&files, &Clients::Anonymous).unwrap());
    handshake(&server, &place.client("ca.pem"), "localhost").await.unwrap();
    let wrong = Authority::from_pem(&place.ca.certificate_pem(), &place.other.key_pem());
    assert!(matches!(wrong, Err(Error::Mismatch { .. })));
}

#[test]
fn an_ed25519_key_is_certified_and_nonsense_is_not() {
    let ca = Authority::new("authority").unwrap();
    let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let chain = ca.client_for("oslo", &[head.as_slice(), &[7; 32]].concat(), LEAF_LIFETIME).unwrap();
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
    for wrong in [&[][..], &head, &[head.as_slice(), &[7; 33]].concat(), &[0x30; 91]] {
        assert!(matches!(ca.client_for("oslo", wrong, LEAF_LIFETIME), Err(Error::PublicKey)), "{wrong:?}");
    }
}

#[test]
fn nothing_is_written_over_and_all_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let files = place.files("server");
    let (first, second) =
        (place.ca.server(&HOSTS, LEAF_LIFETIME).unwrap(), place.ca.server(&HOSTS, LEAF_LIFETIME).unwrap());
    files.write(&first, Existing::Keep).unwrap();
    for path in [&files.certificate, &files.key] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(matches!(files.write(&second, Existing::Keep), Err(Error::Exists { .. })));
    std::fs::remove_file(&files.certificate).unwrap();
    assert!(matches!(files.write(&second, Existing::Keep), Err(Error::Exists { path }) if path == files.key));
    assert_eq!(std::fs::read_to_string(&files.key).unwrap(), first.key_pem());
    assert!(matches!(write_private(&files.key, "x", Existing::Keep), Err(Error::Exists { .. })));
    files.write(&second, Existing::Replace).unwrap();
    assert_eq!(std::fs::read_to_string(&files.key).unwrap(), second.key_pem());
    let left = std::fs::read_dir(place.folder.path()).unwrap().count();
    assert_eq!(left, 4, "no temporary file stays");
}

#[test]
fn a_certificate_says_who_it_is_for_and_how_long() {
    let ca = Authority::new("authority").unwrap();
    let chain = ca.client_for("oslo", &ClientKey::new().unwrap().public_key(), Duration::from_secs(3 * 3600)).unwrap();
    use rustls::pki_types::pem::PemObject;
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    assert_eq!(subject(&leaf).as_deref(), Some("oslo"));
    let (from, until) = validity(&chain).unwrap();
    // Three hours, and one before it was made.
    assert_eq!(until.duration_since(from).unwrap(), Duration::from_secs(4 * 3600));
    assert!(!is_due(&chain, from + Duration::from_secs(3600)));
    assert!(is_due(&chain, until - Duration::from_secs(3600)) && is_due(&chain, until + Duration::from_secs(1)));
    assert!(is_due("nonsense", from));
}

#[test]
fn a_servers_certificate_says_which_hosts_it_is_for() {
    let ca = Authority::new("authority").unwrap();
    assert_eq!(hosts(ca.server(&HOSTS, LEAF_LIFETIME).unwrap().chain_pem()).unwrap(), HOSTS);
    assert_eq!(hosts(ca.client("oslo", LEAF_LIFETIME).unwrap().chain_pem()).unwrap(), [""; 0]);
    assert!(hosts("nonsense").is_err());
}

#[test]
fn what_is_no_host_gets_no_certificate() {
    let ca = Authority::new("authority").unwrap();
    for wrong in ["", "a b", "bus:4222", "nats://bus", "-", "ü.example.org"] {
        let made = ca.server(&[wrong], LEAF_LIFETIME);
        assert!(matches!(&made, Err(Error::Host { host }) if host == wrong), "{wrong}: {made:?}");
    }
    assert!(matches!(ca.server(&[] as &[&str], LEAF_LIFETIME), Err(Error::Host { .. })));
    assert!(ca.server(&["[2001:db8::1]"], LEAF_LIFETIME).is_ok());
}

#[test]
fn settings_with_missing_or_mixed_files_fail_at_once_and_name_them() {
    let place = Place::new();
    let said = |error: Error| error.to_string();
    let missing = client_config(&Trust::File(place.path("none.pem")), None).map(drop).map_err(said);
    assert!(missing.unwrap_err().ends_with("none.pem"));
    std::fs::write(place.path("text.pem"), "no certificate").unwrap();
    let text = client_config(&Trust::File(place.path("text.pem")), None).map(drop).map_err(said);
    assert!(text.unwrap_err().contains("text.pem holds no certificate in PEM"));
    place.files("a").write(&place.ca.client("a", LEAF_LIFETIME).unwrap(), Existing::Keep).unwrap();
    place.files("b").write(&place.ca.client("b", LEAF_LIFETIME).unwrap(), Existing::Keep).unwrap();
    let mixed = IdentityFiles { certificate: place.path("a.pem"), key: place.path("b.key") };
    let mixed = server_config(&mixed, &Clients::Anonymous).map(drop).map_err(said);
    assert!(mixed.unwrap_err().contains("b.key is not that of the certificate in"));
}
