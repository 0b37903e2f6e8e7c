//! How activations are quantised: 32 at a time. The law is in `scalar/quantize.rs`.

use std::arch::x86_64::*;

use super::LANES;
use super::elementwise::load;
use crate::rows::{ACT_SCALES, ACT_WINDOW, ActBlock};

/// Bits of infinity: |x| as an integer is at least this for what is not finite.
const INFINITY_BITS: i32 = 0x7f80_0000;

/// Quantise one row: `x` is `(32 * out.len())`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn row(x: &[f32], out: &mut [ActBlock]) {
    let (x, rest) = x.as_chunks::<ACT_WINDOW>();
    assert!(rest.is_empty() && x.len() == out.len());
    for (x, out) in x.iter().zip(out) {
        window(x, out);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn window(x: &[f32; ACT_WINDOW], out: &mut ActBlock) {
    let lanes = x.as_chunks::<LANES>().0;
    let x = [
        load(&lanes[0]),
        load(&lanes[1]),
        load(&lanes[2]),
        load(&lanes[3]),
    ];
    let halves = [max_bits(x[0], x[1]), max_bits(x[2], x[3])];
    let scales = if ACT_SCALES == 1 {
        [scale(halves[0].max(halves[1])); 2]
    } else {
        halves.map(scale)
    };
    out.d = std::array::from_fn(|i| scales[i].0);
    let mut codes = [_mm256_setzero_si256(); 4];
    for (i, codes) in codes.iter_mut().enumerate() {
        *codes = codes_of(x[i], scales[i / 2].1);
    }
    pack_codes(codes, out);
    out.s = 0.0;
    for i in 0..ACT_SCALES {
        let sum = if ACT_SCALES == 1 {
            i32::from(out.sums[0]) + i32::from(out.sums[1])
        } else {
            out.sums[i].into()
        };
        out.s = out.d[i].mul_add(sum as f32, out.s);
    }
}

/// The largest |x| of 16 values, as an integer.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn max_bits(a: __m256, b: __m256) -> i32 {
    let size = |x: __m256| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX));
    let eight = _mm256_max_epi32(size(a), size(b));
    let four = _mm_max_epi32(
        _mm256_castsi256_si128(eight),
        _mm256_extracti128_si256::<1>(eight),
    );
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
}

/// The scale of a block and its inverse; an inverse of 0 means that every code is 0.
#[inline]
fn scale(max_bits: i32) -> (f32, f32) {
    if max_bits >= INFINITY_BITS {
        return (f32::NAN, 0.0);
    }
    let d = f32::from_bits(max_bits as u32) / 127.0;
    let inverse = 1.0 / d;
    if inverse.is_finite() {
        (d, inverse)
    } else {
        (0.0, 0.0)
    }
}

/// Eight codes as 32-bit integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_of(x: __m256, inverse: f32) -> __m256i {
    if inverse == 0.0 {
        return _mm256_setzero_si256();
    }
    // The conversion rounds to nearest even; the largest is 127 by choice of the scale, give or take a rounding.
    _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(inverse)))
}

/// Narrow 32 codes to bytes and add up each half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pack_codes(codes: [__m256i; 4], out: &mut ActBlock) {
    let words = [
        _mm256_packs_epi32(codes[0], codes[1]),
        _mm256_packs_epi32(codes[2], codes[3]),
    ];
    let bytes = _mm256_packs_epi16(words[0], words[1]);
    // Packing works within 128-bit lanes: put the groups of four back in order.
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: 32 bytes are writable.
    unsafe { _mm256_storeu_si256(out.codes.as_mut_ptr().cast(), bytes) };
    out.sums = [sum_words(words[0]), sum_words(words[1])];
}

/// The sum of 16 codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_words(words: __m256i) -> i16 {
    let eight = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
    let four = _mm_add_epi32(
        _mm256_castsi256_si128(eight),
        _mm256_extracti128_si256::<1>(eight),
    );
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two))) as i16
}
