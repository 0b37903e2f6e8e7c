//! Root-mean-square normalisation: the 16 virtual lanes are one vector or two.

use crate::isa::scalar::norm::LANES as SUM_LANES;
use crate::isa::simd::{Kernel, Simd};

/// See `scalar/norm.rs`.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn rms_norm<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        S::vectorize(RmsNorm {
            x,
            weight,
            eps,
            out,
        })
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl<S: Simd> Kernel<S> for RmsNorm<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let RmsNorm {
            x,
            weight,
            eps,
            out,
        } = self;
        let n = weight.len();
        let whole = n / S::LANES * S::LANES;
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            // SAFETY: as the caller promises; vectors from `i` lie within the row.
            unsafe {
                let scale = 1.0 / (sum_of_squares::<S>(x) / n as f32 + eps).sqrt();
                for i in (0..whole).step_by(S::LANES) {
                    let scaled = S::mul(S::load(x.as_ptr().add(i)), S::splat(scale));
                    let normed = S::mul(scaled, S::load(weight.as_ptr().add(i)));
                    S::store(out.as_mut_ptr().add(i), normed);
                }
                for i in whole..n {
                    out[i] = x[i] * scale * weight[i];
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(x: &[f32]) -> f32 {
    let (x, rest) = x.as_chunks::<SUM_LANES>();
    // Adding the square of 0 to a sum of squares changes nothing.
    let mut padded = [0.0; SUM_LANES];
    padded[..rest.len()].copy_from_slice(rest);
    // SAFETY: as the caller promises; a chunk is one vector or two.
    unsafe {
        let mut sums = [S::splat(0.0); 2];
        for x in x.iter().chain([&padded]) {
            let vectors = sums.iter_mut().take(SUM_LANES / S::LANES);
            for (i, sum) in vectors.enumerate() {
                let x = S::load(x.as_ptr().add(i * S::LANES));
                *sum = S::fma(x, x, *sum);
            }
        }
        S::sum_16(sums)
    }
}
