//! What a core can do at most: bytes read, and products of bytes that never leave the registers.

use std::array::from_fn;
use std::hint::black_box;

use crate::isa::simd::{Kernel, Simd};

/// Read every byte, and add to `sum` something that depends on all of them.
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

/// `n_rounds` times as many dot products as there are registers for; adds to `n_products` how many products of bytes that were.
///
/// # Safety
/// The CPU has the instructions of `S`.
pub(crate) unsafe fn multiply<S: Simd>(n_rounds: usize, n_products: &mut usize) {
    struct Multiply<'a>(usize, &'a mut usize);
    impl<S: Simd> Kernel<S> for Multiply<'_> {
        #[inline(always)]
        unsafe fn run(self) {
            let Multiply(n_rounds, n_products) = self;
            // Sums enough to hide the latency of an instruction, few enough to leave room for the codes.
            // SAFETY: as the caller promises.
            *n_products += unsafe {
                match S::MANY_REGISTERS {
                    true => multiply_pairs::<S, 8>(n_rounds),
                    false => multiply_pairs::<S, 4>(n_rounds),
                }
            };
        }
    }
    // SAFETY: as the caller promises.
    unsafe { S::vectorize(Multiply(n_rounds, n_products)) }
}

/// `n_rounds` of half a window's products for each of `N` pairs of sums; returns how many products of bytes that were.
#[inline(always)]
unsafe fn multiply_pairs<S: Simd, const N: usize>(n_rounds: usize) -> usize {
    // Opaque to the compiler, or it would do the work beforehand; different for each sum, or it would do it once.
    let acts: [[[i8; 16]; 2]; N] =
        black_box(from_fn(|i| from_fn(|j| from_fn(|k| (2 * i + j + k) as i8))));
    let minus = black_box(1);
    // SAFETY: as the caller promises; 16 activations for each of the sums.
    unsafe {
        let codes = S::pair_codes([S::splat_byte(3); 4]);
        let mut pairs = [S::pair([S::dot_start(0, &minus); 2]); N];
        for _ in 0..n_rounds {
            // Or products that are the same in every round would be taken from the first.
            let codes = *black_box(&codes);
            for (dots, acts) in pairs.iter_mut().zip(&acts) {
                let acts = [acts[0].as_ptr(), acts[1].as_ptr()];
                *dots = S::dot_half_pair::<4>(*dots, &codes, acts);
            }
        }
        let mut total = S::splat(0.0);
        for dots in pairs {
            let [a, b] = S::unpair(dots);
            total = S::add(total, S::dot_finish::<4>(a, 0, &minus));
            total = S::add(total, S::dot_finish::<4>(b, 0, &minus));
        }
        black_box(S::reduce_max_i32(S::bits(total)));
    }
    n_rounds * N * 2 * 16 * S::LANES
}
