//! What a model costs, read off its table and its shape: the input of the planner.

use potluck_gguf::{ModelShape, TensorPlace};
use potluck_proto::KvCacheType;

use super::table::{StoredTensor, TensorTable};
use crate::planner::{LayerCost, ModelCost, ScratchCost};

/// Bytes of an element of a working buffer (f32).
const F32_BYTES: u64 = 4;

pub(super) fn of_model(
    name: &str,
    shape: &ModelShape,
    table: &TensorTable,
    kv_cache: KvCacheType,
) -> ModelCost {
    let n_layers = shape.n_layers as usize;
    let empty = LayerCost {
        bytes: 0,
        kv_bytes_per_position: kv_bytes_per_position(shape, kv_cache),
        macs: 0,
    };
    let mut layers = vec![empty; n_layers];
    for tensor in table.tensors() {
        if let TensorPlace::Layer(i) = tensor.facts.place
            && let Some(layer) = layers.get_mut(i as usize)
        {
            layer.bytes += tensor.n_bytes();
            layer.macs = layer.macs.saturating_add(tensor.facts.macs);
        }
    }
    let bytes_at = |place| table.at(place).map(StoredTensor::n_bytes).sum();
    ModelCost {
        name: name.to_owned(),
        layers,
        embedding_bytes: bytes_at(TensorPlace::Embedding),
        head_bytes: bytes_at(TensorPlace::Head),
        tied_output: table.tied_output(),
        shared_bytes: bytes_at(TensorPlace::Shared),
        scratch: scratch(shape),
    }
}

fn kv_bytes_per_position(shape: &ModelShape, kv_cache: KvCacheType) -> u64 {
    let per_head = u64::from(shape.head_dim) + u64::from(shape.value_dim);
    kv_cache.n_bytes(u64::from(shape.n_kv_heads) * per_head)
}

/// Buffers of one token on its way through a layer, all of them at once, and the logits of one that samples.
fn scratch(shape: &ModelShape) -> ScratchCost {
    let [d_model, d_ff, n_heads, n_kv_heads] =
        [shape.d_model, shape.d_ff, shape.n_heads, shape.n_kv_heads].map(u64::from);
    let [head_dim, value_dim] = [shape.head_dim, shape.value_dim].map(u64::from);
    // Arriving, leaving, residual, normed, projected.
    let hidden = 5 * d_model;
    let queries_keys_values = n_heads * head_dim + n_kv_heads * (head_dim + value_dim);
    let attended = n_heads * value_dim;
    // Matrix inputs once more as 8-bit codes with scales: counted as half their floats.
    let quantised = d_model.max(attended) / 2 + d_ff / 2;
    let floats = hidden + queries_keys_values + attended + d_ff + quantised;
    // Sliding layers turn by a table of their own.
    let rope_tables = if shape.sliding_window.is_some() { 2 } else { 1 };
    ScratchCost {
        bytes_per_token: floats * F32_BYTES,
        bytes_per_sample: u64::from(shape.n_vocab) * F32_BYTES,
        bytes_per_kept_token: d_model * F32_BYTES,
        bytes_per_position: rope_tables * u64::from(shape.rope.dim) * F32_BYTES,
    }
}
