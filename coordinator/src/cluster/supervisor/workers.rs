//! Workers as they come and go: hints are followed, the list of members decides, and what workers report is taken in.

use std::collections::HashSet;
use std::net::IpAddr;

use potluck_link::invite::is_address;
use potluck_link::mdns::Found;
use potluck_link::{PeerId, Role};
use potluck_proto::{InstanceId, NodeId, SeqId, StepId, wire};
use tokio::time::Instant;

use super::{Phase, SETTLE, Supervisor};
use crate::cluster::ClusterEvent;
use crate::cluster::member::{Described, MemberEvent, Watch};
use crate::cluster::membership::{Hint, Verdict};
use crate::engine::{FaultKind, RingEvent, RunFault};

/// Addresses of one worker that others are told.
const MAX_ADDRESSES: usize = 8;

impl Supervisor {
    /// Anybody can advertise, so only what leads to a node of the list is followed.
    pub(super) fn found(&mut self, found: Found) {
        let node = found.advert.node;
        if !self.is_listed(node) {
            // It may have joined a moment ago.
            self.read_list();
        }
        if self.is_listed(node) {
            let addresses = found.addresses.iter().map(ToString::to_string).collect();
            let (node, instance) = (self.worker(node), found.advert.instance);
            self.follow(Hint::found(node, instance, addresses));
        }
    }

    pub(super) fn is_listed(&self, node: NodeId) -> bool {
        let members = self.members.borrow();
        members.node_ids.iter().any(|id| id.as_ref() == node.0)
    }

    pub(super) fn follow(&mut self, hint: Hint) {
        if self.membership.begin_watch(&hint) {
            let watch = Watch {
                link: self.config.cluster.link.clone(),
                fence: self.fence.subscribe(),
                members: self.members.subscribe(),
                events: self.member_events.sender.clone(),
            };
            self.watchers.spawn(watch.run(hint));
        }
    }

    /// Where workers were when the coordinator ran last: they are found even where mDNS does not work.
    pub(super) fn follow_remembered(&mut self) {
        self.read_list();
        match self.config.cluster.members().list() {
            Ok(members) => {
                for member in members.iter().filter(|member| !member.addresses.is_empty()) {
                    self.follow(Hint::remembered(
                        self.worker(member.node),
                        &member.addresses,
                    ));
                }
            }
            Err(error) => tracing::error!(%error, "the list of members cannot be read"),
        }
    }

    /// Takes a changed list of members into force: who is not on it any more is cut off.
    pub(super) fn read_list(&mut self) {
        let members = self.config.cluster.members();
        let stamp = members.stamp();
        let first = self.members.borrow().coordinator_addresses.is_empty();
        if stamp == self.list_stamp && !first {
            return;
        }
        let listed = match members.list() {
            Ok(listed) => listed,
            // The list in force stays: a damaged file neither lets in nor cuts off anybody.
            Err(error) => return tracing::error!(%error, "the list of members cannot be read"),
        };
        self.list_stamp = stamp;
        let listed = listed.iter().map(|member| member.node);
        let admitted: HashSet<_> = listed.chain(self.config.local_workers.clone()).collect();
        self.config.cluster.link.admit(admitted.iter().copied());
        let mut node_ids: Vec<_> = admitted.iter().map(|node| node.0.to_vec().into()).collect();
        node_ids.sort_unstable();
        self.members.send_replace(wire::Members {
            node_ids,
            coordinator_addresses: self.own_addresses.clone(),
        });
        let here: Vec<_> = self.membership.iter().map(|member| member.node).collect();
        for node in here.iter().filter(|node| !admitted.contains(node)) {
            let struck = self.membership.strike(node);
            self.gone(struck, "it was removed from the cluster");
        }
    }

    pub(super) fn worker(&self, node: NodeId) -> PeerId {
        PeerId {
            cluster: self.config.cluster.id(),
            role: Role::Worker,
            node,
        }
    }

