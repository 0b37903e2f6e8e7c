//! NEON, the same with its dot products of bytes, and with its products of matrices of bytes: eight lanes as pairs of vectors of
//! four, so 32 registers are 16 pairs.
//!
//! Every unsafe block here is one or a few instructions, and safe because the caller of `Simd` promises that the CPU has them and that
//! pointers are good. It is said once, here.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::simd::{Kernel, Simd};

/// Exists to name the instructions: NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Exists to name the instructions: NEON with dot products.
#[derive(Clone, Copy)]
pub(crate) struct Dotprod;

/// Exists to name the instructions: NEON with dot products and products of matrices.
#[derive(Clone, Copy)]
pub(crate) struct I8mm;

/// An intrinsic applied to both vectors of each pair.
macro_rules! both {
    ($op:ident $(::<$n:ident>)? ($($pair:ident),*)) => {
        [$op$(::<$n>)?($($pair[0]),*), $op$(::<$n>)?($($pair[1]),*)]
    };
}

/// Everything but dot products of half a window.
macro_rules! pairs_of_four {
    ($isa:ident, $features:literal) => {
        const LANES: usize = 8;
        const MANY_REGISTERS: bool = false;
        type I = [int32x4_t; 2];
        type F = [float32x4_t; 2];
        type M = [uint32x4_t; 2];
        type Dot = [int32x4_t; 2];

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
        unsafe fn splat(x: f32) -> [float32x4_t; 2] {
            unsafe { [vdupq_n_f32(x); 2] }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> [float32x4_t; 2] {
            unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, x: [float32x4_t; 2]) {
            unsafe {
                vst1q_f32(to, x[0]);
                vst1q_f32(to.add(4), x[1]);
            }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> [float32x4_t; 2] {
            unsafe {
                let halves = vreinterpretq_f16_u8(vld1q_u8(from));
                [
                    vcvt_f32_f16(vget_low_f16(halves)),
                    vcvt_high_f32_f16(halves),
                ]
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> [float32x4_t; 2] {
            unsafe {
                let halves = vreinterpretq_u16_u8(vld1q_u8(from));
                let zero = vdupq_n_u16(0);
                [
                    vreinterpretq_f32_u16(vzip1q_u16(zero, halves)),
                    vreinterpretq_f32_u16(vzip2q_u16(zero, halves)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn add(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe { both!(vaddq_f32(a, b)) }
        }
        #[inline(always)]
        unsafe fn sub(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe { both!(vsubq_f32(a, b)) }
        }
        #[inline(always)]
        unsafe fn mul(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe { both!(vmulq_f32(a, b)) }
        }
        #[inline(always)]
        unsafe fn div(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe { both!(vdivq_f32(a, b)) }
        }
        #[inline(always)]
        unsafe fn fma(
            a: [float32x4_t; 2],
            b: [float32x4_t; 2],
            c: [float32x4_t; 2],
        ) -> [float32x4_t; 2] {
            unsafe { both!(vfmaq_f32(c, a, b)) }
        }
        /// Not `fmax`, which gives a NaN where there is one.
        #[inline(always)]
        unsafe fn max(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe {
                let above = both!(vcgtq_f32(a, b));
                both!(vbslq_f32(above, a, b))
            }
        }
        #[inline(always)]
        unsafe fn round(x: [float32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe { both!(vrndnq_f32(x)) }
        }
        #[inline(always)]
        unsafe fn abs(x: [float32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe { both!(vabsq_f32(x)) }
        }
        #[inline(always)]
        unsafe fn copysign(size: [float32x4_t; 2], sign: [float32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe {
                let bit = [vdupq_n_u32(1 << 31); 2];
                both!(vbslq_f32(bit, sign, size))
            }
        }
        #[inline(always)]
        unsafe fn lt(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [uint32x4_t; 2] {
            unsafe { both!(vcltq_f32(a, b)) }
        }
        #[inline(always)]
        unsafe fn is_nan(x: [float32x4_t; 2]) -> [uint32x4_t; 2] {
            unsafe {
                let number = both!(vceqq_f32(x, x));
                both!(vmvnq_u32(number))
            }
        }
        #[inline(always)]
        unsafe fn lanes_between(from: i32, end: i32) -> [uint32x4_t; 2] {
            unsafe {
                let low = vld1q_s32([0, 1, 2, 3].as_ptr());
                let lanes = [low, vaddq_s32(low, vdupq_n_s32(4))];
                let (from, end) = ([vdupq_n_s32(from); 2], [vdupq_n_s32(end); 2]);
                let before = both!(vcgtq_s32(from, lanes));
                let within = both!(vcgtq_s32(end, lanes));
                both!(vbicq_u32(within, before))
            }
        }
        #[inline(always)]
        unsafe fn select(
            mask: [uint32x4_t; 2],
            yes: [float32x4_t; 2],
            no: [float32x4_t; 2],
        ) -> [float32x4_t; 2] {
            unsafe { both!(vbslq_f32(mask, yes, no)) }
        }
        #[inline(always)]
        unsafe fn deinterleave(
            a: [float32x4_t; 2],
            b: [float32x4_t; 2],
        ) -> ([float32x4_t; 2], [float32x4_t; 2]) {
            unsafe {
                (
                    [vuzp1q_f32(a[0], a[1]), vuzp1q_f32(b[0], b[1])],
                    [vuzp2q_f32(a[0], a[1]), vuzp2q_f32(b[0], b[1])],
                )
            }
        }
        #[inline(always)]
        unsafe fn interleave(
            even: [float32x4_t; 2],
            odd: [float32x4_t; 2],
        ) -> ([float32x4_t; 2], [float32x4_t; 2]) {
            unsafe {
                (
                    [vzip1q_f32(even[0], odd[0]), vzip2q_f32(even[0], odd[0])],
                    [vzip1q_f32(even[1], odd[1]), vzip2q_f32(even[1], odd[1])],
                )
            }
        }
        #[inline(always)]
        unsafe fn sum_16([low, high]: [[float32x4_t; 2]; 2]) -> f32 {
            unsafe {
                let eight = both!(vaddq_f32(low, high));
                let four = vaddq_f32(eight[0], eight[1]);
                let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
                vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
            }
        }

        #[inline(always)]
        unsafe fn bits(x: [float32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe { both!(vreinterpretq_s32_f32(x)) }
        }
        #[inline(always)]
        unsafe fn from_bits(x: [int32x4_t; 2]) -> [float32x4_t; 2] {
            unsafe { both!(vreinterpretq_f32_s32(x)) }
        }
        #[inline(always)]
        unsafe fn to_i32(x: [float32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe { both!(vcvtnq_s32_f32(x)) }
        }
        #[inline(always)]
        unsafe fn splat_i32(x: i32) -> [int32x4_t; 2] {
            unsafe { [vdupq_n_s32(x); 2] }
        }
        #[inline(always)]
        unsafe fn add_i32(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe { both!(vaddq_s32(a, b)) }
        }
        #[inline(always)]
        unsafe fn max_i32(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe { both!(vmaxq_s32(a, b)) }
        }
        #[inline(always)]
        unsafe fn shl_i32<const N: i32>(x: [int32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe { both!(vshlq_n_s32::<N>(x)) }
        }
        #[inline(always)]
        unsafe fn reduce_add_i32(x: [int32x4_t; 2]) -> i32 {
            unsafe { vaddvq_s32(vaddq_s32(x[0], x[1])) }
        }
        #[inline(always)]
        unsafe fn reduce_max_i32(x: [int32x4_t; 2]) -> i32 {
            unsafe { vmaxvq_s32(vmaxq_s32(x[0], x[1])) }
        }
        #[inline(always)]
        unsafe fn store_i8(to: *mut i8, x: [int32x4_t; 2]) {
            unsafe {
                let words = both!(vmovn_s32(x));
                let bytes = vmovn_s16(vcombine_s16(words[0], words[1]));
                vst1_s8(to, bytes)
            }
        }

        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> [int32x4_t; 2] {
            unsafe {
                let bytes = [vld1q_u8(from), vld1q_u8(from.add(16))];
                both!(vreinterpretq_s32_u8(bytes))
            }
        }
        #[inline(always)]
        unsafe fn splat_byte(x: u8) -> [int32x4_t; 2] {
            unsafe { [vreinterpretq_s32_u8(vdupq_n_u8(x)); 2] }
        }
        #[inline(always)]
        unsafe fn and(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe { both!(vandq_s32(a, b)) }
        }
        #[inline(always)]
        unsafe fn or(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe { both!(vorrq_s32(a, b)) }
        }
        #[inline(always)]
        unsafe fn shr_16<const N: i32>(x: [int32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe {
                let words = both!(vreinterpretq_u16_s32(x));
                let words = both!(vshrq_n_u16::<N>(words));
                both!(vreinterpretq_s32_u16(words))
            }
        }
        #[inline(always)]
        unsafe fn shl_16<const N: i32>(x: [int32x4_t; 2]) -> [int32x4_t; 2] {
            unsafe {
                let words = both!(vreinterpretq_u16_s32(x));
                let words = both!(vshlq_n_u16::<N>(words));
                both!(vreinterpretq_s32_u16(words))
            }
        }
        #[inline(always)]
        unsafe fn load_u8(from: *const u8) -> [float32x4_t; 2] {
            unsafe {
                let words = vmovl_u8(vld1_u8(from));
                let lanes = [vmovl_u16(vget_low_u16(words)), vmovl_high_u16(words)];
                both!(vcvtq_f32_u32(lanes))
            }
        }
        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> [float32x4_t; 2] {
            unsafe {
                let words = vmovl_s8(vld1_s8(from.cast()));
                let lanes = [vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)];
                both!(vcvtq_f32_s32(lanes))
            }
        }

        #[inline(always)]
        fn zero_point(_bits: u32, zero: i32) -> i32 {
            zero
        }
        /// Codes of 4 to 6 bits are good signed bytes as they are.
        #[inline(always)]
        unsafe fn prepare<const BITS: u32>(codes: [[int32x4_t; 2]; 4]) -> [[int32x4_t; 2]; 4] {
            codes
        }
        #[inline(always)]
        unsafe fn dot_start(zero: i32, minus: *const i32) -> [int32x4_t; 2] {
            unsafe { [vdupq_n_s32(zero * *minus); 2] }
        }
        #[inline(always)]
        unsafe fn dot_finish<const BITS: u32>(
            dot: [int32x4_t; 2],
            _zero: i32,
            _minus: *const i32,
        ) -> [float32x4_t; 2] {
            unsafe { both!(vcvtq_f32_s32(dot)) }
        }
    };
}

impl Simd for Neon {
    pairs_of_four!(Neon, "neon");

    /// Four activation codes with those of four rows are 16 products of 16 bits, which neighbours are added to before they become
    /// sums of 32 bits. Activation codes are at most 127 in size, so a pair of products is at most 3810 for codes of 4 bits and
    /// 7874 for 5 bits, and four pairs fit in 16 bits; 16002 for 6 bits, two pairs fit; 32512 for 8 bits, and none may be added.
    #[inline(always)]
    unsafe fn dot_half<const BITS: u32>(
        dot: [int32x4_t; 2],
        codes: &[[int32x4_t; 2]; 4],
        acts: *const i8,
    ) -> [int32x4_t; 2] {
        let n_pairs = match BITS {
            4 | 5 => 4,
            6 => 2,
            _ => 1,
        };
        let mut dot = dot;
        unsafe {
            for first in (0..4).step_by(n_pairs) {
                for (i, dot) in dot.iter_mut().enumerate() {
                    let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
                    for g in first..first + n_pairs {
                        let act = broadcast(acts.add(4 * g));
                        let codes = vreinterpretq_s8_s32(codes[g][i]);
                        low = vmlal_s8(low, vget_low_s8(codes), vget_low_s8(act));
                        high = vmlal_high_s8(high, codes, act);
                    }
                    *dot = vpadalq_s16(*dot, vpaddq_s16(low, high));
                }
            }
        }
        dot
    }
}

/// Four activation codes, for every lane.
#[inline(always)]
unsafe fn broadcast(acts: *const i8) -> int8x16_t {
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(acts.cast::<i32>().read_unaligned())) }
}

/// Half a window of one column, which the dot products of bytes do.
macro_rules! dot_half_by_sdot {
    () => {
        #[inline(always)]
        unsafe fn dot_half<const BITS: u32>(
            dot: [int32x4_t; 2],
            codes: &[[int32x4_t; 2]; 4],
            acts: *const i8,
        ) -> [int32x4_t; 2] {
            unsafe {
                let acts = vld1q_s8(acts);
                let dot = add_products::<0>(dot, codes[0], acts);
                let dot = add_products::<1>(dot, codes[1], acts);
                let dot = add_products::<2>(dot, codes[2], acts);
                add_products::<3>(dot, codes[3], acts)
            }
        }
    };
}

impl Simd for Dotprod {
    pairs_of_four!(Dotprod, "neon,dotprod");

    dot_half_by_sdot!();
}

impl Simd for I8mm {
    pairs_of_four!(I8mm, "neon,dotprod,i8mm");

    /// Codes are interleaved before and sums put in order after they are multiplied, which takes what the multiplications save until
    /// there are eight columns: for Q4_K the compiled loop has 9 % more vector instructions than with dot products for two columns, as
    /// many for four, and for eight 21 % fewer than twice four. Counted, not measured: no such CPU was at hand.
    const PAIRS_FROM: usize = 8;

    dot_half_by_sdot!();

    /// Rows two by two, eight codes of each: of `k` 0 to 7 in the first two, of 8 to 15 in the last two.
    #[inline(always)]
    unsafe fn pair_codes(codes: [[int32x4_t; 2]; 4]) -> [[int32x4_t; 2]; 4] {
        let [a, b, c, d] = codes;
        unsafe {
            [
                [vzip1q_s32(a[0], b[0]), vzip2q_s32(a[0], b[0])],
                [vzip1q_s32(a[1], b[1]), vzip2q_s32(a[1], b[1])],
                [vzip1q_s32(c[0], d[0]), vzip2q_s32(c[0], d[0])],
                [vzip1q_s32(c[1], d[1]), vzip2q_s32(c[1], d[1])],
            ]
        }
    }
    /// Each vector holds two rows, both columns of each. Before the first product all rows are alike.
    #[inline(always)]
    unsafe fn pair(dots: [[int32x4_t; 2]; 2]) -> [[int32x4_t; 2]; 2] {
        unsafe { [[vzip1q_s32(dots[0][0], dots[1][0]); 2]; 2] }
    }
    #[inline(always)]
    unsafe fn dot_half_pair<const BITS: u32>(
        dots: [[int32x4_t; 2]; 2],
        codes: &[[int32x4_t; 2]; 4],
        acts: [*const i8; 2],
    ) -> [[int32x4_t; 2]; 2] {
        unsafe {
            let acts = [vld1q_s64(acts[0].cast()), vld1q_s64(acts[1].cast())];
            let low = vzip1q_s64(acts[0], acts[1]);
            let high = vzip2q_s64(acts[0], acts[1]);
            let dots = add_matrices(dots, [codes[0], codes[1]], low);
            add_matrices(dots, [codes[2], codes[3]], high)
        }
    }
    #[inline(always)]
    unsafe fn unpair(dots: [[int32x4_t; 2]; 2]) -> [[int32x4_t; 2]; 2] {
        let [a, b] = dots;
        unsafe {
            [
                [vuzp1q_s32(a[0], a[1]), vuzp1q_s32(b[0], b[1])],
                [vuzp2q_s32(a[0], a[1]), vuzp2q_s32(b[0], b[1])],
            ]
        }
    }
}

/// Each lane's four codes with four activation codes, those of `GROUP`.
#[inline(always)]
unsafe fn add_products<const GROUP: usize>(
    dot: [int32x4_t; 2],
    codes: [int32x4_t; 2],
    acts: int8x16_t,
) -> [int32x4_t; 2] {
    unsafe {
        [
            sdot::<GROUP>(dot[0], codes[0], acts),
            sdot::<GROUP>(dot[1], codes[1], acts),
        ]
    }
}

/// Eight codes of every row with those of two columns.
#[inline(always)]
unsafe fn add_matrices(
    dots: [[int32x4_t; 2]; 2],
    codes: [[int32x4_t; 2]; 2],
    acts: int64x2_t,
) -> [[int32x4_t; 2]; 2] {
    unsafe {
        [
            [
                smmla(dots[0][0], codes[0][0], acts),
                smmla(dots[0][1], codes[0][1], acts),
            ],
            [
                smmla(dots[1][0], codes[1][0], acts),
                smmla(dots[1][1], codes[1][1], acts),
            ],
        ]
    }
}

/// By its own name, as the intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const GROUP: usize>(dot: int32x4_t, codes: int32x4_t, acts: int8x16_t) -> int32x4_t {
    let mut dot = dot;
    unsafe {
        asm!(
            "sdot {dot:v}.4s, {codes:v}.16b, {acts:v}.4b[{group}]",
            dot = inout(vreg) dot,
            codes = in(vreg) codes,
            acts = in(vreg) acts,
            group = const GROUP,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    dot
}

/// Eight codes of two rows with those of two columns: the sums are row by row. By its own name, as the intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(dots: int32x4_t, codes: int32x4_t, acts: int64x2_t) -> int32x4_t {
    let mut dots = dots;
    unsafe {
        asm!(
            "smmla {dots:v}.4s, {codes:v}.16b, {acts:v}.16b",
            dots = inout(vreg) dots,
            codes = in(vreg) codes,
            acts = in(vreg) acts,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    dots
}
