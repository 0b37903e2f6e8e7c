//! The one value through which a process opens and accepts links.

use std::sync::Arc;
use std::time::Duration;

use potluck_proto::NodeId;
use rustls::{ClientConfig, ServerConfig};
use tonic::transport::Server;

use potluck_proto::limits::MAX_STAGES;

use crate::authority::AuthorityError;
use crate::connections::Connections;
use crate::credential::Credential;
use crate::peer::PeerId;
use crate::tls;

/// A frame of 1 MiB and the next one must be under way before the first is acknowledged.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// HTTP/2 pings on idle links: they find a peer that vanished without closing.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may take to come about, and how long a handshake.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Streams that one connection may have open: a stage has a handful, a fetch of weights some more.
const MAX_STREAMS: u32 = 4 * MAX_STAGES as u32;

/// Bytes of a request's headers: gRPC's own are a few hundred.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Streams reset by the other end before they were served: more is an attack.
const MAX_PENDING_RESETS: usize = 32;

/// What a node needs to talk to others: its credential, and whom it admits. Clones share both.
#[derive(Clone)]
pub struct Link {
    pub(crate) credential: Credential,
    pub(crate) connections: Connections,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) join_server: Arc<ServerConfig>,
}

impl Link {
    /// A node that admits nobody but coordinators of its cluster so far.
    pub fn new(credential: Credential) -> Result<Link, AuthorityError> {
        Ok(Link {
            client: Arc::new(tls::client(&credential)?),
            server: Arc::new(tls::server(&credential)?),
            join_server: Arc::new(tls::join_server(&credential)?),
            connections: Connections::default(),
            credential,
        })
    }

    /// Who this node is.
    pub fn id(&self) -> PeerId {
        self.credential.id()
    }

    /// What it proves itself with.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The workers that may talk to this node, from now on. Connections of others end at once.
    pub fn admit(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.connections.admit(nodes);
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({})", self.id())
    }
}

/// A gRPC server with this protocol's settings.
pub fn grpc_server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .max_concurrent_streams(MAX_STREAMS)
}
