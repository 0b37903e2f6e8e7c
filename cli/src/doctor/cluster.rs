//! The cluster of this machine, from both ends: whether the coordinator is reached, whether it reaches back, and whether clocks agree.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use potluck_coordinator::cluster::{OwnCluster, describe};
use potluck_link::authority::unix_seconds;
use potluck_link::mdns::Found;
use potluck_link::{ConnectError, Expect, Interfaces, Link, PeerId, Role, Target, link_listener};
use potluck_proto::wire::cluster_client::ClusterClient;
use potluck_proto::{InstanceId, wire};

use super::{Finding, open_port};
use crate::command::serve::NODE_PORT;
use crate::setup::joining::Membership;
use crate::setup::local_worker::WORKER_PORT;

/// Clocks that differ by more than this confuse logs.
const CLOCK_WARNING: Duration = Duration::from_secs(120);

/// Clocks that differ by more than this break certificates.
const CLOCK_FAILURE: Duration = Duration::from_secs(12 * 3600);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A worker's view of its cluster.
pub struct WorkerView<'a> {
    pub membership: &'a Membership,
    pub interfaces: &'a Interfaces,
    /// Who was heard by mDNS.
    pub heard: &'a [Found],
    /// Where the user says that the coordinator is.
    pub coordinator: Option<&'a str>,
}

impl WorkerView<'_> {
    /// Looks at everything between this worker and its coordinator.
    pub async fn check(&self) -> anyhow::Result<Vec<Finding>> {
        let (member, credential) = (&self.membership.member, &self.membership.credential);
        let mut findings = Vec::new();
        findings.push(match credential.is_expired(SystemTime::now()) {
            true => Finding::failed(
                "certificate",
                "this machine's certificate has expired, by this machine's clock",
                "check the clock; if it is right, run `potluck join --replace` with a new invite",
            ),
            false => Finding::ok(
                "certificate",
                format!("{} of cluster `{}`", member.name, member.cluster_name),
            ),
        });
        let heard = self.coordinator_heard();
        let mut addresses: Vec<String> = self.coordinator.map(str::to_owned).into_iter().collect();
        addresses.extend(heard.iter().map(ToString::to_string));
        addresses.extend(member.coordinators.iter().cloned());
        let link = Link::new(credential.clone())?;
        let target = Target {
            addresses,
            expect: Expect::Any(Role::Coordinator),
        };
        match link.connect(&target).await {
            Err(error) => {
                findings.push(unreachable(
                    &error,
                    "the coordinator",
                    "potluck serve",
                    NODE_PORT,
                ));
            }
            Ok(connected) => {
                let at = connected.peer.address;
                findings.push(Finding::ok("coordinator", format!("reached at {at}")));
                findings.push(passing(heard.is_empty(), at));
                let mut client = ClusterClient::new(connected.channel);
                findings.extend(self.reached_back(&link, &mut client).await);
            }
        }
        Ok(findings)
    }

    fn coordinator_heard(&self) -> Vec<SocketAddr> {
        let own = self.membership.credential.cluster().prefix();
        let ours = self
            .heard
            .iter()
            .filter(|found| found.advert.is_coordinator && found.advert.cluster == own);
        ours.flat_map(|found| found.addresses.clone()).collect()
    }

    /// Has the coordinator connect to this machine. Where no worker runs, this command listens in its place.
    async fn reached_back(
        &self,
        link: &Link,
        client: &mut ClusterClient<tonic::transport::Channel>,
    ) -> Vec<Finding> {
        let port = self.interfaces.listen_on(WORKER_PORT);
        let _standing_in = match link_listener(port) {
            Ok(listener) => Some(link.accept(listener)),
            Err(_) => match self.worker_runs(link).await {
                Ok(()) => None,
                Err(finding) => return vec![finding],
            },
        };
        let reach = self.interfaces.reach(port);
        let request = wire::AnnounceRequest {
            addresses: reach.iter().map(ToString::to_string).collect(),
            instance: InstanceId::random().0.to_vec().into(),
        };
        match tokio::time::timeout(PATIENCE, client.announce(request)).await {
            Ok(Ok(reply)) => judge(&reply.into_inner()),
            Ok(Err(status)) => vec![Finding::failed(
                "way back",
                format!("the coordinator answers: {}", status.message()),
                "update potluck on both machines to the same version",
            )],
            Err(_) => vec![Finding::failed(
                "way back",
                "the coordinator does not answer in time",
                "look at the coordinator's log, and restart it",
            )],
        }
    }

    /// Whether what uses the worker's port is this machine's worker.
    async fn worker_runs(&self, link: &Link) -> Result<(), Finding> {
        let own = link.id();
        let local = [
            format!("127.0.0.1:{WORKER_PORT}"),
            self.interfaces.listen_on(WORKER_PORT).to_string(),
        ];
        link.admit([own.node]);
        let connected = link.connect(&Target::node(own, local)).await;
        match connected {
            Ok(_) => Ok(()),
            // It is asked by itself, which it may refuse; but it has shown who it is.
            Err(ConnectError::Refused { .. }) => Ok(()),
            Err(error) => Err(Finding::failed(
                "port",
                format!(
                    "port {WORKER_PORT} is used by something else than this machine's worker ({error})"
                ),
                "end that program, or start the worker on another port: potluck worker --listen 0.0.0.0:7471",
            )),
        }
    }
}

