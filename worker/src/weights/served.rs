//! The cached tensors, as the Weights service hands them out: each is verified once a process before it goes to others.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use potluck_link::weights::{StoredBytes, TensorStore};
use potluck_proto::ContentHash;
use tonic::Status;

use super::cache::{CacheError, TensorFile, WeightCache};

/// The tensors of a cache.
#[derive(Debug)]
pub struct CacheTensors {
    cache: WeightCache,
    /// Whether a tensor was found to be whole. Locked while that is found out: many ask for pieces of the same tensor at once.
    verified: Mutex<HashMap<ContentHash, Arc<Mutex<bool>>>>,
}

/// A tensor in the cache.
#[derive(Debug)]
pub struct CacheTensor(Mutex<TensorFile>);

impl CacheTensors {
    /// All tensors that are there now or come later.
    pub fn new(cache: WeightCache) -> CacheTensors {
        CacheTensors {
            cache,
            verified: Mutex::default(),
        }
    }

    /// Whether a tensor is what its name says. If not, it is gone.
    fn is_whole(&self, tensor: &TensorFile, hash: &ContentHash) -> Result<bool, CacheError> {
        let mark = {
            let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(verified.entry(*hash).or_default())
        };
        let mut is_whole = mark.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_whole {
            match tensor.verify() {
                Ok(()) => *is_whole = true,
                Err(error @ CacheError::Corrupt { .. }) => {
                    tracing::warn!(%error, "a cached tensor that another node asked for was damaged");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(*is_whole)
    }
}

impl TensorStore for CacheTensors {
    type Tensor = CacheTensor;

    fn has(&self, hash: &ContentHash) -> bool {
        self.cache.has_any(hash)
    }

    fn find(&self, hash: &ContentHash) -> Result<Option<CacheTensor>, Status> {
        let Some(tensor) = self.cache.open_tensor(hash).map_err(unreadable)? else {
            return Ok(None);
        };
        let is_whole = self.is_whole(&tensor, hash).map_err(unreadable)?;
        Ok(is_whole.then(|| CacheTensor(Mutex::new(tensor))))
    }
}

impl StoredBytes for CacheTensor {
    fn n_bytes(&self) -> u64 {
        self.file().n_bytes()
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, Status> {
        let bytes = self.file().read(range).map_err(unreadable)?;
        Ok(bytes.into())
    }
}

impl CacheTensor {
    fn file(&self) -> std::sync::MutexGuard<'_, TensorFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreadable(error: CacheError) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_tensor_is_not_handed_on_and_a_new_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let cache = WeightCache::open(folder.path()).unwrap();
        let tensors = CacheTensors::new(cache.clone());
        let hash = ContentHash(*blake3::hash(b"tensor").as_bytes());
        let store = || {
            let mut part = cache.begin(&hash, 6).unwrap().unwrap();
            part.append(b"tensor").unwrap();
            assert!(part.finish(&hash).unwrap());
        };
        assert!(tensors.find(&hash).unwrap().is_none(), "not there yet");
        store();
        std::fs::write(super::super::hash_path(folder.path(), &hash), b"tensoR").unwrap();
        assert!(tensors.has(&hash));
        assert!(tensors.find(&hash).unwrap().is_none(), "damaged");
        assert!(!tensors.has(&hash), "and gone");
        store();
        let tensor = tensors.find(&hash).unwrap().unwrap();
        assert_eq!(tensor.n_bytes(), 6);
        assert_eq!(tensor.read(2..5).unwrap(), "nso");
    }
}
