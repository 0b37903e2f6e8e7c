//! Root-mean-square normalisation and the 16-lane sum: the law.
//!
//! A sum over a row has 16 virtual lanes: lane j takes elements j, j + 16, … in order; then the lanes are added in a fixed tree,
//! lane i and i + 8, then i + 4, i + 2, i + 1. So any vector width up to 16 gives the same bits.

/// Virtual lanes of a sum.
pub(crate) const LANES: usize = 16;

/// `out = x / rms(x) * weight` for each row of `weight.len()` elements: `scale = 1 / sqrt(sum of squares / n + eps)`, then
/// `(x * scale) * weight`. Squares are added with fused multiply-add in 16 lanes.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let mut lanes = [0f32; LANES];
        for x in x.chunks(LANES) {
            for (lane, x) in lanes.iter_mut().zip(x) {
                *lane = x.mul_add(*x, *lane);
            }
        }
        let scale = 1.0 / (sum_lanes(lanes) / n as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// The fixed tree.
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}
