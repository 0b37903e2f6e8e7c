//! The planner: which worker runs which layers, and why.
//!
//! A pure function of what was measured: no socket, no clock, no file. Every worker that is offered takes part. The layers are
//! cut where the slowest stage is as fast as it can be within every worker's memory (`cut.rs`, exact), after differences that
//! are only noise have been taken out of the speeds (`speed.rs`). What a span costs is in `cost.rs`; a plan explains itself
//! (`explain.rs`), and a model that does not fit is refused with the numbers and with what would fit (`advice.rs`).

mod advice;
mod cost;
mod cut;
mod error;
mod explain;
mod speed;
#[cfg(test)]
mod tests;

use std::ops::Range;

use potluck_proto::{NodeId, limits::MAX_STAGES};
use serde::Serialize;

pub use cost::{KV_BLOCK_POSITIONS, LayerCost, ModelCost, ScratchCost};
pub use error::{DoesNotFit, PlanError, WorkerRoom};

use cost::{SpanCosts, SpanMemory};
use cut::Cut;

/// Layers that a plan may have. The deepest published model has 126; the time to plan grows with the square.
pub const MAX_PLANNED_LAYERS: usize = 512;

/// What is to run, and what there is to run it on.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    /// What the model costs.
    pub model: ModelCost,
    /// Positions promised to each sequence.
    pub context_tokens: u32,
    /// Sequences at once.
    pub max_sequences: u32,
    /// Most tokens in one step: the rows of the working buffers.
    pub max_step_tokens: u32,
    /// Workers in the order in which the ring is to visit them.
    pub workers: Vec<Candidate>,
    /// Exactly this many of them are to take part; all that can without it.
    pub n_stages: Option<usize>,
}

/// A worker that is offered to the planner.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its process.
    pub id: NodeId,
    /// Name for people.
    pub name: String,
    /// `host:port` where it listens.
    pub address: String,
    /// Bytes a plan may use there.
    pub memory_budget_bytes: u64,
    /// Weight bytes it reads a second in a matrix-vector product.
    pub weight_bytes_per_second: f64,
    /// Multiply-adds it does a second in a matrix-matrix product.
    pub macs_per_second: f64,
}

/// Who runs what. Stages in the order of their layers, which together are all layers, each once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Name of the model.
    pub model: String,
    /// Positions promised to each sequence.
    pub context_tokens: u32,
    /// Sequences at once.
    pub max_sequences: u32,
    /// The ring.
    pub stages: Vec<StagePlan>,
    /// What a person should know about the choice, a sentence each.
    pub explanation: Vec<String>,
}

/// One stage: a worker, its layers and what they take there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagePlan {
    /// The worker's process.
    #[serde(serialize_with = "explain::node_id_as_hex")]
    pub worker: NodeId,
    /// Its name for people.
    pub name: String,
    /// `host:port` where it listens.
    pub address: String,
    /// Its layers.
    #[serde(serialize_with = "explain::layers_as_pair")]
    pub layers: Range<u32>,
    /// Bytes of its tensors as stored.
    pub weights_bytes: u64,
    /// Bytes of the KV cache at the promised context.
    pub kv_bytes: u64,
    /// Bytes of working buffers, estimated from above.
    pub scratch_bytes: u64,
    /// Bytes the worker offered.
    pub memory_budget_bytes: u64,
    /// Microseconds for one token of one sequence with a short context.
    pub predicted_decode_us: f64,
    /// Microseconds a token of a long prompt takes.
    pub predicted_prefill_us_per_token: f64,
}

impl StagePlan {
    /// All the memory the stage takes.
    pub fn needed_bytes(&self) -> u64 {
        let parts = SpanMemory {
            weights_bytes: self.weights_bytes,
            kv_bytes: self.kv_bytes,
            scratch_bytes: self.scratch_bytes,
        };
        parts.needed_bytes()
    }
}

/// Cuts the model into stages, or says what is missing. Takes microseconds for a handful of workers and up to some seconds for
/// 64 of them and the deepest model: plan for more than a handful on a thread that may block.
pub fn plan(request: &PlanRequest) -> Result<Plan, PlanError> {
    let n_stages = check(request)?;
    let costs = SpanCosts::new(request);
    let speeds = speed::evened(request.workers.iter().map(|w| w.weight_bytes_per_second));
    let cuts = cut::Cuts::find(&costs, &request.workers, &speeds, n_stages);
    let chosen = match request.n_stages {
        Some(exactly) => cuts.best(exactly),
        None => cuts.best_with_most_stages(),
    };
    let Some(chosen) = chosen else {
        return Err(advice::does_not_fit(request, &costs));
    };
    let stages: Vec<StagePlan> = chosen
        .iter()
        .map(|cut| stage_plan(request, &costs, cut))
        .collect();
    let mut explanation = explain::bottleneck(&stages);
    explanation.extend(explain::left_out(request, &chosen));
    explanation.extend(explain::held_back(request, &cuts, &chosen));
    Ok(Plan {
        model: request.model.name.clone(),
        context_tokens: request.context_tokens,
        max_sequences: request.max_sequences,
        stages,
        explanation,
    })
}

/// The most stages that the plan may have, once the request makes sense.
fn check(request: &PlanRequest) -> Result<usize, PlanError> {
    let (n_workers, n_layers) = (request.workers.len(), request.model.layers.len());
    if n_workers == 0 {
        return Err(PlanError::NoWorkers);
    }
    if n_workers > MAX_STAGES {
        return Err(PlanError::TooManyWorkers {
            n_workers,
            limit: MAX_STAGES,
        });
    }
    if n_layers == 0 || n_layers > MAX_PLANNED_LAYERS {
        return Err(PlanError::LayerCount {
            model: request.model.name.clone(),
            n_layers,
            limit: MAX_PLANNED_LAYERS,
        });
    }
    let most = n_workers.min(n_layers);
    match request.n_stages {
        Some(wanted) if wanted == 0 || wanted > most => Err(PlanError::StageCount {
            wanted,
            n_workers,
            n_layers,
        }),
        wanted => Ok(wanted.unwrap_or(most)),
    }
}

fn stage_plan(request: &PlanRequest, costs: &SpanCosts, cut: &Cut) -> StagePlan {
    let worker = &request.workers[cut.worker];
    let SpanMemory {
        weights_bytes,
        kv_bytes,
        scratch_bytes,
    } = costs.memory(&cut.layers);
    let micros = |work: u64, per_second: f64| work as f64 / speed::sane(per_second) * 1e6;
    StagePlan {
        worker: worker.id,
        name: worker.name.clone(),
        address: worker.address.clone(),
        // At most MAX_PLANNED_LAYERS.
        layers: cut.layers.start as u32..cut.layers.end as u32,
        weights_bytes,
        kv_bytes,
        scratch_bytes,
        memory_budget_bytes: worker.memory_budget_bytes,
        predicted_decode_us: micros(
            costs.read_bytes(&cut.layers),
            worker.weight_bytes_per_second,
        ),
        predicted_prefill_us_per_token: micros(costs.macs(&cut.layers), worker.macs_per_second),
    }
}
