//! A cluster for a command: started, watched until it is ready.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use potluck_coordinator::cluster::{Cluster, ClusterConfig, ClusterEvent, OwnCluster, WorkerCount};
use potluck_coordinator::planner::Plan;
use potluck_coordinator::store::Model;
use potluck_proto::{Epoch, KvCacheType};
use tokio::sync::broadcast::error::RecvError;

use super::progress::{Bars, ClusterBars};
use crate::flags::NetworkFlags;
use crate::setup::local_worker::Inside;

/// Tokens in one step: a prompt flows in chunks of at most this many.
pub const MAX_STEP_TOKENS: u32 = 512;

/// What a command wants of its cluster.
pub struct Wanted {
    pub cluster: OwnCluster,
    pub epoch: Epoch,
    /// Where it listens for its nodes.
    pub listen: SocketAddr,
    pub workers: WorkerCount,
    pub inside: Option<Inside>,
    pub join: Vec<String>,
    pub context_tokens: u32,
    pub max_sequences: u32,
    pub kv_cache: KvCacheType,
}

/// Starts looking for workers.
pub async fn start(
    wanted: Wanted,
    network: &NetworkFlags,
    model: &Arc<Model>,
) -> anyhow::Result<Cluster> {
    let mut join = wanted.join;
    join.extend(wanted.inside.iter().map(|inside| inside.address.clone()));
    let config = ClusterConfig {
        cluster: wanted.cluster,
        epoch: wanted.epoch,
        local_workers: wanted.inside.iter().map(|inside| inside.node).collect(),
        listen: wanted.listen,
        interfaces: network.interfaces()?,
        use_mdns: !network.no_mdns,
        join,
        workers: wanted.workers,
        context_tokens: wanted.context_tokens,
        max_sequences: wanted.max_sequences,
        max_step_tokens: MAX_STEP_TOKENS,
        kv_cache: wanted.kv_cache,
    };
    Ok(Cluster::start(config, Arc::clone(model)).await?)
}

/// What a worker moved to hold its layers.
#[derive(Clone)]
pub struct LoadedStage {
    pub name: String,
    pub fetched_bytes: u64,
    pub cached_bytes: u64,
}

/// A cluster that answers.
pub struct Ready {
    pub plan: Plan,
    pub loaded: Vec<LoadedStage>,
    pub ring_us: u64,
}

/// Waits until the cluster is ready, showing how it gets there. Something that will not heal by itself ends the wait.
pub async fn until_ready(cluster: &Cluster, bars: &Bars) -> anyhow::Result<Ready> {
    let mut events = cluster.events();
    let mut cluster_bars = ClusterBars::new(bars);
    let (mut plan, mut loaded) = (None, Vec::new());
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            // Only progress can be that frequent, and the next one replaces it.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => bail!("the coordinator stopped"),
        };
        cluster_bars.show(&event);
        match event {
            ClusterEvent::Planned(new) => {
                loaded.clear();
                plan = Some(new);
            }
            ClusterEvent::Loaded {
                name,
                fetched_bytes,
                cached_bytes,
                ..
            } => {
                loaded.push(LoadedStage {
                    name,
                    fetched_bytes,
                    cached_bytes,
                });
            }
            ClusterEvent::Ready { ring_us } => {
                let plan = plan.context("the cluster is ready without a plan")?;
                return Ok(Ready {
                    plan,
                    loaded,
                    ring_us,
                });
            }
            ClusterEvent::Down { why } => bail!("{why}"),
            _ => {}
        }
    }
}
