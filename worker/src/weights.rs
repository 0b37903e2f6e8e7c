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

impl TensorSource for CachedSource {
    fn specs(&self) -> &HashMap<String, TensorSpec> {
        &self.specs
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, LoadError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| LoadError::MissingTensor(name.to_owned()))?;
        let bytes = self.cache.read(&tensor.hash, tensor.n_bytes);
        bytes.map(Cow::Owned).map_err(|err| match err {
            CacheError::Corrupt { hash, .. } => LoadError::Corrupt {
                name: name.to_owned(),
                hash,
            },
            err => LoadError::Read {
                name: name.to_owned(),
                why: err.to_string(),
            },
        })
    }
}

/// Where a tensor lies in the cache directory: two levels, so that no directory grows too long.
fn hash_path(root: &std::path::Path, hash: &ContentHash) -> PathBuf {
    let hex = hash.to_string();
    root.join(&hex[..2]).join(hex)
}
