//! [`Kernels`]: the value that proves an instruction set is there, and the operations it gives.
//!
//! Shapes are checked here, once, with panics: a shape that does not fit is a bug in our own code. Which folder of `isa`
//! computes is chosen per operation, never per row.
#![allow(unsafe_code)]

use std::cell::RefCell;

use half::f16;

use crate::attention::{self, AttentionRun, AttentionSpec, BlockArgs, KvBlocks};
use crate::gated::{self, Gated, GatedOut};
use crate::isa::{Isa, IsaError, scalar};
#[cfg(target_arch = "x86_64")]
use crate::isa::{avx2::Avx2, avx2::AvxVnni, avx512::Avx512, lanes};
#[cfg(target_arch = "aarch64")]
use crate::isa::{lanes, neon::Dotprod, neon::I8mm, neon::Neon};
use crate::matmul::{self, Panel, Product};
use crate::pack::{ShapeError, SharedBytes, WeightMatrix};
use crate::pool::Pool;
use crate::rows::{ACT_BLOCK, ActBlock, GROUP_ROWS, QuantizedRows, Rows};
use crate::weight::WeightType;

/// The kernels of one instruction set. Exists only if this CPU has it.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    isa: Isa,
}

thread_local! {
    /// A row between its norm and its quantisation.
    static NORMED: RefCell<Vec<f32>> = RefCell::default();
}

/// Call a kernel compiled for `$isa`.
macro_rules! dispatch {
    ($isa:expr, $file:ident :: $kernel:ident ( $($argument:expr),* $(,)? )) => {
        match $isa {
            // SAFETY: a `Kernels` of this tier is made only by `new`, which has seen that the CPU has the instructions.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { lanes::$file::$kernel::<Avx2>($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { lanes::$file::$kernel::<AvxVnni>($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { lanes::$file::$kernel::<Avx512>($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { lanes::$file::$kernel::<Neon>($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => unsafe { lanes::$file::$kernel::<Dotprod>($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm => unsafe { lanes::$file::$kernel::<I8mm>($($argument),*) },
            _ => scalar::$file::$kernel($($argument),*),
        }
    };
}

impl Kernels {
    /// The kernels of `isa`, if this CPU has it.
    pub fn new(isa: Isa) -> Result<Kernels, IsaError> {
        if isa.is_available() {
            Ok(Kernels { isa })
        } else {
            Err(IsaError::Unavailable { isa })
        }
    }

    /// The kernels of the best instruction set of this CPU.
    pub fn detect() -> Kernels {
        Kernels { isa: Isa::detect() }
    }

    pub fn isa(self) -> Isa {
        self.isa
    }

    /// Pack row-major GGUF bytes as these kernels read them, on all threads of the pool.
    pub fn pack(
        &self,
        pool: &Pool,
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        gguf_bytes: &[u8],
    ) -> Result<WeightMatrix, ShapeError> {
        WeightMatrix::pack(pool, self.isa.tile_rows(), ty, n_rows, n_cols, gguf_bytes)
    }

    /// The same matrix of row-major GGUF bytes that stay where they are: tiles are packed each time they are used, which takes no memory
    /// and many times as long.
    pub fn unpacked(
        &self,
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        gguf_bytes: SharedBytes,
    ) -> Result<WeightMatrix, ShapeError> {
        WeightMatrix::unpacked(self.isa.tile_rows(), ty, n_rows, n_cols, gguf_bytes)
    }

    /// Bytes that a packed matrix of this shape takes, for memory budgets; `None` if no such matrix can be packed.
    pub fn packed_bytes(&self, ty: WeightType, n_rows: usize, n_cols: usize) -> Option<usize> {
        WeightMatrix::packed_bytes(self.isa.tile_rows(), ty, n_rows, n_cols)
    }

