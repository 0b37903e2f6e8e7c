//! Links between the nodes of a cluster: who may talk to whom, and how. Keys and certificates, invites, the TLS ends of every
//! connection, the list of admitted nodes, the ways to find one another (interfaces, mDNS), and the one service that every
//! node offers: bytes by their hash.
//!
//! It must not know plans, models or tokens: what else is said over a link is the business of `worker` and `coordinator`.
//!
//! Read `link.rs` (the one value that opens and accepts links), then `dial.rs` and `listen.rs`; `verify.rs` is what a certificate
//! must show; `invite.rs` and `join.rs` are how a machine gets one.
#![forbid(unsafe_code)]

pub mod authority;
mod connections;
pub mod credential;
pub mod dial;
pub mod interfaces;
pub mod invite;
pub mod join;
mod link;
mod listen;
pub mod mdns;
pub mod member_file;
pub mod multicast;
pub mod peer;
#[cfg(feature = "plaintext-bench")]
mod plaintext_bench;
pub mod state_dir;
mod stream;
mod tls;
mod verify;
pub mod weights;
pub mod words;

pub use dial::{ConnectError, Connected, Expect, Target};
pub use interfaces::{InterfaceError, Interfaces};
pub use link::{Link, grpc_server};
pub use listen::{Incoming, Joins, link_listener};
pub use peer::{PeerId, Role};
pub use stream::{LinkStream, Peer};
