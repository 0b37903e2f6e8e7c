//! What the metadata means: the shape of a transformer, validated, in the field's own words.
//!
//! The one place that knows metadata keys of architectures. Everything a stage, a planner or a memory budget multiplies with
//! is checked here for zero, range and divisibility, so that no later code has to ask.

mod read;
mod rope;

use crate::error::GgufError;
use crate::limits::{
    MAX_ARRAY_ELEMENTS, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH,
};
use crate::metadata::Metadata;
use crate::metadata_buf::N_VOCAB_KEY;
use crate::value::Value;
use read::ArchKeys;
pub use rope::{Rope, RopeScaling};

/// The model families that can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    Llama,
    Qwen2,
    Gemma3,
}

impl Architecture {
    pub const ALL: [Architecture; 3] = [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Gemma3,
    ];

    /// The name in `general.architecture`, which is also the prefix of the architecture's keys.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Gemma3 => "gemma3",
        }
    }

    fn from_name(name: &str) -> Result<Architecture, GgufError> {
        Architecture::ALL
            .into_iter()
            .find(|architecture| architecture.name() == name)
            .ok_or_else(|| GgufError::UnsupportedArchitecture {
                name: crate::error::quoted(name.as_bytes()),
                supported: Architecture::ALL.map(Architecture::name).join(", "),
            })
    }
}

/// All sizes and constants of a model that its tensors do not say themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelShape {
    pub architecture: Architecture,
    pub n_layers: u32,
    pub d_model: u32,
    pub n_heads: u32,
    /// Divides `n_heads`.
    pub n_kv_heads: u32,
    /// Elements of a query or key head.
    pub head_dim: u32,
    /// Elements of a value head.
    pub value_dim: u32,
    pub d_ff: u32,
    pub n_vocab: u32,
    /// Positions the model was trained for.
    pub context_length: u32,
    pub rope: Rope,
    pub rms_eps: f32,
    /// Query times key is multiplied by this before the softmax.
    pub attention_scale: f32,
    /// Positions a query sees on sliding layers, its own included; `None` when every layer sees all.
    pub sliding_window: Option<u32>,
    /// One flag per layer, true where the window applies. Empty without a window.
    pub sliding_layers: Vec<bool>,
    pub attn_logit_softcap: Option<f32>,
    pub final_logit_softcap: Option<f32>,
}

impl ModelShape {
    /// Reads and validates the shape. Works on a file's metadata and on a [`MetadataBuf`](crate::MetadataBuf) view alike.
    pub fn from_metadata(metadata: &Metadata<'_>) -> Result<ModelShape, GgufError> {
        let architecture = Architecture::from_name(metadata.require_str("general.architecture")?)?;
        let keys = ArchKeys {
            metadata,
            prefix: architecture.name(),
        };
        refuse_experts(&keys)?;

        let n_layers = keys.count("block_count", MAX_LAYERS)?;
        let d_model = keys.count("embedding_length", MAX_WIDTH)?;
        let n_heads = keys.uniform_count("attention.head_count", MAX_HEADS)?;
        let n_kv_heads = keys.uniform_count_or("attention.head_count_kv", n_heads, n_heads)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(keys.bad(
                "attention.head_count_kv",
                n_kv_heads,
                format!("a divisor of the {n_heads} heads"),
            ));
        }
        let head_dim = head_width(&keys, "attention.key_length", d_model, n_heads)?;
        let value_dim = head_width(&keys, "attention.value_length", d_model, n_heads)?;
        let sliding_window = sliding_window(&keys, architecture)?;
        let sliding_layers = match sliding_window {
            Some(_) => sliding_layers(&keys, n_layers)?,
            None => Vec::new(),
        };

        Ok(ModelShape {
            architecture,
            n_layers,
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            value_dim,
            d_ff: keys.uniform_count("feed_forward_length", MAX_WIDTH)?,
            n_vocab: n_vocab(&keys)?,
            context_length: keys.count("context_length", MAX_CONTEXT)?,
            rope: Rope::read(&keys, architecture, head_dim)?,
            rms_eps: keys.positive("attention.layer_norm_rms_epsilon")?,
            attention_scale: attention_scale(architecture, n_layers, d_model, n_heads, head_dim),
            sliding_window,
            sliding_layers,
            attn_logit_softcap: keys.positive_if_set("attn_logit_softcapping")?,
            final_logit_softcap: keys.positive_if_set("final_logit_softcapping")?,
        })
    }

    /// Whether layer `i` sees only the sliding window.
    pub fn is_sliding(&self, layer: u32) -> bool {
        self.sliding_layers
            .get(layer as usize)
            .copied()
            .unwrap_or(false)
    }
}

