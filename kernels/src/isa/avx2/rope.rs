//! Rotary position embedding, four or eight pairs at a time; odd dimensions are left to the scalar code.

use std::arch::x86_64::*;

use super::LANES;
use super::elementwise::{load, store};

/// Pairs of neighbours in a vector.
const PAIRS: usize = LANES / 2;

/// Neighbouring pairs.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn norm(x: &mut [f32], head_dim: usize, table: &[f32]) {
    let n = table.len() / 2;
    if !n.is_multiple_of(PAIRS) {
        return crate::isa::scalar::rope::norm(x, head_dim, table);
    }
    let (cos, sin) = table.split_at(n);
    for head in x.chunks_exact_mut(head_dim) {
        let angles = cos
            .as_chunks::<PAIRS>()
            .0
            .iter()
            .zip(sin.as_chunks::<PAIRS>().0);
        for (pairs, (cos, sin)) in head.as_chunks_mut::<LANES>().0.iter_mut().zip(angles) {
            let x = load(pairs);
            let (a, b) = (_mm256_moveldup_ps(x), _mm256_movehdup_ps(x));
            let cos_sin = alternate(cos, sin);
            let b_turned = _mm256_mul_ps(b, _mm256_permute_ps::<0b10_11_00_01>(cos_sin));
            // Even lanes a cos - b sin, odd lanes a sin + b cos.
            store(pairs, _mm256_fmaddsub_ps(a, cos_sin, b_turned));
        }
    }
}

/// cos 0, sin 0, cos 1, sin 1, …
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn alternate(cos: &[f32; PAIRS], sin: &[f32; PAIRS]) -> __m256 {
    // SAFETY: four elements are readable.
    let (cos, sin) = unsafe { (_mm_loadu_ps(cos.as_ptr()), _mm_loadu_ps(sin.as_ptr())) };
    _mm256_set_m128(_mm_unpackhi_ps(cos, sin), _mm_unpacklo_ps(cos, sin))
}

/// Pairs half the rotary dimension apart.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn neox(x: &mut [f32], head_dim: usize, table: &[f32]) {
    let n = table.len() / 2;
    if !n.is_multiple_of(LANES) {
        return crate::isa::scalar::rope::neox(x, head_dim, table);
    }
    let (cos, sin) = table.split_at(n);
    for head in x.chunks_exact_mut(head_dim) {
        let (first, second) = head[..2 * n].split_at_mut(n);
        let pairs = first
            .as_chunks_mut::<LANES>()
            .0
            .iter_mut()
            .zip(second.as_chunks_mut::<LANES>().0);
        let angles = cos
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(sin.as_chunks::<LANES>().0);
        for ((first, second), (cos, sin)) in pairs.zip(angles) {
            let (a, b, cos, sin) = (load(first), load(second), load(cos), load(sin));
            store(first, _mm256_fmsub_ps(a, cos, _mm256_mul_ps(b, sin)));
            store(second, _mm256_fmadd_ps(a, sin, _mm256_mul_ps(b, cos)));
        }
    }
}
