//! Tensors by name, checked against the shape that the architecture expects.
//!
//! An architecture names its tensors once, in its `load` function, which runs twice: a dry run checks that all of them
//! are there with the right shapes and adds up the bytes they will take, and only then are bytes read and packed.

mod file;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

pub use file::FileSource;

use potluck_kernels::{
    Kernels, Pool, ShapeError, SharedBytes, WeightMatrix, WeightType, dequantize,
};

/// A model that cannot be loaded, and why.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The architecture needs a tensor that the model does not have.
    #[error(
        "the model has no tensor `{0}`; the file is incomplete or of another architecture than it says"
    )]
    MissingTensor(String),
    /// A tensor has other dimensions than the metadata imply.
    #[error(
        "tensor `{name}` is {got} where the model's metadata call for {want}; the file contradicts itself"
    )]
    WrongShape {
        /// Name of the tensor.
        name: String,
        /// Dimensions in the file, rows first.
        got: String,
        /// Dimensions expected, rows first.
        want: String,
    },
    /// There are no kernels for the type of a tensor.
    #[error(
        "tensor `{name}` has type {type_name}, for which there are no kernels yet; supported: {supported}"
    )]
    UnsupportedType {
        /// Name of the tensor.
        name: String,
        /// Its type.
        type_name: String,
        /// Types that would do.
        supported: String,
    },
    /// The matrix cannot be packed.
    #[error("tensor `{name}`: {source}")]
    Pack {
        /// Name of the tensor.
        name: String,
        /// Why.
        source: ShapeError,
    },
    /// The model asks for something the kernels do not do.
    #[error("{0}")]
    Unsupported(String),
    /// The bytes of a tensor could not be had.
    #[error("tensor `{name}` could not be read: {why}")]
    Read {
        /// Name of the tensor.
        name: String,
        /// Why.
        why: String,
    },
    /// A tensor has another number of bytes than its type and dimensions take.
    #[error("tensor `{name}` has {got} bytes, its type and dimensions take {want}")]
    WrongLength {
        /// Name of the tensor.
        name: String,
        /// Bytes there are.
        got: usize,
        /// Bytes expected.
        want: usize,
    },
    /// The stored bytes of a tensor are not those its hash names.
    #[error(
        "tensor `{name}` was damaged on disk and has been removed; load the model again to fetch it anew"
    )]
    Corrupt {
        /// Name of the tensor.
        name: String,
        /// Its hash.
        hash: potluck_proto::ContentHash,
    },
    /// The metadata make no sense.
    #[error(transparent)]
    Metadata(#[from] potluck_gguf::GgufError),
    /// The span does not lie in the model.
    #[error("layers {from}..{to} were asked for, but the model has {n_layers}")]
    BadSpan {
        /// First layer.
        from: u32,
        /// One past the last layer.
        to: u32,
        /// Layers of the model.
        n_layers: u32,
    },
    /// The span needs more memory than this machine may give.
    #[error("{0}")]
    Memory(#[from] crate::memory::DoesNotFit),
}

/// Type and dimensions of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// ggml type id.
    pub type_id: u32,
    /// ne[0] first: the length of a row.
    pub dims: Vec<u64>,
}

/// Where the bytes of tensors come from: a file, or a cache on disk.
pub trait TensorSource {
    /// Type and dimensions of every tensor there is.
    fn specs(&self) -> &HashMap<String, TensorSpec>;
    /// The bytes of a tensor, as in the model file.
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, LoadError>;
    /// The same, to be kept: mapped where that can be done.
    fn share(&self, name: &str) -> Result<SharedBytes, LoadError> {
        Ok(Arc::new(self.read(name)?.into_owned()))
    }
}

/// How weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightStorage {
    /// Copied, in the order in which the kernels read them.
    Packed,
    /// Left in their file where the source can map it, which the system can take back from memory at any time. Many times slower.
    Mapped,
    /// Widened to f32: the path that the others are measured against.
    Reference,
}

enum Pass<'a> {
    /// Check shapes, read nothing.
    Check,
    /// Read and pack, and report the bytes done.
    Load {
        pool: &'a Pool,
        progress: &'a mut dyn FnMut(u64),
    },
}

/// Hands tensors to an architecture's `load` function.
pub(crate) struct Loader<'a> {
    source: &'a dyn TensorSource,
    kernels: Kernels,
    storage: WeightStorage,
    pass: Pass<'a>,
    /// Bytes of the tensors handed out.
    pub loaded_bytes: u64,
    /// Bytes of them that take memory of this process.
    pub held_bytes: u64,
}

impl<'a> Loader<'a> {
    /// The dry run.
    pub fn check(source: &'a dyn TensorSource, kernels: Kernels, storage: WeightStorage) -> Self {
        Loader {
            source,
            kernels,
            storage,
            pass: Pass::Check,
            loaded_bytes: 0,
            held_bytes: 0,
        }
    }

