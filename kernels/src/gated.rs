//! The gated half of a feed-forward layer: two products and their activation, a few rows at a time, so that neither product is ever
//! written to memory, and quantised on the spot where the next matrix reads codes.
//!
//! The bits are those of the operations one after another: no output depends on how rows are cut.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use crate::kernels::Kernels;
use crate::matmul::{Operands, PanelOut, for_each_stretch};
use crate::pack::WeightMatrix;
use crate::pool::{Disjoint, Pool};
use crate::rows::{ACT_BLOCK, ActBlock, GROUP_ROWS, QuantizedRows, Rows};

/// Rows of both matrices that are computed before their activation: few enough that they stay in the first cache, for one
/// column and for a group of them.
const BLOCK_ROWS_ONE: usize = 512;
const BLOCK_ROWS: usize = 96;

/// What the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// The tanh form of GELU.
    GeluTanh,
}

/// Two matrices of one shape, with the biases of their outputs where the model has them.
pub struct Gated<'a> {
    pub gate: &'a WeightMatrix,
    pub up: &'a WeightMatrix,
    pub gate_bias: Option<&'a [f32]>,
    pub up_bias: Option<&'a [f32]>,
    pub activation: Activation,
}

/// Where the outputs go.
pub enum GatedOut<'a> {
    /// `(n_tokens, n_rows)`
    F32(&'a mut [f32]),
    /// The same, quantised. `n_rows` is a multiple of 32.
    Quantized(&'a mut QuantizedRows),
}

/// The outputs while several threads write them.
enum Out<'a> {
    F32(Disjoint<'a, f32>),
    Quantized(Disjoint<'a, ActBlock>),
}

/// Buffers of one thread, kept between calls.
#[derive(Default)]
struct Buffers {
    columns: Columns,
    /// Tiles of matrices that are packed on use.
    gate_tiles: Vec<u8>,
    up_tiles: Vec<u8>,
}

#[derive(Default)]
struct Columns {
    /// `(n_cols, n_rows)` of a block.
    gate: Vec<f32>,
    up: Vec<f32>,
    /// One column, activated.
    active: Vec<f32>,
}

/// The weights of a block.
struct Tiles<'a> {
    gate: &'a [u8],
    up: &'a [u8],
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// One call.
struct Call<'a> {
    kernels: Kernels,
    layer: &'a Gated<'a>,
    gate: Operands<'a>,
    up: Operands<'a>,
    out: Out<'a>,
}

/// See `Kernels::gated`.
pub(crate) fn gated(
    kernels: Kernels,
    pool: &Pool,
    layer: &Gated<'_>,
    x: Rows<'_>,
    n_tokens: usize,
    out: GatedOut<'_>,
) {
    let Gated { gate, up, .. } = layer;
    let (n_rows, n_bytes) = (gate.n_rows(), gate.n_bytes() + up.n_bytes());
    assert_eq!(n_rows, up.n_rows(), "gate and up have one shape");
    for bias in [layer.gate_bias, layer.up_bias].into_iter().flatten() {
        assert_eq!(bias.len(), n_rows, "a bias for each output");
    }
    let out = match out {
        GatedOut::F32(out) => {
            assert_eq!(out.len(), n_tokens * n_rows, "{n_tokens} rows of outputs");
            Out::F32(Disjoint::new(out))
        }
        GatedOut::Quantized(out) => Out::Quantized(Disjoint::new(out.reshape(n_tokens, n_rows))),
    };
    if n_tokens == 0 {
        return;
    }
    let operands = |w| Operands { w, x, n_tokens };
    let call = Call {
        kernels,
        layer,
        gate: operands(gate),
        up: operands(up),
        out,
    };
    call.gate.check(kernels);
    call.up.check(kernels);
    let n_strips = n_rows.div_ceil(ACT_BLOCK);
    for_each_stretch(pool, n_strips, n_bytes, n_tokens, |strips| call.run(strips));
}

impl Call<'_> {
    /// Strips of 32 rows, for every token.
    fn run(&self, strips: Range<usize>) {
        let n_groups = self.gate.n_groups();
        let block_rows = match self.gate.n_tokens {
            1 => BLOCK_ROWS_ONE,
            _ => BLOCK_ROWS,
        };
        let end = (strips.end * ACT_BLOCK).min(self.layer.gate.n_rows());
        let tile_rows = self.layer.gate.tile_rows();
        let mut buffers = BUFFERS.take();
        let Buffers {
            columns,
            gate_tiles,
            up_tiles,
        } = &mut buffers;
        for first in (strips.start * ACT_BLOCK..end).step_by(block_rows) {
            let rows = first..end.min(first + block_rows);
            let (first, n_tiles) = (first / tile_rows, rows.len().div_ceil(tile_rows));
            let tiles = Tiles {
                gate: self.layer.gate.tiles(first, n_tiles, gate_tiles),
                up: self.layer.up.tiles(first, n_tiles, up_tiles),
            };
            for group in 0..n_groups {
                self.run_block(&rows, &tiles, group, columns);
            }
        }
        BUFFERS.set(buffers);
    }

    /// Some rows, from a multiple of 32, by a group of columns.
    fn run_block(
        &self,
        rows: &Range<usize>,
        tiles: &Tiles<'_>,
        group: usize,
        columns: &mut Columns,
    ) {
        let n_cols = self.gate.group_cols(group);
        // Rows of padding are computed too, and left in the buffer.
        let stride = rows.len().next_multiple_of(self.layer.gate.tile_rows());
        let Columns { gate, up, active } = columns;
        for (operands, tiles, buffer) in [
            (&self.gate, tiles.gate, &mut *gate),
            (&self.up, tiles.up, &mut *up),
        ] {
            buffer.resize(n_cols * stride, 0.0);
            let out = PanelOut {
                elements: &Disjoint::new(buffer),
                at: 0,
                stride,
                adds: false,
            };
            operands.run_panel(self.kernels, tiles, group, out);
        }
        active.resize(rows.len(), 0.0);
        for (col, (gate, up)) in gate
            .chunks_exact_mut(stride)
            .zip(up.chunks_exact_mut(stride))
            .enumerate()
        {
            let (gate, up) = (&mut gate[..rows.len()], &mut up[..rows.len()]);
            for (x, bias) in [
                (&mut *gate, self.layer.gate_bias),
                (&mut *up, self.layer.up_bias),
            ] {
                bias.inspect(|bias| self.kernels.add_assign(x, &bias[rows.clone()]));
            }
            match self.layer.activation {
                Activation::Silu => self.kernels.silu_mul(gate, up, active),
                Activation::GeluTanh => self.kernels.gelu_tanh_mul(gate, up, active),
            }
            self.put(rows, group, col, active);
        }
    }

    /// Hand over the outputs of one column.
    fn put(&self, rows: &Range<usize>, group: usize, col: usize, values: &[f32]) {
        let (n_rows, n_cols) = (self.layer.gate.n_rows(), self.gate.group_cols(group));
        let first_token = group * GROUP_ROWS;
        match &self.out {
            Out::F32(out) => {
                // SAFETY: rows belong to one item, and this is a part of one token's.
                let out =
                    unsafe { out.slice((first_token + col) * n_rows + rows.start, rows.len()) };
                out.copy_from_slice(values);
            }
            Out::Quantized(out) => {
                let (window, n_windows) = (rows.start / ACT_BLOCK, rows.len() / ACT_BLOCK);
                let at = first_token * (n_rows / ACT_BLOCK) + window * n_cols;
                // SAFETY: the blocks of these windows for the group's columns belong to the item, whose slices do not live at the
                // same time.
                let out = unsafe { out.slice(at, n_windows * n_cols) };
                self.kernels.quantize(values, &mut out[col..], n_cols);
            }
        }
    }
}
