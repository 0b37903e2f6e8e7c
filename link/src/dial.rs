//! Opening a link: to whichever of a node's addresses answers first, as the node that is expected there.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use potluck_proto::{ClusterId, NodeId, WireError, wire};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::invite::is_address;
use crate::link::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, HANDSHAKE_TIMEOUT, KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT, Link, STREAM_WINDOW_BYTES,
};
use crate::peer::{PeerId, Role};
use crate::stream::{LinkStream, Peer, welcomed};
use crate::tls::explain;
use crate::verify::peer_in;

/// Head start of an address over the next one: a machine that answers does so well within it on a LAN.
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses of one node that are tried.
const MAX_ADDRESSES: usize = 16;

/// Whom one expects at the other end. A worker must be admitted as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// This node.
    Node(PeerId),
    /// Any node of the own cluster that has this role.
    Any(Role),
}

/// Where a node may be, and who it should be.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`, in order of preference.
    pub addresses: Vec<String>,
    /// Who.
    pub expect: Expect,
}

/// An open link.
#[derive(Debug, Clone)]
pub struct Connected {
    /// For gRPC clients.
    pub channel: Channel,
    /// Who is there.
    pub peer: Peer,
}

/// A link that cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error("{address} cannot be reached: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// Somebody answers, but does not prove to be a node of the cluster.
    #[error("what answers at {address} is not trusted: {why}")]
    NotTrusted {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// A node of the cluster answers, but not the one that was expected.
    #[error("at {address} answers {found}, where {expected} was expected")]
    OtherNode {
        /// Where.
        address: String,
        /// Who was expected.
        expected: String,
        /// Who answers.
        found: PeerId,
    },
    /// The node there does not want this one.
    #[error("the node at {address} refuses this one: {why}")]
    Refused {
        /// Where.
        address: String,
        /// In its words.
        why: String,
    },
}

impl ConnectError {
    /// How much it tells: of several failures the one is shown that got farthest.
    fn rank(&self) -> u8 {
        match self {
            ConnectError::Unreachable { .. } => 0,
            ConnectError::OtherNode { .. } => 1,
            ConnectError::NotTrusted { .. } => 2,
            ConnectError::Refused { .. } => 3,
        }
    }
}

impl Target {
    /// A node as a message names it.
    pub fn from_wire(cluster: ClusterId, peer: &wire::Peer) -> Result<Target, WireError> {
        let node = NodeId::try_from(peer.node_id.as_ref())?;
        let role = match peer.is_coordinator {
            true => Role::Coordinator,
            false => Role::Worker,
        };
        if let Some(bad) = peer.addresses.iter().find(|address| !is_address(address)) {
            return Err(WireError::Invalid {
                field: "addresses",
                why: format!("`{bad}` is not an address with a port"),
            });
        }
        let id = PeerId {
            cluster,
            role,
            node,
        };
        Ok(Target::node(id, &peer.addresses))
    }

    /// A node at addresses.
    pub fn node(peer: PeerId, addresses: impl IntoIterator<Item = impl ToString>) -> Target {
        let addresses = addresses.into_iter().map(|address| address.to_string());
        Target {
            addresses: addresses.collect(),
            expect: Expect::Node(peer),
        }
    }

    /// Any admitted node of a role at one address.
    pub fn any(role: Role, address: impl ToString) -> Target {
        Target {
            addresses: vec![address.to_string()],
            expect: Expect::Any(role),
        }
    }
}

/// A node as a message names it.
pub fn peer_to_wire(peer: PeerId, addresses: &[String]) -> wire::Peer {
    wire::Peer {
        node_id: peer.node.0.to_vec().into(),
        is_coordinator: peer.role == Role::Coordinator,
        addresses: addresses.to_vec(),
    }
}

impl Link {
    /// Opens a link. If it breaks the channel opens it again, to the same node.
    pub async fn connect(&self, target: &Target) -> Result<Connected, ConnectError> {
        let stream = self.dial(target).await?;
        let peer = tonic::transport::server::Connected::connect_info(&stream);
        let again = Target {
            addresses: target.addresses.clone(),
            expect: Expect::Node(peer.id),
        };
        let channel =
            self.channel(stream, again)
                .await
                .map_err(|err| ConnectError::Unreachable {
                    address: peer.address.to_string(),
                    why: err.to_string(),
                })?;
        Ok(Connected { channel, peer })
    }

