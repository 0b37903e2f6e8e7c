//! One tile of attention: some query rows that share a kv head, against blocks of its keys and values.
//!
//! A row's state is `[m, l, acc (head_dim)]`: the largest score so far, the sum of exp(score - m), and the values summed
//! with these weights. The arithmetic on states is the instruction set's; here rows, blocks and buffers are put together.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use half::f16;

use super::{
    AttentionRun, AttentionSpec, KV_BLOCK, KvBlock, KvBlocks, KvHead, KvSlice, Q8_0_BLOCK, STRIPE,
};
use crate::kernels::Kernels;
use crate::pool::Disjoint;

/// Rows of a tile from which on it pays to widen a block to f32 once, rather than each time that it is read: once for this many
/// rows, which is as many as the vector kernels take at a time.
const MAX_DIRECT_ROWS: usize = 6;

/// What all tiles of a call share.
pub(super) struct Call<'a> {
    pub kernels: Kernels,
    pub spec: &'a AttentionSpec,
    pub runs: &'a [AttentionRun],
    pub kv: &'a dyn KvBlocks,
    pub q: &'a [f32],
    pub out: Disjoint<'a, f32>,
}

/// Query rows of one run that share a kv head, and the blocks they see. Row r is head `r % group` of token `r / group`.
pub(super) struct Tile {
    pub run: usize,
    pub kv_head: usize,
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
}

/// What the arithmetic of one block takes: rows of queries and the slots each row sees.
pub(crate) struct BlockArgs<'a> {
    pub head_dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    /// `(n_rows, head_dim)`
    pub q: &'a [f32],
    pub kv: KvHead<'a>,
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

/// The inputs of a block, gathered and, where it pays, widened.
#[derive(Default)]
pub(super) struct Inputs {
    q: Vec<f32>,
    wide: Wide,
    live: Vec<Range<usize>>,
    scores: Vec<f32>,
}

#[derive(Default)]
struct Wide {
    k: Vec<f32>,
    v: Vec<f32>,
    scales: Vec<f32>,
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
        block: usize,
        inputs: &mut Inputs,
        states: &mut [f32],
    ) {
        let run = &call.runs[self.run];
        let KvBlock::Present(data) = call.kv.block(run.sequence, block) else {
            return;
        };
        let (spec, n_rows) = (call.spec, self.rows.len());
        self.gather(call, block, inputs);
        let Inputs {
            q,
            wide,
            live,
            scores,
        } = inputs;
        let (head_dim, scale, softcap) = (spec.head_dim, spec.scale, spec.softcap);
        let args = BlockArgs {
            head_dim,
            scale,
            softcap,
            q: &q[..n_rows * head_dim],
            kv: wide.head(call, data, self.kv_head, n_rows > MAX_DIRECT_ROWS),
            live,
        };
        call.kernels
            .attend_block(&args, grown(scores, n_rows * KV_BLOCK), states);
    }

    /// Bring the rows' queries together and find the slots of the block that each sees.
    fn gather(&self, call: &Call<'_>, block: usize, inputs: &mut Inputs) {
        let (spec, first_pos) = (call.spec, call.runs[self.run].first_pos);
        let start = block * KV_BLOCK;
        inputs.live.clear();
        let q = grown(&mut inputs.q, self.rows.len() * spec.head_dim);
        for (row, q) in self.rows.clone().zip(q.chunks_exact_mut(spec.head_dim)) {
            q.copy_from_slice(&call.q[self.offset(call, row)..][..spec.head_dim]);
            let live = spec.live(first_pos + row / spec.group());
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

    /// Divide by the sum of weights and write the rows to the output.
    pub(super) fn finish(&self, call: &Call<'_>, total: &[f32]) {
        let spec = call.spec;
        for (row, state) in self
            .rows
            .clone()
            .zip(total.chunks_exact(Self::state_len(spec)))
        {
            // SAFETY: a (token, head) belongs to one tile, and a tile is finished by one thread.
            let out = unsafe { call.out.slice(self.offset(call, row), spec.head_dim) };
            for (out, acc) in out.iter_mut().zip(&state[2..]) {
                *out = acc / state[1];
            }
        }
    }

    /// Where a row is in q and in the output.
    fn offset(&self, call: &Call<'_>, row: usize) -> usize {
        let (spec, first_row) = (call.spec, call.runs[self.run].rows.start);
        let head = self.kv_head * spec.group() + row % spec.group();
        (first_row + row / spec.group()) * spec.q_width() + head * spec.head_dim
    }
}

impl Wide {
    /// Keys and values of one head, widened to f32 if `widen`.
    fn head<'a>(
        &'a mut self,
        call: &Call<'_>,
        data: KvSlice<'a>,
        kv_head: usize,
        widen: bool,
    ) -> KvHead<'a> {
        let (kernels, len) = (call.kernels, KV_BLOCK * call.spec.head_dim);
        let Wide { k, v, scales } = self;
        match data {
            KvSlice::F32(data) => {
                let (k, v) = keys_and_values(data, kv_head, len);
                KvHead::F32 { k, v }
            }
            KvSlice::F16(data) => {
                let (keys, values) = keys_and_values(data, kv_head, len);
                if !widen {
                    let (k, v) = (keys, values);
                    return KvHead::F16 { k, v };
                }
                let (k, v) = (grown(k, len), grown(v, len));
                kernels.widen_f16(keys, k);
                kernels.widen_f16(values, v);
                KvHead::F32 { k, v }
            }
            KvSlice::Q8_0 {
                codes,
                scales: f16_scales,
            } => {
                let n_scales = len / Q8_0_BLOCK;
                let (keys, values) = keys_and_values(codes, kv_head, len);
                let f16_scales: &[f16] = &f16_scales[2 * n_scales * kv_head..][..2 * n_scales];
                let scales = grown(scales, 2 * n_scales);
                kernels.widen_f16(f16_scales, scales);
                let (k_scales, v_scales) = scales.split_at(n_scales);
                if !widen {
                    return KvHead::Q8_0 {
                        k: keys,
                        v: values,
                        k_scales,
                        v_scales,
                    };
                }
                let (k, v) = (grown(k, len), grown(v, len));
                kernels.widen_q8_0(keys, k_scales, STRIPE, k);
                kernels.widen_q8_0(values, v_scales, 1, v);
                KvHead::F32 { k, v }
            }
        }
    }
}

/// One head's halves of a block.
fn keys_and_values<T>(block: &[T], kv_head: usize, len: usize) -> (&[T], &[T]) {
    block[2 * len * kv_head..][..2 * len].split_at(len)
}

/// The first `len` elements of a buffer that only grows.
fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
