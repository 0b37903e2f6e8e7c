//! What a machine that joined a cluster keeps of it: who it is there, and where the coordinator was last.

use serde::{Deserialize, Serialize};

use crate::credential::{Credential, StoredCredential};
use crate::join::Joined;
use crate::state_dir::{StateDir, StateError};

/// Name of the file in the cluster's state directory.
const FILE_NAME: &str = "worker.json";

/// A membership.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// The cluster's name for people.
    pub cluster_name: String,
    /// The name that this machine goes by.
    pub name: String,
    /// `host:port` where the coordinator was last.
    pub coordinators: Vec<String>,
    /// What it proves itself with.
    pub credential: StoredCredential,
}

/// The file of a membership.
#[derive(Debug, Clone)]
pub struct MemberFile {
    state: StateDir,
}

impl MemberFile {
    /// In a cluster's state directory.
    pub fn new(state: StateDir) -> Self {
        MemberFile { state }
    }

    /// The membership, if there is one.
    pub fn read(&self) -> Result<Option<(Member, Credential)>, StateError> {
        let Some(member) = self.state.read::<Member>(FILE_NAME)? else {
            return Ok(None);
        };
        let credential = Credential::from_stored(member.credential.clone()).map_err(|err| {
            StateError::Damaged {
                path: self.state.path().join(FILE_NAME),
                why: err.to_string(),
            }
        })?;
        Ok(Some((member, credential)))
    }

    /// Keeps a new membership, in place of any other.
    pub fn keep(&self, joined: &Joined) -> Result<(), StateError> {
        self.state.write(
            FILE_NAME,
            &Member {
                cluster_name: joined.cluster_name.clone(),
                name: joined.name.clone(),
                coordinators: joined.coordinators.clone(),
                credential: joined.credential.stored(),
            },
        )
    }

    /// Keeps a renewed certificate, and where the coordinator is now.
    pub fn update(
        &self,
        credential: &Credential,
        coordinators: &[String],
    ) -> Result<(), StateError> {
        let Some(mut member) = self.state.read::<Member>(FILE_NAME)? else {
            // The machine has left the cluster meanwhile.
            return Ok(());
        };
        member.credential = credential.stored();
        member.coordinators = coordinators.to_vec();
        self.state.write(FILE_NAME, &member)
    }
}
