//! What a model costs, and what any span of its layers costs in memory and in time.
//!
//! Sums are kept up to every layer in 128 bits, so that a span is one subtraction and no size from a file can overflow.

use std::ops::Range;

use serde::Serialize;

use super::PlanRequest;

/// Positions in a block of the KV cache: workers hand out memory in these units.
pub const KV_BLOCK_POSITIONS: u64 = 128;

/// Memory a stage takes whatever its width: stacks of its threads, frames under way, tables.
const STAGE_FIXED_BYTES: u64 = 16 << 20;

/// What a model costs, measured on its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelCost {
    /// Name for people.
    pub name: String,
    /// Every layer, in order.
    pub layers: Vec<LayerCost>,
    /// Bytes of the token embedding, which the first stage holds.
    pub embedding_bytes: u64,
    /// Bytes of tensors that only the last stage holds: the final norm and an output matrix of its own.
    pub head_bytes: u64,
    /// The embedding is the output matrix: the last stage holds it too. A stage that is both holds it once.
    pub tied_output: bool,
    /// Bytes of tensors that every stage holds.
    pub shared_bytes: u64,
    /// Working buffers.
    pub scratch: ScratchCost,
}

/// What one layer costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// Bytes of its tensors as stored.
    pub bytes: u64,
    /// Bytes of keys and values of one position.
    pub kv_bytes_per_position: u64,
    /// Multiply-adds of its matrices for one token.
    pub macs: u64,
}

/// Working buffers of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ScratchCost {
    /// Bytes for each token of a step.
    pub bytes_per_token: u64,
    /// Bytes for each sequence that samples in a step; only the last stage samples.
    pub bytes_per_sample: u64,
    /// Bytes of a token of a sequence's last output, kept in case it is asked for again; the last stage keeps none.
    pub bytes_per_kept_token: u64,
    /// Bytes for each position of the context: rotary angles.
    pub bytes_per_position: u64,
}

/// What a span takes on its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpanMemory {
    pub(super) weights_bytes: u64,
    pub(super) kv_bytes: u64,
    pub(super) scratch_bytes: u64,
}

impl SpanMemory {
    pub(super) fn needed_bytes(&self) -> u64 {
        [self.weights_bytes, self.kv_bytes, self.scratch_bytes]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// Costs of all spans under one promise of context and sequences.
pub(super) struct SpanCosts<'a> {
    model: &'a ModelCost,
    /// Position `i`: all layers before layer `i`.
    bytes_before: Vec<u128>,
    kv_before: Vec<u128>,
    macs_before: Vec<u128>,
    positions: u64,
    context_tokens: u64,
    max_sequences: u64,
    max_step_tokens: u64,
}

impl<'a> SpanCosts<'a> {
    pub(super) fn new(request: &'a PlanRequest) -> SpanCosts<'a> {
        let blocks = u64::from(request.context_tokens).div_ceil(KV_BLOCK_POSITIONS);
        let max_sequences = u64::from(request.max_sequences);
        let layers = &request.model.layers;
        SpanCosts {
            model: &request.model,
            bytes_before: sums_before(layers.iter().map(|layer| layer.bytes)),
            kv_before: sums_before(layers.iter().map(|layer| layer.kv_bytes_per_position)),
            macs_before: sums_before(layers.iter().map(|layer| layer.macs)),
            // Both factors come from 32 bits, the blocks from 7 fewer.
            positions: max_sequences * blocks * KV_BLOCK_POSITIONS,
            context_tokens: u64::from(request.context_tokens),
            max_sequences,
            max_step_tokens: u64::from(request.max_step_tokens),
        }
    }

    pub(super) fn n_layers(&self) -> usize {
        self.model.layers.len()
    }

    pub(super) fn memory(&self, layers: &Range<usize>) -> SpanMemory {
        let (first, last) = self.ends(layers);
        let mut weights = between(&self.bytes_before, layers) + u128::from(self.model.shared_bytes);
        if first || (last && self.model.tied_output) {
            weights += u128::from(self.model.embedding_bytes);
        }
        if last {
            weights += u128::from(self.model.head_bytes);
        }
        let kv = between(&self.kv_before, layers).saturating_mul(u128::from(self.positions));
        SpanMemory {
            weights_bytes: narrow(weights),
            kv_bytes: narrow(kv),
            scratch_bytes: self.scratch_bytes(last),
        }
    }

    /// Bytes of weights that pass through the processor for one token.
    pub(super) fn read_bytes(&self, layers: &Range<usize>) -> u64 {
        let (_, last) = self.ends(layers);
        let mut bytes = between(&self.bytes_before, layers);
        if last {
            bytes += u128::from(self.model.head_bytes);
            if self.model.tied_output {
                bytes += u128::from(self.model.embedding_bytes);
            }
        }
        narrow(bytes)
    }

    /// Multiply-adds for a token of a prompt: the head is computed for its last token only.
    pub(super) fn macs(&self, layers: &Range<usize>) -> u64 {
        narrow(between(&self.macs_before, layers))
    }

    fn scratch_bytes(&self, last: bool) -> u64 {
        let scratch = &self.model.scratch;
        let tokens = scratch.bytes_per_token.saturating_mul(self.max_step_tokens);
        let kept_or_sampled = match last {
            true => scratch.bytes_per_sample.saturating_mul(self.max_sequences),
            false => scratch
                .bytes_per_kept_token
                .saturating_mul(self.max_sequences * self.max_step_tokens),
        };
        let angles = scratch
            .bytes_per_position
            .saturating_mul(self.context_tokens);
        [tokens, kept_or_sampled, angles]
            .into_iter()
            .fold(STAGE_FIXED_BYTES, u64::saturating_add)
    }

    fn ends(&self, layers: &Range<usize>) -> (bool, bool) {
        (layers.start == 0, layers.end == self.n_layers())
    }
}

fn sums_before(items: impl Iterator<Item = u64>) -> Vec<u128> {
    let mut sum = 0;
    let mut sums = vec![0];
    for item in items {
        sum += u128::from(item);
        sums.push(sum);
    }
    sums
}

fn between(sums: &[u128], layers: &Range<usize>) -> u128 {
    sums[layers.end] - sums[layers.start]
}

fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
