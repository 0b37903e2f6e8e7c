//! The cluster that this machine coordinates: its authority, the coordinator's own credential, and how often the coordinator has
//! started. The count is stored before it is used, so that a message of an earlier life can be told from one of this.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use potluck_link::authority::{Authority, AuthorityError, StoredAuthority};
use potluck_link::credential::{Credential, StoredCredential};
use potluck_link::state_dir::{StateDir, StateError};
use potluck_link::{Link, Role};
use potluck_proto::{ClusterId, Epoch, NodeId};
use serde::{Deserialize, Serialize};

use super::invites::Invites;
use super::members::{Member, Members};

/// Names of the files in the cluster's state directory.
const AUTHORITY_FILE: &str = "authority.json";
const CREDENTIAL_FILE: &str = "coordinator.json";
const EPOCH_FILE: &str = "epoch.json";
const PLACE_FILE: &str = "place.json";

/// Name of the file that a running coordinator holds locked.
const LOCK_NAME: &str = "coordinator.lock";

/// A cluster whose authority is on this machine.
#[derive(Clone)]
pub struct OwnCluster {
    /// Its name for people.
    pub name: String,
    /// The coordinator's way to talk to others.
    pub link: Link,
    state: StateDir,
    authority: Arc<Authority>,
    /// How long certificates are good for.
    lifetime: Duration,
}

/// Keeps other coordinators of the same cluster from starting. Ends with the process, however that ends.
#[derive(Debug)]
pub struct CoordinatorLock {
    _file: fs::File,
}

/// The cluster's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file of it.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its keys.
    #[error("the keys of this cluster cannot be used: {0}")]
    Keys(#[from] AuthorityError),
    /// Another coordinator uses it.
    #[error(
        "another coordinator of this cluster is running on this machine; stop it, or give this one a cluster of its own with --cluster NAME"
    )]
    InUse,
}

#[derive(Serialize, Deserialize)]
struct StoredEpoch {
    epoch: u64,
}

/// Where the coordinator was when it ran last: what invites say.
#[derive(Default, Serialize, Deserialize)]
struct StoredPlace {
    addresses: Vec<String>,
}

