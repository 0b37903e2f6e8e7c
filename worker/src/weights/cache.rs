//! A directory of tensors named by their BLAKE3 hash.
//!
//! A tensor appears under its name whole or not at all: it is written to a `.part` file, flushed to disk, and renamed. It is
//! verified whenever it is read; what fails is removed, so that the next load fetches it again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use potluck_proto::ContentHash;

use super::hash_path;

/// A cache that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A stored tensor does not have the hash it is named by.
    #[error(
        "tensor {hash} in the weight cache was damaged and has been removed; it is fetched again on the next load"
    )]
    Corrupt {
        /// Its name.
        hash: ContentHash,
        /// Where it was.
        path: PathBuf,
    },
    /// The disk said no.
    #[error("weight cache {path}: {source}; check that the directory is writable and the disk not full", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A handle on the directory. Processes may share it.
#[derive(Debug, Clone)]
pub struct WeightCache {
    root: PathBuf,
}

impl WeightCache {
    /// Opens the cache in a directory, which is made if need be.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, CacheError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|source| CacheError::Io {
            path: root.clone(),
            source,
        })?;
        Ok(WeightCache { root })
    }

    /// Whether a tensor of that length is there. Its bytes are verified when it is read.
    pub fn has(&self, hash: &ContentHash, n_bytes: u64) -> bool {
        fs::metadata(self.path(hash)).is_ok_and(|meta| meta.is_file() && meta.len() == n_bytes)
    }

    /// The verified bytes of a tensor.
    pub fn read(&self, hash: &ContentHash, n_bytes: u64) -> Result<Vec<u8>, CacheError> {
        let path = self.path(hash);
        let bytes = fs::read(&path).map_err(|source| CacheError::Io {
            path: path.clone(),
            source,
        })?;
        if bytes.len() as u64 != n_bytes || blake3::hash(&bytes).as_bytes() != &hash.0 {
            // Whoever removes it first wins; that it is gone is all that matters.
            let _ = fs::remove_file(&path);
            return Err(CacheError::Corrupt { hash: *hash, path });
        }
        Ok(bytes)
    }

    /// Begins or resumes writing a tensor. None if another process has completed it meanwhile.
    pub(super) fn begin(
        &self,
        hash: &ContentHash,
        n_bytes: u64,
    ) -> Result<Option<PartFile>, CacheError> {
        let path = self.path(hash);
        let part = path.with_extension("part");
        let io_error = |source| CacheError::Io {
            path: part.clone(),
            source,
        };
        fs::create_dir_all(path.parent().unwrap_or(&self.root)).map_err(io_error)?;
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&part)
            .map_err(io_error)?;
        // Another process may be fetching the same tensor: wait for it and look again.
        file.lock().map_err(io_error)?;
        if self.has(hash, n_bytes) {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        let mut len = io::copy(&mut Read::by_ref(&mut file), &mut hasher).map_err(io_error)?;
        if len >= n_bytes && len > 0 {
            file.set_len(0).map_err(io_error)?;
            (hasher, len) = (blake3::Hasher::new(), 0);
        }
        Ok(Some(PartFile {
            file,
            part,
            path,
            hasher,
            len,
        }))
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        hash_path(&self.root, hash)
    }
}

/// A tensor being written.
pub(super) struct PartFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
    hasher: blake3::Hasher,
    len: u64,
}

impl PartFile {
    /// Bytes written so far: where a fetch resumes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        io::Write::write_all(&mut self.file, bytes).map_err(|source| self.io_error(source))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Verifies, flushes and names the tensor. False, and nothing is kept, if the bytes are not what they should be.
    pub fn finish(self, hash: &ContentHash) -> Result<bool, CacheError> {
        if self.hasher.finalize().as_bytes() != &hash.0 {
            fs::remove_file(&self.part).map_err(|source| self.io_error(source))?;
            return Ok(false);
        }
        self.file
            .sync_all()
            .map_err(|source| self.io_error(source))?;
        fs::rename(&self.part, &self.path).map_err(|source| self.io_error(source))?;
        sync_directory(self.path.parent());
        Ok(true)
    }

    fn io_error(&self, source: io::Error) -> CacheError {
        CacheError::Io {
            path: self.part.clone(),
            source,
        }
    }
}

/// Makes a rename survive a power cut where the system can; elsewhere a lost name only costs another fetch.
fn sync_directory(directory: Option<&Path>) {
    if let Some(Ok(directory)) = directory.map(File::open) {
        let _ = directory.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(bytes: &[u8]) -> ContentHash {
        ContentHash(*blake3::hash(bytes).as_bytes())
    }

    #[test]
    fn tensors_appear_whole_resume_and_are_verified() {
        let directory = tempfile::tempdir().unwrap();
        let cache = WeightCache::open(directory.path().join("weights")).unwrap();
        let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let (hash, n_bytes) = (hash_of(&bytes), bytes.len() as u64);

        let mut part = cache.begin(&hash, n_bytes).unwrap().unwrap();
        part.append(&bytes[..4000]).unwrap();
        drop(part);
        assert!(!cache.has(&hash, n_bytes), "half a tensor is none");

        let mut part = cache.begin(&hash, n_bytes).unwrap().unwrap();
        assert_eq!(part.len(), 4000, "it goes on where it stopped");
        part.append(&bytes[4000..]).unwrap();
        assert!(part.finish(&hash).unwrap());
        assert_eq!(cache.read(&hash, n_bytes).unwrap(), bytes);
        assert!(
            cache.begin(&hash, n_bytes).unwrap().is_none(),
            "nothing left to do"
        );
    }

    #[test]
    fn damage_is_found_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = WeightCache::open(directory.path()).unwrap();
        let hash = hash_of(b"tensor");
        let mut part = cache.begin(&hash, 6).unwrap().unwrap();
        part.append(b"tenser").unwrap();
        assert!(!part.finish(&hash).unwrap(), "wrong bytes get no name");

        let mut part = cache.begin(&hash, 6).unwrap().unwrap();
        part.append(b"tensor").unwrap();
        assert!(part.finish(&hash).unwrap());
        fs::write(cache.path(&hash), b"tensoR").unwrap();
        assert!(matches!(
            cache.read(&hash, 6),
            Err(CacheError::Corrupt { .. })
        ));
        assert!(!cache.has(&hash, 6));
    }
}
