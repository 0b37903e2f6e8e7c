//! The machines: found, described, watched, given their layers, joined to a ring.
//!
//! One task, the supervisor, owns all of it: `supervisor.rs` waits for one event at a time and applies it at once. What
//! takes time (connecting, planning, loading) runs in tasks of its own that report back as events, tagged with the plan
//! they belong to. It must not know text or sequences: steps pass through it as they are.
//!
//! Read `membership.rs` (who is there), then `supervisor.rs`; `ring.rs` is the pair of streams that carries steps.

mod desk;
mod doorman;
mod event;
mod identity;
mod invites;
mod load;
mod member;
mod members;
mod membership;
mod node_info;
mod ring;
mod supervisor;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use potluck_link::credential::Credential;
use potluck_link::mdns::{Advertisement, MdnsError, discover};
use potluck_link::weights::WeightsService;
use potluck_link::{Interfaces, grpc_server, link_listener};
use potluck_proto::advert::Advert;
use potluck_proto::wire::cluster_server::ClusterServer;
use potluck_proto::{Epoch, InstanceId, KvCacheType, NodeId};
use tokio::sync::{broadcast, mpsc, watch};

use crate::engine::{self, EngineHandle};
use crate::http::{ClusterState, StatusReport};
use crate::store::{Model, ModelTensors};
use desk::Desk;
use doorman::Doorman;
use supervisor::Supervisor;

pub use event::ClusterEvent;
pub use identity::{CoordinatorLock, IdentityError, OwnCluster};
pub use invites::{Invites, InvitesError};
pub use member::{DescribeError, describe};
pub use members::{Member, Members, MembersError};
pub use membership::candidates;

/// Steps between the engine and the ring: more than are ever under way.
const QUEUED_STEPS: usize = 2 * potluck_proto::limits::MAX_STAGES;

/// Events that a slow reader may lag behind before it loses some.
const QUEUED_EVENTS: usize = 256;

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Who it is.
    pub cluster: OwnCluster,
    /// How often it has started.
    pub epoch: Epoch,
    /// Workers in this process, which are on no list.
    pub local_workers: Vec<NodeId>,
    /// Where workers reach the coordinator.
    pub listen: SocketAddr,
    /// Interfaces that lead to others.
    pub interfaces: Interfaces,
    /// Find and be found by mDNS.
    pub use_mdns: bool,
    /// `host:port` of workers named by the user.
    pub join: Vec<String>,
    /// How many workers a plan needs.
    pub workers: WorkerCount,
    /// Positions that a sequence may have.
    pub context_tokens: u32,
    /// Sequences computed at once.
    pub max_sequences: u32,
    /// Tokens in one step.
    pub max_step_tokens: u32,
    /// How keys and values are stored.
    pub kv_cache: KvCacheType,
}

/// How many workers a plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCount {
    /// All that are there, once there are that many.
    AtLeast(usize),
    /// Exactly that many, each with layers of its own.
    Exactly(usize),
}

impl WorkerCount {
    fn needed(self) -> usize {
        match self {
            WorkerCount::AtLeast(n) | WorkerCount::Exactly(n) => n.max(1),
        }
    }
}

