//! The tensors of a span on this machine's disk: what is missing is fetched by hash, what is there is verified, and handed on
//! to others.
//!
//! Read `fetch.rs` (one fetch), then `pieces.rs` (who fetches what next); `served.rs` is the other end.

mod arriving;
mod cache;
mod fetch;
mod outcome;
mod pieces;
mod served;
mod sources;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use potluck_kernels::SharedBytes;
use potluck_proto::{ContentHash, Manifest, ManifestTensor};

use crate::load::{LoadError, TensorSource, TensorSpec};

pub use cache::{CacheError, WeightCache};
pub use fetch::fetch_missing;
pub use outcome::{Damage, Report};
pub use served::CacheTensors;

/// The tensors of a manifest, read from the cache.
pub struct CachedSource {
    cache: WeightCache,
    specs: HashMap<String, TensorSpec>,
    tensors: HashMap<String, ManifestTensor>,
}

impl CachedSource {
    /// All tensors of a manifest.
    pub fn new(cache: WeightCache, manifest: &Manifest) -> Self {
        let spec = |tensor: &ManifestTensor| TensorSpec {
            type_id: tensor.type_id,
            dims: tensor.dims.clone(),
        };
        CachedSource {
            cache,
            specs: manifest
                .tensors
                .iter()
                .map(|t| (t.name.clone(), spec(t)))
                .collect(),
            tensors: manifest
                .tensors
                .iter()
                .map(|t| (t.name.clone(), t.clone()))
                .collect(),
        }
    }
}

impl CachedSource {
    fn tensor(&self, name: &str) -> Result<&ManifestTensor, LoadError> {
        let tensor = self.tensors.get(name);
        tensor.ok_or_else(|| LoadError::MissingTensor(name.to_owned()))
    }
}

impl TensorSource for CachedSource {
    fn specs(&self) -> &HashMap<String, TensorSpec> {
        &self.specs
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, LoadError> {
        let tensor = self.tensor(name)?;
        let bytes = self.cache.read(&tensor.hash, tensor.n_bytes);
        bytes.map(Cow::Owned).map_err(|err| load_error(name, err))
    }

    fn share(&self, name: &str) -> Result<SharedBytes, LoadError> {
        let tensor = self.tensor(name)?;
        match self.cache.map(&tensor.hash, tensor.n_bytes) {
            Ok(mapped) => Ok(Arc::new(mapped)),
            Err(err) => Err(load_error(name, err)),
        }
    }
}

fn load_error(name: &str, err: CacheError) -> LoadError {
    let name = name.to_owned();
    match err {
        CacheError::Corrupt { hash, .. } => LoadError::Corrupt { name, hash },
        err => LoadError::Read {
            name,
            why: err.to_string(),
        },
    }
}

/// Where a tensor lies in the cache directory: two levels, so that no directory grows too long.
fn hash_path(root: &std::path::Path, hash: &ContentHash) -> PathBuf {
    let hex = hash.to_string();
    root.join(&hex[..2]).join(hex)
}
