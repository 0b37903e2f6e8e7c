//! Float weights: rows in lanes, several tiles and columns in flight, since each output is one chain of dependent
//! multiply-adds and the CPU needs eight or more chains to be busy.

use std::marker::PhantomData;

use crate::isa::simd::{Kernel, Simd};
use crate::matmul::Panel;

/// How to widen the weights of one position of k.
///
/// # Safety
/// Of `load`: as for [`Simd`]; `LANES` weights are readable. Marked `#[inline(always)]`.
pub(super) trait Widen {
    const BYTES: usize;

    unsafe fn load<S: Simd>(from: *const u8) -> S::F;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Widen for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: as for the trait.
        unsafe { S::load(from.cast()) }
    }
}

impl Widen for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: as for the trait.
        unsafe { S::load_f16(from) }
    }
}

impl Widen for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: as for the trait.
        unsafe { S::load_bf16(from) }
    }
}

/// Every tile of the panel by every column; `x` is `(n_cols, k)`, `out` is `(n_cols, n_tiles * LANES)`.
///
/// # Safety
/// The CPU has the instructions, and the tiles are of the type that `W` reads.
pub(super) unsafe fn panel<S: Simd, W: Widen>(panel: &Panel<'_>, x: &[f32], out: &mut [f32]) {
    let (k, n_rows) = (panel.k, panel.n_tiles * S::LANES);
    assert_eq!(x.len(), panel.n_cols * k);
    let mut col = 0;
    while col < panel.n_cols {
        let (x, out) = (&x[col * k..], &mut out[col * n_rows..]);
        // SAFETY: as the caller promises; a group never reaches beyond the last column.
        unsafe {
            col += match panel.n_cols - col {
                1 => columns::<S, W, 8, 1>(panel, x, out),
                2 | 3 => columns::<S, W, 4, 2>(panel, x, out),
                _ => columns::<S, W, 2, 4>(panel, x, out),
            };
        }
    }
}

/// All tiles by `N` columns, `T` tiles at a time and the rest one by one. Returns `N`.
///
/// # Safety
/// As for [`panel`]; `x` has at least `N` columns.
unsafe fn columns<S: Simd, W: Widen, const T: usize, const N: usize>(
    panel: &Panel<'_>,
    x: &[f32],
    out: &mut [f32],
) -> usize {
    let (tile_bytes, out_stride) = (panel.tile_bytes(), panel.n_tiles * S::LANES);
    let mut tile = 0;
    while tile < panel.n_tiles {
        let tiles = Tiles {
            tiles: &panel.tiles[tile * tile_bytes..],
            k: panel.k,
            x,
            out: &mut out[tile * S::LANES..],
            out_stride,
        };
        // SAFETY: as the caller promises.
        unsafe {
            if panel.n_tiles - tile >= T {
                S::vectorize(ByColumns::<W, T, N>(tiles, PhantomData));
                tile += T;
            } else {
                S::vectorize(ByColumns::<W, 1, N>(tiles, PhantomData));
                tile += 1;
            }
        }
    }
    N
}

struct Tiles<'a> {
    tiles: &'a [u8],
    k: usize,
    x: &'a [f32],
    /// Column c's outputs go to `out[c * out_stride ..]`.
    out: &'a mut [f32],
    out_stride: usize,
}

/// `T` tiles by `N` columns: `T N` chains.
struct ByColumns<'a, W, const T: usize, const N: usize>(Tiles<'a>, PhantomData<W>);

impl<S: Simd, W: Widen, const T: usize, const N: usize> Kernel<S> for ByColumns<'_, W, T, N> {
    #[inline(always)]
    unsafe fn run(self) {
        let Tiles {
            tiles,
            k,
            x,
            out,
            out_stride,
        } = self.0;
        let row_bytes = W::BYTES * S::LANES;
        assert!(tiles.len() >= T * k * row_bytes && x.len() >= N * k);
        assert!(out.len() >= (N - 1) * out_stride + T * S::LANES);
        // SAFETY: in bounds by the checks above.
        unsafe {
            let mut acc = [[S::splat(0.0); N]; T];
            for i in 0..k {
                let mut lanes = [S::splat(0.0); N];
                for (c, lanes) in lanes.iter_mut().enumerate() {
                    *lanes = S::splat(*x.as_ptr().add(c * k + i));
                }
                for (t, acc) in acc.iter_mut().enumerate() {
                    let w = W::load::<S>(tiles.as_ptr().add((t * k + i) * row_bytes));
                    for (acc, x) in acc.iter_mut().zip(lanes) {
                        *acc = S::fma(w, x, *acc);
                    }
                }
            }
            for (t, acc) in acc.into_iter().enumerate() {
                for (c, acc) in acc.into_iter().enumerate() {
                    S::store(out.as_mut_ptr().add(c * out_stride + t * S::LANES), acc);
                }
            }
        }
    }
}
