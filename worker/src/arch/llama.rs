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
use crate::linear::{Linear, Projections};
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
    projections: Projections,
    attn_norm: Vec<f32>,
    ffn_norm: Vec<f32>,
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
        let layers = self.layers.iter();
        layers.flat_map(|layer| layer.projections.all())
    }

    pub fn apply(&self, index: usize, x: &mut [f32], exec: &mut Exec<'_>) {
        let layer = &self.layers[index];
        let Projections { qkv, attn_out, ffn } = &layer.projections;
        let qkv = qkv.each_ref();
        exec.norm(x, &layer.attn_norm, self.eps, &qkv);
        exec.project_qkv(qkv);
        exec.rope(&self.rope, self.variant.rope);
        exec.attend(index, &self.attention);
        exec.project_attention(attn_out, Some(x));

        exec.norm(x, &layer.ffn_norm, self.eps, &[&ffn.gate, &ffn.up]);
        exec.feed_forward(ffn, Activation::Silu, Some(x));
    }
}

impl Layer {
    fn load(
        loader: &mut Loader<'_>,
        shape: &ModelShape,
        i: u32,
        variant: Variant,
    ) -> Result<Layer, LoadError> {
        let d_model = shape.d_model;
        let name = |part: &str| format!("blk.{i}.{part}");
        Ok(Layer {
            projections: Projections::load(loader, shape, i, variant.qkv_bias)?,
            attn_norm: loader.vector(&name("attn_norm.weight"), d_model)?,
            ffn_norm: loader.vector(&name("ffn_norm.weight"), d_model)?,
        })
    }
}
