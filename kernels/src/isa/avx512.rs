//! AVX-512 with VNNI: 16 lanes, 32 registers, four byte products in one instruction.
//!
//! Every unsafe block here is one or a few instructions, and safe because the caller of `Simd` promises that the CPU has them and that
//! pointers are good. It is said once, here.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::simd::{Kernel, Simd};

/// Exists to name the instructions: AVX-512 F, BW, VL, DQ and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Simd for Avx512 {
    const LANES: usize = 16;
    const MANY_REGISTERS: bool = true;
    type I = __m512i;
    type F = __m512;
    type M = __mmask16;
    type Dot = __m512i;

    unsafe fn vectorize<K: Kernel<Self>>(kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        unsafe fn run<K: Kernel<Avx512>>(kernel: K) {
            // SAFETY: as the caller promises.
            unsafe { kernel.run() }
        }
        // SAFETY: as the caller promises.
        unsafe { run(kernel) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> __m512 {
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    unsafe fn abs(x: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(x) }
    }
    #[inline(always)]
    unsafe fn copysign(size: __m512, sign: __m512) -> __m512 {
        unsafe {
            let bit = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(bit, size), _mm512_and_ps(bit, sign))
        }
    }
    #[inline(always)]
    unsafe fn lt(a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn is_nan(x: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x) }
    }
    #[inline(always)]
    unsafe fn lanes_between(from: i32, end: i32) -> __mmask16 {
        let below = |n: i32| ((1u32 << n.clamp(0, 16)) - 1) as u16;
        below(end) & !below(from)
    }
    #[inline(always)]
    unsafe fn select(mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(mask, no, yes) }
    }
    #[inline(always)]
    unsafe fn deinterleave(a: __m512, b: __m512) -> (__m512, __m512) {
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            (
                _mm512_permutex2var_ps(a, even, b),
                _mm512_permutex2var_ps(a, odd, b),
            )
        }
    }
    #[inline(always)]
    unsafe fn interleave(even: __m512, odd: __m512) -> (__m512, __m512) {
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_or_si512(low, _mm512_set1_epi32(8));
            (
                _mm512_permutex2var_ps(even, low, odd),
                _mm512_permutex2var_ps(even, high, odd),
            )
        }
    }
    #[inline(always)]
    unsafe fn sum_16([sums, _]: [__m512; 2]) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(
                _mm512_castps512_ps256(sums),
                _mm512_extractf32x8_ps::<1>(sums),
            );
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn bits(x: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(x) }
    }
    #[inline(always)]
    unsafe fn from_bits(x: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(x) }
    }
    #[inline(always)]
    unsafe fn to_i32(x: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(x) }
    }
    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn add_i32(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn max_i32(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_max_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn shl_i32<const N: i32>(x: __m512i) -> __m512i {
        unsafe { _mm512_sll_epi32(x, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn reduce_add_i32(x: __m512i) -> i32 {
        unsafe { _mm512_reduce_add_epi32(x) }
    }
    #[inline(always)]
    unsafe fn reduce_max_i32(x: __m512i) -> i32 {
        unsafe { _mm512_reduce_max_epi32(x) }
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, x: __m512i) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(x)) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat_byte(x: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shr_16<const N: i32>(x: __m512i) -> __m512i {
        unsafe { _mm512_srl_epi16(x, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn shl_16<const N: i32>(x: __m512i) -> __m512i {
        unsafe { _mm512_sll_epi16(x, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    /// Codes of 8 bits are multiplied as unsigned ones, 128 too high.
    #[inline(always)]
    fn zero_point(bits: u32, zero: i32) -> i32 {
        if bits == 8 { 128 } else { zero }
    }
    #[inline(always)]
    unsafe fn prepare<const BITS: u32>(codes: [__m512i; 4]) -> [__m512i; 4] {
        let mut codes = codes;
        if BITS == 8 {
            for codes in &mut codes {
                unsafe { *codes = _mm512_xor_si512(*codes, _mm512_set1_epi8(i8::MIN)) };
            }
        }
        codes
    }
    #[inline(always)]
    unsafe fn dot_start(zero: i32, minus: *const i32) -> __m512i {
        unsafe {
            match zero {
                0 => _mm512_setzero_si512(),
                _ => {
                    let by = _mm_cvtsi32_si128(zero.trailing_zeros() as i32);
                    _mm512_sll_epi32(_mm512_set1_epi32(*minus), by)
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn dot_half<const BITS: u32>(
        dot: __m512i,
        codes: &[__m512i; 4],
        acts: *const i8,
    ) -> __m512i {
        let mut dot = dot;
        for (g, codes) in codes.iter().enumerate() {
            unsafe {
                let act = _mm512_set1_epi32(acts.add(4 * g).cast::<i32>().read_unaligned());
                dot = _mm512_dpbusd_epi32(dot, *codes, act);
            }
        }
        dot
    }
    #[inline(always)]
    unsafe fn dot_finish<const BITS: u32>(dot: __m512i, _zero: i32, _minus: *const i32) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(dot) }
    }
}
