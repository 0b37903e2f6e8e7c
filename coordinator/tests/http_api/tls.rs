//! The API over TLS, with a certificate of its own authority.

use std::net::SocketAddr;
use std::sync::Arc;

use potluck_coordinator::http::Transport;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{chat, post};
use crate::keys::Keys;
use crate::server::{self, Opened, Server, USUAL};

/// A certificate for `localhost` that vouches for itself.
pub struct Certificate {
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Certificate {
    pub fn new() -> Certificate {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Certificate {
            der: cert.der().clone(),
            key: signing_key,
        }
    }

    pub fn server(&self) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .unwrap()
    }

    /// A client that trusts this certificate alone.
    fn client(&self, protocols: &[&[u8]]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

async fn start(certificate: &Certificate) -> Server {
    let transport = Transport::Tls(Arc::new(certificate.server()));
    let opened = Opened {
        transport,
        ..server::open()
    };
    server::start_opened(USUAL, opened).await
}

async fn connect(
    connector: TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect(name, stream).await
}

async fn exchange(connector: TlsConnector, address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(connector, address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    String::from_utf8(reply).unwrap()
}

#[tokio::test]
async fn an_answer_comes_through_encrypted() {
    let certificate = Certificate::new();
    let server = start(&certificate).await;
    let request = post(chat("say:hi there").to_string().as_bytes());
    for protocols in [
        [].as_slice(),
        &[b"http/1.1".as_slice()],
        &[b"h2", b"http/1.1"],
    ] {
        let reply = exchange(certificate.client(protocols), server.address, &request).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert!(reply.contains("hi there"), "{reply}");
    }
}

#[tokio::test]
async fn a_client_learns_which_protocol_is_spoken() {
    let certificate = Certificate::new();
    let server = start(&certificate).await;
    let both = certificate.client(&[b"h2", b"http/1.1"]);
    let stream = connect(both, server.address).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(b"http/1.1".as_slice()));
    let only_h2 = certificate.client(&[b"h2"]);
    assert!(connect(only_h2, server.address).await.is_err());
}

#[tokio::test]
async fn keys_are_asked_for_under_tls_too() {
    let (certificate, (keys, key)) = (Certificate::new(), Keys::one());
    let opened = Opened {
        gate: keys.gate("127.0.0.1:0"),
        transport: Transport::Tls(Arc::new(certificate.server())),
        ..server::open()
    };
    let server = server::start_opened(USUAL, opened).await;
    for (header, status) in [
        (String::new(), 401),
        (format!("Authorization: Bearer {key}\r\n"), 200),
    ] {
        let request = format!(
            "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n"
        );
        let reply = exchange(certificate.client(&[]), server.address, request.as_bytes()).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
    }
}

#[tokio::test]
async fn who_does_not_speak_tls_or_trust_the_certificate_gets_nothing() {
    let certificate = Certificate::new();
    let server = start(&certificate).await;
    let request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(request).await.unwrap();
    let mut reply = Vec::new();
    let _ = plain.read_to_end(&mut reply).await;
    assert!(!reply.starts_with(b"HTTP"), "{reply:?}");
    let stranger = Certificate::new().client(&[]);
    assert!(connect(stranger, server.address).await.is_err());
    let reply = exchange(
        certificate.client(&[]),
        server.address,
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "it lives: {reply}");
}

/// The clock stands still but for the timers that fire.
#[tokio::test]
async fn a_silent_client_blocks_nobody_and_is_given_up() {
    let certificate = Certificate::new();
    let server = start(&certificate).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let request = post(chat("say:hi").to_string().as_bytes());
    let reply = exchange(certificate.client(&[]), server.address, &request).await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");

    tokio::time::pause();
    let started = Instant::now();
    let mut nothing = Vec::new();
    silent.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    let seconds = started.elapsed().as_secs();
    assert!((9..=10).contains(&seconds), "{seconds} s");
}
