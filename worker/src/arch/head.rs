//! The end of the model: the last norm and the output matrix.

use std::sync::Arc;

use potluck_gguf::ModelShape;
use potluck_kernels::{Kernels, Pool, QuantizedRows, Rows, WeightMatrix};

use crate::load::{LoadError, Loader};

/// Turns hidden states into logits.
pub(crate) struct Head {
    norm: Vec<f32>,
    /// `(n_vocab, d_model)`; the token embedding itself where the model ties them.
    output: Arc<WeightMatrix>,
    eps: f32,
    softcap: Option<f32>,
    h: Vec<f32>,
    quantized: QuantizedRows,
}

impl Head {
    /// `embedding` is the token embedding if this span has loaded it.
    pub fn load(
        loader: &mut Loader<'_>,
        shape: &ModelShape,
        embedding: Option<&Arc<WeightMatrix>>,
    ) -> Result<Head, LoadError> {
        let (n_vocab, d_model) = (shape.n_vocab, shape.d_model);
        let output = match embedding {
            _ if loader.has("output.weight") => {
                Arc::new(loader.matrix("output.weight", n_vocab, d_model)?)
            }
            Some(embedding) => Arc::clone(embedding),
            None => Arc::new(loader.matrix("token_embd.weight", n_vocab, d_model)?),
        };
        Ok(Head {
            norm: loader.vector("output_norm.weight", d_model)?,
            output,
            eps: shape.rms_eps,
            softcap: shape.final_logit_softcap,
            h: Vec::new(),
            quantized: QuantizedRows::new(),
        })
    }

    /// The output matrix.
    pub fn output(&self) -> &WeightMatrix {
        &self.output
    }

    /// logits `(n_rows, n_vocab)` of hidden states `x` `(n_rows, d_model)`.
    pub fn logits(&mut self, kernels: Kernels, pool: &Pool, x: &[f32], logits: &mut Vec<f32>) {
        let n_rows = x.len() / self.norm.len();
        if self.output.ty().is_quantized() {
            kernels.rms_norm_quantize(pool, x, &self.norm, self.eps, &mut self.quantized);
        } else {
            self.h.resize(x.len(), 0.0);
            kernels.rms_norm(x, &self.norm, self.eps, &mut self.h);
        }
        logits.resize(n_rows * self.output.n_rows(), 0.0);
        let rows = Rows {
            f32: &self.h,
            q: &self.quantized,
        };
        kernels.matmul(pool, &self.output, rows, logits);
        if let Some(cap) = self.softcap {
            kernels.softcap(logits, cap);
        }
    }
}
