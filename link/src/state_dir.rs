//! A folder of small secret files: only its owner may read it, and every file is there whole or not at all.
//!
//! Several processes may use it: a running coordinator and a command that makes an invite. Changes happen under a lock, and
//! whoever only reads sees a file before or after a change, never during one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of one file: thousands of nodes or keys.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// State that cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk said no.
    #[error("cannot keep potluck's state in {path}: {source}; set POTLUCK_STATE to a folder that can be written", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read what is secret.
    #[error(
        "{path} can be read by other users of this machine (mode {mode:03o}), and it holds secret keys; run `chmod {wanted:03o} {path}`. If somebody may have \
         read it, make a new cluster instead",
        path = path.display()
    )]
    TooOpen {
        /// The file or folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It is not what was written.
    #[error("{path} is damaged ({why}); restore it from a copy, or move it away to begin anew", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The folder.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

/// Which version of a file was seen: two stamps differ if the file has been replaced between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    n_bytes: u64,
    #[cfg(unix)]
    inode: u64,
}

impl StateDir {
    /// Opens a folder, which is made if need be. One that others may look into is refused.
    pub fn open(root: impl Into<PathBuf>) -> Result<StateDir, StateError> {
        let root = root.into();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&root)
            .map_err(|source| io_error(&root, source))?;
        let metadata = fs::metadata(&root).map_err(|source| io_error(&root, source))?;
        check_mode(&root, &metadata, 0o700)?;
        Ok(StateDir { root })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What a file holds. None if there is none.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.root.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error(&path, source)),
        };
        let metadata = file.metadata().map_err(|source| io_error(&path, source))?;
        check_mode(&path, &metadata, 0o600)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE_BYTES), &mut bytes)
            .map_err(|source| io_error(&path, source))?;
        let value = serde_json::from_slice(&bytes).map_err(|err| StateError::Damaged {
            path,
            why: err.to_string(),
        })?;
        Ok(Some(value))
    }

    /// Replaces a file.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let _lock = self.lock(name)?;
        self.replace(name, value)
    }

    /// Changes a file while no other process does. A file that is not there begins as the default; if `change` fails nothing
    /// is written.
    pub fn update<T, R, E>(
        &self,
        name: &str,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E>
    where
        T: Serialize + DeserializeOwned + Default,
        E: From<StateError>,
    {
        let _lock = self.lock(name)?;
        let mut value = self.read(name)?.unwrap_or_default();
        let result = change(&mut value)?;
        self.replace(name, &value)?;
        Ok(result)
    }

    /// What a file holds, or what `make` makes of it now: of several processes that come at the same time one makes it.
    pub fn read_or_create<T, E>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<StateError>,
    {
        let _lock = self.lock(name)?;
        if let Some(held) = self.read(name)? {
            return Ok(held);
        }
        let made = make()?;
        self.replace(name, &made)?;
        Ok(made)
    }

    /// Which version of a file is there now. None if there is none.
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        let metadata = fs::metadata(self.root.join(name)).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            n_bytes: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        })
    }

    /// Held until it is dropped; ends with the process, however that ends.
    fn lock(&self, name: &str) -> Result<File, StateError> {
        let path = self.root.join(format!("{name}.lock"));
        let lock = secret_file(&path).map_err(|source| io_error(&path, source))?;
        lock.lock().map_err(|source| io_error(&path, source))?;
        Ok(lock)
    }

    /// Replaces a file that is locked.
    fn replace<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.root.join(name);
        self.replace_at(&path, value)
            .map_err(|source| io_error(&path, source))
    }

    /// Whole or not at all: written beside, flushed, renamed.
    fn replace_at<T: Serialize>(&self, path: &Path, value: &T) -> io::Result<()> {
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = secret_file(&temporary)?;
        file.set_len(0)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // Where a directory can be flushed, the new name survives a power cut.
        if let Ok(directory) = File::open(&self.root) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

/// A file that only its owner can read.
fn secret_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), StateError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    match mode & !wanted {
        0 => Ok(()),
        _ => Err(StateError::TooOpen {
            path: path.to_owned(),
            mode,
            wanted,
        }),
    }
}

/// Elsewhere a user's own folders are closed to others by the system's default.
#[cfg(not(unix))]
fn check_mode(_: &Path, _: &fs::Metadata, _: u32) -> Result<(), StateError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_they_were_written_and_changes_do_not_get_lost() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("home")).unwrap();
        assert_eq!(state.read::<Vec<u32>>("list.json").unwrap(), None);
        std::thread::scope(|scope| {
            for i in 0..8 {
                let state = state.clone();
                scope.spawn(move || {
                    let push = |list: &mut Vec<u32>| {
                        list.push(i);
                        Ok::<_, StateError>(())
                    };
                    state.update("list.json", push).unwrap();
                });
            }
        });
        let mut list: Vec<u32> = state.read("list.json").unwrap().unwrap();
        list.sort_unstable();
        assert_eq!(list, (0..8).collect::<Vec<_>>());
        let before = state.stamp("list.json");
        state.write("list.json", &[9]).unwrap();
        assert_ne!(before, state.stamp("list.json"));
    }

    #[test]
    fn damage_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("home")).unwrap();
        state.write("list.json", &[1, 2]).unwrap();
        let path = state.path().join("list.json");
        fs::write(&path, "[1,").unwrap();
        let error = state.read::<Vec<u32>>("list.json").unwrap_err();
        assert!(error.to_string().contains("list.json"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"[1,");
    }

    #[cfg(unix)]
    #[test]
    fn what_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("home");
        let state = StateDir::open(&root).unwrap();
        state.write("key.json", &1).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let key = root.join("key.json");
        assert_eq!((mode(&root), mode(&key)), (0o700, 0o600));

        fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let error = state.read::<u32>("key.json").unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        fs::set_permissions(&root, PermissionsExt::from_mode(0o750)).unwrap();
        let error = StateDir::open(&root).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }
}
