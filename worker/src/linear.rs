//! A linear layer: a weight matrix and, in some models, a bias.

use potluck_kernels::PackedMatrix;

use crate::load::{LoadError, Loader};

/// `y = W x + b`.
pub(crate) struct Linear {
    pub weight: PackedMatrix,
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
}
