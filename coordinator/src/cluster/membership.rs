//! Who is there: the workers that answered, and the addresses where one may answer. Plain data, no clock, no socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use potluck_proto::{NodeId, wire};

use super::member::Described;
use crate::planner::Candidate;

/// How often an address is asked again where a worker was lost or refused. Every two seconds, this is past the two minutes
/// after which mDNS forgets a silent worker, and so tells of it anew when it comes back later.
const MAX_RETRIES: u32 = 75;

/// Workers by id, in a fixed order.
#[derive(Debug, Default)]
pub(super) struct Membership {
    members: BTreeMap<NodeId, Described>,
    /// Addresses with a watcher at work.
    watched: BTreeSet<SocketAddr>,
    /// Addresses where a worker was lost or refused, and how often they are still to be asked. mDNS tells of a worker once:
    /// one that was frozen for a moment, or served another coordinator, is only found again by asking.
    retries: BTreeMap<SocketAddr, u32>,
}

impl Membership {
    /// Whether a watcher should be started for an address; counts as started from then on.
    pub fn begin_watch(&mut self, address: SocketAddr) -> bool {
        self.watched.insert(address)
    }

    /// The watcher of an address has ended: nobody could be used there.
    pub fn refused(&mut self, address: SocketAddr) {
        self.watched.remove(&address);
        let left = self.retries.entry(address).or_insert(MAX_RETRIES);
        *left -= 1;
        if *left == 0 {
            self.retries.remove(&address);
        }
    }

    /// Addresses to ask again.
    pub fn to_ask_again(&self) -> Vec<SocketAddr> {
        self.retries.keys().copied().collect()
    }

    /// A worker answered. False if one of that id is there already, at another address: one of the two is a copy.
    pub fn join(&mut self, described: Described) -> bool {
        match self.members.get(&described.node) {
            Some(held) if held.address != described.address => false,
            _ => {
                self.retries.remove(&described.address);
                self.members.insert(described.node, described);
                true
            }
        }
    }

    /// The watcher of an address has lost its worker. None if the worker is a member at another address.
    pub fn leave(&mut self, node: &NodeId, address: SocketAddr) -> Option<Described> {
        self.watched.remove(&address);
        self.members
            .get(node)
            .filter(|member| member.address == address)?;
        self.retries.insert(address, MAX_RETRIES);
        self.members.remove(node)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_address_is_asked_again_for_a_while() {
        let mut membership = Membership::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 7461));
        for _ in 0..MAX_RETRIES {
            assert!(membership.begin_watch(address));
            assert!(!membership.begin_watch(address), "one watcher at a time");
            membership.refused(address);
        }
        assert_eq!(membership.to_ask_again(), []);
        membership.begin_watch(address);
        membership.refused(address);
        assert_eq!(membership.to_ask_again(), [address], "mDNS told of it anew");
    }
}
