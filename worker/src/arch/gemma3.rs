//! `gemma3`: Gemma 3 text models.
//!
//! Norms before and after each block, each head of q and k normed on its own, GeGLU, and five in six layers that see only
//! a sliding window and turn by a base of their own. <https://arxiv.org/abs/2503.19786>

use std::ops::Range;

use potluck_gguf::ModelShape;
use potluck_kernels::{Activation, AttentionSpec, RopeTable};

use super::rope;
use crate::exec::{Exec, RopeStyle};
use crate::linear::{Linear, Projections};
use crate::load::{LoadError, Loader};

/// Layers of a span.
pub(crate) struct Gemma3 {
    layers: Vec<Layer>,
    /// Angles of layers that see everything.
    pub rope: RopeTable,
    /// Angles of sliding layers.
    pub rope_local: RopeTable,
    attention: AttentionSpec,
    window: Option<usize>,
    eps: f32,
}

struct Layer {
    projections: Projections,
    is_sliding: bool,
    attn_norm: Vec<f32>,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    post_attn_norm: Vec<f32>,
    ffn_norm: Vec<f32>,
    post_ffn_norm: Vec<f32>,
}

impl Gemma3 {
    pub fn load(
        loader: &mut Loader<'_>,
        shape: &ModelShape,
        span: Range<u32>,
    ) -> Result<Self, LoadError> {
        Ok(Gemma3 {
            layers: span
                .map(|i| Layer::load(loader, shape, i))
                .collect::<Result<_, _>>()?,
            rope: rope::global_table(loader, shape)?,
            rope_local: rope::local_table(shape),
            attention: super::attention_spec(shape),
            window: shape.sliding_window.map(|window| window as usize),
            eps: shape.rms_eps,
        })
    }

    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter();
        layers.flat_map(|layer| layer.projections.all())
    }

    pub fn apply(&self, index: usize, x: &mut [f32], exec: &mut Exec<'_>) {
        let layer = &self.layers[index];
        let (rope, window) = match layer.is_sliding {
            true => (&self.rope_local, self.window),
            false => (&self.rope, None),
        };
        let Projections { qkv, attn_out, ffn } = &layer.projections;
        let qkv = qkv.each_ref();
        exec.norm(x, &layer.attn_norm, self.eps, &qkv);
        exec.project_qkv(qkv);
        exec.norm_heads(&layer.q_norm, &layer.k_norm, self.eps);
        exec.rope(rope, RopeStyle::Neox);
        exec.attend(
            index,
            &AttentionSpec {
                window,
                ..self.attention
            },
        );
        exec.project_attention(attn_out, None);
        exec.norm_output(&layer.post_attn_norm, self.eps);
        exec.add_to(x);

        exec.norm(x, &layer.ffn_norm, self.eps, &[&ffn.gate, &ffn.up]);
        exec.feed_forward(ffn, Activation::GeluTanh, None);
        exec.norm_output(&layer.post_ffn_norm, self.eps);
        exec.add_to(x);
    }
}

impl Layer {
    fn load(loader: &mut Loader<'_>, shape: &ModelShape, i: u32) -> Result<Layer, LoadError> {
        let (d_model, head_dim) = (shape.d_model, shape.head_dim);
        let name = |part: &str| format!("blk.{i}.{part}");
        Ok(Layer {
            projections: Projections::load(loader, shape, i, false)?,
            is_sliding: shape.is_sliding(i),
            attn_norm: loader.vector(&name("attn_norm.weight"), d_model)?,
            q_norm: loader.vector(&name("attn_q_norm.weight"), head_dim)?,
            k_norm: loader.vector(&name("attn_k_norm.weight"), head_dim)?,
            post_attn_norm: loader.vector(&name("post_attention_norm.weight"), d_model)?,
            ffn_norm: loader.vector(&name("ffn_norm.weight"), d_model)?,
            post_ffn_norm: loader.vector(&name("post_ffw_norm.weight"), d_model)?,
        })
    }
}
