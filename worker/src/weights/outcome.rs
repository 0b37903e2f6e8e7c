//! What a fetch has moved, from whom, and how it can fail.

use std::collections::BTreeMap;

use potluck_link::{Expect, Target};
use potluck_proto::NodeId;

use super::cache::CacheError;

/// Weights that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// None of the sources answered.
    #[error(
        "no source of weights could be reached: {why}; check that the coordinator is still running"
    )]
    NoSource {
        /// The last error.
        why: String,
    },
    /// The sources broke off, or do not have it.
    #[error("tensor `{name}` could not be fetched: {why}")]
    Broken {
        /// Name of the tensor.
        name: String,
        /// Why.
        why: String,
    },
    /// Every source sends other bytes than the hash says.
    #[error(
        "tensor `{name}` arrived damaged from every source that has it; their copies of the model are broken"
    )]
    WrongBytes {
        /// Name of the tensor.
        name: String,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// What a load has moved.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes that crossed the network, by who sent them.
    pub sent: BTreeMap<NodeId, u64>,
    /// Bytes that were in the cache when the last fetch began.
    pub cached_bytes: u64,
    /// Wrong bytes that were found.
    pub damaged: Vec<Damage>,
}

/// A source sent other bytes than those of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name of the tensor.
    pub tensor: String,
    /// Who sent them.
    pub source: NodeId,
}

impl Report {
    /// Bytes that crossed the network.
    pub fn fetched_bytes(&self) -> u64 {
        self.sent.values().sum()
    }

    /// Whether a source has told no lie.
    pub(super) fn trusts(&self, target: &Target) -> bool {
        match target.expect {
            Expect::Node(peer) => self.damaged.iter().all(|damage| damage.source != peer.node),
            Expect::Any(_) => true,
        }
    }
}
