//! Who may join: invites that were made and not used yet. A file, so that a command can make one while the coordinator runs.

use std::time::{Duration, SystemTime};

use potluck_link::authority::unix_seconds;
use potluck_link::invite::{Invite, InviteKey, NoRandomNumbers, Secret};
use potluck_link::state_dir::{StateDir, StateError};
use potluck_proto::{NodeId, bytes_of, hex_of};
use serde::{Deserialize, Serialize};

/// Name of the file in the cluster's state directory.
const FILE_NAME: &str = "invites.json";

/// Invites that are kept: more than a household has machines.
const MAX_INVITES: usize = 256;

/// Wrong proofs after which an invite is void.
const MAX_WRONG_PROOFS: u32 = 5;

/// An invite that is over is kept for a while, so that whoever uses it late is told what happened.
const KEPT_AFTER_END: Duration = Duration::from_secs(24 * 3600);

/// An invite as it is kept: not the secret, but what proofs of it are checked with.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    id: String,
    key: String,
    /// The name that the machine is to go by.
    name: Option<String>,
    /// Seconds since 1970.
    expires_at: u64,
    /// The node that it let in.
    used_by: Option<String>,
    wrong_proofs: u32,
}

#[derive(Default, Serialize, Deserialize)]
struct List {
    invites: Vec<Stored>,
}

/// An invite that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InvitesError {
    /// The file.
    #[error(transparent)]
    State(#[from] StateError),
    /// No secret.
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
    /// Too many.
    #[error("{MAX_INVITES} invites are open; wait until some have been used or have expired")]
    Full,
}

/// Why a machine is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such invite.
    #[error(
        "this invite is not known here; make a new one with `potluck invite` on the coordinator's machine"
    )]
    Unknown,
    /// Its time is over.
    #[error(
        "this invite has expired; make a new one with `potluck invite` on the coordinator's machine"
    )]
    Expired,
    /// It has let a machine in.
    #[error(
        "this invite has been used already, and each lets in one machine; make a new one with `potluck invite`. If you did not use it, \
         look at `potluck nodes` for a machine that is not yours"
    )]
    Used,
    /// Somebody has tried to guess its secret.
    #[error(
        "this invite is void, because it was presented {MAX_WRONG_PROOFS} times with a wrong secret; make a new one with `potluck invite`"
    )]
    Void,
    /// The secret is wrong.
    #[error("the secret of this invite is wrong; paste the whole line once more")]
    WrongProof,
    /// The file.
    #[error("the coordinator cannot read its invites")]
    State(#[from] StateError),
}

/// The file.
#[derive(Debug, Clone)]
pub struct Invites {
    state: StateDir,
    fingerprint: [u8; 32],
}

impl Invites {
    pub(super) fn new(state: StateDir, fingerprint: [u8; 32]) -> Self {
        Invites { state, fingerprint }
    }

    /// Makes an invite for one machine.
    pub fn make(
        &self,
        name: Option<String>,
        ttl: Duration,
        addresses: Vec<String>,
    ) -> Result<Invite, InvitesError> {
        let secret = Secret::random()?;
        let now = unix_seconds(SystemTime::now());
        let stored = Stored {
            id: hex_of(&secret.id()),
            key: hex_of(&secret.key().0),
            name,
            expires_at: now.saturating_add(ttl.as_secs()),
            used_by: None,
            wrong_proofs: 0,
        };
        self.state.update(FILE_NAME, |list: &mut List| {
            let kept_from = now.saturating_sub(KEPT_AFTER_END.as_secs());
            list.invites.retain(|invite| invite.expires_at >= kept_from);
            if list.invites.len() >= MAX_INVITES {
                list.invites.retain(|invite| invite.expires_at > now);
            }
            if list.invites.len() >= MAX_INVITES {
                return Err(InvitesError::Full);
            }
            list.invites.push(stored);
            Ok(())
        })?;
        Ok(Invite {
            fingerprint: self.fingerprint,
            secret,
            addresses,
        })
    }