/// A cluster that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// mDNS does not work.
    #[error(transparent)]
    Mdns(#[from] MdnsError),
    /// The port for the workers cannot be had.
    #[error(
        "the coordinator cannot listen for workers on {address}: {source}; is another coordinator using the port? Choose another with --node-listen"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running cluster. Dropping it ends the ring; workers keep running.
pub struct Cluster {
    /// Computes answers.
    pub engine: EngineHandle,
    /// The latest state.
    pub status: watch::Receiver<StatusReport>,
    /// Where workers reach it.
    pub addresses: Vec<SocketAddr>,
    events: broadcast::Sender<ClusterEvent>,
    /// Dropped to stop the supervisor.
    _running: mpsc::Sender<()>,
    /// Withdrawn when dropped.
    _advertisement: Option<Advertisement>,
    /// Serves other nodes until this is dropped.
    _serving: tokio::task::JoinSet<()>,
}

impl Cluster {
    /// Starts looking for workers. Everything else happens by itself and is told by events.
    pub async fn start(config: ClusterConfig, model: Arc<Model>) -> Result<Cluster, ClusterError> {
        let discovery = match config.use_mdns {
            true => {
                let own = config.cluster.id().prefix();
                let is_ours =
                    move |advert: &Advert| !advert.is_coordinator && advert.cluster == own;
                Some(discover(&config.interfaces, is_ours)?)
            }
            false => None,
        };
        let listen_error = |source| ClusterError::Listen {
            address: config.listen,
            source,
        };
        let listener = link_listener(config.listen).map_err(listen_error)?;
        let listening = listener.local_addr().map_err(listen_error)?;
        let advertisement = advertise(&config, listening)?;
        let addresses = config.interfaces.reach(listening);
        let (hint_sender, hints) = mpsc::channel(QUEUED_EVENTS);
        let (news, joined) = mpsc::channel(QUEUED_EVENTS);
        let mut serving = tokio::task::JoinSet::new();
        let (incoming, joins) = config.cluster.link.accept_and_invite(listener);
        let desk = Desk {
            cluster: config.cluster.clone(),
            interfaces: config.interfaces.clone(),
            listening,
            hints: hint_sender,
            trying: desk::Trying::default(),
        };
        let doorman = Doorman {
            cluster: config.cluster.clone(),
            interfaces: config.interfaces.clone(),
            listening,
            news,
        };
        serving.spawn(serve_nodes(Arc::clone(&model), desk, incoming));
        serving.spawn(doorman.run(joins));
        let own = config.cluster.link.credential().clone();
        serving.spawn(keep_renewed(config.cluster.clone(), own));
        let (ring_events, engine_inbox) = mpsc::channel(QUEUED_STEPS);
        let (steps_sender, steps) = mpsc::channel(QUEUED_STEPS);
        let engine = engine::spawn(engine_inbox, steps_sender);
        let (status, status_receiver) = watch::channel(first_report(&model));
        let (events, _) = broadcast::channel(QUEUED_EVENTS);
        let (running, stop) = mpsc::channel(1);
        let supervisor = Supervisor::new(
            config,
            model,
            addresses.iter().map(ToString::to_string).collect(),
            supervisor::Links {
                engine: engine.watch_status(),
                ring_events,
                steps,
                status,
                events: events.clone(),
                discovery,
                hints,
                joined,
            },
        );
        tokio::spawn(supervisor.run(stop));
        Ok(Cluster {
            engine,
            status: status_receiver,
            addresses,
            events,
            _running: running,
            _advertisement: advertisement,
            _serving: serving,
        })
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<ClusterEvent> {
        self.events.subscribe()
    }
}

fn first_report(model: &Model) -> StatusReport {
    StatusReport {
        state: ClusterState::Starting,
        why: Some("looking for workers".into()),
        model: model.name().to_owned(),
        workers: Vec::new(),
        stages: Vec::new(),
        running: 0,
        waiting: 0,
    }
}

fn advertise(
    config: &ClusterConfig,
    listening: SocketAddr,
) -> Result<Option<Advertisement>, MdnsError> {
    if !config.use_mdns {
        return Ok(None);
    }
    let own = config.cluster.link.id();
    let advert = Advert::new(own.cluster, own.node, InstanceId::random(), true);
    Advertisement::publish(&config.interfaces, listening, &advert).map(Some)
}

/// Serves tensors, and what belongs to the membership, on a port of its own: bulk never delays steps.
async fn serve_nodes(model: Arc<Model>, desk: Desk, incoming: potluck_link::Incoming) {
    let served = grpc_server()
        .add_service(WeightsService::server(ModelTensors::new([model])))
        .add_service(ClusterServer::new(desk))
        .serve_with_incoming(incoming)
        .await;
    if let Err(err) = served {
        tracing::error!(%err, "the coordinator does not serve its workers any more");
    }
}

/// Renews the certificate of a node in this process, for ever.
pub async fn keep_renewed(cluster: OwnCluster, credential: Credential) {
    /// Waking up now and then also notices a machine that has slept.
    const LOOK_INTERVAL: Duration = Duration::from_secs(3600);
    const RETRY: Duration = Duration::from_secs(5);
    loop {
        let due = credential.renew_in(SystemTime::now());
        tokio::time::sleep(due.min(LOOK_INTERVAL)).await;
        if !credential.renew_in(SystemTime::now()).is_zero() {
            continue;
        }
        match cluster.renew(&credential) {
            Ok(()) => tracing::info!(node = %credential.id(), "the certificate was renewed"),
            Err(error) => {
                tracing::error!(%error, "the certificate could not be renewed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
