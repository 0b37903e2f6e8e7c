//! Matrix products: eight rows in lanes, the weights of half a window in registers, up to four columns against them.
//!
//! The bits are those of `scalar/matmul.rs`: one fused multiply-add chain per output, in order of k. How codes come out of a
//! packed tile is in `matmul/nibbles.rs` and `matmul/super_blocks.rs`, float weights in `matmul/float.rs`.

mod float;
mod nibbles;
mod super_blocks;

use std::arch::x86_64::*;

use super::LANES;
use crate::matmul::{Inputs, Panel};
use crate::rows::{ACT_SCALES, ACT_WINDOW, ActBlock};
use crate::weight::WeightType;

/// Columns that share one unpacking of the weights: with four weight vectors and two accumulators a column they fill
/// the sixteen registers.
const MAX_COLS: usize = 4;

/// How far ahead of use weights are asked for: measured, 15 instead of 13 GB/s for one column on Zen 3.
const PREFETCH_BYTES: usize = 1024;
const CACHE_LINE: usize = 64;

/// How to get at the codes and scales of a packed tile of one quantised type.
///
/// # Safety
/// Of every method: the CPU has AVX2, FMA and F16C, and `block` points to `TILE_BLOCK` readable bytes.
trait Codes {
    /// Bytes of one block of eight rows.
    const TILE_BLOCK: usize;
    /// Windows of 32 in a block.
    const WINDOWS: usize;
    /// Taken off each unsigned code.
    const ZERO: i16 = 0;
    const HAS_MIN: bool = false;
    /// Each half of a window has an integer sub-scale.
    const HAS_SUB: bool = false;
    /// How many products of `maddubs` can be added in 16 bits without saturating; 1 means that the codes are signed.
    const SUMMABLE: usize;

    /// Scales of a block, unpacked once.
    type Scales;

    unsafe fn scales(block: *const u8) -> Self::Scales;

    /// Scale of each row for one window.
    unsafe fn d(scales: &Self::Scales, window: usize) -> __m256;

    /// Minimum of each row, with its sign.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn m(_scales: &Self::Scales, _window: usize) -> __m256 {
        _mm256_setzero_ps()
    }

    /// Sub-scale of each row for one half window, as 32-bit integers.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sub(_block: *const u8, _window: usize, _half: usize) -> __m256i {
        _mm256_set1_epi32(1)
    }

    /// Half a window: vector g holds elements `16 half + 4 g ..` of each row, one byte each.
    unsafe fn codes(block: *const u8, window: usize, half: usize) -> [__m256i; 4];
}

/// All outputs of a panel: `out` is `(n_cols, n_tiles * 8)`.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
pub(crate) unsafe fn panel(panel: &Panel<'_>, out: &mut [f32]) {
    let n_cols = match panel.inputs {
        Inputs::Quantized(acts) => acts.len() / (panel.k / ACT_WINDOW).max(1),
        Inputs::Float(x) => x.len() / panel.k.max(1),
    };
    assert_eq!(
        out.len(),
        n_cols * panel.n_tiles * LANES,
        "outputs of a panel"
    );
    assert_eq!(
        Some(panel.tile_bytes()),
        panel.ty.row_bytes(panel.k).map(|row| row * LANES),
        "bytes of a tile"
    );
    // SAFETY: the CPU has the instructions, as the caller promises; shapes were checked just now.
    unsafe {
        match (panel.ty, panel.inputs) {
            (WeightType::F32, Inputs::Float(x)) => float::panel::<float::F32>(panel, x, out),
            (WeightType::F16, Inputs::Float(x)) => float::panel::<float::F16>(panel, x, out),
            (WeightType::BF16, Inputs::Float(x)) => float::panel::<float::Bf16>(panel, x, out),
            (WeightType::Q4_0, Inputs::Quantized(acts)) => {
                quantized::<nibbles::Q4_0>(panel, acts, out)
            }
            (WeightType::Q4_1, Inputs::Quantized(acts)) => {
                quantized::<nibbles::Q4_1>(panel, acts, out)
            }
            (WeightType::Q5_0, Inputs::Quantized(acts)) => {
                quantized::<nibbles::Q5_0>(panel, acts, out)
            }
            (WeightType::Q5_1, Inputs::Quantized(acts)) => {
                quantized::<nibbles::Q5_1>(panel, acts, out)
            }
            (WeightType::Q8_0, Inputs::Quantized(acts)) => {
                quantized::<nibbles::Q8_0>(panel, acts, out)
            }
            (WeightType::Q4_K, Inputs::Quantized(acts)) => {
                quantized::<super_blocks::Q4_K>(panel, acts, out)
            }
            (WeightType::Q5_K, Inputs::Quantized(acts)) => {
                quantized::<super_blocks::Q5_K>(panel, acts, out)
            }
            (WeightType::Q6_K, Inputs::Quantized(acts)) => {
                quantized::<super_blocks::Q6_K>(panel, acts, out)
            }
            (ty, _) => panic!("the other kind of input for a {} matrix", ty.name()),
        }
    }
}

