//! What happens in a cluster, for those who show it.

use std::collections::BTreeMap;

use crate::planner::Plan;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum ClusterEvent {
    /// A worker answered.
    WorkerFound {
        /// Its name.
        name: String,
        /// `host:port`.
        address: String,
    },
    /// A worker is gone.
    WorkerLost {
        /// Its name.
        name: String,
        /// How that was noticed.
        why: String,
    },
    /// Layers were placed.
    Planned(Plan),
    /// A worker fetches weights it does not have.
    Fetching {
        /// Its name.
        name: String,
        /// Bytes fetched.
        done_bytes: u64,
        /// Bytes of its span.
        total_bytes: u64,
    },
    /// A worker reads its weights.
    Loading {
        /// Its name.
        name: String,
        /// Bytes read.
        done_bytes: u64,
        /// Bytes of its span.
        total_bytes: u64,
    },
    /// A worker holds its layers.
    Loaded {
        /// Its name.
        name: String,
        /// Weight bytes that crossed the network.
        fetched_bytes: u64,
        /// Weight bytes that were on its disk.
        cached_bytes: u64,
        /// How long it took.
        load_ms: u64,
        /// Which node sent how many of the fetched bytes, by name.
        from: BTreeMap<String, u64>,
    },
    /// A worker was sent wrong bytes. It threw them away, and does not ask their source again in this load.
    WeightsDamaged {
        /// Name of the worker.
        worker: String,
        /// Name of the node that sent them.
        source: String,
        /// Name of the tensor.
        tensor: String,
    },
    /// Answers can be computed.
    Ready {
        /// Time of an empty step round the ring.
        ring_us: u64,
    },
    /// Answers cannot be computed.
    Down {
        /// Why, in a sentence.
        why: String,
    },
}
