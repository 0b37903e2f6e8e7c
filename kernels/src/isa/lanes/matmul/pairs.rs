//! Columns two at a time, where an instruction multiplies matrices of bytes.
//!
//! Between the codes and the sums everything is as for one column, in `matmul.rs`.

use super::{Codes, add_scaled, minus, zero_point};
use crate::isa::simd::{BOTH_HALVES, HIGH_HALF, LOW_HALF, Simd};
use crate::rows::ActBlock;

/// Run the body for columns `0 .. N`, an even number of at most 16, two by two, as straight-line code.
macro_rules! for_each_pair {
    ($n:ident, |$c:ident| $body:block) => {
        for_each_pair!(@ $n, $c, $body, 0 2 4 6 8 10 12 14)
    };
    (@ $n:ident, $c:ident, $body:block, $($at:literal)*) => {
        $(if $at < $n {
            let $c = $at;
            $body
        })*
    };
}

/// A window whose halves share their scale.
///
/// # Safety
/// As for `add_window`.
#[inline(always)]
pub(super) unsafe fn add_whole<S: Simd, T: Codes, const N: usize, const WINDOW: usize>(
    block: *const u8,
    d: S::F,
    acts: *const ActBlock,
    acc: &mut [S::F; N],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let low = codes::<S, T, WINDOW, LOW_HALF>(block);
        let high = codes::<S, T, WINDOW, HIGH_HALF>(block);
        for_each_pair!(N, |c| {
            let acts = [acts.add(c), acts.add(c + 1)];
            let dots = start::<S, T, BOTH_HALVES>(acts);
            let dots = add_products::<S, T, LOW_HALF>(dots, &low, acts);
            let dots = S::unpair(add_products::<S, T, HIGH_HALF>(dots, &high, acts));
            acc[c] = add_scaled::<S, T, BOTH_HALVES>(acc[c], d, acts[0], dots[0]);
            acc[c + 1] = add_scaled::<S, T, BOTH_HALVES>(acc[c + 1], d, acts[1], dots[1]);
        });
    }
}

/// One half of a window whose halves have scales of their own.
///
/// # Safety
/// As for `add_half`, whose scale has been multiplied by that of the half.
#[inline(always)]
pub(super) unsafe fn add_half<
    S: Simd,
    T: Codes,
    const N: usize,
    const WINDOW: usize,
    const HALF: usize,
>(
    block: *const u8,
    d: S::F,
    acts: *const ActBlock,
    acc: &mut [S::F; N],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let codes = codes::<S, T, WINDOW, HALF>(block);
        for_each_pair!(N, |c| {
            let acts = [acts.add(c), acts.add(c + 1)];
            let dots = add_products::<S, T, HALF>(start::<S, T, HALF>(acts), &codes, acts);
            let dots = S::unpair(dots);
            acc[c] = add_scaled::<S, T, HALF>(acc[c], d, acts[0], dots[0]);
            acc[c + 1] = add_scaled::<S, T, HALF>(acc[c + 1], d, acts[1], dots[1]);
        });
    }
}

#[inline(always)]
unsafe fn codes<S: Simd, T: Codes, const WINDOW: usize, const HALF: usize>(
    block: *const u8,
) -> [S::I; 4] {
    // SAFETY: as the caller promises.
    unsafe { S::pair_codes(T::prepare::<S>(T::codes::<S, WINDOW, HALF>(block))) }
}

#[inline(always)]
unsafe fn start<S: Simd, T: Codes, const HALF: usize>(acts: [*const ActBlock; 2]) -> [S::Dot; 2] {
    let zero = zero_point::<S, T, HALF>();
    // SAFETY: as the caller promises.
    unsafe {
        S::pair([
            S::dot_start(zero, minus::<HALF>(acts[0])),
            S::dot_start(zero, minus::<HALF>(acts[1])),
        ])
    }
}

#[inline(always)]
unsafe fn add_products<S: Simd, T: Codes, const HALF: usize>(
    dots: [S::Dot; 2],
    codes: &[S::I; 4],
    acts: [*const ActBlock; 2],
) -> [S::Dot; 2] {
    // SAFETY: as the caller promises: a block's codes are two halves of 16.
    unsafe {
        let acts = [
            (&raw const (*acts[0]).codes).cast::<i8>().add(16 * HALF),
            (&raw const (*acts[1]).codes).cast::<i8>().add(16 * HALF),
        ];
        T::dot_half_pair::<S>(dots, codes, acts)
    }
}