    pub(super) fn apply_member(&mut self, event: MemberEvent) {
        match event {
            MemberEvent::Answered(described, verdict) => {
                // Without a watcher to hear it the worker was lost at once, which is told next.
                let _ = verdict.send(self.answered(*described));
            }
            MemberEvent::Known { hint } => self.membership.known(&hint),
            MemberEvent::Refused { hint, error } => {
                tracing::info!(hint = hint.key, %error, "a worker cannot be used");
                self.membership.refused(hint);
            }
            MemberEvent::Lost {
                node,
                instance,
                why,
            } => self.lost(node, instance, &why),
            MemberEvent::Progress => self.progress_at = Instant::now(),
            MemberEvent::Fault { fence, fault } if fence == *self.fence.borrow() => {
                self.for_engine
                    .push_back(RingEvent::Fault(run_fault(fault)));
            }
            MemberEvent::LinkDown {
                fence,
                node,
                message,
            } if fence == *self.fence.borrow() => {
                let (from, to) = (self.name_of(&node), self.name_after(&node));
                self.ring_lost(format!(
                    "the connection from worker {from} to {to} broke ({message})"
                ));
            }
            MemberEvent::Fault { .. } | MemberEvent::LinkDown { .. } => {}
        }
    }

    pub(super) fn answered(&mut self, described: Described) -> Verdict {
        let (name, address) = (described.info.name.clone(), described.address.to_string());
        let (node, addresses) = (described.node, addresses_of(&described));
        let verdict = self.membership.join(described);
        match &verdict {
            Verdict::Known => return verdict,
            Verdict::Copy { other } => {
                tracing::warn!(
                    name,
                    address,
                    other,
                    "a second worker with the same identity is refused"
                );
                return verdict;
            }
            Verdict::Joined => {}
        }
        if let Err(error) = self.config.cluster.members().remember(node, &addresses) {
            tracing::warn!(%error, "where a worker is could not be remembered");
        }
        tracing::info!(name, address, "worker found");
        self.tell(ClusterEvent::WorkerFound { name, address });
        if matches!(self.phase, Phase::Gathering) {
            self.plan_at = Some(Instant::now() + SETTLE);
        }
        verdict
    }

    pub(super) fn lost(&mut self, node: NodeId, instance: InstanceId, why: &str) {
        // A worker that was struck off and has come back is another's business.
        let is_it = |member: &&Described| member.instance == instance;
        if self.membership.get(&node).filter(is_it).is_some() {
            let member = self.membership.leave(&node);
            self.gone(member, why);
        }
    }

    pub(super) fn gone(&mut self, member: Option<Described>, why: &str) {
        let Some(member) = member else {
            return;
        };
        let (name, node) = (member.info.name, member.node);
        tracing::warn!(name, why, "worker lost");
        self.tell(ClusterEvent::WorkerLost {
            name: name.clone(),
            why: why.to_owned(),
        });
        let in_use = self
            .phase
            .plan()
            .is_some_and(|plan| plan.stages.iter().any(|stage| stage.worker == node));
        if in_use {
            self.ring_lost(format!("worker {name} was lost: {why}"));
        }
    }

    pub(super) fn name_of(&self, node: &NodeId) -> String {
        self.membership
            .get(node)
            .map_or_else(|| node.to_string(), |member| member.info.name.clone())
    }

    /// The worker whose layers come after those of `node` in the plan, in words.
    pub(super) fn name_after(&self, node: &NodeId) -> String {
        let stages = self.phase.plan().map(|plan| plan.stages.as_slice());
        let mut stages = stages.unwrap_or_default().iter();
        stages.find(|stage| stage.worker == *node);
        match stages.next() {
            Some(stage) => format!("worker {}", stage.name),
            None => "the next stage".to_owned(),
        }
    }
}

/// Where other machines reach a worker: where this one did, and where the worker says that it is. What means something on this
/// machine only comes last.
pub(super) fn addresses_of(member: &Described) -> Vec<String> {
    let mut addresses = member.info.addresses.clone();
    let seen = member.address.to_string();
    addresses.retain(|address| *address != seen && is_address(address));
    let is_own = match member.address.ip() {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    };
    match is_own {
        true => addresses.push(seen),
        false => addresses.insert(0, seen),
    }
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

fn run_fault(fault: wire::RunFault) -> RunFault {
    let kind = match fault.fault() {
        wire::Fault::Unspecified => FaultKind::Unspecified,
        wire::Fault::Gap => FaultKind::Gap,
        wire::Fault::KvFull => FaultKind::KvFull,
        wire::Fault::NotFinite => FaultKind::NotFinite,
        wire::Fault::Invalid => FaultKind::Invalid,
    };
    RunFault {
        seq: SeqId(fault.seq),
        step: StepId(fault.step_id),
        kind,
        kv_len: fault.kv_len,
        message: fault.message,
    }
}
