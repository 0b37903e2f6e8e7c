//! Matrix products cut into work: panels of a few tiles by a few columns, shared out over threads.
//!
//! Knows shapes and caches, not codes: what one output is, is law in `isa/scalar/matmul.rs`, and no output depends on
//! which panel it falls in.
#![allow(unsafe_code)]

use std::cell::RefCell;

use crate::kernels::Kernels;
use crate::pack::PackedMatrix;
use crate::pool::{Disjoint, Pool};
use crate::rows::{ActBlock, GROUP_ROWS, Rows};
use crate::weight::WeightType;

/// Work items for each thread: enough to even out cores of different speed, few enough to claim cheaply.
const ITEMS_PER_THREAD: usize = 8;

/// Bytes of weights that a work item may hold when there are several groups of columns: they are read once for each group, and
/// should stay in a small L2 beside the activations.
const ITEM_WEIGHT_BYTES: usize = 192 * 1024;

/// One product of a call: `out[token * out_stride + row] = w[row] . x[token]`.
#[derive(Debug)]
pub struct Product<'a> {
    pub w: &'a PackedMatrix,
    /// At least `(n_tokens - 1) * out_stride + n_rows` long. Elements between the rows are left alone.
    pub out: &'a mut [f32],
    /// Elements from one token's outputs to the next one's: at least `n_rows`.
    pub out_stride: usize,
}

/// A few tiles of a matrix and a group of columns to multiply them with.
pub(crate) struct Panel<'a> {
    pub ty: WeightType,
    pub k: usize,
    /// Whole tiles, one after another.
    pub tiles: &'a [u8],
    pub n_tiles: usize,
    pub tile_rows: usize,
    pub inputs: Inputs<'a>,
    /// At most [`GROUP_ROWS`].
    pub n_cols: usize,
}

/// The columns of a panel.
#[derive(Clone, Copy)]
pub(crate) enum Inputs<'a> {
    /// `(k / 32, n_cols)`
    Quantized(&'a [ActBlock]),
    /// `(n_cols, k)`
    Float(&'a [f32]),
}

impl Panel<'_> {
    pub(crate) fn tile_bytes(&self) -> usize {
        self.tiles.len() / self.n_tiles
    }
}

thread_local! {
    static PANEL_OUT: RefCell<Vec<f32>> = RefCell::default();
}

/// One product while several threads write to it.
struct Job<'a> {
    w: &'a PackedMatrix,
    x: Rows<'a>,
    n_tokens: usize,
    out: Disjoint<'a, f32>,
    out_stride: usize,
}

/// All products of a call, in one parallel loop. See `Kernels::matmul_many`.
pub(crate) fn matmul_many(
    kernels: Kernels,
    pool: &Pool,
    x: Rows<'_>,
    n_tokens: usize,
    products: &mut [Product<'_>],
) {
    if n_tokens == 0 {
        return;
    }
    products
        .iter()
        .for_each(|product| check(kernels, product, x, n_tokens));
    let n_tiles: usize = products.iter().map(|product| product.w.n_tiles()).sum();
    let largest_tile = products.iter().map(|product| product.w.tile_bytes()).max();
    let item_tiles = n_tiles.div_ceil(ITEMS_PER_THREAD * pool.n_threads());
    let item_tiles = match n_tokens > GROUP_ROWS {
        true => item_tiles.min(ITEM_WEIGHT_BYTES / largest_tile.unwrap_or(0).max(1)),
        false => item_tiles,
    };
    let item_tiles = item_tiles.max(1);
    let jobs: Vec<Job<'_>> = products
        .iter_mut()
        .map(|Product { w, out, out_stride }| Job {
            w,
            x,
            n_tokens,
            out: Disjoint::new(out),
            out_stride: *out_stride,
        })
        .collect();
    let n_items = jobs
        .iter()
        .map(|job| job.w.n_tiles().div_ceil(item_tiles))
        .sum();
    pool.for_each(n_items, |mut item| {
        for job in &jobs {
            let n_items = job.w.n_tiles().div_ceil(item_tiles);
            if item < n_items {
                return job.run_tiles(kernels, item * item_tiles, item_tiles);
            }
            item -= n_items;
        }
    });
}

fn check(
    kernels: Kernels,
    Product { w, out, out_stride }: &Product<'_>,
    x: Rows<'_>,
    n_tokens: usize,
) {
    let k = w.n_cols();
    assert_eq!(
        w.tile_rows(),
        kernels.isa().tile_rows(),
        "a matrix packed for these kernels"
    );
    assert!(k > 0, "a matrix of no columns");
    if w.ty().is_quantized() {
        assert_eq!(
            (x.q.n_rows(), x.q.k()),
            (n_tokens, k),
            "quantised rows for a {} matrix",
            w.ty().name()
        );
    } else {
        assert_eq!(
            x.f32.len(),
            n_tokens * k,
            "f32 rows for a {} matrix",
            w.ty().name()
        );
    }
    assert!(
        *out_stride >= w.n_rows(),
        "a stride of {out_stride} for {} outputs",
        w.n_rows()
    );
    assert!(
        out.len() >= (n_tokens - 1) * out_stride + w.n_rows(),
        "{} outputs for {n_tokens} tokens",
        out.len()
    );
}

impl Job<'_> {
    /// Tiles `first ..`, at most `count` of them, for every token, a group of columns at a time.
    fn run_tiles(&self, kernels: Kernels, first: usize, count: usize) {
        let (k, tile_rows) = (self.w.n_cols(), self.w.tile_rows());
        let n_tiles = count.min(self.w.n_tiles() - first);
        let mut buffer = PANEL_OUT.take();
        for group in 0..self.n_tokens.div_ceil(GROUP_ROWS) {
            let first_col = group * GROUP_ROWS;
            let n_cols = GROUP_ROWS.min(self.n_tokens - first_col);
            let n_out = n_cols * n_tiles * tile_rows;
            if buffer.len() < n_out {
                buffer.resize(n_out, 0.0);
            }
            let panel = Panel {
                ty: self.w.ty(),
                k,
                tiles: self.w.tiles(first, n_tiles),
                n_tiles,
                tile_rows,
                inputs: match self.w.ty().is_quantized() {
                    true => Inputs::Quantized(self.x.q.group(group).0),
                    false => Inputs::Float(&self.x.f32[first_col * k..][..n_cols * k]),
                },
                n_cols,
            };
            kernels.panel(&panel, &mut buffer[..n_out]);
            self.store(
                first * tile_rows,
                first_col,
                &buffer[..n_out],
                n_tiles * tile_rows,
            );
        }
        PANEL_OUT.set(buffer);
    }

    /// Copy a panel's outputs `(n_cols, column_len)` to their places, without those of the last tile's padding.
    fn store(&self, first_row: usize, first_col: usize, panel: &[f32], column_len: usize) {
        let n_rows = column_len.min(self.w.n_rows() - first_row);
        for (col, column) in panel.chunks_exact(column_len).enumerate() {
            let at = (first_col + col) * self.out_stride + first_row;
            // SAFETY: an item owns its rows of the output for every token, and items do not share tiles.
            let out = unsafe { self.out.slice(at, n_rows) };
            out.copy_from_slice(&column[..n_rows]);
        }
    }
}
