//! Attention of query rows over one block of 128 positions, and the merging of blocks: the law.
//!
//! For one row and the slots it sees, in order:
//! - score: `dot(q, k) * scale`, the dot product one chain of `fma(q[d], k[d], dot)` from 0 over d (positions lie in
//!   lanes), then the cap if there is one;
//! - `m`: the largest score; `p = exp(score - m)`; `l`: the sum of p in 16 virtual lanes, lane = slot mod 16, and the tree
//!   of `norm.rs`; `acc[d]`: one chain of `fma(p, v[d], acc[d])` from 0.
//!
//! Blocks are merged in order of position, from `m = -inf, l = 0, acc = 0`: `n = max(M, m)`, `a = exp(M - n)`,
//! `b = exp(m - n)`, `L = fma(L, a, l b)`, `A[d] = fma(A[d], a, acc[d] b)`. The output is `A / L`.

use half::f16;

use super::exp::{exp, tanh};
use super::norm::{LANES, sum_lanes};
use crate::attention::{BlockArgs, KV_BLOCK, Q8_0_BLOCK};

/// Compute each row's state `[m, l, acc]` over one block. `scores` is `(n_rows, 128)`, `states` is fresh.
pub(crate) fn attend_block(args: &BlockArgs<'_>, scores: &mut [f32], states: &mut [f32]) {
    let dim = args.head_dim;
    let rows = args
        .q
        .chunks_exact(dim)
        .zip(args.live)
        .zip(scores.chunks_exact_mut(KV_BLOCK));
    for (((q, live), scores), state) in rows.zip(states.chunks_exact_mut(2 + dim)) {
        if live.is_empty() {
            continue;
        }
        for slot in live.clone() {
            let dot = q.iter().enumerate().fold(0.0, |dot: f32, (d, q)| {
                q.mul_add(args.kv.key(slot, d, dim), dot)
            });
            let score = dot * args.scale;
            scores[slot] = args.softcap.map_or(score, |cap| cap * tanh(score / cap));
        }
        let m = scores[live.clone()]
            .iter()
            .fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m });
        let mut lanes = [0f32; LANES];
        let (head, acc) = state.split_at_mut(2);
        for slot in live.clone() {
            let p = exp(scores[slot] - m);
            lanes[slot % LANES] += p;
            for (d, acc) in acc.iter_mut().enumerate() {
                *acc = p.mul_add(args.kv.value(slot, d, dim), *acc);
            }
        }
        head.copy_from_slice(&[m, sum_lanes(lanes)]);
    }
}

/// Merge the state of a later block into the total of those before it.
pub(crate) fn merge_state(total: &mut [f32], part: &[f32]) {
    let m = if part[0] > total[0] {
        part[0]
    } else {
        total[0]
    };
    let (a, b) = (exp(total[0] - m), exp(part[0] - m));
    total[0] = m;
    for (total, part) in total[1..].iter_mut().zip(&part[1..]) {
        *total = total.mul_add(a, part * b);
    }
}

/// Exact.
pub(crate) fn widen_f16(from: &[f16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f32();
    }
}

/// Exact. See `Kernels::widen_q8_0`.
pub(crate) fn widen_q8_0(codes: &[i8], scales: &[f32], stride: usize, to: &mut [f32]) {
    for (i, (to, code)) in to.iter_mut().zip(codes).enumerate() {
        let scale = scales[i / (stride * Q8_0_BLOCK) * stride + i % stride];
        *to = f32::from(*code) * scale;
    }
}