    /// The real one. `progress` is told the bytes so far.
    pub fn load(
        source: &'a dyn TensorSource,
        kernels: Kernels,
        storage: WeightStorage,
        pool: &'a Pool,
        progress: &'a mut dyn FnMut(u64),
    ) -> Self {
        let pass = Pass::Load { pool, progress };
        Loader {
            source,
            kernels,
            storage,
            pass,
            loaded_bytes: 0,
            held_bytes: 0,
        }
    }

    /// Whether the model has a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.source.specs().contains_key(name)
    }

    /// A weight matrix of `n_rows` outputs and `n_cols` inputs. Empty in the dry run.
    pub fn matrix(
        &mut self,
        name: &str,
        n_rows: u32,
        n_cols: u32,
    ) -> Result<WeightMatrix, LoadError> {
        let (n_rows, n_cols) = (n_rows as usize, n_cols as usize);
        let stored = self.checked_type(name, &[n_cols, n_rows])?;
        let held = match self.storage {
            WeightStorage::Packed | WeightStorage::Mapped => stored,
            WeightStorage::Reference => WeightType::F32,
        };
        let pack_error = |source| LoadError::Pack {
            name: name.to_owned(),
            source,
        };
        let n_bytes = self
            .kernels
            .packed_bytes(held, n_rows, n_cols)
            .ok_or_else(|| {
                pack_error(ShapeError::TooLarge {
                    ty: held,
                    n_rows,
                    n_cols,
                })
            })?;
        self.loaded_bytes += n_bytes as u64;
        if self.storage != WeightStorage::Mapped {
            self.held_bytes += n_bytes as u64;
        }
        let Pass::Load { pool, progress } = &mut self.pass else {
            let nothing = self.kernels.pack(&Pool::new(1), held, 0, n_cols, &[]);
            return nothing.map_err(pack_error);
        };
        let pack = |bytes: &[u8]| self.kernels.pack(pool, held, n_rows, n_cols, bytes);
        let matrix = match self.storage {
            WeightStorage::Packed => pack(&self.source.read(name)?),
            WeightStorage::Mapped => {
                let bytes = self.source.share(name)?;
                self.kernels.unpacked(held, n_rows, n_cols, bytes)
            }
            WeightStorage::Reference => {
                let bytes = self.source.read(name)?;
                pack(&widened(stored, n_rows * n_cols, &bytes))
            }
        };
        let matrix = matrix.map_err(pack_error)?;
        progress(self.loaded_bytes);
        Ok(matrix)
    }

    /// A vector of `len` f32: a norm's weight, a bias. Empty in the dry run.
    pub fn vector(&mut self, name: &str, len: u32) -> Result<Vec<f32>, LoadError> {
        let len = len as usize;
        let ty = self.checked_type(name, &[len])?;
        self.loaded_bytes += 4 * len as u64;
        self.held_bytes += 4 * len as u64;
        let Pass::Load { progress, .. } = &mut self.pass else {
            return Ok(Vec::new());
        };
        let bytes = self.source.read(name)?;
        let (got, want) = (bytes.len(), ty.row_bytes(len).unwrap_or(usize::MAX));
        if got != want {
            let name = name.to_owned();
            return Err(LoadError::WrongLength { name, got, want });
        }
        let mut values = vec![0.0; len];
        dequantize(ty, &bytes, &mut values);
        progress(self.loaded_bytes);
        Ok(values)
    }

    /// A vector where the model has it.
    pub fn optional_vector(&mut self, name: &str, len: u32) -> Result<Option<Vec<f32>>, LoadError> {
        self.has(name).then(|| self.vector(name, len)).transpose()
    }

    fn checked_type(&self, name: &str, want: &[usize]) -> Result<WeightType, LoadError> {
        let spec = self
            .source
            .specs()
            .get(name)
            .ok_or_else(|| LoadError::MissingTensor(name.to_owned()))?;
        // Converters leave trailing ones off or on; they mean the same.
        let trimmed = spec
            .dims
            .iter()
            .rposition(|&dim| dim != 1)
            .map_or(0, |last| last + 1);
        let got = &spec.dims[..trimmed.max(want.len().min(spec.dims.len()))];
        if !got.iter().copied().eq(want.iter().map(|&dim| dim as u64)) {
            return Err(LoadError::WrongShape {
                name: name.to_owned(),
                got: rows_first(&spec.dims),
                want: rows_first(&want.iter().map(|&dim| dim as u64).collect::<Vec<_>>()),
            });
        }
        WeightType::from_ggml_id(spec.type_id).ok_or_else(|| LoadError::UnsupportedType {
            name: name.to_owned(),
            type_name: potluck_gguf::TensorType::from_id(spec.type_id).map_or_else(
                || format!("number {}", spec.type_id),
                |ty| ty.name().to_owned(),
            ),
            supported: WeightType::ALL.map(WeightType::name).join(", "),
        })
    }
}

fn rows_first(dims: &[u64]) -> String {
    let dims: Vec<_> = dims.iter().rev().map(u64::to_string).collect();
    dims.join(" x ")
}

/// The f32 bytes of a quantised tensor.
fn widened(ty: WeightType, n_elements: usize, bytes: &[u8]) -> Vec<u8> {
    let mut values = vec![0.0; n_elements];
    dequantize(ty, bytes, &mut values);
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
