//! Codes of the types with blocks of 256: Q4_K, Q5_K, Q6_K.
//!
//! Sums in 16 bits as in `nibbles.rs`; a pair of 6-bit codes is at most 63 * 127 * 2 = 16002, so two fit (32004).
#![allow(non_camel_case_types)] // the format's own names

use std::arch::x86_64::*;

use super::Codes;
use super::nibbles::{load, load_f16, nibbles};

pub(super) struct Q4_K;
pub(super) struct Q5_K;
pub(super) struct Q6_K;

/// Where the parts of a Q4_K or Q5_K block of eight rows begin: d, dmin, 12 rows of packed scales, then codes.
const MIN_FACTORS: usize = 16;
const PACKED_SCALES: usize = 32;
const AFTER_SCALES: usize = 128;
/// Q5_K: fifth bits, one byte for the eight windows, before the nibbles.
const Q5_NIBBLES: usize = AFTER_SCALES + 256;
/// Q6_K: nibbles, then upper bits, sub-scales, d.
const Q6_UPPER: usize = 1024;
const Q6_SUB: usize = Q6_UPPER + 512;
const Q6_D: usize = Q6_SUB + 128;

/// Scales of a Q4_K or Q5_K block: the f16 factors, and for each window eight rows' 6-bit integers as bytes.
pub(super) struct SixBit {
    d: __m256,
    /// Negated.
    dmin: __m256,
    scales: [__m256i; 2],
    mins: [__m256i; 2],
}

/// # Safety
/// The CPU has AVX2 and F16C; `block` begins a Q4_K or Q5_K block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn six_bit(block: *const u8) -> SixBit {
    // SAFETY: as the caller promises: 12 rows of eight bytes, four rows a vector.
    let (d, dmin, [a, b, c]) = unsafe {
        let packed = block.add(PACKED_SCALES);
        let rows = [load(packed), load(packed.add(32)), load(packed.add(64))];
        (load_f16(block), load_f16(block.add(MIN_FACTORS)), rows)
    };
    let (low6, low4, top2) = (
        _mm256_set1_epi8(63),
        _mm256_set1_epi8(15),
        _mm256_set1_epi8(0x30),
    );
    let top = |x: __m256i| _mm256_and_si256(_mm256_srli_epi16::<2>(x), top2);
    let high_scales = _mm256_or_si256(_mm256_and_si256(c, low4), top(a));
    let high_mins = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16::<4>(c), low4), top(b));
    SixBit {
        d,
        dmin: _mm256_xor_ps(dmin, _mm256_set1_ps(-0.0)),
        scales: [_mm256_and_si256(a, low6), high_scales],
        mins: [_mm256_and_si256(b, low6), high_mins],
    }
}

/// Bytes `8 window ..` as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn window_of(bytes: &[__m256i; 2], window: usize) -> __m256 {
    // SAFETY: the two vectors are 64 bytes, and there are eight windows.
    let eight = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast::<u8>().add(window % 8 * 8).cast()) };
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight))
}

macro_rules! six_bit_codes {
    ($ty:ident, $block:expr, summable $summable:expr, $codes:expr) => {
        impl Codes for $ty {
            const TILE_BLOCK: usize = 8 * $block;
            const WINDOWS: usize = 8;
            const HAS_MIN: bool = true;
            const SUMMABLE: usize = $summable;

            type Scales = SixBit;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn scales(block: *const u8) -> SixBit {
                // SAFETY: as for the trait.
                unsafe { six_bit(block) }
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn d(scales: &SixBit, window: usize) -> __m256 {
                _mm256_mul_ps(scales.d, window_of(&scales.scales, window))
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn m(scales: &SixBit, window: usize) -> __m256 {
                _mm256_mul_ps(scales.dmin, window_of(&scales.mins, window))
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn codes(block: *const u8, window: usize, half: usize) -> [__m256i; 4] {
                let codes: unsafe fn(*const u8, usize, usize) -> [__m256i; 4] = $codes;
                // SAFETY: as for the trait.
                unsafe { codes(block, window, half) }
            }
        }
    };
}

six_bit_codes!(Q4_K, 144, summable 8, q4_k_codes);
six_bit_codes!(Q5_K, 176, summable 4, q5_k_codes);

/// # Safety
/// As for [`Codes`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_k_codes(block: *const u8, window: usize, half: usize) -> [__m256i; 4] {
    // SAFETY: 256 bytes hold an even window in low and the next one in high nibbles.
    unsafe {
        nibbles(
            block.add(AFTER_SCALES + window / 2 * 256 + half * 128),
            window % 2,
        )
    }
}

/// # Safety
/// As for [`Codes`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q5_k_codes(block: *const u8, window: usize, half: usize) -> [__m256i; 4] {
    // SAFETY: nibbles lie as in Q4_K; the byte beside a code holds its fifth bit at the window's number.
    unsafe {
        let low = nibbles(
            block.add(Q5_NIBBLES + window / 2 * 256 + half * 128),
            window % 2,
        );
        with_upper_bits(low, block.add(AFTER_SCALES + half * 128), window, 0x10)
    }
}

/// Nibbles with the bits above them: those of `mask` once a byte is shifted right by `at` and left by four.
///
/// # Safety
/// The CPU has AVX2; 128 bytes of upper bits are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_upper_bits(
    mut codes: [__m256i; 4],
    upper: *const u8,
    at: usize,
    mask: i8,
) -> [__m256i; 4] {
    for (g, code) in codes.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        let bits = unsafe { load(upper.add(g * 32)) };
        let bits = _mm256_slli_epi16::<4>(_mm256_srl_epi16(bits, _mm_cvtsi32_si128(at as i32)));
        *code = _mm256_or_si256(*code, _mm256_and_si256(bits, _mm256_set1_epi8(mask)));
    }
    codes
}

impl Codes for Q6_K {
    const TILE_BLOCK: usize = 8 * 210;
    const WINDOWS: usize = 8;
    const ZERO: i16 = 32;
    const HAS_SUB: bool = true;
    const SUMMABLE: usize = 2;

    type Scales = __m256;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(block: *const u8) -> __m256 {
        // SAFETY: as for the trait.
        unsafe { load_f16(block.add(Q6_D)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn d(scales: &__m256, _window: usize) -> __m256 {
        *scales
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sub(block: *const u8, window: usize, half: usize) -> __m256i {
        // SAFETY: 16 rows of eight bytes.
        let eight = unsafe { _mm_loadl_epi64(block.add(Q6_SUB + (window * 2 + half) * 8).cast()) };
        _mm256_cvtepi8_epi32(eight)
    }

    /// Each half of the block has 64 bytes of nibbles a row: windows 0 and 1 in the low, 2 and 3 in the high ones; and
    /// 32 bytes of upper bits, two for each of its windows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn codes(block: *const u8, window: usize, half: usize) -> [__m256i; 4] {
        let (side, quarter) = (window / 4, window % 4);
        // SAFETY: as for the trait.
        unsafe {
            let low = nibbles(
                block.add(side * 512 + quarter % 2 * 256 + half * 128),
                quarter / 2,
            );
            with_upper_bits(
                low,
                block.add(Q6_UPPER + side * 256 + half * 128),
                quarter * 2,
                0x30,
            )
        }
    }
}
