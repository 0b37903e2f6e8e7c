//! The operations that architectures are written in: kernels applied to the rows of a step, in buffers that are kept.
//!
//! Every method works on all rows of the batch and says which buffer it reads and writes, so that an architecture's file
//! reads top-down as the model.

use potluck_kernels::{
    AttentionRun, AttentionSpec, Kernels, KvBlock, PackedMatrix, Pool, Product, QuantizedRows,
    RopeTable, Rows,
};

use crate::batch::Batch;
use crate::kv::{KvCache, KvTable};
use crate::linear::Linear;

/// Elements that one item of a parallel elementwise loop handles: some microseconds of work.
const CHUNK: usize = 4096;

/// How positions turn pairs of a head's elements.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RopeStyle {
    /// Neighbouring elements (llama, whose converter permutes q and k for it).
    Norm,
    /// Elements half a head apart (GPT-NeoX, qwen, gemma).
    Neox,
}

/// The gate of a feed-forward layer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gate {
    Silu,
    GeluTanh,
}

/// Widths of the buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Widths {
    pub d_model: usize,
    pub q: usize,
    pub kv: usize,
    pub d_ff: usize,
    pub head_dim: usize,
}

impl Widths {
    /// Bytes of the buffers for steps of up to `n_tokens` rows.
    pub fn scratch_bytes(&self, n_tokens: usize) -> u64 {
        let floats = 3 * self.d_model + 2 * self.q + 2 * self.kv + 2 * self.d_ff;
        let widest = self.d_ff.max(self.d_model).max(self.q);
        (4 * n_tokens * floats + QuantizedRows::n_bytes(n_tokens, widest)) as u64
    }
}

/// Buffers of one step, kept from step to step.
#[derive(Default)]
pub(crate) struct Scratch {
    /// `(n_tokens, d_model)`: the normed input of a block.
    h: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// `(n_tokens, n_heads * head_dim)`: what attention returns.
    attn: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// `(n_tokens, d_model)`: the output of a block, before it is added to the residual.
    y: Vec<f32>,
    quantized: QuantizedRows,
}

/// One step in the making.
pub(crate) struct Exec<'a> {
    pub kernels: Kernels,
    pub pool: &'a Pool,
    pub widths: Widths,
    pub batch: &'a Batch,
    pub kv: &'a mut KvCache,
    /// Pages of each sequence that the batch touches.
    pub tables: &'a [&'a KvTable],
    pub scratch: &'a mut Scratch,
}

