//! exp and tanh of a vector: the operations of `scalar/exp.rs` one for one, so the bits are its bits.

use crate::isa::scalar::exp::{
    EXP_MAX, EXP_MIN, EXP_TERMS, LN2_HIGH, LN2_LOW, TANH_SMALL, TANH_TERMS,
};
use crate::isa::simd::Simd;

/// e to each lane.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises.
    unsafe {
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-LN2_HIGH), x);
        let r = S::fma(n, S::splat(-LN2_LOW), r);
        let p = S::fma(S::mul(r, r), polynomial::<S>(&EXP_TERMS, r), r);
        let p = S::bits(S::add(p, S::splat(1.0)));
        let y = S::from_bits(S::add_i32(p, S::shl_i32::<23>(S::to_i32(n))));
        // Lanes out of range hold garbage so far.
        let y = S::select(S::lt(x, S::splat(EXP_MIN)), S::splat(0.0), y);
        let y = S::select(S::lt(S::splat(EXP_MAX), x), S::splat(f32::INFINITY), y);
        S::select(S::is_nan(x), S::splat(f32::NAN), y)
    }
}

/// The hyperbolic tangent of each lane.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises.
    unsafe {
        let (size, square) = (S::abs(x), S::mul(x, x));
        let small = S::fma(S::mul(x, square), polynomial::<S>(&TANH_TERMS, square), x);
        let one = S::splat(1.0);
        let t = exp::<S>(S::mul(S::splat(-2.0), size));
        let large = S::copysign(S::div(S::sub(one, t), S::add(one, t)), x);
        S::select(S::lt(size, S::splat(TANH_SMALL)), small, large)
    }
}

#[inline(always)]
unsafe fn polynomial<S: Simd>(terms: &[f32; 5], x: S::F) -> S::F {
    // SAFETY: as the caller promises.
    unsafe {
        let mut y = S::splat(terms[4]);
        for term in terms[..4].iter().rev() {
            y = S::fma(y, x, S::splat(*term));
        }
        y
    }
}
