//! Codes of the types with blocks of 256: Q4_K, Q5_K, Q6_K.
//!
//! Within a tile everything is as many bytes as in one row's block, times the rows: offsets are those of the format times `LANES`.
#![allow(non_camel_case_types)] // the format's own names

use super::nibbles::{nibbles, vector_bytes};
use super::{Codes, dots_of_bits};
use crate::isa::simd::Simd;

pub(super) struct Q4_K;
pub(super) struct Q5_K;
pub(super) struct Q6_K;

/// Where the parts of a Q4_K or Q5_K block begin: d, dmin, 12 bytes of packed scales, then codes.
const MIN_FACTORS: usize = 2;
const PACKED_SCALES: usize = 4;
const AFTER_SCALES: usize = 16;
/// Q5_K: fifth bits, one byte for the eight windows, before the nibbles.
const Q5_NIBBLES: usize = AFTER_SCALES + 32;
/// Q6_K: d, sub-scales, then two halves of 96 bytes, each in the order of use: 16 bytes of nibbles, 16 of upper bits, 16 of nibbles, 16 of
/// upper bits, and 32 of nibbles.
const Q6_SUB: usize = 2;
const Q6_CODES: usize = Q6_SUB + 16;
const Q6_SIDE: usize = 96;

/// Scales of a Q4_K or Q5_K block: the f16 factors, and for each window the rows' 6-bit integers as bytes.
pub(super) struct SixBit<S: Simd> {
    d: S::F,
    /// Negated.
    dmin: S::F,
    scales: [S::I; 2],
    mins: [S::I; 2],
}

/// # Safety
/// As for [`Codes`]; `block` begins a Q4_K or Q5_K block.
#[inline(always)]
unsafe fn six_bit<S: Simd>(block: *const u8) -> SixBit<S> {
    // SAFETY: as the caller promises: twelve bytes a row, four of them a vector.
    unsafe {
        let packed = block.add(PACKED_SCALES * S::LANES);
        let a = S::load_bytes(packed);
        let b = S::load_bytes(packed.add(vector_bytes::<S>()));
        let c = S::load_bytes(packed.add(2 * vector_bytes::<S>()));
        let (low6, low4, top2) = (S::splat_byte(63), S::splat_byte(15), S::splat_byte(0x30));
        let (top_a, top_b) = (S::shr_16::<2>(a), S::shr_16::<2>(b));
        let high_scales = S::or(S::and(c, low4), S::and(top_a, top2));
        let high_mins = S::or(S::and(S::shr_16::<4>(c), low4), S::and(top_b, top2));
        let dmin = S::load_f16(block.add(MIN_FACTORS * S::LANES));
        SixBit {
            d: S::load_f16(block),
            dmin: S::mul(dmin, S::splat(-1.0)),
            scales: [S::and(a, low6), high_scales],
            mins: [S::and(b, low6), high_mins],
        }
    }
}

/// The bytes of one window as f32.
#[inline(always)]
unsafe fn window_of<S: Simd>(bytes: &[S::I; 2], window: usize) -> S::F {
    // SAFETY: two vectors are eight bytes a row, and there are eight windows.
    unsafe { S::load_u8(bytes.as_ptr().cast::<u8>().add(window % 8 * S::LANES)) }
}

macro_rules! six_bit_codes {
    ($ty:ident, $block:expr, bits $bits:expr, $codes:ident) => {
        impl Codes for $ty {
            const ROW_BLOCK: usize = $block;
            const WINDOWS: usize = 8;
            const HAS_MIN: bool = true;

            type Scales<S: Simd> = SixBit<S>;

            dots_of_bits!($bits);

            #[inline(always)]
            unsafe fn scales<S: Simd>(block: *const u8) -> SixBit<S> {
                // SAFETY: as for the trait.
                unsafe { six_bit::<S>(block) }
            }

            #[inline(always)]
            unsafe fn d<S: Simd, const WINDOW: usize>(scales: &SixBit<S>) -> S::F {
                // SAFETY: as for the trait.
                unsafe { S::mul(scales.d, window_of::<S>(&scales.scales, WINDOW)) }
            }

            #[inline(always)]
            unsafe fn m<S: Simd, const WINDOW: usize>(scales: &SixBit<S>) -> S::F {
                // SAFETY: as for the trait.
                unsafe { S::mul(scales.dmin, window_of::<S>(&scales.mins, WINDOW)) }
            }

            #[inline(always)]
            unsafe fn codes<S: Simd, const WINDOW: usize, const HALF: usize>(
                block: *const u8,
            ) -> [S::I; 4] {
                // SAFETY: as for the trait.
                unsafe { $codes::<S>(block, WINDOW, HALF) }
            }
        }
    };
}