/// Every tile of the panel by every group of columns.
///
/// # Safety
/// The CPU has the instructions; `acts` is whole columns of `k / 32` blocks, the tiles are of type `T`.
unsafe fn quantized<T: Codes>(panel: &Panel<'_>, acts: &[ActBlock], out: &mut [f32]) {
    let (n_windows, n_rows) = (panel.k / ACT_WINDOW, panel.n_tiles * LANES);
    if n_windows == 0 {
        return out.fill(0.0);
    }
    let n_cols = acts.len() / n_windows;
    for (index, tile) in panel.tiles.chunks_exact(panel.tile_bytes()).enumerate() {
        for col in (0..n_cols).step_by(MAX_COLS) {
            let acts = &acts[col * n_windows..];
            let out = &mut out[col * n_rows + index * LANES..];
            // SAFETY: as the caller promises; a group never reaches beyond the last column.
            unsafe {
                match (n_cols - col).min(MAX_COLS) {
                    1 => tile_by_columns::<T, 1>(tile, acts, out, n_rows),
                    2 => tile_by_columns::<T, 2>(tile, acts, out, n_rows),
                    3 => tile_by_columns::<T, 3>(tile, acts, out, n_rows),
                    _ => tile_by_columns::<T, MAX_COLS>(tile, acts, out, n_rows),
                }
            }
        }
    }
}

/// Eight rows by `N` columns. Column c's outputs go to `out[c * stride ..]`.
///
/// # Safety
/// The CPU has the instructions; `tile` is whole blocks of `T`; `acts` holds at least `N` columns of as many windows.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_by_columns<T: Codes, const N: usize>(
    tile: &[u8],
    acts: &[ActBlock],
    out: &mut [f32],
    stride: usize,
) {
    let n_windows = tile.len() / T::TILE_BLOCK * T::WINDOWS;
    assert!(acts.len() >= N * n_windows && out.len() >= (N - 1) * stride + LANES);
    let mut acts_at = [acts.as_ptr(); N];
    for (c, act) in acts_at.iter_mut().enumerate() {
        *act = act.wrapping_add(c * n_windows);
    }
    let mut acc = [_mm256_setzero_ps(); N];
    for block in tile.chunks_exact(T::TILE_BLOCK) {
        let block = block.as_ptr();
        prefetch::<T>(block);
        // SAFETY: `block` has TILE_BLOCK bytes, and the columns as many windows as the tile.
        unsafe {
            let scales = T::scales(block);
            for window in 0..T::WINDOWS {
                add_window::<T, N>(block, &scales, window, acts_at, &mut acc);
                for act in &mut acts_at {
                    *act = act.wrapping_add(1);
                }
            }
        }
    }
    for (c, acc) in acc.into_iter().enumerate() {
        // SAFETY: eight elements lie at `c * stride`, by the check above.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(c * stride), acc) };
    }
}

/// Ask for the block that lies [`PREFETCH_BYTES`] ahead.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn prefetch<T: Codes>(block: *const u8) {
    for line in (0..T::TILE_BLOCK).step_by(CACHE_LINE) {
        // No access: any address will do.
        _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(PREFETCH_BYTES + line).cast());
    }
}

/// Steps 1 and 2 of the law for one window.
///
/// # Safety
/// As for [`Codes`]; each of `acts` points to a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_window<T: Codes, const N: usize>(
    block: *const u8,
    scales: &T::Scales,
    window: usize,
    acts: [*const ActBlock; N],
    acc: &mut [__m256; N],
) {
    // SAFETY: as the caller promises.
    unsafe {
        if T::HAS_MIN {
            let m = T::m(scales, window);
            for c in 0..N {
                acc[c] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(&(*acts[c]).s), acc[c]);
            }
        }
        let d = T::d(scales, window);
        if ACT_SCALES == 1 {
            let idot = whole_dots::<T, N>(block, window, acts);
            for c in 0..N {
                acc[c] = add_scaled(acc[c], d, &(*acts[c]).d[0], idot[c]);
            }
        } else {
            for half in 0..ACT_SCALES {
                let d = if T::HAS_SUB {
                    _mm256_mul_ps(d, _mm256_cvtepi32_ps(T::sub(block, window, half)))
                } else {
                    d
                };
                let codes = T::codes(block, window, half);
                let one = _mm256_set1_epi16(1);
                for c in 0..N {
                    let idot = half_dot::<T>(&codes, &(*acts[c]).codes, half, one);
                    let idot = _mm256_add_epi32(idot, zero_of_half::<T>(half, &(*acts[c]).sums));
                    acc[c] = add_scaled(acc[c], d, &(*acts[c]).d[half], idot);
                }
            }
        }
    }
}

/// `fma(d_w d_a, idot, acc)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_scaled(acc: __m256, d_w: __m256, d_a: &f32, idot: __m256i) -> __m256 {
    _mm256_fmadd_ps(
        _mm256_mul_ps(d_w, _mm256_broadcast_ss(d_a)),
        _mm256_cvtepi32_ps(idot),
        acc,
    )
}

