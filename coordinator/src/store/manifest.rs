//! What a manifest says beside its tensors: metadata in the protocol's words, and the hash that names the model.

use bytes::Bytes;
use potluck_gguf::{MetadataBuf, OwnedValue};
use potluck_proto::{ContentHash, MetadataValue, limits};

use super::error::StoreError;
use super::table::StoredTensor;

/// Bytes of metadata in a manifest. Real files have some tens of KiB; with the largest table of tensors a message still has room.
const MAX_METADATA_BYTES: usize = 4 << 20;

/// Largest row of the tensor table on the wire: name, dimensions, hash, tags.
const MAX_TENSOR_ROW_BYTES: usize = 160;

const _: () = assert!(
    MAX_METADATA_BYTES + limits::MAX_TENSORS * MAX_TENSOR_ROW_BYTES <= limits::MAX_MESSAGE_BYTES
);

/// Raised when the input of the model hash changes.
const MODEL_HASH_DOMAIN: &[u8] = b"potluck model 1";

/// The metadata as a manifest carries it.
pub(super) fn metadata_values(
    carried: MetadataBuf,
) -> Result<Vec<(String, MetadataValue)>, StoreError> {
    let values: Vec<_> = carried
        .into_pairs()
        .into_iter()
        .map(|(key, value)| (key, to_wire_value(value)))
        .collect();
    // Keys and values have a tag and a length each, scalars at most eight bytes.
    const PER_ENTRY: usize = 32;
    let n_bytes = values
        .iter()
        .map(|(key, value)| PER_ENTRY + key.len() + variable_bytes(value))
        .sum();
    match n_bytes > MAX_METADATA_BYTES {
        true => Err(StoreError::MetadataTooLarge {
            n_bytes,
            limit: MAX_METADATA_BYTES,
        }),
        false => Ok(values),
    }
}

fn to_wire_value(value: OwnedValue) -> MetadataValue {
    match value {
        OwnedValue::U8(v) => MetadataValue::Uint(v.into()),
        OwnedValue::U16(v) => MetadataValue::Uint(v.into()),
        OwnedValue::U32(v) => MetadataValue::Uint(v.into()),
        OwnedValue::U64(v) => MetadataValue::Uint(v),
        OwnedValue::I8(v) => MetadataValue::Int(v.into()),
        OwnedValue::I16(v) => MetadataValue::Int(v.into()),
        OwnedValue::I32(v) => MetadataValue::Int(v.into()),
        OwnedValue::I64(v) => MetadataValue::Int(v),
        OwnedValue::F32(v) => MetadataValue::F32(v),
        OwnedValue::F64(v) => MetadataValue::F64(v),
        OwnedValue::Bool(v) => MetadataValue::Bool(v),
        OwnedValue::Str(v) => MetadataValue::Text(v),
        OwnedValue::Array {
            element,
            len,
            bytes,
        } => MetadataValue::Array {
            element: element.id(),
            len,
            data: Bytes::from(bytes),
        },
    }
}

fn variable_bytes(value: &MetadataValue) -> usize {
    match value {
        MetadataValue::Text(text) => text.len(),
        MetadataValue::Array { data, .. } => data.len(),
        _ => 0,
    }
}

/// BLAKE3 over metadata and table, every part after its length, so that no two models share an input.
pub(super) fn model_hash(
    metadata: &[(String, MetadataValue)],
    tensors: &[StoredTensor],
) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(MODEL_HASH_DOMAIN);
    hasher.update(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        add_part(&mut hasher, key.as_bytes());
        add_value(&mut hasher, value);
    }
    hasher.update(&(tensors.len() as u64).to_le_bytes());
    for tensor in tensors {
        add_part(&mut hasher, tensor.name().as_bytes());
        hasher.update(&tensor.facts.type_id.to_le_bytes());
        hasher.update(&(tensor.facts.dims.len() as u64).to_le_bytes());
        for dim in &tensor.facts.dims {
            hasher.update(&dim.to_le_bytes());
        }
        hasher.update(&tensor.hash.0);
    }
    ContentHash(hasher.finalize().into())
}

fn add_part(hasher: &mut blake3::Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}

/// A letter for the kind of value, then the value.
fn add_value(hasher: &mut blake3::Hasher, value: &MetadataValue) {
    match value {
        MetadataValue::Uint(v) => hasher.update(b"u").update(&v.to_le_bytes()),
        MetadataValue::Int(v) => hasher.update(b"i").update(&v.to_le_bytes()),
        MetadataValue::F32(v) => hasher.update(b"f").update(&v.to_le_bytes()),
        MetadataValue::F64(v) => hasher.update(b"d").update(&v.to_le_bytes()),
        MetadataValue::Bool(v) => hasher.update(b"b").update(&[u8::from(*v)]),
        MetadataValue::Text(text) => {
            hasher.update(b"t");
            add_part(hasher, text.as_bytes());
            hasher
        }
        MetadataValue::Array { element, len, data } => {
            hasher.update(b"a").update(&element.to_le_bytes());
            hasher.update(&len.to_le_bytes());
            add_part(hasher, data);
            hasher
        }
    };
}
