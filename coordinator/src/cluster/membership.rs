//! Who is there: the workers that answered, and the places where one may answer. Plain data, no clock, no socket.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;

use potluck_link::{Expect, PeerId, Role, Target};
use potluck_proto::{InstanceId, NodeId, wire};

use super::member::Described;
use crate::planner::Candidate;

/// How often a hint is followed again where a worker was lost or refused. Every two seconds, this is past the two minutes
/// after which mDNS forgets a silent worker, and so tells of it anew when it comes back later.
const MAX_RETRIES: u32 = 75;

/// Hints that are followed at once. With more somebody plays with us, and the rest is left out.
const MAX_HINTS: usize = 1024;

/// Hints of one node that are followed at once: one process, one that has just ended, and a copy or two.
const MAX_HINTS_PER_NODE: usize = 8;

/// Where a worker may be.
#[derive(Debug, Clone)]
pub(super) struct Hint {
    /// The same hint given twice has the same key.
    pub key: String,
    /// Where, and who should be there.
    pub target: Target,
    pub source: Source,
}

/// Who says that a worker is somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Anybody: it came by mDNS. However much of it there is, it does not keep others from being heard.
    Hearsay,
    /// The worker itself over a link, the list of members, or the user.
    Trusted,
}

impl Hint {
    /// A process that mDNS told of.
    pub fn found(node: PeerId, instance: InstanceId, addresses: Vec<String>) -> Hint {
        Hint {
            // A process that has moved is looked for in the new place while the old one is still being tried.
            key: format!("found {}-{instance}@{}", node.node, addresses.join(",")),
            target: Target::node(node, addresses),
            source: Source::Hearsay,
        }
    }

    /// A process that said over a link where it is.
    pub fn announced(node: PeerId, instance: InstanceId, addresses: Vec<String>) -> Hint {
        Hint {
            key: format!("announced {}-{instance}@{}", node.node, addresses.join(",")),
            target: Target::node(node, addresses),
            source: Source::Trusted,
        }
    }

    /// A worker that was there before.
    pub fn remembered(node: PeerId, addresses: &[String]) -> Hint {
        Hint {
            key: node.node.to_string(),
            target: Target::node(node, addresses),
            source: Source::Trusted,
        }
    }

    /// Whether this node and no other is looked for.
    fn expects(&self, node: &NodeId) -> bool {
        matches!(self.target.expect, Expect::Node(peer) if peer.node == *node)
    }

    /// An address that the user named.
    pub fn address(address: &str) -> Hint {
        Hint {
            key: address.to_owned(),
            target: Target::any(Role::Worker, address),
            source: Source::Trusted,
        }
    }

    /// Whose hints it is counted with.
    fn owner(&self) -> Owner {
        let node = match self.target.expect {
            Expect::Node(peer) => Some(peer.node),
            Expect::Any(_) => None,
        };
        Owner {
            source: self.source,
            node,
        }
    }
}

/// What becomes of a worker that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is a member from now on.
    Joined,
    /// It is a member already, found twice.
    Known,
    /// Another process with its identity is a member: one of the two is a copy.
    Copy {
        /// Where the other is.
        other: String,
    },
}

#[derive(Debug, PartialEq, Eq)]
struct Owner {
    source: Source,
    /// None for an address that the user named: of those there are as many as were named.
    node: Option<NodeId>,
}

/// Workers by id, in a fixed order.
#[derive(Debug, Default)]
pub(super) struct Membership {
    members: BTreeMap<NodeId, Described>,
    /// Hints with a watcher at work.
    watched: BTreeMap<String, Owner>,
    /// Hints where a worker was lost or refused, and how often they are still to be followed. mDNS tells of a worker once: one
    /// that was frozen for a moment, or came back, is only found again by asking.
    retries: BTreeMap<String, (Hint, u32)>,
}

impl Membership {
    /// Whether a watcher should be started for a hint; counts as started from then on.
    pub fn begin_watch(&mut self, hint: &Hint) -> bool {
        let owner = hint.owner();
        let there = |same: fn(&Owner, &Owner) -> bool| {
            let watched = self.watched.values();
            watched.filter(|other| same(other, &owner)).count()
        };
        let is_room = there(|a, b| a.source == b.source) < MAX_HINTS
            && (owner.node.is_none() || there(|a, b| a == b) < MAX_HINTS_PER_NODE);
        match self.watched.entry(hint.key.clone()) {
            Entry::Vacant(place) if is_room => {
                place.insert(owner);
                true
            }
            _ => false,
        }
    }

