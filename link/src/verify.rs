//! Checking the certificate at the other end of a link: the chain up to the cluster's authority, the time, and the name in it.
//!
//! The signature over the handshake, which proves the key, is always left to rustls.

use std::sync::Arc;

use potluck_proto::ClusterId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use webpki::EndEntityCert;

use crate::authority::AuthorityError;
use crate::credential::provider;
use crate::peer::{PeerId, Role, cluster_id, sha256};

/// The node that a certificate names: exactly one, in exactly one cluster.
pub fn peer_in(certificate: &CertificateDer<'_>) -> Option<PeerId> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_uri_names();
    let peer = PeerId::from_uri(names.next()?)?;
    names.next().is_none().then_some(peer)
}

/// Checks the server that a link was opened to.
#[derive(Debug)]
pub struct ServerVerifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a server's chain must end in.
#[derive(Debug)]
enum Trust {
    /// The authority of a cluster that one belongs to.
    Authority(Arc<RootCertStore>, ClusterId),
    /// An authority known by its fingerprint only: that of an invite.
    Pinned([u8; 32]),
}

impl ServerVerifier {
    /// Servers of the cluster that this authority vouches for.
    pub fn of_cluster(authority: &CertificateDer<'static>) -> Result<Self, AuthorityError> {
        Ok(ServerVerifier {
            trust: Trust::Authority(roots(authority)?, cluster_id(&sha256(authority))),
            algorithms: algorithms(),
        })
    }

    /// The coordinator of the cluster whose authority has this fingerprint.
    pub fn pinned(fingerprint: [u8; 32]) -> Self {
        ServerVerifier {
            trust: Trust::Pinned(fingerprint),
            algorithms: algorithms(),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (roots, cluster) = match &self.trust {
            Trust::Authority(roots, cluster) => (Arc::clone(roots), *cluster),
            Trust::Pinned(fingerprint) => {
                let pinned = intermediates
                    .iter()
                    .find(|certificate| sha256(certificate) == *fingerprint);
                let authority = pinned.ok_or(CertificateError::UnknownIssuer)?;
                let roots = roots(&authority.clone().into_owned())
                    .map_err(|_| CertificateError::BadEncoding)?;
                (roots, cluster_id(fingerprint))
            }
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let peer = check_name(end_entity, cluster)?;
        let must_coordinate = matches!(self.trust, Trust::Pinned(_));
        match must_coordinate && peer.role != Role::Coordinator {
            true => Err(CertificateError::ApplicationVerificationFailure.into()),
            false => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks the client of a link: a certificate it must have.
#[derive(Debug)]
pub struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
}

impl ClientVerifier {
    /// Clients of the cluster that this authority vouches for.
    pub fn of_cluster(authority: &CertificateDer<'static>) -> Result<Self, AuthorityError> {
        let chain =
            WebPkiClientVerifier::builder_with_provider(roots(authority)?, Arc::new(provider()));
        Ok(ClientVerifier {
            chain: chain
                .build()
                .map_err(|err| AuthorityError::Pem(err.to_string()))?,
            cluster: cluster_id(&sha256(authority)),
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        check_name(end_entity, self.cluster)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// A certificate of the authority that names no node of the cluster (the API's, say) opens no link.
fn check_name(certificate: &CertificateDer<'_>, cluster: ClusterId) -> Result<PeerId, Error> {
    match peer_in(certificate) {
        Some(peer) if peer.cluster == cluster => Ok(peer),
        _ => Err(CertificateError::ApplicationVerificationFailure.into()),
    }
}

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, AuthorityError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.clone())
        .map_err(|err| AuthorityError::Pem(err.to_string()))?;
    Ok(Arc::new(roots))
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

fn only_tls13() -> Error {
    Error::General("links use TLS 1.3 only".into())
}
