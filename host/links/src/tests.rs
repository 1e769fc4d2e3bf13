use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{CipherSuite, ProtocolVersion};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A CA with a folder for what it issues.
struct Ca {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca"), ca.pem()).unwrap();
        let ca = Self { folder, issuer: Issuer::new(params, key) };
        ca.revoke(1, &[]);
        ca
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for localhost that ends in so many days.
    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose, serial: u64, days: i64) -> PathBuf {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = OffsetDateTime::now_utc() - Duration::days(10);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let new = self.path("new");
        fs::write(&new, certificate.pem() + &key.serialize_pem()).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, self.path(name)).unwrap();
        self.path(name)
    }

    fn revoke(&self, number: u64, serials: &[u64]) {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap().pem().unwrap();
        fs::write(self.path("new"), list).unwrap();
        fs::rename(self.path("new"), self.path("crl")).unwrap();
    }

    fn server(&self, serial: u64) -> PathBuf {
        self.issue("server", ExtendedKeyUsagePurpose::ServerAuth, serial, 1)
    }

    fn client(&self, serial: u64) -> PathBuf {
        self.issue("client", ExtendedKeyUsagePurpose::ClientAuth, serial, 1)
    }

    fn link(&self, required: bool) -> Arc<ServerLink> {
        let clients = Clients { ca: self.path("ca"), crl: Some(self.path("crl")), required };
        let files = ServerFiles { identity: self.server(2), clients: Some(clients) };
        Arc::new(ServerLink::open(files).unwrap())
    }
}

/// A handshake and one byte each way; the client that the server saw.
async fn talk(
    link: &Arc<ServerLink>,
    ca: &Path,
    identity: Option<&Path>,
) -> std::io::Result<Option<Client>> {
    let (near, far) = tokio::io::duplex(4_096);
    let served = async {
        let (mut stream, client) = link.handshake(far).await?;
        stream.write_all(b"!").await?;
        let session = stream.get_ref().1;
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let suite = session.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_256_GCM_SHA384);
        Ok(client)
    };
    let asked = async {
        let client = ClientLink::http(ca, identity).unwrap();
        let mut stream = client.handshake("localhost", near).await?;
        assert_eq!(stream.read_u8().await?, b'!');
        std::io::Result::Ok(())
    };
    let (client, asked) = tokio::join!(served, asked);
    asked.and(client)
}

#[tokio::test]
async fn both_sides_are_verified() {
    let (ca, other) = (Ca::new(), Ca::new());
    let root = ca.path("ca");
    let link = ca.link(true);
    let identity = ca.client(3);
    let client = talk(&link, &root, Some(&identity)).await.unwrap().unwrap();
    assert!(client.still_holds());
    assert!(talk(&link, &root, None).await.is_err(), "no certificate");
    assert!(talk(&link, &other.path("ca"), Some(&identity)).await.is_err(), "another server");
    let foreign = other.client(3);
    assert!(talk(&link, &root, Some(&foreign)).await.is_err(), "another CA's client");
    let expired = ca.issue("expired", ExtendedKeyUsagePurpose::ClientAuth, 4, -1);
    assert!(talk(&link, &root, Some(&expired)).await.is_err(), "an expired client");
    let server = ca.issue("wrong", ExtendedKeyUsagePurpose::ServerAuth, 5, 1);
    assert!(talk(&link, &root, Some(&server)).await.is_err(), "a server as a client");
}

#[tokio::test]
async fn where_a_certificate_is_optional_a_wrong_one_is_still_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let root = ca.path("ca");
    let link = ca.link(false);
    assert!(talk(&link, &root, None).await.unwrap().is_none());
    assert!(talk(&link, &root, Some(&ca.client(3))).await.unwrap().is_some());
    assert!(talk(&link, &root, Some(&other.client(3))).await.is_err());
}

#[tokio::test]
async fn a_revocation_counts_at_once_also_for_who_is_connected() {
    let ca = Ca::new();
    let root = ca.path("ca");
    let link = ca.link(true);
    let (first, second) = (ca.client(3), ca.issue("b", ExtendedKeyUsagePurpose::ClientAuth, 4, 1));
    let one = talk(&link, &root, Some(&first)).await.unwrap().unwrap();
    let two = talk(&link, &root, Some(&second)).await.unwrap().unwrap();
    ca.revoke(2, &[3]);
    assert!(!one.still_holds() && two.still_holds());
    assert!(talk(&link, &root, Some(&first)).await.is_err());
    assert!(talk(&link, &root, Some(&second)).await.is_ok());
    // Without its list nobody can say who is revoked, so nobody is let in.
    fs::remove_file(ca.path("crl")).unwrap();
    assert!(!two.still_holds());
    assert!(talk(&link, &root, Some(&second)).await.is_err());
}

#[tokio::test]
async fn a_list_that_another_ca_signed_lets_nobody_in() {
    let (ca, other) = (Ca::new(), Ca::new());
    let link = ca.link(true);
    let identity = ca.client(3);
    fs::copy(other.path("crl"), ca.path("crl")).unwrap();
    assert!(talk(&link, &ca.path("ca"), Some(&identity)).await.is_err());
}

#[tokio::test]
async fn a_renewed_server_is_believed_without_a_restart() {
    let (ca, other) = (Ca::new(), Ca::new());
    let link = ca.link(false);
    assert!(link.is_named("localhost") && !link.is_named("other.example"));
    assert!(talk(&link, &other.path("ca"), None).await.is_err());
    fs::rename(other.server(9), ca.path("server")).unwrap();
    assert!(talk(&link, &other.path("ca"), None).await.is_ok());
}

#[test]
fn files_that_are_none_or_exposed_are_named() {
    let ca = Ca::new();
    let identity = ca.server(2);
    let open = |identity: PathBuf| ServerLink::open(ServerFiles { identity, clients: None });
    let error = open(ca.path("ca")).unwrap_err();
    assert!(matches!(error, LinkError::Exposed(_)), "{error}");
    fs::set_permissions(ca.path("ca"), fs::Permissions::from_mode(0o600)).unwrap();
    let error = open(ca.path("ca")).unwrap_err();
    assert!(matches!(error, LinkError::Absent { what: "private key", .. }), "{error}");
    assert!(open(identity).is_ok());
    let error = ClientLink::http(&ca.path("nothing"), None).unwrap_err();
    assert!(matches!(error, LinkError::Read { .. }), "{error}");
    let error = ClientLink::http(&ca.path("crl"), None).unwrap_err();
    assert!(matches!(error, LinkError::Absent { what: "certificate", .. }), "{error}");
}
