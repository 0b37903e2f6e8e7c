//! Matrix products: the law.
//!
//! Quantised weights, one output: one f32 chain over windows of 32 in order of k. With weights `d sub[j/16] code[j] + m` and
//! activations `d_a code_a[j]`:
//! 1. if the type has a minimum: `acc = fma(m, s, acc)`;
//! 2. for each activation block of the window: `acc = fma(d_w d_a, idot, acc)`, where `d_w d_a` is one rounded product and
//!    idot an exact integer. If a block spans both halves of the window, `d_w = d` and idot is
//!    `sum of sub[j/16] code[j] code_a[j]`; if it is one half, `d_w = d sub` (exact in f32) and idot is `sum of code[j] code_a[j]`.
//!
//! Float weights, one output: `acc = fma(w[j], x[j], acc)` in order of j, weights widened exactly to f32.
//!
//! Outputs do not depend on each other, so rows may lie in lanes of any width and columns may come in any number.

use crate::block::{Block32, WINDOW, decode, dequantize};
use crate::matmul::{Inputs, Panel};
use crate::pack::TILE_ROWS;
use crate::pack::layout::{MAX_BLOCK_BYTES, extract_block};
use crate::rows::{ACT_BLOCK, ACT_SCALES, ActBlock};
use crate::weight::WeightType;

/// All outputs of a panel: `out` is `(n_cols, n_tiles * 8)`.
pub(crate) fn panel(panel: &Panel<'_>, out: &mut [f32]) {
    let n_rows = panel.n_tiles * TILE_ROWS;
    for row in 0..n_rows {
        let tile = &panel.tiles[row / TILE_ROWS * panel.tile_bytes()..][..panel.tile_bytes()];
        let lane = row % TILE_ROWS;
        match panel.inputs {
            Inputs::Quantized(acts) => {
                let weights = quantized_row(panel.ty, tile, lane);
                for (col, acts) in acts.chunks_exact(weights.len()).enumerate() {
                    out[col * n_rows + row] = quantized_dot(&weights, acts);
                }
            }
            Inputs::Float(x) => {
                let weights = float_row(panel.ty, tile, lane, panel.k);
                for (col, x) in x.chunks_exact(panel.k).enumerate() {
                    out[col * n_rows + row] = float_dot(&weights, x);
                }
            }
        }
    }
}

fn quantized_dot(weights: &[Block32], acts: &[ActBlock]) -> f32 {
    let mut acc = 0.0;
    for (w, a) in weights.iter().zip(acts) {
        if let Some(m) = w.m {
            acc = m.mul_add(a.s, acc);
        }
        for i in 0..ACT_SCALES {
            let (d, idot) = block_dot(w, a, i);
            acc = (d * a.d[i]).mul_add(idot as f32, acc);
        }
    }
    acc
}

/// Weight scale and integer dot product of activation block `i` of a window.
fn block_dot(w: &Block32, a: &ActBlock, i: usize) -> (f32, i32) {
    let products = |range: std::ops::Range<usize>| -> i32 {
        w.codes[range.clone()]
            .iter()
            .zip(&a.codes[range])
            .map(|(w, a)| i32::from(*w) * i32::from(*a))
            .sum()
    };
    if ACT_BLOCK == WINDOW {
        let [low, high] = w.sub.map(i32::from);
        (w.d, low * products(0..16) + high * products(16..32))
    } else {
        (w.d * f32::from(w.sub[i]), products(i * 16..i * 16 + 16))
    }
}

fn float_dot(weights: &[f32], x: &[f32]) -> f32 {
    weights
        .iter()
        .zip(x)
        .fold(0.0, |acc: f32, (w, x)| w.mul_add(*x, acc))
}

fn quantized_row(ty: WeightType, tile: &[u8], lane: usize) -> Vec<Block32> {
    let mut weights = Vec::new();
    for_each_block(ty, tile, lane, |block| {
        weights.extend((0..ty.block_elements() / WINDOW).map(|window| decode(ty, block, window)));
    });
    weights
}

fn float_row(ty: WeightType, tile: &[u8], lane: usize, k: usize) -> Vec<f32> {
    let mut weights = Vec::with_capacity(k);
    for_each_block(ty, tile, lane, |block| {
        let mut weight = [0.0];
        dequantize(ty, block, &mut weight);
        weights.extend(weight);
    });
    weights
}

fn for_each_block(ty: WeightType, tile: &[u8], lane: usize, mut visit: impl FnMut(&[u8])) {
    let mut block = [0; MAX_BLOCK_BYTES];
    let block = &mut block[..ty.block_bytes()];
    for tile_block in tile.chunks_exact(TILE_ROWS * ty.block_bytes()) {
        extract_block(ty, tile_block, lane, block);
        visit(block);
    }
}
