//! Element-wise operations, eight lanes at a time; what does not fill a vector is left to the scalar code.

use std::arch::x86_64::*;

use super::LANES;
use super::exp::{exp, tanh};
use crate::isa::scalar::elementwise::{GELU_CUBIC, GELU_SCALE};

/// `x += y`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn add_assign(x: &mut [f32], y: &[f32]) {
    let (x, x_rest) = x.as_chunks_mut::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x.iter_mut().zip(y) {
        store(x, _mm256_add_ps(load(x), load(y)));
    }
    crate::isa::scalar::elementwise::add_assign(x_rest, y_rest);
}

/// `x *= factor`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn scale(x: &mut [f32], factor: f32) {
    let (x, rest) = x.as_chunks_mut::<LANES>();
    for x in x {
        store(x, _mm256_mul_ps(load(x), _mm256_set1_ps(factor)));
    }
    crate::isa::scalar::elementwise::scale(rest, factor);
}

/// `x = cap * tanh(x / cap)`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn softcap(x: &mut [f32], cap: f32) {
    let (x, rest) = x.as_chunks_mut::<LANES>();
    for x in x {
        store(x, softcap_lanes(load(x), _mm256_set1_ps(cap)));
    }
    crate::isa::scalar::elementwise::softcap(rest, cap);
}

/// `cap * tanh(x / cap)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn softcap_lanes(x: __m256, cap: __m256) -> __m256 {
    _mm256_mul_ps(cap, tanh(_mm256_div_ps(x, cap)))
}

/// `out = silu(gate) * up`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let negative = _mm256_set1_ps(-0.0);
    gated(
        gate,
        up,
        out,
        |gate| _mm256_xor_ps(gate, negative),
        crate::isa::scalar::elementwise::silu_mul,
    );
}

/// `out = gelu(gate) * up`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let exponent = |gate: __m256| {
        let cubic = _mm256_mul_ps(_mm256_mul_ps(gate, gate), _mm256_set1_ps(GELU_CUBIC));
        let u = _mm256_mul_ps(
            _mm256_set1_ps(GELU_SCALE),
            _mm256_fmadd_ps(cubic, gate, gate),
        );
        _mm256_mul_ps(_mm256_set1_ps(-2.0), u)
    };
    gated(
        gate,
        up,
        out,
        exponent,
        crate::isa::scalar::elementwise::gelu_tanh_mul,
    );
}

/// `out = gate / (1 + exp(exponent(gate))) * up`; `rest` computes what does not fill a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gated(
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
    exponent: impl Fn(__m256) -> __m256,
    rest: impl Fn(&[f32], &[f32], &mut [f32]),
) {
    let (gate, gate_rest) = gate.as_chunks::<LANES>();
    let (up, up_rest) = up.as_chunks::<LANES>();
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let gate = load(gate);
        let below = _mm256_add_ps(_mm256_set1_ps(1.0), exp(exponent(gate)));
        store(out, _mm256_mul_ps(_mm256_div_ps(gate, below), load(up)));
    }
    rest(gate_rest, up_rest, out_rest);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load(from: &[f32; LANES]) -> __m256 {
    // SAFETY: eight elements are readable.
    unsafe { _mm256_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store(to: &mut [f32; LANES], lanes: __m256) {
    // SAFETY: eight elements are writable.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), lanes) };
}
