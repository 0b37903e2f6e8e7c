//! Matrix products cut into work: panels of a few tiles by a few columns, shared out over threads.
//!
//! Knows shapes and caches, not codes: what one output is, is law in `isa/scalar/matmul.rs`, and no output depends on
//! which panel it falls in.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use crate::isa::MAX_TILE_ROWS;
use crate::kernels::Kernels;
use crate::pack::WeightMatrix;
use crate::pool::{Disjoint, Pool};
use crate::rows::{ActBlock, GROUP_ROWS, Rows};
use crate::weight::WeightType;

/// Weights of the smallest work item: reading them takes a microsecond or two, much longer than claiming an item.
const MIN_ITEM_BYTES: usize = 16 * 1024;

/// Weights that are multiplied with one group of columns after another: they should stay in a small L2 beside the activations.
const BLOCK_WEIGHT_BYTES: usize = 192 * 1024;

/// One product of a call: `out[token * out_stride + row] = w[row] . x[token]`, or added to what is there.
pub struct Product<'a> {
    w: &'a WeightMatrix,
    out: Disjoint<'a, f32>,
    out_stride: usize,
    adds: bool,
}

impl<'a> Product<'a> {
    /// `out` is at least `(n_tokens - 1) * out_stride + n_rows` long, and `out_stride`, from one token's outputs to the next one's, at
    /// least `n_rows`. Elements between the rows are left alone.
    pub fn new(w: &'a WeightMatrix, out: &'a mut [f32], out_stride: usize) -> Product<'a> {
        Product {
            w,
            out: Disjoint::new(out),
            out_stride,
            adds: false,
        }
    }

    /// The same, but the product is added to what `out` holds, in one rounding: a residual connection.
    pub fn added(self) -> Product<'a> {
        Product { adds: true, ..self }
    }
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

/// Where a panel's outputs go: row r of column c to element `at + c * stride + r`, or are added to. Whoever makes one promises that
/// nobody else touches these elements meanwhile.
pub(crate) struct PanelOut<'a> {
    pub elements: &'a Disjoint<'a, f32>,
    pub at: usize,
    pub stride: usize,
    pub adds: bool,
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
        place[0] = if self.out.adds {
            place[0] + value
        } else {
            value
        };
    }
}

thread_local! {
    static ITEM_ENDS: RefCell<Vec<usize>> = RefCell::default();
    /// Tiles of a matrix that are packed on use.
    static TILES: RefCell<Vec<u8>> = RefCell::default();
}

/// What panels of a product are made from.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub w: &'a WeightMatrix,
    pub x: Rows<'a>,
    pub n_tokens: usize,
}

/// All products of a call, in one parallel loop. See `Kernels::matmul_many`.
pub(crate) fn matmul_many(
    kernels: Kernels,
    pool: &Pool,
    x: Rows<'_>,
    n_tokens: usize,
    products: &[Product<'_>],
) {
    if n_tokens == 0 {
        return;
    }
    let operands = |w| Operands { w, x, n_tokens };
    let (mut n_tiles, mut n_bytes) = (0, 0);
    for product in products {
        operands(product.w).check(kernels);
        product.check_out(n_tokens);
        n_tiles += product.w.n_tiles();
        n_bytes += product.w.n_bytes();
    }
    for_each_stretch(pool, n_tiles, n_bytes, n_tokens, |mut range| {
        for product in products {
            let n_tiles = product.w.n_tiles();
            let part = range.start.min(n_tiles)..range.end.min(n_tiles);
            product.run_tiles(kernels, &operands(product.w), part);
            range = range.start.saturating_sub(n_tiles)..range.end.saturating_sub(n_tiles);
        }
    });
}

/// Cut `n_units` of work, of `n_bytes` of weights together, into stretches and run `body` for each, on all threads.
pub(crate) fn for_each_stretch(
    pool: &Pool,
    n_units: usize,
    n_bytes: usize,
    n_tokens: usize,
    body: impl Fn(Range<usize>) + Sync,
) {
    let mut ends = ITEM_ENDS.take();
    let smallest = match n_tokens > GROUP_ROWS {
        true => 1,
        false => MIN_ITEM_BYTES.div_ceil(n_bytes.div_ceil(n_units.max(1)).max(1)),
    };
    cut(n_units, smallest, pool.n_threads(), &mut ends);
    pool.for_each(ends.len(), |item| {
        body(item.checked_sub(1).map_or(0, |before| ends[before])..ends[item]);
    });
    ITEM_ENDS.set(ends);
}

/// Where stretches end: large ones first, so that each thread reads long stretches of memory, then smaller and smaller ones, so that
/// all threads end together.
fn cut(n_units: usize, smallest: usize, n_threads: usize, ends: &mut Vec<usize>) {
    ends.clear();
    let mut end = 0;
    while end < n_units {
        let size = ((n_units - end) / (2 * n_threads)).max(smallest);
        for _ in 0..n_threads {
            if end < n_units {
                end = n_units.min(end + size);
                ends.push(end);
            }
        }
    }
}

impl Operands<'_> {
    pub(crate) fn check(&self, kernels: Kernels) {
        let Operands { w, x, n_tokens } = *self;
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
    }

    /// Groups of columns that the tokens make.
    pub(crate) fn n_groups(&self) -> usize {
        self.n_tokens.div_ceil(GROUP_ROWS)
    }

    /// Columns of a group.
    pub(crate) fn group_cols(&self, group: usize) -> usize {
        GROUP_ROWS.min(self.n_tokens - group * GROUP_ROWS)
    }

    /// Some tiles by the columns of a group.
    pub(crate) fn run_panel(
        &self,
        kernels: Kernels,
        tiles: &[u8],
        group: usize,
        out: PanelOut<'_>,
    ) {
        let (k, n_cols) = (self.w.n_cols(), self.group_cols(group));
        let inputs = match self.w.ty().is_quantized() {
            true => Inputs::Quantized(self.x.q.group(group).0),
            false => Inputs::Float(&self.x.f32[group * GROUP_ROWS * k..][..n_cols * k]),
        };
        kernels.panel(&Panel {
            ty: self.w.ty(),
            k,
            tiles,
            n_tiles: tiles.len() / self.w.tile_bytes(),
            tile_rows: self.w.tile_rows(),
            inputs,
            n_cols,
            out,
        });
    }
}

