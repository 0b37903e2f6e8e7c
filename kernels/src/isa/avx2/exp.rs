//! exp and tanh of eight lanes: the operations of `scalar/exp.rs` one for one, so the bits are its bits.

use std::arch::x86_64::*;

use crate::isa::scalar::exp::{
    EXP_MAX, EXP_MIN, EXP_TERMS, LN2_HIGH, LN2_LOW, TANH_SMALL, TANH_TERMS,
};

/// e to each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exp(x: __m256) -> __m256 {
    let n = _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(n);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-LN2_HIGH), x);
    let r = _mm256_fmadd_ps(n, _mm256_set1_ps(-LN2_LOW), r);
    let p = _mm256_fmadd_ps(_mm256_mul_ps(r, r), polynomial(&EXP_TERMS, r), r);
    let p = _mm256_castps_si256(_mm256_add_ps(p, _mm256_set1_ps(1.0)));
    let y = _mm256_add_epi32(p, _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n)));
    // Lanes out of range hold garbage so far.
    let y = _mm256_castsi256_ps(y);
    let y = _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(EXP_MIN)), y);
    let too_large = _mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_set1_ps(EXP_MAX));
    let y = _mm256_blendv_ps(y, _mm256_set1_ps(f32::INFINITY), too_large);
    _mm256_blendv_ps(
        y,
        _mm256_set1_ps(f32::NAN),
        _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x),
    )
}

/// The hyperbolic tangent of each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tanh(x: __m256) -> __m256 {
    let sign = _mm256_set1_ps(-0.0);
    let size = _mm256_andnot_ps(sign, x);
    let square = _mm256_mul_ps(x, x);
    let small = _mm256_fmadd_ps(_mm256_mul_ps(x, square), polynomial(&TANH_TERMS, square), x);
    let one = _mm256_set1_ps(1.0);
    let t = exp(_mm256_mul_ps(_mm256_set1_ps(-2.0), size));
    let large = _mm256_div_ps(_mm256_sub_ps(one, t), _mm256_add_ps(one, t));
    let large = _mm256_or_ps(_mm256_andnot_ps(sign, large), _mm256_and_ps(sign, x));
    _mm256_blendv_ps(
        large,
        small,
        _mm256_cmp_ps::<_CMP_LT_OQ>(size, _mm256_set1_ps(TANH_SMALL)),
    )
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn polynomial(terms: &[f32; 5], x: __m256) -> __m256 {
    let mut y = _mm256_set1_ps(terms[4]);
    for term in terms[..4].iter().rev() {
        y = _mm256_fmadd_ps(y, x, _mm256_set1_ps(*term));
    }
    y
}
