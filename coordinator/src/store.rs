//! The model store: an opened model file, what it says about itself, and its tensors by content.
//!
//! [`Model::open`] maps a file, checks it, and knows every tensor's BLAKE3 hash, from the cache when the file is the one that
//! was hashed before. From then on a manifest for any span of layers and the costs for the planner are only look-ups.
//! [`ModelTensors`] gives the bytes to workers. Nothing here computes on a tensor or knows how one is encoded.

mod cost;
mod error;
mod file_stamp;
mod hash;
mod hash_cache;
mod manifest;
mod service;
mod table;

use std::ops::Range;
use std::path::{Path, PathBuf};

use potluck_gguf::{Gguf, Mapped, MetadataBuf, ModelShape};
use potluck_proto::{ContentHash, KvCacheType, Manifest, MetadataValue};

pub use error::StoreError;
pub use hash::HashProgress;
pub use service::ModelTensors;
pub use table::StoredTensor;

use crate::planner::ModelCost;
use file_stamp::Watched;
use table::TensorTable;

/// A model file that is open, checked and hashed. Cheap to ask, shared by `Arc`.
///
/// The file stays mapped for as long as this lives. Replace a model by renaming a new file over it: the old content goes on
/// being served. A file that is cut short in place while somebody reads it ends the process; [`Model::check_unchanged`] is
/// asked before every read and makes that unlikely, no more than that.
#[derive(Debug)]
pub struct Model {
    mapped: Mapped,
    watched: Watched,
    name: String,
    shape: ModelShape,
    metadata: Vec<(String, MetadataValue)>,
    table: TensorTable,
    model_hash: ContentHash,
}

impl Model {
    /// Opens the file at `path`. Hashing a file that is not known in `cache_dir` reads all of it with every core, and
    /// `progress` is called on the way; call this from a thread that may block.
    pub fn open(
        path: &Path,
        cache_dir: &Path,
        mut progress: impl FnMut(HashProgress),
    ) -> Result<Model, StoreError> {
        let watched = Watched::open(path)?;
        let mapped = Mapped::open(path)?;
        watched.check_unchanged()?;
        let gguf = Gguf::parse(mapped.bytes())?;
        let shape = ModelShape::from_metadata(gguf.metadata())?;
        let unhashed = table::unhashed(&gguf, &shape)?;
        let carried = MetadataBuf::from_metadata(gguf.metadata());
        let metadata = manifest::metadata_values(carried)?;
        let name = name_of(&gguf, path);

        let hashes = match hash_cache::load(cache_dir, &watched, &unhashed) {
            Some(hashes) => hashes,
            None => {
                let hashes = hash::all(mapped.bytes(), &unhashed, &mut progress);
                watched.check_unchanged()?;
                hash_cache::store(cache_dir, &watched, &unhashed, &hashes);
                hashes
            }
        };
        let table = TensorTable::new(unhashed, hashes);
        let model_hash = manifest::model_hash(&metadata, table.tensors());
        Ok(Model {
            mapped,
            watched,
            name,
            shape,
            metadata,
            table,
            model_hash,
        })
    }

    /// `general.name`, or the file's name without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path it was opened at, made absolute.
    pub fn path(&self) -> &Path {
        self.watched.path()
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.mapped.bytes().len() as u64
    }

    /// Sizes and constants of the model.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// BLAKE3 over the metadata without the vocabulary and over the table of all tensors.
    pub fn model_hash(&self) -> ContentHash {
        self.model_hash
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[StoredTensor] {
        self.table.tensors()
    }

    /// Whether a tensor of that name is in the file.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors().iter().any(|tensor| tensor.name() == name)
    }

    /// The file read again, for what is not kept here: tokenizer, templates.
    pub fn gguf(&self) -> Result<Gguf<'_>, StoreError> {
        self.check_unchanged()?;
        Ok(Gguf::parse(self.mapped.bytes())?)
    }

    /// What a worker must know and fetch to run `layers`.
    pub fn manifest_for(&self, layers: Range<u32>) -> Result<Manifest, StoreError> {
        let n_layers = self.shape.n_layers;
        if layers.is_empty() || layers.end > n_layers {
            return Err(StoreError::NoSuchSpan {
                from: layers.start,
                to: layers.end,
                n_layers,
            });
        }
        Ok(Manifest {
            name: self.name.clone(),
            model_hash: self.model_hash,
            metadata: self.metadata.clone(),
            tensors: self.table.span(&layers, n_layers),
        })
    }

    /// What the model costs with a KV cache of this type, for the planner.
    pub fn cost(&self, kv_cache: KvCacheType) -> ModelCost {
        cost::of_model(&self.name, &self.shape, &self.table, kv_cache)
    }

    /// Refuses when the file was written to or cut short since it was opened.
    pub fn check_unchanged(&self) -> Result<(), StoreError> {
        self.watched.check_unchanged()
    }

    /// Bytes of the file in `range`, `None` beyond its end.
    fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        self.mapped.bytes().get(range)
    }
}

/// Longest name that is shown and sent: some converters write a sentence.
const MAX_NAME_CHARS: usize = 80;

fn name_of(gguf: &Gguf<'_>, path: &Path) -> String {
    let stated = gguf.metadata().str("general.name").ok().flatten();
    let stem = path.file_stem().map(PathBuf::from).unwrap_or_default();
    let name = match stated.map(str::trim) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => stem.to_string_lossy().into_owned(),
    };
    let visible = name.chars().filter(|c| !c.is_control());
    visible.take(MAX_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests;