impl Product<'_> {
    fn check_out(&self, n_tokens: usize) {
        let (n_rows, stride) = (self.w.n_rows(), self.out_stride);
        assert!(
            stride >= n_rows,
            "a stride of {stride} for {n_rows} outputs"
        );
        assert!(
            self.out.len() >= (n_tokens - 1) * stride + n_rows,
            "{} outputs for {n_tokens} tokens",
            self.out.len()
        );
    }

    /// These tiles for every token, a group of columns at a time.
    fn run_tiles(&self, kernels: Kernels, operands: &Operands<'_>, tiles: Range<usize>) {
        let n_groups = operands.n_groups();
        let block = match n_groups {
            1 if !self.w.packs_on_use() => tiles.len().max(1),
            _ => (BLOCK_WEIGHT_BYTES / self.w.tile_bytes().max(1)).max(1),
        };
        let mut buffer = TILES.take();
        for first in tiles.clone().step_by(block) {
            let n_tiles = block.min(tiles.end - first);
            let bytes = self.w.tiles(first, n_tiles, &mut buffer);
            for group in 0..n_groups {
                self.run_group(kernels, operands, first, bytes, group);
            }
        }
        TILES.set(buffer);
    }

    /// Tiles from number `first` on by the columns of a group.
    fn run_group(
        &self,
        kernels: Kernels,
        operands: &Operands<'_>,
        first: usize,
        tiles: &[u8],
        group: usize,
    ) {
        let (tile_rows, tile_bytes) = (self.w.tile_rows(), self.w.tile_bytes());
        let n_tiles = tiles.len() / tile_bytes;
        let at = |tile: usize| group * GROUP_ROWS * self.out_stride + tile * tile_rows;
        // Rows of the last tile that are only padding have no place among the outputs.
        let ragged_rows = self.w.n_rows() % tile_rows;
        let last = self.w.n_tiles() - 1;
        let is_ragged = ragged_rows != 0 && first + n_tiles > last;
        let (whole, ragged) = tiles.split_at((n_tiles - usize::from(is_ragged)) * tile_bytes);
        if !whole.is_empty() {
            // An item owns its rows of the output for every token, and items do not share tiles.
            let out = PanelOut {
                elements: &self.out,
                at: at(first),
                stride: self.out_stride,
                adds: self.adds,
            };
            operands.run_panel(kernels, whole, group, out);
        }
        if is_ragged {
            let mut buffer = [0.0; MAX_TILE_ROWS * GROUP_ROWS];
            let out = PanelOut {
                elements: &Disjoint::new(&mut buffer),
                at: 0,
                stride: tile_rows,
                adds: false,
            };
            operands.run_panel(kernels, ragged, group, out);
            let columns = buffer.chunks_exact(tile_rows);
            for (col, column) in columns.take(operands.group_cols(group)).enumerate() {
                // SAFETY: as above.
                let out = unsafe {
                    self.out
                        .slice(at(last) + col * self.out_stride, ragged_rows)
                };
                for (out, value) in out.iter_mut().zip(column) {
                    *out = if self.adds { *out + value } else { *value };
                }
            }
        }
    }
}
