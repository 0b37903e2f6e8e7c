//! Writing a GGUF file in memory: for tests of every crate, and for tools that make small models.
//!
//! The writer writes what the reader accepts: order, padding and alignment are its own affair.

use crate::error::{GgufError, quoted};
use crate::limits::DEFAULT_ALIGNMENT;
use crate::metadata_buf::{MetadataBuf, OwnedValue};
use crate::parse::ALIGNMENT_KEY;
use crate::tensor::Dims;
use crate::tensor_type::TensorType;

const VERSION: u32 = 3;

/// Collects entries and tensors, then gives the bytes of a file.
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, OwnedValue)>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    ty: TensorType,
    dims: Dims,
    data: Vec<u8>,
}

impl GgufWriter {
    pub fn new() -> GgufWriter {
        GgufWriter::default()
    }

    /// Adds all entries of `metadata`.
    pub fn with_metadata(mut self, metadata: MetadataBuf) -> GgufWriter {
        self.metadata.extend(metadata.into_pairs());
        self
    }

    /// Adds one entry, or replaces the one with this key.
    pub fn with(mut self, key: &str, value: impl Into<OwnedValue>) -> GgufWriter {
        let value = value.into();
        match self
            .metadata
            .iter_mut()
            .find(|(existing, _)| existing == key)
        {
            Some(entry) => entry.1 = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    /// Adds a tensor: dimensions fastest first, `data` as encoded by `ty`, whose length must match.
    pub fn with_tensor(
        mut self,
        name: &str,
        ty: TensorType,
        ne: &[u64],
        data: Vec<u8>,
    ) -> Result<GgufWriter, GgufError> {
        let shown = || quoted(name.as_bytes());
        let dims = Dims::new(ne).ok_or_else(|| GgufError::BadDims {
            name: shown(),
            dims: ne.to_vec(),
        })?;
        let (given, expected) = (data.len() as u64, ty.tensor_bytes(&dims, name)?);
        if given != expected {
            return Err(GgufError::WrongDataLength {
                name: shown(),
                given,
                expected,
            });
        }
        self.tensors.push(Tensor {
            name: name.to_owned(),
            ty,
            dims,
            data,
        });
        Ok(self)
    }

    /// A tensor of 32-bit floats.
    pub fn with_f32_tensor(
        self,
        name: &str,
        ne: &[u64],
        data: &[f32],
    ) -> Result<GgufWriter, GgufError> {
        self.with_tensor(
            name,
            TensorType::F32,
            ne,
            data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    /// The whole file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let alignment = self.alignment();
        let mut out = Vec::new();
        out.extend_from_slice(b"GGUF");
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut out, key.as_bytes());
            put_value(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_tensor_entry(&mut out, tensor, offset as u64);
            offset = (offset + tensor.data.len()).next_multiple_of(alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(alignment), 0);
            out.extend_from_slice(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(alignment), 0);
        out
    }

    fn alignment(&self) -> usize {
        let given = self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY);
        match given {
            Some((_, OwnedValue::U32(n))) if *n > 0 => *n as usize,
            _ => DEFAULT_ALIGNMENT as usize,
        }
    }
}

fn put_tensor_entry(out: &mut Vec<u8>, tensor: &Tensor, offset: u64) {
    put_string(out, tensor.name.as_bytes());
    out.extend_from_slice(&(tensor.dims.as_slice().len() as u32).to_le_bytes());
    for n in tensor.dims.as_slice() {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(&tensor.ty.id().to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

/// The type of a value, then the value.
fn put_value(out: &mut Vec<u8>, value: &OwnedValue) {
    out.extend_from_slice(&value.borrow().value_type().id().to_le_bytes());
    match value {
        OwnedValue::U8(v) => out.push(*v),
        OwnedValue::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        OwnedValue::Bool(v) => out.push(u8::from(*v)),
        OwnedValue::Str(text) => put_string(out, text.as_bytes()),
        OwnedValue::Array {
            element,
            len,
            bytes,
        } => {
            out.extend_from_slice(&element.id().to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(bytes);
        }
    }
}
