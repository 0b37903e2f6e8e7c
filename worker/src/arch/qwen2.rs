//! `qwen2`: Qwen 2 and 2.5. As llama, with biases on q, k and v and rotary pairs half a head apart.
//!
//! <https://arxiv.org/abs/2407.10671>

use super::llama::Variant;
use crate::exec::RopeStyle;

/// How it differs from llama.
pub(crate) const QWEN2: Variant = Variant {
    rope: RopeStyle::Neox,
    qkv_bias: true,
};
