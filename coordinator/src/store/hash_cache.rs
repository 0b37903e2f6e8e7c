//! Hashes of a file that was hashed before, so that a second start reads nothing.
//!
//! One small file per model under `manifests/`. It is only a memory: whatever is odd about it means hashing again, and a wrong
//! hash in it cannot do harm, because workers check what they fetch.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use potluck_proto::ContentHash;
use serde::{Deserialize, Serialize};

use super::file_stamp::{FileStamp, Watched};
use super::table::Unhashed;

/// Raised when the meaning of the file changes.
const VERSION: u32 = 1;

/// Most bytes read back: the table of a model with the most tensors allowed, names and all.
const MAX_CACHE_FILE_BYTES: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    version: u32,
    path: PathBuf,
    stamp: FileStamp,
    tensors: Vec<RememberedTensor>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RememberedTensor {
    name: String,
    offset: u64,
    n_bytes: u64,
    hash: String,
}

/// The hashes of `tensors` of this very file, when they are known.
pub(super) fn load(
    cache_dir: &Path,
    file: &Watched,
    tensors: &[Unhashed],
) -> Option<Vec<ContentHash>> {
    let mut text = Vec::new();
    let opened = fs::File::open(path_in(cache_dir, file)).ok()?;
    opened
        .take(MAX_CACHE_FILE_BYTES)
        .read_to_end(&mut text)
        .ok()?;
    let remembered: Remembered = serde_json::from_slice(&text).ok()?;
    let same_file = remembered.version == VERSION
        && remembered.path == file.path()
        && remembered.stamp == file.stamp()
        && remembered.tensors.len() == tensors.len();
    if !same_file {
        return None;
    }
    let pairs = remembered.tensors.iter().zip(tensors);
    pairs
        .map(|(known, tensor)| {
            let same_tensor = known.name == tensor.name
                && known.offset == tensor.range.start as u64
                && known.n_bytes == tensor.range.len() as u64;
            let hash = blake3::Hash::from_hex(&known.hash).ok()?;
            same_tensor.then(|| ContentHash(hash.into()))
        })
        .collect()
}

/// Remembers the hashes. A cache that cannot be written costs time at the next start, nothing else.
pub(super) fn store(
    cache_dir: &Path,
    file: &Watched,
    tensors: &[Unhashed],
    hashes: &[ContentHash],
) {
    let remembered = Remembered {
        version: VERSION,
        path: file.path().to_owned(),
        stamp: file.stamp(),
        tensors: tensors
            .iter()
            .zip(hashes)
            .map(|(tensor, hash)| RememberedTensor {
                name: tensor.name.clone(),
                offset: tensor.range.start as u64,
                n_bytes: tensor.range.len() as u64,
                hash: hash.to_string(),
            })
            .collect(),
    };
    let path = path_in(cache_dir, file);
    if let Err(error) = write(&path, &remembered) {
        tracing::warn!(?path, %error, "cannot remember the hashes of this model");
    }
}

/// Written beside its place and renamed, so that a reader sees all of it or nothing.
fn write(path: &Path, remembered: &Remembered) -> std::io::Result<()> {
    let text = serde_json::to_vec(remembered)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// One file per path, so that a model which is replaced does not leave the hashes of the old one behind.
fn path_in(cache_dir: &Path, file: &Watched) -> PathBuf {
    let key = blake3::hash(file.path().as_os_str().as_encoded_bytes()).to_hex();
    cache_dir
        .join("manifests")
        .join(format!("{}.json", key.get(..32).unwrap_or_default()))
}
