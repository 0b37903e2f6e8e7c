//! The architectures, one file each, and what they share: the tables of rotary angles and the output head.

mod gemma3;
mod head;
mod llama;
mod qwen2;
mod rope;

use std::ops::Range;

use potluck_gguf::{Architecture, ModelShape};
use potluck_kernels::{AttentionSpec, WeightMatrix};

use crate::exec::Exec;
use crate::load::{LoadError, Loader};

pub(crate) use head::Head;

/// The layers of a span, by the build of the architecture.
pub(crate) enum Layers {
    Llama(llama::Llama),
    Gemma3(gemma3::Gemma3),
}

impl Layers {
    /// Loads layers `span` of the model.
    pub fn load(
        loader: &mut Loader<'_>,
        shape: &ModelShape,
        span: Range<u32>,
    ) -> Result<Layers, LoadError> {
        Ok(match shape.architecture {
            Architecture::Llama => {
                Layers::Llama(llama::Llama::load(loader, shape, span, llama::LLAMA)?)
            }
            Architecture::Qwen2 => {
                Layers::Llama(llama::Llama::load(loader, shape, span, qwen2::QWEN2)?)
            }
            Architecture::Gemma3 => Layers::Gemma3(gemma3::Gemma3::load(loader, shape, span)?),
        })
    }

    /// Applies layer `index` of the span to `x` `(n_tokens, d_model)`.
    pub fn apply(&self, index: usize, x: &mut [f32], exec: &mut Exec<'_>) {
        match self {
            Layers::Llama(layers) => layers.apply(index, x, exec),
            Layers::Gemma3(layers) => layers.apply(index, x, exec),
        }
    }

    /// Their matrices.
    pub fn weights(&self) -> Vec<&WeightMatrix> {
        match self {
            Layers::Llama(layers) => layers.linears().map(|layer| &layer.weight).collect(),
            Layers::Gemma3(layers) => layers.linears().map(|layer| &layer.weight).collect(),
        }
    }

    /// Extends the tables of rotary angles to positions below `n_positions`.
    pub fn ensure_positions(&mut self, n_positions: usize) {
        match self {
            Layers::Llama(layers) => layers.rope.ensure(n_positions),
            Layers::Gemma3(layers) => {
                layers.rope.ensure(n_positions);
                layers.rope_local.ensure(n_positions);
            }
        }
    }
}

/// Attention of layers that see everything.
fn attention_spec(shape: &ModelShape) -> AttentionSpec {
    AttentionSpec {
        n_heads: shape.n_heads as usize,
        n_kv_heads: shape.n_kv_heads as usize,
        head_dim: shape.head_dim as usize,
        scale: shape.attention_scale,
        window: None,
        softcap: shape.attn_logit_softcap,
    }
}

/// Factor on the token embeddings.
pub(crate) fn embedding_scale(shape: &ModelShape) -> Option<f32> {
    match shape.architecture {
        Architecture::Llama | Architecture::Qwen2 => None,
        Architecture::Gemma3 => Some((shape.d_model as f32).sqrt()),
    }
}
