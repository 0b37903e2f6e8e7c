//! Matrix products: the law.
//!
//! Quantised weights, one output: one f32 chain over windows of 32 in order of k. With weights `d sub[j/16] code[j] + m` and
//! activations `d_a code_a[j]`:
//! 1. if the type has a minimum: `acc = fma(m, s, acc)`;
//! 2. `acc = fma(d d_a, idot, acc)`, where `d d_a` is one rounded product and idot the exact integer `sum of code[j] code_a[j]`.
//!    A type with sub-scales takes this step for each half of the window, with `d sub` (exact in f32) in place of d.
//!
//! Float weights, one output: `acc = fma(w[j], x[j], acc)` in order of j, weights widened exactly to f32.
//!
//! Outputs do not depend on each other, so rows may lie in lanes of any width and columns may come in any number.

use crate::block::{Block32, decode, dequantize};
use crate::matmul::{Inputs, Panel};
use crate::pack::layout::{MAX_BLOCK_BYTES, extract_block};
use crate::rows::{ACT_BLOCK, ActBlock};
use crate::weight::WeightType;

/// All outputs of a panel.
pub(crate) fn panel(panel: &Panel<'_>) {
    for row in 0..panel.n_tiles * panel.tile_rows {
        match panel.inputs {
            Inputs::Quantized(acts) => {
                let weights = quantized_row(panel, row);
                for col in 0..panel.n_cols {
                    let acts = acts.iter().skip(col).step_by(panel.n_cols);
                    panel.set(row, col, quantized_dot(panel.ty, &weights, acts));
                }
            }
            Inputs::Float(x) => {
                let weights = float_row(panel, row);
                for (col, x) in x.chunks_exact(panel.k).enumerate() {
                    panel.set(row, col, float_dot(&weights, x));
                }
            }
        }
    }
}

fn quantized_dot<'a>(
    ty: WeightType,
    weights: &[Block32],
    acts: impl Iterator<Item = &'a ActBlock>,
) -> f32 {
    let mut acc = 0.0;
    for (w, a) in weights.iter().zip(acts) {
        if let Some(m) = w.m {
            acc = m.mul_add(a.s, acc);
        }
        if ty.has_sub_scales() {
            for half in 0..2 {
                let idot = dot(&w.codes, &a.codes, half * 16..half * 16 + 16);
                acc = (w.d * f32::from(w.sub[half]) * a.d).mul_add(idot as f32, acc);
            }
        } else {
            acc = (w.d * a.d).mul_add(dot(&w.codes, &a.codes, 0..ACT_BLOCK) as f32, acc);
        }
    }
    acc
}

fn dot(w: &[i8; ACT_BLOCK], a: &[i8; ACT_BLOCK], range: std::ops::Range<usize>) -> i32 {
    let pairs = w[range.clone()].iter().zip(&a[range]);
    pairs.map(|(w, a)| i32::from(*w) * i32::from(*a)).sum()
}

fn float_dot(weights: &[f32], x: &[f32]) -> f32 {
    weights
        .iter()
        .zip(x)
        .fold(0.0, |acc: f32, (w, x)| w.mul_add(*x, acc))
}

fn quantized_row(panel: &Panel<'_>, row: usize) -> Vec<Block32> {
    let mut weights = Vec::new();
    for_each_block(panel, row, |block| {
        let windows = 0..panel.ty.block_elements() / ACT_BLOCK;
        weights.extend(windows.map(|window| decode(panel.ty, block, window)));
    });
    weights
}

fn float_row(panel: &Panel<'_>, row: usize) -> Vec<f32> {
    let mut weights = Vec::with_capacity(panel.k);
    for_each_block(panel, row, |block| {
        let mut weight = [0.0];
        dequantize(panel.ty, block, &mut weight);
        weights.extend(weight);
    });
    weights
}

fn for_each_block(panel: &Panel<'_>, row: usize, mut visit: impl FnMut(&[u8])) {
    let (ty, tile_rows) = (panel.ty, panel.tile_rows);
    let tile = &panel.tiles[row / tile_rows * panel.tile_bytes()..][..panel.tile_bytes()];
    let mut block = [0; MAX_BLOCK_BYTES];
    let block = &mut block[..ty.block_bytes()];
    for tile_block in tile.chunks_exact(tile_rows * ty.block_bytes()) {
        extract_block(ty, tile_rows, tile_block, row % tile_rows, block);
        visit(block);
    }
}
