//! The compute thread: the one owner of a stage's weights and KV cache.
//!
//! It takes commands in order and does nothing else, so nothing on the path of a token is locked. Everything slow happens
//! here or in the thread pool, never on the async runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
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
    pub kernels: Kernels,
    pub commands: mpsc::Sender<Command>,
    pub layers_done: Arc<AtomicU64>,
    pub busy: Arc<AtomicBool>,
    /// Bytes that the stage takes now. Written by the compute thread alone.
    pub held_bytes: Arc<AtomicU64>,
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
        kernels,
        commands,
        layers_done: Arc::default(),
        busy: Arc::default(),
        held_bytes: Arc::default(),
    };
    let thread = Thread {
        kernels,
        n_threads,
        layers_done: Arc::clone(&compute.layers_done),
        busy: Arc::clone(&compute.busy),
        held_bytes: Arc::clone(&compute.held_bytes),
        loaded: None,
    };
    std::thread::Builder::new()
        .name("compute".into())
        .spawn(move || thread.run(inbox))?;
    Ok(compute)
}

/// What the thread owns.
struct Thread {
    kernels: Kernels,
    n_threads: usize,
    layers_done: Arc<AtomicU64>,
    busy: Arc<AtomicBool>,
    held_bytes: Arc<AtomicU64>,
    loaded: Option<Loaded>,
}

impl Thread {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.blocking_recv() {
            self.busy.store(true, Ordering::Relaxed);
            // A panic is a bug, but one of this plan only: its stage is dropped, which its neighbours notice, and the
            // next plan finds a thread that works.
            if catch_unwind(AssertUnwindSafe(|| self.apply(command))).is_err() {
                tracing::error!("the compute thread panicked; its layers are dropped");
                self.loaded = None;
            }
            let held_bytes = self
                .loaded
                .as_ref()
                .map_or(0, |loaded| loaded.stage.held_bytes());
            self.held_bytes.store(held_bytes, Ordering::Relaxed);
            self.busy.store(false, Ordering::Relaxed);
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Load(job) => self.load(*job),
            Command::Step(arrived) => {
                let current = self.loaded.as_mut();
                if let Some(loaded) = current.filter(|loaded| loaded.fence == arrived.fence) {
                    loaded.compute(arrived);
                }
            }
            Command::Reset => self
                .loaded
                .iter_mut()
                .for_each(|loaded| loaded.stage.reset()),
            Command::Unload => self.loaded = None,
        }
    }

    /// Loads the job's stage, or takes over the one that is there if it holds the same weights.
    fn load(&mut self, job: LoadJob) {
        let LoadJob {
            fence,
            model,
            config,
            source,
            outlet,
            progress,
            reply,
        } = job;
        let same = self.loaded.take().filter(|loaded| {
            let held = loaded.stage.config();
            loaded.model == model
                && held.shape == config.shape
                && held.span == config.span
                && held.limits == config.limits
        });
        let stage = match same {
            Some(mut loaded) => {
                loaded.stage.reset();
                Ok(loaded.stage)
            }
            None => {
                let mut report = |done: u64, _total: u64| {
                    progress.store(done, Ordering::Relaxed);
                    self.held_bytes.store(done, Ordering::Relaxed);
                };
                let (pool, layers_done) =
                    (Pool::new(self.n_threads), Arc::clone(&self.layers_done));
                Stage::load(
                    config,
                    &source,
                    self.kernels,
                    pool,
                    layers_done,
                    &mut report,
                )
            }
        };
        // The asker may be gone; then the plan is never used and the next load replaces it.
        match stage {
            Ok(stage) => {
                let _ = reply.send(Ok(stage.memory()));
                self.loaded = Some(Loaded {
                    fence,
                    model,
                    stage,
                    outlet,
                });
            }
            Err(err) => drop(reply.send(Err(err))),
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
