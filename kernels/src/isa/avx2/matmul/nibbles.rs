//! Codes of the types with blocks of 32: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Activation codes are at most 127 in size, so a `maddubs` pair of 4-bit codes is at most 15 * 127 * 2 = 3810, and eight fit
//! in 16 bits (30480); of 5-bit codes 31 * 127 * 2 = 7874, four fit (31496). Pairs of 8-bit codes reach 32512: none may be added.
#![allow(non_camel_case_types)] // the format's own names

use std::arch::x86_64::*;

use super::Codes;

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;

/// Bytes of eight f16 scales, or minimums.
const SCALES: usize = 16;
/// Bytes of eight 32-bit masks of fifth bits.
const MASKS: usize = 32;
/// Bytes of one vector of codes.
const VECTOR: usize = 32;

/// Scale and minimum of each row.
pub(super) struct ScaleMin {
    d: __m256,
    m: __m256,
}

/// Eight f16 at `from` as f32.
///
/// # Safety
/// The CPU has F16C; 16 bytes are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load_f16(from: *const u8) -> __m256 {
    // SAFETY: as the caller promises.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
}

/// 32 bytes at `from`.
///
/// # Safety
/// The CPU has AVX2; 32 bytes are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load(from: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// The low (`high` 0) or high (`high` 1) nibbles of four vectors.
///
/// # Safety
/// The CPU has AVX2; 128 bytes are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn nibbles(from: *const u8, high: usize) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(15);
    let mut codes = [mask; 4];
    for (g, codes) in codes.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        let bytes = unsafe { load(from.add(g * VECTOR)) };
        let bytes = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(4 * high as i32));
        *codes = _mm256_and_si256(bytes, mask);
    }
    codes
}

/// Nibbles of Q5_0 and Q5_1 with their fifth bits: bit g of a mask byte belongs to k-group g of the window.
///
/// # Safety
/// The CPU has AVX2; the masks and 128 bytes of nibbles are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fives(masks: *const u8, half: usize) -> [__m256i; 4] {
    // SAFETY: as the caller promises.
    let (mut codes, bits) = unsafe { (nibbles(masks.add(MASKS), half), load(masks)) };
    let fifth = _mm256_set1_epi8(16);
    let at_4 = match half {
        0 => [
            _mm256_slli_epi16::<4>(bits),
            _mm256_slli_epi16::<3>(bits),
            _mm256_slli_epi16::<2>(bits),
            _mm256_slli_epi16::<1>(bits),
        ],
        _ => [
            bits,
            _mm256_srli_epi16::<1>(bits),
            _mm256_srli_epi16::<2>(bits),
            _mm256_srli_epi16::<3>(bits),
        ],
    };
    for (code, bits) in codes.iter_mut().zip(at_4) {
        *code = _mm256_or_si256(*code, _mm256_and_si256(bits, fifth));
    }
    codes
}

macro_rules! codes_of_32 {
    ($ty:ident, $block:expr, zero $zero:expr, min $min:expr, summable $summable:expr, $codes:expr) => {
        impl Codes for $ty {
            const TILE_BLOCK: usize = 8 * $block;
            const WINDOWS: usize = 1;
            const ZERO: i16 = $zero;
            const HAS_MIN: bool = $min;
            const SUMMABLE: usize = $summable;

            type Scales = ScaleMin;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn scales(block: *const u8) -> ScaleMin {
                // SAFETY: a block begins with its scales and, where it has them, minimums.
                unsafe {
                    let m = if $min {
                        load_f16(block.add(SCALES))
                    } else {
                        _mm256_setzero_ps()
                    };
                    ScaleMin {
                        d: load_f16(block),
                        m,
                    }
                }
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn d(scales: &ScaleMin, _window: usize) -> __m256 {
                scales.d
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn m(scales: &ScaleMin, _window: usize) -> __m256 {
                scales.m
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn codes(block: *const u8, _window: usize, half: usize) -> [__m256i; 4] {
                let codes: unsafe fn(*const u8, usize) -> [__m256i; 4] = $codes;
                // SAFETY: the codes follow the scales and minimums of the block.
                unsafe { codes(block.add(if $min { 2 * SCALES } else { SCALES }), half) }
            }
        }
    };
}

codes_of_32!(Q4_0, 18, zero 8, min false, summable 8, nibbles);
codes_of_32!(Q4_1, 20, zero 0, min true, summable 8, nibbles);
codes_of_32!(Q5_0, 22, zero 16, min false, summable 4, fives);
codes_of_32!(Q5_1, 24, zero 0, min true, summable 4, fives);
codes_of_32!(Q8_0, 34, zero 0, min false, summable 1, eights);

/// Four vectors of signed bytes.
///
/// # Safety
/// The CPU has AVX2; both halves' 256 bytes are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eights(from: *const u8, half: usize) -> [__m256i; 4] {
    let mut codes = [_mm256_setzero_si256(); 4];
    for (g, codes) in codes.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        *codes = unsafe { load(from.add((half * 4 + g) * VECTOR)) };
    }
    codes
}
