//! Accepts connections and serves a router on them, within limits of number, size and time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use potluck_proto::reach::require_loopback;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at the same time; further ones wait to be accepted. A household has a few dozen at most.
const MAX_CONNECTIONS: usize = 256;

/// How long a client may take to send a request's head, and how long an idle connection is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Bytes of a request's head. Browsers send some hundred bytes, agents a few thousand.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long answers under way may go on after the server was told to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Rest after a failed accept. The usual cause is too many open files, which only time can cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "the API cannot listen on {address}: it is neither encrypted nor protected by keys yet, so it is offered to this machine only; use 127.0.0.1 or [::1]"
    )]
    NotLoopback { address: SocketAddr },
    #[error("the address on which the API listens cannot be read: {0}")]
    LocalAddress(#[source] io::Error),
}

/// Refuses an address that other machines could reach: what clients send and receive there would be open to everyone.
pub fn check_loopback(address: SocketAddr) -> Result<(), ServeError> {
    require_loopback("the API's address", address.ip())
        .map_err(|_| ServeError::NotLoopback { address })
}

/// Serves until `shutdown` is ready, then lets answers under way come to their end for a while. What is left after that is
/// dropped, which cancels it.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    check_loopback(listener.local_addr().map_err(ServeError::LocalAddress)?)?;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut tasks = tokio::task::JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, permit) = accept(&listener, &connections) => {
                tasks.spawn(connection(stream, router.clone(), graceful.watcher(), permit));
            }
            Some(_) = tasks.join_next() => {}
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_DEADLINE, graceful.shutdown()).await;
    Ok(())
}

/// The next connection, once there is room for one.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let permit = Arc::clone(connections).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection to its end. What goes wrong on it concerns nobody but its client.
async fn connection(
    stream: TcpStream,
    router: Router,
    watcher: Watcher,
    _permit: Option<OwnedSemaphorePermit>,
) -> Result<(), Infallible> {
    // Small events should leave at once; where the system refuses, they come a little later.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let _ = watcher.watch(served).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_listened_on() {
        for address in [
            "127.0.0.1:80",
            "127.8.8.8:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(
                check_loopback(address.parse().unwrap()).is_ok(),
                "{address}"
            );
        }
        for address in ["0.0.0.0:80", "192.168.1.2:80", "[::]:80", "[fe80::1]:80"] {
            let error = check_loopback(address.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(address) && error.contains("127.0.0.1"),
                "{error}"
            );
        }
    }
}
