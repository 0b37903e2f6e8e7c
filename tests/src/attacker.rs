//! A machine that means harm: TLS ends that check nothing, forged certificates, requests to join made byte by byte.
//!
//! What it has in its hands is said by the test: nothing, an invite, a certificate of its own, or the authority's key.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use potluck_link::authority::StoredAuthority;
use potluck_link::credential::{Credential, NodeKey, StoredCredential, pem, provider};
use potluck_link::invite::{Invite, transcript};
use potluck_link::{PeerId, Role};
use potluck_proto::{PROTOCOL, wire};
use prost::Message;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cluster::Cluster;

/// Application protocols, as the program names them.
pub const ALPN_NODE: &[u8] = b"h2";
pub const ALPN_JOIN: &[u8] = b"potluck-join/1";

/// Purpose of the keying material of a channel to join on.
const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL-potluck-join-v1";

/// How long a victim may take to answer or hang up: its own limit for a handshake is 5 s.
pub const HANGS_UP_WITHIN: Duration = Duration::from_secs(7);

const HOUR: Duration = Duration::from_secs(3600);

/// An address of this machine from which nobody else connects. All of 127.0.0.0/8 is loopback on Linux.
pub fn source(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 66, 0, n)
}

/// A plain connection.
pub async fn plain(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Everything until the other end closes, which it must in time. A reset is an end too.
pub async fn until_closed(io: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    let end = tokio::time::timeout(HANGS_UP_WITHIN, io.read_to_end(&mut said)).await;
    assert!(end.is_ok(), "it does not hang up; it has said {said:?}");
    said
}

/// How a certificate is made that nobody should accept, or that the authority itself would not make.
pub struct Forgery<'a> {
    /// Names in it.
    pub names: Vec<String>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Who signs it; by itself without.
    pub authority: Option<&'a StoredAuthority>,
    /// Who is shown as the authority.
    pub shown: String,
    pub role: Role,
}

impl<'a> Forgery<'a> {
    /// One that is good if `authority` is the cluster's.
    pub fn by(authority: &'a StoredAuthority) -> Forgery<'a> {
        Forgery {
            names: Vec::new(),
            not_before: SystemTime::now() - HOUR,
            not_after: SystemTime::now() + HOUR,
            authority: Some(authority),
            shown: authority.certificate.clone(),
            role: Role::Worker,
        }
    }

    /// Makes it for a key. Without other names it names the key's node in `cluster`.
    pub fn make(&self, cluster: &Cluster) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        let own_name = PeerId {
            cluster: cluster.own().id(),
            role: self.role,
            node: potluck_link::peer::node_id(key.public_key_raw()),
        };
        let names = match self.names.is_empty() {
            true => vec![own_name.uri()],
            false => self.names.clone(),
        };
        let uri = |name: &String| SanType::URI(name.as_str().try_into().expect("a URI"));
        params.subject_alt_names = names.iter().map(uri).collect();
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let made = match self.authority {
            Some(authority) => {
                let signer = KeyPair::from_pem(&authority.key).expect("the authority's key");
                // Only its name and usages are used for signing.
                let mut signing = CertificateParams::default();
                signing
                    .distinguished_name
                    .push(DnType::CommonName, "potluck cluster authority");
                signing.key_usages = vec![KeyUsagePurpose::KeyCertSign];
                params.signed_by(&key, &Issuer::new(signing, signer))
            }
            None => params.self_signed(&key),
        };
        Identity {
            id: own_name,
            stored: StoredCredential {
                role: self.role,
                key: key.serialize_pem(),
                certificate: pem(made.expect("a certificate").der()),
                authority: self.shown.clone(),
                issued_at: 0,
                expires_at: u64::MAX,
            },
        }
    }
}

/// A key and a chain.
#[derive(Clone)]
pub struct Identity {
    pub id: PeerId,
    pub stored: StoredCredential,
}

impl Identity {
    /// One that the cluster gave out.
    pub fn of(credential: &Credential) -> Identity {
        Identity {
            id: credential.id(),
            stored: credential.stored(),
        }
    }

    /// The same chain with a key that does not belong to it.
    pub fn with_another_key(&self) -> Identity {
        let mut stolen = self.clone();
        stolen.stored.key = KeyPair::generate().expect("a key").serialize_pem();
        stolen
    }

