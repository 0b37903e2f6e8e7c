//! Why there is no plan, in sentences with the numbers that a person needs to change that.

use std::fmt;

use serde::Serialize;

use crate::size::Size;

/// Why a model cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum PlanError {
    /// Nobody has joined.
    #[error(
        "there is no worker to run the model on; start one with `potluck join` or serve without `--no-worker`"
    )]
    NoWorkers,
    /// More than a ring may have.
    #[error("{n_workers} workers were offered, a ring has at most {limit}; leave some out")]
    TooManyWorkers {
        /// Workers offered.
        n_workers: usize,
        /// Stages a ring may have.
        limit: usize,
    },
    /// No layers, or more than a plan handles.
    #[error("{model} has {n_layers} layers, a plan has 1 to {limit}")]
    LayerCount {
        /// Name of the model.
        model: String,
        /// Its layers.
        n_layers: usize,
        /// Layers a plan may have.
        limit: usize,
    },
    /// A number of stages that cannot be.
    #[error(
        "{wanted} stages were asked for, but there are {n_workers} workers and {n_layers} layers: ask for 1 to {}",
        .n_workers.min(.n_layers)
    )]
    StageCount {
        /// Stages asked for.
        wanted: usize,
        /// Workers offered.
        n_workers: usize,
        /// Layers of the model.
        n_layers: usize,
    },
    /// Not enough memory, or not where it is needed.
    #[error("{0}")]
    DoesNotFit(Box<DoesNotFit>),
}

/// The numbers of a model that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoesNotFit {
    /// Name of the model.
    pub model: String,
    /// Positions promised to each sequence.
    pub context_tokens: u32,
    /// Sequences at once.
    pub max_sequences: u32,
    /// Bytes of all weights.
    pub weights_bytes: u64,
    /// Bytes of the KV cache of all layers.
    pub kv_bytes: u64,
    /// Bytes of working buffers of one stage.
    pub scratch_bytes: u64,
    /// The sum of these: what one machine would need. Every further stage adds working buffers.
    pub needed_bytes: u64,
    /// Bytes that all workers offer together.
    pub have_bytes: u64,
    /// What each offers.
    pub workers: Vec<WorkerRoom>,
    /// What would fit, or what is missing.
    pub advice: String,
}

/// What a worker offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerRoom {
    /// Its name.
    pub name: String,
    /// Bytes a plan may use there.
    pub memory_budget_bytes: u64,
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} does not fit: for {} of {} tokens it needs at least {} (weights {}, KV cache {}, working buffers {})",
            self.model,
            sequences(self.max_sequences),
            self.context_tokens,
            Size(self.needed_bytes),
            Size(self.weights_bytes),
            Size(self.kv_bytes),
            Size(self.scratch_bytes),
        )?;
        write!(f, ", the workers offer {} (", Size(self.have_bytes))?;
        for (i, worker) in self.workers.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let size = Size(worker.memory_budget_bytes);
            write!(f, "{comma}{} {size}", worker.name)?;
        }
        write!(f, "). {}", self.advice)
    }
}

/// `1 sequence`, `4 sequences`.
pub(super) fn sequences(n: u32) -> String {
    match n {
        1 => "1 sequence".to_owned(),
        n => format!("{n} sequences"),
    }
}
