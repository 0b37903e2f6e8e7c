//! A directory of tensors named by their BLAKE3 hash.
//!
//! A tensor appears under its name whole or not at all: it is written to a `.part` file, flushed to disk, and renamed. It is
//! verified whenever it is read; what fails is removed, so that the next load fetches it again.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use potluck_gguf::Mapped;
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
        verify(&bytes, hash, n_bytes, &path)?;
        Ok(bytes)
    }

    /// The verified bytes of a tensor, left in the file. Nothing writes to a tensor that has its name, and one that is removed stays
    /// as long as it is mapped.
    pub fn map(&self, hash: &ContentHash, n_bytes: u64) -> Result<Mapped, CacheError> {
        let path = self.path(hash);
        let mapped = Mapped::open(&path).map_err(|err| CacheError::Io {
            path: path.clone(),
            source: io::Error::other(err),
        })?;
        verify(mapped.bytes(), hash, n_bytes, &path)?;
        Ok(mapped)
    }

    /// Whether a tensor of any length is there.
    pub(super) fn has_any(&self, hash: &ContentHash) -> bool {
        self.path(hash).is_file()
    }

    /// A tensor as it is on the disk, if it is there.
    pub(super) fn open_tensor(&self, hash: &ContentHash) -> Result<Option<TensorFile>, CacheError> {
        let path = self.path(hash);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CacheError::Io { path, source }),
        };
        match file.metadata() {
            Ok(metadata) => Ok(Some(TensorFile {
                n_bytes: metadata.len(),
                hash: *hash,
                file,
                path,
            })),
            Err(source) => Err(CacheError::Io { path, source }),
        }
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
        let len = io::copy(&mut Read::by_ref(&mut file), &mut hasher).map_err(io_error)?;
        let mut part = PartFile {
            file,
            part,
            path,
            hasher,
            len,
        };
        if len >= n_bytes && len > 0 {
            part.clear()?;
        }
        Ok(Some(part))
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        hash_path(&self.root, hash)
    }
}

/// Removes a tensor whose bytes are not those of its name.
fn verify(bytes: &[u8], hash: &ContentHash, n_bytes: u64, path: &Path) -> Result<(), CacheError> {
    if bytes.len() as u64 == n_bytes && blake3::hash(bytes).as_bytes() == &hash.0 {
        return Ok(());
    }
    // Whoever removes it first wins; that it is gone is all that matters.
    let _ = fs::remove_file(path);
    Err(CacheError::Corrupt {
        hash: *hash,
        path: path.to_owned(),
    })
}

/// A tensor that is open for reading. One reader at a time: they share a position in the file.
#[derive(Debug)]
pub(super) struct TensorFile {
    file: File,
    path: PathBuf,
    hash: ContentHash,
    n_bytes: u64,
}

impl TensorFile {
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// The bytes of a range, which must be short: frames and pieces are.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>, CacheError> {
        let mut file = &self.file;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.seek(SeekFrom::Start(range.start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| self.io_error(source))?;
        Ok(bytes)
    }

    /// Reads all of it. A tensor that is not what its name says is removed.
    pub fn verify(&self) -> Result<(), CacheError> {
        let mut hasher = blake3::Hasher::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| io::copy(&mut file, &mut hasher))
            .map_err(|source| self.io_error(source))?;
        if hasher.finalize().as_bytes() == &self.hash.0 {
            return Ok(());
        }
        // Whoever removes it first wins; that it is gone is all that matters.
        let _ = fs::remove_file(&self.path);
        Err(CacheError::Corrupt {
            hash: self.hash,
            path: self.path.clone(),
        })
    }

    fn io_error(&self, source: io::Error) -> CacheError {
        CacheError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// A tensor being written.
#[derive(Debug)]
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

    /// Throws away what is there.
    pub fn clear(&mut self) -> Result<(), CacheError> {
        self.file
            .set_len(0)
            .map_err(|source| self.io_error(source))?;
        (self.hasher, self.len) = (blake3::Hasher::new(), 0);
        Ok(())
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

    #[test]
    fn no_flipped_bit_is_ever_taken_for_the_tensor() {
        const SEED: u64 = 0x5eed;
        let directory = tempfile::tempdir().unwrap();
        let cache = WeightCache::open(directory.path()).unwrap();
        let mut state = SEED;
        let mut random = move |below: usize| {
            // Constants of Knuth's MMIX generator; its high bits are good enough here.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let good: Vec<u8> = (0..5000).map(|_| random(256) as u8).collect();
        let (hash, n_bytes) = (hash_of(&good), good.len() as u64);
        for flip in 0..1000 {
            let bit = random(8 * good.len());
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let what = format!("flip {flip} of bit {bit}, seed {SEED:#x}");

            let mut part = cache.begin(&hash, n_bytes).unwrap().unwrap();
            let cut = random(good.len());
            part.append(&bytes[..cut]).unwrap();
            part.append(&bytes[cut..]).unwrap();
            assert!(!part.finish(&hash).unwrap(), "on the way: {what}");

            fs::write(cache.path(&hash), &bytes).unwrap();
            let found = match flip % 2 {
                0 => cache.read(&hash, n_bytes).map(drop),
                _ => cache.open_tensor(&hash).unwrap().unwrap().verify(),
            };
            assert!(matches!(found, Err(CacheError::Corrupt { .. })), "{what}");
            assert!(!cache.has_any(&hash), "it is gone: {what}");
        }
    }
}
