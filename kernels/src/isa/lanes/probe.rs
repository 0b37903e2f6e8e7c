//! What a core can do at most: bytes read, and products of bytes that never leave the registers.

use crate::isa::simd::{BOTH_HALVES, Kernel, Simd};

/// Read every byte; returns a sum that depends on all of them.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn read<S: Simd>(bytes: &[u8], sum: &mut i32) {
    struct Read<'a>(&'a [u8], &'a mut i32);
    impl<S: Simd> Kernel<S> for Read<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            const N: usize = 4;
            let Read(bytes, sum) = self;
            let step = N * 4 * S::LANES;
            // SAFETY: as the caller promises; `N` vectors lie within each step.
            unsafe {
                let mut sums = [S::splat_i32(0); N];
                for at in (0..bytes.len() / step * step).step_by(step) {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let bytes = bytes.as_ptr().add(at + i * 4 * S::LANES);
                        *sum = S::add_i32(*sum, S::load_bytes(bytes));
                    }
                }
                for part in sums {
                    *sum = sum.wrapping_add(S::reduce_add_i32(part));
                }
            }
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Read(bytes, sum)) }
}

/// `n_rounds` times as many dot products as there are registers for; returns how many products of bytes that were.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn multiply<S: Simd>(n_rounds: usize, n_products: &mut usize) {
    struct Multiply<'a>(usize, &'a mut usize);
    impl<S: Simd> Kernel<S> for Multiply<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            // Sums enough to hide the latency of an instruction, few enough to leave room for the codes.
            const N: usize = 8;
            let Multiply(n_rounds, n_products) = self;
            // Opaque to the compiler, or it would do the work beforehand; different for each sum, or it would do it once.
            let acts: [i8; 16 * N] = std::hint::black_box(std::array::from_fn(|i| i as i8));
            let sums = std::hint::black_box([1, 2]);
            // SAFETY: as the caller promises; 16 activations for each of the `N` sums.
            unsafe {
                let codes = [S::splat_byte(std::hint::black_box(3)); 4];
                let mut dots = [S::dot_start::<BOTH_HALVES>(0, &sums); N];
                for _ in 0..n_rounds {
                    for (i, dot) in dots.iter_mut().enumerate() {
                        *dot = S::dot_half::<4>(*dot, &codes, acts.as_ptr().add(16 * i));
                    }
                }
                let mut total = S::splat(0.0);
                for dot in dots {
                    total = S::add(total, S::dot_finish::<4, BOTH_HALVES>(dot, 0, &sums));
                }
                std::hint::black_box(S::reduce_max_i32(S::bits(total)));
            }
            *n_products += n_rounds * N * 16 * S::LANES;
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Multiply(n_rounds, n_products)) }
}
