//! Rotary position embedding, a vector of pairs at a time; odd dimensions are left to the scalar code.

use crate::isa::scalar;
use crate::isa::simd::{Kernel, Simd};

/// Neighbouring pairs.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn norm<S: Simd>(x: &mut [f32], head_dim: usize, table: &[f32]) {
    if !(table.len() / 2).is_multiple_of(S::LANES) {
        return scalar::rope::norm(x, head_dim, table);
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Norm(Turn { x, head_dim, table })) }
}

/// Pairs half the rotary dimension apart.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn neox<S: Simd>(x: &mut [f32], head_dim: usize, table: &[f32]) {
    if !(table.len() / 2).is_multiple_of(S::LANES) {
        return scalar::rope::neox(x, head_dim, table);
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Neox(Turn { x, head_dim, table })) }
}

struct Turn<'a> {
    x: &'a mut [f32],
    head_dim: usize,
    table: &'a [f32],
}

struct Norm<'a>(Turn<'a>);
struct Neox<'a>(Turn<'a>);

impl<S: Simd> Kernel<S> for Norm<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let (cos, sin) = self.0.table.split_at(self.0.table.len() / 2);
        for head in self.0.x.chunks_exact_mut(self.0.head_dim) {
            let head = &mut head[..2 * cos.len()];
            for i in (0..cos.len()).step_by(S::LANES) {
                // SAFETY: as the caller promises; `LANES` pairs from `i` lie within the head.
                unsafe {
                    let place = head.as_mut_ptr().add(2 * i);
                    let (a, b) = S::deinterleave(S::load(place), S::load(place.add(S::LANES)));
                    let (a, b) = rotate::<S>(a, b, &cos[i..], &sin[i..]);
                    let (low, high) = S::interleave(a, b);
                    S::store(place, low);
                    S::store(place.add(S::LANES), high);
                }
            }
        }
    }
}

impl<S: Simd> Kernel<S> for Neox<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let (cos, sin) = self.0.table.split_at(self.0.table.len() / 2);
        for head in self.0.x.chunks_exact_mut(self.0.head_dim) {
            let (first, second) = head[..2 * cos.len()].split_at_mut(cos.len());
            for i in (0..cos.len()).step_by(S::LANES) {
                // SAFETY: as the caller promises; a vector from `i` lies within each half.
                unsafe {
                    let (first, second) = (first.as_mut_ptr().add(i), second.as_mut_ptr().add(i));
                    let (a, b) = rotate::<S>(S::load(first), S::load(second), &cos[i..], &sin[i..]);
                    S::store(first, a);
                    S::store(second, b);
                }
            }
        }
    }
}

/// `(fma(a, cos, -(b sin)), fma(a, sin, b cos))`.
#[inline(always)]
unsafe fn rotate<S: Simd>(a: S::F, b: S::F, cos: &[f32], sin: &[f32]) -> (S::F, S::F) {
    assert!(cos.len() >= S::LANES && sin.len() >= S::LANES);
    // SAFETY: as the caller promises; a vector of each is readable.
    unsafe {
        let (cos, sin) = (S::load(cos.as_ptr()), S::load(sin.as_ptr()));
        // The sign of a product is exact.
        let minus_sin = S::mul(S::splat(-1.0), sin);
        (
            S::fma(a, cos, S::mul(b, minus_sin)),
            S::fma(a, sin, S::mul(b, cos)),
        )
    }
}
