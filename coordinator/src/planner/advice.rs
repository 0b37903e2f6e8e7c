//! What to change when a model does not fit: found by planning smaller promises until one fits.

use super::cost::{KV_BLOCK_POSITIONS, SpanCosts};
use super::cut::Cuts;
use super::error::{DoesNotFit, PlanError, WorkerRoom, sequences};
use super::{PlanRequest, speed};
use crate::size::Size;

/// The refusal of a request that no cut satisfies.
pub(super) fn does_not_fit(request: &PlanRequest, costs: &SpanCosts) -> PlanError {
    let whole = costs.memory(&(0..costs.n_layers()));
    let workers: Vec<WorkerRoom> = request
        .workers
        .iter()
        .map(|worker| WorkerRoom {
            name: worker.name.clone(),
            memory_budget_bytes: worker.memory_budget_bytes,
        })
        .collect();
    let have_bytes = workers
        .iter()
        .map(|worker| worker.memory_budget_bytes)
        .fold(0, u64::saturating_add);
    PlanError::DoesNotFit(Box::new(DoesNotFit {
        model: request.model.name.clone(),
        context_tokens: request.context_tokens,
        max_sequences: request.max_sequences,
        weights_bytes: whole.weights_bytes,
        kv_bytes: whole.kv_bytes,
        scratch_bytes: whole.scratch_bytes,
        needed_bytes: whole.needed_bytes(),
        have_bytes,
        workers,
        advice: advice(request, whole.needed_bytes(), have_bytes),
    }))
}

fn advice(request: &PlanRequest, needed_bytes: u64, have_bytes: u64) -> String {
    let mut ways = Vec::new();
    if let Some(n_stages) = request.n_stages
        && fits(&PlanRequest {
            n_stages: None,
            ..request.clone()
        })
    {
        ways.push(format!("another number of stages than {n_stages}"));
    }
    if let Some(context) = longest_context(request) {
        ways.push(format!("a context of {context} tokens"));
    }
    if let Some(n) = most_sequences(request) {
        ways.push(format!("{} at once", sequences(n)));
    }
    if !ways.is_empty() {
        return format!("What fits: {}.", ways.join(", or "));
    }
    match needed_bytes.checked_sub(have_bytes) {
        Some(missing) if missing > 0 => format!(
            "At least {} are missing: add a worker, free memory, or take a smaller model or quantisation.",
            Size(missing)
        ),
        _ => "Together that would do, but not in these pieces: layers are not divided, and every stage needs its own \
              working buffers. Give one of the workers more memory."
            .to_owned(),
    }
}

/// The longest shorter context that fits, in whole KV blocks.
fn longest_context(request: &PlanRequest) -> Option<u32> {
    let block = KV_BLOCK_POSITIONS as u32;
    let blocks = largest(request.context_tokens.div_ceil(block), |blocks| {
        fits(&PlanRequest {
            context_tokens: blocks.saturating_mul(block),
            ..request.clone()
        })
    })?;
    Some(blocks.saturating_mul(block))
}

/// The most fewer sequences that fit.
fn most_sequences(request: &PlanRequest) -> Option<u32> {
    largest(request.max_sequences, |max_sequences| {
        fits(&PlanRequest {
            max_sequences,
            ..request.clone()
        })
    })
}

/// The largest number from 1 to below `limit` that fits, when what fits is everything up to some number.
fn largest(limit: u32, fits: impl Fn(u32) -> bool) -> Option<u32> {
    let (mut good, mut bad) = (0, limit.max(1));
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match fits(middle) {
            true => good = middle,
            false => bad = middle,
        }
    }
    (good > 0).then_some(good)
}

/// Whether any cut fits the request.
fn fits(request: &PlanRequest) -> bool {
    let costs = SpanCosts::new(request);
    let speeds = speed::evened(request.workers.iter().map(|w| w.weight_bytes_per_second));
    let most = request.workers.len().min(costs.n_layers());
    let cuts = Cuts::find(&costs, &request.workers, &speeds, most);
    match request.n_stages {
        Some(exactly) => cuts.slowest_ns(exactly).is_some(),
        None => (1..=most).any(|n_stages| cuts.slowest_ns(n_stages).is_some()),
    }
}
