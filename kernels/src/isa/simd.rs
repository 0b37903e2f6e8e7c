//! What the vector kernels ask of an instruction set: lanes of f32 and of 32-bit integers, and dot products of bytes.
//!
//! The kernels in `lanes` are written once over [`Simd`] and compiled for each implementation, which keeps bits equal by
//! construction: every operation here has one exact result. [`Simd::vectorize`] is the only way in; everything below it is
//! inlined into a function that may use the instructions. What is not inlined is right but slow, as each instruction becomes
//! a call: hence `#[inline(always)]` everywhere, loops rather than closures where it matters, and nothing recursive.
#![allow(unsafe_code)]

/// A computation to be compiled for an instruction set.
pub(crate) trait Kernel<S: Simd> {
    /// # Safety
    /// Called from [`Simd::vectorize`] only. Marked `#[inline(always)]`.
    unsafe fn run(self);
}

/// Which elements of a window a dot product covers, and where their sum is in an activation block.
pub(crate) const LOW_HALF: usize = 0;
pub(crate) const HIGH_HALF: usize = 1;
pub(crate) const BOTH_HALVES: usize = 2;

/// An instruction set.
///
/// # Safety
/// Of every function: the CPU has the instructions, and what a pointer points to is readable, or writable, for as many
/// elements as the function says. Functions are marked `#[inline(always)]`.
pub(crate) trait Simd: Copy + 'static {
    /// f32 of a vector, and rows of a tile of weights: 8 or 16.
    const LANES: usize;
    /// There are 32 vector registers, not 16.
    const MANY_REGISTERS: bool;
    /// From how many columns on they are multiplied two at a time, where one instruction multiplies matrices of bytes.
    const PAIRS_FROM: usize = usize::MAX;
    /// `LANES` i32, or four times as many bytes.
    type I: Copy;
    /// `LANES` f32.
    type F: Copy;
    /// A truth value for each lane.
    type M: Copy;
    /// Dot products of bytes under way, one for each lane.
    type Dot: Copy;

    /// Run a kernel with these instructions.
    unsafe fn vectorize<K: Kernel<Self>>(kernel: K);

    // f32 lanes.
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, x: Self::F);
    /// `LANES` f16, exact.
    unsafe fn load_f16(from: *const u8) -> Self::F;
    /// `LANES` bf16, exact.
    unsafe fn load_bf16(from: *const u8) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a where a > b, else b: b where one of them is a NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// To an integer, ties to even.
    unsafe fn round(x: Self::F) -> Self::F;
    /// |x|.
    unsafe fn abs(x: Self::F) -> Self::F;
    /// |size| with the sign of `sign`.
    unsafe fn copysign(size: Self::F, sign: Self::F) -> Self::F;
    unsafe fn lt(a: Self::F, b: Self::F) -> Self::M;
    unsafe fn is_nan(x: Self::F) -> Self::M;
    /// Lanes `from .. end`, counted from the first.
    unsafe fn lanes_between(from: i32, end: i32) -> Self::M;
    /// `yes` where `mask`, else `no`.
    unsafe fn select(mask: Self::M, yes: Self::F, no: Self::F) -> Self::F;
    /// The even and the odd ones of `2 LANES` elements.
    unsafe fn deinterleave(a: Self::F, b: Self::F) -> (Self::F, Self::F);
    /// The inverse of `deinterleave`.
    unsafe fn interleave(even: Self::F, odd: Self::F) -> (Self::F, Self::F);
    /// The fixed tree over 16 lanes: all of `sums[0]`, and of `sums[1]` if a vector has eight.
    unsafe fn sum_16(sums: [Self::F; 2]) -> f32;

    // i32 lanes.
    unsafe fn bits(x: Self::F) -> Self::I;
    unsafe fn from_bits(x: Self::I) -> Self::F;
    /// Rounded, ties to even; what does not fit is anything.
    unsafe fn to_i32(x: Self::F) -> Self::I;
    unsafe fn splat_i32(x: i32) -> Self::I;
    unsafe fn add_i32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn max_i32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn shl_i32<const N: i32>(x: Self::I) -> Self::I;
    unsafe fn reduce_add_i32(x: Self::I) -> i32;
    unsafe fn reduce_max_i32(x: Self::I) -> i32;
    /// Store the low bytes: each lane is within i8.
    unsafe fn store_i8(to: *mut i8, x: Self::I);

    // Bytes.
    /// `4 LANES` bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::I;
    unsafe fn splat_byte(x: u8) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Shifts of 16-bit units: bits move from byte to byte, so a mask must follow.
    unsafe fn shr_16<const N: i32>(x: Self::I) -> Self::I;
    unsafe fn shl_16<const N: i32>(x: Self::I) -> Self::I;
    /// `LANES` unsigned bytes as f32.
    unsafe fn load_u8(from: *const u8) -> Self::F;
    /// `LANES` signed bytes as f32.
    unsafe fn load_i8(from: *const u8) -> Self::F;

    // Dot products: each lane's four bytes of weight codes with the four activation codes that all lanes share.
    // `BITS` are those of a weight code: 4, 5 or 6 unsigned, or 8 signed.
    /// The zero point that is to be taken off, where codes are used as [`Simd::prepare`] leaves them.
    fn zero_point(bits: u32, zero: i32) -> i32;
    /// Codes as `dot_half` takes them.
    unsafe fn prepare<const BITS: u32>(codes: [Self::I; 4]) -> [Self::I; 4];
    /// A dot product of nothing. `minus` points to minus the sum of the activation codes that it will take; a zero point is 0 or a
    /// power of two.
    unsafe fn dot_start(zero: i32, minus: *const i32) -> Self::Dot;
    /// Half a window: 16 codes of every lane with 16 activations.
    unsafe fn dot_half<const BITS: u32>(
        dot: Self::Dot,
        codes: &[Self::I; 4],
        acts: *const i8,
    ) -> Self::Dot;
    /// The integer as f32, `zero` times the sum of activations taken off.
    unsafe fn dot_finish<const BITS: u32>(dot: Self::Dot, zero: i32, minus: *const i32) -> Self::F;

    // The same for two columns at a time: between `pair` and `unpair` their dot products may lie in any order.
    /// Prepared codes as `dot_half_pair` takes them.
    #[inline(always)]
    unsafe fn pair_codes(codes: [Self::I; 4]) -> [Self::I; 4] {
        codes
    }
    /// Dot products of nothing as `dot_half_pair` takes them.
    #[inline(always)]
    unsafe fn pair(dots: [Self::Dot; 2]) -> [Self::Dot; 2] {
        dots
    }
    /// `dot_half` of both columns.
    #[inline(always)]
    unsafe fn dot_half_pair<const BITS: u32>(
        dots: [Self::Dot; 2],
        codes: &[Self::I; 4],
        acts: [*const i8; 2],
    ) -> [Self::Dot; 2] {
        // SAFETY: as the caller promises.
        unsafe {
            [
                Self::dot_half::<BITS>(dots[0], codes, acts[0]),
                Self::dot_half::<BITS>(dots[1], codes, acts[1]),
            ]
        }
    }
    /// Each column's dot product as `dot_finish` takes it.
    #[inline(always)]
    unsafe fn unpair(dots: [Self::Dot; 2]) -> [Self::Dot; 2] {
        dots
    }
}
