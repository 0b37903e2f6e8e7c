//! Under which conditions the API is opened to other machines: with keys, and encrypted or expressly not.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;

use super::auth::Gate;

/// How what passes between clients and the API travels.
#[derive(Clone)]
pub enum Transport {
    /// As it is, and therefore on this machine only.
    Plain,
    /// As it is, even to other machines: somebody spelled out that this network may see it.
    Insecure,
    /// Encrypted.
    Tls(Arc<ServerConfig>),
}

/// Why the API is not opened at an address that other machines reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpeningRefused {
    /// Everyone could use it.
    #[error(
        "other machines reach {address}, and without an API key every one of them could use the model: run `potluck keys add \
         NAME` first (with the same --cluster), or listen on 127.0.0.1 or [::1]"
    )]
    NoKey {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// Everyone on the way could read it.
    #[error(
        "other machines reach {address}, and keys and chats would travel there unencrypted: give --tls-cert FILE and --tls-key \
         FILE, or spell out --insecure-http if everyone on that network may read them, or listen on 127.0.0.1 or [::1]"
    )]
    NotEncrypted {
        /// Where it was to listen.
        address: SocketAddr,
    },
}

/// Whether only this machine itself reaches an address.
pub fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Refuses to open the API to other machines while there is no key.
pub fn check_keys(address: SocketAddr, gate: &Gate) -> Result<(), OpeningRefused> {
    match is_local(address) || gate.needs_keys_and_has_some() {
        true => Ok(()),
        false => Err(OpeningRefused::NoKey { address }),
    }
}

/// Refuses to open the API to other machines without keys, or unencrypted without a word.
pub fn check_opening(
    address: SocketAddr,
    gate: &Gate,
    transport: &Transport,
) -> Result<(), OpeningRefused> {
    check_keys(address, gate)?;
    match transport {
        Transport::Plain if !is_local(address) => Err(OpeningRefused::NotEncrypted { address }),
        _ => Ok(()),
    }
}
