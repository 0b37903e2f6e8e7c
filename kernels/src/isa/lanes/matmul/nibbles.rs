//! Codes of the types with blocks of 32: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
#![allow(non_camel_case_types)] // the format's own names

use super::{Codes, dots_of_bits};
use crate::isa::simd::Simd;

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;

/// Scale and minimum of each row.
pub(super) struct ScaleMin<S: Simd> {
    d: S::F,
    m: S::F,
}

/// Bytes of one f16 for each row, and of one vector of codes, which is also that of a 32-bit mask for each row.
const fn scales_bytes<S: Simd>() -> usize {
    2 * S::LANES
}
pub(super) const fn vector_bytes<S: Simd>() -> usize {
    4 * S::LANES
}

/// The low (`high` 0) or high (`high` 1) nibbles of four vectors.
///
/// # Safety
/// As for [`Codes`]; four vectors are readable.
#[inline(always)]
pub(super) unsafe fn nibbles<S: Simd>(from: *const u8, high: usize) -> [S::I; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        let mask = S::splat_byte(15);
        let mut codes = [mask; 4];
        for (g, codes) in codes.iter_mut().enumerate() {
            let bytes = S::load_bytes(from.add(g * vector_bytes::<S>()));
            let bytes = if high == 0 {
                bytes
            } else {
                S::shr_16::<4>(bytes)
            };
            *codes = S::and(bytes, mask);
        }
        codes
    }
}

/// Nibbles of Q5_0 and Q5_1 with their fifth bits: bit g of a mask byte belongs to k-group g of the window.
///
/// # Safety
/// As for [`Codes`]; the masks and four vectors of nibbles are readable.
#[inline(always)]
unsafe fn fives<S: Simd>(masks: *const u8, half: usize) -> [S::I; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut codes = nibbles::<S>(masks.add(vector_bytes::<S>()), half);
        let bits = S::load_bytes(masks);
        let at_4 = match half {
            0 => [
                S::shl_16::<4>(bits),
                S::shl_16::<3>(bits),
                S::shl_16::<2>(bits),
                S::shl_16::<1>(bits),
            ],
            _ => [
                bits,
                S::shr_16::<1>(bits),
                S::shr_16::<2>(bits),
                S::shr_16::<3>(bits),
            ],
        };
        let fifth = S::splat_byte(16);
        for (code, bits) in codes.iter_mut().zip(at_4) {
            *code = S::or(*code, S::and(bits, fifth));
        }
        codes
    }
}

/// Four vectors of signed bytes.
///
/// # Safety
/// As for [`Codes`]; both halves' eight vectors are readable.
#[inline(always)]
unsafe fn eights<S: Simd>(from: *const u8, half: usize) -> [S::I; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut codes = [S::splat_byte(0); 4];
        for (g, codes) in codes.iter_mut().enumerate() {
            *codes = S::load_bytes(from.add((half * 4 + g) * vector_bytes::<S>()));
        }
        codes
    }
}

macro_rules! codes_of_32 {
    ($ty:ident, $block:expr, bits $bits:expr, zero $zero:expr, min $min:expr, $codes:ident) => {
        impl Codes for $ty {
            const ROW_BLOCK: usize = $block;
            const WINDOWS: usize = 1;
            const ZERO: i32 = $zero;
            const HAS_MIN: bool = $min;

            type Scales<S: Simd> = ScaleMin<S>;

            dots_of_bits!($bits);

            #[inline(always)]
            unsafe fn scales<S: Simd>(block: *const u8) -> ScaleMin<S> {
                // SAFETY: a block begins with its scales and, where it has them, minimums.
                unsafe {
                    let m = match $min {
                        true => S::load_f16(block.add(scales_bytes::<S>())),
                        false => S::splat(0.0),
                    };
                    ScaleMin {
                        d: S::load_f16(block),
                        m,
                    }
                }
            }

            #[inline(always)]
            unsafe fn d<S: Simd, const WINDOW: usize>(scales: &ScaleMin<S>) -> S::F {
                scales.d
            }

            #[inline(always)]
            unsafe fn m<S: Simd, const WINDOW: usize>(scales: &ScaleMin<S>) -> S::F {
                scales.m
            }

            #[inline(always)]
            unsafe fn codes<S: Simd, const WINDOW: usize, const HALF: usize>(
                block: *const u8,
            ) -> [S::I; 4] {
                let n_scales = if $min { 2 } else { 1 };
                // SAFETY: the codes follow the scales and minimums of the block.
                unsafe { $codes::<S>(block.add(n_scales * scales_bytes::<S>()), HALF) }
            }
        }
    };
}

codes_of_32!(Q4_0, 18, bits 4, zero 8, min false, nibbles);
codes_of_32!(Q4_1, 20, bits 4, zero 0, min true, nibbles);
codes_of_32!(Q5_0, 22, bits 5, zero 16, min false, fives);
codes_of_32!(Q5_1, 24, bits 5, zero 0, min true, fives);
codes_of_32!(Q8_0, 34, bits 8, zero 0, min false, eights);
