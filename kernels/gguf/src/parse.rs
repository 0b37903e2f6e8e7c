//! The walk over a file: header, metadata, tensor table, and where the data lies.
//!
//! Everything is checked here, once, in the order in which the file lists it. Tensor data must follow in the order of the
//! table without overlaps or gaps, as every writer produces it; that makes the check linear and leaves no hidden bytes.

use std::collections::HashMap;

use crate::cursor::Cursor;
use crate::error::{GgufError, quoted};
use crate::limits::{
    DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_DIMS, MAX_KEY_BYTES, MAX_METADATA_ENTRIES,
    MAX_TENSOR_NAME_BYTES, MAX_TENSORS, MIN_ALIGNMENT,
};
use crate::metadata::Metadata;
use crate::tensor::{Dims, TensorInfo};
use crate::tensor_type::TensorType;
use crate::value::Value;

const MAGIC: [u8; 4] = *b"GGUF";
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// The smallest entry: key length, one byte of key, value type, one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;
/// The smallest table row: name length, one byte of name, dimension count, one dimension, type, offset.
const MIN_TENSOR_ENTRY_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// A file whose header has been read and fully checked. Borrows from the file's bytes and copies none of them.
#[derive(Debug, Clone)]
pub struct Gguf<'a> {
    bytes: &'a [u8],
    version: u32,
    metadata: Metadata<'a>,
    tensors: Vec<TensorInfo<'a>>,
    /// Position in `tensors`; only ever looked up.
    by_name: HashMap<&'a str, u32>,
}

impl<'a> Gguf<'a> {
    /// Reads and checks a whole file. Time and memory are linear in the header; tensor data is not touched.
    pub fn parse(bytes: &'a [u8]) -> Result<Gguf<'a>, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let version = read_version(&mut cursor)?;
        let n_tensors = cursor.u64("the tensor count")?;
        let n_entries = cursor.u64("the metadata count")?;
        // Both before either is read: a wild count costs nothing.
        let n_tensors =
            cursor.check_count("tensors", n_tensors, MAX_TENSORS, MIN_TENSOR_ENTRY_BYTES)?;
        let metadata = read_metadata(&mut cursor, n_entries)?;
        let alignment = read_alignment(&metadata)?;
        refuse_split(&metadata)?;

        let mut gguf = Gguf {
            bytes,
            version,
            metadata,
            tensors: Vec::with_capacity(n_tensors),
            by_name: HashMap::with_capacity(n_tensors),
        };
        for index in 0..n_tensors {
            let tensor = read_tensor(&mut cursor, index as u64)?;
            if gguf.by_name.insert(tensor.name, index as u32).is_some() {
                return Err(GgufError::DuplicateTensor {
                    name: tensor.name.to_owned(),
                });
            }
            gguf.tensors.push(tensor);
        }
        let data = DataSection {
            start: align_up(cursor.offset(), alignment),
            alignment,
            file_bytes: bytes.len() as u64,
        };
        data.place(&mut gguf.tensors)?;
        Ok(gguf)
    }

    /// 2 or 3; they differ in nothing that matters here.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn metadata(&self) -> &Metadata<'a> {
        &self.metadata
    }

    /// Tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        let at = *self.by_name.get(name)?;
        self.tensors.get(at as usize)
    }

    /// The stored bytes of a tensor of this file.
    ///
    /// # Panics
    /// When `tensor` comes from a larger file than this one.
    pub fn tensor_bytes(&self, tensor: &TensorInfo<'_>) -> &'a [u8] {
        // `parse` found both ends inside the file, so they fit usize.
        &self.bytes[tensor.offset as usize..][..tensor.n_bytes as usize]
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let found = cursor.array("the magic number")?;
    if found != MAGIC {
        return Err(GgufError::BadMagic { found });
    }
    let version = cursor.u32("the version")?;
    match version {
        v if VERSIONS.contains(&v) => Ok(v),
        // A small number written by a machine of the other byte order has its low half empty.
        v if v != 0 && v & 0xffff == 0 => Err(GgufError::BigEndian { version }),
        _ => Err(GgufError::UnsupportedVersion { version }),
    }
}

fn read_metadata<'a>(cursor: &mut Cursor<'a>, n_entries: u64) -> Result<Metadata<'a>, GgufError> {
    let n_entries = cursor.check_count(
        "metadata entries",
        n_entries,
        MAX_METADATA_ENTRIES,
        MIN_ENTRY_BYTES,
    )?;
    let mut metadata = Metadata::with_capacity(n_entries);
    for _ in 0..n_entries {
        let offset = cursor.offset();
        let key = check_key(cursor.string(MAX_KEY_BYTES, "a metadata key")?, offset)?;
        let value = Value::read(cursor, key)?;
        metadata.insert(key, value)?;
    }
    Ok(metadata)
}

/// A key is UTF-8, not empty, and prints on one line.
pub(crate) fn check_key(key: &[u8], offset: u64) -> Result<&str, GgufError> {
    if key.is_empty() {
        return Err(GgufError::EmptyKey { offset });
    }
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains(char::is_control) => Ok(text),
        _ => Err(GgufError::BadKey {
            key: quoted(key),
            offset,
        }),
    }
}

