//! One connection between two nodes, after the handshake.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tonic::transport::server::Connected;

use crate::connections::Guard;
use crate::peer::PeerId;
use crate::words::shown;

/// The first byte that an accepting node sends when the other may go on. Anything else is the length of a sentence that says why
/// not, so that a refused node can tell its user.
const WELCOME: u8 = 0;

#[cfg(not(feature = "plaintext-bench"))]
type Io = tokio_rustls::TlsStream<tokio::net::TcpStream>;
#[cfg(feature = "plaintext-bench")]
use crate::plaintext_bench::Io;

/// An encrypted connection to a node that has proven who it is.
pub struct LinkStream {
    io: Io,
    peer: Peer,
    _open: Guard,
}

/// Who is at the other end: found in the extensions of every request that came over a link.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The node, as its certificate says.
    pub id: PeerId,
    /// Where it is.
    pub address: SocketAddr,
}

impl LinkStream {
    pub(crate) fn new(io: Io, peer: Peer, open: Guard) -> Self {
        LinkStream {
            io,
            peer,
            _open: open,
        }
    }
}

/// Lets the other end begin.
pub(crate) async fn welcome(io: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    io.write_all(&[WELCOME]).await?;
    io.flush().await
}

/// Tells the other end why it may not begin, and closes.
pub(crate) async fn refuse(io: &mut (impl AsyncWrite + Unpin), why: &str) -> io::Result<()> {
    let why = &why.as_bytes()[..why.len().min(255)];
    io.write_all(&[why.len() as u8]).await?;
    io.write_all(why).await?;
    io.shutdown().await
}

/// Waits for the other end's word. The sentence of a refusal is in the inner error.
pub(crate) async fn welcomed(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<(), String>> {
    match io.read_u8().await? {
        WELCOME => Ok(Ok(())),
        length => {
            let mut why = vec![0; usize::from(length)];
            io.read_exact(&mut why).await?;
            Ok(Err(shown(&String::from_utf8_lossy(&why))))
        }
    }
}

impl Connected for LinkStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