    async fn channel(
        &self,
        stream: LinkStream,
        again: Target,
    ) -> Result<Channel, tonic::transport::Error> {
        let (link, first) = (self.clone(), Arc::new(Mutex::new(Some(stream))));
        let connector = tower::service_fn(move |_| {
            let (link, again, first) = (link.clone(), again.clone(), Arc::clone(&first));
            async move {
                let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stream = match ready {
                    Some(stream) => stream,
                    None => link.dial(&again).await?,
                };
                Ok::<_, ConnectError>(TokioIo::new(stream))
            }
        });
        // The name is not sent anywhere that matters: who is there has been proven before.
        Endpoint::from_static("http://potluck.internal")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
    }

    /// The first address that leads to the right node.
    async fn dial(&self, target: &Target) -> Result<LinkStream, ConnectError> {
        let mut attempts = JoinSet::new();
        for (i, address) in target.addresses.iter().take(MAX_ADDRESSES).enumerate() {
            let (link, address, expect) = (self.clone(), address.clone(), target.expect);
            attempts.spawn(async move {
                tokio::time::sleep(STAGGER * i as u32).await;
                link.dial_one(&address, expect).await
            });
        }
        let mut worst = ConnectError::Unreachable {
            address: "the node".into(),
            why: "no address is known".into(),
        };
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) if error.rank() >= worst.rank() => worst = error,
                Ok(Err(_)) => {}
                Err(join_error) => std::panic::resume_unwind(join_error.into_panic()),
            }
        }
        Err(worst)
    }

    async fn dial_one(&self, address: &str, expect: Expect) -> Result<LinkStream, ConnectError> {
        let socket = reach(address).await?;
        let handshake =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(address, socket, expect));
        handshake.await.unwrap_or_else(|_| {
            Err(ConnectError::Unreachable {
                address: address.to_owned(),
                why: format!("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs()),
            })
        })
    }

    async fn handshake(
        &self,
        address: &str,
        socket: TcpStream,
        expect: Expect,
    ) -> Result<LinkStream, ConnectError> {
        let not_trusted = |why: String| ConnectError::NotTrusted {
            address: address.to_owned(),
            why,
        };
        let broken = |error: io::Error| not_trusted(explain(&error));
        let handle = socket2::SockRef::from(&socket)
            .try_clone()
            .map_err(broken)?;
        let where_it_is = socket.peer_addr().map_err(broken)?;
        let connector = TlsConnector::from(Arc::clone(&self.client));
        let mut tls = connector
            .connect(server_name(), socket)
            .await
            .map_err(broken)?;
        let certificates = tls.get_ref().1.peer_certificates();
        let id = certificates
            .and_then(|chain| peer_in(chain.first()?))
            .ok_or_else(|| not_trusted("its certificate names no node".into()))?;
        self.check_expected(address, id, expect)?;
        if let Err(why) = welcomed(&mut tls).await.map_err(broken)? {
            let address = address.to_owned();
            return Err(ConnectError::Refused { address, why });
        }
        let peer = Peer {
            id,
            address: where_it_is,
        };
        let open = self
            .connections
            .open(id, handle)
            .ok_or_else(|| not_trusted("too many connections to it are open".into()))?;
        #[cfg(feature = "plaintext-bench")]
        let tls = crate::plaintext_bench::dialed(tls).await.map_err(broken)?;
        Ok(LinkStream::new(tls.into(), peer, open))
    }

    fn check_expected(
        &self,
        address: &str,
        found: PeerId,
        expect: Expect,
    ) -> Result<(), ConnectError> {
        let as_expected = match expect {
            Expect::Node(peer) => found == peer,
            Expect::Any(role) => found.role == role,
        };
        if !as_expected {
            return Err(ConnectError::OtherNode {
                address: address.to_owned(),
                expected: match expect {
                    Expect::Node(peer) => peer.to_string(),
                    Expect::Any(role) => format!("a {role}"),
                },
                found,
            });
        }
        // A name is no admission: what named the node may be older than its removal.
        self.connections.refusal(&found).map_or(Ok(()), |why| {
            Err(ConnectError::NotTrusted {
                address: address.to_owned(),
                why: why.into(),
            })
        })
    }
}

/// A connection to `host:port`, with small messages sent at once.
pub(crate) async fn reach(address: &str) -> Result<TcpStream, ConnectError> {
    let unreachable = |why: String| ConnectError::Unreachable {
        address: address.to_owned(),
        why,
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let socket = connected
        .map_err(|_| {
            unreachable(format!(
                "no answer within {} s; is a firewall in between?",
                CONNECT_TIMEOUT.as_secs()
            ))
        })?
        .map_err(|err| unreachable(err.to_string()))?;
    // Where the system refuses, messages come a little later.
    let _ = socket.set_nodelay(true);
    Ok(socket)
}

/// TLS wants a name. Nodes are known by their certificates, not by their names.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into())
}