/// The format fixes the type of this one key, and everything after depends on it, so no other type is accepted.
fn read_alignment(metadata: &Metadata<'_>) -> Result<u64, GgufError> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT.into()),
        Some(Value::U32(n))
            if n.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(n) =>
        {
            Ok(u64::from(*n))
        }
        Some(Value::U32(n)) => Err(GgufError::BadValue {
            key: ALIGNMENT_KEY.to_owned(),
            value: n.to_string(),
            rule: format!("a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"),
        }),
        Some(other) => Err(GgufError::WrongType {
            key: ALIGNMENT_KEY.to_owned(),
            expected: "u32",
            found: other.describe(),
        }),
    }
}

fn refuse_split(metadata: &Metadata<'_>) -> Result<(), GgufError> {
    let count = metadata.u64("split.count")?.unwrap_or(0);
    let index = metadata.u64("split.no")?.unwrap_or(0);
    match count > 1 {
        true => Err(GgufError::SplitFile { index, count }),
        false => Ok(()),
    }
}

/// Reads one row of the table; its offset is still relative to the data section.
fn read_tensor<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<TensorInfo<'a>, GgufError> {
    let name = check_tensor_name(
        cursor.string(MAX_TENSOR_NAME_BYTES, "a tensor name")?,
        index,
    )?;
    let dims = read_dims(cursor, name)?;
    let id = cursor.u32("a tensor type")?;
    let ty = TensorType::from_id(id).ok_or_else(|| GgufError::UnknownTensorType {
        name: name.to_owned(),
        id,
    })?;
    let n_bytes = ty.tensor_bytes(&dims, name)?;
    let offset = cursor.u64("a tensor offset")?;
    Ok(TensorInfo {
        name,
        ty,
        dims,
        offset,
        n_bytes,
    })
}

/// Names end up in cache paths and on terminals, so what could climb out of a directory or draw on a screen is refused.
fn check_tensor_name(name: &[u8], index: u64) -> Result<&str, GgufError> {
    if name.is_empty() {
        return Err(GgufError::EmptyTensorName { index });
    }
    match std::str::from_utf8(name) {
        Ok(text) if !text.contains(|c: char| c.is_control() || c == '/' || c == '\\') => Ok(text),
        _ => Err(GgufError::BadTensorName {
            index,
            name: quoted(name),
        }),
    }
}

fn read_dims(cursor: &mut Cursor<'_>, name: &str) -> Result<Dims, GgufError> {
    let n_dims = cursor.u32("a dimension count")?;
    let mut ne = [0; MAX_DIMS];
    let ne = usize::try_from(n_dims)
        .ok()
        .filter(|&n| n > 0)
        .and_then(|n| ne.get_mut(..n))
        .ok_or_else(|| GgufError::BadDimCount {
            name: name.to_owned(),
            n_dims: n_dims.into(),
        })?;
    for n in ne.iter_mut() {
        *n = cursor.u64("a dimension")?;
    }
    Dims::new(ne).ok_or_else(|| GgufError::BadDims {
        name: name.to_owned(),
        dims: ne.to_vec(),
    })
}

/// Where tensor data begins and how it is laid out.
struct DataSection {
    start: u64,
    alignment: u64,
    file_bytes: u64,
}

impl DataSection {
    /// Checks every offset and makes it absolute. The last tensor needs no padding after it, and bytes after it are allowed.
    fn place(&self, tensors: &mut [TensorInfo<'_>]) -> Result<(), GgufError> {
        let mut expected = self.start;
        for tensor in tensors {
            // An offset so large that the sum would wrap is reported as it stands.
            let absolute = self.start.checked_add(tensor.offset);
            tensor.offset = absolute.ok_or_else(|| self.outside(tensor))?;
            expected = self.check(tensor, expected)?;
        }
        Ok(())
    }

    /// Checks one tensor that should begin at `expected`; gives where the next should.
    fn check(&self, tensor: &TensorInfo<'_>, expected: u64) -> Result<u64, GgufError> {
        let (offset, n_bytes) = (tensor.offset, tensor.n_bytes);
        let name = || tensor.name.to_owned();
        if offset % self.alignment != 0 {
            return Err(GgufError::Misaligned {
                name: name(),
                offset,
                alignment: self.alignment,
            });
        }
        let end = offset
            .checked_add(n_bytes)
            .filter(|&end| end <= self.file_bytes);
        match (end, offset.cmp(&expected)) {
            (_, std::cmp::Ordering::Less) => Err(GgufError::Overlap {
                name: name(),
                offset,
                expected,
            }),
            (None, _) => Err(self.outside(tensor)),
            (_, std::cmp::Ordering::Greater) => Err(GgufError::Gap {
                name: name(),
                offset,
                expected,
            }),
            (Some(end), std::cmp::Ordering::Equal) => Ok(align_up(end, self.alignment)),
        }
    }

    fn outside(&self, tensor: &TensorInfo<'_>) -> GgufError {
        GgufError::OutsideFile {
            name: tensor.name.to_owned(),
            offset: tensor.offset,
            n_bytes: tensor.n_bytes,
            file_bytes: self.file_bytes,
        }
    }
}

/// Rounds an offset within the file up. Offsets are below 2^63 and alignments at most 2^20, so nothing wraps.
fn align_up(offset: u64, alignment: u64) -> u64 {
    offset.next_multiple_of(alignment)
}