impl Exec<'_> {
    /// h = rms_norm(x) * weight.
    pub fn norm(&mut self, x: &[f32], weight: &[f32], eps: f32) {
        self.scratch.h.resize(x.len(), 0.0);
        norm_rows(self.kernels, self.pool, x, weight, eps, &mut self.scratch.h);
    }

    /// q, k, v = h projected, biases added.
    pub fn project_qkv(&mut self, q: &Linear, k: &Linear, v: &Linear) {
        let n_tokens = self.batch.n_tokens();
        let Scratch {
            h,
            q: q_out,
            k: k_out,
            v: v_out,
            quantized,
            ..
        } = &mut *self.scratch;
        let linears = [q, k, v];
        linear(
            self.kernels,
            self.pool,
            n_tokens,
            h,
            quantized,
            linears,
            [q_out, k_out, v_out],
        );
    }

    /// Norms each head of q and of k on its own.
    pub fn norm_heads(&mut self, q_weight: &[f32], k_weight: &[f32], eps: f32) {
        let Scratch { q, k, h, .. } = &mut *self.scratch;
        for (x, weight) in [(q, q_weight), (k, k_weight)] {
            h.resize(x.len(), 0.0);
            norm_rows(self.kernels, self.pool, x, weight, eps, h);
            std::mem::swap(x, h);
        }
    }

    /// Turns q and k by their positions.
    pub fn rope(&mut self, table: &RopeTable, style: RopeStyle) {
        let Widths {
            q: q_width,
            kv,
            head_dim,
            ..
        } = self.widths;
        let (kernels, positions) = (self.kernels, &self.batch.positions);
        for (x, width) in [(&mut self.scratch.q, q_width), (&mut self.scratch.k, kv)] {
            self.pool.for_each_chunk(x, width, |token, heads| {
                let row = table.row(positions[token]);
                match style {
                    RopeStyle::Norm => kernels.rope_norm(heads, head_dim, row),
                    RopeStyle::Neox => kernels.rope_neox(heads, head_dim, row),
                }
            });
        }
    }

    /// Stores k and v in the cache of `layer` (counted within the span), then attn = attention of q over it.
    pub fn attend(&mut self, layer: usize, spec: &AttentionSpec) {
        let Widths {
            q: q_width,
            kv: kv_width,
            ..
        } = self.widths;
        let Scratch { q, k, v, attn, .. } = &mut *self.scratch;
        attn.resize(q.len(), 0.0);
        for run in &self.batch.runs {
            let rows = run.rows.start * kv_width..run.rows.end * kv_width;
            self.kv.store(
                self.tables[run.table],
                layer,
                run.first_pos,
                &k[rows.clone()],
                &v[rows],
            );
        }
        let kv = &*self.kv;
        let blocks: Vec<Vec<KvBlock<'_>>> = self
            .tables
            .iter()
            .map(|table| kv.blocks(table, layer))
            .collect();
        let mut rest = attn.as_mut_slice();
        let mut runs = Vec::with_capacity(self.batch.runs.len());
        for run in &self.batch.runs {
            let (out, tail) = std::mem::take(&mut rest).split_at_mut(run.rows.len() * q_width);
            rest = tail;
            runs.push(AttentionRun {
                q: &q[run.rows.start * q_width..run.rows.end * q_width],
                first_pos: run.first_pos,
                blocks: &blocks[run.table],
                out,
            });
        }
        self.kernels.attention(self.pool, spec, &mut runs);
    }

    /// y = attn projected back to the width of the model.
    pub fn project_attention(&mut self, out: &Linear) {
        let n_tokens = self.batch.n_tokens();
        let Scratch {
            attn, y, quantized, ..
        } = &mut *self.scratch;
        linear(
            self.kernels,
            self.pool,
            n_tokens,
            attn,
            quantized,
            [out],
            [y],
        );
    }

    /// y = down(gate_fn(gate(h)) * up(h)).
    pub fn feed_forward(&mut self, kind: Gate, gate: &Linear, up: &Linear, down: &Linear) {
        let n_tokens = self.batch.n_tokens();
        let kernels = self.kernels;
        let Scratch {
            h,
            gate: gate_out,
            up: up_out,
            y,
            quantized,
            ..
        } = &mut *self.scratch;
        linear(
            kernels,
            self.pool,
            n_tokens,
            h,
            quantized,
            [gate, up],
            [&mut *gate_out, &mut *up_out],
        );
        // The product of gate and up takes the place of h's buffer.
        h.resize(gate_out.len(), 0.0);
        self.pool.for_each_chunk(h, CHUNK, |index, out| {
            let range = index * CHUNK..index * CHUNK + out.len();
            match kind {
                Gate::Silu => kernels.silu_mul(&gate_out[range.clone()], &up_out[range], out),
                Gate::GeluTanh => {
                    kernels.gelu_tanh_mul(&gate_out[range.clone()], &up_out[range], out)
                }
            }
        });
        linear(kernels, self.pool, n_tokens, h, quantized, [down], [y]);
    }

    /// y = rms_norm(y) * weight: the norm after a block, as gemma has it.
    pub fn norm_output(&mut self, weight: &[f32], eps: f32) {
        let Scratch { y, h, .. } = &mut *self.scratch;
        h.resize(y.len(), 0.0);
        norm_rows(self.kernels, self.pool, y, weight, eps, h);
        std::mem::swap(y, h);
    }

    /// x += y.
    pub fn add_to(&mut self, x: &mut [f32]) {
        let (kernels, y) = (self.kernels, &self.scratch.y);
        self.pool.for_each_chunk(x, CHUNK, |index, x| {
            let from = index * CHUNK;
            kernels.add_assign(x, &y[from..from + x.len()]);
        });
    }
}

/// Norms every row of `weight.len()` elements.
fn norm_rows(kernels: Kernels, pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let rows_per_item = (CHUNK / weight.len()).max(1);
    let len = rows_per_item * weight.len();
    pool.for_each_chunk(out, len, |index, out| {
        let from = index * len;
        kernels.rms_norm(&x[from..from + out.len()], weight, eps, out);
    });
}

/// Several linear layers of the same input, whose rows are quantised once.
fn linear<const N: usize>(
    kernels: Kernels,
    pool: &Pool,
    n_tokens: usize,
    x: &[f32],
    quantized: &mut QuantizedRows,
    layers: [&Linear; N],
    outs: [&mut Vec<f32>; N],
) {
    let weights = layers.map(|layer| &layer.weight);
    let mut outs = outs.map(|out| out);
    for (out, weight) in outs.iter_mut().zip(weights) {
        out.resize(n_tokens * weight.n_rows(), 0.0);
    }
    let rows = quantize_if_needed(kernels, pool, n_tokens, x, quantized, &weights);
    let mut products: Vec<Product<'_>> = outs
        .iter_mut()
        .zip(weights)
        .map(|(out, w)| Product {
            w,
            out,
            out_stride: w.n_rows(),
        })
        .collect();
    kernels.matmul_many(pool, rows, n_tokens, &mut products);
    for (out, layer) in outs.into_iter().zip(layers) {
        if let Some(bias) = &layer.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                kernels.add_assign(row, bias);
            }
        }
    }
}

/// The rows as these matrices read them.
pub(crate) fn quantize_if_needed<'a>(
    kernels: Kernels,
    pool: &Pool,
    n_tokens: usize,
    x: &'a [f32],
    quantized: &'a mut QuantizedRows,
    weights: &[&PackedMatrix],
) -> Rows<'a> {
    if n_tokens > 0 && weights.iter().any(|w| w.ty().is_quantized()) {
        kernels.quantize_rows(pool, x, n_tokens, x.len() / n_tokens, quantized);
    }
    Rows {
        f32: x,
        q: quantized,
    }
}
