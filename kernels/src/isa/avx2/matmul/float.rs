//! Float weights: eight rows in lanes, several tiles and columns in flight, since each output is one chain of dependent
//! multiply-adds and the CPU needs eight or more chains to be busy.

use std::arch::x86_64::*;

use super::nibbles::load_f16;
use crate::isa::avx2::LANES;
use crate::matmul::Panel;

/// How to widen eight weights of one position of k.
///
/// # Safety
/// Of `load`: the CPU has AVX2 and F16C, and eight weights are readable.
pub(super) trait Widen {
    const BYTES: usize;

    unsafe fn load(from: *const u8) -> __m256;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Widen for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const u8) -> __m256 {
        // SAFETY: as for the trait.
        unsafe { _mm256_loadu_ps(from.cast()) }
    }
}

impl Widen for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const u8) -> __m256 {
        // SAFETY: as for the trait.
        unsafe { load_f16(from) }
    }
}

impl Widen for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const u8) -> __m256 {
        // SAFETY: as for the trait.
        let halves = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }
}

/// Every tile of the panel by every column; `x` is `(n_cols, k)`, `out` is `(n_cols, n_tiles * 8)`.
///
/// # Safety
/// The CPU has the instructions, and the tiles are of the type that `W` reads.
pub(super) unsafe fn panel<W: Widen>(panel: &Panel<'_>, x: &[f32], out: &mut [f32]) {
    let (k, n_rows) = (panel.k, panel.n_tiles * LANES);
    if k == 0 {
        return out.fill(0.0);
    }
    let n_cols = x.len() / k;
    let mut col = 0;
    while col < n_cols {
        let (x, out) = (&x[col * k..], &mut out[col * n_rows..]);
        // SAFETY: as the caller promises; a group never reaches beyond the last column.
        unsafe {
            col += match n_cols - col {
                1 => columns::<W, 8, 1>(panel, x, out),
                2 | 3 => columns::<W, 4, 2>(panel, x, out),
                _ => columns::<W, 2, 4>(panel, x, out),
            };
        }
    }
}

/// All tiles by `N` columns, `T` tiles at a time and the rest one by one. Returns `N`.
///
/// # Safety
/// As for [`panel`]; `x` has at least `N` columns.
unsafe fn columns<W: Widen, const T: usize, const N: usize>(
    panel: &Panel<'_>,
    x: &[f32],
    out: &mut [f32],
) -> usize {
    let (tile_bytes, stride) = (panel.tile_bytes(), panel.n_tiles * LANES);
    let mut tile = 0;
    while tile < panel.n_tiles {
        let (tiles, out) = (&panel.tiles[tile * tile_bytes..], &mut out[tile * LANES..]);
        // SAFETY: as the caller promises.
        unsafe {
            if panel.n_tiles - tile >= T {
                tiles_by_columns::<W, T, N>(tiles, panel.k, x, out, stride);
                tile += T;
            } else {
                tiles_by_columns::<W, 1, N>(tiles, panel.k, x, out, stride);
                tile += 1;
            }
        }
    }
    N
}

/// `T` tiles by `N` columns: `T N` chains. Column c's outputs go to `out[c * stride ..]`.
///
/// # Safety
/// The CPU has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tiles_by_columns<W: Widen, const T: usize, const N: usize>(
    tiles: &[u8],
    k: usize,
    x: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    let row_bytes = W::BYTES * LANES;
    assert!(
        tiles.len() >= T * k * row_bytes
            && x.len() >= N * k
            && out.len() >= (N - 1) * stride + T * LANES
    );
    let mut acc = [[_mm256_setzero_ps(); N]; T];
    for i in 0..k {
        // SAFETY: in bounds by the check above.
        unsafe {
            let mut lanes = [_mm256_setzero_ps(); N];
            for (c, lanes) in lanes.iter_mut().enumerate() {
                *lanes = _mm256_broadcast_ss(&*x.as_ptr().add(c * k + i));
            }
            for (t, acc) in acc.iter_mut().enumerate() {
                let w = W::load(tiles.as_ptr().add((t * k + i) * row_bytes));
                for (acc, x) in acc.iter_mut().zip(lanes) {
                    *acc = _mm256_fmadd_ps(w, x, *acc);
                }
            }
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        for (c, acc) in acc.into_iter().enumerate() {
            // SAFETY: in bounds by the check above.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(c * stride + t * LANES), acc) };
        }
    }
}
