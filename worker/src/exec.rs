//! The operations that architectures are written in: kernels applied to the rows of a step, in buffers that are kept.
//!
//! Every method works on all rows of the batch and says which buffer it reads and writes, so that an architecture's file
//! reads top-down as the model.

use potluck_kernels::{
    Activation, AttentionSpec, Gated, GatedOut, Kernels, Pool, Product, QuantizedRows, RopeTable,
    Rows,
};

use crate::batch::Batch;
use crate::kv::{KvCache, KvTable};
use crate::linear::{FeedForward, Linear};

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
        let floats = 3 * self.d_model + 2 * self.q + 2 * self.kv + self.d_ff;
        let input = QuantizedRows::n_bytes(n_tokens, self.d_model.max(self.q));
        let inner = QuantizedRows::n_bytes(n_tokens, self.d_ff);
        (4 * n_tokens * floats + input + inner) as u64
    }
}

/// Buffers of one step, kept from step to step.
#[derive(Default)]
pub(crate) struct Scratch {
    /// `(n_tokens, d_model)`: the normed input of a block, as f32 where a matrix reads that.
    h: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// `(n_tokens, n_heads * head_dim)`: what attention returns.
    attn: Vec<f32>,
    /// `(n_tokens, d_ff)`: the inside of a feed-forward layer, where a matrix reads f32.
    inner: Vec<f32>,
    /// `(n_tokens, d_model)`: the output of a block, where it is not added to the residual at once.
    y: Vec<f32>,
    /// The same as `h` or `attn`, and as `inner`, where a matrix reads codes.
    quantized: QuantizedRows,
    quantized_inner: QuantizedRows,
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
    /// h = rms_norm(x) * weight, as `readers` will read it.
    pub fn norm(&mut self, x: &[f32], weight: &[f32], eps: f32, readers: &[&Linear]) {
        let Scratch { h, quantized, .. } = &mut *self.scratch;
        if readers.iter().all(|layer| layer.reads_codes()) {
            return self
                .kernels
                .rms_norm_quantize(self.pool, x, weight, eps, quantized);
        }
        h.resize(x.len(), 0.0);
        norm_rows(self.kernels, self.pool, x, weight, eps, h);
        if readers.iter().any(|layer| layer.reads_codes()) {
            let n_tokens = self.batch.n_tokens();
            self.kernels
                .quantize_rows(self.pool, h, n_tokens, weight.len(), quantized);
        }
    }

    /// q, k, v = h projected, biases added.
    pub fn project_qkv(&mut self, layers: [&Linear; 3]) {
        let (kernels, n_tokens) = (self.kernels, self.batch.n_tokens());
        let Scratch {
            h,
            q,
            k,
            v,
            quantized,
            ..
        } = &mut *self.scratch;
        let mut outs = [q, k, v];
        for (out, layer) in outs.iter_mut().zip(layers) {
            out.resize(n_tokens * layer.weight.n_rows(), 0.0);
        }
        let rows = Rows {
            f32: h,
            q: quantized,
        };
        let [q, k, v] = outs.each_mut();
        let product = |layer: usize, out| {
            let w = &layers[layer].weight;
            Product::new(w, out, w.n_rows())
        };
        let products = [product(0, q), product(1, k), product(2, v)];
        kernels.matmul_many(self.pool, rows, n_tokens, &products);
        for (out, layer) in outs.into_iter().zip(layers) {
            layer.add_bias(kernels, out);
        }
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
        let kv_width = self.widths.kv;
        let Scratch { q, k, v, attn, .. } = &mut *self.scratch;
        attn.resize(q.len(), 0.0);
        for run in &self.batch.runs {
            let rows = run.rows.start * kv_width..run.rows.end * kv_width;
            self.kv.store(
                self.tables[run.sequence],
                layer,
                run.first_pos,
                &k[rows.clone()],
                &v[rows],
            );
        }
        let kv = self.kv.layer(self.tables, layer);
        let runs = &self.batch.runs;
        self.kernels.attention(self.pool, spec, runs, &kv, q, attn);
    }

    /// y = attn projected back to the width of the model, or residual += it.
    pub fn project_attention(&mut self, out: &Linear, residual: Option<&mut [f32]>) {
        let n_tokens = self.batch.n_tokens();
        let Scratch {
            attn, y, quantized, ..
        } = &mut *self.scratch;
        if out.reads_codes() {
            let width = self.widths.q;
            self.kernels
                .quantize_rows(self.pool, attn, n_tokens, width, quantized);
        }
        let rows = Rows {
            f32: attn,
            q: quantized,
        };
        project(self.kernels, self.pool, n_tokens, rows, out, y, residual);
    }

    /// y = down(activation(gate(h)) * up(h)), or residual += it.
    pub fn feed_forward(
        &mut self,
        layer: &FeedForward,
        activation: Activation,
        residual: Option<&mut [f32]>,
    ) {
        let (kernels, n_tokens) = (self.kernels, self.batch.n_tokens());
        let Scratch {
            h,
            inner,
            y,
            quantized,
            quantized_inner,
            ..
        } = &mut *self.scratch;
        let FeedForward { gate, up, down } = layer;
        let gated = Gated {
            gate: &gate.weight,
            up: &up.weight,
            gate_bias: gate.bias.as_deref(),
            up_bias: up.bias.as_deref(),
            activation,
        };
        let out = match down.reads_codes() {
            true => GatedOut::Quantized(quantized_inner),
            false => {
                inner.resize(n_tokens * gate.weight.n_rows(), 0.0);
                GatedOut::F32(inner)
            }
        };
        let rows = Rows {
            f32: h,
            q: quantized,
        };
        kernels.gated(self.pool, &gated, rows, n_tokens, out);
        let rows = Rows {
            f32: inner,
            q: quantized_inner,
        };
        project(kernels, self.pool, n_tokens, rows, down, y, residual);
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
        add_rows(self.kernels, self.pool, x, &self.scratch.y);
    }
}

/// x += y.
fn add_rows(kernels: Kernels, pool: &Pool, x: &mut [f32], y: &[f32]) {
    pool.for_each_chunk(x, CHUNK, |index, x| {
        let from = index * CHUNK;
        kernels.add_assign(x, &y[from..from + x.len()]);
    });
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

/// `y = layer(rows)`, or `residual += layer(rows)`, for which a layer with a bias needs y.
fn project(
    kernels: Kernels,
    pool: &Pool,
    n_tokens: usize,
    rows: Rows<'_>,
    layer: &Linear,
    y: &mut Vec<f32>,
    residual: Option<&mut [f32]>,
) {
    let w = &layer.weight;
    let residual = match residual {
        Some(residual) if layer.bias.is_none() => {
            let product = Product::new(w, residual, w.n_rows()).added();
            return kernels.matmul_many(pool, rows, n_tokens, &[product]);
        }
        residual => residual,
    };
    y.resize(n_tokens * w.n_rows(), 0.0);
    kernels.matmul(pool, w, rows, y);
    layer.add_bias(kernels, y);
    if let Some(residual) = residual {
        add_rows(kernels, pool, residual, y);
    }
}