/// Mixtures of experts share the architecture name `llama`, so they are told apart here.
fn refuse_experts(keys: &ArchKeys<'_>) -> Result<(), GgufError> {
    match keys.metadata.u32(&keys.key("expert_count"))? {
        None | Some(0) => Ok(()),
        Some(n) => Err(GgufError::UnsupportedFeature {
            key: keys.key("expert_count"),
            value: n.to_string(),
            feature: "a mixture of experts",
        }),
    }
}

/// The width of one head: stated, or the hidden width shared out among the heads.
fn head_width(
    keys: &ArchKeys<'_>,
    name: &str,
    d_model: u32,
    n_heads: u32,
) -> Result<u32, GgufError> {
    let stated = keys.metadata.u32(&keys.key(name))?;
    if stated.is_none() && !d_model.is_multiple_of(n_heads) {
        let rule = format!(
            "a divisor of the width {d_model}, as there is no {}",
            keys.key(name)
        );
        return Err(keys.bad("attention.head_count", n_heads, rule));
    }
    keys.count_or(name, d_model / n_heads, MAX_HEAD_DIM)
}

/// The token table's length where there is one, as the embedding has a row for each of its entries; else what a coordinator
/// that has the table says; else the architecture's own key, which some converters leave out.
fn n_vocab(keys: &ArchKeys<'_>) -> Result<u32, GgufError> {
    let limit = u32::try_from(MAX_ARRAY_ELEMENTS).unwrap_or(u32::MAX);
    if let Some(tokens) = keys.metadata.strings("tokenizer.ggml.tokens")?
        && !tokens.is_empty()
    {
        return Ok(tokens.len() as u32);
    }
    match keys.metadata.get(N_VOCAB_KEY) {
        Some(_) => read::count(keys.metadata, N_VOCAB_KEY, limit),
        None => keys.count("vocab_size", limit),
    }
}

/// One over the root of the head width; gemma3 27B alone was trained with the width per head of its hidden state instead,
/// and no metadata key says so.
fn attention_scale(
    architecture: Architecture,
    n_layers: u32,
    d_model: u32,
    n_heads: u32,
    head_dim: u32,
) -> f32 {
    const GEMMA3_27B_LAYERS: u32 = 62;
    let width = match (architecture, n_layers) {
        (Architecture::Gemma3, GEMMA3_27B_LAYERS) => d_model / n_heads,
        _ => head_dim,
    };
    1.0 / (width as f32).sqrt()
}

/// Only gemma3 has a window. Converters also write the key for models that were trained without one; those ignore it.
fn sliding_window(
    keys: &ArchKeys<'_>,
    architecture: Architecture,
) -> Result<Option<u32>, GgufError> {
    if architecture != Architecture::Gemma3 {
        return Ok(None);
    }
    let window = keys
        .metadata
        .u32(&keys.key("attention.sliding_window"))?
        .filter(|&n| n > 0);
    match window {
        Some(n) if n > MAX_CONTEXT => Err(keys.bad(
            "attention.sliding_window",
            n,
            format!("at most {MAX_CONTEXT}"),
        )),
        window => Ok(window),
    }
}

/// Which layers slide: one flag per layer, or a period of which the last layer sees everything. Five in six by default.
fn sliding_layers(keys: &ArchKeys<'_>, n_layers: u32) -> Result<Vec<bool>, GgufError> {
    const DEFAULT_PERIOD: u32 = 6;
    let name = "attention.sliding_window_pattern";
    if let Some(Value::Array(_)) = keys.metadata.get(&keys.key(name)) {
        let flags = keys.metadata.bools(&keys.key(name))?.unwrap_or_default();
        if flags.len() != n_layers as usize {
            return Err(keys.bad(
                name,
                format!("{} flags", flags.len()),
                format!("one flag for each of {n_layers} layers"),
            ));
        }
        return Ok(flags);
    }
    let period = keys.count_or(name, DEFAULT_PERIOD, MAX_LAYERS)?;
    Ok((0..n_layers)
        .map(|layer| layer % period != period - 1)
        .collect())
}
