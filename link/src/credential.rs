//! What a node proves itself with: its key, its certificate, and the authority that it trusts.
//!
//! The key is made on the machine and never leaves it. A certificate is replaced while links are open: new links use the new
//! one, open ones go on.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use potluck_proto::ClusterId;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::authority::{
    Authority, AuthorityError, Issued, read_certificate, read_key, unix_seconds,
};
use crate::peer::{PeerId, Role, cluster_id, node_id, sha256};

/// A node's key, and the ways to ask for a certificate for it.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// A new one.
    pub fn generate() -> Result<NodeKey, AuthorityError> {
        Ok(NodeKey(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// 65 bytes: an uncompressed point.
    pub fn public_key(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    /// Proves that whoever sends the public key has the private one. ECDSA with SHA-256, ASN.1.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        Ok(SigningKey::sign(&self.0, message)?)
    }
}

/// A credential as it is kept: a secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredCredential {
    /// `coordinator` or `worker`.
    pub role: Role,
    /// PKCS #8, PEM.
    pub key: String,
    /// Of the node, PEM.
    pub certificate: String,
    /// Of the cluster's authority, PEM.
    pub authority: String,
    /// Seconds since 1970.
    pub issued_at: u64,
    /// Seconds since 1970.
    pub expires_at: u64,
}

/// A node's credential. Clones share it.
#[derive(Clone)]
pub struct Credential {
    id: PeerId,
    authority: CertificateDer<'static>,
    current: Arc<RwLock<Current>>,
}

struct Current {
    stored: StoredCredential,
    certified: Arc<CertifiedKey>,
}

impl Credential {
    /// From a key, and a certificate that was issued for it.
    pub fn new(
        role: Role,
        key: &NodeKey,
        issued: &Issued,
        authority: &CertificateDer<'_>,
    ) -> Result<Credential, AuthorityError> {
        Credential::from_stored(StoredCredential {
            role,
            key: key.0.serialize_pem(),
            certificate: pem(&issued.certificate),
            authority: pem(authority),
            issued_at: issued.issued_at,
            expires_at: issued.expires_at,
        })
    }

    /// A new node that the authority on this machine vouches for.
    pub fn issued_by(
        authority: &Authority,
        role: Role,
        lifetime: Duration,
    ) -> Result<Credential, AuthorityError> {
        let key = NodeKey::generate()?;
        let issued = authority.issue(role, key.public_key(), lifetime)?;
        Credential::new(role, &key, &issued, authority.certificate())
    }

    /// The one that was kept.
    pub fn from_stored(stored: StoredCredential) -> Result<Credential, AuthorityError> {
        let authority = read_certificate(&stored.authority)?;
        let id = PeerId {
            cluster: cluster_id(&sha256(&authority)),
            role: stored.role,
            node: node_id(KeyPair::from_pem(&stored.key)?.public_key_raw()),
        };
        let certified = Arc::new(certified(&stored, &authority)?);
        Ok(Credential {
            id,
            authority,
            current: Arc::new(RwLock::new(Current { stored, certified })),
        })
    }

    /// Who it proves to be.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The cluster's authority.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The form that is kept.
    pub fn stored(&self) -> StoredCredential {
        self.read(|current| current.stored.clone())
    }

    /// The public key, for a renewal.
    pub fn public_key(&self) -> Result<Vec<u8>, AuthorityError> {
        let key = KeyPair::from_pem(&self.stored().key)?;
        Ok(key.public_key_raw().to_vec())
    }

    /// Takes a newer certificate for the same key into use.
    pub fn renew(&self, issued: &Issued) -> Result<(), AuthorityError> {
        let mut stored = self.stored();
        stored.certificate = pem(&issued.certificate);
        stored.issued_at = issued.issued_at;
        stored.expires_at = issued.expires_at;
        let certified = Arc::new(certified(&stored, &self.authority)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) =
            Current { stored, certified };
        Ok(())
    }

    /// Time until the certificate should be renewed: when two thirds of its life are over.
    pub fn renew_in(&self, now: SystemTime) -> Duration {
        let (issued, expires) =
            self.read(|current| (current.stored.issued_at, current.stored.expires_at));
        let due = issued + expires.saturating_sub(issued) / 3 * 2;
        Duration::from_secs(due.saturating_sub(unix_seconds(now)))
    }

    /// Whether the certificate has expired.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.read(|current| current.stored.expires_at) <= unix_seconds(now)
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.id.cluster
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        self.read(|current| Arc::clone(&current.certified))
    }

    fn read<T>(&self, read: impl FnOnce(&Current) -> T) -> T {
        read(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Key and chain as TLS wants them. The authority's certificate goes with it: whoever joins pins it.
fn certified(
    stored: &StoredCredential,
    authority: &CertificateDer<'static>,
) -> Result<CertifiedKey, AuthorityError> {
    let chain = vec![read_certificate(&stored.certificate)?, authority.clone()];
    let unusable = |err: rustls::Error| AuthorityError::Pem(err.to_string());
    CertifiedKey::from_der(chain, read_key(&stored.key)?, &provider()).map_err(unusable)
}

/// The one provider of cryptography.
pub fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// A certificate as text.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    let base64 = data_encoding::BASE64.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.id)
    }
}

impl ResolvesServerCert for Credential {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl rustls::client::ResolvesClientCert for Credential {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
