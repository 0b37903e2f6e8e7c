//! Where a worker takes its weights from, and what it says of that.

use std::collections::BTreeMap;

use potluck_link::dial::peer_to_wire;
use potluck_proto::{NodeId, limits, wire};

use super::Supervisor;
use super::workers::addresses_of;
use crate::cluster::ClusterEvent;

impl Supervisor {
    /// Who may have weights for a worker: all others, and this coordinator, which has all of them.
    pub(super) fn sources_for(&self, node: &NodeId) -> Vec<wire::Peer> {
        let others = self.membership.iter().filter(|member| member.node != *node);
        let others =
            others.map(|member| peer_to_wire(self.worker(member.node), &addresses_of(member)));
        let others = others.take(limits::MAX_SOURCES - 1);
        others.chain([self.own_peer()]).collect()
    }

    /// A worker holds its layers.
    pub(super) fn loaded(&self, name: String, ready: wire::Ready) -> ClusterEvent {
        let mut from = BTreeMap::new();
        for sent in ready.sent.iter().take(limits::MAX_SOURCES) {
            let n_bytes: &mut u64 = from.entry(self.name_of_source(&sent.node_id)).or_default();
            *n_bytes = n_bytes.saturating_add(sent.n_bytes);
        }
        ClusterEvent::Loaded {
            name,
            fetched_bytes: ready.fetched_bytes,
            cached_bytes: ready.cached_bytes,
            load_ms: ready.load_ms,
            from,
        }
    }

    /// A worker was sent wrong bytes. The name of the tensor is the worker's word, so it is shown only if there is one.
    pub(super) fn damaged(&self, worker: String, damaged: wire::WeightsDamaged) -> ClusterEvent {
        let source = self.name_of_source(&damaged.node_id);
        let tensor = match self.model.has_tensor(&damaged.tensor) {
            true => damaged.tensor,
            false => "of an unknown name".to_owned(),
        };
        tracing::warn!(
            worker,
            source,
            tensor,
            "wrong bytes of a tensor were sent and thrown away"
        );
        ClusterEvent::WeightsDamaged {
            worker,
            source,
            tensor,
        }
    }

    /// A node that weights came from, for people.
    fn name_of_source(&self, node: &[u8]) -> String {
        match NodeId::try_from(node) {
            Ok(node) if node == self.config.cluster.link.id().node => "coordinator".to_owned(),
            Ok(node) => self.name_of(&node),
            Err(_) => "an unknown node".to_owned(),
        }
    }
}
