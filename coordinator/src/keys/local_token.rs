//! What lets the user of the coordinator's own machine in without a key: a secret made at each start, in a file that only
//! this user can read.

use potluck_link::state_dir::{StateDir, StateError};
use serde::{Deserialize, Serialize};

use super::secret::{NoRandomness, Secret, SecretHash};

/// Name of the file in a cluster's folder.
const FILE_NAME: &str = "local.json";

/// What the token begins with, by which it is told from a key.
const PREFIX: &str = "local_";

#[derive(Serialize, Deserialize)]
struct Stored {
    token: String,
}

/// The token of one start of a coordinator.
pub struct LocalToken {
    dir: StateDir,
    text: String,
    hash: SecretHash,
}

impl LocalToken {
    /// A new one for a cluster's folder, known to nobody yet.
    pub fn random(dir: StateDir) -> Result<LocalToken, NoRandomness> {
        let secret = Secret::random()?;
        Ok(LocalToken {
            dir,
            text: format!("{PREFIX}{}", secret.text()),
            hash: secret.hash(),
        })
    }

    /// Writes it where this user's programs find it.
    pub fn publish(&self) -> Result<(), StateError> {
        let token = self.text.clone();
        self.dir.write(FILE_NAME, &Stored { token })
    }

    /// What the coordinator that was started last has published. None if none ever was.
    pub fn published(dir: &StateDir) -> Result<Option<String>, StateError> {
        let stored: Option<Stored> = dir.read(FILE_NAME)?;
        Ok(stored.map(|stored| stored.token))
    }

    /// Whether what a client sent is this token.
    pub fn is(&self, text: &str) -> bool {
        let secret = text.strip_prefix(PREFIX).and_then(Secret::parse);
        secret.is_some_and(|secret| self.hash.is_of(&secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_of_this_start_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(folder.path().join("home")).unwrap();
        assert_eq!(LocalToken::published(&dir).unwrap(), None);
        let random = || LocalToken::random(dir.clone()).unwrap();
        let (first, second) = (random(), random());
        first.publish().unwrap();
        second.publish().unwrap();
        let found = LocalToken::published(&dir).unwrap().unwrap();
        assert!(second.is(&found) && !first.is(&found));
        for text in ["", "local_", &found[PREFIX.len()..]] {
            assert!(!second.is(text), "{text}");
        }
    }
}
