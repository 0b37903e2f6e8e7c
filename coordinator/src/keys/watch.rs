//! The keys as a running server knows them: it notices those that are added and removed, and never forgets that there were
//! any because the file cannot be read.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use potluck_link::state_dir::{Stamp, StateError};

use super::file::{KeyFile, KeyRecord};
use super::{date, secret, unix_now};

/// How often the file is looked at, at most: a removed key is refused within this time, and a look costs microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why a key is not accepted. The sentences are for its holder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// It is no key, or none that was made here, or it was removed.
    #[error(
        "the API key is not valid here; ask whoever runs this cluster for one (`potluck keys add NAME`)"
    )]
    Unknown,
    /// Its time is over.
    #[error("the API key `{name}` expired on {}; ask whoever runs this cluster for a new one (`potluck keys add NAME`)", date(*expired))]
    Expired {
        /// The key's name.
        name: String,
        /// When, in Unix seconds.
        expired: u64,
    },
}

/// The keys of a running server.
pub struct KeyWatch {
    file: KeyFile,
    seen: Mutex<Seen>,
}

/// What was seen when the file was last looked at.
struct Seen {
    looked: Instant,
    stamp: Option<Stamp>,
    keys: Vec<KeyRecord>,
    /// The keys are those of an earlier look, because the last one failed.
    stale: bool,
}

impl KeyWatch {
    /// Reads the keys for the first time. If that fails there is no telling who may be let in, and nothing should be served.
    pub fn open(file: KeyFile) -> Result<KeyWatch, StateError> {
        // The stamp comes first: what changes after it will be seen at the next look.
        let stamp = file.stamp();
        let keys = file.list()?;
        let seen = Seen {
            looked: Instant::now(),
            stamp,
            keys,
            stale: false,
        };
        Ok(KeyWatch {
            file,
            seen: Mutex::new(seen),
        })
    }

    /// Whether there is no key at all. One that has expired is one still.
    pub fn is_empty(&self) -> bool {
        self.up_to_date().keys.is_empty()
    }

    /// Whether what a client sent is a key.
    pub fn check(&self, text: &str) -> Result<(), KeyRefused> {
        let (id, secret) = secret::parse_key(text).ok_or(KeyRefused::Unknown)?;
        let seen = self.up_to_date();
        let key = seen.keys.iter().find(|key| key.id == id);
        let key = key
            .filter(|key| key.sha256.is_of(&secret))
            .ok_or(KeyRefused::Unknown)?;
        match key.expires {
            Some(expired) if expired <= unix_now() => Err(KeyRefused::Expired {
                name: key.name.clone(),
                expired,
            }),
            _ => Ok(()),
        }
    }

    fn up_to_date(&self) -> MutexGuard<'_, Seen> {
        // What is seen is replaced field by field, none of which depends on another: a panic elsewhere cannot have spoilt it.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.looked.elapsed() >= LOOK_EVERY {
            seen.looked = Instant::now();
            seen.look(&self.file);
        }
        seen
    }
}

impl Seen {
    fn look(&mut self, file: &KeyFile) {
        let stamp = file.stamp();
        // A file that could not be read is tried again even if it looks the same: its permissions may have changed.
        if stamp == self.stamp && !self.stale {
            return;
        }
        match file.read() {
            Ok(Some(keys)) => self.replace(stamp, keys),
            Ok(None) if self.keys.is_empty() => self.replace(stamp, Vec::new()),
            Ok(None) => self.keep("the file with the API keys is gone"),
            Err(error) => self.keep(&error.to_string()),
        }
    }

    fn replace(&mut self, stamp: Option<Stamp>, keys: Vec<KeyRecord>) {
        (self.stamp, self.keys, self.stale) = (stamp, keys, false);
        tracing::info!(keys = self.keys.len(), "API keys changed");
    }

    fn keep(&mut self, error: &str) {
        if !self.stale {
            let keys = self.keys.len();
            tracing::warn!(error, keys, "going on with the API keys known so far");
        }
        self.stale = true;
    }
}

#[cfg(test)]
mod tests {
    use potluck_link::state_dir::StateDir;

    use super::*;

    /// Looks now, however short ago the last look was.
    fn look(watch: &KeyWatch) {
        let mut seen = watch.seen.lock().unwrap();
        seen.look(&watch.file);
    }

    #[test]
    fn changes_are_seen_and_damage_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let path = home.join("keys.json");
        let file = KeyFile::new(StateDir::open(home).unwrap());
        let watch = KeyWatch::open(file.clone()).unwrap();
        assert!(watch.is_empty());

        let ann = file.add("ann", None).unwrap().text;
        look(&watch);
        assert_eq!(watch.check(&ann), Ok(()));
        let whole = std::fs::read(&path).unwrap();
        for damage in [b"{\"keys\":".as_slice(), b"", b"null", b"{}"] {
            std::fs::write(&path, damage).unwrap();
            look(&watch);
            assert_eq!(watch.check(&ann), Ok(()), "the last good keys");
            assert!(!watch.is_empty());
            assert!(KeyWatch::open(file.clone()).is_err(), "no new start");
        }
        std::fs::write(&path, whole).unwrap();
        let aside = folder.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        look(&watch);
        assert!(!watch.is_empty(), "a file that is gone is damage too");

        std::fs::rename(&aside, &path).unwrap();
        file.remove("ann").unwrap();
        look(&watch);
        assert_eq!(watch.check(&ann), Err(KeyRefused::Unknown));
        assert!(watch.is_empty());
    }

    #[test]
    fn a_key_ends_when_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(StateDir::open(folder.path().join("home")).unwrap());
        let later = file.add("later", Some(unix_now() + 3600)).unwrap().text;
        let over = file.add("over", Some(1_700_000_000)).unwrap().text;
        let watch = KeyWatch::open(file).unwrap();
        assert_eq!(watch.check(&later), Ok(()));
        let refused = watch.check(&over).unwrap_err().to_string();
        assert!(
            refused.contains("`over` expired on 2023-11-14"),
            "{refused}"
        );
        // Somebody who knows the id alone is not told that.
        let forged = over.replace(&over[12..], &later[12..]);
        assert_eq!(watch.check(&forged), Err(KeyRefused::Unknown));
    }
}