/// What the coordinator says of its tries to connect to this machine.
fn judge(reply: &wire::AnnounceReply) -> Vec<Finding> {
    let mut findings = vec![clock("the coordinator", reply.unix_seconds)];
    let good: Vec<_> = reply
        .reached
        .iter()
        .filter(|tried| tried.why_not.is_empty())
        .map(|tried| tried.address.as_str())
        .collect();
    findings.push(match (good.is_empty(), reply.reached.first()) {
        (false, _) => Finding::ok(
            "way back",
            format!(
                "the coordinator reaches this machine at {}",
                good.join(", ")
            ),
        ),
        (true, Some(tried)) => Finding::failed(
            "way back",
            format!(
                "the coordinator does not reach this machine at {}: {}",
                tried.address, tried.why_not
            ),
            open_port(WORKER_PORT),
        ),
        (true, None) => Finding::failed(
            "way back",
            "this machine has no address that it could tell the coordinator",
            "connect it to the network, or name an interface with --interface NAME",
        ),
    });
    findings
}

/// Whether multicast passes between two machines that reach each other by address.
fn passing(nothing_heard: bool, at: SocketAddr) -> Finding {
    match nothing_heard {
        false => Finding::ok("discovery", "the coordinator is heard by mDNS"),
        true => Finding::warning(
            "discovery",
            format!(
                "the coordinator is reached at {at} but not heard by mDNS: multicast does not pass between the two machines"
            ),
            "it works like this as long as addresses stay. To mend it: allow UDP port 5353 in both firewalls, and switch off `AP isolation` \
             and `multicast filtering` on the access point or switch; new machines join with --coordinator HOST:PORT",
        ),
    }
}

/// A node that is not reached, in words that say what to look at.
fn unreachable(error: &ConnectError, who: &str, start: &str, port: u16) -> Finding {
    let fix = match error {
        ConnectError::Unreachable { why, .. } if why.contains("refused") => {
            format!("nothing listens there: start it with `{start}`, or check the port")
        }
        ConnectError::Unreachable { why, .. } if why.contains("no answer") => format!(
            "the machine is off, or a firewall drops the packets; on that machine: {}",
            open_port(port)
        ),
        ConnectError::Unreachable { why, .. } if why.contains("no address is known") => {
            "it is neither heard by mDNS nor known from before: start it, and name it with --coordinator HOST:PORT".to_owned()
        }
        ConnectError::Unreachable { .. } => {
            "that address does not lead to a machine now: is it on, in the same network, and has it another address?".to_owned()
        }
        ConnectError::NotTrusted { .. } | ConnectError::OtherNode { .. } => {
            "another program or another cluster answers there: check the address, and that both machines belong to one cluster".to_owned()
        }
        ConnectError::Refused { .. } => "run `potluck join --replace` with a new invite on this machine".to_owned(),
    };
    let check = match who {
        "the coordinator" => "coordinator",
        _ => "worker",
    };
    Finding::failed(check, format!("{who} is not reached: {error}"), fix)
}

