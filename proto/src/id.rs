//! Typed ids, and the fence that every message carries.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

use crate::{WireError, wire};

/// Sixteen bytes that name a cluster, made from the certificate of its authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

/// Sixteen bytes that name a node, made from its public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 16]);

/// Sixteen random bytes that name a process: two with the identity of one node are told apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub [u8; 16]);

/// How many times the coordinator of a cluster has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// Number of a plan within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlanGen(pub u64);

/// A sequence: one conversation turn that is being computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// Number of a step within a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// Who speaks, and under which plan. Within one cluster fences are ordered by epoch, then by plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The cluster.
    pub cluster: ClusterId,
    /// Start count of its coordinator.
    pub epoch: Epoch,
    /// Plan within the epoch.
    pub plan_gen: PlanGen,
}

impl ClusterId {
    /// The first bytes: enough to tell clusters apart where it does not matter if two are the same.
    pub fn prefix(&self) -> [u8; 4] {
        [self.0[0], self.0[1], self.0[2], self.0[3]]
    }
}

impl InstanceId {
    /// An id that no other process has.
    pub fn random() -> Self {
        InstanceId(random_bytes())
    }
}

/// Random enough to tell ids apart; nothing secret rests on it. Every hasher of the standard library has keys of its own,
/// seeded by the system.
fn random_bytes() -> [u8; 16] {
    let half = || {
        RandomState::new()
            .hash_one(std::process::id())
            .to_le_bytes()
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half());
    bytes[8..].copy_from_slice(&half());
    bytes
}

impl Fence {
    /// Whether `self` was made before `current` by the same cluster's coordinator.
    pub fn is_older_than(&self, current: &Fence) -> bool {
        (self.epoch, self.plan_gen) < (current.epoch, current.plan_gen)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..4])
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..4])
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..4])
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.epoch.0, self.plan_gen.0)
    }
}

/// The first bytes are enough to tell ids apart in a log line.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// All bytes as lower-case hexadecimal digits.
pub fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes that lower-case hexadecimal digits stand for, if there are as many as there should be.
pub fn bytes_of<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N
        || !digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A fixed number of bytes out of a field of any length.
pub(crate) fn fixed<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Length {
        field,
        got: bytes.len(),
        want: N,
    })
}

impl TryFrom<&[u8]> for NodeId {
    type Error = WireError;

    fn try_from(bytes: &[u8]) -> Result<Self, WireError> {
        fixed("node_id", bytes).map(NodeId)
    }
}

impl TryFrom<&[u8]> for InstanceId {
    type Error = WireError;

    fn try_from(bytes: &[u8]) -> Result<Self, WireError> {
        fixed("instance", bytes).map(InstanceId)
    }
}

impl From<Fence> for wire::Fence {
    fn from(fence: Fence) -> Self {
        wire::Fence {
            cluster_id: Bytes::copy_from_slice(&fence.cluster.0),
            epoch: fence.epoch.0,
            plan_gen: fence.plan_gen.0,
        }
    }
}

impl TryFrom<&wire::Fence> for Fence {
    type Error = WireError;

    fn try_from(fence: &wire::Fence) -> Result<Self, WireError> {
        Ok(Fence {
            cluster: ClusterId(fixed("cluster_id", &fence.cluster_id)?),
            epoch: Epoch(fence.epoch),
            plan_gen: PlanGen(fence.plan_gen),
        })
    }
}

impl TryFrom<&Option<wire::Fence>> for Fence {
    type Error = WireError;

    fn try_from(fence: &Option<wire::Fence>) -> Result<Self, WireError> {
        fence
            .as_ref()
            .ok_or(WireError::Missing("fence"))?
            .try_into()
    }
}
