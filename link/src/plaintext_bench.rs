//! What encryption costs: the same links without it, for a benchmark and nothing else.
//!
//! This file is compiled only with the feature `plaintext-bench`, which no build for users has. Even then it takes the variable
//! `POTLUCK_PLAINTEXT_BENCH`, and both ends on one machine. The handshake happens as always, so that everyone is who they prove to be;
//! after it both ends go on without TLS, which is exactly the cost that is to be measured.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsStream, client, server};

/// Both ends say this over TLS, and then the accepting one without it: nothing may follow an encrypted byte in the same read.
const TURN: u8 = 0x2b;

/// A connection with or without encryption.
pub(crate) enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
}

fn is_wanted(socket: &TcpStream) -> bool {
    std::env::var_os("POTLUCK_PLAINTEXT_BENCH").is_some()
        && socket
            .peer_addr()
            .is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// The opening end, after it was welcomed.
pub(crate) async fn dialed(mut tls: client::TlsStream<TcpStream>) -> io::Result<Io> {
    if !is_wanted(tls.get_ref().0) {
        return Ok(Io::Tls(Box::new(tls.into())));
    }
    tls.write_u8(TURN).await?;
    tls.flush().await?;
    let (mut socket, _) = tls.into_inner();
    socket.read_u8().await?;
    Ok(Io::Plain(socket))
}

/// The accepting end, after its welcome.
pub(crate) async fn accepted(mut tls: server::TlsStream<TcpStream>) -> io::Result<Io> {
    if !is_wanted(tls.get_ref().0) {
        return Ok(Io::Tls(Box::new(tls.into())));
    }
    tls.read_u8().await?;
    let (mut socket, _) = tls.into_inner();
    socket.write_u8(TURN).await?;
    Ok(Io::Plain(socket))
}

macro_rules! either {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Io::Tls(stream) => {
                let $io = Pin::new(stream.as_mut());
                $call
            }
            Io::Plain(stream) => {
                let $io = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Tls(stream) => stream.is_write_vectored(),
            Io::Plain(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_shutdown(cx))
    }
}
