//! `llama`: Llama 1 to 3, Mistral, SmolLM and others of the same build.
//!
//! Pre-norm decoder: RMSNorm, grouped-query attention with rotary positions, SwiGLU.
//! <https://arxiv.org/abs/2302.13971>
//!
//! `qwen2` is the same but for two things, which are the [`Variant`].

use std::ops::Range;

use potluck_gguf::ModelShape;
use potluck_kernels::{Activation, AttentionSpec, RopeTable};

use super::rope;
use crate::exec::{Exec, RopeStyle};
use crate::linear::{FeedForward, Linear};
use crate::load::{LoadError, Loader};

/// What sets models of this build apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    pub rope: RopeStyle,
    /// Whether q, k and v must have biases; without it they may.
    pub qkv_bias: bool,
}

/// The models of this file's name.
pub(crate) const LLAMA: Variant = Variant {
    rope: RopeStyle::Norm,
    qkv_bias: false,
};

/// Layers of a span.
pub(crate) struct Llama {
    variant: Variant,
    layers: Vec<Layer>,
    pub rope: RopeTable,
    attention: AttentionSpec,
    eps: f32,
}

struct Layer {
    attn_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    attn_out: Linear,
    ffn_norm: Vec<f32>,
    ffn: FeedForward,
}

impl Llama {
    pub fn load(
        loader: &mut Loader<'_>,
        shape: &ModelShape,
        span: Range<u32>,
        variant: Variant,
    ) -> Result<Self, LoadError> {
        Ok(Llama {
            variant,
            layers: span
                .map(|i| Layer::load(loader, shape, i, variant))
                .collect::<Result<_, _>>()?,
            rope: rope::global_table(loader, shape)?,
            attention: super::attention_spec(shape),
            eps: shape.rms_eps,
        })
    }

    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|layer| {
            let FeedForward { gate, up, down } = &layer.ffn;
            let Layer {
                q, k, v, attn_out, ..
            } = layer;
            [q, k, v, attn_out, gate, up, down]
        })
    }

    pub fn apply(&self, index: usize, x: &mut [f32], exec: &mut Exec<'_>) {
        let layer = &self.layers[index];
        let qkv = [&layer.q, &layer.k, &layer.v];
        exec.norm(x, &layer.attn_norm, self.eps, &qkv);
        exec.project_qkv(qkv);
        exec.rope(&self.rope, self.variant.rope);
        exec.attend(index, &self.attention);
        exec.project_attention(&layer.attn_out, Some(x));

        exec.norm(
            x,
            &layer.ffn_norm,
            self.eps,
            &[&layer.ffn.gate, &layer.ffn.up],
        );
        exec.feed_forward(&layer.ffn, Activation::Silu, Some(x));
    }
}

impl Layer {
    fn load(
        loader: &mut Loader<'_>,
        shape: &ModelShape,
        i: u32,
        variant: Variant,
    ) -> Result<Layer, LoadError> {
        let load_qkv = match variant.qkv_bias {
            true => Linear::load_with_bias,
            false => Linear::load,
        };
        let (d_model, d_ff) = (shape.d_model, shape.d_ff);
        let (q_width, kv_width) = (
            shape.n_heads * shape.head_dim,
            shape.n_kv_heads * shape.head_dim,
        );
        let name = |part: &str| format!("blk.{i}.{part}");
        Ok(Layer {
            attn_norm: loader.vector(&name("attn_norm.weight"), d_model)?,
            q: load_qkv(loader, &name("attn_q"), q_width, d_model)?,
            k: load_qkv(loader, &name("attn_k"), kv_width, d_model)?,
            v: load_qkv(loader, &name("attn_v"), kv_width, d_model)?,
            attn_out: Linear::load(loader, &name("attn_output"), d_model, q_width)?,
            ffn_norm: loader.vector(&name("ffn_norm.weight"), d_model)?,
            ffn: FeedForward::load(loader, &format!("blk.{i}"), d_model, d_ff)?,
        })
    }
}
