//! Typed ids, and the fence that every message carries.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

use crate::{WireError, wire};

/// Sixteen random bytes that name a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

/// Sixteen random bytes that name a worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 16]);

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
    /// An id that no other cluster has.
    pub fn random() -> Self {
        ClusterId(random_bytes())
    }
}

impl NodeId {
    /// An id that no other worker process has.
    pub fn random() -> Self {
        NodeId(random_bytes())
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

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.epoch.0, self.plan_gen.0)
    }
}

/// The first bytes are enough to tell ids apart in a log line.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
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