    fn certified(&self) -> CertifiedKey {
        let certificate =
            |text: &String| CertificateDer::from_pem_slice(text.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(self.stored.key.as_bytes()).expect("a key");
        let key = provider().key_provider.load_private_key(key);
        let chain = [&self.stored.certificate, &self.stored.authority];
        CertifiedKey::new(chain.map(certificate).to_vec(), key.expect("a key"))
    }
}

/// A client that believes everybody, and shows this if it is asked.
pub fn client(identity: Option<&Identity>, protocol: &[u8]) -> ClientConfig {
    with_chain(identity.map(Identity::certified), protocol)
}

/// As `client`, with a chain that goes on with `more` certificates.
pub fn client_with_long_chain(identity: &Identity, more: usize) -> ClientConfig {
    let mut certified = identity.certified();
    let last = certified.cert.last().expect("an authority").clone();
    certified.cert.extend(vec![last; more]);
    with_chain(Some(certified), ALPN_NODE)
}

fn with_chain(chain: Option<CertifiedKey>, protocol: &[u8]) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match chain {
        Some(chain) => builder.with_client_cert_resolver(Arc::new(Shown(Arc::new(chain)))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.enable_sni = false;
    config
}

/// An encrypted connection, as far as this end can tell: the other one may not have looked at the certificate yet.
pub async fn tls(
    from: Ipv4Addr,
    to: SocketAddr,
    config: ClientConfig,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = plain(from, to).await?;
    let name = ServerName::IpAddress(to.ip().into());
    let connector = TlsConnector::from(Arc::new(config));
    tokio::time::timeout(HANGS_UP_WITHIN, connector.connect(name, socket))
        .await
        .expect("a handshake ends in time")
}

/// How a node meets a stranger.
#[derive(Debug)]
pub enum Met {
    /// It may go on.
    Welcomed(Box<TlsStream<TcpStream>>),
    /// It was told why not.
    Refused(String),
    /// The connection ended.
    Broken(String),
}

impl Met {
    /// What was said, or that it was let in.
    pub fn words(&self) -> &str {
        match self {
            Met::Welcomed(_) => "welcome",
            Met::Refused(why) | Met::Broken(why) => why,
        }
    }

    /// The connection, if it may go on.
    pub fn welcomed(self) -> TlsStream<TcpStream> {
        match self {
            Met::Welcomed(stream) => *stream,
            refused => panic!("not welcomed: {refused:?}"),
        }
    }
}

/// Connects and waits for the first word.
pub async fn meet(from: Ipv4Addr, to: SocketAddr, config: ClientConfig) -> Met {
    let mut stream = match tls(from, to, config).await {
        Ok(stream) => stream,
        Err(error) => return Met::Broken(error.to_string()),
    };
    let first = tokio::time::timeout(HANGS_UP_WITHIN, stream.read_u8()).await;
    match first.expect("a first word in time") {
        Ok(0) => Met::Welcomed(Box::new(stream)),
        Ok(length) => {
            let mut why = vec![0; usize::from(length)];
            match stream.read_exact(&mut why).await {
                Ok(_) => Met::Refused(String::from_utf8(why).expect("words")),
                Err(error) => Met::Broken(error.to_string()),
            }
        }
        Err(error) => Met::Broken(error.to_string()),
    }
}

/// A channel on which a machine asks to join.
pub struct JoinChannel {
    tls: TlsStream<TcpStream>,
    exporter: [u8; 32],
}

impl JoinChannel {
    pub async fn open(from: Ipv4Addr, to: SocketAddr) -> io::Result<JoinChannel> {
        let tls = tls(from, to, client(None, ALPN_JOIN)).await?;
        let exporter = (tls.get_ref().1)
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(io::Error::other)?;
        Ok(JoinChannel { tls, exporter })
    }

    /// A request that is right for this channel.
    pub fn request(&self, invite: &Invite, key: &NodeKey, name: &str) -> wire::JoinRequest {
        let proven = transcript(&self.exporter, key.public_key(), name);
        wire::JoinRequest {
            invite_id: invite.secret.id().to_vec().into(),
            proof: invite.secret.key().prove(&proven).into(),
            public_key: key.public_key().to_vec().into(),
            signature: key.sign(&proven).expect("a signature").into(),
            name: name.to_owned(),
            protocol: PROTOCOL,
        }
    }

    /// Sends a request and takes the answer.
    pub async fn ask(self, request: &wire::JoinRequest) -> Answer {
        let bytes = request.encode_to_vec();
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend(bytes);
        self.say(&framed).await
    }

    /// Sends bytes and takes the answer.
    pub async fn say(mut self, bytes: &[u8]) -> Answer {
        // It may hang up at any byte.
        let _ = self.tls.write_all(bytes).await;
        let _ = self.tls.flush().await;
        let said = until_closed(&mut self.tls).await;
        let Some((_, message)) = said.split_at_checked(4) else {
            return Answer::Nothing;
        };
        let reply = wire::JoinReply::decode(message).expect("an answer");
        match reply.outcome.expect("an outcome") {
            wire::join_reply::Outcome::Accepted(accepted) => Answer::Accepted(accepted),
            wire::join_reply::Outcome::Refused(why) => Answer::Refused(why),
        }
    }
}

/// What the coordinator says to a machine that asks to join.
#[derive(Debug)]
pub enum Answer {
    Accepted(wire::JoinAccepted),
    Refused(String),
    /// It hung up.
    Nothing,
}

impl Answer {
    pub fn refused(&self) -> &str {
        match self {
            Answer::Refused(why) => why,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub fn accepted(self) -> wire::JoinAccepted {
        match self {
            Answer::Accepted(accepted) => accepted,
            other => panic!("not accepted: {other:?}"),
        }
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
