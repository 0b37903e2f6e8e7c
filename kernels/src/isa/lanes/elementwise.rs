//! Element-wise operations, a vector at a time; what does not fill one is left to the scalar code.

use super::exp::{exp, tanh};
use crate::isa::scalar;
use crate::isa::scalar::elementwise::{GELU_CUBIC, GELU_SCALE};
use crate::isa::simd::{Kernel, Simd};

/// Elements of `len` that fill vectors.
fn whole<S: Simd>(len: usize) -> usize {
    len / S::LANES * S::LANES
}

/// `x += y`.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn add_assign<S: Simd>(x: &mut [f32], y: &[f32]) {
    struct AddAssign<'a>(&'a mut [f32], &'a [f32]);
    impl<S: Simd> Kernel<S> for AddAssign<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let AddAssign(x, y) = self;
            assert_eq!(x.len(), y.len());
            let n = whole::<S>(x.len());
            for i in (0..n).step_by(S::LANES) {
                // SAFETY: a vector from `i` lies within both.
                unsafe {
                    let to = x.as_mut_ptr().add(i);
                    S::store(to, S::add(S::load(to), S::load(y.as_ptr().add(i))));
                }
            }
            scalar::elementwise::add_assign(&mut x[n..], &y[n..]);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(AddAssign(x, y)) }
}

/// `x *= factor`.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn scale<S: Simd>(x: &mut [f32], factor: f32) {
    struct Scale<'a>(&'a mut [f32], f32);
    impl<S: Simd> Kernel<S> for Scale<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let Scale(x, factor) = self;
            let n = whole::<S>(x.len());
            // SAFETY: vectors lie within `x`.
            unsafe { each::<S>(&mut x[..n], |x| S::mul(x, S::splat(factor))) };
            scalar::elementwise::scale(&mut x[n..], factor);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Scale(x, factor)) }
}

/// `x = cap * tanh(x / cap)`.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn softcap<S: Simd>(x: &mut [f32], cap: f32) {
    struct Softcap<'a>(&'a mut [f32], f32);
    impl<S: Simd> Kernel<S> for Softcap<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let Softcap(x, cap) = self;
            let n = whole::<S>(x.len());
            // SAFETY: vectors lie within `x`.
            unsafe { each::<S>(&mut x[..n], |x| softcap_lanes::<S>(x, cap)) };
            scalar::elementwise::softcap(&mut x[n..], cap);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Softcap(x, cap)) }
}

/// `cap * tanh(x / cap)`.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn softcap_lanes<S: Simd>(x: S::F, cap: f32) -> S::F {
    // SAFETY: as the caller promises.
    unsafe {
        let cap = S::splat(cap);
        S::mul(cap, tanh::<S>(S::div(x, cap)))
    }
}

/// `x = f(x)`, for whole vectors.
#[inline(always)]
unsafe fn each<S: Simd>(x: &mut [f32], f: impl Fn(S::F) -> S::F) {
    for i in (0..x.len()).step_by(S::LANES) {
        // SAFETY: a vector from `i` lies within `x`, whose length is whole vectors.
        unsafe {
            let place = x.as_mut_ptr().add(i);
            S::store(place, f(S::load(place)));
        }
    }
}

/// `out = silu(gate) * up`.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn silu_mul<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    struct Silu<'a>(&'a [f32], &'a [f32], &'a mut [f32]);
    impl<S: Simd> Kernel<S> for Silu<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let Silu(gate, up, out) = self;
            // SAFETY: as the caller promises.
            let n = unsafe { gated::<S>(gate, up, out, |x| S::mul(x, S::splat(-1.0))) };
            scalar::elementwise::silu_mul(&gate[n..], &up[n..], &mut out[n..]);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Silu(gate, up, out)) }
}

/// `out = gelu(gate) * up`.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn gelu_tanh_mul<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    struct Gelu<'a>(&'a [f32], &'a [f32], &'a mut [f32]);
    impl<S: Simd> Kernel<S> for Gelu<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let Gelu(gate, up, out) = self;
            // SAFETY: as the caller promises.
            let n = unsafe {
                gated::<S>(gate, up, out, |x| {
                    let cubic = S::mul(S::mul(x, x), S::splat(GELU_CUBIC));
                    let u = S::mul(S::splat(GELU_SCALE), S::fma(cubic, x, x));
                    S::mul(S::splat(-2.0), u)
                })
            };
            scalar::elementwise::gelu_tanh_mul(&gate[n..], &up[n..], &mut out[n..]);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Gelu(gate, up, out)) }
}

/// `out = gate / (1 + exp(exponent(gate))) * up` for whole vectors; returns how many elements these are.
#[inline(always)]
unsafe fn gated<S: Simd>(
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
    exponent: impl Fn(S::F) -> S::F,
) -> usize {
    assert!(gate.len() == up.len() && up.len() == out.len());
    let n = whole::<S>(out.len());
    for i in (0..n).step_by(S::LANES) {
        // SAFETY: a vector from `i` lies within all three.
        unsafe {
            let gate = S::load(gate.as_ptr().add(i));
            let below = S::add(S::splat(1.0), exp::<S>(exponent(gate)));
            let up = S::load(up.as_ptr().add(i));
            S::store(out.as_mut_ptr().add(i), S::mul(S::div(gate, below), up));
        }
    }
    n
}
