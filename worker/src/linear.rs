//! A linear layer: a weight matrix and, in some models, a bias; and the three that a feed-forward layer is made of.

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
