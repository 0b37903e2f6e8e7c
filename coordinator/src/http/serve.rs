//! Accepts connections and serves the API on them, within limits of number, size and time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use potluck_link::state_dir::StateError;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::auth::Peer;
use super::opening::{OpeningRefused, Transport, check_opening};
use super::{ApiState, router};

/// Connections at the same time; further ones wait to be accepted. A household has a few dozen at most.
const MAX_CONNECTIONS: usize = 256;

/// How long a client may take to send a request's head, and how long an idle connection is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long a client may take to agree on encryption: three round trips and some arithmetic.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of a request's head. Browsers send some hundred bytes, agents a few thousand.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long answers under way may go on after the server was told to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Rest after a failed accept. The usual cause is too many open files, which only time can cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Refused(#[from] OpeningRefused),
    #[error("the address on which the API listens cannot be read: {0}")]
    LocalAddress(#[source] io::Error),
    #[error(transparent)]
    Token(#[from] StateError),
}

/// Serves until `shutdown` is ready, then lets answers under way come to their end for a while. What is left after that is
/// dropped, which cancels it. An address that other machines reach is refused unless the API may be opened to them.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    transport: Transport,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::LocalAddress)?;
    check_opening(address, &state.gate, &transport)?;
    state.gate.publish_token()?;
    let (router, tls) = (router(state), acceptor(transport));
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut tasks = tokio::task::JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, peer, permit) = accept(&listener, &connections) => {
                let api = Api { router: router.clone(), peer };
                let (tls, watcher) = (tls.clone(), graceful.watcher());
                tasks.spawn(async move {
                    connection(stream, tls, api, watcher).await;
                    drop(permit);
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_DEADLINE, graceful.shutdown()).await;
    Ok(())
}

fn acceptor(transport: Transport) -> Option<TlsAcceptor> {
    let Transport::Tls(config) = transport else {
        return None;
    };
    let mut config = ServerConfig::clone(&config);
    // The only protocol that is spoken here, so clients that could do more know.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(TlsAcceptor::from(Arc::new(config)))
}

/// The next connection, once there is room for one.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> (TcpStream, Peer, Option<OwnedSemaphorePermit>) {
    let permit = Arc::clone(connections).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, Peer(address), permit),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The API for one connection.
struct Api {
    router: Router,
    peer: Peer,
}

/// One connection to its end. What goes wrong on it concerns nobody but its client.
async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, api: Api, watcher: Watcher) {
    // Small events should leave at once; where the system refuses, they come a little later.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return requests(stream, api, watcher).await;
    };
    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await {
        requests(stream, api, watcher).await;
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    api: Api,
    watcher: Watcher,
) {
    let router = TowerToHyperService::new(api.router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(api.peer);
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES);
    let served = http.serve_connection(TokioIo::new(stream), service);
    let _ = watcher.watch(served).await;
}
