//! The compute thread: the one owner of a stage's weights and KV cache.
//!
//! It takes commands in order and does nothing else, so nothing on the path of a token is locked. Everything slow happens
//! here or in the thread pool, never on the async runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use potluck_kernels::{Kernels, Pool};
use potluck_proto::{Arrived, Fence, Step, StepResult};
use tokio::sync::{mpsc, oneshot};

use crate::load::LoadError;
use crate::memory::MemoryUse;
use crate::stage::{RunFault, Stage, StageConfig};
use crate::weights::CachedSource;

/// Steps that may wait for the compute thread: the ones in flight round the ring, no more.
const QUEUE_STEPS: usize = 8;

/// What the compute thread is asked.
pub(crate) enum Command {
    /// Take this plan. Weights that are held already are not read again.
    Load(Box<LoadJob>),
    /// Compute a step of the current plan.
    Step(Arrived),
    /// Forget every sequence.
    Reset,
    /// Drop the stage and its memory.
    Unload,
}

/// A stage to be loaded, and where its output goes.
pub(crate) struct LoadJob {
    pub fence: Fence,
    /// Names the weights: two jobs with the same key can share a loaded stage.
    pub model: potluck_proto::ContentHash,
    pub config: StageConfig,
    pub source: CachedSource,
    pub outlet: Outlet,
    /// Told the packed bytes so far.
    pub progress: Arc<AtomicU64>,
    pub reply: oneshot::Sender<Result<MemoryUse, LoadError>>,
}

/// Where a stage's output goes.
pub(crate) struct Outlet {
    pub steps: StepsTo,
    /// Runs that could not be computed, for the coordinator.
    pub faults: mpsc::Sender<(Step, RunFault)>,
}

/// The way of a computed step.
pub(crate) enum StepsTo {
    /// Hidden states, to the next stage.
    Next(mpsc::Sender<(Step, Bytes)>),
    /// Tokens, to the coordinator.
    Coordinator(mpsc::Sender<StepResult>),
}

/// What the rest of the worker can see of the compute thread.
#[derive(Clone)]
pub(crate) struct Compute {
    pub commands: mpsc::Sender<Command>,
    pub layers_done: Arc<AtomicU64>,
    pub busy: Arc<AtomicBool>,
}

struct Loaded {
    fence: Fence,
    model: potluck_proto::ContentHash,
    stage: Stage,
    outlet: Outlet,
}

/// Starts the thread. It ends when the last `Compute` is dropped.
pub(crate) fn spawn(kernels: Kernels, n_threads: usize) -> std::io::Result<Compute> {
    let (commands, inbox) = mpsc::channel(QUEUE_STEPS);
    let compute = Compute {
        commands,
        layers_done: Arc::default(),
        busy: Arc::default(),
    };
    let (layers_done, busy) = (Arc::clone(&compute.layers_done), Arc::clone(&compute.busy));
    std::thread::Builder::new()
        .name("compute".into())
        .spawn(move || run(inbox, kernels, n_threads, &layers_done, &busy))?;
    Ok(compute)
}

fn run(
    mut inbox: mpsc::Receiver<Command>,
    kernels: Kernels,
    n_threads: usize,
    layers_done: &Arc<AtomicU64>,
    busy: &AtomicBool,
) {
    let mut loaded: Option<Loaded> = None;
    while let Some(command) = inbox.blocking_recv() {
        busy.store(true, Ordering::Relaxed);
        match command {
            Command::Load(job) => {
                loaded = load(*job, loaded.take(), kernels, n_threads, layers_done)
            }
            Command::Step(arrived) => {
                if let Some(loaded) = loaded
                    .as_mut()
                    .filter(|loaded| loaded.fence == arrived.fence)
                {
                    loaded.compute(arrived);
                }
            }
            Command::Reset => loaded.iter_mut().for_each(|loaded| loaded.stage.reset()),
            Command::Unload => loaded = None,
        }
        busy.store(false, Ordering::Relaxed);
    }
}

/// Loads the job's stage, or takes over the one that is there if it holds the same weights.
fn load(
    job: LoadJob,
    before: Option<Loaded>,
    kernels: Kernels,
    n_threads: usize,
    layers_done: &Arc<AtomicU64>,
) -> Option<Loaded> {
    let LoadJob {
        fence,
        model,
        config,
        source,
        outlet,
        progress,
        reply,
    } = job;
    let same = before.filter(|loaded| {
        let held = loaded.stage.config();
        loaded.model == model && held.span == config.span && held.limits == config.limits
    });
    let stage = match same {
        Some(mut loaded) => {
            loaded.stage.reset();
            Ok(loaded.stage)
        }
        None => {
            let mut report = |done: u64, _total: u64| progress.store(done, Ordering::Relaxed);
            Stage::load(
                config,
                &source,
                kernels,
                Pool::new(n_threads),
                Arc::clone(layers_done),
                &mut report,
            )
        }
    };
    match stage {
        Ok(stage) => {
            // The asker may be gone; then the plan is never used and the next load replaces it.
            let _ = reply.send(Ok(stage.memory()));
            Some(Loaded {
                fence,
                model,
                stage,
                outlet,
            })
        }
        Err(err) => {
            let _ = reply.send(Err(err));
            None
        }
    }
}

impl Loaded {
    /// Computes a step and passes it on. A receiver that is gone means that the plan has ended.
    fn compute(&mut self, arrived: Arrived) {
        let start = Instant::now();
        let mut step = arrived.step;
        let output = self.stage.step(&step, &f32_values(&arrived.payload));
        step.stage_us
            .push(start.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
        for fault in output.faults {
            let _ = self.outlet.faults.blocking_send((step.clone(), fault));
        }
        match &self.outlet.steps {
            StepsTo::Next(next) => {
                step.runs = output.runs;
                let _ = next.blocking_send((step, le_bytes(&output.hidden)));
            }
            StepsTo::Coordinator(results) => {
                let result = StepResult {
                    id: step.id,
                    runs: output.results,
                    stage_us: step.stage_us,
                };
                let _ = results.blocking_send(result);
            }
        }
    }
}

/// f32 little-endian; a remainder cannot be, since the frame assembler has checked the length.
fn f32_values(payload: &Bytes) -> Vec<f32> {
    payload
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn le_bytes(values: &[f32]) -> Bytes {
    let mut bytes = vec![0; 4 * values.len()];
    for (place, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *place = value.to_le_bytes();
    }
    bytes.into()
}