/// Compares a clock with this machine's.
fn clock(whose: &str, theirs: u64) -> Finding {
    let ours = unix_seconds(SystemTime::now());
    let apart = Duration::from_secs(ours.abs_diff(theirs));
    let found = format!(
        "{whose}'s clock and this machine's are {} s apart",
        apart.as_secs()
    );
    let fix = "set the wrong clock; `timedatectl set-ntp true` keeps it right on most systems";
    match apart {
        apart if apart > CLOCK_FAILURE => Finding::failed("clock", found, fix),
        apart if apart > CLOCK_WARNING => Finding::warning("clock", found, fix),
        _ => Finding::ok("clock", found),
    }
}

/// Whether the coordinator's port can be had, or is in use by this cluster's coordinator.
async fn coordinator_port(own: &OwnCluster, interfaces: &Interfaces) -> Finding {
    let at = interfaces.listen_on(NODE_PORT);
    if link_listener(at).is_ok() {
        return Finding::ok(
            "port",
            format!("port {NODE_PORT} is free for `potluck serve`"),
        );
    }
    let local = [format!("127.0.0.1:{NODE_PORT}"), at.to_string()];
    match own.link.connect(&Target::node(own.link.id(), local)).await {
        Ok(_) => Finding::ok("port", "this cluster's `potluck serve` runs"),
        Err(error) => Finding::failed(
            "port",
            format!(
                "port {NODE_PORT} is used by something else than this cluster's coordinator ({error})"
            ),
            "end that program, or start the coordinator on another port: potluck serve --node-listen 0.0.0.0:7472",
        ),
    }
}

/// The coordinator's view: its port, and every machine on its list.
pub async fn members(
    own: &OwnCluster,
    interfaces: &Interfaces,
    heard: &[Found],
) -> anyhow::Result<Vec<Finding>> {
    let members = own.admit_members(None)?;
    let mut findings = vec![coordinator_port(own, interfaces).await];
    if members.is_empty() {
        findings.push(Finding::warning(
            "members",
            format!("no machine has joined cluster `{}`", own.name),
            "make an invite with `potluck invite`, and paste it on the other machine",
        ));
    }
    for member in members {
        let node = PeerId {
            cluster: own.id(),
            role: Role::Worker,
            node: member.node,
        };
        let heard = heard
            .iter()
            .filter(|found| found.advert.node == member.node);
        let heard: Vec<_> = heard.flat_map(|found| found.addresses.clone()).collect();
        let mut addresses: Vec<String> = heard.iter().map(ToString::to_string).collect();
        addresses.extend(member.addresses.iter().cloned());
        let who = format!("worker {}", member.name);
        match describe(&own.link, &Target::node(node, addresses)).await {
            Ok((_, at, info)) => {
                findings.push(Finding::ok("worker", format!("{who} is reached at {at}")));
                if heard.is_empty() {
                    findings.push(passing(true, at));
                }
                findings.push(clock(&who, info.unix_seconds));
            }
            Err(potluck_coordinator::cluster::DescribeError::Connect(error)) => {
                findings.push(unreachable(&error, &who, "potluck worker", WORKER_PORT));
            }
            Err(error) => findings.push(Finding::failed(
                "worker",
                format!("{who} cannot be used: {error}"),
                "update potluck on both machines to the same version",
            )),
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn clocks_that_are_far_apart_are_named() {
        let now = unix_seconds(SystemTime::now());
        for (theirs, status) in [
            (now, Status::Ok),
            (now - 600, Status::Warning),
            (now + 10 * 365 * 86_400, Status::Failed),
            (0, Status::Failed),
        ] {
            assert_eq!(clock("the coordinator", theirs).status, status, "{theirs}");
        }
    }
}