six_bit_codes!(Q4_K, 144, bits 4, q4_k_codes);
six_bit_codes!(Q5_K, 176, bits 5, q5_k_codes);

/// # Safety
/// As for [`Codes`].
#[inline(always)]
unsafe fn q4_k_codes<S: Simd>(block: *const u8, window: usize, half: usize) -> [S::I; 4] {
    // 32 bytes a row hold an even window in low and the next one in high nibbles.
    let at = (AFTER_SCALES + window / 2 * 32 + half * 16) * S::LANES;
    // SAFETY: as for the trait.
    unsafe { nibbles::<S>(block.add(at), window % 2) }
}

/// # Safety
/// As for [`Codes`].
#[inline(always)]
unsafe fn q5_k_codes<S: Simd>(block: *const u8, window: usize, half: usize) -> [S::I; 4] {
    let at = (Q5_NIBBLES + window / 2 * 32 + half * 16) * S::LANES;
    // SAFETY: as for the trait. Nibbles lie as in Q4_K; the byte beside a code holds its fifth bit at the window's number.
    unsafe {
        let mut codes = nibbles::<S>(block.add(at), window % 2);
        let fifths = block.add((AFTER_SCALES + half * 16) * S::LANES);
        let fifth = S::splat_byte(0x10);
        for (g, code) in codes.iter_mut().enumerate() {
            let bits = S::load_bytes(fifths.add(g * vector_bytes::<S>()));
            let bits = match window {
                0 => S::shl_16::<4>(bits),
                1 => S::shl_16::<3>(bits),
                2 => S::shl_16::<2>(bits),
                3 => S::shl_16::<1>(bits),
                4 => bits,
                5 => S::shr_16::<1>(bits),
                6 => S::shr_16::<2>(bits),
                _ => S::shr_16::<3>(bits),
            };
            *code = S::or(*code, S::and(bits, fifth));
        }
        codes
    }
}

impl Codes for Q6_K {
    const ROW_BLOCK: usize = 210;
    const WINDOWS: usize = 8;
    const ZERO: i32 = 32;
    const HAS_SUB: bool = true;

    /// d of each row.
    type Scales<S: Simd> = S::F;

    dots_of_bits!(6);

    #[inline(always)]
    unsafe fn scales<S: Simd>(block: *const u8) -> S::F {
        // SAFETY: as for the trait.
        unsafe { S::load_f16(block) }
    }

    #[inline(always)]
    unsafe fn d<S: Simd, const WINDOW: usize>(scales: &S::F) -> S::F {
        *scales
    }

    #[inline(always)]
    unsafe fn sub<S: Simd, const HALF: usize>(block: *const u8, window: usize) -> S::F {
        // SAFETY: as for the trait: 16 bytes a row.
        unsafe { S::load_i8(block.add((Q6_SUB + window * 2 + HALF) * S::LANES)) }
    }

    #[inline(always)]
    unsafe fn codes<S: Simd, const WINDOW: usize, const HALF: usize>(
        block: *const u8,
    ) -> [S::I; 4] {
        // SAFETY: as for the trait.
        unsafe { q6_k_codes::<S>(block, WINDOW, HALF) }
    }

    #[inline(always)]
    unsafe fn codes_of_two<S: Simd, const HALF: usize>(
        block: *const u8,
        window: usize,
    ) -> [[S::I; 4]; 2] {
        // SAFETY: as for the trait.
        unsafe {
            [
                q6_k_codes::<S>(block, window, HALF),
                q6_k_codes::<S>(block, window + 2, HALF),
            ]
        }
    }
}

/// Each half of a block has 64 bytes of nibbles a row: windows 0 and 1 in the low, 2 and 3 in the high ones; and 32 bytes of upper
/// bits, two for each of its windows.
///
/// # Safety
/// As for [`Codes`].
#[inline(always)]
unsafe fn q6_k_codes<S: Simd>(block: *const u8, window: usize, half: usize) -> [S::I; 4] {
    let (side, quarter) = (Q6_CODES + window / 4 * Q6_SIDE, window % 4);
    let low = match quarter % 2 {
        0 => side + half * 32,
        _ => side + 64 + half * 16,
    };
    let (low, upper) = (low * S::LANES, (side + 16 + half * 32) * S::LANES);
    // SAFETY: as for the trait.
    unsafe {
        let mut codes = nibbles::<S>(block.add(low), quarter / 2);
        let mask = S::splat_byte(0x30);
        for (g, code) in codes.iter_mut().enumerate() {
            let bits = S::load_bytes(block.add(upper + g * vector_bytes::<S>()));
            let bits = match quarter {
                0 => S::shl_16::<4>(bits),
                1 => S::shl_16::<2>(bits),
                2 => bits,
                _ => S::shr_16::<2>(bits),
            };
            *code = S::or(*code, S::and(bits, mask));
        }
        codes
    }
}
