//! Metadata that owns its values: the part of a model's metadata that a machine without the file needs to know the model's
//! shape, and what [`GgufWriter`](crate::GgufWriter) writes.
//!
//! Values here may come from a peer, so they pass the same checks as those of a file before anything can see them.

use std::collections::HashSet;

use crate::array::Array;
use crate::error::{GgufError, quoted};
use crate::limits::{MAX_CARRIED_BYTES, MAX_KEY_BYTES, MAX_METADATA_ENTRIES, MAX_STRING_BYTES};
use crate::metadata::Metadata;
use crate::parse::check_key;
use crate::value::{Value, ValueType};

/// How many tokens the model has, for machines that do not get the token table. An entry of our own; no file has it.
pub const N_VOCAB_KEY: &str = "potluck.n_vocab";

/// One value that owns its data. A plain enum, so that any layer can encode it.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnedValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(String),
    /// `bytes` are `len` elements as GGUF encodes them: little-endian, strings after their u64 length.
    Array {
        element: ValueType,
        len: u64,
        bytes: Vec<u8>,
    },
}

impl OwnedValue {
    /// An array of strings, or of anything that is bytes.
    pub fn strings<S: AsRef<[u8]>>(items: impl IntoIterator<Item = S>) -> OwnedValue {
        let (mut len, mut bytes) = (0, Vec::new());
        for item in items {
            let item = item.as_ref();
            bytes.extend_from_slice(&(item.len() as u64).to_le_bytes());
            bytes.extend_from_slice(item);
            len += 1;
        }
        OwnedValue::Array {
            element: ValueType::Str,
            len,
            bytes,
        }
    }

    pub fn f32s(items: &[f32]) -> OwnedValue {
        OwnedValue::fixed(
            ValueType::F32,
            items.len(),
            items.iter().flat_map(|v| v.to_le_bytes()),
        )
    }

    pub fn i32s(items: &[i32]) -> OwnedValue {
        OwnedValue::fixed(
            ValueType::I32,
            items.len(),
            items.iter().flat_map(|v| v.to_le_bytes()),
        )
    }

    pub fn u32s(items: &[u32]) -> OwnedValue {
        OwnedValue::fixed(
            ValueType::U32,
            items.len(),
            items.iter().flat_map(|v| v.to_le_bytes()),
        )
    }

    pub fn bools(items: &[bool]) -> OwnedValue {
        OwnedValue::fixed(
            ValueType::Bool,
            items.len(),
            items.iter().map(|&v| u8::from(v)),
        )
    }

    fn fixed(element: ValueType, len: usize, bytes: impl Iterator<Item = u8>) -> OwnedValue {
        OwnedValue::Array {
            element,
            len: len as u64,
            bytes: bytes.collect(),
        }
    }

    /// The same value, borrowed. Only meaningful for arrays that were checked.
    pub(crate) fn borrow(&self) -> Value<'_> {
        match self {
            OwnedValue::U8(v) => Value::U8(*v),
            OwnedValue::I8(v) => Value::I8(*v),
            OwnedValue::U16(v) => Value::U16(*v),
            OwnedValue::I16(v) => Value::I16(*v),
            OwnedValue::U32(v) => Value::U32(*v),
            OwnedValue::I32(v) => Value::I32(*v),
            OwnedValue::U64(v) => Value::U64(*v),
            OwnedValue::I64(v) => Value::I64(*v),
            OwnedValue::F32(v) => Value::F32(*v),
            OwnedValue::F64(v) => Value::F64(*v),
            OwnedValue::Bool(v) => Value::Bool(*v),
            OwnedValue::Str(text) => Value::Str(text),
            OwnedValue::Array {
                element,
                len,
                bytes,
            } => Value::Array(Array::checked_before(
                *element,
                usize::try_from(*len).unwrap_or_default(),
                bytes,
            )),
        }
    }

    fn check(&self, key: &str) -> Result<(), GgufError> {
        match self {
            OwnedValue::Str(text) if text.len() as u64 > MAX_STRING_BYTES => {
                Err(GgufError::TooLong {
                    what: "a string value",
                    offset: 0,
                    n_bytes: text.len() as u64,
                    limit: MAX_STRING_BYTES,
                })
            }
            OwnedValue::Array {
                element,
                len,
                bytes,
            } => Array::check(key, *element, *len, bytes).map(|_| ()),
            _ => Ok(()),
        }
    }
}

