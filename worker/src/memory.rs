//! Exact memory of a span, and the refusal of what does not fit before anything is loaded.

/// What a stage promises to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageLimits {
    /// Positions of one sequence.
    pub context_tokens: usize,
    /// Sequences at once.
    pub max_sequences: usize,
    /// Rows of one step.
    pub max_step_tokens: usize,
    /// Bytes that the span may take; `None` leaves it to the caller.
    pub memory_budget_bytes: Option<u64>,
}

/// Bytes that a span takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Weights as held.
    pub weights_bytes: u64,
    /// KV cache with every page in use.
    pub kv_bytes: u64,
    /// Buffers of a step and copies of last outputs.
    pub scratch_bytes: u64,
}

impl MemoryUse {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes
            .saturating_add(self.kv_bytes)
            .saturating_add(self.scratch_bytes)
    }

    /// Refuses a span that is larger than the budget.
    pub fn check(&self, limits: &StageLimits) -> Result<(), DoesNotFit> {
        match limits.memory_budget_bytes {
            Some(budget_bytes) if self.total_bytes() > budget_bytes => Err(DoesNotFit {
                needed: *self,
                budget_bytes,
                context_tokens: limits.context_tokens,
                max_sequences: limits.max_sequences,
            }),
            _ => Ok(()),
        }
    }
}

/// A span that needs more memory than the machine may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "these layers need {} ({} weights, {} KV cache for {} sequences of {} tokens, {} buffers) but only {} may be used \
     here; give this worker fewer layers, shorten the context, or raise its memory limit",
    mib(needed.total_bytes()), mib(needed.weights_bytes), mib(needed.kv_bytes), max_sequences, context_tokens,
    mib(needed.scratch_bytes), mib(*budget_bytes)
)]
pub struct DoesNotFit {
    /// What the span takes.
    pub needed: MemoryUse,
    /// What there is.
    pub budget_bytes: u64,
    /// Context promised to each sequence.
    pub context_tokens: usize,
    /// Sequences promised.
    pub max_sequences: usize,
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
