//! Everything that can be wrong with a model file, one variant per thing a caller or a user can tell apart.
//!
//! Names from the file are quoted with `{:?}`, so that control characters in them reach no terminal, and cut to a sane length.

use std::path::PathBuf;

/// Why a file was refused. Each message says what was found, where, and what to do where something can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    #[error("cannot read {path:?}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{path:?} is not a regular file (a directory, pipe or device cannot be mapped); give the path of a .gguf file"
    )]
    NotARegularFile { path: PathBuf },

    #[error("not a GGUF file: it starts with {found:02x?} instead of \"GGUF\"")]
    BadMagic { found: [u8; 4] },
    #[error(
        "this GGUF file is big-endian (version reads as {version:#010x}); convert it to little-endian"
    )]
    BigEndian { version: u32 },
    #[error(
        "GGUF version {version} is not supported (2 and 3 are); convert the model again with current tools"
    )]
    UnsupportedVersion { version: u32 },
    #[error(
        "the file ends inside {what}: {needed} bytes needed at offset {offset}, {left} left; download it again"
    )]
    Truncated {
        what: &'static str,
        offset: u64,
        needed: u64,
        left: u64,
    },
    #[error(
        "the header is larger than {limit} bytes (still reading {what} at offset {offset}); the file is damaged"
    )]
    HeaderTooLarge {
        what: &'static str,
        offset: u64,
        limit: u64,
    },
    #[error("the file claims {count} {what}, {limit} are allowed; the file is damaged")]
    TooMany {
        what: &'static str,
        count: u64,
        limit: u64,
    },
    #[error(
        "{what} at offset {offset} is {n_bytes} bytes long, {limit} are allowed; the file is damaged"
    )]
    TooLong {
        what: &'static str,
        offset: u64,
        n_bytes: u64,
        limit: u64,
    },

    #[error("metadata key at offset {offset} is empty")]
    EmptyKey { offset: u64 },
    #[error("metadata key {key:?} at offset {offset} is not UTF-8 text without control characters")]
    BadKey { key: String, offset: u64 },
    #[error("metadata key {key:?} occurs twice")]
    DuplicateKey { key: String },
    #[error("metadata {key:?} has value type {id}, which does not exist")]
    UnknownValueType { key: String, id: u32 },
    #[error("metadata {key:?} is an array of arrays, which is not supported")]
    NestedArray { key: String },
    #[error("metadata {key:?} holds {value} where a bool must be 0 or 1")]
    BadBool { key: String, value: u8 },
    #[error("metadata {key:?} is not valid UTF-8")]
    NotUtf8 { key: String },
    #[error(
        "metadata {key:?} holds {n_bytes} bytes that do not encode {n_elements} elements of {element}"
    )]
    BadArray {
        key: String,
        element: &'static str,
        n_elements: u64,
        n_bytes: u64,
    },

    #[error("the model lacks the metadata key {key:?}; convert it again with current tools")]
    MissingKey { key: String },
    #[error("metadata {key:?} is {found} where {expected} is expected")]
    WrongType {
        key: String,
        expected: &'static str,
        found: String,
    },
    #[error("metadata {key:?} = {value} is not allowed: it must be {rule}")]
    BadValue {
        key: String,
        value: String,
        rule: String,
    },
    #[error("the architecture {name:?} is not supported; supported are {supported}")]
    UnsupportedArchitecture { name: String, supported: String },
    #[error("metadata {key:?} = {value:?} asks for {feature}, which is not supported")]
    UnsupportedFeature {
        key: String,
        value: String,
        feature: &'static str,
    },
    #[error("part {} of a model split into {count} files; merge them into one first (llama-gguf-split --merge FIRST OUT)", .index.saturating_add(1))]
    SplitFile { index: u64, count: u64 },

    #[error("tensor {index} has no name")]
    EmptyTensorName { index: u64 },
    #[error(
        "tensor {index} has the name {name:?}: names are UTF-8 without control characters, '/' and '\\'"
    )]
    BadTensorName { index: u64, name: String },
    #[error("tensor {name:?} occurs twice")]
    DuplicateTensor { name: String },
    #[error("tensor {name:?} has {n_dims} dimensions, 1 to 4 are allowed")]
    BadDimCount { name: String, n_dims: u64 },
    #[error(
        "tensor {name:?} has dimensions {dims:?}: each must be at least 1 and their product below 2^63"
    )]
    BadDims { name: String, dims: Vec<u64> },
    #[error(
        "tensor {name:?} has type {id}, which was never defined or is no longer in use; convert the model again"
    )]
    UnknownTensorType { name: String, id: u32 },
    #[error(
        "tensor {name:?} has rows of {row} elements, which blocks of {block} ({ty}) do not divide"
    )]
    RowNotBlocks {
        name: String,
        row: u64,
        block: u64,
        ty: &'static str,
    },
    #[error("tensor {name:?} would need more than 2^63 bytes")]
    TensorTooLarge { name: String },
    #[error("tensor {name:?} is at {offset}, which is not a multiple of the alignment {alignment}")]
    Misaligned {
        name: String,
        offset: u64,
        alignment: u64,
    },
    #[error("tensor {name:?} at {offset} overlaps the one before it, which reaches to {expected}")]
    Overlap {
        name: String,
        offset: u64,
        expected: u64,
    },
    #[error(
        "tensor {name:?} is at {offset}, but the one before it ends at {expected}; the file is damaged or was not written in order"
    )]
    Gap {
        name: String,
        offset: u64,
        expected: u64,
    },
    #[error(
        "tensor {name:?} needs {n_bytes} bytes at offset {offset} of a file of {file_bytes} bytes; download it again"
    )]
    OutsideFile {
        name: String,
        offset: u64,
        n_bytes: u64,
        file_bytes: u64,
    },
    #[error("tensor {name:?} was given {given} bytes, its type and dimensions make {expected}")]
    WrongDataLength {
        name: String,
        given: u64,
        expected: u64,
    },
}

/// Longest piece of a name that an error repeats: the longest real key is under 100 bytes.
const MAX_QUOTED_CHARS: usize = 120;

/// A name from the file, fit to be put in an error: invalid UTF-8 replaced, cut when long.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let head = bytes.get(..MAX_QUOTED_CHARS * 4).unwrap_or(bytes);
    let text = String::from_utf8_lossy(head);
    let mut short: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    if short.len() < bytes.len() && text.chars().count() > MAX_QUOTED_CHARS {
        short.push('…');
    }
    short
}
