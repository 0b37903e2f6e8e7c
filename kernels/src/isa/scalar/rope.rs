//! Rotary position embedding: the law. A pair (a, b) becomes `(fma(a, cos, -(b sin)), fma(a, sin, b cos))`.
//!
//! `table` is a row of a `RopeTable`: cosines, then sines. Elements of a head beyond the rotary ones stay as they are.

/// Pairs are neighbours: elements 2i and 2i + 1 of each head.
pub(crate) fn norm(x: &mut [f32], head_dim: usize, table: &[f32]) {
    let (cos, sin) = table.split_at(table.len() / 2);
    for head in x.chunks_exact_mut(head_dim) {
        for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
            (head[2 * i], head[2 * i + 1]) = rotate(head[2 * i], head[2 * i + 1], *cos, *sin);
        }
    }
}

/// Pairs lie half the rotary dimension apart: elements i and i + n of each head.
pub(crate) fn neox(x: &mut [f32], head_dim: usize, table: &[f32]) {
    let n = table.len() / 2;
    let (cos, sin) = table.split_at(n);
    for head in x.chunks_exact_mut(head_dim) {
        for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
            (head[i], head[i + n]) = rotate(head[i], head[i + n], *cos, *sin);
        }
    }
}

fn rotate(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a.mul_add(cos, -(b * sin)), a.mul_add(sin, b * cos))
}
