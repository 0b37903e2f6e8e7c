//! How TLS is set up: version 1.3 only, one provider, no resumption, both ends with a certificate; and what went wrong, in words.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, ServerConfig};

use crate::authority::AuthorityError;
use crate::credential::{Credential, provider};
use crate::verify::{ClientVerifier, ServerVerifier};

/// Application protocol of links between nodes: gRPC over HTTP/2.
pub const ALPN_NODE: &[u8] = b"h2";

/// Application protocol of a machine that asks to join, and has no certificate yet.
pub const ALPN_JOIN: &[u8] = b"potluck-join/1";

/// For opening links.
pub fn client(credential: &Credential) -> Result<ClientConfig, AuthorityError> {
    let verifier = ServerVerifier::of_cluster(credential.authority())?;
    let mut config =
        client_builder(verifier)?.with_client_cert_resolver(Arc::new(credential.clone()));
    config.alpn_protocols = vec![ALPN_NODE.to_vec()];
    Ok(hidden(config))
}

/// For joining: nothing is known but the fingerprint of the authority.
pub fn join_client(fingerprint: [u8; 32]) -> Result<ClientConfig, AuthorityError> {
    let mut config = client_builder(ServerVerifier::pinned(fingerprint))?.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    Ok(hidden(config))
}

/// For accepting links.
pub fn server(credential: &Credential) -> Result<ServerConfig, AuthorityError> {
    let verifier = ClientVerifier::of_cluster(credential.authority())?;
    let builder = server_builder()?.with_client_cert_verifier(Arc::new(verifier));
    let mut config = builder.with_cert_resolver(Arc::new(credential.clone()));
    config.alpn_protocols = vec![ALPN_NODE.to_vec()];
    Ok(without_resumption(config))
}

/// For accepting machines that ask to join.
pub fn join_server(credential: &Credential) -> Result<ServerConfig, AuthorityError> {
    let mut config = server_builder()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(credential.clone()));
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    Ok(without_resumption(config))
}

fn client_builder(
    verifier: ServerVerifier,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, AuthorityError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn server_builder()
-> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, AuthorityError> {
    ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)
}

fn unusable(err: Error) -> AuthorityError {
    AuthorityError::Pem(err.to_string())
}

/// A resumed session would not show its certificate again, and a removed node must not come back that way. The name of the
/// server is the same for all, so it is not sent.
fn hidden(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// What a broken handshake means.
pub fn explain(error: &io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    let Some(tls) = tls else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection".into(),
            _ => error.to_string(),
        };
    };
    match tls {
        Error::InvalidCertificate(certificate) => explain_certificate(certificate),
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::InvalidMessage(_) | Error::PeerIncompatible(_) => {
            format!("it does not speak potluck's encrypted protocol ({tls})")
        }
        _ => tls.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
            "its certificate has expired ({error}); check the clock of both machines, and if they are right run `potluck join` \
             there again"
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet ({error}); check the clock of both machines")
        }
        // All authorities have the same name, so that of another cluster is found out by its signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it belongs to another cluster".into()
        }
        CertificateError::ApplicationVerificationFailure => {
            "its certificate names no node of this cluster".into()
        }
        _ => format!("its certificate is not valid ({error})"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => {
            "it says that this machine's certificate is not valid now; check the clock of both machines".into()
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError | AlertDescription::BadCertificate => {
            "it belongs to another cluster than this machine".into()
        }
        AlertDescription::AccessDenied | AlertDescription::CertificateRequired => {
            "it does not accept this machine's certificate".into()
        }
        AlertDescription::NoApplicationProtocol => {
            "it does not speak this protocol: is it a worker where a coordinator was expected, or an older version?".into()
        }
        alert => format!("it refused the handshake ({alert:?})"),
    }
}
