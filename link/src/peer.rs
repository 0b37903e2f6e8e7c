//! Who is at the other end of a link, as its certificate says: a cluster, a role, a node.

use std::fmt;

use potluck_proto::{ClusterId, NodeId, bytes_of, hex_of};
use ring::digest;
use serde::{Deserialize, Serialize};

/// How the name in a certificate begins.
const SCHEME: &str = "potluck://";

/// What a node may do in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Makes plans, and tells the workers.
    Coordinator,
    /// Computes the layers that a plan gives it.
    Worker,
}

/// A node of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    /// The cluster that vouches for it.
    pub cluster: ClusterId,
    /// What it may do.
    pub role: Role,
    /// Made from its public key.
    pub node: NodeId,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl PeerId {
    /// The URI that stands in the certificate: `potluck://CLUSTER/ROLE/NODE`.
    pub fn uri(&self) -> String {
        let (cluster, node) = (hex_of(&self.cluster.0), hex_of(&self.node.0));
        format!("{SCHEME}{cluster}/{}/{node}", self.role)
    }

    /// Reads a URI of that form, and no other.
    pub fn from_uri(uri: &str) -> Option<PeerId> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let cluster = ClusterId(bytes_of(parts.next()?)?);
        let role = match parts.next()? {
            "coordinator" => Role::Coordinator,
            "worker" => Role::Worker,
            _ => return None,
        };
        let node = NodeId(bytes_of(parts.next()?)?);
        let peer = PeerId {
            cluster,
            role,
            node,
        };
        parts.next().is_none().then_some(peer)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of cluster {}", self.role, self.node, self.cluster)
    }
}

/// The id of a node: the first half of the SHA-256 of its public key (65 bytes, an uncompressed P-256 point). A second key with
/// the same id would take 2^128 tries.
pub fn node_id(public_key: &[u8]) -> NodeId {
    NodeId(first_half(public_key))
}

/// The id of a cluster: the first half of the SHA-256 of its authority's certificate.
pub fn cluster_id(fingerprint: &[u8; 32]) -> ClusterId {
    let mut id = [0; 16];
    id.copy_from_slice(&fingerprint[..16]);
    ClusterId(id)
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

fn first_half(bytes: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&sha256(bytes)[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_reads_back_and_others_are_none() {
        let peer = PeerId {
            cluster: ClusterId([0xc1; 16]),
            role: Role::Worker,
            node: NodeId([0x0e; 16]),
        };
        let uri = peer.uri();
        assert_eq!(PeerId::from_uri(&uri), Some(peer));
        for other in [
            "",
            "potluck://",
            &uri[1..],
            &uri[..uri.len() - 1],
            &format!("{uri}/"),
            &uri.replace("worker", "admin"),
            &uri.replace("0e", "0E"),
            &uri.replace("potluck", "spiffe"),
        ] {
            assert_eq!(PeerId::from_uri(other), None, "{other}");
        }
    }
}
