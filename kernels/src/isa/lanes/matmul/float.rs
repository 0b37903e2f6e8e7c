//! Float weights: rows in lanes, several tiles and columns in flight, since each output is one chain of dependent
//! multiply-adds and the CPU needs eight or more chains to be busy.

use std::marker::PhantomData;

use super::Columns;
use crate::isa::simd::{Kernel, Simd};
use crate::matmul::Panel;

/// How to widen what is stored, such as the weights of one position of k.
///
/// # Safety
/// Of `load`: as for [`Simd`]; `LANES` of them are readable. Marked `#[inline(always)]`.
pub(in crate::isa::lanes) trait Widen: Copy {
    const BYTES: usize;

    unsafe fn load<S: Simd>(from: *const u8) -> S::F;
}

#[derive(Clone, Copy)]
pub(in crate::isa::lanes) struct F32;
#[derive(Clone, Copy)]
pub(in crate::isa::lanes) struct F16;
#[derive(Clone, Copy)]
pub(in crate::isa::lanes) struct Bf16;

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

/// Every tile of the panel by every column; `x` is `(n_cols, k)`.
///
/// # Safety
/// The CPU has the instructions, and the tiles are of the type that `W` reads.
pub(super) unsafe fn panel<S: Simd, W: Widen>(panel: &Panel<'_>, x: &[f32]) {
    assert_eq!(x.len(), panel.n_cols * panel.k);
    let mut col = 0;
    while col < panel.n_cols {
        // SAFETY: as the caller promises; a group never reaches beyond the last column.
        unsafe {
            col += match panel.n_cols - col {
                1 => columns::<S, W, 8, 1>(panel, x, col),
                2 | 3 => columns::<S, W, 4, 2>(panel, x, col),
                _ => columns::<S, W, 2, 4>(panel, x, col),
            };
        }
    }
}

/// All tiles by `N` columns from `col`, `T` tiles at a time and the rest one by one. Returns `N`.
///
/// # Safety
/// As for [`panel`]; there are `N` columns from `col`.
unsafe fn columns<S: Simd, W: Widen, const T: usize, const N: usize>(
    panel: &Panel<'_>,
    x: &[f32],
    col: usize,
) -> usize {
    let mut tile = 0;
    while tile < panel.n_tiles {
        let tiles = Tiles {
            tiles: &panel.tiles[tile * panel.tile_bytes()..],
            x: &x[col * panel.k..],
            out: Columns::of(panel, tile, col),
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
    /// `(n_cols, k)`
    x: &'a [f32],
    out: Columns<'a>,
}

/// `T` tiles by `N` columns: `T N` chains.
struct ByColumns<'a, W, const T: usize, const N: usize>(Tiles<'a>, PhantomData<W>);

impl<S: Simd, W: Widen, const T: usize, const N: usize> Kernel<S> for ByColumns<'_, W, T, N> {
    #[inline(always)]
    unsafe fn run(self) {
        let Tiles { tiles, x, out } = self.0;
        let k = out.panel.k;
        let row_bytes = W::BYTES * S::LANES;
        assert!(tiles.len() >= T * k * row_bytes && x.len() >= N * k);
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
                let out = Columns::of(out.panel, out.tile + t, out.first);
                for (c, acc) in acc.into_iter().enumerate() {
                    out.store::<S>(c, acc);
                }
            }
        }
    }
}
