//! Root-mean-square normalisation: the 16 virtual lanes are two vectors.

use std::arch::x86_64::*;

use super::LANES;
use super::elementwise::{load, store};

/// See `scalar/norm.rs`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let scale = 1.0 / (sum_of_squares(x) / n as f32 + eps).sqrt();
        let (weight, weight_rest) = weight.as_chunks::<LANES>();
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (out, out_rest) = out.as_chunks_mut::<LANES>();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            store(
                out,
                _mm256_mul_ps(_mm256_mul_ps(load(x), _mm256_set1_ps(scale)), load(weight)),
            );
        }
        for ((out, x), weight) in out_rest.iter_mut().zip(x_rest).zip(weight_rest) {
            *out = x * scale * weight;
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (x, rest) = x.as_chunks::<{ 2 * LANES }>();
    let mut lanes = [_mm256_setzero_ps(); 2];
    let mut add = |x: &[f32; 2 * LANES]| {
        for (lane, x) in lanes.iter_mut().zip(x.as_chunks::<LANES>().0) {
            let x = load(x);
            *lane = _mm256_fmadd_ps(x, x, *lane);
        }
    };
    x.iter().for_each(&mut add);
    // Adding the square of 0 to a sum of squares changes nothing.
    let mut padded = [0.0; 2 * LANES];
    padded[..rest.len()].copy_from_slice(rest);
    add(&padded);
    sum_lanes(lanes)
}

/// The fixed tree over 16 lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum_lanes([low, high]: [__m256; 2]) -> f32 {
    let eight = _mm256_add_ps(low, high);
    let four = _mm_add_ps(
        _mm256_castps256_ps128(eight),
        _mm256_extractf128_ps::<1>(eight),
    );
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
