//! Joining: the one exchange with a machine that has no certificate yet. One message each way over TLS, nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use potluck_proto::{PROTOCOL, wire};
use prost::Message;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, server};

use crate::authority::{AuthorityError, Issued};
use crate::credential::{Credential, NodeKey};
use crate::dial::{ConnectError, reach, server_name};
use crate::invite::{Invite, transcript};
use crate::link::HANDSHAKE_TIMEOUT;
use crate::listen::Turn;
use crate::peer::Role;
use crate::tls::{explain, join_client};
use crate::words::shown;

/// Bytes of one message: two certificates and a few addresses.
const MAX_MESSAGE_BYTES: u32 = 16 << 10;

/// How long either side may take to say its part.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Purpose of the keying material that both ends of the channel derive.
const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL-potluck-join-v1";

/// What a machine gets by joining.
pub struct Joined {
    /// What it proves itself with from now on.
    pub credential: Credential,
    /// The cluster's name for people.
    pub cluster_name: String,
    /// The name that it goes by.
    pub name: String,
    /// Where the coordinator listens.
    pub coordinators: Vec<String>,
}

/// A machine that could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The coordinator cannot be reached, or is another than the invite's.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The coordinator says no.
    #[error("the coordinator refuses: {0}")]
    Refused(String),
    /// It answers in a way that makes no sense.
    #[error("the coordinator's answer cannot be used: {0}")]
    Answer(String),
    /// The machine's key cannot be made or used.
    #[error(transparent)]
    Key(#[from] AuthorityError),
}

/// Asks the coordinator at `address` to be let in.
pub async fn join(
    invite: &Invite,
    address: &str,
    name: &str,
    key: &NodeKey,
) -> Result<Joined, JoinError> {
    let not_trusted = |error: io::Error| ConnectError::NotTrusted {
        address: address.to_owned(),
        why: explain(&error),
    };
    let socket = reach(address).await?;
    let connector = TlsConnector::from(Arc::new(join_client(invite.fingerprint)?));
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, connector.connect(server_name(), socket));
    let mut tls = shaken
        .await
        .unwrap_or_else(|_| Err(io::Error::other("no handshake in time")))
        .map_err(not_trusted)?;
    let exporter = (tls
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None))
    .map_err(|err| JoinError::Answer(err.to_string()))?;
    let proven = transcript(&exporter, key.public_key(), name);
    let request = wire::JoinRequest {
        invite_id: invite.secret.id().to_vec().into(),
        proof: invite.secret.key().prove(&proven).into(),
        public_key: key.public_key().to_vec().into(),
        signature: key.sign(&proven)?.into(),
        name: name.to_owned(),
        protocol: PROTOCOL,
    };
    send(&mut tls, &request).await.map_err(not_trusted)?;
    let reply: wire::JoinReply = receive(&mut tls).await.map_err(not_trusted)?;
    match reply.outcome {
        Some(wire::join_reply::Outcome::Accepted(accepted)) => accept(invite, key, accepted),
        Some(wire::join_reply::Outcome::Refused(why)) => Err(JoinError::Refused(shown(&why))),
        None => Err(JoinError::Answer("it is empty".into())),
    }
}

fn accept(
    invite: &Invite,
    key: &NodeKey,
    accepted: wire::JoinAccepted,
) -> Result<Joined, JoinError> {
    let issued = issued_from_wire(accepted.issued)
        .ok_or_else(|| JoinError::Answer("it holds no certificate".into()))?;
    let authority = CertificateDer::from(accepted.authority.to_vec());
    let credential = Credential::new(Role::Worker, key, &issued, &authority)?;
    match credential.cluster() == invite.cluster() {
        true => Ok(Joined {
            credential,
            cluster_name: accepted.cluster_name,
            name: accepted.name,
            coordinators: accepted.coordinator_addresses,
        }),
        false => Err(JoinError::Answer("it is of another cluster".into())),
    }
}

/// A certificate out of a message.
pub fn issued_from_wire(issued: Option<wire::IssuedCertificate>) -> Option<Issued> {
    let issued = issued.filter(|issued| !issued.certificate.is_empty())?;
    Some(Issued {
        certificate: CertificateDer::from(issued.certificate.to_vec()),
        issued_at: issued.issued_at,
        expires_at: issued.expires_at,
    })
}

/// A certificate as a message.
pub fn issued_to_wire(issued: &Issued) -> wire::IssuedCertificate {
    wire::IssuedCertificate {
        certificate: issued.certificate.to_vec().into(),
        issued_at: issued.issued_at,
        expires_at: issued.expires_at,
    }
}

/// The coordinator's end: a machine that asks to join, of which nothing is known but where it is.
pub struct JoinStream {
    tls: server::TlsStream<TcpStream>,
    exporter: [u8; 32],
    /// Where it is.
    pub address: SocketAddr,
    /// Until it has its answer it is a stranger, and counted as one.
    _turn: Turn,
}

impl JoinStream {
    pub(crate) fn new(
        tls: server::TlsStream<TcpStream>,
        address: SocketAddr,
        turn: Turn,
    ) -> io::Result<JoinStream> {
        let exporter = (tls.get_ref().1)
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(io::Error::other)?;
        Ok(JoinStream {
            tls,
            exporter,
            address,
            _turn: turn,
        })
    }

    /// What it asks.
    pub async fn request(&mut self) -> io::Result<wire::JoinRequest> {
        receive(&mut self.tls).await
    }

    /// What a request on this channel must prove and sign.
    pub fn transcript(&self, request: &wire::JoinRequest) -> Vec<u8> {
        transcript(&self.exporter, &request.public_key, &request.name)
    }

    /// Answers, which ends the exchange.
    pub async fn reply(mut self, reply: &wire::JoinReply) -> io::Result<()> {
        send(&mut self.tls, reply).await?;
        self.tls.shutdown().await
    }
}

/// Whether whoever sent a public key has the private one.
pub fn is_signed(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = ring::signature::UnparsedPublicKey::new(
        &ring::signature::ECDSA_P256_SHA256_ASN1,
        public_key,
    );
    key.verify(message, signature).is_ok()
}

async fn send(io: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let written = async {
        io.write_u32_le(bytes.len() as u32).await?;
        io.write_all(&bytes).await?;
        io.flush().await
    };
    in_time(written).await
}

async fn receive<M: Message + Default>(io: &mut (impl AsyncRead + Unpin)) -> io::Result<M> {
    let read = async {
        let length = io.read_u32_le().await?;
        if length > MAX_MESSAGE_BYTES {
            return Err(io::Error::other(format!(
                "a message of {length} bytes, at most {MAX_MESSAGE_BYTES} make sense"
            )));
        }
        let mut bytes = vec![0; length as usize];
        io.read_exact(&mut bytes).await?;
        M::decode(bytes.as_slice()).map_err(io::Error::other)
    };
    in_time(read).await
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(MESSAGE_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| {
            let seconds = MESSAGE_TIMEOUT.as_secs();
            Err(io::Error::other(format!("silence for {seconds} s")))
        })
}
