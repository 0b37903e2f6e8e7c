//! Taking a span: check it, fetch what is missing, load, connect to the next stage. Progress goes to the coordinator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use potluck_gguf::{MetadataBuf, ModelShape, OwnedValue, ValueType};
use potluck_link::{Expect, PeerId, Target};
use potluck_proto::{ClusterId, Fence, KvCacheType, Manifest, MetadataValue, Step, limits, wire};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::forward;
use super::service::{Plan, Shared, invalid};
use crate::compute::{Command, LoadJob, Outlet, StepsTo};
use crate::load::{LoadError, WeightStorage};
use crate::memory::{MemoryUse, StageLimits};
use crate::stage::{Fault, RunFault, StageConfig};
use crate::weights::{CachedSource, Damage, Report, fetch_missing};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Steps and results that may wait for their connection.
const QUEUED_STEPS: usize = 16;

/// How often a load is begun again because a tensor in the cache was damaged.
const MAX_ATTEMPTS: usize = 3;

/// A validated request to load.
pub(super) struct Request {
    pub fence: Fence,
    manifest: Manifest,
    config: StageConfig,
    next: Option<Target>,
    previous: PeerId,
    sources: Vec<Target>,
}

impl Request {
    /// `own` is the cluster that this worker belongs to, `weights` how it keeps them.
    pub fn from_wire(
        own: ClusterId,
        weights: WeightStorage,
        mut request: wire::LoadRequest,
    ) -> Result<Request, Status> {
        let fence = Fence::try_from(&request.fence).map_err(invalid)?;
        let manifest = request
            .manifest
            .take()
            .ok_or_else(|| Status::invalid_argument("a load without a manifest"))?;
        let manifest = Manifest::from_wire(manifest).map_err(invalid)?;
        let shape = shape_of(&manifest)?;
        let config = StageConfig {
            shape,
            span: request.layer_from..request.layer_to,
            limits: stage_limits(&request)?,
            kv_cache: KvCacheType::from_wire(request.kv_cache_type).map_err(invalid)?,
            weights,
        };
        config
            .check_span()
            .map_err(|err| Status::invalid_argument(err.to_string()))?;
        let (asked, trained) = (request.context_tokens, config.shape.context_length);
        if asked > trained {
            return Err(Status::invalid_argument(format!(
                "context_tokens is {asked}, the model was trained for {trained}"
            )));
        }
        let target = |peer: &wire::Peer| Target::from_wire(own, peer).map_err(invalid);
        let next = request.next.as_ref().map(target).transpose()?;
        if next.is_none() != config.is_last() {
            return Err(Status::invalid_argument(
                "the last stage, and only it, has no next one",
            ));
        }
        if request.sources.len() > limits::MAX_SOURCES {
            return Err(Status::invalid_argument("too many sources of weights"));
        }
        let previous = (request.previous.as_ref())
            .ok_or_else(|| Status::invalid_argument("a load without its `previous`"))?;
        let previous = match target(previous)?.expect {
            Expect::Node(peer) => peer,
            Expect::Any(_) => return Err(Status::internal("a named node is one node")),
        };
        Ok(Request {
            fence,
            manifest,
            config,
            next,
            previous,
            sources: request
                .sources
                .iter()
                .map(target)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn stage_limits(request: &wire::LoadRequest) -> Result<StageLimits, Status> {
    let within = |name: &str, value: u32, limit: usize| match value as usize {
        value if (1..=limit).contains(&value) => Ok(value),
        value => Err(Status::invalid_argument(format!(
            "{name} is {value}, it must be 1 to {limit}"
        ))),
    };
    Ok(StageLimits {
        context_tokens: within(
            "context_tokens",
            request.context_tokens,
            limits::MAX_POSITIONS as usize,
        )?,
        max_sequences: within(
            "max_sequences",
            request.max_sequences,
            limits::MAX_STEP_RUNS,
        )?,
        max_step_tokens: within(
            "max_step_tokens",
            request.max_step_tokens,
            limits::MAX_STEP_TOKENS,
        )?,
        memory_budget_bytes: None,
    })
}

fn shape_of(manifest: &Manifest) -> Result<ModelShape, Status> {
    let pairs = manifest
        .metadata
        .iter()
        .map(|(key, value)| Ok((key.clone(), owned_value(value)?)));
    let pairs = pairs.collect::<Result<Vec<_>, Status>>()?;
    let bad = |err: potluck_gguf::GgufError| Status::invalid_argument(err.to_string());
    let metadata = MetadataBuf::from_pairs(pairs).map_err(bad)?;
    ModelShape::from_metadata(&metadata.view()).map_err(bad)
}

fn owned_value(value: &MetadataValue) -> Result<OwnedValue, Status> {
    Ok(match value {
        MetadataValue::Uint(v) => OwnedValue::U64(*v),
        MetadataValue::Int(v) => OwnedValue::I64(*v),
        MetadataValue::F32(v) => OwnedValue::F32(*v),
        MetadataValue::F64(v) => OwnedValue::F64(*v),
        MetadataValue::Bool(v) => OwnedValue::Bool(*v),
        MetadataValue::Text(v) => OwnedValue::Str(v.clone()),
        MetadataValue::Array { element, len, data } => OwnedValue::Array {
            element: ValueType::from_id(*element)
                .ok_or_else(|| Status::invalid_argument(format!("{element} is no value type")))?,
            len: *len,
            bytes: data.to_vec(),
        },
    })
}

type ProgressSender = mpsc::Sender<Result<wire::LoadProgress, Status>>;

/// Loads, telling `progress`, and makes the plan current. A coordinator that goes away meanwhile ends it.
pub(super) async fn run(shared: Arc<Shared>, request: Request, progress: ProgressSender) {
    let gone = progress.clone();
    let result = tokio::select! {
        result = load(&shared, request, &progress) => result,
        () = gone.closed() => return,
    };
    let last = result.map(|ready| wire::LoadProgress {
        stage: Some(wire::load_progress::Stage::Ready(ready)),
    });
    if let Err(status) = &last {
        tracing::warn!(why = status.message(), "a span could not be loaded");
    }
    let _ = progress.send(last).await;
}

async fn load(
    shared: &Arc<Shared>,
    mut request: Request,
    progress: &ProgressSender,
) -> Result<wire::Ready, Status> {
    let start = Instant::now();
    // The plan before ends here. Its weights go with the next load, or stay if that wants the same ones.
    shared.clear_plan();
    request.config.limits.memory_budget_bytes = Some(shared.memory_budget_bytes());
    check_memory(shared, &request)?;
    // The budget has been checked; a plan with equal limits can share the loaded stage.
    request.config.limits.memory_budget_bytes = None;
    let mut moved = Report::default();
    for attempt in 1.. {
        fetch(shared, &request, progress, &mut moved).await?;
        match load_stage(shared, &request, progress).await? {
            Ok(memory) => {
                let load_ms = start.elapsed().as_millis() as u64;
                tracing::info!(plan = %request.fence, from = request.config.span.start, to = request.config.span.end,
                    fetched_bytes = moved.fetched_bytes(), cached_bytes = moved.cached_bytes, load_ms, "span loaded");
                return Ok(ready(memory, &moved, load_ms));
            }
            Err(LoadError::Corrupt { name, .. }) if attempt < MAX_ATTEMPTS => {
                tracing::warn!(
                    tensor = name,
                    "a cached tensor was damaged, fetching it again"
                );
            }
            Err(err) => {
                return Err(Status::failed_precondition(err.to_string()));
            }
        }
    }
    Err(Status::internal("unreachable: the loop returns"))
}

fn ready(memory: MemoryUse, moved: &Report, load_ms: u64) -> wire::Ready {
    let sent = moved.sent.iter().map(|(node, n_bytes)| wire::Sent {
        node_id: node.0.to_vec().into(),
        n_bytes: *n_bytes,
    });
    wire::Ready {
        memory: Some(wire::MemoryUse {
            weights_bytes: memory.weights_bytes,
            kv_bytes: memory.kv_bytes,
            scratch_bytes: memory.scratch_bytes,
        }),
        fetched_bytes: moved.fetched_bytes(),
        cached_bytes: moved.cached_bytes,
        load_ms,
        sent: sent.collect(),
    }
}

fn check_memory(shared: &Shared, request: &Request) -> Result<(), Status> {
    let source = CachedSource::new(shared.cache.clone(), &request.manifest);
    let refuse = |err: LoadError| Status::failed_precondition(err.to_string());
    let memory = request.config.memory(&source, shared.compute.kernels);
    let memory = memory.map_err(refuse)?;
    memory
        .check(&request.config.limits)
        .map_err(|err| Status::resource_exhausted(err.to_string()))
}

/// Tells `message(done)` while `work` runs.
async fn with_progress<T>(
    work: impl Future<Output = T>,
    progress: &ProgressSender,
    done: &AtomicU64,
    message: impl Fn(u64) -> wire::load_progress::Stage,
) -> T {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = ticks.tick() => {
                let stage = message(done.load(Ordering::Relaxed));
                // A reader that lags only misses some of the progress.
                let _ = progress.try_send(Ok(wire::LoadProgress { stage: Some(stage) }));
            }
        }
    }
}

async fn fetch(
    shared: &Shared,
    request: &Request,
    progress: &ProgressSender,
    moved: &mut Report,
) -> Result<(), Status> {
    let done = AtomicU64::new(0);
    let total_bytes = request.manifest.n_bytes();
    let n_damaged = moved.damaged.len();
    let work = fetch_missing(
        &shared.link,
        &shared.cache,
        &request.manifest,
        &request.sources,
        &done,
        moved,
    );
    let fetched = with_progress(work, progress, &done, |done_bytes| {
        wire::load_progress::Stage::Fetching(wire::Fetching {
            // What arrives damaged is fetched twice.
            done_bytes: done_bytes.min(total_bytes),
            total_bytes,
        })
    });
    let fetched = fetched.await;
    for damage in &moved.damaged[n_damaged..] {
        tell_of_damage(damage, progress).await;
    }
    fetched.map_err(|err| Status::unavailable(err.to_string()))
}

async fn tell_of_damage(damage: &Damage, progress: &ProgressSender) {
    let stage = wire::load_progress::Stage::WeightsDamaged(wire::WeightsDamaged {
        tensor: damage.tensor.clone(),
        node_id: damage.source.0.to_vec().into(),
    });
    // Without a reader the load is ending.
    let _ = progress
        .send(Ok(wire::LoadProgress { stage: Some(stage) }))
        .await;
}

/// Hands the job to the compute thread and makes the plan current.
async fn load_stage(
    shared: &Arc<Shared>,
    request: &Request,
    progress: &ProgressSender,
) -> Result<Result<MemoryUse, LoadError>, Status> {
    let fence = request.fence;
    let (steps, results) = open_outlet(shared, request).await?;
    let (faults, faults_inbox) = mpsc::channel(QUEUED_STEPS);
    tokio::spawn(report_faults(Arc::clone(shared), fence, faults_inbox));
    let (reply, answer) = oneshot::channel();
    let done = Arc::new(AtomicU64::new(0));
    let job = LoadJob {
        fence,
        model: request.manifest.model_hash,
        config: request.config.clone(),
        source: CachedSource::new(shared.cache.clone(), &request.manifest),
        outlet: Outlet { steps, faults },
        progress: Arc::clone(&done),
        reply,
    };
    let stopped = |_| Status::internal("loading broke down; the worker's log says more");
    let sent = shared
        .compute
        .commands
        .send(Command::Load(Box::new(job)))
        .await;
    sent.map_err(|_| Status::internal("the compute thread has stopped"))?;
    let total_bytes = request.manifest.n_bytes();
    let answer = with_progress(answer, progress, &done, |done_bytes| {
        wire::load_progress::Stage::Loading(wire::Loading {
            done_bytes,
            total_bytes,
        })
    });
    let result = answer.await.map_err(stopped)?;
    if result.is_ok() {
        let bytes_per_token = match request.config.is_first() {
            true => 0,
            false => 4 * request.config.shape.d_model as usize,
        };
        let max_step_tokens = request.config.limits.max_step_tokens;
        shared.begin_plan(Plan::new(
            fence,
            request.previous,
            bytes_per_token,
            max_step_tokens,
            results,
        ))?;
    }
    Ok(result)
}

type ResultsReceiver = mpsc::Receiver<potluck_proto::StepResult>;

/// The way out of this stage: a connection to the next one, or a queue that the coordinator reads.
async fn open_outlet(
    shared: &Arc<Shared>,
    request: &Request,
) -> Result<(StepsTo, Option<ResultsReceiver>), Status> {
    let Some(next) = &request.next else {
        let (sender, results) = mpsc::channel(QUEUED_STEPS);
        return Ok((StepsTo::Coordinator(sender), Some(results)));
    };
    let (client, address) = forward::connect(&shared.link, next)
        .await
        .map_err(|err| Status::unavailable(format!("the next stage cannot be reached: {err}")))?;
    let (sender, outbox) = mpsc::channel(QUEUED_STEPS);
    tokio::spawn(forward::run(
        Arc::clone(shared),
        request.fence,
        address,
        client,
        outbox,
    ));
    Ok((StepsTo::Next(sender), None))
}

async fn report_faults(
    shared: Arc<Shared>,
    fence: Fence,
    mut inbox: mpsc::Receiver<(Step, RunFault)>,
) {
    while let Some((step, fault)) = inbox.recv().await {
        let kind = match fault.fault {
            Fault::Gap => wire::Fault::Gap,
            Fault::KvFull => wire::Fault::KvFull,
            Fault::NotFinite => wire::Fault::NotFinite,
            Fault::Invalid => wire::Fault::Invalid,
        };
        let event = wire::RunFault {
            seq: fault.seq.0,
            step_id: step.id.0,
            fault: kind.into(),
            kv_len: fault.kv_len,
            message: fault.why,
        };
        shared.report(fence, wire::control_event::Event::RunFault(event));
    }
}
