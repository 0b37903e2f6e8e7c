//! What a worker must know of a model to run a span of it: hyper-parameters and tensors by content.

use bytes::Bytes;

use crate::{WireError, id::fixed, limits, step::at_most, wire};

/// BLAKE3 of the bytes of a tensor: its name in every cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

impl std::fmt::Display for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl TryFrom<&[u8]> for ContentHash {
    type Error = WireError;

    fn try_from(bytes: &[u8]) -> Result<Self, WireError> {
        fixed("hash", bytes).map(ContentHash)
    }
}

/// Hyper-parameters and the tensors of a span.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Name for people.
    pub name: String,
    /// BLAKE3 over the hyper-parameters and the tensor table of the whole model.
    pub model_hash: ContentHash,
    /// Metadata of the model file without its vocabulary.
    pub metadata: Vec<(String, MetadataValue)>,
    /// Tensors of the span.
    pub tensors: Vec<ManifestTensor>,
}

/// A value of the model's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// Any unsigned integer.
    Uint(u64),
    /// Any signed integer.
    Int(i64),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// A short array, encoded as in the model file.
    Array {
        /// GGUF value type id of the elements.
        element: u32,
        /// Number of elements.
        len: u64,
        /// The elements, little-endian.
        data: Bytes,
    },
}

/// One tensor by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestTensor {
    /// Name in the model file.
    pub name: String,
    /// ggml type id.
    pub type_id: u32,
    /// ne[0] first: the length of a row.
    pub dims: Vec<u64>,
    /// Length of its bytes.
    pub n_bytes: u64,
    /// BLAKE3 of its bytes.
    pub hash: ContentHash,
}

impl Manifest {
    /// The manifest as a message.
    pub fn to_wire(&self) -> wire::Manifest {
        wire::Manifest {
            name: self.name.clone(),
            model_hash: Bytes::copy_from_slice(&self.model_hash.0),
            metadata: self
                .metadata
                .iter()
                .map(|(key, value)| wire::MetadataEntry {
                    key: key.clone(),
                    value: Some(value_to_wire(value)),
                })
                .collect(),
            tensors: self.tensors.iter().map(tensor_to_wire).collect(),
        }
    }

    /// The manifest that a message describes.
    pub fn from_wire(manifest: wire::Manifest) -> Result<Manifest, WireError> {
        at_most(
            "tensors",
            manifest.tensors.len() as u64,
            limits::MAX_TENSORS as u64,
        )?;
        let metadata = manifest.metadata.into_iter().map(|entry| {
            let value = entry.value.ok_or(WireError::Missing("value"))?;
            Ok((entry.key, value_from_wire(value)))
        });
        Ok(Manifest {
            name: manifest.name,
            model_hash: manifest.model_hash.as_ref().try_into()?,
            metadata: metadata.collect::<Result<_, WireError>>()?,
            tensors: manifest
                .tensors
                .into_iter()
                .map(tensor_from_wire)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Bytes of all its tensors. The numbers are a peer's, so the sum does not overflow.
    pub fn n_bytes(&self) -> u64 {
        self.tensors
            .iter()
            .fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_bytes))
    }
}

fn value_to_wire(value: &MetadataValue) -> wire::metadata_entry::Value {
    use wire::metadata_entry::Value;
    match value {
        MetadataValue::Uint(v) => Value::Uint(*v),
        MetadataValue::Int(v) => Value::Int(*v),
        MetadataValue::F32(v) => Value::F32(*v),
        MetadataValue::F64(v) => Value::F64(*v),
        MetadataValue::Bool(v) => Value::Boolean(*v),
        MetadataValue::Text(v) => Value::Text(v.clone()),
        MetadataValue::Array { element, len, data } => Value::Array(wire::Array {
            element: *element,
            len: *len,
            data: data.clone(),
        }),
    }
}

fn value_from_wire(value: wire::metadata_entry::Value) -> MetadataValue {
    use wire::metadata_entry::Value;
    match value {
        Value::Uint(v) => MetadataValue::Uint(v),
        Value::Int(v) => MetadataValue::Int(v),
        Value::F32(v) => MetadataValue::F32(v),
        Value::F64(v) => MetadataValue::F64(v),
        Value::Boolean(v) => MetadataValue::Bool(v),
        Value::Text(v) => MetadataValue::Text(v),
        Value::Array(v) => MetadataValue::Array {
            element: v.element,
            len: v.len,
            data: v.data,
        },
    }
}

fn tensor_to_wire(tensor: &ManifestTensor) -> wire::Tensor {
    wire::Tensor {
        name: tensor.name.clone(),
        type_id: tensor.type_id,
        dims: tensor.dims.clone(),
        n_bytes: tensor.n_bytes,
        hash: Bytes::copy_from_slice(&tensor.hash.0),
    }
}

fn tensor_from_wire(tensor: wire::Tensor) -> Result<ManifestTensor, WireError> {
    at_most("dims", tensor.dims.len() as u64, limits::MAX_DIMS as u64)?;
    Ok(ManifestTensor {
        name: tensor.name,
        type_id: tensor.type_id,
        dims: tensor.dims,
        n_bytes: tensor.n_bytes,
        hash: tensor.hash.as_ref().try_into()?,
    })
}
