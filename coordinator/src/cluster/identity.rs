//! Which cluster this is, and how often its coordinator has started. The count is stored before it is used, so that a
//! message of an earlier life can be told from one of this.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use potluck_proto::{ClusterId, Epoch};
use serde::{Deserialize, Serialize};

/// Name of the file in the state directory.
const FILE_NAME: &str = "cluster.json";

/// Name of the file that a running coordinator holds locked.
const LOCK_NAME: &str = "cluster.lock";

/// A cluster and the life of its coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Random, made at the first start.
    pub cluster: ClusterId,
    /// Starts so far, this one included.
    pub epoch: Epoch,
}

/// Keeps other coordinators of the same cluster from starting. Ends with the process, however that ends.
#[derive(Debug)]
pub struct IdentityLock {
    _file: fs::File,
}

/// The state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read or written.
    #[error("cannot keep the cluster's state in {path}: {source}; set POTLUCK_STATE to a folder that can be written", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another coordinator uses it.
    #[error(
        "another coordinator of this cluster is running on this machine; stop it, or set POTLUCK_STATE to another folder"
    )]
    InUse,
    /// It is not what was written.
    #[error("{path} is damaged ({why}); move it away to begin a new cluster", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    cluster_id: String,
    epoch: u64,
}

impl Identity {
    /// A cluster that lives as long as this process.
    pub fn ephemeral() -> Identity {
        Identity {
            cluster: ClusterId::random(),
            epoch: Epoch(1),
        }
    }

    /// The cluster of a state directory, one start later.
    pub fn next_start(directory: &Path) -> Result<(Identity, IdentityLock), IdentityError> {
        let path = directory.join(FILE_NAME);
        let io_error = |source| IdentityError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(directory).map_err(io_error)?;
        let lock = fs::File::create(directory.join(LOCK_NAME)).map_err(io_error)?;
        lock.try_lock().map_err(|err| match err {
            fs::TryLockError::WouldBlock => IdentityError::InUse,
            fs::TryLockError::Error(source) => io_error(source),
        })?;
        let identity = match fs::read(&path) {
            Ok(bytes) => read(&path, &bytes)?,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Identity::ephemeral(),
            Err(err) => return Err(io_error(err)),
        };
        write(directory, &path, &identity).map_err(io_error)?;
        Ok((identity, IdentityLock { _file: lock }))
    }
}

fn read(path: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
    let damaged = |why: String| IdentityError::Damaged {
        path: path.to_owned(),
        why,
    };
    let stored: Stored = serde_json::from_slice(bytes).map_err(|err| damaged(err.to_string()))?;
    let id =
        u128::from_str_radix(&stored.cluster_id, 16).map_err(|err| damaged(err.to_string()))?;
    Ok(Identity {
        cluster: ClusterId(id.to_be_bytes()),
        epoch: Epoch(stored.epoch.saturating_add(1)),
    })
}

/// Whole or not at all: written beside, flushed, renamed.
fn write(directory: &Path, path: &Path, identity: &Identity) -> std::io::Result<()> {
    let cluster_id = format!("{:032x}", u128::from_be_bytes(identity.cluster.0));
    let stored = Stored {
        cluster_id,
        epoch: identity.epoch.0,
    };
    let temporary = directory.join(format!("{FILE_NAME}.{}", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // Where a directory can be flushed, the new name survives a power cut.
    if let Ok(directory) = fs::File::open(directory) {
        let _ = directory.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (first, lock) = Identity::next_start(directory.path()).unwrap();
        let beside = Identity::next_start(directory.path());
        assert!(matches!(beside, Err(IdentityError::InUse)), "one at a time");
        drop(lock);
        let (second, _lock) = Identity::next_start(directory.path()).unwrap();
        assert_eq!(first.cluster, second.cluster);
        assert_eq!((first.epoch, second.epoch), (Epoch(1), Epoch(2)));
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        fs::write(&path, b"{").unwrap();
        let error = Identity::next_start(directory.path()).unwrap_err();
        assert!(error.to_string().contains(FILE_NAME), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"{");
    }
}
