//! Rotary position embedding: how positions turn queries and keys.
//!
//! Scaling that llama 3.1 needs is not here: it comes as the tensor `rope_freqs.weight`, one divisor per frequency.

use super::Architecture;
use super::read::ArchKeys;
use crate::error::{GgufError, quoted};
use crate::limits::MAX_HEAD_DIM;

/// Base that models without the key were trained with.
const DEFAULT_BASE: f32 = 10_000.0;

/// Base of gemma3's sliding layers, which most of its files leave unsaid.
const GEMMA3_LOCAL_BASE: f32 = 10_000.0;

/// Parameters of rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Elements of a head that are turned; even, at most the head's width.
    pub dim: u32,
    /// Base of the frequencies: pair `i` turns by `position * base^(-2i/dim)`.
    pub base: f32,
    /// The same for sliding layers; equal to `base` in models without them.
    pub base_local: f32,
    /// Applies to layers that see everything; sliding layers are never scaled.
    pub scaling: RopeScaling,
}

/// How positions are stretched to a context longer than the one of pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by `factor`.
    Linear {
        factor: f32,
    },
}

impl Rope {
    pub(crate) fn read(
        keys: &ArchKeys<'_>,
        architecture: Architecture,
        head_dim: u32,
    ) -> Result<Rope, GgufError> {
        let dim = keys.count_or("rope.dimension_count", head_dim, MAX_HEAD_DIM)?;
        if !dim.is_multiple_of(2) || dim > head_dim {
            return Err(keys.bad(
                "rope.dimension_count",
                dim,
                format!("even and at most the head width {head_dim}"),
            ));
        }
        let base = keys.positive_or("rope.freq_base", DEFAULT_BASE)?;
        let base_local = match architecture {
            Architecture::Gemma3 => keys.positive_or("rope.freq_base_swa", GEMMA3_LOCAL_BASE)?,
            Architecture::Llama | Architecture::Qwen2 => base,
        };
        Ok(Rope {
            dim,
            base,
            base_local,
            scaling: RopeScaling::read(keys)?,
        })
    }
}

impl RopeScaling {
    /// An absent type means linear, and a factor of 0 or 1 means none. `rope.scale_linear` is the factor's old name.
    fn read(keys: &ArchKeys<'_>) -> Result<RopeScaling, GgufError> {
        let key = keys.key("rope.scaling.type");
        match keys.metadata.str(&key)? {
            Some("none") => return Ok(RopeScaling::None),
            None | Some("linear") => {}
            Some(other) => {
                let value = quoted(other.as_bytes());
                return Err(GgufError::UnsupportedFeature {
                    key,
                    value,
                    feature: "a rope scaling other than linear",
                });
            }
        }
        let factor = match keys.positive_if_set("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => keys.positive_if_set("rope.scale_linear")?,
        };
        match factor {
            None | Some(1.0) => Ok(RopeScaling::None),
            Some(factor) => Ok(RopeScaling::Linear { factor }),
        }
    }
}
