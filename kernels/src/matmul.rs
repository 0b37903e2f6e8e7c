//! Matrix products cut into work: panels of a few tiles by a few columns, shared out over threads.
//!
//! Knows shapes and caches, not codes: what one output is, is law in `isa/scalar/matmul.rs`, and no output depends on
//! which panel it falls in.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use crate::isa::MAX_TILE_ROWS;
use crate::kernels::Kernels;
use crate::pack::PackedMatrix;
use crate::pool::{Disjoint, Pool};
use crate::rows::{ActBlock, GROUP_ROWS, Rows};
use crate::weight::WeightType;

/// Weights of the smallest work item: reading them takes a microsecond or two, much longer than claiming an item.
const MIN_ITEM_BYTES: usize = 16 * 1024;

/// Weights that are multiplied with one group of columns after another: they should stay in a small L2 beside the activations.
const BLOCK_WEIGHT_BYTES: usize = 192 * 1024;

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
    pub out: PanelOut<'a>,
}

/// Where a panel's outputs go: row r of column c to element `at + c * stride + r`. Whoever makes one promises that nobody else touches
/// these elements meanwhile.
pub(crate) struct PanelOut<'a> {
    pub elements: &'a Disjoint<'a, f32>,
    pub at: usize,
    pub stride: usize,
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

    /// Where the outputs of tile `tile` for column `col` go: `tile_rows` elements.
    pub(crate) fn out_of_tile(&self, tile: usize, col: usize) -> *mut f32 {
        let at = self.out.at + col * self.out.stride + tile * self.tile_rows;
        // SAFETY: these elements are the panel's alone, as its maker promised.
        unsafe { self.out.elements.slice(at, self.tile_rows) }.as_mut_ptr()
    }

    /// Set the output of row `row` for column `col`.
    pub(crate) fn set(&self, row: usize, col: usize, value: f32) {
        let at = self.out.at + col * self.out.stride + row;
        // SAFETY: as above.
        let place = unsafe { self.out.elements.slice(at, 1) };
        place[0] = value;
    }
}

thread_local! {
    static ITEM_ENDS: RefCell<Vec<usize>> = RefCell::default();
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
    let mut ends = ITEM_ENDS.take();
    cut(&jobs, pool.n_threads(), &mut ends);
    pool.for_each(ends.len(), |item| {
        let mut range = item.checked_sub(1).map_or(0, |before| ends[before])..ends[item];
        for job in &jobs {
            let n_tiles = job.w.n_tiles();
            let part = range.start.min(n_tiles)..range.end.min(n_tiles);
            job.run_tiles(kernels, part);
            range = range.start.saturating_sub(n_tiles)..range.end.saturating_sub(n_tiles);
        }
    });
    ITEM_ENDS.set(ends);
}

/// Where work items end, counted in tiles of all products one after another: large ones first, so that each thread reads long
/// stretches of memory, then smaller and smaller ones, so that all threads end together.
fn cut(jobs: &[Job<'_>], n_threads: usize, ends: &mut Vec<usize>) {
    let n_tiles: usize = jobs.iter().map(|job| job.w.n_tiles()).sum();
    let n_bytes: usize = jobs.iter().map(|job| job.w.n_bytes()).sum();
    let tile_bytes = n_bytes.div_ceil(n_tiles.max(1)).max(1);
    let smallest = match jobs[0].n_tokens > GROUP_ROWS {
        true => 1,
        false => MIN_ITEM_BYTES.div_ceil(tile_bytes),
    };
    ends.clear();
    let mut end = 0;
    while end < n_tiles {
        let size = ((n_tiles - end) / (2 * n_threads)).max(smallest);
        for _ in 0..n_threads {
            if end < n_tiles {
                end = n_tiles.min(end + size);
                ends.push(end);
            }
        }
    }
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
    /// These tiles for every token, a group of columns at a time.
    fn run_tiles(&self, kernels: Kernels, tiles: Range<usize>) {
        let n_groups = self.n_tokens.div_ceil(GROUP_ROWS);
        let block = match n_groups {
            1 => tiles.len(),
            _ => BLOCK_WEIGHT_BYTES / self.w.tile_bytes().max(1),
        };
        for first in tiles.clone().step_by(block.max(1)) {
            let n_tiles = block.max(1).min(tiles.end - first);
            for group in 0..n_groups {
                self.run_panel(kernels, first, n_tiles, group);
            }
        }
    }

    fn run_panel(&self, kernels: Kernels, first: usize, n_tiles: usize, group: usize) {
        let (k, tile_rows) = (self.w.n_cols(), self.w.tile_rows());
        let first_col = group * GROUP_ROWS;
        let n_cols = GROUP_ROWS.min(self.n_tokens - first_col);
        let inputs = match self.w.ty().is_quantized() {
            true => Inputs::Quantized(self.x.q.group(group).0),
            false => Inputs::Float(&self.x.f32[first_col * k..][..n_cols * k]),
        };
        let panel = |first: usize, n_tiles: usize, out| Panel {
            ty: self.w.ty(),
            k,
            tiles: self.w.tiles(first, n_tiles),
            n_tiles,
            tile_rows,
            inputs,
            n_cols,
            out,
        };
        let at = |tile: usize| first_col * self.out_stride + tile * tile_rows;
        // Rows of the last tile that are only padding have no place among the outputs.
        let ragged_rows = self.w.n_rows() % tile_rows;
        let last = self.w.n_tiles() - 1;
        let is_ragged = ragged_rows != 0 && first + n_tiles > last;
        let n_whole = n_tiles - usize::from(is_ragged);
        if n_whole > 0 {
            // An item owns its rows of the output for every token, and items do not share tiles.
            let out = PanelOut {
                elements: &self.out,
                at: at(first),
                stride: self.out_stride,
            };
            kernels.panel(&panel(first, n_whole, out));
        }
        if is_ragged {
            let mut buffer = [0.0; MAX_TILE_ROWS * GROUP_ROWS];
            let out = PanelOut {
                elements: &Disjoint::new(&mut buffer),
                at: 0,
                stride: tile_rows,
            };
            kernels.panel(&panel(last, 1, out));
            for (col, column) in buffer.chunks_exact(tile_rows).take(n_cols).enumerate() {
                // SAFETY: as above.
                let out = unsafe {
                    self.out
                        .slice(at(last) + col * self.out_stride, ragged_rows)
                };
                out.copy_from_slice(&column[..ragged_rows]);
            }
        }
    }
}
