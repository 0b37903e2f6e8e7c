//! AVX2 with FMA and F16C, and the same with AVX-VNNI: eight lanes, 16 registers. They differ in how bytes are multiplied.
//!
//! Every unsafe block here is one or a few instructions, and safe because the caller of `Simd` promises that the CPU has them and that
//! pointers are good. It is said once, here.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::simd::{Kernel, Simd};

/// Exists to name the instructions: AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Exists to name the instructions: those of [`Avx2`], and AVX-VNNI.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni;

/// Everything but dot products.
macro_rules! eight_lanes {
    ($isa:ident, $features:literal) => {
        const LANES: usize = 8;
        const MANY_REGISTERS: bool = false;
        type I = __m256i;
        type F = __m256;
        type M = __m256;

        unsafe fn vectorize<K: Kernel<Self>>(kernel: K) {
            #[target_feature(enable = $features)]
            unsafe fn run<K: Kernel<$isa>>(kernel: K) {
                // SAFETY: as the caller promises.
                unsafe { kernel.run() }
            }
            // SAFETY: as the caller promises.
            unsafe { run(kernel) }
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, x: __m256) {
            unsafe { _mm256_storeu_ps(to, x) }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> __m256 {
            unsafe {
                let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
            }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn round(x: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
        }
        #[inline(always)]
        unsafe fn abs(x: __m256) -> __m256 {
            unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), x) }
        }
        #[inline(always)]
        unsafe fn copysign(size: __m256, sign: __m256) -> __m256 {
            unsafe {
                let bit = _mm256_set1_ps(-0.0);
                _mm256_or_ps(_mm256_andnot_ps(bit, size), _mm256_and_ps(bit, sign))
            }
        }
        #[inline(always)]
        unsafe fn lt(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
        }
        #[inline(always)]
        unsafe fn is_nan(x: __m256) -> __m256 {
            unsafe { _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x) }
        }
        #[inline(always)]
        unsafe fn lanes_between(from: i32, end: i32) -> __m256 {
            unsafe {
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let before = _mm256_cmpgt_epi32(_mm256_set1_epi32(from), lanes);
                let within = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes);
                _mm256_castsi256_ps(_mm256_andnot_si256(before, within))
            }
        }
        #[inline(always)]
        unsafe fn select(mask: __m256, yes: __m256, no: __m256) -> __m256 {
            unsafe { _mm256_blendv_ps(no, yes, mask) }
        }
        #[inline(always)]
        unsafe fn deinterleave(a: __m256, b: __m256) -> (__m256, __m256) {
            unsafe {
                // Shuffles work within 128-bit halves: bring the low halves together first.
                let low = _mm256_permute2f128_ps::<0x20>(a, b);
                let high = _mm256_permute2f128_ps::<0x31>(a, b);
                (
                    _mm256_shuffle_ps::<0b10_00_10_00>(low, high),
                    _mm256_shuffle_ps::<0b11_01_11_01>(low, high),
                )
            }
        }
        #[inline(always)]
        unsafe fn interleave(even: __m256, odd: __m256) -> (__m256, __m256) {
            unsafe {
                let low = _mm256_unpacklo_ps(even, odd);
                let high = _mm256_unpackhi_ps(even, odd);
                (
                    _mm256_permute2f128_ps::<0x20>(low, high),
                    _mm256_permute2f128_ps::<0x31>(low, high),
                )
            }
        }
        #[inline(always)]
        unsafe fn sum_16([low, high]: [__m256; 2]) -> f32 {
            unsafe {
                let eight = _mm256_add_ps(low, high);
                let four = _mm_add_ps(
                    _mm256_castps256_ps128(eight),
                    _mm256_extractf128_ps::<1>(eight),
                );
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }

        #[inline(always)]
        unsafe fn bits(x: __m256) -> __m256i {
            unsafe { _mm256_castps_si256(x) }
        }
        #[inline(always)]
        unsafe fn from_bits(x: __m256i) -> __m256 {
            unsafe { _mm256_castsi256_ps(x) }
        }
        #[inline(always)]
        unsafe fn to_i32(x: __m256) -> __m256i {
            unsafe { _mm256_cvtps_epi32(x) }
        }
        #[inline(always)]
        unsafe fn splat_i32(x: i32) -> __m256i {
            unsafe { _mm256_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn add_i32(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn max_i32(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_max_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn shl_i32<const N: i32>(x: __m256i) -> __m256i {
            unsafe { _mm256_slli_epi32::<N>(x) }
        }
        #[inline(always)]
        unsafe fn reduce_add_i32(x: __m256i) -> i32 {
            unsafe {
                let four =
                    _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
            }
        }
        #[inline(always)]
        unsafe fn reduce_max_i32(x: __m256i) -> i32 {
            unsafe {
                let four =
                    _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
                let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
            }
        }
        #[inline(always)]
        unsafe fn store_i8(to: *mut i8, x: __m256i) {
            unsafe {
                let low = _mm256_castsi256_si128(x);
                let words = _mm_packs_epi32(low, _mm256_extracti128_si256::<1>(x));
                _mm_storel_epi64(to.cast(), _mm_packs_epi16(words, words));
            }
        }

        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_byte(x: u8) -> __m256i {
            unsafe { _mm256_set1_epi8(x as i8) }
        }
        #[inline(always)]
        unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_and_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_or_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn shr_16<const N: i32>(x: __m256i) -> __m256i {
            unsafe { _mm256_srli_epi16::<N>(x) }
        }
        #[inline(always)]
        unsafe fn shl_16<const N: i32>(x: __m256i) -> __m256i {
            unsafe { _mm256_slli_epi16::<N>(x) }
        }
        #[inline(always)]
        unsafe fn load_u8(from: *const u8) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
        }
    };
}

/// Four activation codes, for every lane.
#[inline(always)]
unsafe fn broadcast(acts: *const i8) -> __m256i {
    unsafe { _mm256_set1_epi32(acts.cast::<i32>().read_unaligned()) }
}

/// What is to be added to a dot product for the zero point, a power of two.
#[inline(always)]
unsafe fn zero_term(zero: i32, minus: *const i32) -> __m256i {
    unsafe {
        let by = _mm_cvtsi32_si128(zero.trailing_zeros() as i32);
        _mm256_sll_epi32(_mm256_set1_epi32(*minus), by)
    }
}

impl Simd for Avx2 {
    eight_lanes!(Avx2, "avx2,fma,f16c");

    /// Pairs of 16-bit sums for codes of 4 bits, whole sums for the others.
    type Dot = __m256i;

    #[inline(always)]
    fn zero_point(_bits: u32, zero: i32) -> i32 {
        zero
    }
    #[inline(always)]
    unsafe fn prepare<const BITS: u32>(codes: [__m256i; 4]) -> [__m256i; 4] {
        codes
    }
    #[inline(always)]
    unsafe fn dot_start(_zero: i32, _minus: *const i32) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    /// Activation codes are at most 127 in size. A pair of products is at most 3810 for codes of 4 bits, and eight of those fit
    /// in 16 bits; 7874 for 5 bits, four fit; 16002 for 6 bits, two fit; 32512 for 8 bits, and none may be added.
    #[inline(always)]
    unsafe fn dot_half<const BITS: u32>(
        dot: __m256i,
        codes: &[__m256i; 4],
        acts: *const i8,
    ) -> __m256i {
        unsafe {
            let one = _mm256_set1_epi16(1);
            let act = |g: usize| broadcast(acts.add(4 * g));
            let pairs = |g: usize| _mm256_maddubs_epi16(codes[g], act(g));
            match BITS {
                4 => {
                    let low = _mm256_add_epi16(pairs(0), pairs(1));
                    let high = _mm256_add_epi16(pairs(2), pairs(3));
                    _mm256_add_epi16(dot, _mm256_add_epi16(low, high))
                }
                5 => {
                    let low = _mm256_add_epi16(pairs(0), pairs(1));
                    let high = _mm256_add_epi16(pairs(2), pairs(3));
                    _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_add_epi16(low, high), one))
                }
                6 => {
                    let low = _mm256_madd_epi16(_mm256_add_epi16(pairs(0), pairs(1)), one);
                    let high = _mm256_madd_epi16(_mm256_add_epi16(pairs(2), pairs(3)), one);
                    _mm256_add_epi32(dot, _mm256_add_epi32(low, high))
                }
                _ => {
                    // |w| is at most 128, as an unsigned byte.
                    let signed = |g: usize| {
                        let act = _mm256_sign_epi8(act(g), codes[g]);
                        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes[g]), act);
                        _mm256_madd_epi16(pairs, one)
                    };
                    let low = _mm256_add_epi32(signed(0), signed(1));
                    let high = _mm256_add_epi32(signed(2), signed(3));
                    _mm256_add_epi32(dot, _mm256_add_epi32(low, high))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn dot_finish<const BITS: u32>(dot: __m256i, zero: i32, minus: *const i32) -> __m256 {
        unsafe {
            let dot = match BITS {
                4 => _mm256_madd_epi16(dot, _mm256_set1_epi16(1)),
                _ => dot,
            };
            if zero == 0 {
                return _mm256_cvtepi32_ps(dot);
            }
            _mm256_cvtepi32_ps(_mm256_add_epi32(dot, zero_term(zero, minus)))
        }
    }
}

impl Simd for AvxVnni {
    eight_lanes!(AvxVnni, "avx2,fma,f16c,avxvnni");

    type Dot = __m256i;

    /// Codes of 8 bits are multiplied as unsigned ones, 128 too high.
    #[inline(always)]
    fn zero_point(bits: u32, zero: i32) -> i32 {
        if bits == 8 { 128 } else { zero }
    }
    #[inline(always)]
    unsafe fn prepare<const BITS: u32>(codes: [__m256i; 4]) -> [__m256i; 4] {
        let mut codes = codes;
        if BITS == 8 {
            for codes in &mut codes {
                unsafe { *codes = _mm256_xor_si256(*codes, _mm256_set1_epi8(i8::MIN)) };
            }
        }
        codes
    }
    #[inline(always)]
    unsafe fn dot_start(zero: i32, minus: *const i32) -> __m256i {
        unsafe {
            match zero {
                0 => _mm256_setzero_si256(),
                _ => zero_term(zero, minus),
            }
        }
    }
    #[inline(always)]
    unsafe fn dot_half<const BITS: u32>(
        dot: __m256i,
        codes: &[__m256i; 4],
        acts: *const i8,
    ) -> __m256i {
        let mut dot = dot;
        for (g, codes) in codes.iter().enumerate() {
            unsafe { dot = _mm256_dpbusd_avx_epi32(dot, *codes, broadcast(acts.add(4 * g))) };
        }
        dot
    }
    #[inline(always)]
    unsafe fn dot_finish<const BITS: u32>(dot: __m256i, _zero: i32, _minus: *const i32) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(dot) }
    }
}