    /// The watcher of a hint has ended: nobody could be used there.
    pub fn refused(&mut self, hint: Hint) {
        self.watched.remove(&hint.key);
        if self.retries.len() >= MAX_HINTS && !self.retries.contains_key(&hint.key) {
            return;
        }
        let key = hint.key.clone();
        let (_, left) = self
            .retries
            .entry(key.clone())
            .or_insert((hint, MAX_RETRIES));
        *left -= 1;
        if *left == 0 {
            self.retries.remove(&key);
        }
    }

    /// The watcher of a hint has ended: its worker is a member already.
    pub fn known(&mut self, hint: &Hint) {
        self.watched.remove(&hint.key);
        self.retries.remove(&hint.key);
    }

    /// Hints to follow again.
    pub fn to_ask_again(&self) -> Vec<Hint> {
        self.retries
            .values()
            .map(|(hint, _)| hint.clone())
            .collect()
    }

    /// A worker answered.
    pub fn join(&mut self, described: Described) -> Verdict {
        match self.members.get(&described.node) {
            Some(held) if held.instance == described.instance => Verdict::Known,
            Some(held) => Verdict::Copy {
                other: held.address.to_string(),
            },
            None => {
                self.retries.remove(&described.hint.key);
                // It is not where it was.
                self.retries
                    .retain(|_, (hint, _)| !hint.expects(&described.node));
                self.members.insert(described.node, described);
                Verdict::Joined
            }
        }
    }

    /// The watcher of a member has lost it. None if it is none any more.
    pub fn leave(&mut self, node: &NodeId) -> Option<Described> {
        let member = self.members.remove(node)?;
        let hint = member.hint.clone();
        self.watched.remove(&hint.key);
        self.retries.insert(hint.key.clone(), (hint, MAX_RETRIES));
        Some(member)
    }

    /// A member was struck off the cluster's list: it is not looked for any more.
    pub fn strike(&mut self, node: &NodeId) -> Option<Described> {
        let member = self.leave(node)?;
        self.retries.remove(&member.hint.key);
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

#[cfg(test)]
mod tests {
    use potluck_proto::ClusterId;

    use super::*;

    #[test]
    fn a_refused_hint_is_followed_again_for_a_while() {
        let mut membership = Membership::default();
        let hint = Hint::address("127.0.0.1:7461");
        let keys = |membership: &Membership| -> Vec<_> {
            let hints = membership.to_ask_again().into_iter();
            hints.map(|hint| hint.key).collect()
        };
        for _ in 0..MAX_RETRIES {
            assert!(membership.begin_watch(&hint));
            assert!(!membership.begin_watch(&hint), "one watcher at a time");
            membership.refused(hint.clone());
        }
        assert!(keys(&membership).is_empty());
        membership.begin_watch(&hint);
        membership.refused(hint.clone());
        assert_eq!(keys(&membership), [hint.key], "mDNS told of it anew");
    }

    #[test]
    fn a_flood_of_hints_is_bounded() {
        let mut membership = Membership::default();
        let hints = (0..10 * MAX_HINTS).map(|i| Hint::address(&format!("10.0.0.1:{i}")));
        for hint in hints {
            if membership.begin_watch(&hint) {
                membership.refused(hint);
            }
        }
        assert!(membership.to_ask_again().len() <= MAX_HINTS);
    }

    #[test]
    fn hearsay_of_a_worker_does_not_drown_its_own_word() {
        let mut membership = Membership::default();
        let (ann, bob) = (worker(1), worker(2));
        let instance = |n: u8| InstanceId([n; 16]);
        let begun = (0..=255).filter(|&n| {
            let lie = Hint::found(ann, instance(n), vec!["10.0.0.66:1".into()]);
            membership.begin_watch(&lie)
        });
        assert_eq!(begun.count(), MAX_HINTS_PER_NODE);
        let truth = |node| {
            vec![
                Hint::announced(node, instance(0), vec![]),
                Hint::remembered(node, &[]),
            ]
        };
        for hint in truth(ann).into_iter().chain(truth(bob)) {
            assert!(membership.begin_watch(&hint), "{hint:?}");
        }
        assert!(membership.begin_watch(&Hint::found(bob, instance(0), vec![])));
    }

    fn worker(n: u8) -> PeerId {
        PeerId {
            cluster: ClusterId([7; 16]),
            role: Role::Worker,
            node: NodeId([n; 16]),
        }
    }
}
