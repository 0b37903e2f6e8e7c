//! Whether this machine's own multicast works on an interface: the part of finding each other that needs no second machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::invite::random;

/// The group of mDNS, RFC 6762.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// A machine hears itself within this time.
const PATIENCE: Duration = Duration::from_millis(700);

/// Sends a datagram to the group of mDNS, on a port of its own, and waits to hear it. False if it was sent and not heard.
pub fn hears_itself(interface: Ipv4Addr) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    socket.join_multicast_v4(&GROUP, &interface)?;
    socket.set_multicast_if_v4(&interface)?;
    socket.set_multicast_loop_v4(true)?;
    let socket = UdpSocket::from(socket);
    let port = socket.local_addr()?.port();
    let said: [u8; 16] = random().map_err(io::Error::other)?;
    socket.send_to(&said, (GROUP, port))?;
    let deadline = Instant::now() + PATIENCE;
    let mut heard = [0; 64];
    while let Some(left) = deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut heard) {
            Ok(length) if heard[..length] == said => return Ok(true),
            Ok(_) => {}
            Err(err)
                if matches!(
                    err.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(false)
}
