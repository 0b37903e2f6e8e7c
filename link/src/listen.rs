//! Accepting links. Everything before a node has proven itself is bounded in time, number and bytes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::LazyConfigAcceptor;
use tokio_stream::Stream;

use crate::join::JoinStream;
use crate::link::{HANDSHAKE_TIMEOUT, Link};
use crate::stream::{LinkStream, Peer, refuse, welcome};
use crate::tls::{ALPN_JOIN, explain};
use crate::verify::peer_in;

/// Strangers at once, in all and from one address: handshakes under way, and machines that ask to join. One who is silent on many
/// connections holds up only strangers at the same address.
const MAX_HANDSHAKES: usize = 512;
const MAX_HANDSHAKES_PER_ADDRESS: usize = 64;

/// Rest after a failed accept. The usual cause is too many open files, which only time can cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait to be served.
const QUEUED: usize = 16;

/// Links that were accepted, for a gRPC server. Dropping it stops accepting.
pub struct Incoming(mpsc::Receiver<LinkStream>);

/// Machines that ask to join.
pub type Joins = mpsc::Receiver<JoinStream>;

impl Stream for Incoming {
    type Item = io::Result<LinkStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens. All addresses of IPv6 are those of IPv4 too, unless the system has no IPv6.
pub fn link_listener(address: SocketAddr) -> io::Result<TcpListener> {
    match listen(address) {
        Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        listener => listener,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A port is free again at once when its process has ended. On Windows the option would let two use it at the same time.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Link {
    /// Accepts links of admitted nodes.
    pub fn accept(&self, listener: TcpListener) -> Incoming {
        let (nodes, incoming) = mpsc::channel(QUEUED);
        tokio::spawn(run(Acceptor::new(self.clone(), nodes, None), listener));
        Incoming(incoming)
    }

    /// Accepts links of admitted nodes, and machines that ask to join.
    pub fn accept_and_invite(&self, listener: TcpListener) -> (Incoming, Joins) {
        let ((nodes, incoming), (joins, joining)) = (mpsc::channel(QUEUED), mpsc::channel(QUEUED));
        tokio::spawn(run(
            Acceptor::new(self.clone(), nodes, Some(joins)),
            listener,
        ));
        (Incoming(incoming), joining)
    }
}

#[derive(Clone)]
struct Acceptor {
    link: Link,
    nodes: mpsc::Sender<LinkStream>,
    joins: Option<mpsc::Sender<JoinStream>>,
    pending: Pending,
}

impl Acceptor {
    fn new(
        link: Link,
        nodes: mpsc::Sender<LinkStream>,
        joins: Option<mpsc::Sender<JoinStream>>,
    ) -> Self {
        Acceptor {
            link,
            nodes,
            joins,
            pending: Pending::default(),
        }
    }
}

async fn run(acceptor: Acceptor, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = acceptor.nodes.closed() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let Some(turn) = acceptor.pending.begin(address.ip()) else {
                    tracing::debug!(%address, "too many handshakes are under way; connection dropped");
                    continue;
                };
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let shaken = tokio::time::timeout(
                        HANDSHAKE_TIMEOUT,
                        acceptor.handshake(socket, address, turn),
                    );
                    let why = match shaken.await {
                        Ok(Ok(())) => return,
                        Ok(Err(error)) => explain(&error),
                        Err(_) => "no handshake in time".to_owned(),
                    };
                    tracing::info!(%address, why, "a connection was refused");
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Acceptor {
    async fn handshake(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        turn: Turn,
    ) -> io::Result<()> {
        // Where the system refuses, messages come a little later.
        let _ = socket.set_nodelay(true);
        let handle = socket2::SockRef::from(&socket).try_clone()?;
        let start = LazyConfigAcceptor::new(Default::default(), socket).await?;
        let wants_to_join = start
            .client_hello()
            .alpn()
            .is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN_JOIN));
        if let (true, Some(joins)) = (wants_to_join, &self.joins) {
            let config = Arc::clone(&self.link.join_server);
            let join = JoinStream::new(start.into_stream(config).await?, address, turn)?;
            // A full queue means that many ask at once; they try again.
            let _ = joins.try_send(join);
            return Ok(());
        }
        let mut tls = start.into_stream(Arc::clone(&self.link.server)).await?;
        let certificates = tls.get_ref().1.peer_certificates();
        let id = certificates
            .and_then(|chain| peer_in(chain.first()?))
            .ok_or_else(|| io::Error::other("its certificate names no node"))?;
        let connections = &self.link.connections;
        let opened = match connections.refusal(&id) {
            Some(why) => Err(why),
            None => connections
                .open(id, handle)
                .ok_or("too many connections of this node are open"),
        };
        match opened {
            Err(why) => {
                refuse(&mut tls, why).await?;
                Err(io::Error::other(format!("{id}: {why}")))
            }
            Ok(open) => {
                welcome(&mut tls).await?;
                #[cfg(feature = "plaintext-bench")]
                let tls = crate::plaintext_bench::accepted(tls).await?;
                drop(turn);
                let stream = LinkStream::new(tls.into(), Peer { id, address }, open);
                // The server has stopped: nobody is left to serve it.
                let _ = self.nodes.send(stream).await;
                Ok(())
            }
        }
    }
}

/// Strangers, by address.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One stranger, until it is dropped.
pub(crate) struct Turn {
    pending: Pending,
    ip: IpAddr,
}

impl Pending {
    fn begin(&self, ip: IpAddr) -> Option<Turn> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = counts.values().sum();
        let here = counts.get(&ip).copied().unwrap_or(0);
        if here >= MAX_HANDSHAKES_PER_ADDRESS || total >= MAX_HANDSHAKES {
            return None;
        }
        counts.insert(ip, here + 1);
        Some(Turn {
            pending: self.clone(),
            ip,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self
            .pending
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}
