//! Making a plan true: ask the workers again what they have, place the layers, and have every stage load its own.

use std::sync::Arc;
use std::time::Duration;

use potluck_link::words::shown;
use potluck_proto::wire::worker_client::WorkerClient;
use potluck_proto::{Fence, NodeId, PROTOCOL, wire};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::member::{DESCRIBE_TIMEOUT, Described};
use super::membership::candidates;
use super::node_info::believed;
use super::{ClusterConfig, WorkerCount};
use crate::planner::{Plan, PlanRequest, StagePlan, plan};
use crate::store::Model;

/// Silence after which a load has failed. A worker tells its progress ten times a second; only connecting to the next stage takes
/// it some seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// News of planning and loading.
#[derive(Debug)]
pub(super) enum LoadEvent {
    /// Layers were placed, on workers that said this of themselves.
    Planned {
        plan: Plan,
        infos: Vec<(NodeId, wire::NodeInfo)>,
    },
    /// They cannot be placed.
    NoPlan { why: String },
    /// A stage is at work.
    Progress {
        stage: usize,
        progress: wire::LoadProgress,
    },
    /// A stage cannot load.
    Failed { stage: usize, why: String },
}

/// Plans over the workers given. `events` get the plan's number with each event.
pub(super) async fn make_plan(
    config: ClusterConfig,
    model: Arc<Model>,
    workers: Vec<Described>,
    plan_gen: u64,
    events: mpsc::Sender<(u64, LoadEvent)>,
) {
    let infos = describe_again(&workers).await;
    let seen = workers
        .iter()
        .zip(&infos)
        .map(|(worker, (_, info))| (worker.node, worker.address, info));
    let request = PlanRequest {
        model: model.cost(config.kv_cache),
        context_tokens: config.context_tokens,
        max_sequences: config.max_sequences,
        max_step_tokens: config.max_step_tokens,
        workers: candidates(seen),
        n_stages: match config.workers {
            WorkerCount::Exactly(n) => Some(n),
            WorkerCount::AtLeast(_) => None,
        },
    };
    // Placing layers over many workers takes longer than the async threads may be held.
    let planned = tokio::task::spawn_blocking(move || plan(&request)).await;
    let event = match planned {
        Ok(Ok(mut plan)) => {
            plan.explanation.extend(different_arithmetic(&infos));
            LoadEvent::Planned { plan, infos }
        }
        Ok(Err(err)) => LoadEvent::NoPlan {
            why: err.to_string(),
        },
        Err(join_error) => std::panic::resume_unwind(join_error.into_panic()),
    };
    let _ = events.send((plan_gen, event)).await;
}

/// Builds of different arithmetic may give different tokens when layers move; whoever reads the plan should know.
fn different_arithmetic(infos: &[(NodeId, wire::NodeInfo)]) -> Option<String> {
    let first = &infos.first()?.1;
    let other = infos
        .iter()
        .find(|(_, info)| info.arithmetic != first.arithmetic)?;
    Some(format!(
        "{} and {} run versions of potluck whose arithmetic differs ({} and {}): the same question may get another answer \
         when layers move; update the older one.",
        first.name, other.1.name, first.version, other.1.version
    ))
}

/// Memory changes while a cluster waits, so workers are asked again; one that does not answer is about to be lost.
async fn describe_again(workers: &[Described]) -> Vec<(NodeId, wire::NodeInfo)> {
    let mut infos = Vec::with_capacity(workers.len());
    for worker in workers {
        let mut client = worker.client.clone();
        let asked = client.describe(wire::DescribeRequest { protocol: PROTOCOL });
        let answer = tokio::time::timeout(DESCRIBE_TIMEOUT, asked).await;
        let info = match answer {
            Ok(Ok(info)) => believed(info.into_inner()).ok(),
            Ok(Err(_)) | Err(_) => None,
        };
        infos.push((worker.node, info.unwrap_or_else(|| worker.info.clone())));
    }
    infos
}

/// One stage's part of a plan.
pub(super) struct StageLoad {
    pub index: usize,
    pub stage: StagePlan,
    pub next: Option<wire::Peer>,
    pub previous: wire::Peer,
    pub fence: Fence,
    pub client: WorkerClient<Channel>,
    pub sources: Vec<wire::Peer>,
}

/// Has one stage load its layers, passing its progress on.
pub(super) async fn load_stage(
    config: ClusterConfig,
    model: Arc<Model>,
    mut load: StageLoad,
    events: mpsc::Sender<(u64, LoadEvent)>,
) {
    let (stage, plan_gen) = (load.index, load.fence.plan_gen.0);
    let failed = async |why: String| {
        let _ = events
            .send((plan_gen, LoadEvent::Failed { stage, why }))
            .await;
    };
    let request = match request(&config, &model, &load) {
        Ok(request) => request,
        Err(why) => return failed(why).await,
    };
    let mut progress = match load.client.load(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(shown(status.message())).await,
    };
    loop {
        let Ok(message) = tokio::time::timeout(SILENCE_LIMIT, progress.message()).await else {
            let seconds = SILENCE_LIMIT.as_secs();
            return failed(format!("it has said nothing of it for {seconds} s")).await;
        };
        match message {
            Ok(Some(progress)) => {
                let is_ready = matches!(progress.stage, Some(wire::load_progress::Stage::Ready(_)));
                let sent = events
                    .send((plan_gen, LoadEvent::Progress { stage, progress }))
                    .await;
                if is_ready || sent.is_err() {
                    return;
                }
            }
            Ok(None) => return failed("the worker stopped loading without a word".into()).await,
            Err(status) => return failed(shown(status.message())).await,
        }
    }
}

fn request(
    config: &ClusterConfig,
    model: &Model,
    load: &StageLoad,
) -> Result<wire::LoadRequest, String> {
    let manifest = model
        .manifest_for(load.stage.layers.clone())
        .map_err(|err| err.to_string())?;
    Ok(wire::LoadRequest {
        fence: Some(load.fence.into()),
        manifest: Some(manifest.to_wire()),
        layer_from: load.stage.layers.start,
        layer_to: load.stage.layers.end,
        context_tokens: config.context_tokens,
        max_sequences: config.max_sequences,
        max_step_tokens: config.max_step_tokens,
        next: load.next.clone(),
        previous: Some(load.previous.clone()),
        sources: load.sources.clone(),
        kv_cache_type: config.kv_cache.to_wire(),
    })
}
