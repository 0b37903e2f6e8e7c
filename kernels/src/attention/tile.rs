//! One tile of attention: some query rows that share a kv head, against blocks of its keys and values.
//!
//! A row's state is `[m, l, acc (head_dim)]`: the largest score so far, the sum of exp(score - m), and the values summed
//! with these weights. The arithmetic on states is the instruction set's; here rows, blocks and buffers are put together.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use half::f16;

use super::{AttentionSpec, KV_BLOCK, KvBlock, KvSlice};
use crate::kernels::Kernels;
use crate::pool::Disjoint;

/// A run of query tokens while its tiles are computed by several threads.
pub(super) struct Query<'a> {
    pub q: &'a [f32],
    pub first_pos: usize,
    pub blocks: &'a [KvBlock<'a>],
    pub out: Disjoint<'a, f32>,
}

/// What all tiles of a call share.
pub(super) struct Call<'a> {
    pub kernels: Kernels,
    pub spec: &'a AttentionSpec,
}

/// Query rows of one run that share a kv head, and the blocks they see. Row r is head `r % group` of token `r / group`.
pub(super) struct Tile {
    pub run: usize,
    pub kv_head: usize,
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
}

/// What the arithmetic of one block takes: f32 rows and the slots each row sees.
pub(crate) struct BlockArgs<'a> {
    pub head_dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    /// `(n_rows, head_dim)`
    pub q: &'a [f32],
    /// `(head_dim, 128)`
    pub k: &'a [f32],
    /// `(128, head_dim)`
    pub v: &'a [f32],
    /// `(n_rows)`: the slots each row sees; may be empty.
    pub live: &'a [Range<usize>],
}

/// Buffers of one thread, kept between calls.
#[derive(Default)]
pub(super) struct Scratch {
    pub inputs: Inputs,
    pub part: Vec<f32>,
    pub total: Vec<f32>,
}

/// The inputs of a block, gathered and widened.
#[derive(Default)]
pub(super) struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    live: Vec<Range<usize>>,
    scores: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    pub(super) fn with(work: impl FnOnce(&mut Scratch)) {
        let mut scratch = SCRATCH.take();
        work(&mut scratch);
        SCRATCH.set(scratch);
    }
}

impl Tile {
    /// Elements of one row's state.
    pub(super) fn state_len(spec: &AttentionSpec) -> usize {
        2 + spec.head_dim
    }

    /// States of this tile's rows that have seen nothing, in a buffer that grows as needed.
    pub(super) fn fresh_states<'a>(
        &self,
        spec: &AttentionSpec,
        buffer: &'a mut Vec<f32>,
    ) -> &'a mut [f32] {
        self.fresh(spec, grown(buffer, self.rows.len() * Self::state_len(spec)))
    }

    /// As [`Tile::fresh_states`], at the start of a buffer that is large enough.
    pub(super) fn fresh<'a>(&self, spec: &AttentionSpec, buffer: &'a mut [f32]) -> &'a mut [f32] {
        let states = &mut buffer[..self.rows.len() * Self::state_len(spec)];
        for state in states.chunks_exact_mut(Self::state_len(spec)) {
            state.fill(0.0);
            state[0] = f32::NEG_INFINITY;
        }
        states
    }

    /// Compute the states of all rows over one block. `states` are fresh.
    pub(super) fn block(
        &self,
        call: &Call<'_>,
        query: &Query<'_>,
        block: usize,
        inputs: &mut Inputs,
        states: &mut [f32],
    ) {
        let KvBlock::Present(data) = query.blocks[block] else {
            return;
        };
        let (spec, n_rows, head) = (call.spec, self.rows.len(), KV_BLOCK * call.spec.head_dim);
        self.gather(spec, query, block, inputs);
        let Inputs {
            q,
            k,
            v,
            live,
            scores,
        } = inputs;
        let (k, v) = match data {
            KvSlice::F32(data) => data[2 * head * self.kv_head..][..2 * head].split_at(head),
            KvSlice::F16(data) => {
                let (keys, values) = data[2 * head * self.kv_head..][..2 * head].split_at(head);
                (
                    &*widen(call.kernels, keys, k),
                    &*widen(call.kernels, values, v),
                )
            }
        };
        let (head_dim, scale, softcap) = (spec.head_dim, spec.scale, spec.softcap);
        let args = BlockArgs {
            head_dim,
            scale,
            softcap,
            q: &q[..n_rows * head_dim],
            k,
            v,
            live,
        };
        call.kernels
            .attend_block(&args, grown(scores, n_rows * KV_BLOCK), states);
    }

    /// Bring the rows' queries together and find the slots of the block that each sees.
    fn gather(&self, spec: &AttentionSpec, query: &Query<'_>, block: usize, inputs: &mut Inputs) {
        let start = block * KV_BLOCK;
        inputs.live.clear();
        let q = grown(&mut inputs.q, self.rows.len() * spec.head_dim);
        for (row, q) in self.rows.clone().zip(q.chunks_exact_mut(spec.head_dim)) {
            q.copy_from_slice(&query.q[self.offset(spec, row)..][..spec.head_dim]);
            let live = spec.live(query.first_pos + row / spec.group());
            let slot = |pos: usize| pos.saturating_sub(start).min(KV_BLOCK);
            inputs.live.push(slot(live.start)..slot(live.end));
        }
    }

    /// Merge the states over a later block into the total, row by row. Blocks of which a row sees nothing are left out.
    pub(super) fn merge(&self, call: &Call<'_>, total: &mut [f32], part: &[f32]) {
        let len = Self::state_len(call.spec);
        for (total, part) in total.chunks_exact_mut(len).zip(part.chunks_exact(len)) {
            if part[1] != 0.0 {
                call.kernels.merge_state(total, part);
            }
        }
    }

    /// Divide by the sum of weights and write the rows to the run's output.
    pub(super) fn finish(&self, spec: &AttentionSpec, query: &Query<'_>, total: &[f32]) {
        for (row, state) in self
            .rows
            .clone()
            .zip(total.chunks_exact(Self::state_len(spec)))
        {
            // SAFETY: a (token, head) belongs to one tile, and a tile is finished by one thread.
            let out = unsafe { query.out.slice(self.offset(spec, row), spec.head_dim) };
            for (out, acc) in out.iter_mut().zip(&state[2..]) {
                *out = acc / state[1];
            }
        }
    }

    /// Where a row is in the run's q and out.
    fn offset(&self, spec: &AttentionSpec, row: usize) -> usize {
        let head = self.kv_head * spec.group() + row % spec.group();
        row / spec.group() * spec.q_width() + head * spec.head_dim
    }
}

fn widen<'a>(kernels: Kernels, from: &[f16], to: &'a mut Vec<f32>) -> &'a mut [f32] {
    let to = grown(to, from.len());
    kernels.widen_f16(from, to);
    to
}

/// The first `len` elements of a buffer that only grows.
fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