/// Integer dot products of a whole window, sub-scales and offset included.
///
/// # Safety
/// As for [`Codes`]; each of `acts` points to a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn whole_dots<T: Codes, const N: usize>(
    block: *const u8,
    window: usize,
    acts: [*const ActBlock; N],
) -> [__m256i; N] {
    let one = _mm256_set1_epi16(1);
    // SAFETY: as the caller promises.
    unsafe {
        let low = T::codes(block, window, 0);
        let low_factor = if T::HAS_SUB {
            pairs(T::sub(block, window, 0))
        } else {
            one
        };
        let mut idot = [_mm256_setzero_si256(); N];
        for (idot, act) in idot.iter_mut().zip(acts) {
            *idot = match T::SUMMABLE {
                8 => half_sums(&low, &(*act).codes, 0),
                _ => half_dot::<T>(&low, &(*act).codes, 0, low_factor),
            };
        }
        let high = T::codes(block, window, 1);
        let high_factor = if T::HAS_SUB {
            pairs(T::sub(block, window, 1))
        } else {
            one
        };
        for (idot, act) in idot.iter_mut().zip(acts) {
            *idot = match T::SUMMABLE {
                8 => _mm256_madd_epi16(
                    _mm256_add_epi16(*idot, half_sums(&high, &(*act).codes, 1)),
                    one,
                ),
                _ => _mm256_add_epi32(*idot, half_dot::<T>(&high, &(*act).codes, 1, high_factor)),
            };
        }
        if T::ZERO != 0 {
            // |sub| is at most 128, so times the offset it fits in 16 bits.
            let factors = _mm256_blend_epi16::<0xaa>(low_factor, high_factor);
            let factors = _mm256_mullo_epi16(factors, _mm256_set1_epi16(-T::ZERO));
            for (idot, act) in idot.iter_mut().zip(acts) {
                *idot = _mm256_add_epi32(
                    *idot,
                    _mm256_madd_epi16(broadcast_pair(&(*act).sums), factors),
                );
            }
        }
        idot
    }
}

/// Half a window's dot products, each 16-bit sum multiplied with the factor of its row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_dot<T: Codes>(
    codes: &[__m256i; 4],
    acts: &[i8; 32],
    half: usize,
    factor: __m256i,
) -> __m256i {
    match T::SUMMABLE {
        1 => {
            let product = |g: usize| {
                let act = broadcast_codes(acts, half * 4 + g);
                // |w| is at most 128 and |a| at most 127, so a pair is at most 32512.
                let pair = _mm256_maddubs_epi16(
                    _mm256_abs_epi8(codes[g]),
                    _mm256_sign_epi8(act, codes[g]),
                );
                _mm256_madd_epi16(pair, factor)
            };
            _mm256_add_epi32(
                _mm256_add_epi32(product(0), product(1)),
                _mm256_add_epi32(product(2), product(3)),
            )
        }
        2 => {
            let product =
                |g: usize| _mm256_maddubs_epi16(codes[g], broadcast_codes(acts, half * 4 + g));
            let low = _mm256_madd_epi16(_mm256_add_epi16(product(0), product(1)), factor);
            let high = _mm256_madd_epi16(_mm256_add_epi16(product(2), product(3)), factor);
            _mm256_add_epi32(low, high)
        }
        _ => _mm256_madd_epi16(half_sums(codes, acts, half), factor),
    }
}

/// Half a window's products added in 16 bits, two sums a row: for types that allow four or more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half_sums(codes: &[__m256i; 4], acts: &[i8; 32], half: usize) -> __m256i {
    let product = |g: usize| _mm256_maddubs_epi16(codes[g], broadcast_codes(acts, half * 4 + g));
    _mm256_add_epi16(
        _mm256_add_epi16(product(0), product(1)),
        _mm256_add_epi16(product(2), product(3)),
    )
}

/// What the offset of unsigned codes takes off the dot product of one half: the other half's factor is 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn zero_of_half<T: Codes>(half: usize, sums: &[i16; 2]) -> __m256i {
    if T::ZERO == 0 {
        return _mm256_setzero_si256();
    }
    let factor = i32::from(-T::ZERO) as u32 & 0xffff;
    _mm256_madd_epi16(
        broadcast_pair(sums),
        _mm256_set1_epi32((factor << (16 * half)) as i32),
    )
}

/// Four codes of an activation block, for every row. One load, which the CPU broadcasts for free.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn broadcast_codes(codes: &[i8; 32], group: usize) -> __m256i {
    // SAFETY: group is below 8, so four bytes are readable; the first is aligned as the block is.
    _mm256_castps_si256(unsafe { _mm256_broadcast_ss(&*codes.as_ptr().add(group * 4).cast()) })
}

/// The sums of both halves, for every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn broadcast_pair(sums: &[i16; 2]) -> __m256i {
    // SAFETY: two sums are four readable bytes; they follow an f32 in the block.
    _mm256_castps_si256(unsafe { _mm256_broadcast_ss(&*sums.as_ptr().cast()) })
}

/// Each 32-bit integer as two 16-bit ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs(x: __m256i) -> __m256i {
    _mm256_blend_epi16::<0xaa>(x, _mm256_slli_epi32::<16>(x))
}