    /// Uses an invite up for a node that proves to know its secret. Returns the name that it gives the node, if it does. Whoever
    /// comes with it twice at the same time: one is let in.
    pub fn redeem(
        &self,
        id: &[u8],
        node: NodeId,
        is_proof: impl Fn(&InviteKey) -> bool,
    ) -> Result<Option<String>, Refusal> {
        let now = unix_seconds(SystemTime::now());
        let (id, node) = (hex_of(id), hex_of(&node.0));
        // A wrong proof is a change that is kept, so it is no error of the update.
        let outcome = self.state.update(FILE_NAME, |list: &mut List| {
            let invite = list.invites.iter_mut().find(|invite| invite.id == id);
            Ok::<_, StateError>(match invite {
                Some(invite) => redeem(invite, &node, now, is_proof),
                None => Err(Refusal::Unknown),
            })
        });
        outcome?
    }
}

fn redeem(
    invite: &mut Stored,
    node: &str,
    now: u64,
    is_proof: impl Fn(&InviteKey) -> bool,
) -> Result<Option<String>, Refusal> {
    if invite.wrong_proofs >= MAX_WRONG_PROOFS {
        return Err(Refusal::Void);
    }
    let key = bytes_of(&invite.key).map(InviteKey);
    if !key.is_some_and(|key| is_proof(&key)) {
        invite.wrong_proofs += 1;
        return Err(Refusal::WrongProof);
    }
    match &invite.used_by {
        // Its answer was lost on the way: the same machine asks again.
        Some(user) if user == node => Ok(invite.name.clone()),
        Some(_) => Err(Refusal::Used),
        None if now >= invite.expires_at => Err(Refusal::Expired),
        None => {
            invite.used_by = Some(node.to_owned());
            Ok(invite.name.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invites() -> (tempfile::TempDir, Invites) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("home")).unwrap();
        (folder, Invites::new(state, [1; 32]))
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_invite_lets_one_machine_in_however_many_come_at_once() {
        let (_folder, invites) = invites();
        let invite = invites.make(Some("pi".into()), HOUR, vec![]).unwrap();
        let id = invite.secret.id();
        let results: Vec<_> = std::thread::scope(|scope| {
            let tries = (0..8).map(|n| {
                let invites = &invites;
                scope.spawn(move || invites.redeem(&id, NodeId([n; 16]), |_| true))
            });
            let tries: Vec<_> = tries.collect();
            tries.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let let_in = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(let_in, 1, "{results:?}");
        let others = results.iter().filter(|r| matches!(r, Err(Refusal::Used)));
        assert_eq!(others.count(), 7);
        let again = results.iter().position(Result::is_ok).unwrap() as u8;
        let name = invites.redeem(&id, NodeId([again; 16]), |_| true).unwrap();
        assert_eq!(name.as_deref(), Some("pi"), "its answer was lost");
    }

    #[test]
    fn unknown_expired_and_guessed_invites_are_refused() {
        let (_folder, invites) = invites();
        let node = NodeId([1; 16]);
        let unknown = invites.redeem(&[0; 8], node, |_| true);
        assert!(matches!(unknown, Err(Refusal::Unknown)), "{unknown:?}");
        let expired = invites.make(None, Duration::ZERO, vec![]).unwrap();
        let late = invites.redeem(&expired.secret.id(), node, |_| true);
        assert!(matches!(late, Err(Refusal::Expired)), "{late:?}");

        let guessed = invites.make(None, HOUR, vec![]).unwrap().secret;
        for _ in 0..MAX_WRONG_PROOFS {
            let wrong = invites.redeem(&guessed.id(), node, |_| false);
            assert!(matches!(wrong, Err(Refusal::WrongProof)), "{wrong:?}");
        }
        let right = invites.redeem(&guessed.id(), node, |_| true);
        assert!(matches!(right, Err(Refusal::Void)), "{right:?}");
    }

    #[test]
    fn the_secret_is_not_kept() {
        let (folder, invites) = invites();
        let invite = invites.make(None, HOUR, vec![]).unwrap();
        let line = invite.to_string();
        let stored = std::fs::read_to_string(folder.path().join("home").join(FILE_NAME)).unwrap();
        assert!(!stored.contains(&line[50..60]), "{stored}");
        assert!(stored.contains(&hex_of(&invite.secret.key().0)));
    }
}
