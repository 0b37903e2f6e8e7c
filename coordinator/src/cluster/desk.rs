//! What the coordinator does for nodes that belong to the cluster: hears where they are, and renews their certificates.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use potluck_link::authority::unix_seconds;
use potluck_link::invite::is_address;
use potluck_link::join::issued_to_wire;
use potluck_link::peer::node_id;
use potluck_link::{Interfaces, Peer, PeerId, Role, Target};
use potluck_proto::wire::cluster_server::Cluster;
use potluck_proto::{InstanceId, NodeId, WireError, wire};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use super::identity::OwnCluster;
use super::membership::Hint;

/// Addresses of a worker that are tried.
const MAX_ADDRESSES: usize = 8;

/// The service.
pub(super) struct Desk {
    pub cluster: OwnCluster,
    pub interfaces: Interfaces,
    pub listening: SocketAddr,
    /// Where workers say that they are.
    pub hints: mpsc::Sender<Hint>,
    /// Workers that are being tried at what they said.
    pub trying: Trying,
}

/// Workers that are being tried, each once at a time: every try is a handful of connections to wherever a worker likes.
#[derive(Default)]
pub(super) struct Trying(Mutex<HashSet<NodeId>>);

/// One worker that is being tried, until this is dropped.
struct Try<'a> {
    trying: &'a Trying,
    node: NodeId,
}

impl Trying {
    fn begin(&self, node: NodeId) -> Option<Try<'_>> {
        let is_first = self.nodes().insert(node);
        is_first.then(|| Try { trying: self, node })
    }

    fn nodes(&self) -> MutexGuard<'_, HashSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.trying.nodes().remove(&self.node);
    }
}

/// Who asks. A request that did not come over a link gets nothing.
fn worker<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().copied();
    peer.filter(|peer| peer.id.role == Role::Worker)
        .ok_or_else(|| Status::permission_denied("only a worker of this cluster may ask this"))
}

impl Desk {
    /// Whether the node is reached at each of its addresses.
    async fn try_all(&self, node: PeerId, addresses: &[String]) -> Vec<wire::Reached> {
        let mut tries = JoinSet::new();
        for (i, address) in addresses.iter().enumerate() {
            let (link, target) = (self.cluster.link.clone(), Target::node(node, [address]));
            tries.spawn(async move { (i, link.connect(&target).await.err()) });
        }
        let reached = |address: &String| wire::Reached {
            address: address.clone(),
            why_not: String::new(),
        };
        let mut reached: Vec<_> = addresses.iter().map(reached).collect();
        while let Some(Ok((i, error))) = tries.join_next().await {
            reached[i].why_not = error.map(|err| err.to_string()).unwrap_or_default();
        }
        reached
    }
}

#[tonic::async_trait]
impl Cluster for Desk {
    async fn announce(
        &self,
        request: Request<wire::AnnounceRequest>,
    ) -> Result<Response<wire::AnnounceReply>, Status> {
        let peer = worker(&request)?;
        let request = request.into_inner();
        let invalid = |err: WireError| Status::invalid_argument(err.to_string());
        let instance = InstanceId::try_from(request.instance.as_ref()).map_err(invalid)?;
        let addresses: Vec<_> = request
            .addresses
            .into_iter()
            .filter(|address| is_address(address))
            .take(MAX_ADDRESSES)
            .collect();
        let begun = self.trying.begin(peer.id.node).ok_or_else(|| {
            Status::resource_exhausted("this worker is being tried already; wait for the answer")
        })?;
        let reached = self.try_all(peer.id, &addresses).await;
        drop(begun);
        let hint = Hint::announced(peer.id, instance, addresses);
        // A full queue means that there are hints enough; the worker announces itself again.
        let _ = self.hints.try_send(hint);
        let reach = self.interfaces.reach(self.listening);
        Ok(Response::new(wire::AnnounceReply {
            reached,
            coordinator_addresses: reach.iter().map(ToString::to_string).collect(),
            unix_seconds: unix_seconds(SystemTime::now()),
        }))
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewReply>, Status> {
        let peer = worker(&request)?;
        let public_key = &request.get_ref().public_key;
        if node_id(public_key) != peer.id.node {
            return Err(Status::permission_denied(
                "a certificate is renewed for the key that asks, and for no other",
            ));
        }
        let authority = self.cluster.authority();
        let issued = authority
            .issue(Role::Worker, public_key, self.cluster.lifetime())
            .map_err(|err| Status::internal(err.to_string()))?;
        tracing::info!(node = %peer.id.node, "a certificate was renewed");
        Ok(Response::new(wire::RenewReply {
            issued: Some(issued_to_wire(&issued)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_tried_once_at_a_time() {
        let trying = Trying::default();
        let (ann, bob) = (NodeId([1; 16]), NodeId([2; 16]));
        let first = trying.begin(ann);
        assert!(first.is_some());
        assert!(trying.begin(ann).is_none());
        assert!(trying.begin(ann).is_none(), "a refusal changes nothing");
        assert!(trying.begin(bob).is_some());
        drop(first);
        assert!(trying.begin(ann).is_some());
    }
}
