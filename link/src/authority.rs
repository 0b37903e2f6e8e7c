//! The cluster's own certificate authority: it says who is a node of the cluster, and in which role.
//!
//! A certificate is made from nothing but what is said here: of the node comes only its public key.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use potluck_proto::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::peer::{PeerId, Role, cluster_id, node_id, sha256};

/// How long the certificate of a node is good for. It is renewed by itself when two thirds are over.
pub const NODE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long the authority is good for.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// Certificates are good from some time before they are made: the clocks of a home differ.
const CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);

/// Bytes of an uncompressed point on P-256.
pub const PUBLIC_KEY_BYTES: usize = 65;

/// A certificate that cannot be made, or keys that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The library refused.
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The stored text is no key or certificate.
    #[error("the stored key or certificate cannot be read: {0}")]
    Pem(String),
    /// A public key that no node of ours has.
    #[error("this is not a public key on P-256")]
    PublicKey,
}

/// The authority as it is kept: a secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredAuthority {
    /// PKCS #8, PEM.
    pub key: String,
    /// PEM.
    pub certificate: String,
}

/// A certificate that was issued, and its time.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Of the node.
    pub certificate: CertificateDer<'static>,
    /// Seconds since 1970.
    pub issued_at: u64,
    /// Seconds since 1970.
    pub expires_at: u64,
}

/// What the HTTP API shows itself with.
pub struct ApiCertificate {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    fingerprint: [u8; 32],
}

impl Authority {
    /// A new one.
    pub fn create() -> Result<(Authority, StoredAuthority), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        let now = SystemTime::now();
        params.not_before = date(now - 2 * CLOCK_SLACK);
        params.not_after = date(now + AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "potluck cluster authority");
        let certificate = params.self_signed(&key)?;
        let stored = StoredAuthority {
            key: key.serialize_pem(),
            certificate: certificate.pem(),
        };
        Ok((Authority::from_stored(&stored)?, stored))
    }

    /// The one that was kept.
    pub fn from_stored(stored: &StoredAuthority) -> Result<Authority, AuthorityError> {
        let key = KeyPair::from_pem(&stored.key)?;
        let certificate = read_certificate(&stored.certificate)?;
        // Only the subject and the usages of the parameters are used for signing, and they are always these.
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "potluck cluster authority");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let fingerprint = sha256(&certificate);
        Ok(Authority {
            issuer: Issuer::new(params, key),
            certificate,
            fingerprint,
        })
    }

    /// SHA-256 of the certificate: what an invite pins.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The cluster that it is the authority of.
    pub fn cluster(&self) -> ClusterId {
        cluster_id(&self.fingerprint)
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for the node with this public key.
    pub fn issue(
        &self,
        role: Role,
        public_key: &[u8],
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let public_key = P256PublicKey::new(public_key)?;
        let peer = PeerId {
            cluster: self.cluster(),
            role,
            node: node_id(public_key.0),
        };
        let mut params = CertificateParams::default();
        let uri = peer.uri().try_into()?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("potluck {role}"));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        self.sign(params, &public_key, lifetime)
    }

    /// A certificate for the HTTP API at these names and addresses, and its key. It names no node, so it opens no link.
    pub fn issue_for_api(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        lifetime: Duration,
    ) -> Result<ApiCertificate, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.to_vec())?;
        let addresses = addresses.iter().map(|ip| SanType::IpAddress(*ip));
        params.subject_alt_names.extend(addresses);
        params
            .distinguished_name
            .push(DnType::CommonName, "potluck API");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let public_key = P256PublicKey::new(key.public_key_raw())?;
        let issued = self.sign(params, &public_key, lifetime)?;
        Ok(ApiCertificate {
            certificate: issued.certificate,
            key: read_key(&key.serialize_pem())?,
        })
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        public_key: &P256PublicKey<'_>,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let now = SystemTime::now();
        params.not_before = date(now - CLOCK_SLACK);
        params.not_after = date(now + lifetime);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(public_key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.der().clone(),
            issued_at: unix_seconds(now),
            expires_at: unix_seconds(now + lifetime),
        })
    }
}

/// A public key as it stands in a request: nothing but a point.
struct P256PublicKey<'a>(&'a [u8]);

impl<'a> P256PublicKey<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, AuthorityError> {
        match bytes.len() == PUBLIC_KEY_BYTES && bytes[0] == 4 {
            true => Ok(P256PublicKey(bytes)),
            false => Err(AuthorityError::PublicKey),
        }
    }
}

impl PublicKeyData for P256PublicKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Reads a certificate.
pub(crate) fn read_certificate(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|err| AuthorityError::Pem(err.to_string()))
}

/// Reads a private key.
pub(crate) fn read_key(pem: &str) -> Result<PrivateKeyDer<'static>, AuthorityError> {
    PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .map(PrivateKeyDer::Pkcs8)
        .map_err(|err| AuthorityError::Pem(err.to_string()))
}

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The form that certificates have. A clock far outside of any calendar counts as 1970.
fn date(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix_seconds(time) as i64)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
