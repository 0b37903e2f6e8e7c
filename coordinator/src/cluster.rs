//! The machines: found, described, watched, given their layers, joined to a ring.
//!
//! One task, the supervisor, owns all of it: `supervisor.rs` waits for one event at a time and applies it at once. What
//! takes time (connecting, planning, loading) runs in tasks of its own that report back as events, tagged with the plan
//! they belong to. It must not know text or sequences: steps pass through it as they are.
//!
//! Read `membership.rs` (who is there), then `supervisor.rs`; `ring.rs` is the pair of streams that carries steps.

mod discovery;
mod event;
mod identity;
mod load;
mod member;
mod membership;
mod ring;
mod supervisor;

use std::net::SocketAddr;
use std::sync::Arc;

use potluck_proto::link;
use potluck_proto::reach::{NotLoopback, require_loopback};
use potluck_proto::wire::weights_server::WeightsServer;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};

use crate::engine::{self, EngineHandle};
use crate::http::{ClusterState, StatusReport};
use crate::store::{Model, WeightsService};
use supervisor::Supervisor;

pub use discovery::{Discovery, DiscoveryError, Found, discover};
pub use event::ClusterEvent;
pub use identity::{Identity, IdentityError, IdentityLock};
pub use member::{DescribeError, describe};
pub use membership::candidates;

/// Steps between the engine and the ring: more than are ever under way.
const QUEUED_STEPS: usize = 2 * potluck_proto::limits::MAX_STAGES;

/// Events that a slow reader may lag behind before it loses some.
const QUEUED_EVENTS: usize = 256;

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Who it is and how often it has started.
    pub identity: Identity,
    /// Name that workers must share.
    pub name: String,
    /// Look for workers by mDNS.
    pub discover: bool,
    /// Workers named by the user.
    pub join: Vec<SocketAddr>,
    /// How many workers a plan needs.
    pub workers: WorkerCount,
    /// Positions that a sequence may have.
    pub context_tokens: u32,
    /// Sequences computed at once.
    pub max_sequences: u32,
    /// Tokens in one step.
    pub max_step_tokens: u32,
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
    /// A worker was named that is not on this machine.
    #[error(transparent)]
    NotLoopback(#[from] NotLoopback),
    /// mDNS does not work.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The port for weights cannot be had.
    #[error("no port for serving weights to workers: {0}")]
    Listen(#[from] std::io::Error),
}

/// A running cluster. Dropping it ends the ring; workers keep running.
#[derive(Debug)]
pub struct Cluster {
    /// Computes answers.
    pub engine: EngineHandle,
    /// The latest state.
    pub status: watch::Receiver<StatusReport>,
    events: broadcast::Sender<ClusterEvent>,
    /// Dropped to stop the supervisor.
    _running: mpsc::Sender<()>,
}

impl Cluster {
    /// Starts looking for workers. Everything else happens by itself and is told by events.
    pub async fn start(config: ClusterConfig, model: Arc<Model>) -> Result<Cluster, ClusterError> {
        for address in &config.join {
            require_loopback("the worker to join", address.ip())?;
        }
        let discovery = match config.discover {
            true => Some(discover(&config.name)?),
            false => None,
        };
        let weights_source = serve_weights(Arc::clone(&model)).await?;
        let (ring_events, engine_inbox) = mpsc::channel(QUEUED_STEPS);
        let (steps_sender, steps) = mpsc::channel(QUEUED_STEPS);
        let engine = engine::spawn(engine_inbox, steps_sender);
        let (status, status_receiver) = watch::channel(first_report(&model));
        let (events, _) = broadcast::channel(QUEUED_EVENTS);
        let (running, stop) = mpsc::channel(1);
        let supervisor = Supervisor::new(
            config,
            model,
            weights_source,
            supervisor::Links {
                engine: engine.watch_status(),
                ring_events,
                steps,
                status,
                events: events.clone(),
                discovery,
            },
        );
        tokio::spawn(supervisor.run(stop));
        Ok(Cluster {
            engine,
            status: status_receiver,
            events,
            _running: running,
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

/// Serves the model's tensors to workers on a loopback port of its own: bulk never delays steps.
async fn serve_weights(model: Arc<Model>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let service = WeightsServer::new(WeightsService::new([model]));
    tokio::spawn(async move {
        let served = link::server()
            .add_service(service)
            .serve_with_incoming(link::incoming(listener))
            .await;
        if let Err(err) = served {
            tracing::error!(%err, "the weights server stopped");
        }
    });
    Ok(address)
}