    /// Quantise `n_rows` rows of `k` activations into `out`, whose buffer is reused. `k` is a multiple of 32.
    pub fn quantize_rows(
        &self,
        pool: &Pool,
        x: &[f32],
        n_rows: usize,
        k: usize,
        out: &mut QuantizedRows,
    ) {
        assert_eq!(x.len(), n_rows * k, "{n_rows} rows of {k} activations");
        let blocks = out.reshape(n_rows, k);
        pool.for_each_chunk(blocks, GROUP_ROWS * (k / ACT_BLOCK), |group, blocks| {
            let first = group * GROUP_ROWS;
            let n_rows = GROUP_ROWS.min(n_rows - first);
            for row in 0..n_rows {
                let x = &x[(first + row) * k..][..k];
                self.quantize(x, &mut blocks[row..], n_rows);
            }
        });
    }

    /// [`Kernels::rms_norm`] of each row of `x`, quantised.
    pub fn rms_norm_quantize(
        &self,
        pool: &Pool,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        out: &mut QuantizedRows,
    ) {
        let k = weight.len();
        assert!(k > 0 && x.len().is_multiple_of(k), "{} of {k}", x.len());
        let blocks = out.reshape(x.len() / k, k);
        pool.for_each_chunk(blocks, GROUP_ROWS * (k / ACT_BLOCK), |group, blocks| {
            let x = &x[group * GROUP_ROWS * k..];
            let n_rows = GROUP_ROWS.min(x.len() / k);
            let mut normed = NORMED.take();
            normed.resize(k, 0.0);
            for (row, x) in x.chunks_exact(k).take(n_rows).enumerate() {
                self.rms_norm(x, weight, eps, &mut normed);
                self.quantize(&normed, &mut blocks[row..], n_rows);
            }
            NORMED.set(normed);
        });
    }

    /// `out = x w^T`: `out` is `(n_tokens, n_rows)`, n_tokens is taken from its length.
    pub fn matmul(&self, pool: &Pool, w: &WeightMatrix, x: Rows<'_>, out: &mut [f32]) {
        let (n_rows, len) = (w.n_rows(), out.len());
        let n_tokens = len.checked_div(n_rows).unwrap_or(0);
        assert_eq!(
            len,
            n_tokens * n_rows,
            "out is whole tokens of {n_rows} outputs"
        );
        self.matmul_many(pool, x, n_tokens, &[Product::new(w, out, n_rows)]);
    }