impl OwnCluster {
    /// The cluster in a state directory, if one has been made there.
    pub fn open(
        state: StateDir,
        name: &str,
        lifetime: Duration,
    ) -> Result<Option<OwnCluster>, IdentityError> {
        match state.read::<StoredAuthority>(AUTHORITY_FILE)? {
            Some(stored) => {
                let authority = Authority::from_stored(&stored)?;
                OwnCluster::with(state, name, lifetime, authority).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The cluster in a state directory, which is made if need be.
    pub fn open_or_create(
        state: StateDir,
        name: &str,
        lifetime: Duration,
    ) -> Result<OwnCluster, IdentityError> {
        if let Some(cluster) = OwnCluster::open(state.clone(), name, lifetime)? {
            return Ok(cluster);
        }
        let make = || Authority::create().map(|(_, stored)| stored);
        let stored = state.read_or_create::<_, IdentityError>(AUTHORITY_FILE, || Ok(make()?))?;
        OwnCluster::with(state, name, lifetime, Authority::from_stored(&stored)?)
    }

    fn with(
        state: StateDir,
        name: &str,
        lifetime: Duration,
        authority: Authority,
    ) -> Result<OwnCluster, IdentityError> {
        let kept = match state.read::<StoredCredential>(CREDENTIAL_FILE)? {
            Some(stored) => Some(Credential::from_stored(stored)?),
            None => None,
        };
        let is_ours = |credential: &Credential| credential.cluster() == authority.cluster();
        let credential = match kept.filter(is_ours) {
            Some(credential) => credential,
            None => {
                let credential = Credential::issued_by(&authority, Role::Coordinator, lifetime)?;
                state.write(CREDENTIAL_FILE, &credential.stored())?;
                credential
            }
        };
        let is_due = credential.renew_in(SystemTime::now()).is_zero();
        let cluster = OwnCluster {
            name: name.to_owned(),
            link: Link::new(credential.clone())?,
            state,
            authority: Arc::new(authority),
            lifetime,
        };
        if is_due {
            cluster.renew(&credential)?;
        }
        Ok(cluster)
    }

    /// Which cluster it is.
    pub fn id(&self) -> ClusterId {
        self.authority.cluster()
    }

    /// What vouches for its nodes.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// How long certificates are good for.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Where all that is kept.
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// Who belongs to it.
    pub fn members(&self) -> Members {
        Members::new(self.state.clone())
    }

    /// Who may join it.
    pub fn invites(&self) -> Invites {
        Invites::new(self.state.clone(), *self.authority.fingerprint())
    }

    /// Where the coordinator is, or was when it ran last.
    pub fn place(&self) -> Result<Vec<String>, StateError> {
        let place = self.state.read::<StoredPlace>(PLACE_FILE)?;
        Ok(place.unwrap_or_default().addresses)
    }

    /// Keeps where the coordinator is, for invites that are made later.
    pub fn keep_place(&self, addresses: Vec<String>) -> Result<(), StateError> {
        self.state.write(PLACE_FILE, &StoredPlace { addresses })
    }

    /// Admits the nodes on the list, for a command that only asks them something.
    pub fn admit_members(&self, and: Option<NodeId>) -> Result<Vec<Member>, StateError> {
        let members = self.members().list()?;
        let listed = members.iter().map(|member| member.node);
        self.link.admit(listed.chain(and));
        Ok(members)
    }

    /// The credential of a worker in this process. It is never written to a disk, and ends with the process.
    pub fn local_worker(&self) -> Result<Credential, IdentityError> {
        Ok(Credential::issued_by(
            &self.authority,
            Role::Worker,
            self.lifetime,
        )?)
    }

    /// Gives a node of this process a new certificate for its key.
    pub fn renew(&self, credential: &Credential) -> Result<(), IdentityError> {
        let role = credential.id().role;
        let issued = self
            .authority
            .issue(role, &credential.public_key()?, self.lifetime)?;
        credential.renew(&issued)?;
        if role == Role::Coordinator {
            self.state.write(CREDENTIAL_FILE, &credential.stored())?;
        }
        Ok(())
    }

    /// Counts a start of the coordinator.
    pub fn next_start(&self) -> Result<(Epoch, CoordinatorLock), IdentityError> {
        let path = self.state.path().join(LOCK_NAME);
        let io_error = |source| StateError::Io {
            path: path.clone(),
            source,
        };
        let lock = fs::File::create(&path).map_err(io_error)?;
        lock.try_lock().map_err(|err| match err {
            fs::TryLockError::WouldBlock => IdentityError::InUse,
            fs::TryLockError::Error(source) => io_error(source).into(),
        })?;
        let before = self.state.read::<StoredEpoch>(EPOCH_FILE)?;
        let epoch = before.map_or(1, |stored| stored.epoch.saturating_add(1));
        self.state.write(EPOCH_FILE, &StoredEpoch { epoch })?;
        Ok((Epoch(epoch), CoordinatorLock { _file: lock }))
    }
}

impl std::fmt::Debug for OwnCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnCluster({}, {})", self.name, self.id())
    }
}

#[cfg(test)]
mod tests {
    use potluck_link::authority::NODE_LIFETIME;

    use super::*;

    #[test]
    fn a_cluster_stays_itself_and_every_start_counts() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("home")).unwrap();
        let open = || OwnCluster::open(state.clone(), "home", NODE_LIFETIME).unwrap();
        assert!(open().is_none());
        let first = OwnCluster::open_or_create(state.clone(), "home", NODE_LIFETIME).unwrap();
        let again = open().unwrap();
        assert_eq!(first.link.id(), again.link.id());
        let (epoch, lock) = first.next_start().unwrap();
        assert_eq!(epoch, Epoch(1));
        assert!(matches!(again.next_start(), Err(IdentityError::InUse)));
        drop(lock);
        assert_eq!(again.next_start().unwrap().0, Epoch(2));
    }

    #[test]
    fn a_damaged_authority_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("home")).unwrap();
        OwnCluster::open_or_create(state.clone(), "home", NODE_LIFETIME).unwrap();
        let path = state.path().join(AUTHORITY_FILE);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).unwrap();
        // One flipped bit may leave a readable key of another cluster, which then signs nothing that others trust.
        let opened = OwnCluster::open_or_create(state, "home", NODE_LIFETIME);
        assert_eq!(fs::read(&path).unwrap(), bytes, "{:?}", opened.err());
    }
}
