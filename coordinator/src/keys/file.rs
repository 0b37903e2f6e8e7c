//! The keys of a cluster as they are kept: added, listed, removed. A running server sees each change; see `watch`.

use potluck_link::state_dir::{Stamp, StateDir, StateError};
use serde::{Deserialize, Serialize};

use super::secret::{self, NoRandomness, Secret, SecretHash};
use super::unix_now;

/// Name of the file in a cluster's folder.
const FILE_NAME: &str = "keys.json";

/// Keys of a cluster: a hundred teams of ten. A check looks through them all.
const MAX_KEYS: usize = 1000;

/// Characters of a name, which appears in lists and sentences.
const MAX_NAME_CHARS: usize = 64;

/// A key that cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// No secret could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The name says nothing, or more than fits.
    #[error(
        "`{name}` cannot be the name of a key; use up to {MAX_NAME_CHARS} letters, digits and any of . _ - @"
    )]
    BadName {
        /// What was asked for.
        name: String,
    },
    /// A key has this name already.
    #[error(
        "there is a key named `{name}` already, and a key is shown only once; remove it with `potluck keys rm {name}` first, or \
         choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The file is full.
    #[error("there are {MAX_KEYS} keys already; remove some with `potluck keys rm NAME`")]
    TooMany,
    /// No key has this name or id.
    #[error("there is no key named `{asked}`; {}", known_names(known))]
    Unknown {
        /// What was asked for.
        asked: String,
        /// The names that there are.
        known: Vec<String>,
    },
}

fn known_names(known: &[String]) -> String {
    match known {
        [] => "there are no keys at all".to_owned(),
        names => format!("the keys are {}", names.join(", ")),
    }
}

/// What is kept of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyRecord {
    /// By which it is found; part of the key's text.
    pub id: String,
    /// Who or what it is for.
    pub name: String,
    pub(super) sha256: SecretHash,
    /// Unix time in seconds.
    pub created: u64,
    /// Unix time in seconds from which on it is refused.
    pub expires: Option<u64>,
}

/// A key that was just made.
pub struct NewKey {
    /// What is kept.
    pub record: KeyRecord,
    /// What its holder sends. It cannot be had a second time.
    pub text: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    keys: Vec<KeyRecord>,
}

/// Where the keys of a cluster are kept.
#[derive(Debug, Clone)]
pub struct KeyFile {
    dir: StateDir,
}

impl KeyFile {
    /// The keys in a cluster's folder.
    pub fn new(dir: StateDir) -> KeyFile {
        KeyFile { dir }
    }

    /// Makes a key.
    pub fn add(&self, name: &str, expires: Option<u64>) -> Result<NewKey, KeyFileError> {
        check_name(name)?;
        let secret = Secret::random()?;
        self.dir.update(FILE_NAME, |stored: &mut Stored| {
            let record = KeyRecord {
                id: unused_id(&stored.keys)?,
                name: name.to_owned(),
                sha256: secret.hash(),
                created: unix_now(),
                expires,
            };
            let text = secret::key_text(&record.id, &secret);
            insert(&mut stored.keys, record.clone())?;
            Ok(NewKey { record, text })
        })
    }

    /// All keys, in the order in which they were made.
    pub fn list(&self) -> Result<Vec<KeyRecord>, StateError> {
        Ok(self.read()?.unwrap_or_default())
    }

    /// Removes the key with this name or, if none has it, with this id.
    pub fn remove(&self, name_or_id: &str) -> Result<KeyRecord, KeyFileError> {
        self.dir.update(FILE_NAME, |stored: &mut Stored| {
            let keys = &mut stored.keys;
            let place = keys
                .iter()
                .position(|key| key.name == name_or_id)
                .or_else(|| keys.iter().position(|key| key.id == name_or_id));
            place.map(|place| keys.remove(place)).ok_or_else(|| {
                let known = keys.iter().map(|key| key.name.clone()).collect();
                KeyFileError::Unknown {
                    asked: name_or_id.to_owned(),
                    known,
                }
            })
        })
    }

    /// The keys, or None if none was ever made.
    pub(super) fn read(&self) -> Result<Option<Vec<KeyRecord>>, StateError> {
        let stored: Option<Stored> = self.dir.read(FILE_NAME)?;
        Ok(stored.map(|stored| stored.keys))
    }

    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.dir.stamp(FILE_NAME)
    }
}

fn check_name(name: &str) -> Result<(), KeyFileError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    // A dash in front would read as a flag where the key is to be removed.
    let good = (1..=MAX_NAME_CHARS).contains(&name.len())
        && name.bytes().all(is_plain)
        && !name.starts_with('-');
    match good {
        true => Ok(()),
        false => Err(KeyFileError::BadName {
            name: name.chars().take(MAX_NAME_CHARS).collect(),
        }),
    }
}

fn unused_id(keys: &[KeyRecord]) -> Result<String, NoRandomness> {
    loop {
        let id = secret::random_id()?;
        if keys.iter().all(|key| key.id != id) {
            return Ok(id);
        }
    }
}

fn insert(keys: &mut Vec<KeyRecord>, record: KeyRecord) -> Result<(), KeyFileError> {
    if keys.iter().any(|key| key.name == record.name) {
        return Err(KeyFileError::NameTaken { name: record.name });
    }
    if keys.len() >= MAX_KEYS {
        return Err(KeyFileError::TooMany);
    }
    keys.push(record);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_file() -> (tempfile::TempDir, KeyFile) {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(folder.path().join("home")).unwrap();
        (folder, KeyFile::new(dir))
    }

    #[test]
    fn keys_come_and_go_by_name_and_by_id() {
        let (_folder, keys) = key_file();
        assert!(keys.list().unwrap().is_empty());
        let ann = keys.add("ann", None).unwrap();
        let bob = keys.add("bob@attic", Some(5)).unwrap();
        let names = || {
            let list = keys.list().unwrap();
            list.into_iter().map(|key| key.name).collect::<Vec<_>>()
        };
        assert_eq!(names(), ["ann", "bob@attic"]);
        let taken = keys.add("ann", None).err().unwrap().to_string();
        assert!(taken.contains("potluck keys rm ann"), "{taken}");
        let unknown = keys.remove("eve").unwrap_err().to_string();
        assert!(unknown.contains("ann, bob@attic"), "{unknown}");
        assert_eq!(keys.remove("ann").unwrap().id, ann.record.id);
        assert_eq!(keys.remove(&bob.record.id).unwrap().expires, Some(5));
        let none = keys.remove("ann").unwrap_err().to_string();
        assert!(none.contains("no keys at all"), "{none}");
    }

    #[test]
    fn the_file_holds_no_secret() {
        let (folder, keys) = key_file();
        let key = keys.add("ann", None).unwrap();
        let text = std::fs::read_to_string(folder.path().join("home").join(FILE_NAME)).unwrap();
        let (_, secret) = key.text.rsplit_once(&key.record.id).unwrap();
        assert!(text.contains(&key.record.id) && !text.contains(&secret[1..]));
    }

    #[test]
    fn names_that_would_confuse_are_refused() {
        let (_folder, keys) = key_file();
        let long = "x".repeat(65);
        for name in ["", "a b", "-x", "a\n", "ä", "a/b", &long] {
            let error = keys.add(name, None).err().unwrap();
            assert!(matches!(error, KeyFileError::BadName { .. }), "{name}");
        }
    }
}
