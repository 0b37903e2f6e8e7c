//! A linear layer: a weight matrix and, in some models, a bias; and those that a transformer layer is made of.

use potluck_gguf::ModelShape;
use potluck_kernels::{Kernels, WeightMatrix};

use crate::load::{LoadError, Loader};

/// `y = W x + b`.
pub(crate) struct Linear {
    pub weight: WeightMatrix,
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// `NAME.weight` of `n_out` rows and `n_in` columns, and `NAME.bias`, which the model must have.
    pub fn load_with_bias(
        loader: &mut Loader<'_>,
        name: &str,
        n_out: u32,
        n_in: u32,
    ) -> Result<Linear, LoadError> {
        Ok(Linear {
            weight: loader.matrix(&format!("{name}.weight"), n_out, n_in)?,
            bias: Some(loader.vector(&format!("{name}.bias"), n_out)?),
        })
    }

    /// `NAME.weight` of `n_out` rows and `n_in` columns, and `NAME.bias` where the model has it.
    pub fn load(
        loader: &mut Loader<'_>,
        name: &str,
        n_out: u32,
        n_in: u32,
    ) -> Result<Linear, LoadError> {
        Ok(Linear {
            weight: loader.matrix(&format!("{name}.weight"), n_out, n_in)?,
            bias: loader.optional_vector(&format!("{name}.bias"), n_out)?,
        })
    }

    /// Whether it takes its input quantised, not as f32.
    pub fn reads_codes(&self) -> bool {
        self.weight.ty().is_quantized()
    }

    /// Adds the bias to rows of outputs.
    pub fn add_bias(&self, kernels: Kernels, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                kernels.add_assign(row, bias);
            }
        }
    }
}

/// `y = down(activation(gate x) * (up x))`.
pub(crate) struct FeedForward {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl FeedForward {
    /// `PREFIX.ffn_gate`, `PREFIX.ffn_up` and `PREFIX.ffn_down`.
    pub fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        d_model: u32,
        d_ff: u32,
    ) -> Result<FeedForward, LoadError> {
        Ok(FeedForward {
            gate: Linear::load(loader, &format!("{prefix}.ffn_gate"), d_ff, d_model)?,
            up: Linear::load(loader, &format!("{prefix}.ffn_up"), d_ff, d_model)?,
            down: Linear::load(loader, &format!("{prefix}.ffn_down"), d_model, d_ff)?,
        })
    }
}

/// All that a transformer layer multiplies with.
pub(crate) struct Projections {
    /// Of queries, keys and values.
    pub qkv: [Linear; 3],
    pub attn_out: Linear,
    pub ffn: FeedForward,
}

impl Projections {
    /// Those of layer `i`. With `qkv_bias` the first three must have biases; without it they may.
    pub fn load(
        loader: &mut Loader<'_>,
        shape: &ModelShape,
        i: u32,
        qkv_bias: bool,
    ) -> Result<Projections, LoadError> {
        let load_qkv = match qkv_bias {
            true => Linear::load_with_bias,
            false => Linear::load,
        };
        let (d_model, head_dim) = (shape.d_model, shape.head_dim);
        let (q_width, kv_width) = (shape.n_heads * head_dim, shape.n_kv_heads * head_dim);
        let prefix = format!("blk.{i}");
        let name = |part: &str| format!("{prefix}.{part}");
        Ok(Projections {
            qkv: [
                load_qkv(loader, &name("attn_q"), q_width, d_model)?,
                load_qkv(loader, &name("attn_k"), kv_width, d_model)?,
                load_qkv(loader, &name("attn_v"), kv_width, d_model)?,
            ],
            attn_out: Linear::load(loader, &name("attn_output"), d_model, q_width)?,
            ffn: FeedForward::load(loader, &prefix, d_model, shape.d_ff)?,
        })
    }

    pub fn all(&self) -> impl Iterator<Item = &Linear> {
        let FeedForward { gate, up, down } = &self.ffn;
        self.qkv.iter().chain([&self.attn_out, gate, up, down])
    }
}
