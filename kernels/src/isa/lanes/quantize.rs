//! How activations are quantised: a window at a time. The law is in `scalar/quantize.rs`.

use crate::isa::scalar::quantize::scale_of;
use crate::isa::simd::{Kernel, Simd};
use crate::rows::{ACT_BLOCK, ActBlock, HALF_ZERO};

/// Quantise one row: `x` is `(32 * n)`, its blocks go to every `stride`-th of `out`.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn row<S: Simd>(x: &[f32], out: &mut [ActBlock], stride: usize) {
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Row { x, out, stride }) }
}

struct Row<'a> {
    x: &'a [f32],
    out: &'a mut [ActBlock],
    stride: usize,
}

impl<S: Simd> Kernel<S> for Row<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let (x, rest) = self.x.as_chunks::<ACT_BLOCK>();
        assert!(rest.is_empty() && x.len() <= self.out.len().div_ceil(self.stride));
        for (x, out) in x.iter().zip(self.out.iter_mut().step_by(self.stride)) {
            // SAFETY: as the caller promises.
            unsafe { window::<S>(x, out) };
        }
    }
}

/// One block: two or four vectors.
#[inline(always)]
unsafe fn window<S: Simd>(x: &[f32; ACT_BLOCK], out: &mut ActBlock) {
    // SAFETY: as the caller promises; vectors from `i` lie within the block.
    unsafe {
        let at = |i: usize| S::load(x.as_ptr().add(i));
        let mut max = S::bits(S::splat(0.0));
        for i in (0..ACT_BLOCK).step_by(S::LANES) {
            max = S::max_i32(max, S::bits(S::abs(at(i))));
        }
        let (d, inverse) = scale_of(S::reduce_max_i32(max) as u32, |d| d);
        // `inverse` is 0 for a block without codes; what it is multiplied with may still be a NaN.
        let code = |i: usize| match inverse == 0.0 {
            true => S::splat_i32(0),
            false => S::to_i32(S::mul(at(i), S::splat(inverse))),
        };
        let mut sums = [0; 2];
        for (half, total) in sums.iter_mut().enumerate() {
            let mut sum = S::splat_i32(0);
            for i in (half * 16..half * 16 + 16).step_by(S::LANES) {
                // The largest is 127 by choice of the scale, give or take a rounding.
                let code = code(i);
                sum = S::add_i32(sum, code);
                S::store_i8(out.codes.as_mut_ptr().add(i), code);
            }
            *total = S::reduce_add_i32(sum);
        }
        let [low, high] = sums;
        out.d = d;
        out.s = d * (low + high) as f32;
        out.minus = [-HALF_ZERO * low, -HALF_ZERO * high, -(low + high)];
    }
}
