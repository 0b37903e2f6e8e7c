//! Who is there: the workers that answered, and the addresses where one may answer. Plain data, no clock, no socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use potluck_proto::{NodeId, wire};

use super::member::Described;
use crate::planner::Candidate;

/// Workers by id, in a fixed order.
#[derive(Debug, Default)]
pub(super) struct Membership {
    members: BTreeMap<NodeId, Described>,
    /// Addresses with a watcher at work.
    watched: BTreeSet<SocketAddr>,
}

impl Membership {
    /// Whether a watcher should be started for an address; counts as started from then on.
    pub fn begin_watch(&mut self, address: SocketAddr) -> bool {
        self.watched.insert(address)
    }

    /// The watcher of an address has ended.
    pub fn end_watch(&mut self, address: SocketAddr) {
        self.watched.remove(&address);
    }

    /// A worker answered. False if one of that id is there already, at another address: one of the two is a copy.
    pub fn join(&mut self, described: Described) -> bool {
        match self.members.get(&described.node) {
            Some(held) if held.address != described.address => false,
            _ => {
                self.members.insert(described.node, described);
                true
            }
        }
    }

    /// A worker is gone.
    pub fn leave(&mut self, node: &NodeId) -> Option<Described> {
        let member = self.members.remove(node)?;
        self.end_watch(member.address);
        Some(member)
    }

    pub fn get(&self, node: &NodeId) -> Option<&Described> {
        self.members.get(node)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Described> {
        self.members.values()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Newer words of a worker of itself.
    pub fn update(&mut self, node: &NodeId, info: wire::NodeInfo) {
        if let Some(member) = self.members.get_mut(node) {
            member.info = info;
        }
    }
}

/// Workers as the planner sees them, sorted by name so that equal clusters get equal plans.
pub fn candidates<'a>(
    workers: impl Iterator<Item = (NodeId, SocketAddr, &'a wire::NodeInfo)>,
) -> Vec<Candidate> {
    let mut candidates: Vec<_> = workers
        .map(|(id, address, info)| {
            let speed = info.speed.unwrap_or_default();
            Candidate {
                id,
                name: info.name.clone(),
                address: address.to_string(),
                memory_budget_bytes: info.memory_budget_bytes,
                weight_bytes_per_second: speed.weight_bytes_per_second,
                macs_per_second: speed.macs_per_second,
            }
        })
        .collect();
    candidates.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    candidates
}