    /// Several products of the same input in one parallel loop: q, k and v, or gate and up.
    pub fn matmul_many(&self, pool: &Pool, x: Rows<'_>, n_tokens: usize, products: &[Product<'_>]) {
        matmul::matmul_many(*self, pool, x, n_tokens, products);
    }

    /// `out = gate_fn(gate x) * (up x)` for every token, the gated half of a feed-forward layer, in one parallel loop: what the two
    /// products give never leaves the cache.
    pub fn gated(
        &self,
        pool: &Pool,
        layer: &Gated<'_>,
        x: Rows<'_>,
        n_tokens: usize,
        out: GatedOut<'_>,
    ) {
        gated::gated(*self, pool, layer, x, n_tokens, out);
    }

    /// `out = x / rms(x) * weight` for each row of `weight.len()` elements.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(
            !weight.is_empty() && x.len().is_multiple_of(weight.len()),
            "{} of {}",
            x.len(),
            weight.len()
        );
        assert_eq!(x.len(), out.len(), "x and out have one shape");
        dispatch!(self.isa, norm::rms_norm(x, weight, eps, out));
    }

    /// `x += y`.
    pub fn add_assign(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "x and y have one shape");
        dispatch!(self.isa, elementwise::add_assign(x, y));
    }

    /// `x *= factor`.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        dispatch!(self.isa, elementwise::scale(x, factor));
    }

    /// `x = cap * tanh(x / cap)`.
    pub fn softcap(&self, x: &mut [f32], cap: f32) {
        dispatch!(self.isa, elementwise::softcap(x, cap));
    }

    /// `out = silu(gate) * up`.
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(
            gate.len() == up.len() && up.len() == out.len(),
            "gate, up and out have one shape"
        );
        dispatch!(self.isa, elementwise::silu_mul(gate, up, out));
    }

    /// `out = gelu(gate) * up`, the tanh form of GELU.
    pub fn gelu_tanh_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(
            gate.len() == up.len() && up.len() == out.len(),
            "gate, up and out have one shape"
        );
        dispatch!(self.isa, elementwise::gelu_tanh_mul(gate, up, out));
    }

    /// Rotate neighbouring pairs of each head: `x` is `(n_heads, head_dim)` of one token, `row` from a `RopeTable`.
    pub fn rope_norm(&self, x: &mut [f32], head_dim: usize, row: &[f32]) {
        check_rope(x, head_dim, row);
        dispatch!(self.isa, rope::norm(x, head_dim, row));
    }

    /// Rotate pairs that lie half the rotary dimension apart: `x` is `(n_heads, head_dim)` of one token.
    pub fn rope_neox(&self, x: &mut [f32], head_dim: usize, row: &[f32]) {
        check_rope(x, head_dim, row);
        dispatch!(self.isa, rope::neox(x, head_dim, row));
    }

    /// Attention of every run's queries over its own cache, one layer. `q` and `out` are `(n_tokens, n_heads * head_dim)`; runs are in
    /// the order of their rows.
    ///
    /// # Panics
    /// If shapes do not fit or a block that a query sees is missing.
    pub fn attention(
        &self,
        pool: &Pool,
        spec: &AttentionSpec,
        runs: &[AttentionRun],
        kv: &dyn KvBlocks,
        q: &[f32],
        out: &mut [f32],
    ) {
        attention::attention(*self, pool, spec, runs, kv, q, out);
    }

    /// One row, or whole blocks of one, to every `stride`-th of `out`.
    pub(crate) fn quantize(&self, x: &[f32], out: &mut [ActBlock], stride: usize) {
        dispatch!(self.isa, quantize::row(x, out, stride));
    }

    pub(crate) fn panel(&self, panel: &Panel<'_>) {
        dispatch!(self.isa, matmul::panel(panel));
    }

    pub(crate) fn attend_block(
        &self,
        args: &BlockArgs<'_>,
        scores: &mut [f32],
        states: &mut [f32],
    ) {
        dispatch!(self.isa, attention::attend_block(args, scores, states));
    }

    pub(crate) fn merge_state(&self, total: &mut [f32], part: &[f32]) {
        dispatch!(self.isa, attention::merge_state(total, part));
    }

    pub(crate) fn read(&self, bytes: &[u8], sum: &mut i32) {
        dispatch!(self.isa, probe::read(bytes, sum));
    }

    pub(crate) fn multiply(&self, n_rounds: usize, n_products: &mut usize) {
        dispatch!(self.isa, probe::multiply(n_rounds, n_products));
    }

    pub(crate) fn widen_f16(&self, from: &[f16], to: &mut [f32]) {
        dispatch!(self.isa, attention::widen_f16(from, to));
    }

    /// Codes times their scales, exact. With a `stride` of 1 each 32 codes share a scale; else each 32 rows of `stride` codes share a row
    /// of scales.
    pub(crate) fn widen_q8_0(&self, codes: &[i8], scales: &[f32], stride: usize, to: &mut [f32]) {
        dispatch!(self.isa, attention::widen_q8_0(codes, scales, stride, to));
    }
}

fn check_rope(x: &[f32], head_dim: usize, row: &[f32]) {
    assert!(
        head_dim > 0 && x.len().is_multiple_of(head_dim),
        "{} elements of heads of {head_dim}",
        x.len()
    );
    assert!(
        row.len() <= head_dim && row.len().is_multiple_of(2),
        "{} angles for heads of {head_dim}",
        row.len()
    );
}
