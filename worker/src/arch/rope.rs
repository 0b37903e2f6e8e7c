//! Rotary angles of a model: inverse frequencies from its metadata.

use potluck_gguf::{ModelShape, RopeScaling};
use potluck_kernels::RopeTable;

use crate::load::{LoadError, Loader};

/// The table of layers that see everything: scaled, and divided by `rope_freqs.weight` where the model has it, which is
/// how Llama 3.1's frequency scaling is stored.
pub(crate) fn global_table(
    loader: &mut Loader<'_>,
    shape: &ModelShape,
) -> Result<RopeTable, LoadError> {
    let factor = match shape.rope.scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear { factor } => f64::from(factor),
    };
    let mut inv_freq = inverse_frequencies(shape.rope.base, shape.rope.dim, factor);
    let name = "rope_freqs.weight";
    if loader.has(name) {
        let divisors = loader.vector(name, shape.rope.dim / 2)?;
        for (freq, divisor) in inv_freq.iter_mut().zip(&divisors) {
            *freq /= f64::from(*divisor);
        }
    }
    Ok(RopeTable::new(&inv_freq))
}

/// The table of sliding-window layers: their own base, never scaled.
pub(crate) fn local_table(shape: &ModelShape) -> RopeTable {
    RopeTable::new(&inverse_frequencies(
        shape.rope.base_local,
        shape.rope.dim,
        1.0,
    ))
}

/// base^(-2i/dim) / factor, for i in 0..dim/2.
fn inverse_frequencies(base: f32, dim: u32, factor: f64) -> Vec<f64> {
    (0..dim / 2)
        .map(|i| libm::pow(f64::from(base), -f64::from(2 * i) / f64::from(dim)) / factor)
        .collect()
}