impl From<&Value<'_>> for OwnedValue {
    fn from(value: &Value<'_>) -> OwnedValue {
        match *value {
            Value::U8(v) => OwnedValue::U8(v),
            Value::I8(v) => OwnedValue::I8(v),
            Value::U16(v) => OwnedValue::U16(v),
            Value::I16(v) => OwnedValue::I16(v),
            Value::U32(v) => OwnedValue::U32(v),
            Value::I32(v) => OwnedValue::I32(v),
            Value::U64(v) => OwnedValue::U64(v),
            Value::I64(v) => OwnedValue::I64(v),
            Value::F32(v) => OwnedValue::F32(v),
            Value::F64(v) => OwnedValue::F64(v),
            Value::Bool(v) => OwnedValue::Bool(v),
            Value::Str(text) => OwnedValue::Str(text.to_owned()),
            Value::Array(array) => OwnedValue::Array {
                element: array.element_type(),
                len: array.len() as u64,
                bytes: array.bytes().to_vec(),
            },
        }
    }
}

impl From<u32> for OwnedValue {
    fn from(value: u32) -> OwnedValue {
        OwnedValue::U32(value)
    }
}

impl From<f32> for OwnedValue {
    fn from(value: f32) -> OwnedValue {
        OwnedValue::F32(value)
    }
}

impl From<bool> for OwnedValue {
    fn from(value: bool) -> OwnedValue {
        OwnedValue::Bool(value)
    }
}

impl From<&str> for OwnedValue {
    fn from(value: &str) -> OwnedValue {
        OwnedValue::Str(value.to_owned())
    }
}

/// Checked entries that own their values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetadataBuf {
    pairs: Vec<(String, OwnedValue)>,
}

impl MetadataBuf {
    /// Takes entries from anywhere, in particular from a peer, and checks them as a file's would be.
    pub fn from_pairs(pairs: Vec<(String, OwnedValue)>) -> Result<MetadataBuf, GgufError> {
        let count = pairs.len() as u64;
        if count > MAX_METADATA_ENTRIES {
            return Err(GgufError::TooMany {
                what: "metadata entries",
                count,
                limit: MAX_METADATA_ENTRIES,
            });
        }
        let mut seen = HashSet::with_capacity(pairs.len());
        for (key, value) in &pairs {
            let n_bytes = key.len() as u64;
            if n_bytes > MAX_KEY_BYTES {
                return Err(GgufError::TooLong {
                    what: "a metadata key",
                    offset: 0,
                    n_bytes,
                    limit: MAX_KEY_BYTES,
                });
            }
            check_key(key.as_bytes(), 0)?;
            value.check(key)?;
            if !seen.insert(key.as_str()) {
                return Err(GgufError::DuplicateKey {
                    key: quoted(key.as_bytes()),
                });
            }
        }
        drop(seen);
        Ok(MetadataBuf { pairs })
    }

    /// Copies what describes the model's shape: everything but `tokenizer.*` and values over
    /// [`MAX_CARRIED_BYTES`](crate::limits::MAX_CARRIED_BYTES). The size of the vocabulary is kept as [`N_VOCAB_KEY`].
    pub fn from_metadata(metadata: &Metadata<'_>) -> MetadataBuf {
        let mut pairs: Vec<_> = metadata
            .iter()
            .filter(|(key, value)| {
                !key.starts_with("tokenizer.") && carried_bytes(value) <= MAX_CARRIED_BYTES
            })
            .map(|(key, value)| (key.to_owned(), OwnedValue::from(value)))
            .collect();
        let n_tokens = metadata
            .strings("tokenizer.ggml.tokens")
            .ok()
            .flatten()
            .map(|tokens| tokens.len() as u64);
        if let Some(n_tokens) = n_tokens {
            pairs.retain(|(key, _)| key != N_VOCAB_KEY);
            pairs.push((N_VOCAB_KEY.to_owned(), OwnedValue::U64(n_tokens)));
        }
        MetadataBuf { pairs }
    }

    /// The entries in order.
    pub fn pairs(&self) -> &[(String, OwnedValue)] {
        &self.pairs
    }

    pub fn into_pairs(self) -> Vec<(String, OwnedValue)> {
        self.pairs
    }

    /// The same entries as a file's metadata would show them.
    pub fn view(&self) -> Metadata<'_> {
        let mut metadata = Metadata::with_capacity(self.pairs.len());
        for (key, value) in &self.pairs {
            // Keys were found to be distinct when `self` was made.
            let _ = metadata.insert(key, value.borrow());
        }
        metadata
    }
}

fn carried_bytes(value: &Value<'_>) -> usize {
    match value {
        Value::Array(array) => array.bytes().len(),
        Value::Str(text) => text.len(),
        _ => 0,
    }
}
